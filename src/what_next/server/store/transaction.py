"""One transaction: writes of all kinds, put into the database together."""

from collections.abc import Callable, Sequence
from typing import Any

import orjson
from sqlalchemy import Connection, Table, func, insert, select

from what_next.server.store import tables
from what_next.server.store.answers import Answers
from what_next.server.store.backend import Backend
from what_next.server.store.histories import Histories
from what_next.server.store.writes import (
    AddEvents,
    AddFeedback,
    AddImpression,
    AddItems,
    Deploy,
    Erased,
    EraseUser,
    ItemsAdded,
    Outcome,
    Write,
)

ERASED = "erased"
"""What is remembered until the bytes of an erased person are gone."""
Results = list[Outcome | Exception]


class Transaction:
    """What one transaction writes; the caller begins and commits it.

    Locks are taken in one order (users by id, then answers, items, deployments), so that two processes seldom wait for
    one another in a circle; where they do, PostgreSQL ends one of them, which is then tried anew.
    """

    def __init__(self, backend: Backend, connection: Connection, clock: Callable[[], int]) -> None:
        self.backend, self.connection, self.clock = backend, connection, clock
        self.histories = Histories(backend, connection, clock)
        self.answers = Answers(backend, connection, clock)

    def apply(self, writes: Sequence[Write]) -> Results:
        """Put all writes in; an outcome is an exception where that write alone is refused."""
        results: Results = [None] * len(writes)
        start = 0
        for place, write in enumerate(writes):
            # Writes of the other kinds may change places with one another; an erasure parts before from after.
            if isinstance(write, EraseUser):
                self._together(writes, results, range(start, place))
                results[place] = self.erase(write.user_id)
                start = place + 1
        self._together(writes, results, range(start, len(writes)))
        return results

    def _together(self, writes: Sequence[Write], results: Results, places: range) -> None:
        def of(kind: type[Any]) -> tuple[list[int], list[Any]]:
            chosen = [place for place in places if isinstance(writes[place], kind)]
            return chosen, [writes[place] for place in chosen]

        put: dict[type[Any], Callable[[list[Any]], Sequence[Outcome | Exception]]] = {
            AddEvents: self.histories.add,
            AddImpression: self.answers.add,
            AddFeedback: self.answers.add_feedback,
            AddItems: self.add_items,
            Deploy: self.deploy,
        }
        for kind, function in put.items():
            chosen, group = of(kind)
            if group:
                for place, outcome in zip(chosen, function(group), strict=True):
                    results[place] = outcome

    def erase(self, user_id: str) -> Erased:
        """Remove a person."""
        events = self.histories.erase(user_id)
        impressions, feedback = self.answers.erase(user_id)
        if self.backend.sqlite:
            # Its bytes may still be in the file; whoever opens the store next knows it, should this process be killed.
            self.connection.exec_driver_sql(f"INSERT INTO meta VALUES ('{ERASED}', '') ON CONFLICT (name) DO NOTHING")
        return Erased(events, impressions, feedback)

    def add_items(self, writes: list[AddItems]) -> list[ItemsAdded]:
        """Items; each has a number above all that there were, so that whoever asks for what is new finds it."""
        self._alone("items")
        last = self._last(tables.items)
        wanted = {row.item_id: row for write in writes for row in write.items}
        chosen = (self.backend.listed(sorted(wanted)),)
        there = f"SELECT item_id FROM items WHERE item_id {self.backend.among()}"
        seen = {one for (one,) in self.connection.exec_driver_sql(there, chosen)}
        self.connection.exec_driver_sql(f"DELETE FROM items WHERE item_id {self.backend.among()}", chosen)
        rows = [
            {"number": number, "item_id": row.item_id, "title": row.title, "attributes": _json(dict(row.attributes))}
            for number, row in enumerate(wanted.values(), last + 1)
        ]
        if rows:
            self.connection.execute(insert(tables.items), rows)
        results = []
        for write in writes:
            ids = {row.item_id for row in write.items}
            results.append(ItemsAdded(len(ids), len(ids & seen)))
            seen |= ids
        return results

    def deploy(self, writes: list[Deploy]) -> list[int]:
        """Versions of the model, numbered on."""
        self._alone("deployments")
        last = self._last(tables.deployments)
        numbers = range(last + 1, last + 1 + len(writes))
        time = self.clock()
        rows = [
            {"number": number, "version": one.version, "kind": one.kind, "time": time, "note": _json(dict(one.note))}
            for number, one in zip(numbers, writes, strict=True)
        ]
        self.connection.execute(insert(tables.deployments), rows)
        return list(numbers)

    def _alone(self, table: str) -> None:
        """Let no other process number rows of a table: a reader must not see a number before those below it."""
        if not self.backend.sqlite:
            self.connection.exec_driver_sql(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")

    def _last(self, table: Table) -> int:
        return self.connection.execute(select(func.max(table.c.number))).scalar() or 0


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
