"""The machine's own rates, measured in the same run as the figures that are compared with them."""

import statistics
import time
from collections.abc import Callable

import torch


def median_seconds(work: Callable[[], object], repeats: int = 15) -> float:
    """The median duration of a call, after a warm-up call."""
    work()
    durations = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        durations.append(time.perf_counter() - start)
    return statistics.median(durations)


def matrix_rate(size: int = 1024, repeats: int = 15) -> float:
    """Flops per second of the machine's own product of two square fp32 matrices: the median."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / median_seconds(lambda: left @ right, repeats)
