"""Means of many metrics over the same users at once, with intervals from one bootstrap over users.

The percentile method (Efron and Tibshirani, 1993), as in `bootstrap.interval`; here each resample is a row of counts of
how often each user was drawn, and the means of all metrics in it are one matrix product.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64, Int

from what_next.evaluation.bootstrap import LEVEL, RESAMPLES, Interval, resampled_counts, user_means

CHUNK = 2**22
"""Counts at work at a time: 32 MB, so that each matrix product has many rows."""


def means(
    values: Mapping[str, Float64[np.ndarray, "rows"]],
    owners: Int[np.ndarray, "rows"],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """The mean of each metric over users, with its 95 % interval.

    Args:
        values: by metric, of each row; not a number where there is none.
        owners: the user of each row, counted from 0 without gaps: a user's value is the mean of theirs.
        resamples: how often users are drawn, with replacement; all metrics see the same draws.
        seed: which.

    Returns:
        By metric; those that nobody has a value for are left out. `n` is how many users have one.
    """
    people = int(owners.max(initial=-1)) + 1
    columns = {name: user_means(value, owners, people) for name, value in values.items()}
    columns = {name: column for name, column in columns.items() if np.isfinite(column).any()}
    if not columns:
        return {}
    table = np.stack(list(columns.values()), axis=1)
    known = np.isfinite(table)
    filled = np.where(known, table, 0)
    tops, bottoms = [], []
    for counts in resampled_counts(people, resamples, seed, max(1, CHUNK // people)):
        tops.append(counts @ filled)
        bottoms.append(counts @ known.astype(np.float64))
    below = np.concatenate(bottoms)
    resampled = np.where(below > 0, np.concatenate(tops) / np.maximum(below, 1), np.nan)  # nobody with a value drawn
    low, high = np.nanpercentile(resampled, [(100 - LEVEL) / 2, (100 + LEVEL) / 2], axis=0)
    told, numbers = filled.sum(axis=0) / known.sum(axis=0), known.sum(axis=0)
    rows = zip(columns, told.tolist(), low.tolist(), high.tolist(), numbers.tolist(), strict=True)
    return {name: {"mean": mean, "low": least, "high": most, "n": n} for name, mean, least, most, n in rows}
