"""Soft actor-critic over points in item space."""

import math
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import softplus

from what_next.algorithms.base import REWARDED, Algorithm, LossContext, Networks, Points, Rng, Search, States, Updates
from what_next.algorithms.on_policy import vectors_of
from what_next.losses.rl import td_loss, td_target
from what_next.models.actor_critic import Sizes
from what_next.models.heads import mlp
from what_next.types import Choices

LEAST, MOST = -5.0, 1.0
"""Bounds of the logarithm of a standard deviation, before the hyperbolic tangent."""


class Sac(Algorithm):
    """SAC (Haarnoja et al. 2018, arXiv 1812.05905) over points, for each of which the best items are taken.

    A hyperbolic tangent keeps a point's entries between -1 and 1. Two critics value the point, not the slate taken for
    it (as SAC with a top-k ranker in Deffayet et al. 2023). The weight of the policy's entropy is learned so that the
    entropy comes to `entropy` times the point's width (section 5); it counts in standard deviations of the rewards.
    Points lie among the items' attributes if the encoder reads those, otherwise among their learned vectors.
    """

    name: Literal["sac"] = "sac"
    monitors: ClassVar[tuple[str, ...]] = REWARDED
    search: ClassVar[Search] = {
        "tau": (0.002, 0.05), "temperature": (0.02, 0.5), "entropy": (-2.0, -0.5), "discount": (0.5, 0.99),
    }  # fmt: skip
    tau: float = Field(default=0.005, gt=0, le=1, description="how far the target networks follow after a step")
    entropy: float = Field(default=-1.0, description="target of the policy's entropy, in nats per entry of a point")
    temperature: float = Field(
        default=0.1, gt=0, description="initial weight of the policy's entropy, in standard deviations of rewards"
    )
    hidden: int = Field(default=128, gt=0, description="width of the critics' layers")
    source: ClassVar[str] = "world"
    replays: ClassVar[bool] = True
    slates: ClassVar[bool] = True
    updates: ClassVar[Updates] = {"critic": ("encoder", "critic"), "actor": ("actor",), "temperature": ("temperature",)}
    targets: ClassVar[tuple[str, ...]] = ("encoder", "critic")

    @property
    def draws_points(self) -> bool:
        """See `Algorithm.draws_points`."""
        return True

    def networks(self, sizes: Sizes, vectors: Float32[np.ndarray, "items dim"], rng: np.random.Generator) -> Networks:
        """A normal distribution over points, twin critics, and the logarithm of the entropy's weight."""
        width = vectors.shape[1] or sizes.dim
        return {
            "actor": Normal(sizes.dim, width),
            "critic": Twins(sizes.dim + width, self.hidden),
            "temperature": Temperature(math.log(self.temperature)),
        }

    def losses(self, context: LossContext[Choices]) -> dict[str, Tensor]:  # type: ignore[override]
        """The losses of the critics (equation 5), the actor (equation 7) and the entropy's weight (equation 17)."""
        batch, nets, targets = context.batch, context.nets, context.targets
        actor, temperature = nets["actor"], nets["temperature"]
        assert isinstance(actor, Normal)
        assert isinstance(temperature, Temperature)
        share = temperature.log_weight.exp()
        # A fixed scale would let the entropy drown small rewards, or large rewards drown it.
        weight = share * batch.rewards.std(correction=0)
        with torch.no_grad():
            points, logs = actor.draw(batch.next_states, context.rng)
            following = targets["critic"](batch.next_states, points).amin(0) - weight * logs
            target = td_target(batch.rewards, batch.discounts, following)
        first, second = nets["critic"](batch.states, batch.points)
        points, logs = actor.draw(batch.states.detach(), context.rng)
        values = nets["critic"](batch.states.detach(), points).amin(0)
        excess = (logs + self.entropy * points.shape[1]).detach()
        context.metrics["entropy"] = -float(logs.detach().mean())
        return {
            "critic": td_loss(first, target) + td_loss(second, target),
            "actor": (weight.detach() * logs - values).mean(),
            "temperature": -(share * excess).mean(),
        }

    def estimates(self, nets: Networks, batch: Any, items: object) -> Float[Tensor, "steps"] | None:
        """The smaller critic's value of the points that were drawn; None if no points were."""
        if not isinstance(batch, Choices) or batch.points.shape[1] != nets["actor"].width:
            return None
        found: Tensor = nets["critic"](batch.states, batch.points).amin(0)
        return found

    def propose(self, nets: Networks, states: States, rng: Rng = None) -> Points:
        """The mean point; with `rng`, a draw."""
        actor = nets["actor"]
        assert isinstance(actor, Normal)
        return actor.draw(states, rng)[0]

    def columns(self, nets: Networks, vectors: Float[Tensor, "items dim"]) -> Float[Tensor, "items width"]:
        """See `Algorithm.columns`."""
        return vectors_of(nets, vectors)


class Normal(nn.Module):
    """A normal distribution for each state, whose draws a hyperbolic tangent maps to between -1 and 1."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.both = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 2 * width))

    def draw(
        self, states: Float[Tensor, "*grid dim"], rng: np.random.Generator | None
    ) -> tuple[Float[Tensor, "*grid width"], Float[Tensor, "*grid"]]:
        """Draws, with gradient, and their log densities (appendix C); without `rng`, the means."""
        mean, spread = self.both(states).chunk(2, -1)
        log_deviation = LEAST + (MOST - LEAST) * torch.sigmoid(spread)
        noise = torch.zeros_like(mean)
        if rng is not None:
            noise = torch.from_numpy(rng.standard_normal(tuple(mean.shape), np.float32)).to(mean)
        raw = mean + log_deviation.exp() * noise
        # log(1 - tanh(x)²) = 2 (log 2 - x - softplus(-2 x)), which is exact near 1
        squashed = 2 * (math.log(2) - raw - softplus(-2 * raw))
        logs = -noise.square() / 2 - log_deviation - math.log(2 * math.pi) / 2 - squashed
        return raw.tanh(), logs.sum(-1)


class Twins(nn.Module):
    """Two critics of a state and a point."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.judges = nn.ModuleList(mlp(width, hidden, 1) for _ in range(2))

    def forward(self, states: Float[Tensor, "*grid dim"], points: Float[Tensor, "*grid width"]) -> Tensor:
        """Their values: [2 *grid]."""
        both = torch.cat([states, points], -1)
        return torch.stack([judge(both).squeeze(-1) for judge in self.judges])


class Temperature(nn.Module):
    """The logarithm of the entropy's weight."""

    def __init__(self, log_weight: float) -> None:
        super().__init__()
        self.log_weight = nn.Parameter(torch.tensor(log_weight))
