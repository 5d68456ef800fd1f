"""Serendipity: unexpected, and liked all the same."""

from math import inf
from typing import ClassVar

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from what_next.rewards.base import Heard, Reward
from what_next.rewards.diversity import unexpectedness


class Serendipity(Reward):
    """The distance of a liked item to the latest ones (see `Diversity`); 0 for one that was not liked.

    Unexpected and useful at once (Ge et al. 2010, "Beyond accuracy: evaluating recommender systems by coverage and
    serendipity"); unexpected as a mean distance to what the user knows, as in Castells, Hurley and Vargas 2015
    ("Novelty and diversity in recommender systems").
    """

    needs: ClassVar[tuple[str, ...]] = ("attributes",)
    window: int = Field(default=20, ge=1, description="how many of the latest events the new item is compared with")
    above: float = Field(default=0.0, description="an item was liked where its logged reward is above this")

    @property
    def range(self) -> tuple[float, float]:
        """Never negative."""
        return 0.0, inf

    def of(self, log: Heard) -> Float[Tensor, "batch time"]:
        """See `Reward.of`."""
        return unexpectedness(log, self.window) * (log.rewards > self.above)
