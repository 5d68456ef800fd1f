"""Values of the log's own items only; no other item's value is ever asked for."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from what_next.algorithms.base import REWARDED, Algorithm, LossContext, Search, Updates, largest
from what_next.losses.rl import advantage_weights, expectile_loss, td_loss, td_target
from what_next.types import Transitions


class Iql(Algorithm):
    """Implicit Q-learning (Kostrikov et al. 2021, arXiv 2110.06169): improves on the log with the log's items alone.

    The value of a state is an upper expectile of the values of the items that came next there, as an estimate of the
    largest of them; an expectile of 0.5 is their mean, the value of the log's own policy (SARSA). The actor imitates
    the log, weighted by how much better than that value an item was. The paper takes the smaller of two critics; one is
    used here, because heads on the same encoder hardly differ. The value has no target network, as in the paper: it
    reads the target encoder's states and follows the target critic, so it changes no faster than they do.
    """

    name: Literal["iql"] = "iql"
    monitors: ClassVar[tuple[str, ...]] = REWARDED
    linear: ClassVar[bool] = True
    search: ClassVar[Search] = {"expectile": (0.5, 0.9), "beta": (0.1, 3.0), "discount": (0.0, 0.9)}
    expectile: float = Field(default=0.7, gt=0, lt=1, description="expectile of a state's item values; 0.5: their mean")
    beta: float = Field(default=1.0, ge=0, description="how sharply better items are preferred, per reward; 0 imitates")
    largest_weight: float = Field(default=100.0, gt=0, description="cap of a step's weight in the actor's loss")
    weight: float = Field(default=0.5, gt=0, description="weight of the critic's loss in the encoder; the actor's is 1")
    tau: float = Field(default=0.005, gt=0, le=1, description="how far the target networks follow after a step")
    updates: ClassVar[Updates] = {
        "actor": ("encoder", "actor"),
        "critic": ("encoder", "critic"),
        "value": ("value",),  # not the encoder: the critic already trains the states to predict rewards
    }
    targets: ClassVar[tuple[str, ...]] = ("encoder", "critic")

    def losses(self, context: LossContext[Transitions]) -> dict[str, Tensor]:
        """Equations 7 (actor), 6 (critic; halved, and weighted) and 5 (value)."""
        nets, batch, items = context.nets, context.batch, context.items
        expected = nets["value"](batch.target_states)
        with torch.no_grad():
            logged = items.target_values(context.targets["critic"](batch.target_states), batch.actions)
            targets = td_target(batch.rewards, batch.discounts, nets["value"](batch.next_states))
        weights = advantage_weights(self.beta * (logged - expected), cap=self.largest_weight)
        largest_before_cap = (self.beta * (logged - expected)).clamp(max=80).exp()
        context.metrics["largest_weight"] = largest(largest_before_cap)
        return {
            "actor": context.cross_entropy(weights),
            "critic": self.weight * td_loss(context.values(), targets),
            "value": expectile_loss(expected, logged, self.expectile),
        }
