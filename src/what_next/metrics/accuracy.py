"""Ranking metrics, each the exact expectation over a uniformly random order of the items whose scores are equal.

A row may have several relevant items, of the same score or of different ones. Any fixed way to break ties (the lower
item first, or the relevant one) would favour some policies; see McSherry and Najork, "Computing information retrieval
performance measures efficiently in the presence of tied scores", 2008.

Every metric takes the places of the relevant items and a cutoff `k`, at most the one for which the places were
computed, and returns a number from 0 to 1 for each row; NaN for a row without a relevant item.
"""

import numpy as np
from jaxtyping import Float64, Int64

from what_next.metrics.places import Places


def hit_rate(places: Places, k: int) -> Float64[np.ndarray, "rows"]:
    """HR@k: the chance that any relevant item stands among the first `k`."""
    above, tied, several = _first(places)
    slots = np.clip(k - above, 0, tied)
    # Hypergeometric: the chance that `slots` draws from `tied` hit none of `several`; the two are symmetric.
    fewer, more = np.minimum(several, slots), np.maximum(several, slots)
    chance = np.zeros(len(above))
    for step in range(int(fewer.max(initial=0))):
        chance += (1 - chance) * np.where(step < fewer, more / np.maximum(tied - step, 1), 0)
    return _judged(chance, places)


def reciprocal_rank(places: Places, k: int) -> Float64[np.ndarray, "rows"]:
    """MRR@k: one over the position of the first relevant item, 0 beyond `k`."""
    above, tied, several = _first(places)
    value = _mean_discount(1 / np.arange(1, k + 1), above, tied)
    rows = np.flatnonzero((several > 1) & (above < k))
    value[rows] = _first_of_several(above[rows], tied[rows], several[rows], k)
    return _judged(value, places)


def ndcg(places: Places, k: int) -> Float64[np.ndarray, "rows"]:
    """NDCG@k with binary gain: a position counts `1 / log2(1 + position)` (Järvelin and Kekäläinen, 2002).

    The ideal ranking has as many relevant items in front as there are, `k` at most.
    """
    discounts = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.concatenate([[1], discounts.cumsum()])[np.minimum(places.counts, k)]
    return _judged(_mean_discount(discounts, places.above, places.tied).sum(axis=1) / ideal, places)


def recall(places: Places, k: int) -> Float64[np.ndarray, "rows"]:
    """Recall@k: the share of the relevant items that stand among the first `k`."""
    return _judged(_found(places, k) / np.maximum(places.counts, 1), places)


def precision(places: Places, k: int) -> Float64[np.ndarray, "rows"]:
    """Precision@k: the share of relevant items among the first `k`; empty slots count as misses."""
    return _judged(_found(places, k) / k, places)


def average_precision(places: Places, k: int) -> Float64[np.ndarray, "rows"]:
    """MAP@k: the precision at the position of each relevant item among the first `k`, summed over all relevant ones.

    The sum is divided by the number of relevant items, as trec_eval and ranx do, not by `k` where that is smaller: a
    row with more relevant items than slots cannot reach 1.
    """
    rows, columns = np.nonzero(places.above < k)
    tied = places.tied[rows, columns]
    groups, index, several = np.unique(rows * k + places.above[rows, columns], return_index=True, return_counts=True)
    rows, above, tied = groups // k, groups % k, tied[index]
    # A relevant item at place q of its group of t tied items, r of them relevant, with b relevant items above the
    # group, expects 1 + b + (r - 1) (q - 1) / (t - 1) relevant items up to its position `above` + q; q is uniform.
    earlier = several.cumsum() - several
    higher = earlier - earlier[np.searchsorted(rows, rows)]
    inverse = tied * _mean_discount(1 / np.arange(1, k + 1), above, tied)  # the sum of 1 / position over q
    others = (several - 1) / np.maximum(tied - 1, 1)
    reached = np.minimum(tied, k - above)
    value = (1 + higher) * inverse + others * (reached - (above + 1) * inverse)
    total = np.bincount(rows, several / tied * value, minlength=len(places.counts))
    return _judged(total / np.maximum(places.counts, 1), places)


def _judged(values: Float64[np.ndarray, "rows"], places: Places) -> Float64[np.ndarray, "rows"]:
    """The values, NaN for rows without a relevant item."""
    return np.where(places.counts > 0, values, np.nan)


def _found(places: Places, k: int) -> Float64[np.ndarray, "rows"]:
    """The expected number of relevant items among the first `k`."""
    return np.asarray((np.clip(k - places.above, 0, places.tied) / places.tied).sum(axis=1))


def _mean_discount(
    discounts: Float64[np.ndarray, "k"], above: Int64[np.ndarray, "*places"], tied: Int64[np.ndarray, "*places"]
) -> Float64[np.ndarray, "*places"]:
    """The mean discount of the positions that a tied item may take; 0 beyond the last discount."""
    sums = np.concatenate([[0], discounts.cumsum()])
    last = len(discounts)
    mean: Float64[np.ndarray, "*places"] = (sums[np.minimum(above + tied, last)] - sums[np.minimum(above, last)]) / tied
    return mean


def _first(places: Places) -> tuple[Int64[np.ndarray, "rows"], Int64[np.ndarray, "rows"], Int64[np.ndarray, "rows"]]:
    """For each row's highest relevant items: how many items score higher, are tied, and are relevant among the tied."""
    above = places.above.min(axis=1)
    highest = places.above == above[:, None]
    return above, np.where(highest, places.tied, 1).max(axis=1), highest.sum(axis=1)


def _first_of_several(
    above: Int64[np.ndarray, "rows"], tied: Int64[np.ndarray, "rows"], several: Int64[np.ndarray, "rows"], k: int
) -> Float64[np.ndarray, "rows"]:
    """One over the position of the first of several relevant items among tied ones; 0 beyond `k`."""
    value, left = np.zeros(len(above)), np.ones(len(above))
    for place in range(k - int(above.min(initial=k))):
        # No relevant item stands before `place`, and `tied - place` items remain; the last place is `tied - several`.
        chance = left * several / np.maximum(tied - place, several)
        value += np.where(above + place < k, chance / (above + place + 1), 0)
        left -= chance
    return value
