"""One transaction: writes of all kinds, put into the database together."""

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
    """What one transaction writes; the caller begins and commits it. `now` is in microseconds since 1970 UTC.

    Locks are taken in one order (users by id, then items, withdrawn ones, answers, deployments; before all of them an
    erasure's on the filling of the store), so that two processes seldom wait for one another in a circle; where they
    do, PostgreSQL ends one of them, which is then tried anew.
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
        """Put all writes in; an outcome is an exception where that write alone is refused."""
        results: records.Results = [records.invalid(write, self.now) for write in writes]
        valid = [place for place, refused in enumerate(results) if refused is None]
        # Writes of the other kinds may change places with one another; an erasure parts before from after.
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
        """Remove a person."""
        loading.progress_of(self.connection)  # waits for the chunk that is being filled in, and keeps the next one out
        events = self.histories.erase(user_id)
        impressions, feedback = self.answers.erase(user_id)
        if events is not None or impressions:
            scrubbing.mark(self.connection)
        return records.Erased(events or 0, impressions, feedback)

    def add_events(self, writes: list[records.AddEvents]) -> Sequence[records.EventsAdded | records.Conflict]:
        """Events; those that name an answer are held against it, and the others cost nothing more."""
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
        """Items; each has a number above all that there were, so that whoever asks for what is new finds it. One
        without tags keeps those that it had."""
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
        """Withdraw items, which no answer holds from then on, or put them again; returns those for which that was a
        change.

        The lock keeps out the answers of other processes, which look for withdrawn items (`Answers.add`): none of them
        is committed after this without having seen it.
        """
        lock(self.connection, tables.withdrawals, "EXCLUSIVE")
        state = dict(map(tuple, self.connection.execute(CHANGES, {"items": item_ids})))
        changed = [one for one in item_ids if state.get(one, False) != withdrawn]
        last = self._last(tables.withdrawals.c.number)
        rows = [(number, one, withdrawn, self.now) for number, one in enumerate(changed, last + 1)]
        insert_all(self.connection, tables.withdrawals, rows)
        return changed

    def deploy(self, write: records.Deploy) -> int:
        """A version of the model, numbered on; one that answers already keeps its number."""
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
        """The greatest number of a table; 0: there is none."""
        return int(self.connection.execute(select(func.coalesce(func.max(number), 0))).scalar_one())
