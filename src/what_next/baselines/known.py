"""The events that training may know, and nothing else of the log."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int32, Int64

from what_next.data import Dataset

TIE = 1e-9
"""What an item's share of the events adds to a score: popularity decides among items that are otherwise equal."""


@dataclass(frozen=True, eq=False)
class Known:
    """What a baseline counts.

    Attributes:
        catalogue: how many items there are, with and without events.
        users, items, times: of each event, by user, then time; times in microseconds, None where the log has none.
        after: how many known events of the same user follow each.
    """

    catalogue: int
    users: Int32[np.ndarray, "events"]
    items: Int32[np.ndarray, "events"]
    times: Int64[np.ndarray, "events"] | None
    after: Int64[np.ndarray, "events"]

    @classmethod
    def of(cls, dataset: Dataset, known: Int64[np.ndarray, "users"]) -> "Known":
        """The first `known[u]` events of each user (`Split.known`)."""
        users = np.repeat(np.arange(dataset.users, dtype=np.int32), known)
        places = ranges(dataset.offsets[:-1], known)
        return cls(
            catalogue=len(dataset.catalogue),
            users=users,
            items=dataset.items[places],
            times=None if dataset.timestamps is None else dataset.timestamps[places],
            after=np.repeat(known.cumsum(), known) - 1 - np.arange(len(users)),
        )

    @cached_property
    def counts(self) -> Int64[np.ndarray, "items"]:
        """How many events each item has."""
        return np.bincount(self.items, minlength=self.catalogue)

    @cached_property
    def shares(self) -> Float64[np.ndarray, "items"]:
        """Each item's share of the events."""
        return self.counts.astype(np.float64) / max(1, len(self.items))

    @cached_property
    def pairs(self) -> tuple[Int64[np.ndarray, "pairs"], Int64[np.ndarray, "pairs"]]:
        """Who had what: users and items of the distinct pairs, by user, then item."""
        pairs = np.sort(self.users.astype(np.int64) * self.catalogue + self.items)
        distinct = pairs[np.diff(pairs, prepend=-1) > 0]  # np.unique hashes, ten times slower
        return distinct // self.catalogue, distinct % self.catalogue


def ranges(starts: Int64[np.ndarray, "n"], counts: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "total"]:
    """`starts[0], starts[0] + 1, ...`, `counts[0]` of them; then those of the next."""
    values = np.arange(int(counts.sum()))
    values += np.repeat(starts - counts.cumsum() + counts, counts)
    return values


def parts(work: Int64[np.ndarray, "n"], most: int) -> Iterator[slice]:
    """Slices, in order, whose work sums to `most` at most; one alone may be more."""
    done, start = work.cumsum(), 0
    while start < len(work):
        before = done[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(done, before + most, side="right")))
        yield slice(start, stop)
        start = stop
