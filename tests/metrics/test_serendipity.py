"""Hits that the popular slate lacks: by hand, in expectation, and beside the hit rate."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from what_next.metrics.accuracy import hit_rate
from what_next.metrics.beyond import serendipity
from what_next.metrics.places import NOWHERE, Places

ORDERS = st.permutations(range(8))


def slates(*rows) -> np.ndarray:
    width = max(map(len, rows))
    return np.array([[*row, *[-1] * (width - len(row))] for row in rows], np.int32)


def against(rows, relevant, popular) -> np.ndarray:
    """Of slates, and slates of what is popular."""
    one, other = (Places.of_slates(each, relevant) for each in (rows, popular))
    return serendipity(one, other, popular.shape[1])


def test_a_hit_counts_unless_the_popular_slate_holds_it():
    relevant, popular = slates([5], [5], [6]), slates([0, 1], [5, 1], [0, 1])
    assert against(slates([4, 5], [4, 5], [4, 5]), relevant, popular).tolist() == [1, 0, 0]


def test_hits_are_told_as_a_share_of_those_that_could_be():
    relevant = slates([1, 2, 3], [1, 2], [1, -1])
    popular = slates([2, 0], [0, 7], [0, 7])
    assert against(slates([1, 2], [1, 9], [9, 1]), relevant, popular).tolist() == [0.5, 0.5, 1]


def test_a_tied_hit_counts_by_its_chance():
    places = Places(np.array([[1, 1, NOWHERE]]), np.array([[4, 4, 1]]), np.array([3]))
    popular = Places(np.array([[0, NOWHERE, NOWHERE]]), np.array([[1, 1, 1]]), np.array([3]))
    # Each of the two has a chance of 1 in 4 for the second slot; item 1 is expected anyway; two hits could be.
    assert serendipity(places, popular, 2).tolist() == [0.125]
    tied = Places(np.array([[1, 1, NOWHERE]]), np.array([[2, 2, 1]]), np.array([3]))
    # Each of the two stands in the popular slate with a chance of a half: 2 * 1/4 * 1/2, over two.
    assert serendipity(places, tied, 2).tolist() == [0.125]


def test_without_a_relevant_item_nothing_is_told_and_padding_is_no_hit():
    relevant = slates([], [5, -1])
    values = against(slates([4, -1], [-1, -1]), relevant, slates([-1, -1], [-1, -1]))
    assert np.isnan(values[0])
    assert values[1] == 0


@given(ORDERS, ORDERS, ORDERS, st.integers(1, 4), st.integers(1, 4))
def test_serendipity_never_exceeds_the_hit_rate_and_equals_it_beside_an_empty_slate(order, liked, known, wanted, k):
    rows, relevant, popular = slates(order[:4]), slates(liked[:wanted]), slates(known[:k])
    places = Places.of_slates(rows, relevant)
    value = against(rows, relevant, popular)[0]
    assert value == pytest.approx(len((set(order[:k]) & set(liked[:wanted])) - set(known[:k])) / min(wanted, k))
    assert 0 <= value <= hit_rate(places, k)[0] + 1e-12
    alone = relevant[:, :1]
    assert against(rows, alone, np.full_like(popular, -1)) == hit_rate(Places.of_slates(rows, alone), k)


def test_the_popular_slate_itself_is_never_serendipitous():
    popular = slates([3, 1, 2])
    assert against(popular, slates([1, 2]), popular).tolist() == [0]


def test_scorers_without_an_opinion_come_to_the_mean_over_all_orders_of_both():
    relevant, tied = slates([0, 3]), Places(np.array([[0, 0]]), np.array([[4, 4]]), np.array([2]))
    orders = [slates(order[:2]) for order in permutations(range(4))]
    found = [against(one, relevant, other)[0] for one in orders for other in orders]
    assert serendipity(tied, tied, 2)[0] == pytest.approx(np.mean(found))
