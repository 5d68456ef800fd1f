"""Slates by position."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from what_next.off_policy.slates import (
    LARGEST,
    cascade_dr,
    cascade_weights,
    inclusion,
    item_snips,
    item_weights,
    one_by_one,
    places,
    slate_ips,
    slate_snips,
    whole_weights,
)

# A slate of three and one of two.
SLATES = np.array([0, 0, 0, 4, 4])
POSITIONS = np.array([0, 1, 2, 0, 1])
WEIGHTS = np.array([2.0, 0.5, 3.0, 0.5, 4.0])
REWARDS = np.array([1.0, 2.0, 4.0, 3.0, 1.0])


def test_the_independent_model_weighs_each_position_by_itself():
    assert slate_ips(WEIGHTS, REWARDS, SLATES).value == 10.25  # (2 + 1 + 12 + 1.5 + 4) / 2


def test_the_cascade_multiplies_down_the_slate():
    assert cascade_weights(WEIGHTS, SLATES).tolist() == [2, 1, 3, 0.5, 2]
    assert slate_ips(cascade_weights(WEIGHTS, SLATES), REWARDS, SLATES).value == 9.75  # (2 + 2 + 12 + 1.5 + 2) / 2


def test_without_a_model_every_position_has_the_whole_slates_weight():
    assert whole_weights(WEIGHTS, SLATES).tolist() == [3, 3, 3, 2, 2]
    assert slate_ips(whole_weights(WEIGHTS, SLATES), REWARDS, SLATES).value == 14.5  # (21 + 8) / 2


def test_doubly_robust_the_model_speaks_for_what_the_weights_of_the_items_above_let_pass():
    products, chosen = cascade_weights(WEIGHTS, SLATES), np.array([1.0, 1.0, 2.0, 1.0, 1.0])
    expected = np.array([2.0, 1.0, 3.0, 1.0, 4.0])
    # The model, by the weights above (1, 2, 1 and 1, .5): 3 / 2, (2 * 1 + .5 * 4) / 2.5, 3. The rest, by the products
    # (2, 1, 3 and .5, 2): .5 * 2 / 2.5, 1 * 1 / 3, 3 * 2 / 3. Two slates have the first two positions, one the third.
    told = cascade_dr(products, REWARDS, chosen, expected, SLATES, POSITIONS)
    assert told.value == pytest.approx((2 * (1.5 + 0.4) + 2 * (1.6 + 1 / 3) + (3 + 2)) / 2)


def test_self_normalised_each_position_has_its_own_ratio():
    # 2 slates * (3.5 / 2.5) at the first, 2 * (5 / 4.5) at the second, 1 * (12 / 3) at the third, over 2 slates
    told = slate_snips(WEIGHTS, REWARDS, SLATES, POSITIONS)
    assert told.value == pytest.approx(3.5 / 2.5 + 5 / 4.5 + 2)


def test_self_normalised_terms_have_the_spread_of_the_ratios():
    rng = np.random.default_rng(0)
    slates, positions = np.repeat(np.arange(400), 2), np.tile([0, 1], 400)
    weights, rewards = rng.exponential(size=800), rng.normal(2, 1, size=800)
    counts = rng.multinomial(400, np.full(400, 1 / 400), size=2000).astype(np.float64)
    above = (weights * rewards).reshape(400, 2)
    exact = (counts @ above / (counts @ weights.reshape(400, 2))).sum(axis=1)
    linear = slate_snips(weights, rewards, slates, positions).by_unit(slates).resampled(counts)
    assert linear.std() == pytest.approx(exact.std(), rel=0.02)
    assert linear.mean() == pytest.approx(exact.mean(), abs=0.1 * exact.std())


def test_a_position_that_the_target_never_fills_so_gives_no_estimate():
    assert np.isnan(slate_snips(np.array([1.0, 0.0]), np.ones(2), np.array([0, 0]), np.array([0, 1])).value)


def test_places_start_anew_with_each_slate():
    assert places(SLATES).tolist() == [0, 1, 2, 0, 1]
    assert places(np.array([7])).tolist() == [0]


def test_products_stay_numbers():
    weights = np.full(4, 1e60)
    assert cascade_weights(weights, np.zeros(4, np.int64)).tolist() == [1e60, LARGEST, LARGEST, LARGEST]
    assert whole_weights(weights, np.zeros(4, np.int64)).tolist() == [LARGEST] * 4


@given(arrays(np.float64, 6, elements=st.floats(0, 5)), arrays(np.float64, 6, elements=st.floats(-5, 5)))
def test_slates_of_one_item_are_all_the_same_under_every_model(weights, rewards):
    slates = np.arange(6)
    assert cascade_weights(weights, slates).tolist() == weights.tolist()
    assert whole_weights(weights, slates).tolist() == weights.tolist()
    assert slate_ips(weights, rewards, slates).value == pytest.approx((weights * rewards).mean())


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(0, 2**32))
def test_a_target_that_is_the_behaviour_policy_earns_the_mean_slate(lengths, seed):
    slates = np.repeat(np.arange(len(lengths)), lengths)
    rewards, ones = np.random.default_rng(seed).normal(size=len(slates)), np.ones(len(slates))
    mean = rewards.sum() / len(lengths)
    for weights in (ones, cascade_weights(ones, slates), whole_weights(ones, slates)):
        assert slate_ips(weights, rewards, slates).value == pytest.approx(mean)
        assert slate_snips(weights, rewards, slates, places(slates)).value == pytest.approx(mean)


def test_of_items_alone_each_row_weighs_by_what_is_below_it_and_its_own_chance():
    included, propensities = np.array([0.6, 0.5, 0.3, 1.0, 0.5]), np.array([0.5, 0.25, 0.1, 0.2, 0.25])
    # .6 * (2 + 2) / 3, .5 * (1 + 4) / 3, .3 * (0 + 10) / 3; 1 * (1 + 5) / 2, .5 * (0 + 4) / 2
    weights = item_weights(included, propensities, SLATES)
    assert weights == pytest.approx([0.8, 2.5 / 3, 1.0, 3.0, 1.0])
    # 2 slates of 5 rows: sums of .8 + 5/3 + 4 + 9 + 1 and .8 + 2.5/3 + 1 + 3 + 1
    told = item_snips(weights, REWARDS, SLATES)
    assert told.value == pytest.approx((14.8 + 5 / 3) / ((5.8 + 2.5 / 3) * 2 / 5))


def test_the_chance_to_be_in_a_slate_of_two_of_three():
    first = np.array([[0.5, 0.3, 0.2], [0.5, 0.5, 0.0]])
    # .5 + .3 * .5 / .7 + .2 * .5 / .8, and so on
    by_hand = [0.5 + 0.15 / 0.7 + 0.1 / 0.8, 0.3 + 0.15 / 0.5 + 0.06 / 0.8, 0.2 + 0.1 / 0.5 + 0.06 / 0.7]
    rng, many = np.random.default_rng(0), np.repeat(first, 2000, axis=0)
    found = inclusion(many, np.full(4000, 2), rng).reshape(2, 2000, 3).mean(axis=1)
    assert found[0] == pytest.approx(by_hand, abs=0.005)
    assert found[1] == pytest.approx([1, 1, 0])
    assert inclusion(first, np.array([1, 3]), rng)[1] == pytest.approx([1, 1, 0])
    assert inclusion(many, np.full(4000, 1), rng)[:2000].mean(axis=0) == pytest.approx(first[0], abs=0.005)


def test_one_distribution_without_replacement_is_told_from_others():
    slates, actions = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 0])
    full = np.array([[0.5, 0.3, 0.2], [0, 0.6, 0.4], [0.2, 0.5, 0.3], [0.4, 0, 0.6]])
    assert one_by_one(full, actions, slates)
    assert not one_by_one(full[[0, 1, 2, 2]], actions, slates)
