"""Does it learn? Agents beside rules, chance and one another, on what training never saw."""

from collections.abc import Sequence
from typing import Any

from what_next.data.splits import Part
from what_next.judging.compare import compare
from what_next.judging.models import chosen, of_seed
from what_next.judging.next_items import judge_next
from what_next.judging.windows import judge_windows
from what_next.settings import Setup
from what_next.state import State

__all__ = ["compare", "judge", "judge_next", "judge_windows", "of_seed"]


def judge(setup: Setup, part: Part = "test", seeds: Sequence[int] | None = None) -> dict[str, Any]:
    """Judge the agent of a setup: on next items (`judge_next`), or by the spread of windows (`judge_windows`).

    By windows where the founding algorithm, which learns nothing of what came next, has users set aside whole or events
    after a moment; on next items in all other cases.

    Args:
        setup: whose model is loaded.
        part: tune on validation; report the test.
        seeds: of training; None judges the saved model alone. The model of each seed is trained where it is missing or
            was made by other settings, beside the setup's own, on the same split.

    Raises:
        DataError: nobody of the split can be judged on.
        ModelError: a model is missing or damaged, or was trained on another split.
    """
    state = State.from_setup(setup)
    by_windows = setup.algorithm.trials and state.split.kind != "leave_last_out"
    told = [setup.seed] if seeds is None else list(seeds)
    return (judge_windows if by_windows else judge_next)(setup, state, part, chosen(setup, state, seeds), told)
