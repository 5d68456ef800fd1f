"""Places of relevant items and slates, against a plain sort."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from what_next.metrics.places import GROUP, NOWHERE, Places, place


def placed(scores, relevant, k, seed=0):
    """`place` of plain lists."""
    table, wanted = torch.tensor(scores, dtype=torch.float32), torch.tensor(relevant)
    return place(table, wanted, k, np.random.default_rng(seed))


def naive(scores, relevant, k):
    """For each relevant item of one row: how many items stand above it, and how many are its equals."""
    above, tied = [], []
    for item in relevant:
        better = np.inf if item < 0 or np.isneginf(scores[item]) else (scores > scores[item]).sum()
        above.append(NOWHERE if better >= k else better)
        tied.append(1 if better >= k else (scores == scores[item]).sum())
    return above, tied


def agrees(scores, relevant, k, seed=0):
    """Whether places and slates are those of a plain sort."""
    places, slates = place(torch.from_numpy(scores), torch.from_numpy(relevant), k, np.random.default_rng(seed))
    for row, items in enumerate(relevant):
        assert (places.above[row].tolist(), places.tied[row].tolist()) == naive(scores[row], items, k)
        assert places.counts[row] == (items >= 0).sum()
        chosen = slates[row][slates[row] >= 0]
        best = np.sort(scores[row][np.isfinite(scores[row])])[::-1][:k]
        assert scores[row][chosen].tolist() == best.tolist()
        assert len(set(chosen.tolist())) == len(chosen)
        assert (slates[row][len(chosen) :] == -1).all()


def test_places_by_hand():
    places, slates = placed([[5, 7, 7, 1, 7, 9]], [[5, 1, 0, 3, -1]], 4)
    assert places.above.tolist() == [[0, 1, NOWHERE, NOWHERE, NOWHERE]]
    assert places.tied.tolist() == [[1, 3, 1, 1, 1]]
    assert places.counts.tolist() == [4]
    assert slates[0, 0] == 5
    assert set(slates[0, 1:].tolist()) == {1, 2, 4}


def test_ties_at_the_border_of_the_slate_are_counted_to_the_last_item():
    places, _ = placed([[5, 7, 7, 1, 7, 7]], [[4, 0]], 2)
    assert places.above.tolist() == [[0, NOWHERE]]
    assert places.tied.tolist() == [[4, 1]]


def test_an_item_that_is_not_permitted_is_nowhere_though_the_slate_has_room():
    places, slates = placed([[-np.inf, 2, -np.inf]], [[0, 1]], 5)
    assert places.above.tolist() == [[NOWHERE, 0]]
    assert places.counts.tolist() == [2]
    assert slates.tolist() == [[1, -1, -1, -1, -1]]


def test_where_nothing_is_permitted_the_slate_is_empty():
    places, slates = placed([[-np.inf] * 4], [[2]], 3)
    assert places.above.tolist() == [[NOWHERE]]
    assert slates.tolist() == [[-1, -1, -1]]


def test_a_score_that_is_not_a_number_is_our_own_bug():
    with pytest.raises(AssertionError, match="not a number"):
        placed([[1, np.nan, 2]], [[0]], 2)


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 14), st.integers(1, 6))
def test_places_and_slates_are_those_of_a_plain_sort(seed, items, k, levels):
    rng = np.random.default_rng(seed)
    scores = rng.integers(levels, size=(6, items)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.2] = -np.inf
    relevant = rng.permuted(np.tile(np.arange(-3, items), (6, 1)), axis=1)[:, :4].clip(-1)
    agrees(scores, relevant, k, seed)


@pytest.mark.parametrize("levels", [3, 40, 10**6])
@pytest.mark.parametrize("k", [1, 4])
def test_a_large_catalogue_is_ranked_like_a_small_one(k, levels):
    items = GROUP * GROUP * (k + 1) + 5  # more than whole groups
    rng = np.random.default_rng(k)
    scores = rng.integers(levels, size=(40, items)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.2] = -np.inf
    scores[:3] = -np.inf
    scores[1, [7, items - 1]] = 0.0, 1.0
    order = np.argsort(-scores, axis=1)
    relevant = np.concatenate([order[:, :5], rng.integers(5, items, size=(40, 1))], axis=1)
    relevant[:, 5] = np.where((relevant[:, :5] == relevant[:, 5:]).any(axis=1), -1, relevant[:, 5])
    agrees(scores, relevant, k)


def test_scores_may_be_a_view_that_shares_its_rows():
    scores = torch.arange(2000.0).expand(3, -1)
    places, slates = place(scores, torch.tensor([[1998], [1999], [0]]), 2, np.random.default_rng(0))
    assert places.above[:, 0].tolist() == [1, 0, NOWHERE]
    assert slates.tolist() == [[1999, 1998]] * 3


@pytest.mark.parametrize(
    ("scores", "k", "orders"),
    [
        ([4, 9, 4, 4, 1, 4, 4], 4, 5 * 4 * 3),  # three of five equals have a slot
        ([4, 4, 9, 4, 9, 1], 5, 2 * 3 * 2),  # all equals have one
        ([4, 9, 4, 9, 4], 3, 2 * 3),  # both
        ([4, 4, 4, -np.inf], 4, 3 * 2),  # one slot stays empty
    ],
)
def test_every_order_of_tied_items_is_drawn_as_often_as_any_other(scores, k, orders):
    table = torch.tensor(scores, dtype=torch.float32).expand(1000 * orders, -1)
    _, slates = place(table, torch.zeros((len(table), 1), dtype=torch.int64), k, np.random.default_rng(0))
    _, counts = np.unique(slates, axis=0, return_counts=True)
    assert len(counts) == orders
    deviation = (2 * (orders - 1)) ** 0.5
    assert ((counts - 1000) ** 2 / 1000).sum() < orders - 1 + 4 * deviation  # chi-square: its mean and its deviation


def test_a_scorer_without_an_opinion_recommends_every_item_of_a_large_catalogue_equally_often():
    items, rows, k = 1500, 4000, 3
    _, slates = place(
        torch.zeros((rows, items)), torch.zeros((rows, 1), dtype=torch.int64), k, np.random.default_rng(0)
    )
    for slot in range(k):
        counts, expected = np.bincount(slates[:, slot], minlength=items), rows / items
        assert ((counts - expected) ** 2 / expected).sum() < items + 4 * (2 * items) ** 0.5  # mean and deviation
    assert (np.sort(slates, axis=1)[:, 1:] > np.sort(slates, axis=1)[:, :-1]).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 11))
def test_slates_depend_on_the_seed_alone_and_not_on_how_rows_are_cut(seed, cut):
    scores = torch.from_numpy(np.random.default_rng(seed).integers(3, size=(12, 8)).astype(np.float32))
    scores[::3] += torch.arange(8) / 16  # rows without ties draw nothing
    relevant = torch.zeros((12, 1), dtype=torch.int64)
    whole, again = (place(scores, relevant, 4, np.random.default_rng(seed))[1] for _ in range(2))
    rng = np.random.default_rng(seed)
    parts = [place(scores[rows], relevant[rows], 4, rng)[1] for rows in (slice(cut), slice(cut, None))]
    assert whole.tolist() == again.tolist() == np.concatenate(parts).tolist()


def test_where_no_tie_matters_nothing_is_drawn():
    rng = np.random.default_rng(0)
    # Equals far below the slate, and slots that stay empty, are no ties that matter.
    place(torch.tensor([[3, 2, 1, 1, 1], [5, -np.inf, -np.inf, -np.inf, -np.inf]]), torch.tensor([[0], [2]]), 2, rng)
    assert rng.random() == np.random.default_rng(0).random()


def test_another_seed_breaks_ties_otherwise_and_leaves_places_as_they_are():
    one, other = (placed([[1] * 40] * 5, [[3]] * 5, 4, seed) for seed in (0, 1))
    assert one[1].tolist() != other[1].tolist()
    assert one[0].above.tolist() == other[0].above.tolist() == [[0]] * 5
    assert one[0].tied.tolist() == other[0].tied.tolist() == [[40]] * 5


def test_a_slate_without_scores_gives_the_position_in_it():
    slates = np.array([[7, 2, 0], [7, 2, 2], [7, -1, -1]], np.int32)
    places = Places.of_slates(slates, np.array([[0, 7, 4], [2, -1, -1], [-1, -1, -1]]))
    assert places.above.tolist() == [[2, 0, NOWHERE], [1, NOWHERE, NOWHERE], [NOWHERE] * 3]
    assert (places.tied == 1).all()
    assert places.counts.tolist() == [3, 1, 0]


@pytest.mark.gpu
def test_a_graphics_card_finds_the_same_places_and_slates():
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.integers(200, size=(30, 3000)).astype(np.float32))
    relevant = torch.from_numpy(rng.integers(3000, size=(30, 2)))
    here, slates = place(scores, relevant, 6, np.random.default_rng(0))
    there, others = place(scores.cuda(), relevant.cuda(), 6, np.random.default_rng(0))
    assert here.above.tolist() == there.above.tolist()
    assert here.tied.tolist() == there.tied.tolist()
    assert slates.tolist() == others.tolist()
