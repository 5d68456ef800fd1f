"""Estimators for slates, from one row for each of their positions: the summed reward of a whole slate.

What a reward at a position may depend on decides the weights: on its item alone, wherever that stands (`item_weights`),
on item and position (item-position model, Li et al. 2018,
"Offline Evaluation of Ranking Policies with Click Models"), on the items up to it (cascade; reward interaction
of McInerney et al. 2020, arXiv 2007.12986), or on the whole slate. The fewer, the smaller the weights, and the more is
assumed.

`weights` are those of each row's own action. The item-position model wants the chances of an item at a position, all
else left open (its marginal); the others want the chances given the items above, whose product is the slate's. The
one kind cannot stand for the other: with chances given the items above, a row's own weight does not correct for how
those items came about.
"""

import numpy as np
from jaxtyping import Bool, Float64, Int64

from what_next.off_policy.weighting import Ids, Rows, Terms

LARGEST = 1e100
"""Product of weights. An estimate that meets it means nothing, but stays a number."""
DRAWS = 16
"""Of the items above the last one, for the chance that an item is in a slate."""
SAME = 1e-6
"""Between chances that are the same."""
Shares = Float64[np.ndarray, "slates items"]


def cascade_weights(weights: Rows, slates: Ids) -> Rows:
    """The product of the weights from a slate's first position to each row's own; at most `LARGEST`."""
    products, standing = weights.copy(), places(slates)
    for place in range(1, int(standing.max()) + 1):
        here = np.flatnonzero(standing == place)
        products[here] = np.minimum(products[here] * products[here - 1], LARGEST)
    return products


def whole_weights(weights: Rows, slates: Ids) -> Rows:
    """The product of all weights of a slate, in each of its rows; at most `LARGEST`."""
    firsts = _firsts(slates)
    lasts = np.flatnonzero(np.append(firsts[1:], True))
    return np.asarray(cascade_weights(weights, slates)[lasts][firsts.cumsum() - 1])


def slate_ips(weights: Rows, rewards: Rows, slates: Ids) -> Terms:
    """The weighted rewards of a slate, summed; the mean over slates. `weights` as the model in question has them."""
    return Terms(weights * rewards, _firsts(slates).astype(np.float64))


def item_weights(included: Rows, propensities: Rows, slates: Ids) -> Rows:
    """Weights that sum a slate's rewards where each hangs on its item alone, and not on its place or its neighbours.

    What the target earns is the total over all items of `y = included * reward`. Items drawn one after another without
    replacement, with known chances given those above, estimate a total without bias after each draw: by what was drawn
    above, and the latest `y` over its chance (Raj 1956, "Some estimators in sampling with varying probabilities
    without replacement", theorem 1). The mean of these estimates over the slots is a sum with one weight for each row:
    `included * (rows below + 1 / propensity) / rows`. No product of weights, and a mean of 1 where the log supports
    the target.

    Args:
        included: the target's chance of having each row's item in its slate, at any place (`inclusion`).
        propensities: of each row's item, given those above it.
    """
    standing, numbers = places(slates), np.bincount(slates)[slates]
    return np.asarray(included * (numbers - 1 - standing + 1 / propensities) / numbers)


def inclusion(first: Shares, lengths: Int64[np.ndarray, "slates"], rng: np.random.Generator) -> Shares:
    """The chance of each item to be among so many that are drawn by `first` without replacement.

    Items in the order of exponential times with rates `first` are such a draw. Given the times of the others, an item
    is in it with the chance that its own comes before the last that is taken; `DRAWS` of these chances are averaged.
    """
    found, rows = np.zeros_like(first), np.arange(len(first))
    most = min(int(lengths.max()), first.shape[1] - 1)
    for _ in range(DRAWS):
        with np.errstate(divide="ignore"):
            times = rng.standard_exponential(first.shape) / first
        earliest = np.sort(np.partition(times, most, axis=1)[:, : most + 1], axis=1)
        earliest = np.concatenate([earliest, np.full((len(first), 1), np.inf)], axis=1)
        last, after = (earliest[rows, np.minimum(lengths + one, most + 1)][:, None] for one in (-1, 0))
        bar = np.where(times <= last, after, last)
        found += -np.expm1(-np.where(first > 0, first * np.where(first > 0, bar, 0.0), 0.0))
    return found / DRAWS


def one_by_one(full: Float64[np.ndarray, "rows items"], actions: Ids, slates: Ids) -> bool:
    """Whether chances are, in all rows of a slate, those of its first row over what does not stand above."""
    standing, left = places(slates), full[np.searchsorted(slates, slates)]
    for back in range(1, int(standing.max()) + 1):
        here = np.flatnonzero(standing >= back)
        left[here, actions[here - back]] = 0.0
    sums = left.sum(axis=1, keepdims=True)
    return bool(np.allclose(np.divide(left, sums, out=np.zeros_like(left), where=sums > SAME), full, atol=SAME))


def item_snips(weights: Rows, rewards: Rows, slates: Ids) -> Terms:
    """The same, self-normalised: the mean weight of a row is 1, and an estimate of it stands below the line."""
    return Terms(weights * rewards, weights * (_firsts(slates).sum() / len(slates)))


def slate_snips(weights: Rows, rewards: Rows, slates: Ids, positions: Ids) -> Terms:
    """Self-normalised at each position (with cascade weights: RIPS, McInerney et al. 2020, section 3).

    A sum of one ratio for each position is no ratio of sums; the terms are its linear part (the delta method): the same
    estimate, and the same spread of it up to the order 1/n.
    """
    numbers, below, above = (np.bincount(positions, one)[positions] for one in (None, weights, weights * rewards))
    if not below.all():  # a position at which nothing that was logged could have been shown
        return Terms(np.zeros(len(weights)), np.zeros(len(weights)))
    ratio, mean = above / below, below / numbers
    return Terms(ratio + weights * (rewards - ratio) / mean, _firsts(slates).astype(np.float64))


def cascade_dr(products: Rows, rewards: Rows, chosen: Rows, expected: Rows, slates: Ids, positions: Ids) -> Terms:
    """Doubly robust under the cascade (Kiyohara et al. 2022, arXiv 2202.01562), with a model of each row's own reward.

    What the model expects at a position, weighted as the items above it came about, and the weighted rest that it left
    unexplained; consistent whatever the model says. Weights are normalised at each position (WDR; Thomas and Brunskill
    2016, arXiv 1604.00923): the mean of a few hundred products lies mostly below 1, and would take the value with it.

    Args:
        products: cascade weights of the rows; `rewards`: what each brought.
        chosen: the model's reward of the logged item; `expected`: its mean over the target's; given the items above.
        slates: of each row; `positions`: in it.
    """
    above = np.where(_firsts(slates), 1.0, np.roll(products, 1))
    model = slate_snips(above, expected, slates, positions)
    return Terms(model.tops + slate_snips(products, rewards - chosen, slates, positions).tops, model.bottoms)


def places(slates: Ids) -> Ids:
    """How many rows of its slate stand before each."""
    return np.arange(len(slates)) - np.searchsorted(slates, slates)


def _firsts(slates: Ids) -> Bool[np.ndarray, "rows"]:
    """Which rows start a slate."""
    return np.append(True, slates[1:] != slates[:-1])
