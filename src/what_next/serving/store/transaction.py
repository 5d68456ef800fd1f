"""One transaction with writes of all kinds."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Text, delete, func, select, type_coerce

from what_next.serving.store import loading, records, scrubbing, tables
from what_next.serving.store.answers import Answers
from what_next.serving.store.backend import among, insert_all, lock
from what_next.serving.store.histories import Histories
from what_next.serving.store.tables import dumps

CHANGES = (
    select(tables.withdrawals.c.item_id, tables.withdrawals.c.withdrawn)
    .where(among(tables.withdrawals.c.item_id, "items"))
    .order_by(tables.withdrawals.c.number)
)


class Transaction:
    """The writes of one transaction, which the caller begins and commits. `now` is in microseconds since 1970 UTC.

    Locks are taken in a fixed order (an erasure's lock on the filling of the store; users by id; items; withdrawals;
    answers; deployments), so that deadlocks are rare; PostgreSQL aborts one of the transactions in a deadlock, which is
    then retried.
    """

    def __init__(self, connection: Connection, now: int) -> None:
        self.connection, self.now = connection, now
        self.histories, self.answers = Histories(connection, now), Answers(connection, now)
        self.put: dict[type[Any], Callable[[list[Any]], Sequence[records.Outcome | Exception]]] = {
            records.AddEvents: self.add_events,
            records.AddItems: lambda writes: [self.add_items(write) for write in writes],
            records.WithdrawItem: lambda writes: [bool(self._change([write.item_id], True)) for write in writes],
            records.AddImpression: self.answers.add,
            records.CountDeliveries: self.answers.count_deliveries,
            records.AddFeedback: self.answers.add_feedback,
            records.Deploy: lambda writes: [self.deploy(write) for write in writes],
            records.EraseUser: lambda writes: [self.erase(write.user_id) for write in writes],
        }

    def apply(self, writes: Sequence[records.Write]) -> records.Results:
        """Apply all writes; the outcome of a refused write is an exception."""
        results: records.Results = [records.invalid(write, self.now) for write in writes]
        valid = [place for place, refused in enumerate(results) if refused is None]
        # Writes may be reordered by kind, but not across an erasure.
        for _, places in groupby(valid, lambda place: isinstance(writes[place], records.EraseUser)):
            groups: dict[type[Any], list[int]] = {}
            for place in places:
                groups.setdefault(type(writes[place]), []).append(place)
            for kind, function in self.put.items():
                if chosen := groups.get(kind):
                    for place, outcome in zip(chosen, function([writes[place] for place in chosen]), strict=True):
                        results[place] = outcome
        return results

    def erase(self, user_id: str) -> records.Erased:
        """Erase a user."""
        loading.progress_of(self.connection)  # waits for a chunk that is being loaded, and blocks the next one
        events = self.histories.erase(user_id)
        impressions, feedback = self.answers.erase(user_id)
        if events is not None or impressions:
            scrubbing.mark(self.connection)
        return records.Erased(events or 0, impressions, feedback)

    def add_events(self, writes: list[records.AddEvents]) -> Sequence[records.EventsAdded | records.Conflict]:
        """Add events; only those that name an answer are checked against it."""
        results = self.histories.add(writes)
        named = [[row for row in write.rows if row.recommendation_id is not None] for write in writes]
        if not any(named):
            return results
        unmatched = self.answers.unmatched([row for rows in named for row in rows])
        return [
            replace(one, unmatched=tuple(row.event_id for row in rows if row.event_id in unmatched - {*one.erased}))
            if isinstance(one, records.EventsAdded)
            else one
            for one, rows in zip(results, named, strict=True)
        ]

    def add_items(self, write: records.AddItems) -> records.ItemsAdded:
        """Add or replace items; each gets a new largest number, so that readers find it as new. An item without tags
        keeps its stored ones."""
        lock(self.connection, tables.items)
        last, items = self._last(tables.items.c.number), tables.items.c
        wanted = {row.item_id: row for row in write.rows}
        same, chosen = among(items.item_id, "items"), {"items": sorted(wanted)}
        before = self.connection.execute(select(items.item_id, type_coerce(items.tags, Text)).where(same), chosen)
        held = dict(map(tuple, before))
        self.connection.execute(delete(tables.items).where(same), chosen)
        tags = held | {row.item_id: dumps(dict(row.tags)) for row in write.rows if row.tags is not None}
        rows = [
            (number, row.item_id, row.title, dumps(dict(row.attributes)), tags.get(row.item_id))
            for number, row in enumerate(wanted.values(), last + 1)
        ]
        insert_all(self.connection, tables.items, rows)
        self._change(list(wanted), withdrawn=False)
        return records.ItemsAdded(len(wanted), len(held))

    def _change(self, item_ids: list[str], withdrawn: bool) -> list[str]:
        """Withdraw items or end their withdrawal; returns the ids of the items that changed.

        The lock blocks the answers of other processes, which check for withdrawn items (`Answers.add`): no answer can
        be committed after this without having seen it.
        """
        lock(self.connection, tables.withdrawals, "EXCLUSIVE")
        state = dict(map(tuple, self.connection.execute(CHANGES, {"items": item_ids})))
        changed = [one for one in item_ids if state.get(one, False) != withdrawn]
        last = self._last(tables.withdrawals.c.number)
        rows = [(number, one, withdrawn, self.now) for number, one in enumerate(changed, last + 1)]
        insert_all(self.connection, tables.withdrawals, rows)
        return changed

    def deploy(self, write: records.Deploy) -> int:
        """Deploy a version under the next number; the current version keeps its number."""
        lock(self.connection, tables.deployments)
        ours = tables.deployments.c
        latest = select(ours.number, ours.version).order_by(ours.number.desc()).limit(1)
        number, version = self.connection.execute(latest).one_or_none() or (0, None)
        if write.version == version:
            return int(number)
        row = (number + 1, write.version, write.kind, self.now, dumps(dict(write.note)))
        insert_all(self.connection, tables.deployments, [row])
        return int(number) + 1

    def _last(self, number: Any) -> int:
        """The largest number in a table; 0 if it is empty."""
        return int(self.connection.execute(select(func.coalesce(func.max(number), 0))).scalar_one())
