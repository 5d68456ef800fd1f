"""How well a log covers a policy, and when an estimate is refused."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from what_next.off_policy.candidates import Candidate
from what_next.off_policy.decisions import Decisions, Evidence, Options, Target
from what_next.off_policy.diagnostics import (
    Overlap,
    Thresholds,
    effective_size,
    effective_size_over_steps,
    efficiency_of_steps,
    unlike_claimed,
    without_failures,
)
from what_next.off_policy.estimate import estimate, refusal
from what_next.off_policy.weighting import mean_of

THRESHOLDS = Thresholds()
SOUND = Overlap(
    ess=500.0, ess_units=400.0, mean_weight=1.0, error=0.05, largest=8.0, largest_share=0.01, carriers=200.0
)


def refused(own=SOUND, log=SOUND, support=None, thresholds=THRESHOLDS, units=400, seen=500.0, clipped=0.0, missing=0.0):
    ones = np.ones(units)
    decisions = Decisions(np.arange(units), np.zeros(units, np.int64), ones, ones, np.eye(2))
    evidence = Evidence.of(decisions, Target(ones), Options(thresholds=thresholds))
    evidence = replace(evidence, overlap=log, support=support, missing=missing)
    return refusal(Candidate(mean_of(ones), own, "decision", seen, clipped), evidence)


def test_the_effective_size_is_kishs():
    assert effective_size(np.ones(4)) == 4
    assert effective_size(np.array([2.0, 0.0, 0.0])) == 1
    assert effective_size(np.array([1.0, 2.0, 3.0])) == pytest.approx(36 / 14)
    assert effective_size(np.zeros(3)) == 0


@given(arrays(np.float64, 9, elements=st.floats(0.001, 100)), st.floats(0.01, 100))
def test_the_effective_size_lies_between_one_and_all_and_has_no_scale(weights, scale):
    size = effective_size(weights)
    assert 1 - 1e-9 <= size <= 9 + 1e-9
    assert effective_size(scale * weights) == pytest.approx(size)


def test_overlap_by_hand():
    told = Overlap.of(np.array([1.0, 3.0, 0.0, 2.0]), np.array([0, 0, 1, 2]))
    assert told.ess == pytest.approx(36 / 14)
    assert told.ess_units == pytest.approx(36 / 20)  # sums of 4, 0 and 2
    assert told.mean_weight == 1.5
    # sums less 1.5 for each row: 1, -1.5, 0.5; sqrt((1 + 2.25 + 0.25) / 2 * 3) / 4 rows
    assert told.error == pytest.approx(np.sqrt(5.25) / 4)
    assert (told.largest, told.largest_share) == (3, 0.5)


def test_the_error_of_the_mean_weight_is_that_of_a_mean():
    weights = np.random.default_rng(0).exponential(size=300)
    assert Overlap.of(weights, np.arange(300)).error == pytest.approx(weights.std(ddof=1) / np.sqrt(300))


def test_a_log_without_any_weight_is_told_to_have_none():
    told = Overlap.of(np.zeros(3), np.arange(3))
    assert (told.ess, told.ess_units, told.mean_weight, told.largest_share) == (0, 0, 0, 1)
    assert Overlap.of(np.ones(1), np.zeros(1, np.int64), ess=7.0).ess == 7


def test_later_steps_count_as_little_as_their_rewards():
    weights, steps = np.array([1.0, 2.0, 1.0, 0.0]), np.array([0, 1, 0, 1])
    efficiency = efficiency_of_steps(weights, steps)
    assert efficiency.tolist() == [1, 0.5]
    reached = np.array([2, 2])
    assert effective_size_over_steps(efficiency, reached) == pytest.approx(2 * 4 / (2 + 4))
    assert effective_size_over_steps(efficiency, reached, 0.5) == pytest.approx(2 * 2.5 / (2 + 1))
    assert effective_size_over_steps(efficiency, reached, 0.0) == 2


def test_a_step_that_few_reach_counts_as_few():
    assert effective_size_over_steps(np.array([1.0, 0.1]), np.array([100, 10])) == pytest.approx(100 * 110 / 200)


def test_a_single_row_of_a_step_is_worth_itself():
    assert efficiency_of_steps(np.array([2.0, 1.0, 3.0]), np.array([0, 0, 1])).tolist() == [9 / 5 / 2, 1]


def test_a_step_without_weight_is_worth_one_row():
    assert efficiency_of_steps(np.zeros(4), np.array([0, 0, 0, 0])).tolist() == [0]
    assert effective_size_over_steps(np.array([0.0]), np.array([100])) == pytest.approx(1)


def test_support_is_the_targets_chance_of_what_the_behaviour_policy_can_do():
    target = np.array([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]])
    log = Decisions(np.arange(2), np.array([1, 1]), np.ones(2), np.ones(2) / 2, np.eye(3))
    for behaviour, support in (([[0.0, 0.5, 0.5]], 0.7), ([[0.0, 0.5, 0.5], [1.0, 0.5, 0.0]], 0.4)):
        known = Options(behaviour=np.array(behaviour))
        assert Evidence.of(log, Target(target[:, 1], full=target), known).support == pytest.approx(support)


def test_nothing_speaks_against_a_sound_log():
    assert refused() is None
    assert refused(own=None) is None
    assert refused(support=1.0) is None


def test_what_lies_at_a_threshold_passes():
    edge = replace(SOUND, ess=50.0, ess_units=50.0, largest_share=0.1)
    assert refused(own=edge, support=0.9, units=50, seen=10.0, clipped=0.1, missing=0.1) is None
    for mean in (0.5, 1.05):  # of which one part in 25 may be chance in 400 units
        assert refused(log=replace(SOUND, mean_weight=mean, error=0.0), support=1.0) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ess": 49.9, "ess_units": 12.0}, "effective sample size is 49.9, below 50"),
        ({"ess_units": 20.0}, "effective number of units is 20.0, below 50: a few units have most of the rows"),
        ({"largest_share": 0.11}, "one decision has 11% of all weight"),
        ({"largest": 0.0, "largest_share": 1.0}, "no decision has any weight"),
        ({"ess": float("nan")}, "effective sample size"),
    ],
)
def test_an_estimate_is_refused_for_its_own_weights(change, reason):
    assert reason in refused(own=replace(SOUND, **change))


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"support": 0.89}, "89.0% of the policy's choices"),
        ({"units": 49}, "49 independent units"),
        ({"seen": 9.9}, "worth 9.9 of the policy's"),
        ({"log": replace(SOUND, mean_weight=0.7)}, "about 70.0% (the mean weight)"),
        ({"log": replace(SOUND, mean_weight=0.0, error=0.0)}, "about 0.0%"),
    ],
)
def test_every_estimate_is_refused_where_the_log_does_not_show_the_policy(more, reason):
    assert reason in refused(**more)
    assert reason in refused(own=None, **more)


def test_clipping_much_is_refused():
    assert "clipping takes 11% of the weight" in refused(clipped=0.11)


def test_a_mean_weight_is_given_three_standard_errors():
    assert refused(log=replace(SOUND, mean_weight=0.8, error=0.04)) is None
    assert refused(log=replace(SOUND, mean_weight=0.8, error=0.03)) is not None
    assert refused(log=replace(SOUND, mean_weight=0.8, error=0.04), thresholds=Thresholds(errors=2.0)) is not None


@pytest.mark.parametrize(("mean", "error"), [(1.6, 0.1), (0.3, 0.05)])
def test_a_mean_weight_far_from_1_is_refused_with_both_causes(mean, error):
    log = replace(SOUND, mean_weight=mean, error=error)
    told = refused(log=log, support=1.0)
    for part in ("too small for what it explored", "more decisions", "server.temperature", "its propensities are not"):
        assert part in told
    assert refused(own=None, log=log, support=1.0) is None  # a model asks for no propensity
    assert refused(log=replace(log, error=0.2), support=1.0) is None


@pytest.mark.parametrize(
    ("mean", "error", "units", "told"),
    [
        (1.047, 0.007, 20_000, True),
        (1.047, 0.01, 20_000, False),  # by chance
        (1.009, 0.0001, 10**6, False),  # a little
        (1.02, 0.0, 50, False),  # as where 1 row in 51 has no weight, and the log has none of these
    ],
)
def test_a_mean_weight_above_1_beyond_chance_is_refused(mean, error, units, told):
    reason = refused(log=replace(SOUND, mean_weight=mean, error=error), support=1.0, units=units)
    assert ("above 1, the most that it can be, by more than chance" in (reason or "")) == told
    assert refused(own=None, log=replace(SOUND, mean_weight=mean, error=error), support=1.0, units=units) is None


@pytest.mark.parametrize("draw", [lambda rng: rng.lognormal(-0.5, 1, 400), lambda rng: (rng.random(400) > 0.05) / 0.95])
def test_sound_weights_are_never_too_large(draw):
    rng = np.random.default_rng(0)
    assert not any(Overlap.of(draw(rng), np.arange(400)).excessive(400, THRESHOLDS.excess) for _ in range(2000))


@pytest.mark.parametrize(("scale", "told"), [(1.0, False), (1.12, True)])
def test_a_mean_weight_above_1_that_is_not_refused_yet_is_told(scale, told):
    rng = np.random.default_rng(0)
    behaviour, target = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    actions, units = rng.choice(3, 1500, p=behaviour), np.repeat(np.arange(300), 5)
    decisions = Decisions(units, actions, (rng.random(1500) < 0.4) * 1.0, behaviour[actions] / scale, np.eye(3))
    found = estimate(decisions, Target(target[actions]), Options(only="ips", resamples=10))
    assert found["estimates"]["ips"]["refused"] is None
    assert any("where 1 is the most" in note for note in found["notes"]) == told


def test_items_that_are_shown_unlike_their_propensities_are_told():
    rng, rows, claimed = np.random.default_rng(0), np.arange(2000), np.full(10, 0.1)
    for _ in range(200):
        assert unlike_claimed(rng.integers(10, size=2000), rows, claimed) is None
    shown = rng.choice(10, 2000, p=[0.28, *[0.08] * 9])
    assert "% of 2,000 independent rows, where 10.0% is claimed" in (unlike_claimed(shown, rows, claimed) or "")
    assert unlike_claimed(np.repeat(np.arange(20) % 10, 100), rows // 100, claimed) is None  # each drawn but once
    known = Options(behaviour=claimed[None])
    log = Decisions(rows, shown, np.ones(2000), np.full(2000, 0.1), np.eye(10))
    evidence = Evidence.of(log, Target(np.full(2000, 0.1)), known)
    assert "unlike their propensities" in refusal(Candidate(mean_of(np.ones(2000)), SOUND, "decision", 500.0), evidence)


def test_all_reasons_are_told():
    reasons = refused(own=replace(SOUND, ess=1.0, largest_share=0.9), support=0.1, units=3, seen=1.0, clipped=0.5)
    assert reasons.count(";") >= 5


def test_a_log_of_clicked_slates_only_is_told():
    rng = np.random.default_rng(0)
    rewards, slates = (rng.random((500, 3)) < 0.2).astype(np.float64), np.repeat(np.arange(500), 3)
    assert without_failures(rewards.ravel(), slates) is None
    clicked = rewards[rewards.any(axis=1)]
    assert len(clicked) < 300
    number = len(clicked)
    assert f"each of the {number} slates has an item with a reward" in str(
        without_failures(clicked.ravel(), slates[: 3 * number])
    )


def test_slates_that_hardly_ever_earn_nothing_are_no_sign_of_missing_ones():
    rewards = (np.random.default_rng(0).random((500, 8)) < 0.7).astype(np.float64)
    assert (rewards.sum(axis=1) > 0).all()
    assert without_failures(rewards.ravel(), np.repeat(np.arange(500), 8)) is None


@pytest.mark.parametrize(
    ("rewards", "told"), [([1, 1, 1], True), ([0, 0, 0], False), ([1, 0, 1], False), ([3, 5], False)]
)
def test_single_decisions_that_all_earned_the_same_are_told(rewards: list[float], told: bool):
    assert (without_failures(np.array(rewards, np.float64), None) is not None) == told
