"""hac: its four losses worked by hand, what moves what, and that it stays in the log."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from what_next.algorithms.base import LossContext
from what_next.algorithms.hac import Hac

from .sphere import SAME, SLOW, batch, items, moved, networks
from .worlds import learn, narrow

RNG = np.random.default_rng(0)
TARGET = networks(SAME, SLOW)


def losses(algorithm: Hac) -> dict[str, float]:
    found = algorithm.losses(LossContext(networks(), TARGET, batch(), items(), 0, RNG))
    return {name: loss.item() for name, loss in found.items()}


class TestLosses:
    def test_the_critic_judges_the_hyper_action_inferred_from_the_log_and_the_item_taken_next(self) -> None:
        # North and east are worth 4 and 1. Next is east, worth 1: targets 1.5 and 2.
        assert losses(Hac())["critic"] == pytest.approx((2.5**2 + 1**2) / 2)

    def test_the_actor_climbs_the_same_critic_at_the_hyper_action(self) -> None:
        # The points (.8, .6) and (0, 1) are worth 4.8 and 0.
        assert losses(Hac(climbing=3))["actor"] == pytest.approx(-3 * 2.4)

    def test_alignment_is_the_distance_to_the_item_that_the_hyper_action_chooses(self) -> None:
        # (.8, .6) chooses east, at a squared distance of .2^2 + .6^2; (0, 1) chooses north, which it is.
        assert losses(Hac(alignment=3))["alignment"] == pytest.approx(3 * 0.2)

    def test_supervision_is_the_cross_entropy_under_the_actor(self) -> None:
        first = math.log(1 + math.exp(2) + math.exp(-14))  # cosines .8, .6, -.8; north came next
        second = math.log(2 + math.exp(10))  # cosines 0, 1, 0; east did
        assert losses(Hac(sharpness=10, supervised=3))["supervised"] == pytest.approx(3 * (first + second) / 2)

    def test_what_each_loss_moves(self) -> None:
        given, space, nets = batch(), items(), networks()
        found = Hac().losses(LossContext(nets, TARGET, given, space, 0, RNG))
        (actor,) = nets["actor"].parameters()
        reached = {name: moved(loss, given.states, space.vectors, actor) for name, loss in found.items()}
        assert reached == {
            "critic": [True, False, False],
            "supervised": [True, True, True],
            "actor": [False, False, True],
            "alignment": [False, False, True],
        }


class TestAlignment:
    def test_it_draws_a_hyper_action_to_its_item(self) -> None:
        nets = networks(SAME)
        descent = torch.optim.SGD(nets["actor"].parameters(), 1.0)
        distances = []
        for step in range(20):
            loss = Hac(alignment=1).losses(LossContext(nets, TARGET, batch(), items(), step, RNG))["alignment"]
            descent.zero_grad()
            loss.backward()
            descent.step()
            distances.append(loss.item())
        assert distances == sorted(distances, reverse=True)
        assert distances[-1] < distances[0] / 5


class TestInference:
    def test_the_actor_alone_recommends(self) -> None:
        algorithm, states = Hac(), torch.tensor([[3.0, 4.0]])
        assert not algorithm.needs_critic
        assert algorithm.rescored == 0
        scores = algorithm.propose({"actor": nn.Identity()}, states) @ algorithm.vectors(items().vectors).T
        torch.testing.assert_close(scores, 7 * torch.tensor([[0.6, 0.8, -0.6]]))


class TestWorlds:
    def test_it_stays_in_the_log(self) -> None:
        world = narrow()
        learned = learn(Hac(tau=0.05), world, steps=150)
        assert learned.choose(["start"]) in world.behaviour["start"]
