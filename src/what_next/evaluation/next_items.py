"""How well a policy names what really came next: one target for each user, the whole catalogue ranked."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int, Int32, Int64

from what_next.data import Dataset, Split
from what_next.data.splits import Part
from what_next.evaluation.ranking import hit_rate, ndcg
from what_next.types import History, Policy

EVENTS = 2**16
"""Events of histories read at a time, padding included."""

Histories = Callable[[Int32[np.ndarray, "batch"], Int64[np.ndarray, "batch"], Int64[np.ndarray, "batch"]], History]
"""From users, starts and lengths to their histories (`State.histories`)."""


@dataclass(frozen=True, eq=False)
class Targets:
    """The last event of each user's part of a split, and how many events come before it.

    Attributes:
        users: those who are judged; `before`: how many events each has before the target.
        items: the target.
        rewards: what the log says of it; None where the log has no rewards.
    """

    users: Int32[np.ndarray, "n"]
    before: Int64[np.ndarray, "n"]
    items: Int32[np.ndarray, "n"]
    rewards: Float64[np.ndarray, "n"] | None

    @classmethod
    def of(cls, dataset: Dataset, split: Split, part: Part) -> "Targets":
        """Of the users of a part who have an event before their target."""
        users = split.validation if part == "validation" else split.test
        _, until = split.targets(part)
        if part == "validation" and split.kind == "users":
            until = None  # they are set aside whole
        last = (dataset.lengths if until is None else until)[users] - 1
        users, last = users[last > 0], last[last > 0]
        places = dataset.offsets[users] + last
        rewards = None if dataset.rewards is None else dataset.rewards[places].astype(np.float64)
        return cls(users, last, dataset.items[places], rewards)

    def of_rows(self, rows: Int[np.ndarray, "rows"]) -> "Targets":
        """Some of them."""
        rewards = None if self.rewards is None else self.rewards[rows]
        return Targets(self.users[rows], self.before[rows], self.items[rows], rewards)

    def __len__(self) -> int:
        """How many targets there are."""
        return len(self.users)

    def held(self, dataset: Dataset) -> Bool[np.ndarray, "n"]:
        """Which targets stand in their history already, where nobody who leaves its items out can name them."""
        owners = np.repeat(np.arange(len(self)), self.before)
        starts = np.repeat(dataset.offsets[self.users] - self.before.cumsum() + self.before, self.before)
        same = dataset.items[starts + np.arange(len(owners))] == self.items[owners]
        return np.bincount(owners[same], minlength=len(self)) > 0


@dataclass(frozen=True, eq=False)
class Ranks:
    """What a policy recommended instead of each target.

    Attributes:
        items: the slates; `hr`, `ndcg`: for each user, at the slates' length.
        reward: the target's logged reward where the first item is the target, else 0; None without rewards.
    """

    items: Int32[np.ndarray, "n k"]
    hr: Float64[np.ndarray, "n"]
    ndcg: Float64[np.ndarray, "n"]
    reward: Float64[np.ndarray, "n"] | None


def rank(
    policy: Policy,
    targets: Targets,
    histories: Histories,
    k: int = 10,
    *,
    seen: bool = False,
    rng: np.random.Generator | None = None,
) -> Ranks:
    """Let a policy recommend `k` items to every user, greedily without `rng`; none of the history unless `seen`."""
    items = np.full((len(targets), k), -1, np.int32)
    for rows in _chunks(targets.before):
        users, lengths = targets.users[rows], targets.before[rows]
        history = histories(users, np.zeros_like(lengths), lengths)
        items[rows] = policy.act(history, k, rng, exclude=None if seen else history.items).items
    first = items[:, 0] == targets.items
    return Ranks(
        items,
        hit_rate(items, targets.items),
        ndcg(items, targets.items),
        None if targets.rewards is None else np.where(first, targets.rewards, 0.0),
    )


def _chunks(lengths: Int64[np.ndarray, "n"]) -> Iterator[Int[np.ndarray, "rows"]]:
    """Rows of about one length at a time, so that little of what is read is padding."""
    order, start = np.argsort(-lengths, kind="stable"), 0
    while start < len(order):
        rows = max(1, EVENTS // int(lengths[order[start]]))
        yield order[start : start + rows]
        start += rows
