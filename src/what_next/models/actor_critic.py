"""The actor and the critic of the founding algorithm: each an LSTM over a history, and a head that judges points."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn


@dataclass(frozen=True)
class Sizes:
    """Widths of a network.

    Attributes:
        factors: of what is read of an event; `points`: of the attribute space; `prospects`: of what a point would do.
        dim: of the LSTM's state; `layers`: how many; `dropout`: share dropped between and after them.
        acts: the network learns by acting in a world.
        prior: what a point is worth at first, for each unit that it brings the sample nearer to the typical spread.
    """

    factors: int
    points: int
    prospects: int
    dim: int = 64
    layers: int = 1
    dropout: float = 0.0
    acts: bool = False
    prior: float = 0.0


class Encoder(nn.Module):
    """An LSTM: one pass over a history gives the state after every event, and none knows a later event."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        between = sizes.dropout if sizes.layers > 1 else 0.0
        self.lstm = nn.LSTM(sizes.factors, sizes.dim, sizes.layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, factors: Float[Tensor, "batch time factors"]) -> Float[Tensor, "batch time state"]:
        """The state after every event."""
        states, _ = self.lstm(factors)
        dropped: Tensor = self.dropout(states)
        return dropped


class PointHead(nn.Module):
    """One number for a point in attribute space, given the state of a history and the point's prospects in it.

    It begins as `Sizes.prior` says by the last two prospects (see `rewards.spread.prospects`); the rest is learned.
    """

    prior: Tensor

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.register_buffer("prior", torch.tensor(sizes.prior))
        self.state = nn.Linear(sizes.dim, sizes.dim)
        self.point = nn.Linear(sizes.points + sizes.prospects, sizes.dim, bias=False)
        self.value = nn.Sequential(nn.ReLU(), nn.Linear(sizes.dim, sizes.dim), nn.ReLU(), nn.Linear(sizes.dim, 1))

    def forward(
        self,
        state: Float[Tensor, "*grid state"],
        points: Float[Tensor, "*#gridchoices dim"],
        prospects: Float[Tensor, "*grid choices prospects"],
    ) -> Float[Tensor, "*grid choices"]:
        """The numbers of several points for each state; points that are the same everywhere need not be repeated."""
        points = points.expand(*prospects.shape[:-1], -1)
        joined = self.state(state).unsqueeze(-2) + self.point(torch.cat([points, prospects], -1))
        nearer = prospects[..., -1].abs() - prospects[..., -2].abs()
        values: Tensor = self.value(joined).squeeze(-1) + self.prior * nearer
        return values


class AgentModel(nn.Module):
    """The actor: after each event, how much it would like to propose each of its prototypes.

    The prototypes are points of the catalogue, spread over it, so that a proposal never leaves the region where items
    are and the critic is never asked about a place where nothing was learnt.
    """

    prototypes: Tensor

    def __init__(self, sizes: Sizes, prototypes: Float[Tensor, "prototypes dim"]) -> None:
        super().__init__()
        self.encoder = Encoder(sizes)
        self.head = PointHead(sizes)
        self.register_buffer("prototypes", prototypes)

    def forward(
        self, factors: Float[Tensor, "batch time factors"], prospects: Float[Tensor, "batch time prototypes prospects"]
    ) -> Float[Tensor, "batch time prototypes"]:
        """Log-probabilities, up to a constant, of proposing each prototype after each event."""
        logits: Tensor = self.head(self.encoder(factors), self.prototypes, prospects)
        return logits


class CriticModel(nn.Module):
    """The critic: the reward that an item would earn after each event."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.encoder = Encoder(sizes)
        self.head = PointHead(sizes)

    def forward(
        self,
        factors: Float[Tensor, "batch time factors"],
        points: Float[Tensor, "*#gridchoices dim"],
        prospects: Float[Tensor, "batch time choices prospects"],
    ) -> Float[Tensor, "batch time choices"]:
        """The estimates for several items after each event."""
        values: Tensor = self.head(self.encoder(factors), points, prospects)
        return values


def spread_out(
    vectors: Float32[np.ndarray, "items dim"], count: int, rng: np.random.Generator
) -> Int64[np.ndarray, "chosen"]:
    """Positions of up to `count` items spread over a catalogue: the seeding of k-means++.

    Each is drawn with probability proportional to the squared distance from those drawn before (Arthur and
    Vassilvitskii 2007, section 2.2). Fewer where the catalogue has fewer distinct vectors.
    """
    chosen = [int(rng.integers(len(vectors)))]
    distance = np.full(len(vectors), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, np.square(vectors - vectors[chosen[-1]]).sum(1, dtype=np.float64))
        if not distance.any():
            break
        chosen.append(int(rng.choice(len(vectors), p=distance / distance.sum())))
    return np.array(chosen)
