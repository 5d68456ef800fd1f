"""A training step on the log: its share of the machine's fp32 matrix rate, and the cost of RL algorithms.

Prints JSON lines. A step is the whole work of a run for one batch: histories, encoder, losses, gradients, optimiser.
Counted are the flops of the matrix products of an LSTM and a full softmax: 2 for each multiply-add, times 3 for forward
and backward. The data are made up: 64 histories of 201 events, 3,616 items. The variants alternate step by step, so
that other work on the machine affects all of them.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rates import matrix_rate

import what_next as wn
from what_next.sources import source_of
from what_next.testing import made_up_log

ITEMS, DIM, HISTORIES, EVENTS = 3616, 128, 64, 203
"""Leave-last-out takes two events of each history; the other 201 give 200 targets."""


class Variant:
    """An algorithm in a precision, with the durations of its steps."""

    def __init__(self, dataset: wn.Dataset, algorithm: str, precision: str, threads: int) -> None:
        self.algorithm, self.precision = algorithm, precision
        setup = wn.Setup(
            train=True,
            data=Path("log.parquet"),
            algorithm=algorithm,
            precision=precision,
            dim=DIM,
            dropout=0.0,
            model="lstm",
            max_length=200,
            batch_size=HISTORIES,
            threads=threads,
            model_agent_path="agent",
            model_critic_path="critic",
        )
        self.state = wn.State(dataset, setup)
        self.agent = wn.Agent(setup, self.state.space).wake_agent()
        self.source, self.policy = source_of(self.state), wn.LearnedPolicy(self.agent, self.state)
        self.rng = np.random.default_rng(0)
        self.seconds: list[float] = []
        self.targets = 0

    def step(self) -> None:
        start = time.perf_counter()
        batch = self.source.next_batch(self.policy, self.rng)
        self.targets = self.agent.propagate(batch, self.rng).targets
        self.seconds.append(time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--algorithms", default="next_item,sqn,sa2c,reinforce")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        made_up_log(users=2 * HISTORIES, items=ITEMS, events=EVENTS).write_parquet(Path(folder) / "log.parquet")
        dataset = wn.Dataset.read(Path(folder) / "log.parquet")
    variants = [
        Variant(dataset, algorithm, precision, arguments.threads)
        for algorithm in arguments.algorithms.split(",")
        for precision in ("fp32", "bf16")
    ]
    rates = []
    for _ in range(arguments.steps + 2):  # two warm-up steps
        rates.append(matrix_rate(repeats=3))
        for variant in variants:
            variant.step()
    rate = statistics.median(rates)
    medians = {(one.algorithm, one.precision): statistics.median(one.seconds[2:]) for one in variants}
    for variant in variants:
        seconds = medians[variant.algorithm, variant.precision]
        flops = 3 * 2 * variant.targets * (8 * DIM * DIM + DIM * len(dataset.catalogue))
        print(
            json.dumps(
                {
                    "benchmark": "learn",
                    "algorithm": variant.algorithm,
                    "precision": variant.precision,
                    "threads": arguments.threads,
                    "targets": variant.targets,
                    "ms_per_step": round(1000 * seconds, 1),
                    "targets_per_s": round(variant.targets / seconds),
                    "matrix_gflops_per_s": round(rate / 1e9, 1),
                    "share_of_fp32_matrix_rate": round(flops / seconds / rate, 3),
                    "times_a_supervised_step": round(seconds / medians["next_item", variant.precision], 3),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
