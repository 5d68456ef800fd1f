"""Nearest neighbours of items: those with the same users as what the history holds."""

import numpy as np
from jaxtyping import Float32, Float64, Int64

from what_next.baselines.counts import TIE, Known, Rows, last_heard, together
from what_next.baselines.rules import Ranking
from what_next.data import Dataset
from what_next.types import History

LEAST = 1e-6
"""An item of the history that counts for less does not count."""


class ItemKnn(Ranking):
    """The items most similar to those of the history (Sarwar et al. 2001; Deshpande and Karypis 2004).

    Two items are as similar as the cosine of their users, `n(i, j) / (sqrt(n(i) n(j)) + shrinkage)`. Each item of the
    history votes for its nearest neighbours by their similarity; popularity decides where nobody votes.
    """

    def __init__(self, neighbours: Rows, shares: Float64[np.ndarray, "items"], *, decay: float) -> None:
        """`neighbours`: the similarities that are kept; `shares` of all events; `decay` as for `fit`."""
        self.neighbours, self.shares, self.decay, self.items = neighbours, shares, decay, len(shares)

    @classmethod
    def fit(
        cls,
        dataset: Dataset,
        known: Int64[np.ndarray, "users"],
        *,
        shrinkage: float = 10.0,
        neighbours: float = 100,
        decay: float = 0.8,
        events: Known | None = None,
    ) -> "ItemKnn":
        """Count.

        Args:
            dataset: the log.
            known: how many leading events of each user training may know.
            shrinkage: lowers the similarity of items with few users; 0 or more.
            neighbours: how many each item keeps; the lower item among equals.
            decay: how much an item of the history counts for each event that came after it, above 0, to 1: all alike.
            events: those events, where pairs of their items were counted for another fit already.
        """
        events = events or Known.of(dataset, known)
        norms = np.sqrt(np.bincount(events.pairs[1], minlength=events.catalogue))
        sizes = np.zeros(events.catalogue, np.int64)
        columns, values = [np.empty(0, np.int32)], [np.empty(0, np.float32)]
        for items, others, users in together(events):
            similar = (users / (norms[items] * norms[others] + shrinkage)).astype(np.float32)
            similar[items == others] = np.inf  # the item itself goes before all of its neighbours, and is passed over
            kept = _strongest(items, similar, int(neighbours))
            sizes += np.bincount(items[kept], minlength=events.catalogue)
            columns.append(others[kept].astype(np.int32))
            values.append(similar[kept])
        rows = Rows(np.append(0, sizes.cumsum()), np.concatenate(columns), np.concatenate(values))
        return cls(rows, events.shares, decay=decay)

    def nearest(self, neighbours: float) -> "ItemKnn":
        """The same with fewer neighbours of each item."""
        return ItemKnn(self.neighbours.first(int(neighbours)), self.shares, decay=self.decay)

    def decayed(self, decay: float) -> "ItemKnn":
        """The same neighbours asked with another decay."""
        return ItemKnn(self.neighbours, self.shares, decay=decay)

    def worth(self, history: History) -> Float64[np.ndarray, "batch items"]:
        """The votes of the history's distinct items."""
        rows, items, after = last_heard(history.items)
        weights = self.decay ** after.astype(np.float64)
        heard = weights > LEAST
        scores = self.neighbours.summed(rows[heard], items[heard], weights[heard], len(history.items))
        scores += TIE * self.shares
        return scores


def _strongest(rows: Int64[np.ndarray, "n"], values: Float32[np.ndarray, "n"], most: int) -> Int64[np.ndarray, "kept"]:
    """Where the highest values of each row stand after the very first, by row; `rows` ascends, values are positive."""
    # Positive floats are ordered as their bits are: one sort of integers does it, ten times faster than by two keys.
    order = np.argsort((rows << 32) - values.view(np.int32), kind="stable")
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    place = np.arange(len(rows)) - np.repeat(starts, np.diff(np.append(starts, len(rows))))
    return order[(place > 0) & (place <= most)]
