"""Softmax cross entropy over a whole catalogue."""

from jaxtyping import Float, Int64
from torch import Tensor

from what_next.losses.chunked import Kernel, Precision, chunked_loss, softmax_


def linear_cross_entropy(
    points: Float[Tensor, "steps dim"],
    vectors: Float[Tensor, "items dim"],
    actions: Int64[Tensor, "steps"],
    weights: Float[Tensor, "steps"] | None = None,
    precision: Precision = "fp32",
) -> Float[Tensor, ""]:
    """The mean over steps of weight times -log softmax(<point, item>) at the step's action; 0 without steps.

    Equal to `torch.nn.functional.cross_entropy(points @ vectors.T, actions)`, without holding that product. It has no
    second derivative. Weights are without gradient, and the mean divides by the number of steps, not by their sum.

    Args:
        points: one for each step. vectors: of all items.
        actions: the item that came, at each step.
        weights: of the steps; None: all 1.
        precision: 'bf16' takes the products of matrices in bfloat16: gradients differ by about 0.3 %.

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
