"""Means over users of many metrics at once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from what_next.metrics.bootstrap import means, user_means


def test_the_mean_of_a_user_with_several_rows_counts_once() -> None:
    owners = np.array([0, 0, 0, 1])
    told = means({"hr@10": user_means(np.array([1.0, 1.0, 0.0, 0.0]), owners, 2)})["hr@10"]
    assert told["mean"] == pytest.approx(1 / 3)
    assert told["n"] == 2
    assert told["low"] == pytest.approx(0)
    assert told["high"] == pytest.approx(2 / 3)


def test_users_without_a_value_do_not_count_for_that_metric_alone() -> None:
    values = {"some": np.array([2.0, np.nan, 4.0]), "all": np.ones(3), "none": np.full(3, np.nan)}
    told = means(values)
    assert set(told) == {"some", "all"}
    assert told["some"] == pytest.approx({"mean": 3, "low": 2, "high": 4, "n": 2})
    assert told["all"]["n"] == 3


def test_resamples_in_parts_are_the_same_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"one": np.random.default_rng(1).random(20)}
    whole = means(values, resamples=100)
    monkeypatch.setattr("what_next.metrics.bootstrap.COUNTS", 60)
    assert means(values, resamples=100)["one"] == pytest.approx(whole["one"], abs=1e-12)


def test_nobody_has_no_means() -> None:
    assert means({"one": np.zeros(0)}) == {}


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12), st.floats(-3, 3))
def test_the_interval_holds_the_mean_moves_with_it_and_stays_in_the_range(values: list[float], shift: float) -> None:
    array = np.array(values)
    told, moved = (means({"one": one}, resamples=50)["one"] for one in (array, array + shift))
    assert min(values) - 1e-9 <= told["low"] <= told["high"] <= max(values) + 1e-9
    assert moved["mean"] == pytest.approx(told["mean"] + shift, abs=1e-9)
    assert moved["low"] == pytest.approx(told["low"] + shift, abs=1e-9)
