"""A tiny agent on made-up data, for the checks of an algorithm."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from what_next.agent import Agent
from what_next.algorithms import Algorithm
from what_next.data import Dataset
from what_next.settings import Setup
from what_next.state import State
from what_next.testing.made_up import made_up_log
from what_next.training.step import Step
from what_next.types import History, Product, Trajectories, Trials

Weights = dict[str, dict[str, Tensor]]


class Rig:
    """An algorithm's agent and a state, awake; one `step` is one of training.

    Attributes:
        algorithm, agent, state: what is checked, and what it runs on.
        rng: all random numbers of training.
    """

    def __init__(self, algorithm: Algorithm, folder: Path = Path(), seed: int = 0, dropout: float = 0.0) -> None:
        """Nothing is written to `folder` before it is saved."""
        setup = Setup.model_validate(
            {
                "train": True,
                "data": "made up",
                "model_agent_path": folder / "agent.safetensors",
                "model_critic_path": folder / "critic.safetensors",
                "algorithm": algorithm,
                "split": "users",
                "epochs": 1000,
                "batch_size": 6,
                "dim": 8,
                "dropout": dropout,
                "device": "cpu",
                "precision": "fp32",
                "seed": seed,
            }
        )
        self.algorithm, self.setup = algorithm, setup
        self.state = State(_data(), setup)
        self.agent = Agent(setup, self.state.space).wake_agent()
        self.rng = np.random.default_rng(seed)

    def history(self) -> History:
        """What the next step learns of."""
        if self.algorithm.trials:
            return self.state.get_random_user_history(self.setup.batch_size or 1, self.rng)
        return self.state.get_batch(self.agent.steps)

    def step(self) -> Step:
        """One step of training."""
        history = self.history()
        proposal = self.agent.predict(history, self.rng, grid=True)
        product = self.state.next_items(history)
        if self.algorithm.trials:
            product = self.state.produce(proposal.points, None, self.rng, history=history, score=proposal.score)
        return self.agent.propagate(product, self.rng)

    def batch(self, history: History, product: Product | None = None) -> Trajectories | Trials:
        """What the losses read of a history, and of what came next in it (or of another product)."""
        self.agent.predict(history, grid=True)
        return self.agent.add_prediction(product or self.state.next_items(history), np.random.default_rng(0))

    def losses(self, batch: Trajectories | Trials, step: int = 0) -> dict[str, Tensor]:
        """The losses of a batch; their random numbers are the same at every call."""
        agent = self.agent
        return agent.experience.losses(agent.nets, agent.slow, batch, step, np.random.default_rng(0))

    def weights(self, *, slow: bool = False) -> Weights:
        """Copies of all weights, by network."""
        nets = self.agent.slow if slow else self.agent.nets
        return {name: {key: value.clone() for key, value in net.state_dict().items()} for name, net in nets.items()}


def padded(history: History, width: int) -> History:
    """The same with more padding at the end, in which the numbers are no longer 0."""

    def wider(values: np.ndarray, fill: int) -> np.ndarray:
        shape = (values.shape[0], width, *values.shape[2:])
        return np.concatenate([values, np.full(shape, fill, values.dtype)], 1)

    return replace(
        history,
        items=wider(history.items, -1),
        rewards=wider(history.rewards, 7),
        context=wider(history.context, 7),
        times=None if history.times is None else wider(history.times, 0),
        earned=None if history.earned is None else wider(history.earned, 7),
    )


def other_events(history: History, since: int, items: int, *, earned: bool) -> History:
    """The same up to a column; from there on, other items and numbers, and with `earned` other labels."""
    changed, context, rewards = history.items.copy(), history.context.copy(), history.rewards.copy()
    changed[:, since:] = np.where(changed[:, since:] < 0, -1, (changed[:, since:] + 1) % items)
    context[:, since:] += 3
    rewards[:, since:] += 3
    other = replace(history, items=changed, context=context, rewards=rewards)
    if not earned or history.earned is None:
        return other
    labels = history.earned.copy()
    labels[:, since:] = labels[::-1, since:] ** 2 + 3
    later = None if history.later is None else history.later[::-1] + 3
    return replace(other, earned=labels, later=later)


def reaches(loss: Tensor, ends: list[Tensor]) -> bool:
    """Whether a loss has a gradient other than 0 for any of some tensors."""
    if not loss.requires_grad or not ends:
        return False
    found = torch.autograd.grad(loss, ends, retain_graph=True, allow_unused=True)
    return any(gradient is not None and bool(gradient.any()) for gradient in found)


@cache
def _data() -> Dataset:
    rng = np.random.default_rng(0)
    log = made_up_log(users=24, items=20, events=9)
    log = log.filter(pl.Series(rng.random(len(log)) < 0.8))  # histories of different lengths
    return Dataset.from_frame(
        log.with_columns(
            pl.Series("reward", rng.integers(1, 6, len(log)).astype(float)),
            pl.Series("timestamp", 1_600_000_000 + 60 * np.arange(len(log))),
        ),
        name="made up",
    )
