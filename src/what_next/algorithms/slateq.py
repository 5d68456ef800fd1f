"""The value of a slate, from the values of its items and the probability that each is chosen."""

from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32
from pydantic import Field
from torch import Tensor
from torch.nn.functional import pad

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
from what_next.losses.rl import mean, td_target
from what_next.models.actor_critic import Sizes
from what_next.models.heads import Point, Value
from what_next.models.item_space import ItemSpace
from what_next.types import Choices, Transitions

Steps = Float[Tensor, "steps"]
Items = Float[Tensor, "steps items"]

ROUNDS = 4
"""Rounds of Dinkelbach's method."""
MOST = 20.0
"""Cap of the logarithm of a weight; beyond it, a choice is practically certain."""


class Slateq(Algorithm):
    """SlateQ (Ie et al. 2019, arXiv 1905.12767): learns the long-term value of an item that is chosen from a slate.

    At most one item of a slate is chosen, and only that choice decides what follows (their assumptions SC and RTDS).
    Then Q(s, A) is the sum over its items, and none, of P(chosen | s, A) Q(s, chosen) (equation 11), whose parts are
    learned by temporal differences (equation 19). The probability of a choice is a multinomial logit, learned from
    clicks (section 5.1). The best slate has the largest ratio of two sums (their linear program, section 5.2); it is
    found by Dinkelbach's method (1967) in a few rounds. If several items of a slate are clicked, each is learned as if
    it were the only one; the assumptions do not hold then.

    The slate is made of the `candidates` likeliest items, because its score is no inner product.
    """

    name: Literal["slateq"] = "slateq"
    monitors: ClassVar[tuple[str, ...]] = REWARDED
    search: ClassVar[Search] = {"tau": (0.002, 0.05), "discount": (0.5, 0.99)}
    tau: float = Field(default=0.01, gt=0, le=1, description="how far the target networks follow after a step")
    candidates: int = Field(default=1000, ge=1, description="items likeliest to be chosen, to make slates of")
    slots: int | None = Field(default=None, ge=1, description="items in a slate; none: as many as the world shows")
    source: ClassVar[str] = "world"
    replays: ClassVar[bool] = True
    slates: ClassVar[bool] = True
    updates: ClassVar[Updates] = {"critic": ("encoder", "critic"), "choice": ("encoder", "choice")}
    targets: ClassVar[tuple[str, ...]] = ("encoder", "critic", "choice")
    needs_critic: ClassVar[bool] = True
    whole_catalogue: ClassVar[bool] = True

    def networks(self, sizes: Sizes, vectors: Float32[np.ndarray, "items dim"], rng: np.random.Generator) -> Networks:
        """Points of the items' values, and of the logarithms of their choice weights."""
        return {"critic": Values(sizes.dim), "choice": Point(sizes.dim, offset=True)}

    def losses(self, context: LossContext[Choices]) -> dict[str, Tensor]:  # type: ignore[override]
        """Squared error of the chosen items' values, towards the best next slate; the cross entropy of the choices."""
        batch, nets, items = context.batch, context.nets, context.items
        clicks, clicks_known = batch.clicks, batch.clicks_known.float()
        target = td_target(batch.rewards, batch.discounts, self.best_value(context))
        critic = nets["critic"]
        assert isinstance(critic, Values)
        values, none = items.values(critic(batch.states), batch.slates), critic.none(batch.states)
        clicked = clicks.sum(1)
        errors = (clicks * (values - target[:, None]).square()).sum(1) / clicked.clamp(min=1)
        errors = torch.where(clicked > 0, errors, (none - target).square()) / 2
        # log P(chosen | slate), from the logarithms of the weights; that of none is 0 (equation 16)
        logits = pad(items.values(nets["choice"](batch.states), batch.slates), (0, 1)).log_softmax(1)
        chosen = torch.cat([clicks, (clicked == 0).float()[:, None]], 1)
        entropy = -(chosen * logits).sum(1) / chosen.sum(1)
        return {"critic": mean(errors, clicks_known), "choice": mean(entropy, clicks_known)}

    @torch.no_grad()
    def best_value(self, context: LossContext[Choices]) -> Steps:
        """The target networks' value of the best slate in the next states."""
        states, targets = context.batch.next_states, context.targets
        critic = targets["critic"]
        assert isinstance(critic, Values)
        values, weights = (
            points[:, :-1] @ context.items.target.T + points[:, -1:]
            for points in (critic(states), targets["choice"](states))
        )
        return best_slate(values, weights, critic.none(states), context.batch.slates.shape[1])[1]

    def estimates(self, nets: Networks, batch: Transitions, items: ItemSpace) -> Steps:
        """The value of the first item, if it is chosen."""
        return items.values(nets["critic"](batch.states), batch.actions)

    def propose(self, nets: Networks, states: States, rng: Rng = None) -> Points:
        """The point of the choice weights, which ranks the items that are likeliest to be chosen first."""
        points: Tensor = nets["choice"](states)[..., :-1]
        return points

    @property
    def rescored(self) -> int:
        """See `Algorithm.rescored`."""
        return self.candidates

    def rescore(self, nets: Networks, states: States, vectors: Candidates) -> Float[Tensor, "batch candidates"]:
        """The score of each item in the best slate (`best_slate`)."""
        critic = nets["critic"]
        assert isinstance(critic, Values)
        values, weights = (
            torch.einsum("bd,bcd->bc", points[:, :-1], vectors) + points[:, -1:]
            for points in (critic(states), nets["choice"](states))
        )
        return best_slate(values, weights, critic.none(states), self.slots or 1)[0]


class Values(Point):
    """The values of items, if they are chosen, and the value of choosing none."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, offset=True)
        self.none = Value(dim)


def best_slate(values: Items, weights: Items, none: Steps, slots: int) -> tuple[Items, Steps]:
    """Scores whose largest ones make up the best slate, and its value: (none + sum(w q)) / (1 + sum(w)).

    Args:
        values: q of the items; `weights`: log w; `none`: the value of choosing none, which has weight 1.
    """
    w, ratio = weights.clamp(max=MOST).exp(), none
    for _ in range(ROUNDS):
        scores = w * (values - ratio[:, None])
        slate = scores.topk(min(slots, values.shape[1])).indices
        chosen = w.gather(1, slate)
        ratio = (none + (chosen * values.gather(1, slate)).sum(1)) / (1 + chosen.sum(1))
    return w * (values - ratio[:, None]), ratio
