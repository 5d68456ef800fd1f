"""Weights of clusters of items."""

import numpy as np
import pytest

from what_next.evaluation.off_policy.marginalised import averaged_weights, clusters_of, marginal_weights
from what_next.evaluation.off_policy.weighting import ips

from .bandits import bandit

TARGET = np.array([[0.1, 0.3, 0.2, 0.4], [0.5, 0.5, 0.0, 0.0]])
PAIRS = np.array([0, 0, 1, 1])


def test_a_clusters_weight_is_the_ratio_of_its_chances():
    uniform = np.full((1, 4), 0.25)
    assert marginal_weights(TARGET, uniform, PAIRS, np.array([0, 3])) == pytest.approx([0.4 / 0.5, 0.0])
    own = np.array([[0.1, 0.1, 0.4, 0.4], [0.25, 0.25, 0.25, 0.25]])
    assert marginal_weights(TARGET, own, PAIRS, np.array([2, 1])) == pytest.approx([0.6 / 0.8, 1.0 / 0.5])


def test_the_average_over_a_clusters_rows_stands_in_where_distributions_are_not_known():
    weights, actions = np.array([2.0, 0.0, 1.0, 3.0, 5.0]), np.array([0, 1, 0, 2, 2])
    assert averaged_weights(weights, actions, np.array([0, 0, 1])).tolist() == [1, 1, 1, 3, 5]


def test_the_average_needs_no_item_of_the_last_clusters():
    assert averaged_weights(np.array([2.0]), np.array([0]), np.array([0, 0, 1, 1, 2])).tolist() == [2]


def test_with_one_cluster_per_item_the_estimate_is_ips():
    world = bandit()
    log, target, behaviour = world.draw(500, seed=0)
    weights, own = target.chances / log.propensities, np.random.default_rng(0).permutation(10)
    plain = ips(weights, log.rewards).value
    exact = marginal_weights(target.full, behaviour, own, log.actions)
    assert ips(exact, log.rewards).value == pytest.approx(plain, rel=1e-12)
    assert ips(averaged_weights(weights, log.actions, own), log.rewards).value == plain


def test_with_one_cluster_for_all_the_estimate_is_the_logs_mean():
    world = bandit()
    log, target, behaviour = world.draw(500, seed=0)
    weights = marginal_weights(target.full, behaviour, np.zeros(10, np.int64), log.actions)
    assert weights == pytest.approx(np.ones(500))


def test_weights_of_clusters_vary_less():
    world = bandit()
    log, target, behaviour = world.draw(5000, seed=0)
    plain = target.chances / log.propensities
    assert marginal_weights(target.full, behaviour, world.clusters, log.actions).std() < 0.9 * plain.std()


def test_clusters_are_those_of_the_vectors_that_lie_together():
    rng = np.random.default_rng(0)
    truth = rng.integers(4, size=60)
    vectors = np.array([[0.0, 0], [10, 0], [0, 10], [10, 10]])[truth] + rng.normal(size=(60, 2))
    found = clusters_of(vectors, 4)
    assert len({(one, other) for one, other in zip(truth, found, strict=True)}) == 4
    assert sorted(set(found.tolist())) == [0, 1, 2, 3]


def test_there_are_no_more_clusters_than_distinct_vectors():
    found = clusters_of(np.array([[0.0], [1.0], [0.0], [1.0]]), 3)
    assert found[0] == found[2] != found[1] == found[3]
    assert set(found.tolist()) == {0, 1}


def test_centres_settle_at_the_means():
    vectors = np.random.default_rng(1).normal(size=(200, 3))
    found = clusters_of(vectors, 6, seed=2)
    centres = np.stack([vectors[found == one].mean(axis=0) for one in range(6)])
    nearest = np.square(vectors[:, None] - centres).sum(axis=2).argmin(axis=1)
    assert (nearest == found).all()
    assert (clusters_of(vectors, 6, seed=2) == found).all()
