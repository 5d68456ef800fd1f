"""Estimators of one step, by hand and by what must hold for any log."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from what_next.off_policy.weighting import (
    Terms,
    clipped_ips,
    dm,
    dr,
    growing_threshold,
    ips,
    mean_of,
    snips,
    switch_dr,
    switched,
)

WEIGHTS = np.array([2.0, 0.5, 0.0, 0.5])
REWARDS = np.array([1.0, 0.0, 1.0, 2.0])
CHOSEN = np.array([0.5, 0.25, 1.0, 1.0])
EXPECTED = np.array([0.5, 0.5, 1.0, 0.0])

numbers = st.floats(-10, 10, width=32)
positive = st.floats(0, 20, width=32)


def rows(elements, count=5):
    return arrays(np.float64, count, elements=elements)


def test_by_hand():
    assert ips(WEIGHTS, REWARDS).value == 0.75  # (2 + 0 + 0 + 1) / 4
    assert snips(WEIGHTS, REWARDS).value == 1.0  # (2 + 0 + 0 + 1) / (2 + 0.5 + 0 + 0.5)
    assert clipped_ips(WEIGHTS, REWARDS, 1.0).value == 0.5  # (1 + 0 + 0 + 1) / 4
    assert dm(EXPECTED).value == 0.5
    assert dr(WEIGHTS, REWARDS, CHOSEN, EXPECTED).value == 0.84375  # (1.5 + 0.375 + 1 + 0.5) / 4
    assert switch_dr(WEIGHTS, REWARDS, CHOSEN, EXPECTED, 1.0).value == 0.59375  # the first row's model alone: 0.5


def test_a_weight_at_the_threshold_is_kept():
    assert switched(WEIGHTS, 2.0).tolist() == WEIGHTS.tolist()
    assert switched(WEIGHTS, 0.5).tolist() == [0, 0.5, 0, 0.5]


def test_terms_of_units_are_the_sums_of_their_rows():
    terms = Terms(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 0.0, 2.0, 1.0]))
    units = terms.by_unit(np.array([0, 0, 1, 2]))
    assert (units.tops.tolist(), units.bottoms.tolist()) == ([3, 3, 4], [1, 2, 1])
    assert units.value == terms.value == 2.5


def test_a_resample_is_the_estimate_of_so_many_copies():
    terms = snips(WEIGHTS, REWARDS)
    found = terms.resampled(np.array([[1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 0.0, 3.0], [0.0, 0.0, 4.0, 0.0]]))
    assert found[:2].tolist() == [1.0, 1.5]  # (0 + 3) / (0.5 + 1.5)
    assert np.isnan(found[2])  # no weight at all


def test_how_the_rows_pulled_the_model_leaves_its_estimate_and_widens_it():
    pull = np.array([1.0, -2.0, 3.0, 6.0])
    told = dm(EXPECTED, pull)
    assert told.value == 0.5
    assert told.tops.tolist() == [-0.5, -3.5, 2.0, 4.0]  # their mean, 2, is taken away


def test_the_threshold_grows_with_the_rows_and_more_slowly():
    assert growing_threshold(2500) == 50
    assert growing_threshold(10**6) == 1000


@given(rows(numbers), rows(numbers))
def test_a_target_that_is_the_behaviour_policy_earns_the_mean_reward(rewards, model):
    ones = np.ones(5)
    for one in (
        ips(ones, rewards),
        snips(ones, rewards),
        clipped_ips(ones, rewards, 1.0),
        dr(ones, rewards, model, model),
    ):
        assert one.value == pytest.approx(rewards.mean(), abs=1e-9)


@given(rows(positive), rows(numbers), numbers)
def test_snips_stays_in_the_range_of_the_rewards_and_moves_with_them(weights, rewards, more):
    if weights.sum() < 1e-3:
        weights = weights + 1
    told = snips(weights, rewards).value
    assert rewards.min() - 1e-9 <= told <= rewards.max() + 1e-9
    assert snips(weights, rewards + more).value == pytest.approx(told + more, abs=1e-6)


@given(rows(positive), rows(positive), st.floats(0, 20), st.floats(0, 20))
def test_clipping_lowers_an_estimate_of_positive_rewards_the_less_the_larger_the_bound(weights, rewards, one, other):
    low, high = sorted((one, other))
    least, most = clipped_ips(weights, rewards, low).value, clipped_ips(weights, rewards, high).value
    assert least <= most + 1e-9
    assert most <= ips(weights, rewards).value + 1e-9
    assert clipped_ips(weights, rewards, np.inf).value == ips(weights, rewards).value


@given(rows(positive), rows(numbers), rows(numbers), rows(numbers))
def test_switch_goes_from_the_model_alone_to_doubly_robust(weights, rewards, chosen, expected):
    weights = weights + 0.1
    assert switch_dr(weights, rewards, chosen, expected, 0.0).value == dm(expected).value
    whole = dr(weights, rewards, chosen, expected).value
    assert switch_dr(weights, rewards, chosen, expected, np.inf).value == whole


@given(rows(positive), rows(numbers), rows(numbers))
def test_doubly_robust_with_an_exact_model_is_the_direct_method(weights, rewards, expected):
    assert dr(weights, rewards, rewards, expected).value == dm(expected).value


@given(rows(positive), rows(numbers), rows(numbers), rows(numbers), st.permutations(range(5)))
def test_the_order_of_the_rows_changes_nothing(weights, rewards, chosen, expected, order):
    def all_of(w, r, c, e):
        made = (ips(w, r), clipped_ips(w, r, 2.0), mean_of(r), dm(e, r), dr(w, r, c, e), switch_dr(w, r, c, e, 2.0))
        return [one.value for one in made]

    told = all_of(weights, rewards, chosen, expected)
    assert all_of(weights[order], rewards[order], chosen[order], expected[order]) == pytest.approx(told, abs=1e-9)
