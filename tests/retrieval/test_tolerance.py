"""The default tolerance: wide enough for the share that was asked for, and no wider."""

import numpy as np
import pytest

from what_next.retrieval import Box, smallest_tolerance

from .asking import select


@pytest.mark.parametrize("share", [0.0, 0.1, 0.29, 0.7])
@pytest.mark.parametrize("count", [1, 10, 100])
def test_it_is_the_smallest(share, count):
    rng = np.random.default_rng(count)
    vectors = rng.standard_normal((300, 5)).astype(np.float32)
    points = rng.standard_normal((count, 5)).astype(np.float32)
    tolerance = smallest_tolerance(vectors, points, share)

    def unmatched(radius):
        return np.count_nonzero(select(Box(vectors), points, rng=None, tolerance=radius).matches == 0) / count

    assert unmatched(tolerance) <= share
    assert unmatched(tolerance * (1 - 1e-12)) > share


def test_points_on_items_need_none():
    vectors = np.arange(12, dtype=np.float32).reshape(6, 2)
    assert smallest_tolerance(vectors, vectors, 0.0) == 0.0


def test_the_tolerance_of_a_point_is_its_least_chebyshev_distance():
    rng = np.random.default_rng(2)
    vectors, points = (rng.standard_normal((size, 6)).astype(np.float32) for size in (500, 80))
    direct = np.abs(vectors[None].astype(float) - points[:, None]).max(axis=2).min(axis=1)
    np.testing.assert_allclose(Box(vectors).tolerances(points), direct, rtol=1e-15)


def test_a_rounded_border_still_lets_its_point_in():
    """A difference that double precision cannot hold: the box must reach its item all the same."""
    vectors, points = np.ones((1, 1), np.float32), np.full((1, 1), 1e-12, np.float32)
    assert select(Box(vectors), points, rng=None, tolerance=smallest_tolerance(vectors, points)).matches == 1


def test_it_needs_points_and_a_share():
    vectors = np.zeros((2, 2), np.float32)
    with pytest.raises(ValueError, match="points"):
        smallest_tolerance(vectors, np.zeros((0, 2), np.float32))
    with pytest.raises(ValueError, match="share"):
        smallest_tolerance(vectors, vectors, 1.0)
