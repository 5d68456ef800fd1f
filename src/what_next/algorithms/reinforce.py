"""The policy gradient, corrected for the log's own policy."""

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
"""The estimate of the behaviour policy learns from every `SHARE`-th step of a batch, which is enough and faster."""


class Reinforce(A2c):
    """REINFORCE: on-policy in a world; from a log, corrected off-policy (top-K: Chen et al. 2019, arXiv 1812.02353).

    In a world (Williams 1992, section 7; Sutton and Barto 2018, section 13.4) it plays whole episodes. The log
    probability of a choice is weighted by the return that followed less a baseline, the learned value of the state.
    Propensities are known, and no return is estimated, even at a time limit. The rest of this text is about a log.

    Each step is weighted by its return, times the actor's probability of the item over that of the log's policy. The
    log's policy is estimated by a head of its own on the same states, whose loss updates nothing else (section 4.2; the
    item vectors are the actor's). The correction is for the step alone (the first-order approximation of section 4):
    the return is still that of the log's later choices. With `top` above 1, an item that is likely to be among that
    many draws anyway is not pushed further (section 4.3).

    For items that a service showed, the logged propensity replaces the estimate. The weights are then divided by their
    mean over the batch (self-normalised: section 4.4; Swaminathan and Joachims 2015, NIPS, equation 9). The actor's
    probability is over the whole catalogue, the logged one over the items that could still be shown.
    """

    name: Literal["reinforce"] = "reinforce"  # type: ignore[assignment]
    source: ClassVar[str] = "log"
    episodes: ClassVar[bool] = True
    linear: ClassVar[bool] = True
    search: ClassVar[Search] = {"weight_cap": (1.0, 100.0), "top": (1, 10), "discount": (0.0, 0.9)}
    top: int = Field(default=1, gt=0, description="K: length of the slate that an item should be in")
    correct: bool = Field(default=True, description="whether steps are weighted by pi / beta; no: weight 1, as logged")
    weight_cap: float = Field(default=10.0, gt=0, description="cap of pi / beta: less variance for some bias")
    baseline: Literal["none", "mean"] = Field(default="none", description="subtracted from returns: nothing or mean")
    trace: float = Field(default=1.0, ge=1, le=1, description="in a world: returns are summed up to the episode's end")
    updates: ClassVar[Updates] = {**A2c.updates, "behaviour": ("behaviour",)}

    @classmethod
    def defaults(cls) -> dict[str, object]:
        """The defaults for a log; with a world, the setup replaces them."""
        return Algorithm.defaults()

    def networks(self, sizes: Sizes, vectors: Float32[np.ndarray, "items dim"], rng: np.random.Generator) -> Networks:
        """See `Algorithm.networks`."""
        if sizes.acts:
            return super().networks(sizes, vectors, rng)
        return {"actor": Point(sizes.dim), "behaviour": Point(sizes.dim)}

    def estimates(self, nets: Networks, batch: Transitions, items: ItemSpace) -> Float[Tensor, "steps"] | None:  # type: ignore[override]
        """The baseline; None for a log."""
        return super().estimates(nets, batch, items) if isinstance(batch, Choices) else None

    def losses(self, context: LossContext[Transitions]) -> dict[str, Tensor]:  # type: ignore[override]
        """In a world the losses of `a2c`; for a log the actor's, whose gradient is the corrected one of section 4.3,
        and the behaviour policy's cross entropy."""
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
    """Log probability of each choice under the policy that made it: logged, or estimated, with the estimate's loss."""
    batch = context.batch
    if isinstance(batch, Shown):
        return batch.log_propensities, {}
    points = context.nets["behaviour"](batch.states.detach())
    return context.items.log_probs(points, batch.actions), {"behaviour": behaviour_loss(points, context)}


def behaviour_loss(points: Float[Tensor, "steps dim"], context: LossContext[Transitions]) -> Float[Tensor, ""]:
    """The cross entropy of every `SHARE`-th step, a different share each time; item vectors get no gradient."""
    turn, part, items = context.step % SHARE, context.part, context.items
    fixed = replace(items, vectors=items.vectors.detach())
    if part is None:
        return fixed.cross_entropy(points[turn::SHARE], context.batch.actions[turn::SHARE])
    some = np.flatnonzero(part.steps % SHARE == turn)
    # The sum over this part's share, divided by the count in the whole batch; the mean is later weighted by all steps.
    share = len(some) / max(1, len(range(turn, part.total, SHARE))) * part.total / max(1, len(part.steps))
    return share * fixed.cross_entropy(points[some], context.batch.actions[some])
