"""Estimators of the summed reward of a slate, from one row per position.

The weights follow from what a reward is assumed to depend on: its item alone (`item_weights`), its item and position
(item-position model, Li et al. 2018, "Offline Evaluation of Ranking Policies with Click Models"), the items up to its
position (cascade; reward interaction of McInerney et al. 2020, arXiv 2007.12986), or the whole slate. A stronger
assumption gives smaller weights.

`weights` are those of each row's own action. The item-position model needs marginal chances: of an item at a position,
whatever the other items are. The others need chances conditional on the items above, whose product is the chance of
the slate. Conditional chances cannot replace marginal ones, because a row's own weight does not correct for how the
items above it were chosen.
"""

import numpy as np
from jaxtyping import Bool, Float64, Int64

from what_next.off_policy.weighting import Ids, Rows, Terms

LARGEST = 1e100
"""Largest product of weights. An estimate that reaches it is meaningless, but stays finite."""
DRAWS = 16
"""Random draws that are averaged for the chance that an item is in a slate."""
SAME = 1e-6
"""Largest difference between chances that count as equal."""
Shares = Float64[np.ndarray, "slates items"]


def cascade_weights(weights: Rows, slates: Ids) -> Rows:
    """For each row, the product of the weights from its slate's first position to its own; at most `LARGEST`."""
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
    """The mean over slates of a slate's summed weighted rewards. `weights`: of the assumed reward model."""
    return Terms(weights * rewards, _firsts(slates).astype(np.float64))


def item_weights(included: Rows, propensities: Rows, slates: Ids) -> Rows:
    """Weights for rewards that depend on their item alone, and not on its position or the other items.

    The target earns the total over all items of `y = included * reward`. If items are drawn one by one without
    replacement, with known chances given those above, each draw gives an unbiased estimate of a total: the sum of `y`
    over the items above, plus the drawn `y` over its chance (Raj 1956, "Some estimators in sampling with varying
    probabilities without replacement", theorem 1). The mean of these estimates over the slots is a weighted sum of
    rewards with the weight `included * (rows below + 1 / propensity) / rows`. There is no product of weights, and the
    mean weight is 1 if the log supports the target.

    Args:
        included: the target's chance of having each row's item in its slate, at any position (`inclusion`).
        propensities: of each row's item, given those above it.
    """
    standing, numbers = places(slates), np.bincount(slates)[slates]
    return np.asarray(included * (numbers - 1 - standing + 1 / propensities) / numbers)


def inclusion(first: Shares, lengths: Int64[np.ndarray, "slates"], rng: np.random.Generator) -> Shares:
    """The chance of each item to be among `lengths` items drawn without replacement, with first-draw chances `first`.

    Sorting items by exponential times with rates `first` gives such a draw. Given the other items' times, an item's
    chance is that of its own time being early enough to be drawn; this is averaged over `DRAWS` draws.
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
    """Whether each row's chances are those of its slate's first row without the items above, normalised."""
    standing, left = places(slates), full[np.searchsorted(slates, slates)]
    for back in range(1, int(standing.max()) + 1):
        here = np.flatnonzero(standing >= back)
        left[here, actions[here - back]] = 0.0
    sums = left.sum(axis=1, keepdims=True)
    return bool(np.allclose(np.divide(left, sums, out=np.zeros_like(left), where=sums > SAME), full, atol=SAME))


def item_snips(weights: Rows, rewards: Rows, slates: Ids) -> Terms:
    """`slate_ips` with item weights, self-normalised: divided by the mean weight, whose expectation is 1."""
    return Terms(weights * rewards, weights * (_firsts(slates).sum() / len(slates)))


def slate_snips(weights: Rows, rewards: Rows, slates: Ids, positions: Ids) -> Terms:
    """Self-normalised at each position (with cascade weights: RIPS, McInerney et al. 2020, section 3).

    A sum of one ratio per position is not a ratio of sums. The terms are its linearisation (the delta method): the same
    estimate, with the same spread up to the order 1/n.
    """
    numbers, below, above = (np.bincount(positions, one)[positions] for one in (None, weights, weights * rewards))
    if not below.all():  # at some position the target would show none of the logged items
        return Terms(np.zeros(len(weights)), np.zeros(len(weights)))
    ratio, mean = above / below, below / numbers
    return Terms(ratio + weights * (rewards - ratio) / mean, _firsts(slates).astype(np.float64))


def cascade_dr(products: Rows, rewards: Rows, chosen: Rows, expected: Rows, slates: Ids, positions: Ids) -> Terms:
    """Doubly robust under the cascade (Kiyohara et al. 2022, arXiv 2202.01562), with a model of each row's own reward.

    The sum over positions of the model's expectation, weighted by the products of the items above, and of the weighted
    residual. It is consistent even if the model is wrong. Weights are normalised at each position (WDR; Thomas and
    Brunskill 2016, arXiv 1604.00923), because the mean of a few hundred products mostly lies below 1 and would pull the
    estimate down.

    Args:
        products: the cascade weight of each row; `rewards`: of each row.
        chosen: the model's reward of the logged item, given the items above.
        expected: the mean of the model's reward over the target's items, given the items above.
        slates: the slate of each row; `positions`: the row's position in it.
    """
    above = np.where(_firsts(slates), 1.0, np.roll(products, 1))
    model = slate_snips(above, expected, slates, positions)
    return Terms(model.tops + slate_snips(products, rewards - chosen, slates, positions).tops, model.bottoms)


def places(slates: Ids) -> Ids:
    """For each row, the number of rows before it in its slate."""
    return np.arange(len(slates)) - np.searchsorted(slates, slates)


def _firsts(slates: Ids) -> Bool[np.ndarray, "rows"]:
    """Whether each row is the first of its slate."""
    return np.append(True, slates[1:] != slates[:-1])
