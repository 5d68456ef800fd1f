"""Sharded item tables: memory of each process, bytes sent, and the losses beside those of one process.

    OMP_NUM_THREADS=1 PYTHONPATH=src python benchmarks/bench_items.py [--items N] [--ranks N] [--steps N] [--whole]

Prints a line of JSON for one process with the whole table, and one for several that shard it. `tables`: bytes of the
item vectors and their optimiser state. `peak`: the largest resident set of the process; `before`: the same with the
data alone. `shared`: the proportional set size at the end, in which pages that processes share, such as those of
libraries, are counted once. `--whole` leaves the single process out.
"""

import argparse
import json
import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import torch
import torch.distributed as dist

import what_next as wn
from what_next.models.encoders import Encoder
from what_next.training.distributed import Ranks

LENGTH, USERS, DIM = 50, 2000, 64


def measured(ranks: Ranks, folder: Path, items: int, steps: int) -> dict[str, object]:
    """Memory, bytes sent and losses of this process."""
    torch.set_num_threads(1)
    rng, ids = np.random.default_rng(0), pl.Series(np.arange(items))
    log = wn.Dataset(
        name="made up",
        user_ids=pl.Series("user_id", np.arange(USERS)),
        items=(items * rng.random(USERS * LENGTH) ** 3).astype(np.int32),
        offsets=np.arange(0, USERS * LENGTH + 1, LENGTH),
        timestamps=None,
        rewards=None,
        context=np.zeros((USERS * LENGTH, 0), np.float32),
        context_names=(),
        catalogue=wn.Catalogue.from_table(pl.DataFrame({"item_id": ids, "title": ids.cast(pl.String)})),
    )
    setup = wn.Setup(
        train=True,
        data=folder / "none",
        algorithm="next_item",
        loss={"name": "sampled_softmax", "negatives": 1024},
        inputs={"items": "learned", "start": "random"},
        cluster={"items": "sharded"},
        linear="no",
        dropout=0.0,
        item_dropout=0.0,
        precision="fp32",
        dim=DIM,
        batch_size=64,
        passes=99,
        model_agent_path=folder / "agent.safetensors",
        model_critic_path=folder / "critic.safetensors",
    )
    state = wn.State(log, setup)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    environment = wn.Environment(wn.Agent(setup, state.space), state, setup, ranks=ranks, quiet=True)
    environment._begin()
    ranks.sent, start = 0, time.process_time()
    losses = [environment._cycle().losses["actor"] for _ in range(steps)]
    agent = environment.agent
    encoder = agent.nets["encoder"]
    assert isinstance(encoder, Encoder)
    assert encoder.items.learned is not None
    moments = agent.optimisers["encoder:rows"].state[encoder.items.learned].values()
    tables = encoder.items.learned.nbytes + sum(one.nbytes for one in moments if isinstance(one, torch.Tensor))
    used = Path("/proc/self/smaps_rollup").read_text().split("\nPss:")[1].split()[0]
    ranks.wait()  # so that every process still runs while the others measure shared memory
    return {
        "tables": tables,
        "shared": 1024 * int(used),
        "peak": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "before": 1024 * before,
        "ms": 1000 * (time.process_time() - start) / steps,
        "sent": ranks.sent / steps,
        "losses": losses,
    }


def worker(rank: int, count: int, folder: Path, items: int, steps: int) -> None:
    """One of several processes, or the only one."""
    ranks = Ranks()
    if count > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
        ranks = Ranks(rank, count, joined=True)
    (folder / f"{count}-{rank}.json").write_text(json.dumps(measured(ranks, folder, items, steps)))
    if count > 1:
        dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--whole", action="store_true")
    given = parser.parse_args()
    losses: dict[int, list[float]] = {}
    with TemporaryDirectory() as folder:
        for count in (given.ranks,) if given.whole else (1, given.ranks):
            torch.multiprocessing.spawn(worker, (count, Path(folder), given.items, given.steps), nprocs=count)
            found = [json.loads((Path(folder) / f"{count}-{rank}.json").read_text()) for rank in range(count)]
            losses[count] = found[0]["losses"]
            shown = {"benchmark": "items", "items": given.items, "dim": DIM, "ranks": count, "steps": given.steps}
            for name in ("tables", "peak", "shared", "before"):
                shown[f"{name}_mb"] = round(max(one[name] for one in found) / 1e6)
            shown["ms_of_processors"] = round(sum(one["ms"] for one in found), 1)
            shown["bytes_per_step"] = round(max(one["sent"] for one in found))
            if count > 1 and 1 in losses:
                one, several = np.array(losses[1]), np.array(losses[count])
                shown["largest_difference_of_losses"] = float(np.abs(several / one - 1).max())
            print(json.dumps(shown), flush=True)


if __name__ == "__main__":
    main()
