"""Repeat: a price for what was heard already."""

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from what_next.rewards.base import Heard, Reward
from what_next.rewards.windows import events_since


class Repeat(Reward):
    """Minus 1 for the item that was heard right before, less the longer ago that was, 0 for one that is new.

    Who hears an item tires of it, and recovers with time: Kapoor et al. 2015 ("Just in time recommendations: modeling
    the dynamics of boredom in activity streams"). With a positive weight it damps repeats, with a negative one it
    brings them on. (`reward.spread.repeat_factor` damps the spread reward alone.)
    """

    fade: float = Field(
        default=0.9, gt=0, le=1, description="what is left of a repeat's price with each further event in between"
    )

    @property
    def range(self) -> tuple[float, float]:
        """From -1 to 0."""
        return -1.0, 0.0

    def of(self, log: Heard) -> Float[Tensor, "batch time"]:
        """See `Reward.of`."""
        since = events_since(log.items)
        return -(self.fade ** (since - 1).clamp(min=0)) * ((since > 0) & log.real)
