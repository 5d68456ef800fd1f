"""How unequally recommendations fall on items: against the definition, and over users."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from what_next.metrics.beyond import gini_index, shares

COUNTS = arrays.arrays(np.int64, st.integers(1, 9), elements=st.integers(0, 20))


def gini(items, users, catalogue, **how):
    return shares(items, users, catalogue, **how).get("gini")


def coverage(items, users, catalogue, **how):
    return shares(items, users, catalogue, **how).get("coverage")


def by_pairs(counts: np.ndarray) -> float:
    """The definition: the mean difference of two items, over the most that it could be."""
    apart = sum(abs(one - other) for one, other in combinations(counts.tolist(), 2))
    return apart / max(1, (len(counts) - 1) * counts.sum())


@given(COUNTS, st.integers(0, 5))
def test_the_gini_index_is_that_of_its_definition_by_pairs(counts, unheard):
    whole = np.append(counts, np.zeros(unheard, np.int64))
    assert gini_index(counts, len(whole)) == pytest.approx(by_pairs(whole), abs=1e-12)
    assert 0 <= gini_index(counts, len(whole)) + 1e-12 <= 1 + 1e-9


def test_equal_counts_are_zero_and_all_on_one_is_one():
    assert gini_index(np.array([3, 3, 3]), 3) == 0
    assert gini_index(np.array([7]), 5) == 1
    assert gini_index(np.array([1, 2, 3]), 3) == pytest.approx(4 / 12)
    assert gini_index(np.zeros(3, np.int64), 3) == 0
    assert gini_index(np.array([4]), 1) == 0


def test_each_resample_has_an_index_of_its_own():
    assert gini_index(np.array([[0, 0, 9], [3, 3, 3]]), 3).tolist() == [1, 0]


def test_gini_counts_every_recommendation_and_is_averaged_over_seeds():
    items = np.array([[0, 1, 0, -1], [2, 2, 2, 2]])
    told = gini(items, np.array([0, 0, 1, 1]), 4)
    assert told["mean"] == pytest.approx((by_pairs(np.array([2, 1, 0, 0])) + 1) / 2)
    assert told["n"] == 2


def test_a_seed_that_recommends_nothing_is_even_and_nothing_at_all_is_not_told():
    assert gini(np.array([[-1, -1], [0, 0]]), np.array([0, 1]), 4)["mean"] == 0.5
    assert coverage(np.array([[-1, -1], [0, 0]]), np.array([0, 1]), 4)["mean"] == 0.125
    assert gini(np.array([[-1]]), np.array([0]), 4) is None
    assert gini(np.zeros((1, 0), np.int64), np.zeros(0, np.int64), 4) is None


def test_gini_is_resampled_over_users_and_lies_around_the_true_index():
    rng = np.random.default_rng(2)
    rows = np.array([rng.choice(30, 3, replace=False, p=np.arange(30, 0, -1) / 465) for _ in range(80)])
    told = gini(rows.reshape(1, -1), np.repeat(np.arange(80), 3), 30)
    drawn = np.random.default_rng(3).integers(80, size=(4000, 80))
    found = np.array([by_pairs(np.bincount(rows[users].ravel(), minlength=30)) for users in drawn])
    low, high = np.percentile(found, [2.5, 97.5]) + told["mean"] - found.mean()
    assert told["mean"] == pytest.approx(by_pairs(np.bincount(rows.ravel(), minlength=30)))
    assert found.mean() > told["mean"]  # which is why they are moved
    assert (told["low"], told["high"]) == (pytest.approx(low, abs=0.006), pytest.approx(high, abs=0.006))


def test_gini_has_no_width_where_all_have_the_same():
    told = gini(np.tile([0, 3], 20)[None], np.repeat(np.arange(20), 2), 10)
    assert told["low"] == pytest.approx(told["high"])


def test_the_same_seed_gives_the_same_gini_however_the_work_is_cut(monkeypatch):
    items, users = np.random.default_rng(0).integers(-1, 30, size=(2, 60)), np.arange(60) // 2
    whole = gini(items, users, 30)
    assert whole != gini(items, users, 30, seed=1)
    monkeypatch.setattr("what_next.metrics.beyond.COLUMNS", 3)
    assert whole == gini(items, users, 30)


def test_counts_of_single_precision_are_summed_in_double():
    assert gini_index(np.array([2**24, 1], np.float32), 2) == (2**24 - 1) / (2**24 + 1)
