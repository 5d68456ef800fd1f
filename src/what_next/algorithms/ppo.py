"""Proximal policy optimisation over slates, or over points whose best items are taken."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from what_next.algorithms.base import LossContext, Search
from what_next.algorithms.on_policy import OnPolicy
from what_next.losses.rl import clipped_surrogate
from what_next.types import Choices


class Ppo(OnPolicy):
    """PPO: learns several times from an experience, within a clipped change of policy (Schulman et al. 2017)."""

    name: Literal["ppo"] = "ppo"
    search: ClassVar[Search] = {"clip": (0.1, 0.3), "repeats": (1, 10), "trace": (0.5, 1.0), "entropy": (0.0, 0.01)}
    clip: float = Field(default=0.2, gt=0, lt=1, description="largest relative change of a choice's probability")
    repeats: int = Field(default=4, gt=0, description="how often it learns from an experience")
    parts: int = Field(default=4, gt=0, description="into how many parts it divides an experience, one step each")

    @property
    def turns(self) -> tuple[int, int]:
        """See `OnPolicy.turns`."""
        return self.repeats, self.parts

    def losses(self, context: LossContext[Choices]) -> dict[str, Tensor]:  # type: ignore[override]
        """The clipped surrogate (equation 7) with an entropy bonus (equation 9); the value's and effects' losses."""
        batch = context.batch
        logs, entropy = self.log_chances(context)
        ratios = (logs - batch.propensities).exp()
        actor = clipped_surrogate(ratios, self.advantages(batch), self.clip) - self.entropy * entropy.mean()
        context.metrics["clipped"] = float(((ratios - 1).abs() > self.clip).float().mean())
        return {"actor": actor, **self.other_losses(context)}
