"""The sum that an algorithm which learns from the log earns."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from what_next.data import Dataset
from what_next.errors import SetupError
from what_next.rewards.base import Heard, Reward
from what_next.rewards.logged import Logged


def weighted(rewards: Iterable[Reward]) -> tuple[Reward, ...]:
    """Those rewards that count, each with its weight.

    The logged one also counts, with weight 1, where a word earns a number, or where no weight is given at all.
    """
    rewards = tuple(rewards)
    alone = all(reward.weight is None for reward in rewards)
    filled = (
        reward.model_copy(update={"weight": 1.0})
        if isinstance(reward, Logged) and reward.weight is None and (alone or reward.numbers)
        else reward
        for reward in rewards
    )
    return tuple(reward for reward in filled if reward.weight)


def check(terms: Sequence[Reward], dataset: Dataset) -> None:
    """Raises a `SetupError` where no reward counts, or the data lack what one of them needs."""
    if not terms:
        raise SetupError("every reward has weight 0; give one another weight, such as reward.logged.weight, 1")
    for term in terms:
        term.check(dataset)


def total(terms: Sequence[Reward], log: Heard) -> Float[Tensor, "batch time"]:
    """The weighted sum of some rewards (see `weighted`) for each event; 0 at padding."""
    return sum((term.of(log) * (term.weight or 0.0) for term in terms), torch.zeros_like(log.rewards))
