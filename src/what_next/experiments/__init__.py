"""Evaluation: agents compared with rules, chance and one another on held-out data."""

from what_next.experiments.next_items import evaluate_next
from what_next.experiments.windows import evaluate_windows
from what_next.settings import Setup

__all__ = ["by_windows", "evaluate_next", "evaluate_windows"]


def by_windows(setup: Setup) -> bool:
    """Whether the setup is judged by the spread of windows.

    That is the case for the founding algorithm, which does not learn to predict the next item, where whole users or the
    events after a moment are held out.
    """
    return setup.algorithm.monitors[0] == "spread" and setup.split.name != "leave_last_out"
