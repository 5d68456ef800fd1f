"""What the latest events of a history are, and what any item would make of their spread."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int32

from what_next.rewards import Samples, spread_reward
from what_next.rewards.spread import Pairs
from what_next.types import History

CHUNK = 2**20
"""Distances at work at a time: bounds the memory at some tens of MB, and keeps it near the processor."""


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
        points = torch.from_numpy(self.vectors)[None, None]
        found = np.empty((len(history.users), len(self.vectors)))
        for part in self._parts(history):
            samples, last = self._samples(_rows(history, part))
            found[part] = samples.grown(points)[torch.arange(len(last)), last].numpy()
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
        return Samples.of(torch.from_numpy(self.vectors[latest.items]), self.window, self.pairs), torch.from_numpy(
            latest.lengths - 1
        )

    def _parts(self, history: History) -> Iterator[slice]:
        width = min(self.window, history.items.shape[1])
        step = max(1, CHUNK // (width * len(self.vectors)))
        return (slice(start, start + step) for start in range(0, len(history.users), step))


def _rows(history: History, part: slice) -> History:
    """Some rows of a batch of histories."""
    return History(
        history.users[part],
        history.items[part],
        history.lengths[part],
        history.rewards[part],
        history.context[part],
        history.sigma[part],
    )
