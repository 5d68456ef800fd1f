"""The founding algorithm: steps per second, and the share of the machine's fp32 matrix rate that they reach.

Prints JSON lines.
Counted are the flops of the networks' matrix products: 2 for each multiply-add, times 3 for forward and backward
(times 1 without a gradient). The data are made up, of the size of ml-100k's catalogue.
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
from what_next.sources import BanditSource
from what_next.testing import made_up_log
from what_next.training.founding_learner import FoundingLearner


def flops_of_step(agent: wn.Agent, batch: int, window: int) -> float:
    """Flops of one training step: proposing, and the losses of actor and critic."""
    assert isinstance(agent.learner, FoundingLearner)
    sizes, algorithm = agent.learner.sizes, agent.setup.algorithm
    steps, dim = batch * window, sizes.dim
    encoder = 2 * steps * 4 * dim * (sizes.factors + dim)
    head = 2 * ((sizes.points + sizes.prospects) * dim + dim * dim + dim)  # for each point that the critic judges
    state = 2 * steps * dim * dim
    choices, judged = len(agent.nets["actor"].prototypes), 1 + algorithm.explore
    actor = encoder + state + steps * choices * head
    critic = encoder + state + steps * judged * head
    return actor * (1 + 3) + critic * 3 + steps * choices * head


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "log.parquet"
        made_up_log(users=600, items=1682, events=100, attributes=19).write_parquet(data)
        setup = wn.Setup(train=True, data=data, window=20, model_agent_path="agent", model_critic_path="critic")
        state = wn.State.from_setup(setup)
        agent, rng = wn.Agent(setup, state.space).wake_agent(), np.random.default_rng(0)
        source = BanditSource(state)
        seconds: dict[str, list[float]] = {"history": [], "predict": [], "produce": [], "rewards": [], "propagate": []}
        for _ in range(arguments.steps):
            marks = [time.perf_counter()]
            history = state.get_random_user_history(setup.batch_size, rng)
            marks.append(time.perf_counter())
            proposal = agent.predict(history, rng, grid=True)
            marks.append(time.perf_counter())
            product = state.produce(proposal.points, setup.relax, rng)
            marks.append(time.perf_counter())
            batch = source.batch(history, proposal.factors, product, rng)
            marks.append(time.perf_counter())
            agent.propagate(batch, rng)
            marks.append(time.perf_counter())
            for name, passed in zip(seconds, np.diff(marks), strict=True):
                seconds[name].append(float(passed))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    step = sum(medians.values())
    rate, flops = matrix_rate(), flops_of_step(agent, setup.batch_size, setup.window)
    print(
        json.dumps(
            {
                "benchmark": "train",
                "threads": arguments.threads,
                "histories_per_step": setup.batch_size,
                "steps_per_s": round(1 / step, 2),
                "targets_per_s": round(setup.batch_size * (setup.window - 2) / step),
                "ms": {name: round(1000 * value, 2) for name, value in medians.items()},
                "gflops_of_step": round(flops / 1e9, 2),
                "matrix_gflops_per_s": round(rate / 1e9, 1),
                "share_of_matrix_rate": round(flops / step / rate, 4),
            }
        )
    )


if __name__ == "__main__":
    main()
