"""Policies that act for users of a world and keep a state of each user."""

from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float32, Int, Int64

from what_next.inference.session import Event, Session, Sessions
from what_next.models.belief import Belief, Beliefs
from what_next.models.encoders import Encoder
from what_next.models.encoders import State as Carried
from what_next.models.slates import Pricer
from what_next.policy import LearnedPolicy
from what_next.training.encoder_learner import EncoderLearner
from what_next.training.play_learner import flattened
from what_next.types import Events, Greedy, Proposal, Request
from what_next.worlds import Draws, Observation, World

MEMORY = 30
"""Slates per user that a belief remembers."""


class Player:
    """A learned policy that acts for users of a world: one step of the encoder's carried state for each slate.

    Attributes:
        carried: the encoder's carried state of each user; None before the first step.
    """

    def __init__(self, policy: LearnedPolicy, world: World, *, draws: bool = False) -> None:
        """`draws`: act with draws, as in training; otherwise take the best items."""
        self.policy, self.world, self.draws = policy, world, draws
        self.request = Request(world.slots, policy.sampler if draws else Greedy())
        self.carried: Carried | None = None
        self.beliefs: Beliefs | None = None

    @property
    def belief(self) -> Belief | None:
        """The belief about users' clicks, if the actor has one."""
        actor = self.policy.agent.nets.get("actor")
        return actor.belief if isinstance(actor, Pricer) else None

    def begin(self, users: int) -> None:
        """Start with new users."""
        self.users, self.carried = users, None
        if self.belief is not None:
            self.beliefs = Beliefs(self.belief, users, self.world.slots, MEMORY)

    @property
    def encoder(self) -> Encoder:
        """The agent's encoder."""
        return cast(Encoder, self.policy.agent.nets["encoder"])

    def look(
        self, seen: Observation, rows: Int[np.ndarray, "some"] | None = None
    ) -> tuple[Events, Float32[np.ndarray, "users numbers"]]:
        """The encoder's input for an observation (of some users), and its standardised numbers."""
        space, learner = self.policy.agent.space, self.policy.agent.learner
        if self.beliefs is not None:
            known = self.beliefs.standardised.cpu().numpy()
            seen = replace(seen, numbers=np.concatenate([seen.numbers, known if rows is None else known[rows]], 1))
        numbers = space.standardised(seen.numbers)
        shown = learner.tensor(seen.shown.astype(np.int64))[:, None]
        clicks = learner.tensor(seen.clicks.astype(np.float32))[:, None]
        return Events(torch.full_like(shown[..., 0], -1), learner.tensor(numbers)[:, None], shown, clicks), numbers

    @property
    def memory(self) -> Float32[np.ndarray, "users carried"]:
        """The encoder's carried state, as one array."""
        return flattened(self.carried or self.encoder.start(self.users))

    def step(self, events: Events) -> Any:
        """The encoder's states after one more event of each user."""
        before = self.carried or self.encoder.start(len(events.items))
        states, self.carried = self.encoder.advance(before, self.encoder.inputs(events).squeeze(1))
        return states

    def believe(self, seen: Observation) -> None:
        """Update the beliefs with the last slates and clicks."""
        if self.beliefs is not None:
            self.beliefs.watch(seen.shown, seen.clicks)

    def forget(self, rows: Int[np.ndarray, "some"]) -> None:
        """Replace the users in some rows by new ones."""
        if self.carried is not None and len(rows):
            places = torch.from_numpy(rows)
            for part, fresh in zip(self.carried, self.encoder.start(len(rows)), strict=True):
                part[places] = fresh
        if self.beliefs is not None and len(rows):
            self.beliefs.forget(rows)

    def keep(self, rows: Int[np.ndarray, "some"]) -> None:
        """Keep only some users."""
        if self.carried is not None:
            self.carried = tuple(part[torch.from_numpy(rows)] for part in self.carried)
        if self.beliefs is not None:
            self.beliefs.keep(rows)

    def propose(
        self,
        states: Any,
        numbers: Float32[np.ndarray, "users numbers"],
        rng: np.random.Generator | None = None,
        draws: np.random.Generator | None = None,
    ) -> Proposal:
        """The actor's points; with `rng`, drawn if it draws points; with `draws`, beliefs are drawn."""
        learner, actor = self.policy.agent.learner, self.policy.agent.nets.get("actor")
        assert isinstance(learner, EncoderLearner)
        proposal = learner.proposal(self.policy.agent.nets, states, rng)
        if isinstance(actor, Pricer):
            width = actor.width + 1
            proposal.points[:, width : width + actor.traits] = numbers[:, : actor.traits]
            if self.beliefs is not None:
                known = self.beliefs.weights if draws is None else self.beliefs.drawn(draws)
                proposal.points[:, :width] = known.cpu().numpy()
        return proposal

    @torch.no_grad()
    def __call__(self, state: Any, rng: Draws) -> Int64[np.ndarray, "users slots"]:
        """Slates for users of the world, in the form of `worlds.play`; episodes begin together."""
        if (state.age == 0).all():
            self.begin(len(state.age))
        seen = self.world.observe(state, self.policy.agent.setup.world.ideal)
        self.believe(seen)
        events, numbers = self.look(seen)
        known = rng if isinstance(rng, np.random.Generator) else None
        drawn = known if self.draws else None
        slate = self.policy.act(self.propose(self.step(events), numbers, drawn, known), self.request, drawn)
        return np.asarray(slate.items, np.int64)


class LogPlayer:
    """A policy that learned from a log, acting in a world: each clicked item is one more event of the user's history.

    Users without a click are shown random items.
    """

    def __init__(self, policy: LearnedPolicy, world: World, *, draws: bool = False) -> None:
        """`draws`: draw from the policy; otherwise take the best items."""
        self.policy, self.world, self.draws = policy, world, draws
        self.request = Request(world.slots, policy.sampler if draws else Greedy())
        self.known, self.sessions = Sessions.of(policy.agent), list[Session]()

    def keep(self, rows: Int[np.ndarray, "some"]) -> None:
        """Keep only some users."""
        self.sessions = [self.sessions[row] for row in rows]

    def __call__(self, state: Any, rng: Draws) -> Int64[np.ndarray, "users slots"]:
        """Slates for users of the world, in the form of `worlds.play`; episodes begin together."""
        seen = self.world.observe(state)
        if (state.age == 0).all():
            self.sessions = [self.known.begin()] * len(seen.shown)
        for slot in range(self.world.slots):
            rows = np.flatnonzero(seen.clicks[:, slot])
            events = [Event(item) for item in seen.shown[rows, slot].tolist()]
            for row, one in zip(rows, self.known.fold([self.sessions[row] for row in rows], events), strict=True):
                self.sessions[row] = one
        slates = self.world.random_slates(state, rng)
        some = [row for row, session in enumerate(self.sessions) if len(session)]
        if some:
            drawn = rng if isinstance(rng, np.random.Generator) else None
            proposal = self.known.states([self.sessions[row] for row in some])
            slates[some] = self.policy.act(proposal, self.request, drawn).items
        return slates
