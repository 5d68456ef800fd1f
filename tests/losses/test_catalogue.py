"""What is computed over all items: the same as on the whole matrix of logits."""

from math import log

import pytest
import torch

from what_next.losses import chunked
from what_next.losses.catalogue import best, expectation, log_probs, logsumexp


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(chunked, "CHUNK_BYTES", {"cpu": 1})
    monkeypatch.setattr(chunked, "FEWEST_STEPS", {"fp32": 32, "bf16": 32})


def inputs(steps=70, items=23, dim=4, level=1):
    torch.manual_seed(3)
    points = torch.randn(steps, dim + level, dtype=torch.float64, requires_grad=True)
    return points, torch.randn(items, dim, dtype=torch.float64, requires_grad=True)


def whole(points, vectors):
    dim = vectors.shape[1]
    return points[:, :dim] @ vectors.T + (points[:, dim:] if points.shape[1] > dim else 0)


LOG_3 = torch.tensor([[log(3.0)], [0.0], [-1000.0]])  # odds 3 to 1 for a point of 1, and a hopeless item


def test_by_hand():
    point, with_level = torch.ones(1, 1), torch.tensor([[1.0, 5.0]])
    assert log_probs(point, LOG_3, torch.tensor([1])).item() == pytest.approx(-log(4))
    assert log_probs(with_level, LOG_3, torch.tensor([1])).item() == pytest.approx(-log(4))
    assert logsumexp(point, LOG_3).item() == pytest.approx(log(4))
    assert logsumexp(with_level, LOG_3).item() == pytest.approx(log(4) + 5)
    values, actions = best(torch.tensor([[2.0, 5.0]]), LOG_3)
    assert (values.item(), actions.item()) == (pytest.approx(2 * log(3) + 5), 0)
    # 3/4 of 2 log 3 and 1/4 of 0, and the level.
    assert expectation(point, torch.tensor([[2.0, 5.0]]), LOG_3).item() == pytest.approx(1.5 * log(3) + 5)


@pytest.mark.parametrize(
    ("threshold", "item"),
    [
        (0.0, 2),  # no constraint: the largest value
        (0.2, 1),  # odds 3 : 1 : e^-1000, and 1/3 is enough
        (0.34, 0),  # 1/3 is not
        (1.0, 0),  # the behaviour's likeliest always remains
    ],
)
def test_best_within_what_the_behaviour_does(threshold, item):
    value = torch.tensor([[-1.0, 7.0]])  # ranks the items from last to first
    values, actions = best(value, LOG_3, within=torch.ones(1, 1), threshold=threshold)
    assert actions.item() == item
    assert values.item() == pytest.approx(7 - LOG_3[item].item())


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("steps", [1, 32, 70])
def test_they_equal_the_whole_matrix(level, steps):
    points, vectors = inputs(steps, level=level)
    policy = torch.randn(steps, 4, dtype=torch.float64)
    logits = whole(points, vectors)
    chosen = torch.randint(23, (steps,))
    exact = logits.log_softmax(1).gather(1, chosen[:, None]).squeeze(1)
    torch.testing.assert_close(log_probs(points, vectors, chosen), exact.detach())
    torch.testing.assert_close(best(points, vectors), tuple(logits.detach().max(1)))
    mean = (whole(policy, vectors).softmax(1) * logits).sum(1).detach()
    torch.testing.assert_close(expectation(policy, points, vectors), mean)
    behaviour = whole(policy, vectors).softmax(1)
    allowed = behaviour >= 0.1 * behaviour.amax(1, keepdim=True)
    constrained = logits.masked_fill(~allowed, -torch.inf).detach()
    torch.testing.assert_close(best(points, vectors, within=policy, threshold=0.1), tuple(constrained.max(1)))


def test_logsumexp_has_the_right_gradient_for_any_weights_of_the_steps():
    points, vectors = inputs()
    weights = torch.randn(70, dtype=torch.float64)
    found = torch.autograd.grad(logsumexp(points, vectors) @ weights, (points, vectors))
    exact = torch.autograd.grad(whole(points, vectors).logsumexp(1) @ weights, (points, vectors))
    torch.testing.assert_close(found, exact)
    assert torch.autograd.gradcheck(logsumexp, (points[:5], vectors))


def test_only_logsumexp_has_a_gradient():
    points, vectors = inputs()
    assert logsumexp(points, vectors).requires_grad
    assert not log_probs(points, vectors, torch.zeros(70, dtype=torch.int64)).requires_grad
    assert not best(points, vectors)[0].requires_grad
    assert not expectation(points, points, vectors).requires_grad


def test_no_steps_are_no_values():
    points, vectors = inputs(0)
    none = torch.zeros(0, dtype=torch.int64)
    assert log_probs(points, vectors, none).shape == (0,)
    assert best(points, vectors)[1].shape == (0,)
    assert expectation(points, points, vectors).shape == (0,)
    assert logsumexp(points, vectors).sum().backward() is None


def test_points_of_another_width_are_a_mistake():
    points, vectors = inputs()
    with pytest.raises(AssertionError, match="5 columns, the vectors 3"):
        log_probs(points, vectors[:, :3], torch.zeros(70, dtype=torch.int64))


def test_in_bf16_the_best_is_as_good_to_a_hundredth_and_the_probability_too():
    generator = torch.Generator().manual_seed(0)
    points, vectors = torch.randn(300, 32, generator=generator), torch.randn(500, 32, generator=generator)
    exact, _ = best(points, vectors)
    _, items = best(points, vectors, precision="bf16")
    found = (points * vectors[items]).sum(1)
    assert ((exact - found) / exact).max() < 0.01
    chosen = torch.arange(300)
    rounded = log_probs(points, vectors, chosen, precision="bf16")
    torch.testing.assert_close(rounded, log_probs(points, vectors, chosen), atol=0.05, rtol=0.01)
