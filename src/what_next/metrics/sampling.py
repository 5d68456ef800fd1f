"""What the latest events of a history are, and what any item would make of their spread."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int32
from torch import Tensor

from what_next.rewards import Samples, spread_reward
from what_next.rewards.spread import Pairs
from what_next.types import History

CHUNK = 2**18
"""Distances at work at a time: 2 MB stays near the processor; with four times as many, each takes thrice as long."""


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

    def grown(self, history: History) -> Float64[np.ndarray, "batch items"]:
        """The spread that each history's sample would have with each item of the catalogue added to it."""
        found = np.empty((len(history.users), len(self.vectors)))
        block = CHUNK // min(self.window, history.items.shape[1])
        with _one_thread():
            for part, samples, at_end in self._ends(history, len(self.vectors)):
                for first in range(0, len(self.vectors), block):
                    points = torch.from_numpy(self.vectors[first : first + block])[None, None]
                    found[part, first : first + block] = samples.grown(points)[at_end].numpy()
        return found

    def reward(self, history: History, items: Int32[np.ndarray, "batch"]) -> Float64[np.ndarray, "batch"]:
        """The spread reward of one item after each history; not a number where it is not defined, or for item -1."""
        found = np.empty(len(items))
        for part, samples, at_end in self._ends(history, self.window):
            grown = samples.grown(torch.from_numpy(self.vectors[items[part]])[:, None, None])
            rewards, usable = spread_reward(samples, grown, torch.from_numpy(history.sigma[part]))
            found[part] = torch.where(usable[at_end], rewards[at_end][:, 0], torch.nan).numpy()
        return np.where(items < 0, np.nan, found)

    def _ends(self, history: History, width: int) -> Iterator[tuple[slice, Samples, tuple[Tensor, Tensor]]]:
        """Some histories at a time: their samples at every step, and the index of each one's last step.

        Args:
            history: each with at least one event.
            width: distances that are taken from each event.
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
    """Blocks this small gain nothing from threads, which wait for each other many times as long on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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
