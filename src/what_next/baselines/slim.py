"""SLIM: regression predicts each item from a few items that are associated with it."""

import numpy as np
import torch
from jaxtyping import Float64, Int64

from what_next.baselines.classic import ItemToItem
from what_next.baselines.counts import Known, Neighbourhoods, Rows
from what_next.data import Dataset


class Slim(ItemToItem):
    """Sparse linear method: regression predicts each item from the other items of a history (`regression`)."""

    @classmethod
    def fit(
        cls,
        dataset: Dataset,
        known: Int64[np.ndarray, "users"],
        *,
        penalty: float = 100.0,
        decay: float = 0.8,
        events: Known | None = None,
    ) -> "Slim":
        """Solve; see `baselines.Fit`.

        Args:
            penalty: on the squared weights; above 0.
            decay: as for `ItemToItem`.
            events: the same known events, already counted for another fit, so that item pairs are counted once.
        """
        events = events or Known.of(dataset, known)
        return cls(regression(events, penalty), events.shares, decay=decay)


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
    found = [np.zeros((0, 3)), *(_solved(some, penalty) for some in events.neighbourhoods)]
    first, second, values = np.concatenate(found).T
    ordered = np.lexsort((second, first))
    offsets = np.searchsorted(first[ordered], np.arange(events.catalogue + 1))
    return Rows(offsets, second[ordered].astype(np.int32), values[ordered].astype(np.float32))


def _solved(some: Neighbourhoods, penalty: float) -> Float64[np.ndarray, "weights 3"]:
    """A row for each weight above 0, so none for what comes after the last neighbour: the neighbour, the item and the
    weight."""
    width = some.neighbours.shape[1]
    grams, (first, second) = np.zeros((len(some.items), width, width)), np.triu_indices(width)
    grams[:, first, second] = grams[:, second, first] = some.pairs
    grams[:, np.arange(width), np.arange(width)] += penalty
    weights = torch.linalg.solve(torch.from_numpy(grams), torch.from_numpy(some.own.astype(np.float64))).numpy()
    row, column = np.nonzero(weights > 0)
    return np.stack([some.neighbours[row, column], some.items[row], weights[row, column]], 1)
