"""Ddpg with twin critics, a delayed actor and smoothed targets."""

from typing import Literal

import numpy as np
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from what_next.algorithms.base import LossContext, Points
from what_next.algorithms.ddpg import Ddpg
from what_next.types import Transitions


class Td3(Ddpg):
    """Three remedies against a critic that expects too much (Fujimoto et al. 2018, arXiv 1802.09477).

    The smaller of two critics is the target (section 4.2), the actor is updated less often than the critics (section
    5.2), and noise on the target's action makes nearby points alike (section 5.3). These reduce the critic's errors
    outside the log, but do not tie the actor to the log. With one critic, no noise and no delay it is `ddpg`. Unlike in
    the paper's algorithm 1, the target critics follow at every step, not with the actor.
    """

    name: Literal["td3"] = "td3"  # type: ignore[assignment]
    critics: int = Field(default=2, ge=1, description="how many critics; the smallest of their values is the target")
    delay: int = Field(default=2, ge=1, description="the actor is updated once in this many steps")
    noise: float = Field(default=0.2, ge=0, description="length of noise on the target actor's points, in radii")
    noise_clip: float = Field(default=0.5, gt=0, description="bound of each entry's noise, in units of dim ** -0.5")

    def actor_losses(self, context: LossContext[Transitions]) -> dict[str, Tensor]:
        """The actor's loss of `ddpg`, when it is due."""
        return {} if context.step % self.delay else super().actor_losses(context)

    def smooth(self, points: Points, context: LossContext[Transitions]) -> Points:
        """Points with clipped noise, back on the sphere (equation 15).

        The entries of a point on the sphere shrink with the square root of its dimension, and so does their noise.
        """
        if not self.noise:
            return points
        width = points.shape[-1]
        drawn = context.draw(lambda steps: context.rng.standard_normal((steps, width), dtype=np.float32))
        noise = (self.noise * drawn).clamp(-self.noise_clip, self.noise_clip)
        return normalize(points + noise * width**-0.5, dim=-1)
