"""Does the founding algorithm learn? Its agent beside rules and chance, on windows of users that training never saw."""

from collections.abc import Sequence
from typing import Any

from what_next.data.splits import Part
from what_next.data.stages import SILENT, Stages
from what_next.errors import DataError
from what_next.experiments.models import policy, untrained
from what_next.metrics import NearestMean, Oracle, RandomItem, Sampling, Steer, TrueNext, draw_windows, evaluate
from what_next.settings import Setup
from what_next.state import State
from what_next.types import Policy

LENGTHS = (5, 10, 20)


def judge_windows(
    setup: Setup,
    state: State,
    part: Part,
    setups: Sequence[Setup],
    seeds: Sequence[int],
    stages: Stages = SILENT,
) -> dict[str, Any]:
    """Judge the trained setups on windows of 5, 10 and 20 events of the users of a split: see `evaluation.evaluate`.

    Policies: `agent` (the founding rule), `agent_critic` (the critic chooses among the items that match), `untrained`
    (the agent before its first step), `random`, `nearest_mean`, `true_next`, `steer` and `oracle`.
    """
    since, until = state.split.targets(part)
    windows = {
        length: draw_windows(
            state.dataset, getattr(state.split, part), state.histories, length=length, since=since, until=until
        )
        for length in LENGTHS
    }
    if not any(len(some) for some in windows.values()):
        raise DataError(f"{setup.data}: no {part} user has {LENGTHS[0] + 1} events, so there is nobody to judge on")
    vectors = state.space.catalogue.vectors
    spread = setup.reward.spread
    sampling = Sampling(vectors, spread.window, spread.pairs)
    rules: dict[str, list[Policy]] = {
        "random": [RandomItem(len(vectors))],
        "nearest_mean": [NearestMean(sampling, state.box)],
        "true_next": [TrueNext({length: some.following for length, some in windows.items()})],
        "steer": [Steer(sampling, state.space.typical)],
        "oracle": [Oracle(sampling)],
    }
    split = {
        "kind": state.split.kind,
        "part": part,
        "users": len(getattr(state.split, part)),
        "cold_users": int(state.split.cold(part).sum()),
        "hash": state.split.hash,
    }
    return evaluate(
        {**_learned(setups, state), **rules},
        windows,
        sampling,
        data=state.dataset.name,
        split=split,
        seeds=seeds,
        stages=stages,
    )


def _learned(setups: Sequence[Setup], state: State) -> dict[str, list[Policy]]:
    """The trained agents by both selections, and the untrained ones, a policy for each seed."""
    policies: dict[str, list[Policy]] = {"agent": [], "agent_critic": [], "untrained": []}
    for setup in setups:
        for name, selection in (("agent", "random"), ("agent_critic", "critic")):
            policies[name].append(policy(_selecting(setup, selection), state))
        policies["untrained"].append(untrained(_selecting(setup, "random"), state))
    return policies


def _selecting(setup: Setup, name: str) -> Setup:
    return setup.model_copy(update={"selection": setup.selection.model_copy(update={"name": name})})
