"""Environment: the only place with a training loop."""

import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from what_next.agent import Agent
from what_next.artefacts import Manifest, read_rest, write_models
from what_next.errors import ModelError, TrainingError
from what_next.learning import Step
from what_next.policy import LearnedPolicy
from what_next.recommender import Recommender
from what_next.report import Report
from what_next.settings import Setup
from what_next.state import State
from what_next.tracking import Tracker


class Environment:
    """Runs an agent against a state, as a setup says.

    Attributes:
        agent, state, setup: what was given.
        resume: go on from the last save instead of from the start.
        rng: all random numbers of the loop.
    """

    def __init__(self, agent: Agent, state: State, setup: Setup, *, resume: bool = False) -> None:
        self.agent = agent
        self.state = state
        self.setup = setup
        self.resume = resume
        self.rng = np.random.default_rng(setup.seed)
        self.run = secrets.token_hex(8)
        if setup.threads:
            torch.set_num_threads(setup.threads)

    @classmethod
    def from_setup(cls, setup: Setup | str | Path, *, resume: bool = False) -> "Environment":
        """State, agent and environment of a setup, or of the path of one."""
        setup = setup if isinstance(setup, Setup) else Setup.read(setup)
        state = State.from_setup(setup)
        return cls(Agent(setup, state.space), state, setup, resume=resume)

    def run_sim(self) -> Report:
        """Train where the setup says so, and recommend otherwise."""
        return self.train_agent() if self.setup.train else self.infer()

    def train_agent(self) -> Report:
        """The training cycle over `epochs` user histories: history, predict, produce, propagate.

        The models are saved every `save_every` histories and at the end. An interrupt (Ctrl-C) ends the cycle that is
        under way, and saves.

        Raises:
            TrainingError: a loss was not a finite number; the last good save is kept.
        """
        agent, state, setup = self.agent.wake_agent(), self.state, self.setup
        if self.resume:
            self._go_on(agent)
        steps: list[Step] = []
        targets, saved, start = 0, agent.histories, time.perf_counter()
        with Tracker(setup.log_path, agent.histories, setup.epochs) as tracker, _interrupt() as interrupted:
            while agent.histories < setup.epochs and not interrupted:
                batch = min(setup.batch_size, setup.epochs - agent.histories)
                history = state.get_random_user_history(batch, self.rng)
                proposal = agent.predict(history, self.rng, grid=True)
                product = state.produce(proposal.points, setup.relax, self.rng, history=history)
                step = self._propagate(agent, product)
                tracker.show(step, agent.histories)
                steps.append(step)
                targets += round(history.items.size * (1 - step.masked))
                if agent.histories - saved >= setup.save_every:
                    self.save(agent)
                    saved = agent.histories
        seconds = time.perf_counter() - start
        valid = self.validate(agent)
        self.save(agent, valid)
        paths = tuple(path for path in (setup.model_agent_path, setup.model_critic_path) if path)
        return Report(agent.histories, targets, seconds, tuple(steps), valid, paths, stopped=bool(interrupted))

    def infer(self) -> Report:
        """One cycle without learning: recommendations for the users of the setup, or for a random one."""
        agent = self.agent.ready_agent()
        state = self.state.within(agent.space)
        everyone = state.dataset.user_ids
        users = self.setup.user or (str(everyone[int(self.rng.integers(len(everyone)))]),)
        recommender = Recommender(LearnedPolicy(agent, state))
        found = recommender.recommend_users(users, self.setup.slots, rng=self.rng)
        return Report(agent.histories, recommendations=tuple(found))

    def validate(self, agent: Agent) -> dict[str, float]:
        """The mean spread reward on windows of the validation users, which training never saw.

        Empty where the split has no validation users.
        """
        state = self.state
        users = state.split.validation
        users = users[state.dataset.lengths[users] >= 2 * LEAST_EVENTS]
        if not len(users):
            return {}
        rng = np.random.default_rng(self.setup.seed)
        lengths = np.minimum(state.dataset.lengths[users], VALIDATION_WINDOW)
        history = state.histories(users, rng.integers(state.dataset.lengths[users] - lengths + 1), lengths)
        for net in agent.nets.values():
            net.eval()
        slate = LearnedPolicy(agent, state).act(history, rng=rng, exclude=history.items)
        chosen = agent.vectors[torch.from_numpy(slate.items[:, 0]).long()]
        return {}

    def save(self, agent: Agent, valid: dict[str, float] | None = None) -> None:
        """Write the models, and what a resumed run needs, together."""
        space = agent.space
        metrics = {"valid": valid, "data": self.state.dataset.name, "split": self.state.split.hash} if valid else {}
        manifest = Manifest.of(self.setup, space, self.run, agent.histories, metrics)
        tensors: dict[str, Tensor] = {"random.torch": torch.get_rng_state()}
        for name, optimiser in agent.optimisers.items():
            for place, values in optimiser.state_dict()["state"].items():
                tensors |= {f"{name}.{place}.{key}": value for key, value in values.items()}
        write_models(self.setup, manifest, space, agent.nets, (tensors, {"random": self.rng.bit_generator.state}))

    def _propagate(self, agent: Agent, product: Product) -> Step:
        try:
            return agent.propagate(product, self.rng)
        except TrainingError as error:
            raise TrainingError(
                f"training stopped after {agent.histories:,} histories: {error}; the models of the last save are kept in "
                f"{self.setup.model_agent_path.parent}. Look at the attributes' ranges, or lower learning_rate "
                f"({self.setup.learning_rate:g})"
            ) from None

    def _go_on(self, agent: Agent) -> None:
        """Take weights, optimisers and random states from the last save."""
        rest = read_rest(self.setup.model_agent_path)
        saved = read_models(self.setup.model_agent_path, self.setup.model_critic_path)
        changed = _changed(Setup(**rest.manifest.setup), self.setup)
        if changed:
            raise ModelError(
                f"{self.setup.model_agent_path}: was trained with another {', '.join(changed)}; to go on, set it as it "
                "was; to start anew, leave --resume out"
            )
        ...
