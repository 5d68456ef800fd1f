"""Evaluation: does it learn, and better than what?"""

from what_next.metrics.bootstrap import interval
from what_next.metrics.evaluate import evaluate
from what_next.metrics.metrics import METRICS
from what_next.metrics.rules import NearestMean, Oracle, Popular, RandomItem, Steer, TrueNext
from what_next.metrics.sampling import Sampling
from what_next.metrics.table import markdown, table
from what_next.metrics.windows import Windows, draw_windows

__all__ = [
    "METRICS",
    "NearestMean",
    "Oracle",
    "Popular",
    "RandomItem",
    "Sampling",
    "Steer",
    "TrueNext",
    "Windows",
    "draw_windows",
    "evaluate",
    "interval",
    "markdown",
    "table",
]
