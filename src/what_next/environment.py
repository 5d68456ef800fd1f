"""Environment: the only place with a training loop."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from what_next.agent import Agent
from what_next.data.importing.files import check_paths
from what_next.inference.recommender import Recommender
from what_next.policy import LearnedPolicy
from what_next.settings import Setup
from what_next.state import State
from what_next.training import checkpoint
from what_next.training.monitor import Watch
from what_next.training.report import Report
from what_next.training.step import OutOfTime, Step
from what_next.training.tracking import Tracker
from what_next.types import History

EVENTS = 2**12
"""A batch of the founding algorithm holds so many events at most (or one history), whatever `batch_size` says: with
long windows, memory and the time of a step stay bounded."""


class Environment:
    """Runs an agent against a state, as a setup says.

    Attributes:
        agent, state, setup: what was given.
        resume: go on from the last save instead of from the start.
        origin: an agent's file whose weights training starts from.
        force: write over models of another algorithm or of other data.
        rng: all random numbers of the loop.
    """

    def __init__(
        self,
        agent: Agent,
        state: State,
        setup: Setup,
        *,
        resume: bool = False,
        origin: Path | None = None,
        force: bool = False,
    ) -> None:
        self.agent = agent
        self.state = state
        self.setup = setup
        self.resume = resume
        self.origin = origin
        self.force = force
        self.rng = np.random.default_rng(setup.seed)
        setup.threaded()

    @classmethod
    def from_setup(cls, setup: Setup | str | Path, *, resume: bool = False, force: bool = False) -> "Environment":
        """State, agent and environment of a setup, or of the path of one."""
        setup = setup if isinstance(setup, Setup) else Setup.read(setup)
        state = checkpoint.open_state(setup, resume=resume)
        return cls(Agent(setup, state.space), state, setup, resume=resume, force=force)

    def run_sim(self) -> Report:
        """Train where the setup says so, and recommend otherwise."""
        return self.train_agent() if self.setup.train else self.infer()

    def train_agent(self) -> Report:
        """The training cycle over `epochs` user histories: history, predict, produce, propagate.

        The models are saved every `save_every` histories and at the end. An interrupt (Ctrl-C) ends the cycle that is
        under way, and saves. The end of `seconds` breaks off the cycle that is under way, unless it is the first.

        Raises:
            TrainingError: a loss was not a finite number; the last good save is kept.
            SaveError: a model could not be written; this is tried before the first step.
            ModelError: models of another algorithm or of other data lie there, and there is no `force`.
        """
        if not (self.resume or self.force):
            checkpoint.spare(self.setup, self.state, self.origin)
        check_paths(self.setup.model_paths)
        agent, state, setup = self.agent.wake_agent(), self.state, self.setup
        run = checkpoint.resume(agent, self.rng) if self.resume else checkpoint.new_run()
        if self.origin:
            checkpoint.start_from(agent, self.origin)
        agent.horizon = self.horizon()
        watch = Watch(agent, state, self.rng, run, resumed=self.resume)
        start = time.perf_counter()
        before = agent.spent * (setup.seconds or 0.0)  # by the run that is gone on with
        with (
            Tracker(setup.log_path, agent.histories, agent.horizon, len(state.train_users)) as tracker,
            _interrupt() as interrupted,
        ):
            while not (self.done() or interrupted or watch.over):
                try:
                    step = self._cycle()
                except OutOfTime:
                    agent.spent = 1.0
                    break
                tracker.show(step, agent.histories)
                watch.see(step)
                if setup.seconds:
                    agent.spent = (before + time.perf_counter() - start) / setup.seconds
                    agent.deadline = start + setup.seconds - before
            seconds = time.perf_counter() - start
            watch.finish()
        return self._told(watch, seconds)

    def _cycle(self) -> Step:
        """History, predict, produce, propagate.

        Raises:
            OutOfTime: the agent's deadline came first; nothing was moved.
        """
        agent, state, setup = self.agent, self.state, self.setup
        history = self.next_batch()
        proposal = agent.predict(history, self.rng, grid=True)
        agent.in_time()
        if setup.algorithm.trials:
            product = state.produce(proposal.points, setup.relax, self.rng, history=history, score=proposal.score)
        else:
            product = state.next_items(history)
        return agent.propagate(product, self.rng)

    def _told(self, watch: Watch, seconds: float) -> Report:
        """What training returns."""
        return Report(
            self.agent.histories,
            watch.targets,
            seconds,
            tuple(watch.steps),
            watch.valid,
            self.setup.model_paths,
            passes=self.agent.histories / len(self.state.train_users),
            alarms=tuple(watch.alarms.told.values()),
            stopped=not (self.done() or watch.over),
        )

    def next_batch(self) -> History:
        """Histories for the next step: random ones, or the next of the pass where an algorithm learns from the log."""
        agent, setup = self.agent, self.setup
        if not setup.algorithm.trials:
            return self.state.get_batch(agent.steps)
        assert setup.batch_size is not None, "a setup whose algorithm tries items says it"
        longest = min(setup.longest, int(self.state.split.known[self.state.train_users].max()))
        most = min(setup.batch_size, max(1, EVENTS // longest))
        return self.state.get_random_user_history(min(most, agent.horizon - agent.histories), self.rng)

    def horizon(self) -> int:
        """How many histories the whole run trains on."""
        passes = self.setup.passes
        return passes * len(self.state.train_users) if passes else self.setup.epochs

    def done(self) -> bool:
        """Whether the run is at its end: of its time, of histories, or of the batches that they come in."""
        agent, state = self.agent, self.state
        if agent.spent >= 1:
            return True
        if self.setup.algorithm.trials:
            return agent.histories >= agent.horizon
        return agent.steps >= max(1, round(agent.horizon / len(state.train_users) * len(state.batches)))

    def infer(self) -> Report:
        """One cycle without learning: recommendations for the users of the setup, or for a random one."""
        agent = self.agent.ready_agent()
        state = self.state.within(agent.space)
        everyone = state.dataset.user_ids
        users = self.setup.user or (str(everyone[int(self.rng.integers(len(everyone)))]),)
        recommender = Recommender(LearnedPolicy(agent, state))
        # Among items that match a proposal equally well, one is drawn; those that are ranked are taken in order.
        rng = self.rng if agent.setup.algorithm.trials else None
        found = recommender.recommend_users(users, self.setup.slots, rng=rng)
        return Report(agent.histories, recommendations=tuple(found))


@contextmanager
def _interrupt() -> Iterator[list[int]]:
    """A list that holds a signal once the user has interrupted; a second interrupt stops at once."""
    seen: list[int] = []

    def remember(number: int, _: object) -> None:
        seen.append(number)
        signal.signal(number, signal.default_int_handler)

    try:
        before = signal.signal(signal.SIGINT, remember)
    except ValueError:  # not the main thread: whoever runs there has their own way to stop
        yield seen
        return
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)
