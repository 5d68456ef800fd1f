"""Histories within a transaction: users and their events."""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from what_next.errors import StoreError
from what_next.serving.store import tables
from what_next.serving.store.backend import Backend, Link
from what_next.serving.store.erasures import Erasures
from what_next.serving.store.writes import AddEvents, Conflict, EventRow, EventsAdded

ATTEMPTS = 20
"""How often something is tried that other processes get in the way of, one after the other."""
Content = tuple[int, str, str, float | None, Any, str | None, int | None]
"""What the client told of an event: its user's key, item, kind, reward, context, answer and time."""


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
        self.erasures = Erasures(backend, link, now)

    def add(self, writes: Sequence[AddEvents]) -> list[EventsAdded | Conflict]:
        """Events, each once; numbers are taken while the users' rows are locked."""
        rows = [row for write in writes for row in write.events]
        accounts = self.accounts({row.user_id for row in rows})
        late, known = self.erasures.late(rows), self._known([row.event_id for row in rows])
        new: dict[str, EventRow] = {}
        results: list[EventsAdded | Conflict] = []
        for write in writes:
            mine: dict[str, EventRow] = {}
            erased: list[str] = []
            conflict = None
            for place, row in enumerate(write.events):
                if late is not None and late(row):
                    erased.append(row.event_id)
                elif (held := known.get(row.event_id)) is not None:
                    conflict = conflict or _differs(place, held != _content(row, accounts[row.user_id].key, held[-1]))
                elif (first := mine.get(row.event_id) or new.get(row.event_id)) is None:
                    mine[row.event_id] = row
                else:
                    differs = _content(first, 0, first.time) != _content(row, 0, first.time)
                    conflict = conflict or _differs(place, differs or first.user_id != row.user_id)
            if conflict is None:
                new |= mine
                duplicates = len(write.events) - len(mine) - len(erased)
                results.append(EventsAdded(len(mine), duplicates, erased=tuple(erased)))
            else:
                results.append(conflict)
        self._insert(new.values(), accounts)
        if late is not None:
            self._forget(accounts)
        return results

    def _insert(self, rows: Iterable[EventRow], accounts: dict[str, Account]) -> None:
        values, changed = [], dict[str, Account]()
        for row in rows:
            changed[row.user_id] = account = accounts[row.user_id]
            number, time = account.take(row.time, self.now)
            context = None if row.context is None else orjson.dumps(dict(row.context)).decode()
            values.append(
                (account.key, number, row.event_id, row.item_id, row.kind, time, row.reward, context,
                 row.recommendation_id, self.now)
            )  # fmt: skip
        self.backend.insert(self.link, tables.events, values)
        self._update([(one.last, one.events, one.latest, one.key) for one in changed.values()])

    def _forget(self, accounts: dict[str, Account]) -> None:
        """Users whose rows were made in vain: the id of whoever was erased does not stay."""
        empty = self.backend.listed([one.key for one in accounts.values() if not one.last])
        self.link.execute(f"DELETE FROM users WHERE key {self.backend.among()} AND last = 0", (empty,))

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

    def _known(self, event_ids: list[str]) -> dict[str, Content]:
        """What the store holds under some ids."""
        sql = (
            'SELECT event_id, "user", item_id, kind, reward, context, recommendation_id, time FROM events '
            f"WHERE event_id {self.backend.among()}"
        )
        found = self.link.execute(sql, (self.backend.listed(event_ids),)).fetchall()
        return {
            event: (user, item, kind, reward, context and orjson.loads(context), answer, time)
            for event, user, item, kind, reward, context, answer, time in found
        }

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
        if not self.backend.sqlite:  # whoever writes for a user who is not known waits for the end of this, too
            self.accounts([user_id])
        account = self._accounts([user_id], "" if self.backend.sqlite else " FOR UPDATE").get(user_id)
        mark, gone = self.backend.mark, None
        timeless: list[str] = []
        if account is not None:
            own = f'SELECT event_id FROM events WHERE "user" = {mark} AND time >= arrived'
            timeless = [one for (one,) in self.link.execute(own, (account.key,)).fetchall()]
            gone = self.link.execute(f'DELETE FROM events WHERE "user" = {mark}', (account.key,)).rowcount
            self.link.execute(f"DELETE FROM users WHERE key = {mark}", (account.key,))
        self.erasures.note(user_id, timeless)
        return gone


def _content(row: EventRow, user: int, time: int | None) -> Content:
    """What a row would be in the store; without a time it is that of any other."""
    context = None if row.context is None else dict(row.context)
    told = time if row.time is None else row.time
    return user, row.item_id, row.kind, row.reward, context, row.recommendation_id, told


def _differs(place: int, differs: bool) -> Conflict | None:
    return Conflict(place, "event_id") if differs else None
