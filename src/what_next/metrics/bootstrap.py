"""Means and other estimates with intervals: a bootstrap over units, and empirical Bernstein bounds.

The percentile method (Efron and Tibshirani 1993, chapter 13). A resample is a row of counts of how often each unit was
drawn, so ratios of sums are matrix products, and estimates from the same counts are paired.
"""

from collections.abc import Hashable, Iterator, Mapping
from typing import TypeVar

import numpy as np
from jaxtyping import Float64, Int, Int64

from what_next.data.stages import SILENT, Stages

RESAMPLES = 2000
LEVEL = 95.0  # percent
CHUNK = 2**18
"""Draws at a time: 2 MB fit the processor's cache; with as many as fit in memory, each takes twice as long."""
COUNTS = 2**22
"""Counts at a time in `means`: 32 MB, so that each matrix product has many rows."""

Interval = dict[str, float | int]
"""`mean`, `low`, `high`, and `n`, the number of users."""
Bounds = tuple[float, float]
Name = TypeVar("Name", bound=Hashable)
Users = Float64[np.ndarray, "users"]


def user_means(
    values: Float64[np.ndarray, "rows"], users: Int[np.ndarray, "rows"], count: int
) -> Float64[np.ndarray, "count"]:
    """Each user's mean over the rows that have a value; NaN for a user without one."""
    known = np.isfinite(values)
    totals = np.bincount(users[known], values[known], count)
    numbers = np.bincount(users[known], minlength=count)
    return np.where(numbers, totals / np.maximum(numbers, 1), np.nan)


def means(
    values: Mapping[Name, Users],
    over: Mapping[Name, Users] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    stages: Stages = SILENT,
) -> dict[Name, Interval]:
    """The mean of each metric over users, with its 95 % interval; all metrics see the same resamples.

    Args:
        values: by metric, one value per user; NaN for a user without one. For a paired comparison, the difference of
            two policies for each user.
        over: if given, the ratio of the two means is taken, both over the users who have both values.
        resamples: how often users are drawn, with replacement.
        seed: of the draws; the same number of users and seed give the same resamples.

    Returns:
        By metric, without metrics that no user has a value for or whose denominator is not positive. `n` is the number
        of users with a value.
    """
    tops, bottoms, numbers = dict[Name, Users](), list[Users](), list[int]()
    for name, value in values.items():
        divisor = np.ones(len(value)) if over is None else over[name]
        known = np.isfinite(value) & np.isfinite(divisor)
        if known.any():
            tops[name] = np.where(known, value, 0)
            bottoms.append(np.where(known, divisor, 0))
            numbers.append(int(known.sum()))
    if not tops:
        return {}
    above, below = np.stack(list(tops.values()), axis=1), np.stack(bottoms, axis=1)
    parts, done = [], stages.begin("intervals", resamples)
    total, least = below.sum(axis=0), np.zeros(len(tops))
    for counts in resampled_counts(len(above), resamples, seed, max(1, COUNTS // len(above))):
        drawn = counts @ below
        parts.append(ratios(counts @ above, drawn))
        least = np.minimum(least, drawn.min(axis=0))
        done(len(counts))
    samples, middle = np.concatenate(parts).T, above.sum(axis=0) / np.where(total > 0, total, 1)
    found = {}
    for place, name in enumerate(tops):
        if total[place] > 0 and least[place] >= 0 and (ends := percentiles(samples[place])):  # else a share of nothing
            found[name] = {"mean": float(middle[place]), "low": ends[0], "high": ends[1], "n": numbers[place]}
    return found


def means_of(
    several: Mapping[Name, Mapping[str, Users]],
    over: Mapping[str, Users] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    stages: Stages = SILENT,
) -> dict[Name, dict[str, Interval]]:
    """`means` of several policies by name, relative to one other policy by metric; all share one draw of users."""
    values = {(name, metric): value for name, some in several.items() for metric, value in some.items()}
    below = None if over is None else {key: over[key[1]] for key in values}
    found = means(values, below, resamples=resamples, seed=seed, stages=stages)
    return {
        name: {metric: found[name, metric] for metric in some if (name, metric) in found}
        for name, some in several.items()
    }


def ratios(
    above: Float64[np.ndarray, "resamples columns"], below: Float64[np.ndarray, "resamples columns"]
) -> Float64[np.ndarray, "resamples columns"]:
    """`above / below`; NaN where `below` is 0."""
    return np.asarray(np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0))


def percentiles(values: Float64[np.ndarray, "resamples"], level: float = LEVEL) -> Bounds | None:
    """The bounds of the middle `level` percent, without NaN; None if nothing is left."""
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    low, high = np.percentile(known, [(100 - level) / 2, (100 + level) / 2])
    return float(low), float(high)


def empirical_bernstein(values: Float64[np.ndarray, "units"], span: Bounds, level: float) -> Bounds | None:
    """Confidence bounds for the mean of independent numbers that lie in a known range, for any sample size.

    Maurer and Pontil (2009, arXiv 0907.3740), theorem 4, applied to each side with half of delta: hence ln(4 / delta).
    It assumes nothing about the distribution and is therefore wide. The bounds are clipped to the range.

    Args:
        values: at least two; None is returned for fewer.
        span: the least and the greatest possible value, known beforehand and not taken from `values`.
        level: percent.
    """
    number = len(values)
    if number < 2:
        return None
    odds = np.log(4 / (1 - level / 100))
    mean, variance = float(values.mean()), float(values.var(ddof=1))
    margin = np.sqrt(2 * variance * odds / number) + 7 * (span[1] - span[0]) * odds / (3 * (number - 1))
    return max(span[0], float(mean - margin)), min(span[1], float(mean + margin))


def resampled_counts(
    units: int, resamples: int, seed: int, step: int | None = None
) -> Iterator[Float64[np.ndarray, "part units"]]:
    """How often each resample of `units` draws with replacement holds each unit, `step` resamples at a time.

    The same number of units and seed give the same draws, whatever `step` is.
    """
    rng, step = np.random.default_rng(seed), step or max(1, CHUNK // units)
    for start in range(0, resamples, step):
        drawn: Int64[np.ndarray, "part units"] = rng.integers(units, size=(min(step, resamples - start), units))
        places = drawn + np.arange(len(drawn))[:, None] * units
        yield np.bincount(places.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)
