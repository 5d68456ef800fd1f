"""Who was erased, as keyed hashes: an event from before that, which comes late, does not bring the person back."""

import hashlib
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from what_next.serving.store import tables
from what_next.serving.store.backend import Backend, Link
from what_next.serving.store.notes import note_once, told
from what_next.serving.store.writes import EventRow

SALT = "salt"
"""What the hashes are keyed with, in the notes of the store; there is none before the first erasure."""
LATER = "UPDATE SET time = CASE WHEN excluded.time > erased_users.time THEN excluded.time ELSE erased_users.time END"
Late = Callable[[EventRow], bool]


class Erasures:
    """The erasures of a store within a transaction; `now` is in microseconds since 1970 UTC.

    Whoever reads them for some users holds the locks of their rows, and so does whoever notes one: what was committed
    before is seen.
    """

    def __init__(self, backend: Backend, link: Link, now: int) -> None:
        self.backend, self.link, self.now = backend, link, now

    def note(self, user_id: str, event_ids: Iterable[str]) -> None:
        """A person is erased.

        Args:
            user_id: whose.
            event_ids: of the person's events that came without a time, or with one that was still ahead.
        """
        note_once(self.backend, self.link, SALT, secrets.token_hex(16))
        salt = told(self.link, SALT) or ""
        ending = f"ON CONFLICT (digest) DO {LATER}"
        self.backend.insert(self.link, tables.erased_users, [(_digest(salt, user_id), self.now)], ending)
        rows = [(_digest(salt, one),) for one in event_ids]
        self.backend.insert(self.link, tables.erased_events, rows, "ON CONFLICT (digest) DO NOTHING")

    def moments(self, user_ids: Iterable[str]) -> dict[str, int]:
        """When each of some users was erased last; those who never were are left out."""
        if (salt := told(self.link, SALT)) is None:
            return {}
        users = {_digest(salt, user): user for user in user_ids}
        found = self._among("erased_users", "digest, time", list(users))
        return {users[digest]: time for digest, time in found}

    def late(self, rows: Sequence[EventRow]) -> Late | None:
        """Tells whether an event is from before the erasure of its user; None: none of the users was erased.

        It is where its time says so, or its id is that of an event that was erased.
        """
        moments = self.moments({row.user_id for row in rows})
        if not moments:
            return None
        salt = told(self.link, SALT) or ""
        events = {_digest(salt, row.event_id): row.event_id for row in rows if row.user_id in moments}
        known = {events[digest] for (digest,) in self._among("erased_events", "digest", list(events))}

        def late(row: EventRow) -> bool:
            moment = moments.get(row.user_id)
            return moment is not None and (row.event_id in known or (row.time is not None and row.time <= moment))

        return late

    def _among(self, table: str, columns: str, digests: list[str]) -> list[tuple[Any, ...]]:
        sql = f"SELECT {columns} FROM {table} WHERE digest {self.backend.among()}"
        return list(self.link.execute(sql, (self.backend.listed(digests),)).fetchall())


def _digest(salt: str, text: str) -> str:
    return hashlib.blake2b(text.encode(), key=salt.encode(), digest_size=16).hexdigest()
