"""The lookup: masks, order, ties, counts, whatever the size of the catalogue."""

import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from what_next.retrieval import Box, bitmaps, box, nearest
from what_next.types import Permitted

from .asking import select

COARSE = {
    bitmaps: {"FEWEST_EDGES": 3, "TABLE_BYTES": 0, "CACHED_WORDS": 4},
    box: {"CHUNK_WORDS": 16, "CHUNK_PAIRS": 50},
    nearest: {"PRODUCT_ROWS": 2, "PRODUCT_STEPS": 8, "DIRECT_PAIRS": 7},
}


@pytest.fixture
def coarse(monkeypatch):
    """Treat a small catalogue as a large one: few edges, many chunks."""
    for module, sizes in COARSE.items():
        for name, value in sizes.items():
            monkeypatch.setattr(module, name, value)


@st.composite
def questions(draw):
    """A catalogue on a coarse grid (many ties), proposals, masks."""
    grid = st.integers(-4, 4).map(lambda value: value / 2)
    items, batch, dim = draw(st.integers(1, 150)), draw(st.integers(0, 5)), draw(st.integers(1, 3))
    vectors = draw(arrays.arrays(np.float32, (items, dim), elements=grid))
    points = draw(arrays.arrays(np.float32, (batch, dim), elements=grid))
    shape = draw(st.sampled_from([(items,), (batch, items)]))
    allowed = draw(st.none() | arrays.arrays(np.bool_, shape))
    width = draw(st.integers(0, 3))
    exclude = draw(st.none() | arrays.arrays(np.int32, (batch, width), elements=st.integers(-1, items - 1)))
    return vectors, points, allowed, exclude


def permitted_items(vectors, points, allowed, exclude):
    mask = np.ones((len(points), len(vectors)), np.bool_)
    if allowed is not None:
        mask &= allowed
    for row, items in enumerate([] if exclude is None else exclude):
        mask[row, items[items >= 0]] = False
    return mask


@given(questions(), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 3.0]), st.booleans(), st.booleans())
def test_masks_are_never_violated_and_nothing_comes_twice(question, tolerance, relax, greedy, scored):
    vectors, points, allowed, exclude = question
    mask = permitted_items(*question)
    got = select(
        Box(vectors),
        points,
        tolerance=tolerance,
        relax=relax,
        slots=3,
        rng=None if greedy else np.random.default_rng(1),
        allowed=allowed,
        exclude=exclude,
        propensities=True,
        score=(lambda rows, items: items % 5.0) if scored else None,
        candidates=2 if scored else 0,
    )
    for row in range(len(points)):
        chosen = got.items[row][got.items[row] >= 0]
        assert len(chosen) == min(3, mask[row].sum()) == len(set(chosen.tolist()))
        assert mask[row, chosen].all()
        missing = got.items[row] < 0
        assert (np.isnan(got.propensities[row]) == missing).all()
        assert got.fallback[row][missing].all()
        assert not got.matches[row][missing].any()


@given(questions(), st.sampled_from([0.0, 0.5, 1.0]))
def test_greedy_takes_the_box_nearest_first_then_the_rest_nearest_first(question, tolerance):
    vectors, points, allowed, exclude = question
    got = select(Box(vectors), points, tolerance=tolerance, rng=None, slots=4, allowed=allowed, exclude=exclude)
    for row, mask in enumerate(permitted_items(*question)):
        outside = (np.abs(vectors - points[row]) > tolerance).any(axis=1)
        squares = np.square(vectors.astype(float) - points[row]).sum(axis=1)
        order = [i for i in np.lexsort((np.arange(len(vectors)), squares, outside)) if mask[i]][:4]
        assert got.items[row].tolist() == order + [-1] * (4 - len(order))
        assert got.fallback[row, : len(order)].tolist() == outside[order].tolist()
        inside = (mask & ~outside).sum()
        assert got.matches[row].tolist() == [max(0, inside - step) for step in range(4)]


@given(questions(), st.integers(1, 70))
def test_nearest_items_are_exact_under_masks_and_ties(question, count):
    vectors, points, allowed, exclude = question
    got = Box(vectors).nearest(points, count, permitted=Permitted.of(allowed, exclude))
    for row, mask in enumerate(permitted_items(*question)):
        squares = np.square(vectors.astype(float) - points[row]).sum(axis=1)
        order = [i for i in np.argsort(squares, kind="stable") if mask[i]][:count]
        assert got[row].tolist() == order + [-1] * (count - len(order))


@pytest.mark.parametrize("relax", [0.0, 2.0])
@pytest.mark.parametrize("options", [{}, {"propensities": True}, {"slots": 3}, {"slots": 2, "propensities": True}])
def test_small_and_large_catalogues_are_answered_alike(monkeypatch, relax, options):
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((700, 4)).astype(np.float32)
    vectors[::7] = np.round(vectors[::7])
    points = np.concatenate([rng.standard_normal((40, 4)), vectors[:20], 5 + vectors[:10]]).astype(np.float32)
    masks = {"allowed": rng.random((70, 700)) < 0.5, "exclude": rng.integers(-1, 700, (70, 9)).astype(np.int32)}

    def answers():
        built = Box(vectors)
        scored = {"score": lambda rows, items: np.sin(rows + 0.1 * items), "candidates": 3}
        for extra in ({}, masks, scored, {"rng": None}):
            chosen = {"rng": np.random.default_rng(9), "tolerance": 0.3, "relax": relax, **options, **extra}
            yield select(built, points, **chosen)

    expected = list(answers())
    for module, sizes in COARSE.items():
        for name, value in sizes.items():
            monkeypatch.setattr(module, name, value)
    assert not Box(vectors).bitmaps.exact.any()
    for large, small in zip(answers(), expected, strict=True):
        np.testing.assert_array_equal(large.items, small.items)
        np.testing.assert_array_equal(large.matches, small.matches)
        np.testing.assert_array_equal(large.fallback, small.fallback)
        if small.propensities is not None:
            np.testing.assert_array_equal(large.propensities, small.propensities)


@pytest.mark.usefixtures("coarse")
def test_counts_are_those_of_a_direct_comparison_in_a_large_catalogue():
    rng = np.random.default_rng(4)
    vectors = rng.standard_normal((900, 3)).astype(np.float32)
    points = rng.standard_normal((30, 3)).astype(np.float32)
    direct = (np.abs(vectors[None].astype(float) - points[:, None]) <= 0.4).all(axis=2).sum(axis=1)
    assert select(Box(vectors), points, rng=None, tolerance=0.4).matches[:, 0].tolist() == direct.tolist()


def test_the_critic_sees_rows_of_the_whole_batch(monkeypatch):
    monkeypatch.setattr(box, "CHUNK_WORDS", 2)
    asked = []

    def score(rows, items):
        asked.append(rows)
        return -np.abs(items - rows * 3.0)  # row r likes item 3 r

    got = select(
        Box(np.zeros((20, 2), np.float32)),
        np.zeros((6, 2), np.float32),
        tolerance=1.0,
        rng=np.random.default_rng(0),
        score=score,
        candidates=20,
    )
    assert got.items[:, 0].tolist() == [0, 3, 6, 9, 12, 15]
    assert len(asked) == 3


def test_the_greedy_critic_chooses_among_the_nearest_only():
    vectors = np.arange(10, dtype=np.float32)[:, None]
    got = select(
        Box(vectors),
        np.zeros((1, 1), np.float32),
        tolerance=1.0,
        rng=None,
        slots=2,
        score=lambda rows, items: items * 1.0,
        candidates=3,
        propensities=True,
    )
    assert got.items.tolist() == [[2, 3]]  # the best of 0, 1, 2, then of 0, 1, 3
    assert got.fallback.tolist() == [[True, True]]
    assert got.propensities.tolist() == [[1.0, 1.0]]


def test_far_and_huge_values_still_find_the_nearest():
    """Where single precision says nothing, the direct look decides."""
    vectors = np.concatenate([np.full((200, 2), 3e4), np.full((1, 2), 1e20), [[3e4, 3e4 + 0.01]]]).astype(np.float32)
    points = np.array([[3e4, 3e4 + 0.02], [2e20, 2e20], [0, 0]], np.float32)
    assert Box(vectors).nearest(points)[:, 0].tolist() == [201, 200, 0]


def test_our_own_mistakes_are_refused():
    built = Box(np.zeros((3, 2), np.float32))
    point = np.zeros((1, 2), np.float32)
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="NaN or infinite"):
        select(built, np.array([[0, np.nan]], np.float32), tolerance=1.0, rng=rng)
    with pytest.raises(ValueError, match="attributes"):
        select(built, np.zeros((1, 3), np.float32), tolerance=1.0, rng=rng)
    with pytest.raises(ValueError, match="at least"):
        select(built, point, tolerance=-1.0, rng=rng)
    with pytest.raises(ValueError, match="together"):
        select(built, point, tolerance=1.0, rng=rng, candidates=3)
    with pytest.raises(ValueError, match="not a number"):
        select(built, point, tolerance=1.0, rng=rng, candidates=3, score=lambda rows, items: items * np.nan)
    with pytest.raises(ValueError, match="catalogue of 3"):
        select(built, point, tolerance=1.0, rng=rng, allowed=np.ones(4, np.bool_))
    with pytest.raises(ValueError, match="unknown"):
        select(built, point, tolerance=1.0, rng=rng, exclude=np.array([[3]], np.int32))
    with pytest.raises(ValueError, match="finite"):
        Box(np.array([[np.inf]], np.float32))
