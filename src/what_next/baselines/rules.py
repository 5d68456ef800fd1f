"""Policies that learn nothing: simple rules to beat, and oracles as upper bounds."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from jaxtyping import Float64, Int, Int32
from torch import Tensor

from what_next.errors import SetupError
from what_next.metrics.windows import Sampling
from what_next.retrieval import Box, choosing
from what_next.types import Greedy, History, Permitted, Random, Request, Sampler, Slate, Softmax

CHUNK = 2**23
"""Scores computed at a time: 64 MB."""
FIELDS = ("items", "propensities", "scores")


class Rule(ABC):
    """A policy whose states are the histories themselves."""

    sampler: Sampler = Greedy()

    def states(self, history: History) -> History:
        """See `types.Policy.states`."""
        return history

    @abstractmethod
    def act(self, states: History, request: Request, rng: Random = None) -> Slate:
        """See `types.Policy.act`."""

    def propensities(
        self, states: History, request: Request, slates: Int32[np.ndarray, "batch slots"]
    ) -> Float64[np.ndarray, "batch slots"]:
        """See `types.Policy.propensities`: the default is that of a deterministic policy, whatever the sampler."""
        certain = self.act(states, request).items
        width = min(slates.shape[1], certain.shape[1])
        same = np.zeros(slates.shape)
        same[:, :width] = slates[:, :width] == certain[:, :width]
        return np.where(slates < 0, np.nan, same)


class Ranking(Rule):
    """A policy that has a score for every item."""

    items: int
    """How many items there are."""

    @abstractmethod
    def worth(self, history: History) -> Float64[np.ndarray, "batch items"]:
        """The score of every item for each history, finite; the caller may overwrite it unless it is read-only."""

    def act(self, states: History, request: Request, rng: Random = None) -> Slate:
        """See `types.Policy.act`."""
        parts, step = [], max(1, CHUNK // self.items)
        for start in range(0, len(states.users), step):
            rows = np.arange(start, min(start + step, len(states.users)))
            own, part = request.rows(rows), states.rows(slice(start, start + step))
            mine = rng if rng is None or isinstance(rng, np.random.Generator) else [rng[row] for row in rows.tolist()]
            parts.append(choosing.choose(self.scores(part, own.permitted), own, mine))
        parts = parts or [choosing.nothing(0, request.width)]
        items, chances, scores = (np.concatenate([getattr(one, name) for one in parts]) for name in FIELDS)
        return Slate(items, chances, scores)

    def scores(self, states: History, permitted: Permitted) -> Float64[Tensor, "batch items"]:
        """The score of every item; minus infinity for items that are not permitted.

        Raises:
            SetupError: `worth` breaks its contract.
        """
        values, name = self.worth(states), type(self).__name__
        if values.shape != (shape := (len(states.users), self.items)):
            raise SetupError(f"the policy {name}: worth gives scores of shape {values.shape}; expected {shape}")
        if np.isnan(values.max(initial=0.0)):
            raise SetupError(f"the policy {name}: worth gives a score that is not a number (NaN)")
        scores = torch.from_numpy(values if values.flags.writeable else values.copy())
        permitted.forbid(scores)
        return scores

    def chances(
        self, states: History, request: Request, slates: Int32[np.ndarray, "batch slots"]
    ) -> Iterator[Float64[np.ndarray, "batch items"]]:
        """For each slot, the probability of every item, given the slates' items in the slots above."""
        return choosing.chances(self.scores(states, request.permitted), request, slates)

    def propensities(
        self, states: History, request: Request, slates: Int32[np.ndarray, "batch slots"]
    ) -> Float64[np.ndarray, "batch slots"]:
        """See `types.Policy.propensities`."""
        return choosing.of_slates(self.chances(states, request, slates), slates)


class RandomItem(Ranking):
    """Any permitted item, uniformly and without replacement."""

    sampler: Sampler = Softmax()

    def __init__(self, items: int) -> None:
        self.items = items

    def worth(self, history: History) -> Float64[np.ndarray, "batch items"]:
        """The same score for all items."""
        return np.zeros((len(history.users), self.items))


class Popular(Ranking):
    """The items with the most events; at temperature 1 an item is drawn in proportion to its events plus one."""

    def __init__(self, counts: Int[np.ndarray, "items"]) -> None:
        """`counts`: how many events each item has."""
        self.counts, self.items, self.logs = counts, len(counts), np.log1p(counts)

    def worth(self, history: History) -> Float64[np.ndarray, "batch items"]:
        """The logarithm of the events plus one, the same for every history."""
        return np.broadcast_to(self.logs, (len(history.users), self.items))


class Steer(Ranking):
    """The items that bring the spread of the sample nearest to sigma of the typical user."""

    def __init__(self, sampling: Sampling, typical: float) -> None:
        """`typical`: the mean sigma of the training users; this rule knows no other."""
        self.sampling, self.typical, self.items = sampling, typical, len(sampling.vectors)

    def worth(self, history: History) -> Float64[np.ndarray, "batch items"]:
        """The negative distance of the spread from `typical`."""
        return -np.abs(self.sampling.with_each_item(history) - self.typical)


class Oracle(Ranking):
    """The items of the highest spread reward, from each user's true sigma: an upper bound, which no policy can beat."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling, self.items = sampling, len(sampling.vectors)

    def worth(self, history: History) -> Float64[np.ndarray, "batch items"]:
        """The negative distance of the spread from the user's own sigma, which ranks items as the reward does."""
        sigma = np.nan_to_num(history.sigma.astype(np.float64))
        return -np.abs(self.sampling.with_each_item(history) - sigma[:, None])


class NearestMean(Rule):
    """The items nearest to the mean of the sample."""

    def __init__(self, sampling: Sampling, box: Box | None = None) -> None:
        """`box`: an existing index over the same vectors, if there is one."""
        self.sampling, self.box = sampling, box or Box(sampling.vectors)

    def act(self, states: History, request: Request, rng: Random = None) -> Slate:
        """See `types.Policy.act`."""
        return _certain(self.box.nearest(self.sampling.mean(states), request.width, permitted=request.permitted))


class TrueNext(Rule):
    """The item that the user really chose; none where it is not permitted. It answers for windows only, with one
    item."""

    def __init__(self, following: Mapping[int, Int32[np.ndarray, "windows"]]) -> None:
        """`following`: for each window length, the items that followed the windows, in their order."""
        self.following = following

    def act(self, states: History, request: Request, rng: Random = None) -> Slate:
        """One item for each window, whatever the number of slots."""
        chosen = self.following[states.items.shape[1]]
        if len(chosen) != len(states.users):
            raise ValueError(
                f"{len(states.users)} histories are not the {len(chosen)} windows whose next items are known"
            )
        named = chosen[:, None].astype(np.int32)
        return _certain(np.where(request.permitted.allow(named), named, np.int32(-1)))


def _certain(chosen: Int32[np.ndarray, "batch slots"]) -> Slate:
    """A slate with propensity 1 and no fallbacks."""
    return Slate(chosen, np.where(chosen < 0, np.nan, 1.0), fallback=np.zeros(chosen.shape, np.bool_))
