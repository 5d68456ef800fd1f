"""The actor and the critic of the founding algorithm: each an LSTM over a history, with a head that values points."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn


@dataclass(frozen=True)
class Sizes:
    """Widths of a network.

    Attributes:
        factors: numbers per event; `points`: dimensions of the attribute space; `prospects`: numbers on how a point
            would change the sample.
        dim: width of the LSTM's state; `layers`: number of layers; `dropout`: share dropped between and after them.
        acts: whether the network learns by acting in a world.
        prior: initial value of a point per unit by which it brings the sample nearer to the typical spread.
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
    """An LSTM: one pass over a history gives the state after every event, which depends on no later event."""

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

    The learned number is added to `Sizes.prior` times a difference of two prospects (`rewards.spread.prospects`).
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
        """The number of several points for each state; points shared by all states need not be repeated."""
        points = points.expand(*prospects.shape[:-1], -1)
        joined = self.state(state).unsqueeze(-2) + self.point(torch.cat([points, prospects], -1))
        nearer = prospects[..., -1].abs() - prospects[..., -2].abs()
        values: Tensor = self.value(joined).squeeze(-1) + self.prior * nearer
        return values


class AgentModel(nn.Module):
    """The actor: after each event, the logits of proposing each of its prototypes.

    The prototypes are points of the catalogue, spread over it, so that a proposal never leaves the region of the items,
    and the critic is never asked about a region without training data.
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
    Vassilvitskii 2007, section 2.2). Fewer if the catalogue has fewer distinct vectors.
    """
    chosen = [int(rng.integers(len(vectors)))]
    distance = np.full(len(vectors), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, np.square(vectors - vectors[chosen[-1]]).sum(1, dtype=np.float64))
        if not distance.any():
            break
        chosen.append(int(rng.choice(len(vectors), p=distance / distance.sum())))
    return np.array(chosen)
