"""Next-item evaluation: the targets of a split, and where they stand in a policy's ranking."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int, Int32, Int64

from what_next.data import Dataset, Split
from what_next.data.batches import by_length, ranges
from what_next.data.splits import Part
from what_next.data.stages import Done, no_progress
from what_next.metrics.accuracy import hit_rate, ndcg
from what_next.metrics.places import Places, place
from what_next.types import History, Permitted, Policy, Request

Sets = Int32[np.ndarray, "rows width"]

EVENTS = 2**14
"""Events of histories read at a time, padding included."""
SCORES = 2**21
"""Scores at a time: 16 MB in double precision, which the allocator reuses. Larger blocks return to the system after
each use, and allocating them page by page takes as long as the ranking."""

Histories = Callable[[Int32[np.ndarray, "batch"], Int64[np.ndarray, "batch"], Int64[np.ndarray, "batch"]], History]
"""Maps users, starts and lengths to their histories, sigma included (`State.histories`)."""
Kind = Literal["last", "random", "successive", "all"]


@dataclass(frozen=True, eq=False)
class Targets:
    """The targets: a row for each ranking, with the item to find and how many events of its user precede it.

    Attributes:
        users: the user of each row; `before`: how many events of the user the policy may read.
        items: the target item.
        rewards: the target's logged reward; None where the log has no rewards.
        relevant: all items from the target on, each once, padded with -1; None where only the target counts.
        without_history: how many users of the part have targets and no event before them; they are not judged.
        catalogue: how many items there are.
    """

    users: Int32[np.ndarray, "rows"]
    before: Int64[np.ndarray, "rows"]
    items: Int32[np.ndarray, "rows"]
    rewards: Float64[np.ndarray, "rows"] | None
    relevant: Sets | None = None
    without_history: int = 0
    catalogue: int = 1

    @classmethod
    def of(cls, dataset: Dataset, split: Split, part: Part, kind: Kind = "last", seed: int = 0) -> "Targets":
        """The targets of the users of a part who have an event before them.

        Args:
            dataset: all events; `split`: its split; `part`: whose targets.
            kind: the last event of each user's part; one at random; each of them, after all events before it; or the
                set of all of them, after the events before the part (or after the user's first event).
            seed: for random targets.
        """
        users = split.validation if part == "validation" else split.test
        since, until = split.targets(part)
        stop = (dataset.lengths if until is None else until)[users]
        start = np.maximum(since[users], 1)  # a first event has no history, so it is no target
        users, start, stop, alone = users[stop > start], start[stop > start], stop[stop > start], stop <= start
        counts = stop - start
        if kind == "random":
            start = start + np.random.default_rng(seed).integers(counts)
        elif kind == "last":
            start = stop - 1
        elif kind == "successive":
            users, start = np.repeat(users, counts), ranges(start, counts)
        places = dataset.offsets[users] + start
        rewards = None if dataset.rewards is None else dataset.rewards[places].astype(np.float64)
        found = cls(users, start, dataset.items[places], rewards, None, int(alone.sum()), len(dataset.catalogue))
        # A set of items has no single reward.
        return replace(found, relevant=_distinct(dataset, places, counts), rewards=None) if kind == "all" else found

    def of_rows(self, rows: Int[np.ndarray, "rows"]) -> "Targets":
        """A selection of the rows."""
        arrays = {one.name: getattr(self, one.name) for one in fields(self)}
        return replace(self, **{name: one[rows] for name, one in arrays.items() if isinstance(one, np.ndarray)})

    def __len__(self) -> int:
        """How many targets there are."""
        return len(self.users)

    @property
    def sets(self) -> Sets:
        """The relevant items of each row."""
        return self.items[:, None] if self.relevant is None else self.relevant

    @cached_property
    def people(self) -> tuple[Int32[np.ndarray, "users"], Int64[np.ndarray, "rows"]]:
        """The distinct users, and for each row the index of its user among them."""
        found, owners = np.unique(self.users, return_inverse=True)
        return found, owners

    @cached_property
    def hash(self) -> str:
        """Short SHA-256 over every row: its user, the length of the known history, and the relevant items."""
        digest = hashlib.sha256()
        for part in (self.users, self.before, self.sets):
            digest.update(part.astype("<i8").tobytes())
        return digest.hexdigest()[:16]

    def held(self, dataset: Dataset) -> int:
        """How many relevant items the history holds already: a policy that recommends only new items misses them."""
        count = 0
        for rows in chunks(self):
            lengths, steps = self.before[rows, None], np.arange(int(self.before[rows].max()))
            places = dataset.offsets[self.users[rows], None] + np.minimum(steps, lengths - 1)
            count += int((self.sets[rows][:, :, None] == dataset.items[places][:, None]).any(axis=2).sum())
        return count


@dataclass(frozen=True, eq=False)
class Ranks:
    """How a policy ranked the targets.

    Attributes:
        items: the slates; items of equal scores stand in random order.
        places: the places of the relevant items.
        rewards: each target's logged reward; None without rewards.
    """

    items: Int32[np.ndarray, "rows k"]
    places: Places
    rewards: Float64[np.ndarray, "rows"] | None

    @property
    def hr(self) -> Float64[np.ndarray, "rows"]:
        """HR at the slates' length."""
        return hit_rate(self.places, self.items.shape[1])

    @property
    def ndcg(self) -> Float64[np.ndarray, "rows"]:
        """NDCG at the slates' length."""
        return ndcg(self.places, self.items.shape[1])

    @property
    def reward(self) -> Float64[np.ndarray, "rows"] | None:
        """The target's logged reward where it is the top of the slate, else 0."""
        return None if self.rewards is None else self.rewards * hit_rate(self.places, 1)


def rank(
    policy: Policy,
    targets: Targets,
    histories: Histories,
    k: int = 10,
    *,
    seen: bool = False,
    allowed: Bool[np.ndarray, "items"] | None = None,
    seed: int = 0,
    done: Done = no_progress,
) -> Ranks:
    """Let a policy recommend `k` items in each row, greedily, without items of the history unless `seen`.

    `done` is called with the number of rows ranked.

    Metrics are exact expectations over all orders of tied items; the slates hold one such order, drawn by `seed`.
    """
    items = np.full((len(targets), k), -1, np.int32)
    sets, rng = targets.sets, np.random.default_rng(seed)
    above, tied = np.zeros(sets.shape, np.int64), np.zeros(sets.shape, np.int64)
    for rows in chunks(targets):
        users, lengths = targets.users[rows], targets.before[rows]
        history = histories(users, np.zeros_like(lengths), lengths)
        permitted = Permitted.of(allowed, None if seen else history.items)
        found, items[rows] = _ranked(policy, history, sets[rows], k, permitted, rng)
        above[rows], tied[rows] = found.above, found.tied
        done(len(rows))
    return Ranks(items, Places(above, tied, (sets >= 0).sum(axis=1)), targets.rewards)


def _ranked(
    policy: Policy, history: History, relevant: Sets, k: int, permitted: Permitted, rng: np.random.Generator
) -> tuple[Places, Int32[np.ndarray, "rows k"]]:
    """Ranks by the policy's scores where it has a `scores` method, so that ties are known; else by its slates."""
    tell, states = getattr(policy, "scores", None), policy.states(history)
    scores = None if tell is None else tell(states, permitted)
    if scores is None:
        slates = policy.act(states, Request(k, permitted=permitted)).items
        slates = np.pad(slates, ((0, 0), (0, k - slates.shape[1])), constant_values=-1)
        return Places.of_slates(slates, relevant), slates
    return place(scores, torch.from_numpy(relevant.astype(np.int64)).to(scores.device), k, rng)


def chunks(targets: Targets) -> Iterator[Int64[np.ndarray, "some"]]:
    """Indices of rows with similar history lengths, as many at a time as memory should hold."""
    return by_length(targets.before, EVENTS, max(1, SCORES // targets.catalogue))


def _distinct(dataset: Dataset, places: Int64[np.ndarray, "rows"], counts: Int64[np.ndarray, "rows"]) -> Sets:
    """The distinct items of the `counts` events from each place on, ascending, padded with -1."""
    owners = np.repeat(np.arange(len(places)), counts)
    pairs = np.unique(np.stack([owners, dataset.items[ranges(places, counts)]]), axis=1)
    column = np.arange(pairs.shape[1]) - np.searchsorted(pairs[0], pairs[0])
    found = np.full((len(places), int(column.max(initial=0)) + 1), -1, np.int32)
    found[pairs[0], column] = pairs[1]
    return found
