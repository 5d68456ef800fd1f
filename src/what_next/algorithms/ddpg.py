"""Deterministic policy gradient over items, by points on the unit sphere; the base of td3, td3_bc and hac."""

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from what_next.algorithms.base import (
    REWARDED,
    Algorithm,
    Candidates,
    LossContext,
    Networks,
    Points,
    Rng,
    Search,
    States,
    Updates,
)
from what_next.models.actor_critic import Sizes
from what_next.models.heads import PairValue, Point
from what_next.models.item_space import ItemSpace
from what_next.types import Transitions

CELLS = 2**24
"""Cosines held in memory at a time."""


class Ddpg(Algorithm):
    """An actor proposes a point by ascending a critic; the nearest items are taken, in the critic's order.

    Deep deterministic policy gradient (Lillicrap et al. 2016, arXiv 1509.02971) with the Wolpertinger policy
    (Dulac-Arnold et al. 2015, arXiv 1512.07679), on a fixed log. The space of actions is the unit sphere: only the
    directions of points and item vectors count, so that no point runs away along the critic's gradient, and the nearest
    by Euclidean distance are the nearest by cosine.

    Only a cross entropy updates the item vectors as actions: it spreads them, because every item is a negative of the
    others. The other losses read the vectors without gradient. A regression onto vectors that it may update draws them
    together (in a world of five items their mean came to a length of 0.99, against 0.46); the critic's loss does not,
    but does not learn which items are similar.

    Offline, the critic is asked about points that are not in the log, where nothing corrects its errors, and the actor
    finds these errors (Fujimoto et al. 2019, arXiv 1812.02900, section 3). See `td3_bc` and `hac`.
    """

    name: Literal["ddpg"] = "ddpg"
    monitors: ClassVar[tuple[str, ...]] = REWARDED
    search: ClassVar[Search] = {"sharpness": (5.0, 20.0), "candidates": (1, 100), "discount": (0.0, 0.9)}
    tau: float = Field(default=0.005, gt=0, le=1, description="how far the target actor and critic follow after a step")
    candidates: int = Field(default=10, ge=1, description="nearest items that the critic orders; 1: by distance alone")
    supervised: float = Field(default=1.0, ge=0, description="weight of the next item's cross entropy")
    sharpness: float = Field(default=7.0, gt=0, description="inverse temperature of the softmax over cosines")
    replays: ClassVar[bool] = True
    updates: ClassVar[Updates] = {"critic": ("encoder", "critic"), "supervised": ("encoder",), "actor": ("actor",)}
    targets: ClassVar[tuple[str, ...]] = ("encoder", "actor", "critic")
    needs_critic: ClassVar[bool] = True

    def networks(self, sizes: Sizes, vectors: Float32[np.ndarray, "items dim"], rng: np.random.Generator) -> Networks:
        """An actor, and one or several (`td3`) critics of any point in one network."""
        return {"actor": Point(sizes.dim), "critic": Critics(sizes.dim, getattr(self, "critics", 1))}

    def losses(self, context: LossContext[Transitions]) -> dict[str, Tensor]:
        """The critic's squared error, minus its value of the actor's points, and the next item's cross entropy."""
        context = replace(context, items=on_sphere(context.items))
        losses = {"critic": self.critic_loss(context)}
        if self.supervised:
            points = self.sharpness * normalize(self.supervise(context), dim=-1)
            chosen = context.batch.actions, context.imitated
            losses["supervised"] = self.supervised * context.items.cross_entropy(points, *chosen)
        return losses | self.actor_losses(context)

    def actor_losses(self, context: LossContext[Transitions]) -> dict[str, Tensor]:
        """Minus the critic's value of the actor's points."""
        return {"actor": -self.climb(context)[1].mean()}  # arXiv 1509.02971, equation 6

    def supervise(self, context: LossContext[Transitions]) -> Float[Tensor, "steps dim"]:
        """The points of the supervised loss: the states themselves, so that it does not update the actor."""
        return context.batch.states

    def critic_loss(self, context: LossContext[Transitions]) -> Tensor:
        """Squared error of the logged items' values; the target is the value of the target actor's next items."""
        targets, batch, items = context.targets, context.batch, context.items
        with torch.no_grad():
            points = self.smooth(normalize(targets["actor"](batch.next_states), dim=-1), context)
            # The target is the value of the whole policy, which takes an item (arXiv 1512.07679, algorithm 2). At the
            # points themselves, which are not in the log, errors reinforce each other: values reached five times the
            # largest possible one.
            choices = closest(points, items.target, self.candidates)
            # The smallest of the critics (`td3` has two), then the best of the candidates.
            values = targets["critic"](batch.next_states.unsqueeze(-2), choices).amin(0).amax(-1)
            wanted = batch.rewards + batch.discounts * values  # arXiv 1509.02971, equations 4 and 5
        estimates = context.nets["critic"](batch.states, items.rows(batch.actions).detach())
        context.metrics["logged_value"] = estimates.mean().item()
        context.metrics["vectors_alike"] = items.vectors.detach().mean(0).norm().item()
        loss: Tensor = (estimates - wanted).square().mean(-1).sum()
        return loss

    def climb(self, context: LossContext[Transitions]) -> tuple[Float[Tensor, "steps dim"], Float[Tensor, "steps"]]:
        """The actor's points, and the (first) critic's values of them; no gradient goes to the encoder."""
        states = context.batch.states.detach()
        points = normalize(context.nets["actor"](states), dim=-1)
        values = context.nets["critic"](states, points)[0]
        context.metrics["proposed_value"] = values.mean().item()
        return points, values

    def smooth(self, points: Points, context: LossContext[Transitions]) -> Points:
        """The target actor's points as the critic's target reads them: unchanged here, noisy in `td3`."""
        return points

    def estimates(self, nets: Networks, batch: Transitions, items: ItemSpace) -> Float[Tensor, "steps"] | None:
        """The (first) critic's values of the chosen items."""
        found: Tensor = nets["critic"](batch.states, on_sphere(items).rows(batch.actions))[0]
        return found

    def propose(self, nets: Networks, states: States, rng: Rng = None) -> Points:
        """The actor's point, scaled to the length `sharpness`."""
        return self.sharpness * normalize(nets["actor"](states), dim=-1)

    def vectors(self, vectors: Float[Tensor, "items dim"]) -> Float[Tensor, "items columns"]:
        """The items' directions."""
        return normalize(vectors, dim=-1)

    @property
    def rescored(self) -> int:
        """See `Algorithm.rescored`."""
        return self.candidates if self.candidates > 1 else 0

    def rescore(self, nets: Networks, states: States, vectors: Candidates) -> Float[Tensor, "batch candidates"]:
        """The critic's values; the smallest of several critics."""
        values: Tensor = nets["critic"](states.unsqueeze(-2), normalize(vectors, dim=-1)).amin(0)
        return values


class Critics(nn.Module):
    """One critic of a state and a point, or several with different initial weights."""

    def __init__(self, dim: int, count: int = 1) -> None:
        super().__init__()
        self.judges = nn.ModuleList(PairValue(dim) for _ in range(count))

    def forward(self, states: Float[Tensor, "*#grid dim"], points: Float[Tensor, "*#grid dim"]) -> Float[Tensor, "..."]:
        """The values of each critic: [critics *grid]."""
        return torch.stack([judge(states, points) for judge in self.judges])


def on_sphere(items: ItemSpace) -> ItemSpace:
    """The same items, each vector of length 1."""
    return replace(
        items,
        vectors=normalize(items.vectors, dim=-1),
        target=normalize(items.target, dim=-1),
        gather=lambda ids: normalize(items.rows(ids), dim=-1),
    )


def closest(
    points: Float[Tensor, "steps dim"], vectors: Float[Tensor, "items dim"], count: int
) -> Float[Tensor, "steps count dim"]:
    """The vectors nearest to each point, all of length 1; in chunks, because products with all items are large."""
    rows = max(1, CELLS // len(vectors))
    count = min(count, len(vectors))
    best = [(part @ vectors.T).topk(count).indices for part in torch.split(points, rows)]
    return vectors[torch.cat(best)]
