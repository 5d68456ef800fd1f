"""A cache of users' sessions: each is checked against the store, and a new event costs one step of the cell."""

import math
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from cachetools import Cache, LRUCache

from what_next.inference.session import Event, Session
from what_next.serving.engine.served import Served, spread
from what_next.serving.metrics import Metrics
from what_next.serving.store import Store, StoredEvent

LONGEST_FOLD = 64
"""With more new events of a user than this, a batch pass over the whole history is faster than single steps."""
BYTES = 2**30
"""Most memory of all sessions of a version: the number alone is no bound, because histories differ in length."""
NEVER = -(2**63)
"""A time before all events."""


@dataclass(eq=False)
class Entry:
    """The cached state of a user.

    Attributes:
        key: of the user in the store; an erased user who comes back gets another one.
        last: the highest number of an event that was read; `events`: the number of events read.
        time: of the latest event on an item of the catalogue.
        session: of the events on items of the catalogue.
        spread: of the session's latest events; NaN until it is computed.
    """

    key: int
    last: int
    events: int
    time: int
    session: Session
    spread: float | None = math.nan

    def spread_in(self, served: Served) -> float | None:
        """The spread, computed on first use."""
        if self.spread is not None and math.isnan(self.spread):
            self.spread = spread(served, self.session.items)
        return self.spread


class SessionCache:
    """The least recently used cache of sessions of a version; `lock` guards it."""

    def __init__(self, served: Served, store: Store, size: int, metrics: Metrics) -> None:
        self.folds, self._nothing = served.sessions, served.sessions.begin()
        self.places, self.store, self.metrics = served.places, store, metrics
        self.lock = threading.Lock()
        # Each session counts as at least BYTES / size, so that there are never more than `size`.
        self._entries: LRUCache[str, Entry] = LRUCache(BYTES, lambda entry: max(entry.session.bytes, BYTES // size))

    def of(self, users: Iterable[str]) -> dict[str, Entry]:
        """The users' sessions up to date with the store; users without events are left out.

        One query tells who has new events, and a second one reads them. New events that are later than those already
        read are folded in, one step of the cell for all users at once; other histories are replayed in one batch pass.

        Raises:
            StoreUnavailable: the store cannot be read.
        """
        names = list(dict.fromkeys(users))
        with self.lock:
            heads = self.store.heads(names)
            found: dict[str, Entry] = {}
            late: dict[str, Entry] = {}
            for name in names:
                if (head := heads.get(name)) is None:
                    self._entries.pop(name, None)
                    continue
                entry = self._entries.get(name)
                if entry is None or entry.key != head.key:
                    entry = self._unread(head.key)
                if entry.last < head.last:
                    late[name] = entry
                else:
                    found[name] = entry
                    self.metrics.sessions["hit"].inc()
            if late:
                self._catch_up(late, found)
            return found

    def remembered(self, user: str) -> Entry | None:
        """The cached state of a user without asking the store; does not wait for the lock."""
        try:
            return Cache.__getitem__(self._entries, user)  # bypasses LRU bookkeeping: not thread-safe
        except KeyError:
            return None

    def drop(self, user: str) -> None:
        """Forget a user."""
        with self.lock:
            self._entries.pop(user, None)

    def adopt(self, old: "SessionCache") -> None:
        """Take over the sessions of the same model from before items were added to its catalogue.

        Sessions that skipped events on unknown items are left out, because these items may be known now.
        """
        with old.lock:
            entries = list(old._entries.items())
        with self.lock:
            for user, entry in entries:
                if entry.events == len(entry.session):
                    self._entries[user] = entry

    def _catch_up(self, late: dict[str, Entry], found: dict[str, Entry]) -> None:
        """Read each user's new events, and fold them in or replay all; users without events any more are left out."""
        new = self.store.events_after({entry.key: entry.last for entry in late.values()})
        whole: dict[str, list[StoredEvent]] = {}
        behind: dict[str, list[StoredEvent]] = {}
        again: dict[str, Entry] = {}
        for name, entry in late.items():
            events = new.get(entry.key, [])
            known = [one for one in events if one.item_id in self.places]
            if not entry.last:
                if events:
                    whole[name] = known
            elif len(events) <= LONGEST_FOLD and (not known or known[0].time >= entry.time):
                behind[name] = known
            else:  # the whole history must be read
                again[name] = self._unread(entry.key)
        replayed = self.folds.replays([[self.event_of(one) for one in known] for known in whole.values()])
        sessions = dict(zip(whole, replayed, strict=True)) | self._folded(late, behind)
        for name, known in (whole | behind).items():
            self.metrics.sessions["rebuild" if name in whole else "fold"].inc()
            found[name] = self._grown(late[name], new.get(late[name].key, []), known, sessions[name])
            if sessions[name].bytes <= BYTES:
                self._entries[name] = found[name]
        if again:
            self._catch_up(again, found)

    def _unread(self, key: int) -> Entry:
        """The entry of a user of whom no event was read yet."""
        return Entry(key, 0, 0, NEVER, self._nothing)

    def _folded(self, late: dict[str, Entry], behind: dict[str, list[StoredEvent]]) -> dict[str, Session]:
        """The sessions with their new events: each step folds one event of every user who has some left."""
        sessions = {name: late[name].session for name in behind}
        for step in range(max(map(len, behind.values()), default=0)):
            names = [name for name, events in behind.items() if step < len(events)]
            events = [self.event_of(behind[name][step]) for name in names]
            folded = self.folds.fold([sessions[name] for name in names], events)
            sessions |= dict(zip(names, folded, strict=True))
        return sessions

    def _grown(self, before: Entry, new: list[StoredEvent], known: list[StoredEvent], session: Session) -> Entry:
        """The entry after new events; `known`: those of the new events on items of the catalogue."""
        return Entry(
            before.key,
            max([before.last, *(one.number for one in new)]),
            before.events + len(new),
            known[-1].time if known else before.time,
            session,
            math.nan if known else before.spread,
        )

    def event_of(self, event: StoredEvent) -> Event:
        """A stored event in the form that the policy reads."""
        return Event(self.places[event.item_id], event.time, event.reward, event.context)
