"""From proposals to items: the box around a point, one attribute of it relaxed, and the nearest where it is empty."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, Int32, Int64, UInt64

from what_next.retrieval import bits
from what_next.retrieval.bitmaps import RangeBitmaps
from what_next.retrieval.choice import Rule, Selection, choose, first_chances
from what_next.retrieval.nearest import Nearest
from what_next.retrieval.pool import INSIDE, Matches, Pool, fewest, merged
from what_next.types import Score

CHUNK_WORDS = 2**20
"""Words of the sets at work at a time."""
CHUNK_PAIRS = 2**21
"""Candidates taken out of those sets at a time: bounds the memory at some hundred MB even where every item matches."""


class Box:
    """An index over item vectors, built once.

    An item matches a proposal when every attribute lies within the tolerance. With `relax`, one attribute, drawn
    uniformly, may lie within `max(tolerance, relax / 2)`. The choice is uniform among the matches; where there is none,
    among the nearest permitted items by Euclidean distance, ties included. One mechanism serves a thousand items and a
    million: bitmaps find the candidates, a direct comparison decides, a matrix product leads to the nearest.
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

    def select(
        self,
        points: Float32[np.ndarray, "batch dim"],
        *,
        tolerance: float,
        relax: float = 0.0,
        slots: int = 1,
        rng: np.random.Generator | None,
        allowed: Bool[np.ndarray, "items"] | Bool[np.ndarray, "batch items"] | None = None,
        exclude: Int32[np.ndarray, "batch width"] | None = None,
        propensities: bool = False,
        score: Score | None = None,
        candidates: int = 0,
    ) -> Selection:
        """Choose `slots` different items for each proposal, one step after the other.

        Args:
            points: the proposals, in the vectors' (standardised) units.
            tolerance: half the side of the box; `relax`: the whole side for the relaxed attribute, drawn anew at each
                step.
            slots: items per proposal. Those chosen are no longer permitted at the next step.
            rng: the draws; None is greedy, at propensity 1: the box's items nearest first (not relaxed), then the
                others nearest first, the lower item among equals.
            allowed: the permitted items, for all proposals or for each; `exclude`: items not permitted, -1 pads.
            propensities: whether to compute the exact probability of each step's choice.
            score: worth of pairs (row of the batch, item). The best of `candidates` items drawn without replacement
                from those above wins; with `rng=None`, of that many in the greedy order.

        Raises:
            ValueError: a proposal is not finite, or an argument is out of range.
        """
        self._check(points, tolerance, relax, slots=slots)
        if (score is None) != (candidates == 0) or candidates < 0:
            raise ValueError("score and candidates (at least 1) go together")
        batch, dim = points.shape
        radii = np.full((batch, dim), tolerance, np.float64)
        reach = relax / 2 if rng is not None and relax / 2 > tolerance else 0.0
        attributes = np.zeros((batch, slots), np.int64)
        if rng is not None and reach:
            attributes = rng.integers(dim, size=attributes.shape)
        uniforms = None if rng is None else rng.random((batch, slots, max(1, candidates)))
        if slots == 1 and not propensities:  # one box, the one that was drawn, is all that is needed
            np.put_along_axis(radii, attributes, max(reach, tolerance), axis=1)
            attributes, reach = np.zeros_like(attributes), 0.0
        outcome = Selection.nothing(batch, slots, propensities)
        for part, words, permitted in self._found(points, radii, reach, allowed, exclude):
            rule = Rule(
                attributes[part],
                None if uniforms is None else uniforms[part],
                max(1, candidates),
                score and _shifted(score, part.start),
                dim if reach else 1,
            )
            matches = self._matches(points[part], radii[part], reach, words)
            choose(self._pool(points[part], matches, permitted, rule, propensities), rule, outcome.part(part))
        return outcome

    def chances(
        self,
        points: Float32[np.ndarray, "batch dim"],
        *,
        tolerance: float,
        relax: float = 0.0,
        allowed: Bool[np.ndarray, "items"] | Bool[np.ndarray, "batch items"] | None = None,
        exclude: Int32[np.ndarray, "batch width"] | None = None,
        score: Score | None = None,
        candidates: int = 0,
    ) -> Float64[np.ndarray, "batch items"]:
        """The probability of every item to be the first that `select` draws; a row sums to 1, or 0 without items."""
        self._check(points, tolerance, relax)
        radii = np.full(points.shape, tolerance, np.float64)
        reach = relax / 2 if relax / 2 > tolerance else 0.0
        found = np.zeros((len(points), len(self)))
        for part, words, permitted in self._found(points, radii, reach, allowed, exclude):
            rows = part.stop - part.start
            scored, averaged = score and _shifted(score, part.start), points.shape[1] if reach else 1
            rule = Rule(np.zeros((rows, 1), np.int64), np.zeros((rows, 1, 1)), max(1, candidates), scored, averaged)
            matches = self._matches(points[part], radii[part], reach, words)
            first_chances(self._pool(points[part], matches, permitted, rule, True), rule, found[part])
        return found

    def match_counts(self, points: Float32[np.ndarray, "batch dim"], tolerance: float) -> Int64[np.ndarray, "batch"]:
        """How many items lie in the box around each point."""
        self._check(points, tolerance)
        counts = np.zeros(len(points), np.int64)
        radii = np.full(points.shape, tolerance, np.float64)
        for part, words, _ in self._found(points, radii):
            rows, _, _ = self._matches(points[part], radii[part], 0.0, words)
            counts[part] = np.bincount(rows, minlength=part.stop - part.start)
        return counts

    def tolerances(self, points: Float32[np.ndarray, "batch dim"]) -> Float64[np.ndarray, "batch"]:
        """The smallest tolerance at which each point matches an item: the Chebyshev distance to the nearest by it."""
        found = self._chebyshev(points, np.arange(len(points)), self.nearest(points)[:, 0])
        radii = np.repeat(found[:, None], points.shape[1], axis=1)  # no item outside this box is nearer
        for part, words, _ in self._found(points, radii):
            rows, items, _ = self._matches(points[part], radii[part], 0.0, words)
            np.minimum.at(found[part], rows, self._chebyshev(points[part], rows, items))
        return found

    def _chebyshev(
        self, points: Float32[np.ndarray, "rows dim"], rows: Int[np.ndarray, "pairs"], items: Int[np.ndarray, "pairs"]
    ) -> Float64[np.ndarray, "pairs"]:
        """The least tolerance that lets the item in, by the comparison that decides what matches."""
        found = np.zeros(len(rows))
        for centre, value in zip(points.astype(np.float64).T[:, rows], self.columns[:, items], strict=True):
            radius = np.abs(value - centre)
            inside = (centre - radius <= value) & (value <= centre + radius)
            np.maximum(found, np.where(inside, radius, np.nextafter(radius, np.inf)), out=found)
        return found

    def nearest(
        self,
        points: Float32[np.ndarray, "batch dim"],
        count: int = 1,
        *,
        allowed: Bool[np.ndarray, "items"] | Bool[np.ndarray, "batch items"] | None = None,
        exclude: Int32[np.ndarray, "batch width"] | None = None,
    ) -> Int32[np.ndarray, "batch count"]:
        """The nearest permitted items, the lower item among equals; -1 where there are no more."""
        self._check(points)
        found = np.full((len(points), count), -1, np.int32)
        for part in self._chunks(len(points)):
            rows, items, distances = self.neighbours.search(
                points[part], count, self._permitted(part, allowed, exclude)
            )
            order = np.lexsort((items, distances, rows))
            rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
            keep = rank < count
            found[part][rows[keep], rank[keep]] = items[order][keep]
        return found

    def _pool(
        self,
        points: Float32[np.ndarray, "rows dim"],
        matches: Matches,
        permitted: UInt64[np.ndarray, "#rows words"],
        rule: Rule,
        propensities: bool,
    ) -> Pool:
        """All that the steps may need: the matches, and the nearest items where those may run out."""
        rows, items, place = matches
        greedy = rule.uniforms is None
        need = rule.attributes.shape[1] + (rule.candidates - 1 if greedy else 0)
        drawn = None if propensities else rule.attributes
        short = np.flatnonzero(fewest(rows, place, rule.averaged, len(points), drawn) < need)
        if len(short):
            mask = permitted if len(permitted) == 1 else permitted[short]
            near, near_items, _ = self.neighbours.search(points[short], need, mask)
            rows, items, place = merged(matches, short[near], near_items, len(self))
        distances = np.full(len(rows), np.inf)
        measured = np.flatnonzero(np.isin(rows, short) | greedy)
        distances[measured] = self.neighbours.distances(points, rows[measured], items[measured])
        if greedy:
            order = np.lexsort((items, distances, place != INSIDE, rows))
            items, place, distances = items[order], place[order], distances[order]
        offsets = np.searchsorted(rows, np.arange(len(points) + 1))
        return Pool(offsets, rows, items, place, distances, np.ones(len(rows), np.bool_))

    def _found(
        self,
        points: Float32[np.ndarray, "batch dim"],
        radii: Float64[np.ndarray, "batch dim"],
        reach: float = 0.0,
        allowed: Bool[np.ndarray, "items"] | Bool[np.ndarray, "batch items"] | None = None,
        exclude: Int32[np.ndarray, "batch width"] | None = None,
    ) -> Iterator[tuple[slice, UInt64[np.ndarray, "rows words"], UInt64[np.ndarray, "#rows words"]]]:
        """The candidates and the permitted items of some rows at a time, as bits."""
        for part in self._chunks(len(points)):
            permitted = self._permitted(part, allowed, exclude)
            words = self.bitmaps.box(points[part].astype(np.float64), radii[part], reach, permitted)
            for group in bits.groups(words, CHUNK_PAIRS):
                rows = slice(part.start + group.start, part.start + group.stop)
                yield rows, words[group], permitted if len(permitted) == 1 else permitted[group]

    def _matches(
        self,
        points: Float32[np.ndarray, "rows dim"],
        radii: Float64[np.ndarray, "rows dim"],
        reach: float,
        words: UInt64[np.ndarray, "rows words"],
    ) -> Matches:
        """Those of the candidates that really lie in the boxes."""
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

    def _permitted(
        self,
        part: slice,
        allowed: Bool[np.ndarray, "items"] | Bool[np.ndarray, "batch items"] | None,
        exclude: Int32[np.ndarray, "batch width"] | None,
    ) -> UInt64[np.ndarray, "#rows words"]:
        """The permitted items of some rows, as bits; one row where they are the same for all."""
        words = self.everything
        if allowed is not None:
            if allowed.shape[-1] != len(self):
                raise ValueError(f"a mask of {allowed.shape[-1]} items for a catalogue of {len(self)}")
            words = bits.pack(allowed[part] if allowed.ndim == 2 else allowed[None])
        if exclude is not None:
            if exclude.max(initial=-1) >= len(self):
                raise ValueError("an excluded item is unknown")
            words = np.broadcast_to(words, (part.stop - part.start, words.shape[1])).copy()
            bits.remove(words, exclude[part])
        return words

    def _chunks(self, batch: int) -> list[slice]:
        step = max(1, CHUNK_WORDS // self.everything.shape[1])
        return [slice(start, min(start + step, batch)) for start in range(0, batch, step)]

    def _check(self, points: Float32[np.ndarray, "batch dim"], *limits: float, slots: int = 1) -> None:
        if points.ndim != 2 or points.shape[1] != len(self.columns):
            raise ValueError(f"proposals of shape {points.shape} for items of {len(self.columns)} attributes")
        if not np.isfinite(points).all():
            raise ValueError("a proposal is not finite")
        if slots < 1 or not all(np.isfinite(limit) and limit >= 0 for limit in limits):
            raise ValueError("tolerance and relax must be finite and at least 0, slots at least 1")


def _shifted(score: Score, start: int) -> Score:
    """The same score for rows counted from the start of a chunk."""
    return lambda rows, items: score(rows + start, items)
