"""Histories within a transaction: users and their events."""

import sqlite3
from collections.abc import Iterable, Sequence

import orjson

from what_next.errors import StoreError
from what_next.server.store import tables
from what_next.server.store.backend import Backend, Link
from what_next.server.store.writes import AddEvents, EventRow, EventsAdded

ATTEMPTS = 20
"""How often something is tried that other processes get in the way of, one after the other."""


class Account:
    """A user's row while it is locked.

    Attributes:
        key, last, events: as of `Head`; `latest`: the greatest time of an event; None before the first.
    """

    __slots__ = ("events", "key", "last", "latest")

    def __init__(self, key: int, last: int, events: int, latest: int | None) -> None:
        self.key, self.last, self.events, self.latest = key, last, events, latest

    def take(self, time: int | None, now: int) -> tuple[int, int]:
        """The number and the time of one more event."""
        if time is None:
            # Where the clock jumped back, what arrives later still is later.
            time = now if self.latest is None or self.latest < now else self.latest
        if self.latest is None or time > self.latest:
            self.latest = time
        self.last += 1
        self.events += 1
        return self.last, time


class Histories:
    """Users and events; `now` is in microseconds since 1970 UTC."""

    def __init__(self, backend: Backend, link: Link, now: int) -> None:
        self.backend, self.link, self.now = backend, link, now

    def add(self, writes: Sequence[AddEvents]) -> list[EventsAdded]:
        """Events, each once; numbers are taken while the users' rows are locked."""
        owners: dict[str, int] = {}
        rows: list[EventRow] = []
        for place, write in enumerate(writes):
            for row in write.events:
                if owners.setdefault(row.event_id, place) == place:
                    rows.append(row)
        accounts = self.accounts({row.user_id for row in rows})
        known = self._known(list(owners))
        accepted = self._insert(rows, owners, known, accounts)
        counts = [0] * len(writes)
        for event_id in accepted:
            counts[owners[event_id]] += 1
        return [EventsAdded(count, len(write.events) - count) for count, write in zip(counts, writes, strict=True)]

    def _insert(
        self, rows: list[EventRow], owners: dict[str, int], known: set[str], accounts: dict[str, Account]
    ) -> set[str]:
        taken, values, changed = set[str](), [], dict[str, Account]()
        for row in rows:
            if row.event_id in known or row.event_id in taken:
                continue
            taken.add(row.event_id)
            changed[row.user_id] = account = accounts[row.user_id]
            number, time = account.take(row.time, self.now)
            context = None if row.context is None else orjson.dumps(dict(row.context)).decode()
            values.append(
                (account.key, number, row.event_id, row.item_id, row.kind, time, row.reward, context,
                 row.recommendation_id, self.now)
            )  # fmt: skip
        self.backend.insert(self.link, tables.events, values)
        self._update([(one.last, one.events, one.latest, one.key) for one in changed.values()])
        return taken

    def _update(self, values: list[tuple[int, int, int | None, int]]) -> None:
        if not values:
            return
        if isinstance(self.link, sqlite3.Connection):
            self.link.executemany("UPDATE users SET last = ?, events = ?, latest = ? WHERE key = ?", values)
            return
        lists = ", ".join(["%s::bigint[]"] * 4)
        changed = (
            "UPDATE users SET last = new.last, events = new.events, latest = new.latest "
            f"FROM unnest({lists}) AS new (last, events, latest, key) WHERE users.key = new.key"
        )
        self.link.execute(changed, tuple(map(list, zip(*values, strict=True))))

    def _known(self, event_ids: list[str]) -> set[str]:
        sql = f"SELECT event_id FROM events WHERE event_id {self.backend.among()}"
        return {one for (one,) in self.link.execute(sql, (self.backend.listed(event_ids),)).fetchall()}

    def accounts(self, user_ids: Iterable[str]) -> dict[str, Account]:
        """The rows of users, made where there are none, and locked in the order of their ids."""
        wanted = sorted(set(user_ids))
        for _ in range(ATTEMPTS):
            found = self._accounts(wanted)
            if missing := [one for one in wanted if one not in found]:
                new = [(one, 0, 0, None) for one in missing]
                self.backend.insert(self.link, tables.users, new, "ON CONFLICT (user_id) DO NOTHING")
            if self.backend.sqlite:  # the transaction holds the only write lock already
                return found | self._accounts(missing)
            # Only what is locked counts: another process may have erased a user since the look above.
            found = self._accounts(wanted, " ORDER BY user_id FOR NO KEY UPDATE")
            if len(found) == len(wanted):
                return found
        raise StoreError(f"{self.backend.where}: users are erased as fast as they come back")

    def _accounts(self, user_ids: list[str], ending: str = "") -> dict[str, Account]:
        if not user_ids:
            return {}
        sql = f"SELECT user_id, key, last, events, latest FROM users WHERE user_id {self.backend.among()}"
        rows = self.link.execute(sql + ending, (self.backend.listed(user_ids),))
        return {user: Account(key, last, events, latest) for user, key, last, events, latest in rows.fetchall()}

    def erase(self, user_id: str) -> int | None:
        """Remove a user with all events; returns how many there were, None: the user was not known."""
        account = self._accounts([user_id], "" if self.backend.sqlite else " FOR UPDATE").get(user_id)
        if account is None:
            return None
        mark = self.backend.mark
        gone: int = self.link.execute(f'DELETE FROM events WHERE "user" = {mark}', (account.key,)).rowcount
        self.link.execute(f"DELETE FROM users WHERE key = {mark}", (account.key,))
        return gone
