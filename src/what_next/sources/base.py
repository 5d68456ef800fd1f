"""The base class of all sources of experience."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np

from what_next.agent import Agent
from what_next.policy import LearnedPolicy
from what_next.state import State
from what_next.types import Batch

SAVED = 5000
"""Histories between two saves if neither the setup nor the source sets it."""


class Source(ABC):
    """Makes the batches that an agent learns from.

    A batch starts with histories; after each of their events an item is chosen, by the policy (predict, then produce)
    or by the policy behind a log.

    Attributes:
        shared: whether several processes may share the rows of its batches.
        foreseen: whether a better model predicts the validation users' next events better, so that `patience` may use
            that measure.
    """

    shared: bool = True
    foreseen: bool = True

    def __init__(self, state: State) -> None:
        self.state, self.setup = state, state.setup

    @abstractmethod
    def next_batch(self, policy: LearnedPolicy, rng: np.random.Generator) -> Batch:
        """The next batch; `policy` chooses with `rng` where the source holds no choice."""

    def prepare(self, agent: Agent) -> None:  # noqa: B027 - most sources have nothing to give
        """Prepare an agent before its first step."""

    @property
    def horizon(self) -> int:
        """How many histories the whole run trains on."""
        passes = self.setup.passes
        return passes * len(self.state.train_users) if passes else self.setup.epochs

    @property
    def save_every(self) -> int:
        """Number of histories between two saves."""
        return self.setup.save_every or SAVED

    @property
    def polyak(self) -> float:
        """The step of target networks towards their networks."""
        return self.setup.algorithm.polyak

    def done(self, histories: int, steps: int) -> bool:
        """Whether a run that learned from this many histories, in this many steps, is at its end."""
        return histories >= self.horizon

    @abstractmethod
    def resume(self, histories: int, steps: int) -> None:
        """Continue where a run was after this many histories and steps."""

    @property
    def chosen(self) -> tuple[Mapping[str, str | int], Sequence[str]]:
        """The settings that the data decided, for the manifest, and a sentence for each reason."""
        return {}, ()


class Mixture(Source):
    """Several sources, each of which gives a share of the batches; the first one sets the length of a run, in histories
    of all of them."""

    def __init__(self, sources: Mapping[Source, float]) -> None:
        """`sources`: shares by source, normalised to a sum of 1."""
        self.sources = list(sources)
        super().__init__(self.sources[0].state)
        shares = np.array(list(sources.values()), np.float64)
        if not (shares > 0).all():
            raise ValueError(f"shares of sources are {shares.tolist()}; give numbers above 0")
        self.shares = shares / shares.sum()
        self.taken = np.zeros(len(shares), np.int64)
        self.shared = all(source.shared for source in self.sources)
        self.foreseen = all(source.foreseen for source in self.sources)

    def prepare(self, agent: Agent) -> None:
        """See `Source.prepare`: as the first source does."""
        self.sources[0].prepare(agent)

    def next_batch(self, policy: LearnedPolicy, rng: np.random.Generator) -> Batch:
        """A batch of the source that is furthest behind its share."""
        return self.sources[self._turn()].next_batch(policy, rng)

    def _turn(self) -> int:
        turn = int(np.argmax(self.shares * (self.taken.sum() + 1) - self.taken))
        self.taken[turn] += 1
        return turn

    @property
    def horizon(self) -> int:
        """The first source's."""
        return self.sources[0].horizon

    @property
    def save_every(self) -> int:
        """The first source's."""
        return self.sources[0].save_every

    @property
    def polyak(self) -> float:
        """The largest of all sources'."""
        return max(source.polyak for source in self.sources)

    def resume(self, histories: int, steps: int) -> None:
        """Each source continues after its share of the steps."""
        self.taken[:] = 0
        for _ in range(steps):
            self._turn()
        for source, taken in zip(self.sources, self.taken.tolist(), strict=True):
            source.resume(round(histories * taken / max(1, steps)), taken)

    @property
    def chosen(self) -> tuple[Mapping[str, str | int], Sequence[str]]:
        """The settings and reasons of all sources; the first source takes precedence."""
        found = [source.chosen for source in self.sources]
        values = {name: value for values, _ in reversed(found) for name, value in values.items()}
        return values, [reason for _, reasons in found for reason in reasons]
