"""A version at work: with its sessions, masks and popular items, all of one catalogue, and what is withdrawn."""

import threading

import numpy as np
from jaxtyping import Int32

from what_next.baselines.rules import Popular, RandomItem
from what_next.serving.engine.cache import SessionCache
from what_next.serving.engine.masks import Masks
from what_next.serving.engine.served import Served
from what_next.serving.metrics import Metrics
from what_next.serving.store import Store

Counted = list[tuple[str, int]]


class Withdrawals:
    """The withdrawn items, as the store says; safe for threads.

    Attributes:
        now: the number of the latest change, 0 before the first, and the ids; replaced as a whole.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.now: tuple[int, frozenset[str]] = (0, frozenset())
        self._lock = threading.Lock()

    def look(self) -> None:
        """Takes up what was withdrawn or put again, here or by another process.

        Raises:
            StoreUnavailable: the store cannot be read now.
        """
        with self._lock:
            number, before = self.now
            if changes := self.store.withdrawals_after(number):
                ids = set(before)
                for change in changes:
                    (ids.add if change.withdrawn else ids.discard)(change.item_id)
                self.now = changes[-1].number, frozenset(ids)


class Active:
    """What answers for one role. Only `popular` is ever replaced, and what is withdrawn changes.

    Attributes:
        served: the version.
        sessions: of users, each as this version sees them.
        masks, popular: of its catalogue.
    """

    def __init__(
        self,
        served: Served,
        store: Store,
        size: int,
        metrics: Metrics,
        counted: Counted,
        withdrawals: Withdrawals,
    ) -> None:
        self.served, self._withdrawals = served, withdrawals
        self._out: tuple[object, Int32[np.ndarray, withdrawn]] = (None, np.zeros(0, np.int32))
        self.sessions = SessionCache(served, store, size, metrics)
        self.masks, self.anything = Masks(served), RandomItem(len(served.ids))
        self.count(counted)

    def count(self, counted: Counted) -> None:
        """Takes up how many events items have; those that the catalogue does not hold are passed over."""
        counts = np.zeros(len(self.served.ids), np.int64)
        for name, count in counted:
            if (place := self.served.places.get(name)) is not None:
                counts[place] = count
        self.popular = Popular(counts)

    @property
    def withdrawn(self) -> tuple[int, Int32[np.ndarray, "withdrawn"]]:
        """The number of the latest change of the withdrawn items, and the positions of these items."""
        known, places = self._out
        if (now := self._withdrawals.now) is not known:
            found = [place for one in now[1] if (place := self.served.places.get(one)) is not None]
            self._out = now, (places := np.array(sorted(found), np.int32))
        return now[0], places

    def known(self, ids: tuple[str, ...]) -> tuple[Int32[np.ndarray, "known"], tuple[str, ...]]:
        """Positions of the ids that the catalogue holds, in order; and the other ids."""
        places = self.served.places
        found = [places.get(one, -1) for one in ids]
        unknown = tuple(one for one, place in zip(ids, found, strict=True) if place < 0)
        return np.array([place for place in found if place >= 0], np.int32), unknown
