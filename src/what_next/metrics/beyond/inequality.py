"""Inequality: how unequally recommendations fall on the items of the catalogue."""

import numpy as np
from jaxtyping import Float, Float64, Int


def gini_index(
    counts: Int[np.ndarray, "*batch held"] | Float[np.ndarray, "*batch held"], catalogue: int
) -> Float64[np.ndarray, "*batch"]:
    """The Gini index of how often each item of the catalogue is recommended.

    The sum of |x - y| over all pairs of items, over (n - 1) times the sum of x: from 0, where each item is recommended
    equally often, to 1, where one has all recommendations (Shani and Gunawardana 2011, "Evaluating recommendation
    systems"). Where nothing is recommended, all items are equal.

    Args:
        counts: how often items are recommended; those that are not here never are.
        catalogue: how many items there are, n.
    """
    ascending = np.sort(counts, axis=-1)
    held = counts.shape[-1]
    # By rank, item j of n is in front of j - 1 others and behind n - j; those that are not here come first.
    ranks = np.arange(catalogue - held + 1, catalogue + 1)
    apart = ascending @ (2.0 * ranks - catalogue - 1)
    most = (catalogue - 1) * ascending.sum(axis=-1, dtype=np.float64)
    index: Float64[np.ndarray, "*batch"] = np.asarray(apart / np.where(most > 0, most, 1))
    return index
