"""Novelty: how few hear an item."""

import torch
from jaxtyping import Float
from torch import Tensor

from what_next.rewards.base import Heard, Reward


class Novelty(Reward):
    """The self-information of the item, -log2 of its share of all training events, over that of the rarest one.

    0 for an item that is all that anybody hears, 1 for the rarest and for one that nobody heard. Self-information:
    Zhou et al. 2010 (PNAS 107, "Solving the apparent diversity-accuracy dilemma of recommender systems"); on shares of
    events it is the expected free discovery of Vargas and Castells 2011 ("Rank and relevance in novelty and diversity
    metrics for recommender systems"). The shares are a statistic of the catalogue, as its scaling is.
    """

    @property
    def range(self) -> tuple[float, float]:
        """From 0 to 1."""
        return 0.0, 1.0

    def of(self, log: Heard) -> Float[Tensor, "batch time"]:
        """See `Reward.of`."""
        heard = log.popularity > 0
        information = torch.where(heard, -log.popularity.double().clamp(min=1e-300).log2(), 0.0)
        most = information.max()
        if most <= 0:
            return torch.zeros_like(log.rewards)
        novelty = torch.where(heard, information / most, 1.0)
        return (novelty[log.items.clamp(min=0)] * log.real).float()
