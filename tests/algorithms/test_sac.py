"""The losses of `sac`, against numbers worked by hand, and its density against the numbers that it is of."""

from math import log, pi, tanh
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from what_next.algorithms import Sac
from what_next.algorithms.base import LossContext
from what_next.algorithms.sac import Normal, Temperature

from .worlds import choices, items_of


class Sums(nn.Module):
    """Two critics: the sum of the point's entries, and one more than its half."""

    def forward(self, states: Tensor, points: Tensor) -> Tensor:
        return torch.stack([points.sum(-1), points.sum(-1) / 2 + 1])


class Certain(Normal):
    """Draws the point of tanh(.5) and tanh(-1), with a log density of -2."""

    def draw(self, states: Tensor, rng: Any) -> tuple[Tensor, Tensor]:
        points = torch.tensor([[0.5, -1.0]]).tanh().expand(len(states), 2)
        return points, torch.full((len(states),), -2.0)


def test_by_hand() -> None:
    points, rewards = [[0.5, 0.25], [0.5, 0.25]], [1.0, 3.0]
    batch = choices([[0.0]] * 2, [[0]] * 2, [[0.0]] * 2, points=points, rewards=rewards, discounts=[0.5, 0.5])
    nets = {"critic": Sums(), "actor": Certain(1, 2), "temperature": Temperature(log(0.1)), "encoder": nn.Identity()}
    context = LossContext(nets, nets, batch, items_of([[1.0, 0.0], [0.0, 1.0]]), 0, np.random.default_rng(0))
    found = Sac(entropy=-1.0).losses(context)
    total = tanh(0.5) + tanh(-1)  # the smaller of the two values
    weight = 0.1 * 1  # the rewards' standard deviation
    targets = [reward + 0.5 * (total + weight * 2) for reward in rewards]
    errors = [(value - target) ** 2 / 2 for value in (0.75, 1.375) for target in targets]
    assert found["critic"].item() == pytest.approx(sum(errors) / 2)
    assert found["actor"].item() == pytest.approx(weight * -2 - total)
    assert found["temperature"].item() == pytest.approx(-0.1 * (-2 - 2))  # an entropy of 2, where -2 is asked for


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_the_entropy_counts_as_much_for_small_rewards_as_for_large_ones(scale: float) -> None:
    points, rewards = [[0.5, 0.25], [0.5, 0.25]], [scale, 3 * scale]
    batch = choices([[0.0]] * 2, [[0]] * 2, [[0.0]] * 2, points=points, rewards=rewards, discounts=[0.5, 0.5])
    actor, temperature = Certain(1, 2), Temperature(log(0.1))
    nets = {"critic": Sums(), "actor": actor, "temperature": temperature, "encoder": nn.Identity()}
    context = LossContext(nets, nets, batch, items_of([[1.0, 0.0], [0.0, 1.0]]), 0, np.random.default_rng(0))
    entropy = Sac().losses(context)["actor"].item() + tanh(0.5) + tanh(-1)
    assert entropy == pytest.approx(0.1 * scale * -2, rel=1e-3)


def test_the_weight_of_the_entropy_falls_where_there_is_enough() -> None:
    batch = choices([[0.0]], [[0]], [[0.0]], points=[[0.5, 0.25]], rewards=[1.0], discounts=[0.5])
    temperature = Temperature(0.0)
    nets = {"critic": Sums(), "actor": Certain(1, 2), "temperature": temperature, "encoder": nn.Identity()}
    context = LossContext(nets, nets, batch, items_of([[1.0, 0.0], [0.0, 1.0]]), 0, np.random.default_rng(0))
    for entropy, falls in ((-1.0, True), (2.0, False)):
        (slope,) = torch.autograd.grad(
            Sac(entropy=entropy).losses(context)["temperature"], [temperature.log_weight], retain_graph=True
        )
        assert (slope > 0) == falls


def test_densities_sum_to_one_and_are_those_of_the_draws() -> None:
    torch.manual_seed(0)
    actor, state = Normal(3, 1), torch.ones(20_000, 3)
    with torch.no_grad():
        points, logs = actor.draw(state, np.random.default_rng(0))
    edges = torch.linspace(-1, 1, 21)
    counts, density = torch.histc(points, 20, -1, 1), logs.exp()
    for place in range(20):
        inside = (points[:, 0] >= edges[place]) & (points[:, 0] < edges[place + 1])
        if counts[place] > 500:  # the mean of 1 / density, over the draws in a box, is its width over their share
            assert counts[place] / 20_000 == pytest.approx(0.1 / float((1 / density[inside]).mean()), rel=0.1)
    mean, _ = actor.draw(state[:1], None)
    assert float(mean) == pytest.approx(tanh(float(actor.both(state[:1])[0, 0])), abs=1e-6)


def test_the_density_of_a_point_far_out_is_finite() -> None:
    actor = Normal(1, 1)
    with torch.no_grad():
        for part in actor.both.parameters():
            part.zero_()
        actor.both[2].bias[0] = 20.0  # its hyperbolic tangent is 1 in float32
    point, logs = actor.draw(torch.zeros(1, 1), None)
    assert float(point) == 1.0
    deviation = -5 + 6 / 2  # the middle of the logarithms that it may have
    assert float(logs) == pytest.approx(-deviation - log(2 * pi) / 2 - 2 * (log(2) - 20), rel=1e-4)
