"""The cost of splitting a batch over processes: processor time of a step, in one process and in two.

    OMP_NUM_THREADS=1 PYTHONPATH=src python benchmarks/bench_distributed.py [STEPS] [BATCH] [DIM] [ITEMS]

Processor time is summed over processes and threads, because it hardly depends on the other work of the machine.
"""

import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import torch
import torch.distributed as dist

from what_next import Agent, Dataset, Environment, Setup, State
from what_next.training.distributed import Ranks

WARM_UP = 5


def measured(ranks: Ranks, threads: int, folder: Path, sizes: tuple[int, ...]) -> dict[str, float]:
    """Milliseconds of processor time and bytes sent, per step of this process."""
    steps, batch, dim, items = sizes
    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    users = 16 * batch
    log = pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(users), 30).astype(str),
            "item_id": rng.integers(items, size=30 * users).astype(str),
            "timestamp": np.tile(np.arange(30), users) + 1_600_000_000,
        }
    )
    settings = {"train": True, "model": "gru", "dim": dim, "batch_size": batch, "passes": 99, "precision": "fp32"}
    paths = {f"model_{one}_path": folder / f"{one}.safetensors" for one in ("agent", "critic")}
    more = {"algorithm": {"name": "next_item"}, "data": folder / "none", "linear": "no", "inputs": {"start": "random"}}
    setup = Setup(**settings, **paths, **more)
    state = State(Dataset.from_frame(log, None, name="random"), setup)
    environment = Environment(Agent(setup, state.space), state, setup, ranks=ranks)
    environment._begin()
    for _ in range(WARM_UP):
        environment._cycle()
    ranks.sent, before = 0, time.process_time()
    for _ in range(steps):
        environment._cycle()
    return {"ms": 1000 * (time.process_time() - before) / steps, "bytes": ranks.sent / steps}


def worker(rank: int, count: int, folder: Path, sizes: tuple[int, ...]) -> None:
    """One of several processes."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    (folder / f"{rank}.json").write_text(json.dumps(measured(Ranks(rank, count, joined=True), 1, folder, sizes)))
    dist.destroy_process_group()


def main() -> None:
    """Print the three measurements as a line of JSON."""
    given = [int(one) for one in sys.argv[1:]]
    sizes = (*given, *(20, 64, 64, 5000)[len(given) :])
    with TemporaryDirectory() as folder:
        one, two = (measured(Ranks(), threads, Path(folder), sizes)["ms"] for threads in (1, 2))
        torch.multiprocessing.spawn(worker, (2, Path(folder), sizes), nprocs=2)
        found = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(2)]
    both = sum(rank["ms"] for rank in found)
    shown = dict(zip(("steps", "batch", "dim", "items"), sizes, strict=True))
    shown |= {"ms_1_thread": round(one, 1), "ms_2_threads": round(two, 1), "ms_2_processes": round(both, 1)}
    shown |= {"over_2_threads": round(both / two - 1, 3), "bytes_per_step": round(found[0]["bytes"])}
    print(json.dumps(shown))


if __name__ == "__main__":
    main()
