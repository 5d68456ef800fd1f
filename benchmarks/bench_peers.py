"""Comparison with RecTools SASRec and RecBole GRU4Rec: targets per second, and the time to reach their quality.

Prints JSON lines. The peers run in peers.py, each in an environment of its own, on the same data, split and number of
threads; if one is missing, a line says so. Ours is `next_item` with an LSTM of dim 128. A peer's time to its quality is
that of the epochs it needs, at the rate measured here; with --full all of them are run. Our time is that of training
alone, without imports, reading and judging; the test targets are judged after every pass. RecBole's time includes
reading and judging, which without --full count once for each epoch.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import sets
import torch
from rates import matrix_rate

import what_next as wn
from what_next.metrics.next_items import Targets, rank

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = Path.home() / ".cache" / "peers"
VARIANTS: dict[str, dict[str, Any]] = {
    "fp32": {"precision": "fp32"},
    "bf16": {"precision": "bf16"},
    "bf16, sampled softmax": {"precision": "bf16", "loss": {"name": "sampled_softmax", "negatives": 512}},
}
PEERS: dict[str, dict[str, Any]] = {
    "rectools": {"data": "ml-1m-part", "epochs": 30, "ndcg": 0.1475, "tried": 2},
    "recbole": {"data": "ml-100k", "epochs": 10, "ndcg": 0.045, "tried": 1},
}
OURS: dict[str, dict[str, Any]] = {
    "ml-1m-part": {"passes": 8, "learning_rate": 4e-3, "batch_size": 32},
    "ml-100k": {"passes": 12, "learning_rate": 4e-3, "batch_size": 16},
}
"""Short runs, because only the quality of a peer must be reached."""


def tell(**values: object) -> None:
    print(json.dumps({"benchmark": "peers", **values}), flush=True)


def run_peer(name: str, dataset: wn.Dataset, epochs: int, threads: int) -> dict[str, Any] | None:
    """The JSON line of a peer on these data; None if it cannot be run."""
    python = ENVIRONMENTS / name / "bin" / "python"
    if not python.exists():
        tell(peer=name, missing=f"{python}; benchmarks/peers.py says how it is made")
        return None
    with tempfile.TemporaryDirectory() as folder:  # peers leave logs where they stand
        users = np.repeat(np.arange(dataset.users), dataset.lengths)
        pl.DataFrame({"user": users, "item": dataset.items}).write_csv(Path(folder) / "log.csv")
        command = [python, HERE / "peers.py", name, "log.csv", "--epochs", epochs, "--threads", threads]
        told = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=folder, check=False)
    if told.returncode:
        tell(peer=name, failed=told.stderr.strip().splitlines()[-1:])
        return None
    found: dict[str, Any] = json.loads(told.stdout.strip().splitlines()[-1])
    return found


def started(dataset: wn.Dataset, threads: int, **changes: Any) -> wn.Environment:
    torch.set_num_threads(threads)
    setup = wn.Setup(
        train=True,
        data=Path(dataset.name),
        algorithm="next_item",
        threads=threads,
        model_agent_path="agent",
        **{"dim": 128, **OURS[dataset.name], **changes},
    )
    state = wn.State(dataset, setup)
    environment = wn.Environment(wn.Agent(setup, state.space), state, setup)
    environment.agent.wake_agent()
    environment.agent.horizon = environment.source.horizon
    return environment


def steps(environment: wn.Environment) -> Iterator[tuple[int, float]]:
    """The targets and the seconds of each step."""
    agent = environment.agent
    while not environment.done():
        start = time.perf_counter()
        policy = wn.LearnedPolicy(agent, environment.state)
        step = agent.propagate(environment.source.next_batch(policy, environment.rng), environment.rng)
        yield step.targets, time.perf_counter() - start


def rate(dataset: wn.Dataset, threads: int, count: int, **changes: Any) -> float:
    """Targets per second over a number of steps: the median of three parts."""
    found, run = [], steps(started(dataset, threads, batch_size=64, **changes))
    next(run)
    for _ in range(3):
        part = [next(run) for _ in range(count)]
        found.append(sum(targets for targets, _ in part) / sum(seconds for _, seconds in part))
    return statistics.median(found)


def time_to(dataset: wn.Dataset, threads: int, ndcg: float, **changes: Any) -> tuple[float | None, float]:
    """Seconds of training until NDCG@10 on the test targets reaches `ndcg` (None: never), and the best value."""
    environment = started(dataset, threads, **changes)
    agent, state = environment.agent, environment.state
    targets, spent, best = Targets.of(dataset, state.split, "test"), 0.0, 0.0
    for _, seconds in steps(environment):
        spent += seconds
        if agent.steps % len(environment.source.batches) == 0:
            found = rank(wn.LearnedPolicy(agent.eval(), state), targets, state.histories).ndcg
            agent.train()
            best = max(best, float(np.mean(found)))
            if best >= ndcg:
                return spent, best
    return None, best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8, help="steps of each part that a rate is measured on")
    parser.add_argument("--peer", choices=list(PEERS), action="append", help="one of them; both without it")
    parser.add_argument("--folder", type=Path, default=sets.FOLDER)
    parser.add_argument("--full", action="store_true", help="run the peers for all their epochs")
    arguments = parser.parse_args()
    for name in arguments.peer or PEERS:
        peer, threads = PEERS[name], arguments.threads
        epochs = peer["epochs"] if arguments.full else peer["tried"]
        dataset = sets.read(peer["data"], arguments.folder)
        theirs = run_peer(name, dataset, epochs, threads)
        fit = None if theirs is None else theirs["seconds"] * peer["epochs"] / epochs
        common = {"peer": name, "data": peer["data"], "threads": threads, "matrix_gflops": round(matrix_rate() / 1e9)}
        for variant, changes in VARIANTS.items():
            ours = rate(dataset, threads, arguments.steps, **changes)
            ratio = None if theirs is None else round(ours / theirs["targets_per_s"], 2)
            told = None if theirs is None else round(theirs["targets_per_s"])
            tell(**common, variant=variant, targets_per_s=round(ours), peer_targets_per_s=told, ratio=ratio)
        seconds, best = time_to(dataset, threads, peer["ndcg"])
        tell(
            **common,
            ndcg=peer["ndcg"],
            reached=round(best, 4),
            seconds=seconds and round(seconds, 1),
            peer_seconds=fit and round(fit, 1),
            peer_epochs_run=epochs,
            ratio=round(fit / seconds, 1) if fit and seconds else None,
        )


if __name__ == "__main__":
    main()
