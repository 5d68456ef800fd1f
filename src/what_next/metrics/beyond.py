"""Beyond accuracy: how well known, how varied, how surprising and how true to a user's taste slates are.

Slates are rows of items, -1 where there is none. Work is done a part at a time, which stays near the processor.
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
"""Numbers at work at a time, 2 MB; with sixteen times as many, each takes twice as long."""
COLUMNS = 8
"""Resamples whose items are counted at a time."""
SMOOTHING = 0.01
"""The share of the history in what the slate is taken for: alpha of Steck (2018), and its value there."""
LEAST = float(np.finfo(np.float64).tiny)
"""Below every share that there can be: what a logarithm takes 0 for."""


@dataclass(frozen=True, eq=False)
class ItemStatistics:
    """The items, as training may know them.

    Attributes:
        counts: training events of each item.
        vectors: standardised attributes; no columns where the catalogue has none.
        categories: how each item's weight of 1 is spread over its categories; a row of zeros for an item without any.
            None where the catalogue has fewer than two categories.
    """

    counts: Int[np.ndarray, "items"]
    vectors: Float32[np.ndarray, "items attributes"]
    categories: Float32[np.ndarray, "items categories"] | None

    @classmethod
    def of(cls, catalogue: Catalogue, counts: Int[np.ndarray, "items"]) -> "ItemStatistics":
        """Of a standardised catalogue (`Space.catalogue`, `Space.counts`).

        An item belongs equally to each category that it has.
        """
        binary, categories = category_columns(catalogue), None
        if binary.sum() > 1:
            held = catalogue.attributes[:, binary]
            categories = held / np.maximum(held.sum(axis=1, keepdims=True), np.float32(1))
        return cls(counts, catalogue.vectors, categories)

    @cached_property
    def information(self) -> Float64[np.ndarray, "items"]:
        """The self-information of each item in bits; an item without a training event has that of one with one."""
        events = self.counts.sum()
        return np.log2(events / np.maximum(self.counts, 1)) if events else np.full(len(self.counts), np.nan)

    def popularity(self, items: Int32[np.ndarray, "rows width"]) -> Values:
        """The mean number of training events of the items of each row; not a number for a row without any."""
        return mean_over(self.counts.astype(np.float64), items)

    def shares(self, items: Int32[np.ndarray, "rows width"]) -> Float64[np.ndarray, "rows categories"]:
        """The share of each category in the items of each row; not a number where no item has a category.

        There are no columns where the catalogue has no categories.
        """
        shares = np.full((len(items), 0 if self.categories is None else self.categories.shape[1]), np.nan)
        if not shares.shape[1] or not items.shape[1]:
            return shares
        for part in parts(len(items), max(items.shape[1], shares.shape[1])):
            places = np.where(items[part] < 0, np.int32(len(self._padded) - 1), items[part])
            sums = torch.nn.functional.embedding_bag(torch.from_numpy(places), self._padded, mode="sum").double()
            shares[part] = (sums / sums.sum(1, keepdim=True)).numpy()  # 0 / 0 is not a number
        return shares

    @cached_property
    def _padded(self) -> Float32[Tensor, "items_plus_1 categories"]:
        """The categories, and a row of zeros for what is no item."""
        assert self.categories is not None
        return torch.from_numpy(np.pad(self.categories, ((0, 1), (0, 0))))


def category_columns(catalogue: Catalogue) -> Bool[np.ndarray, "attributes"]:
    """Which attributes are categories (genres, say): 0 or 1 for every item, and not 0 for all."""
    raw = catalogue.attributes
    return np.asarray(((raw == 0) | (raw == 1)).all(axis=0) & raw.any(axis=0))


@dataclass(frozen=True, eq=False)
class Profile:
    """What the history of each row is like. It is taken once, whatever is compared with it.

    Attributes:
        popularity: the mean number of training events of its items, each event of the history counting; not a number
            for an empty one.
        shares: the share of each category in it (see `ItemStatistics.shares`).
    """

    popularity: Values
    shares: Float64[np.ndarray, "rows categories"]

    @classmethod
    def of(cls, histories: Int32[np.ndarray, "rows time"], statistics: ItemStatistics) -> "Profile":
        """Of the items that each row's user heard before the target; -1 is padding."""
        return cls(statistics.popularity(histories), statistics.shares(histories))


def novelty(slates: Slates, statistics: ItemStatistics) -> Values:
    """The mean self-information of a slate's items in bits: -log2 of the item's share of all training events.

    Zhou et al. 2010 (PNAS 107, "Solving the apparent diversity-accuracy dilemma of recommender systems"); on shares of
    events it is the expected free discovery of Vargas and Castells 2011 ("Rank and relevance in novelty and diversity
    metrics for recommender systems"). An item that nobody heard counts as one that was heard once. The reward of the
    same name is divided by the information of the rarest item, so that it ends at 1; here bits stay bits.

    Returns:
        0 or more, higher is more novel; not a number for an empty slate.
    """
    return mean_over(statistics.information, slates)


def diversity(slates: Slates, statistics: ItemStatistics) -> Values:
    """The mean distance of two items of a slate, in units of the typical distance of two items of the catalogue.

    The intra-list distance of Ziegler et al. 2005 ("Improving recommendation lists through topic diversification"), on
    standardised attributes, in the unit of the reward of the same name: for each attribute, two items drawn at random
    differ by 2 in the mean square.

    Returns:
        0 or more, higher is more diverse, about 1 for items drawn at random; not a number for a slate with fewer than
        two items, and where items have no attributes.
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


def popularity_lift(slates: Slates, profile: Profile, statistics: ItemStatistics) -> Values:
    """By how much the mean popularity of a slate exceeds that of the history, in units of the history's.

    Abdollahpouri et al. 2019 ("The unfairness of popularity bias in recommendation") and 2020 ("The connection between
    popularity bias, calibration, and fairness in recommendation"), who average popularity over a group of users before
    they divide; here each row is its own group. Popularity is the number of training events.

    Returns:
        -1 or more: 0 for a slate as popular as the history, above it for a more popular one; not a number for an empty
        slate, and for a history without any training event.
    """
    known = profile.popularity > 0
    ratio = statistics.popularity(slates) / np.where(known, profile.popularity, 1.0)
    return np.where(known, ratio - 1, np.nan)


def calibration(slates: Slates, profile: Profile, statistics: ItemStatistics) -> Values:
    """The Kullback-Leibler divergence, in nats, of the history's categories from those of the slate.

    Steck 2018 ("Calibrated recommendations", RecSys), with all weights 1: the sum of p log(p / q') over the categories,
    where p is the share of a category in the history, q in the slate, and q' = (1 - alpha) q + alpha p, so that a
    category which the slate lacks costs a finite amount.

    Returns:
        From 0 (the same proportions) to log(1 / alpha) = 4.6 (no category in common), lower is better; not a number
        where history or slate hold no item with a category, and where the catalogue has fewer than two categories.
    """
    values = np.full(len(slates), np.nan)
    if statistics.categories is None:
        return values
    for part in parts(len(slates), max(slates.shape[1], statistics.categories.shape[1])):
        values[part] = _divergence(profile.shares[part], statistics.shares(slates[part]))
    return values


def _divergence(
    wanted: Float64[np.ndarray, "rows categories"], given: Float64[np.ndarray, "rows categories"]
) -> Values:
    """The divergence of the first from the second, which is smoothed."""
    smoothed = (1 - SMOOTHING) * given + SMOOTHING * wanted
    # Where p is 0, its term is; q' is above 0 where p is.
    terms = wanted * (np.log(np.maximum(wanted, LEAST)) - np.log(np.maximum(smoothed, LEAST)))
    return np.asarray(np.maximum(terms.sum(axis=1), 0.0))  # rounding may leave it below


def serendipity(places: Places, popular: Places, k: int) -> Values:
    """The hits of a slate that the popular slate does not hold, as a share of all the hits that it could have.

    Ge et al. 2010 ("Beyond accuracy: evaluating recommender systems by coverage and serendipity"), with popularity as
    the primitive recommender whose items are expected. They divide by the length of the slate; here it is by the number
    of relevant items, `k` at most. So with one relevant item this is the hit rate of what is not popular, to be read
    beside HR@k, which it never exceeds. Ties count by their expectation, as in `accuracy`.

    Args:
        places: where the relevant items stand in the ranking that is judged.
        popular: where the same items stand by popularity, under the same exclusions; its ties are in an order of
            their own.
        k: slots.

    Returns:
        From 0 to 1, higher is better; not a number for a row without a relevant item.
    """
    hits, expected = (np.clip(k - one.above, 0, one.tied) / one.tied for one in (places, popular))
    chances = (hits * (1 - expected)).sum(axis=1)
    return np.where(places.counts, chances / np.maximum(np.minimum(places.counts, k), 1), np.nan)


def gini_index(
    counts: Int[np.ndarray, "*batch held"] | Float[np.ndarray, "*batch held"], catalogue: int
) -> Float64[np.ndarray, "*batch"]:
    """The Gini index of how often each item of the catalogue is recommended.

    The sum of |x - y| over all pairs of items, over (n - 1) times the sum of x: from 0, where each item is recommended
    equally often, to 1, where one has all recommendations (Shani and Gunawardana 2011, "Evaluating recommendation
    systems"). Where nothing is recommended, all items are equal.

    Args:
        counts: how often items are recommended; those that are not here never are.
        catalogue: how many items there are, n.
    """
    ascending = np.sort(counts, axis=-1)
    held = counts.shape[-1]
    # By rank, item j of n is in front of j - 1 others and behind n - j; those that are not here come first.
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
    """How recommendations fall on the catalogue, with intervals over users: one number for each seed, then their mean.

    `coverage` is the share of the catalogue's items that are recommended at all, `gini` their `gini_index`. A resample
    holds fewer distinct users than there are, so it always covers less, less equally; the resamples are moved to lie
    around the true number.

    Args:
        items: what each row was recommended; -1 is nothing.
        users: of each row, counted from 0.
        catalogue: how many items there are.
        names: which of both are wanted.
        resamples: as of `means`; `seed`: likewise.
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
    """How often each item that is there at all is recommended: to all users, then to those of some resamples at a time.

    A float of 32 bits holds counts up to 16 million exactly; sums of it over bags are the fastest there are.
    """
    order = np.argsort(items, kind="stable")
    starts = np.unique(items[order], return_index=True)[1]
    bags = [torch.from_numpy(one.astype(np.int32)) for one in (users[order], starts)]
    for often in chain([np.ones((1, people))], resampled_counts(people, resamples, seed, COLUMNS)):
        weights = np.ascontiguousarray(often.T, np.float32)
        yield torch.nn.functional.embedding_bag(bags[0], torch.from_numpy(weights), bags[1], mode="sum").numpy().T


def parts(rows: int, width: int) -> Iterator[slice]:
    """Some rows at a time, where each needs `width` numbers."""
    step = max(1, CHUNK // max(1, width))
    for start in range(0, rows, step):
        yield slice(start, start + step)


def mean_over(values: Float64[np.ndarray, "items"], items: Int32[np.ndarray, "rows width"]) -> Values:
    """The mean value of the items of each row; not a number for a row without any."""
    padded, means = np.append(values, 0.0), np.empty(len(items))  # -1 finds the 0 at the end
    for part in parts(*items.shape):
        counts = (items[part] >= 0).sum(axis=1)
        means[part] = np.where(counts, padded[items[part]].sum(axis=1) / np.maximum(counts, 1), np.nan)
    return means
