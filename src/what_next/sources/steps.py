"""From histories to transitions: which state leads to which, over how many rewards."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int, Int64

from what_next.types import History

GAP = 20.0
"""What the logarithm of a gap in seconds is divided by: 20 is that of fifteen years."""


@dataclass(frozen=True, eq=False)
class Steps:
    """The transitions of a batch of histories; places are on the flattened grid `[batch time]`.

    Attributes:
        places: of the states that they start in; `following`: of those that they lead to.
        counts: how many events lie between: `n_step`, or fewer before the end of what is known.
        ends: nothing follows, so the state that it leads to has no value (`History.ends`).
        known: the item after that state is on the grid.
    """

    places: Int64[np.ndarray, "steps"]
    following: Int64[np.ndarray, "steps"]
    counts: Int64[np.ndarray, "steps"]
    ends: Bool[np.ndarray, "steps"]
    known: Bool[np.ndarray, "steps"]

    @classmethod
    def of(cls, history: History, usable: Bool[np.ndarray, "batch time"], n_step: int) -> "Steps":
        """All transitions; `usable` are the places whose next item is known."""
        width, last = usable.shape[1], history.lengths - 1
        counts = np.clip(last[:, None] - np.arange(width), 0, n_step)
        rows, columns = np.nonzero(usable & (counts > 0))
        count = counts[rows, columns]
        places = rows * width + columns
        at_end = columns + count == last[rows]
        ends = np.zeros_like(at_end) if history.ends is None else at_end & history.ends[rows]
        return cls(places, places + count, count, ends, ~at_end)


def summed(rewards: Float32[np.ndarray, "batch time"], steps: Steps, discount: float) -> Float32[np.ndarray, "steps"]:
    """The discounted sum of the rewards of each transition's events (Sutton and Barto 2018, equation 7.1)."""
    flat = rewards.ravel()
    found = np.zeros(len(steps.places))
    for step in range(int(steps.counts.max(initial=0))):
        there = step < steps.counts
        found[there] += discount**step * flat[steps.places[there] + step + 1]
    return found.astype(np.float32)


def returns(
    rewards: Float32[np.ndarray, "batch time"],
    lengths: Int[np.ndarray, "batch"],
    discount: float,
    later: Float32[np.ndarray, "batch"] | None = None,
) -> Float32[np.ndarray, "batch time"]:
    """After each event, the discounted sum of the rewards of all later ones (Sutton and Barto 2018, equation 3.8).

    `later` is that of the last event of each row: of what the row does not hold (`History.later`). 0 at padding.
    """
    rows, width = rewards.shape
    ahead = np.zeros((width + 1, rows))  # by event, what it earned; then what the row does not hold
    ahead[:width] = np.where(np.arange(width)[:, None] < lengths, rewards.T, 0)
    ahead[lengths, np.arange(rows)] = 0 if later is None else later
    found = np.zeros_like(ahead)
    for step in range(width - 1, -1, -1):
        found[step] = ahead[step + 1] + discount * found[step + 1]
    return np.ascontiguousarray(found[:width].T, np.float32)


def gaps(history: History) -> Float32[np.ndarray, "batch time"]:
    """The time since the event before, as the logarithm of one plus its seconds, scaled to about 1; 0 where unknown."""
    found = np.zeros(history.items.shape, np.float32)
    if history.times is not None:
        seconds = np.maximum(np.diff(history.times, axis=1), 0) / 1e6
        found[:, 1:] = np.where(history.items[:, 1:] >= 0, np.log1p(seconds) / GAP, 0)
    return found
