"""Sessions of users in memory: each is checked against the store, and costs one cell step for each new event."""

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
"""New events of a user from which on a batch pass over all is quicker than cell steps."""
BYTES = 2**30
"""Of all sessions of a version together, at most: a few long histories may weigh as much as many short ones."""
NEVER = -(2**63)
"""A time before all others."""


@dataclass(eq=False)
class Entry:
    """What is remembered of a user.

    Attributes:
        key: of the user's life in the store: after an erasure it is another one.
        last: the highest number of an event that is folded in; `events`: how many there are.
        time: the latest of them, among those with an item of the catalogue.
        session: of those with an item of the catalogue.
        spread: of the latest of them; NaN until somebody asks.
    """

    key: int
    last: int
    events: int
    time: int
    session: Session
    spread: float | None = math.nan

    def spread_in(self, served: Served) -> float | None:
        """The spread, computed once."""
        if self.spread is not None and math.isnan(self.spread):
            self.spread = spread(served, self.session.items)
        return self.spread


class SessionCache:
    """The sessions of a version, the latest asked for; whoever reads them holds `lock`."""

    def __init__(self, served: Served, store: Store, size: int, metrics: Metrics) -> None:
        self.folds, self._nothing = served.sessions, served.sessions.begin()
        self.places, self.store, self.metrics = served.places, store, metrics
        self.lock = threading.Lock()
        # Each takes at least its share of the room, so that there are never more than `size`.
        self._entries: LRUCache[str, Entry] = LRUCache(BYTES, lambda entry: max(entry.session.bytes, BYTES // size))

    def of(self, users: Iterable[str]) -> dict[str, Entry]:
        """The users' sessions as the store has them now; users without events are left out.

        One query tells who has new events, and one more reads them. Those that follow the folded ones in time are
        folded in, with one cell step for all users at once; the histories of all others are replayed in one batch pass.

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
        """What is in memory of a user, whatever the store has by now; waits for nobody."""
        try:
            return Cache.__getitem__(self._entries, user)  # past the order of use, which another thread may be changing
        except KeyError:
            return None

    def drop(self, user: str) -> None:
        """Forget a user."""
        with self.lock:
            self._entries.pop(user, None)

    def adopt(self, old: "SessionCache") -> None:
        """Take over sessions of the same model before items were added at the end of its catalogue.

        Those with an event of an item that was not known are left out: it may be known by now.
        """
        with old.lock:
            entries = list(old._entries.items())
        with self.lock:
            for user, entry in entries:
                if entry.events == len(entry.session):
                    self._entries[user] = entry

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, user: str) -> bool:
        return user in self._entries

    def _catch_up(self, late: dict[str, Entry], found: dict[str, Entry]) -> None:
        """Reads what is new of each user, and folds it in or replays all; users whose events are gone are left out."""
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
            else:  # all of its events are needed
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
        """Of a user of whom no event was read yet."""
        return Entry(key, 0, 0, NEVER, self._nothing)

    def _folded(self, late: dict[str, Entry], behind: dict[str, list[StoredEvent]]) -> dict[str, Session]:
        """The sessions with what is new in them: one step for everybody that is behind, until nobody is."""
        sessions = {name: late[name].session for name in behind}
        for step in range(max(map(len, behind.values()), default=0)):
            names = [name for name, events in behind.items() if step < len(events)]
            events = [self.event_of(behind[name][step]) for name in names]
            folded = self.folds.fold([sessions[name] for name in names], events)
            sessions |= dict(zip(names, folded, strict=True))
        return sessions

    def _grown(self, before: Entry, new: list[StoredEvent], known: list[StoredEvent], session: Session) -> Entry:
        """What is known of a user with new events; `known`: those of them with an item of the catalogue."""
        return Entry(
            before.key,
            max([before.last, *(one.number for one in new)]),
            before.events + len(new),
            known[-1].time if known else before.time,
            session,
            math.nan if known else before.spread,
        )

    def event_of(self, event: StoredEvent) -> Event:
        """An event as the policy reads it."""
        return Event(self.places[event.item_id], event.time, event.reward, event.context)
