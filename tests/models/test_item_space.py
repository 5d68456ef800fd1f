"""The space of items: each loss by its setting, levels, slow vectors, and gradients of the drawn rows alone."""

from math import log

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from what_next.losses.catalogue import linear_cross_entropy
from what_next.losses.sampled import Draws
from what_next.models.item_space import ItemSpace

LOSSES = ["softmax", "sampled_softmax", "gbce"]


def rng():
    return np.random.default_rng(0)


def inputs(level=0, items=12, dim=3, steps=20):
    torch.manual_seed(1)
    vectors = torch.randn(items, dim, requires_grad=True)
    points = torch.randn(steps, dim + level, requires_grad=True)
    return vectors, points, torch.randint(items, (steps,))


def test_values_by_hand():
    items = ItemSpace.of(torch.tensor([[1.0, 2], [3, 4]]), target=torch.tensor([[0.0, 1], [1, 0]]))
    points = torch.tensor([[1.0, 10, 100], [2, 0, 200]])
    actions = torch.tensor([1, 0])
    assert items.values(points[:, :2], actions).tolist() == [43, 2]
    assert items.values(points, actions).tolist() == [143, 202]
    assert items.target_values(points, actions).tolist() == [101, 200]
    choices = torch.tensor([[1, 0, 1], [0, 1, 0]])
    assert items.values(points, choices).tolist() == [[143, 121, 143], [202, 206, 202]]
    assert items.target_values(points, choices).tolist() == [[101, 110, 101], [200, 202, 200]]
    assert len(items) == 2


def test_target_vectors_are_the_vectors_themselves_unless_given_and_have_no_gradient():
    vectors, points, actions = inputs()
    items = ItemSpace.of(vectors)
    torch.testing.assert_close(items.target_values(points, actions), items.values(points, actions))
    assert torch.autograd.grad(items.target_values(points, actions).sum(), vectors, allow_unused=True) == (None,)
    kept = ItemSpace.of(vectors, target=vectors * 2)
    torch.testing.assert_close(kept.target_values(points, actions), 2 * items.values(points, actions))
    assert not kept.target.requires_grad
    twice = ItemSpace.of(vectors * 2).expectation(points, points)
    torch.testing.assert_close(kept.expectation(points, points, target=True), twice)
    assert not torch.allclose(kept.expectation(points, points), twice)


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_runs_with_and_without_a_level(loss, level):
    vectors, points, actions = inputs(level)
    found = ItemSpace.of(vectors, loss=loss, negatives=50, rng=rng()).cross_entropy(points, actions)
    of_points, of_vectors = torch.autograd.grad(found, (points, vectors))
    assert of_vectors.abs().sum() > 0
    assert of_points[:, :3].abs().sum() > 0
    if level:  # a softmax ignores the level; binary cross entropy learns it
        assert bool(of_points[:, 3].any()) == (loss == "gbce")


def test_softmax_is_linear_cross_entropy_with_weights():
    vectors, points, actions = inputs(level=1)
    weights = torch.rand(20)
    found = ItemSpace.of(vectors).cross_entropy(points, actions, weights)
    torch.testing.assert_close(found, linear_cross_entropy(points[:, :3], vectors, actions, weights))
    plain = F.cross_entropy(points[:, :3] @ vectors.T, actions, reduction="none")
    torch.testing.assert_close(found, (plain * weights).mean())


def test_sampled_softmax_approaches_softmax_from_a_skewed_distribution():
    vectors, points, actions = inputs()
    full = ItemSpace.of(vectors).cross_entropy(points, actions).item()
    for draws in (Draws.of(torch.randn(12).exp().numpy()), None):
        items = ItemSpace.of(vectors, loss="sampled_softmax", negatives=100_000, draws=draws, rng=rng())
        assert items.cross_entropy(points, actions).item() == pytest.approx(full, rel=0.01)


def test_gbce_counts_the_level_in_every_value():
    vectors, points, actions = inputs(level=1)
    items = ItemSpace.of(vectors, loss="gbce", negatives=4, gbce_t=0.0, rng=rng())
    found = items.cross_entropy(points, actions)
    drawn = torch.from_numpy(rng().integers(12, size=4))
    rest = log(1 / 4)  # plain binary cross entropy (t = 0) of 1 positive against 4 negatives
    logits = points[:, :3] @ vectors[drawn].T + points[:, 3:] + rest
    others = F.softplus(logits).masked_fill(drawn == actions[:, None], 0).sum(1)
    torch.testing.assert_close(found, ((F.softplus(-items.values(points, actions) - rest) + others) / 5).mean())


@pytest.mark.parametrize(("items", "negatives", "t"), [(3000, 100, 0.75), (3000, 2900, 1.0), (500, 64, 0.0)])
def test_gbce_moves_no_direction_that_all_items_share_before_anything_is_known(items, negatives, t):
    """All scores are 0, and no item comes next more often than others: what pulls up is as strong as what pushes down.

    Otherwise the first that is learnt is to lower all scores at once, and then one item comes first in every state.
    """
    vectors, points = torch.zeros(items, 1, requires_grad=True), torch.ones(items, 1)
    space = ItemSpace.of(vectors, loss="gbce", negatives=negatives, gbce_t=t, rng=rng())
    space.cross_entropy(points, torch.arange(items)).backward()
    up = -vectors.grad[vectors.grad < 0].sum().item()
    down = vectors.grad[vectors.grad > 0].sum().item()
    assert min(up, down) > 0
    assert up == pytest.approx(down, rel=0.05)


@pytest.mark.parametrize("loss", LOSSES)
def test_no_steps_give_0(loss):
    vectors, points, actions = inputs(level=1)
    items = ItemSpace.of(vectors, loss=loss, negatives=5, rng=rng())
    found = items.cross_entropy(points[:0], actions[:0], torch.zeros(0))
    assert found.item() == 0
    found.backward()
    assert not vectors.grad.any()


def test_the_draws_follow_the_generator():
    vectors, points, actions = inputs()
    one, same = (
        ItemSpace.of(vectors, loss="sampled_softmax", negatives=5, rng=rng()).cross_entropy(points, actions)
        for _ in range(2)
    )
    assert one == same
    items = ItemSpace.of(vectors, loss="sampled_softmax", negatives=5, rng=rng())
    assert items.cross_entropy(points, actions) != items.cross_entropy(points, actions)


@pytest.mark.parametrize("loss", ["sampled_softmax", "gbce"])
def test_a_large_table_has_a_gradient_in_the_drawn_rows_alone(loss):
    table = nn.Embedding(1_000_000, 8, sparse=True)
    points, actions = torch.randn(30, 8, requires_grad=True), torch.arange(30)
    items = ItemSpace.of(table.weight, loss=loss, negatives=100, rng=rng(), sparse=True)
    items.cross_entropy(points, actions).backward()
    gradient = table.weight.grad.coalesce()
    assert gradient.is_sparse
    drawn = torch.from_numpy(rng().integers(1_000_000, size=100))
    assert gradient.indices()[0].tolist() == sorted({*actions.tolist(), *drawn.tolist()})
    assert items.values(points, actions).grad_fn is not None


def test_a_sparse_gradient_is_the_dense_one():
    vectors, points, actions = inputs()
    dense, sparse = (
        ItemSpace.of(vectors, loss="sampled_softmax", negatives=9, rng=rng(), sparse=flag) for flag in (False, True)
    )
    found = torch.autograd.grad(sparse.cross_entropy(points, actions), vectors)[0]
    torch.testing.assert_close(found.to_dense(), torch.autograd.grad(dense.cross_entropy(points, actions), vectors)[0])


def test_vectors_may_be_made_of_attributes_for_some_items_alone():
    attributes, map_ = torch.randn(12, 5), torch.randn(3, 5, requires_grad=True)
    _, points, actions = inputs()
    asked = []

    def gather(ids):
        asked.append(len(ids))
        return attributes[ids] @ map_.T

    settings = {"loss": "sampled_softmax", "negatives": 4}
    items = ItemSpace.of((attributes @ map_.T).detach(), gather=gather, rng=rng(), **settings)
    whole = ItemSpace.of(attributes @ map_.T, rng=rng(), **settings)
    found = items.cross_entropy(points, actions)
    assert sum(asked) <= 20 + 4
    torch.testing.assert_close(
        torch.autograd.grad(found, map_), torch.autograd.grad(whole.cross_entropy(points, actions), map_)
    )


def test_what_runs_over_all_items():
    items = ItemSpace.of(torch.tensor([[log(3.0)], [0.0]]))
    one, value = torch.ones(1, 1), torch.tensor([[-1.0, 5.0]])
    assert items.log_probs(one, torch.tensor([0])).item() == pytest.approx(log(0.75))
    assert items.logsumexp(one).item() == pytest.approx(log(4))
    assert items.best(value)[1].item() == 1
    assert items.best(value, within=one, threshold=0.5)[1].item() == 0
    assert items.expectation(one, value).item() == pytest.approx(5 - 0.75 * log(3))
