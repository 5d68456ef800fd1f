"""One-step estimators: the mean reward per decision that a target policy would have earned, from another policy's log.

Each is a pure function from plain arrays, one number per logged decision, to `Terms`. `weights` are the target's chance
of the logged action over the behaviour policy's; `chosen` is the reward model's prediction for the logged action, and
`expected` its mean prediction over the target's actions.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from what_next.metrics.bootstrap import ratios, user_means
from what_next.models import spread_out

ROUNDS = 100
"""Most rounds of Lloyd's algorithm, which converges far earlier on catalogues of a few thousand items."""
Rows = Float64[np.ndarray, "rows"]
Ids = Int64[np.ndarray, "rows"]


@dataclass(frozen=True, eq=False)
class Terms:
    """An estimate as a ratio of two sums over rows, so that resamples of the rows need no new estimate.

    Attributes:
        tops: each row's term in the numerator.
        bottoms: each row's term in the denominator: 1 if the estimate is a mean over the rows.
    """

    tops: Rows
    bottoms: Rows

    @property
    def value(self) -> float:
        """The estimate; NaN if the denominator is 0."""
        return float(self.resampled(np.ones((1, len(self.tops))))[0])

    def resampled(self, counts: Float64[np.ndarray, "resamples rows"]) -> Float64[np.ndarray, "resamples"]:
        """The estimate from each resample, given as the number of copies of each row; NaN if the denominator is 0."""
        above, below = np.hsplit(counts @ np.stack([self.tops, self.bottoms], axis=1), 2)
        return ratios(above, below)[:, 0]

    def by_unit(self, units: Ids) -> "Terms":
        """The same estimate with one row per unit, `units` as of `Decisions`."""
        return Terms(*(np.bincount(units, one).astype(np.float64) for one in (self.tops, self.bottoms)))  # empty: int


def mean_of(values: Rows) -> Terms:
    """The mean over the rows."""
    return Terms(values, np.ones(len(values)))


def ips(weights: Rows, rewards: Rows) -> Terms:
    """Inverse propensity scoring (Horvitz and Thompson 1952): unbiased where the log supports the target."""
    return mean_of(weights * rewards)


def clipped_ips(weights: Rows, rewards: Rows, at_most: float) -> Terms:
    """IPS with weights of at most `at_most` (Ionides 2008; Bottou et al. 2013, section 4.4).

    Less variance, but biased: too low if rewards are positive and a weight was clipped.
    """
    return mean_of(np.minimum(weights, at_most) * rewards)


def snips(weights: Rows, rewards: Rows) -> Terms:
    """Self-normalised IPS: divided by the sum of the weights, not their number (Swaminathan and Joachims 2015, eq. 8).

    Consistent, always within the range of the rewards, and a constant added to all rewards shifts it by that constant.
    """
    return Terms(weights * rewards, weights)


def dm(expected: Rows, pull: Rows | None = None) -> Terms:
    """The direct method: the mean of a reward model's predictions for the target policy.

    Args:
        expected: of each row.
        pull: each row's effect on the estimate through the model (`reward_model.Modelled`). Their mean is subtracted,
            so that they do not change the estimate but make its interval cover the model's own error.
    """
    return mean_of(expected if pull is None else expected + (pull - pull.mean()))


def dr(weights: Rows, rewards: Rows, chosen: Rows, expected: Rows) -> Terms:
    """Doubly robust: the model's expectation plus the weighted residual (Dudik et al. 2011).

    Consistent if the propensities or the model are right.
    """
    return mean_of(expected + weights * (rewards - chosen))


def switch_dr(weights: Rows, rewards: Rows, chosen: Rows, expected: Rows, threshold: float) -> Terms:
    """Doubly robust where a weight is at most `threshold`, the model alone where it is larger (Wang et al. 2017).

    With a threshold of 0 this is the direct method, with an infinite one it is doubly robust.
    """
    return dr(switched(weights, threshold), rewards, chosen, expected)


def switched(weights: Rows, threshold: float) -> Rows:
    """The weights that SWITCH keeps; 0 where it uses the model alone."""
    return np.where(weights <= threshold, weights, 0.0)


def growing_threshold(rows: int) -> float:
    """The default threshold for weights in a log of `rows` rows: their square root.

    With a constant threshold the bias would stay, and with one that grows as fast as the rows, one weight could
    dominate. Ionides (2008) shows that truncation at the square root (weights have a mean of 1) keeps the estimate
    consistent, and its variance of the usual order.
    """
    return float(np.sqrt(rows))


def marginal_weights(
    target: Float64[np.ndarray, "rows items"],
    behaviour: Float64[np.ndarray, "#rows items"],
    clusters: Int64[np.ndarray, "items"],
    actions: Ids,
) -> Rows:
    """The target's chance of the logged item's cluster over the behaviour policy's (equation 5 of the paper).

    Args:
        target: the whole distribution of the target policy in each row.
        behaviour: that of the behaviour policy; one row if it is the same everywhere.
        clusters: the cluster of each item, from 0.
        actions: the logged items.
    """
    order = np.argsort(clusters, kind="stable")
    names, starts = np.unique(clusters[order], return_index=True)
    rows, place = np.arange(len(actions)), np.searchsorted(names, clusters[actions])
    if len(names) == len(clusters):
        sums, place = [target, behaviour], actions
    else:
        sums = [np.add.reduceat(one[:, order], starts, axis=1) for one in (target, behaviour)]
    return np.asarray(sums[0][rows, place] / sums[1][rows if len(behaviour) > 1 else 0, place])


def of_items_alone(weights: Rows, actions: Ids, clusters: Int64[np.ndarray, "items"]) -> bool:
    """Whether each item that shares its cluster has the same weight in all its rows, as `averaged_weights` assumes."""
    means = user_means(weights, actions, len(clusters))
    shared = (np.bincount(clusters) > 1)[clusters[actions]]
    return bool(np.allclose(weights[shared], means[actions][shared], rtol=1e-6))


def averaged_weights(weights: Rows, actions: Ids, clusters: Int64[np.ndarray, "items"]) -> Rows:
    """Marginalised weights from the logged items' weights alone, if the whole distributions are unknown.

    A cluster's weight is the behaviour policy's mean of its items' weights (section 3.3 of the paper, which estimates
    the chance of an item given context and cluster by a classifier). Here it is the mean over the cluster's rows, which
    is only right if that mean is the same in every context, that is, for policies without a context
    (`of_items_alone`). A cluster of one item keeps the rows' own weights, which are exact.
    """
    logged = clusters[actions]
    means = user_means(weights, logged, len(clusters))
    alone = np.bincount(clusters, minlength=len(clusters)) == 1
    return np.where(alone[logged], weights, means[logged])


def averaged_ips(weights: Rows, actions: Ids, clusters: Int64[np.ndarray, "items"], rewards: Rows) -> Terms:
    """IPS with `averaged_weights`, whose terms include each row's influence on the averages.

    A cluster's average weight w_c is itself estimated from its rows, so a row's influence on the mean of w_c * r is
    w_c * r + (w - w_c) * r_c, with r_c the cluster's mean reward (the delta method). The second parts sum to 0 in each
    cluster; without them an interval would treat the averages as known.
    """
    averaged, logged = averaged_weights(weights, actions, clusters), clusters[actions]
    means = user_means(rewards, logged, len(clusters))
    return mean_of(averaged * rewards + (weights - averaged) * means[logged])


def clusters_of(vectors: Float64[np.ndarray, "items width"], count: int, seed: int = 0) -> Int64[np.ndarray, "items"]:
    """Up to `count` clusters of item vectors, counted from 0: k-means, seeded by k-means++ (Lloyd 1982)."""
    chosen = spread_out(vectors.astype(np.float32), count, np.random.default_rng(seed))
    centres, found = vectors[chosen], np.full(len(vectors), -1)
    for _ in range(ROUNDS):
        distances = np.square(centres).sum(1) - 2 * vectors @ centres.T  # an item's own square changes no argmin
        nearest = distances.argmin(axis=1)
        if (nearest == found).all():
            break
        found = nearest
        numbers = np.bincount(found, minlength=len(centres))
        sums = np.eye(len(centres))[found].T @ vectors
        centres = np.where(numbers[:, None] > 0, sums / np.maximum(numbers, 1)[:, None], centres)
    return np.unique(found, return_inverse=True)[1].astype(np.int64)
