"""The softmax loss over all items: what PyTorch's own says, for any chunks, in bounded memory."""

import subprocess
import sys
from math import log

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from what_next.losses import chunked
from what_next.losses.catalogue import linear_cross_entropy


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 32 steps, so that a few steps make several."""
    monkeypatch.setattr(chunked, "CHUNK_BYTES", {"cpu": 1})
    monkeypatch.setattr(chunked, "FEWEST_STEPS", {"fp32": 32, "bf16": 32})


def inputs(steps, items=41, dim=5, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    points = torch.randn(steps, dim, dtype=dtype, requires_grad=True)
    vectors = torch.randn(items, dim, dtype=dtype, requires_grad=True)
    return points, vectors, torch.randint(items, (steps,))


def gradients(loss, *of):
    return (loss.detach(), *torch.autograd.grad(loss, of))


def test_two_items_by_hand():
    points = torch.tensor([[1.0], [2.0]], requires_grad=True)
    vectors = torch.tensor([[log(3.0)], [0.0]], requires_grad=True)
    # Step 0: odds 3 to 1, action 1: -log(1/4). Step 1: odds 9 to 1, action 0: -log(9/10).
    loss, of_points, of_vectors = gradients(
        linear_cross_entropy(points, vectors, torch.tensor([1, 0])), points, vectors
    )
    assert loss.item() == pytest.approx((log(4) + log(10 / 9)) / 2)
    # p - 1(action) is (3/4, -3/4) and (-1/10, 1/10); the mean halves it.
    torch.testing.assert_close(of_points, torch.tensor([[0.75 * log(3)], [-0.1 * log(3)]]) / 2)
    torch.testing.assert_close(of_vectors, torch.tensor([[0.75 - 0.2], [-0.75 + 0.2]]) / 2)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("steps", [1, 31, 32, 33, 64, 100])
@pytest.mark.parametrize("weighted", [False, True])
def test_it_equals_cross_entropy(steps, weighted):
    points, vectors, actions = inputs(steps)
    weights = torch.rand(steps, dtype=torch.float64) * 3 if weighted else None
    plain = F.cross_entropy(points @ vectors.T, actions, reduction="none")
    plain = (plain if weights is None else plain * weights).sum() / steps
    found = gradients(linear_cross_entropy(points, vectors, actions, weights), points, vectors)
    for ours, theirs in zip(found, gradients(plain, points, vectors), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_in_fp32_it_is_within_a_millionth():
    points, vectors, actions = inputs(300, 700, 16, torch.float32)
    wide = [tensor.detach().double().requires_grad_() for tensor in (points, vectors)]
    found = gradients(linear_cross_entropy(points, vectors, actions), points, vectors)
    exact = gradients(F.cross_entropy(wide[0] @ wide[1].T, actions), *wide)
    for ours, theirs in zip(found, exact, strict=True):
        assert (ours - theirs).norm() <= 1e-6 * theirs.norm()


@pytest.mark.usefixtures("small_chunks")
def test_finite_differences_agree():
    points, vectors, actions = inputs(40, 6, 3)
    weights = torch.rand(40, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda p, v: linear_cross_entropy(p, v, actions, weights), (points, vectors))


def test_logits_far_apart_are_exact():
    points = torch.tensor([[1.0], [1.0]], requires_grad=True)
    vectors = torch.tensor([[1e4], [-1e4], [0.0]], requires_grad=True)
    loss, of_points, _ = gradients(linear_cross_entropy(points, vectors, torch.tensor([1, 0])), points, vectors)
    assert loss.item() == 1e4  # the mean of 20,000 and 0
    assert of_points.tolist() == [[1e4], [0.0]]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_steps_give_0(precision):
    points, vectors, actions = inputs(0, dtype=torch.float32)
    loss, of_points, of_vectors = gradients(
        linear_cross_entropy(points, vectors, actions, precision=precision), points, vectors
    )
    assert loss.item() == 0
    assert of_points.shape == (0, 5)
    assert not of_vectors.any()


def test_a_step_of_weight_0_moves_nothing():
    points, vectors, actions = inputs(2)
    weights = torch.tensor([0.0, 1.0], dtype=torch.float64)
    _, of_points, of_vectors = gradients(linear_cross_entropy(points, vectors, actions, weights), points, vectors)
    assert not of_points[0].any()
    alone = gradients(linear_cross_entropy(points[1:], vectors, actions[1:]) / 2, vectors)
    torch.testing.assert_close(of_vectors, alone[1])


def test_the_loss_may_be_scaled_and_asked_twice():
    points, vectors, actions = inputs(7)
    loss = linear_cross_entropy(points, vectors, actions)
    once = torch.autograd.grad(3 * loss, points, retain_graph=True)[0]
    again = torch.autograd.grad(loss, points)[0]
    torch.testing.assert_close(once, 3 * again)


@pytest.mark.parametrize("of", [0, 1])
def test_a_gradient_for_one_alone(of):
    points, vectors, actions = inputs(9)
    both = gradients(linear_cross_entropy(points, vectors, actions), points, vectors)[1 + of]
    fixed = [points.detach(), vectors.detach()]
    fixed[of].requires_grad_()
    torch.testing.assert_close(gradients(linear_cross_entropy(*fixed, actions), fixed[of])[1], both)


def test_without_gradient_one_product_is_made(monkeypatch):
    products = []
    mm = torch.mm
    monkeypatch.setattr(torch, "mm", lambda *of, **to: products.append(of) or mm(*of, **to))
    points, vectors, actions = inputs(9)
    with torch.no_grad():
        loss = linear_cross_entropy(points, vectors, actions)
    assert len(products) == 1
    torch.testing.assert_close(loss, F.cross_entropy(points @ vectors.T, actions).detach())


@pytest.mark.usefixtures("small_chunks")
def test_bf16_is_close():
    points, vectors, actions = inputs(500, 300, 32, torch.float32)
    wide = gradients(linear_cross_entropy(points, vectors, actions), points, vectors)
    half = gradients(linear_cross_entropy(points, vectors, actions, precision="bf16"), points, vectors)
    assert half[0].item() == pytest.approx(wide[0].item(), rel=1e-3)
    for ours, theirs in zip(half[1:], wide[1:], strict=True):
        assert ours.dtype == torch.float32
        assert 1e-5 < (ours - theirs).norm() / theirs.norm() < 0.01


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_is_deterministic(precision):
    points, vectors, actions = inputs(200, 90, 8, torch.float32)
    first, second = (
        gradients(linear_cross_entropy(points, vectors, actions, precision=precision), points, vectors)
        for _ in range(2)
    )
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_points_may_be_columns_of_something_wider():
    points, vectors, actions = inputs(50, dim=6)
    whole = gradients(linear_cross_entropy(points[:, :5].clone(), vectors[:, :5].clone(), actions), points, vectors)
    part = gradients(linear_cross_entropy(points[:, :5], vectors[:, :5], actions), points, vectors)
    for ours, theirs in zip(part, whole, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("action", [-1, 41])
def test_an_unknown_action_is_refused(action):
    points, vectors, _ = inputs(1)
    with pytest.raises(RuntimeError, match="out of bounds"):
        linear_cross_entropy(points, vectors, torch.tensor([action]))


@pytest.mark.parametrize("items", [1, 300, 3616, 10**6])
def test_a_chunk_is_some_megabytes_but_never_too_thin(items):
    steps = chunked.chunk_steps(items, torch.device("cpu"))
    assert steps % 32 == 0
    assert steps * items * 4 <= 2**21 or steps == 64


MEMORY = """
import resource, sys, torch
from what_next.losses.catalogue import best, logsumexp
from what_next.losses.catalogue import linear_cross_entropy
torch.set_num_threads(1)
steps, dim = int(sys.argv[1]), int(sys.argv[2])
points = torch.randn(steps, dim, requires_grad=True)
vectors = torch.randn(200_000, dim, requires_grad=True)
actions = torch.randint(200_000, (steps,))
(points @ vectors[:64].T).sum().backward()  # what PyTorch itself needs
points.grad, vectors.grad = torch.zeros_like(points), torch.zeros_like(vectors)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
linear_cross_entropy(points, vectors, actions).backward()
logsumexp(points, vectors).sum().backward()
best(points, vectors)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.medium
@pytest.mark.parametrize(
    ("steps", "dim", "most"),
    [(250, 8, 110_000), pytest.param(2000, 64, 250_000, marks=pytest.mark.slow)],  # in KB
)
def test_two_hundred_thousand_items_take_no_more_memory_for_more_steps(steps, dim, most):
    """The logits would be 200 and 1,600 MB; those of a chunk are 51 MB, a gradient of 64 columns another 51 MB."""
    command = [sys.executable, "-c", MEMORY, str(steps), str(dim)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < most, f"{int(done.stdout) / 1000:.0f} MB"
