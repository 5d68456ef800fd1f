"""ddpg: losses worked by hand, what moves what, where it is right and where it must fail."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from what_next.algorithms.base import LossContext, nearest
from what_next.algorithms.ddpg import Ddpg, closest

from .sphere import SAME, SLOW, batch, items, moved, networks
from .worlds import detour, learn, narrow

RNG = np.random.default_rng(0)
TARGET = networks(SAME, SLOW)


def losses(algorithm: Ddpg) -> dict[str, float]:
    found = algorithm.losses(LossContext(networks(), TARGET, batch(), items(), 0, RNG))
    return {name: loss.item() for name, loss in found.items()}


class TestLosses:
    def test_the_critic_learns_what_the_nearest_item_is_worth(self) -> None:
        # Next is east, worth 1 to the slow critic: targets 1.5 and 2, for estimates of 4 and 1.
        assert losses(Ddpg(candidates=1))["critic"] == pytest.approx((2.5**2 + 1**2) / 2)

    def test_with_candidates_it_learns_what_the_best_of_them_is_worth(self) -> None:
        # Of east and north, worth 1 and 2, north is taken: targets 2 and 2.
        assert losses(Ddpg(candidates=2))["critic"] == pytest.approx((2**2 + 1**2) / 2)
        assert losses(Ddpg(candidates=100))["critic"] == pytest.approx((2**2 + 1**2) / 2)

    def test_the_actor_climbs_the_critic_at_its_own_points(self) -> None:
        # The points (.8, .6) and (0, 1) are worth 4.8 and 0.
        assert losses(Ddpg())["actor"] == pytest.approx(-2.4)

    def test_the_supervised_loss_is_the_cross_entropy_of_the_states_own_cosines(self) -> None:
        first = math.log(1 + math.exp(-2) + math.exp(-14))  # cosines .6, .8, -.6
        second = math.log(1 + math.exp(-10) + math.exp(-20))  # cosines 1, 0, -1
        assert losses(Ddpg(sharpness=10, supervised=3))["supervised"] == pytest.approx(3 * (first + second) / 2)

    def test_without_weight_there_is_no_supervised_loss(self) -> None:
        assert set(losses(Ddpg(supervised=0))) == {"actor", "critic"}

    def test_what_the_critic_makes_up_is_measured(self) -> None:
        context = LossContext(networks(), TARGET, batch(), items(), 0, RNG)
        Ddpg().losses(context)
        # The vectors' mean is (0, 1/3): were all items alike, it would have length 1.
        expected = {"logged_value": 2.5, "proposed_value": 2.4, "vectors_alike": 1 / 3}
        assert context.metrics == pytest.approx(expected)


class TestGradients:
    def test_only_the_supervised_loss_moves_the_vectors_as_actions(self) -> None:
        given, space = batch(), items()
        found = Ddpg().losses(LossContext(networks(), TARGET, given, space, 0, RNG))
        assert moved(found["supervised"], given.states, space.vectors) == [True, True]
        assert moved(found["critic"], given.states, space.vectors) == [True, False]
        assert moved(found["actor"], given.states, space.vectors) == [False, False]

    def test_a_longer_point_is_worth_no_more(self) -> None:
        nets = networks()
        short = Ddpg().losses(LossContext(nets, TARGET, batch(), items(), 0, RNG))["actor"]
        for weight in nets["actor"].parameters():
            weight.data *= 1000
        long = Ddpg().losses(LossContext(nets, TARGET, batch(), items(), 0, RNG))["actor"]
        assert long.item() == pytest.approx(short.item(), rel=1e-5)


class TestRetrieval:
    def test_items_are_in_order_of_their_euclidean_distance(self) -> None:
        generator = torch.Generator().manual_seed(0)
        vectors, states = torch.randn(50, 4, generator=generator), torch.randn(7, 4, generator=generator)
        points = Ddpg().propose({"actor": nn.Identity()}, states)
        order = (points @ Ddpg().vectors(vectors).T).argsort(-1, descending=True)
        proposed, places = nearest(normalize(states, dim=-1), normalize(vectors, dim=-1))
        assert torch.equal(order, (proposed @ places.T).argsort(-1, descending=True))

    def test_the_closest_are_the_same_whether_all_steps_are_looked_up_at_once_or_not(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        vectors = normalize(torch.randn(40, 3, generator=torch.Generator().manual_seed(1)), dim=-1)
        points, found = vectors[:9] + 0.01, closest(vectors[:9], vectors, 5)
        assert torch.equal(found[:, 0], vectors[:9])
        monkeypatch.setattr("what_next.algorithms.ddpg.CELLS", 80)  # two steps at a time
        assert torch.equal(closest(points, vectors, 5)[:, 0], found[:, 0])

    def test_the_critic_puts_the_candidates_in_order(self) -> None:
        vectors = items().vectors[None].expand(2, -1, -1)
        scores = Ddpg().rescore(networks(), torch.tensor([[3.0, 4.0], [1.0, 0.0]]), vectors)
        assert scores.tolist() == [[3, 4, -3], [1, 0, -1]]
        assert (Ddpg(candidates=7).rescored, Ddpg(candidates=1).rescored) == (7, 0)


class TestWorlds:
    @pytest.mark.medium
    def test_where_all_was_tried_it_finds_the_best_policy(self) -> None:
        world = detour()
        assert learn(Ddpg(candidates=5, tau=0.05), world, steps=200).play() == world.best

    @pytest.mark.medium
    def test_where_little_was_tried_it_takes_what_the_critic_makes_up(self) -> None:
        world = narrow()
        learned = learn(Ddpg(candidates=10, tau=0.05), world, steps=200)
        assert learned.choose(["start"]) not in world.behaviour["start"]
        assert learned.play() < world.best
