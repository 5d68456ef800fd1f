"""Groups of judged rows: they show whom a policy serves badly, which an overall mean hides.

Each kind of groups puts every row in exactly one group. Rows with equal values are in the same group, and empty groups
are left out.
"""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64

from what_next.data.batches import ranges

Masks = dict[str, Bool[np.ndarray, "rows"]]
"""The rows of each group, by its name."""

DAY = 24 * 60 * 60 * 10**6  # microseconds


def groups(
    before: Int64[np.ndarray, "rows"],
    items: Int[np.ndarray, "rows"],
    counts: Int[np.ndarray, "items"],
    *,
    activity: Float64[np.ndarray, "rows"] | None = None,
    known: Int64[np.ndarray, "rows"] | None = None,
) -> dict[str, Masks]:
    """The groups of all kinds, by the kind's name, then by the group's.

    Args:
        before: how many events each row's user has before the target.
        items: the targets.
        counts: training events of each item.
        activity: see `events_per_active_day`; None: the log has no times.
        known: how many events of each row's user training knows; None: whole users are held out, so all are new.
    """
    found = {"history length": by_history_length(before), "item popularity": by_item_popularity(items, counts)}
    if activity is not None:
        found["activity"] = by_activity(activity)
    if known is not None:
        found["cold"] = _filled({"cold users": known == 0, "warm users": known > 0})
    return found


def by_history_length(before: Int64[np.ndarray, "rows"]) -> Masks:
    """Quartiles of how many events precede the target, named by those lengths: "1-20", "21-56", "57+"."""
    if not len(before):
        return {}
    ends = sorted({int(end) for end in np.quantile(before, [0.25, 0.5, 0.75], method="inverted_cdf")})
    starts = [int(before.min()), *(end + 1 for end in ends)]
    names = [str(start) if start == end else f"{start}-{end}" for start, end in zip(starts, ends, strict=False)]
    names.append(f"{starts[-1]}+")
    return _between(before, ends, names)


def by_activity(activity: Float64[np.ndarray, "rows"]) -> Masks:
    """Terciles of events per active day, cut at numbers of two digits; rows without a number are a group of their
    own."""
    known = np.isfinite(activity)
    if not known.any():
        return _filled({"no history": ~known})
    cuts = np.quantile(activity[known], [1 / 3, 2 / 3], method="inverted_cdf")
    # Cuts are rounded before use, so that the group's name is exact.
    ends = sorted({float(f"{cut:.2g}") for cut in cuts})
    names = [f"up to {ends[0]:g} a day", *(f"{low:g} to {high:g} a day" for low, high in pairwise(ends))]
    names.append(f"over {ends[-1]:g} a day")
    masks = _between(np.where(known, activity, 0.0), ends, names)
    return _filled({name: mask & known for name, mask in masks.items()} | {"no history": ~known})


def by_item_popularity(items: Int[np.ndarray, "rows"], counts: Int[np.ndarray, "items"]) -> Masks:
    """Terciles by the target's popularity, each with a third of the training events: `head` has the most popular items.

    Items are sorted by descending events, and all items with equally many events are in the tercile in which the first
    of them begins. `cold`: the target has no training event.
    """
    assert (items >= 0).all(), "every row has a target"
    values, places, several = np.unique(-counts, return_inverse=True, return_counts=True)
    events = -values * several
    third = (3 * (events.cumsum() - events) // max(1, counts.sum()))[places[items]]
    warm = counts[items] > 0
    names = ("head", "middle", "tail")
    return _filled({name: warm & (third == place) for place, name in enumerate(names)} | {"cold": ~warm})


def events_per_active_day(
    timestamps: Int64[np.ndarray, "events"],
    offsets: Int64[np.ndarray, "users_plus_1"],
    users: Int[np.ndarray, "rows"],
    before: Int64[np.ndarray, "rows"],
) -> Float64[np.ndarray, "rows"]:
    """The events before each row's target, over the number of days (UTC) that have one; NaN without any.

    Args:
        timestamps: of all events, by user, then time, in microseconds since 1970 UTC.
        offsets: where each user's events start, and at the end the number of events.
        users: the user of each row; `before`: how many events of the user precede the target.
    """
    people, rows = np.unique(users, return_inverse=True)
    counts = offsets[people + 1] - offsets[people]
    starts = counts.cumsum() - counts
    # Only the events of these users: a log may be larger than memory.
    days = timestamps[ranges(offsets[people], counts)] // DAY
    owners = np.repeat(np.arange(len(people)), counts)
    running = np.append(0, ((np.diff(days, prepend=0) != 0) | (np.diff(owners, prepend=-1) != 0)).cumsum())
    active = running[starts[rows] + before] - running[starts[rows]]
    return np.where(before > 0, before / np.maximum(active, 1), np.nan)


def _between(
    values: Int64[np.ndarray, "rows"] | Float64[np.ndarray, "rows"], ends: list[int] | list[float], names: list[str]
) -> Masks:
    """Rows up to the first end, from there up to the second, and so on; last, rows above all ends."""
    places = np.searchsorted(ends, values)
    return _filled({name: places == place for place, name in enumerate(names)})


def _filled(masks: Mapping[str, Bool[np.ndarray, "rows"]]) -> Masks:
    """The groups that are not empty."""
    return {name: mask for name, mask in masks.items() if mask.any()}
