"""A version at work: with its sessions, masks and popular items, which are all of one catalogue."""

import numpy as np
from jaxtyping import Int32

from what_next.baselines.rules import Popular, RandomItem
from what_next.serving.engine.cache import SessionCache
from what_next.serving.engine.masks import Masks
from what_next.serving.engine.observer import Observer
from what_next.serving.engine.served import Served
from what_next.serving.engine.withdrawals import Withdrawals, Withdrawn
from what_next.serving.store import Store

Counted = list[tuple[str, int]]


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
        observer: Observer,
        counted: Counted,
        withdrawals: Withdrawals,
    ) -> None:
        self.served, self._withdrawals = served, withdrawals
        self._out: tuple[Withdrawn, Int32[np.ndarray, withdrawn]] = (Withdrawn(), np.zeros(0, np.int32))
        self.sessions = SessionCache(served, store, size, observer)
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
            self._out = now, (places := now.places(self.served))
        return now.number, places

    def known(self, ids: tuple[str, ...]) -> tuple[Int32[np.ndarray, "known"], tuple[str, ...]]:
        """Positions of the ids that the catalogue holds, in order; and the other ids."""
        places = self.served.places
        found = [places.get(one, -1) for one in ids]
        unknown = tuple(one for one, place in zip(ids, found, strict=True) if place < 0)
        return np.array([place for place in found if place >= 0], np.int32), unknown
