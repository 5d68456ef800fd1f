"""Histories within a transaction: users, their events, and erasures."""

import hashlib
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select, update

from what_next.errors import StoreError
from what_next.serving.store import tables
from what_next.serving.store.backend import among, execute_all, insert_all, waits
from what_next.serving.store.records import AHEAD, AddEvents, Conflict, EventRow, EventsAdded
from what_next.serving.store.tables import dumps

ATTEMPTS = 20
"""Attempts at creating and locking users' rows, which other processes may erase meanwhile."""
SALT = "salt"
"""Name in `meta` of the key of the hashes of erased ids; there is none before the first erasure."""
MOMENT = "moment"
"""Name in `meta` of the time of the last erasure or export."""
Content = tuple[int, str, str, float | None, Any, str | None, int | None]
"""Content of an event as sent: its user's key, item, kind, reward, context, answer and time."""

USERS, EVENTS, META = tables.users.c, tables.events.c, tables.meta.c
ACCOUNTS = (
    select(USERS.user_id, USERS.key, USERS.last, USERS.events, USERS.latest)
    .where(among(USERS.user_id, "users"))
    .order_by(USERS.user_id)
)
LOCKED = ACCOUNTS.with_for_update(key_share=True)  # does not block references to the rows
ADVANCE = (
    update(tables.users)
    .where(USERS.key == bindparam("user"))
    .values(last=bindparam("new_last"), events=bindparam("new_events"), latest=bindparam("new_latest"))
)
KNOWN = select(
    EVENTS.event_id, EVENTS.user, EVENTS.item_id, EVENTS.kind, EVENTS.reward, EVENTS.context, EVENTS.recommendation_id,
    EVENTS.time,
).where(among(EVENTS.event_id, "events"))  # fmt: skip
NOTE = select(META.value).where(META.name == bindparam("note"))
ERASED_USERS = select(tables.erased_users).where(among(tables.erased_users.c.digest, "digests"))
ERASED_EVENTS = select(tables.erased_events).where(among(tables.erased_events.c.digest, "digests"))


def note(connection: Connection, name: str) -> str | None:
    """The store's note of a name (table `meta`); None if there is none."""
    return connection.execute(NOTE, {"note": name}).scalar()


def put_note(connection: Connection, name: str, value: str, replace: bool = True) -> None:
    """Write a note; without `replace`, only if there is none of this name."""
    insert_all(connection, tables.meta, [(name, value)], once=True)
    if replace:
        connection.execute(update(tables.meta).where(META.name == name).values(value=value))


def moment(connection: Connection, now: int) -> int:
    """The time for an erasure or export, which is later than all earlier ones even if the clock has gone back.

    If the clock has gone back by more than `AHEAD`, it was wrong before, and its time is used as it is.
    """
    last = note(connection, MOMENT)
    found = now if last is None or int(last) > now + AHEAD else max(now, int(last) + 1)
    put_note(connection, MOMENT, str(found))
    return found


@dataclass(slots=True)
class Account:
    """A user's row while it is locked.

    Attributes:
        key, last, events: as in `Head`; `latest`: the latest time of an event; None before the first.
    """

    key: int
    last: int
    events: int
    latest: int | None

    def take(self, time: int | None, now: int) -> tuple[int, int]:
        """The number and the time of the next event."""
        if time is None:  # a later arrival gets a later time even if the clock went back
            time = max(now, self.latest or now)
        self.latest = time if self.latest is None else max(self.latest, time)
        self.last += 1
        self.events += 1
        return self.last, time


class Histories:
    """Users and events; `now` is in microseconds since 1970 UTC.

    Both erasing users and checking whether they were erased require the locks of their rows, so that a check sees all
    committed erasures.
    """

    def __init__(self, connection: Connection, now: int) -> None:
        self.connection, self.now = connection, now

    def add(self, writes: Sequence[AddEvents]) -> list[EventsAdded | Conflict]:
        """Add events, each once; they are numbered while the users' rows are locked."""
        rows = [row for write in writes for row in write.rows]
        accounts = self.accounts({row.user_id for row in rows})
        late, ids = self._late(rows), [row.event_id for row in rows]
        known: dict[str, Content] = {
            event: tuple(held) for event, *held in self.connection.execute(KNOWN, {"events": ids})
        }
        new: dict[str, EventRow] = {}
        results: list[EventsAdded | Conflict] = []
        for write in writes:
            mine: dict[str, EventRow] = {}
            erased: list[str] = []
            conflict = None
            for place, row in enumerate(write.rows):
                if late is not None and late(row):
                    erased.append(row.event_id)
                elif (held := known.get(row.event_id)) is not None:
                    if held != _content(row, accounts[row.user_id].key, held[-1]):
                        conflict = conflict or Conflict(place, "event_id")
                elif (first := mine.get(row.event_id) or new.get(row.event_id)) is None:
                    mine[row.event_id] = row
                elif first.user_id != row.user_id or _content(first, 0, first.time) != _content(row, 0, first.time):
                    conflict = conflict or Conflict(place, "event_id")
            if conflict is None:
                new |= mine
                duplicates = len(write.rows) - len(mine) - len(erased)
                results.append(EventsAdded(len(mine), duplicates, erased=tuple(erased)))
            else:
                results.append(conflict)
        self._insert(new.values(), accounts)
        if late is not None:  # a row that was created for an erased user must not keep the id
            empty = delete(tables.users).where(among(USERS.key, "keys"), USERS.last == 0)
            self.connection.execute(empty, {"keys": [one.key for one in accounts.values() if not one.last]})
        return results

    def _insert(self, rows: Iterable[EventRow], accounts: dict[str, Account]) -> None:
        values, changed = [], dict[str, Account]()
        for row in rows:
            changed[row.user_id] = account = accounts[row.user_id]
            number, time = account.take(row.time, self.now)
            context = None if row.context is None else dumps(dict(row.context))
            values.append(
                (account.key, number, row.event_id, row.item_id, row.kind, time, row.reward, context,
                 row.recommendation_id, self.now)
            )  # fmt: skip
        insert_all(self.connection, tables.events, values)
        moved = [(one.last, one.events, one.latest, one.key) for one in changed.values()]
        execute_all(self.connection, ADVANCE, moved)

    def accounts(self, user_ids: Iterable[str]) -> dict[str, Account]:
        """The rows of users, created if missing, and locked in the order of their ids.

        Only locked rows are returned, because another process may erase an unlocked user at any time.
        """
        wanted = sorted(set(user_ids))
        for _ in range(ATTEMPTS):
            rows = self.connection.execute(LOCKED, {"users": wanted}).all()
            found = {user: Account(key, last, events, latest) for user, key, last, events, latest in rows}
            if not (missing := [one for one in wanted if one not in found]):
                return found
            insert_all(self.connection, tables.users, [(one, 0, 0, None) for one in missing], once=True)
        raise StoreError("users are erased as fast as they come back; send it again")

    def erase(self, user_id: str) -> int | None:
        """Delete a user with all events; returns the number of events, None if the user was unknown."""
        if waits(self.connection):  # a row to lock, so that writes for an unknown user wait, too
            self.accounts([user_id])
        account = self.connection.execute(ACCOUNTS.with_for_update(), {"users": [user_id]}).one_or_none()
        timeless, events = list[str](), None
        if account is not None:
            own = EVENTS.user == account.key
            timeless = list(self.connection.scalars(select(EVENTS.event_id).where(own, EVENTS.time >= EVENTS.arrived)))
            events = self.connection.execute(delete(tables.events).where(own)).rowcount
            self.connection.execute(delete(tables.users).where(USERS.key == account.key))
        self._note_erasure(user_id, timeless)
        return events

    # Erasures, as keyed hashes

    def _note_erasure(self, user_id: str, event_ids: Iterable[str]) -> None:
        """Record when a user was erased, and those events that came without a time or with one in the future."""
        put_note(self.connection, SALT, secrets.token_hex(16), replace=False)
        salt, erased = note(self.connection, SALT) or "", tables.erased_users
        digest, now = digest_of(salt, user_id), moment(self.connection, self.now)
        insert_all(self.connection, erased, [(digest, now)], once=True)
        older = (erased.c.digest == digest) & (erased.c.time < now)
        self.connection.execute(update(erased).where(older).values(time=now))
        insert_all(self.connection, tables.erased_events, [(digest_of(salt, one),) for one in event_ids], once=True)

    def erasures(self, user_ids: Iterable[str]) -> dict[str, int]:
        """The time of the last erasure of each user; users who were never erased are left out."""
        if (salt := note(self.connection, SALT)) is None:
            return {}
        users = {digest_of(salt, user): user for user in user_ids}
        found = self.connection.execute(ERASED_USERS, {"digests": list(users)})
        return {users[digest]: time for digest, time in found}

    def _late(self, rows: Sequence[EventRow]) -> Callable[[EventRow], bool] | None:
        """A function that tells whether an event is from before its user's erasure; None if no user was erased.

        An event is from before if its time is, or if its id is that of an erased event.
        """
        moments = self.erasures({row.user_id for row in rows})
        if not moments:
            return None
        salt = note(self.connection, SALT) or ""
        events = {digest_of(salt, row.event_id): row.event_id for row in rows if row.user_id in moments}
        known = {events[one] for one in self.connection.scalars(ERASED_EVENTS, {"digests": list(events)})}

        def late(row: EventRow) -> bool:
            moment = moments.get(row.user_id)
            return moment is not None and (row.event_id in known or (row.time is not None and row.time <= moment))

        return late


def _content(row: EventRow, user: int, time: int | None) -> Content:
    """The content of an event, with `time` if it has none, for a comparison with a stored event."""
    context, time = None if row.context is None else dict(row.context), time if row.time is None else row.time
    return user, row.item_id, row.kind, row.reward, context, row.recommendation_id, time


def digest_of(salt: str, text: str) -> str:
    """The keyed hash of an erased id."""
    return hashlib.blake2b(text.encode(), key=salt.encode(), digest_size=16).hexdigest()
