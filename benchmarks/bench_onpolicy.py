"""Learning by acting, end to end: slates a second of PPO in a world, including acting, the world and learning.

    python benchmarks/bench_onpolicy.py [--slates 200000] [--threads 2] [--sb3 20000]

By elapsed time, and by processor time, which is the reliable one on a busy machine.
"""

import argparse
import time
from typing import Any

import numpy as np
import torch

from what_next import Agent, LearnedPolicy, Setup
from what_next.sources import WorldSource, state_in, world_of

SINGLE, SLATES = "boredom:SingleItem-BoredInf-v0", "boredom:SlateTopK-Bored-v0"
CASES: dict[str, dict[str, Any]] = {
    "MLP 2x64, ideal state, one item, points": {
        "world": {"name": SINGLE, "ideal": True},
        "model": "mlp",
        "inputs": {"items": "attributes"},
        "algorithm": {"name": "ppo", "over": "points", "balance": False},
    },
    "MLP 2x64, ideal state, slates of 10, points": {
        "world": {"name": SLATES, "ideal": True},
        "model": "mlp",
        "inputs": {"items": "attributes"},
        "algorithm": {"name": "ppo", "over": "points", "balance": False},
    },
    "the same, balanced slot by slot": {
        "world": {"name": SLATES, "ideal": True},
        "model": "mlp",
        "inputs": {"items": "attributes"},
        "algorithm": {"name": "ppo", "over": "points"},
    },
    "LSTM 128, plain observation, one item, points": {
        "world": {"name": SINGLE},
        "model": "lstm",
        "dim": 128,
        "inputs": {"items": "attributes"},
        "algorithm": {"name": "ppo", "over": "points", "balance": False},
    },
    "LSTM 128, plain observation, one item, softmax": {
        "world": {"name": SINGLE},
        "model": "lstm",
        "dim": 128,
        "algorithm": {"name": "ppo"},
    },
}
FILES = {"model_agent_path": "agent.safetensors", "model_critic_path": "critic.safetensors"}


def measure(settings: dict[str, Any], slates: int) -> tuple[float, float, float]:
    """Slates per elapsed second and per processor second; the share of processor time that acting took."""
    setup = Setup(train=True, data="-", device="cpu", **FILES, **settings)
    world = world_of(setup)
    state = state_in(world, setup)
    agent, rng = Agent(state.setup, state.space).wake_agent(), np.random.default_rng(0)
    source, policy = WorldSource(state, world), LearnedPolicy(agent, state)
    agent.horizon = 10**9
    batches = source.algorithm.turns[0] * source.algorithm.turns[1]
    for _ in range(batches):  # one warm-up experience
        agent.propagate(source.next_batch(policy, rng), rng)
    start, processors, acting, done = time.perf_counter(), time.process_time(), 0.0, 0
    while done < slates:
        for _ in range(batches):
            before = time.process_time()
            batch = source.next_batch(policy, rng)
            acting += time.process_time() - before
            agent.propagate(batch, rng)
            done += batch.histories
    used = time.process_time() - processors
    return done / (time.perf_counter() - start), done / used, acting / used


def measure_sb3(slates: int) -> tuple[float, float]:
    """The same rates of Stable-Baselines3's PPO with its defaults in the first case's world."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import DummyVecEnv

    from what_next.worlds import preset
    from what_next.worlds.gym import Points, WorldEnv

    environments = DummyVecEnv([lambda: Points(WorldEnv(preset(SINGLE), ideal=True))] * 8)
    model = PPO("MlpPolicy", environments, n_steps=256, device="cpu", seed=0)
    start, processors = time.perf_counter(), time.process_time()
    model.learn(slates)
    return model.num_timesteps / (time.perf_counter() - start), model.num_timesteps / (time.process_time() - processors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slates", type=int, default=200_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="")
    parser.add_argument("--sb3", type=int, default=0, help="slates of Stable-Baselines3's PPO; 0: none")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print("| PPO, 4 turns in 4 parts | slates/s | slates/s of a processor | share of acting |\n|---|---:|---:|---:|")
    for name, settings in CASES.items():
        if given.only in name:
            wall, processor, acting = measure(settings, given.slates)
            print(f"| {name} | {wall:,.0f} | {processor:,.0f} | {acting:.0%} |", flush=True)
    if given.sb3:
        wall, processor = measure_sb3(given.sb3)
        print(f"| Stable-Baselines3's PPO, as in the first line | {wall:,.0f} | {processor:,.0f} | |")


if __name__ == "__main__":
    main()
