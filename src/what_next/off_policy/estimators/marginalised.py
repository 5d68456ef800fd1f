"""Marginalised inverse propensity scoring: weights of clusters of items instead of single ones.

Saito and Joachims (2022, arXiv 2202.06317). Where an item's reward depends on its cluster alone (given the context),
the clusters' weights are enough; they vary less, the coarser the clusters are. With one cluster per item they are the
items' own. The weights go into `weighting.ips` like any others.
"""

import numpy as np
from jaxtyping import Float64, Int64

from what_next.models import spread_out
from what_next.off_policy.estimators.weighting import Terms, mean_of

ROUNDS = 100
"""At most; Lloyd's algorithm has settled long before on catalogues of a few thousand items."""


def marginal_weights(
    target: Float64[np.ndarray, "rows items"],
    behaviour: Float64[np.ndarray, "#rows items"],
    clusters: Int64[np.ndarray, "items"],
    actions: Int64[np.ndarray, "rows"],
) -> Float64[np.ndarray, "rows"]:
    """The target's chance of the logged item's cluster over the behaviour policy's (equation 5 of the paper).

    Args:
        target: the whole distribution of the target policy in each row.
        behaviour: of the behaviour policy; one row where it is the same everywhere.
        clusters: of each item, counted from 0.
        actions: what was logged.
    """
    order = np.argsort(clusters, kind="stable")
    names, starts = np.unique(clusters[order], return_index=True)
    rows, place = np.arange(len(actions)), np.searchsorted(names, clusters[actions])
    if len(names) == len(clusters):
        sums, place = [target, behaviour], actions
    else:
        sums = [np.add.reduceat(one[:, order], starts, axis=1) for one in (target, behaviour)]
    return np.asarray(sums[0][rows, place] / sums[1][rows if len(behaviour) > 1 else 0, place])


def of_items_alone(
    weights: Float64[np.ndarray, "rows"],
    actions: Int64[np.ndarray, "rows"],
    clusters: Int64[np.ndarray, "items"],
) -> bool:
    """Whether each item that shares its cluster has the same weight in all its rows, as `averaged_weights` takes it."""
    numbers = np.bincount(actions, minlength=len(clusters))
    means = np.bincount(actions, weights, len(clusters)) / np.maximum(numbers, 1)
    shared = (np.bincount(clusters) > 1)[clusters[actions]]
    return bool(np.allclose(weights[shared], means[actions][shared], rtol=1e-6))


def averaged_weights(
    weights: Float64[np.ndarray, "rows"],
    actions: Int64[np.ndarray, "rows"],
    clusters: Int64[np.ndarray, "items"],
) -> Float64[np.ndarray, "rows"]:
    """The same from the logged items' weights alone, where the distributions are not known.

    A cluster's weight is the behaviour policy's mean of its items' weights (section 3.3 of the paper, which asks a
    classifier for the chance of an item given context and cluster). Here it is the mean over the cluster's rows:
    it takes that mean to be the same in every context, which is right for policies without a context alone
    (`of_items_alone`). A cluster of one item keeps the rows' own weights, which are exact.
    """
    logged = clusters[actions]
    numbers = np.bincount(logged, minlength=len(clusters))
    means = np.bincount(logged, weights, len(clusters)) / np.maximum(numbers, 1)
    alone = np.bincount(clusters, minlength=len(clusters)) == 1
    return np.where(alone[logged], weights, means[logged])


def averaged_ips(
    weights: Float64[np.ndarray, "rows"],
    actions: Int64[np.ndarray, "rows"],
    clusters: Int64[np.ndarray, "items"],
    rewards: Float64[np.ndarray, "rows"],
) -> Terms:
    """IPS with `averaged_weights`, each row's term with its share in these averages, too.

    A cluster's average is an estimate itself, and a row moves it: its influence on the mean of w_c * r is
    w_c * r + (w - w_c) * r_c, with r_c the cluster's mean reward (the delta method). The second parts sum to 0 in each
    cluster; without them an interval takes the averages to be known.
    """
    averaged, logged = averaged_weights(weights, actions, clusters), clusters[actions]
    numbers = np.bincount(logged, minlength=len(clusters))
    means = np.bincount(logged, rewards, len(clusters)) / np.maximum(numbers, 1)
    return mean_of(averaged * rewards + (weights - averaged) * means[logged])


def clusters_of(vectors: Float64[np.ndarray, "items width"], count: int, seed: int = 0) -> Int64[np.ndarray, "items"]:
    """Up to `count` clusters of item vectors, counted from 0: k-means, seeded by k-means++ (Lloyd 1982)."""
    chosen = spread_out(vectors.astype(np.float32), count, np.random.default_rng(seed))
    centres, found = vectors[chosen], np.full(len(vectors), -1)
    for _ in range(ROUNDS):
        distances = np.square(centres).sum(1) - 2 * vectors @ centres.T  # the items' own squares change no order
        nearest = distances.argmin(axis=1)
        if (nearest == found).all():
            break
        found = nearest
        numbers = np.bincount(found, minlength=len(centres))
        sums = np.eye(len(centres))[found].T @ vectors
        centres = np.where(numbers[:, None] > 0, sums / np.maximum(numbers, 1)[:, None], centres)
    return np.unique(found, return_inverse=True)[1].astype(np.int64)
