"""How well next items are named: an agent beside chance, popularity, tuned baselines, and itself before it learned."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from what_next.algorithms import WhatNext
from what_next.data.splits import Part
from what_next.data.stages import SILENT, Stages
from what_next.errors import DataError
from what_next.experiments.baselines import EVERY, Allowed, left_out, searched, tuned
from what_next.experiments.models import policy, untrained
from what_next.experiments.verdict import Verdict
from what_next.metrics import Popular, RandomItem, Sampling
from what_next.metrics.beyond import Background
from what_next.metrics.evaluate_next import Groups, Judged, Yardstick, evaluate_next, judged_on
from what_next.metrics.groups import events_per_active_day, groups
from what_next.metrics.next_items import Targets
from what_next.settings import Setup
from what_next.state import State
from what_next.types import Policy


def judge_next(
    setup: Setup,
    state: State,
    part: Part,
    setups: Sequence[Setup],
    seeds: Sequence[int],
    allowed: Allowed = None,
    baselines: Collection[str] = EVERY,
    stages: Stages = SILENT,
) -> Verdict:
    """Judge the trained setups on next items: see `evaluate_next`.

    Policies: `agent`, `untrained` (the agent before its first step), `random` and the baselines. Each takes its best
    items; where scores are equal, a metric is its mean over their orders, so `random`, to whom all are, is chance.

    Args:
        setup: how they are judged (`evaluation`); `state`: its data.
        part: tune on validation; report the test.
        setups: of the trained models, one for each of the `seeds`.
        allowed: items that may be recommended; None for all.
        baselines: beside which; `stages`: who is told how far the work is.
    """
    yardstick = yardstick_of(state, part, allowed, stages)
    beside, chosen = rules(yardstick, state, baselines)
    judged = {
        "agent": yardstick.judge([policy(one, state) for one in setups], name="agent"),
        "untrained": yardstick.judge([untrained(one, state) for one in setups], name="untrained"),
        **beside,
    }
    about = about_of(state, part, yardstick, seeds, baselines) | {"baselines": chosen}
    return Verdict(evaluate_next(judged, yardstick, about), state, yardstick, judged, {"agent": setups})


def rules(
    yardstick: Yardstick, state: State, wanted: Collection[str] = EVERY
) -> tuple[dict[str, Judged], dict[str, dict[str, float]]]:
    """What chance and the baselines come to, and the settings that validation chose for these."""
    found = tuned(state, yardstick.allowed, wanted, yardstick.stages)
    assert yardstick.background is not None
    plain = {"random": RandomItem(yardstick.catalogue), "popular": Popular(yardstick.background.counts)}
    policies: dict[str, Policy] = {name: rule for name, rule in plain.items() if name in wanted}
    policies |= {name: rule for name, (rule, _) in found.items()}
    judged = {name: yardstick.judge([rule], name=name) for name, rule in policies.items()}
    return judged, {name: settings for name, (_, settings) in found.items()}


def about_of(
    state: State, part: Part, yardstick: Yardstick, seeds: Sequence[int], baselines: Collection[str] = EVERY
) -> dict[str, Any]:
    """On what policies of a state are judged: see `judged_on`; and how the settings of `baselines` were chosen."""
    out = {name: why for name, why in left_out(len(state.dataset.catalogue)).items() if name in baselines}
    return judged_on(
        state.dataset,
        state.split,
        part,
        yardstick.targets,
        seeds,
        kind=state.setup.evaluation.targets,
        counts=state.space.counts,
        allowed=yardstick.allowed,
    ) | {"left_out": out, "searched": searched(state, baselines)}


def yardstick_of(state: State, part: Part, allowed: Allowed = None, stages: Stages = SILENT) -> Yardstick:
    """Whom the policies of a state are judged on; the spread counts where items have attributes.

    Raises:
        DataError: nobody has a target with an event before it.
    """
    dataset, how, spread = state.dataset, state.setup.evaluation, state.setup.reward.spread
    targets = Targets.of(dataset, state.split, part, how.targets, state.setup.split.seed)
    if not len(targets):
        raise DataError(
            f"{state.setup.data}: no {part} user has two events, so there is nobody to judge on; take another split"
        )
    counts = state.space.counts
    assert counts is not None, "a state of the data counts them; one in the space of a model file has none"
    common: dict[str, Any] = {
        "targets": targets,
        "histories": state.histories,
        "catalogue": len(dataset.catalogue),
        "background": Background.of(state.space.catalogue, counts),
        "ks": how.k,
        "seen": how.seen,
        "allowed": allowed,
        "groups": _groups(state, targets),
        "stages": stages,
    }
    if not dataset.catalogue.names:
        return Yardstick(**common)
    lengths = np.minimum(targets.before, spread.window)
    latest = _with_sigma(state).histories(targets.users, targets.before - lengths, lengths)
    sampling = Sampling(state.space.catalogue.vectors, spread.window, spread.pairs)
    return Yardstick(**common, sampling=sampling, latest=latest)


def _groups(state: State, targets: Targets) -> Groups:
    """Rows that are judged apart, too."""
    dataset, split, counts = state.dataset, state.split, state.space.counts
    assert counts is not None
    times, activity = dataset.timestamps, None
    if times is not None:
        activity = events_per_active_day(times, dataset.offsets, targets.users, targets.before)
    known = None if split.kind == "users" else split.known[targets.users]
    found = groups(targets.before, targets.items, counts, activity=activity, known=known)
    if targets.relevant is not None:
        del found["item popularity"]  # a set has items of all kinds
    return {kind: masks for kind, masks in found.items() if len(masks) > 1}


def _with_sigma(state: State) -> State:
    """The state as the founding algorithm sees it, whose histories tell how widely each user's taste is spread."""
    return State(state.dataset, state.setup.model_copy(update={"algorithm": WhatNext()}), state.space)
