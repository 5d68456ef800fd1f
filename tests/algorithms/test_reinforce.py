"""REINFORCE: losses worked by hand, what they reduce to, and where the correction decides."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from what_next.algorithms.base import LossContext
from what_next.algorithms.next_item import NextItem
from what_next.algorithms.reinforce import Reinforce
from what_next.types import Transitions

from .worlds import Head, detour, items_of, learn, narrow, transitions

VECTORS = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
RNG = np.random.default_rng(0)
# The logits are (1, -1, 0), and item 1 came next; (1, 1, 2), and item 0 did.
CROSS_ENTROPY = (2.4076059, 1.5514447)
POLICY = (0.0900306, 0.2119416)
RETURNS = (3.0, 2.0)


def networks() -> dict[str, nn.Module]:
    """An actor whose point is the state; a behaviour policy that chooses each of three items as often."""
    return {"actor": Head([[1.0, 0.0], [0.0, 1.0]]), "behaviour": Head([[0.0, 0.0], [0.0, 0.0]])}


def batch(returns: tuple[float, float] = RETURNS) -> Transitions:
    return transitions([[1.0, -1.0], [1.0, 1.0]], [1, 0], returns=list(returns))


def actor_loss(algorithm: Reinforce, returns: tuple[float, float] = RETURNS) -> float:
    return algorithm.losses(LossContext(networks(), {}, batch(returns), items_of(VECTORS), 0, RNG))["actor"].item()


def weighted(*weights: float) -> float:
    return sum(weight * entropy for weight, entropy in zip(weights, CROSS_ENTROPY, strict=True)) / 2


class TestLoss:
    def test_without_correction_it_is_the_supervised_loss_weighted_by_returns(self) -> None:
        found = Reinforce(correct=False).losses(LossContext(networks(), {}, batch(), items_of(VECTORS), 0, RNG))
        assert set(found) == {"actor"}
        assert found["actor"].item() == pytest.approx(weighted(*RETURNS))
        floor = items_of(VECTORS).cross_entropy(networks()["actor"](batch().states), batch().actions, batch().returns)
        assert found["actor"].item() == pytest.approx(floor.item(), abs=1e-6)

    def test_without_correction_and_with_returns_of_1_it_is_the_supervised_floor(self) -> None:
        floor = NextItem().losses(LossContext(networks(), {}, batch(), items_of(VECTORS), 0, RNG))["actor"].item()
        assert actor_loss(Reinforce(correct=False), returns=(1.0, 1.0)) == pytest.approx(floor, abs=1e-6)

    def test_a_step_weighs_how_much_likelier_the_actor_chooses_the_item(self) -> None:
        context = LossContext(networks(), {}, batch(), items_of(VECTORS), 0, RNG)
        found = Reinforce(weight_cap=10).losses(context)
        assert found["actor"].item() == pytest.approx(weighted(3 * 3 * POLICY[0], 2 * 3 * POLICY[1]), rel=1e-5)
        assert found["behaviour"].item() == pytest.approx(math.log(3))
        assert context.metrics["largest_weight"] == pytest.approx(3 * POLICY[1], rel=1e-5)

    def test_weights_are_capped(self) -> None:
        found = actor_loss(Reinforce(weight_cap=0.5))
        assert found == pytest.approx(weighted(3 * 3 * POLICY[0], 2 * 0.5), rel=1e-5)

    def test_with_a_slate_likely_items_are_pushed_less(self) -> None:
        found = actor_loss(Reinforce(correct=False, top=3))
        factors = [3 * (1 - probability) ** 2 for probability in POLICY]
        assert found == pytest.approx(weighted(3 * factors[0], 2 * factors[1]), rel=1e-5)

    def test_a_baseline_is_subtracted_from_the_returns(self) -> None:
        assert actor_loss(Reinforce(correct=False, baseline="mean")) == pytest.approx(weighted(0.5, -0.5))

    def test_weights_carry_no_gradient(self) -> None:
        nets, given, items = networks(), batch(), items_of(VECTORS)
        loss = Reinforce(top=2).losses(LossContext(nets, {}, given, items, 0, RNG))["actor"]
        found = torch.autograd.grad(loss, [nets["actor"].weights, nets["behaviour"].weights], allow_unused=True)
        weights = [RETURNS[place] * 3 * POLICY[place] * 2 * (1 - POLICY[place]) for place in range(2)]
        fixed = items.cross_entropy(nets["actor"](given.states), given.actions, torch.tensor(weights))
        torch.testing.assert_close(found[0], *torch.autograd.grad(fixed, [nets["actor"].weights]), rtol=1e-5, atol=1e-6)
        assert found[1] is None

    @pytest.mark.parametrize(("step", "place"), [(0, 0), (5, 1)])
    def test_the_behaviour_policy_learns_from_one_step_in_four_in_turn(self, step: int, place: int) -> None:
        nets = {**networks(), "behaviour": networks()["actor"]}
        found = Reinforce().losses(LossContext(nets, {}, batch(), items_of(VECTORS), step, RNG))["behaviour"]
        assert found.item() == pytest.approx(CROSS_ENTROPY[place])

    def test_the_behaviour_policys_loss_reaches_neither_states_nor_items(self) -> None:
        given, items = batch(), items_of(VECTORS)
        loss = Reinforce().losses(LossContext(networks(), {}, given, items, 0, RNG))["behaviour"]
        assert torch.autograd.grad(loss, [given.states, items.vectors], allow_unused=True) == (None, None)


class TestChains:
    """What a choice is worth is how the log went on after it."""

    def test_with_the_correction_it_finds_what_is_worth_more(self) -> None:
        """In the log a patient item led to 0.9 * 0.2 * 2 on average, and `greedy` to 0.25."""
        assert learn(Reinforce(), narrow()).play() == narrow().best

    def test_without_it_what_is_common_wins(self) -> None:
        """A patient item stands for 0.1 * 0.36 of all returns, and `greedy` for 0.4 * 0.25."""
        assert learn(Reinforce(correct=False), narrow()).choose(["start"]) == "greedy"

    def test_it_does_not_know_that_one_could_go_on_better_than_the_log(self) -> None:
        """In the log `patient` led to 0.9 * 0.15 * 5 on average, and `greedy` to 1."""
        found = learn(Reinforce(), detour())
        assert (found.choose(["start"]), found.choose(["start", "patient"])) == ("greedy", "prize")
        assert found.play() == detour().greedy
