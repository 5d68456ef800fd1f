"""The cross-fitted reward model."""

import numpy as np
import pytest

from what_next.off_policy import reward_model
from what_next.off_policy.reward_model import Bilinear, chosen_penalty, cross_fit, deal
from what_next.off_policy.weighting import dm

from .bandits import bandit

RNG = np.random.default_rng(0)
ROWS = 40
CONTEXTS, VECTORS = RNG.normal(size=(ROWS, 2)), RNG.normal(size=(6, 3))
ACTIONS, CHANCES = RNG.integers(6, size=ROWS), RNG.dirichlet(np.ones(6), size=ROWS)
REWARDS, FOLDS = RNG.normal(size=ROWS), np.arange(ROWS) % 3


def fit(rewards=REWARDS, expected=CHANCES @ VECTORS, penalties=(2.0,)):
    return cross_fit(CONTEXTS, VECTORS[ACTIONS], expected, rewards, FOLDS, penalties=penalties)


def test_each_fold_is_told_by_ridge_regression_on_the_others():
    psi = Bilinear.of(CONTEXTS, VECTORS[ACTIONS], 512)(CONTEXTS, VECTORS[ACTIONS])
    others = FOLDS != 1
    penalty = np.sqrt(2.0) * np.eye(psi.shape[1])[1:]  # as rows of zeros that are to be told; the constant is free
    theta = np.linalg.lstsq(np.vstack([psi[others], penalty]), np.append(REWARDS[others], np.zeros(len(penalty))))[0]
    assert fit().chosen[FOLDS == 1] == pytest.approx(psi[FOLDS == 1] @ theta)


def test_the_mean_over_the_targets_actions_is_the_model_at_their_mean_vector():
    by_item = np.stack([fit(expected=np.tile(vector, (ROWS, 1))).expected for vector in VECTORS], axis=1)
    assert fit().expected == pytest.approx((CHANCES * by_item).sum(axis=1))
    assert fit().chosen == pytest.approx(by_item[np.arange(ROWS), ACTIONS])


def test_a_rows_own_reward_is_in_no_model_that_is_asked_about_it():
    changed = REWARDS.copy()
    changed[4] += 10
    same = FOLDS[4] == FOLDS
    moved = np.abs(fit(changed).chosen - fit().chosen)
    assert moved[same].max() < 1e-12
    assert moved[~same].min() > 1e-3


def test_the_pull_of_a_row_is_its_residual_times_what_its_reward_moves_the_estimate():
    base = fit()
    for row in (0, 7, 11):
        changed = REWARDS.copy()
        changed[row] += 1
        moved = (fit(changed).expected - base.expected).sum()
        assert base.pull[row] == pytest.approx(moved * (REWARDS[row] - base.chosen[row]))


def test_the_least_penalty_is_taken_that_tells_unseen_rows_about_as_well_as_the_best():
    errors = np.array([[4.0, 2.0, 1.0, 1.0], [4.0, 1.0, 2.0, 1.0], [4.0, 2.0, 1.0, 9.0], [4.0, 2.0, 1.0, 1.0]])
    # the third is best; the second's excess is 1, -1, 1, 1: 0.5 on average, its standard error 0.433
    assert chosen_penalty(errors, (1.0, 2.0, 3.0, 4.0)) == 2
    errors[0, 1] = 1.5  # 0.375, and 0.410
    assert chosen_penalty(errors, (1.0, 2.0, 3.0, 4.0)) == 1
    # the last is worse by 1.75, and nobody knows: 1.81
    assert chosen_penalty(errors, (4.0, 3.0, 2.0, 1.0)) == 3


def test_penalties_are_tried_on_rows_that_the_models_have_not_seen():
    exact = 1 + CONTEXTS[:, 0] * VECTORS[ACTIONS, 0]
    told = fit(exact, penalties=(1e-9, 1e6))
    assert told.penalty == 1e-9
    assert told.chosen == pytest.approx(exact, abs=1e-6)
    assert fit(RNG.normal(size=ROWS), penalties=(1e-9, 1e6)).penalty == 1e6  # nothing to learn


def test_without_contexts_the_items_alone_are_read():
    mean = np.array([REWARDS[(ACTIONS == 2) & (fold != FOLDS)].mean() for fold in range(3)])
    one_hot = np.eye(6)[ACTIONS]
    told = cross_fit(None, one_hot, one_hot, REWARDS, FOLDS, penalties=(1e-9,))
    shown = ACTIONS == 2
    assert told.chosen[shown] == pytest.approx(mean[FOLDS[shown]], abs=1e-6)


def test_the_work_may_be_cut_in_blocks(monkeypatch):
    whole = fit()
    monkeypatch.setattr(reward_model, "BLOCK", 50)
    assert fit().chosen == pytest.approx(whole.chosen, abs=1e-12)
    assert fit().pull == pytest.approx(whole.pull, abs=1e-12)


def test_units_are_dealt_evenly_and_by_the_seed():
    folds = deal(23, 5, seed=1)
    assert sorted(np.bincount(folds).tolist()) == [4, 4, 5, 5, 5]
    assert (deal(23, 5, seed=1) == folds).all()
    assert (deal(23, 5, seed=2) != folds).any()


def test_the_pull_tells_how_much_the_estimate_varies_from_log_to_log():
    world, told, spread = bandit(), [], []
    for seed in range(100):
        log, target, _ = world.draw(400, seed)
        model = cross_fit(
            log.contexts, log.vectors[log.actions], target.expected, log.rewards, np.arange(400) % 5, penalties=(1.0,)
        )
        terms = dm(model.expected, model.pull)
        told.append(terms.value)
        spread.append(terms.tops.std() / 20)
    assert np.mean(spread) == pytest.approx(np.std(told), rel=0.25)
