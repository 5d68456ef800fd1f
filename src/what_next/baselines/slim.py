"""SLIM: regression predicts each item from a few items that are associated with it."""

from math import isqrt

import numpy as np
import torch
from jaxtyping import Float64, Int64

from what_next.baselines.counts import Known, Rows, parts

NEIGHBOURS, COEFFICIENTS = (16, 64), 2**26
"""From how many items one item is predicted: between these numbers, as many as give at most so many coefficients in the
systems of all items (some seconds)."""
WORK = 2**22
"""Coefficients that are computed at a time: about 150 MB."""


def regression(events: Known, penalty: float) -> Rows:
    """The weight of each item of a history (row) in the score of other items (columns).

    Ridge regression predicts each item `j` from the 16 to 64 items `N` with which it is most strongly associated, never
    from itself: with the co-occurrence counts `G`, their weights are `(G_NN + penalty I)^-1 G_Nj`. This is SLIM with
    feature selection (Ning and Karypis 2011, "SLIM: Sparse Linear Methods for Top-N Recommender Systems"), with a
    penalty of squares alone, and without the few weights below 0. With these, and all other items as neighbours, it is
    EASE (Steck 2019, arXiv:1905.03375), whose one system of all items is too large for a large catalogue.

    Args:
        penalty: on the squared weights; above 0.
    """
    order = np.lexsort((-events.associations.values, events.associations.rows))
    surest = Rows(events.associations.offsets, events.associations.columns[order], events.associations.values[order])
    near, counts = surest.first(neighbours_of(events.catalogue)), _Lookup(events.cooccurrences)
    sizes = np.diff(near.offsets)
    found = [np.zeros((0, 3))]
    for width in 2 ** np.arange(1 + NEIGHBOURS[1].bit_length()):  # systems of similar size are padded to one size
        targets = np.flatnonzero((sizes <= width) & (2 * sizes > width))
        for part in parts(np.full(len(targets), width**2), WORK):
            found.append(_solved(targets[part], int(width), near, counts, penalty))
    first, second, values = np.concatenate(found).T
    ordered = np.lexsort((second, first))
    offsets = np.searchsorted(first[ordered], np.arange(events.catalogue + 1))
    return Rows(offsets, second[ordered].astype(np.int32), values[ordered].astype(np.float32))


def _solved(
    targets: Int64[np.ndarray, "targets"], width: int, near: Rows, counts: "_Lookup", penalty: float
) -> Float64[np.ndarray, "pairs 3"]:
    """A row for each neighbour of these targets: the neighbour, the target and the weight; `width`: most neighbours of
    one target."""
    starts, ends = near.offsets[targets], near.offsets[targets + 1]
    places = starts[:, None] + np.arange(width)
    real = places < ends[:, None]
    items = np.where(real, near.columns[np.minimum(places, len(near.columns) - 1)], 0).astype(np.int64)
    grams = counts.of(items[:, :, None], items[:, None, :]) * (real[:, :, None] & real[:, None, :])
    grams[:, np.arange(width), np.arange(width)] += penalty
    aims = counts.of(items, targets[:, None]) * real
    weights = torch.linalg.solve(torch.from_numpy(grams), torch.from_numpy(aims)).numpy()
    row, column = np.nonzero(real & (weights > 0))
    return np.stack([items[row, column], targets[row], weights[row, column]], 1)


def neighbours_of(count: int) -> int:
    """From how many items one item is predicted, in a catalogue of `count` items."""
    return min(max(isqrt(COEFFICIENTS // count), NEIGHBOURS[0]), NEIGHBOURS[1])


class _Lookup:
    """The values of a sparse matrix at given cells; 0 where none is stored."""

    def __init__(self, rows: Rows) -> None:
        self.width = len(rows.offsets) - 1
        self.cells = rows.rows * self.width + rows.columns  # ascending
        self.values = rows.values.astype(np.float64)

    def of(self, row: Int64[np.ndarray, "..."], column: Int64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
        """The values at these cells; rows and columns are broadcast."""
        wanted = row * self.width + column
        at = np.minimum(np.searchsorted(self.cells, wanted), len(self.cells) - 1)
        return np.where(self.cells[at] == wanted, self.values[at], 0.0)
