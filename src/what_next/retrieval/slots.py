"""A slate slot by slot: each item that is chosen moves the point from which the next one is."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int32
from torch import Tensor

from what_next.errors import NotFinite
from what_next.retrieval import choosing
from what_next.retrieval.exact import ByScore, Exact
from what_next.types import Greedy, Product, Random, Request

ROWS = 64
"""Slates that are made at a time: their scores stay in the processor's cache."""

Following = Callable[[Float[Tensor, "batch dim"], Float[Tensor, "batch dim"]], Float[Tensor, "batch dim"]]


class SlotBySlot(ByScore):
    """Over all items, whose scores are others in each slot of a slate."""

    def __init__(self, exact: Exact, following: Following) -> None:
        """`following` makes the points of the next slot of those of this one, and of the chosen items' vectors."""
        self.exact, self.following, self.items = exact, following, exact.items

    @torch.no_grad()
    def act(self, points: Float32[np.ndarray, "batch dim"], request: Request, rng: Random) -> Product:
        """See `ByScore.act`."""
        if len(wrong := np.flatnonzero(~np.isfinite(points).all(1))):
            raise NotFinite(wrong.tolist())
        if isinstance(request.sampler, Greedy) and isinstance(request.slots, int):
            return self._best(points, request)
        found, slots = choosing.nothing(len(points), request.width), request.counts(np.arange(len(points)))
        assert found.propensities is not None
        assert found.scores is not None
        here = torch.from_numpy(points).to(self.exact.vectors)
        for slot in range(request.width):
            asked = Request((slot < slots).astype(int).tolist(), request.sampler)
            one = choosing.choose(self._left(here, request, found.items[:, :slot]), asked, rng)
            assert one.propensities is not None
            assert one.scores is not None
            for part in ("items", "propensities", "scores", "matches", "fallback"):
                getattr(found, part)[:, slot] = getattr(one, part)[:, 0]
            here = self._moved(here, found.items[:, slot])
        return found

    def _best(self, points: Float32[np.ndarray, "batch dim"], request: Request) -> Product:
        """Greedy slates, some rows at a time."""
        found, table = choosing.nothing(len(points), request.width), self.exact.vectors.T.contiguous()
        assert found.propensities is not None
        assert found.scores is not None
        for start in range(0, len(points), ROWS):
            part = slice(start, start + ROWS)
            here = torch.from_numpy(points[part]).to(table)
            barred = torch.zeros(len(here), self.items, dtype=here.dtype, device=here.device)
            request.permitted.rows(np.arange(len(points))[part]).forbid(barred)
            for slot in range(request.width):
                every = torch.addmm(barred, here, table)
                # On a processor, NumPy finds the largest of a row in a tenth of the time.
                items = torch.from_numpy(every.numpy().argmax(1)) if every.is_cpu else every.argmax(1)
                scores = every.gather(1, items[:, None])
                barred.scatter_(1, items[:, None], -torch.inf)
                found.items[part, slot] = torch.where(scores[:, 0] > -torch.inf, items, -1).cpu().numpy()
                found.scores[part, slot] = scores[:, 0].cpu().numpy()
                here = self.following(here, self.exact.vectors[items])
        there = found.items >= 0
        found.scores[~there], found.propensities[there] = np.nan, 1.0
        found.matches[:], found.fallback[:] = there, ~there
        return found

    @torch.no_grad()
    def scores(self, points: Float32[np.ndarray, "batch dim"], request: Request) -> Float[Tensor, "batch items"]:
        """See `ByScore.scores`: those of the first slot."""
        return self.exact.scores(points, request)

    @torch.no_grad()
    def chances(
        self, points: Float32[np.ndarray, "batch dim"], request: Request, slates: Int32[np.ndarray, "batch slots"]
    ) -> Iterator[Float64[np.ndarray, "batch items"]]:
        """See `ByScore.chances`."""
        here = torch.from_numpy(points).to(self.exact.vectors)
        for slot in range(slates.shape[1]):
            yield choosing.distribution(self._left(here, request, slates[:, :slot]), request)
            here = self._moved(here, slates[:, slot])

    def _left(
        self, points: Float[Tensor, "batch dim"], request: Request, chosen: Int32[np.ndarray, "batch slots"]
    ) -> Float[Tensor, "batch items"]:
        """Scores of the items that are left."""
        scores = points @ self.exact.vectors.T
        request.but(chosen).permitted.forbid(scores)
        return scores

    def _moved(
        self, points: Float[Tensor, "batch dim"], items: Int32[np.ndarray, "batch"]
    ) -> Float[Tensor, "batch dim"]:
        """The points of the next slot; a row without an item has none."""
        places = torch.from_numpy(np.maximum(items, 0).astype(np.int64)).to(points.device)
        return self.following(points, self.exact.vectors[places])
