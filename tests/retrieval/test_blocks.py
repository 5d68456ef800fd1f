"""Batches of slates from all items by blocks: what `explore` gives for each row alone."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch

from tests.retrieval.test_explore import fits, luce
from what_next.retrieval import blocks as module
from what_next.retrieval.blocks import BLOCK, WIDTH, Blocks, Wanted
from what_next.retrieval.explore import best

DIM = 8
NONE = np.zeros(0, np.int32)
SIZES = [1, 80, BLOCK, BLOCK + 1, WIDTH, 10_000]


def vectors(items: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(items, DIM, generator=torch.Generator().manual_seed(seed))


def points(rows: int, seed: int = 1, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(rows, DIM)) * scale).astype(np.float32)


def wanted(
    slots: int, *, permitted: np.ndarray | None = None, seen: np.ndarray = NONE, temperature: float = 1.0, seed: int = 0
) -> Wanted:
    return Wanted(slots, permitted, seen.astype(np.int32), temperature, np.random.default_rng(seed))


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
        wanted(5, seed=1),
        wanted(1, seen=seen, seed=2),
        wanted(10, permitted=permitted, seed=3),
        wanted(10, permitted=permitted, seen=seen, temperature=0.3, seed=4),
        wanted(6, permitted=few, temperature=2.0, seed=5),
    ]


@pytest.mark.parametrize("items", SIZES)
def test_the_best_are_those_of_each_row_alone(items: int) -> None:
    table, rows = vectors(items), several(items)
    some = points(len(rows))
    for point, row, (chosen, ones) in zip(some, rows, Blocks(table).best(some, rows), strict=True):
        expected, _ = best(masked(table.numpy() @ point, row), row.slots)
        np.testing.assert_array_equal(chosen, expected)
        np.testing.assert_array_equal(ones, np.ones(len(expected)))


def test_among_equals_the_lower_item_is_the_better() -> None:
    table = torch.zeros(3 * BLOCK, DIM)
    (found,) = Blocks(table).best(points(1), [wanted(4, seen=np.array([1]))])
    assert found[0].tolist() == [0, 2, 3, 4]


@pytest.mark.parametrize("items", SIZES)
def test_propensities_are_those_of_the_slate(items: int) -> None:
    table, rows = vectors(items), several(items)
    some = points(len(rows))
    for point, row, (chosen, chances) in zip(some, rows, Blocks(table).draw(some, rows), strict=True):
        scores = masked(table.numpy() @ point, row)
        assert len(set(chosen.tolist())) == len(chosen) == min(row.slots, int(np.isfinite(scores).sum()))
        assert np.isfinite(scores[chosen]).all()
        np.testing.assert_allclose(chances, luce(scores, chosen, row.temperature), rtol=2e-5)


def test_slates_are_drawn_as_often_as_their_propensities_say() -> None:
    """All slates of two out of five items, one of which is not permitted and one seen."""
    scores = np.array([0.5, -1, 2, 1.2, 0, 0.1])
    permitted = np.array([True, True, False, True, True, True])
    check(scores, [0, 1, 3, 4], wanted(2, permitted=permitted, seen=np.array([5]), temperature=0.7))


@pytest.mark.parametrize("spare", [0, 6])
def test_so_are_slates_of_peaked_scores(spare: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One item has most of the mass: what completes a slate must not favour one slate over another."""
    monkeypatch.setattr(module, "SPARE", spare)
    monkeypatch.setattr(module, "LEAST_REST", 0.05)
    check(np.array([4.0, 1.0, 0.5, 0.0]), [0, 1, 2, 3], wanted(2))


def check(scores: np.ndarray, free: list[int], row: Wanted, draws: int = 6000) -> None:
    """All slates of two are drawn as often as they should be."""
    kept = np.full(len(scores), -np.inf)
    kept[free] = scores[free]
    slates = list(permutations(free, 2))
    expected = np.array([luce(kept, np.array(slate), row.temperature).prod() for slate in slates])
    blocks = Blocks(torch.diag(torch.tensor(scores, dtype=torch.float32)))
    found = blocks.draw(np.ones((draws, len(scores)), np.float32), [row] * draws)
    counts = Counter(tuple(chosen.tolist()) for chosen, _ in found)
    assert set(counts) <= set(slates)
    fits([counts[slate] for slate in slates], expected * draws)


def test_every_block_is_drawn_from_as_often_as_it_should_be() -> None:
    """10,000 items in two parts: how often each of 50 groups is hit, by the first slot and by the third."""
    table, point, draws = vectors(10_000), points(1)[0], 4000
    blocks = Blocks(table)
    rows = [wanted(3, seed=seed) for seed in range(draws)]
    drawn = np.array([chosen for chosen, _ in blocks.draw(np.tile(point, (draws, 1)), rows)])
    weights = np.exp((table.numpy() @ point).astype(np.float64))
    groups = np.arange(10_000) // 200
    fits(np.bincount(groups[drawn[:, 0]], minlength=50), np.bincount(groups, weights) / weights.sum() * draws)
    fits(np.bincount(groups[drawn[:, 2]], minlength=50), np.bincount(groups, weights) / weights.sum() * draws)


@pytest.mark.parametrize("scale", [30.0, 3000.0])
def test_a_row_with_all_its_mass_on_few_items_is_completed(scale: float) -> None:
    table, row = vectors(500), wanted(20, temperature=0.5, seed=9)
    (point,) = points(1, scale=scale)
    ((chosen, chances),) = Blocks(table).draw(point[None], [row])
    assert len(set(chosen.tolist())) == 20
    np.testing.assert_allclose(chances, luce(table.numpy() @ point, chosen, 0.5), rtol=1e-3 * scale / 30)


def test_a_row_is_chosen_alike_in_any_company() -> None:
    """Whoever else asks; and however many rows are looked at together."""
    table, items = vectors(5000), 5000
    some, blocks = points(5), Blocks(table)
    together = blocks.draw(some, several(items))
    alone = [blocks.draw(some[[place]], [row])[0] for place, row in enumerate(several(items))]
    blocks.most = 2
    parted = blocks.draw(some, several(items))
    for one, two, three in zip(together, alone, parted, strict=True):
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[0], three[0])
        np.testing.assert_allclose(one[1], two[1], rtol=1e-5)


def test_nothing_permitted_is_an_empty_slate() -> None:
    blocks, nothing = Blocks(vectors(300)), np.zeros(300, np.bool_)
    for found in (blocks.draw, blocks.best):
        ((chosen, chances),) = found(points(1), [wanted(3, permitted=nothing)])
        assert len(chosen) == len(chances) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(value: float) -> None:
    table = vectors(300)
    table[7, 0] = value
    for found in (Blocks(table).draw, Blocks(table).best):
        with pytest.raises(ValueError, match="NaN or infinite"):
            found(points(2), [wanted(3), wanted(3)])
