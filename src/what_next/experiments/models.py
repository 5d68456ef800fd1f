"""The models that are judged: trained where they are missing, and never on whom they are judged on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from what_next.agent import Agent
from what_next.data.splits import Part
from what_next.environment import ON, Environment
from what_next.errors import ModelError, line_console
from what_next.policy import LearnedPolicy
from what_next.settings import Setup
from what_next.sources import Source
from what_next.state import State
from what_next.training import checkpoint
from what_next.training.artefacts import read_manifest
from what_next.training.refit import due, refit_on


def of_seed(setup: Setup, seed: int) -> Setup:
    """The same setup trained from another seed, its models in a folder of their own beside; the split stays."""
    return beside(setup, f"seed-{seed}").model_copy(update={"seed": seed})


def beside(setup: Setup, folder: str) -> Setup:
    """The same setup with its models in a folder beside its own."""
    update: dict[str, Any] = {"log": None}  # beside the model
    for name in ("model_agent_path", "model_critic_path"):
        path: Path | None = getattr(setup, name)
        update[name] = path and path.parent / folder / path.name
    return setup.model_copy(update=update)


def chosen(setup: Setup, state: State, seeds: Sequence[int] | None) -> list[Setup]:
    """The setup of the model that is there, with the seed it was trained from; or one for each seed, trained where it
    is not yet."""
    if seeds is None:
        saved = read_manifest(setup.model_agent_path, "agent").setup
        return [setup.model_copy(update={"seed": saved["seed"]})]
    return [trained(of_seed(setup, seed), state) for seed in seeds]


def trained(setup: Setup, state: State, source: type[Source] | None = None) -> Setup:
    """Train where the model of these very settings is missing or was not trained to its end; returns the setup.

    What was interrupted goes on from its last save, and comes to the same end.

    Args:
        setup: with the seed, which also says in which order histories come; `state`: of the same data and split.
        source: where batches come from; None: the algorithm's own.
    """
    if not is_trained(setup, state):
        begun = _begun(setup)
        line_console().print(f"training {setup.model_agent_path} (seed {setup.seed})", highlight=False)
        try:
            interrupted = _train(setup, state, source, resume=begun)
        except ModelError:  # the data have changed
            if not begun:
                raise
            interrupted = _train(setup, state, source, resume=False)
        if interrupted:
            raise KeyboardInterrupt
    return setup


def _train(setup: Setup, state: State, source: type[Source] | None, *, resume: bool) -> bool:
    """Whether it was interrupted."""
    training = setup.model_copy(update={"train": True})
    learned = State(state.dataset, training, state.space)
    made, agent = source(learned) if source else None, Agent(training, state.space)
    return Environment(agent, learned, training, source=made, resume=resume, force=True).train_agent().interrupted


def _begun(setup: Setup) -> bool:
    """Whether a training that was to be as long was interrupted; of an ensemble, that of any of its networks."""
    parts = setup.members if setup.ensemble > 1 else (setup,)
    found = [checkpoint.progress(one) for one in parts if one.model_agent_path.exists()]
    return bool(found) and all(saved is not None and saved.same for saved in found)


def is_trained(setup: Setup, state: State) -> bool:
    """Whether the models of a setup are there, whole, and trained to the end by the same settings."""
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
    return environment.done() and environment.patience is None  # else it was killed before its counts were weighed


def judged_state(state: State, setups: Sequence[Setup], part: Part) -> State:
    """The state to judge models by: if one had a second training (`refit`), baselines learn from the same events.

    Raises:
        ModelError: a model learned from the events that it would be judged on.
    """
    more = {one: refit_on(read_manifest(one.model_agent_path, "agent")) for one in setups}
    for one, on in more.items():
        if on == "all" or (on and part == "validation"):
            better = "judge it on the test, or train it" if on == "validation" else "train"
            raise ModelError(
                f"{one.model_agent_path}: was trained a second time, on {ON[on]}, so that it knows what it would be "
                f"judged on; {better} again with refit=no"
            )
    return State(state.dataset, state.setup, more="validation") if any(more.values()) else state


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
    return LearnedPolicy(Agent(setup, state.space).wake_agent().eval(), state)
