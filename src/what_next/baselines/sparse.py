"""Sparse matrices of items by items: how often two of them have the same users, and rows that are summed."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int32, Int64

from what_next.baselines.known import Known, parts, ranges

WORK = 2**22
"""Products at work at a time: about 200 MB."""


@dataclass(frozen=True, eq=False)
class Rows:
    """A sparse matrix by rows: row `i` holds `values[offsets[i]:offsets[i + 1]]` in its `columns`."""

    offsets: Int64[np.ndarray, "items_plus_1"]
    columns: Int32[np.ndarray, "stored"]
    values: Float32[np.ndarray, "stored"]

    def summed(
        self,
        rows: Int64[np.ndarray, "n"],
        items: Int32[np.ndarray, "n"],
        weights: Float64[np.ndarray, "n"],
        batch: int,
    ) -> Float64[np.ndarray, "batch items"]:
        """For each of `batch` rows, the sum of its items' rows, each times its weight; `rows` ascends."""
        catalogue = len(self.offsets) - 1
        total = np.zeros((batch, catalogue))
        counts = np.diff(self.offsets)[items]
        for part in parts(counts, WORK):
            stored = ranges(self.offsets[items[part]], counts[part])
            cells = np.repeat(rows[part] * catalogue, counts[part]) + self.columns[stored]
            np.add.at(total.reshape(-1), cells, np.repeat(weights[part], counts[part]) * self.values[stored])
        return total


def together(
    known: Known,
) -> Iterator[tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "n"], Float32[np.ndarray, "n"]]]:
    """How many users had both of two items: items, other items and numbers of users, by item, then other item.

    All pairs that any user had, an item with itself included, some items at a time.
    """
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


def last_heard(
    items: Int32[np.ndarray, "batch time"],
) -> tuple[Int64[np.ndarray, "n"], Int32[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
    """The distinct items of each history: rows, ascending, items, and how many events came after the last of each."""
    real = items >= 0
    after = real.sum(axis=1, keepdims=True) - real.cumsum(axis=1)
    rows, columns = (places[::-1] for places in np.nonzero(real))  # the last of each first
    heard = items[rows, columns]
    _, first = np.unique(rows * (int(heard.max(initial=0)) + 1) + heard, return_index=True)
    return rows[first], heard[first], after[rows, columns][first]


def _matrix(rows: Int64[np.ndarray, "n"], columns: Int64[np.ndarray, "n"], shape: tuple[int, int]) -> torch.Tensor:
    """A sparse matrix of ones, given by row, then column."""
    places = torch.from_numpy(np.stack([rows, columns]))
    return torch.sparse_coo_tensor(places, torch.ones(len(rows)), shape, is_coalesced=True, check_invariants=True)
