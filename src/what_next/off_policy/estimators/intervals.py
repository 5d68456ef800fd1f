"""Intervals for estimates: a bootstrap over units, and empirical Bernstein bounds."""

import numpy as np
from jaxtyping import Float64

Bounds = tuple[float, float]


def percentiles(values: Float64[np.ndarray, "resamples"], level: float) -> Bounds | None:
    """The middle `level` percent (percentile method; Efron and Tibshirani 1993, chapter 13); None of nothing.

    A resample in which an estimate does not exist (NaN) is left out.
    """
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    low, high = np.percentile(known, [(100 - level) / 2, (100 + level) / 2])
    return float(low), float(high)


def empirical_bernstein(values: Float64[np.ndarray, "units"], span: Bounds, level: float) -> Bounds | None:
    """Bounds for the mean of independent numbers that lie in a known range, at any number of them.

    Maurer and Pontil (2009, arXiv 0907.3740), theorem 4, once for each side, each with half of the chance to be wrong:
    hence ln(4 / delta). It asks nothing of the distribution and is therefore wide. No bound leaves the range.

    Args:
        values: at least two; None is told of fewer.
        span: the least and the largest value that could have been, known beforehand and not from `values`.
        level: percent.
    """
    number = len(values)
    if number < 2:
        return None
    odds = np.log(4 / (1 - level / 100))
    mean, variance = float(values.mean()), float(values.var(ddof=1))
    margin = np.sqrt(2 * variance * odds / number) + 7 * (span[1] - span[0]) * odds / (3 * (number - 1))
    return max(span[0], float(mean - margin)), min(span[1], float(mean + margin))
