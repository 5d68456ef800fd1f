"""Diversity: how far an item is from what was heard lately."""

from math import inf, sqrt
from typing import ClassVar

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from what_next.rewards.base import Heard, Reward
from what_next.rewards.windows import mean_distance


def unexpectedness(log: Heard, window: int) -> Float[Tensor, "batch time"]:
    """The mean distance of each item to the latest before it, in units of the typical distance of two items.

    That is the root of twice the number of attributes: for each standardised attribute, two items drawn at random
    differ by 2 in the mean square.
    """
    return mean_distance(log.points, window) / sqrt(2 * max(1, log.vectors.shape[1])) * log.real


class Diversity(Reward):
    """The mean distance of the new item to the latest ones; 1 is the typical distance of two items of the catalogue.

    What the item adds to the intra-list distance (Ziegler et al. 2005, "Improving recommendation lists through topic
    diversification") of the latest items with it; known as distance-based novelty in Vargas and Castells 2011 ("Rank
    and relevance in novelty and diversity metrics for recommender systems").
    """

    needs: ClassVar[tuple[str, ...]] = ("attributes",)
    window: int = Field(default=20, ge=1, description="how many of the latest events the new item is compared with")

    @property
    def range(self) -> tuple[float, float]:
        """Never negative."""
        return 0.0, inf

    def of(self, log: Heard) -> Float[Tensor, "batch time"]:
        """See `Reward.of`."""
        return unexpectedness(log, self.window)
