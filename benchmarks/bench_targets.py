"""Targets a second of training on sets of long and of short histories, alternating in one run. Prints JSON lines.

A step is the whole work of a run for one batch: histories, encoder, losses, gradients, optimiser. Settings are the
defaults, except for those that a line names. `share` is the rate relative to that on the first set. Each line has the
machine's fp32 matrix rate.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import sets
import torch
from rates import matrix_rate

import what_next as wn
from what_next.sources import source_of

VARIANTS = (
    {"algorithm": "next_item", "loss": "softmax"},
    {"algorithm": "next_item", "loss": "sampled_softmax"},
    {"algorithm": "next_item", "loss": "softmax", "model": "transformer"},
    {"algorithm": "sqn", "loss": "softmax"},
    {"algorithm": "iql", "loss": "softmax"},
)


class Training:
    """One variant on one set; steps are spread evenly over the batches of a pass, because these differ in width."""

    def __init__(self, dataset: wn.Dataset, settings: dict[str, str], threads: int) -> None:
        text = "train, yes, data, memory, model_agent_path, agent, model_critic_path, critic"
        words = [f"{key}={value}" for key, value in {**settings, "threads": threads}.items()]
        setup = wn.Setup.from_text(text, overrides=words)
        self.state = wn.State(dataset, setup)
        self.agent = wn.Agent(setup, self.state.space).wake_agent()
        self.source, self.policy = source_of(self.state), wn.LearnedPolicy(self.agent, self.state)
        self.rng, self.rates = np.random.default_rng(0), list[float]()

    def run(self, seconds: float) -> None:
        """Make some steps; returns their rate."""
        targets, start = 0, time.process_time()
        while (passed := time.process_time() - start) < seconds:
            targets += self.agent.propagate(self.source.next_batch(self.policy, self.rng), self.rng).targets
        self.rates.append(targets / passed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="ml-1m-part,amazon-beauty-s3rec", help="the first is the reference")
    parser.add_argument("--folder", type=Path, default=sets.FOLDER)
    parser.add_argument("--seconds", type=float, default=4.0, help="processor time of each turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    wanted = parser.parse_args()
    torch.set_num_threads(wanted.threads)
    data = {name: sets.read(name, wanted.folder) for name in wanted.sets.split(",")}
    for settings in VARIANTS:
        trainings = {name: Training(dataset, settings, wanted.threads) for name, dataset in data.items()}
        for _ in range(wanted.turns):
            for training in trainings.values():
                training.run(wanted.seconds)
        rates = {name: statistics.median(training.rates[1:] or training.rates) for name, training in trainings.items()}
        first = next(iter(rates.values()))
        for name, rate in rates.items():
            about = {"benchmark": "targets", "set": name, **settings, "threads": wanted.threads}
            found = {"targets_per_s": round(rate), "share": round(rate / first, 3)}
            print(json.dumps({**about, **found, "matrix_gflops_per_s": round(matrix_rate() / 1e9, 1)}), flush=True)


if __name__ == "__main__":
    main()
