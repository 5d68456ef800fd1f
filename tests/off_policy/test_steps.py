"""Support of whole trajectories and slates, and what is made of their rows."""

from dataclasses import replace

import numpy as np
import pytest

from what_next.off_policy.decisions import Decisions, Options, Target
from what_next.off_policy.diagnostics import StepSupport, Thresholds
from what_next.off_policy.sequences import sequence_support

from .logged import BEHAVIOUR, LOG, SEQUENCES, TARGET, difference, told
from .worlds import sessions

PRODUCTS = ["cascade_ips", "cascade_snips", "slate_ips", "slate_snips"]


def walk(behaviour, target, units=2000, steps=10, seed=0):
    """Trajectories of as many decisions each, rewards of 1, and policies that look at nothing."""
    rows, shown, wanted = units * steps, np.array(behaviour), np.array(target)
    actions = np.random.default_rng(seed).choice(len(shown), size=rows, p=shown)
    contexts = np.tile(np.eye(steps), (units, 1))
    log = Decisions(
        np.repeat(np.arange(units), steps),
        actions,
        np.ones(rows),
        shown[actions],
        np.eye(len(shown)),
        contexts=contexts,
    )
    full = np.tile(wanted, (rows, 1))
    return log, Target(wanted[actions], full, full)


LOST = walk((0.5, 0.5, 0.0), (0.46, 0.46, 0.08))


def refused(result, names):
    return [name for name in names if result["estimates"][name]["refused"]]


def test_what_is_lost_at_each_step_adds_up_along_a_trajectory():
    result = told(*LOST, options=Options(discount=1.0), resamples=2)
    assert result["estimates"]["ips"]["refused"] is None
    assert refused(result, SEQUENCES) == SEQUENCES
    # the mean of 0.92^t over ten steps is 0.65
    assert "over 10 steps the log supports at most 65% of what" in result["estimates"]["fqe"]["refused"]


def test_steps_that_hardly_count_are_no_loss():
    assert refused(told(*LOST, options=Options(discount=0.1), resamples=2), SEQUENCES) == []


def test_a_step_counts_by_how_many_reach_it():
    log, target = LOST
    kept = (log.units % 2 == 0) | (np.arange(len(log.units)) % 10 == 0)  # every other trajectory has one step
    parts = {name: getattr(log, name)[kept] for name in ("units", "actions", "rewards", "propensities", "contexts")}
    shown = Target(target.chances[kept], target.expected[kept])
    result = told(replace(log, **parts), shown, options=Options(discount=1.0), resamples=2)
    # twice 0.92, then once each (0.92 + 0.92^t) / 2 for t = 2 .. 10, over 11, is 80%; three standard errors make it 81%
    assert "over 10 steps the log supports at most 81% of what" in result["estimates"]["per_decision_is"]["refused"]


def test_later_weights_are_no_reason_where_no_later_reward_counts():
    weights = np.ones((400, 2))
    weights[:, 1] = np.where(np.arange(400) < 10, 40.0, 0.0)
    log = Decisions(np.repeat(np.arange(400), 2), np.zeros(800, np.int64), np.ones(800), np.full(800, 0.02), np.eye(1))
    target = Target(0.02 * weights.ravel())
    assert told(log, target)["diagnostics"]["ess_units"] < 50
    assert refused(told(log, target, options=Options(discount=0.0)), SEQUENCES[:2]) == []
    assert refused(told(log, target, options=Options(discount=0.5)), SEQUENCES[:2]) == SEQUENCES[:2]


def test_what_is_lost_in_a_slate_speaks_against_products_alone():
    log, target = LOST
    slates = replace(log, slates=log.units, positions=np.tile(np.arange(10), 2000))
    result = told(slates, target, resamples=2)
    assert refused(result, PRODUCTS) == PRODUCTS
    alone = told(replace(slates, marginal=True), target, resamples=2)  # each slot was drawn by itself
    assert refused(alone, ["independent_ips", "independent_snips"]) == []
    assert "at most 43% of what" in result["estimates"]["slate_ips"]["refused"]  # 0.92^10


@pytest.mark.parametrize("seed", range(5))
def test_a_supported_policy_is_not_refused_for_its_steps(seed):
    log, target = walk((0.5, 0.5), (0.3, 0.7), seed=seed)
    assert refused(told(log, target, options=Options(discount=1.0), resamples=2), SEQUENCES) == []


def test_a_share_by_hand():
    steps = StepSupport(np.array([0.9, 0.5, 0.1]), np.array([400.0, 400, 10]), 1.0, 400, np.array([1.0, 1, 2]))
    # no error where all count alike; at the last step too few count, and no more is left than before
    assert steps.share(Thresholds()) == pytest.approx((0.9 + 0.5 + 2 * 0.5) / 4)
    wide = StepSupport(np.array([0.6]), np.array([100.0]), 1.0, 400, np.ones(1))
    assert wide.share(Thresholds()) == pytest.approx(0.6 * (1 + 3 * np.sqrt(1 / 100 - 1 / 400)))
    assert wide.lost(Thresholds(support=0.7)) is None
    assert "at most 76%" in wide.lost(Thresholds())


def test_mean_products_count_ended_trajectories_with_their_last():
    log = Decisions(np.array([0, 0, 1]), np.zeros(3, np.int64), np.ones(3), np.ones(3), np.eye(1))
    assert sequence_support(log, np.array([2.0, 3.0, 0.5])).means == pytest.approx([1.25, 3.25])


def test_slates_of_one_row_are_none_and_others_are_no_trajectories():
    drawn = sessions().draw(300, seed=0)
    log, rows, options = drawn.decisions, len(drawn.decisions.units), Options(discount=0.5)
    single = replace(log, slates=np.arange(rows), positions=np.zeros(rows, np.int64))
    assert told(single, drawn.target, options=options) == told(log, drawn.target, options=options)
    places = np.arange(rows) - np.flatnonzero(np.diff(log.units, prepend=-1))[log.units]
    slates = replace(log, slates=log.units, positions=places)
    lacking = told(slates, drawn.target, options=options)["left_out"]
    assert [lacking[name] for name in SEQUENCES] == ["rows are slates, whose positions are no steps"] * 4
    assert not set(SEQUENCES) & set(told(slates, drawn.target)["left_out"])  # nobody asked for them


def test_an_item_that_the_log_never_shows_is_no_chance_where_the_policy_often_would():
    for share, expected in ((0.15, True), (0.05, False)):
        log, target = walk((0.5, 0.5, 0.0), ((1 - share) / 2, (1 - share) / 2, share), units=400, steps=1)
        # weights that vary: the mean weight may be 1 by its error
        propensities = np.where(log.actions == 0, 0.1, 0.9)
        result = told(replace(log, propensities=propensities), target, resamples=2)
        assert result["diagnostics"]["never_shown"] == pytest.approx(share if 400 * share >= 30 else 0)
        refused_ = [one for one in result["estimates"].values() if "never shows" in (one["refused"] or "")]
        assert len(refused_) == (len(result["estimates"]) if expected else 0)


@pytest.mark.parametrize("name", ["ips", "dr", "mips"])
def test_one_estimate_alone_is_what_it_is_among_all(name):
    options = Options(clusters=np.arange(10))
    alone = told(options=options, only=name)
    assert list(alone["estimates"]) == [name]
    among = told(options=options)["estimates"][name]
    for number, one in among.items():
        assert alone["estimates"][name][number] == (pytest.approx(one) if isinstance(one, float) else one)
    assert alone["left_out"] == {}
    apart = difference(LOG, TARGET, Target(LOG.propensities, BEHAVIOUR @ LOG.vectors), replace(options, only=name))
    assert list(apart) == [name]


@pytest.mark.parametrize(("name", "fits"), [("per_decision_is", 0), ("sequence_dr", 1), ("fqe", 1), ("ips", 0)])
def test_for_one_estimate_alone_nothing_else_is_fitted(monkeypatch, name, fits):
    from what_next.off_policy import candidates

    made, inner = [], candidates.fqe
    monkeypatch.setattr(candidates, "fqe", lambda *args, **more: made.append(1) or inner(*args, **more))
    monkeypatch.setattr(candidates, "cross_fit", lambda *args, **more: made.append("a reward model"))
    drawn = sessions().draw(300, seed=0)
    result = told(drawn.decisions, drawn.target, options=Options(discount=0.5), only=name)
    assert (list(result["estimates"]), made) == ([name], [1] * fits)


def test_what_cannot_be_made_alone_says_why():
    result = told(LOG, Target(TARGET.chances), only="dr")
    assert (result["estimates"], list(result["left_out"])) == ({}, ["dr"])
