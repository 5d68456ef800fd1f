"""Estimators for slates, from one row for each of their positions: the summed reward of a whole slate.

What a reward at a position may depend on decides the weights: on its own item (item-position model, Li et al. 2018,
"Offline Evaluation of Ranking Policies with Click Models"), on the items up to it (cascade; reward interaction
of McInerney et al. 2020, arXiv 2007.12986), or on the whole slate. The fewer, the smaller the weights, and the more is
assumed.

`weights` are those of each row's own action. The independent model wants the chances of an item at a position, all
else left open (its marginal); the two others want the chances given the items above, whose product is the slate's. The
one kind cannot stand for the other: with chances given the items above, a row's own weight does not correct for how
those items came about.
"""

import numpy as np
from jaxtyping import Bool

from what_next.off_policy.weighting import Ids, Rows, Terms

LARGEST = 1e100
"""Product of weights. An estimate that meets it means nothing, but stays a number."""


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
        chosen, expected: the model's reward of the logged item, and its mean over the target's, given the items above.
        slates, positions: of each row.
    """
    above = np.where(_firsts(slates), 1.0, np.roll(products, 1))
    model = slate_snips(above, expected, slates, positions)
    return Terms(model.tops + slate_snips(products, rewards - chosen, slates, positions).tops, model.bottoms)


def places(slates: Ids) -> Ids:
    """How many rows of its slate stand before each."""
    rows = np.arange(len(slates))
    return rows - np.maximum.accumulate(np.where(_firsts(slates), rows, 0))


def _firsts(slates: Ids) -> Bool[np.ndarray, "rows"]:
    """Which rows start a slate."""
    return np.append(True, slates[1:] != slates[:-1])
