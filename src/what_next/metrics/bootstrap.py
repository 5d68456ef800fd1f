"""Means over users, with intervals from a bootstrap over users (percentile method; Efron and Tibshirani, 1993)."""

from collections.abc import Callable, Iterator
from itertools import chain

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int, Int64

from what_next.metrics.beyond.inequality import gini_index

RESAMPLES = 2000
LEVEL = 95  # percent
CHUNK = 2**18
"""Draws at work at a time: 2 MB stay near the processor; with as many as fit in memory, each takes twice as long."""
COLUMNS = 8
"""Resamples whose items are counted at a time."""

Interval = dict[str, float | int]
"""`mean`, `low`, `high`, and `n`, the number of users."""


def user_means(
    values: Float64[np.ndarray, "rows"], users: Int[np.ndarray, "rows"], count: int
) -> Float64[np.ndarray, "count"]:
    """Each user's mean over the rows that have a value; not a number for a user without one."""
    known = np.isfinite(values)
    totals = np.bincount(users[known], values[known], count)
    numbers = np.bincount(users[known], minlength=count)
    return np.where(numbers, totals / np.maximum(numbers, 1), np.nan)


def seed_means(values: Float64[np.ndarray, "seeds rows"]) -> Float64[np.ndarray, "rows"]:
    """The mean over the seeds, before any interval; not a number where a seed has no value."""
    return np.asarray(values.mean(axis=0))


def interval(
    values: Float64[np.ndarray, "users"],
    over: Float64[np.ndarray, "users"] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval | None:
    """The mean over users and its 95 % interval; None where there is nothing to tell.

    Users without a number are left out. The same number of users and seed give the same resamples.

    Args:
        values: one number per user; for a paired comparison, the difference of two policies for that user.
        over: where given, the ratio of the two means is told, both over the same users.
        resamples: how many times users are drawn with replacement.
        seed: which ones.
    """
    known = np.isfinite(values) if over is None else np.isfinite(values) & np.isfinite(over)
    values = values[known]
    over = np.ones(len(values)) if over is None else over[known]
    if not len(values):
        return None
    tops, bottoms = [values.mean(keepdims=True)], [over.mean(keepdims=True)]
    for drawn in _drawn(len(values), resamples, max(1, CHUNK // len(values)), seed):
        tops.append(values[drawn].mean(axis=1))
        bottoms.append(over[drawn].mean(axis=1))
    below = np.concatenate(bottoms)
    if (below <= 0).any():  # a share of nothing
        return None
    means = np.concatenate(tops) / below
    return _told(means[0], means[1:], len(values))


def coverage(
    items: Int[np.ndarray, "seeds rows"],
    users: Int[np.ndarray, "rows"],
    catalogue: int,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval | None:
    """The share of the catalogue's items that stand in `items`: one share for each seed, then their mean.

    A resample holds fewer distinct users than there are, so it always covers less; the resamples are moved to lie
    around the true share.

    Args:
        items: what each row was recommended; -1 is nothing.
        users: of each row, counted from 0.
        catalogue: how many items there are.
        resamples: as of `interval`.
        seed: likewise.
    """
    return _of_counts(lambda counts: (counts > 0).sum(axis=1) / catalogue, items, users, resamples, seed)


def gini(
    items: Int[np.ndarray, "seeds rows"],
    users: Int[np.ndarray, "rows"],
    catalogue: int,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval | None:
    """How unequally `items` fall on the catalogue (see `gini_index`): one index for each seed, then their mean.

    A resample has some users twice and others not at all, so it is always less equal; the resamples are moved to lie
    around the true index.

    Args:
        items, users, catalogue, resamples, seed: as of `coverage`.
    """
    return _of_counts(lambda counts: gini_index(counts, catalogue), items, users, resamples, seed)


def _of_counts(
    statistic: Callable[[Float32[np.ndarray, "part held"]], Float64[np.ndarray, "part"]],
    items: Int[np.ndarray, "seeds rows"],
    users: Int[np.ndarray, "rows"],
    resamples: int,
    seed: int,
) -> Interval | None:
    """A statistic of how often each item is recommended, with the resamples moved to lie around it."""
    people = int(users.max(initial=-1)) + 1
    if not people or (items < 0).all():
        return None
    found = np.empty((len(items), 1 + resamples))
    for values, row in zip(found, items, strict=True):
        parts = _counts(row[row >= 0], users[row >= 0], people, resamples, seed)
        values[:] = np.concatenate([statistic(counts) for counts in parts])
    means = found.mean(axis=0)
    moved = means[1:] + means[0] - means[1:].mean()
    return _told(means[0], moved.clip(0, 1), people)


def _counts(
    items: Int[np.ndarray, "rows"], users: Int[np.ndarray, "rows"], people: int, resamples: int, seed: int
) -> Iterator[Float32[np.ndarray, "part held"]]:
    """How often each item that is there at all is recommended: to all users, then to those of some resamples at a time.

    A float of 32 bits holds counts up to 16 million exactly; sums of it over bags are the fastest there are.
    """
    order = np.argsort(items, kind="stable")
    starts = np.unique(items[order], return_index=True)[1]
    bags = [torch.from_numpy(one.astype(np.int32)) for one in (users[order], starts)]
    for often in chain([np.ones((1, people))], resampled_counts(people, resamples, seed, COLUMNS)):
        weights = np.ascontiguousarray(often.T, np.float32)
        yield torch.nn.functional.embedding_bag(bags[0], torch.from_numpy(weights), bags[1], mode="sum").numpy().T


def resampled_counts(
    units: int, resamples: int, seed: int, step: int | None = None
) -> Iterator[Float64[np.ndarray, "part units"]]:
    """How often each resample holds each unit, `step` resamples at a time: so many units, drawn with replacement.

    What is estimated from the same counts is paired. The same number of units and seed give the same draws.
    """
    for drawn in _drawn(units, resamples, step or max(1, CHUNK // units), seed):
        places = drawn + np.arange(len(drawn))[:, None] * units
        yield np.bincount(places.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)


def _drawn(users: int, resamples: int, step: int, seed: int) -> Iterator[Int64[np.ndarray, "part users"]]:
    """The users of each resample, `step` resamples at a time."""
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, step):
        yield rng.integers(users, size=(min(step, resamples - start), users))


def _told(mean: float, resampled: Float64[np.ndarray, "resamples"], users: int) -> Interval:
    low, high = np.percentile(resampled, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return {"mean": float(mean), "low": float(low), "high": float(high), "n": users}
