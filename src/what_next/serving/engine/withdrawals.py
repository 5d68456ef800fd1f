"""Items that were withdrawn: what every process on a store knows before its next answer."""

import threading
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32

from what_next.serving.engine.served import Served
from what_next.serving.store import Store


@dataclass(frozen=True, eq=False)
class Withdrawn:
    """The withdrawn items after some change; `number` is that of the change, 0 before the first."""

    number: int = 0
    ids: frozenset[str] = frozenset()

    def places(self, served: Served) -> Int32[np.ndarray, "withdrawn"]:
        """Their positions in a catalogue, ascending."""
        found = [place for one in self.ids if (place := served.places.get(one)) is not None]
        return np.array(sorted(found), np.int32)


class Withdrawals:
    """Keeps `now` as the store says; safe for threads, and replaced as a whole."""

    def __init__(self, store: Store) -> None:
        self.store, self.now = store, Withdrawn()
        self._lock = threading.Lock()

    def look(self) -> None:
        """Takes up what was withdrawn or put again, here or by another process.

        Raises:
            StoreUnavailable: the store cannot be read now.
        """
        with self._lock:
            changes = self.store.withdrawals_after(self.now.number)
            if not changes:
                return
            ids = set(self.now.ids)
            for change in changes:
                (ids.add if change.withdrawn else ids.discard)(change.item_id)
            self.now = Withdrawn(changes[-1].number, frozenset(ids))
