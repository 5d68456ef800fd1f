"""How fast, and within what memory, a log is imported, beside what Polars needs just to read and sort the same file.

    python benchmarks/bench_import.py                   2 million rows, medians of 3
    python benchmarks/bench_import.py --rows 100000000  the large case, once; needs 5 GB of disk

Prints one JSON line. Each measurement is a process of its own, so that its peak memory is its own.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

CHUNK = 5_000_000
"""Rows made at a time: the maker must not need the memory that the importer does without."""


def make(path: Path, rows: int, seed: int = 7) -> None:
    """A log in random order: one user per 100 rows, long-tailed items, Unix seconds, ratings 1 to 5."""
    rng = np.random.default_rng(seed)
    writer = None
    for start in range(0, rows, CHUNK):
        count = min(CHUNK, rows - start)
        table = pl.DataFrame(
            {
                "user_id": rng.integers(0, max(rows // 100, 2), count),
                "item_id": (1000 * rng.pareto(1.2, count)).astype(np.int64) % 1_000_000,
                "timestamp": rng.integers(1_500_000_000, 1_700_000_000, count),
                "rating": rng.integers(1, 6, count).astype(np.float32),
            }
        ).to_arrow()
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer:
        writer.close()


def importing() -> Callable[[Path], object]:
    """What `what-next data import` does, its files included."""
    from what_next.data import import_files, save

    return lambda path: save(import_files([path]), path.with_name("imported.parquet"))


def sorting() -> Callable[[Path], object]:
    """Read and sort with Polars, in memory; nothing is checked and nothing written."""
    return lambda path: pl.read_parquet(path).sort("user_id", "timestamp")


TASKS = {"import": importing, "polars": sorting}


def measured(task: str, path: Path, repeats: int) -> tuple[float, float]:
    """Median seconds and largest peak GiB of a task, over processes of its own."""
    found = []
    for _ in range(repeats):
        command = [sys.executable, __file__, "--task", task, "--file", str(path)]
        found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    return statistics.median(one["seconds"] for one in found), max(one["peak_gib"] for one in found)


def perform(task: str, path: Path) -> None:
    """Do one task in this process and print what it took."""
    # Loading the package is not what is measured.
    work = TASKS[task]()
    start = time.perf_counter()
    work(path)
    seconds = time.perf_counter() - start
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    print(json.dumps({"seconds": seconds, "peak_gib": peak}))


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.task:
        perform(given.task, given.file)
        return
    repeats = 3 if given.rows <= 10_000_000 else 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.parquet"
        make(path, given.rows)
        seconds, peak = measured("import", path, repeats)
        baseline, baseline_peak = measured("polars", path, repeats)
    line = {
        "benchmark": "import",
        "rows": given.rows,
        "seconds": round(seconds, 3),
        "rows_per_s": round(given.rows / seconds),
        "polars_read_sort_s": round(baseline, 3),
        "ratio": round(seconds / baseline, 2),
        "peak_gib": round(peak, 2),
        "polars_peak_gib": round(baseline_peak, 2),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
