"""Profile correlation: how what was heard lately agrees with all that the user hears."""

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from what_next.data import Dataset
from what_next.errors import SetupError
from what_next.rewards.base import Heard, Reward
from what_next.rewards.windows import latest


class ProfileCorrelation(Reward):
    """Pearson's correlation, over the attributes, of the mean vector of the latest events with the user's profile.

    The latest events are those up to and with the new item; the profile is the mean vector of all of the user's events
    that training may know. It knows the future, so it is a label. 0 where either is the same in every attribute.
    """

    reads_future: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("attributes", "profile")
    window: int = Field(default=20, ge=1, description="how many of the latest events are compared with the profile")

    @property
    def range(self) -> tuple[float, float]:
        """From -1 to 1."""
        return -1.0, 1.0

    def check(self, dataset: Dataset) -> None:
        """See `Reward.check`; a single attribute has no correlation."""
        super().check(dataset)
        if len(dataset.catalogue.names) < 2:
            raise SetupError(
                f"{self.key} needs two attributes of the items or more, and {dataset.name} has one; import the data "
                f"with more, or leave out {self.key}.weight"
            )

    def of(self, log: Heard) -> Float[Tensor, "batch time"]:
        """See `Reward.of`."""
        assert log.profile is not None
        # A sum of the latest vectors correlates as their mean does.
        recent = latest(log.points.double(), self.window)
        recent = recent - recent.mean(-1, keepdim=True)
        profile = (log.profile - log.profile.mean(-1, keepdim=True)).double()[:, None]
        scale = recent.norm(dim=-1) * profile.norm(dim=-1)
        correlation = (recent * profile).sum(-1) / scale.clamp(min=SMALLEST)
        return torch.where(log.real & (scale > SMALLEST), correlation.clamp(-1, 1), 0.0).float()


SMALLEST = 1e-9
