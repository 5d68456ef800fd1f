"""Means over users, with intervals from a bootstrap over users (percentile method; Efron and Tibshirani, 1993)."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float64, Int, Int64

RESAMPLES = 2000
LEVEL = 95  # percent
CHUNK = 2**23
"""Draws at work at a time."""

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
    for drawn in _drawn(len(values), resamples, len(values), seed):
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
    people = int(users.max(initial=-1)) + 1
    if not people or (items < 0).all():
        return None
    known = items >= 0
    covered = [
        _covered(row[held], users[held], people, resamples, seed) for row, held in zip(items, known, strict=True)
    ]
    shares = np.mean(covered, axis=0) / catalogue
    moved = shares[1:] + shares[0] - shares[1:].mean()
    return _told(shares[0], moved.clip(0, 1), people)


def _covered(
    items: Int[np.ndarray, "rows"], users: Int[np.ndarray, "rows"], people: int, resamples: int, seed: int
) -> Int64[np.ndarray, "one_and_resamples"]:
    """How many distinct items there are: of all users, then of those in each resample."""
    if not len(items):
        return np.zeros(1 + resamples, np.int64)
    pairs = np.unique(items.astype(np.int64) * people + users)
    starts = np.unique(pairs // people, return_index=True)[1]
    counts = [np.array([len(starts)])]
    for drawn in _drawn(people, resamples, len(pairs), seed):
        present = np.zeros((len(drawn), people), np.bool_)
        np.put_along_axis(present, drawn, True, axis=1)
        counts.append(np.logical_or.reduceat(present[:, pairs % people], starts, axis=1).sum(axis=1))
    return np.concatenate(counts)


def _drawn(users: int, resamples: int, width: int, seed: int) -> Iterator[Int64[np.ndarray, "part users"]]:
    """The users of each resample; as many resamples at a time as keep arrays of `width` columns small."""
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK // max(width, users))
    for start in range(0, resamples, step):
        yield rng.integers(users, size=(min(step, resamples - start), users))


def _told(mean: float, resampled: Float64[np.ndarray, "resamples"], users: int) -> Interval:
    low, high = np.percentile(resampled, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return {"mean": float(mean), "low": float(low), "high": float(high), "n": users}
