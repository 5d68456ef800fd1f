"""The items of the highest inner products in a large catalogue, without a look at most of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int32, Int64
from torch import Tensor

from what_next.errors import MissingExtraError
from what_next.retrieval.choosing import nothing
from what_next.retrieval.exact import ByScore, Exact, left_of
from what_next.types import EpsilonGreedy, Product, Random, Request

FEWEST = 10_000
"""Items below which every one is looked at: that takes no longer than a search."""
LISTS = 2
"""An index has so many lists for each root of the number of items: 2,000 for a million. More of them make a search
faster and building slower, both by less than their number."""
PROBES, SHARE = 96, 1 / 32
"""Lists that a search looks through, and the share of all lists where that is more: a third of 20,000 items, 5 % of a
million, 3 % of ten million."""
SAMPLE = 32
"""Vectors for each list from which the lists are learned, at most."""
ROUNDS = 8
"""Of k-means over them."""
SPARE = 4
"""One more candidate for so many that are asked for: half precision may misplace them, and all are scored anew."""
WIDTH = 16
"""Entries that the library multiplies at once: vectors are padded to a multiple, or it takes them one by one."""
LONGEST = 1000
"""One vector of so many, the longest ones, is looked at in every search."""
MOST = 1000
"""Times the length of the others that a vector may have in half precision, which has no numbers above 65,504."""
BLOCK = 2**16
"""Vectors that are put into lists at a time."""
ALONE = 2**30
"""Rows from which on the library would multiply matrices: never."""
CHUNK = 2**22
"""Entries of candidates' vectors at work at a time: 16 MB."""


@dataclass(frozen=True, eq=False)
class ApproximateIndex:
    """An inverted file (Sivic and Zisserman 2003; Jegou et al. 2011) for the highest inner products.

    Vectors are scaled to lengths of at most 1 and given one entry more, `sqrt(1 - |v|^2)`, which puts all of them on a
    sphere; there the nearest to a point, with a 0 for that entry, have its highest inner products (Bachrach et al.
    2014; Neyshabur and Srebro 2015, arXiv 1410.5518). So k-means on the sphere groups together what is found together,
    however unequal the lengths are: popular items have the longer vectors, and stand in most results. A search takes
    the lists whose centres are nearest, and one more with the longest vectors of all, scores their items in
    half precision, and the best of those again.

    Below `FEWEST` items, and for a row of which the lists hold too few, the search is exact.

    Attributes:
        vectors: of the items, as they were given; they are read in every search and must not be changed.
        threads: that a search may use. One query has one thread.
    """

    vectors: Float32[np.ndarray, "items dim"]
    threads: int
    lists: "Lists | None"

    @classmethod
    def of(cls, vectors: Float32[np.ndarray, "items dim"], *, seed: int = 0, threads: int = 1) -> "ApproximateIndex":
        """Build it; for the same vectors, seed and threads the same one.

        Args:
            vectors: of the items.
            seed: draws the vectors that lists are learned from, and their first centres.
            threads: for building and for searching. PyTorch's own number is left as it is.

        Raises:
            MissingExtraError: there are many items, and faiss is not installed.
            ValueError: a vector is not finite.
        """
        if not np.isfinite(_lengths(vectors)).all():  # a number of each item, where there may be ten million
            raise ValueError("item vectors must be finite")
        return cls(vectors, threads, Lists.of(vectors, seed, threads) if len(vectors) >= FEWEST else None)

    def search(self, points: Float32[np.ndarray, "batch dim"], count: int) -> Int32[np.ndarray, "batch count"]:
        """About the `count` items of the highest `<point, vector>`, best first, the lower item among equals.

        Args:
            points: what the vectors are multiplied with.
            count: of items for each point; -1 pads a row where there are not as many items.

        Raises:
            ValueError: a point is not finite.
        """
        if not np.isfinite(points).all():
            raise ValueError("points must be finite")
        if self.lists is None:
            return self._exact(points, count)
        items = np.empty((len(points), count), np.int32)
        pool = count + count // SPARE + 1
        step = max(1, CHUNK // (pool * self.vectors.shape[1]))
        for start in range(0, len(points), step):
            part = slice(start, start + step)
            candidates = self.lists.candidates(points[part], pool, self.threads)
            # By their true scores, the lower item among equals; -1 stays at the end.
            scores = np.einsum("rpd,rd->rp", self.vectors[candidates], points[part])
            scores[candidates < 0] = -np.inf
            items[part] = np.take_along_axis(candidates, np.lexsort((candidates, -scores)), 1)[:, :count]
        few = items[:, -1] < 0
        if few.any():
            items[few] = self._exact(points[few], count)
        return items

    def _exact(self, points: Float32[np.ndarray, "rows dim"], count: int) -> Int32[np.ndarray, "rows count"]:
        return self.exact.act(points, Request(count), None).items

    @cached_property
    def exact(self) -> Exact:
        """The search that looks at all items."""
        return Exact(torch.from_numpy(self.vectors))


@dataclass(frozen=True, eq=False)
class Lists:
    """The library's part of an index: centres of the lists on the sphere, and vectors in half precision by list."""

    centres: Any
    inverted: Any

    @classmethod
    def of(cls, vectors: Float32[np.ndarray, "items dim"], seed: int, threads: int) -> "Lists":
        """Learn the lists, and put every item in one."""
        faiss = _faiss()
        sphere, lists = Sphere.of(vectors), round(LISTS * len(vectors) ** 0.5)
        with _threads(faiss, threads, alone=False):
            centres = _centres(faiss, sphere, vectors, lists, seed)
            # The library would find lists by inner products too, which is what the sphere is there to avoid: it is
            # told which lists to use, and its own centres are never read.
            unread = faiss.IndexFlatIP(sphere.dim)
            unread.add(np.zeros((lists + 1, sphere.dim), np.float32))
            half = faiss.ScalarQuantizer.QT_fp16
            inverted = faiss.IndexIVFScalarQuantizer(
                unread, sphere.dim, lists + 1, half, faiss.METRIC_INNER_PRODUCT, False
            )
            inverted.train(unread.reconstruct_n())  # half precision learns nothing
            inverted.nprobe = min(max(PROBES, round(SHARE * lists)), lists) + 1
            blocks = [vectors[start : start + BLOCK] for start in range(0, len(vectors), BLOCK)]
            nearest = np.concatenate(
                [np.where(sphere.holds(one), centres.search(sphere.points(one), 1)[1][:, 0], lists) for one in blocks]
            )
            room = faiss.downcast_InvertedLists(inverted.invlists)
            for place, size in enumerate(np.bincount(nearest, minlength=lists + 1).tolist()):
                room.resize(place, size)  # a list that grew item by item would take up to twice the memory
                room.resize(place, 0)
            for start, block in zip(range(0, len(vectors), BLOCK), blocks, strict=True):
                rows, ids = np.ascontiguousarray(sphere.points(block)[:, :-1]), np.arange(start, start + len(block))
                inverted.add_core(len(rows), *map(faiss.swig_ptr, (rows, ids, nearest[start : start + len(block)])))
        return cls(centres, inverted)

    def candidates(
        self, points: Float32[np.ndarray, "rows dim"], pool: int, threads: int
    ) -> Int64[np.ndarray, "rows pool"]:
        """Items of the nearest lists, best first by their scores in half precision; -1 where there are no more."""
        sphere = np.zeros((len(points), self.centres.d), np.float32)
        lengths = _lengths(points)[:, None]
        sphere[:, : points.shape[1]] = points / np.where(lengths > 0, lengths, 1)
        with _threads(_faiss(), threads):
            distances, nearest = self.centres.search(sphere, self.inverted.nprobe - 1)
            distances, nearest = (np.pad(one, ((0, 0), (0, 1))) for one in (distances, nearest))
            nearest[:, -1] = self.inverted.nlist - 1  # of the longest vectors
            rows = np.ascontiguousarray(sphere[:, :-1])
            found: Int64[np.ndarray, rows_pool] = self.inverted.search_preassigned(rows, pool, nearest, distances)[1]
        return found


@dataclass(frozen=True)
class Sphere:
    """What puts vectors on a sphere of radius 1: the length that becomes 1, and the entries that they are padded to."""

    longest: float
    dim: int

    @classmethod
    def of(cls, vectors: Float32[np.ndarray, "items dim"]) -> "Sphere":
        """For all these vectors but the longest thousandth: beside a single giant the others would be one point."""
        lengths = np.sort(_lengths(vectors))
        longest = float(lengths[-1 - len(lengths) // LONGEST] or lengths[-1] or 1)
        return cls(longest, -(-vectors.shape[1] // WIDTH) * WIDTH)

    def points(self, vectors: Float32[np.ndarray, "rows dim"]) -> Float32[np.ndarray, "rows padded_dim_plus_1"]:
        """The vectors, scaled and padded, and the entry that gives each the length 1 (0 for a longer one)."""
        lengths = _lengths(vectors) / self.longest
        found = np.zeros((len(vectors), self.dim + 1), np.float32)
        found[:, : vectors.shape[1]] = vectors / (self.longest * np.maximum(1, lengths / MOST))[:, None]
        found[:, -1] = np.sqrt(np.maximum(0, 1 - lengths**2))
        return found

    def holds(self, vectors: Float32[np.ndarray, "rows dim"]) -> Bool[np.ndarray, "rows"]:
        """Which vectors are not too long for it."""
        return np.asarray(_lengths(vectors) <= self.longest)


class Approximate(ByScore):
    """A choice among the items that an index finds, those that came after it, and those with a boost.

    All items are looked at for a row with a set of permitted items, where a slate has to be the best of these; for one
    with random items, which are drawn from all; and where too few are found that are permitted.
    """

    def __init__(self, exact: Exact, index: ApproximateIndex, candidates: int) -> None:
        """`exact` holds the vectors of the index's items, or what became of them, and those of later ones."""
        self.exact, self.index, self.count, self.items = exact, index, candidates, exact.items

    def act(self, points: Float32[np.ndarray, "batch dim"], request: Request, rng: Random) -> Product:
        """See `ByScore.act`."""
        found, looked_at = nothing(len(points), request.width), self._looked_at(points, request)
        all_of_them = np.array([row for row in range(len(points)) if row not in looked_at], np.int64)
        if len(all_of_them):
            self.exact.fill(found, all_of_them, points, request, rng)
        if looked_at:
            left = [one for _, one in looked_at.values()]
            self.exact.among(found, np.array(list(looked_at), np.int64), points, left, request, rng)
        candidates = [looked_at[row][0] if row in looked_at else None for row in range(len(points))]
        return replace(found, candidates=candidates)

    def scores(self, points: Float32[np.ndarray, "batch dim"], request: Request) -> Float[Tensor, "batch items"]:
        """See `ByScore.scores`."""
        scores = self.exact.scores(points, request)
        for row, (items, _) in self._looked_at(points, request).items():
            others = torch.ones(self.items, dtype=torch.bool)
            others[torch.from_numpy(items.astype(np.int64))] = False
            scores[row].masked_fill_(others.to(scores.device), -torch.inf)
        return scores

    def _looked_at(
        self, points: Float32[np.ndarray, "batch dim"], request: Request
    ) -> dict[int, tuple[Int32[np.ndarray, "candidates"], Int32[np.ndarray, "left"]]]:
        """For each row that does not look at all items: its candidates, and those that it may be given; ascending."""
        permitted = request.permitted
        found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        free = [
            row
            for row in range(len(points))
            if permitted.set_of(row) is None
            and not isinstance(request.sampler_of(row), EpsilonGreedy)
            and np.isfinite(points[row]).all()
        ]
        later, boosts = np.arange(len(self.index.vectors), self.items, dtype=np.int32), self.exact.boosts
        for row, near in zip(free, self.index.search(points[free], self.count), strict=True) if free else ():
            items = np.sort(np.concatenate([near[near >= 0], later]))
            if boosts is not None:
                more = boosts.items[row][boosts.amounts[row] != 0]
                items = np.union1d(items, more[more >= 0]).astype(np.int32)
            if len(left := left_of(items, permitted, row)) >= request.slots_of(row):
                found[row] = items, left
        return found


def _centres(
    faiss: ModuleType, sphere: Sphere, vectors: Float32[np.ndarray, "items dim"], lists: int, seed: int
) -> Any:
    """The centres of the lists, by k-means over some of the vectors that the sphere holds."""
    fitting = np.flatnonzero(sphere.holds(vectors))
    some = np.random.default_rng(seed).choice(fitting, min(len(fitting), SAMPLE * lists), replace=False)
    means = faiss.Kmeans(sphere.dim + 1, lists, niter=ROUNDS, seed=seed, min_points_per_centroid=1)
    means.train(sphere.points(vectors[np.sort(some)]))
    centres = faiss.IndexFlatL2(sphere.dim + 1)
    centres.add(means.centroids)
    return centres


def _lengths(vectors: Float32[np.ndarray, "rows dim"]) -> Float64[np.ndarray, "rows"]:
    return np.asarray(np.sqrt(np.einsum("rd,rd->r", vectors, vectors, dtype=np.float64)))


def _faiss() -> ModuleType:
    """The library; imported here, since an exact search needs none."""
    try:
        import faiss
    except ImportError:
        raise MissingExtraError("faiss", "ann", "approximate search") from None
    return faiss


@contextmanager
def _threads(faiss: ModuleType, threads: int, alone: bool = True) -> Iterator[None]:
    """The library's settings, put back afterwards: where PyTorch was imported first, they share the number of threads.

    With `alone`, each row is compared by itself: a product of matrices rounds otherwise in another company of rows. To
    build, where the company is always the same, products take less than half of the time.
    """
    before, least = faiss.omp_get_max_threads(), faiss.cvar.distance_compute_blas_threshold
    faiss.omp_set_num_threads(threads)
    faiss.cvar.distance_compute_blas_threshold = ALONE if alone else least
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
        faiss.cvar.distance_compute_blas_threshold = least
