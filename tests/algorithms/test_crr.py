"""CRR: losses worked by hand, what they reduce to, and worlds in which it finds the best policy of the log."""

import math

import pytest
import torch

from what_next.algorithms.base import LossContext
from what_next.algorithms.crr import Crr
from what_next.algorithms.next_item import NextItem

from .hand import RNG, VECTORS, batch, halves, networks, weighted
from .worlds import World, detour, items_of, learn, narrow

# The actor chooses with (0.6652410, 0.0900306, 0.2447285) in A and (0.2119416, 0.2119416, 0.5761168) in B, so that the
# critic expects 0.7404514 of it in A and 2.8641752 in B. What came next is worth -1.5 and 1.5.
ADVANTAGES = (-2.2404514, -1.3641752)


def losses(algorithm: Crr, actions: tuple[int, int] = (1, 0)) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    nets, target = networks()
    context = LossContext(nets, target, batch(actions), items_of(VECTORS), 0, RNG)
    return algorithm.losses(context), context.metrics


def test_the_critic_learns_the_value_of_the_target_actors_choices() -> None:
    # In B it chooses each item as often, worth 4, 0 and 3 to the target critic; that is discounted by 0.5.
    assert losses(Crr(weight=0.25))[0]["critic"].item() == pytest.approx(0.25 * halves(2.5 + 7 / 3 / 2, 0.5))


def test_the_target_is_that_of_the_target_networks() -> None:
    nets, target = networks()
    items = items_of(VECTORS, target=[[0.0, 0.0]] * 3)  # every item is worth 1 then, the level, whatever is chosen
    found = Crr(weight=1).losses(LossContext(nets, target, batch(), items, 0, RNG))["critic"]
    assert found.item() == pytest.approx(halves(2.5 + 1 / 2, 0.5))


@pytest.mark.parametrize(("beta", "cap"), [(2.0, 20.0), (2.0, 0.4)])
def test_a_step_weighs_the_exponential_of_its_advantage(beta: float, cap: float) -> None:
    found, metrics = losses(Crr(beta=beta, largest_weight=cap))
    weights = [min(math.exp(advantage / beta), cap) for advantage in ADVANTAGES]
    assert found["actor"].item() == pytest.approx(weighted(*weights), rel=1e-5)
    assert metrics["largest_weight"] == pytest.approx(max(weights), rel=1e-5)


def test_with_binary_weights_only_what_was_better_counts() -> None:
    found, _ = losses(Crr(form="binary"), actions=(1, 2))  # item 2 is worth 3.5 in B; its logit is the largest
    assert found["actor"].item() == pytest.approx(-math.log(0.5761168) / 2, rel=1e-5)


def test_where_nothing_was_better_binary_weights_teach_the_actor_nothing() -> None:
    """So an actor that trusts made-up values is not brought back to the log; exponential weights do that."""
    binary, exponential = losses(Crr(form="binary"))[0]["actor"], losses(Crr())[0]["actor"]
    assert binary.item() == 0
    assert exponential.item() > 0


def test_with_a_large_beta_it_is_the_supervised_floor() -> None:
    nets, target = networks()
    floor = NextItem().losses(LossContext(nets, target, batch(), items_of(VECTORS), 0, RNG))["actor"].item()
    assert losses(Crr(beta=1e9))[0]["actor"].item() == pytest.approx(floor, abs=1e-6)


def test_no_gradient_of_a_loss_reaches_the_others_head() -> None:
    nets, target = networks()
    found = Crr().losses(LossContext(nets, target, batch(), items_of(VECTORS), 0, RNG))
    assert torch.autograd.grad(found["actor"], [nets["critic"].weights], allow_unused=True) == (None,)
    others = [nets["actor"].weights, target["actor"].weights, target["critic"].weights]
    assert torch.autograd.grad(found["critic"], others, allow_unused=True) == (None, None, None)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("world", "algorithm"),
    [(detour(), Crr(tau=0.1, beta=0.3)), (detour(), Crr(tau=0.1, form="binary")), (narrow(), Crr(tau=0.1, beta=0.3))],
    ids=["detour", "detour, binary", "narrow"],
)
def test_it_finds_the_best_policy(world: World, algorithm: Crr) -> None:
    assert learn(algorithm, world, steps=200).play() == world.best
