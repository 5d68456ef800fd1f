"""What slates are worth besides their hits: by hand, and what must always hold."""

from itertools import combinations
from math import log, log2, sqrt

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from what_next.data import Catalogue
from what_next.metrics.beyond import (
    CHUNK,
    ItemStatistics,
    calibration,
    diversity,
    novelty,
    parts,
    popularity_lift,
)

NONE = np.zeros((4, 0), np.float32)


def background(counts=(8, 4, 4, 0), vectors=NONE, categories=None) -> ItemStatistics:
    held = np.zeros((len(counts), 0)) if categories is None else np.array(categories)
    return ItemStatistics(np.array(counts), np.array(vectors, np.float32), held.astype(np.float32))


def slates(*rows) -> np.ndarray:
    width = max(map(len, rows), default=0)
    return np.array([[*row, *[-1] * (width - len(row))] for row in rows], np.int32).reshape(len(rows), width)


def catalogue_of(**attributes) -> Catalogue:
    length = len(next(iter(attributes.values())))
    ids = pl.Series("item_id", range(length))
    table = pl.DataFrame([ids, ids.cast(pl.String).alias("title")]).with_columns(
        pl.Series(name, column, pl.Float32) for name, column in attributes.items()
    )
    return Catalogue.from_table(table)


few = settings(max_examples=30)

# Worlds of 8 items, and slates with holes anywhere, in which no item stands twice.

ITEMS = 8
ROWS = st.lists(st.permutations(range(ITEMS)), min_size=1, max_size=4).flatmap(
    lambda orders: arrays.arrays(np.bool_, (len(orders), 4)).map(
        lambda held: np.where(held, np.array(orders)[:, :4], -1).astype(np.int32)
    )
)
HISTORIES = arrays.arrays(np.int32, (4, 6), elements=st.integers(-1, ITEMS - 1))
WORLDS = st.builds(
    ItemStatistics,
    arrays.arrays(np.int64, ITEMS, elements=st.integers(0, 50)),
    arrays.arrays(np.float32, (ITEMS, 3), elements=st.floats(-3, 3, width=32)),
    arrays.arrays(np.float32, (ITEMS, 3), elements=st.sampled_from([0.0, 1.0])).map(
        lambda held: held / np.maximum(held.sum(axis=1, keepdims=True), np.float32(1))
    ),
)


def all_metrics(rows: np.ndarray, histories: np.ndarray, world: ItemStatistics) -> dict[str, np.ndarray]:
    heard = histories[: len(rows)]
    return {
        "novelty": novelty(rows, world),
        "diversity": diversity(rows, world),
        "calibration": calibration(rows, world.shares(heard), world),
        "popularity_lift": popularity_lift(rows, world.popularity(heard), world),
    }


@few
@given(ROWS, HISTORIES, WORLDS)
def test_values_lie_in_the_range_that_is_told(rows, histories, world):
    ranges = {
        "novelty": (0, log2(400)),
        "diversity": (0, 6 / sqrt(2)),
        "calibration": (0, log(100)),
        "popularity_lift": (-1, 400),
    }
    for name, values in all_metrics(rows, histories, world).items():
        told = values[np.isfinite(values)]
        low, high = ranges[name]
        assert (told >= low).all(), name
        assert (told <= high + 1e-6).all(), name


@few
@given(ROWS, HISTORIES, WORLDS, st.permutations(range(4)), st.permutations(range(6)))
def test_the_order_in_a_slate_or_a_history_does_not_count(rows, histories, world, order, past):
    one, other = all_metrics(rows, histories, world), all_metrics(rows[:, order], histories[:, past], world)
    for name, values in one.items():
        assert values == pytest.approx(other[name], abs=1e-6, nan_ok=True), name


@few
@given(ROWS, HISTORIES, WORLDS)
def test_an_empty_slot_never_counts(rows, histories, world):
    wide = np.pad(rows, ((0, 0), (2, 3)), constant_values=-1)
    padded = np.pad(histories, ((0, 0), (1, 4)), constant_values=-1)
    one, other = all_metrics(rows, histories, world), all_metrics(wide, padded, world)
    for name, values in one.items():
        assert values == pytest.approx(other[name], abs=1e-6, nan_ok=True), name


@few
@given(ROWS, HISTORIES, WORLDS)
def test_an_empty_slate_has_no_value(rows, histories, world):
    empty = (rows < 0).all(axis=1)
    for name, values in all_metrics(rows, histories, world).items():
        assert np.isnan(values[empty]).all(), name
    for values in all_metrics(rows[:, :0], histories, world).values():
        assert np.isnan(values).all()


def test_the_values_are_the_same_however_the_rows_are_cut(monkeypatch):
    rng = np.random.default_rng(0)
    world = background(rng.integers(1, 90, 40), rng.normal(size=(40, 3)), np.eye(4)[rng.integers(4, size=40)])
    rows = rng.permuted(np.tile(np.arange(40, dtype=np.int32), (100, 1)), axis=1)[:, :10]
    histories = rng.integers(-1, 40, (100, 30)).astype(np.int32)
    whole = all_metrics(rows, histories, world)
    monkeypatch.setattr("what_next.metrics.beyond.CHUNK", 300)
    for name, values in all_metrics(rows, histories, world).items():
        assert values == pytest.approx(whole[name], abs=1e-12), name


# Novelty


def test_an_item_with_half_of_the_events_is_worth_one_bit_and_one_with_a_quarter_two():
    assert novelty(slates([0], [1], [0, 1], [0, 1, 2]), background()).tolist() == [1, 2, 1.5, 5 / 3]


def test_an_item_that_nobody_heard_is_as_novel_as_one_heard_once():
    assert novelty(slates([3]), background()).tolist() == [4]  # one of 16
    assert novelty(slates([3]), background((8, 4, 3, 1))).tolist() == [4]


def test_what_everybody_hears_alone_is_not_novel_and_nothing_is_told_without_events():
    assert novelty(slates([0]), background((9, 0, 0, 0))).tolist() == [0]
    assert np.isnan(novelty(slates([0]), background((0, 0, 0, 0)))).all()


# Diversity


def test_diversity_is_the_mean_distance_of_pairs_in_typical_distances():
    line = background(vectors=[[0], [1], [3], [7]])
    rows = slates([0, 1], [0, 1, 2], [3, 0, 1, 2])
    expected = np.array([1, (1 + 3 + 2) / 3, (7 + 6 + 4 + 1 + 3 + 2) / 6]) / sqrt(2)
    assert diversity(rows, line) == pytest.approx(expected)


def test_the_typical_distance_grows_with_the_number_of_attributes():
    plane = background(vectors=[[0, 0], [3, 4], [1, 1], [1, 1]])
    assert diversity(slates([0, 1], [2, 3]), plane) == pytest.approx([5 / 2, 0])


def test_items_drawn_at_random_are_about_as_far_apart_as_is_typical():
    rng = np.random.default_rng(0)
    world = background(np.ones(500, np.int64), rng.standard_normal((500, 20)))
    drawn = rng.integers(500, size=(200, 10)).astype(np.int32)
    assert diversity(drawn, world).mean() == pytest.approx(1, abs=0.03)


def test_a_slate_of_one_has_no_diversity_nor_has_any_without_attributes():
    line = background(vectors=[[0], [1], [3], [7]])
    assert np.isnan(diversity(slates([0], []), line)).all()
    with np.errstate(all="raise"):
        assert np.isnan(diversity(slates([0, 1]), background())).all()


@few
@given(ROWS, WORLDS)
def test_diversity_is_the_mean_over_all_pairs(rows, world):
    for row, value in zip(rows, diversity(rows, world), strict=True):
        points = world.vectors[row[row >= 0]].astype(np.float64)
        apart = [np.linalg.norm(one - other) / sqrt(6) for one, other in combinations(points, 2)]
        assert value == pytest.approx(np.mean(apart) if apart else np.nan, abs=1e-5, nan_ok=True)


# Calibration

TWO = [[1, 0], [0, 1], [0.5, 0.5], [0, 0]]


def divergence(wanted, given) -> float:
    return sum(p * log(p / (0.99 * q + 0.01 * p)) for p, q in zip(wanted, given, strict=True) if p)


def calibrated(slate, history, categories=TWO) -> float:
    world = background(categories=categories)
    return calibration(slates(slate), world.shares(slates(history)), world)[0]


def test_a_slate_with_the_shares_of_the_history_is_calibrated():
    assert calibrated([0, 1], [1, 0, 2]) == pytest.approx(0, abs=1e-12)
    assert calibrated([2], [0, 0, 1, 1]) == pytest.approx(0, abs=1e-12)


def test_rounding_never_makes_a_slate_better_than_calibrated():
    halves, thirds = [0, 0.5, 0.5], [1 / 3, 1 / 3, 1 / 3]
    assert calibrated([0, 1, 2, 3], [0, 1, 2, 3] * 5, [halves, thirds, halves, halves]) == 0  # unclipped, -4e-17


def test_calibration_is_the_divergence_from_the_smoothed_slate():
    assert calibrated([0], [0, 0, 0, 1]) == pytest.approx(divergence([0.75, 0.25], [1, 0]))
    assert calibrated([0, 2], [1, 2]) == pytest.approx(divergence([0.25, 0.75], [0.75, 0.25]))
    assert calibrated([0], [0, 0, 0, 1]) == pytest.approx(0.75 * log(0.75 / 0.9975) + 0.25 * log(100))


def test_nothing_in_common_costs_the_logarithm_of_a_hundred():
    assert calibrated([0], [1]) == pytest.approx(log(100))


def test_an_item_without_a_category_is_left_out():
    assert calibrated([0, 3], [0, 3, 1]) == calibrated([0], [0, 1])


def test_nothing_is_told_where_slate_or_history_or_catalogue_have_no_category():
    assert np.isnan(calibrated([0], [3]))
    assert np.isnan(calibrated([0], []))
    assert np.isnan(calibrated([3], [0]))
    assert np.isnan(calibrated([0], [0], None))


@few
@given(ROWS, HISTORIES, WORLDS)
def test_calibration_is_that_of_the_shares_one_by_one(rows, histories, world):
    heard = world.shares(histories[: len(rows)])
    for row, history, value in zip(rows, histories, calibration(rows, heard, world), strict=False):
        given, wanted = (world.categories[one[one >= 0]].astype(np.float64).sum(axis=0) for one in (row, history))
        if not given.any() or not wanted.any():
            assert np.isnan(value)
        else:
            assert value == pytest.approx(divergence(wanted / wanted.sum(), given / given.sum()), abs=1e-5)


def test_categories_are_the_attributes_of_zeros_and_ones_that_an_item_has():
    catalogue = catalogue_of(jazz=[1, 0, 1, 0], tempo=[90, 120, 1, 0], rock=[0, 0, 1, 0], none=[0, 0, 0, 0])
    world = ItemStatistics.of(catalogue, np.array([1, 2, 3, 4]))
    assert world.categories.tolist() == [[1, 0], [0, 0], [0.5, 0.5], [0, 0]]
    assert world.vectors is catalogue.vectors
    assert world.counts.tolist() == [1, 2, 3, 4]


def test_categories_are_read_before_attributes_are_standardised():
    catalogue = catalogue_of(jazz=[1, 0, 1, 0], rock=[0, 0, 1, 0]).standardised([0, 1, 2])
    world = ItemStatistics.of(catalogue, np.ones(4, np.int64))
    assert world.categories[0].tolist() == [1, 0]
    assert world.vectors[:3].mean(axis=0) == pytest.approx([0, 0], abs=1e-6)


def test_one_category_alone_is_none():
    assert ItemStatistics.of(catalogue_of(jazz=[1, 0, 1], tempo=[1, 2, 3]), np.ones(3, np.int64)).categories.shape == (
        3,
        0,
    )
    assert ItemStatistics.of(catalogue_of(tempo=[1, 2, 3]), np.ones(3, np.int64)).categories.shape == (3, 0)


# Popularity lift


def lift(slate, history) -> float:
    world = background((8, 4, 4, 0))
    return popularity_lift(slates(slate), world.popularity(slates(history)), world)[0]


def test_a_slate_twice_as_popular_as_the_history_lifts_by_one():
    assert lift([0], [1, 2]) == 1
    assert lift([1], [0]) == -0.5
    assert lift([0, 1], [0, 0, 0, 1]) == pytest.approx((6 - 7) / 7)
    assert lift([3], [0]) == -1


def test_the_history_itself_is_no_lift():
    assert lift([0, 1], [1, 0]) == 0


def test_no_lift_is_told_of_a_history_without_popularity():
    assert np.isnan(lift([0], [3]))
    assert np.isnan(lift([0], []))


def test_rows_are_taken_a_part_at_a_time_and_each_once():
    assert list(parts(5, CHUNK // 2)) == [slice(0, 2), slice(2, 4), slice(4, 6)]
    assert list(parts(2, 2 * CHUNK)) == [slice(0, 1), slice(1, 2)]
    assert list(parts(2, 0)) == [slice(0, CHUNK)]
