"""The supervised head, with a critic that also learns from items that did not come next."""

from typing import Literal

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from what_next.algorithms.base import LossContext
from what_next.algorithms.dqn import best_values
from what_next.algorithms.sqn import Sqn
from what_next.losses.rl import mean, td_target
from what_next.types import Shown, Transitions


class Snqn(Sqn):
    """Supervised negative Q-learning (SNQN: Xin et al. 2021, arXiv 2111.03474).

    A log of users' choices has hardly any negative rewards, so the values of all items drift upwards together. So items
    that did not come next are drawn as negatives; they are assumed to earn nothing and to leave the state unchanged.
    The supervised head recommends, as with `sqn`. With few items, every item is drawn as a negative many times, and
    values become low and flat: set fewer `negatives` then.
    """

    name: Literal["snqn"] = "snqn"  # type: ignore[assignment]
    negatives: int = Field(default=10, gt=0, description="items per step, drawn among those that did not come next")

    def losses(self, context: LossContext[Transitions]) -> dict[str, Tensor]:
        """The paper's L_s, and L_q = L_p + L_n: temporal differences of the item that came next and the negatives."""
        _, error = judged(context, others(context, self.negatives))
        return {"actor": context.cross_entropy(), "critic": self.weight * error}


def others(context: LossContext[Transitions], count: int) -> Int64[Tensor, "steps choices"]:
    """Items for each step that did not come next, drawn uniformly."""
    actions, known = context.batch.actions, len(context.items)
    ahead = context.draw(lambda steps: context.rng.integers(1, max(known, 2), size=(steps, count)))
    return (actions.unsqueeze(-1) + ahead) % known


def judged(
    context: LossContext[Transitions], negatives: Int64[Tensor, "steps choices"]
) -> tuple[Float[Tensor, "steps judged"], Float[Tensor, ""]]:
    """The values of the item that came next (first) and of the negatives, and the critic's loss L_p + L_n.

    A negative earns 0 and leaves the state unchanged: its target is the value of the best item there, discounted by one
    step whatever `n_step` is. The loss is summed over the negatives, as in the paper. If the history ended with that
    step, nothing follows a negative either. An item that a service showed and nobody took is a real negative; such a
    batch has no drawn ones, and the loss is L_p.
    """
    batch = context.batch
    choices = torch.cat([batch.actions.unsqueeze(-1), negatives], 1)
    values = context.items.values(context.nets["critic"](batch.states), choices)
    here, there = best_values(context)
    after, stayed = td_target(batch.rewards, batch.discounts, there), batch.step_discounts * here
    targets = torch.cat([after.unsqueeze(-1), stayed.unsqueeze(-1).expand(-1, negatives.shape[1])], 1)
    counted = slice(1) if isinstance(batch, Shown) else slice(None)
    return values, mean((targets - values)[:, counted].square().sum(-1) / 2)
