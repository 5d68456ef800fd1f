"""The supervised head, weighted by the advantage of the item that came next."""

from typing import ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from what_next.algorithms.base import LossContext, Updates, largest
from what_next.algorithms.reinforce import behaviour_of
from what_next.algorithms.snqn import Snqn, judged, others
from what_next.types import Shown, Transitions


class Sa2c(Snqn):
    """Supervised advantage actor-critic (SA2C: Xin et al. 2021, arXiv 2111.03474): `snqn`, and then its advantages.

    After a warm-up, the actor's loss of a step is weighted by the advantage of the item that came next over the mean of
    it and the drawn negatives. A negative advantage makes the item less likely, and `clip` bounds how strongly. With
    `smooth` above 0, a step is also weighted by a power of pi / beta, the actor's probability of the item over that of
    the log's policy. For beta the paper takes the item's share of all events; here a head estimates it from the state,
    as in `reinforce`, or it is the logged propensity if a service showed the item.
    """

    name: Literal["sa2c"] = "sa2c"  # type: ignore[assignment]
    warm_up: int = Field(default=500, ge=0, description="steps without weights, while the critic's values mean little")
    clip: float = Field(default=5.0, gt=0, description="advantages are clipped to plus and minus this (unit: reward)")
    smooth: float = Field(default=0.0, ge=0, le=1, description="power of the weight pi / beta (0.1 to 10); 0: none")
    updates: ClassVar[Updates] = {**Snqn.updates, "behaviour": ("behaviour",)}

    def losses(self, context: LossContext[Transitions]) -> dict[str, Tensor]:
        """The paper's L_A = L_s · A(s_t, a_t), no gradient through A, and L_q; in the warm-up L_s and L_q."""
        nets, batch, items = context.nets, context.batch, context.items
        values, error = judged(context, others(context, self.negatives))
        points, weights = nets["actor"](batch.states), None
        losses = {"critic": self.weight * error}
        if context.step >= self.warm_up:
            weights = self.advantages(values.detach())
            if isinstance(batch, Shown) and not self.smooth:
                weights = weights * batch.inverse  # an item shown often must not look better for that
        if self.smooth:
            chances, estimated = behaviour_of(context)
            losses |= estimated
            if weights is not None:
                ratio = items.log_probs(points, batch.actions) - chances
                weights = weights * ratio.exp().clamp(0.1, 10) ** self.smooth
        if weights is not None:
            context.metrics["largest_weight"] = largest(weights.abs())
        return {"actor": context.cross_entropy(weights), **losses}

    def advantages(self, values: Float[Tensor, "steps choices"]) -> Float[Tensor, "steps"]:
        """The first value of each row minus the row's mean, clipped."""
        return (values[:, 0] - values.mean(-1)).clamp(-self.clip, self.clip)
