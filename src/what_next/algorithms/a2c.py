"""Advantage actor-critic over slates, or over points whose best items are taken."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from what_next.algorithms.base import LossContext, Search
from what_next.algorithms.on_policy import OnPolicy
from what_next.losses.rl import mean
from what_next.types import Choices


class A2c(OnPolicy):
    """A2C: the policy gradient with advantages, one step per experience (Mnih et al. 2016, algorithm S3)."""

    name: Literal["a2c"] = "a2c"
    entropy: float = Field(default=0.01, ge=0, description="weight of the policy's entropy")
    search: ClassVar[Search] = {"trace": (0.5, 1.0), "entropy": (0.0, 0.01)}

    def losses(self, context: LossContext[Choices]) -> dict[str, Tensor]:  # type: ignore[override]
        """Minus the log probability times the advantage, with an entropy bonus; the losses of the value and effects."""
        logs, entropy = self.log_chances(context)
        actor = -mean(logs, self.advantages(context.batch)) - self.entropy * entropy.mean()
        return {"actor": actor, **self.other_losses(context)}
