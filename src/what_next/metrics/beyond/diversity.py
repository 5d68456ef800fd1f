"""Diversity: how far the items of a slate are from each other."""

from math import sqrt

import numpy as np
import torch
from jaxtyping import Float64, Int32

from what_next.metrics.beyond.background import Background
from what_next.metrics.beyond.rows import parts
from what_next.rewards.spread import EXACT


def diversity(slates: Int32[np.ndarray, "rows k"], background: Background) -> Float64[np.ndarray, "rows"]:
    """The mean distance of two items of a slate, in units of the typical distance of two items of the catalogue.

    The intra-list distance of Ziegler et al. 2005 ("Improving recommendation lists through topic diversification"), on
    standardised attributes, in the unit of the reward of the same name: for each attribute, two items drawn at random
    differ by 2 in the mean square.

    Returns:
        0 or more, higher is more diverse, about 1 for items drawn at random; not a number for a slate with fewer than
        two items, and where items have no attributes.
    """
    (rows, slots), attributes = slates.shape, background.vectors.shape[1]
    if not attributes:
        return np.full(rows, np.nan)
    vectors, sums = torch.from_numpy(background.vectors), np.empty(rows)
    for part in parts(rows, slots * max(slots, attributes)):
        items = torch.from_numpy(slates[part])
        points, real = vectors[items.clamp(min=0)], (items >= 0).double()
        distances = torch.cdist(points, points, compute_mode=EXACT).double()
        sums[part] = torch.einsum("ri,rij,rj->r", real, distances, real).numpy()  # each pair twice
    held = (slates >= 0).sum(axis=1)
    pairs = held * (held - 1)
    return np.where(pairs, sums / np.maximum(pairs, 1) / sqrt(2 * attributes), np.nan)
