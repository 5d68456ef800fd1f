"""Windows of histories, the items that followed them, and the spread at their ends with any item added."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int32, Int64
from torch import Tensor

from what_next.data import Dataset
from what_next.data.batches import ranges
from what_next.metrics.next_items import Histories
from what_next.retrieval.pool import sample_ranks
from what_next.rewards.spread import Pairs, Samples, spread_reward
from what_next.types import History

CHUNK = 2**18
"""Distances at a time: 2 MB fit the processor's cache; with four times as many, each takes three times as long."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of one length, by user, then place.

    Attributes:
        dataset: the data set that they come from.
        history: the windows, one per row.
        following: the item that followed each window.
        too_short: how many users had too few events for a window.
    """

    dataset: Dataset
    history: History
    following: Int32[np.ndarray, "windows"]
    too_short: int

    def __len__(self) -> int:
        """How many windows there are."""
        return len(self.following)

    @property
    def users(self) -> Int32[np.ndarray, "windows"]:
        """The user of each window."""
        return self.history.users

    def heard(self, items: Int32[np.ndarray, "seeds windows"]) -> Bool[np.ndarray, "seeds windows"]:
        """Whether each item occurs anywhere in the user's whole history: before, in or after the window."""
        users = np.unique(self.users).astype(np.int64)
        counts = self.dataset.lengths[users]
        width = len(self.dataset.catalogue)
        pairs = np.repeat(users, counts) * width + self.dataset.items[ranges(self.dataset.offsets[users], counts)]
        return np.isin(self.users.astype(np.int64) * width + items, pairs) & (items >= 0)


def draw_windows(
    dataset: Dataset,
    users: Int32[np.ndarray, "users"],
    history_of: Histories,
    *,
    length: int,
    per_user: int = 20,
    since: Int64[np.ndarray, "all_users"] | None = None,
    until: Int64[np.ndarray, "all_users"] | None = None,
    seed: int = 0,
) -> Windows:
    """Up to `per_user` windows of each user, drawn without replacement among all windows that an event follows.

    Args:
        dataset: the log.
        users: whose windows; the test users of a split.
        history_of: makes the rows, so that a window is encoded like any other history.
        length: events in each window.
        per_user: windows of each user, at most.
        since: for each user of the data set, the index of the first event that may be the following item.
        until: likewise, the end of these events; None: the end of the history. `Split.targets` gives both.
        seed: of the draw; the same seed, users and length give the same windows.
    """
    earliest = np.full(len(users), length) if since is None else np.maximum(since[users], length)
    ends = dataset.lengths if until is None else until
    possible = np.maximum(ends[users] - earliest, 0)
    uniforms = np.random.default_rng([seed, length]).random((len(users), per_user))
    drawn = np.sort(sample_ranks(uniforms, possible), axis=1)
    rows, columns = np.nonzero(drawn >= 0)
    owners, following = users[rows], earliest[rows] + drawn[rows, columns]
    history = history_of(owners, following - length, np.full(len(owners), length))
    too_short = int((possible == 0).sum())
    return Windows(dataset, history, dataset.items[dataset.offsets[owners] + following], too_short)


def followed(history: History, items: Int32[np.ndarray, "batch"]) -> History:
    """Full histories (no padding) with one taken item appended to each; the new event has no other data."""

    def longer(values: np.ndarray, last: np.ndarray) -> np.ndarray:
        return np.concatenate([values, last[:, None]], axis=1)

    return replace(
        history,
        items=longer(history.items, items.astype(np.int32)),
        lengths=history.lengths + 1,
        rewards=longer(history.rewards, np.zeros_like(history.rewards[:, -1])),
        context=longer(history.context, history.context[:, -1]),
        times=None if history.times is None else longer(history.times, history.times[:, -1]),
    )


@dataclass(frozen=True, eq=False)
class Sampling:
    """How the spread is measured at the end of a history.

    Attributes:
        vectors: the items' standardised attributes.
        window: how many of the latest events are the sample.
        pairs: which of their pairs count.
    """

    vectors: Float32[np.ndarray, "items dim"]
    window: int = 20
    pairs: Pairs = "all"

    def mean(self, history: History) -> Float32[np.ndarray, "batch dim"]:
        """The mean vector of each history's sample."""
        found = np.empty((len(history.users), self.vectors.shape[1]), np.float32)
        for part, samples, at_end in self._ends(history, self.window):
            found[part] = samples.mean[at_end].numpy()
        return found

    def with_each_item(self, history: History) -> Float64[np.ndarray, "batch items"]:
        """The spread of each history's sample with each item of the catalogue added."""
        found = np.empty((len(history.users), len(self.vectors)))
        block = CHUNK // min(self.window, history.items.shape[1])
        with _one_thread():
            for part, samples, at_end in self._ends(history, len(self.vectors)):
                for first in range(0, len(self.vectors), block):
                    points = torch.from_numpy(self.vectors[first : first + block])[None, None]
                    found[part, first : first + block] = samples.with_item(points)[at_end].numpy()
        return found

    def reward(self, history: History, items: Int32[np.ndarray, "batch"]) -> Float64[np.ndarray, "batch"]:
        """The spread reward of one item after each history; NaN where it is undefined, or for item -1."""
        found = np.empty(len(items))
        for part, samples, at_end in self._ends(history, self.window):
            with_item = samples.with_item(torch.from_numpy(self.vectors[items[part]])[:, None, None])
            rewards, usable = spread_reward(samples, with_item, torch.from_numpy(history.sigma[part]))
            found[part] = torch.where(usable[at_end], rewards[at_end][:, 0], torch.nan).numpy()
        return np.where(items < 0, np.nan, found)

    def _ends(self, history: History, width: int) -> Iterator[tuple[slice, Samples, tuple[Tensor, Tensor]]]:
        """The samples of some histories at a time, at every step, and the index of each history's last step.

        Args:
            history: each with at least one event.
            width: distances computed for each event.
        """
        latest = history.last(self.window)
        step = max(1, CHUNK // (width * latest.items.shape[1]))
        for start in range(0, len(latest.users), step):
            part = slice(start, start + step)
            samples = Samples.of(torch.from_numpy(self.vectors[latest.items[part]]), self.window, self.pairs)
            last = torch.from_numpy(latest.lengths[part] - 1)
            yield part, samples, (torch.arange(len(last)), last)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Blocks this small gain nothing from threads, which on a busy machine mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
