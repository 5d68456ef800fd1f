"""The events that training may know, and counts of them as sparse matrices of items by items."""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import isqrt

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int32, Int64

from what_next.data import Dataset
from what_next.data.batches import ranges

TIE = 1e-9
"""Factor of an item's share of events in its score: popularity breaks ties."""
WORK = 2**22
"""Products computed at a time: about 200 MB."""
MOST = 2**25
"""Above about this many events, a random share of the users is counted."""
KEPT = 2**24
"""Counts of item pairs are cached up to this many pairs: 340 MB."""
PART = 4
"""Shortest part, in events, into which long histories are cut to count co-occurrences."""
NEIGHBOURS, COEFFICIENTS = (16, 64), 2**26
"""How many neighbours an item has: between these numbers, as many as give at most so many pairs of neighbours for all
items (134 MB)."""


@dataclass(frozen=True, eq=False)
class Known:
    """The known events that a baseline counts.

    Attributes:
        catalogue: how many items there are, with or without events.
        users, items, times: one entry per event, by user, then time; times in microseconds, None where the log has
            none.
        after: how many known events of the same user follow each.
    """

    catalogue: int
    users: Int32[np.ndarray, "events"]
    items: Int32[np.ndarray, "events"]
    times: Int64[np.ndarray, "events"] | None
    after: Int64[np.ndarray, "events"]

    @classmethod
    def of(cls, dataset: Dataset, known: Int64[np.ndarray, "users"]) -> "Known":
        """The first `known[u]` events of each user (`Split.known`); above `MOST` events, those of a random share of
        users."""
        if (total := int(known.sum())) > MOST:
            known = np.where(np.random.default_rng(0).random(len(known)) < MOST / total, known, 0)
        users = np.repeat(np.arange(dataset.users, dtype=np.int32), known)
        places = ranges(dataset.offsets[:-1], known)
        return cls(
            catalogue=len(dataset.catalogue),
            users=users,
            items=dataset.items[places],
            times=None if dataset.timestamps is None else dataset.timestamps[places],
            after=np.repeat(known.cumsum(), known) - 1 - np.arange(len(users)),
        )

    def among(self, kept: Int64[np.ndarray, "kept"]) -> "Known":
        """Only the events of the items `kept`, which ascend; items become indices in `kept`."""
        items = placed_among(self.items, kept)
        here = items >= 0
        users, after, times = self.users[here], self.after[here], None if self.times is None else self.times[here]
        return replace(self, catalogue=len(kept), users=users, items=items[here], times=times, after=after)

    @cached_property
    def counts(self) -> Int64[np.ndarray, "items"]:
        """How many events each item has."""
        return np.bincount(self.items, minlength=self.catalogue)

    @cached_property
    def shares(self) -> Float64[np.ndarray, "items"]:
        """Each item's share of the events."""
        return self.counts.astype(np.float64) / max(1, len(self.items))

    @cached_property
    def ages(self) -> Float64[np.ndarray, "events"]:
        """The age of each event: microseconds before the last event of all users; in a log without times, how many
        events of the same user follow."""
        times = self.times
        return (self.after if times is None else times.max(initial=0) - times).astype(np.float64)

    def of_late(self, half_life: float) -> Float64[np.ndarray, "items"]:
        """The sum of the weights of each item's events; an event's weight halves with every `half_life` of its age."""
        return np.bincount(self.items, np.exp2(-self.ages / half_life), self.catalogue).astype(np.float64)

    @property
    def transitions(self) -> tuple[Int32[np.ndarray, "steps"], Int32[np.ndarray, "steps"]]:
        """Pairs of consecutive events of one user: the first items and the second items."""
        first = np.flatnonzero(self.after)
        return self.items[first], self.items[first + 1]

    @cached_property
    def followers(self) -> "Rows":
        """For each item (row), how often each item (column) came right after it in a user's history."""
        return Rows.counted(*self.transitions, self.catalogue)

    @cached_property
    def cooccurrences(self) -> "Rows":
        """In how many histories two items stand in any order; on the diagonal, in how many each item stands.

        Each history counts once, or each part of it: histories are cut into parts as long as `KEPT` pairs of items
        allow. If that would be shorter than `PART` events, only some of the users are counted.
        """
        length = max(PART, KEPT // max(1, len(self.items)))
        counted = self.users % (1 + PART * len(self.items) // KEPT) == 0
        after = self.after[counted]
        most = 1 + int(after.max(initial=0)) // length  # parts of one history
        _, parts_of = np.unique(self.users[counted].astype(np.int64) * most + after // length, return_inverse=True)
        cut = replace(self, users=parts_of.astype(np.int32), items=self.items[counted], times=None, after=after)
        first, second, values = (np.concatenate(one) for one in zip(*_together(cut), strict=True))
        offsets = np.searchsorted(first, np.arange(self.catalogue + 1))
        return Rows(offsets, second.astype(np.int32), values.astype(np.float32))

    @cached_property
    def associations(self) -> "Rows":
        """How strongly two items are associated in histories, in any order (`likelihood_ratios`); only pairs that stand
        together more often than by chance."""
        both = self.cooccurrences
        found = likelihood_ratios(both.only(both.rows != both.columns))
        return found.only(found.values > 0)

    @cached_property
    def neighbourhoods(self) -> "list[Neighbourhoods]":
        """Each item with the items most strongly associated with it (`NEIGHBOURS`), by ascending number of these; items
        without any are left out. Cached, because looking the counts up takes the most time of `slim.regression`."""
        ties = self.associations
        most = neighbours_of(self.catalogue)
        near = ties.only(np.isin(np.arange(len(ties.values)), strongest(ties.rows, ties.values, most)))
        counts, sizes, found = _Lookup(self.cooccurrences), np.diff(near.offsets), []
        for width in 2 ** np.arange(1 + most.bit_length()):
            items = np.flatnonzero((sizes <= width) & (2 * sizes > width))
            for part in parts(np.full(len(items), width**2), WORK):
                found.append(Neighbourhoods.of(items[part], int(width), near, counts))
        return found

    @cached_property
    def pairs(self) -> tuple[Int64[np.ndarray, "pairs"], Int64[np.ndarray, "pairs"]]:
        """The users and the items of all distinct (user, item) pairs, by user, then item."""
        pairs = np.sort(self.users.astype(np.int64) * self.catalogue + self.items)
        distinct = pairs[np.diff(pairs, prepend=-1) > 0]  # np.unique hashes, which takes ten times as long
        return distinct // self.catalogue, distinct % self.catalogue

    @cached_property
    def _together(self) -> "list[Together] | None":
        """The item pairs that occur in any history, cached for later callers; None if there are too many to keep."""
        users, _ = self.pairs
        each = np.bincount(users)[users].sum() if len(users) else 0
        if min(int(each), self.catalogue**2) > KEPT:
            return None
        return list(_together(self))


@dataclass(frozen=True, eq=False)
class Neighbourhoods:
    """Items with their neighbours, and how often these stand together (`Known.cooccurrences`).

    Attributes:
        items: those with more than half of `width` neighbours and at most `width`.
        neighbours: the neighbours of each item, ascending; any item after its last one.
        own: how often each neighbour stands together with the item; 0 after the last one.
        pairs: how often each two neighbours stand together, in the order of `np.triu_indices(width)`; 0 after the last.
    """

    items: Int64[np.ndarray, "n"]
    neighbours: Int64[np.ndarray, "n width"]
    own: Float32[np.ndarray, "n width"]
    pairs: Float32[np.ndarray, "n cells"]

    @classmethod
    def of(cls, items: Int64[np.ndarray, "n"], width: int, near: "Rows", counts: "_Lookup") -> "Neighbourhoods":
        """Look these items' counts up; their `near` neighbours are at most `width`."""
        real = np.arange(width) < np.diff(near.offsets)[items, None]
        places = np.where(real, near.offsets[items, None] + np.arange(width), 0)
        neighbours = near.columns[places].astype(np.int64)
        first, second = np.triu_indices(width)
        pairs = counts.of(neighbours[:, first], neighbours[:, second]) * real[:, second]
        return cls(items, neighbours, counts.of(neighbours, items[:, None]) * real, pairs)


Array = Float64[np.ndarray, "n"]
Together = tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "n"], Float32[np.ndarray, "n"]]


def placed_among(items: Int32[np.ndarray, "*shape"], kept: Int64[np.ndarray, "kept"]) -> Int32[np.ndarray, "*shape"]:
    """The index of each item in `kept`, which ascends; -1 for items outside it and for -1."""
    places = np.minimum(np.searchsorted(kept, items), len(kept) - 1).astype(np.int32)
    return np.where(kept[places] == items, places, np.int32(-1))


def parts(work: Int64[np.ndarray, "n"], most: int) -> Iterator[slice]:
    """Consecutive slices whose work sums to at most `most`; a single element may exceed it."""
    done, start = work.cumsum(), 0
    while start < len(work):
        before = done[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(done, before + most, side="right")))
        yield slice(start, stop)
        start = stop


@dataclass(frozen=True, eq=False)
class Rows:
    """A sparse matrix by rows: row `i` holds `values[offsets[i]:offsets[i + 1]]` in its `columns`."""

    offsets: Int64[np.ndarray, "items_plus_1"]
    columns: Int32[np.ndarray, "stored"]
    values: Float32[np.ndarray, "stored"]

    @classmethod
    def counted(cls, first: Int32[np.ndarray, "n"], second: Int32[np.ndarray, "n"], catalogue: int) -> "Rows":
        """Counts of each pair (`first[n]`, `second[n]`)."""
        distinct, counts = np.unique(first.astype(np.int64) * catalogue + second, return_counts=True)
        offsets = np.searchsorted(distinct, np.arange(catalogue + 1) * catalogue)
        return cls(offsets, (distinct % catalogue).astype(np.int32), counts.astype(np.float32))

    @property
    def rows(self) -> Int64[np.ndarray, "stored"]:
        """The row of each stored value."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def plus(self, other: "Rows", times: float = 1.0) -> "Rows":
        """This matrix plus `times` the other, which has the same shape."""
        catalogue = len(self.offsets) - 1
        cells = [one.rows * catalogue + one.columns for one in (self, other)]
        distinct, places = np.unique(np.concatenate(cells), return_inverse=True)
        values = np.bincount(places, np.concatenate([self.values, times * other.values]))
        offsets = np.searchsorted(distinct, np.arange(catalogue + 1) * catalogue)
        return Rows(offsets, (distinct % catalogue).astype(np.int32), values.astype(np.float32))

    def only(self, kept: Bool[np.ndarray, "stored"]) -> "Rows":
        """Only these of the stored values."""
        return Rows(np.append(0, kept.cumsum())[self.offsets], self.columns[kept], self.values[kept])

    def first(self, most: int) -> "Rows":
        """Only the first `most` values of each row."""
        sizes = np.minimum(np.diff(self.offsets), most)
        kept = ranges(self.offsets[:-1], sizes)
        return Rows(np.append(0, sizes.cumsum()), self.columns[kept], self.values[kept])

    def summed(
        self, rows: Int64[np.ndarray, "n"], items: Int32[np.ndarray, "n"], weights: Float64[np.ndarray, "n"], batch: int
    ) -> Float64[np.ndarray, "batch items"]:
        """For each of `batch` rows, the weighted sum of the stored rows of its items; `rows` ascends."""
        catalogue = len(self.offsets) - 1
        total = np.zeros((batch, catalogue))
        counts = np.diff(self.offsets)[items]
        for part in parts(counts, WORK):
            stored = ranges(self.offsets[items[part]], counts[part])
            cells = np.repeat(rows[part] * catalogue, counts[part]) + self.columns[stored]
            np.add.at(total.reshape(-1), cells, np.repeat(weights[part], counts[part]) * self.values[stored])
        return total


def neighbours_of(count: int) -> int:
    """How many neighbours an item has, in a catalogue of `count` items."""
    return min(max(isqrt(COEFFICIENTS // count), NEIGHBOURS[0]), NEIGHBOURS[1])


class _Lookup:
    """The values of a sparse matrix at given cells; 0 where none is stored."""

    def __init__(self, rows: Rows) -> None:
        self.width = len(rows.offsets) - 1
        self.cells, self.values = rows.rows * self.width + rows.columns, rows.values  # cells ascend

    def of(self, row: Int64[np.ndarray, "..."], column: Int64[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
        """The values at these cells; rows and columns are broadcast. Fastest where these ascend."""
        wanted = row * self.width + column
        at = np.minimum(np.searchsorted(self.cells, wanted), len(self.cells) - 1)
        return np.where(self.cells[at] == wanted, self.values[at], np.float32(0))


def strongest(rows: Int64[np.ndarray, "n"], values: Float32[np.ndarray, "n"], most: int) -> Int64[np.ndarray, "kept"]:
    """Indices of the `most` highest values of each row, highest first; of equal ones the first wins.

    Args:
        rows: ascending.
        values: 0 or more.
    """
    # Such floats sort like their bits, so one sort of integers replaces a sort by two keys and is ten times faster.
    order = np.argsort((rows << 32) - values.view(np.int32), kind="stable")
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    place = np.arange(len(rows)) - np.repeat(starts, np.diff(np.append(starts, len(rows))))
    return order[place < most]


def likelihood_ratios(counts: Rows) -> Rows:
    """The log-likelihood ratio of each pair's count against independence; 0 where the count is no larger than chance
    (Dunning 1993, "Accurate Methods for the Statistics of Surprise and Coincidence", section 5; Mahout's item
    similarity).

    A plain ratio of counts ranks two rare items that met once above all others; this favours pairs seen often.

    Args:
        counts: a symmetric matrix without a diagonal.
    """
    both, rows, columns = counts.values.astype(np.float64), counts.rows, counts.columns
    alone = np.bincount(rows, both, len(counts.offsets) - 1).astype(np.float64)
    first, second, total = alone[rows], alone[columns], alone.sum()

    def part(cell: Array, row: Array, column: Array) -> Array:
        return np.asarray(cell * np.log(np.maximum(cell, 1) * total / (row * column)))

    found = (
        part(both, first, second)
        + part(first - both, first, total - second)
        + part(second - both, total - first, second)
        + part(total - first - second + both, total - first, total - second)
    )
    surer = both * total > first * second
    return replace(counts, values=np.where(surer, 2 * found, 0).astype(np.float32))


def together(known: Known) -> Iterable[Together]:
    """How many users had both of two items, as (items, other items, numbers of users), by item, then other item.

    All pairs that any user had, including each item with itself; a part of the items at a time.
    """
    return _together(known) if known._together is None else known._together


def _together(known: Known) -> Iterator[Together]:
    """`together`, without the cache."""
    users, items = known.pairs
    people = int(users[-1]) + 1 if len(users) else 0
    had = _matrix(users, items, (people, known.catalogue))
    order = np.argsort(items, kind="stable")
    users, items = users[order], items[order]
    work = np.bincount(items, np.bincount(users)[users], known.catalogue).astype(np.int64)
    places = np.searchsorted(items, np.arange(known.catalogue + 1))
    for part in parts(work, WORK):
        mine = slice(places[part.start], places[part.stop])
        some = _matrix(items[mine] - part.start, users[mine], (part.stop - part.start, people))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            found = torch.sparse.mm(some, had).coalesce()
        first, second = found.indices().numpy()
        yield first + part.start, second, found.values().numpy()


def events_after(
    items: Int32[np.ndarray, "batch time"],
) -> tuple[Bool[np.ndarray, "batch time"], Int64[np.ndarray, "batch time"]]:
    """A mask of real events (-1 is padding), and how many events follow each position."""
    real = items >= 0
    return real, real.sum(axis=1, keepdims=True) - real.cumsum(axis=1)


def last_heard(
    items: Int32[np.ndarray, "batch time"],
) -> tuple[Int64[np.ndarray, "n"], Int32[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
    """The distinct items of each history: rows (ascending), items, and how many events follow the last one of each
    item."""
    real, after = events_after(items)
    rows, columns = (places[::-1] for places in np.nonzero(real))  # backwards, so that np.unique finds the last of each
    heard = items[rows, columns]
    _, first = np.unique(rows * (int(heard.max(initial=0)) + 1) + heard, return_index=True)
    return rows[first], heard[first], after[rows, columns][first]


def _matrix(rows: Int64[np.ndarray, "n"], columns: Int64[np.ndarray, "n"], shape: tuple[int, int]) -> torch.Tensor:
    """A sparse matrix of ones, from coordinates sorted by row, then column."""
    places = torch.from_numpy(np.stack([rows, columns]))
    return torch.sparse_coo_tensor(places, torch.ones(len(rows)), shape, is_coalesced=True, check_invariants=True)
