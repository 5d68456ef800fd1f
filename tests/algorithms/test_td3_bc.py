"""td3_bc: the weight of the critic, both kinds of cloning, and that it stays in the log where td3 does not."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from what_next.algorithms.base import LossContext
from what_next.algorithms.td3_bc import Td3Bc

from .sphere import SAME, SLOW, batch, items, moved, networks
from .worlds import Head, items_of, learn, narrow, transitions

RNG = np.random.default_rng(0)
TARGET = networks(SAME, SLOW)
MIXED = [[1.0, 0.0], [0.0, -1.0]]


def losses(algorithm: Td3Bc, step: int = 0, scale: float = 1.0) -> dict[str, float]:
    critic = [[scale * entry for entry in row] for row in MIXED]
    found = algorithm.losses(LossContext(networks(SAME, critic), TARGET, batch(), items(), step, RNG))
    return {name: loss.item() for name, loss in found.items()}


class TestLosses:
    def test_the_critic_weighs_by_its_mean_magnitude(self) -> None:
        # The points (.6, .8) and (1, 0) are worth -1.4 and 1: a mean of -0.2, of magnitudes 1.2.
        assert losses(Td3Bc(alpha=2.5))["actor"] == pytest.approx(2.5 * 0.2 / 1.2)

    def test_the_unit_of_the_reward_does_not_matter(self) -> None:
        assert losses(Td3Bc(), scale=1000)["actor"] == pytest.approx(losses(Td3Bc())["actor"], rel=1e-5)

    def test_the_weight_itself_is_not_climbed(self) -> None:
        nets = networks(SAME, MIXED)
        (actor,) = nets["actor"].parameters()
        loss = Td3Bc(alpha=2.5).losses(LossContext(nets, TARGET, batch(), items(), 0, RNG))["actor"]
        climbed = -nets["critic"](batch().states, normalize(nets["actor"](batch().states), dim=-1)).mean()
        (found,), (expected,) = torch.autograd.grad(loss, actor), torch.autograd.grad(climbed, actor)
        torch.testing.assert_close(found, expected * 2.5 / 1.2)

    def test_cloning_by_distance_is_worked_by_hand(self) -> None:
        # From (.6, .8) to north: .6^2 + .2^2; from (1, 0) to east: nothing.
        assert losses(Td3Bc(cloning="distance"))["cloning"] == pytest.approx(0.2)

    def test_cloning_by_cross_entropy_is_worked_by_hand(self) -> None:
        first = math.log(1 + math.exp(-2) + math.exp(-14))  # cosines .6, .8, -.6
        second = math.log(1 + math.exp(-10) + math.exp(-20))  # cosines 1, 0, -1
        assert losses(Td3Bc(sharpness=10))["cloning"] == pytest.approx((first + second) / 2)

    def test_cross_entropy_is_distance_and_what_all_items_add(self) -> None:
        # -log softmax(k <p, v>) at the next item is k/2 (|p - v|^2 + 2/k log sum exp(-k/2 |p - v|^2)).
        points, vectors = normalize(batch().states, dim=-1), normalize(items().vectors, dim=-1)
        others = torch.logsumexp(-5 * torch.cdist(points, vectors).square(), -1).mean().item()
        distance = losses(Td3Bc(cloning="distance"))["cloning"]
        assert losses(Td3Bc(sharpness=10))["cloning"] == pytest.approx(5 * distance + others, rel=1e-5)

    def test_only_the_critic_waits(self) -> None:
        assert "actor" not in losses(Td3Bc(), step=1)
        assert losses(Td3Bc(), step=1)["cloning"] == losses(Td3Bc(), step=0)["cloning"]

    def test_what_each_loss_moves(self) -> None:
        given, space = batch(), items()
        found = Td3Bc().losses(LossContext(networks(), TARGET, given, space, 0, RNG))
        assert moved(found["cloning"], given.states, space.vectors) == [True, True]
        assert moved(found["actor"], given.states, space.vectors) == [False, False]
        found = Td3Bc(cloning="distance").losses(LossContext(networks(), TARGET, given, space, 0, RNG))
        assert moved(found["cloning"], given.states, space.vectors) == [True, False]


class TestWithoutTheCritic:
    def test_it_is_regression_on_the_log(self) -> None:
        actor = Head(SAME)
        expected = (normalize(actor(batch().states), dim=-1) - torch.tensor([[0.0, 1.0], [1.0, 0.0]])).square()
        found = losses(Td3Bc(alpha=0, cloning="distance", supervised=0))
        assert set(found) == {"critic", "cloning"}
        assert found["cloning"] == pytest.approx(expected.sum(-1).mean().item(), abs=1e-6)

    def test_the_best_point_is_the_mean_of_what_came_next(self) -> None:
        # North came next three times, east four times, after the same state.
        given = transitions([[1.0, 1.0]] * 7, [1] * 3 + [0] * 4)
        actor = Head([[1.0, 0.0], [0.0, -0.5]])
        descent = torch.optim.Adam(actor.parameters(), 0.05)
        nets = {"actor": actor, "critic": networks()["critic"]}
        for step in range(300):
            space = items_of([[3.0, 0.0], [0.0, 2.0]])
            loss = Td3Bc(alpha=0, cloning="distance").losses(LossContext(nets, TARGET, given, space, step, RNG))[
                "cloning"
            ]
            descent.zero_grad()
            loss.backward()
            descent.step()
        point = normalize(actor(torch.tensor([1.0, 1.0])), dim=-1)
        torch.testing.assert_close(point, torch.tensor([0.8, 0.6]), atol=1e-3, rtol=0)


class TestWorlds:
    @pytest.mark.medium
    def test_cloning_finds_the_items_of_the_log_and_the_critic_the_best_of_them(self) -> None:
        world = narrow()
        assert learn(Td3Bc(candidates=2, tau=0.05), world, steps=200).play() == world.best

    @pytest.mark.medium
    def test_without_the_critic_it_does_what_the_log_does(self) -> None:
        learned = learn(Td3Bc(alpha=0, tau=0.05), narrow(), steps=200)
        assert learned.choose(["start"]) == "greedy"
        assert learned.choose(["start", "patient 0"]) == "dust"
