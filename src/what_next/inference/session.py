"""Sessions: the state of one user, with which one more event costs one step of the network.

With an encoder, the session is its carried state, and one step of the cell folds events into a batch of sessions of any
users. The founding algorithm reads the latest events anew at each proposal, so its session keeps these events.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Int64
from torch import Tensor

from what_next.agent import Agent
from what_next.data.batches import by_length
from what_next.data.space import CLOCK, DAY, Space, history_of
from what_next.errors import DataError, some
from what_next.models.encoders import Encoder
from what_next.models.encoders import State as Carried
from what_next.models.linear import Past
from what_next.training.encoder_learner import EncoderLearner, linear_of
from what_next.types import Events, Proposal

CELLS = 2**16
"""Most events (padding included) of one batch pass over several histories; each takes a few hundred bytes."""


@dataclass(frozen=True)
class Event:
    """One event of a user.

    Attributes:
        item: its position in the catalogue; events on items outside the catalogue are left out.
        time: in microseconds since 1970 UTC; None if unknown.
        reward: in the log's unit; None if unknown: replaced by the mean of the training events.
        context: further numbers by their names in the log; a missing one is replaced by the mean, unknown names are
            ignored.
    """

    item: int
    time: int | None = None
    reward: float | None = None
    context: Mapping[str, float] | None = None


@dataclass(frozen=True, eq=False)
class Session:
    """The state of one user. It is immutable: a further event makes a new session.

    Attributes:
        items: positions of all items of the history, oldest first.
        time: of the last event, in microseconds; None if unknown.
        carried: the encoder's carried state, with a batch axis of one; empty without an encoder.
        output: the encoder's state after the last event; None before the first, and without an encoder.
        numbers: of the latest events, as many as the networks read at once; no rows with an encoder.
        last, before: if an encoder reads the context, the last event and the session before it, so that the event can
            be read again with a request's context in place of its own; else None.
    """

    items: Int32[np.ndarray, "heard"]
    time: int | None
    carried: Carried
    output: Float[Tensor, "dim"] | None
    numbers: Float32[np.ndarray, "latest numbers"]
    last: Event | None = None
    before: "Session | None" = None

    def __len__(self) -> int:
        """The number of events."""
        return len(self.items)

    @property
    def bytes(self) -> int:
        """Approximate memory of the session, in bytes."""
        tensors = [*self.carried, *([] if self.output is None else [self.output])]
        own = self.items.nbytes + self.numbers.nbytes + sum(part.numel() * part.element_size() for part in tensors)
        return own + (self.before.bytes if self.before else 0)


class Sessions(ABC):
    """Begins and extends the sessions of one agent, and turns them into proposals.

    A session is valid for one agent's weights only: an agent with other weights must replay the events.
    """

    rereads: ClassVar[bool] = False
    """Whether each proposal reads the latest events anew."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent

    @property
    def space(self) -> Space:
        """The catalogue, and the numbers of events."""
        return self.agent.space

    @staticmethod
    def of(agent: Agent) -> "Sessions":
        """The kind of sessions that the agent's algorithm needs."""
        return Windowed(agent) if agent.setup.algorithm.by_attributes else Streamed(agent)

    @abstractmethod
    def begin(self) -> Session:
        """A session without events."""

    def replay(self, events: Sequence[Event]) -> Session:
        """The session of a whole history (oldest event first), in one batch pass."""
        return self.replays([events])[0]

    @abstractmethod
    def replays(self, histories: Sequence[Sequence[Event]]) -> list[Session]:
        """The sessions of several histories (oldest event first), in as few batch passes as memory allows."""

    @abstractmethod
    def fold(self, sessions: Sequence[Session], events: Sequence[Event]) -> list[Session]:
        """Each session with one more event, by a single step of the network for all of them."""

    @abstractmethod
    def _states(self, sessions: Sequence[Session], context: Sequence[Mapping[str, float]] | None) -> Proposal:
        """The agent's proposals for sessions that have at least one event."""

    def states(self, sessions: Sequence[Session], context: Sequence[Mapping[str, float]] | None = None) -> Proposal:
        """The proposals, one row per session: the same as `LearnedPolicy.states` after the same events.

        Args:
            sessions: each with at least one event.
            context: for each session, numbers about the request, by name; they replace those of its last event.

        Raises:
            ValueError: a session has no event; the caller should answer with popular items.
            DataError: the agent's training log has no such context.
        """
        if empty := [place for place, session in enumerate(sessions) if not len(session)]:
            raise ValueError(f"session {empty[0]} of {len(sessions)} has no event: the agent cannot propose anything")
        names = self.space.context_names
        for name in {name for values in context or () for name in values}:
            if name not in names:
                raise DataError(f"context {name!r} is unknown; the agent knows {some(names) or 'none'}")
        return self._states(sessions, context)


class Streamed(Sessions):
    """Sessions of an agent with an encoder, whose carried state they hold."""

    def __init__(self, agent: Agent) -> None:
        super().__init__(agent)
        encoder = agent.nets["encoder"]
        assert isinstance(encoder, Encoder)
        self.encoder = encoder
        # Whether it reads numbers of an event besides the item; and whether the context is among them.
        self.reads = encoder.sizes.numbers > agent.setup.algorithm.extra_features
        self.situated = agent.setup.inputs.context

    def begin(self) -> Session:
        """See `Sessions.begin`."""
        with torch.no_grad():
            return Session(np.zeros(0, np.int32), None, self.encoder.start(1), None, numbers_of(self.space, []))

    @torch.no_grad()
    def replays(self, histories: Sequence[Sequence[Event]]) -> list[Session]:
        """See `Sessions.replays`. If the encoder reads the context, the last event is folded alone (see `Session`)."""
        if not self.situated:
            return self._replays(histories)
        found = self._replays([events[:-1] for events in histories])
        begun = [place for place, events in enumerate(histories) if events]
        grown = self.fold([found[place] for place in begun], [histories[place][-1] for place in begun])
        for place, session in zip(begun, grown, strict=True):
            found[place] = session
        return found

    def _replays(self, histories: Sequence[Sequence[Event]]) -> list[Session]:
        """Batches histories of similar length, so that there is little padding."""
        found, lengths = [self.begin()] * len(histories), np.array([len(events) for events in histories], np.int64)
        begun = np.flatnonzero(lengths)
        for part in by_length(lengths[begun], CELLS, len(begun)):
            several = begun[part].tolist()
            for place, session in zip(several, self._together([histories[one] for one in several]), strict=True):
                found[place] = session
        return found

    def _together(self, histories: Sequence[Sequence[Event]]) -> list[Session]:
        """One batch pass, each history padded to the longest one."""
        lengths = np.array([len(events) for events in histories])
        items = np.full((len(histories), int(lengths.max())), -1, np.int32)
        times = np.zeros(items.shape, np.int64)
        numbers = np.zeros((*items.shape, len(self.space.event_names)), np.float32) if self.reads else None
        for row, events in enumerate(histories):
            items[row, : lengths[row]] = [event.item for event in events]
            times[row, : lengths[row]] = elapsed([event.time for event in events])
            if numbers is not None:
                numbers[row, : lengths[row]] = numbers_of(self.space, events)
        even = lengths.min() == items.shape[1]
        states, carried = self.encoder.replay(
            self._events(items, numbers, times), None if even else torch.from_numpy(lengths)
        )
        nothing, sessions = numbers_of(self.space, []), []
        for row, events in enumerate(histories):
            # Views would keep the memory of the whole batch for as long as one of its sessions lives.
            kept = tuple(part[row : row + 1].clone() for part in carried)
            output = states[row, lengths[row] - 1].clone()
            sessions.append(Session(items[row, : lengths[row]].copy(), events[-1].time, kept, output, nothing))
        return sessions

    @torch.no_grad()
    def fold(
        self,
        sessions: Sequence[Session],
        events: Sequence[Event],
        situations: Sequence[Mapping[str, float]] | None = None,
    ) -> list[Session]:
        """See `Sessions.fold`; `situations` replace the events' numbers of the same names."""
        if not sessions:
            return []
        items = np.array([[event.item] * 2 for event in events], np.int32)
        # The first column only gives the time from which the gap is counted.
        times = np.array([[0, gap(one.time, event.time)] for one, event in zip(sessions, events, strict=True)])
        known = numbers_of(self.space, events)
        for row, situation in enumerate(situations or ()):
            for name, value in situation.items():
                known[row, self.space.event_names.index(name)] = value
        numbers = np.repeat(known[:, None], 2, axis=1) if self.reads else None
        both = self._events(items, numbers, times)
        read = Events(both.items[:, 1:], both.numbers[:, 1:])
        carried = tuple(torch.cat(parts) for parts in zip(*(one.carried for one in sessions), strict=True))
        states, carried = self.encoder.advance(carried, self.encoder.inputs(read).squeeze(1))
        # Views would keep the memory of the whole batch for as long as one of its sessions lives.
        rows = zip(*([row.clone() for row in torch.split(part, 1)] for part in carried), strict=True)
        outputs = [state.clone() for state in states]
        grown = [
            Session(longer(session.items, event.item), event.time, row, state, session.numbers)
            for session, event, row, state in zip(sessions, events, rows, outputs, strict=True)
        ]
        if not self.situated:
            return grown
        olds = [replace(session, last=None, before=None) for session in sessions]
        return [replace(new, last=event, before=old) for new, event, old in zip(grown, events, olds, strict=True)]

    def _states(self, sessions: Sequence[Session], context: Sequence[Mapping[str, float]] | None) -> Proposal:
        """See `Sessions._states`. The context is ignored if the encoder does not read it."""
        if context and self.situated:
            sessions = self._within(sessions, context)
        learner = self.agent.learner
        assert isinstance(learner, EncoderLearner)
        states = torch.stack([session.output for session in sessions if session.output is not None])
        return learner.proposal(self.agent.nets, states, past=self._past(sessions))

    def _within(self, sessions: Sequence[Session], context: Sequence[Mapping[str, float]]) -> list[Session]:
        """The sessions as if the last event of each had the given context."""
        told, befores, events = [], [], []
        for place, (session, values) in enumerate(zip(sessions, context, strict=True)):
            if values and session.last is not None and session.before is not None:
                told.append(place)
                befores.append(session.before)
                events.append(session.last)
        anew = dict(zip(told, self.fold(befores, events, [context[place] for place in told]), strict=True))
        return [anew.get(place, session) for place, session in enumerate(sessions)]

    def _past(self, sessions: Sequence[Session]) -> Past | None:
        """The linear model's input from the whole history; None without a linear model."""
        linear = linear_of(self.agent.nets)
        if linear is None:
            return None
        tensor = self.agent.learner.tensor
        items = tensor(np.concatenate([session.items for session in sessions])).long()
        return linear.past(items, tensor(np.array([len(session) for session in sessions])))

    def _events(
        self,
        items: Int32[np.ndarray, "batch time"],
        numbers: Float32[np.ndarray, "batch time numbers"] | None,
        times: Int64[np.ndarray, "batch time"],
    ) -> Events:
        """The encoder's inputs for some events, padded with -1; `numbers` is None if the encoder reads none."""
        learner, read = self.agent.learner, np.zeros((*items.shape, 0), np.float32)
        if numbers is not None:
            lengths = np.asarray((items >= 0).sum(1), np.int64)
            history = replace(history_of(self.space, items, lengths, numbers), times=times)
            read = learner.factorize(self.agent.nets, history).actor
        events = Events(learner.tensor(items).long(), learner.tensor(read))
        return self.agent.setup.algorithm.inputs(events, None)


class Windowed(Sessions):
    """Sessions of the founding algorithm: they hold the latest events, and each proposal reads all of them."""

    rereads = True

    def begin(self) -> Session:
        """See `Sessions.begin`."""
        return self.replay([])

    def replays(self, histories: Sequence[Sequence[Event]]) -> list[Session]:
        """See `Sessions.replays`: nothing is computed yet."""
        found = []
        for events in histories:
            items = np.array([event.item for event in events], np.int32)
            numbers, time = numbers_of(self.space, events[self._latest]), events[-1].time if events else None
            found.append(Session(items, time, (), None, numbers))
        return found

    def fold(self, sessions: Sequence[Session], events: Sequence[Event]) -> list[Session]:
        """See `Sessions.fold`: nothing is computed yet."""
        new = numbers_of(self.space, events)[:, None]
        return [
            replace(
                session,
                items=longer(session.items, event.item),
                time=event.time,
                numbers=np.concatenate([session.numbers, numbers])[self._latest],
            )
            for session, event, numbers in zip(sessions, events, new, strict=True)
        ]

    def _states(self, sessions: Sequence[Session], context: Sequence[Mapping[str, float]] | None) -> Proposal:
        """See `Sessions._states`: one batch pass over the latest events of all."""
        names = self.space.event_names
        lengths = np.array([len(session.numbers) for session in sessions])
        items = np.full((len(sessions), int(lengths.max())), -1, np.int32)
        numbers = np.zeros((*items.shape, len(names)), np.float32)
        for row, session in enumerate(sessions):
            items[row, : lengths[row]] = session.items[-lengths[row] :]
            numbers[row, : lengths[row]] = session.numbers
            for name, value in (context[row] if context else {}).items():
                numbers[row, lengths[row] - 1, names.index(name)] = value
        return self.agent.predict(history_of(self.space, items, lengths, numbers))

    @property
    def _latest(self) -> slice:
        """The latest events that the networks read, as in `Learner.window`."""
        return slice(-self.agent.setup.longest, None)


def longer(items: Int32[np.ndarray, "heard"], item: int) -> Int32[np.ndarray, "heard_plus_1"]:
    """The items with one more at the end."""
    found = np.empty(len(items) + 1, np.int32)
    found[:-1], found[-1] = items, item
    return found


def numbers_of(space: Space, events: Sequence[Event]) -> Float32[np.ndarray, "events numbers"]:
    """The numbers of events, as in `State.histories`; see `Event` for missing ones."""
    numbers = np.empty((len(events), len(space.event_names)), np.float32)
    for place, (name, default) in enumerate(zip(space.event_names, space.event_center.tolist(), strict=True)):
        numbers[:, place] = [_number(event, name, default) for event in events]
    return numbers


def _number(event: Event, name: str, default: float) -> float:
    if name == "reward":
        return default if event.reward is None else event.reward
    if name in CLOCK:
        angle = None if event.time is None else 2 * math.pi * (event.time % DAY) / DAY
        return default if angle is None else math.sin(angle) if name == CLOCK[0] else math.cos(angle)
    return (event.context or {}).get(name, default)


def elapsed(times: Sequence[int | None]) -> Int64[np.ndarray, "time"]:
    """Microseconds since the first event; the gap between two events counts as 0 if either time is unknown."""
    return np.cumsum([0, *(gap(old, new) for old, new in pairwise(times))], dtype=np.int64)


def gap(old: int | None, new: int | None) -> int:
    """Microseconds from one event to the next; 0 if a time is unknown or the clock went back."""
    return 0 if old is None or new is None else max(new - old, 0)
