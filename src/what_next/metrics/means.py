"""Means of many metrics over the same users at once, with intervals from one bootstrap over users.

The percentile method (Efron and Tibshirani, 1993), as in `bootstrap.interval`; here each resample is a row of counts of
how often each user was drawn, and the means of all metrics in it are one matrix product.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float64, Int

from what_next.data.stages import SILENT, Stages
from what_next.metrics.bootstrap import LEVEL, RESAMPLES, Interval, resampled_counts, user_means

Name = TypeVar("Name", bound=Hashable)
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
    return means_of({"": values}, owners, resamples=resamples, seed=seed)[""]


def means_of(
    several: Mapping[Name, Mapping[str, Float64[np.ndarray, "rows"]]],
    owners: Int[np.ndarray, "rows"],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    stages: Stages = SILENT,
) -> dict[Name, dict[str, Interval]]:
    """`means` of several policies at once, by name: the users are drawn once for all, which takes most of the time."""
    people = int(owners.max(initial=-1)) + 1
    tables = {name: _Table.of(values, owners, people) for name, values in several.items()}
    parts: dict[Name, list[Float64[np.ndarray, "part metrics"]]] = {name: [] for name in several}
    done = stages.begin("intervals", resamples)
    for counts in resampled_counts(people, resamples, seed, max(1, CHUNK // people)) if people else ():
        for name, table in tables.items():
            parts[name].append(table.resampled(counts))
        done(len(counts))
    return {name: table.told(np.concatenate(parts[name])) if people else {} for name, table in tables.items()}


@dataclass(frozen=True, eq=False)
class _Table:
    """Users by metrics: their values, 0 where they have none, and whether they have one."""

    metrics: tuple[str, ...]
    filled: Float64[np.ndarray, "users metrics"]
    known: Bool[np.ndarray, "users metrics"]

    @classmethod
    def of(
        cls, values: Mapping[str, Float64[np.ndarray, "rows"]], owners: Int[np.ndarray, "rows"], people: int
    ) -> "_Table":
        """Of those metrics for which anybody has a value."""
        columns = {name: user_means(value, owners, people) for name, value in values.items()}
        columns = {name: column for name, column in columns.items() if np.isfinite(column).any()}
        table = np.stack(list(columns.values()), axis=1) if columns else np.zeros((people, 0))
        known = np.isfinite(table)
        return cls(tuple(columns), np.where(known, table, 0), known)

    def resampled(self, counts: Float64[np.ndarray, "part users"]) -> Float64[np.ndarray, "part metrics"]:
        """The means in some resamples; not a number where nobody with a value was drawn."""
        below = counts @ self.known.astype(np.float64)
        return np.where(below > 0, counts @ self.filled / np.maximum(below, 1), np.nan)

    def told(self, resampled: Float64[np.ndarray, "resamples metrics"]) -> dict[str, Interval]:
        """Means with their intervals."""
        if not self.metrics:
            return {}
        low, high = np.nanpercentile(resampled, [(100 - LEVEL) / 2, (100 + LEVEL) / 2], axis=0)
        numbers = self.known.sum(axis=0)
        told = self.filled.sum(axis=0) / numbers
        rows = zip(self.metrics, told.tolist(), low.tolist(), high.tolist(), numbers.tolist(), strict=True)
        return {name: {"mean": mean, "low": least, "high": most, "n": n} for name, mean, least, most, n in rows}
