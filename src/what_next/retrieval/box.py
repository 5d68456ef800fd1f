"""From proposals to items: those in a box around a point, with one attribute relaxed, or else the nearest."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, Int32, Int64, UInt64

from what_next.retrieval import bits
from what_next.retrieval.bitmaps import RangeBitmaps
from what_next.retrieval.choosing import check_finite, explore, generator, mixed, nothing
from what_next.retrieval.nearest import Nearest
from what_next.retrieval.pool import INSIDE, Matches, Pool, Rule, chances, checked, choose, fewest, merged
from what_next.types import Permitted, Product, Random, Request, Score

CHUNK_WORDS = 2**20
"""Words of bit sets in work at a time."""
CHUNK_PAIRS = 2**21
"""Candidates unpacked from the bit sets at a time: some hundred MB even if every item matches."""

EVERYTHING = Permitted()


class Box:
    """An index over item vectors, built once.

    An item matches a proposal when every attribute lies within the tolerance. With `relax`, one attribute, drawn
    uniformly, may lie within `max(tolerance, relax / 2)`. The choice is uniform among the matches; without a match,
    among the nearest permitted items by Euclidean distance, ties included. The same code serves a thousand items and a
    million: bitmaps find candidates, a direct comparison decides, and a matrix product narrows down the nearest.
    """

    def __init__(self, vectors: Float32[np.ndarray, "items dim"]) -> None:
        if not len(vectors) or not np.isfinite(vectors).all():
            raise ValueError("item vectors must be finite, and at least one")
        self.columns = np.ascontiguousarray(vectors.T)
        self.bitmaps = RangeBitmaps(vectors)
        self.neighbours = Nearest(vectors)
        self.everything = bits.pack(np.ones((1, len(vectors)), np.bool_))

    def __len__(self) -> int:
        return int(self.columns.shape[1])

    def tolerances(self, points: Float32[np.ndarray, "batch dim"]) -> Float64[np.ndarray, "batch"]:
        """The smallest tolerance at which each point matches an item: the Chebyshev distance to the nearest item."""
        found = self._chebyshev(points, np.arange(len(points)), self.nearest(points)[:, 0])
        radii = np.repeat(found[:, None], points.shape[1], axis=1)  # an item outside this box is not nearer
        for part, words, _ in self.found(points, radii):
            rows, items, _ = self.matches(points[part], radii[part], 0.0, words)
            np.minimum.at(found[part], rows, self._chebyshev(points[part], rows, items))
        return found

    def _chebyshev(
        self, points: Float32[np.ndarray, "rows dim"], rows: Int[np.ndarray, "pairs"], items: Int[np.ndarray, "pairs"]
    ) -> Float64[np.ndarray, "pairs"]:
        """The smallest tolerance at which each item matches, under the same rounding as `matches`."""
        found = np.zeros(len(rows))
        for centre, value in zip(points.astype(np.float64).T[:, rows], self.columns[:, items], strict=True):
            radius = np.abs(value - centre)
            inside = (centre - radius <= value) & (value <= centre + radius)
            np.maximum(found, np.where(inside, radius, np.nextafter(radius, np.inf)), out=found)
        return found

    def nearest(
        self, points: Float32[np.ndarray, "batch dim"], count: int = 1, permitted: Permitted = EVERYTHING
    ) -> Int32[np.ndarray, "batch count"]:
        """The nearest permitted items; ties go to the lower item; padded with -1."""
        self.check(points)
        found = np.full((len(points), count), -1, np.int32)
        for part in self._chunks(len(points)):
            rows, items, distances = self.neighbours.search(points[part], count, self._permitted(part, permitted))
            order = np.lexsort((items, distances, rows))
            rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
            keep = rank < count
            found[part][rows[keep], rank[keep]] = items[order][keep]
        return found

    def found(
        self,
        points: Float32[np.ndarray, "batch dim"],
        radii: Float64[np.ndarray, "batch dim"],
        reach: float = 0.0,
        permitted: Permitted = EVERYTHING,
    ) -> Iterator[tuple[slice, UInt64[np.ndarray, "rows words"], UInt64[np.ndarray, "#rows words"]]]:
        """The candidates and the permitted items as bits, for some rows at a time."""
        for part in self._chunks(len(points)):
            these = self._permitted(part, permitted)
            words = self.bitmaps.box(points[part].astype(np.float64), radii[part], reach, these)
            for group in bits.groups(words, CHUNK_PAIRS):
                rows = slice(part.start + group.start, part.start + group.stop)
                yield rows, words[group], these if len(these) == 1 else these[group]

    def matches(
        self,
        points: Float32[np.ndarray, "rows dim"],
        radii: Float64[np.ndarray, "rows dim"],
        reach: float,
        words: UInt64[np.ndarray, "rows words"],
    ) -> Matches:
        """The candidates that lie in the boxes, by direct comparison."""
        rows, items = bits.members(words)
        place = np.full(len(rows), INSIDE)
        for attribute, exact in enumerate(self.bitmaps.exact):
            if exact and not reach:
                continue
            centre, radius = points[:, attribute].astype(np.float64), radii[:, attribute]
            value = self.columns[attribute, items]
            keep = within = ((centre - radius)[rows] <= value) & (value <= (centre + radius)[rows])
            if reach:  # the first attribute outside the tolerance is the one that must be relaxed
                keep = within | (
                    (place == INSIDE) & ((centre - reach)[rows] <= value) & (value <= (centre + reach)[rows])
                )
                place[~within] = attribute
            if not keep.all():
                rows, items, place = rows[keep], items[keep], place[keep]
        return rows, items, place

    def holds(
        self, points: Float32[np.ndarray, "pairs dim"], tolerance: float, items: Int[np.ndarray, "pairs"]
    ) -> Bool[np.ndarray, "pairs"]:
        """Whether an item lies in the box around a point, by the comparison of `matches`."""
        values, centres = self.columns[:, items].T, points.astype(np.float64)
        inside = (centres - tolerance <= values) & (values <= centres + tolerance)
        return np.asarray(inside.all(axis=1))

    def _permitted(self, part: slice, permitted: Permitted) -> UInt64[np.ndarray, "#rows words"]:
        """The permitted items of some rows, as bits; a single row if they are the same for all."""
        words = self.everything
        if permitted.sets:
            sets = permitted.sets[part] if len(permitted.sets) > 1 else permitted.sets
            if wrong := [len(one.mask) for one in sets if one is not None and len(one.mask) != len(self)]:
                raise ValueError(f"a mask of {wrong[0]} items for a catalogue of {len(self)}")
            words = bits.pack(np.stack([np.ones(len(self), np.bool_) if one is None else one.mask for one in sets]))
        if permitted.without is not None:
            if permitted.without.max(initial=-1) >= len(self):
                raise ValueError("an excluded item is unknown")
            words = np.broadcast_to(words, (part.stop - part.start, words.shape[1])).copy()
            bits.remove(words, permitted.without[part])
        return words

    def _chunks(self, batch: int) -> list[slice]:
        step = max(1, CHUNK_WORDS // self.everything.shape[1])
        return [slice(start, min(start + step, batch)) for start in range(0, batch, step)]

    def check(self, points: Float32[np.ndarray, "batch dim"], *limits: float) -> None:
        """Raise `NotFinite` for a point that is not finite; `ValueError` for a wrong shape or an invalid limit."""
        if points.ndim != 2 or points.shape[1] != len(self.columns):
            raise ValueError(f"proposals of shape {points.shape} for items of {len(self.columns)} attributes")
        check_finite(points)
        if not all(np.isfinite(limit) and limit >= 0 for limit in limits):
            raise ValueError("tolerance and relax must be finite and at least 0")


@dataclass(frozen=True, eq=False)
class Matching:
    """Items that match a point: the backend of an agent that has no scores.

    `Softmax` draws each item uniformly, or takes the best by `score` of several draws. `Greedy` takes the items in the
    box nearest first (not relaxed), then the others nearest first; ties go to the lower item; the propensity is 1.
    `EpsilonGreedy` explores from that slate: the best item left is the first of it that is not above.

    Attributes:
        box: the items; `tolerance`: half the side of the box.
        relax: the whole side for the relaxed attribute, which is drawn anew at each slot.
        score: of pairs (row of the batch, item). The best by score of `candidates` items wins: drawn without
            replacement or, for a greedy choice, the first in its order. None: the first item wins.
    """

    box: Box
    tolerance: float
    relax: float = 0.0
    score: Score | None = None
    candidates: int = 0

    def __post_init__(self) -> None:
        if (self.score is None) != (self.candidates == 0) or self.candidates < 0:
            raise ValueError("score and candidates (at least 1) go together")

    def act(self, points: Float32[np.ndarray, "batch dim"], request: Request, rng: Random) -> Product:
        """A slate of different items for each point, filled slot by slot.

        Raises:
            NotFinite: a proposal is not finite.
            ValueError: tolerance or relax is out of range.
        """
        self.box.check(points, self.tolerance, self.relax)
        found = nothing(len(points), request.width, scores=False, propensities=request.propensities)
        drawn = request.drawn(np.arange(len(points)))
        for rows, draws in ((np.flatnonzero(drawn), True), (np.flatnonzero(~drawn), False)):
            if not len(rows):
                continue
            own, some = request.rows(rows), self._of(rows)
            draw = some._draws(own, rows, rng, points.shape[1]) if draws else ()
            part = some._selected(points[rows], own, *draw)
            if not draws:
                told = np.empty(part.items.shape) if part.propensities is None else part.propensities
                before = part.items.copy()
                explore(part.items, told, rows, request, rng, lambda row: request.permitted.of_row(row, len(self.box)))
                other = np.nonzero(part.items != before)
                part.fallback[other] = ~self.box.holds(points[rows[other[0]]], self.tolerance, part.items[other])
            for name in ("items", "matches", "fallback", "propensities"):
                if (values := getattr(part, name)) is not None:
                    getattr(found, name)[rows] = values
        return found

    def chances(
        self, points: Float32[np.ndarray, "batch dim"], request: Request, slates: Int32[np.ndarray, "batch slots"]
    ) -> Iterator[Float64[np.ndarray, "batch items"]]:
        """For each slot, the chance of every item to be chosen by `act` given the slate's items above it.

        A row sums to 1, or to 0 if no item is left.
        """
        self.box.check(points, self.tolerance, self.relax)
        drawn = request.drawn(np.arange(len(points)))
        rows, others = np.flatnonzero(drawn), np.flatnonzero(~drawn)
        whole = Request(slates.shape[1], permitted=request.permitted.rows(others), propensities=False)
        order = self._of(others).act(points[others], whole, None).items if len(others) else slates[others]
        samplers = [request.sampler_of(row) for row in others.tolist()]
        for slot in range(slates.shape[1]):
            above = slates[:, :slot]
            left, found = request.but(above).permitted, np.zeros((len(points), len(self.box)))
            if len(rows):
                found[rows] = self._of(rows)._distribution(points[rows], left.rows(rows))
            if len(others):  # as in `explore`: the first of the greedy slate that is left
                taken = (order[:, :, None] == above[others, None]).any(2)
                best = order[np.arange(len(others)), taken.argmin(1)]
                found[others] = mixed(left.rows(others).mask(len(others), len(self.box)), best, samplers)
            yield found

    @property
    def _reach(self) -> float:
        return self.relax / 2 if self.relax / 2 > self.tolerance else 0.0

    def _of(self, rows: Int64[np.ndarray, "some"]) -> "Matching":
        """The same backend for some rows of the batch: `score` gets their row numbers in the batch."""
        score = self.score
        return self if score is None else replace(self, score=lambda pairs, items: score(rows[pairs], items))

    def _draws(
        self, request: Request, rows: Int64[np.ndarray, "rows"], rng: Random, dim: int
    ) -> tuple[Int64[np.ndarray, "rows slots"], Float64[np.ndarray, "rows slots candidates"]]:
        """The relaxed attribute of each slot, and uniform numbers for the candidates; from each row's own generator."""
        shape, count = (len(rows), request.width), max(1, self.candidates)
        attributes = np.zeros(shape, np.int64)
        if isinstance(rng, np.random.Generator):
            if self._reach:
                attributes = rng.integers(dim, size=shape)
            return attributes, rng.random((*shape, count))
        uniforms = np.zeros((*shape, count))
        counts = request.counts(np.arange(len(rows))).tolist()
        for place, (row, slots) in enumerate(zip(rows.tolist(), counts, strict=True)):
            own = generator(rng, row)
            attributes[place, :slots] = own.integers(dim, size=slots) if self._reach else 0
            uniforms[place, :slots] = own.random((slots, count))
        return attributes, uniforms

    def _selected(
        self,
        points: Float32[np.ndarray, "rows dim"],
        request: Request,
        attributes: Int64[np.ndarray, "rows slots"] | None = None,
        uniforms: Float64[np.ndarray, "rows slots candidates"] | None = None,
    ) -> Product:
        """The slates of some rows: drawn by the given uniform numbers, or greedy if these are None."""
        radii, reach = np.full(points.shape, self.tolerance, np.float64), 0.0 if uniforms is None else self._reach
        if attributes is None:
            attributes = np.zeros((len(points), request.width), np.int64)
        found = nothing(len(points), request.width, scores=False, propensities=request.propensities)
        if request.width == 1 and not request.propensities:  # only the drawn box is needed
            np.put_along_axis(radii, attributes, max(reach, self.tolerance), axis=1)
            attributes, reach = np.zeros_like(attributes), 0.0
        for part, rule, pool in self._pools(
            points, radii, reach, request.permitted, attributes, uniforms, request.propensities
        ):
            choose(pool, rule, found, part)
        beyond = np.arange(request.width) >= request.counts(np.arange(len(points)))[:, None]
        found.items[beyond], found.matches[beyond], found.fallback[beyond] = -1, 0, True
        if found.propensities is not None:
            found.propensities[beyond] = np.nan
        return found

    def _distribution(
        self, points: Float32[np.ndarray, "rows dim"], permitted: Permitted
    ) -> Float64[np.ndarray, "rows items"]:
        """The probability that each item is drawn first."""
        rows, radii = len(points), np.full(points.shape, self.tolerance, np.float64)
        found, first = np.zeros((rows, len(self.box))), (np.zeros((rows, 1), np.int64), np.zeros((rows, 1, 1)))
        for part, rule, pool in self._pools(points, radii, self._reach, permitted, *first, True):
            if len(pool.items):
                scores = None if rule.score is None else checked(rule.score(pool.rows, pool.items))
                found[part][pool.rows, pool.items] = chances(pool, rule, scores)
        return found

    def _pools(
        self,
        points: Float32[np.ndarray, "rows dim"],
        radii: Float64[np.ndarray, "rows dim"],
        reach: float,
        permitted: Permitted,
        attributes: Int64[np.ndarray, "rows slots"],
        uniforms: Float64[np.ndarray, "rows slots candidates"] | None,
        propensities: bool,
    ) -> Iterator[tuple[slice, Rule, Pool]]:
        """The pool to choose from and the rule of the choice, for some rows at a time."""
        for part, words, these in self.box.found(points, radii, reach, permitted):
            rule = Rule(
                attributes[part],
                None if uniforms is None else uniforms[part],
                max(1, self.candidates),
                self._of(np.arange(part.start, part.stop)).score,
                points.shape[1] if reach else 1,
            )
            matches = self.box.matches(points[part], radii[part], reach, words)
            yield part, rule, self._pool(points[part], matches, these, rule, propensities)

    def _pool(
        self,
        points: Float32[np.ndarray, "rows dim"],
        matches: Matches,
        permitted: UInt64[np.ndarray, "#rows words"],
        rule: Rule,
        propensities: bool,
    ) -> Pool:
        """The candidates of all slots: the matches, and the nearest items for rows whose matches may run out."""
        rows, items, place = matches
        greedy = rule.uniforms is None
        need = rule.attributes.shape[1] + (rule.candidates - 1 if greedy else 0)
        drawn = None if propensities else rule.attributes
        short = np.flatnonzero(fewest(rows, place, rule.averaged, len(points), drawn) < need)
        if len(short):
            mask = permitted if len(permitted) == 1 else permitted[short]
            near, near_items, _ = self.box.neighbours.search(points[short], need, mask)
            rows, items, place = merged(matches, short[near], near_items, len(self.box))
        distances = np.full(len(rows), np.inf)
        measured = np.flatnonzero(np.isin(rows, short) | greedy)
        distances[measured] = self.box.neighbours.distances(points, rows[measured], items[measured])
        if greedy:
            order = np.lexsort((items, distances, place != INSIDE, rows))
            items, place, distances = items[order], place[order], distances[order]
        offsets = np.searchsorted(rows, np.arange(len(points) + 1))
        return Pool(offsets, rows, items, place, distances, np.ones(len(rows), np.bool_))


def smallest_tolerance(
    vectors: Float32[np.ndarray, "items dim"], points: Float32[np.ndarray, "points dim"], share: float = 0.1
) -> float:
    """The smallest tolerance at which at most `share` of the points match no item.

    An order statistic of the Chebyshev distances from each point to its nearest item, without interpolation, so that
    some point's nearest item lies exactly on the border.

    Raises:
        ValueError: no points, or `share` is not in [0, 1).
    """
    if not len(points) or not 0 <= share < 1:
        raise ValueError(f"a tolerance needs points ({len(points)} given) and a share in [0, 1) ({share} given)")
    count = len(points)
    unmatched = max(number for number in range(count) if number / count <= share)
    return float(np.sort(Box(vectors).tolerances(points))[count - 1 - unmatched])
