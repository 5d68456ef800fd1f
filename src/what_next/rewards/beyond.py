"""Rewards beyond accuracy: diversity, novelty, serendipity, and signs of boredom and of return in a user's events."""

from math import inf, sqrt
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from what_next.data import Dataset
from what_next.errors import SetupError
from what_next.rewards.base import NEVER, Events, Reward, events_since, latest

HOUR = 3600 * 10**6  # microseconds
SMALLEST = 1e-9
"""A profile with a smaller deviation has no correlation."""


def unexpectedness(events: Events, window: int) -> Float[Tensor, "batch time"]:
    """The mean distance of each item to the `window` before it, in units of the typical distance; 0 for the first.

    The typical distance of two items is the root of twice the number of attributes, because two random items differ by
    2 in the mean square of each standardised attribute. The loop is over lags, so that memory grows neither with the
    window nor with the square of the history.
    """
    points, steps = events.points, events.items.shape[1]
    sums = points.new_zeros(points.shape[:2])
    for lag in range(1, min(window, steps - 1) + 1):
        sums[:, lag:] += (points[:, lag:] - points[:, :-lag]).norm(dim=-1)
    means = sums / torch.arange(steps, device=points.device).clamp(1, window)
    return means / sqrt(2 * max(1, events.vectors.shape[1])) * events.real


class Diversity(Reward):
    """The mean distance of the new item to the latest ones; 1 is the typical distance of two items of the catalogue.

    It is the item's contribution to the intra-list distance (Ziegler et al. 2005, "Improving recommendation lists
    through topic diversification") of the latest items; Vargas and Castells 2011 call it distance-based novelty ("Rank
    and relevance in novelty and diversity metrics for recommender systems").
    """

    needs: ClassVar[tuple[str, ...]] = ("attributes",)
    bounds: ClassVar[tuple[float, float]] = (0.0, inf)
    window: int = Field(default=20, ge=1, description="how many of the latest events the new item is compared with")

    def of(self, events: Events) -> Float[Tensor, "batch time"]:
        """See `Reward.of`."""
        return unexpectedness(events, self.window)


class Serendipity(Reward):
    """The distance of a liked item to the latest ones (see `Diversity`); 0 for an item that was not liked.

    It is both unexpected and useful (Ge et al. 2010, "Beyond accuracy: evaluating recommender systems by coverage and
    serendipity"). Unexpectedness is the mean distance to known items, as in Castells, Hurley and Vargas 2015 ("Novelty
    and diversity in recommender systems").
    """

    needs: ClassVar[tuple[str, ...]] = ("attributes",)
    bounds: ClassVar[tuple[float, float]] = (0.0, inf)
    window: int = Field(default=20, ge=1, description="how many of the latest events the new item is compared with")
    above: float = Field(default=0.0, description="an item was liked where its logged reward is above this")

    def of(self, events: Events) -> Float[Tensor, "batch time"]:
        """See `Reward.of`."""
        return unexpectedness(events, self.window) * (events.rewards > self.above)


class Novelty(Reward):
    """The self-information of the item, -log2 of its share of all training events, over that of the rarest one.

    0 for an item that has all events, 1 for the rarest item and for an item without events. Self-information: Zhou et
    al. 2010 (PNAS 107, "Solving the apparent diversity-accuracy dilemma of recommender systems"); on shares of events
    it is the expected free discovery of Vargas and Castells 2011 ("Rank and relevance in novelty and diversity metrics
    for recommender systems"). The shares are a statistic of the catalogue, like its scaling.
    """

    needs: ClassVar[tuple[str, ...]] = ("popularity",)
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def of(self, events: Events) -> Float[Tensor, "batch time"]:
        """See `Reward.of`."""
        assert events.popularity is not None
        known = events.popularity > 0
        information = torch.where(known, -events.popularity.double().clamp(min=1e-300).log2(), 0.0)
        most = information.max()
        if most <= 0:
            return torch.zeros_like(events.rewards)
        novelty = torch.where(known, information / most, 1.0)
        return (novelty[events.items.clamp(min=0)] * events.real).float()


class Repeat(Reward):
    """-1 for the item that was heard right before, closer to 0 the longer ago it was heard, 0 for a new item.

    Users tire of an item and recover with time: Kapoor et al. 2015 ("Just in time recommendations: modeling the
    dynamics of boredom in activity streams"). A positive weight discourages repeats, a negative one encourages them.
    (`reward.spread.repeat_factor` damps only the spread reward.)
    """

    bounds: ClassVar[tuple[float, float]] = (-1.0, 0.0)
    fade: float = Field(
        default=0.9, gt=0, le=1, description="factor of a repeat's penalty for each further event in between"
    )

    def of(self, events: Events) -> Float[Tensor, "batch time"]:
        """See `Reward.of`."""
        since = events_since(events.items)
        return -(self.fade ** (since - 1).clamp(min=0)) * ((since > 0) & events.real)


class ReturnTime(Reward):
    """1 if the user's next event follows at once, 1/2 if it takes `half` hours, 0 if none is known.

    The inverse of the return time, as in FeedRec (Zou et al. 2019, arXiv 1902.05570), with `half` added to the
    denominator so that it stays finite. The last known event of a user earns 0, whether the user stayed away or the log
    ended.
    """

    reads_future: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("times",)
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    half: float = Field(default=24.0, gt=0, description="hours until the next event at which the reward is 1/2")

    def of(self, events: Events) -> Float[Tensor, "batch time"]:
        """See `Reward.of`."""
        assert events.times is not None
        assert events.after is not None
        last = events.real & ~torch.nn.functional.pad(events.real[:, 1:], (0, 1))
        following = torch.where(last, events.after[:, None], events.times.roll(-1, 1))
        hours = (following - events.times).double() / HOUR
        return torch.where(events.real & (following != NEVER), self.half / (self.half + hours), 0.0).float()


class ProfileCorrelation(Reward):
    """Pearson's correlation, over the attributes, of the mean vector of the latest events with the user's profile.

    The latest events include the new item; the profile is the mean vector of all of the user's events that training may
    know. It knows the future, so it is a label. 0 if either vector is constant over the attributes.
    """

    reads_future: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("attributes", "profile")
    bounds: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    window: int = Field(default=20, ge=1, description="how many of the latest events are compared with the profile")

    def check(self, dataset: Dataset) -> None:
        """See `Reward.check`; a single attribute has no correlation."""
        super().check(dataset)
        if np.count_nonzero(dataset.catalogue.scale) < 2:
            raise SetupError(
                f"{self.key} needs two attributes of the items or more, and {dataset.name} has one; import the data "
                f"with more, or leave out {self.key}.weight"
            )

    def of(self, events: Events) -> Float[Tensor, "batch time"]:
        """See `Reward.of`."""
        assert events.profile is not None
        # A sum of the latest vectors correlates as their mean does.
        recent = latest(events.points.double(), self.window)
        recent = recent - recent.mean(-1, keepdim=True)
        profile = (events.profile - events.profile.mean(-1, keepdim=True)).double()[:, None]
        scale = recent.norm(dim=-1) * profile.norm(dim=-1)
        correlation = (recent * profile).sum(-1) / scale.clamp(min=SMALLEST)
        return torch.where(events.real & (scale > SMALLEST), correlation.clamp(-1, 1), 0.0).float()
