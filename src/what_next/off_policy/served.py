"""The decisions of a service's log, as an agent would have made them in that service.

The agent gets what was known at the moment of each decision: the user's events that had arrived by then, or the history
in the request. Its chances are those of the sampler that its setup gives the service.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Bool, Float32, Float64, Int32, Int64

from what_next.data import Catalogue, Dataset
from what_next.data.batches import by_length, width_of
from what_next.data.catalogue import by_kind
from what_next.data.decisions.log import DecisionLog
from what_next.data.decisions.rule import Rule
from what_next.data.decisions.service_log import ADDED, EVENT, WITHDRAWALS, numbers_in
from what_next.data.files import beside, footer_of
from what_next.data.importing.ids import positions
from what_next.data.space import CLOCK, Space, history_of, numbers_at
from what_next.errors import DataError
from what_next.inference.extend import NewItem, extend, misfits
from what_next.inference.recommender import Recommender
from what_next.policy import LearnedPolicy
from what_next.settings import HISTORY, Server
from what_next.types import EpsilonGreedy, Greedy, History, ItemSet, Permitted, Request, Sampler, Softmax

EVENTS, PAIRS = 2**16, 2**21
"""Most events (padding included) and most item chances (16 MB) in one batch."""
TOLD = ("known", "history", "seen", "withdrawn", "context", "permitted")
"""Columns of a service's log with the inputs of a decision."""


@dataclass(frozen=True, eq=False)
class KnownEvents:
    """All events that decisions may have known: users' events by user, time and number; then histories in requests.

    Attributes:
        items: in the agent's catalogue; `numbers`, `times`: of the events, as the agent reads them.
        arrived: each event's number in order of arrival; 0 in the history of a request.
        starts, ends: of each decision, the range of its user's (or request's) events.
        known: of each decision, the number of the last event that had arrived.
    """

    items: Int32[np.ndarray, "events"]
    numbers: Float32[np.ndarray, "events numbers"]
    times: Int64[np.ndarray, "events"]
    arrived: Int64[np.ndarray, "events"]
    starts: Int64[np.ndarray, "decisions"]
    ends: Int64[np.ndarray, "decisions"]
    known: Int64[np.ndarray, "decisions"]

    @classmethod
    def of(
        cls, log: DecisionLog, space: Space, users: Int64[np.ndarray, "decisions"], told: pl.DataFrame
    ) -> "KnownEvents":
        """The events of a service's log. `users`: of its decisions; `told`: their columns `known` and `history`."""
        data, arrived = _events(log, space)
        assert data.timestamps is not None
        starts, ends, known = data.offsets[users], data.offsets[users + 1], told["known"].to_numpy().copy()
        given, end = [data.items], data.events
        for decision, history in enumerate(told["history"]):
            if history is not None:
                found = space.catalogue.index(_given(history))
                given.append(found[found >= 0])
                starts[decision], known[decision], end = end, 0, end + len(given[-1])
                ends[decision] = end
        more = end - data.events
        numbers = np.broadcast_to(space.event_center, (more, len(space.event_center)))  # requests give no numbers
        return cls(
            items=np.concatenate(given),
            numbers=np.concatenate(
                [numbers_at(data, space.event_names, space.event_center, np.arange(data.events)), numbers]
            ),
            times=np.pad(data.timestamps, (0, more)),
            arrived=np.pad(arrived, (0, more)),
            starts=starts,
            ends=ends,
            known=known,
        )

    def places(self, decision: int) -> Int64[np.ndarray, "known"]:
        """The indices of the events that a decision knew, oldest first."""
        start = self.starts[decision]
        return np.asarray(start + np.flatnonzero(self.arrived[start : self.ends[decision]] <= self.known[decision]))

    def history(
        self, space: Space, rows: Sequence[Int64[np.ndarray, "..."]], told: Float32[np.ndarray, "rows numbers"]
    ) -> History:
        """A batch of histories; the numbers of each last event are replaced by `told` where it is not NaN."""
        lengths = np.array([len(one) for one in rows], np.int64)
        places = np.full((len(rows), width_of(int(lengths.max()))), -1)
        for row, events in enumerate(rows):
            places[row, : len(events)] = events
        real, last = places >= 0, (np.arange(len(rows)), lengths - 1)
        numbers = np.where(real[..., None], self.numbers[places], 0).astype(np.float32)
        numbers[last] = np.where(np.isnan(told), numbers[last], told)
        items = np.where(real, self.items[places], -1).astype(np.int32)
        return replace(history_of(space, items, lengths, numbers), times=np.where(real, self.times[places], 0))


@dataclass(frozen=True, eq=False)
class Asked:
    """The decisions of a log, one slate each, with the inputs for an agent.

    Attributes:
        policy: the agent's; `server`: how it is served.
        places: the index of each item of the log in the agent's catalogue; -1 if it is not there.
        heard: the events; `lengths`: how many of them each decision knew.
        seen: whether each decision could show items of its history again.
        permitted: the items that each decision's request permitted; None: all.
        withdrawn: the sets of withdrawn items over time, padded with -1; `state`: the row of it for each decision.
        context: the agent's event numbers that each decision's request gave; NaN for those that it did not give.
        slates: the decision of each row of the log, ascending.
        actions: the item of each row in the agent's catalogue; -1 if it is not there.
    """

    policy: LearnedPolicy
    server: Server
    places: Int64[np.ndarray, "items"]
    heard: KnownEvents
    lengths: Int64[np.ndarray, "decisions"]
    seen: Bool[np.ndarray, "decisions"]
    permitted: Sequence[ItemSet | None]
    withdrawn: Int32[np.ndarray, "states width"]
    state: Int64[np.ndarray, "decisions"]
    context: Float32[np.ndarray, "decisions numbers"]
    slates: Int64[np.ndarray, "rows"]
    actions: Int64[np.ndarray, "rows"]

    @classmethod
    def of(cls, log: DecisionLog, policy: LearnedPolicy, server: Server) -> "Asked":
        """The decisions of a service's exported log. As in the service, the policy is given the items that were added
        at run time after the index of approximate search is built."""
        assert log.slates is not None
        if server.search == "approximate":
            policy = policy.indexed(server.candidates)
        policy = _with_added(policy, log.source.path)
        space = policy.agent.space
        first = np.searchsorted(log.slates, np.arange(int(log.slates[-1]) + 1))
        told = log.source.frame.select(TOLD).collect()[log.order[first]]
        heard = KnownEvents.of(log, space, log.units[first], told)
        places = space.catalogue.index(log.items.ids.to_list()).astype(np.int64)
        numbers, state = np.unique(told["withdrawn"].to_numpy(), return_inverse=True)
        return cls(
            policy=policy,
            server=server,
            places=places,
            heard=heard,
            lengths=np.array([len(heard.places(decision)) for decision in range(len(told))], np.int64),
            seen=told["seen"].to_numpy(),
            permitted=_permitted(told["permitted"], space.catalogue),
            withdrawn=_withdrawn(log.source.path, space.catalogue, numbers.tolist()),
            state=state,
            context=situations(space, told["context"]),
            slates=log.slates,
            actions=places[log.actions],
        )

    @property
    def before(self) -> Int64[np.ndarray, "rows"]:
        """For each row, how many events on items of the agent's catalogue its decision knew."""
        return np.asarray(self.lengths[self.slates])

    def chances(
        self, rows: Int64[np.ndarray, "asked"]
    ) -> Iterator[tuple[Int64[np.ndarray, "part"], Float64[np.ndarray, "part items"]]]:
        """For each row, the chance of every item of the agent's catalogue given the items above it, in batches of rows.

        Args:
            rows: all rows of some decisions, each of which knew at least one event.
        """
        decisions, widest = np.unique(self.slates[rows]), max(len(self.policy.agent.space.catalogue), len(self.places))
        for some in by_length(self.lengths[decisions], EVENTS, PAIRS // widest):
            part = decisions[some]
            knew = [self.heard.places(decision) for decision in part.tolist()]
            history = self.heard.history(self.policy.agent.space, knew, self.context[part])
            heard = np.where(self.seen[part][:, None], -1, history.items)
            without = np.hstack([heard, self.withdrawn[self.state[part]]])
            first, end = np.searchsorted(self.slates, part), np.searchsorted(self.slates, part, "right")
            slots = np.arange(int((end - first).max()))
            inside = first[:, None] + slots < end[:, None]
            slates = np.where(inside, self.actions[np.where(inside, first[:, None] + slots, 0)], -1).astype(np.int32)
            sets = tuple(self.permitted[decision] for decision in part.tolist())
            permitted = Permitted(sets if any(sets) else (), without)
            request = Request((end - first).tolist(), self.sampler, permitted)
            for slot, chances in enumerate(self.policy.chances(self.policy.states(history), request, slates)):
                here = inside[:, slot]
                yield first[here] + slot, chances[here]

    @property
    def sampler(self) -> Sampler:
        """The sampler of the service."""
        if self.server.temperature:
            return Softmax(self.server.temperature)
        return EpsilonGreedy(self.server.epsilon) if self.server.epsilon else Greedy()


def situations(space: Space, texts: pl.Series) -> Float32[np.ndarray, "decisions numbers"]:
    """The event numbers that requests gave, from the column `context`; NaN for those that are missing."""
    found = np.full((len(texts), len(space.event_names)), np.nan, np.float32)
    for place, column in enumerate(numbers_in(texts, space.event_names)):
        found[:, place] = column.fill_null(np.nan).to_numpy()
    return found


def _given(history: str) -> list[str]:
    """The item ids of a request's history, up to the service's limit: 20,000 items took a second per decision."""
    found: list[str] = json.loads(history)
    if len(found) > HISTORY:
        raise DataError(f"a decision's history holds {len(found):,} items, and the service takes {HISTORY:,} at most")
    return found


def _events(log: DecisionLog, space: Space) -> tuple[Dataset, Int64[np.ndarray, "events"]]:
    """The events of the log's users on items of the agent's catalogue, and their numbers in order of arrival."""
    assert log.user_ids is not None
    columns = ("item_id", "timestamp", "reward", "number", "context")
    found = pl.scan_parquet(log.source.path, glob=False).filter(EVENT).select("user_id", *columns).collect()
    user = positions(found["user_id"].cast(pl.String), log.user_ids.cast(pl.String))
    item = space.catalogue.index(found["item_id"].to_list())
    found = found.with_columns(pl.Series("user", user), pl.Series("item", item))
    found = found.filter((pl.col("user") >= 0) & (pl.col("item") >= 0)).sort("user", "timestamp", "number")
    usual = dict(zip(space.event_names, space.event_center.tolist(), strict=True))
    told = numbers_in(found["context"], [name for name in usual if name not in ("reward", *CLOCK)])
    told = told.select(pl.col(name).fill_null(usual[name]) for name in told.columns)
    data = Dataset(
        name=str(log.source.path),
        user_ids=log.user_ids,
        items=found["item"].to_numpy(),
        offsets=np.searchsorted(found["user"].to_numpy(), np.arange(log.count + 1)).astype(np.int64),
        timestamps=found["timestamp"].dt.epoch("us").to_numpy(),
        rewards=found["reward"].fill_null(usual.get("reward", 0.0)).to_numpy(),
        context=told.to_numpy().astype(np.float32).reshape(len(found), len(told.columns)),
        context_names=tuple(told.columns),
        catalogue=space.catalogue,
    )
    return data, found["number"].to_numpy()


def _withdrawn(log: Path, catalogue: Catalogue, numbers: list[int]) -> Int32[np.ndarray, "states width"]:
    """The catalogue's items that were withdrawn after each of the numbered changes, padded with -1."""
    changes = json.loads(footer_of(log).get(WITHDRAWALS, "[]"))
    places = catalogue.index([item for _, item, _ in changes]).tolist()
    sets = []
    for last in numbers:
        latest = {place: gone for place, (number, _, gone) in zip(places, changes, strict=True) if number <= last}
        sets.append([place for place, gone in latest.items() if gone and place >= 0])
    return np.array([*zip_longest(*sets, fillvalue=-1)], np.int32).reshape(-1, len(sets)).T


def _permitted(texts: pl.Series, catalogue: Catalogue) -> list[ItemSet | None]:
    """The permitted items of each decision's request; None: all."""
    sets = {text: ItemSet(Rule.of(text).mask(catalogue)) for text in texts.drop_nulls().unique()}
    return [None if text is None else sets[text] for text in texts]


def _with_added(policy: LearnedPolicy, log: Path) -> LearnedPolicy:
    """The policy extended by the items that were added while the service ran, as in the service."""
    count = int(footer_of(log).get(ADDED, "0"))
    table = Catalogue.from_table(pl.read_parquet(beside(log, "items"), glob=False).tail(count))
    tags = [None] * len(table) if table.tags is None else table.tags.to_list()
    new = [
        NewItem(str(name), title, dict(zip(table.names, values, strict=True)), by_kind(words))
        for name, title, values, words in zip(table.ids, table.titles, table.attributes.tolist(), tags, strict=True)
    ]
    odd = misfits(policy.agent.space, new)
    return extend(Recommender(policy), [one for one in new if one.item_id not in odd]).policy
