"""Groups of judged rows: their bounds by hand, and that they cut the rows without rest."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from what_next.metrics.groups import (
    DAY,
    Masks,
    by_activity,
    by_history_length,
    by_item_popularity,
    events_per_active_day,
    groups,
)


def members(masks: Masks) -> dict[str, list[int]]:
    return {name: np.flatnonzero(mask).tolist() for name, mask in masks.items()}


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 7), st.floats(1, 90) | st.just(np.nan), st.integers(0, 2)))
)
def test_every_row_is_in_exactly_one_group_of_each_kind_and_no_group_is_empty(rows):
    before, items, activity, known = (
        (np.array(column) for column in zip(*rows, strict=True)) if rows else [np.zeros(0)] * 4
    )
    counts = np.array([9, 0, 4, 4, 1, 1, 0, 30])
    found = groups(
        before.astype(np.int64),
        items.astype(np.int64),
        counts,
        activity=activity.astype(np.float64),
        known=known.astype(np.int64),
    )
    assert list(found) == ["history length", "item popularity", "activity", "cold"]
    for masks in found.values():
        assert (sum(mask.astype(int) for mask in masks.values()) == 1).all() if rows else not masks
        assert all(mask.any() for mask in masks.values())


def test_a_kind_is_left_out_where_the_log_cannot_tell():
    found = groups(np.array([1, 2]), np.array([0, 1]), np.array([3, 1]))
    assert list(found) == ["history length", "item popularity"]


# History length


def test_lengths_are_cut_into_quarters_named_by_them():
    masks = by_history_length(np.arange(1, 81))
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"1-20": 20, "21-40": 20, "41-60": 20, "61+": 20}


def test_a_name_goes_on_where_the_one_before_ends():
    assert members(by_history_length(np.array([50, 3, 9, 20]))) == {"3": [1], "4-9": [2], "10-20": [3], "21+": [0]}


def test_equal_lengths_stay_together():
    assert members(by_history_length(np.array([5, 5, 5, 5, 5, 5, 5, 8]))) == {"5": [0, 1, 2, 3, 4, 5, 6], "6+": [7]}
    assert members(by_history_length(np.array([2, 7, 7, 7, 7]))) == {"2-7": [0, 1, 2, 3, 4]}
    assert members(by_history_length(np.array([4, 4]))) == {"4": [0, 1]}
    assert members(by_history_length(np.array([0]))) == {"0": [0]}


@given(st.lists(st.integers(0, 30), min_size=1))
def test_a_row_lies_within_the_name_of_its_group(lengths):
    for name, rows in members(by_history_length(np.array(lengths))).items():
        low, _, high = name.removesuffix("+").partition("-")
        most = np.inf if name.endswith("+") else int(high or low)
        assert all(int(low) <= lengths[row] <= most for row in rows)


# Activity


def test_activity_is_cut_into_thirds():
    masks = by_activity(np.array([9.0, 1.0, 2.0, 8.0, 3.0, 20.0]))
    assert members(masks) == {"up to 2 a day": [1, 2], "2 to 8 a day": [3, 4], "over 8 a day": [0, 5]}
    masks = by_activity(np.arange(12.0, 24.0))
    assert [int(mask.sum()) for mask in masks.values()] == [4, 4, 4]


def test_a_cut_is_what_its_name_says():
    masks = by_activity(np.array([1.234, 1.26, 1.299, 41.8, 42.3, 1234.0]))
    # The third of the rows ends at 1.26, told and cut as 1.3; the second at 41.8, told and cut as 42.
    assert members(masks) == {"up to 1.3 a day": [0, 1, 2], "1.3 to 42 a day": [3], "over 42 a day": [4, 5]}


def test_cuts_that_are_told_alike_are_one():
    assert members(by_activity(np.array([1.0, 1.0, 1.0, 1.0, 5.0]))) == {
        "up to 1 a day": [0, 1, 2, 3],
        "over 1 a day": [4],
    }
    assert list(by_activity(np.array([2.01, 2.02, 2.03]))) == ["over 2 a day"]
    assert list(by_activity(np.array([1234.0, 1240.0, 1290.0]))) == ["up to 1200 a day", "over 1200 a day"][1:]


def test_rows_without_a_history_stand_apart():
    assert members(by_activity(np.array([np.nan, 2.0]))) == {"up to 2 a day": [1], "no history": [0]}
    assert members(by_activity(np.array([np.nan]))) == {"no history": [0]}


def test_activity_is_events_over_the_days_that_have_one():
    hour = DAY // 24
    times = [0, hour, 23 * hour, DAY, 5 * DAY, 5 * DAY + hour, 5 * DAY]  # three users: 0 to 4, none, 5 and 6
    times[5:] = [5 * DAY, 9 * DAY]
    offsets, users = np.array([0, 5, 5, 7]), np.array([0, 0, 0, 2, 2, 1, 0])
    before = np.array([3, 4, 5, 1, 2, 0, 0])
    found = events_per_active_day(np.array(times), offsets, users, before)
    np.testing.assert_array_equal(found, [3, 2, 5 / 3, 1, 1, np.nan, np.nan])


def test_days_before_1970_are_days_too():
    assert events_per_active_day(np.array([-1, 0]), np.array([0, 2]), np.array([0]), np.array([2])).tolist() == [1]


@given(st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=4), st.data())
def test_activity_is_that_of_each_history_counted_alone(people, data):
    days = [sorted(one) for one in people]
    offsets = np.cumsum([0, *map(len, days)])
    before = np.array([data.draw(st.integers(0, len(one))) for one in days])
    times = np.array([day * DAY + 5 for one in days for day in one], np.int64)
    found = events_per_active_day(times, offsets, np.arange(len(days)), before)
    for value, own, count in zip(found, days, before, strict=True):
        assert value == (pytest.approx(count / len(set(own[:count]))) if count else pytest.approx(np.nan, nan_ok=True))


# Item popularity


def test_head_middle_and_tail_begin_at_thirds_of_the_events():
    counts = np.array([40, 1, 25, 2, 0, 22])  # of 90: 40, 65, 87, 89, 90
    masks = by_item_popularity(np.array([0, 1, 2, 3, 4, 5, 5]), counts)
    assert members(masks) == {"head": [0], "middle": [2], "tail": [1, 3, 5, 6], "cold": [4]}


def test_an_item_that_begins_exactly_at_a_third_is_in_the_next():
    assert members(by_item_popularity(np.arange(3), np.array([3, 2, 1]))) == {"head": [0], "middle": [1], "tail": [2]}
    assert members(by_item_popularity(np.arange(4), np.array([4, 3, 2, 3]))) == {
        "head": [0],
        "middle": [1, 3],
        "tail": [2],
    }


def test_the_most_popular_item_is_the_head_however_popular():
    assert members(by_item_popularity(np.arange(2), np.array([99, 1]))) == {"head": [0], "tail": [1]}


def test_items_with_equal_counts_stay_together():
    assert members(by_item_popularity(np.arange(4), np.array([5, 5, 5, 5]))) == {"head": [0, 1, 2, 3]}


def test_without_training_events_every_target_is_cold():
    with np.errstate(all="raise"):
        assert members(by_item_popularity(np.array([0, 1]), np.zeros(2, np.int64))) == {"cold": [0, 1]}


# Cold users


def test_a_user_whom_training_does_not_know_is_cold():
    found = groups(np.array([1, 2, 3]), np.array([0, 0, 0]), np.array([1]), known=np.array([0, 5, 1]))
    assert members(found["cold"]) == {"cold users": [0], "warm users": [1, 2]}
