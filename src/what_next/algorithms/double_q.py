"""What the methods that learn a value of every item share."""

import torch
from jaxtyping import Float
from torch import Tensor

from what_next.algorithms.base import LossContext
from what_next.losses.rl import td_target
from what_next.types import Transitions


def double_q_target(context: LossContext[Transitions]) -> Float[Tensor, "steps"]:
    """The reward, and the discounted value of the best item in the next state."""
    batch = context.batch
    return td_target(batch.rewards, batch.discounts, best_value(context, batch.next_states))


@torch.no_grad()
def best_value(context: LossContext[Transitions], states: Float[Tensor, "steps dim"]) -> Float[Tensor, "steps"]:
    """What the target critic expects of the item that the critic likes most.

    Van Hasselt et al. 2016 (arXiv 1509.06461), section "Double DQN": the largest of many estimates is mostly the one
    that errs upwards most, so one network chooses and the other tells the value. `states` are the target encoder's for
    both, which saves a pass of the other.
    """
    _, chosen = context.items.best(context.nets["critic"](states))
    return context.items.target_values(context.targets["critic"](states), chosen)


@torch.no_grad()
def best_values(context: LossContext[Transitions]) -> tuple[Float[Tensor, "steps"], Float[Tensor, "steps"]]:
    """`best_value` of the target states, and of the next ones, most of which are among those and not searched twice.

    A product with all items is most of the work. With `n_step` 1 the next state is the one of the next row, but for the
    last of each history.
    """
    batch = context.batch
    here = best_value(context, batch.target_states)
    again = torch.zeros(len(here), dtype=torch.bool, device=here.device)
    again[:-1] = (batch.next_states[:-1] == batch.target_states[1:]).all(-1)
    there = here.roll(-1)
    there[~again] = best_value(context, batch.next_states[~again])
    return here, there


def largest(weights: Float[Tensor, "steps"]) -> float:
    """The largest of some weights, for the alarms; 0 without steps."""
    return float(weights.detach().max()) if len(weights) else 0.0
