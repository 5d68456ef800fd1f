"""Sessions of users in memory: each is checked against the store, and costs one cell step for each new event."""

import math
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace

from cachetools import LRUCache

from what_next.policy import LearnedPolicy
from what_next.server.engine.observer import Observer
from what_next.server.engine.reasons import spread
from what_next.server.engine.served import Served
from what_next.server.store import Head, Store, StoredEvent
from what_next.session import Played, Session

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

    @property
    def bytes(self) -> int:
        """About how much memory it takes."""
        return self.session.bytes

    def told(self, served: Served) -> float | None:
        """The spread, computed once."""
        if self.spread is not None and math.isnan(self.spread):
            self.spread = spread(served, self.session.items)
        return self.spread


@dataclass(eq=False)
class _Behind:
    """An entry with events that have to be folded in, oldest first."""

    entry: Entry
    events: list[StoredEvent]


class SessionCache:
    """The sessions of a version, the latest asked for; whoever reads them holds `lock`."""

    def __init__(self, served: Served, store: Store, size: int, observer: Observer) -> None:
        self.policy: LearnedPolicy = served.policy
        self.places, self.store, self.observer = served.places, store, observer
        self.lock = threading.Lock()
        # Each takes at least its share of the room, so that there are never more than `size`.
        self._entries: LRUCache[str, Entry] = LRUCache(BYTES, lambda entry: max(entry.bytes, BYTES // size))

    def of(self, users: Iterable[str]) -> dict[str, Entry]:
        """The users' sessions as the store has them now; users without events are left out.

        One query tells who has new events. Those that follow the folded ones in time are folded in, with one cell step
        for all users at once; where one is older, the history is replayed.

        Raises:
            StoreUnavailable: the store cannot be read.
        """
        names = list(dict.fromkeys(users))
        with self.lock:
            heads = self.store.heads(names)
            found: dict[str, Entry] = {}
            behind: dict[str, _Behind] = {}
            for name in names:
                head = heads.get(name)
                if head is None:
                    self._entries.pop(name, None)
                else:
                    self._place(name, head, found, behind)
            self._fold(behind, found)
            return found

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

    def _place(self, name: str, head: Head, found: dict[str, Entry], behind: dict[str, _Behind]) -> None:
        """The entry itself where it is up to date; else what has to be folded in, or a new one."""
        entry = self._entries.get(name)
        if entry is not None and entry.key == head.key:
            if entry.last >= head.last:
                found[name] = entry
                self.observer.session("hit")
                return
            new = self.store.events_of(name, after=entry.last)
            known = [one.time for one in new if one.item_id in self.places]
            if len(new) <= LONGEST_FOLD and (not known or min(known) >= entry.time):
                behind[name] = _Behind(entry, new)
                self.observer.session("fold")
                return
        self.observer.session("rebuild")
        if (made := self._rebuilt(name, head.key)) is not None:
            found[name] = self._keep(name, made)

    def _keep(self, name: str, entry: Entry) -> Entry:
        if entry.bytes <= BYTES:
            self._entries[name] = entry
        return entry

    def _rebuilt(self, name: str, key: int) -> Entry | None:
        """From all events in the store; None where they are gone by now."""
        events = self.store.events_of(name)
        if not events:
            return None
        known = [one for one in events if one.item_id in self.places]
        session = self.policy.replay([self.played(one) for one in known]) if known else self.policy.begin()
        last = max(one.number for one in events)
        return Entry(key, last, len(events), known[-1].time if known else NEVER, session)

    def _fold(self, behind: dict[str, _Behind], found: dict[str, Entry]) -> None:
        """One step for everybody that is behind, until nobody is."""
        while behind:
            steps: list[tuple[str, StoredEvent]] = []
            for name in list(behind):
                one = behind[name]
                while one.events and one.events[0].item_id not in self.places:
                    one.entry = _counted(one.entry, one.events.pop(0))
                if one.events:
                    steps.append((name, one.events.pop(0)))
                else:
                    found[name] = self._keep(name, behind.pop(name).entry)
            if not steps:
                return
            sessions = [behind[name].entry.session for name, _ in steps]
            folded = self.policy.fold(sessions, [self.played(event) for _, event in steps])
            for (name, event), session in zip(steps, folded, strict=True):
                entry = _counted(behind[name].entry, event)
                behind[name].entry = replace(entry, session=session, time=event.time, spread=math.nan)

    def played(self, event: StoredEvent) -> Played:
        """An event as the policy reads it."""
        return Played(self.places[event.item_id], event.time, event.reward, event.context)


def _counted(entry: Entry, event: StoredEvent) -> Entry:
    return replace(entry, last=max(entry.last, event.number), events=entry.events + 1)
