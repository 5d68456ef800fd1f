"""Novelty: how few hear what is recommended."""

import numpy as np
from jaxtyping import Float64, Int32

from what_next.metrics.beyond.background import Background
from what_next.metrics.beyond.rows import mean_over


def novelty(slates: Int32[np.ndarray, "rows k"], background: Background) -> Float64[np.ndarray, "rows"]:
    """The mean self-information of a slate's items in bits: -log2 of the item's share of all training events.

    Zhou et al. 2010 (PNAS 107, "Solving the apparent diversity-accuracy dilemma of recommender systems"); on shares of
    events it is the expected free discovery of Vargas and Castells 2011 ("Rank and relevance in novelty and diversity
    metrics for recommender systems"). An item that nobody heard counts as one that was heard once. The reward of the
    same name is divided by the information of the rarest item, so that it ends at 1; here bits stay bits.

    Returns:
        0 or more, higher is more novel; not a number for an empty slate.
    """
    return mean_over(background.information, slates)
