"""CQL: the loss worked by hand, what it reduces to, and worlds that tell it from `dqn`."""

import pytest
import torch

from what_next.algorithms.base import LossContext
from what_next.algorithms.cql import Cql
from what_next.algorithms.dqn import Dqn
from what_next.algorithms.next_item import NextItem
from what_next.models.item_space import ItemSpace

from .hand import RNG, VECTORS, batch, halves, networks
from .worlds import detour, items_of, learn, narrow

# log sum exp Q - Q(a): in A log(e^1.5 + e^-1.5 + e^-0.5) + 1.5, in B log(e^1.5 + e^2.5 + e^3.5) - 1.5.
PENALTY = (3.1698460 + 2.4076060) / 2


def loss(algorithm: Dqn, items: ItemSpace | None = None) -> torch.Tensor:
    nets, target = networks()
    return algorithm.losses(LossContext(nets, target, batch(), items or items_of(VECTORS), 0, RNG))["critic"]


@pytest.mark.parametrize("name", ["softmax", "gbce"])
def test_the_loss_is_that_worked_by_hand_whatever_the_cross_entropy_is(name: str) -> None:
    nets, target = networks()
    items = ItemSpace.of(torch.tensor(VECTORS), loss=name, negatives=2)
    found = Cql(alpha=0.5).losses(LossContext(nets, target, batch((1, 2)), items, 0, RNG))["critic"]
    # The critic prefers item 2 in B, worth 3 to its target network: errors are 1 + 0.5 * 3 + 1.5, and 2 - 3.5.
    assert found.item() == pytest.approx(halves(4.0, 1.5) + 0.5 * (3.1698460 + 0.4076060) / 2, rel=1e-6)


def test_the_penalty_is_told() -> None:
    nets, target = networks()
    context = LossContext(nets, target, batch(), items_of(VECTORS), 0, RNG)
    Cql(alpha=0.5).losses(context)
    assert context.metrics["penalty"] == pytest.approx(PENALTY, rel=1e-6)


def test_without_penalty_it_is_dqn() -> None:
    assert loss(Cql(alpha=0)).item() == pytest.approx(loss(Dqn()).item(), abs=1e-6)


def test_the_penalty_is_imitation_by_the_critics_values() -> None:
    nets, _ = networks()
    imitation = NextItem().losses(LossContext({"actor": nets["critic"]}, {}, batch(), items_of(VECTORS), 0, RNG))[
        "actor"
    ]
    assert ((loss(Cql(alpha=100)) - loss(Dqn())) / 100).item() == pytest.approx(imitation.item(), rel=1e-5)


def test_the_penalty_lowers_what_did_not_come_next_and_raises_what_did() -> None:
    nets, target = networks()
    items = items_of(VECTORS)
    given = batch()
    losses = [
        algorithm.losses(LossContext(nets, target, given, items, 0, RNG))["critic"]
        for algorithm in (Cql(alpha=1.0), Dqn())
    ]
    of_weights = [torch.autograd.grad(one, nets["critic"].weights)[0] for one in losses]
    # d/dQ is pi - 1(came next), half of it for two steps, with pi of softmax(Q): in A (0.8438, 0.0420, 0.1142), in B
    # (0.0900, 0.2447, 0.6652). The columns are (item 0 + item 2, item 1 + item 2, all), the rows A + B, B - A.
    a, b = (
        torch.tensor([0.8437947, 0.0420101 - 1, 0.1141952]) / 2,
        torch.tensor([0.0900306 - 1, 0.2447285, 0.6652410]) / 2,
    )
    columns = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 1.0]]).T
    expected = torch.stack([(a + b) @ columns, (b - a) @ columns])
    torch.testing.assert_close(of_weights[0] - of_weights[1], expected, atol=1e-5, rtol=0)


@pytest.mark.medium
def test_it_finds_the_best_policy_where_the_greedy_choice_is_wrong() -> None:
    assert learn(Cql(tau=0.1, alpha=0.3), detour(), steps=200).play() == detour().best


@pytest.mark.medium
def test_with_a_large_penalty_it_imitates() -> None:
    found = learn(Cql(tau=0.1, alpha=100), detour(), steps=200)
    assert (found.choose(["start"]), found.choose(["start", "patient"])) == ("greedy", "dust")


def test_it_does_not_trust_the_value_of_what_was_never_tried() -> None:
    found = learn(Cql(tau=0.1, alpha=0.3), narrow(), steps=200)
    assert found.play() == narrow().best
    values = found.values(["start"])
    assert values["prize"] < min(value for item, value in values.items() if item.startswith("patient"))
