"""The steps of a slate: draw or rank, choose, take away, and say how probable it was."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int32, Int64

from what_next.retrieval.pool import INSIDE, Pool, best_of_sample, sample_ranks
from what_next.types import Score


@dataclass(frozen=True)
class Rule:
    """How to choose for some rows of a batch, with the draws already made."""

    attributes: Int64[np.ndarray, "rows slots"]  # the one that is relaxed at each step
    uniforms: Float64[np.ndarray, "rows slots candidates"] | None  # None: greedy
    candidates: int  # of which the best by score is taken; 1 without a score
    score: Score | None
    averaged: int  # attributes that may be drawn: 1 stands for all where none is relaxed


@dataclass(frozen=True)
class Selection:
    """The items chosen for a batch of proposals.

    Where nothing was permitted (any more) the item is -1, `fallback` is set and the propensity is not a number: what
    to do then is the caller's to decide.
    """

    items: Int32[np.ndarray, "batch slots"]
    matches: Int64[np.ndarray, "batch slots"]  # permitted items in the box that was drawn, at that step
    fallback: Bool[np.ndarray, "batch slots"]  # the item lies outside the box that was drawn
    propensities: Float64[np.ndarray, "batch slots"] | None  # of each step; their product is the slate's

    @classmethod
    def nothing(cls, batch: int, slots: int, propensities: bool) -> "Selection":
        """The outcome where no item is permitted."""
        shape = (batch, slots)
        return cls(
            np.full(shape, -1, np.int32),
            np.zeros(shape, np.int64),
            np.ones(shape, np.bool_),
            np.full(shape, np.nan) if propensities else None,
        )

    def part(self, rows: slice) -> "Selection":
        """A view of some rows."""
        chances = None if self.propensities is None else self.propensities[rows]
        return Selection(self.items[rows], self.matches[rows], self.fallback[rows], chances)


def choose(pool: Pool, rule: Rule, outcome: Selection) -> None:
    """Fill a slate for each row of the pool, item after item, without replacement; the outcome starts as nothing."""
    if not len(pool.items):
        return
    scores = None
    if rule.score is not None and outcome.propensities is not None:  # a propensity ranks all of the pool
        scores = _checked(rule.score(pool.rows, pool.items))
    for slot in range(rule.attributes.shape[1]):
        attribute = rule.attributes[:, slot]
        if rule.uniforms is None:
            chosen, matches = pool.left, pool.count(pool.left & (pool.place == INSIDE))
            ranks = np.arange(rule.candidates)
            ranks = np.where(ranks < pool.count(chosen)[:, None], ranks, -1)
        else:
            chosen, matches = pool.eligible(attribute)
            ranks = sample_ranks(rule.uniforms[:, slot], pool.count(chosen))
        winner = _best(pool, pool.locate(chosen, ranks), rule.score, scores)
        filled = np.flatnonzero(winner >= 0)
        won = winner[filled]
        outcome.items[filled, slot] = pool.items[won]
        outcome.matches[:, slot] = matches
        outcome.fallback[filled, slot] = (pool.place[won] != INSIDE) & (pool.place[won] != attribute[filled])
        if outcome.propensities is not None:
            chances = np.ones(len(winner)) if rule.uniforms is None else propensity(pool, winner, rule, scores)
            outcome.propensities[filled, slot] = chances[filled]
        pool.left[won] = False


def propensity(
    pool: Pool, winner: Int64[np.ndarray, "rows"], rule: Rule, scores: Float[np.ndarray, "pairs"] | None
) -> Float64[np.ndarray, "rows"]:
    """The probability of this step's winners: the mean over the attribute that might have been drawn."""
    worse = np.zeros(len(pool.rows), np.bool_)
    if scores is not None:
        score, item = scores[winner][pool.rows], pool.items[winner][pool.rows]
        worse = (scores < score) | ((scores == score) & (pool.items > item))
    total = np.zeros(len(winner))
    for attribute in range(rule.averaged):
        chosen, _ = pool.eligible(np.full(len(winner), attribute))
        chance = best_of_sample(pool.count(chosen & worse), pool.count(chosen), rule.candidates)
        total += np.where(chosen[winner], chance, 0.0)
    return total / rule.averaged


def first_chances(pool: Pool, rule: Rule, found: Float64[np.ndarray, "rows items"]) -> None:
    """Fill in the probability of every item to be the first one, the rest as `propensity` has it for the winners."""
    if not len(pool.items):
        return
    scores = None if rule.score is None else _checked(rule.score(pool.rows, pool.items))
    for attribute in range(rule.averaged):
        chosen, _ = pool.eligible(np.full(len(found), attribute))
        pairs = np.flatnonzero(chosen)
        rows, items = pool.rows[pairs], pool.items[pairs]
        if scores is not None:  # the worst first, the higher item among equals
            order = np.lexsort((-items, scores[pairs], rows))
            rows, items = rows[order], items[order]
        worse = np.arange(len(rows)) - np.searchsorted(rows, rows)
        chances = best_of_sample(worse, pool.count(chosen)[rows], rule.candidates)
        found[rows, items] += chances / rule.averaged


def _best(
    pool: Pool,
    positions: Int64[np.ndarray, "rows candidates"],
    score: Score | None,
    scores: Float[np.ndarray, "pairs"] | None,
) -> Int64[np.ndarray, "rows"]:
    """The position that wins in each row: the only one, or the best by score."""
    if score is None:
        return positions[:, 0]
    valid = positions >= 0
    values = np.full(positions.shape, -np.inf)
    if scores is not None:
        values[valid] = scores[positions[valid]]
    else:
        values[valid] = _checked(score(pool.rows[positions[valid]], pool.items[positions[valid]]))
    return pool.best(positions, values)


def _checked(scores: Float[np.ndarray, "pairs"]) -> Float[np.ndarray, "pairs"]:
    if np.isnan(scores).any():
        raise ValueError("a score is not a number")
    return scores
