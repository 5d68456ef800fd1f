"""The policy gradient, with the log's own policy divided out."""

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float, Float32
from pydantic import Field
from torch import Tensor

from what_next.algorithms.a2c import A2c
from what_next.algorithms.base import Algorithm, LossContext, Networks, Search, Updates, largest
from what_next.losses.rl import importance_weights, self_normalised, topk_correction
from what_next.models.actor_critic import Sizes
from what_next.models.heads import Point
from what_next.models.item_space import ItemSpace
from what_next.types import Choices, Shown, Transitions

SHARE = 4
"""The estimate of the behaviour policy learns from one in so many steps of a batch, which is enough and takes less."""


class Reinforce(A2c):
    """REINFORCE: in a world as it is, from a log with top-K off-policy correction (Chen et al. 2019, arXiv 1812.02353).

    In a world (Williams 1992, section 7; Sutton and Barto 2018, section 13.4) it plays whole episodes. A choice is made
    likelier by the return that followed, less the value of the state: the baseline, which learns that return. The
    chance of a choice is known; nothing is estimated of what follows, at a time limit neither. The rest is of a log.

    Each step weighs as much as its return, times how much likelier the actor chooses the item than whoever chose it in
    the log did. That policy is estimated by a head of its own on the same states, which updates nothing but itself
    (section 4.2; the item vectors are the actor's). The correction is that of the step alone (the first-order
    approximation of section 4): what a choice is worth is still the return when the log goes on in its own way. With
    `top` above 1, an item that is in a slate of so many draws anyway is not pushed further (section 4.3).

    Of items that a service showed, the chance is known, and takes the estimate's place. The weights are then divided by
    their mean over the batch (self-normalised: section 4.4; Swaminathan and Joachims 2015, NIPS, equation 9). The
    actor's probability is over the whole catalogue, the logged one over the items that could still be shown.
    """

    name: Literal["reinforce"] = "reinforce"  # type: ignore[assignment]
    source: ClassVar[str] = "log"
    episodes: ClassVar[bool] = True
    linear: ClassVar[bool] = True
    search: ClassVar[Search] = {"weight_cap": (1.0, 100.0), "top": (1, 10), "discount": (0.0, 0.9)}
    top: int = Field(default=1, gt=0, description="K: length of the slate that an item is to be in")
    correct: bool = Field(default=True, description="whether steps are weighted by pi / beta; no: as in the log")
    weight_cap: float = Field(default=10.0, gt=0, description="most that pi / beta counts: less variance for some bias")
    baseline: Literal["none", "mean"] = Field(default="none", description="taken off returns: nothing, or their mean")
    trace: float = Field(default=1.0, ge=1, le=1, description="in a world: returns are summed up to the episode's end")
    updates: ClassVar[Updates] = {**A2c.updates, "behaviour": ("behaviour",)}

    @classmethod
    def defaults(cls) -> dict[str, object]:
        """Those of a log; a setup that names a world has others for every algorithm."""
        return Algorithm.defaults()

    def networks(self, sizes: Sizes, vectors: Float32[np.ndarray, "items dim"], rng: np.random.Generator) -> Networks:
        """See `Algorithm.networks`."""
        if sizes.acts:
            return super().networks(sizes, vectors, rng)
        return {"actor": Point(sizes.dim), "behaviour": Point(sizes.dim)}

    def estimates(self, nets: Networks, batch: Transitions, items: ItemSpace) -> Float[Tensor, "steps"] | None:  # type: ignore[override]
        """The baseline; None of a log."""
        return super().estimates(nets, batch, items) if isinstance(batch, Choices) else None

    def losses(self, context: LossContext[Transitions]) -> dict[str, Tensor]:  # type: ignore[override]
        """In a world those of `a2c`. Of a log the actor's, whose gradient is the corrected one of section 4.3; the
        behaviour policy's cross entropy."""
        if isinstance(context.batch, Choices):
            return super().losses(context)  # type: ignore[arg-type]
        nets, batch, items = context.nets, context.batch, context.items
        points, losses = nets["actor"](batch.states), dict[str, Tensor]()
        weights = batch.returns - (context.mean(batch.returns) if self.baseline == "mean" else 0.0)
        if self.correct or self.top > 1:
            log_policy = items.log_probs(points, batch.actions)
            weights = weights * topk_correction(log_policy, self.top)
        if self.correct:
            log_behaviour, estimated = behaviour_of(context)
            losses |= estimated
            ratios = importance_weights(log_policy, log_behaviour, self.weight_cap)  # section 4.4
            weights = weights * (self_normalised(ratios, context.mean(ratios)) if isinstance(batch, Shown) else ratios)
            context.metrics["largest_weight"] = largest((log_policy - log_behaviour).exp())
        return {"actor": items.cross_entropy(points, batch.actions, weights), **losses}


def behaviour_of(context: LossContext[Transitions]) -> tuple[Float[Tensor, "steps"], dict[str, Tensor]]:
    """The log chance of each choice under whoever made it: as logged, or by the estimate, with the loss of that."""
    batch = context.batch
    if isinstance(batch, Shown):
        return batch.log_propensities, {}
    points = context.nets["behaviour"](batch.states.detach())
    return context.items.log_probs(points, batch.actions), {"behaviour": behaviour_loss(points, context)}


def behaviour_loss(points: Float[Tensor, "steps dim"], context: LossContext[Transitions]) -> Float[Tensor, ""]:
    """The cross entropy of one in `SHARE` steps, each in its turn; the item vectors are taken as they are."""
    turn, part, items = context.step % SHARE, context.part, context.items
    fixed = replace(items, vectors=items.vectors.detach())
    if part is None:
        return fixed.cross_entropy(points[turn::SHARE], context.batch.actions[turn::SHARE])
    some = np.flatnonzero(part.steps % SHARE == turn)
    # The sum over those of this part, over their count in the whole batch; the mean is weighted by all steps later.
    share = len(some) / max(1, len(range(turn, part.total, SHARE))) * part.total / max(1, len(part.steps))
    return share * fixed.cross_entropy(points[some], context.batch.actions[some])
