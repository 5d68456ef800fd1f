"""The trained agent as a policy: the same two calls that the training loop makes."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from what_next.agent import Agent
from what_next.inference.session import Event, Session, Sessions
from what_next.retrieval import chances_ranked, scored
from what_next.state import State
from what_next.types import History, Proposal, Slate


class LearnedPolicy:
    """An agent and the state that turns its proposals into items (a `types.Policy`).

    What differs between training, evaluation and service are arguments: `rng=None` is greedy.
    """

    def __init__(self, agent: Agent, state: State) -> None:
        self.agent = agent
        self.state = state

    def __repr__(self) -> str:
        return f"LearnedPolicy({self.agent!r})"

    def act(self, history: History, slots: int = 1, rng: np.random.Generator | None = None, **masks: Any) -> Slate:
        """A slate for each history: the actor's likeliest point, and items that match it, drawn by `rng`.

        Args:
            history: what each user heard; only the latest events count.
            slots: items for each.
            rng: draws the items among those that match; None takes the nearest.
            masks: `allowed`, `exclude` and `propensities`, see `State.produce`.
        """
        proposal = self.agent.predict(history)
        product = self.state.produce(
            proposal.points,
            None,
            rng,
            history=history,
            slots=slots,
            score=proposal.score,
            ranked=proposal.ranked,
            **masks,
        )
        # A point in a learned space says nothing to people.
        points = proposal.points if proposal.ranked is None else None
        return Slate(product.items, product.propensities, product.fallback, points, product)

    # The sessions of a service: an event costs one step of the network, see `session`.

    @cached_property
    def sessions(self) -> Sessions:
        """How a person's session begins, grows, and leads to proposals."""
        return Sessions.of(self.agent)

    def begin(self) -> Session:
        """The session of a person of whom nothing is known."""
        return self.sessions.begin()

    def replay(self, events: Sequence[Event]) -> Session:
        """The session of a whole history, oldest event first, in one batch pass."""
        return self.sessions.replay(events)

    def replays(self, histories: Sequence[Sequence[Event]]) -> list[Session]:
        """The same of several people's histories, in one batch pass."""
        return self.sessions.replays(histories)

    def fold(self, sessions: Sequence[Session], events: Sequence[Event]) -> list[Session]:
        """The sessions of different people, each with one event more: one step of the network for all of them."""
        return self.sessions.fold(sessions, events)

    def propose(self, sessions: Sequence[Session], context: Sequence[Mapping[str, float]] | None = None) -> Proposal:
        """What `Agent.predict` proposes after the same events; see `Sessions.propose`."""
        return self.sessions.propose(sessions, context)

    # What it tells of its choice.

    def scored(self, history: History, **masks: Any) -> Float[Tensor, "batch items"] | None:
        """The score of every item by which `act` ranks them; None for an agent that proposes points and has no scores.

        Args:
            history: what each user heard; only the latest events count.
            masks: `allowed` and `exclude`: minus infinity where an item is not permitted.
        """
        if self.agent.setup.algorithm.by_attributes:
            return None
        proposal = self.agent.predict(history)
        assert proposal.ranked is not None, "an agent that learns from the log scores items"
        return torch.cat([scores for _, scores in scored(proposal.points, proposal.ranked, **masks)])

    def chances(self, history: History, **masks: Any) -> Float64[np.ndarray, "batch items"]:
        """The exact probability of every item to be the first that `act` draws with a generator.

        A row sums to 1, or to 0 where no item is permitted (`allowed` and `exclude`).
        """
        proposal = self.agent.predict(history)
        if proposal.ranked is not None:
            return chances_ranked(proposal.points, proposal.ranked, **masks)
        state = self.state
        return state.box.chances(
            proposal.points,
            tolerance=state.space.tolerance,
            relax=state.setup.relax,
            score=proposal.score,
            candidates=state.setup.selection.candidates if proposal.score else 0,
            **masks,
        )

    def log_prob(self, history: History, items: Int[np.ndarray, "batch"], **masks: Any) -> Float64[np.ndarray, "batch"]:
        """The log of the probability that `act` draws this item first; minus infinity where it never does."""
        with np.errstate(divide="ignore"):
            logs: Float64[np.ndarray, batch] = np.log(self.chances(history, **masks)[np.arange(len(items)), items])
        return logs
