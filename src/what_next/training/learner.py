"""Learner: builds an algorithm's networks, their inputs, and the context of its losses."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from what_next.algorithms.base import LossContext, Networks, Part
from what_next.data.space import Space
from what_next.errors import SetupError
from what_next.models.shards import Exchange
from what_next.settings import Setup
from what_next.training.step import Step
from what_next.types import Batch, Factors, History, Proposal

MEASURED = ("ndcg@10", "hr@10", "dcg@10", "spread")
"""Measures that `training.validation` computes."""


class Learner(ABC):
    """How an algorithm's networks are built, read histories, and learn from batches. It keeps no state of a step.

    Attributes:
        setup, space: the agent's; `device`: the device of its tensors.
        shards: the processes that share its item vectors; None if it holds all of them.
        kept: a cache of what was last computed from the networks' weights.
    """

    shards: Exchange | None = None
    kept: Any = None

    def __init__(self, setup: Setup, space: Space, device: torch.device) -> None:
        self.setup, self.space, self.device = setup, space, device
        self.algorithm = setup.algorithm

    def shard(self, ranks: Exchange) -> None:
        """Share the item vectors out among processes, in networks that are built from now on.

        Raises:
            SetupError: they cannot be shared out.
        """
        raise SetupError(
            f"cluster.items is sharded, and the algorithm {self.algorithm.name} learns no vectors of items here; set "
            "cluster.items=whole"
        )

    @property
    def targets(self) -> tuple[str, ...]:
        """The networks that have a target network."""
        return self.algorithm.targets

    @abstractmethod
    def networks(self, rng: np.random.Generator) -> dict[str, nn.Module]:
        """New networks of the algorithm."""

    def check(self, nets: Networks) -> None:
        """Raise a `SetupError` if the algorithm names missing networks or an unknown measure, or if a network has no
        file to be saved in (even one that no loss updates)."""
        algorithm = self.algorithm
        if missing := set(self.targets) - nets.keys():
            raise SetupError(
                f"the algorithm {algorithm.name}: targets has {', '.join(sorted(missing))}; its networks are "
                f"{', '.join(nets)}"
            )
        if self.setup.model_critic_path is None and (others := sorted(nets.keys() - {"encoder", "actor"})):
            raise SetupError(
                f"the setting 'model_critic_path' is missing, and the algorithm {algorithm.name} has networks that are "
                f"saved there ({', '.join(others)}); allowed: a path"
            )
        if unknown := [one for one in algorithm.monitors if one not in MEASURED]:
            raise SetupError(
                f"the algorithm {algorithm.name}: monitors has {unknown[0]!r}, which nothing measures; there are "
                f"{', '.join(MEASURED)}"
            )

    def window(self, history: History) -> History:
        """The part of a history that is read."""
        return history

    @abstractmethod
    def factorize(self, nets: Networks, history: History) -> Factors:
        """The input of each event, as arrays."""

    def standardised(self, history: History) -> Float32[np.ndarray, "batch time numbers"]:
        """All numbers of each event, standardised."""
        numbers = history.context
        if "reward" in self.space.event_names:
            numbers = np.concatenate([history.rewards[..., None], numbers], -1)
        return self.space.standardised(numbers)

    @abstractmethod
    def predict(
        self, nets: Networks, history: History, factors: Factors, rng: np.random.Generator | None, grid: bool
    ) -> Proposal:
        """The proposal after the last event of each history; on a `grid`, after every event."""

    @abstractmethod
    def context(
        self,
        nets: Networks,
        targets: Networks,
        batch: Batch,
        step: int,
        rng: np.random.Generator,
        part: Part | None = None,
    ) -> LossContext[Any]:
        """The context of the algorithm's losses, for a batch or a part of it."""

    def rows_of_steps(self, batch: Batch) -> Int64[np.ndarray, "steps"]:
        """For each step that the losses are means over, its row of the batch; in the order of `context`."""
        return np.nonzero(batch.mask)[0]

    @abstractmethod
    def metrics(self, context: LossContext[Any], batch: Batch) -> float:
        """The critic's mean estimate for the steps; further metrics go into `context.metrics`."""

    def shown(self, context: LossContext[Any], batch: Batch, losses: Mapping[str, Tensor]) -> Step:
        """The result of a step: means over the steps of the batch that count."""
        value, slates = self.metrics(context, batch), batch.impressions
        rewards = batch.rewards[batch.mask]
        items = len(rewards) if slates is None else len(slates.places)  # the grid's rewards are sums over slates
        return Step(
            losses={name: loss.item() for name, loss in losses.items()},
            reward=float(rewards.sum() / max(1, items)),
            value=value,
            fallback=0.0 if batch.fallback is None else mean(batch.fallback[batch.mask]),
            matches=1.0 if batch.matches is None else mean(batch.matches[batch.mask]),
            masked=1 - float(batch.mask.mean()),
            targets=int(batch.mask.sum()),
            metrics=context.metrics,
        )

    def tensor(self, values: np.ndarray) -> Tensor:
        """The array as a tensor on the agent's device; on the CPU they share memory."""
        return torch.from_numpy(values).to(self.device)


def mean(values: np.ndarray) -> float:
    """The mean; 0 of no values."""
    return float(values.mean()) if values.size else 0.0
