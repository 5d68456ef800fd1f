"""A slate from one row of scores: the best, a softmax draw, or chance now and then; with exact propensities."""

from collections import Counter
from collections.abc import Sequence
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from what_next.errors import NotFinite
from what_next.retrieval.choosing import epsilon_greedy
from what_next.types import EpsilonGreedy, Softmax

from .asking import best, drawn, draws

DRAWS = 4000


def luce(scores: np.ndarray, items: np.ndarray, temperature: float) -> np.ndarray:
    """The chance of each choice given those before it, in the plain way: a softmax of what is left."""
    left, chances = scores.astype(np.float64) / temperature, []
    for item in items:
        weights = np.exp(left - left.max())
        chances.append(weights[item] / weights.sum())
        left[item] = -np.inf
    return np.array(chances)


def fits(counts: Sequence[int] | np.ndarray, expected: Sequence[float] | np.ndarray) -> None:
    """Chi-square test at a level of 0.001, its critical value by the approximation of Wilson and Hilferty (1931)."""
    counts, expected = np.asarray(counts), np.asarray(expected)
    free = len(expected) - 1
    critical = free * (1 - 2 / (9 * free) + 3.0902 * np.sqrt(2 / (9 * free))) ** 3
    assert counts.sum() == pytest.approx(expected.sum())
    assert (np.square(counts - expected) / expected).sum() < critical


def row(size: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=size) * scale).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_slates_are_drawn_as_often_as_their_propensities_say(temperature: float) -> None:
    """All slates of two out of five items, one of which is not permitted."""
    scores = np.array([0.5, -1, -np.inf, 1.2, 0], np.float32)
    rng = np.random.default_rng(1)
    counts = Counter(map(tuple, draws(scores, 2, temperature, rng, DRAWS).tolist()))
    slates = list(permutations([0, 1, 3, 4], 2))
    expected = np.array([luce(scores, np.array(slate), temperature).prod() for slate in slates])
    assert expected.sum() == pytest.approx(1)
    assert set(counts) <= set(slates)
    fits([counts[slate] for slate in slates], expected * DRAWS)


def test_items_of_every_block_are_drawn_as_often_as_they_should_be() -> None:
    """5,000 items in five blocks: how often each of 50 groups is hit, by the first slot and by the third."""
    scores, rng = row(5000), np.random.default_rng(2)
    groups = np.arange(5000) % 50
    found = draws(scores, 3, 1.0, rng, DRAWS)
    weights = np.exp(scores.astype(np.float64))
    shares = np.bincount(groups, weights) / weights.sum()
    for slot in (0, 2):  # three of 5,000 hardly change what is left
        fits(np.bincount(groups[found[:, slot]], minlength=50), shares * DRAWS)
    blocks = np.add.reduceat(weights, range(0, 5000, 1024)) / weights.sum()
    fits(np.bincount(found[:, 0] // 1024), blocks * DRAWS)


@settings(max_examples=50)
@given(
    scores=hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-50, 50, width=32) | st.just(-np.inf)),
    slots=st.integers(1, 70),
    temperature=st.sampled_from([0.01, 0.3, 1.0, 7.0]),
    seed=st.integers(0, 99),
)
def test_propensities_are_those_of_a_softmax_over_what_is_left(
    scores: np.ndarray, slots: int, temperature: float, seed: int
) -> None:
    items, propensities = drawn(scores, slots, temperature, np.random.default_rng(seed))
    permitted = np.flatnonzero(np.isfinite(scores))
    assert len(items) == min(slots, len(permitted)) == len(set(items.tolist()))
    assert set(items.tolist()) <= set(permitted.tolist())
    np.testing.assert_allclose(propensities, luce(scores, items, temperature), rtol=1e-9)
    assert ((propensities > 0) & (propensities <= 1)).all()


@pytest.mark.parametrize("size", [1023, 1024, 1025, 20_000])
def test_long_rows_have_exact_propensities_too(size: int) -> None:
    scores = row(size, scale=4)
    items, propensities = drawn(scores, 100, 0.7, np.random.default_rng(3))
    np.testing.assert_allclose(propensities, luce(scores, items, 0.7), rtol=1e-9)


def test_the_last_item_of_a_long_row_can_be_drawn() -> None:
    scores = np.zeros(2050, np.float32)
    scores[-1] = 30
    items, propensities = drawn(scores, 1, 1.0, np.random.default_rng(0))
    assert items.tolist() == [2049]
    assert propensities == pytest.approx([1 / (1 + 2049 * np.exp(-30.0))], rel=1e-12)


def test_what_one_item_leaves_over_is_drawn_as_if_it_had_never_been_there() -> None:
    """Beside a score of 5,000 the others' weights are 0 in any number; alone they are 1 : 2 : 1."""
    scores = np.full(3000, -np.inf, np.float32)
    scores[[10, 1500, 2900]], scores[77] = np.log([1, 2, 1]), 5000
    firsts = Counter()
    for seed in range(1000):
        items, propensities = drawn(scores, 9, 1.0, np.random.default_rng(seed))
        assert items[0] == 77
        assert len(items) == 4
        np.testing.assert_allclose(propensities, [1.0, *shares(items[1:])])
        firsts[int(items[1])] += 1
    fits([firsts[10], firsts[1500], firsts[2900]], [250, 500, 250])


def shares(items: np.ndarray) -> list[float]:
    """Of items with the weights 1, 2 and 1, taken one after the other."""
    weights = {10: 1.0, 1500: 2.0, 2900: 1.0}
    found = []
    for item in items.tolist():
        found.append(weights[item] / sum(weights.values()))
        del weights[item]
    return found


def test_a_ladder_of_scores_is_climbed_down_to_its_end() -> None:
    """Each item holds all of the mass that is left: scores of 0, -400, -800 and so on."""
    scores = (-400 * np.arange(40)).astype(np.float32)
    items, propensities = drawn(scores, 40, 1.0, np.random.default_rng(0))
    assert items.tolist() == list(range(40))
    assert propensities == pytest.approx(np.ones(40))


def test_a_small_rest_is_not_spoiled_by_what_was_taken() -> None:
    """e^30 : 1 : 1 : 1 in one block: a sum from which the first is subtracted would be wrong by a thousandth."""
    scores = np.zeros(4, np.float32)
    scores[2] = 30
    items, propensities = drawn(scores, 4, 1.0, np.random.default_rng(0))
    assert items[0] == 2
    assert propensities[1:] == pytest.approx([1 / 3, 1 / 2, 1], rel=1e-12)


def test_same_seed_same_slate_and_the_row_is_as_it_was() -> None:
    scores = row(3000)
    before = scores.copy()
    one, other = (drawn(scores, 10, 1.0, np.random.default_rng(4)) for _ in range(2))
    assert np.array_equal(one[0], other[0])
    assert np.array_equal(one[1], other[1])
    assert np.array_equal(scores, before)
    assert one[0].tolist() != drawn(scores, 10, 1.0, np.random.default_rng(5))[0].tolist()


@pytest.mark.parametrize("nothing", [np.zeros(0, np.float32), np.full(1500, -np.inf, np.float32)])
def test_where_nothing_is_permitted_nothing_is_chosen(nothing: np.ndarray) -> None:
    for items, propensities in (drawn(nothing, 3, 1.0, np.random.default_rng(0)), best(nothing, 3)):
        assert items.dtype == np.int32
        assert len(items) == len(propensities) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_refused(value: float) -> None:
    scores = row(200)
    scores[50] = value
    with pytest.raises(NotFinite, match="NaN or infinite"):
        drawn(scores, 3, 1.0, np.random.default_rng(0))
    with pytest.raises(NotFinite, match="NaN or infinite"):
        best(scores, 3)


@pytest.mark.parametrize("temperature", [-1.0, 0.0, np.nan, np.inf])
def test_temperatures_that_are_none_are_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"the temperature is {temperature}"):
        Softmax(temperature)


@pytest.mark.medium
@settings(max_examples=50)
@given(
    scores=hnp.arrays(np.float32, st.integers(0, 400), elements=st.integers(-4, 4).map(float) | st.just(-np.inf)),
    slots=st.integers(1, 12),
)
def test_the_best_come_in_order_and_the_lower_item_among_equals(scores: np.ndarray, slots: int) -> None:
    permitted = np.flatnonzero(np.isfinite(scores))
    expected = sorted(permitted.tolist(), key=lambda item: (-scores[item], item))[:slots]
    items, propensities = best(scores, slots)
    assert items.tolist() == expected
    assert propensities.tolist() == [1] * len(expected)


@pytest.mark.parametrize("size", [63, 64, 127, 128, 5000])
def test_the_best_of_a_long_row(size: int) -> None:
    scores = row(size)
    for slots in (1, 2, size // 64 or 1, size // 64 + 1, size):
        assert best(scores, slots)[0].tolist() == np.argsort(-scores)[:slots].tolist()


@pytest.mark.parametrize("masked", [False, True])
def test_epsilon_greedy_draws_as_often_as_its_propensities_say(masked: bool) -> None:
    """All slates of two; the best are 3, 0, 4, and with a mask 1 and 2 are not permitted."""
    permitted = np.array([True, not masked, not masked, True, True])
    order = np.array([3, 0, 4] if masked else [3, 0, 4, 1, 2])
    rng, chances, counts = np.random.default_rng(6), {}, Counter()
    for _ in range(DRAWS):
        items, propensities = epsilon_greedy(order[:2], permitted, 0.3, rng)
        slate = tuple(items.tolist())
        counts[slate] += 1
        assert chances.setdefault(slate, propensities.prod()) == propensities.prod()
    slates = list(permutations(order.tolist(), 2))
    assert set(chances) == set(slates)
    assert sum(chances.values()) == pytest.approx(1)
    count = len(order)
    assert chances[3, 0] == pytest.approx((0.7 + 0.3 / count) * (0.7 + 0.3 / (count - 1)))
    assert chances[0, 3] == pytest.approx(0.3 / count * (0.7 + 0.3 / (count - 1)))
    fits([counts[one] for one in slates], [chances[one] * DRAWS for one in slates])


def test_epsilon_0_is_greedy_and_epsilon_1_is_chance() -> None:
    order, everything = np.arange(9, -1, -1), np.ones(10, np.bool_)
    items, propensities = epsilon_greedy(order[:4], everything, 0.0, np.random.default_rng(0))
    assert items.tolist() == [9, 8, 7, 6]
    assert propensities.tolist() == [1] * 4
    items, propensities = epsilon_greedy(order, everything, 1.0, np.random.default_rng(0))
    assert sorted(items.tolist()) == list(range(10))
    assert propensities == pytest.approx(1 / np.arange(10, 0, -1))


def test_epsilon_greedy_gives_fewer_where_fewer_are_permitted() -> None:
    permitted = np.zeros(3000, np.bool_)
    permitted[[7, 2000]] = True
    order = np.array([2000, 7])
    for seed in range(20):
        items, propensities = epsilon_greedy(order, permitted, 0.5, np.random.default_rng(seed))
        assert sorted(items.tolist()) == [7, 2000]
        assert propensities[1] == 1
    nothing = epsilon_greedy(order[:0], np.zeros(3000, np.bool_), 0.5, np.random.default_rng(0))
    assert [len(part) for part in nothing] == [0, 0]


@pytest.mark.parametrize("epsilon", [-0.1, 1.1, np.nan])
def test_an_epsilon_that_is_no_chance_is_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match="lies between 0 and 1"):
        EpsilonGreedy(epsilon)
