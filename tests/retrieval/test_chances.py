"""The whole distribution of the first item, beside the propensities of the items that were really drawn."""

import numpy as np
import pytest

from what_next.retrieval import Box, Matching
from what_next.types import EpsilonGreedy, Permitted, Request

from .asking import first_chances, select


@pytest.fixture(scope="module")
def box() -> Box:
    vectors = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    vectors[5] = vectors[6]  # two that are always equally near
    return Box(vectors)


@pytest.mark.parametrize("relax", [0.0, 1.6])
@pytest.mark.parametrize("candidates", [0, 4])
def test_a_drawn_item_has_the_chance_that_the_box_told_before(box: Box, relax: float, candidates: int) -> None:
    rng = np.random.default_rng(1)
    points = (1.5 * rng.normal(size=(20, 3))).astype(np.float32)  # some match much, some nothing
    worth = rng.normal(size=(20, 60))
    rule = {
        "tolerance": 0.5,
        "relax": relax,
        "exclude": rng.integers(-1, 60, size=(20, 4)).astype(np.int32),
        "score": (lambda rows, items: worth[rows, items]) if candidates else None,
        "candidates": candidates,
    }
    chances = first_chances(box, points, **rule)
    assert chances.sum(axis=1) == pytest.approx(1)
    for seed in range(20):
        drawn = select(box, points, rng=np.random.default_rng(seed), propensities=True, **rule)
        assert drawn.propensities[:, 0] == pytest.approx(chances[np.arange(20), drawn.items[:, 0]])


def test_without_a_permitted_item_there_is_no_chance_of_any(box: Box) -> None:
    assert not first_chances(box, np.zeros((2, 3), np.float32), tolerance=1.0, allowed=np.zeros(60, np.bool_)).any()


@pytest.mark.parametrize("candidates", [0, 3])
def test_an_explored_slate_has_the_chances_that_the_box_tells_later(box: Box, candidates: int) -> None:
    rng = np.random.default_rng(2)
    points, worth = rng.normal(size=(200, 3)).astype(np.float32), rng.normal(size=60)
    score = (lambda rows, items: worth[items]) if candidates else None
    matching = Matching(box, 0.9, 0.0, score, candidates)
    allowed = np.arange(60) < 12  # few, so that a random item often is one of the best
    request = Request(4, EpsilonGreedy(0.6), Permitted.of(allowed))
    slates = matching.act(points, request, rng)
    told = np.stack(list(matching.chances(points, request, slates.items)), 1)
    assert told.sum(axis=2) == pytest.approx(1)
    assert np.take_along_axis(told, slates.items[..., None], 2)[..., 0] == pytest.approx(slates.propensities)
