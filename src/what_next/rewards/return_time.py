"""Return time: how soon the user comes back."""

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from what_next.rewards.base import NEVER, Heard, Reward

HOUR = 3600 * 10**6  # microseconds


class ReturnTime(Reward):
    """1 where the user's next event follows at once, 1/2 where it takes `half` hours, 0 where none is known.

    The inverse of the return time, as in FeedRec (Zou et al. 2019, arXiv 1902.05570), with `half` added below the line
    so that it stays finite. The last known event of a user earns 0, whether the user stayed away or the log ended.
    """

    reads_future: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("times",)
    half: float = Field(default=24.0, gt=0, description="hours until the next event at which the reward is 1/2")

    @property
    def range(self) -> tuple[float, float]:
        """From 0 to 1."""
        return 0.0, 1.0

    def of(self, log: Heard) -> Float[Tensor, "batch time"]:
        """See `Reward.of`."""
        assert log.times is not None
        assert log.after is not None
        last = log.real & ~torch.nn.functional.pad(log.real[:, 1:], (0, 1))
        following = torch.where(last, log.after[:, None], log.times.roll(-1, 1))
        hours = (following - log.times).double() / HOUR
        return torch.where(log.real & (following != NEVER), self.half / (self.half + hours), 0.0).float()
