"""Values of items, restricted to the items that the log would probably have chosen."""

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from what_next.algorithms.base import Candidates, LossContext, Networks, Points, Rng, Search, States, Updates
from what_next.algorithms.dqn import Dqn
from what_next.losses.rl import td_loss, td_target
from what_next.types import Transitions

APART = 1000.0
"""How far the scores of all other items lie below the candidates' values."""


class Bcq(Dqn):
    """Discrete batch-constrained Q-learning (Fujimoto et al. 2019, arXiv 1910.01708) on `dqn`.

    A second head learns what came next. Only items whose probability under it is at least `threshold` times the largest
    are considered, in the target and when recommending, because no reward corrects the values of other items. With 0 it
    is `dqn`, with 1 it takes the likeliest item: imitation.

    Both losses update the encoder, as in the authors' code. The behaviour's logits are products with the encoder's item
    vectors: if these were learned for values alone, items of equal value would look alike, and the behaviour would
    admit them all. The authors' penalty on the squares of the logits is left out, because weight decay does the same.
    """

    name: Literal["bcq"] = "bcq"  # type: ignore[assignment]
    search: ClassVar[Search] = {"threshold": (0.05, 0.9), "discount": (0.0, 0.9)}
    threshold: float = Field(default=0.3, ge=0, le=1, description="share of the largest probability that items need")
    considered: int = Field(default=100, gt=0, description="likeliest items to look at; with threshold 0 all")
    replays: ClassVar[bool] = False
    updates: ClassVar[Updates] = {**Dqn.updates, "behaviour": ("encoder", "behaviour")}

    def losses(self, context: LossContext[Transitions]) -> dict[str, Tensor]:
        """Half the squared error towards the best of the considered items, and the cross entropy of what came next."""
        nets, batch, items = context.nets, context.batch, context.items
        critic, behaviour, later = nets["critic"], nets["behaviour"], batch.next_states
        with torch.no_grad():  # section 4, "Discrete BCQ": one network chooses, its target network gives the value
            _, chosen = items.best(critic(later), within=behaviour(later), threshold=self.threshold)
            best = items.target_values(context.targets["critic"](later), chosen)
            targets = td_target(batch.rewards, batch.discounts, best)
        return {
            "critic": td_loss(items.values(critic(batch.states), batch.actions), targets),
            "behaviour": items.cross_entropy(behaviour(batch.states), batch.actions),
        }

    def propose(self, nets: Networks, states: States, rng: Rng = None) -> Points:
        """The behaviour's point, whose likeliest items are rescored; the critic's with threshold 0."""
        if self.threshold == 0:
            return super().propose(nets, states, rng)
        points: Tensor = nets["behaviour"](states)
        return points

    @property
    def rescored(self) -> int:
        """See `Algorithm.rescored`."""
        return self.considered if 0 < self.threshold < 1 else 0

    def rescore(self, nets: Networks, states: States, vectors: Candidates) -> Float[Tensor, "batch candidates"]:
        """The values of the considered items; the others follow far below, by their probability."""
        likely = torch.einsum("bcd,bd->bc", vectors, nets["behaviour"](states))
        likely = likely - likely[:, :1]  # the candidates come likeliest first, items that are not permitted last
        points = nets["critic"](states)
        values = torch.einsum("bcd,bd->bc", vectors, points[:, :-1]) + points[:, -1:]
        considered = likely >= math.log(self.threshold)
        return torch.where(considered, values, values.amin(1, keepdim=True) - APART + likely)
