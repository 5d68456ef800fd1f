"""Export of the service's log: processor seconds, and peak memory.

Fills an SQLite store with answers of five items to 1,000 people, as many events, and feedback on every third answer.
Then one process exports all of it, and another one continues from that file (`--append`). Prints a JSON line for each;
`base` is the memory of the program itself. Filling takes longer than the measurement.

    python benchmarks/bench_export.py                      # 50,000 answers: a quarter of a minute
    python benchmarks/bench_export.py --answers 1000000
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from what_next.data import Catalogue
from what_next.serving.store import (
    AddEvents,
    AddFeedback,
    AddImpression,
    EventRow,
    Store,
)
from what_next.serving.store.export import appended, exported

USERS, ITEMS, SLOTS, GROUP = 1_000, 2_000, 5, 5_000
START, STEP = 1_700_000_000_000_000, 1_000_000
"""Time of the first answer, and between two answers, in microseconds."""


def fill(path: Path, answers: int) -> None:
    """A store with this number of answers and events."""
    rng, store = np.random.default_rng(0), Store.open(path)
    for first in range(0, answers, GROUP):
        places = range(first, min(first + GROUP, answers))
        items = rng.integers(ITEMS, size=(len(places), SLOTS)).astype(str)
        chances = rng.uniform(1e-6, 0.1, size=(len(places), SLOTS))
        shown = [
            AddImpression(f"r{place}", str(place % USERS), START + place * STEP, "1", "trained", tuple(ids), tuple(own))
            for place, ids, own in zip(places, items.tolist(), chances.tolist(), strict=True)
        ]
        heard = tuple(
            EventRow(f"e{place}", str(place % USERS), ids[0], time=START + place * STEP + 1)
            for place, ids in zip(places, items.tolist(), strict=True)
        )
        liked = tuple(
            AddFeedback(f"f{place}", f"r{place}", ids[0], 1.0, START + place * STEP + 2)
            for place, ids in zip(places, items.tolist(), strict=True)
            if place % 3 == 0
        )
        store.commit([*shown, AddEvents(heard), *liked])
    store.close()


def measure(path: Path, to: Path, how: str, answers: int) -> None:
    """One export, measured in a process of its own."""
    names = [str(item) for item in range(ITEMS)]
    catalogue = Catalogue.from_table(pl.DataFrame({"item_id": names, "title": names}))
    store, base, start = Store.open(path), peak(), time.process_time()
    found = exported(store, catalogue) if how == "whole" else appended(store, catalogue, to)
    found.write(to)
    seconds = round(time.process_time() - start, 1)
    counts = {"answers": answers, "events": found.events, "decisions": found.decisions}
    print(
        json.dumps({"benchmark": "export", "how": how, **counts, "seconds": seconds, "base_mib": base, "mib": peak()})
    )


def peak() -> int:
    """Peak memory of this process, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=50_000)
    answers = parser.parse_args().answers
    with tempfile.TemporaryDirectory() as folder:
        path, to = Path(folder) / "store.sqlite", Path(folder) / "log.parquet"
        fill(path, answers)
        for how in ("whole", "append"):
            process = multiprocessing.get_context("spawn").Process(target=measure, args=(path, to, how, answers))
            process.start()
            process.join()


if __name__ == "__main__":
    main()
