"""Means over users and their intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from what_next.metrics.beyond import shares
from what_next.metrics.bootstrap import means, user_means

RNG = np.random.default_rng(0)


def interval(values, over=None, **how):
    return means({"": values}, None if over is None else {"": over}, **how).get("")


def coverage(items, users, catalogue, **how):
    return shares(items, users, catalogue, ("coverage",), **how).get("coverage")


def test_a_users_windows_are_averaged_before_the_users():
    values = np.array([1.0, 3.0, 10.0, np.nan])
    users = user_means(values, np.array([0, 0, 1, 2]), 3)
    assert users[:2].tolist() == [2, 10]
    assert np.isnan(users[2])
    assert interval(users)["mean"] == 6
    assert interval(users)["n"] == 2


@given(st.floats(-1e3, 1e3), st.integers(1, 50))
def test_a_constant_has_an_interval_of_no_width(value, users):
    told = interval(np.full(users, value), resamples=50)
    assert told["low"] == pytest.approx(told["mean"], abs=1e-9)
    assert told["high"] == pytest.approx(told["mean"], abs=1e-9)


def test_the_interval_is_that_of_the_mean_of_normal_numbers():
    values = RNG.normal(size=400)
    told, error = interval(values), values.std() / 20
    assert told["low"] == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert told["high"] == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_a_paired_difference_is_told_more_sharply_than_two_policies_apart():
    users = RNG.normal(size=100)
    one, other = users + 0.1 + 0.01 * RNG.normal(size=100), users
    paired = interval(one - other)
    assert paired["low"] > 0.09
    assert interval(one)["low"] < interval(other)["high"]  # apart, nothing could be said


def test_a_share_is_a_ratio_of_means_over_the_users_that_both_have():
    told = interval(np.array([1.0, 2.0, np.nan, 7.0]), np.array([4.0, 2.0, 9.0, np.nan]))
    assert told["mean"] == 0.5
    assert told["n"] == 2
    assert (told["low"], told["high"]) == (0.25, 1.0)


def test_nothing_is_told_of_nobody_or_as_a_share_of_nothing():
    assert interval(np.array([np.nan])) is None
    assert interval(np.array([1.0]), np.array([0.0])) is None
    assert coverage(np.array([[-1]]), np.array([0]), 4) is None


def test_coverage_is_the_share_of_the_catalogue_averaged_over_seeds():
    items = np.array([[0, 0, 1, -1], [2, 2, 2, 2]])  # 2 of 4 items, then 1 of 4
    told = coverage(items, np.array([0, 0, 1, 1]), 4)
    assert told["mean"] == 0.375
    assert told["n"] == 2


def test_one_user_is_drawn_alone_every_time():
    told = coverage(np.array([[0, 1]]), np.array([0, 0]), 4)
    assert told == {"mean": 0.5, "low": 0.5, "high": 0.5, "n": 1}


def test_coverage_is_resampled_over_users():
    same, own = np.zeros((1, 50), np.int64), np.arange(50)[None]
    assert coverage(same, np.arange(50), 100)["low"] == pytest.approx(0.01)
    told = coverage(own, np.arange(50), 100)
    drawn = np.random.default_rng(1).integers(50, size=(20000, 50))
    expected = np.array([len(set(row)) for row in drawn.tolist()]) / 100
    low, high = np.percentile(expected, [2.5, 97.5]) + 0.5 - expected.mean()
    assert (told["low"], told["high"]) == (pytest.approx(low, abs=0.011), pytest.approx(high, abs=0.011))


def test_the_same_seed_gives_the_same_interval_however_the_work_is_cut(monkeypatch):
    values, items = RNG.normal(size=60), RNG.integers(30, size=(2, 60))
    whole = interval(values), coverage(items, np.arange(60) // 2, 30)
    monkeypatch.setattr("what_next.metrics.bootstrap.CHUNK", 1000)
    assert whole == (interval(values), coverage(items, np.arange(60) // 2, 30))
