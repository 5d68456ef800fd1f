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
    return values.mean(axis=0)


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
    if not len(values) or over.mean() <= 0:
        return None
    means = [
        values[drawn].mean(axis=1) / over[drawn].mean(axis=1) for drawn in _drawn(len(values), resamples, len(values), seed)
    ]
    return _told(values.mean() / over.mean(), np.concatenate(means), len(values))


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
        resamples, seed: as of `interval`.
    """
    people = int(users.max(initial=-1)) + 1
    if not people or (items < 0).all():
        return None
    shares, drawn_shares = [], np.zeros(resamples)
    for row in items:
        pairs = np.unique(row[row >= 0].astype(np.int64) * people + users[row >= 0])
        owners, starts = pairs % people, np.unique(pairs // people, return_index=True)[1]
        shares.append(len(starts) / catalogue)
        present = [
            np.logical_or.reduceat(_present(drawn, people)[:, owners], starts, axis=1).sum(axis=1)
            for drawn in _drawn(people, resamples, len(pairs), seed)
        ]
        drawn_shares += np.concatenate(present) / catalogue / len(items)
    share = float(np.mean(shares))
    moved = drawn_shares + share - drawn_shares.mean()
    return _told(share, moved.clip(0, 1), people)


def _drawn(users: int, resamples: int, width: int, seed: int) -> Iterator[Int64[np.ndarray, "part users"]]:
    """The users of each resample; as many resamples at a time as keep arrays of `width` columns small."""
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK // max(width, users))
    for start in range(0, resamples, step):
        yield rng.integers(users, size=(min(step, resamples - start), users))


def _present(drawn: Int64[np.ndarray, "part users"], users: int) -> np.ndarray:
    present = np.zeros((len(drawn), users), np.bool_)
    np.put_along_axis(present, drawn, True, axis=1)
    return present


def _told(mean: float, resampled: Float64[np.ndarray, "resamples"], users: int) -> Interval:
    low, high = np.percentile(resampled, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return {"mean": float(mean), "low": float(low), "high": float(high), "n": users}
