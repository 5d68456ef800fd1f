"""Vectors of items and users from clicks on slates: logistic matrix factorisation with a position bias."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int, Int64
from torch import Tensor

EPOCHS = 12
"""Passes over the shown items; `BATCH`: items in a step; `RATE`: learning rate of Adam, which decays to nearly 0."""
BATCH = 20_000
RATE = 0.05
PENALTY = 2.0
"""L2 penalty on all entries: a normal prior of variance 1 / (2 * 2). From .3 to 3, agents earn the same."""
RARE = -3.0
"""Initial log odds of a click; `FEWEST`: least steps of a pass."""
FEWEST = 40


@dataclass(frozen=True, eq=False)
class ClickFactors:
    """The probability of a click in slot k is `decay ** k * sigmoid(<user, item> + bias of the user)`.

    Attributes:
        items: item vectors, with columns of standard deviation 1; or the given ones.
        users: for each user the vector, followed by the bias.
        decay: ratio of the probabilities that successive slots are looked at.
    """

    items: Float32[np.ndarray, "items width"]
    users: Float32[np.ndarray, "users width_plus_1"]
    decay: float


def factorised(
    slates: Int[np.ndarray, "shown slots"],
    clicks: Bool[np.ndarray, "shown slots"],
    users: Int[np.ndarray, "shown"],
    given: Float32[np.ndarray, "items width"],
    width: int,
    seed: int,
) -> ClickFactors:
    """Fit vectors to clicks on slates of random items (Johnson 2014, with the positions of Craswell et al. 2008).

    Args:
        slates: the shown items; `users`: the user of each slate, from 0.
        given: vectors of the items, if they are known; without columns, they are learned.
        width: of learned vectors; the last column is the item's general popularity.
    """
    decay, learned = decay_of(clicks), not given.shape[1]
    generator, count = torch.Generator().manual_seed(seed), int(users.max(initial=0)) + 1
    columns = width if learned else given.shape[1]
    people = torch.randn(count, columns + 1, generator=generator) * 0.3
    people[:, -1] = 0 if learned else RARE
    items = torch.randn(len(given), columns, generator=generator) * 0.3 if learned else torch.from_numpy(given)
    if learned:
        people[:, -2], items[:, -1] = 1, RARE
    weights = [people.requires_grad_(), *([items.requires_grad_()] if learned else [])]
    shown = torch.from_numpy(slates.astype(np.int64)), torch.from_numpy(users.astype(np.int64))
    _descend(weights, people, items, shown, torch.from_numpy(clicks).float(), decay, generator)
    found, scale = items.detach().numpy(), np.ones(columns, np.float32)
    if learned:
        scale = np.maximum(found.std(0), 1e-6) * np.sqrt(columns)
    whose = people.detach().numpy().copy()
    whose[:, :-1] *= scale
    return ClickFactors((found / scale).astype(np.float32), whose.astype(np.float32), decay)


def decay_of(clicks: Bool[np.ndarray, "shown slots"]) -> float:
    """The ratio of click rates of successive slots, for randomly shown items: from the slope of their logarithm."""
    counts = clicks.sum(0)
    if clicks.shape[1] < 2 or counts.min() == 0:
        return 1.0
    slope = np.polyfit(np.arange(len(counts)), np.log(counts), 1, w=np.sqrt(counts))[0]
    return float(min(1.0, np.exp(slope)))


def _descend(
    weights: list[Tensor],
    people: Tensor,
    items: Tensor,
    shown: tuple[Int64[Tensor, "shown slots"], Int64[Tensor, "shown"]],
    clicks: Tensor,
    decay: float,
    generator: torch.Generator,
) -> None:
    """Minimise the penalised negative log likelihood with Adam, in place."""
    slates, users = shown
    slots, optimiser = slates.shape[1], torch.optim.Adam(weights, RATE)
    looked, rows = decay ** torch.arange(slots), max(1, min(BATCH // slots, len(slates) // FEWEST))
    for epoch in range(EPOCHS):
        optimiser.param_groups[0]["lr"] = RATE * (1 - epoch / EPOCHS)
        for some in torch.split(torch.randperm(len(slates), generator=generator), rows):
            vectors, whose = items[slates[some]], people[users[some]]
            odds = (vectors @ whose[:, :-1, None]).squeeze(-1) + whose[:, -1:]
            chances = (looked * torch.sigmoid(odds)).clamp(1e-6, 1 - 1e-6)
            loss = torch.nn.functional.binary_cross_entropy(chances, clicks[some])
            penalty = sum((one.square().sum() for one in weights), torch.zeros(()))
            optimiser.zero_grad()
            torch.autograd.backward(loss + PENALTY * penalty / clicks.numel())
            optimiser.step()
