"""Exact search: all items scored by `<point, item>` plus boosts, some thousand items at a time."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from threading import get_ident

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int32, Int64
from torch import Tensor

from what_next.retrieval import choosing
from what_next.retrieval.choosing import BLOCK, Dense, Scores, fill, nothing
from what_next.types import Boosts, ItemSet, Permitted, Product, Random, Ranked, Request

Points = Float32[np.ndarray, "batch dim"]
Array = np.ndarray | Tensor

WIDTH = 2**13
"""Items scored at a time: fewer need more calls, more overflow the caches (measured with 8 to 128 rows)."""
ROWS = 2**24
"""Scores kept at a time: 64 MB."""
NARROW = 8
"""If fewer than 1 / NARROW of the items are permitted, only these are scored."""


class ByScore(ABC):
    """A backend for which every item has a score.

    Attributes:
        items: the number of items.
    """

    items: int

    @abstractmethod
    def act(self, points: Points, request: Request, rng: Random) -> Product:
        """A slate for each point."""

    @abstractmethod
    def scores(self, points: Points, request: Request) -> Float[Tensor, "batch items"]:
        """The score of every item; minus infinity if it is forbidden or is not a candidate."""

    def chances(
        self, points: Points, request: Request, slates: Int32[np.ndarray, "batch slots"]
    ) -> Iterator[Float64[np.ndarray, "batch items"]]:
        """For each slot, the chance of every item to be chosen by `act` given the slate's items above it."""
        return choosing.chances(self.scores(points, request), request, slates)


class Table:
    """Item vectors, with layouts and bounds that are computed once for all searches."""

    def __init__(self, vectors: Float[Tensor, "items dim"]) -> None:
        self.vectors, self.made_of = vectors.detach(), vectors
        self.memory: dict[int, Tensor] = {}
        """Per thread, the score buffer that its calls reuse."""

    @cached_property
    def parts(self) -> Float[Tensor, "parts dim width"]:
        """The vectors laid out for `Exact.act`; this doubles their memory."""
        count, dim = self.vectors.shape
        parts = max(1, -(-count // WIDTH))
        width = max(1, -(-count // (parts * BLOCK))) * BLOCK
        padded = self.vectors.new_zeros(parts * width, dim, dtype=torch.float32)
        padded[:count] = self.vectors
        return padded.view(parts, width, -1).transpose(1, 2).contiguous()

    @cached_property
    def array(self) -> Float32[np.ndarray, "items dim"]:
        """The vectors in main memory, without a copy if they are there already."""
        return self.vectors.float().cpu().numpy()

    @cached_property
    def longest(self) -> float:
        """The length of the longest vector."""
        return float(self.vectors.norm(dim=1).max())


class Exact(ByScore):
    """Exact search over all items."""

    def __init__(self, vectors: Float[Tensor, "items dim"] | Table, boosts: Boosts | None = None) -> None:
        """`boosts`: one row for each row of the points that will be passed in."""
        self.table = vectors if isinstance(vectors, Table) else Table(vectors)
        self.vectors, self.items, self.boosts = self.table.vectors, len(self.table.vectors), boosts

    def act(self, points: Points, request: Request, rng: Random) -> Product:
        """See `ByScore.act`. If few items are permitted, only these are scored."""
        found = nothing(len(points), request.width)
        self.fill(found, np.arange(len(points)), points, request, rng)
        return found

    def fill(
        self, found: Product, rows: Int64[np.ndarray, "some"], points: Points, request: Request, rng: Random
    ) -> None:
        """Fill the slates of some rows of a batch."""
        choosing.check_finite(points)
        permitted = request.permitted
        narrow = np.array([self._narrow(some) for some in permitted.rows(rows).sets], np.bool_)
        narrow = np.broadcast_to(narrow if len(narrow) else np.False_, len(rows))  # one set, or none, is for all rows

        def scores_of(some: Int64[np.ndarray, "chunk"]) -> _Laid:
            return _Laid(self.table, points[some], permitted.rows(some), self.boosts and self.boosts.rows(some))

        most = 1 if narrow.all() else max(1, ROWS // (self.table.parts.shape[0] * self.table.parts.shape[2]))
        fill(found, rows[~narrow], request, rng, scores_of, lambda row: permitted.of_row(row, self.items), most)
        if narrow.any():
            some = rows[narrow]
            sets = [(row, one.places) for row in some.tolist() if (one := permitted.set_of(row)) is not None]
            left = [left_of(places, permitted, row) for row, places in sets]
            self.among(found, some, points, left, request, rng)

    def _narrow(self, some: ItemSet | None) -> bool:
        return some is not None and NARROW * len(some.places) < self.items

    def among(
        self,
        found: Product,
        rows: Int64[np.ndarray, "some"],
        points: Points,
        left: Sequence[Int32[np.ndarray, "..."]],
        request: Request,
        rng: Random,
    ) -> None:
        """Fill the slates of some rows from each row's own permitted items (`left`, ascending)."""
        ids = np.full((len(rows), max(map(len, left), default=0)), -1)
        scores = torch.full(ids.shape, -torch.inf)
        for place, (row, items) in enumerate(zip(rows.tolist(), left, strict=True)):
            ids[place, : len(items)] = items
            vectors = self.vectors[torch.from_numpy(items.astype(np.int64)).to(self.vectors.device)]
            scores[place, : len(items)] = vectors @ torch.from_numpy(points[row]).to(vectors)
            if self.boosts is not None:
                scores[place, : len(items)] += torch.from_numpy(self.boosts.among(row, items))
        where = {row: place for place, row in enumerate(rows.tolist())}

        def scores_of(some: Int64[np.ndarray, "chunk"]) -> Dense:
            return Dense(scores[[where[row] for row in some.tolist()]])

        fill(found, rows, request, rng, scores_of, lambda row: ids[where[row]] >= 0)
        columns = found.items[rows]
        if ids.shape[1]:
            found.items[rows] = np.where(columns < 0, -1, np.take_along_axis(ids, np.maximum(columns, 0), 1))

    def scores(self, points: Points, request: Request) -> Float[Tensor, "batch items"]:
        """See `ByScore.scores`."""
        scores = torch.from_numpy(points).to(self.vectors) @ self.vectors.T
        if self.boosts is not None:
            _add(scores, *_placed(self.boosts))
        request.permitted.forbid(scores)
        return scores


class _Laid(Scores):
    """Scores of all items, computed part by part."""

    def __init__(
        self, table: Table, points: Float32[np.ndarray, "rows dim"], permitted: Permitted, boosts: Boosts | None
    ) -> None:
        self.table, self.points, self.permitted, self.boosts = table, points, permitted, boosts
        self.shape = (table.parts.shape[0], len(points), table.parts.shape[2] // BLOCK)
        self.longest = float(np.linalg.norm(points, axis=1).max(initial=0)) * table.longest  # Cauchy and Schwarz
        if boosts is not None:
            self.longest += float(np.abs(boosts.amounts).sum(1).max(initial=0))

    def passed(self, scale: Float[np.ndarray, "rows"] | None) -> Iterator[Float32[Tensor, "rows blocks block"]]:
        """See `Scores.passed`."""
        table, parts = self.table, self.table.parts
        rows, (count, _, width) = len(self.points), parts.shape
        size, thread = count * rows * width, get_ident()
        if thread not in table.memory or len(table.memory[thread]) < size:
            table.memory[thread] = torch.empty(size)
        self.kept = table.memory[thread][:size].view(*self.shape, BLOCK)
        points = self.points if scale is None else (self.points / scale[:, None]).astype(np.float32)
        own = torch.from_numpy(np.ascontiguousarray(points)).to(parts)
        forbidden, boosted = self._forbidden(width, count), self._boosted(scale, width, count)
        for part in range(count):
            scores = self.kept[part].view(rows, width)
            if parts.is_cpu:
                torch.mm(own, parts[part], out=scores)
            else:
                scores.copy_(own @ parts[part])
            if boosted is not None:
                _add(scores, *boosted[part])
            self._forbid(scores, part * width, None if forbidden is None else forbidden[part])
            yield self.kept[part]

    def _forbid(self, scores: Float32[Tensor, "rows width"], start: int, forbidden: tuple[Tensor, ...] | None) -> None:
        end, items = start + scores.shape[1], len(self.table.vectors)
        for rows, mask in self.permitted.masks():
            here = torch.from_numpy(~mask[start:end])
            scores[rows, ..., : len(here)].masked_fill_(here, -torch.inf)
        if end > items:
            scores[:, max(0, items - start) :] = -torch.inf
        if forbidden is not None:
            scores[forbidden] = -torch.inf

    def _forbidden(self, width: int, parts: int) -> list[tuple[Tensor, ...]] | None:
        """For each part, the rows and columns of excluded items."""
        if self.permitted.without is None or not self.permitted.without.size:
            return None
        rows, places = np.nonzero(self.permitted.without >= 0)
        return _by_part(width, parts, rows, self.permitted.without[rows, places].astype(np.int64))

    def _boosted(
        self, scale: Float[np.ndarray, "rows"] | None, width: int, parts: int
    ) -> list[tuple[Tensor, ...]] | None:
        """For each part, the rows and columns of boosted items, and the amounts."""
        if self.boosts is None:
            return None
        rows, items, amounts = _placed(self.boosts)
        amounts = amounts if scale is None else (amounts / scale[rows]).astype(np.float32)
        return _by_part(width, parts, rows, items, amounts)

    def whole(self, row: int) -> Float64[np.ndarray, "columns"]:
        """See `Scores.whole`."""
        only = np.array([row])
        exact = Exact(self.table, self.boosts and self.boosts.rows(only))
        request = Request(permitted=self.permitted.rows(only))
        return exact.scores(self.points[only], request)[0].double().cpu().numpy()

    def values(self, columns: Int64[np.ndarray, "rows slots"]) -> Float32[np.ndarray, "rows slots"]:
        """See `Scores.values`."""
        some = self.table.array[np.maximum(columns, 0)]
        found = np.asarray(np.einsum("rsd,rd->rs", some, self.points), np.float32)
        return found if self.boosts is None else found + self.boosts.of(columns)


def _placed(boosts: Boosts) -> tuple[Int64[np.ndarray, "some"], Int64[np.ndarray, "some"], Float32[np.ndarray, "some"]]:
    """Rows, items and amounts of all boosts that are not 0."""
    rows, places = np.nonzero((boosts.items >= 0) & (boosts.amounts != 0))
    return rows, boosts.items[rows, places].astype(np.int64, copy=False), boosts.amounts[rows, places]


def _add(scores: Float[Tensor, "rows columns"], rows: Array, columns: Array, amounts: Array) -> None:
    """Add amounts to scores in place; repeated pairs add up. The scores must be contiguous."""
    rows, columns, amounts = (torch.as_tensor(one, device=scores.device) for one in (rows, columns, amounts))
    scores.view(-1).scatter_add_(0, rows * scores.shape[1] + columns, amounts.to(scores.dtype))


def _by_part(
    width: int, parts: int, rows: Int64[np.ndarray, "some"], items: Int64[np.ndarray, "some"], *more: np.ndarray
) -> list[tuple[Tensor, ...]]:
    """For each part of `width` items: the rows, the columns within the part, and the further values."""
    order = np.argsort(items, kind="stable")
    ends = np.searchsorted(items[order], np.arange(parts + 1) * width).tolist()
    found = []
    for part, (start, end) in enumerate(pairwise(ends)):
        some = order[start:end]
        one = rows[some], items[some] - part * width, *(each[some] for each in more)
        found.append(tuple(map(torch.from_numpy, one)))
    return found


class Rescored(ByScore):
    """Two stages: the best items by inner product, reranked by a more expensive score."""

    def __init__(self, exact: Exact, ranked: Ranked) -> None:
        """`ranked`: one row for each row of the points that will be passed in."""
        self.exact, self.ranked, self.items = exact, ranked, exact.items

    def act(self, points: Points, request: Request, rng: Random) -> Product:
        """See `ByScore.act`."""
        choosing.check_finite(points)
        return choosing.choose(self.scores(points, request), request, rng)

    @torch.no_grad()
    def scores(self, points: Points, request: Request) -> Float[Tensor, "batch items"]:
        """See `ByScore.scores`: the reranked items stay above all others, ordered by their new scores."""
        assert self.ranked.rescore is not None
        scores, count = self.exact.scores(points, request), min(self.ranked.rescored, self.items)
        step = max(1, ROWS // max(1, self.items, count * self.exact.vectors.shape[1]))
        for start in range(0, len(points), step):
            part = scores[start : start + step]
            best, candidates = part.topk(count)
            rows = torch.arange(start, start + len(part), device=part.device)
            again = self.ranked.rescore(candidates, rows).masked_fill(torch.isneginf(best), -torch.inf)
            if count < self.items:
                rest = part.scatter(1, candidates, -torch.inf).amax(1, keepdim=True)
                lowest = again.masked_fill(torch.isneginf(again), torch.inf).amin(1, keepdim=True)
                # Shift the items that were not rescored below all that were.
                part += torch.where(torch.isfinite(rest) & torch.isfinite(lowest), lowest - rest - 1, 0)
            part.scatter_(1, candidates, again)
        return scores


def left_of(items: Int32[np.ndarray, "known"], permitted: Permitted, row: int) -> Int32[np.ndarray, "left"]:
    """The items without those excluded for the row."""
    if permitted.without is None:
        return items
    return items[np.isin(items, permitted.without[row], invert=True)]
