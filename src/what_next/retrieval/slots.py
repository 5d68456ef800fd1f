"""Slates filled slot by slot: each chosen item lowers the scores of similar items in later slots."""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int32, Int64
from torch import Tensor

from what_next.retrieval import choosing
from what_next.retrieval.exact import ByScore, Exact
from what_next.types import Greedy, Product, Random, Request, Softmax

ROWS = 64
"""Slates made at a time: their scores stay in the processor's cache."""
SQUARE = 4096
"""Largest catalogue for which the similarity of all pairs is kept: 64 MB."""


class SlotBySlot(ByScore):
    """Exact search in which an item's score falls by the point's last entry times its similarity to each chosen item.

    The similarity (`likeness`) of two items is the inner product of their traits.
    """

    def __init__(self, exact: Exact, traits: Float[Tensor, "items traits"]) -> None:
        self.exact, self.traits, self.items = exact, traits, exact.items

    @cached_property
    def pairs(self) -> Float[Tensor, "items items"]:
        """The similarity of all pairs of items, for a catalogue of at most `SQUARE` items."""
        return self.traits @ self.traits.T

    def likeness(self, items: Int64[Tensor, "rows"]) -> Float[Tensor, "rows items"]:
        """The similarity of some items to all items."""
        return self.pairs[items] if self.items <= SQUARE else self.traits[items] @ self.traits.T

    @torch.no_grad()
    def act(self, points: Float32[np.ndarray, "batch dim"], request: Request, rng: Random) -> Product:
        """See `ByScore.act`."""
        choosing.check_finite(points)
        if isinstance(request.slots, int):
            if isinstance(request.sampler, Greedy):
                return self._alike(points, request, None)
            if isinstance(request.sampler, Softmax) and isinstance(rng, np.random.Generator):
                return self._alike(points, request, rng)
        found, slots = choosing.nothing(len(points), request.width), request.counts(np.arange(len(points)))
        scores = self.scores(points, request)
        weights = self.weights(points)
        for slot in range(request.width):
            asked = Request((slot < slots).astype(int).tolist(), request.sampler)
            one = choosing.choose(scores, asked, rng)
            for part in ("items", "propensities", "scores", "matches", "fallback"):
                getattr(found, part)[:, slot] = getattr(one, part)[:, 0]
            self._take(scores, points, found.items[:, slot], weights)
        return found

    def _alike(
        self, points: Float32[np.ndarray, "batch dim"], request: Request, rng: np.random.Generator | None
    ) -> Product:
        """Slates of rows with the same slots and sampler, some at a time: softmax draws by `rng`, or greedy if None."""
        found, rows = choosing.nothing(len(points), request.width), np.arange(len(points))
        assert found.propensities is not None
        assert found.scores is not None
        for start in range(0, len(points), ROWS):
            part = rows[start : start + ROWS]
            scores, places = self.scores(points[part], request.rows(part)), rows[: len(part)]
            weights = self.weights(points[part])
            for slot in range(request.width):
                here = scores.cpu().numpy()
                if rng is None:  # NumPy's argmax takes a tenth of PyTorch's time
                    items, chances = here.argmax(1), np.ones(len(part))
                else:
                    assert isinstance(request.sampler, Softmax)
                    items, chances = drawn(here, request.sampler.temperature, rng)
                own = here[places, items].copy()
                found.items[part, slot] = np.where(own > -np.inf, items, -1)
                found.scores[part, slot], found.propensities[part, slot] = own, chances
                self._take(scores, points[part], found.items[part, slot], weights)
        there = found.items >= 0
        found.scores[~there], found.propensities[~there] = np.nan, np.nan
        found.matches[:], found.fallback[:] = there, ~there
        return found

    @torch.no_grad()
    def scores(self, points: Float32[np.ndarray, "batch dim"], request: Request) -> Float[Tensor, "batch items"]:
        """See `ByScore.scores`: the scores of the first slot."""
        return self.exact.scores(points, request)

    @torch.no_grad()
    def chances(
        self, points: Float32[np.ndarray, "batch dim"], request: Request, slates: Int32[np.ndarray, "batch slots"]
    ) -> Iterator[Float64[np.ndarray, "batch items"]]:
        """See `ByScore.chances`."""
        scores, weights = self.scores(points, request), self.weights(points)
        for slot in range(slates.shape[1]):
            yield choosing.distribution(scores, request)
            self._take(scores, points, slates[:, slot], weights)

    def weights(self, points: Float32[np.ndarray, "batch dim"]) -> Float[Tensor, "batch items"] | None:
        """A weight per item, which multiplies similarities on both sides; None: all weights are 1."""
        return None

    def _take(
        self,
        scores: Float[Tensor, "batch items"],
        points: Float32[np.ndarray, "batch dim"],
        items: Int32[np.ndarray, "batch"],
        counts: Float[Tensor, "batch items"] | None,
    ) -> None:
        """Update the scores in place after each row took an item; a row with item -1 does not change."""
        there = items >= 0
        chosen = torch.from_numpy(np.where(there, items, 0).astype(np.int64)).to(scores.device)
        weights = torch.from_numpy(np.where(there, -points[:, -1], 0).astype(np.float32)).to(scores)
        if counts is None:
            scores.addcmul_(weights[:, None], self.likeness(chosen))
        else:
            own = counts.gather(1, chosen[:, None])
            scores.addcmul_(weights[:, None] * own * counts, self.likeness(chosen))
        rows = torch.from_numpy(np.flatnonzero(there)).to(scores.device)
        scores[rows, chosen[rows]] = -torch.inf


class Priced(SlotBySlot):
    """Scores are click probabilities times the value of a click minus the cost of its effects on the user's state.

    The score of item i is `p_i * (1 - <prices + a * numbers, e_i> - w * sum_j p_j <e_i, e_j>)` over the items j already
    in the slate. A click on i changes the user's state (`numbers`) by its effects e_i. Future value falls linearly in
    the numbers, by `prices`, and quadratically: `a` weighs their current values, `w` the changes by the slate itself. A
    point holds the vector whose inner products are the clicks' log odds, then numbers, prices, a and w.
    """

    def weights(self, points: Float32[np.ndarray, "batch dim"]) -> Float[Tensor, "batch items"]:
        """See `SlotBySlot.weights`: the click probabilities."""
        vectors = self.exact.vectors
        return (torch.from_numpy(points[:, : vectors.shape[1]]).to(vectors) @ vectors.T).sigmoid_()

    def scores(self, points: Float32[np.ndarray, "batch dim"], request: Request) -> Float[Tensor, "batch items"]:
        """See `SlotBySlot.scores`."""
        given = torch.from_numpy(points[:, self.exact.vectors.shape[1] :]).to(self.traits)
        numbers, prices = given[:, :-2].chunk(2, 1)
        found = self.weights(points) * (1 - torch.addcmul(prices, given[:, -2:-1], numbers) @ self.traits.T)
        request.permitted.forbid(found)
        return found


def drawn(
    scores: Float32[np.ndarray, "rows items"], temperature: float, rng: np.random.Generator
) -> tuple[Int64[np.ndarray, "rows"], Float64[np.ndarray, "rows"]]:
    """One item per row, drawn from the softmax of its scores, and its chance; an arbitrary item if none is left."""
    top = np.maximum(scores.max(1, keepdims=True), np.finfo(np.float32).min)
    sums = np.exp((scores - top) / temperature, dtype=np.float64).cumsum(1)
    total = sums[:, -1]
    items = np.minimum((sums <= (rng.random(len(scores)) * total)[:, None]).sum(1), scores.shape[1] - 1)
    rows = np.arange(len(scores))
    below = np.where(items > 0, sums[rows, items - 1], 0.0)
    return items, (sums[rows, items] - below) / np.maximum(total, np.finfo(np.float64).tiny)
