"""The models to evaluate: trained where they are missing, and never on the users that they are judged on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from what_next.agent import Agent
from what_next.data.splits import ON, Part
from what_next.environment import Environment
from what_next.errors import Lines, ModelError
from what_next.policy import LearnedPolicy
from what_next.settings import Setup
from what_next.sources import Source
from what_next.state import State
from what_next.training import checkpoint
from what_next.training.artefacts import read_manifest
from what_next.training.refit import due, refit_on


def of_seed(setup: Setup, seed: int) -> Setup:
    """The same setup with another training seed, its models in a folder beside; the split stays the same."""
    return beside(setup, f"seed-{seed}").model_copy(update={"seed": seed})


def beside(setup: Setup, folder: str) -> Setup:
    """The same setup with its models in a folder beside its own."""
    update: dict[str, Any] = {"log": None}  # the training log goes beside the model
    for name in ("model_agent_path", "model_critic_path"):
        path: Path | None = getattr(setup, name)
        update[name] = path and path.parent / folder / path.name
    return setup.model_copy(update=update)


def chosen(setup: Setup, state: State, seeds: Sequence[int] | None) -> list[Setup]:
    """The setup of the existing model, with the seed that it was trained from; or a setup for each seed, whose model is
    trained if it is missing."""
    if seeds is None:
        saved = read_manifest(setup.model_agent_path, "agent").setup
        return [setup.model_copy(update={"seed": saved["seed"]})]
    return [trained(of_seed(setup, seed), state) for seed in seeds]


def trained(setup: Setup, state: State, source: type[Source] | None = None) -> Setup:
    """Train unless a completely trained model with these settings exists; returns the setup.

    An interrupted training continues from its last checkpoint, with the same final result.

    Args:
        setup: with the seed, which also determines the order of histories; `state`: of the same data and split.
        source: the source of batches; None: the algorithm's own.
    """
    if not is_trained(setup, state):
        begun = _begun(setup)
        Lines().print(f"training {setup.model_agent_path} (seed {setup.seed})", highlight=False)
        try:
            interrupted = _train(setup, state, source, resume=begun)
        except ModelError:  # the data has changed
            if not begun:
                raise
            interrupted = _train(setup, state, source, resume=False)
        if interrupted:
            raise KeyboardInterrupt
    return setup


def _train(setup: Setup, state: State, source: type[Source] | None, *, resume: bool) -> bool:
    """Train; returns whether it was interrupted."""
    training = setup.model_copy(update={"train": True})
    learned = State(state.dataset, training, state.space)
    made, agent = source(learned) if source else None, Agent(training, state.space)
    return Environment(agent, learned, training, source=made, resume=resume, force=True).train_agent().interrupted


def _begun(setup: Setup) -> bool:
    """Whether a training of the same length was interrupted; for an ensemble, that of any of its networks."""
    parts = setup.members if setup.ensemble > 1 else (setup,)
    found = [checkpoint.progress(one) for one in parts if one.model_agent_path.exists()]
    return bool(found) and all(saved is not None and saved.same for saved in found)


def is_trained(setup: Setup, state: State) -> bool:
    """Whether a setup's models exist, are undamaged, and were trained to the end with the same settings."""
    saved = checkpoint.progress(setup)
    if saved is None or saved.unweighed:
        return False
    if setup.refit == "no" and refit_on(read_manifest(setup.model_agent_path)):
        return False
    if saved.ended:
        return due(setup, state.chosen_by) is None
    environment = Environment(Agent(setup, state.space), state, setup)
    agent = environment.agent
    agent.histories, agent.steps, agent.spent = saved.histories, saved.steps, saved.spent
    # With patience, a run at its end that is not `ended` was killed before its counts were weighed.
    return environment.done() and environment.patience is None


def judged_state(state: State, setups: Sequence[Setup], part: Part) -> State:
    """The state to judge models by: if one had a second training (`refit`), baselines learn from the same events.

    Raises:
        ModelError: a model learned from the events that it would be judged on.
    """
    more = [refit_on(read_manifest(one.model_agent_path, "agent")) for one in setups]
    for one, on in zip(setups, more, strict=True):
        if on == "all" or (on and part == "validation"):
            better = "judge it on the test, or train it" if on == "validation" else "train"
            raise ModelError(
                f"{one.model_agent_path}: was trained a second time, on {ON[on]}, so that it knows what it would be "
                f"judged on; {better} again with refit=no"
            )
    return State(state.dataset, state.setup, more="validation") if any(more) else state


def policy(setup: Setup, state: State) -> LearnedPolicy:
    """The trained agent of a setup.

    Raises:
        ModelError: a file is missing or damaged, or was trained on another split.
    """
    learned_on, here = read_manifest(setup.model_agent_path, "agent").metrics.get("split"), state.chosen_by.hash
    if learned_on not in (None, here):
        raise ModelError(
            f"{setup.model_agent_path}: was trained on split {learned_on}, and {setup.data} is now split as "
            f"{here}, so it may have seen whom it would be judged on; train again with these settings"
        )
    return LearnedPolicy.load(setup, state.dataset).of_histories()


def untrained(setup: Setup, state: State) -> LearnedPolicy:
    """The agent before its first step."""
    return LearnedPolicy(Agent(setup, state.space).build().eval(), state)
