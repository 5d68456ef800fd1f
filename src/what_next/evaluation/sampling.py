"""What the latest events of a history are, and what any item would make of their spread."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int32

from what_next.rewards import Samples, spread_reward
from what_next.rewards.spread import Pairs
from what_next.types import History

CHUNK = 2**18
"""Distances at work at a time: 2 MB, which stays near the processor; four times as many take four times as long."""


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
        samples, last = self._samples(history)
        return samples.mean[torch.arange(len(last)), last].numpy()

    def grown(self, history: History) -> Float64[np.ndarray, "batch items"]:
        """The spread that each history's sample would have with each item of the catalogue added to it."""
        width = min(self.window, history.items.shape[1])
        block = max(1, CHUNK // width)
        step = max(1, block // len(self.vectors))
        found = np.empty((len(history.users), len(self.vectors)))
        for start in range(0, len(found), step):
            samples, last = self._samples(rows_of(history, slice(start, start + step)))
            for first in range(0, len(self.vectors), block):
                points = torch.from_numpy(self.vectors[first : first + block])[None, None]
                grown = samples.grown(points)[torch.arange(len(last)), last]
                found[start : start + step, first : first + block] = grown.numpy()
        return found

    def reward(self, history: History, items: Int32[np.ndarray, "batch"]) -> Float64[np.ndarray, "batch"]:
        """The spread reward of one item after each history; not a number where it is not defined, or for item -1."""
        samples, last = self._samples(history)
        grown = samples.grown(torch.from_numpy(self.vectors[items])[:, None, None])
        rewards, usable = spread_reward(samples, grown, torch.from_numpy(history.sigma))
        rows = torch.arange(len(last))
        return np.where(usable[rows, last].numpy() & (items >= 0), rewards[rows, last, 0].numpy(), np.nan)

    def _samples(self, history: History) -> tuple[Samples, torch.Tensor]:
        """The samples at every step, and each history's last step. A history has at least one event."""
        latest = history.last(self.window)
        vectors = torch.from_numpy(self.vectors[latest.items])
        return Samples.of(vectors, self.window, self.pairs), torch.from_numpy(latest.lengths - 1)


def rows_of(history: History, part: slice) -> History:
    """Some rows of a batch of histories."""
    return History(
        history.users[part],
        history.items[part],
        history.lengths[part],
        history.rewards[part],
        history.context[part],
        history.sigma[part],
    )
