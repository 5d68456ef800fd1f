"""Beyond accuracy: novelty, diversity, serendipity, popularity and calibration of slates.

Slates are rows of items, -1 for an empty slot. Arrays are processed in parts that fit the processor's cache.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from math import sqrt

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int, Int32
from torch import Tensor

from what_next.data import Catalogue
from what_next.metrics.bootstrap import RESAMPLES, Interval, percentiles, resampled_counts
from what_next.metrics.places import Places
from what_next.rewards.spread import EXACT

Values = Float64[np.ndarray, "rows"]
Slates = Int32[np.ndarray, "rows k"]

CHUNK = 2**18
"""Numbers processed at a time, 2 MB; with sixteen times as many, each takes twice as long."""
COLUMNS = 8
"""Resamples counted at a time."""
SMOOTHING = 0.01
"""The share of the history that is mixed into the slate's distribution: alpha of Steck (2018), with the paper's
value."""
LEAST = float(np.finfo(np.float64).tiny)
"""Lower bound in logarithms, below every possible share, in place of 0."""


@dataclass(frozen=True, eq=False)
class ItemStatistics:
    """What training may know about the items.

    Attributes:
        counts: training events of each item.
        vectors: standardised attributes; no columns where the catalogue has none.
        categories: how each item's weight of 1 is spread over its categories; a row of zeros for an item without any.
            No columns where the catalogue has fewer than two categories.
    """

    counts: Int[np.ndarray, "items"]
    vectors: Float32[np.ndarray, "items attributes"]
    categories: Float32[np.ndarray, "items categories"]

    @classmethod
    def of(cls, catalogue: Catalogue, counts: Int[np.ndarray, "items"]) -> "ItemStatistics":
        """From a standardised catalogue and the training events of its items (`Space.catalogue`, `Space.counts`).

        An item with several categories belongs to each of them equally.
        """
        binary = np.flatnonzero(category_columns(catalogue))
        held = catalogue.attributes[:, binary if len(binary) > 1 else []]
        return cls(counts, catalogue.vectors, held / np.maximum(held.sum(axis=1, keepdims=True), np.float32(1)))

    @cached_property
    def information(self) -> Float64[np.ndarray, "items"]:
        """The self-information of each item in bits; an item without a training event counts as if it had one."""
        events = self.counts.sum()
        return np.log2(events / np.maximum(self.counts, 1)) if events else np.full(len(self.counts), np.nan)

    def popularity(self, items: Int32[np.ndarray, "rows width"]) -> Values:
        """The mean number of training events of the items of each row; NaN for an empty row."""
        return mean_over(self.counts.astype(np.float64), items)

    def shares(self, items: Int32[np.ndarray, "rows width"]) -> Float64[np.ndarray, "rows categories"]:
        """The share of each category in the items of each row; NaN where no item has a category."""
        shares = np.full((len(items), self.categories.shape[1]), np.nan)
        if not shares.shape[1] or not items.shape[1]:
            return shares
        for part in parts(len(items), max(items.shape[1], shares.shape[1])):
            places = np.where(items[part] < 0, np.int32(len(self._padded) - 1), items[part])
            sums = torch.nn.functional.embedding_bag(torch.from_numpy(places), self._padded, mode="sum").double()
            shares[part] = (sums / sums.sum(1, keepdim=True)).numpy()  # 0 / 0 is not a number
        return shares

    @cached_property
    def _padded(self) -> Float32[Tensor, "items_plus_1 categories"]:
        """The categories, and a row of zeros for padding."""
        return torch.from_numpy(np.pad(self.categories, ((0, 1), (0, 0))))


def category_columns(catalogue: Catalogue) -> Bool[np.ndarray, "attributes"]:
    """Which attributes are categories (genres, say): 0 or 1 for every item, and 1 for at least one."""
    raw = catalogue.attributes
    return np.asarray(((raw == 0) | (raw == 1)).all(axis=0) & raw.any(axis=0))


def novelty(slates: Slates, statistics: ItemStatistics) -> Values:
    """The mean self-information of a slate's items in bits: -log2 of the item's share of all training events.

    Zhou et al. 2010 (PNAS 107, "Solving the apparent diversity-accuracy dilemma of recommender systems"); on shares of
    events it is the expected free discovery of Vargas and Castells 2011 ("Rank and relevance in novelty and diversity
    metrics for recommender systems"). An item without an event counts as if it had one. The reward of the same name is
    divided by the information of the rarest item, so that it is at most 1; this metric is in bits.

    Returns:
        0 or more, higher is more novel; NaN for an empty slate.
    """
    return mean_over(statistics.information, slates)


def diversity(slates: Slates, statistics: ItemStatistics) -> Values:
    """The mean distance of two items of a slate, in units of the typical distance of two items of the catalogue.

    The intra-list distance of Ziegler et al. 2005 ("Improving recommendation lists through topic diversification"), on
    standardised attributes, in the unit of the reward of the same name: for each attribute, two items drawn at random
    differ by 2 in the mean square.

    Returns:
        0 or more, higher is more diverse, about 1 for items drawn at random; NaN for a slate with fewer than two items,
        and where items have no attributes.
    """
    (rows, slots), attributes = slates.shape, statistics.vectors.shape[1]
    if not attributes:
        return np.full(rows, np.nan)
    vectors, sums = torch.from_numpy(statistics.vectors), np.empty(rows)
    for part in parts(rows, slots * max(slots, attributes)):
        items = torch.from_numpy(slates[part])
        points, real = vectors[items.clamp(min=0)], (items >= 0).double()
        distances = torch.cdist(points, points, compute_mode=EXACT).double()
        sums[part] = torch.einsum("ri,rij,rj->r", real, distances, real).numpy()  # each pair twice
    held = (slates >= 0).sum(axis=1)
    pairs = held * (held - 1)
    return np.where(pairs, sums / np.maximum(pairs, 1) / sqrt(2 * attributes), np.nan)


def popularity_lift(slates: Slates, heard: Values, statistics: ItemStatistics) -> Values:
    """By how much the mean popularity of a slate exceeds that of the history, in units of the history's.

    Abdollahpouri et al. 2019 ("The unfairness of popularity bias in recommendation") and 2020 ("The connection between
    popularity bias, calibration, and fairness in recommendation"), who average popularity over a group of users before
    they divide; here each row is its own group. Popularity is the number of training events.

    Args:
        slates: of each row; `heard`: the popularity of the row's history (`ItemStatistics.popularity`).
        statistics: of the items.

    Returns:
        -1 or more: 0 for a slate as popular as the history, above 0 for a more popular one; NaN for an empty slate, and
        for a history without any training event.
    """
    known = heard > 0
    ratio = statistics.popularity(slates) / np.where(known, heard, 1.0)
    return np.where(known, ratio - 1, np.nan)


def calibration(slates: Slates, heard: Float64[np.ndarray, "rows categories"], statistics: ItemStatistics) -> Values:
    """The Kullback-Leibler divergence, in nats, of the history's categories from those of the slate.

    Steck 2018 ("Calibrated recommendations", RecSys), with all weights 1: the sum of p log(p / q') over the categories,
    where p is the share of a category in the history, q in the slate, and q' = (1 - alpha) q + alpha p, so that a
    category which the slate lacks costs a finite amount.

    Args:
        slates: of each row; `heard`: the shares of the categories in the row's history (`ItemStatistics.shares`).
        statistics: of the items.

    Returns:
        From 0 (the same proportions) to log(1 / alpha) = 4.6 (no category in common), lower is better; NaN where the
        history or the slate holds no item with a category, and where the catalogue has fewer than two categories.
    """
    values = np.full(len(slates), np.nan)
    if not statistics.categories.shape[1]:
        return values
    for part in parts(len(slates), max(slates.shape[1], statistics.categories.shape[1])):
        values[part] = _divergence(heard[part], statistics.shares(slates[part]))
    return values


def _divergence(
    wanted: Float64[np.ndarray, "rows categories"], given: Float64[np.ndarray, "rows categories"]
) -> Values:
    """The divergence of `wanted` from `given`, with `given` smoothed."""
    smoothed = (1 - SMOOTHING) * given + SMOOTHING * wanted
    # A term with p = 0 is 0; where p is above 0, so is q'.
    terms = wanted * (np.log(np.maximum(wanted, LEAST)) - np.log(np.maximum(smoothed, LEAST)))
    return np.asarray(np.maximum(terms.sum(axis=1), 0.0))  # rounding may leave it below


def serendipity(places: Places, popular: Places, k: int) -> Values:
    """The hits of a slate that the popular slate does not hold, as a share of the most hits possible.

    Ge et al. 2010 ("Beyond accuracy: evaluating recommender systems by coverage and serendipity"), with popularity as
    the primitive recommender whose items are expected. They divide by the length of the slate; here the divisor is the
    number of relevant items, at most `k`. With one relevant item this is the hit rate of items outside the popular
    slate, so it never exceeds HR@k, beside which it should be read. Ties count by their expectation, as in `accuracy`.

    Args:
        places: the places of the relevant items in the judged ranking.
        popular: the places of the same items by popularity, under the same exclusions; its ties are independent.
        k: slots.

    Returns:
        From 0 to 1, higher is better; NaN for a row without a relevant item.
    """
    hits, expected = (np.clip(k - one.above, 0, one.tied) / one.tied for one in (places, popular))
    chances = (hits * (1 - expected)).sum(axis=1)
    return np.where(places.counts, chances / np.maximum(np.minimum(places.counts, k), 1), np.nan)


def gini_index(
    counts: Int[np.ndarray, "*batch held"] | Float[np.ndarray, "*batch held"], catalogue: int
) -> Float64[np.ndarray, "*batch"]:
    """The Gini index of how often each item of the catalogue is recommended.

    The sum of |x - y| over all pairs of items, divided by (n - 1) times the sum of x: 0 where all items are recommended
    equally often, 1 where one item has all recommendations (Shani and Gunawardana 2011, "Evaluating recommendation
    systems"). Without any recommendation it is 0.

    Args:
        counts: how often items are recommended; items left out count as 0.
        catalogue: n, the number of items.
    """
    ascending = np.sort(counts, axis=-1)
    held = counts.shape[-1]
    # Item j of n by rank is above j - 1 others and below n - j; items left out have the lowest ranks.
    ranks = np.arange(catalogue - held + 1, catalogue + 1)
    apart = ascending @ (2.0 * ranks - catalogue - 1)
    most = (catalogue - 1) * ascending.sum(axis=-1, dtype=np.float64)
    index: Float64[np.ndarray, "*batch"] = np.asarray(apart / np.where(most > 0, most, 1))
    return index


def shares(
    items: Int[np.ndarray, "seeds rows"],
    users: Int[np.ndarray, "rows"],
    catalogue: int,
    names: Collection[str] = ("coverage", "gini"),
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """How recommendations are distributed over the catalogue, with intervals over users; the mean over the seeds.

    `coverage` is the share of the catalogue's items that are recommended at all, `gini` their `gini_index`. A resample
    holds fewer distinct users than the data, so it covers fewer items, less equally; the resamples are therefore
    shifted to be centred on the estimate from all users.

    Args:
        items: the item recommended in each row; -1 for none.
        users: the user of each row, counted from 0.
        catalogue: how many items there are.
        names: which of the two metrics to compute.
        resamples: as for `means`; `seed`: likewise.
    """
    people = int(users.max(initial=-1)) + 1
    if not people or (items < 0).all():
        return {}
    statistics = {"coverage": lambda counts: (counts > 0).sum(axis=1) / catalogue}
    statistics["gini"] = lambda counts: gini_index(counts, catalogue)
    found = np.empty((len(names), len(items), 1 + resamples))
    for place, row in enumerate(items):
        start = 0
        for counts in _item_counts(row[row >= 0], users[row >= 0], people, resamples, seed):
            part = slice(start, start := start + len(counts))
            for number, name in enumerate(names):
                found[number, place, part] = statistics[name](counts)
    result = {}
    for name, values in zip(names, found.mean(axis=1), strict=True):
        low, high = percentiles((values[1:] + values[0] - values[1:].mean()).clip(0, 1)) or (np.nan, np.nan)
        result[name] = {"mean": float(values[0]), "low": low, "high": high, "n": people}
    return result


def _item_counts(
    items: Int[np.ndarray, "rows"], users: Int[np.ndarray, "rows"], people: int, resamples: int, seed: int
) -> Iterator[Float32[np.ndarray, "part held"]]:
    """How often each recommended item is recommended: to all users, then to the users of some resamples at a time.

    float32 holds counts up to 16 million exactly, and embedding bags sum it fastest.
    """
    order = np.argsort(items, kind="stable")
    starts = np.unique(items[order], return_index=True)[1]
    bags = [torch.from_numpy(one.astype(np.int32)) for one in (users[order], starts)]
    for often in chain([np.ones((1, people))], resampled_counts(people, resamples, seed, COLUMNS)):
        weights = np.ascontiguousarray(often.T, np.float32)
        yield torch.nn.functional.embedding_bag(bags[0], torch.from_numpy(weights), bags[1], mode="sum").numpy().T


def parts(rows: int, width: int) -> Iterator[slice]:
    """Slices of rows that fit the cache, where each row needs `width` numbers."""
    step = max(1, CHUNK // max(1, width))
    for start in range(0, rows, step):
        yield slice(start, start + step)


def mean_over(values: Float64[np.ndarray, "items"], items: Int32[np.ndarray, "rows width"]) -> Values:
    """The mean value of the items of each row; NaN for an empty row."""
    padded, means = np.append(values, 0.0), np.empty(len(items))  # -1 finds the 0 at the end
    for part in parts(*items.shape):
        counts = (items[part] >= 0).sum(axis=1)
        means[part] = np.where(counts, padded[items[part]].sum(axis=1) / np.maximum(counts, 1), np.nan)
    return means
