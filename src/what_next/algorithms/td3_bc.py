"""Td3 with a loss that keeps the actor near the log."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from what_next.algorithms.base import LossContext, Search, Updates
from what_next.algorithms.td3 import Td3
from what_next.losses.rl import mean
from what_next.types import Transitions


class Td3Bc(Td3):
    """Td3 with behaviour cloning (Fujimoto and Gu 2021, arXiv 2106.06860): a penalty on leaving the log.

    The actor's loss is -lambda Q(s, pi(s)) + cloning (equation 3), where lambda = alpha / mean |Q| makes it independent
    of the reward's unit (equation 5; the values are those of the actor's own points, as in the authors' code). The
    paper clones by squared distance, whose best point is the mean of all that came next. A user's possible next items
    are many and far apart, so the default is the next item's cross entropy: the same likelihood, of a policy over
    items.

    The cloning updates the encoder too, and at every step, because the encoder would otherwise learn half as fast. The
    critic's value updates only the actor. States are not standardised (equation 4), because the encoder's are bounded.
    """

    name: Literal["td3_bc"] = "td3_bc"  # type: ignore[assignment]
    linear: ClassVar[bool] = True
    search: ClassVar[Search] = {"sharpness": (5.0, 20.0), "alpha": (0.5, 10.0), "discount": (0.0, 0.9)}
    candidates: int = Field(default=1, ge=1, description="nearest items that the critic orders; 1: by distance alone")
    supervised: float = Field(default=0.0, ge=0, description="weight of the states' cross entropy (distance cloning)")
    alpha: float = Field(default=2.5, ge=0, description="weight of the critic against the cloning; 0: only cloning")
    cloning: Literal["cross_entropy", "distance"] = Field(
        default="cross_entropy", description="cross entropy of the next item, or squared distance to its vector"
    )
    replays: ClassVar[bool] = False
    updates: ClassVar[Updates] = {**Td3.updates, "cloning": ("encoder", "actor")}

    def actor_losses(self, context: LossContext[Transitions]) -> dict[str, Tensor]:
        """The actor's loss of `td3`, weighted by lambda, when it is due; and the cloning."""
        losses = {"cloning": self.clone(normalize(context.nets["actor"](context.batch.states), dim=-1), context)}
        if self.alpha and context.step % self.delay == 0:
            values = self.climb(context)[1]
            losses["actor"] = -self.alpha * values.mean() / context.mean(values.abs()).clamp(min=1e-6)
        return losses

    def clone(self, points: Tensor, context: LossContext[Transitions]) -> Tensor:
        """The cloning loss of the points; items that a service showed are weighted by the reward they brought."""
        actions, items, weights = context.batch.actions, context.items, context.imitated
        if self.cloning == "cross_entropy":
            return items.cross_entropy(self.sharpness * points, actions, weights)
        return mean((points - items.rows(actions).detach()).square().sum(-1), weights)
