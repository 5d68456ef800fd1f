"""The candidate items of a batch of proposals, and the choice among them slot by slot."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from what_next.types import Product, Score

Ranks = Int64[np.ndarray, "rows candidates"]
Pairs = Int64[np.ndarray, "pairs"]
Rows = Int64[np.ndarray, "rows"]

INSIDE = -1
OUTSIDE = -2
Matches = tuple[Pairs, Pairs, Pairs]
"""Row, item and place (see Pool), by row, then item."""


@dataclass(frozen=True)
class Pool:
    """Candidate items of each row, as one long list of pairs grouped by row.

    `place` is INSIDE for an item in the box; for an item that matches only if one attribute is relaxed, that attribute;
    and OUTSIDE for a near item that does not match. `distances` are squared; infinite if they are not needed.
    """

    offsets: Int64[np.ndarray, "rows_plus_1"]
    rows: Pairs
    items: Pairs
    place: Pairs
    distances: Float64[np.ndarray, "pairs"]
    left: Bool[np.ndarray, "pairs"]  # not chosen yet; the only field that changes

    def count(self, chosen: Bool[np.ndarray, "pairs"]) -> Rows:
        """The number of each row's pairs in a mask."""
        totals = np.concatenate([[0], np.cumsum(chosen)])
        return np.asarray(totals[self.offsets[1:]] - totals[self.offsets[:-1]])

    def eligible(self, attribute: Rows) -> tuple[Bool[np.ndarray, "pairs"], Rows]:
        """The pairs to draw from when the attribute is relaxed, and the number of matches.

        Without a match, the nearest pairs.
        """
        chosen = self.left & ((self.place == INSIDE) | (self.place == attribute[self.rows]))
        matches = self.count(chosen)
        if not matches.all():
            least = np.full(len(matches), np.inf)
            np.minimum.at(least, self.rows[self.left], self.distances[self.left])
            chosen |= self.left & (matches == 0)[self.rows] & (self.distances == least[self.rows])
        return chosen, matches

    def locate(self, chosen: Bool[np.ndarray, "pairs"], ranks: Ranks) -> Ranks:
        """Positions of each row's pairs of these ranks (from 0) within the mask; -1 for rank -1."""
        totals = np.cumsum(chosen)
        before = np.concatenate([[0], totals])[self.offsets[:-1], None]
        return np.where(ranks < 0, -1, np.searchsorted(totals, before + ranks + 1))

    def best(self, positions: Ranks, values: Float64[np.ndarray, "rows candidates"]) -> Rows:
        """The position of the highest value in each row; ties go to the lower item; -1 for an empty row."""
        values = np.where(positions < 0, -np.inf, values)
        tied = (values == values.max(axis=1, keepdims=True)) & (positions >= 0)
        items = np.where(tied, self.items[positions], np.iinfo(np.int64).max)
        return np.take_along_axis(positions, items.argmin(axis=1)[:, None], axis=1)[:, 0]


@dataclass(frozen=True)
class Rule:
    """How to choose for some rows of a batch, with the draws already made."""

    attributes: Int64[np.ndarray, "rows slots"]  # the relaxed attribute of each slot
    uniforms: Float64[np.ndarray, "rows slots candidates"] | None  # None: greedy
    candidates: int  # the best of so many by score is taken; 1 without a score
    score: Score | None
    averaged: int  # attributes that may be relaxed; 1 without relaxation


def choose(pool: Pool, rule: Rule, found: Product, rows: slice) -> None:
    """Fill the empty slates of some rows, slot by slot, without replacement."""
    if not len(pool.items):
        return
    items, matches, fallback = found.items[rows], found.matches[rows], found.fallback[rows]
    propensities = None if found.propensities is None else found.propensities[rows]
    scores = None
    if rule.score is not None and propensities is not None:  # a propensity needs the whole pool's ranking
        scores = checked(rule.score(pool.rows, pool.items))
    for slot in range(rule.attributes.shape[1]):
        attribute = rule.attributes[:, slot]
        if rule.uniforms is None:
            chosen, count = pool.left, pool.count(pool.left & (pool.place == INSIDE))
            ranks = np.arange(rule.candidates)
            ranks = np.where(ranks < pool.count(chosen)[:, None], ranks, -1)
        else:
            chosen, count = pool.eligible(attribute)
            ranks = sample_ranks(rule.uniforms[:, slot], pool.count(chosen))
        winner = _best(pool, pool.locate(chosen, ranks), rule.score, scores)
        filled = np.flatnonzero(winner >= 0)
        won = winner[filled]
        items[filled, slot] = pool.items[won]
        matches[:, slot] = count
        fallback[filled, slot] = (pool.place[won] != INSIDE) & (pool.place[won] != attribute[filled])
        if propensities is not None:
            propensities[filled, slot] = 1.0 if rule.uniforms is None else chances(pool, rule, scores)[won]
        pool.left[won] = False


def chances(pool: Pool, rule: Rule, scores: Float[np.ndarray, "pairs"] | None) -> Float64[np.ndarray, "pairs"]:
    """The probability of every item of the pool to be chosen next: the mean over the attributes that may be relaxed."""
    found = np.zeros(len(pool.rows))
    for attribute in range(rule.averaged):
        chosen, _ = pool.eligible(np.full(len(pool.offsets) - 1, attribute))
        pairs, size, worse = np.flatnonzero(chosen), pool.count(chosen), np.zeros(1, np.int64)
        if scores is not None:  # worst first; ties: higher item first
            pairs = pairs[np.lexsort((-pool.items[pairs], scores[pairs], pool.rows[pairs]))]
            worse = np.arange(len(pairs)) - np.searchsorted(pool.rows[pairs], pool.rows[pairs])
        found[pairs] += best_of_sample(worse, size[pool.rows[pairs]], rule.candidates)
    return found / rule.averaged


def _best(pool: Pool, positions: Ranks, score: Score | None, scores: Float[np.ndarray, "pairs"] | None) -> Rows:
    """The winning position in each row: the first, or the best by score."""
    if score is None:
        return positions[:, 0]
    valid = positions >= 0
    values = np.full(positions.shape, -np.inf)
    if scores is not None:
        values[valid] = scores[positions[valid]]
    else:
        values[valid] = checked(score(pool.rows[positions[valid]], pool.items[positions[valid]]))
    return pool.best(positions, values)


def checked(scores: Float[np.ndarray, "pairs"]) -> Float[np.ndarray, "pairs"]:
    """The scores; a `ValueError` if one is NaN."""
    if np.isnan(scores).any():
        raise ValueError("a score is not a number")
    return scores


def sample_ranks(uniforms: Float64[np.ndarray, "rows candidates"], sizes: Rows) -> Ranks:
    """Ranks drawn without replacement from `range(size)` (Floyd's algorithm); -1 pads a row that has fewer."""
    rows, candidates = uniforms.shape
    ranks = np.full((rows, candidates), -1)
    taken = np.minimum(candidates, sizes)
    for step in range(candidates):
        last = sizes - taken + step
        drawn = (uniforms[:, step] * (last + 1)).astype(np.int64)
        drawn = np.where((ranks[:, :step] == drawn[:, None]).any(axis=1), last, drawn)
        ranks[:, step] = np.where(step < taken, drawn, -1)
    return ranks


def best_of_sample(worse: Int64[np.ndarray, "#rows"], size: Rows, candidates: int) -> Float64[np.ndarray, "rows"]:
    """The probability that an item is the best of `candidates` drawn without replacement from `size` items.

    `worse` of the items rank below it: `C(worse, k - 1) / C(size, k)`, as a product; for one candidate `1 / size`.
    """
    candidate_count = np.minimum(candidates, size)
    probability: Float64[np.ndarray, rows] = candidate_count / np.maximum(size, 1)
    for step in range(candidates - 1):
        factor = np.maximum(worse - step, 0) / np.maximum(size - 1 - step, 1)
        probability *= np.where(step < candidate_count - 1, factor, 1.0)
    return probability


def fewest(rows: Pairs, place: Pairs, averaged: int, batch: int, drawn: Int64[np.ndarray, "rows slots"] | None) -> Rows:
    """The smallest number of matches of each row over the drawn attributes (None: over all that may be drawn)."""
    width = averaged + 1
    counts = np.bincount(rows * width + place + 1, minlength=batch * width).reshape(batch, width)
    matches = counts[:, :1] + counts[:, 1:]
    if drawn is None:
        drawn = np.broadcast_to(np.arange(averaged), matches.shape)
    return np.asarray(np.take_along_axis(matches, drawn, axis=1).min(axis=1))


def merged(
    matches: tuple[Pairs, Pairs, Pairs], near: Int64[np.ndarray, "near"], items: Int64[np.ndarray, "near"], width: int
) -> tuple[Int64[np.ndarray, "merged"], Int64[np.ndarray, "merged"], Int64[np.ndarray, "merged"]]:
    """The matches and the near items that do not match, by row, then item."""
    keys = np.concatenate([matches[0] * width + matches[1], near * width + items])
    keys, first = np.unique(keys, return_index=True)
    place = np.concatenate([matches[2], np.full(len(near), OUTSIDE)])[first]
    return keys // width, keys % width, place
