"""What the methods that learn a value of every item share."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from what_next.losses import td_target
from what_next.models.item_space import ItemSpace
from what_next.types import Trajectories


def double_q_target(
    critic: nn.Module, slow: nn.Module, batch: Trajectories, items: ItemSpace
) -> Float[Tensor, "steps"]:
    """The reward, and the discounted value of the best item in the next state."""
    return td_target(batch.rewards, batch.discounts, best_value(critic, slow, batch.next_states, items))


@torch.no_grad()
def best_value(
    critic: nn.Module, slow: nn.Module, states: Float[Tensor, "steps dim"], items: ItemSpace
) -> Float[Tensor, "steps"]:
    """What the slow critic expects of the item that the critic likes most.

    Van Hasselt et al. 2016 (arXiv 1509.06461), section "Double DQN": the largest of many estimates is mostly the one
    that errs upwards most, so one network chooses and the other tells the value. `states` are the slow encoder's for
    both, which saves a pass of the other.
    """
    _, chosen = items.best(critic(states))
    return items.slow_values(slow(states), chosen)


@torch.no_grad()
def best_values(
    critic: nn.Module, slow: nn.Module, batch: Trajectories, items: ItemSpace
) -> tuple[Float[Tensor, "steps"], Float[Tensor, "steps"]]:
    """`best_value` of the slow states, and of the next ones, most of which are among those and not searched twice.

    A product with all items is most of the work. With `n_step` 1 the next state is the one of the next row, but for the
    last of each history.
    """
    here = best_value(critic, slow, batch.slow_states, items)
    again = torch.zeros(len(here), dtype=torch.bool, device=here.device)
    again[:-1] = (batch.next_states[:-1] == batch.slow_states[1:]).all(-1)
    there = here.roll(-1)
    there[~again] = best_value(critic, slow, batch.next_states[~again], items)
    return here, there


def largest(weights: Float[Tensor, "steps"]) -> float:
    """The largest of some weights, for the alarms; 0 without steps."""
    return float(weights.detach().max()) if len(weights) else 0.0
