"""Logged decisions joined to the events known to each and to the rewards that followed; for `sources.decisions`."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64

from what_next.data.batches import by_length
from what_next.data.decisions.log import DecisionLog
from what_next.errors import DataError
from what_next.off_policy.served import TOLD, KnownEvents, situations
from what_next.rewards import NEVER, Events, Logged, RewardLog, total
from what_next.state import State
from what_next.types import History

CELLS = 2**20
"""Events whose rewards are computed at a time."""


class Answers:
    """The answers of a log, each a slate, with the events known to it: the user's events that had arrived by then, or
    the history in its request.

    Attributes:
        log, state: the arguments; `actions`: for each row of the log, its item in the state's catalogue.
        first: for each answer its first row, and at the end the number of rows; `units`: its user in the log; `users`:
            its user in the data, -1 if missing there.
        heard: all events; `known`: for each answer the positions of its known events, oldest first; `lengths`: their
            number.
        own: where the events of its user begin and end, whatever history the request brought.
    """

    def __init__(self, state: State, log: DecisionLog) -> None:
        """Join the log's answers to the events.

        Raises:
            DataError: the log has another catalogue than the data.
        """
        assert log.slates is not None
        assert log.user_ids is not None
        self.log, self.state, self.setup = log, state, state.setup
        self.actions = _actions(log, state)
        self.first = np.searchsorted(log.slates, np.arange(int(log.slates[-1]) + 2))
        rows = self.first[:-1]
        told = log.source.frame.select(TOLD).collect()[log.order[rows]]
        self.units, self.context = log.units[rows], told["context"]
        self.users = state.dataset.user_index(log.user_ids.to_list())[self.units]
        self.heard = KnownEvents.of(log, state.space, self.units, told)
        own = KnownEvents.of(log, state.space, self.units, told.with_columns(history=None))
        self.own = np.stack([own.starts, own.ends], 1)
        self.known = [self.heard.places(answer) for answer in range(len(rows))]
        self.lengths = np.array([len(one) for one in self.known], np.int64)

    def __len__(self) -> int:
        """The number of answers."""
        return len(self.units)

    @cached_property
    def held(self) -> Bool[np.ndarray, "answers"]:
        """Which answers are held out: to users set aside by the split, after a held-out event, or with its item."""
        found, data, known = np.zeros(len(self), np.bool_), self.state.dataset, self.state.split.known
        same = self.log.source.path.resolve() == self.setup.data.resolve()
        for answer in np.flatnonzero(known[self.users] < data.lengths[self.users]).tolist():
            if (user := self.users[answer]) < 0:
                continue
            items = self.actions[self.first[answer] : self.first[answer + 1]]
            later = data.items[data.offsets[user] + known[user] : data.offsets[user + 1]]
            start, end = self.own[answer]
            back = self.heard.arrived[start + known[user] : end] if same else np.zeros(0, np.int64)
            found[answer] = known[user] == 0 or np.isin(items, later).any() or (back <= self.heard.known[answer]).any()
        return found

    def before(self, answers: Int64[np.ndarray, "some"]) -> Int64[np.ndarray, "users"]:
        """For each user of the data, how many of the first events had arrived before all of these answers to the user;
        for users without answers, all events that training may know."""
        found = self.state.split.known.copy()
        for answer in answers[self.users[answers] >= 0].tolist():
            start, end = self.own[answer]
            later = self.heard.arrived[start:end] > self.heard.known[answer]
            user = self.users[answer]
            found[user] = min(found[user], int(later.argmax()) if later.any() else end - start)
        return found

    # Rewards

    @cached_property
    def gains(self) -> Float64[np.ndarray, "rows"]:
        """The reward of each row of the log: its logged reward plus the other rewards of the setup.

        The other rewards are for hearing an item after the events before. So they count if the item was taken (its
        logged reward is above 0), and are 0 if it was only shown.
        """
        terms, log = self.setup.reward.terms, self.log
        found = log.rewards * sum(float(term.weight or 0) for term in terms if isinstance(term, Logged))
        others = [term for term in terms if not isinstance(term, Logged)]
        if others:
            answers = np.asarray(log.slates)
            taken = np.flatnonzero((log.rewards > 0) & (self.lengths[answers] > 0))
            lengths = np.minimum(self.lengths[answers[taken]], self.setup.max_length)
            for some in by_length(lengths + 1, CELLS, CELLS):
                events = self._taken(taken[some], lengths[some])
                found[taken[some]] += total(others, events)[np.arange(len(some)), lengths[some]].double().numpy()
        return found

    @cached_property
    def _rewards(self) -> RewardLog:
        state, reward = self.state, self.setup.reward
        vectors = state.space.catalogue.vectors
        return RewardLog.of(state.dataset, state.split.known, vectors, reward.logged, reward.terms)

    def _taken(self, rows: Int64[np.ndarray, "some"], lengths: Int64[np.ndarray, "some"]) -> Events:
        """The latest events before some items, followed by these items, as rewards read them."""
        log, answers = self._rewards, np.asarray(self.log.slates)[rows]
        shape = len(rows), int(lengths.max()) + 1
        items, times, rewards = np.full(shape, -1), np.zeros(shape, np.int64), np.zeros(shape, np.float32)
        for place, (row, answer, length) in enumerate(zip(rows, answers, lengths, strict=True)):
            events = self.known[answer][-length:]
            items[place, :length], times[place, :length] = self.heard.items[events], self.heard.times[events]
            items[place, length], rewards[place, length] = self.actions[row], self.log.rewards[row]
            times[place, length] = 0 if self.log.times is None else self.log.times[row]
        users = self.users[answers]
        profile = None
        if log.profiles:
            profile = torch.zeros(len(rows), log.vectors.shape[1])
            profile[users >= 0] = log.profile_of(users[users >= 0])
        return Events(
            items=torch.from_numpy(items),
            rewards=torch.from_numpy(rewards),
            times=torch.from_numpy(times),
            vectors=log.vectors,
            popularity=log.popularity,
            sigma=torch.from_numpy(self.state.sigma(users)),
            profile=profile,
            after=torch.tensor(
                [self._next(row, answer) for row, answer in zip(rows.tolist(), answers.tolist(), strict=True)]
            ),
        )

    def _next(self, row: int, answer: int) -> int:
        """The time of the first event that arrived after an answer, other than the taking of the item itself."""
        start, end = self.own[answer]
        later = start + np.flatnonzero(self.heard.arrived[start:end] > self.heard.known[answer])
        later = later[self.heard.items[later] != self.actions[row]]
        return int(self.heard.times[later].min(initial=NEVER))

    # Known events

    @cached_property
    def told(self) -> Float32[np.ndarray, "answers numbers"]:
        """The context sent with each answer, which replaces the numbers of the last event; NaN where none was."""
        return situations(self.state.space, self.context)

    @cached_property
    def situated(self) -> Bool[np.ndarray, "answers"]:
        """Which answers have a context that the encoder reads: these have a state of their own."""
        reads = self.setup.inputs.context or self.setup.inputs.rewards
        return np.asarray(reads & ~np.isnan(self.told).all(1))

    def row(self, answer: int) -> tuple[tuple[int, ...], Int64[np.ndarray, "events"]]:
        """A key of the row of a batch that holds an answer's state, and the row's events up to it.

        Answers whose histories continue each other share a row, in windows of `max_length` events.
        """
        known, longest = self.known[answer], self.setup.max_length
        start, length = int(self.heard.starts[answer]), len(known)
        if known[-1] - start == length - 1 and not self.situated[answer]:
            window = (length - 1) // longest
            return (start, window), known[window * longest :]
        return (-1, answer), known[-longest:]

    def history(self, rows: Sequence[Int64[np.ndarray, "..."]], answers: Int64[np.ndarray, "rows"]) -> History:
        """The events of some rows; the numbers of each last event are from the context of the row's answer."""
        told = np.where(self.situated[answers][:, None], self.told[answers], np.float32("nan"))
        return self.heard.history(self.state.space, rows, told)


def _actions(log: DecisionLog, state: State) -> Int64[np.ndarray, "rows"]:
    """The items shown, as positions in the state's catalogue."""
    catalogue = state.space.catalogue
    places = catalogue.index(log.items.ids.to_list()).astype(np.int64)
    strange = np.unique(log.actions[places[log.actions] < 0])
    if strange.size:
        raise DataError(
            f"{log.source.path}: {len(strange):,} items that were shown, such as {log.items.ids[int(strange[0])]!r}, "
            f"are not in the catalogue of {state.dataset.name} ({len(catalogue):,} items); train on the exported log "
            "itself (data), or on data with the same items"
        )
    return np.asarray(places[log.actions])
