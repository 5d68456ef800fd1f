"""Computations over all items at each step, which never hold a tensor of steps times items.

Points may have one more column than the vectors: a level that is added to each item's value (softmax ignores it).
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from what_next.losses.chunked import Kernel, Precision, chunked_loss, chunks, softmax_

Grid = Float[Tensor, "steps columns"]


def split(
    points: Float[Tensor, "*grid columns"], dim: int
) -> tuple[Float[Tensor, "*grid dim"], Float[Tensor, "*grid"] | None]:
    """The directions of the points, and their levels; None if they have no column for it."""
    assert points.shape[-1] in (dim, dim + 1), f"points have {points.shape[-1]} columns, the vectors {dim}"
    return points[..., :dim], points[..., dim] if points.shape[-1] > dim else None


def scores(
    points: Float[Tensor, "steps dim"], vectors: Float[Tensor, "items dim"], precision: Precision
) -> Iterator[tuple[slice, Float[Tensor, "chunk items"]]]:
    """<point, item> of all items for a chunk of steps at a time, without gradient; 'bf16' rounds them to 8 bits."""
    table = vectors.bfloat16() if precision == "bf16" else vectors
    for rows in chunks(len(points), len(vectors), points.device, precision):
        yield rows, (points[rows].to(table.dtype) @ table.T).to(points.dtype)


@torch.no_grad()
def log_probs(
    points: Grid, vectors: Float[Tensor, "items dim"], actions: Int64[Tensor, "steps"], precision: Precision = "fp32"
) -> Float[Tensor, "steps"]:
    """log softmax(<point, item>) at the action, over all items; no gradient. The action's own score is not rounded."""
    points, _ = split(points, vectors.shape[1])
    found = (points * vectors[actions]).sum(1)
    for rows, logits in scores(points, vectors, precision):
        found[rows] -= softmax_(logits)
    return found


@torch.no_grad()
def best(
    points: Grid,
    vectors: Float[Tensor, "items dim"],
    within: Float[Tensor, "steps columns_of_behaviour"] | None = None,
    threshold: float = 0.0,
    precision: Precision = "fp32",
) -> tuple[Float[Tensor, "steps"], Int64[Tensor, "steps"]]:
    """The largest value over all items, and its item (the first of several); no gradient.

    Args:
        points: points of the value function. vectors: vectors of all items.
        within: points of a behaviour policy: only items that it finds at least `threshold` times as probable as its
            likeliest are considered (discrete BCQ: Fujimoto et al. 2019, "Benchmarking Batch Deep Reinforcement
            Learning Algorithms").
        threshold: in [0, 1].
        precision: of the matrix products; with 'bf16' the item found may be worse than the best by 0.4 %.
    """
    assert 0 <= threshold <= 1, f"the threshold is a share of the largest probability, not {threshold}"
    points, level = split(points, vectors.shape[1])
    values, actions = torch.empty_like(points[:, 0]), torch.empty_like(points[:, 0], dtype=torch.int64)
    for rows, logits in scores(points, vectors, precision):
        if within is not None and threshold > 0:
            behaviour = split(within[rows], vectors.shape[1])[0] @ vectors.T
            # pi / max pi >= threshold, as logits; the sums of exponentials cancel.
            floor = behaviour.amax(1, keepdim=True) + torch.tensor(threshold, dtype=behaviour.dtype).log()
            logits.masked_fill_(behaviour < floor, -torch.inf)
        values[rows], actions[rows] = logits.max(1)
    return (values if level is None else values + level), actions


@torch.no_grad()
def expectation(
    policy: Float[Tensor, "steps columns_of_policy"], points: Grid, vectors: Float[Tensor, "items dim"]
) -> Float[Tensor, "steps"]:
    """The mean of <point, item> over items drawn from softmax(<policy, item>); no gradient.

    It equals the value of the policy's mean item vector, so that one product with the vectors serves for all values.
    """
    policy, _ = split(policy, vectors.shape[1])
    points, level = split(points, vectors.shape[1])
    found = torch.empty_like(points[:, 0])
    for rows in chunks(len(points), len(vectors), points.device):
        probabilities = policy[rows] @ vectors.T
        softmax_(probabilities)
        found[rows] = (probabilities @ vectors * points[rows]).sum(1)
    return found if level is None else found + level


def logsumexp(points: Grid, vectors: Float[Tensor, "items dim"]) -> Float[Tensor, "steps"]:
    """log of the sum over items of exp <point, item>, with gradient for points and vectors.

    The gradient of each step is known only in the backward pass, which therefore recomputes the logits: four matrix
    products. The mean of `logsumexp - value(action)` is `linear_cross_entropy`, with three.
    """
    points, level = split(points, vectors.shape[1])
    found: Tensor = _LogSumExp.apply(points, vectors)
    return found if level is None else found + level


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, vectors: Tensor) -> Tensor:
        ctx.save_for_backward(points, vectors)
        found = torch.empty_like(points[:, 0])
        for rows in chunks(len(points), len(vectors), points.device):
            found[rows] = softmax_(points[rows] @ vectors.T)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        points, vectors = ctx.saved_tensors
        of_points = torch.empty_like(points) if ctx.needs_input_grad[0] else None
        of_vectors = torch.zeros_like(vectors) if ctx.needs_input_grad[1] else None
        for rows in chunks(len(points), len(vectors), points.device):
            probabilities = points[rows] @ vectors.T
            softmax_(probabilities)
            if of_points is not None:
                of_points[rows] = probabilities @ vectors * gradient[rows, None]
            if of_vectors is not None:
                of_vectors.addmm_(probabilities.T, points[rows] * gradient[rows, None])
        return of_points, of_vectors


def linear_cross_entropy(
    points: Float[Tensor, "steps dim"],
    vectors: Float[Tensor, "items dim"],
    actions: Int64[Tensor, "steps"],
    weights: Float[Tensor, "steps"] | None = None,
    precision: Precision = "fp32",
) -> Float[Tensor, ""]:
    """The mean over steps of weight times -log softmax(<point, item>) at the step's action; 0 without steps.

    Equal to `torch.nn.functional.cross_entropy(points @ vectors.T, actions)`, without holding that product. It has no
    second derivative. Weights have no gradient, and the mean divides by the number of steps, not by the weights' sum.

    Args:
        points: one for each step. vectors: vectors of all items.
        actions: the item that came next, at each step.
        weights: one for each step; None: all 1.
        precision: 'bf16' computes the matrix products in bfloat16: gradients differ by about 0.3 %.

    Raises:
        RuntimeError: an action is not in [0, items).
    """
    return chunked_loss(points, vectors, _softmax(actions), weights=weights, precision=precision)


def _softmax(actions: Int64[Tensor, "steps"]) -> Kernel:
    def kernel(logits: Tensor, rows: slice) -> tuple[Tensor, None]:
        chosen = actions[rows, None]
        own = logits.gather(1, chosen).squeeze(1)
        level = softmax_(logits)
        logits.scatter_add_(1, chosen, logits.new_full(chosen.shape, -1))
        return level - own, None

    return kernel
