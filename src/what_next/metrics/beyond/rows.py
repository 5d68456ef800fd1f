"""Rows of items, -1 where there is none, a part at a time: what is at work stays near the processor."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float64, Int32

CHUNK = 2**18
"""Numbers at work at a time, 2 MB; with sixteen times as many, each takes twice as long."""


def parts(rows: int, width: int) -> Iterator[slice]:
    """Some rows at a time, where each needs `width` numbers."""
    step = max(1, CHUNK // max(1, width))
    for start in range(0, rows, step):
        yield slice(start, start + step)


def mean_over(
    values: Float64[np.ndarray, "items"], items: Int32[np.ndarray, "rows width"]
) -> Float64[np.ndarray, "rows"]:
    """The mean value of the items of each row; not a number for a row without any."""
    padded, means = np.append(values, 0.0), np.empty(len(items))  # -1 finds the 0 at the end
    for part in parts(*items.shape):
        counts = (items[part] >= 0).sum(axis=1)
        means[part] = np.where(counts, padded[items[part]].sum(axis=1) / np.maximum(counts, 1), np.nan)
    return means
