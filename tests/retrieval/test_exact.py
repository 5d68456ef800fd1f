"""Batches of slates from all items: what `choosing` gives for each row alone."""

import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import permutations

import numpy as np
import pytest
import torch

from what_next.errors import NotFinite
from what_next.retrieval import choosing as module
from what_next.retrieval import exact as laid_out
from what_next.retrieval.choosing import BLOCK
from what_next.retrieval.exact import WIDTH, Exact
from what_next.types import Boosts, Greedy, ItemSet, Permitted, Request, Slate, Softmax

from .asking import best
from .test_choosing import fits, luce

DIM = 8
NONE = np.zeros(0, np.int32)
SIZES = [1, 80, BLOCK, BLOCK + 1, WIDTH, 10_000]


def vectors(items: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(items, DIM, generator=torch.Generator().manual_seed(seed))


def points(rows: int, seed: int = 1, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(rows, DIM)) * scale).astype(np.float32)


def test_threads_do_not_disturb_each_other() -> None:
    exact, asked = Exact(vectors(3_000)), [points(8, seed) for seed in range(4)]
    wanted = [exact.act(one, Request(5), None).items for one in asked]

    def ask(place: int) -> bool:
        return all((exact.act(asked[place], Request(5), None).items == wanted[place]).all() for _ in range(50))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(len(asked)) as pool:
            assert all(pool.map(ask, range(len(asked))))
    finally:
        sys.setswitchinterval(before)


@dataclass
class Wanted:
    """What one row is to be given."""

    slots: int
    permitted: np.ndarray | None = None
    seen: np.ndarray = field(default_factory=lambda: NONE)
    temperature: float = 1.0
    seed: int = 0


def act(exact: Exact, points: np.ndarray, rows: list[Wanted], draw: bool = True) -> list[Slate]:
    """The slates of some rows, each with its own generator."""
    without = np.full((len(rows), max(len(row.seen) for row in rows)), -1, np.int32)
    for place, row in enumerate(rows):
        without[place, : len(row.seen)] = row.seen
    sets = tuple(None if row.permitted is None else ItemSet(row.permitted) for row in rows)
    sampler = [Softmax(row.temperature) if draw else Greedy() for row in rows]
    request = Request([row.slots for row in rows], sampler, Permitted(sets, without))
    found = exact.act(points, request, [np.random.default_rng(row.seed) for row in rows])
    return found.each()


def masked(scores: np.ndarray, row: Wanted) -> np.ndarray:
    scores = scores.copy()
    if row.permitted is not None:
        scores[~row.permitted] = -np.inf
    scores[row.seen] = -np.inf
    return scores


def several(items: int) -> list[Wanted]:
    """Rows that want different things of so many items."""
    rng = np.random.default_rng(7)
    permitted = rng.random(items) < 0.3
    seen = rng.permutation(items)[: items // 3]
    few = np.zeros(items, np.bool_)
    few[: min(items, 4)] = True
    return [
        Wanted(5, seed=1),
        Wanted(1, seen=seen, seed=2),
        Wanted(10, permitted=permitted, seed=3),
        Wanted(10, permitted=permitted, seen=seen, temperature=0.3, seed=4),
        Wanted(6, permitted=few, temperature=2.0, seed=5),
    ]


def boosted(items: int, rows: int) -> tuple[Boosts, np.ndarray]:
    """What some items of each row have beside, the last one twice, and -1 before; and what every item has."""
    rng = np.random.default_rng(8)
    held = rng.integers(items, size=(rows, 6), dtype=np.int32)
    held[:, 0], held[:, 4], held[1, :3] = -1, held[:, 5], -1
    held[-1, 1:3] = 0  # one of few
    amounts = rng.uniform(1, 4, held.shape).astype(np.float32)
    amounts[0, 3] = 200.0  # e to its power is no float
    every = np.zeros((rows, items + 1), np.float32)
    np.add.at(every, (np.arange(rows)[:, None], held), amounts)
    return Boosts(held, amounts), every[:, :-1]


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("items", SIZES)
def test_the_best_are_those_of_each_row_alone(items: int, beside: bool) -> None:
    table, rows = vectors(items), several(items)
    some, (boosts, every) = points(len(rows)), boosted(items, len(rows))
    exact = Exact(table, boosts if beside else None)
    for own, point, row, found in zip(every, some, rows, act(exact, some, rows, draw=False), strict=True):
        scores = table.numpy() @ point + own * beside
        expected, _ = best(masked(scores, row), row.slots)
        np.testing.assert_array_equal(found.items, expected)
        np.testing.assert_array_equal(found.propensities, np.ones(len(expected)))
        assert found.scores is not None
        np.testing.assert_allclose(found.scores, scores[expected], rtol=1e-4, atol=1e-5)


def test_among_equals_the_lower_item_is_the_better() -> None:
    table = torch.zeros(3 * BLOCK, DIM)
    (found,) = act(Exact(table), points(1), [Wanted(4, seen=np.array([1]))], draw=False)
    assert found.items.tolist() == [0, 2, 3, 4]


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("items", SIZES)
def test_propensities_are_those_of_the_slate(items: int, beside: bool) -> None:
    table, rows = vectors(items), several(items)
    some, (boosts, every) = points(len(rows)), boosted(items, len(rows))
    exact = Exact(table, boosts if beside else None)
    for own, point, row, found in zip(every, some, rows, act(exact, some, rows), strict=True):
        scores = masked(table.numpy() @ point + own * beside, row)
        chosen, chances = found.items, found.propensities
        assert len(set(chosen.tolist())) == len(chosen) == min(row.slots, int(np.isfinite(scores).sum()))
        assert np.isfinite(scores[chosen]).all()
        np.testing.assert_allclose(chances, luce(scores, chosen, row.temperature), rtol=2e-5)


def test_slates_are_drawn_as_often_as_their_propensities_say() -> None:
    """All slates of two out of five items, one of which is not permitted and one seen."""
    scores = np.array([0.5, -1, 2, 1.2, 0, 0.1])
    permitted = np.array([True, True, False, True, True, True])
    check(scores, [0, 1, 3, 4], Wanted(2, permitted=permitted, seen=np.array([5]), temperature=0.7))


@pytest.mark.medium
@pytest.mark.parametrize("spare", [0, 6])
def test_so_are_slates_of_peaked_scores(spare: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One item has most of the mass: what completes a slate must not favour one slate over another."""
    monkeypatch.setattr(module, "SPARE", spare)
    monkeypatch.setattr(module, "LEAST_REST", 0.05)
    check(np.array([4.0, 1.0, 0.5, 0.0]), [0, 1, 2, 3], Wanted(2))


def check(scores: np.ndarray, free: list[int], row: Wanted, draws: int = 6000) -> None:
    """All slates of two are drawn as often as they should be."""
    kept = np.full(len(scores), -np.inf)
    kept[free] = scores[free]
    slates = list(permutations(free, 2))
    expected = np.array([luce(kept, np.array(slate), row.temperature).prod() for slate in slates])
    exact = Exact(torch.diag(torch.tensor(scores, dtype=torch.float32)))
    rows = [replace(row, seed=seed) for seed in range(draws)]
    found = act(exact, np.ones((draws, len(scores)), np.float32), rows)
    counts = Counter(tuple(slate.items.tolist()) for slate in found)
    assert set(counts) <= set(slates)
    fits([counts[slate] for slate in slates], expected * draws)


def test_every_block_is_drawn_from_as_often_as_it_should_be() -> None:
    """10,000 items in two parts: how often each of 50 groups is hit, by the first slot and by the third."""
    table, point, draws = vectors(10_000), points(1)[0], 4000
    rows = [Wanted(3, seed=seed) for seed in range(draws)]
    drawn = np.array([slate.items for slate in act(Exact(table), np.tile(point, (draws, 1)), rows)])
    weights = np.exp((table.numpy() @ point).astype(np.float64))
    groups = np.arange(10_000) // 200
    fits(np.bincount(groups[drawn[:, 0]], minlength=50), np.bincount(groups, weights) / weights.sum() * draws)
    fits(np.bincount(groups[drawn[:, 2]], minlength=50), np.bincount(groups, weights) / weights.sum() * draws)


@pytest.mark.parametrize("scale", [30.0, 3000.0])
def test_a_row_with_all_its_mass_on_few_items_is_completed(scale: float) -> None:
    table, row = vectors(500), Wanted(20, temperature=0.5, seed=9)
    (point,) = points(1, scale=scale)
    (found,) = act(Exact(table), point[None], [row])
    assert len(set(found.items.tolist())) == 20
    expected = luce(table.numpy() @ point, found.items, 0.5)
    np.testing.assert_allclose(found.propensities, expected, rtol=1e-3 * scale / 30)


def test_a_row_is_chosen_alike_in_any_company(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever else asks; and however many rows are looked at together."""
    table, rows = vectors(5000), several(5000)
    some, exact = points(5), Exact(table)
    together = act(exact, some, rows)
    alone = [act(exact, some[[place]], [row])[0] for place, row in enumerate(rows)]
    monkeypatch.setattr(laid_out, "ROWS", 10_000)
    for one, two, three in zip(together, alone, act(exact, some, rows), strict=True):
        np.testing.assert_array_equal(one.items, two.items)
        np.testing.assert_array_equal(one.items, three.items)
        np.testing.assert_allclose(one.propensities, two.propensities, rtol=1e-5)


def test_nothing_permitted_is_an_empty_slate() -> None:
    exact, nothing = Exact(vectors(300)), np.zeros(300, np.bool_)
    for draw in (False, True):
        (found,) = act(exact, points(1), [Wanted(3, permitted=nothing)], draw)
        assert len(found.items) == len(found.propensities) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("draw", [False, True])
def test_rows_of_scores_that_are_not_finite_are_named(value: float, draw: bool) -> None:
    some = points(3)
    some[1, 0] = value
    with pytest.raises(NotFinite) as error:
        act(Exact(vectors(300)), some, [Wanted(3)] * 3, draw)
    assert error.value.rows == [1]
    table = vectors(300)
    table[7, 0] = value
    with pytest.raises(NotFinite, match="NaN or infinite"):
        act(Exact(table), points(2), [Wanted(3)] * 2, draw)
