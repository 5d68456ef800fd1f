"""User steps a second of every world, of its Gymnasium interface, and of the originals, as JSON lines.

One thread, slates drawn once; users begin anew when their episodes end. A world and its original alternate, so that
other work on the machine affects both. `steps_per_cpu_second` uses processor time, which depends little on other
programs.
"""

import json
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium
import numpy as np
from gymnasium.utils.performance import benchmark_vector_step

from what_next.worlds import OWN, preset
from what_next.worlds.gym import WorldVectorEnv

USERS, SECONDS, TURNS = 4096, 1.0, 5

Step = Callable[[int], None]


def ours(name: str) -> Step:
    """A step of our world."""
    world, rng = preset(name), np.random.default_rng(0)
    slates = [rng.integers(world.items, size=(USERS, world.slots)) for _ in range(8)]
    state = world.reset(USERS, rng)

    def step(number: int) -> None:
        nonlocal state
        state, feedback = world.step(state, slates[number % 8], rng)
        state = world.restart(state, np.flatnonzero(feedback.terminated | world.truncated(state)), rng)

    return step


def sardine() -> Step:
    """A step of SARDINE's."""
    import sardine  # noqa: F401

    env: Any = gymnasium.make("sardine/SlateTopK-Bored-v0", disable_env_checker=True).unwrapped
    slates = np.random.default_rng(0).integers(env.num_items, size=(64, env.slate_size))
    env.reset(seed=0)

    def step(number: int) -> None:
        if env.step(slates[number % 64])[2]:
            env.reset()

    return step


def recsim() -> Step:
    """A step of RecSim's interest evolution."""
    from recsim.environments import interest_evolution

    config = {"num_candidates": 10, "slate_size": 2, "resample_documents": True, "seed": 0}
    env = interest_evolution.create_environment(config)
    env.reset()

    def step(number: int) -> None:
        if env.step([number % 10, (number + 1) % 10])[2]:
            env.reset()

    return step


def speed(step: Step, users: int) -> np.ndarray:
    """User steps per elapsed second and per processor second."""
    clock, cpu, steps = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - clock < SECONDS:
        step(steps)
        steps += 1
    return users * steps / np.array([time.perf_counter() - clock, time.process_time() - cpu])


def tell(part: str, **values: object) -> None:
    print(json.dumps({"benchmark": "worlds", "part": part, **values}), flush=True)


def main() -> None:
    warnings.simplefilter("ignore")
    originals = {"boredom:sardine/SlateTopK-Bored-v0": sardine, "choice:interest_evolution": recsim}
    for name in [*OWN, *originals]:
        mine, other = ours(name), originals[name]() if name in originals else None
        speed(mine, USERS)
        turns = [(speed(mine, USERS), speed(other, 1) if other else np.ones(2)) for _ in range(TURNS)]
        steps, others = np.median(np.array(turns), axis=0)
        found = dict(zip(("steps_per_second", "steps_per_cpu_second"), steps.round().astype(int).tolist(), strict=True))
        if other:
            found |= {"original_steps_per_second": round(others[0]), "original_steps_per_cpu_second": round(others[1])}
            found |= {"ratio": round(steps[0] / others[0]), "cpu_ratio": round(steps[1] / others[1])}
        tell(name, users=USERS, **found)
    for name in OWN:
        measured = benchmark_vector_step(WorldVectorEnv(USERS, name), target_duration=3, seed=0)
        tell(f"{name}, benchmark_vector_step of Gymnasium", users=USERS, steps_per_second=round(measured))


if __name__ == "__main__":
    main()
