"""A large catalogue: targets per second and memory at 1,000,000 items and 100 million events, beside 10,000 items.

Prints JSON lines. Sampled softmax, dim 64, equal negatives; the vectors of the drawn items alone are moved. A bounded
number of steps on a made-up log, each size in a process of its own, since memory is that of the whole process.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from pathlib import Path

import numpy as np
import polars as pl
import torch

import what_next as wn
from what_next.sources import source_of

LENGTH = 100


def made_up(items: int, events: int) -> wn.Dataset:
    """A log in which items are drawn by a power law; users have `LENGTH` events each."""
    rng = np.random.default_rng(0)
    users = events // LENGTH
    drawn = (items * rng.random(users * LENGTH, dtype=np.float32) ** 3).astype(np.int32)
    catalogue = wn.Catalogue.from_table(
        pl.DataFrame({"item_id": np.arange(items), "title": pl.Series(np.arange(items)).cast(pl.String)})
    )
    return wn.Dataset(
        name="made up",
        user_ids=pl.Series("user_id", np.arange(users)),
        items=np.minimum(drawn, items - 1),
        offsets=np.arange(0, users * LENGTH + 1, LENGTH),
        timestamps=None,
        rewards=None,
        context=np.zeros((users * LENGTH, 0), np.float32),
        context_names=(),
        catalogue=catalogue,
    )


def measure(items: int, events: int, steps: int, threads: int, told: "multiprocessing.Queue[dict[str, float]]") -> None:
    torch.set_num_threads(threads)
    setup = wn.Setup(
        train=True,
        data=Path("log.parquet"),
        algorithm="next_item",
        loss={"name": "sampled_softmax", "negatives": 1024},
        dim=64,
        max_length=LENGTH,
        batch_size=64,
        model_agent_path="agent",
        model_critic_path="critic",
    )
    state = wn.State(made_up(items, events), setup)
    agent, rng, seconds, targets = wn.Agent(setup, state.space).wake_agent(), np.random.default_rng(0), [], 0
    source, policy = source_of(state), wn.LearnedPolicy(agent, state)
    for _ in range(steps + 3):
        start = time.perf_counter()
        targets = agent.propagate(source.next_batch(policy, rng), rng).targets
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    told.put({"targets_per_s": targets / statistics.median(seconds[3:]), "peak_gib": peak})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--events", type=int, default=100_000_000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    first = 0.0
    for items in arguments.items:
        told = context.Queue()
        process = context.Process(
            target=measure, args=(items, arguments.events, arguments.steps, arguments.threads, told)
        )
        process.start()
        found = told.get()
        process.join()
        first = first or found["targets_per_s"]
        print(
            json.dumps(
                {
                    "benchmark": "scale",
                    "items": items,
                    "events": arguments.events,
                    "threads": arguments.threads,
                    "targets_per_s": round(found["targets_per_s"]),
                    "of_the_first": round(found["targets_per_s"] / first, 3),
                    "peak_gib": round(found["peak_gib"], 2),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
