"""A first-order Markov chain: what came next after the item that was heard last."""

import numpy as np
from jaxtyping import Float64, Int64

from what_next.baselines.counts import Known, Rows
from what_next.baselines.rules import Ranking
from what_next.data import Dataset
from what_next.types import History

LAST = 10
"""How many of the last events are looked at, at most."""


class Markov(Ranking):
    """The items that most likely follow the last one of the history, in some part those before it.

    Transition counts `c(i, j)` from item `i` to the next are smoothed towards popularity, as words of a document are
    (Zhai and Lafferty 2001, Dirichlet prior): `P(j | i) = (c(i, j) + smoothing * share(j)) / (c(i) + smoothing)`.
    """

    def __init__(self, counts: Rows, shares: Float64[np.ndarray, "items"], *, smoothing: float, decay: float) -> None:
        """`counts` of transitions, `shares` of all events; `smoothing` and `decay` as for `fit`."""
        self.counts, self.shares, self.items = counts, shares, len(shares)
        self.smoothing, self.decay = smoothing, decay
        sums = np.append(0, counts.values.cumsum(dtype=np.float64))
        self.leaving = np.diff(sums[counts.offsets])

    @classmethod
    def fit(
        cls, dataset: Dataset, known: Int64[np.ndarray, "users"], *, smoothing: float = 10.0, decay: float = 0.4
    ) -> "Markov":
        """Count.

        Args:
            dataset: the log.
            known: how many leading events of each user training may know.
            smoothing: how many transitions popularity counts for; above 0.
            decay: how much each of the last events weighs beside the one after it, 0 to 1; at 0 the last one alone
                counts.
        """
        events = Known.of(dataset, known)
        before, after = events.transitions
        steps = before.astype(np.int64) * events.catalogue + after
        distinct, counts = np.unique(steps, return_counts=True)
        counted = Rows(
            np.searchsorted(distinct, np.arange(events.catalogue + 1) * events.catalogue),
            (distinct % events.catalogue).astype(np.int32),
            counts.astype(np.float32),
        )
        return cls(counted, events.shares, smoothing=smoothing, decay=decay)

    def decayed(self, decay: float) -> "Markov":
        """The same counts read with another decay."""
        return Markov(self.counts, self.shares, smoothing=self.smoothing, decay=decay)

    def worth(self, history: History) -> Float64[np.ndarray, "batch items"]:
        """The probability that each item is next; the items' shares where there is no history."""
        real = history.items >= 0
        after = real.sum(axis=1, keepdims=True) - real.cumsum(axis=1)
        decays = self.decay ** after.astype(np.float64)
        rows, columns = np.nonzero(real & (after < LAST) & (decays > 0))
        items, weights = history.items[rows, columns], decays[rows, columns]
        total = np.bincount(rows, weights, len(real))
        weights /= total[rows] * (self.leaving[items] + self.smoothing)
        backed_off = np.where(total > 0, self.smoothing * np.bincount(rows, weights, len(real)), 1.0)
        scores: Float64[np.ndarray, "batch items"] = backed_off[:, None] * self.shares
        scores += self.counts.summed(rows, items, weights, len(real))
        return scores
