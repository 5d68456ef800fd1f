"""The losses of `ppo`, `a2c` and, in a world, `reinforce`, against numbers worked by hand."""

from collections.abc import Sequence
from math import exp, log
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from what_next.algorithms import A2c, Ppo, Reinforce
from what_next.algorithms.base import LossContext
from what_next.models.slates import Proposer
from what_next.types import Choices

from .worlds import items_of, transitions

VECTORS = [[0.0, 0.0], [log(3.0), 0.0]]
"""From the point (1, 0) the second item has a chance of 3 / 4."""


class Level(nn.Module):
    """A value that is the same everywhere."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, states: Tensor) -> Tensor:
        return self.value.expand(len(states))


def context_of(actions: Sequence[int], chances: Sequence[float], returns: Sequence[float], value: float) -> Any:
    steps = transitions([[1.0, 0.0]] * len(actions), actions, returns=returns)
    count = len(actions)
    known = {name: getattr(steps, name) for name in steps.__dataclass_fields__}
    choices = Choices(
        **known,
        slates=torch.tensor(actions)[:, None],
        propensities=torch.tensor(chances).log(),
        expected=torch.zeros(count),
        points=torch.zeros(count, 0),
        numbers=torch.zeros(count, 0),
        next_numbers=torch.zeros(count, 0),
        clicks=torch.zeros(count, 1),
        clicks_known=torch.zeros(count, dtype=torch.bool),
        answered=torch.zeros(count, dtype=torch.bool),
    )
    actor = Proposer(2, 2, 0)
    with torch.no_grad():
        actor.mean.weight.copy_(torch.eye(2))
    nets = {"actor": actor, "critic": Level(value), "encoder": nn.Identity()}
    return LossContext(nets, {}, choices, items_of(VECTORS), 0, np.random.default_rng(0))


def test_ppo_by_hand() -> None:
    """Advantages of 4 and 0 are 1 and -1 once standardised; the ratios are 1.5, which is cut at 1.2, and 1.25."""
    context = context_of([1, 0], [0.5, 0.2], [4.0, 0.0], 1.0)
    found = Ppo(clip=0.2).losses(context)
    assert found["actor"].item() == pytest.approx((-1.2 + 1.25) / 2)
    assert found["critic"].item() == pytest.approx(0.5 * ((1 - 4) ** 2 + 1) / 2)
    assert context.metrics["clipped"] == 1.0


def test_the_entropy_of_the_policy_counts_for_it() -> None:
    entropy = -(0.75 * log(0.75) + 0.25 * log(0.25))
    plain, more = (
        Ppo(entropy=weight).losses(context_of([1, 0], [0.5, 0.2], [4.0, 0.0], 1.0))["actor"] for weight in (0.0, 0.1)
    )
    assert (plain - more).item() == pytest.approx(0.1 * entropy)


@pytest.mark.parametrize("algorithm", [A2c(entropy=0.0), Reinforce(entropy=0.0)], ids=lambda one: one.name)
def test_the_policy_gradient_by_hand(algorithm: A2c) -> None:
    found = algorithm.losses(context_of([1, 0], [0.5, 0.2], [4.0, 0.0], 1.0))
    assert found["actor"].item() == pytest.approx((-log(0.75) + log(0.25)) / 2)


def test_over_points_the_chance_is_the_density() -> None:
    context = context_of([1, 0], [1.0, 1.0], [4.0, 0.0], 1.0)
    actor = context.nets["actor"]
    drawn = torch.tensor([[1.3, 0.0], [1.0, 0.0]])  # a deviation of 0.3: one off, and none
    object.__setattr__(context.batch, "points", drawn)
    object.__setattr__(context.batch, "propensities", actor.log_density(context.batch.states, drawn).detach())
    logs, _ = Ppo(over="points").log_chances(context)
    assert (logs[0] - logs[1]).exp().item() == pytest.approx(exp(-0.5))
    assert Ppo(over="points").losses(context)["actor"].item() == pytest.approx(0, abs=1e-6)
