"""The gradient step: every loss updates the networks that it names, and no others."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from what_next.algorithms.base import Algorithm, LossContext, Networks, Root
from what_next.errors import SetupError, TrainingError, told_of
from what_next.models.encoders import Encoder

SLOWEST = 0.01
"""Share of the learning rate at the end of a run."""
Total = Callable[[Sequence[nn.Parameter]], Mapping[str, float]]
"""Sums the gradients of some weights over all processes; returns the losses, also summed."""


class OutOfTime(Exception):
    """The time for training ended within a step. The step is given up, and the loop ends."""


@dataclass(frozen=True)
class Step:
    """The result of one step of training: means over the steps of the histories that count.

    Attributes:
        losses: by the algorithm's names.
        reward: mean one-step reward per item, whatever `n_step` is; the founding reward in units of the user's sigma.
        value: the critic's mean estimate, on the scale of its target.
        fallback: share of proposals that no item matched.
        matches: mean number of items that matched a proposal.
        masked: share of the steps that do not count (padding; in the founding algorithm, fewer than three events, or a
            user without spread).
        targets: number of steps that count.
        metrics: diagnoses for the alarms, by name.
    """

    losses: dict[str, float]
    reward: float
    value: float
    fallback: float
    matches: float
    masked: float
    targets: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)


def descend(
    losses: Mapping[str, Tensor],
    updates: Mapping[str, tuple[str, ...]],
    nets: Networks,
    optimisers: Mapping[str, Optimizer],
    clip: float,
    roots: Mapping[str, Sequence[Root]] | None = None,
    total: Total | None = None,
) -> set[str]:
    """Take each loss's gradient for the networks in its `updates`, and step those networks, in that order.

    Losses that update the same networks are summed first. Gradients are scaled down to a norm of at most `clip` for
    each network. A network with `roots` has one backward pass for all losses that update it. If several processes share
    a batch, `total` sums gradients and losses over them.

    Returns:
        The networks that were updated.

    Raises:
        TrainingError: a loss or a gradient is not a finite number; no network was updated.
    """
    for optimiser in optimisers.values():
        optimiser.zero_grad()
    weights = {name: list(nets[name].parameters()) for loss in losses for name in updates[loss]}
    _backward(losses, updates, weights, roots or {})
    for name, loss in (losses if total is None else total([one for some in weights.values() for one in some])).items():
        if not math.isfinite(loss):
            raise TrainingError(f"the loss {name!r} is {float(loss)}")
    for name, own in weights.items():
        if not torch.isfinite(_clipped(nets[name], own, clip)):
            raise TrainingError(f"a gradient of {name!r} is not a finite number")
    for name in weights:
        for key, optimiser in optimisers.items():
            if network_of(key) == name:
                optimiser.step()
        torch.autograd.graph.increment_version(weights[name])  # Adam's fused kernel does not
    return set(weights)


def losses_of(algorithm: Algorithm, context: LossContext[Any], nets: Networks) -> dict[str, Tensor]:
    """The losses of a step, `checked`; metrics that are tensors of one number become that number.

    Raises:
        SetupError: a custom algorithm fails.
        TrainingError: as of `checked`.
    """
    with told_of(algorithm, f"losses of {algorithm.name!r} failed", SetupError):
        try:
            losses = algorithm.losses(context)
        except KeyError as error:
            if error.args and isinstance(name := error.args[0], str) and name not in context.metrics:
                copies = f"target copies of {', '.join(context.targets)}" if context.targets else "no target copies"
                error.args = (f"{name}; there are the networks {', '.join(context.nets)}, and {copies}",)
            raise
    context.metrics.update({name: _number(name, value, algorithm) for name, value in context.metrics.items()})
    return checked(losses, algorithm, nets)


def _number(name: str, value: object, algorithm: Algorithm) -> float:
    """A metric of an algorithm as a number; a `TrainingError` if it is none."""
    one = value.detach() if isinstance(value, Tensor) else value
    if isinstance(one, (Tensor, np.ndarray)) and one.shape:
        found = f"of shape {tuple(one.shape)}"
    elif isinstance(one, (int, float, Tensor, np.ndarray, np.generic)):
        return float(one)
    else:
        found = type(one).__name__
    raise TrainingError(f"the metric {name!r} of {algorithm.name!r} is {found}; expected a number, such as a mean")


def checked(losses: object, algorithm: Algorithm, nets: Networks) -> dict[str, Tensor]:
    """The losses that an algorithm returned, if these networks can learn from them.

    Raises:
        TrainingError: not a mapping from names of `updates` to scalar tensors with a gradient, or a loss updates a
            network that does not exist.
    """
    updates = algorithm.updates
    if not updates:
        raise TrainingError(
            f"updates of {algorithm.name!r} is empty; name each loss there, and which networks it updates, as in "
            "{'actor': ('encoder', 'actor')}"
        )
    if not isinstance(losses, Mapping) or not set(losses) <= set(updates):
        found: object = list(losses) if isinstance(losses, Mapping) else type(losses).__name__
        raise TrainingError(f"losses of {algorithm.name!r} gives {found}; expected a loss for each of {list(updates)}")
    for name, loss in losses.items():
        if not isinstance(loss, Tensor) or loss.dim():
            found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise TrainingError(f"the loss {name!r} of {algorithm.name!r} is {found}; expected a tensor of one number")
        if isinstance(updates[name], str) or set(updates[name]) - nets.keys():
            raise TrainingError(
                f"the loss {name!r} of {algorithm.name!r} updates {updates[name]!r}; expected a tuple of names of its "
                f"networks, which are {', '.join(nets)}"
            )
        if not loss.requires_grad:
            raise TrainingError(
                f"the loss {name!r} of {algorithm.name!r} teaches nothing: it has no gradient (is it detached?)"
            )
    return dict(losses)


def _backward(
    losses: Mapping[str, Tensor],
    updates: Mapping[str, tuple[str, ...]],
    listed: Mapping[str, Sequence[nn.Parameter]],
    roots: Mapping[str, Sequence[Root]],
) -> None:
    """Give the networks that losses update their gradients; `listed`: the weights of each network."""
    together: dict[tuple[str, ...], Tensor] = {}
    for name, loss in losses.items():
        together[updates[name]] = together.get(updates[name], 0) + loss
    leaves: dict[int, Tensor] = {}
    for updated, loss in together.items():
        weights = [weight for name in updated for weight in listed[name]]
        ends = [root.leaf for name in updated for root in roots.get(name, ())]
        if loss.requires_grad:
            inputs = [*weights, *ends]
            found = torch.autograd.grad(loss, inputs, retain_graph=len(together) > 1, allow_unused=True)
            _collect(weights, found[: len(weights)])
            for leaf, gradient in zip(ends, found[len(weights) :], strict=True):
                if gradient is not None:
                    leaves[id(leaf)] = leaves[id(leaf)] + gradient if id(leaf) in leaves else gradient
    for name, several in roots.items():
        reached = [root for root in several if id(root.leaf) in leaves]
        if reached:
            outputs, gradients = [root.output for root in reached], [leaves[id(root.leaf)] for root in reached]
            _collect(listed[name], torch.autograd.grad(outputs, listed[name], gradients, allow_unused=True))


def _clipped(net: nn.Module, weights: Sequence[nn.Parameter], clip: float) -> Tensor:
    """Scale a network's gradients down to a joint norm of at most `clip`; returns the norm that they had.

    Like `torch.nn.utils.clip_grad_norm_`, which supports neither sparse gradients nor rows on other processes.
    """
    dense, sparse = list[Tensor](), list[Tensor]()
    for weight in weights:
        if weight.grad is not None and weight.grad.is_sparse:
            weight.grad = weight.grad.coalesce()
            sparse.append(weight.grad.values())
        elif weight.grad is not None:
            dense.append(weight.grad)
    shards = net.items.shards if isinstance(net, Encoder) else None
    if shards is None:
        norm = get_total_norm(dense + sparse)
    else:
        norm = (get_total_norm(dense) ** 2 + shards.ranks.summed(get_total_norm(sparse) ** 2)).sqrt()
    scale = (clip / (norm + 1e-6)).clamp(max=1.0)
    for gradient in dense + sparse:
        gradient.mul_(scale)
    return norm


def _collect(weights: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Add gradients to the weights' own."""
    for weight, gradient in zip(weights, gradients, strict=True):
        if gradient is not None:
            weight.grad = gradient if weight.grad is None else weight.grad + gradient


def network_of(optimiser: str) -> str:
    """The network that an optimiser updates: `encoder:rows` is one of several optimisers of `encoder`."""
    return optimiser.partition(":")[0]


def decay_rate(optimisers: Mapping[str, Optimizer], rate: float, done: float) -> None:
    """Let the learning rate fall linearly to a hundredth; `done`: share of the run so far."""
    for optimiser in optimisers.values():
        for group in optimiser.param_groups:
            group["lr"] = rate * max(SLOWEST, 1 - done)


def polyak_update(nets: Networks, targets: Networks, updated: set[str], tau: float) -> None:
    """Move every target network whose network was updated by `tau` towards it (Polyak averaging)."""
    with torch.no_grad():
        for name in updated & set(targets):
            for old, new in zip(targets[name].parameters(), nets[name].parameters(), strict=True):
                old.lerp_(new, tau)
