"""The time of a selection, and of the same filter in pandas, one proposal at a time. Prints JSON lines.

The pandas filter only finds the matches and samples one of them; without a match it does not search for the nearest.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import pandas as pd

from what_next.retrieval import Box, Matching, smallest_tolerance
from what_next.types import Request, Softmax

DIM = 12
WINDOW = 20


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median duration, after a warm-up run."""
    durations = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        durations.append(time.perf_counter() - start)
    return statistics.median(durations[1:])


def filter_with_pandas(frame: pd.DataFrame, points: np.ndarray, tolerance: float, relax: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for point in points:
        radii = np.full(DIM, tolerance)
        radii[rng.integers(DIM)] = max(tolerance, relax / 2)
        mask = None
        for name, centre, radius in zip(frame.columns, point.tolist(), radii.tolist(), strict=True):
            within = (frame[name] >= centre - radius) & (frame[name] <= centre + radius)
            mask = within if mask is None else mask & within
        matches = frame[mask]
        if len(matches):
            matches.sample(1, random_state=rng)


def proposals(vectors: np.ndarray, box: Box, tolerance: float, batch: int, matching: bool) -> np.ndarray:
    """Means of windows of random items that match an item, or that match none, scaled farther and farther out."""
    rng = np.random.default_rng(2)
    found = np.empty((0, DIM), np.float32)
    stretch = 1.0
    while len(found) < batch:
        means = stretch * vectors[rng.integers(len(vectors), size=(4 * batch, WINDOW))].mean(axis=1)
        found = np.concatenate([found, means[(box.match_counts(means, tolerance) > 0) == matching]])
        if not matching:
            stretch *= 1.5
    return found[:batch]


def compare(items: int, batch: int, repeats: int) -> None:
    rng = np.random.default_rng(0)
    mixing = np.eye(DIM) + 0.3 * rng.standard_normal((DIM, DIM))  # correlated attributes, like real ones
    vectors = (rng.standard_normal((items, DIM)) @ mixing).astype(np.float32)
    vectors = (vectors - vectors.mean(axis=0)) / vectors.std(axis=0)
    start = time.perf_counter()
    box = Box(vectors)
    print(json.dumps({"benchmark": "produce index", "items": items, "build_s": time.perf_counter() - start}))
    frame = pd.DataFrame({f"attribute_{column}": vectors[:, column] for column in range(DIM)})
    windows = vectors[rng.integers(items, size=(1000, WINDOW))].mean(axis=1)
    default = smallest_tolerance(vectors, windows)
    for width in (0.7, 1.0, 1.5):
        tolerance = default * width
        for name, matching in (("matching", True), ("fallback", False)):
            points = proposals(vectors, box, tolerance, batch, matching)
            for relax in (0.0, 1.0):
                pandas = seconds(lambda p=points, t=tolerance, r=relax: filter_with_pandas(frame, p, t, r, 1), repeats)
                for exact in (False, True):

                    def select(p=points, t=tolerance, r=relax, e=exact):
                        request = Request(1, Softmax(), propensities=e)
                        return Matching(box, t, r).act(p, request, np.random.default_rng(1))

                    outcome, taken = select(), seconds(select, repeats)
                    line = {"benchmark": "produce", "for": name, "propensities": exact, "items": items, "batch": batch}
                    line |= {"tolerance": round(tolerance, 4), "of_default": width, "relax": relax}
                    line |= {"median_matches": float(np.median(outcome.matches))}
                    line |= {"fallback": float(outcome.fallback.mean()), "pandas_s": round(pandas, 4)}
                    line |= {"select_s": round(taken, 4), "ratio": round(taken / pandas, 4)}
                    print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    compare(arguments.items, arguments.batch, arguments.repeats)


if __name__ == "__main__":
    main()
