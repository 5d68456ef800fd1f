"""Histories, and the inputs that networks read of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32, Int64
from torch import Tensor


@dataclass(frozen=True, eq=False)
class History:
    """The events of some users, oldest first, padded at the end.

    Attributes:
        users: positions in the data set; -1 for a user that is not in it.
        items: positions in the catalogue; -1 is padding.
        lengths: number of events of each row.
        rewards: the log's reward of each event; 0 if it has none.
        context: further columns of the log, and the time of day (see `State`).
        sigma: the spread of all that the user likes, in standard deviations of the catalogue. A label: it may know the
            user's future, and no network may read it. NaN if unknown.
        times: time of each event, in microseconds; None if the log has no times.
        before: number of the user's events before the first of the row.
    """

    users: Int32[np.ndarray, "batch"]
    items: Int32[np.ndarray, "batch time"]
    lengths: Int64[np.ndarray, "batch"]
    rewards: Float32[np.ndarray, "batch time"]
    context: Float32[np.ndarray, "batch time context"]
    sigma: Float32[np.ndarray, "batch"]
    times: Int64[np.ndarray, "batch time"] | None = None
    before: Int64[np.ndarray, "batch"] | None = None

    @classmethod
    def of(cls, items: Sequence[Any], rewards: Sequence[Any] | None = None) -> "History":
        """Histories of users that are not in a data set.

        Args:
            items: for each user, positions in the catalogue, oldest first; `rewards`: in the same shape.
        """
        lengths = np.array([len(row) for row in items], np.int64)
        real = np.arange(lengths.max(initial=0)) < lengths[:, None]
        heard, earned = np.full(real.shape, -1, np.int32), np.zeros(real.shape, np.float32)
        heard[real] = np.fromiter(chain.from_iterable(items), np.int32)
        if rewards is not None:
            earned[real] = np.fromiter(chain.from_iterable(rewards), np.float32)
        users, sigma = np.full(len(items), -1, np.int32), np.full(len(items), np.nan, np.float32)
        return cls(users, heard, lengths, earned, np.zeros((*real.shape, 0), np.float32), sigma)

    def rows(self, part: slice) -> "History":
        """Some of the histories."""
        parts: dict[str, Any] = {name: None if one is None else one[part] for name, one in vars(self).items()}
        return History(**parts)

    def last(self, window: int) -> "History":
        """The last `window` events of each history (all, if there are fewer)."""
        width = min(window, self.items.shape[1])
        starts = np.maximum(self.lengths - width, 0)
        columns = starts[:, None] + np.arange(width)
        rows = np.arange(len(columns))[:, None]
        return replace(
            self,
            items=self.items[rows, columns],
            lengths=self.lengths - starts,
            rewards=self.rewards[rows, columns],
            context=self.context[rows, columns],
            times=None if self.times is None else self.times[rows, columns],
            before=None if self.before is None else self.before + starts,
        )


def repeats(items: Int[np.ndarray, "*grid slots"], history: History) -> Bool[np.ndarray, "*grid slots"]:
    """Which items the history holds already; on a grid, up to the step at which they are chosen."""
    if items.ndim == 2:
        return np.asarray((items >= 0) & (items[..., None] == history.items[:, None]).any(-1))
    same = (items[..., None] >= 0) & (items[..., None] == history.items[:, None, None])
    past = np.tri(items.shape[1], history.items.shape[1], dtype=np.bool_)
    return np.asarray((same & past[:, None]).any(-1))


@dataclass(frozen=True, eq=False)
class Factors:
    """The networks' inputs for a history: one row of factors per event. NumPy; tensors share its memory.

    The critic's rows are joined by those of the selected item (`Agent.add_prediction`). `prospects` are the effects on
    the sample of each point that the actor chooses from.
    """

    actor: Float32[np.ndarray, "batch time factors"]
    prospects: Float32[np.ndarray, "batch time choices prospects"]
    critic: Float32[np.ndarray, "batch time factors"]


@dataclass(frozen=True, eq=False)
class Events:
    """An encoder's input: one row for each history, oldest event first.

    Attributes:
        items: positions in the catalogue; -1 is padding, at the end of a row.
        numbers: further standardised inputs of each event: its reward, the time since the previous event.
        shown: for events in a world, the slate that was shown; -1 pads. clicks: which of its items were clicked.
    """

    items: Int64[Tensor, "batch time"]
    numbers: Float[Tensor, "batch time numbers"]
    shown: Int64[Tensor, "batch time slots"] | None = None
    clicks: Float[Tensor, "batch time slots"] | None = None
