"""What training may know of a data set as a whole: the split, and the scaling of items and events."""

import numpy as np
from jaxtyping import Float32

from what_next.data import Dataset, Split
from what_next.data.space import Space
from what_next.errors import CatalogueError

DAY = 24 * 3600 * 10**6  # microseconds


def scaled_space(dataset: Dataset, split: Split) -> Space:
    """The catalogue and the numbers of events under the scaling of the training events; nothing else is measured yet.

    Raises:
        DataError: an attribute is constant on the items with a training event, or there is none.
    """
    owners = np.repeat(np.arange(dataset.users), dataset.lengths)
    known = np.arange(dataset.events) - dataset.offsets[owners] < split.known[owners]
    counts = np.bincount(dataset.items[known], minlength=len(dataset.catalogue))
    seen = np.flatnonzero(counts).astype(np.int32)
    catalogue = dataset.catalogue.standardised(seen)
    numbers = _numbers(dataset)
    columns = np.stack([column[known] for column in numbers.values()], -1) if numbers else np.zeros((1, 0))
    scale = columns.std(0, dtype=np.float64)
    return Space(
        catalogue=catalogue,
        seen=seen,
        tolerance=0.0,
        typical=0.0,
        event_names=tuple(numbers),
        event_center=columns.mean(0, dtype=np.float64).astype(np.float32),
        event_scale=np.where(scale > 0, scale, 1).astype(np.float32),
        counts=counts,
        events_per_user=float(taught.mean()) if len(taught := split.known[split.known >= 2]) else 0.0,
    )


def numbers_of_events(dataset: Dataset, space: Space) -> Float32[np.ndarray, "events numbers"]:
    """The numbers that the space names; the mean of the training events where this data set has none."""
    numbers = _numbers(dataset)
    columns = np.empty((dataset.events, len(space.event_names)), np.float32)
    for place, name in enumerate(space.event_names):
        columns[:, place] = numbers.get(name, space.event_center[place])
    return columns


def same_catalogue(dataset: Dataset, space: Space) -> None:
    """Raises a `CatalogueError` where a model was trained on another catalogue than the data have."""
    mine, theirs = dataset.catalogue, space.catalogue
    if mine is not theirs and mine.hash() != theirs.hash():
        raise CatalogueError(
            f"the model was trained on another catalogue ({len(theirs)} items, {theirs.hash()[:12]}) than "
            f"{dataset.name} has ({len(mine)} items, {mine.hash()[:12]}); train on this one, or go on from the "
            "model with `what-next train SETUP --from MODEL`"
        )


def _numbers(dataset: Dataset) -> dict[str, Float32[np.ndarray, "events"]]:
    """What is known of an event besides its item: reward, the log's further columns, the time of day (UTC)."""
    numbers = {} if dataset.rewards is None else {"reward": dataset.rewards}
    numbers |= dict(zip(dataset.context_names, dataset.context.T, strict=True))
    if dataset.timestamps is not None:
        angle = 2 * np.pi * (dataset.timestamps % DAY) / DAY
        numbers["time_of_day_sin"] = np.sin(angle).astype(np.float32)
        numbers["time_of_day_cos"] = np.cos(angle).astype(np.float32)
    return numbers
