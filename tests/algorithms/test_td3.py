"""td3: what it adds to ddpg, number by number, and that it adds nothing else."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from what_next.algorithms.base import LossContext
from what_next.algorithms.ddpg import Ddpg
from what_next.algorithms.td3 import Td3
from what_next.models.actor_critic import Sizes

from .sphere import SAME, SLOW, batch, items, networks
from .worlds import detour, learn

RNG = np.random.default_rng(0)
SOUTH = [[0.5, 0.0], [0.0, -1.0]]
TWICE = [[2.0, 0.0], [0.0, 2.0]]


class TestReduction:
    @pytest.mark.parametrize("candidates", [1, 2])
    @pytest.mark.parametrize("step", [0, 1, 7])
    def test_with_one_critic_no_noise_and_no_delay_it_is_ddpg(self, candidates: int, step: int) -> None:
        plain = Td3(critics=1, delay=1, noise=0, candidates=candidates)
        nets, target = networks(), networks(SAME, SLOW)
        found = plain.losses(LossContext(nets, target, batch(), items(), step, RNG))
        expected = Ddpg(candidates=candidates).losses(LossContext(nets, target, batch(), items(), step, RNG))
        assert found.keys() == expected.keys()
        for name, loss in expected.items():
            assert found[name].item() == pytest.approx(loss.item(), abs=1e-6)

    def test_one_critic_is_ddpgs_network(self) -> None:
        sizes, none = Sizes(factors=4, points=4, prospects=0, dim=4), np.zeros((3, 0), np.float32)
        mine = Td3(critics=1).networks(sizes, none, RNG)["critic"].state_dict()
        theirs = Ddpg().networks(sizes, none, RNG)["critic"].state_dict()
        assert {name: weight.shape for name, weight in mine.items()} == {
            name: weight.shape for name, weight in theirs.items()
        }

    def test_twins_start_differently(self) -> None:
        twins = Td3().networks(Sizes(4, 4, 0, 4), np.zeros((3, 0), np.float32), RNG)["critic"]
        one, two = twins(torch.ones(1, 4), torch.ones(1, 4))
        assert one.item() != two.item()


class TestTwins:
    def test_the_target_is_the_smaller_critics_and_both_learn_it(self) -> None:
        # The slow critics value east 1 and 1, north 2 and -1: of the smaller ones 1 and -1, east's is the larger. Of
        # estimates 4 and 1, and of twice as much, the targets are 1.5 and 2.
        nets, target = networks(SAME, SAME, TWICE), networks(SAME, SLOW, SOUTH)
        found = Td3(noise=0, candidates=2).losses(LossContext(nets, target, batch(), items(), 0, RNG))
        assert found["critic"].item() == pytest.approx((2.5**2 + 1**2) / 2 + (6.5**2 + 0**2) / 2)

    def test_the_actor_climbs_the_first_critic(self) -> None:
        nets = networks(SAME, SAME, TWICE)
        expected = Td3().losses(LossContext(networks(SAME, SAME), networks(SAME, SLOW), batch(), items(), 0, RNG))[
            "actor"
        ]
        assert (
            Td3().losses(LossContext(nets, networks(SAME, SLOW), batch(), items(), 0, RNG))["actor"].item()
            == expected.item()
        )

    def test_candidates_are_put_in_order_by_the_smaller_critic(self) -> None:
        vectors = items().vectors[None]
        scores = Td3().rescore(networks(SAME, SAME, SOUTH), torch.tensor([[2.0, 1.0]]), vectors)
        assert scores.tolist() == [[1, -1, -2]]


class TestDelay:
    def test_the_actors_loss_is_returned_when_it_is_due(self) -> None:
        def due(step: int) -> bool:
            found = Td3(delay=3).losses(LossContext(networks(), networks(SAME, SLOW), batch(), items(), step, RNG))
            assert {"critic", "supervised"} <= set(found)
            return "actor" in found

        assert [due(step) for step in range(7)] == [True, False, False, True, False, False, True]


class TestSmoothing:
    def points(self, count: int = 2000, dim: int = 64) -> Tensor:
        return normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(0)), dim=-1)

    def turned(self, algorithm: Td3) -> Tensor:
        """Cosines between points before and after the noise."""
        steps = SimpleNamespace(actions=torch.zeros(2000))
        context = LossContext(networks(), networks(), steps, items(), 0, np.random.default_rng(0))
        smoothed = algorithm.smooth(self.points(), context)
        torch.testing.assert_close(smoothed.norm(dim=-1), torch.ones(2000))
        return (smoothed * self.points()).sum(-1)

    def test_noise_is_as_long_as_it_says(self) -> None:
        # A step of 0.2 at a right angle, which nearly all directions of 64 are: the cosine is 1 / sqrt(1 + 0.2^2).
        assert self.turned(Td3(noise=0.2, noise_clip=10)).mean().item() == pytest.approx(1.04**-0.5, abs=1e-3)

    def test_noise_is_clipped(self) -> None:
        assert self.turned(Td3(noise=1000, noise_clip=0.5)).mean().item() == pytest.approx(1.25**-0.5, abs=5e-3)

    def test_it_reaches_the_target_and_follows_the_generator(self) -> None:
        def critic(seed: int) -> float:
            rng = np.random.default_rng(seed)
            algorithm = Td3(noise=2, noise_clip=5, candidates=1)
            return algorithm.losses(LossContext(networks(), networks(SAME, SLOW), batch(), items(), 0, rng))[
                "critic"
            ].item()

        assert critic(3) == critic(3)
        assert len({critic(seed) for seed in range(20)}) > 1


class TestWorlds:
    @pytest.mark.medium
    def test_where_all_was_tried_it_finds_the_best_policy(self) -> None:
        world = detour()
        assert learn(Td3(candidates=5, tau=0.05), world, steps=200).play() == world.best
