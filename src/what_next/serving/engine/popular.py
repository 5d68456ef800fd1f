"""The safe policies, which need no model: popular items, and any item."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, Int32, Int64

Drawn = tuple[Int32[np.ndarray, "chosen"], Float64[np.ndarray, "chosen"]]


@dataclass(frozen=True, eq=False)
class Popular:
    """Items by their number of events in the store, most first; those with equally many in the catalogue's order."""

    counts: Int64[np.ndarray, "items"]

    @classmethod
    def of(cls, counted: Sequence[tuple[str, int]], places: Mapping[str, int]) -> "Popular":
        """From the store's counts; items that the catalogue does not hold are passed over."""
        counts = np.zeros(len(places), np.int64)
        for name, count in counted:
            if (place := places.get(name)) is not None:
                counts[place] = count
        return cls(counts)

    @cached_property
    def order(self) -> Int64[np.ndarray, "items"]:
        """All items, the most popular first."""
        order: Int64[np.ndarray, items] = np.argsort(-self.counts, kind="stable")
        return order

    @cached_property
    def scores(self) -> Float32[np.ndarray, "items"]:
        """Logarithms of one more than the counts: a draw at temperature 1 is in proportion to popularity."""
        return np.asarray(np.log1p(self.counts), np.float32)

    def first(
        self, slots: int, permitted: Bool[np.ndarray, "items"] | None, seen: Int[np.ndarray, "heard"]
    ) -> Int32[np.ndarray, "chosen"]:
        """The most popular of the permitted items that are not in `seen`: `slots` of them, or all."""
        order = self.order if permitted is None else self.order[permitted[self.order]]
        order = order[: slots + len(seen)]
        if len(seen):
            order = order[np.isin(order, seen, invert=True)]
        return order[:slots].astype(np.int32)


def any_item(free: Bool[np.ndarray, "items"], slots: int, rng: np.random.Generator) -> Drawn:
    """Different items, each with the same chance among those that are free and left."""
    left = np.flatnonzero(free)
    chosen = rng.choice(left, size=min(slots, len(left)), replace=False, shuffle=True)
    return chosen.astype(np.int32), 1 / (len(left) - np.arange(len(chosen), dtype=np.float64))
