"""What training may know about a data set as a whole: the items, and the scaling of items and events."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, Int32, Int64

from what_next.data.batches import capped, ranges
from what_next.data.catalogue import Catalogue
from what_next.data.dataset import Dataset
from what_next.data.splits import Split
from what_next.errors import CatalogueError
from what_next.types import History

DAY = 24 * 3600 * 10**6  # microseconds
CLOCK = "time_of_day_sin", "time_of_day_cos"
EVENTS = 2**22
"""Events processed at a time, because a log may be larger than memory."""


@dataclass(frozen=True, eq=False)
class Space:
    """The catalogue, and what training may know about the log as a whole. It is stored with a model.

    Attributes:
        catalogue: standardised on the items that have a training event.
        seen: indices of those items; empty in a model file's space.
        tolerance: largest distance of a matching item from a proposal in each attribute, in standard deviations.
        typical: the mean spread (sigma) of the training users, in standard deviations.
        event_names: the known numbers of an event besides its item: `reward` first if the log has one.
        counts: training events of each item; None in a model file's space.
        cold: share of the validation targets whose item has no training event; 0 in a model file's space.
        events_per_user: mean training events of users with two or more; 0 in a model file's space.
        event_center, event_scale: mean and standard deviation of each number over the training events.
    """

    catalogue: Catalogue
    seen: Int32[np.ndarray, "seen"]
    tolerance: float
    typical: float
    event_names: tuple[str, ...]
    event_center: Float32[np.ndarray, "numbers"]
    event_scale: Float32[np.ndarray, "numbers"]
    counts: Int32[np.ndarray, "items"] | None = None
    events_per_user: float = 0.0
    cold: float = 0.0

    @property
    def events(self) -> int:
        """The number of training events; 0 in a model file's space."""
        return 0 if self.counts is None else int(self.counts.sum(dtype=np.int64))

    @property
    def events_per_item(self) -> float:
        """Mean training events of items with any; 0 in a model file's space."""
        return 0.0 if self.counts is None else self.events / max(1, int((self.counts > 0).sum()))

    def with_tolerance(self, tolerance: float | None) -> "Space":
        """This space with the setup's tolerance, if it has one, in place of its own."""
        return replace(self, tolerance=tolerance or self.tolerance)

    @property
    def context_names(self) -> list[str]:
        """The numbers of an event except its reward, which a request can also give as its context."""
        return [name for name in self.event_names if name != "reward"]

    def standardised(self, numbers: Float[np.ndarray, "*grid numbers"]) -> Float32[np.ndarray, "*grid numbers"]:
        """Numbers of events (`event_names`), standardised for the networks."""
        return np.asarray((numbers - self.event_center) / self.event_scale, np.float32)

    def measured(self, space: "Space") -> "Space":
        """This space with the counts of another one's training data, which no model file holds."""
        return replace(
            self, seen=space.seen, counts=space.counts, events_per_user=space.events_per_user, cold=space.cold
        )


def scaled_space(dataset: Dataset, split: Split) -> Space:
    """The catalogue and the events' numbers, scaled by the training events; nothing else is measured yet.

    Raises:
        DataError: no item has a training event.
    """
    counts = item_counts(dataset, split.known)
    seen = np.flatnonzero(counts).astype(np.int32)
    catalogue = dataset.catalogue.standardised(seen)
    center, scale = _moments(dataset, split)
    return Space(
        catalogue=catalogue,
        seen=seen,
        tolerance=0.0,
        typical=0.0,
        event_names=_event_names(dataset),
        event_center=center.astype(np.float32),
        event_scale=np.where(scale > 0, scale, 1).astype(np.float32),
        counts=counts,
        events_per_user=float(capped(taught).mean()) if len(taught := split.known[split.known >= 2]) else 0.0,
        cold=_cold(dataset, split, counts),
    )


def _cold(dataset: Dataset, split: Split, counts: Int32[np.ndarray, "items"]) -> float:
    """The share of validation targets whose item has no training event; a user's first event is no target."""
    (since, until), users = split.targets("validation"), split.validation
    stop = (dataset.lengths if until is None else until)[users]
    judged = stop > np.maximum(since[users], 1)
    last = (dataset.offsets[users] + stop - 1)[judged]
    return float((counts[dataset.items[last]] == 0).mean()) if len(last) else 0.0


def item_counts(dataset: Dataset, known: Int[np.ndarray, "users"]) -> Int32[np.ndarray, "items"]:
    """The number of events of each item among the first `known[u]` events of each user."""
    counts = np.zeros(len(dataset.catalogue), np.int32)
    for events in known_events(dataset, known):
        counts += np.bincount(dataset.items[events], minlength=len(counts)).astype(np.int32)
    return counts


def known_events(dataset: Dataset, known: Int[np.ndarray, "users"]) -> Iterator[Int64[np.ndarray, "some"]]:
    """Indices of the first `known[u]` events of each user, ascending, about `EVENTS` at a time (or one user's)."""
    done, start = np.cumsum(known, dtype=np.int64), 0
    while start < dataset.users:
        before = int(done[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(done, before + EVENTS, side="right")))
        counts = np.asarray(known[start:stop], np.int64)
        yield ranges(dataset.offsets[start:stop], counts)
        start = stop


def _moments(dataset: Dataset, split: Split) -> tuple[Float64[np.ndarray, "numbers"], Float64[np.ndarray, "numbers"]]:
    """Mean and standard deviation of each number over the training events."""
    count, mean, squares = 0, np.zeros(len(names := _event_names(dataset))), np.zeros(len(names))
    for events in known_events(dataset, split.known) if names else ():
        columns = numbers_at(dataset, names, np.zeros(len(names), np.float32), events)
        if not len(events):
            continue
        # Merges the moments of two samples (Chan, Golub and LeVeque 1979, equation 2.1).
        own, total = columns.mean(0, dtype=np.float64), count + len(events)
        squares += columns.var(0, dtype=np.float64) * len(events) + (own - mean) ** 2 * (count * len(events) / total)
        mean += (own - mean) * (len(events) / total)
        count = total
    return mean, np.sqrt(squares / max(1, count))


def numbers_at(
    dataset: Dataset,
    names: Sequence[str],
    otherwise: Float32[np.ndarray, "numbers"],
    events: Int64[np.ndarray, "*some"],
) -> Float32[np.ndarray, "*some numbers"]:
    """The numbers of some events, by the names of `_event_names`; `otherwise` for missing ones."""
    columns = np.empty((*events.shape, len(names)), np.float32)
    angle = None
    for place, name in enumerate(names):
        if name == "reward" and dataset.rewards is not None:
            columns[..., place] = dataset.rewards[events]
        elif name in CLOCK and dataset.timestamps is not None:
            angle = 2 * np.pi * (dataset.timestamps[events] % DAY) / DAY if angle is None else angle
            columns[..., place] = np.sin(angle) if name == CLOCK[0] else np.cos(angle)
        elif name in dataset.context_names:
            columns[..., place] = dataset.context[events, dataset.context_names.index(name)]
        else:
            columns[..., place] = otherwise[place]
    return columns


def same_catalogue(dataset: Dataset, space: Space) -> None:
    """Raises a `CatalogueError` if a model was trained on another catalogue than the data's."""
    mine, theirs = dataset.catalogue, space.catalogue
    if mine is not theirs and mine.hash() != theirs.hash():
        raise CatalogueError(
            f"the model was trained on another catalogue ({len(theirs)} items, {theirs.hash()[:12]}) than "
            f"{dataset.name} has ({len(mine)} items, {mine.hash()[:12]}); train on this one, or go on from the "
            "model with `what-next train SETUP --from MODEL`"
        )


def _event_names(dataset: Dataset) -> tuple[str, ...]:
    """The names of an event's numbers besides its item: reward, the log's context columns, the time of day (UTC)."""
    rewards = () if dataset.rewards is None else ("reward",)
    return (*rewards, *dataset.context_names, *(() if dataset.timestamps is None else CLOCK))


def history_of(
    space: Space,
    items: Int32[np.ndarray, "batch time"],
    lengths: Int64[np.ndarray, "batch"],
    numbers: Float32[np.ndarray, "batch time numbers"],
) -> History:
    """Events of users outside of any data set as input for the networks."""
    rewarded = "reward" in space.event_names
    return History(
        users=np.full(len(items), -1, np.int32),
        items=items,
        lengths=lengths,
        rewards=numbers[..., 0] if rewarded else np.zeros(items.shape, np.float32),
        context=numbers[..., 1:] if rewarded else numbers,
        sigma=np.full(len(items), np.nan, np.float32),
    )
