"""A world so small that its best policy is known, and an agent in it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from what_next import Agent, LearnedPolicy, Setup
from what_next.algorithms import Algorithm
from what_next.sources import WorldSource, state_in
from what_next.worlds import Feedback, Observation, World
from what_next.worlds.base import State

GREEDY, PATIENT, PRIZE, DUST = range(4)


@dataclass(frozen=True, eq=False)
class Walkers(State):
    """Who chose `patient` last is in `waiting`; `kept` is of use to nobody."""

    waiting: np.ndarray


class Detour(World):
    """`greedy` pays 1; `patient` nothing, and after it `prize` pays 5. Two slots, of which the first counts.

    With `leaves`, whoever is given `dust` leaves. The best policy earns 5 in every two steps; greed earns 1 in each.
    """

    name: Literal["detour"] = "detour"
    slots: int = 2
    items: int = 4
    steps: int | None = 4
    leaves: bool = False

    @cached_property
    def item_vectors(self) -> np.ndarray:
        return np.eye(4, dtype=np.float32)

    def reset(self, users: int, rng: Any) -> Walkers:
        none = np.zeros((users, self.slots), np.bool_)
        shown = np.full((users, self.slots), DUST)
        return Walkers(np.zeros(users, np.int32), shown, none, np.zeros(users, np.bool_))

    def step(self, state: Walkers, slates: np.ndarray, rng: Any) -> tuple[Walkers, Feedback]:  # type: ignore[override]
        first, clicks = slates[:, 0], np.zeros(slates.shape, np.bool_)
        rewards = np.where(first == GREEDY, 1, np.where(state.waiting & (first == PRIZE), 5, 0)).astype(np.float32)
        clicks[:, 0] = rewards > 0
        after = replace(state, age=state.age + 1, shown=slates, clicks=clicks, waiting=first == PATIENT)
        return after, Feedback(clicks, rewards, (first == DUST) & self.leaves)

    def observe(self, state: Walkers, ideal: bool = False) -> Observation:  # type: ignore[override]
        numbers = state.waiting[:, None].astype(np.float32) if ideal else np.zeros((len(state.age), 0), np.float32)
        return Observation(state.shown.astype(np.int64), state.clicks, numbers)

    def bounds(self, ideal: bool = False) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(int(ideal), np.float32), np.ones(int(ideal), np.float32)

    def references(self) -> Mapping[str, Any]:
        return {"greedy": lambda state, rng: np.tile([GREEDY, DUST], (len(state.age), 1))}


def setup_for(algorithm: Algorithm, folder: Path = Path(), **settings: Any) -> Setup:
    values: dict[str, Any] = {
        "train": True,
        "data": "-",
        "model_agent_path": folder / "agent.safetensors",
        "model_critic_path": folder / "critic.safetensors",
        "algorithm": algorithm,
        "model": "lstm",
        "dim": 16,
        "learning_rate": 0.01,
        "device": "cpu",
        "precision": "fp32",
        "world": {"name": "detour", "users": 64, "window": 8, "steps": 10_000},
    }
    return Setup(**(values | settings))


def playing(algorithm: Algorithm, inside: World, **settings: Any) -> tuple[WorldSource, LearnedPolicy]:
    """A source in a world, and the policy of a new agent that plays there."""
    state = state_in(inside, setup_for(algorithm, **settings))
    agent = Agent(state.setup, state.space).wake_agent()
    return WorldSource(state, inside), LearnedPolicy(agent, state)
