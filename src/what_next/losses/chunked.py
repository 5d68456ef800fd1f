"""Losses of `points @ vectors.T` that never hold the whole product.

The product is computed for a chunk of steps at a time, small enough for the processor's cache. A kernel turns these
logits into the steps' losses and, in the same memory, into the gradient with respect to the logits; the gradients of
points and vectors follow at once. So there are three matrix products in all, the backward pass recomputes nothing, and
memory does not grow with steps times items.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

Precision: TypeAlias = Literal["fp32", "bf16"]

Kernel: TypeAlias = Callable[[Tensor, slice], tuple[Tensor, Tensor | None]]
"""From the logits [chunk items] of some steps and their slice: the steps' losses, and the gradient with respect to the
`own` values (None without them). It leaves the gradient with respect to the logits in the logits' memory."""

# Measured with one thread on a processor with 1 MB of second-level and 32 MB of third-level cache: at 300, 1,682 and
# 3,616 items the loss is fastest with 1 to 4 MB of logits. Fewer rows make thin matrix products (and, for many items,
# more passes over the gradient of the vectors): fewer rows than `FEWEST_STEPS` are slower whatever the cache.
CHUNK_BYTES = {"cpu": 2**21}
CHUNK_BYTES_ELSEWHERE = 2**28
FEWEST_STEPS = {"fp32": 64, "bf16": 128}


def chunk_steps(columns: int, device: torch.device, precision: Precision = "fp32") -> int:
    """How many steps to compute at once, for this many items: a multiple of 32."""
    room = CHUNK_BYTES.get(device.type, CHUNK_BYTES_ELSEWHERE) // (4 * max(columns, 1))
    return max(room // 32 * 32, FEWEST_STEPS[precision])


def chunks(steps: int, columns: int, device: torch.device, precision: Precision = "fp32") -> Iterator[slice]:
    """The steps in chunks."""
    size = chunk_steps(columns, device, precision)
    return (slice(start, min(start + size, steps)) for start in range(0, steps, size))


def softmax_(logits: Float[Tensor, "steps items"]) -> Float[Tensor, "steps"]:
    """Turn the logits into probabilities, in place; returns the logarithm of their sum of exponentials.

    `torch.softmax` needs one pass over a row in the cache, and its exponential is faster than `Tensor.exp_`. The sum is
    recovered from the largest probability, which is at least one over the items: log sum = max - log p(max).
    """
    top = logits.amax(1)
    torch.softmax(logits, 1, out=logits)
    return top - logits.amax(1).log()


def chunked_loss(
    points: Float[Tensor, "steps dim"],
    vectors: Float[Tensor, "items dim"],
    kernel: Kernel,
    *,
    own: Float[Tensor, "steps"] | None = None,
    weights: Float[Tensor, "steps"] | None = None,
    precision: Precision = "fp32",
) -> Float[Tensor, ""]:
    """The mean over steps of weight times the kernel's loss; 0 without steps.

    Args:
        points: one for each step. vectors: one for each item.
        kernel: computes the loss of a step from its logits.
        own: a further input of the kernel, one value per step, with gradient.
        weights: one per step, without gradient; the mean divides by the number of steps, not by the weights' sum.
        precision: 'bf16' computes the matrix products in bfloat16; softmax and sums keep the points' precision.
    """
    scale = torch.full_like(points[:, 0], 1 / max(len(points), 1))
    if weights is not None:
        scale *= weights.detach()
    inputs = (points, vectors) if own is None else (points, vectors, own)
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    loss: Tensor = _Chunked.apply(points, vectors, own, scale, kernel, precision, wanted)
    return loss


class _Chunked(torch.autograd.Function):
    """Gradients are computed in the forward pass and scaled by the loss's own gradient in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        points: Tensor,
        vectors: Tensor,
        own: Tensor | None,
        scale: Tensor,
        kernel: Kernel,
        precision: Precision,
        wanted: bool,
    ) -> Tensor:
        of_points, of_vectors, of_own = (wanted and needed for needed in ctx.needs_input_grad[:3])
        passes = _Passes(points, vectors, precision)
        losses = torch.empty_like(scale)
        gradients = [
            torch.empty_like(points, memory_format=torch.contiguous_format) if of_points else None,
            torch.zeros_like(vectors, memory_format=torch.contiguous_format) if of_vectors else None,
            torch.empty_like(scale) if of_own else None,
        ]
        for rows in chunks(len(points), len(vectors), points.device, precision):
            logits = passes.logits(rows)
            losses[rows], own_gradient = kernel(logits, rows)
            if gradients[0] is not None or gradients[1] is not None:
                passes.back(rows, scale[rows, None], gradients[0], gradients[1])
            if gradients[2] is not None:
                assert own_gradient is not None, "a kernel with `own` values returns their gradient"
                torch.mul(own_gradient, scale[rows], out=gradients[2][rows])
        ctx.save_for_backward(*gradients)
        return torch.dot(losses, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # Not in place: the backward pass may run twice over one graph.
        return *(None if saved is None else saved * gradient for saved in ctx.saved_tensors), None, None, None, None


class _Passes:
    """The three products of a chunk, in memory that all chunks reuse."""

    def __init__(self, points: Tensor, vectors: Tensor, precision: Precision) -> None:
        size = min(chunk_steps(len(vectors), points.device, precision), len(points))
        self.points = points
        self.buffer = points.new_empty(size, len(vectors))
        self.half = self.buffer.new_empty(self.buffer.shape, dtype=torch.bfloat16) if precision == "bf16" else None
        # Rounding to bfloat16 keeps 8 of 24 bits; products are summed in fp32 within a chunk and between chunks.
        self.vectors = vectors if self.half is None else vectors.bfloat16()
        self.part: Tensor | None = None

    def logits(self, rows: slice) -> Tensor:
        logits, points = self.buffer[: rows.stop - rows.start], self.points[rows]
        if self.half is None:
            return torch.mm(points, self.vectors.T, out=logits)
        half = self.half[: len(logits)]
        return logits.copy_(torch.mm(points.bfloat16(), self.vectors.T, out=half))

    def back(self, rows: slice, scale: Tensor, of_points: Tensor | None, of_vectors: Tensor | None) -> None:
        """Add a chunk to the gradients: the buffer holds the logits' gradient, without the steps' weights.

        The weights are multiplied into the thin matrices (dim columns), not into the wide one (a column per item).
        """
        wide = self.buffer[: rows.stop - rows.start]
        if self.half is not None:
            wide = self.half[: len(wide)].copy_(wide)
        if of_points is not None:
            if self.half is None:
                torch.mm(wide, self.vectors, out=of_points[rows])
            else:
                of_points[rows] = wide @ self.vectors
            of_points[rows] *= scale
        if of_vectors is not None:
            points = self.points[rows] * scale
            if self.half is None:
                of_vectors.addmm_(wide.T, points)
            else:
                self.part = torch.mm(wide.T, points.bfloat16(), out=self.part)
                of_vectors += self.part
