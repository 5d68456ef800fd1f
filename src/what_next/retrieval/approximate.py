"""Approximate maximum inner product search: the top items of a large catalogue without scoring most of them."""

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
"""Smallest catalogue that gets lists: with fewer items, scoring all of them takes no longer than a search."""
LISTS = 2
"""An index has `LISTS * sqrt(items)` lists: 2,000 for a million items. More lists make a search faster and building
slower, both less than proportionally."""
PROBES, SHARE = 96, 1 / 32
"""A search reads `PROBES` lists, or this share of all lists if that is more: a third of 20,000 items, 5 % of a million,
3 % of ten million."""
SAMPLE = 32
"""Most training vectors per list for k-means."""
ROUNDS = 8
"""Iterations of k-means."""
SPARE = 4
"""One extra candidate per `SPARE` requested items, because half precision may misrank them; all are rescored."""
WIDTH = 16
"""SIMD width of the library: vectors are padded to a multiple, because it handles a remainder one entry at a time."""
LONGEST = 1000
"""The longest 1 / LONGEST of the vectors are read in every search."""
MOST = 1000
"""Largest scaled length of a vector, because half precision has no numbers above 65,504."""
BLOCK = 2**16
"""Vectors that are put into lists at a time."""
ALONE = 2**30
"""Batch size from which the library may use matrix products: never reached."""
CHUNK = 2**22
"""Entries of candidates' vectors in memory at a time: 16 MB."""


@dataclass(frozen=True, eq=False)
class ApproximateIndex:
    """An inverted file (Sivic and Zisserman 2003; Jegou et al. 2011) for the highest inner products.

    Vectors are scaled to lengths of at most 1 and get one more entry, `sqrt(1 - |v|^2)`, which puts them on a sphere.
    For a query with 0 in that entry, the nearest vectors on the sphere are those with the highest inner products
    (Bachrach et al. 2014; Neyshabur and Srebro 2015, arXiv 1410.5518). So k-means on the sphere makes good lists even
    if lengths are very unequal, as they are: popular items have longer vectors and are in most results. A search reads
    the lists with the nearest centres, and an extra list of the longest vectors, scores their items in half precision,
    and rescores the best of them in full precision.

    The search is exact with fewer than `FEWEST` items, and for a query whose lists hold too few items.

    Attributes:
        vectors: the item vectors as given; every search reads them, so they must not be changed.
        threads: for a search; a single query uses one thread.
    """

    vectors: Float32[np.ndarray, "items dim"]
    threads: int
    lists: "Lists | None"

    @classmethod
    def of(cls, vectors: Float32[np.ndarray, "items dim"], *, seed: int = 0, threads: int = 1) -> "ApproximateIndex":
        """Build the index; it is the same for the same vectors, seed and threads.

        Args:
            vectors: of the items.
            seed: of the k-means sample and its first centres.
            threads: for building and for searching. PyTorch's number of threads does not change.

        Raises:
            MissingExtraError: there are at least `FEWEST` items, and faiss is not installed.
            ValueError: a vector is not finite.
        """
        if not np.isfinite(_lengths(vectors)).all():  # one number per item, not a mask of all entries
            raise ValueError("item vectors must be finite")
        return cls(vectors, threads, Lists.of(vectors, seed, threads) if len(vectors) >= FEWEST else None)

    def search(self, points: Float32[np.ndarray, "batch dim"], count: int) -> Int32[np.ndarray, "batch count"]:
        """Approximately the `count` items with the highest `<point, vector>`, best first; ties go to the lower item.

        Args:
            points: the queries.
            count: items per query; -1 pads a row if there are fewer items.

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
            # Sort by exact score; ties go to the lower item, and -1 to the end.
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
        """Exact search over all items."""
        return Exact(torch.from_numpy(self.vectors))


@dataclass(frozen=True, eq=False)
class Lists:
    """The faiss part of an index: the lists' centres on the sphere, and the vectors in half precision by list."""

    centres: Any
    inverted: Any

    @classmethod
    def of(cls, vectors: Float32[np.ndarray, "items dim"], seed: int, threads: int) -> "Lists":
        """Learn the lists by k-means, and put every item in one."""
        faiss = _faiss()
        sphere, lists = Sphere.of(vectors), round(LISTS * len(vectors) ** 0.5)
        with _threads(faiss, threads, alone=False):
            centres = _centres(faiss, sphere, vectors, lists, seed)
            # faiss would choose lists by inner product, without the sphere. So each call passes the lists to use, and
            # the quantizer's own centres are never read.
            unread = faiss.IndexFlatIP(sphere.dim)
            unread.add(np.zeros((lists + 1, sphere.dim), np.float32))
            half = faiss.ScalarQuantizer.QT_fp16
            inverted = faiss.IndexIVFScalarQuantizer(
                unread, sphere.dim, lists + 1, half, faiss.METRIC_INNER_PRODUCT, False
            )
            inverted.train(unread.reconstruct_n())  # only sets a flag: half precision has nothing to learn
            inverted.nprobe = min(max(PROBES, round(SHARE * lists)), lists) + 1
            blocks = [vectors[start : start + BLOCK] for start in range(0, len(vectors), BLOCK)]
            nearest = np.concatenate(
                [np.where(sphere.holds(one), centres.search(sphere.points(one), 1)[1][:, 0], lists) for one in blocks]
            )
            room = faiss.downcast_InvertedLists(inverted.invlists)
            for place, size in enumerate(np.bincount(nearest, minlength=lists + 1).tolist()):
                room.resize(place, size)  # reserves memory: growing by appends takes up to twice as much
                room.resize(place, 0)
            for start, block in zip(range(0, len(vectors), BLOCK), blocks, strict=True):
                rows, ids = np.ascontiguousarray(sphere.points(block)[:, :-1]), np.arange(start, start + len(block))
                inverted.add_core(len(rows), *map(faiss.swig_ptr, (rows, ids, nearest[start : start + len(block)])))
        return cls(centres, inverted)

    def candidates(
        self, points: Float32[np.ndarray, "rows dim"], pool: int, threads: int
    ) -> Int64[np.ndarray, "rows pool"]:
        """Items of the nearest lists, best first by score in half precision; padded with -1."""
        sphere = np.zeros((len(points), self.centres.d), np.float32)
        lengths = _lengths(points)[:, None]
        sphere[:, : points.shape[1]] = points / np.where(lengths > 0, lengths, 1)
        with _threads(_faiss(), threads):
            distances, nearest = self.centres.search(sphere, self.inverted.nprobe - 1)
            distances, nearest = (np.pad(one, ((0, 0), (0, 1))) for one in (distances, nearest))
            nearest[:, -1] = self.inverted.nlist - 1  # the list of the longest vectors
            rows = np.ascontiguousarray(sphere[:, :-1])
            found: Int64[np.ndarray, rows_pool] = self.inverted.search_preassigned(rows, pool, nearest, distances)[1]
        return found


@dataclass(frozen=True)
class Sphere:
    """Maps vectors to a sphere of radius 1: `longest` is the length that becomes 1, `dim` the padded dimension."""

    longest: float
    dim: int

    @classmethod
    def of(cls, vectors: Float32[np.ndarray, "items dim"]) -> "Sphere":
        """Scaled for all vectors but the longest thousandth, because one giant would shrink the others to a point."""
        lengths = np.sort(_lengths(vectors))
        longest = float(lengths[-1 - len(lengths) // LONGEST] or lengths[-1] or 1)
        return cls(longest, -(-vectors.shape[1] // WIDTH) * WIDTH)

    def points(self, vectors: Float32[np.ndarray, "rows dim"]) -> Float32[np.ndarray, "rows padded_dim_plus_1"]:
        """The vectors, scaled and padded, with an entry that makes their length 1 (0 for a longer vector)."""
        lengths = _lengths(vectors) / self.longest
        found = np.zeros((len(vectors), self.dim + 1), np.float32)
        found[:, : vectors.shape[1]] = vectors / (self.longest * np.maximum(1, lengths / MOST))[:, None]
        found[:, -1] = np.sqrt(np.maximum(0, 1 - lengths**2))
        return found

    def holds(self, vectors: Float32[np.ndarray, "rows dim"]) -> Bool[np.ndarray, "rows"]:
        """Which vectors have at most the length `longest`."""
        return np.asarray(_lengths(vectors) <= self.longest)


class Approximate(ByScore):
    """Chooses among the items that an index finds, items added after the index was built, and boosted items.

    A row is searched exactly if it has a set of permitted items, because its slate must be the best of these; if it is
    epsilon-greedy, because random items are drawn from all; and if too few permitted items are found.
    """

    def __init__(self, exact: Exact, index: ApproximateIndex, candidates: int) -> None:
        """`exact` holds the current vectors of the index's items, and those of items added later."""
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
        """For each row that is searched approximately: its candidates, and the permitted ones of them; ascending."""
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
        slots = request.counts(np.arange(len(points)))
        for row, near in zip(free, self.index.search(points[free], self.count), strict=True) if free else ():
            items = np.sort(np.concatenate([near[near >= 0], later]))
            if boosts is not None:
                more = boosts.items[row][boosts.amounts[row] != 0]
                items = np.union1d(items, more[more >= 0]).astype(np.int32)
            if len(left := left_of(items, permitted, row)) >= slots[row]:
                found[row] = items, left
        return found


def _centres(
    faiss: ModuleType, sphere: Sphere, vectors: Float32[np.ndarray, "items dim"], lists: int, seed: int
) -> Any:
    """The centres of the lists: k-means over a sample of the vectors that the sphere holds."""
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
    """faiss, imported lazily because exact search does not need it."""
    try:
        import faiss
    except ImportError:
        raise MissingExtraError("faiss", "ann", "approximate search") from None
    return faiss


@contextmanager
def _threads(faiss: ModuleType, threads: int, alone: bool = True) -> Iterator[None]:
    """Set faiss's threads, and restore its settings afterwards: it may share the number of threads with PyTorch.

    With `alone`, each row is compared by itself, because the rounding of a matrix product depends on the other rows.
    Building always has the same rows, so it uses matrix products, which take less than half of the time.
    """
    before, least = faiss.omp_get_max_threads(), faiss.cvar.distance_compute_blas_threshold
    faiss.omp_set_num_threads(threads)
    faiss.cvar.distance_compute_blas_threshold = ALONE if alone else least
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
        faiss.cvar.distance_compute_blas_threshold = least
