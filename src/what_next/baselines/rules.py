"""Policies that learn nothing: what an agent has to beat, and what nobody can."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int, Int32, Int64
from torch import Tensor

from what_next.metrics.windows import Sampling
from what_next.retrieval import Box, forbid
from what_next.types import History, Slate

CHUNK = 2**23
"""Scores at work at a time: 64 MB."""

Allowed = Bool[np.ndarray, "items"] | Bool[np.ndarray, "batch items"] | None
Exclude = Int32[np.ndarray, "batch width"] | None


class Ranking(ABC):
    """A policy that recommends the permitted items with the highest scores, the lower item among equals."""

    items: int
    """How many items there are."""

    def act(
        self,
        history: History,
        slots: int = 1,
        rng: np.random.Generator | None = None,
        *,
        allowed: Allowed = None,
        exclude: Exclude = None,
        propensities: bool = False,
    ) -> Slate:
        """A slate for each history: see `types.Policy`."""
        batch, step = len(history.users), max(1, CHUNK // self.items)
        chosen = np.empty((batch, slots), np.int32)
        chances = np.empty((batch, slots)) if propensities else None
        for start in range(0, batch, step):
            part = slice(start, start + step)
            scores = self.scores(_rows_of(history, part), rng)
            forbidden = _forbidden(scores.shape, part, allowed, exclude)
            chosen[part] = _best(scores, forbidden, slots)
            if chances is not None:
                chances[part] = self.chances((~forbidden).sum(axis=1), slots, rng)
        return _slate(chosen, chances)

    def scored(
        self, history: History, *, allowed: Allowed = None, exclude: Exclude = None
    ) -> Float64[Tensor, "batch items"]:
        """The score of every item; minus infinity where it is not permitted."""
        values = self.scores(history, None)
        scores = torch.from_numpy(values if values.flags.writeable else values.copy())
        forbid(scores, slice(0, len(scores)), allowed, exclude)
        return scores

    @abstractmethod
    def scores(self, history: History, rng: np.random.Generator | None) -> Float64[np.ndarray, "batch items"]:
        """The worth of every item to each history, finite; of the caller, unless it is read-only."""

    def chances(
        self, permitted: Int[np.ndarray, "batch"], slots: int, rng: np.random.Generator | None
    ) -> Float64[np.ndarray, "batch slots"]:
        """The propensity of each step, given how many items are permitted: a ranking is certain."""
        return np.ones((len(permitted), slots))


class RandomItem(Ranking):
    """Any permitted item, uniformly and without replacement; without `rng`, the first ones."""

    def __init__(self, items: int) -> None:
        self.items = items

    def scores(self, history: History, rng: np.random.Generator | None) -> Float64[np.ndarray, "batch items"]:
        """A random order."""
        shape = (len(history.users), self.items)
        return np.zeros(shape) if rng is None else rng.random(shape)

    def chances(
        self, permitted: Int[np.ndarray, "batch"], slots: int, rng: np.random.Generator | None
    ) -> Float64[np.ndarray, "batch slots"]:
        """One in as many as are left."""
        left = np.maximum(permitted[:, None] - np.arange(slots), 1)
        return np.ones(left.shape) if rng is None else 1 / left


class Popular(Ranking):
    """The items with the most training events."""

    def __init__(self, counts: Int64[np.ndarray, "items"]) -> None:
        """`counts`: how many training events each item has."""
        self.counts, self.items = counts.astype(np.float64), len(counts)

    def scores(self, history: History, rng: np.random.Generator | None) -> Float64[np.ndarray, "batch items"]:
        """Their number, for everybody."""
        return np.broadcast_to(self.counts, (len(history.users), self.items))


class Steer(Ranking):
    """The items that bring the spread of the sample nearest to that of the typical user."""

    def __init__(self, sampling: Sampling, typical: float) -> None:
        """`typical` is the mean sigma of the training users: all that this rule knows of anybody."""
        self.sampling, self.typical, self.items = sampling, typical, len(sampling.vectors)

    def scores(self, history: History, rng: np.random.Generator | None) -> Float64[np.ndarray, "batch items"]:
        """How near the spread comes, negative."""
        return -np.abs(self.sampling.grown(history) - self.typical)


class Oracle(Ranking):
    """The items of the highest reward, by one who knows each user's sigma. It is no rival: nothing can beat it."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling, self.items = sampling, len(sampling.vectors)

    def scores(self, history: History, rng: np.random.Generator | None) -> Float64[np.ndarray, "batch items"]:
        """How near the spread comes to the user's own, negative: it falls and rises with the reward."""
        sigma = np.nan_to_num(history.sigma.astype(np.float64))
        return -np.abs(self.sampling.grown(history) - sigma[:, None])


class NearestMean:
    """The items nearest to the mean of the sample."""

    def __init__(self, sampling: Sampling, box: Box | None = None) -> None:
        """`box` is an index over the same vectors, where there is one already."""
        self.sampling, self.box = sampling, box or Box(sampling.vectors)

    def act(
        self,
        history: History,
        slots: int = 1,
        rng: np.random.Generator | None = None,
        *,
        allowed: Allowed = None,
        exclude: Exclude = None,
        propensities: bool = False,
    ) -> Slate:
        """A slate for each history: see `types.Policy`."""
        points = self.sampling.mean(history)
        chosen = self.box.nearest(points, slots, allowed=allowed, exclude=exclude)
        return _slate(chosen, np.ones(chosen.shape) if propensities else None)


class TrueNext:
    """What the user really chose; nothing where that is not permitted. It knows windows alone, and one item of each."""

    def __init__(self, following: Mapping[int, Int32[np.ndarray, "windows"]]) -> None:
        """`following` holds, for each length, the items that followed the windows, in their order."""
        self.following = following

    def act(
        self,
        history: History,
        slots: int = 1,
        rng: np.random.Generator | None = None,
        *,
        allowed: Allowed = None,
        exclude: Exclude = None,
        propensities: bool = False,
    ) -> Slate:
        """A slate of one item for each of the windows, however many slots are asked for."""
        chosen = self.following[history.items.shape[1]]
        if len(chosen) != len(history.users):
            raise ValueError(
                f"{len(history.users)} histories are not the {len(chosen)} windows whose next items are known"
            )
        banned = np.zeros(len(chosen), np.bool_)
        if allowed is not None:
            banned |= ~np.broadcast_to(allowed, (len(chosen), allowed.shape[-1]))[np.arange(len(chosen)), chosen]
        if exclude is not None:
            banned |= (exclude == chosen[:, None]).any(axis=1)
        chosen = np.where(banned, -1, chosen).astype(np.int32)[:, None]
        return _slate(chosen, np.ones(chosen.shape) if propensities else None)


def _rows_of(history: History, part: slice) -> History:
    """Some rows of a batch of histories."""
    return History(
        history.users[part],
        history.items[part],
        history.lengths[part],
        history.rewards[part],
        history.context[part],
        history.sigma[part],
    )


def _forbidden(
    shape: tuple[int, int], part: slice, allowed: Allowed, exclude: Exclude
) -> Bool[np.ndarray, "rows items"]:
    """The items that some rows may not have."""
    forbidden = np.zeros(shape, np.bool_)
    if allowed is not None:
        forbidden |= ~(allowed[part] if allowed.ndim == 2 else allowed)
    if exclude is not None:
        rows, columns = np.nonzero(exclude[part] >= 0)
        forbidden[rows, exclude[part][rows, columns]] = True
    return forbidden


def _best(
    scores: Float64[np.ndarray, "rows items"], forbidden: Bool[np.ndarray, "rows items"], slots: int
) -> Int32[np.ndarray, "rows slots"]:
    """The permitted items of the highest scores, best first; -1 where there are no more."""
    left, rows = np.where(forbidden, -np.inf, scores), np.arange(len(scores))
    chosen = np.empty((len(scores), slots), np.int32)
    for slot in range(slots):
        best = left.argmax(axis=1)  # the lowest among equals
        chosen[:, slot] = np.where(np.isneginf(left[rows, best]), -1, best)
        left[rows, best] = -np.inf
    return chosen


def _slate(chosen: Int32[np.ndarray, "batch slots"], chances: Float64[np.ndarray, "batch slots"] | None) -> Slate:
    """A slate in which nothing is a fallback; where there was no item, there is no propensity either."""
    if chances is not None:
        chances = np.where(chosen < 0, np.nan, chances)
    return Slate(chosen, chances, np.zeros(chosen.shape, np.bool_))
