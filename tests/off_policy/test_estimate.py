"""All estimates of a log at once."""

import json
from dataclasses import replace

import numpy as np
import pytest

from what_next.metrics.bootstrap import empirical_bernstein
from what_next.off_policy.decisions import Decisions, Options, Target
from what_next.off_policy.diagnostics import effective_size
from what_next.off_policy.reward_model import cross_fit, deal
from what_next.off_policy.sequences import per_decision_is
from what_next.off_policy.weighting import clusters_of

from .logged import BEHAVIOUR, LOG, ONE_STEP, SEQUENCES, TARGET, WEIGHTS, difference, means, plain, told
from .worlds import sessions

LARGEST = float((TARGET.full / BEHAVIOUR).max())


def test_each_estimate_is_what_its_function_says():
    result = told(options=Options(clip=2.0, switch=3.0, clusters=np.arange(10)), seed=4, force=True)
    found, folds = means(result), deal(400, 5, seed=4)
    vectors = LOG.vectors[LOG.actions]
    model = cross_fit(LOG.contexts, vectors, TARGET.expected, LOG.rewards, folds)
    residual = LOG.rewards - model.chosen
    assert found == pytest.approx(
        {
            "ips": (WEIGHTS * LOG.rewards).mean(),
            "clipped_ips": (np.minimum(WEIGHTS, 2) * LOG.rewards).mean(),
            "snips": (WEIGHTS * LOG.rewards).sum() / WEIGHTS.sum(),
            "dm": model.expected.mean(),
            "dr": (model.expected + WEIGHTS * residual).mean(),
            "switch_dr": (model.expected + WEIGHTS * (WEIGHTS <= 3) * residual).mean(),
            "mips": (WEIGHTS * LOG.rewards).mean(),
        }
    )
    assert result["thresholds"]["clip"] == 2
    assert result["thresholds"]["switch"] == 3


def test_every_estimate_has_its_interval_and_what_it_rests_on():
    result = told(options=Options(behaviour=BEHAVIOUR))
    assert list(result["estimates"]) == ONE_STEP
    for one in result["estimates"].values():
        assert one["low"] < one["mean"] < one["high"]
        assert one["support"] == pytest.approx(1)
        assert one["per"] == "decision"
        assert one["refused"] is None
        assert "forced" not in one
    assert result["estimates"]["ips"]["ess"] == pytest.approx(effective_size(WEIGHTS))
    assert result["estimates"]["dm"]["ess"] is None
    assert (result["n"], result["units"], result["level"], result["left_out"]) == (400, 400, 95, {})
    assert result["logged"]["mean"] == LOG.rewards.mean()
    assert result["diagnostics"]["largest"] == WEIGHTS.max()
    assert result["thresholds"]["clip"] == result["thresholds"]["switch"] == 20  # the root of 400


def test_the_same_seed_gives_the_same_bytes():
    one, other = json.dumps(told(seed=3)), json.dumps(told(seed=3))
    assert one == other
    assert one != json.dumps(told(seed=4))
    assert "NaN" not in one


def test_a_level_of_ninety_is_narrower():
    known = Options(behaviour=BEHAVIOUR)
    wide, narrow = told(options=known)["estimates"], told(options=known, level=90.0)["estimates"]
    for name in ONE_STEP:
        assert wide[name]["low"] < narrow[name]["low"] < narrow[name]["high"] < wide[name]["high"]
    many = [told(options=known, level=level)["estimates"]["ips"]["bernstein_high"] for level in (95.0, 90.0)]
    assert many[1] < many[0]


def test_bernstein_bounds_need_a_known_largest_weight():
    without = told()["estimates"]
    assert [name for name, one in without.items() if one["bernstein_low"] is not None] == ["clipped_ips"]
    known = told(options=Options(behaviour=BEHAVIOUR))["estimates"]
    bounded = [name for name in ONE_STEP if known[name]["bernstein_low"] is not None]
    assert bounded == ["ips", "clipped_ips", "mips"]
    for name in bounded:
        assert known[name]["bernstein_low"] < known[name]["low"]
        assert known[name]["bernstein_high"] > known[name]["high"]


def test_the_largest_possible_weight_is_that_of_the_distributions():
    full = replace(TARGET, full=None)
    largest = float((TARGET.full / BEHAVIOUR).max())
    assert told(options=Options(behaviour=BEHAVIOUR))["diagnostics"]["largest_possible"] == pytest.approx(largest)
    uniform = replace(LOG, propensities=np.full(400, 0.1))
    known = Options(behaviour=np.full((1, 10), 0.1))
    assert told(uniform, full, options=known)["diagnostics"]["largest_possible"] == pytest.approx(10)


def test_the_largest_possible_weight_need_not_be_in_the_log():
    few = plain(LOG.actions[:5], LOG.rewards[:5], LOG.propensities[:5], 10)
    target = Target(TARGET.chances[:5], full=TARGET.full[:5])
    found = told(few, target, options=Options(behaviour=BEHAVIOUR[:5]))["diagnostics"]
    assert found["largest_possible"] == pytest.approx((TARGET.full[:5] / BEHAVIOUR[:5]).max())
    assert found["largest_possible"] > 1.1 * found["largest"]


def test_a_wider_range_of_rewards_gives_wider_bernstein_bounds():
    options = Options(behaviour=BEHAVIOUR)
    one = told(options=options)["estimates"]["ips"]
    other = told(options=replace(options, reward_range=(-1.0, 5.0)))["estimates"]["ips"]
    assert other["bernstein_low"] < one["bernstein_low"]
    assert other["bernstein_high"] > one["bernstein_high"]


def test_without_a_known_range_of_rewards_there_are_no_bounds_unless_these_are_all_0_or_1():
    known = Options(behaviour=BEHAVIOUR)
    assert told(options=known)["diagnostics"]["reward_range"] == [0, 1]
    for rewards in (2 * LOG.rewards, np.zeros(400)):  # what the log has none of may be anything
        other = told(replace(LOG, rewards=rewards), options=known)
        assert other["diagnostics"]["reward_range"] is None
    assert all(one["bernstein_low"] is one["bernstein_high"] is None for one in other["estimates"].values())
    given = told(replace(LOG, rewards=2 * LOG.rewards), options=replace(known, reward_range=(0.0, 2.0)))
    assert given["estimates"]["ips"]["bernstein_high"] is not None
    assert [one["diagnostics"]["reward_range_is_given"] for one in (other, given)] == [False, True]


def test_estimated_propensities_bound_nothing():
    options = Options(behaviour=BEHAVIOUR, reward_range=(0.0, 1.0), estimated=True)
    assert all(one["bernstein_low"] is None for one in told(options=options)["estimates"].values())


def test_bernstein_bounds_stay_where_a_value_can_be():
    log = replace(LOG, rewards=np.ones(400), propensities=LOG.propensities / 2)  # wrong chances: all weights doubled
    options = Options(behaviour=BEHAVIOUR / 2, reward_range=(0.0, 1.0), force=True)
    one = told(log, options=options)["estimates"]["ips"]
    low, _ = empirical_bernstein(2 * WEIGHTS, (0.0, 2 * LARGEST), 60.0)
    assert low > 1
    found = told(log, options=replace(options, level=60.0))["estimates"]["ips"]
    assert (found["bernstein_low"], found["bernstein_high"]) == (1.0, 1.0)
    assert one["bernstein_low"] <= one["bernstein_high"] == 1.0


@pytest.mark.parametrize(("low", "high", "span"), [(0.4, 0.6, (0.0, 0.6)), (-0.6, -0.4, (-0.6, 0.0))])
def test_nothing_is_within_the_range_of_weighted_rewards(low, high, span):
    log = replace(LOG, rewards=low + (high - low) * LOG.rewards)
    one = told(log, options=Options(behaviour=BEHAVIOUR, reward_range=(low, high)))["estimates"]["ips"]
    bounds = empirical_bernstein(WEIGHTS * log.rewards, (LARGEST * span[0], LARGEST * span[1]), 95.0)
    assert (one["bernstein_low"], one["bernstein_high"]) == pytest.approx(tuple(np.clip(bounds, *span)))


def test_what_cannot_be_made_is_left_out_with_the_reason():
    bare = plain(LOG.actions, LOG.rewards, LOG.propensities, 10)
    lacking = told(bare, Target(TARGET.chances))["left_out"]
    assert set(lacking) == {"dm", "dr", "switch_dr", "mips"}
    assert "mean over the item vectors" in lacking["dm"]
    assert "neither categories nor attributes" in lacking["mips"]
    assert "mean over the item vectors" in told(LOG, Target(TARGET.chances))["left_out"]["dr"]
    one_hot = told(bare, replace(TARGET, expected=TARGET.full))["left_out"]
    assert set(one_hot) == {"mips"}
    one_unit = replace(LOG, units=np.zeros(400, np.int64))
    assert "single unit" in told(one_unit, force=True)["left_out"]["dm"]


def test_clusters_are_made_of_vectors_and_weights_averaged_where_distributions_are_not_known():
    known = told(options=Options(behaviour=BEHAVIOUR))["estimates"]["mips"]
    assert "differs from row to row" in told()["left_out"]["mips"]
    three = Options(behaviour=BEHAVIOUR, clusters=clusters_of(LOG.vectors, 3, 0))  # about the root of 10 items
    assert known["mean"] == told(options=three)["estimates"]["mips"]["mean"]
    wide = replace(LOG, vectors=np.random.default_rng(0).normal(size=(10, 12)))  # no less attributes than items
    assert "mips" in told(wide, replace(TARGET, expected=None), options=Options(behaviour=BEHAVIOUR))["estimates"]
    shown = TARGET.full.mean(axis=0)
    blind = replace(LOG, propensities=BEHAVIOUR.mean(axis=0)[LOG.actions])  # weights of the items alone
    averaged = told(blind, Target(shown[LOG.actions]))["estimates"]
    assert averaged["mips"]["mean"] == pytest.approx(averaged["ips"]["mean"], abs=0.1)
    assert averaged["mips"]["ess"] > averaged["ips"]["ess"]


def test_units_are_drawn_whole():
    four = np.repeat(np.arange(400), 4)  # every decision four times
    copies = plain(LOG.actions[four], LOG.rewards[four], LOG.propensities[four], 10)
    target = Target(TARGET.chances[four])
    once = told(target=Target(TARGET.chances), resamples=500)["estimates"]["snips"]
    whole = told(replace(copies, units=four), target, resamples=500)["estimates"]["snips"]
    alone = told(copies, target, resamples=500)["estimates"]["snips"]
    assert [whole[name] for name in ("mean", "low", "high")] == pytest.approx(
        [once[name] for name in ("mean", "low", "high")]
    )
    assert whole["high"] - whole["low"] == pytest.approx(2 * (alone["high"] - alone["low"]), rel=0.2)


def test_bernstein_bounds_are_of_units_with_as_many_rows_each():
    options = Options(behaviour=BEHAVIOUR)
    even = told(replace(LOG, units=np.repeat(np.arange(100), 4)), options=options)["estimates"]["ips"]
    means_ = (WEIGHTS * LOG.rewards).reshape(100, 4).mean(axis=1)
    assert (even["bernstein_low"], even["bernstein_high"]) == (0.0, 1.0)
    assert empirical_bernstein(means_, (0.0, LARGEST), 95.0)[1] > 1  # a mean of clicks cannot be there
    uneven = told(replace(LOG, units=np.append(0, np.arange(399))), options=options)["estimates"]["ips"]
    assert uneven["bernstein_low"] is None
    assert uneven["low"] < uneven["mean"]


def test_slates_are_told_in_addition_under_three_models():
    rng = np.random.default_rng(0)
    slates, positions = np.repeat(np.arange(300), 3), np.tile(np.arange(3), 300)
    chances = np.array([0.5, 0.3, 0.2])
    actions = rng.integers(3, size=900)
    log = Decisions(slates, actions, rng.random(900), np.full(900, 1 / 3), np.eye(3), positions, slates)
    options = Options(behaviour=np.full((1, 3), 1 / 3), reward_range=(-1.0, 2.0))
    # Drawn with replacement: the chance given the items above is the marginal one, and either may be said.
    result, alone = (
        told(replace(log, marginal=said), Target(chances[actions], full=np.tile(chances, (900, 1))), options=options)
        for said in (False, True)
    )
    found = {
        f"{model}_{kind}": (alone if model == "independent" else result)["estimates"][f"{model}_{kind}"]
        for model in ("independent", "cascade", "slate")
        for kind in ("ips", "snips")
    }
    weights = (3 * chances[actions]).reshape(300, 3)
    rewards = log.rewards.reshape(300, 3)
    whole = weights.prod(axis=1, keepdims=True)
    assert found["independent_ips"]["mean"] == pytest.approx((weights * rewards).sum(axis=1).mean())
    assert found["cascade_ips"]["mean"] == pytest.approx((weights.cumprod(axis=1) * rewards).sum(axis=1).mean())
    assert found["slate_ips"]["mean"] == pytest.approx((whole * rewards).sum(axis=1).mean())
    assert all(one["per"] == "slate" and one["refused"] is None for one in found.values())
    assert found["independent_ips"]["ess"] > found["cascade_ips"]["ess"] > found["slate_ips"]["ess"]
    values = (
        (weights * rewards).sum(axis=1),
        (weights.cumprod(axis=1) * rewards).sum(axis=1),
        (whole * rewards).sum(axis=1),
    )
    largest = 3 * 1.5, 1.5 + 1.5**2 + 1.5**3, 3 * 1.5**3  # of the sums of a slate's weights
    for name, value, most in zip(("independent", "cascade", "slate"), values, largest, strict=True):
        one = found[f"{name}_ips"]
        bounds = empirical_bernstein(value, (-most, 2 * most), 95.0)
        assert (one["bernstein_low"], one["bernstein_high"]) == pytest.approx(bounds)
    assert found["cascade_snips"]["bernstein_low"] is None
    assert "per_decision_is" not in result["estimates"]


def test_sequences_are_told_where_units_go_on_and_a_discount_is_given():
    drawn = sessions().draw(300, seed=0)
    log, target = drawn.decisions, drawn.target
    assert set(told(log, target)["left_out"]) >= set(SEQUENCES)
    result = told(log, target, options=Options(discount=0.5))
    assert list(result["estimates"])[-4:] == SEQUENCES
    for name in SEQUENCES:
        one = result["estimates"][name]
        assert one["per"] == "trajectory"
        assert one["low"] < one["mean"] < one["high"]
        assert one["mean"] == pytest.approx(sessions().value(0.5), abs=2 * (one["high"] - one["low"]))
    plain_ = per_decision_is(log, drawn.weights, 0.5).mean()
    assert result["estimates"]["per_decision_is"]["mean"] == pytest.approx(plain_)
    assert result["estimates"]["fqe"]["ess"] is None
    far = told(log, target, options=Options(discount=1.0))["estimates"]["per_decision_is"]["ess"]
    assert far < result["estimates"]["per_decision_is"]["ess"]
    bare = told(log, Target(target.chances), options=Options(discount=0.5))
    assert {"sequence_dr", "fqe"} <= set(bare["left_out"])
    assert "per_decision_is" in bare["estimates"]


def test_a_difference_is_paired():
    other = Target(LOG.propensities, BEHAVIOUR @ LOG.vectors, BEHAVIOUR)
    options = Options(behaviour=BEHAVIOUR)
    found = difference(LOG, TARGET, other, replace(options, resamples=300))
    one, two = (told(target=target, options=options, resamples=300) for target in (TARGET, other))
    for name in ONE_STEP:
        assert found[name]["mean"] == pytest.approx(means(one)[name] - means(two)[name])
        assert found[name]["refused"] is None
    width = {name: found[name]["high"] - found[name]["low"] for name in ONE_STEP}
    single = {name: one["estimates"][name]["high"] - one["estimates"][name]["low"] for name in ONE_STEP}
    assert width["snips"] < np.hypot(single["snips"], single["snips"])


def test_a_policy_differs_from_itself_by_nothing():
    for one in difference(LOG, TARGET, TARGET, Options(resamples=50)).values():
        assert (one["mean"], one["low"], one["high"]) == (0, 0, 0)
