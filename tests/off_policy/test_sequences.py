"""Values of whole trajectories."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from what_next.off_policy.decisions import Decisions
from what_next.off_policy.sequences import (
    per_decision_is,
    sequence_dr,
    sequence_support,
    weighted_per_decision_is,
)

from .worlds import bandit, covers, resampled, sessions

# Two trajectories of three and two steps; the products of the weights are 2, 1, 3 and 0.5, 2.
WEIGHTS = np.array([2.0, 0.5, 3.0, 0.5, 4.0])
REWARDS = np.array([1.0, 2.0, 4.0, 3.0, 1.0])
LENGTHS = [3, 2]


def log_of(lengths, rewards) -> Decisions:
    units = np.repeat(np.arange(len(lengths)), lengths)
    return Decisions(
        units, np.zeros(len(units), np.int64), np.asarray(rewards, np.float64), np.ones(len(units)), np.eye(1)
    )


TWO = log_of(LENGTHS, REWARDS)


@st.composite
def logs(draw):
    """A log of a few trajectories with its weights (some zero), values and chosen values, and a discount."""
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    rng, zeros = np.random.default_rng(draw(st.integers(0, 2**20))), draw(st.sampled_from([0.0, 0.3]))
    rows = sum(lengths)
    weights = rng.uniform(0.1, 3, rows) * (rng.random(rows) >= zeros)
    discount = draw(st.sampled_from([0.0, 0.5, 0.9, 1.0]))
    return log_of(lengths, rng.normal(size=rows)), weights, rng.normal(size=rows), rng.normal(size=rows), discount


def trajectories(decisions, *columns):
    """The rows of each unit."""
    for unit in range(decisions.units[-1] + 1):
        yield [column[decisions.units == unit] for column in columns]


def in_loops(decisions, weights, discount):
    """Weighted per-decision importance sampling and the effective sample sizes, one step and unit at a time."""
    whole = list(trajectories(decisions, weights, decisions.rewards))
    estimate, sizes = 0.0, []
    for step in range(max(len(rewards) for _, rewards in whole)):
        products = np.array([weights[: step + 1].prod() for weights, _ in whole])
        earned = np.array([rewards[step] if step < len(rewards) else 0.0 for _, rewards in whole])
        if products.sum():
            estimate += discount**step * (products @ earned) / products.sum()
        sizes.append(products.sum() ** 2 / (products**2).sum() if products.sum() else 0.0)
    return estimate, sizes


def weighted(decisions, weights, discount):
    return weighted_per_decision_is(decisions, weights, discount).mean()


def test_each_reward_counts_with_the_weights_up_to_it():
    # 2 * 1 + 1 * 2 / 2 + 3 * 4 / 4, and 0.5 * 3 + 2 * 1 / 2
    assert per_decision_is(TWO, WEIGHTS, 0.5) == pytest.approx([6, 2.5])


def test_the_weighted_estimate_is_a_ratio_at_each_step_and_an_ended_trajectory_keeps_its_weight():
    # (2 * 1 + 0.5 * 3) / (2 + 0.5), then (1 * 2 + 2 * 1) / (1 + 2) / 2, then (3 * 4) / (3 + 2) / 4
    assert weighted(TWO, WEIGHTS, 0.5) == pytest.approx(1.4 + 2 / 3 + 0.6)


def test_the_doubly_robust_value_is_that_of_the_recursion():
    # From the end: 3 + 3 (4 - 5) = 0; 2 + 0.5 (2 + 0 - 1) = 2.5; 1 + 2 (1 + 2.5 / 2 - 2) = 1.5.
    # The other: 2 + 4 (1 - 3) = -6; 0 + 0.5 (3 - 6 / 2 - 1) = -0.5.
    values, chosen = np.array([1.0, 2.0, 3.0, 0.0, 2.0]), np.array([2.0, 1.0, 5.0, 1.0, 3.0])
    assert sequence_dr(TWO, WEIGHTS, 0.5, values, chosen) == pytest.approx([1.5, -0.5])


def test_the_effective_sample_size_is_told_at_each_step():
    told = sequence_support(TWO, WEIGHTS)
    assert told.ess == pytest.approx([2.5**2 / 4.25, 3**2 / 5, 5**2 / 13])
    assert told.largest == pytest.approx(3)


def test_a_weight_of_zero_ends_what_a_trajectory_tells_but_no_other_trajectory():
    weights = np.array([2.0, 0.0, 3.0, 0.5, 4.0])
    assert per_decision_is(TWO, weights, 1.0) == pytest.approx([2, 3.5])
    told = sequence_support(TWO, weights)
    assert told.ess[1:] == pytest.approx([1, 1])


def test_a_step_that_no_weight_reaches_adds_nothing():
    weights = np.array([1.0, 0.0, 1.0, 1.0, 0.0])
    assert weighted(TWO, weights, 1.0) == pytest.approx(2)
    assert sequence_support(TWO, weights).ess == pytest.approx([2, 0, 0])
    nothing = sequence_support(TWO, np.zeros(5))
    assert (nothing.ess[-1], nothing.largest) == (0, 0)
    assert weighted(TWO, np.zeros(5), 1.0) == pytest.approx(0)


@given(logs())
def test_all_are_what_loops_over_steps_and_units_find(log):
    decisions, weights, values, chosen, discount = log
    expected, sizes = in_loops(decisions, weights, discount)
    assert weighted(decisions, weights, discount) == pytest.approx(expected)
    assert sequence_support(decisions, weights).ess == pytest.approx(sizes)
    single, robust = [], []
    for weight, reward, value, q in trajectories(decisions, weights, decisions.rewards, values, chosen):
        single.append(sum(discount**step * weight[: step + 1].prod() * reward[step] for step in range(len(reward))))
        found = 0.0
        for step in reversed(range(len(reward))):
            found = value[step] + weight[step] * (reward[step] + discount * found - q[step])
        robust.append(found)
    assert per_decision_is(decisions, weights, discount) == pytest.approx(single)
    assert sequence_dr(decisions, weights, discount, values, chosen) == pytest.approx(robust)


@given(logs())
def test_a_target_that_does_as_the_log_has_the_mean_return(log):
    decisions, _, values, _, discount = log
    returns = [discount ** np.arange(len(r)) @ r for (r,) in trajectories(decisions, decisions.rewards)]
    ones = np.ones(len(decisions.units))
    assert per_decision_is(decisions, ones, discount) == pytest.approx(returns)
    assert weighted(decisions, ones, discount) == pytest.approx(np.mean(returns))
    assert sequence_dr(decisions, ones, discount, values, values) == pytest.approx(returns)
    assert sequence_support(decisions, ones).ess == pytest.approx(len(returns))


def test_trajectories_of_one_decision_have_the_values_of_one_step_estimators():
    log = bandit().draw(50, seed=1)
    decisions, weights, rng = log.decisions, log.weights, np.random.default_rng(0)
    values, chosen = rng.normal(size=(2, 50))
    assert per_decision_is(decisions, weights, 0.9) == pytest.approx(weights * decisions.rewards)
    snips = weights @ decisions.rewards / weights.sum()
    assert weighted(decisions, weights, 0.9) == pytest.approx(snips)
    doubly = values + weights * (decisions.rewards - chosen)
    assert sequence_dr(decisions, weights, 0.9, values, chosen) == pytest.approx(doubly)


@given(logs())
def test_without_a_future_the_first_decision_alone_counts(log):
    decisions, weights, values, chosen, _ = log
    first = np.flatnonzero(np.diff(decisions.units, prepend=-1))
    short = log_of([1] * len(first), decisions.rewards[first])
    assert per_decision_is(decisions, weights, 0.0) == pytest.approx(per_decision_is(short, weights[first], 1.0))
    assert weighted(decisions, weights, 0.0) == pytest.approx(weighted(short, weights[first], 1.0))
    assert sequence_dr(decisions, weights, 0.0, values, chosen) == pytest.approx(
        sequence_dr(short, weights[first], 1.0, values[first], chosen[first])
    )


@given(logs(), st.integers(0, 1000))
def test_the_order_of_the_trajectories_is_of_no_matter(log, seed):
    decisions, weights, values, chosen, discount = log
    lengths = np.bincount(decisions.units)
    order = np.random.default_rng(seed).permutation(len(lengths))
    rows = np.concatenate([np.flatnonzero(decisions.units == unit) for unit in order])
    turned = log_of(lengths[order], decisions.rewards[rows])
    assert per_decision_is(turned, weights[rows], discount) == pytest.approx(
        per_decision_is(decisions, weights, discount)[order]
    )
    assert weighted(turned, weights[rows], discount) == pytest.approx(weighted(decisions, weights, discount))
    assert sequence_dr(turned, weights[rows], discount, values[rows], chosen[rows]) == pytest.approx(
        sequence_dr(decisions, weights, discount, values, chosen)[order]
    )
    told = sequence_support(turned, weights[rows])
    assert told.ess == pytest.approx(sequence_support(decisions, weights).ess)


def test_what_a_trajectory_adds_is_how_much_one_more_of_it_would_move_the_estimate():
    log = sessions().draw(400, seed=1)
    values = weighted_per_decision_is(log.decisions, log.weights, 0.9)
    for unit in (0, 7, 200):
        rows = np.append(np.arange(len(log.states)), np.flatnonzero(log.decisions.units == unit))
        lengths = np.append(np.bincount(log.decisions.units), np.bincount(log.decisions.units)[unit])
        more = weighted(log_of(lengths, log.decisions.rewards[rows]), log.weights[rows], 0.9)
        assert 401 * (more - values.mean()) == pytest.approx(values[unit] - values.mean(), rel=0.05, abs=0.01)


def test_the_weighted_estimate_stays_within_what_was_earned():
    log = sessions().draw(300, seed=3)
    ones = replace(log.decisions, rewards=np.ones(len(log.states)))
    first = log_of([1] * 300, np.ones(300))
    assert weighted(first, np.random.default_rng(0).exponential(size=300), 1.0) == pytest.approx(1)
    assert weighted(ones, log.weights, 1.0) < 3


@pytest.mark.parametrize("weight", [0.01, 100.0])
def test_trajectories_of_thousands_of_decisions_neither_vanish_nor_overflow(weight):
    long = log_of([3000, 2000], np.ones(5000))
    weights = np.full(5000, weight)
    assert np.isfinite(per_decision_is(long, weights, 1.0)).all()
    told = sequence_support(long, weights)
    assert told.ess[[0, 1999]] == pytest.approx([2, 2])
    assert told.ess[2999] == pytest.approx(1)  # one of the two weights is nothing beside the other
    assert told.largest == pytest.approx(0.01 if weight < 1 else np.exp(600))
    # Up to step 2,000 both earn 1; after it the first alone, whose weight is soon nothing, or all.
    assert weighted(long, weights, 1.0) == pytest.approx(2000 if weight < 1 else 3000, abs=0.05)


def test_a_weight_that_vanished_is_no_reason_to_lose_those_that_are_as_small():
    long = log_of([2000, 2000, 1], np.append(np.ones(4000), 5.0))
    weights = np.append(np.full(4000, 0.01), 0.0)
    assert weighted(long, weights, 1.0) == pytest.approx(2000)


def test_right_weights_give_the_value_whatever_the_model():
    world, discount = sessions(), 0.9
    log = world.draw(40_000, seed=5)
    wrong = np.random.default_rng(1).normal(2, 1, size=world.rewards.shape)
    values, chosen = (world.target * wrong).sum(axis=1)[log.states], wrong[log.states, log.decisions.actions]
    found = sequence_dr(log.decisions, log.weights, discount, values, chosen)
    assert abs(found.mean() - world.value(discount)) < 4 * found.std() / 200
    lost = sequence_dr(log.decisions, np.ones(len(log.states)), discount, values, chosen)
    assert abs(lost.mean() - world.value(discount)) > 10 * lost.std() / 200


def test_a_right_model_gives_the_value_whatever_the_weights():
    world, discount = sessions(), 0.9
    log = world.draw(40_000, seed=6)
    values = world.values(discount)[log.states]
    chosen = world.action_values(discount)[log.states, log.decisions.actions]
    weights = 0.3 + 1.5 * (log.decisions.actions == 0) + 0.2 * log.states  # of nothing in particular
    found = sequence_dr(log.decisions, weights, discount, values, chosen)
    assert abs(found.mean() - world.value(discount)) < 4 * found.std() / 200
    lost = per_decision_is(log.decisions, weights, discount)
    assert abs(lost.mean() - world.value(discount)) > 10 * lost.std() / 200


@pytest.mark.parametrize("discount", [0.7, 1.0])
def test_the_estimates_converge_to_the_exact_value(discount):
    world = sessions()
    errors = []
    for units in (1000, 100_000):
        log = world.draw(units, seed=7)
        single = per_decision_is(log.decisions, log.weights, discount).mean()
        ratios = weighted(log.decisions, log.weights, discount)
        errors.append(max(abs(single - world.value(discount)), abs(ratios - world.value(discount))))
    log_itself = per_decision_is(log.decisions, np.ones(len(log.states)), discount).mean()
    assert errors[1] < min(errors[0], 0.02)
    assert abs(log_itself - world.value(discount)) > 0.1


def coverage(repetitions: int, resamples: int, units: int = 2000, discount: float = 0.9) -> dict[str, float]:
    """How often the intervals of logs drawn anew hold the exact value."""
    world, counts = sessions(), resampled(units, resamples)
    value, held = world.value(discount), dict.fromkeys(["per_decision_is", "weighted_per_decision_is", "dr"], 0)
    rough = 0.5 * world.action_values(discount)
    for repetition in range(repetitions):
        log = world.draw(units, seed=1000 + repetition)
        decisions, weights = log.decisions, log.weights
        values, chosen = (world.target * rough).sum(axis=1)[log.states], rough[log.states, decisions.actions]
        single = per_decision_is(decisions, weights, discount)
        robust = sequence_dr(decisions, weights, discount, values, chosen)
        held["per_decision_is"] += covers(value, counts @ single / units)
        ratios = weighted_per_decision_is(decisions, weights, discount)
        held["weighted_per_decision_is"] += covers(value, counts @ ratios / units)
        held["dr"] += covers(value, counts @ robust / units)
    return {name: count / repetitions for name, count in held.items()}


def test_no_product_of_weights_reaches_ten_in_the_world_of_the_coverage_tests():
    log = sessions().draw(100_000, seed=0)
    assert 5 < sequence_support(log.decisions, log.weights).largest < 10


def test_bootstrap_intervals_mostly_hold_the_exact_value():
    assert min(coverage(100, 500).values()) >= 0.88


@pytest.mark.slow
def test_bootstrap_intervals_hold_the_exact_value_as_often_as_they_say():
    for name, share in coverage(1000, 2000).items():
        assert 0.93 <= share <= 0.97, name
