"""Evaluation: does it learn, and better than what?"""

from what_next.evaluation.bootstrap import interval
from what_next.evaluation.evaluate import evaluate
from what_next.evaluation.rules import NearestMean, Oracle, RandomItem, Steer, TrueNext
from what_next.evaluation.sampling import Sampling
from what_next.evaluation.table import markdown, table
from what_next.evaluation.windows import Windows, draw_windows

__all__ = [
    "NearestMean",
    "Oracle",
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
