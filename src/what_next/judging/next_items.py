"""How well next items are named: an agent beside chance, popularity, and itself before it learned."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from what_next.algorithms import WhatNext
from what_next.data.splits import Part
from what_next.errors import DataError
from what_next.evaluation import Popular, RandomItem, Sampling
from what_next.evaluation.evaluate_next import Judged, Yardstick, evaluate_next, judged_on
from what_next.evaluation.next_items import Targets
from what_next.judging.models import policy, untrained
from what_next.settings import Setup
from what_next.state import State


def judge_next(setup: Setup, state: State, part: Part, setups: Sequence[Setup], seeds: Sequence[int]) -> dict[str, Any]:
    """Judge the trained setups on the last event of each user's part of the split: see `evaluate_next`.

    Policies: `agent`, `untrained` (the agent before its first step), `random` and `popular`. Each takes its best items,
    none of the history; chance alone draws.
    """
    yardstick = yardstick_of(state, part)
    judged = {
        "agent": yardstick.judge([policy(one, state) for one in setups]),
        "untrained": yardstick.judge([untrained(one, state) for one in setups]),
        **rules(yardstick, state),
    }
    return evaluate_next(judged, yardstick, judged_on(state.dataset, state.split, part, yardstick.targets, seeds))


def rules(yardstick: Yardstick, state: State) -> dict[str, Judged]:
    """What chance and the training counts of items come to."""
    counts = state.space.counts
    assert counts is not None, "a state of the data counts them; one in the space of a model file has none"
    return {
        "random": yardstick.judge([RandomItem(yardstick.catalogue)], drawn=True),
        "popular": yardstick.judge([Popular(counts)]),
    }


def yardstick_of(state: State, part: Part) -> Yardstick:
    """Whom the policies of a state are judged on; the spread counts where items have attributes.

    Raises:
        DataError: nobody has a target with an event before it.
    """
    dataset, spread = state.dataset, state.setup.reward.spread
    targets = Targets.of(dataset, state.split, part)
    if not len(targets):
        raise DataError(
            f"{state.setup.data}: no {part} user has two events, so there is nobody to judge on; take another split"
        )
    if not dataset.catalogue.names:
        return Yardstick(targets, state.histories, len(dataset.catalogue))
    lengths = np.minimum(targets.before, spread.window)
    latest = _with_sigma(state).histories(targets.users, targets.before - lengths, lengths)
    sampling = Sampling(state.space.catalogue.vectors, spread.window, spread.pairs)
    return Yardstick(targets, state.histories, len(dataset.catalogue), sampling, latest)


def _with_sigma(state: State) -> State:
    """The state as the founding algorithm sees it, whose histories tell how widely each user's taste is spread."""
    return State(state.dataset, state.setup.model_copy(update={"algorithm": WhatNext()}), state.space)
