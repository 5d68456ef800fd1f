"""Does it learn? Agents beside rules, chance and one another, on what training never saw."""

from what_next.experiments.next_items import evaluate_next
from what_next.experiments.windows import evaluate_windows
from what_next.settings import Setup

__all__ = ["by_windows", "evaluate_next", "evaluate_windows"]


def by_windows(setup: Setup) -> bool:
    """Whether the setup is judged by the spread of windows.

    So is the founding algorithm, which learns nothing of what came next, where users are set aside whole or events
    after a moment.
    """
    return setup.algorithm.monitors[0] == "spread" and setup.split.name != "leave_last_out"
