"""Evaluation: does it learn, and better than what?"""

from what_next.evaluation.bootstrap import interval
from what_next.evaluation.evaluate import evaluate
from what_next.evaluation.metrics import METRICS
from what_next.evaluation.rules import NearestMean, Oracle, Popular, RandomItem, Steer, TrueNext
from what_next.evaluation.sampling import Sampling
from what_next.evaluation.table import markdown, table
from what_next.evaluation.windows import Windows, draw_windows

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
