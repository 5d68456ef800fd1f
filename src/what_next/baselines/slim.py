"""SLIM: regression predicts each item from a few items that are associated with it."""

import numpy as np
import torch
from jaxtyping import Float64, Int64

from what_next.baselines.counts import Known, Rows, parts

NEIGHBOURS = 64
"""Most items from which one item is predicted."""
WORK = 2**22
"""Coefficients of the systems that are solved at a time: about 150 MB."""


def regression(events: Known, penalty: float) -> Rows:
    """The weight of each item of a history (row) in the score of other items (columns).

    Ridge regression predicts each item `j` from the `NEIGHBOURS` items `N` with which it is most strongly associated,
    never from itself: with the co-occurrence counts `G`, their weights are `(G_NN + penalty I)^-1 G_Nj`. This is SLIM
    with feature selection (Ning and Karypis 2011, "SLIM: Sparse Linear Methods for Top-N Recommender Systems"), with a
    penalty of squares alone. With all other items as neighbours it is EASE (Steck 2019, arXiv:1905.03375), whose one
    system of all items is too large for a large catalogue.

    Args:
        penalty: on the squared weights; above 0.
    """
    order = np.lexsort((-events.associations.values, events.associations.rows))
    surest = Rows(events.associations.offsets, events.associations.columns[order], events.associations.values[order])
    near, counts = surest.first(NEIGHBOURS), _Lookup(events.cooccurrences)
    sizes = np.diff(near.offsets)
    targets = np.argsort(sizes, kind="stable")  # systems of equal size stand together
    found = [np.zeros((0, 3))]
    for part in parts(sizes[targets] ** 2, WORK):
        some = targets[part]
        width = int(sizes[some[-1]])
        places = near.offsets[some][:, None] + np.arange(width)
        real = np.arange(width) < sizes[some][:, None]
        items = np.where(real, near.columns[np.minimum(places, len(near.columns) - 1)], 0).astype(np.int64)
        grams = counts.of(items[:, :, None], items[:, None, :]) * (real[:, :, None] & real[:, None, :])
        grams[:, np.arange(width), np.arange(width)] += penalty
        aims = counts.of(items, some[:, None]) * real
        solved = torch.linalg.solve(torch.from_numpy(grams), torch.from_numpy(aims)).numpy()
        found.append(np.stack([items[real], np.broadcast_to(some[:, None], real.shape)[real], solved[real]], 1))
    first, second, values = np.concatenate(found).T
    ordered = np.lexsort((second, first))
    offsets = np.searchsorted(first[ordered], np.arange(events.catalogue + 1))
    return Rows(offsets, second[ordered].astype(np.int32), values[ordered].astype(np.float32))


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
