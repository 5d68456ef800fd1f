"""The base class of all rewards, and the events that they read."""

from abc import abstractmethod
from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from pydantic import BaseModel, Field
from torch import Tensor

from what_next.data import Dataset
from what_next.errors import Explained, SetupError

NEVER = torch.iinfo(torch.int64).max
"""The time of an event that never comes."""


@dataclass(frozen=True, eq=False)
class Events:
    """The events of some users, oldest first, padded at the end: the input of rewards.

    A row may begin in the middle of a user's history; a reward does not know earlier events. The item statistics
    (`vectors`, `popularity`) are fixed for a data set. All other information about a user is a label: it may know the
    future, and a reward that reads it must say so (`Reward.reads_future`).

    Attributes:
        items: positions in the catalogue; -1 is padding.
        rewards: the logged reward of each event (`Logged.of_events`).
        times: time of each event, in microseconds; None if the log has no times.
        vectors: standardised attributes of the items; no columns if the catalogue has none.
        popularity: each item's share of all events that training may know; None if no reward needs it.
        sigma: a label: the spread of everything that the user likes.
        profile: a label: the mean vector of all of the user's events; None if no reward needs it.
        after: a label: the time of the user's first event after the row, in microseconds, `NEVER` if none is known;
            None if the log has no times.
    """

    items: Int64[Tensor, "batch time"]
    rewards: Float[Tensor, "batch time"]
    times: Int64[Tensor, "batch time"] | None
    vectors: Float[Tensor, "items attributes"]
    popularity: Float[Tensor, "items"] | None
    sigma: Float[Tensor, "batch"]
    profile: Float[Tensor, "batch attributes"] | None = None
    after: Int64[Tensor, "batch"] | None = None

    @property
    def real(self) -> Bool[Tensor, "batch time"]:
        """True at events, False at padding."""
        return self.items >= 0

    @property
    def points(self) -> Float[Tensor, "batch time attributes"]:
        """The vectors of the events; at padding any finite values."""
        return self.vectors[self.items.clamp(min=0)]


class Reward(Explained, BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """A reward: for each event, the worth of playing its item to a user who had heard the events before.

    Its settings are its fields. It reads the event and earlier ones, and nothing later, unless `reads_future`.
    """

    reads_future: ClassVar[bool] = False
    """Whether it reads what follows the event: then it is only a label to learn from, never an input of a network."""
    needs: ClassVar[tuple[str, ...]] = ()
    """What it needs: `attributes` and `times` of the data, and on demand `popularity` and `profile` (a label)."""

    bounds: ClassVar[tuple[float, float]] = (-inf, inf)
    """The `range` if no setting changes it; infinite without a bound."""

    weight: float | None = Field(
        default=None,
        description="weight of this reward in the sum that an algorithm which learns from the log earns; none: it does "
        "not count",
    )

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest reward, before the weight."""
        return self.bounds

    @abstractmethod
    def of(self, events: Events) -> Float[Tensor, "batch time"]:
        """The reward of each event; 0 at padding, and if there is nothing to compare the item with."""

    def check(self, dataset: Dataset) -> None:
        """Raise a `SetupError` if the data lack what this reward needs."""
        if "attributes" in self.needs and not dataset.catalogue.informative:
            raise SetupError(
                f"{self.key} needs attributes of the items, and {dataset.name} has none; import the data with "
                f"--attributes or --items, or leave out {self.key}.weight"
            )
        if "times" in self.needs and dataset.timestamps is None:
            raise SetupError(
                f"{self.key} needs the times of events, and {dataset.name} has none; import the data with --time, or "
                f"leave out {self.key}.weight"
            )

    @property
    def key(self) -> str:
        """Its key in a setup: `reward.return_time` for `ReturnTime`."""
        name = type(self).__name__
        return "reward." + "".join(f"_{c.lower()}" if c.isupper() else c for c in name).strip("_")


def latest(values: Float[Tensor, "batch time last"], window: int) -> Float[Tensor, "batch time last"]:
    """Sums over the latest `window` steps."""
    sums = values.cumsum(1)
    return torch.cat([sums[:, :window], sums[:, window:] - sums[:, :-window]], 1)


def events_since(items: Int64[Tensor, "batch time"]) -> Int64[Tensor, "batch time"]:
    """How many events ago each event's item was last heard (1: right before); 0 if never."""
    order = items.argsort(dim=1, stable=True)
    in_order = items.gather(1, order)
    again = in_order[:, 1:] == in_order[:, :-1]
    since = torch.zeros_like(items)
    return since.scatter(1, order[:, 1:], (order[:, 1:] - order[:, :-1]) * again)
