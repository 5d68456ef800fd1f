"""Does it learn? Agents beside rules, chance and one another, on what training never saw."""

from collections.abc import Collection, Sequence
from typing import Any

from what_next.data.splits import Part
from what_next.data.stages import SILENT, Stages
from what_next.experiments.baselines import EVERY, Allowed
from what_next.experiments.compare import compare
from what_next.experiments.models import chosen, of_seed
from what_next.experiments.next_items import judge_next
from what_next.experiments.verdict import Verdict
from what_next.experiments.windows import judge_windows
from what_next.settings import Setup
from what_next.state import State

__all__ = ["Verdict", "by_windows", "compare", "examine", "judge", "judge_next", "judge_windows", "of_seed"]


def judge(
    setup: Setup, part: Part = "test", seeds: Sequence[int] | None = None, stages: Stages = SILENT
) -> dict[str, Any]:
    """Judge the agent of a setup by windows where `by_windows`, else on next items: plain values alone.

    Args:
        setup: whose model is loaded.
        part: tune on validation; report the test.
        seeds: of training; None judges the saved model alone. The model of each seed is trained where it is missing or
            was made by other settings, beside the setup's own, on the same split.

    Raises:
        DataError: nobody of the split can be judged on.
        ModelError: a model is missing or damaged, or was trained on another split.
    """
    if not by_windows(setup):
        return examine(setup, part, seeds, stages=stages).result
    state = State.from_setup(setup)
    return judge_windows(setup, state, part, chosen(setup, state, seeds), _told(setup, seeds), stages)


def by_windows(setup: Setup) -> bool:
    """Whether the setup is judged by the spread of windows: `judge_windows`.

    So is the founding algorithm, which learns nothing of what came next, where users are set aside whole or events
    after a moment.
    """
    return setup.algorithm.trials and setup.split.name != "leave_last_out"


def examine(
    setup: Setup,
    part: Part = "test",
    seeds: Sequence[int] | None = None,
    allowed: Allowed = None,
    baselines: Collection[str] = EVERY,
    stages: Stages = SILENT,
) -> Verdict:
    """Judge the agent of any setup on next items, and keep all that a report shows: see `judge` and `judge_next`."""
    state = State.from_setup(setup)
    setups, told = chosen(setup, state, seeds), _told(setup, seeds)
    return judge_next(setup, state, part, setups, told, allowed, baselines, stages)


def _told(setup: Setup, seeds: Sequence[int] | None) -> list[int]:
    return [setup.seed] if seeds is None else list(seeds)
