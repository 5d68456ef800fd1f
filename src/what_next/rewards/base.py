"""What every reward is, and what it reads."""

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
"""A time that does not come."""


@dataclass(frozen=True, eq=False)
class Events:
    """The events of some users, oldest first, padded at the end: what rewards read.

    A row may begin in the middle of a user's history; what came before it is not known to a reward. The statistics of
    items (`vectors`, `popularity`) are fixed for a data set. What is known of a user beyond the row is a label: it may
    know the future, and a reward that reads it says so (`Reward.reads_future`).

    Attributes:
        items: positions in the catalogue; -1 is padding.
        rewards: the logged reward of each event (`Logged.of_events`).
        times: of each event, in microseconds; None where the log has none.
        vectors: standardised attributes of the items; no columns where the catalogue has none.
        popularity: each item's share of all events that training may know; None where no reward asks for it.
        sigma: a label: the spread of all that the user likes.
        profile: a label: the mean vector of all of the user's events; None where no reward asks for it.
        after: a label: the time of the user's first event after the row, in microseconds, `NEVER` where none is known;
            None where the log has no times.
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
        """Where there is an event, and no padding."""
        return self.items >= 0

    @property
    def points(self) -> Float[Tensor, "batch time attributes"]:
        """The vectors of the events; padding holds anything finite."""
        return self.vectors[self.items.clamp(min=0)]


class Reward(Explained, BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """A reward: for each event, what it was worth to play its item to a user who had heard the events before.

    Its settings are the object. It looks at the events up to the one that it rewards, and at nothing later, unless
    `reads_future`.
    """

    reads_future: ClassVar[bool] = False
    """Whether it reads what follows the event, as a label: learnt from, and never an input of a network."""
    needs: ClassVar[tuple[str, ...]] = ()
    """What the data must have: `attributes`, `times`; and what is counted where it is asked for: `popularity`, and
    `profile`, a label."""

    bounds: ClassVar[tuple[float, float]] = (-inf, inf)
    """The `range`, where no setting changes it; infinite where there is no such bound."""

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
        """The reward of each event; 0 at padding, and where there is nothing to compare the item with."""

    def check(self, dataset: Dataset) -> None:
        """Raises a `SetupError` where the data lack what this reward needs."""
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
    """How many events ago each event's item was heard last (1: right before); 0 where it was not."""
    order = items.argsort(dim=1, stable=True)
    in_order = items.gather(1, order)
    again = in_order[:, 1:] == in_order[:, :-1]
    since = torch.zeros_like(items)
    return since.scatter(1, order[:, 1:], (order[:, 1:] - order[:, :-1]) * again)
