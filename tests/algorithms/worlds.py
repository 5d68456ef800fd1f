"""Worlds so small that the best policy is known, and numbers that can be worked by hand.

`detour` and `narrow` are chains in which the best next reward is the wrong choice. `learn` trains an algorithm on the
log of one, through the real agent; `Learned.play` is what it earns then. `Head`, `items_of` and `transitions` set every
number of a loss.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from what_next import Agent, Dataset, LearnedPolicy, Setup, State
from what_next.algorithms import Algorithm
from what_next.models.item_space import ItemSpace
from what_next.sources import source_of
from what_next.training.step import Step
from what_next.types import Choices, Events, History, Request, Transitions

# Worlds


@dataclass(frozen=True)
class World:
    """Every history starts with the first item; what is chosen next pays by the item before it.

    Attributes:
        items: their names; `rewards`: of an item after another, 0 where none is named.
        behaviour: how often each item follows another in the log.
        length: events of a history, the first included.
        best: what the best policy earns in a history, without discount.
        greedy: what one earns that takes the largest next reward.
    """

    items: tuple[str, ...]
    rewards: Mapping[tuple[str, str], float]
    behaviour: Mapping[str, Mapping[str, float]]
    length: int
    best: float
    greedy: float

    def log(self, users: int = 300, seed: int = 0) -> pl.DataFrame:
        """What users of the behaviour policy did, with times and rewards; the same every time."""
        rng = np.random.default_rng(seed)
        rows: list[tuple[str, str, int, float]] = []
        for user in range(users):
            last, reward = self.items[0], 0.0
            for time in range(self.length):
                rows.append((f"u{user:04}", last, 1_600_000_000 + 60 * time, reward))
                chances = self.behaviour[last]
                following = str(rng.choice(list(chances), p=np.array(list(chances.values()))))
                reward, last = self.rewards.get((last, following), 0.0), following
        return pl.DataFrame(rows, ["user_id", "item_id", "timestamp", "reward"], orient="row")


def detour() -> World:
    """From `start`, `greedy` pays 1 and leads nowhere; `patient` pays nothing, and after it `prize` pays 5.

    Imitation fails: `greedy` is the commonest choice after `start`, `dust` after `patient`. So does what judges a
    choice by how the log went on: after `patient` it took `prize` too seldom. Every item is tried after every other.
    """
    items = ("start", "greedy", "patient", "prize", "dust")
    behaviour = {
        **dict.fromkeys(items, dict.fromkeys(items, 0.2)),
        "start": {"start": 0.1, "greedy": 0.45, "patient": 0.25, "prize": 0.1, "dust": 0.1},
        "patient": {"start": 0.1, "greedy": 0.1, "patient": 0.1, "prize": 0.15, "dust": 0.55},
    }
    return World(items, {("start", "greedy"): 1.0, ("patient", "prize"): 5.0}, behaviour, 3, best=5.0, greedy=1.0)


def narrow() -> World:
    """The same with six patient items, after each of which `prize` pays 2, and `greedy` a quarter; little was tried.

    `prize` never came but after a patient item, where it is worth more than anything else: what it pays after `start`
    is made up, and a method that trusts its estimate takes it at once, for nothing. The best policy is in the log.
    """
    patient = tuple(f"patient {number}" for number in range(6))
    items = ("start", "greedy", *patient, "prize", "dust")
    nothing, chance = {"start": 0.5, "dust": 0.5}, {"prize": 0.2, "dust": 0.8}
    behaviour = {
        **dict.fromkeys(items, nothing),
        **dict.fromkeys(patient, chance),
        "start": {"greedy": 0.4, **dict.fromkeys(patient, 0.1)},
    }
    rewards = {("start", "greedy"): 0.25, **{(item, "prize"): 2.0 for item in patient}}
    return World(items, rewards, behaviour, 3, best=2.0, greedy=0.25)


@dataclass(frozen=True)
class Learned:
    """An agent that was trained in a world, and what it recommends there.

    Attributes:
        steps: what each step of training showed.
    """

    world: World
    agent: Agent
    state: State
    steps: tuple[Step, ...]

    def history(self, names: Sequence[str]) -> History:
        """The history of some names."""
        return self.state.history_of(list(names))[0]

    def choose(self, names: Sequence[str]) -> str:
        """The item that is recommended first after a history of names."""
        policy = LearnedPolicy(self.agent, self.state)
        chosen = policy.act(policy.states(self.history(names)), Request()).items[0, 0]
        return str(self.state.space.catalogue.ids[int(chosen)])

    def play(self) -> float:
        """What its choices earn in one history."""
        names, earned = [self.world.items[0]], 0.0
        while len(names) < self.world.length:
            names.append(self.choose(names))
            earned += self.world.rewards.get((names[-2], names[-1]), 0.0)
        return earned

    def values(self, names: Sequence[str], network: str = "critic") -> dict[str, float]:
        """What a network with points says of every item after a history of names, without the level."""
        events = Events(torch.from_numpy(self.history(names).items).long(), torch.zeros(1, len(names), 0))
        encoder = self.agent.nets["encoder"]
        with torch.no_grad():
            vectors = encoder.items()
            points = self.agent.nets[network](encoder(events)[:, -1])[0, : vectors.shape[1]]
        return dict(zip(self.state.space.catalogue.ids, (vectors @ points).tolist(), strict=True))


def learn(
    algorithm: Algorithm,
    world: World,
    *,
    steps: int = 150,
    dim: int = 16,
    discount: float = 0.9,
    rate: float = 0.03,
    seed: int = 0,
    **settings: Any,
) -> Learned:
    """Train an algorithm on a world's log, as `Environment` does; nothing is saved. `settings` are further ones."""
    values = {
        "train": True,
        "data": "-",
        "model_agent_path": "agent.safetensors",
        "model_critic_path": "critic.safetensors",
        "algorithm": algorithm,
        "split": {"name": "users", "test": 0.0, "validation": 0.0},
        "batch_size": 64,
        "dim": dim,
        "dropout": 0.0,
        "skip": "no",  # rates and steps are set for cells alone
        "weight_decay": 0.0,
        "discount": discount,
        "learning_rate": rate,
        "clip": 5.0,
        "device": "cpu",
        "precision": "fp32",
        "seed": seed,
    }
    setup = Setup(**(values | settings))
    state = State(Dataset.from_frame(world.log(seed=seed), name="world"), setup)
    agent, rng = Agent(setup, state.space).wake_agent(), np.random.default_rng(seed)
    agent.horizon = steps * setup.batch_size
    seen = []
    source, policy = source_of(state), LearnedPolicy(agent, state)
    for _ in range(steps):
        seen.append(agent.propagate(source.next_batch(policy, rng), rng))
    return Learned(world, agent.eval(), state, tuple(seen))


# Numbers worked by hand


class Head(nn.Module):
    """A linear map whose weights are set: `states @ weights`."""

    def __init__(self, weights: Sequence[Sequence[float]]) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights))

    def forward(self, states: Tensor) -> Tensor:
        return states @ self.weights


def items_of(vectors: Sequence[Sequence[float]], target: Sequence[Sequence[float]] | None = None) -> ItemSpace:
    """Items with set vectors, which ask for a gradient; without `target`, those of the target network are the same."""
    learned = torch.tensor(vectors, requires_grad=True)
    return ItemSpace.of(learned, None if target is None else torch.tensor(target))


def transitions(states: Sequence[Sequence[float]], actions: Sequence[int], **others: Any) -> Transitions:
    """A batch with set numbers: rewards 0, next states 0, ended histories, returns 0, and a target encoder that is the
    encoder, where nothing else is said."""
    steps = len(actions)
    nothing = torch.zeros(steps)
    found = {
        "rewards": nothing,
        "next_states": torch.zeros(steps, len(states[0])),
        "target_states": torch.tensor(states),
        "next_actions": torch.full((steps,), -1),
        "discounts": nothing,
        "returns": nothing,
        "step_discounts": nothing,
    }
    set_ = {name: torch.tensor(value) for name, value in others.items()}
    return Transitions(torch.tensor(states, requires_grad=True), torch.tensor(actions), **(found | set_))


def choices(
    states: Sequence[Sequence[float]],
    slates: Sequence[Sequence[int]],
    clicks: Sequence[Sequence[float]],
    *,
    rewards: Sequence[float],
    discounts: Sequence[float],
    points: Sequence[Sequence[float]] | None = None,
    answered: Sequence[bool] | None = None,
) -> Choices:
    """Steps of play: the slate of each, and what was clicked of it."""
    steps = transitions(states, [slate[0] for slate in slates], rewards=rewards, discounts=discounts)
    count = len(states)
    return Choices(
        **vars(steps),
        slates=torch.tensor(slates),
        propensities=torch.zeros(count),
        expected=torch.zeros(count),
        points=torch.zeros(count, 0) if points is None else torch.tensor(points),
        numbers=torch.zeros(count, 0),
        next_numbers=torch.zeros(count, 0),
        clicks=torch.tensor(clicks),
        clicks_known=torch.ones(count, dtype=torch.bool) if answered is None else torch.tensor(answered),
        answered=torch.ones(count, dtype=torch.bool) if answered is None else torch.tensor(answered),
    )
