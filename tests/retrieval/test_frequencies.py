"""Eight items, everything enumerated: what is drawn, how often, and the probability that is returned with it."""

from itertools import combinations
from math import comb

import numpy as np
import pytest

from what_next.retrieval import Box
from what_next.types import Product

from .asking import select

DRAWS = 100_000
ITEMS = np.array([[0, 0], [0, 0], [1, 0], [0, 2], [2, 1], [-1, 0], [3, 3], [-3, 1]], np.float32)
WORTH = np.array([0.5, 0.1, 0.5, 0.9, 0.3, 0.2, 0.8, 0.4])  # two are equal


def enumerate_step(point, permitted, tolerance, relax, candidates):
    """The probability of each item at one step, straight from the rule."""
    dim = len(point)
    chances = dict.fromkeys(permitted, 0.0)
    for attribute in range(dim):
        radius = [max(tolerance, relax / 2) if k == attribute else tolerance for k in range(dim)]
        choice = [i for i in permitted if all(abs(ITEMS[i, k] - point[k]) <= radius[k] for k in range(dim))]
        if not choice:
            squares = {i: sum((float(ITEMS[i, k]) - point[k]) ** 2 for k in range(dim)) for i in permitted}
            choice = [i for i in permitted if squares[i] == min(squares.values())]
        samples = list(combinations(choice, min(max(candidates, 1), len(choice))))
        for sample in samples:
            winners = [max(sample, key=lambda i: (WORTH[i], -i))] if candidates else sample
            for item in winners:
                chances[item] += 1 / len(samples) / len(winners) / dim
    return {item: chance for item, chance in chances.items() if chance}


def enumerate_slates(point, permitted, slots, **rule):
    """Every possible slate, with the probability of each of its steps."""
    slates = {(): ()}
    for _ in range(slots):
        slates = {
            (*slate, item): (*steps, chance)
            for slate, steps in slates.items()
            for item, chance in enumerate_step(point, [i for i in permitted if i not in slate], **rule).items()
        }
    return slates


def draw(point, slots, tolerance, relax, candidates, **masks) -> Product:
    return select(
        Box(ITEMS),
        np.tile(np.array(point, np.float32), (DRAWS, 1)),
        tolerance=tolerance,
        relax=relax,
        slots=slots,
        rng=np.random.default_rng(11),
        propensities=True,
        score=(lambda rows, items: WORTH[items]) if candidates else None,
        candidates=candidates,
        **masks,
    )


@pytest.mark.parametrize("candidates", [0, 2, 20], ids="critic {}".format)
@pytest.mark.parametrize("slots", [1, 2], ids="slots {}".format)
@pytest.mark.parametrize(
    ("point", "tolerance", "relax"),
    [
        pytest.param((0.0, 0.0), 1.0, 0.0, id="four match"),
        pytest.param((0.0, 0.0), 1.0, 1.0, id="relax below the tolerance changes nothing"),
        pytest.param((0.0, 0.0), 1.0, 4.0, id="another matches through the second attribute"),
        pytest.param((0.0, 0.5), 0.5, 6.0, id="some match through either"),
        pytest.param((0.5, 1.0), 0.25, 3.0, id="only the relaxed box holds any, and not for each attribute"),
        pytest.param((0.5, 0.0), 0.25, 0.0, id="nothing matches and three are equally near"),
        pytest.param((2.5, 2.0), 0.25, 2.0, id="one box is empty, the other is not"),
    ],
)
def test_draws_and_propensities_are_those_of_the_rule(point, tolerance, relax, slots, candidates):
    rule = {"tolerance": tolerance, "relax": relax, "candidates": candidates}
    compare(draw(point, slots, **rule), enumerate_slates(point, range(8), slots, **rule))


@pytest.mark.parametrize("candidates", [0, 2], ids="critic {}".format)
@pytest.mark.parametrize("relax", [0.0, 4.0], ids="relax {}".format)
def test_masks_change_draws_and_propensities_alike(relax, candidates):
    allowed = np.array([1, 0, 1, 1, 1, 1, 1, 1], np.bool_)
    exclude = np.tile(np.array([-1, 5, 6, -1], np.int32), (DRAWS, 1))
    rule = {"tolerance": 1.0, "relax": relax, "candidates": candidates}
    expected = enumerate_slates((0.0, 0.0), [0, 2, 3, 4, 7], 3, **rule)
    compare(draw((0.0, 0.0), 3, allowed=allowed, exclude=exclude, **rule), expected)


def test_a_mask_of_each_row_is_the_same_mask_for_all():
    allowed, point = np.array([1, 0, 1, 1, 1, 1, 1, 1], np.bool_), np.zeros((500, 2), np.float32)
    how = {"tolerance": 1.0, "relax": 4.0, "slots": 3}
    masks = (allowed, np.tile(allowed, (500, 1)))
    one, other = (select(Box(ITEMS), point, rng=np.random.default_rng(3), allowed=mask, **how) for mask in masks)
    assert np.array_equal(one.items, other.items)


def compare(selection: Product, expected: dict) -> None:
    slates, first, counts = np.unique(selection.items, axis=0, return_index=True, return_counts=True)
    seen = dict(zip(map(tuple, slates.tolist()), counts, strict=True))
    assert set(seen) <= set(expected)
    assert sum(np.prod(steps) for steps in expected.values()) == pytest.approx(1)
    for slate, steps in expected.items():
        chance = np.prod(steps)
        assert abs(seen.get(slate, 0) - DRAWS * chance) <= 5 * np.sqrt(DRAWS * chance * (1 - chance)), slate
    for row in first:
        steps = expected[tuple(selection.items[row].tolist())]
        np.testing.assert_allclose(selection.propensities[row], steps, rtol=0, atol=1e-12)


def test_a_step_without_propensities_follows_the_same_rule():
    """A single step asks for the drawn box alone; the frequencies are the same."""
    point = np.tile(np.array([[0.0, 0.5]], np.float32), (DRAWS, 1))
    got = select(Box(ITEMS), point, tolerance=0.5, relax=6.0, rng=np.random.default_rng(5))
    expected = enumerate_step((0.0, 0.5), range(8), 0.5, 6.0, 0)
    for item in range(8):
        chance = expected.get(item, 0.0)
        bound = 5 * np.sqrt(DRAWS * chance * (1 - chance))
        assert abs(np.count_nonzero(got.items == item) - DRAWS * chance) <= bound, item


def test_the_chance_to_be_the_best_of_a_sample_is_the_binomial_one():
    box = Box(np.zeros((9, 1), np.float32))
    point = np.zeros((3000, 1), np.float32)
    worth = np.arange(9.0)
    got = select(
        box,
        point,
        tolerance=0.0,
        rng=np.random.default_rng(0),
        propensities=True,
        score=lambda rows, items: worth[items],
        candidates=4,
    )
    assert set(got.items[:, 0].tolist()) == {3, 4, 5, 6, 7, 8}  # three are always beaten
    expected = [comb(item, 3) / comb(9, 4) for item in got.items[:, 0]]
    np.testing.assert_allclose(got.propensities[:, 0], expected, rtol=0, atol=1e-12)


def test_almost_as_near_is_not_a_tie():
    vectors = np.array([[1.0], [1.0 + 2**-23], [-1.0]], np.float32)  # the second is one rounding step farther
    got = select(
        Box(vectors),
        np.zeros((1000, 1), np.float32),
        tolerance=0.5,
        slots=3,
        rng=np.random.default_rng(0),
        propensities=True,
    )
    assert {tuple(slate) for slate in got.items.tolist()} == {(0, 2, 1), (2, 0, 1)}
    assert (got.propensities == [0.5, 1.0, 1.0]).all()
