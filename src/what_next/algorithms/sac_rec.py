"""The supervised head, weighted by the critic's value of the item that came next."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from what_next.algorithms.base import LossContext, largest
from what_next.algorithms.dqn import double_q_target
from what_next.algorithms.sqn import Sqn
from what_next.losses.rl import td_loss
from what_next.types import Shown, Transitions


class SacRec(Sqn):
    """Self-supervised actor-critic (SAC: Xin et al. 2020, arXiv 2006.05779); not soft actor-critic, hence the name.

    Imitation weighted by value: the actor's probability of an item becomes proportional to how often it came next times
    its value. So a rare item wins if its value is high enough, and an item that never came next does not. It is meant
    for rewards that are not negative: a negative value counts as 0, because a negative weight would lower an item's
    log probability without bound. One critic with a target network, as in `sqn`.
    """

    name: Literal["sac_rec"] = "sac_rec"  # type: ignore[assignment]
    warm_up: int = Field(default=500, ge=0, description="steps without weights, while the critic's values mean little")

    def losses(self, context: LossContext[Transitions]) -> dict[str, Tensor]:
        """The paper's L_A = L_s · Q(s_t, a_t), no gradient through Q, and L_q; in the warm-up L_s and L_q."""
        values, weights = context.values(), None
        if context.step >= self.warm_up:
            weights = values.detach().clamp(min=0)
            if isinstance(context.batch, Shown):
                weights = weights * context.batch.inverse  # an item shown often must not look better for that
            context.metrics["largest_weight"] = largest(weights)
        return {
            "actor": context.cross_entropy(weights),
            "critic": self.weight * td_loss(values, double_q_target(context)),
        }
