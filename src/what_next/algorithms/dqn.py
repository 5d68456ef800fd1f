"""The value of every item, learned from the log; the items of largest value are recommended."""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from what_next.algorithms.base import REWARDED, Algorithm, LossContext, Networks, Points, Rng, Search, States, Updates
from what_next.losses.rl import td_loss, td_target
from what_next.types import Transitions


class Dqn(Algorithm):
    """Double DQN (van Hasselt et al. 2016, arXiv 1509.06461) on the encoder's states; recommends by value.

    Value learning alone, without a constraint to the log. No reward corrects the estimate of an item that never came
    after a state, and the best of all items is often such an item (Fujimoto et al. 2019, arXiv 1812.02900, section 3).
    It is the baseline for `cql` and `bcq`, which correct that.
    """

    name: Literal["dqn"] = "dqn"
    monitors: ClassVar[tuple[str, ...]] = REWARDED
    search: ClassVar[Search] = {"tau": (0.002, 0.05), "discount": (0.0, 0.9)}
    tau: float = Field(default=0.005, gt=0, le=1, description="how far the target networks follow after a step")
    replays: ClassVar[bool] = True
    updates: ClassVar[Updates] = {"critic": ("encoder", "critic")}
    targets: ClassVar[tuple[str, ...]] = ("encoder", "critic")
    needs_critic: ClassVar[bool] = True

    def losses(self, context: LossContext[Transitions]) -> dict[str, Tensor]:
        """Half the squared error of temporal differences, towards the target of "Double DQN"."""
        return {"critic": td_loss(context.values(), double_q_target(context))}

    def propose(self, nets: Networks, states: States, rng: Rng = None) -> Points:
        """The critic's point without its level, which does not change the order of items."""
        points: Tensor = nets["critic"](states)[..., :-1]
        return points


def double_q_target(context: LossContext[Transitions]) -> Float[Tensor, "steps"]:
    """The reward, and the discounted value of the best item in the next state."""
    batch = context.batch
    return td_target(batch.rewards, batch.discounts, best_value(context, batch.next_states))


@torch.no_grad()
def best_value(context: LossContext[Transitions], states: Float[Tensor, "steps dim"]) -> Float[Tensor, "steps"]:
    """The target critic's value of the item that the critic ranks first.

    Van Hasselt et al. 2016 (arXiv 1509.06461), section "Double DQN": the largest of many estimates is usually one that
    errs upwards, so one network chooses the item and the other gives its value. Both read the target encoder's
    `states`, which saves a pass of the other encoder.
    """
    _, chosen = context.items.best(context.nets["critic"](states))
    return context.items.target_values(context.targets["critic"](states), chosen)


@torch.no_grad()
def best_values(context: LossContext[Transitions]) -> tuple[Float[Tensor, "steps"], Float[Tensor, "steps"]]:
    """`best_value` of the target states, and of the next states; a next state that is also a target state is reused.

    The product with all items is most of the work. With `n_step` 1, the next state is that of the next row, except at
    the end of each history.
    """
    batch = context.batch
    here = best_value(context, batch.target_states)
    again = torch.zeros(len(here), dtype=torch.bool, device=here.device)
    again[:-1] = (batch.next_states[:-1] == batch.target_states[1:]).all(-1)
    there = here.roll(-1)
    there[~again] = best_value(context, batch.next_states[~again])
    return here, there
