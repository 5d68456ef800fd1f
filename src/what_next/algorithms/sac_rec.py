"""The supervised head, weighted by what the critic expects of the item that came next."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from what_next.algorithms.base import LossContext, largest
from what_next.algorithms.dqn import double_q_target
from what_next.algorithms.sqn import Sqn
from what_next.losses.rl import td_loss
from what_next.types import Shown, Transitions


class SacRec(Sqn):
    """Self-supervised actor-critic (SAC: Xin et al. 2020, arXiv 2006.05779); no soft actor-critic, hence the name.

    Imitation, more of what is worth more: the actor's probability of an item ends proportional to how often it came
    next times its value. So a rare item wins where it is worth that much more, and one that never came next does not.
    Meant for rewards that are not negative: a negative value counts as 0, since a negative weight would push an item's
    log-probability down without end. One critic with a target network, as in `sqn`.
    """

    name: Literal["sac_rec"] = "sac_rec"  # type: ignore[assignment]
    warm_up: int = Field(default=500, ge=0, description="steps without weights, until the critic tells something")

    def losses(self, context: LossContext[Transitions]) -> dict[str, Tensor]:
        """The paper's L_A = L_s · Q(s_t, a_t), no gradient through Q, and L_q; in the warm-up L_s and L_q."""
        values, weights = context.values(), None
        if context.step >= self.warm_up:
            weights = values.detach().clamp(min=0)
            if isinstance(context.batch, Shown):
                weights = weights * context.batch.inverse  # what is shown often is not liked for that
            context.metrics["largest_weight"] = largest(weights)
        return {
            "actor": context.cross_entropy(weights),
            "critic": self.weight * td_loss(values, double_q_target(context)),
        }
