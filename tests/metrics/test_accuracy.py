"""Ranking metrics: by hand, against every order of the tied items, against chance, and against another library."""

from fractions import Fraction
from itertools import chain, groupby, permutations, product
from math import comb, log2

import numba
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from what_next.metrics.accuracy import average_precision, hit_rate, ndcg, precision, recall, reciprocal_rank
from what_next.metrics.places import NOWHERE, Places, place

METRICS = (hit_rate, ndcg, reciprocal_rank, recall, precision, average_precision)
DISCOUNTS = [1 / log2(1 + position) for position in range(1, 9)]


def places_of(*rows, counts=None):
    """Each row a list of (above, tied)."""
    width = max(map(len, rows))
    full = np.array([[*row, *[(NOWHERE, 1)] * (width - len(row))] for row in rows])
    numbers = [len(row) for row in rows] if counts is None else counts
    return Places(full[..., 0], full[..., 1], np.array(numbers))


def value(metric, k, *row, count=None):
    """The metric of one row."""
    return pytest.approx(metric(places_of(row, counts=count and [count]), k)[0], abs=1e-12)


def test_a_hit_is_among_the_first_k():
    assert value(hit_rate, 3, (2, 1)) == 1
    assert value(hit_rate, 2, (2, 1)) == 0


def test_a_hit_among_tied_items_is_one_with_the_chance_of_a_slot():
    assert value(hit_rate, 3, (1, 5)) == 2 / 5


def test_one_of_several_tied_items_is_a_hit_unless_all_slots_go_to_others():
    # Two of six tied items are relevant, three slots are left: none of the two has one in C(4, 3) / C(6, 3) = 4 / 20.
    assert value(hit_rate, 4, (1, 6), (1, 6)) == 16 / 20
    assert value(hit_rate, 6, (1, 6), (1, 6)) == 1  # one place too few for both
    assert value(hit_rate, 4, (0, 1), (1, 6), (1, 6)) == 1
    assert value(hit_rate, 3, (1, 6), (8, 2), count=4) == 2 / 6


def test_the_reciprocal_rank_is_that_of_the_first_relevant_item():
    assert value(reciprocal_rank, 5, (2, 1), (4, 1)) == 1 / 3
    assert value(reciprocal_rank, 2, (2, 1)) == 0


def test_the_reciprocal_rank_of_tied_items_is_a_mean_over_positions():
    assert value(reciprocal_rank, 3, (1, 4)) == (1 / 2 + 1 / 3) / 4
    # Two of three tied items: the first of them comes first with chance 2 / 3, second with 1 / 3.
    assert value(reciprocal_rank, 5, (1, 3), (1, 3)) == 2 / 3 / 2 + 1 / 3 / 3
    assert value(reciprocal_rank, 2, (1, 3), (1, 3)) == 2 / 3 / 2
    assert value(reciprocal_rank, 5, (0, 2), (0, 2), (2, 4), (2, 4)) == 1


def test_ndcg_is_one_at_rank_one_and_a_half_at_rank_three():
    assert value(ndcg, 3, (0, 1)) == 1
    assert value(ndcg, 3, (1, 1)) == 0.6309297535714575
    assert value(ndcg, 3, (2, 1)) == 0.5
    assert value(ndcg, 2, (2, 1)) == 0


def test_ndcg_of_several_is_measured_by_as_many_in_front():
    ideal = 1 + 1 / log2(3)
    assert value(ndcg, 3, (0, 1), (2, 1)) == 1.5 / ideal
    assert value(ndcg, 2, (1, 1), count=5) == 1 / log2(3) / ideal  # no more than k can stand in front
    assert value(ndcg, 3, (1, 1), (8, 1)) == 1 / log2(3) / ideal


def test_ndcg_of_a_tied_item_is_a_mean_over_positions():
    assert value(ndcg, 3, (1, 4)) == (1 / log2(3) + 1 / 2) / 4


def test_recall_and_precision_share_their_hits():
    # One hit for sure, one of four tied with two slots left, one beyond.
    assert value(recall, 5, (0, 1), (3, 4), (9, 1)) == 1.5 / 3
    assert value(precision, 5, (0, 1), (3, 4), (9, 1)) == 1.5 / 5


def test_average_precision_by_hand():
    assert value(average_precision, 5, (0, 1), (2, 1)) == (1 + 2 / 3) / 2
    assert value(average_precision, 2, (0, 1), (2, 1)) == 1 / 2  # by the relevant items, though one slot is full
    assert value(average_precision, 1, (0, 1), (1, 1), (2, 1)) == 1 / 3


def test_average_precision_of_tied_items_counts_those_that_came_before():
    # Positions 2 to 4, one relevant item above. Each of the three pairs of positions is as likely.
    pairs = [(2 / 2 + 3 / 3), (2 / 2 + 3 / 4), (2 / 3 + 3 / 4)]
    assert value(average_precision, 4, (0, 1), (1, 3), (1, 3)) == (1 + sum(pairs) / 3) / 3


@pytest.mark.parametrize("metric", METRICS)
def test_a_row_without_relevant_items_has_no_value(metric):
    found = metric(places_of([(0, 1)], [(NOWHERE, 1)], [], counts=[1, 1, 0]), 4)
    assert found[:2].tolist() == [found[0], 0]
    assert found[0] > 0
    assert np.isnan(found[2])


@pytest.mark.parametrize("metric", METRICS)
def test_nobody_to_judge_is_no_error(metric):
    empty = np.zeros((0, 1), np.int64)
    assert metric(Places(empty, empty, empty[:, 0]), 3).shape == (0,)


def orders_of(scores):
    """Every order of the permitted items in which no item stands before one of a higher score."""
    permitted = sorted((item for item, score in enumerate(scores) if score > -np.inf), key=lambda item: -scores[item])
    groups = [list(group) for _, group in groupby(permitted, key=lambda item: scores[item])]
    return [list(chain(*order)) for order in product(*map(permutations, groups))]


def plain(order, relevant, k):
    """The metrics of one order, in the order of METRICS, by their definitions."""
    hits = [item in relevant for item in order[:k]]
    positions = [position for position, hit in enumerate(hits, 1) if hit]
    ideal = sum(DISCOUNTS[: min(k, len(relevant))])
    return (
        bool(positions),
        sum(DISCOUNTS[position - 1] for position in positions) / ideal,
        1 / positions[0] if positions else 0,
        len(positions) / len(relevant),
        len(positions) / k,
        sum(sum(hits[:position]) / position for position in positions) / len(relevant),
    )


@given(
    st.lists(st.sampled_from([-np.inf, 0.0, 1.0, 2.0]), min_size=1, max_size=6),
    st.sets(st.integers(0, 5), min_size=1),
    st.integers(1, 8),
)
def test_metrics_are_means_over_every_order_of_the_tied_items(scores, wanted, k):
    relevant = [item for item in sorted(wanted) if item < len(scores)] or [0]
    places, _ = place(torch.tensor([scores]), torch.tensor([relevant]), k, np.random.default_rng(0))
    expected = np.mean([plain(order, relevant, k) for order in orders_of(scores)], axis=0)
    for metric, mean in zip(METRICS, expected, strict=True):
        assert metric(places, k)[0] == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize("relevant", [1, 3])
@pytest.mark.parametrize("items", [12, 50_000])
def test_a_scorer_without_an_opinion_does_as_well_as_chance(items, relevant):
    k = 10
    places, _ = place(torch.zeros((1, items)), torch.arange(relevant)[None], k, np.random.default_rng(0))
    missed = Fraction(comb(items - relevant, k), comb(items, k))
    assert hit_rate(places, k)[0] == pytest.approx(float(1 - missed), rel=1e-14)
    assert recall(places, k)[0] == pytest.approx(k / items, rel=1e-14)
    assert precision(places, k)[0] == pytest.approx(relevant / items, rel=1e-14)
    first = [Fraction(comb(items - position, relevant - 1), comb(items, relevant)) for position in range(1, k + 1)]
    expected = float(sum(chance / position for position, chance in enumerate(first, 1)))
    assert reciprocal_rank(places, k)[0] == pytest.approx(expected, rel=1e-14)


def drawn_places(seed, rows=200, items=30, k=12):
    """Places of random scores with ties and items that are not permitted, one to five relevant."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(6, size=(rows, items)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.1] = -np.inf
    relevant = rng.permuted(np.tile(np.arange(items), (rows, 1)), axis=1)[:, :5]
    relevant[np.arange(5) > rng.integers(5, size=(rows, 1))] = -1
    return place(torch.from_numpy(scores), torch.from_numpy(relevant), k, rng)[0]


@pytest.mark.parametrize("metric", METRICS)
def test_values_lie_between_zero_and_one(metric):
    for k in (1, 2, 7, 12):
        values = metric(drawn_places(0), k)
        assert (values >= 0).all()
        assert (values <= 1 + 1e-12).all()


@pytest.mark.parametrize("metric", [hit_rate, reciprocal_rank, recall, average_precision])
def test_a_longer_slate_is_never_worse(metric):
    values = np.stack([metric(drawn_places(1), k) for k in range(1, 13)])
    assert (np.diff(values, axis=0) >= -1e-12).all()


@pytest.mark.parametrize("metric", METRICS)
def test_the_order_of_the_relevant_items_does_not_matter(metric):
    places = drawn_places(2)
    turned = Places(places.above[:, ::-1], places.tied[:, ::-1], places.counts)
    assert metric(turned, 5) == pytest.approx(metric(places, 5), abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_a_rows_value_does_not_depend_on_other_rows(metric):
    places, k = drawn_places(3, rows=60), 5
    together = metric(places, k)
    for row in range(60):
        alone = Places(*(part[row : row + 1] for part in (places.above, places.tied, places.counts)))
        assert metric(alone, k)[0] == pytest.approx(together[row], abs=1e-15)


@pytest.mark.medium
def test_values_equal_those_of_ranx_on_random_rankings(monkeypatch):
    monkeypatch.setattr(numba.config, "DISABLE_JIT", True)  # to compile them takes longer than all other tests here
    import ranx

    rng = np.random.default_rng(0)
    rows, items = 60, 40
    scores = rng.permuted(np.tile(np.arange(items, dtype=np.float32), (rows, 1)), axis=1)
    counts = rng.integers(1, 9, size=rows)
    relevant = rng.permuted(np.tile(np.arange(items), (rows, 1)), axis=1)[:, :8]
    relevant[np.arange(8) >= counts[:, None]] = -1
    wanted = {f"q{row}": {f"i{item}": 1 for item in relevant[row] if item >= 0} for row in range(rows)}
    ranked = {f"q{row}": {f"i{item}": float(score) for item, score in enumerate(scores[row])} for row in range(rows)}
    qrels, run = ranx.Qrels(wanted), ranx.Run(ranked)
    cutoffs = (1, 3, 10, 25)
    names = {"hit_rate": hit_rate, "ndcg": ndcg, "mrr": reciprocal_rank, "recall": recall, "precision": precision}
    names["map"] = average_precision
    ranx.evaluate(qrels, run, [f"{name}@{k}" for name in names for k in cutoffs])
    places, _ = place(torch.from_numpy(scores), torch.from_numpy(relevant), max(cutoffs), rng)
    for name, metric in names.items():
        for k in cutoffs:
            expected = [run.scores[f"{name}@{k}"][f"q{row}"] for row in range(rows)]
            assert metric(places, k) == pytest.approx(expected, abs=1e-12)
