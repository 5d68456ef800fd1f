"""Discrete BCQ: losses and order worked by hand, what they reduce to, and worlds in which the threshold decides."""

import math

import pytest
import torch

from what_next.algorithms.base import LossContext
from what_next.algorithms.bcq import APART, Bcq
from what_next.algorithms.dqn import Dqn
from what_next.algorithms.next_item import NextItem
from what_next.models.item_space import ItemSpace

from .hand import RNG, VECTORS, batch, halves, networks
from .worlds import items_of, learn, narrow

STATES = torch.tensor([[1.0, -1.0], [1.0, 1.0]])


def losses(algorithm: Dqn, items: ItemSpace | None = None) -> dict[str, float]:
    nets, target = networks()
    found = algorithm.losses(LossContext(nets, target, batch(), items or items_of(VECTORS), 0, RNG))
    return {name: loss.item() for name, loss in found.items()}


# In B the likeliest is item 0, item 1 is half as probable and item 2 a quarter. The critic prefers item 2, then 1, then
# 0; to its slow copy, whose item vectors are twice as long, they are worth 5, -1 and 7. The error in A is that times
# 0.5, and 1 + 1.5.
@pytest.mark.parametrize(("threshold", "worth"), [(0.2, 5), (0.3, -1), (0.6, 7), (1, 7)])
def test_the_target_is_the_best_of_the_considered_items(threshold: float, worth: float) -> None:
    items = items_of(VECTORS, target=[[2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
    assert losses(Bcq(threshold=threshold), items)["critic"] == pytest.approx(halves(0.5 * worth + 2.5, 0.5))


def test_the_behaviour_learns_what_came_next() -> None:
    assert losses(Bcq())["behaviour"] == pytest.approx((math.log(1.75 / 0.5) + math.log(1.75)) / 2, rel=1e-6)


def test_the_value_of_an_unlikely_item_is_not_asked_for() -> None:
    made_up = items_of(VECTORS, target=[*VECTORS[:2], [1e6, 1e6]])
    assert losses(Bcq(threshold=0.3), made_up) == losses(Bcq(threshold=0.3))
    assert losses(Dqn(), made_up)["critic"] > 1e6


def test_no_gradient_of_the_values_reaches_the_behaviour() -> None:
    nets, target = networks()
    loss = Bcq().losses(LossContext(nets, target, batch(), items_of(VECTORS), 0, RNG))["critic"]
    assert torch.autograd.grad(loss, [nets["behaviour"].weights], allow_unused=True) == (None,)


def test_with_threshold_0_it_is_dqn() -> None:
    nets, _ = networks()
    algorithm = Bcq(threshold=0)
    assert losses(algorithm)["critic"] == pytest.approx(losses(Dqn())["critic"], abs=1e-6)
    assert torch.equal(algorithm.propose(nets, STATES), Dqn().propose(nets, STATES))
    assert algorithm.rescored == 0


def test_with_threshold_1_it_is_the_likeliest_item() -> None:
    nets, _ = networks()
    algorithm = Bcq(threshold=1)
    imitation = NextItem().propose({"actor": nets["behaviour"]}, STATES)
    assert torch.equal(algorithm.propose(nets, STATES), imitation)
    assert algorithm.rescored == 0


def test_considered_items_go_by_value_and_the_others_after_them_by_probability() -> None:
    nets, _ = networks()
    candidates = torch.tensor(VECTORS).expand(2, 3, 2)  # the likeliest first
    found = Bcq(threshold=0.3).rescore(nets, STATES, candidates)
    quarter = -APART - math.log(4)
    torch.testing.assert_close(found, torch.tensor([[1.5, -1.5, -1.5 + quarter], [1.5, 2.5, 1.5 + quarter]]))
    half = -APART - math.log(2)
    found = Bcq(threshold=0.6).rescore(nets, STATES[1:], candidates[1:])
    torch.testing.assert_close(found, torch.tensor([[1.5, 1.5 + half, 1.5 + quarter]]))


def test_an_item_that_is_not_permitted_does_not_set_the_standard() -> None:
    """Candidates come in order, those that are not permitted last, though they may be likelier than all others."""
    nets, _ = networks()
    candidates = torch.tensor([[VECTORS[1], VECTORS[2], VECTORS[0]]])
    found = Bcq(threshold=0.3).rescore(nets, STATES[1:], candidates)
    torch.testing.assert_close(found, torch.tensor([[2.5, 3.5, 1.5]]))


@pytest.mark.medium
def test_it_finds_the_best_policy_in_what_was_tried() -> None:
    assert learn(Bcq(tau=0.1, threshold=0.1), narrow(), steps=200).play() == narrow().best


@pytest.mark.medium
def test_what_is_rarer_than_the_threshold_is_never_found() -> None:
    found = learn(Bcq(tau=0.1, threshold=0.6), narrow(), steps=200)
    assert (found.choose(["start"]), found.choose(["start", "patient 0"])) == ("greedy", "dust")
