"""Imitation of the log, weighted towards items that were better than the policy's own choice."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from what_next.algorithms.base import REWARDED, Algorithm, LossContext, Search, Updates, largest
from what_next.losses.rl import advantage_weights, td_loss, td_target
from what_next.types import Transitions


class Crr(Algorithm):
    """Critic-regularised regression (Wang et al. 2020, arXiv 2006.15134).

    The critic learns the value of the actor's own policy; the actor imitates the items of the log, weighted by how much
    better they were than the policy's choice on average. That mean is exact, over all items; the paper samples a few.
    The critic is a number; the paper learns a distribution.
    """

    name: Literal["crr"] = "crr"
    monitors: ClassVar[tuple[str, ...]] = REWARDED
    linear: ClassVar[bool] = True
    search: ClassVar[Search] = {"beta": (0.5, 20.0), "discount": (0.0, 0.9)}
    form: Literal["exp", "binary"] = Field(default="exp", description="weight: exp(advantage / beta), or 1 where > 0")
    beta: float = Field(default=1.0, gt=0, description="temperature of exp weights, in units of reward; large imitates")
    largest_weight: float = Field(default=20.0, gt=0, description="cap of an exp weight")
    weight: float = Field(default=0.5, gt=0, description="weight of the critic's loss in the encoder; the actor's is 1")
    tau: float = Field(default=0.005, gt=0, le=1, description="how far the target networks follow after a step")
    updates: ClassVar[Updates] = {"actor": ("encoder", "actor"), "critic": ("encoder", "critic")}
    targets: ClassVar[tuple[str, ...]] = ("encoder", "actor", "critic")

    def losses(self, context: LossContext[Transitions]) -> dict[str, Tensor]:
        """Algorithm 1: the actor's cross entropy times f, and the critic's error, halved and weighted."""
        nets, targets, batch, items = context.nets, context.targets, context.batch, context.items
        points, policy, later = nets["critic"](batch.states), nets["actor"](batch.states), batch.next_states
        values = items.values(points, batch.actions)
        with torch.no_grad():
            expected = items.expectation(targets["actor"](later), targets["critic"](later), target=True)
            weights = self.weights(values - items.expectation(policy, points))
        context.metrics["largest_weight"] = largest(weights)
        return {
            "actor": items.cross_entropy(policy, batch.actions, weights),
            "critic": self.weight * td_loss(values, td_target(batch.rewards, batch.discounts, expected)),
        }

    def weights(self, advantages: Float[Tensor, "steps"]) -> Float[Tensor, "steps"]:
        """The weight of each step from its advantage: one of the paper's two choices of f."""
        if self.form == "binary":
            return (advantages > 0).float()
        return advantage_weights(advantages, self.beta, self.largest_weight)
