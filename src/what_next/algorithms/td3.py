"""Ddpg with twin critics, a delayed actor and smoothed targets."""

from typing import Literal

import numpy as np
from jaxtyping import Float, Float32
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from what_next.algorithms.base import LossContext, Networks
from what_next.algorithms.ddpg import Critics, Ddpg
from what_next.models.actor_critic import Sizes
from what_next.models.heads import Point
from what_next.types import Transitions


class Td3(Ddpg):
    """Three remedies against a critic that expects too much (Fujimoto et al. 2018, arXiv 1802.09477).

    The smaller of two critics is the target (section 4.2), the actor is updated less often than they (section 5.2), and
    noise on the target's action makes them alike for points that are near each other (section 5.3). They lessen what
    the critic makes up beyond the log, and do not bind the actor to it. With one critic, no noise and no delay it is
    `ddpg`. Unlike in the paper's algorithm 1, the target critics follow at every step, and not with the actor.
    """

    name: Literal["td3"] = "td3"  # type: ignore[assignment]
    critics: int = Field(default=2, ge=1, description="how many critics; the smallest of their values is the target")
    delay: int = Field(default=2, ge=1, description="the actor is updated at every so many steps")
    noise: float = Field(
        default=0.2, ge=0, description="length of the noise on the target actor's points, in radii of the sphere"
    )
    noise_clip: float = Field(default=0.5, gt=0, description="each entry's noise is clipped, as if all were so long")

    def networks(self, sizes: Sizes, vectors: Float32[np.ndarray, "items dim"], rng: np.random.Generator) -> Networks:
        """An actor, and several critics in one network."""
        return {"actor": Point(sizes.dim), "critic": Critics(sizes.dim, self.critics)}

    def actor_losses(self, context: LossContext[Transitions]) -> dict[str, Tensor]:
        """That of ddpg, when it is due."""
        return {} if context.step % self.delay else super().actor_losses(context)

    def smooth(
        self, points: Float[Tensor, "steps dim"], context: LossContext[Transitions]
    ) -> Float[Tensor, "steps dim"]:
        """Points with clipped noise, back on the sphere (equation 15).

        The entries of a point on the sphere shrink with the square root of its dimension, and so does their noise.
        """
        if not self.noise:
            return points
        width = points.shape[-1]
        drawn = context.draw(lambda steps: context.rng.standard_normal((steps, width), dtype=np.float32))
        noise = (self.noise * drawn).clamp(-self.noise_clip, self.noise_clip)
        return normalize(points + noise * width**-0.5, dim=-1)
