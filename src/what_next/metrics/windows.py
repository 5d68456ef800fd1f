"""Windows: short runs of events of users that training never saw, each with the item that followed."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32, Int64

from what_next.data import Dataset
from what_next.retrieval.pool import sample_ranks
from what_next.types import History

HistoryOf = Callable[[Int32[np.ndarray, "batch"], Int64[np.ndarray, "batch"], Int64[np.ndarray, "batch"]], History]
"""Makes the histories of (users, starts, lengths), sigma included: `State.histories`."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of one length, by user, then place.

    Attributes:
        dataset: where they come from.
        history: the windows, a row each.
        following: the item that followed each.
        too_short: how many users were too short to give one.
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
        """Which items are anywhere in the whole history of their window's user, before, in or after the window."""
        users = np.unique(self.users).astype(np.int64)
        counts = self.dataset.lengths[users]
        events = np.arange(counts.sum()) + np.repeat(self.dataset.offsets[users] - np.cumsum(counts) + counts, counts)
        width = len(self.dataset.catalogue)
        pairs = np.repeat(users, counts) * width + self.dataset.items[events]
        return np.isin(self.users.astype(np.int64) * width + items, pairs) & (items >= 0)


def draw_windows(
    dataset: Dataset,
    users: Int32[np.ndarray, "users"],
    history_of: HistoryOf,
    *,
    length: int,
    per_user: int = 20,
    since: Int64[np.ndarray, "all_users"] | None = None,
    until: Int64[np.ndarray, "all_users"] | None = None,
    seed: int = 0,
) -> Windows:
    """Up to `per_user` windows of each user, drawn without replacement among all that an event follows.

    Args:
        dataset: the log.
        users: whose windows; the test users of a split.
        history_of: makes the rows, so that a window is what an agent reads everywhere else.
        length: events in each window.
        per_user: windows of each user, at most.
        since: for each user of the data set, the first of their events that may be the following item.
        until: likewise, where those end; None: with the last. `Split.targets` gives both.
        seed: which windows; the same seed, users and length give the same windows.
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
