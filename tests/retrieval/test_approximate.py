"""Approximate search: what it finds of the exact top items, what it costs nobody else, and where it is exact."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from what_next.errors import MissingExtraError
from what_next.retrieval import approximate
from what_next.retrieval.approximate import FEWEST, ApproximateIndex, Sphere

faiss = pytest.importorskip("faiss")


def clustered(items: int = 20_000, dim: int = 64, queries: int = 50, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors in clusters whose lengths differ tenfold, and points near some of the clusters."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(items // 100, dim)) / dim**0.5
    own = rng.integers(len(centres), size=items)
    lengths = rng.uniform(0.3, 3, size=(items, 1))  # popular items have the longer vectors
    vectors = lengths * (centres[own] + 0.5 * rng.normal(size=(items, dim)) / dim**0.5)
    points = 4 * (centres[:queries] + 0.3 * rng.normal(size=(queries, dim)) / dim**0.5)
    return vectors.astype(np.float32), points.astype(np.float32)


def best(vectors: np.ndarray, points: np.ndarray, count: int) -> np.ndarray:
    """The items of the highest inner products, the lower one among equals."""
    return np.argsort(-(points.astype(np.float64) @ vectors.T), axis=1, kind="stable")[:, :count]


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean([len(np.intersect1d(*pair)) / len(pair[1]) for pair in zip(found, truth, strict=True)]))


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    return clustered()


@pytest.fixture(scope="module")
def index(data: tuple[np.ndarray, np.ndarray]) -> ApproximateIndex:
    return ApproximateIndex.of(data[0])


def test_nearly_all_of_the_exact_top_100_are_found(data, index):
    vectors, points = data
    found = index.search(points, 100)
    assert found.dtype == np.int32
    assert found.shape == (50, 100)
    assert recall(found, best(vectors, points, 100)) > 0.97
    assert recall(found[:, :10], best(vectors, points, 10)) > 0.99


def test_a_third_of_20_000_items_is_looked_at(index):
    looked_at = index.lists.inverted.nprobe / index.lists.inverted.nlist
    assert looked_at < 0.35


def test_items_come_in_the_order_of_their_true_scores(data, index):
    vectors, points = data
    scores = np.take_along_axis(points @ vectors.T, index.search(points, 100).astype(np.int64), 1)
    assert (np.diff(scores, axis=1) <= 1e-5).all()


def test_no_item_comes_twice(data, index):
    assert all(len(np.unique(row)) == 100 for row in index.search(data[1], 100))


def test_the_same_seed_gives_the_same_items_and_another_seed_other_lists(data, index):
    vectors, points = data
    again, other = ApproximateIndex.of(vectors), ApproximateIndex.of(vectors, seed=1)
    assert np.array_equal(index.search(points, 200), again.search(points, 200))
    first, second = (one.lists.centres.reconstruct_n() for one in (index, other))
    assert not np.array_equal(first, second)


def test_one_query_finds_what_it_finds_among_others(data, index, monkeypatch):
    points = data[1]
    together = index.search(points, 20)
    assert np.array_equal(np.concatenate([index.search(point[None], 20) for point in points]), together)
    monkeypatch.setattr(approximate, "CHUNK", 2 * 26 * 64)  # two points at a time
    assert np.array_equal(index.search(points, 20), together)


@pytest.mark.parametrize("scale", [1e-12, 1e6])
def test_the_scale_of_vectors_and_points_changes_nothing(data, index, scale):
    vectors, points = data
    again = ApproximateIndex.of(vectors * np.float32(scale))
    truth = best(vectors, points, 100)
    assert recall(again.search(points, 100), truth) > 0.97
    assert recall(index.search(points * np.float32(scale), 100), truth) > 0.97


@pytest.mark.parametrize("length", [1e3, 1e9])
def test_one_giant_is_found_and_hides_no_other(data, length):
    vectors, points = data
    vectors = vectors.copy()
    vectors[7] *= np.float32(length)
    found, truth = ApproximateIndex.of(vectors).search(points, 100), best(vectors, points, 100)
    assert recall(found, truth) > 0.96
    assert 0 < (truth == 7).any(1).sum() < 50  # points that like it, and points that do not
    assert np.array_equal((found == 7).any(1), (truth == 7).any(1))


@pytest.mark.parametrize("dim", [1, 3, 50, 65])
def test_any_number_of_entries_will_do(dim):
    vectors, points = clustered(10_000, dim, queries=30)
    found = ApproximateIndex.of(vectors).search(points, 50)
    assert recall(found, best(vectors, points, 50)) > 0.95


def test_equal_vectors_come_lower_item_first():
    vectors = np.repeat(np.eye(2, 8, dtype=np.float32), [20, FEWEST], axis=0)
    found = ApproximateIndex.of(vectors).search(vectors[:1], 20)
    assert found.tolist() == [list(range(20))]


def test_a_search_for_more_than_the_lists_hold_is_exact(data, index):
    vectors, points = data
    found = index.search(points[:2], 15_000)
    scores = points[:2] @ vectors.T
    assert np.allclose(np.take_along_axis(scores, found.astype(np.int64), 1), -np.sort(-scores, axis=1)[:, :15_000])


def test_rows_are_padded_where_there_are_not_as_many_items(data, index):
    found = index.search(data[1][:1], 20_003)
    assert (found[0, -3:] == -1).all()
    assert np.array_equal(np.sort(found[0, :-3]), np.arange(20_000))


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_a_small_catalogue_is_searched_exactly(items, dim, count, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-3, 4, size=(items, dim)).astype(np.float32)  # sums without rounding, and ties
    points = rng.integers(-3, 4, size=(3, dim)).astype(np.float32)
    found = ApproximateIndex.of(vectors).search(points, count)
    assert found.shape == (3, count)
    assert np.array_equal(found[:, :items], best(vectors, points, count))
    assert (found[:, items:] == -1).all()


def test_no_points_find_nothing(index):
    assert index.search(np.empty((0, 64), np.float32), 5).shape == (0, 5)


def test_vectors_of_zeros_and_a_point_of_zeros_find_items_all_the_same(index):
    nothing = ApproximateIndex.of(np.zeros((FEWEST, 4), np.float32))
    assert (nothing.search(np.ones((1, 4), np.float32), 5) >= 0).all()
    assert (index.search(np.zeros((1, 64), np.float32), 5) >= 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(index, bad):
    with pytest.raises(ValueError, match="vectors must be finite"):
        ApproximateIndex.of(np.full((3, 2), bad, np.float32))
    with pytest.raises(ValueError, match="points must be finite"):
        index.search(np.full((1, 64), bad, np.float32), 5)


def test_the_threads_of_pytorch_and_of_the_library_are_left_as_they_are(data):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        library = faiss.omp_get_max_threads()
        ApproximateIndex.of(data[0][:FEWEST]).search(data[1], 5)
        assert (torch.get_num_threads(), faiss.omp_get_max_threads()) == (2, library)
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["import torch, faiss", "import faiss, torch"])
def test_library_and_pytorch_live_in_one_process_whichever_comes_first(order):
    program = f"""{order}
import numpy as np
from what_next.retrieval.approximate import ApproximateIndex
vectors = np.random.default_rng(0).normal(size=(20_000, 16)).astype(np.float32)
torch.set_num_threads(2)
index = ApproximateIndex.of(vectors)
for _ in range(10):
    (torch.from_numpy(vectors) @ torch.from_numpy(vectors[:512]).T).sum()
    found = index.search(vectors[:64], 10)
assert torch.get_num_threads() == 2
print(found.sum())"""
    source = Path(approximate.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


def test_a_missing_library_is_told_where_it_is_needed(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"approximate search needs faiss.*what-next-rl\[ann\]"):
        ApproximateIndex.of(data[0])
    assert ApproximateIndex.of(data[0][:100]).search(data[1], 5).shape == (50, 5)


@given(st.integers(0, 2**32 - 1))
def test_on_the_sphere_the_nearest_has_the_highest_inner_product(seed):
    rng = np.random.default_rng(seed)
    vectors = (rng.normal(size=(40, 5)) * rng.uniform(0.1, 10, size=(40, 1))).astype(np.float32)
    point = rng.normal(size=5)
    placed = Sphere.of(vectors).points(vectors)
    assert placed.shape == (40, 17)  # padded to a multiple of 16, and one more
    assert np.allclose(np.linalg.norm(placed, axis=1), 1, atol=1e-3)
    far = np.linalg.norm(placed - np.append(point, np.zeros(12)), axis=1)
    scores = vectors @ point
    assert np.argmin(far) == np.argmax(scores) or np.isclose(scores[np.argmin(far)], scores.max(), rtol=1e-3)
