"""A tiny agent on made-up data, for the checks of an algorithm."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float32
from torch import Tensor

from what_next.agent import Agent
from what_next.algorithms import Algorithm
from what_next.algorithms.base import LossContext
from what_next.data import Dataset
from what_next.policy import LearnedPolicy
from what_next.settings import Setup
from what_next.sources import BanditSource, LogSource, source_of
from what_next.sources.decisions import imitated, inverse_chances
from what_next.state import State
from what_next.testing.installation import made_up_log
from what_next.training.step import Step
from what_next.types import Batch, History, Impressions, Product

Weights = dict[str, dict[str, Tensor]]


class Played(LogSource):
    """A log as if the agent had played it: each item was drawn uniformly, from a random point."""

    def batch(
        self, policy: LearnedPolicy, history: History, later: Float32[np.ndarray, "batch"] | None = None
    ) -> Batch:
        """See `LogSource.batch`."""
        made, agent = super().batch(policy, history, later), policy.agent
        points = None
        if agent.setup.algorithm.draws_points:
            found = agent.predict(history, grid=True).points
            points = found + np.random.default_rng(0).standard_normal(found.shape[-1], np.float32) / 10
        chances = np.full(made.mask.shape, 1 / len(self.state.space.catalogue))
        return replace(made, propensities=chances, values=np.zeros_like(made.rewards), points=points)


class Rig:
    """An algorithm's agent and state, ready to train; one `step` is one training step.

    Attributes:
        algorithm, agent, state, source, policy: the algorithm to check, and the objects that it runs on.
        log: makes batches from given histories; the same object as `source` where that reads a log.
        rng: the source of all random numbers in training.
    """

    def __init__(self, algorithm: Algorithm, folder: Path = Path(), seed: int = 0, dropout: float = 0.0) -> None:
        """`folder` stays untouched until the agent is saved."""
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
                "item_dropout": dropout,
                "device": "cpu",
                "precision": "fp32",
                "seed": seed,
            }
        )
        self.algorithm, self.setup = algorithm, setup
        self.state = State(_data(), setup)
        self.agent = Agent(setup, self.state.space).wake_agent()
        self.source = Played(self.state) if algorithm.source == "world" else source_of(self.state)
        self.source.resume(0, 0)
        self.log = self.source if isinstance(self.source, LogSource) else LogSource(self.state)
        self.policy = LearnedPolicy(self.agent, self.state)
        self.rng = np.random.default_rng(seed)

    def history(self) -> History:
        """Histories to learn from: the first windows of the log, or random ones for bandit feedback."""
        if isinstance(self.source, BanditSource):
            return self.state.get_random_user_history(self.setup.batch_size or 1, self.rng)
        return self.log.windows(self.log.batches.batch(0))

    def step(self) -> Step:
        """One step of training."""
        return self.agent.propagate(self.source.next_batch(self.policy, self.rng), self.rng)

    def batch(self, history: History) -> Batch:
        """A batch of some histories and their next events; its random numbers are the same at every call."""
        if isinstance(self.source, BanditSource):
            return self.source.batch(
                history, self.agent.factorize(history), came_next(history), np.random.default_rng(0)
            )
        return self.log.batch(self.policy, history)

    def shown(self, batch: Batch, *, brought: bool = True) -> Batch:
        """The batch as if a service had shown, at each step, the next item, which was taken, and below it another item.

        `brought`: whether the taken items earned their reward, else 0.
        """
        rows, columns = np.nonzero(batch.mask)
        steps, width = np.repeat(np.arange(len(rows)), 2), batch.mask.shape[1]
        places, taken = (rows * width + columns)[steps], np.arange(len(steps)) % 2 == 0
        own = batch.actions[batch.mask][steps]
        rewards = np.where(taken & brought, batch.rewards[batch.mask][steps], 0).astype(np.float32)
        discounts = batch.discounts[batch.mask][steps]
        propensities = np.where(taken, 0.2, 0.05)
        inverse = inverse_chances(propensities, 10.0)
        shown = Impressions(
            places=places,
            following=places + 1,
            actions=np.where(taken, own, (own + 1) % len(self.state.space.catalogue)).astype(np.int32),
            rewards=rewards,
            discounts=discounts,
            step_discounts=discounts,
            next_actions=np.full(len(steps), -1, np.int32),
            returns=rewards,
            propensities=propensities,
            inverse=inverse,
            weights=imitated(inverse, rewards.astype(np.float64)),
        )
        return replace(batch, impressions=shown)

    def context(self, batch: Batch, step: int = 0) -> LossContext[Any]:
        """The input of the losses of a batch; its random numbers are the same at every call."""
        agent = self.agent
        return agent.learner.context(agent.nets, agent.targets, batch, step, np.random.default_rng(0))

    def losses(self, batch: Batch, step: int = 0) -> dict[str, Tensor]:
        """The losses of a batch."""
        return self.algorithm.losses(self.context(batch, step))

    def weights(self, *, targets: bool = False) -> Weights:
        """Copies of all weights, by network."""
        nets = self.agent.targets if targets else self.agent.nets
        return {name: {key: value.clone() for key, value in net.state_dict().items()} for name, net in nets.items()}


def came_next(history: History) -> Product:
    """The next item after each event, as if it had been selected."""
    items = np.full((*history.items.shape, 1), -1, np.int32)
    items[:, :-1, 0] = history.items[:, 1:]
    known = items >= 0
    return Product(items=items, matches=known.astype(np.int64), fallback=np.zeros_like(known))


def padded(history: History, width: int) -> History:
    """The same history with more padding at the end, which holds numbers other than 0."""

    def wider(values: np.ndarray, fill: int) -> np.ndarray:
        shape = (values.shape[0], width, *values.shape[2:])
        return np.concatenate([values, np.full(shape, fill, values.dtype)], 1)

    return replace(
        history,
        items=wider(history.items, -1),
        rewards=wider(history.rewards, 7),
        context=wider(history.context, 7),
        times=None if history.times is None else wider(history.times, 0),
    )


def other_events(history: History, since: int, items: int) -> History:
    """The same history up to a column; from there on, other items and numbers."""
    changed, context, rewards = history.items.copy(), history.context.copy(), history.rewards.copy()
    changed[:, since:] = np.where(changed[:, since:] < 0, -1, (changed[:, since:] + 1) % items)
    context[:, since:] += 3
    rewards[:, since:] += 3
    return replace(history, items=changed, context=context, rewards=rewards)


def reaches(loss: Tensor, ends: list[Tensor]) -> bool:
    """Whether a loss has a nonzero gradient for any of the tensors."""
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
