"""IQL: losses worked by hand, what they reduce to, and a world in which the expectile decides."""

import math

import pytest
import torch

from what_next.algorithms.base import LossContext
from what_next.algorithms.iql import Iql
from what_next.algorithms.next_item import NextItem
from what_next.types import Events

from .hand import RNG, VECTORS, Number, batch, halves, networks, weighted
from .worlds import Head, Learned, detour, items_of, learn, transitions


def losses(algorithm: Iql) -> dict[str, float]:
    nets, target = networks()
    found = algorithm.losses(LossContext(nets, target, batch(), items_of(VECTORS), 0, RNG))
    return {name: loss.item() for name, loss in found.items()}


# The slow critic expects 2 in A and 4 in B of what came next, the value 0.5 and 4.5: advantages are 1.5 and -0.5.


@pytest.mark.parametrize(("expectile", "of_a", "of_b"), [(0.7, 0.7, 0.3), (0.5, 0.5, 0.5), (0.9, 0.9, 0.1)])
def test_the_value_pays_more_for_being_too_low(expectile: float, of_a: float, of_b: float) -> None:
    found = losses(Iql(expectile=expectile))["value"]
    assert found == pytest.approx((of_a * 1.5**2 + of_b * 0.5**2) / 2)


def test_the_critic_learns_the_reward_and_the_value_of_the_next_state() -> None:
    # In A 1 + 0.5 * 4.5, and the estimate is -1.5; in B 2, and the estimate is 1.5.
    assert losses(Iql(weight=0.25))["critic"] == pytest.approx(0.25 * halves(4.75, 0.5))


@pytest.mark.parametrize(("cap", "of_a"), [(100.0, math.exp(3)), (10.0, 10.0)])
def test_the_actor_imitates_what_was_better_than_the_value(cap: float, of_a: float) -> None:
    nets, target = networks()
    context = LossContext(nets, target, batch(), items_of(VECTORS), 0, RNG)
    found = Iql(beta=2, largest_weight=cap).losses(context)["actor"]
    assert found.item() == pytest.approx(weighted(of_a, math.exp(-1)), rel=1e-6)
    assert context.metrics["largest_weight"] == pytest.approx(math.exp(3))  # before the cap


def test_with_beta_0_it_is_the_supervised_floor() -> None:
    nets, target = networks()
    floor = NextItem().losses(LossContext(nets, target, batch(), items_of(VECTORS), 0, RNG))["actor"].item()
    assert losses(Iql(beta=0))["actor"] == pytest.approx(floor, abs=1e-6)


def test_no_gradient_goes_astray() -> None:
    """Each loss moves its own head; the value's leaves the states alone, and the slow critic learns nothing."""
    nets, target = networks()
    given = batch()
    found = Iql().losses(LossContext(nets, target, given, items_of(VECTORS), 0, RNG))
    heads = ["actor", "critic", "value"]
    ends = [*(nets[name].weights for name in heads), given.states, target["critic"].weights]
    for name, loss in found.items():
        moved = [one is not None for one in torch.autograd.grad(loss, ends, retain_graph=True, allow_unused=True)]
        assert moved == [*(head == name for head in heads), name != "value", False]


# One state, and three items that came next as often, worth 1, 2 and 6. The expectile at 0.9 is where
# 0.9 (6 - v) = 0.1 (v - 1 + v - 2).
@pytest.mark.parametrize(("expectile", "value"), [(0.5, 3.0), (0.9, 57 / 11)])
def test_the_value_of_a_state_is_the_expectile_of_its_items_values(expectile: float, value: float) -> None:
    nets = {"actor": Head([[1.0]]), "critic": Head([[1.0]]), "value": Number([[value]])}
    given = transitions([[1.0]] * 3, [0, 1, 2])
    found = Iql(expectile=expectile).losses(
        LossContext(nets, {"critic": Head([[1.0]])}, given, items_of([[1.0], [2.0], [6.0]]), 0, RNG)
    )
    gradient = torch.autograd.grad(found["value"], nets["value"].weights)[0]
    assert gradient.item() == pytest.approx(0, abs=1e-6)
    worse = Number([[value - 0.1]])
    found = Iql(expectile=expectile).losses(
        LossContext({**nets, "value": worse}, {"critic": Head([[1.0]])}, given, items_of([[1.0], [2.0], [6.0]]), 0, RNG)
    )
    assert torch.autograd.grad(found["value"], worse.weights)[0].item() < -1e-3


def value_of(found: Learned, *names: str) -> float:
    events = Events(torch.from_numpy(found.history(names).items).long(), torch.zeros(1, len(names), 0))
    with torch.no_grad():
        value: float = found.agent.nets["value"](found.agent.nets["encoder"](events)[:, -1]).item()
    return value


@pytest.mark.medium
def test_with_the_mean_it_learns_the_value_of_going_on_as_the_log_did_and_chooses_by_that() -> None:
    """SARSA: `patient` is worth 0.9 * 0.15 * 5 there, less than what `greedy` pays at once."""
    found = learn(Iql(tau=0.1, expectile=0.5), detour(), steps=200)
    log = detour().log()["reward"].to_numpy().reshape(-1, 3)
    assert value_of(found, "start") == pytest.approx((log[:, 1] + 0.9 * log[:, 2]).mean(), abs=0.15)
    assert found.choose(["start"]) == "greedy"


@pytest.mark.medium
def test_with_a_high_expectile_it_finds_the_best_policy() -> None:
    """The expectile at 0.9 after `patient` is where 0.9 * 0.15 (5 - v) = 0.1 * 0.85 v."""
    found = learn(Iql(tau=0.1, expectile=0.9, beta=1.0), detour(), steps=200)
    assert value_of(found, "start", "patient") == pytest.approx(0.675 / 0.22, abs=0.5)
    assert found.play() == detour().best
