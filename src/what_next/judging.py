"""Does it learn? An agent beside rules and chance, on users that training never saw."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from what_next import checkpoint
from what_next.agent import Agent
from what_next.artefacts import read_manifest
from what_next.data.splits import Part
from what_next.environment import Environment
from what_next.errors import DataError, ModelError
from what_next.evaluation import NearestMean, Oracle, RandomItem, Sampling, Steer, TrueNext, draw_windows, evaluate
from what_next.policy import LearnedPolicy
from what_next.settings import Setup
from what_next.state import State
from what_next.types import Policy

LENGTHS = (5, 10, 20)


def judge(setup: Setup, part: Part = "test", seeds: Sequence[int] | None = None) -> dict[str, Any]:
    """Judge the agent of a setup on windows of 5, 10 and 20 events of the users of a split: see `evaluation.evaluate`.

    Policies: `agent` (the founding rule), `agent_critic` (the critic chooses among the items that match), `untrained`
    (the agent before its first step), `random`, `nearest_mean`, `true_next`, `steer` and `oracle`.

    Args:
        setup: whose model is loaded.
        part: tune on validation; report the test.
        seeds: of training; None judges the saved model alone. The model of each seed is trained where it is missing or
            was made by other settings, beside the setup's own, on the same split.

    Raises:
        DataError: no user of the split has a window.
        ModelError: a model is missing or damaged, or was trained on another split.
    """
    state = State.from_setup(setup)
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
    chosen = [setup.seed] if seeds is None else list(seeds)
    setups = [setup if seeds is None else _trained(of_seed(setup, seed), state) for seed in chosen]
    split = {"kind": state.split.kind, "part": part, "users": len(getattr(state.split, part)), "hash": state.split.hash}
    return evaluate(
        {**_learned(setups, state), **rules}, windows, sampling, data=state.dataset.name, split=split, seeds=chosen
    )


def of_seed(setup: Setup, seed: int) -> Setup:
    """The same setup trained from another seed, its models in a folder of their own beside; the split stays."""
    update: dict[str, Any] = {"seed": seed}
    for name in ("model_agent_path", "model_critic_path"):
        path: Path | None = getattr(setup, name)
        update[name] = path and path.parent / f"seed-{seed}" / path.name
    return setup.model_copy(update=update)


def _learned(setups: Sequence[Setup], state: State) -> dict[str, list[Policy]]:
    """The trained agents by both selections, and the untrained ones, a policy for each seed."""
    policies: dict[str, list[Policy]] = {"agent": [], "agent_critic": [], "untrained": []}
    for setup in setups:
        _same_split(setup, state)
        for name, selection in (("agent", "random"), ("agent_critic", "critic")):
            chosen = setup.selection.model_copy(update={"name": selection})
            agent = Agent(setup.model_copy(update={"selection": chosen}), state.space).ready_agent()
            policies[name].append(LearnedPolicy(agent, state.within(agent.space)))
        random = setup.selection.model_copy(update={"name": "random"})
        untrained = Agent(setup.model_copy(update={"selection": random}), state.space).wake_agent().quiet()
        policies["untrained"].append(LearnedPolicy(untrained, state))
    return policies


def _same_split(setup: Setup, state: State) -> None:
    """Raises a `ModelError` where a model was trained on another split: it may have seen the users it is judged on."""
    trained = read_manifest(setup.model_agent_path, "agent").metrics.get("split", state.split.hash)
    if trained != state.split.hash:
        raise ModelError(
            f"{setup.model_agent_path}: was trained on split {trained}, and {setup.data} is now split as "
            f"{state.split.hash}, so it may have seen whom it would be judged on; train again with these settings"
        )


def _trained(setup: Setup, state: State) -> Setup:
    """Train where the model of these very settings is missing or was not trained to its end."""
    if not checkpoint.is_trained(setup):
        training = setup.model_copy(update={"train": True})
        if Environment(Agent(training, state.space), state, training).train_agent().stopped:
            raise KeyboardInterrupt
    return setup
