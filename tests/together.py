"""A few steps of training by this process and others, as `test_distributed` starts them."""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from what_next import Agent, Dataset, Environment, Setup, State
from what_next.models.encoders import Encoder
from what_next.sources import source_of
from what_next.training import encoder_learner, weighing
from what_next.training.distributed import Ranks

FIXED = {
    "train": True,
    "model": "lstm",
    "dim": 8,
    "dropout": 0.0,
    "item_dropout": 0.0,
    "passes": 99,
    "batch_size": 8,
    "precision": "fp32",
}

Runs = Mapping[str, tuple[dict[str, Any], int]]
"""By a name, the settings of a run and how many steps of it are taken."""


SAMPLED = {"inputs": {"items": "learned"}, "loss": {"name": "sampled_softmax", "negatives": 16}, "linear": "no"}
SHARDED = {"algorithm": {"name": "next_item"}, **SAMPLED, "cluster": {"items": "sharded"}}


def dataset() -> Dataset:
    """30 users with 6 to 20 events each, 40 items with four attributes."""
    from .conftest import listening

    log, table = listening(users=30, items=40, events=20)
    rng = np.random.default_rng(1)
    keep = np.concatenate([np.arange(20) < count for count in rng.integers(6, 21, size=30)])
    return Dataset.from_frame(log.filter(keep), table, name="listening")


def train(runs: Runs, folder: Path, ranks: Ranks) -> dict[str, dict[str, Any]]:
    """The losses of each step, what was sent, and what tells the weights at the end, of each run."""
    found, data = {}, dataset()
    torch.set_num_threads(1)
    for name, (settings, steps) in runs.items():
        paths = {f"model_{one}_path": folder / f"{name}-{one}.safetensors" for one in ("agent", "critic")}
        setup = Setup(**{"data": folder / "none.parquet", **FIXED, **paths, **settings})
        # From no items on, a sampled loss updates the rows that it drew alone.
        encoder_learner.SPARSE = 0 if "sparse" in name or "sharded" in name else 50_000
        state = State(data, setup)
        ranks.sent, ranks.agreed = 0, False
        environment = Environment(Agent(setup, state.space), state, setup, source=source_of(state), ranks=ranks)
        environment._begin()
        shown = [environment._cycle() for _ in range(steps)]
        digest = sha256()
        for net in environment.agent.nets.values():
            table = net.items.learned if isinstance(net, Encoder) and net.items.shards else None
            for weight in (one for one in net.parameters() if one is not table):
                digest.update(weight.detach().cpu().numpy().tobytes())
        found[name] = {
            "losses": [step.losses for step in shown],
            "rewards": [step.reward for step in shown],
            "targets": [step.targets for step in shown],
            "sent": ranks.sent,
            "needed": sum(
                weight.grad.nbytes
                for net in environment.agent.nets.values()
                for weight in net.parameters()
                if weight.grad is not None and not weight.grad.is_sparse
            ),
            "weights": digest.hexdigest(),
        }
    return found


ENSEMBLE = {"algorithm": {"name": "next_item"}, "patience": 1, "ensemble": 3}
COMPLETE: Mapping[str, tuple[dict[str, Any], list[int | None]]] = {
    "whole": (SHARDED, [None]),
    "broken": (SHARDED, [5, None]),
    "patient": (SHARDED | {"patience": 1}, [None]),
    "linear": ({"algorithm": {"name": "next_item"}, "patience": 1}, [None]),
    "ensemble": (ENSEMBLE, [None]),
    "ensemble_broken": (ENSEMBLE, [5, None]),
}
"""By a name, the settings of a run and after how many steps it is stopped, until it is not."""


def complete(folder: Path, ranks: Ranks, names: Iterable[str] = COMPLETE) -> dict[str, Any]:
    """What came of complete runs of three passes."""
    data, found = dataset(), {}
    for name in names:
        settings, stops = COMPLETE[name]
        paths = {f"model_{one}_path": folder / name / f"{one}.safetensors" for one in ("agent", "critic")}
        more = {"data": folder / "none.parquet", "passes": 3, "patience": None, "dropout": 0.5}
        setup = Setup(**FIXED | paths | more | settings)
        for place, stop in enumerate(stops):
            state, taken = State(data, setup), count(1)

            def stopped(_: object, stop: int | None = stop, taken: Iterator[int] = taken) -> bool:
                return next(taken) == stop

            agent = Agent(setup, state.space)
            environment = Environment(agent, state, setup, resume=place > 0, ranks=ranks, on_step=stopped, quiet=True)
            ranks.agreed = False
            report = environment.train_agent()
            found[name] = {"valid": report.valid, "steps": len(report.steps), "stopped": report.stopped}
    return found


def worker(rank: int, ranks: int, runs: Runs, folder: Path) -> None:
    """One of several processes."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(
        backend, init_method=f"file://{folder}/store", rank=rank, world_size=ranks, timeout=timedelta(minutes=5)
    )
    found: dict[str, Any] = train(runs, folder, Ranks(rank, ranks, joined=True))
    if ranks == 2:
        weighing.monotonic = count(0, 100 * rank).__next__  # clocks differ: here the time leaps in the second one alone
        found["complete"] = complete(folder, Ranks(rank, ranks, joined=True))
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()
