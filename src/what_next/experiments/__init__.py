"""Does it learn? Agents beside rules, chance and one another, on what training never saw."""

from collections.abc import Sequence
from typing import Any

from what_next.data.splits import Part
from what_next.data.stages import SILENT, Stages
from what_next.experiments.next_items import evaluate_next
from what_next.experiments.windows import evaluate_windows
from what_next.settings import Setup

__all__ = ["by_windows", "evaluate", "evaluate_next", "evaluate_windows"]


def evaluate(
    setup: Setup, part: Part = "test", seeds: Sequence[int] | None = None, stages: Stages = SILENT
) -> dict[str, Any]:
    """Judge the agent of a setup by windows where `by_windows`, else on next items: plain values alone.

    Args:
        setup: whose model is loaded.
        part: tune on validation; report the test.
        seeds: of training; None judges the saved model alone. The model of each seed is trained where it is missing or
            was made by other settings, beside the setup's own, on the same split.
        stages: shows how far the work is.

    Raises:
        DataError: nobody of the split can be judged on.
        ModelError: a model is missing or damaged, or was trained on another split.
    """
    if by_windows(setup):
        return evaluate_windows(setup, part, seeds, stages)
    return evaluate_next(setup, part, seeds, stages=stages).result


def by_windows(setup: Setup) -> bool:
    """Whether the setup is judged by the spread of windows.

    So is the founding algorithm, which learns nothing of what came next, where users are set aside whole or events
    after a moment.
    """
    return setup.monitored == "spread" and setup.split.name != "leave_last_out"
