"""The transitions of a batch: the steps that count, and the state that each leads to."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64

from what_next.types import Batch


@dataclass(frozen=True, eq=False)
class Steps:
    """The transitions of a batch; places are on the flattened grid `[batch time]`.

    Attributes:
        places: positions of the states that they start in; `following`: of the states that they lead to.
        counts: number of events between the two: `n_step`, or fewer before the end of the row.
        discounts: discount of the value of the state that each leads to; 0 if nothing follows.
        known: whether the item after that state is on the grid.
    """

    places: Int64[np.ndarray, "steps"]
    following: Int64[np.ndarray, "steps"]
    counts: Int64[np.ndarray, "steps"]
    discounts: Float32[np.ndarray, "steps"]
    known: Bool[np.ndarray, "steps"]

    @classmethod
    def of(cls, batch: Batch, n_step: int) -> "Steps":
        """The transitions of all steps that count."""
        width, last = batch.mask.shape[1], batch.lengths - 1
        counts = np.clip(last[:, None] - np.arange(width), 0, n_step)
        rows, columns = np.nonzero(batch.mask & (counts > 0))
        count, discounts = counts[rows, columns], np.ones(len(rows))
        for step in range(int(count.max(initial=0))):
            there = step < count
            discounts[there] *= batch.discounts[rows[there], columns[there] + step]
        places = rows * width + columns
        return cls(places, places + count, count, discounts.astype(np.float32), columns + count < last[rows])

    def summed(self, batch: Batch) -> Float32[np.ndarray, "steps"]:
        """The discounted sum of the rewards of each transition, up to the end of an episode if one comes first (Sutton
        and Barto 2018, equation 7.1)."""
        rewards, discounts = batch.rewards.ravel(), batch.discounts.ravel()
        found, weights = np.zeros(len(self.places)), np.ones(len(self.places))
        for step in range(int(self.counts.max(initial=0))):
            there, places = step < self.counts, self.places + step
            found[there] += weights[there] * rewards[places[there]]
            weights[there] *= discounts[places[there]]
        return found.astype(np.float32)
