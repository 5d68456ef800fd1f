"""Weights of clusters of items."""

import tracemalloc

import numpy as np
import pytest

from what_next.off_policy.weighting import (
    averaged_ips,
    averaged_weights,
    clusters_of,
    ips,
    marginal_weights,
    of_items_alone,
)

from .bandits import bandit

TARGET = np.array([[0.1, 0.3, 0.2, 0.4], [0.5, 0.5, 0.0, 0.0]])
PAIRS = np.array([0, 0, 1, 1])


def test_a_clusters_weight_is_the_ratio_of_its_chances():
    uniform = np.full((1, 4), 0.25)
    assert marginal_weights(TARGET, uniform, PAIRS, np.array([0, 3])) == pytest.approx([0.4 / 0.5, 0.0])
    own = np.array([[0.1, 0.1, 0.4, 0.4], [0.25, 0.25, 0.25, 0.25]])
    assert marginal_weights(TARGET, own, PAIRS, np.array([2, 1])) == pytest.approx([0.6 / 0.8, 1.0 / 0.5])


def test_clusters_need_not_stand_together_nor_be_many():
    turned, actions = np.array([7, 2, 7, 2]), np.array([0, 3])
    assert marginal_weights(TARGET, np.full((1, 4), 0.25), turned, actions) == pytest.approx([0.3 / 0.5, 0.5 / 0.5])


def test_a_great_catalogue_fits_in_memory():
    items, clusters = 50_000, np.arange(50_000) // 2  # a table of items by clusters would have 10 GB
    target, behaviour = np.full((2, items), 1 / items), np.full((1, items), 1 / items)
    tracemalloc.start()
    for some in (clusters, np.arange(items)):
        assert marginal_weights(target, behaviour, some, np.array([3, items - 1])) == pytest.approx([1, 1])
    assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    tracemalloc.stop()


def test_weights_are_of_items_alone_where_no_item_of_a_shared_cluster_has_two():
    actions = np.array([0, 1, 0, 2, 2])
    for third, alone in ((1.0, True), (1.1, False)):
        weights = np.array([1.0, 2.0, third, 3.0, 5.0])  # item 2 is a cluster by itself
        assert of_items_alone(weights, actions, np.array([0, 0, 1])) is alone


def test_the_average_over_a_clusters_rows_stands_in_where_distributions_are_not_known():
    weights, actions = np.array([2.0, 0.0, 1.0, 3.0, 5.0]), np.array([0, 1, 0, 2, 2])
    assert averaged_weights(weights, actions, np.array([0, 0, 1])).tolist() == [1, 1, 1, 3, 5]


def test_a_row_moves_the_estimate_by_what_it_does_to_the_average_too():
    weights, actions, rewards = np.array([2.0, 0.0, 1.0, 5.0]), np.array([0, 1, 0, 2]), np.array([3.0, 0.0, 0.0, 4.0])
    # The cluster's weight is 1 and its mean reward 1: 1 * 3 + (2 - 1) * 1, 0 + (0 - 1) * 1, 0 + 0; item 2 is alone.
    assert averaged_ips(weights, actions, np.array([0, 0, 1]), rewards).tops.tolist() == [4, -1, 0, 20]
    assert averaged_ips(weights, actions, np.array([0, 0, 1]), rewards).value == (1 * 3 + 5 * 4) / 4


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
