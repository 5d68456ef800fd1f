"""The gradient step: every loss moves the networks that it names, and no others."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from what_next.algorithms.base import Networks
from what_next.errors import TrainingError

SLOWEST = 0.01
"""The share of the learning rate that is left at the end of a run."""


@dataclass(frozen=True)
class Step:
    """What one step of training showed: means over the steps of the histories that count.

    Attributes:
        losses: by the algorithm's names.
        reward: of the selected items, in units of the user's sigma.
        value: what the critic expected of them, scaled as its target is.
        fallback: share of proposals that no item matched.
        matches: items that matched a proposal.
        masked: share of the steps that do not count (fewer than three events, or a user without spread).
    """

    losses: dict[str, float]
    reward: float
    value: float
    fallback: float
    matches: float
    masked: float


def descend(
    losses: Mapping[str, Tensor],
    moves: Mapping[str, tuple[str, ...]],
    nets: Networks,
    optimisers: Mapping[str, Optimizer],
    clip: float,
) -> None:
    """Take each loss's gradient for the networks in its `moves`, and step those networks, in that order.

    Losses that move the same networks are summed first. Gradients are scaled down to a norm of at most `clip` for each
    network.

    Raises:
        TrainingError: a loss or a gradient is not a finite number; no network was moved.
    """
    for name, loss in losses.items():
        if not torch.isfinite(loss):
            raise TrainingError(f"the loss {name!r} is {loss.item()}")
    together: dict[tuple[str, ...], Tensor] = {}
    for name, loss in losses.items():
        together[moves[name]] = together.get(moves[name], 0) + loss
    for optimiser in optimisers.values():
        optimiser.zero_grad()
    for moved, loss in together.items():
        weights = [weight for name in moved for weight in nets[name].parameters()]
        found = torch.autograd.grad(loss, weights, retain_graph=len(together) > 1, allow_unused=True)
        for weight, gradient in zip(weights, found, strict=True):
            if gradient is not None:
                weight.grad = gradient if weight.grad is None else weight.grad + gradient
    order = list(dict.fromkeys(name for moved in together for name in moved))
    for name in order:
        if not torch.isfinite(clip_grad_norm_(nets[name].parameters(), clip)):
            raise TrainingError(f"a gradient of {name!r} is not a finite number")
    for name in order:
        optimisers[name].step()


def slow_down(optimisers: Mapping[str, Optimizer], rate: float, done: float) -> None:
    """The learning rate falls in a straight line to a hundredth; `done` is the share of the run behind us."""
    for optimiser in optimisers.values():
        for group in optimiser.param_groups:
            group["lr"] = rate * max(SLOWEST, 1 - done)
