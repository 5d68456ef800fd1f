"""Numbers near the ends of what a float holds."""

import json
from dataclasses import replace

import numpy as np
import pytest

from what_next.errors import DataError, SetupError
from what_next.off_policy.decisions import Options
from what_next.off_policy.diagnostics import Overlap, effective_size, efficiency_of_steps

from .logged import BEHAVIOUR, LOG, TARGET, difference, told
from .worlds import sessions

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def strict(result):
    return json.dumps(result, allow_nan=False)


def test_effective_sizes_have_no_scale():
    weights, units = np.array([1.0, 3.0, 0.0, 2.0]), np.array([0, 0, 1, 2])
    for scale in (1e-200, 1e200):
        assert effective_size(scale * weights) == pytest.approx(36 / 14)
        assert efficiency_of_steps(scale * weights, units) == pytest.approx([16 / 20, 0, 1])
        found, plain = Overlap.of(scale * weights, units), Overlap.of(weights, units)
        assert (found.ess, found.ess_units) == pytest.approx((plain.ess, plain.ess_units))
        assert found.error == pytest.approx(scale * plain.error)
        assert found.largest_share == plain.largest_share


@pytest.mark.parametrize("propensity", [1e-200, 5e-324])
@pytest.mark.parametrize("reward", [1.0, 1e300])
def test_no_result_holds_what_is_no_number(propensity, reward):
    propensities = LOG.propensities.copy()
    propensities[3] = propensity
    log = replace(LOG, propensities=propensities, rewards=reward * LOG.rewards)
    result = told(log, options=Options(clusters=np.arange(10)), force=True)
    strict(result)
    assert result["diagnostics"]["ess"] == pytest.approx(1)
    assert result["estimates"]["ips"]["refused"]
    strict(difference(log, TARGET, TARGET, Options(force=True, resamples=20)))


def test_extreme_trajectories_and_slates_are_told_without_a_warning():
    drawn = sessions().draw(300, seed=0)
    log = drawn.decisions
    wild = replace(log, propensities=np.full(len(log.units), 1e-150), rewards=1e300 * log.rewards)
    strict(told(wild, drawn.target, options=Options(discount=0.9), force=True, resamples=20))
    places = np.arange(len(log.units)) - np.flatnonzero(np.diff(log.units, prepend=-1))[log.units]
    slates = replace(wild, slates=log.units, positions=places)
    options = Options(behaviour=np.full((1, log.items), 1e-150), reward_range=(-1e305, 1e305))
    strict(told(slates, drawn.target, options=options, force=True, resamples=20))


def test_a_mean_beyond_a_float_is_refused_and_has_no_interval():
    log = replace(LOG, rewards=1.7e308 * LOG.rewards)
    one = told(log, options=Options(behaviour=BEHAVIOUR), force=True)["estimates"]["ips"]
    assert one["mean"] is one["low"] is one["high"] is None
    assert "not a finite number" in one["refused"]


@pytest.mark.parametrize("level", [0.0, 100.0, -5.0, float("nan")])
def test_a_level_that_is_no_percentage_between_0_and_100_is_refused(level):
    with pytest.raises(SetupError, match=r"level of the intervals is .*; expected a percentage above 0 and below 100"):
        Options(level=level)


@pytest.mark.parametrize("wrong", [(0.0, float("inf")), (float("nan"), 1.0), (1.0, 0.0)])
def test_a_range_of_rewards_is_of_finite_numbers(wrong):
    with pytest.raises(DataError, match="give finite numbers"):
        told(options=Options(reward_range=wrong))
