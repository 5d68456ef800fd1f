"""Speed and memory of importing a log, against Polars reading and sorting the same file.

    python benchmarks/bench_import.py                   2 million rows, medians of 3
    python benchmarks/bench_import.py --rows 100000000  the large case, once; needs 5 GB of disk
    python benchmarks/bench_import.py --rows 1000000000 --memory 8GiB --folder DIR
                                                        sorted on the disk, a line for each stage; needs 45 GB there

Prints JSON lines. Each measurement is a process of its own, so that its peak memory can be measured: the largest
resident set, including mapped files. Without `--memory` the import sorts in memory.
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
"""Rows made at a time, so that making the file needs no more memory than the import."""


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
    """The work of `what-next data import`, including its files."""
    from what_next.data import import_files, save

    return lambda path: save(import_files([path]), path.with_name("imported.parquet"))


def sorting() -> Callable[[Path], object]:
    """Read and sort with Polars, in memory, without checks or output."""
    return lambda path: pl.read_parquet(path).sort("user_id", "timestamp")


def large(memory: str) -> Callable[[Path], object]:
    """The work of `what-next data import --memory` for a log beyond that size."""
    from what_next.data.importing.large import import_large, memory_of
    from what_next.data.stages import Done, Stages

    class Timed(Stages):
        """Prints the time of each stage when the next begins."""

        name = ""

        def begin(self, name: str, total: int) -> Done:
            self.end()
            self.name, self.start, self.used = name, time.perf_counter(), time.process_time()
            return super().begin(name, total)

        def end(self) -> None:
            if self.name:
                seconds, used = time.perf_counter() - self.start, time.process_time() - self.used
                line = {"stage": self.name, "seconds": round(seconds, 1), "cpu_s": round(used, 1)}
                print(json.dumps({**line, "peak_gib": round(peak(), 2)}), file=sys.stderr, flush=True)

    def work(path: Path) -> None:
        stages = Timed()
        import_large([path], path.with_name("imported.parquet"), memory=memory_of(memory), stages=stages)
        stages.end()

    return work


def measured(task: str, path: Path, repeats: int, *more: str) -> tuple[float, float, float]:
    """Median elapsed and processor seconds, and largest peak in GiB, of a task repeated in separate processes."""
    found = []
    for _ in range(repeats):
        command = [sys.executable, __file__, "--task", task, "--file", str(path), *more]
        found.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
    medians = (statistics.median(one[key] for one in found) for key in ("seconds", "cpu_s"))
    return *medians, max(one["peak_gib"] for one in found)


def peak() -> float:
    """The largest resident set of this process so far, in GiB."""
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def perform(task: str, path: Path, memory: str) -> None:
    """Do one task in this process, and print its time and memory."""
    # Loading the package is not measured.
    work = {"import": importing, "polars": sorting, "large": lambda: large(memory)}[task]()
    start, used = time.perf_counter(), time.process_time()
    work(path)
    seconds, used = time.perf_counter() - start, time.process_time() - used
    print(json.dumps({"seconds": seconds, "cpu_s": used, "peak_gib": peak()}))


def on_disk(path: Path, rows: int, memory: str) -> dict[str, object]:
    """The output line of an import that sorts on the disk."""
    seconds, used, most = measured("large", path, 1, "--memory", memory)
    line = {"benchmark": "import_large", "rows": rows, "memory": memory, "seconds": round(seconds, 1)}
    return {**line, "cpu_s": round(used, 1), "rows_per_s": round(rows / seconds), "peak_gib": round(most, 2)}


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--memory", help="sort on the disk within this memory, such as 8GiB")
    parser.add_argument("--folder", type=Path, help="folder for the files, which are kept")
    parser.add_argument("--task", choices=("import", "polars", "large"), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.task:
        perform(given.task, given.file, given.memory)
        return
    repeats = 3 if given.rows <= 10_000_000 else 1
    with tempfile.TemporaryDirectory() as temporary:
        path = (given.folder or Path(temporary)) / "log.parquet"
        if not path.exists():
            make(path, given.rows)
        if given.memory:
            print(json.dumps(on_disk(path, given.rows, given.memory)))
            return
        seconds, _, peak = measured("import", path, repeats)
        baseline, _, baseline_peak = measured("polars", path, repeats)
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
