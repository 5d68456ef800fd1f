"""Fitted Q evaluation."""

from dataclasses import replace

import numpy as np
import pytest

from what_next.off_policy import reward_model as module
from what_next.off_policy.decisions import Decisions, Target
from what_next.off_policy.fqe import Fitted, fqe
from what_next.off_policy.sequences import sequence_dr

from .worlds import TINY, bandit, random_log, sessions, some_of


def log_of(lengths, actions, rewards, contexts, expected) -> tuple[Decisions, Target]:
    """Two actions with one-hot vectors; scalar contexts; the target's chance of each action in each row."""
    units, expected = np.repeat(np.arange(len(lengths)), lengths), np.asarray(expected, np.float64)
    rows, actions = len(units), np.asarray(actions)
    decisions = Decisions(
        units,
        actions,
        np.asarray(rewards, np.float64),
        np.full(rows, 0.5),
        np.eye(2),
        contexts=np.asarray(contexts, np.float64)[:, None],
    )
    return decisions, Target(expected[np.arange(rows), actions], expected, expected)


def iterated(decisions: Decisions, target: Target, discount: float, rounds: int = 300):
    """The regression of Le et al., round by round, on plain features; V and Q of each row."""
    ones = np.ones((len(decisions.units), 1))
    contexts = np.hstack([ones, decisions.contexts])

    def psi(vectors):
        return np.einsum("nc,nv->ncv", contexts, np.hstack([ones, vectors])).reshape(len(ones), -1)

    logged, expected = psi(decisions.vectors[decisions.actions]), psi(target.expected)
    goes_on = np.append(decisions.units[1:] == decisions.units[:-1], False)
    theta = np.zeros(logged.shape[1])
    for _ in range(rounds):
        following = np.where(goes_on, np.roll(expected @ theta, -1), 0)
        theta = np.linalg.lstsq(logged, decisions.rewards + discount * following)[0]
    return expected @ theta, logged @ theta


def same(one: Fitted, other: Fitted, tolerance: float = 1e-6) -> bool:
    return np.allclose(one.values, other.values, atol=tolerance) and np.allclose(
        one.chosen, other.chosen, atol=tolerance
    )


def test_a_decision_is_worth_its_reward_and_what_the_target_makes_of_the_next_state():
    # In state 1, the last, the actions earn 2 and 6, and the target takes them in the ratio 1 : 3, so V = 5.
    # In state 0 they earn 1 and 3, and then comes state 1; at discount 0.5 they are worth 3.5 and 5.5, and V = 4.5.
    chances = [[0.5, 0.5], [0.25, 0.75]] * 4
    decisions, target = log_of([2, 2, 2, 2], [0, 0, 0, 1, 1, 0, 1, 1], [1, 2, 1, 6, 3, 2, 3, 6], [0, 1] * 4, chances)
    found = fqe(decisions, target, 0.5, ridge=TINY)
    assert found.values == pytest.approx([4.5, 5] * 4)
    assert found.chosen == pytest.approx([3.5, 2, 3.5, 6, 5.5, 2, 5.5, 6])
    assert found.initial == pytest.approx([4.5] * 4)
    assert found.influence == pytest.approx([4.5] * 4)  # nothing is left for the regression to explain


def test_nothing_comes_after_the_end_of_a_trajectory_that_ends_early():
    # State 0 goes on to state 1 (which earns 4) in one of two trajectories: V(0) = 1 + 4 / 2.
    decisions, target = log_of([2, 1], [0, 0, 0], [1, 4, 1], [0, 1, 0], [[1, 0]] * 3)
    assert fqe(decisions, target, 1.0, ridge=TINY).values == pytest.approx([3, 4, 3])


def test_a_state_may_come_again():
    # One state; every second decision is the last: V = 1 + 0.5 V.
    decisions, target = log_of([3, 1, 2, 2], [0] * 8, [1] * 8, [0] * 8, [[1, 0]] * 8)
    found = fqe(decisions, target, 1.0, ridge=TINY)
    assert found.values == pytest.approx([2] * 8)
    assert found.contraction == pytest.approx(0.5)


@pytest.mark.parametrize("discount", [0.0, 0.8])
def test_the_solution_is_where_the_iteration_ends(discount):
    decisions, target = random_log()
    values, chosen = iterated(decisions, target, discount)
    found = fqe(decisions, target, discount, ridge=TINY)
    assert found.contraction < 1
    assert found.values == pytest.approx(values, abs=1e-6)
    assert found.chosen == pytest.approx(chosen, abs=1e-6)


def test_without_a_discount_it_is_the_regression_of_rewards():
    decisions, target = random_log()
    found = fqe(decisions, target, 0.0, ridge=TINY)
    assert found.contraction == 0
    alone = replace(decisions, units=np.arange(len(decisions.units)))
    assert same(found, fqe(alone, target, 1.0, ridge=TINY))


@pytest.mark.parametrize("discount", [0.7, 1.0])
def test_with_one_hot_contexts_and_vectors_it_converges_to_the_exact_values(discount):
    world, errors = sessions(), []
    for units in (1000, 30_000):
        log = world.draw(units, seed=3)
        found = fqe(log.decisions, log.target, discount)
        errors.append(abs(found.initial.mean() - world.value(discount)))
        reached = np.abs(found.values - world.values(discount)[log.states]).max()
    assert errors[1] < min(errors[0], 0.03)
    assert reached < 0.15


def test_items_without_contexts_are_told_apart_by_their_vectors():
    world = bandit(noise=0.0)
    world = replace(world, rewards=np.broadcast_to(world.rewards[:1], world.rewards.shape))
    log = world.draw(500, seed=0)
    found = fqe(replace(log.decisions, contexts=None), log.target, 0.9, ridge=TINY)
    assert found.values == pytest.approx(world.values(0.9)[log.states])


def test_units_of_measurement_are_of_no_matter():
    decisions, target = random_log()
    contexts = 1000 * decisions.contexts + 5
    vectors, expected = decisions.vectors * [1e-3, 50] - 7, target.expected * [1e-3, 50] - 7
    other = fqe(replace(decisions, contexts=contexts, vectors=vectors), replace(target, expected=expected), 0.8)
    assert same(fqe(decisions, target, 0.8), other)


def test_columns_that_repeat_others_or_never_vary_change_nothing():
    decisions, target = random_log()
    rounding = 1e6 + 1e-5 * np.random.default_rng(3).normal(size=(len(decisions.units), 1))
    contexts = np.hstack([decisions.contexts, decisions.contexts[:, :1], np.full_like(rounding, 3.3), rounding])
    vectors = np.hstack([decisions.vectors, decisions.vectors])
    doubled = replace(target, expected=np.hstack([target.expected, target.expected]))
    other = fqe(replace(decisions, contexts=contexts, vectors=vectors), doubled, 0.8, ridge=TINY)
    assert same(fqe(decisions, target, 0.8, ridge=TINY), other)


def test_more_features_than_rows_are_safe():
    decisions, target = random_log(units=6, dim=10, width=8)
    found = fqe(decisions, target, 0.5)
    assert np.isfinite(found.values).all()
    assert np.abs(found.chosen).max() < 10


def test_a_heavy_penalty_leaves_the_constant_alone():
    # The mean reward of trajectories of one decision, whatever was done.
    decisions, target = log_of([1] * 4, [0, 0, 1, 1], [1, 1, 3, 7], [0, 1, 0, 1], [[0, 1]] * 4)
    assert fqe(decisions, target, 1.0, ridge=1e9).values == pytest.approx([3] * 4, abs=1e-6)


def test_the_penalty_shrinks_the_slope():
    # Rewards 3 where x = 1 and 1 where x = -1: 2 + x, and with a penalty of 1 per row 2 + x / (1 + 1).
    decisions, target = log_of([1, 1], [0, 0], [3, 1], [1, -1], [[1, 0]] * 2)
    assert fqe(decisions, target, 1.0, ridge=1.0).values == pytest.approx([2.5, 1.5])


def test_the_penalty_is_per_row():
    decisions, target = random_log()
    twice = some_of(decisions, target, np.tile(np.arange(80), 2))
    found, other = fqe(decisions, target, 0.8, ridge=0.1), fqe(*twice, 0.8, ridge=0.1)
    assert other.values == pytest.approx(np.tile(found.values, 2))
    assert not np.allclose(found.values, fqe(decisions, target, 0.8).values)


def test_a_bound_on_the_features_that_is_not_reached_changes_nothing_and_one_that_is_keeps_what_adds_up():
    decisions, target = random_log(units=300)
    assert same(fqe(decisions, target, 0.8), fqe(decisions, target, 0.8, features=12))
    assert not same(fqe(decisions, target, 0.8), fqe(decisions, target, 0.8, features=6), 1e-3)
    adds_up = decisions.contexts @ [1.0, 2, 3] + (decisions.vectors @ [4.0, 5])[decisions.actions]
    found = fqe(replace(decisions, rewards=adds_up), target, 0.0, ridge=TINY, features=6)
    assert found.chosen == pytest.approx(adds_up)


def test_an_iteration_that_would_run_away_is_told():
    decisions, target = random_log()
    assert fqe(decisions, target, 0.9).contraction < 1
    far = replace(target, expected=50 * decisions.vectors[decisions.actions])  # where no logged item is
    assert fqe(decisions, far, 0.9).contraction > 1


def test_the_order_of_the_trajectories_is_of_no_matter():
    decisions, target = random_log()
    order = np.random.default_rng(2).permutation(decisions.units[-1] + 1)
    rows = np.concatenate([np.flatnonzero(decisions.units == unit) for unit in order])
    found, other = fqe(decisions, target, 0.8), fqe(*some_of(decisions, target, order), 0.8)
    assert other.values == pytest.approx(found.values[rows])
    assert other.initial == pytest.approx(found.initial[order])
    assert other.influence == pytest.approx(found.influence[order])


def test_it_is_the_same_however_the_rows_are_cut(monkeypatch):
    decisions, target = random_log()
    whole = fqe(decisions, target, 0.8), fqe(decisions, target, 0.8, folds=3)
    monkeypatch.setattr(module, "BLOCK", 100)
    parts = fqe(decisions, target, 0.8), fqe(decisions, target, 0.8, folds=3)
    assert all(same(one, other, 1e-9) for one, other in zip(whole, parts, strict=True))
    assert parts[0].influence == pytest.approx(whole[0].influence)


def test_a_crossed_fit_has_not_seen_what_it_values():
    decisions, target = random_log(units=30)
    rows = decisions.units == 4
    changed = replace(decisions, rewards=np.where(rows, 100.0, decisions.rewards))
    crossed, other = fqe(decisions, target, 0.8, folds=5), fqe(changed, target, 0.8, folds=5)
    assert other.values[rows] == pytest.approx(crossed.values[rows])
    assert other.chosen[rows] == pytest.approx(crossed.chosen[rows])
    assert not np.allclose(other.values[~rows], crossed.values[~rows])
    assert not np.allclose(fqe(changed, target, 0.8).values[rows], fqe(decisions, target, 0.8).values[rows])
    assert crossed.influence is None


def test_two_crossed_halves_are_each_valued_by_a_fit_on_the_other():
    decisions, target = random_log(units=40)
    crossed = fqe(decisions, target, 0.8, folds=2, ridge=TINY, seed=1)
    half, contractions = np.random.default_rng(1).permutation(40) % 2, []
    logged = np.hstack([np.ones((len(decisions.units), 1)), decisions.vectors[decisions.actions]])
    contexts = np.hstack([np.ones((len(decisions.units), 1)), decisions.contexts])
    features = np.einsum("nc,nv->ncv", contexts, logged).reshape(len(contexts), -1)
    for one in (0, 1):
        units = np.flatnonzero(half == one)
        rows = np.isin(decisions.units, units)
        alone = fqe(*some_of(decisions, target, units), 0.8, ridge=TINY)
        theta = np.linalg.lstsq(features[rows], alone.chosen)[0]
        assert crossed.chosen[~rows] == pytest.approx(features[~rows] @ theta, abs=1e-5)
        contractions.append(alone.contraction)
    assert crossed.contraction == pytest.approx(max(contractions))
    assert crossed.contraction > 1.01 * min(contractions)
    assert crossed.influence is None


def test_folds_are_drawn_by_the_seed_and_are_no_more_than_the_trajectories():
    decisions, target = random_log(units=30)
    first = fqe(decisions, target, 0.8, folds=2, seed=1)
    assert np.array_equal(first.values, fqe(decisions, target, 0.8, folds=2, seed=1).values)
    assert not np.allclose(first.values, fqe(decisions, target, 0.8, folds=2, seed=2).values)
    few, chances = log_of([2, 1], [0, 0, 0], [1, 4, 1], [0, 1, 0], [[1, 0]] * 3)
    assert np.isfinite(fqe(few, chances, 1.0, folds=10).values).all()
    one, chances = log_of([2], [0, 0], [1, 4], [0, 1], [[1, 0]] * 2)
    assert fqe(one, chances, 1.0, folds=10, ridge=TINY).values == pytest.approx([5, 4])


def test_a_crossed_fit_makes_sequences_doubly_robust():
    world = sessions()
    log = world.draw(5000, seed=8)
    fitted = fqe(log.decisions, log.target, 0.9, folds=5)
    found = sequence_dr(log.decisions, log.weights, 0.9, fitted.values, fitted.chosen)
    assert abs(found.mean() - world.value(0.9)) < 4 * found.std() / np.sqrt(5000)
