"""Training on a log that is mapped from the disk and on the same log in memory: targets per processor second, memory.

    python benchmarks/bench_disk.py                                         a small log, made for it
    python benchmarks/bench_import.py --rows 100000000 --memory 1GiB --folder DIR
    python benchmarks/bench_disk.py DIR/imported.parquet                    40 steps of each, in turn three times
    python benchmarks/bench_disk.py DIR/imported.parquet --only disk --pass    reads all batches of a pass

Prints JSON lines; each measurement is a process of its own. `anonymous_gib` is the peak of the process's own memory;
`resident_gib` includes the pages of mapped files, which the system reclaims when memory is short. `--cold` drops the
files from the system's cache first. `read_gib` is read from the disk; `targets_per_s` is by the clock.
"""

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch
from bench_import import make

import what_next as wn
from what_next.data.importing.large import import_large
from what_next.sources import source_of


def memory() -> dict[str, float]:
    """The current memory of this process, in GiB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    kinds = {"anonymous_gib": "RssAnon", "resident_gib": "VmRSS"}
    return {name: int(lines[kind].split()[0]) / 2**20 for name, kind in kinds.items()}


def drop(data: Path) -> None:
    """Drop a data set's files from the system's cache."""
    for folder in (data, data.with_suffix(".events")):
        for path in folder.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def in_memory(dataset: wn.Dataset) -> wn.Dataset:
    """A copy of the arrays in memory."""
    arrays = {one.name: getattr(dataset, one.name) for one in fields(dataset)}
    return replace(dataset, **{name: np.array(one) for name, one in arrays.items() if isinstance(one, np.memmap)})


def measure(
    data: Path, kind: str, steps: int, whole: bool, told: "multiprocessing.Queue[dict[str, float | str | int]]"
) -> None:
    torch.set_num_threads(1)
    setup = wn.Setup(
        train=True,
        data=data,
        algorithm="next_item",
        loss={"name": "sampled_softmax", "negatives": 1024},
        inputs={"start": "random"},
        linear="no",
        dim=64,
        batch_size=64,
        threads=1,
        model_agent_path="agent",
        model_critic_path="critic",
    )
    start = time.process_time()
    dataset = wn.Dataset.read(data)
    state = wn.State(in_memory(dataset) if kind == "memory" else dataset, setup)
    agent, rng = wn.Agent(setup, state.space).wake_agent(), np.random.default_rng(0)
    source, policy = source_of(state), wn.LearnedPolicy(agent, state)
    source.prepare(agent)
    prepared, most = time.process_time() - start, memory()
    used, targets, begun, read = [], [], time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_inblock
    for step in range(len(source.batches) if whole else steps + 3):  # type: ignore[attr-defined]
        start = time.process_time()
        batch = source.next_batch(policy, rng)
        targets.append(int(batch.mask.sum()))
        if not whole:
            agent.propagate(batch, rng)
        used.append(time.process_time() - start)
        if step % 100 == 0 or not whole:
            most = {name: max(value, most[name]) for name, value in memory().items()}
    line: dict[str, float | str | int] = {"benchmark": "disk", "from": kind, "events": dataset.events}
    line |= {"what": "reading" if whole else "training", "prepared_cpu_s": round(prepared, 1)}
    line |= {"steps": len(used), "targets_per_cpu_s": round(sum(targets[3:]) / sum(used[3:]))}
    line |= {"targets_per_s": round(sum(targets) / (time.perf_counter() - begun))}
    line |= {"read_gib": round((resource.getrusage(resource.RUSAGE_SELF).ru_inblock - read) / 2**21, 2)}
    told.put(line | {name: round(value, 2) for name, value in most.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="a folder of parts written by what-next data import")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--only", choices=("disk", "memory"))
    parser.add_argument(
        "--pass", dest="whole", action="store_true", help="read all batches of a pass, without training"
    )
    parser.add_argument("--cold", action="store_true", help="drop the files from the cache before each measurement")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = given.data
        if data is None:
            log, data = Path(folder) / "log.parquet", Path(folder) / "small.parquet"
            make(log, 2_000_000)
            import_large([log], data, memory=2**26)
        for kind in [given.only] if given.only else ["disk", "memory"] * (1 if given.whole else given.turns):
            if given.cold:
                drop(data)
            context = multiprocessing.get_context("spawn")
            told = context.Queue()
            process = context.Process(target=measure, args=(data, kind, given.steps, given.whole, told))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(process.exitcode)  # its error stands above
            print(json.dumps(told.get()), flush=True)


if __name__ == "__main__":
    main()
