"""What an agent makes of histories: what its networks read, and what it learns of them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from what_next.algorithms.base import Networks
from what_next.data.space import Space
from what_next.settings import Setup
from what_next.training.step import Root
from what_next.types import Factors, History, Product, Proposal, Trajectories, Trials


@dataclass(frozen=True, eq=False)
class Told:
    """What one batch showed besides its losses: means over the steps that count.

    Attributes:
        mask: those steps.
        reward: of the selected items; `value`: what the critic expected of them.
        notes: diagnostics for the alarms, by name.
    """

    mask: Bool[np.ndarray, "batch time"]
    reward: float
    value: float
    notes: Mapping[str, float] = field(default_factory=dict)

    @property
    def masked(self) -> float:
        """The share of the steps that do not count."""
        return 1 - float(self.mask.mean())

    @property
    def targets(self) -> int:
        """How many steps count."""
        return int(self.mask.sum())

    def share(self, values: Bool[np.ndarray, "batch time slots"] | Int[np.ndarray, "batch time slots"]) -> float:
        """The mean of a product's values, first slot, over the steps that count."""
        return mean(values[..., 0][self.mask])


def mean(values: np.ndarray) -> float:
    """Their mean; 0 where there are none."""
    return float(values.mean()) if values.size else 0.0


class Experience(ABC):
    """Between histories and the losses of an algorithm. The calls of one cycle build on one another.

    Attributes:
        setup, space: what the agent was made for; `device`: where tensors go.
        frozen: the agent is in service: what is made of its weights alone is kept until they move.
    """

    frozen = False

    def __init__(self, setup: Setup, space: Space, device: torch.device) -> None:
        self.setup, self.space, self.device = setup, space, device
        self.algorithm = setup.algorithm

    @abstractmethod
    def networks(self, rng: np.random.Generator) -> dict[str, nn.Module]:
        """New networks of the algorithm."""

    @abstractmethod
    def window(self, history: History) -> History:
        """The part of a history that is read."""

    @abstractmethod
    def factorize(self, nets: Networks, history: History) -> Factors:
        """What is read of each event, as arrays."""

    @abstractmethod
    def predict(
        self, nets: Networks, history: History, factors: Factors, rng: np.random.Generator | None, grid: bool
    ) -> Proposal:
        """The proposal after the last event of each history; on a `grid`, after every event."""

    @abstractmethod
    def batch(
        self, nets: Networks, slow: Networks, history: History, product: Product, rng: np.random.Generator | None
    ) -> Trajectories | Trials:
        """What the losses read: the histories, and the items that were selected after each of their events."""

    @abstractmethod
    def losses(
        self, nets: Networks, slow: Networks, batch: Trajectories | Trials, step: int, rng: np.random.Generator | None
    ) -> dict[str, Tensor]:
        """The algorithm's losses that are due at a step."""

    @abstractmethod
    def told(self, nets: Networks, batch: Trajectories | Trials) -> Told:
        """What the batch showed."""

    def roots(self) -> Mapping[str, list[Root]]:
        """Where losses end and a network begins, by network: its one backward pass serves them all."""
        return {}

    def tensor(self, values: np.ndarray) -> Tensor:
        """The array as a tensor on the agent's device; on the CPU they share memory."""
        return torch.from_numpy(values).to(self.device)


def follow(nets: Networks, slow: Networks, moved: set[str], pace: float) -> None:
    """Every slow copy whose network moved goes a step of `pace` towards it."""
    with torch.no_grad():
        for name in moved & set(slow):
            for old, new in zip(slow[name].parameters(), nets[name].parameters(), strict=True):
                old.lerp_(new, pace)
