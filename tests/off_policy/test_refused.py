"""What is refused, and why; and logs of which nothing can be told."""

from dataclasses import replace

import numpy as np
import pytest

from what_next.errors import DataError
from what_next.off_policy.decisions import Options, Target
from what_next.off_policy.diagnostics import Thresholds
from what_next.off_policy.fqe import fqe

from .logged import LOG, ONE_STEP, SEQUENCES, apart, difference, means, plain, told
from .worlds import sessions


def test_the_effective_size_of_units_counts_as_well():
    few = replace(LOG, units=np.repeat(np.arange(40), 10))
    result = told(few)
    assert result["diagnostics"]["ess"] > 50 > result["diagnostics"]["ess_units"]
    assert all("units" in one["refused"] for one in result["estimates"].values())


def test_a_model_is_refused_too_where_a_few_units_have_most_of_the_rows():
    uneven = replace(LOG, units=np.concatenate([np.zeros(340, np.int64), np.arange(1, 61)]))
    assert "the effective number of units is 1.4, below 50" in told(uneven)["estimates"]["dm"]["refused"]


@pytest.mark.parametrize("known", [True, False])
def test_without_overlap_everything_is_refused(known):
    log, target, behaviour = apart()
    result = told(log, target, options=Options(behaviour=behaviour if known else None, clusters=np.array([0, 1, 0, 1])))
    assert list(result["estimates"]) == ONE_STEP
    for one in result["estimates"].values():
        assert "of the policy's choices" in one["refused"]
        assert one["mean"] is one["low"] is one["high"] is one["bernstein_low"] is None
    assert result["diagnostics"]["support"] == 0
    assert result["diagnostics"]["support_is_known"] is known


@pytest.mark.parametrize("seed", range(5))
def test_a_log_that_hardly_ever_shows_what_the_policy_would_is_refused_too(seed):
    rng, chance = np.random.default_rng(seed), 1e-3
    behaviour = np.array([[0.5 - chance, 0.5 - chance, chance, chance]])
    actions = rng.choice(4, size=2000, p=behaviour[0])
    full = np.tile(behaviour[0, ::-1], (2000, 1))
    log = plain(actions, rng.random(2000), behaviour[0, actions], 4)
    target = Target(full[np.arange(2000), actions], full, full)
    for options in (Options(behaviour=behaviour), Options()):
        assert all(one["refused"] for one in told(log, target, options=options)["estimates"].values())


def test_force_shows_what_is_refused_and_marks_it():
    log, target, behaviour = apart()
    for one in told(log, target, options=Options(behaviour=behaviour), force=True)["estimates"].values():
        assert one["forced"] is True
        assert one["refused"]
    forced = told(log, target, force=True)["estimates"]
    assert forced["ips"]["mean"] == 0
    assert forced["snips"]["mean"] is forced["snips"]["low"] is None  # nothing over nothing
    assert forced["dm"]["mean"] == pytest.approx(1, abs=0.01)


def test_thresholds_are_the_callers():
    strict = told(thresholds=Thresholds(ess=1000.0))["estimates"]
    assert all(one["refused"] for one in strict.values())
    assert told(thresholds=Thresholds(clipped=0.0), options=Options(clip=1.0))["estimates"]["clipped_ips"]["refused"]


def test_clipping_most_of_the_weight_is_refused():
    found = told(options=Options(clip=0.5))["estimates"]
    assert "clipping" in found["clipped_ips"]["refused"]
    assert found["ips"]["refused"] is None


def test_policies_that_leave_nothing_to_chance_have_weights_of_one():
    certain = replace(LOG, propensities=np.ones(400))
    assert means(told(certain, Target(np.ones(400))))["ips"] == pytest.approx(LOG.rewards.mean())


def test_a_log_that_contradicts_what_is_said_of_it_is_an_error():
    with pytest.raises(DataError, match="rewards reach from 0 to 1"):
        told(options=Options(reward_range=(0.0, 0.5)))


@pytest.mark.parametrize(("contraction", "refused"), [(0.99, False), (1.0, True), (1.2, True)])
@pytest.mark.parametrize(("crossed", "name"), [(True, "sequence_dr"), (False, "fqe")])
def test_a_fit_that_does_not_converge_is_refused(monkeypatch, contraction, refused, crossed, name):
    def fitted(*args, folds=1, **more):
        found = fqe(*args, folds=folds, **more)
        return replace(found, contraction=contraction) if crossed == (folds > 1) else found

    monkeypatch.setattr("what_next.off_policy.candidates.fqe", fitted)
    drawn = sessions().draw(300, seed=0)
    found = told(drawn.decisions, drawn.target, options=Options(discount=0.5), resamples=2)["estimates"]
    assert [one for one in SEQUENCES if found[one]["refused"]] == [name] * refused
    assert not refused or "does not converge" in found[name]["refused"]


def test_a_difference_with_refused_evidence_is_refused():
    log, target, behaviour = apart()
    sound = Target(log.propensities, np.tile(behaviour, (2000, 1)), np.tile(behaviour, (2000, 1)))
    for pair, which in (((target, sound), "the policy: "), ((sound, target), "the other policy: ")):
        for one in difference(log, *pair, Options(resamples=20)).values():
            assert one["refused"].startswith(which)
            assert one["mean"] is None
    forced = difference(log, target, sound, Options(resamples=20, force=True))["ips"]
    assert (forced["mean"], forced["forced"]) == (-1, True)
