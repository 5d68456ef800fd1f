"""A bootstrap over units, and empirical Bernstein bounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from what_next.metrics import bootstrap
from what_next.metrics.bootstrap import empirical_bernstein, means, percentiles, resampled_counts
from what_next.off_policy.weighting import Terms, mean_of


def counts_of(units, resamples, seed=0):
    return np.concatenate(list(resampled_counts(units, resamples, seed)))


def test_a_resample_holds_as_many_units_as_there_are():
    counts = counts_of(7, 100)
    assert counts.shape == (100, 7)
    assert (counts.sum(axis=1) == 7).all()
    assert counts.mean() == 1
    assert counts.std() == pytest.approx(np.sqrt(6 / 7), rel=0.1)  # binomial


def test_the_same_seed_gives_the_same_resamples_however_the_work_is_cut(monkeypatch):
    whole = counts_of(60, 50, seed=3)
    monkeypatch.setattr(bootstrap, "CHUNK", 240)
    assert (counts_of(60, 50, seed=3) == whole).all()
    assert (counts_of(60, 50, seed=4) != whole).any()


def test_the_bootstrap_is_that_of_means_over_users():
    rng = np.random.default_rng(0)
    tops, bottoms = rng.normal(3, 1, 200), rng.uniform(1, 2, 200)
    told = means({"": tops}, {"": bottoms}, resamples=2000, seed=5)[""]
    found = percentiles(Terms(tops, bottoms).resampled(counts_of(200, 2000, seed=5)), 95.0)
    assert found == pytest.approx((told["low"], told["high"]), abs=1e-12)


def test_percentiles_are_the_middle_of_what_is_known():
    values = np.append(np.arange(101.0), np.nan)
    assert percentiles(values, 90.0) == (5, 95.0)
    assert percentiles(values, 50.0) == (25, 75)
    assert percentiles(np.array([np.nan]), 95.0) is None


def test_bernstein_by_hand():
    values = np.tile([0.0, 1.0], 100)
    # variance 0.25 * 200 / 199 = 0.251256; ln(4 / 0.05) = 4.382027
    # sqrt(2 * 0.251256 * 4.382027 / 200) = 0.104929; 7 * 4.382027 / (3 * 199) = 0.051380
    assert empirical_bernstein(values, (0.0, 1.0), 95.0) == pytest.approx((0.5 - 0.156309, 0.5 + 0.156309), abs=2e-6)
    twice = 0.104929 + 2 * 0.051380
    assert empirical_bernstein(values, (-1.0, 1.0), 95.0) == pytest.approx((0.5 - twice, 0.5 + twice), abs=2e-6)
    wider = empirical_bernstein(values, (0.0, 1.0), 99.0)
    assert wider is not None
    assert wider[0] < 0.34


def test_bernstein_never_leaves_the_range_and_tells_nothing_of_one_number():
    assert empirical_bernstein(np.array([0.0, 1.0]), (0.0, 1.0), 95.0) == (0, 1)
    assert empirical_bernstein(np.array([0.5]), (0.0, 1.0), 95.0) is None


@given(st.integers(2, 60), st.integers(0, 1000))
def test_bernstein_is_wider_than_the_bootstrap(units, seed):
    values = np.random.default_rng(seed).random(units)
    low, high = percentiles(mean_of(values).resampled(counts_of(units, 200)), 95.0)
    bounds = empirical_bernstein(values, (0.0, 1.0), 95.0)
    assert bounds is not None
    assert bounds[0] <= low
    assert bounds[1] >= high
