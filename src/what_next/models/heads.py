"""Heads on an encoder's states: a point in item space, a number, or a number for a pair of state and vector."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Point(nn.Module):
    """A state's point in item space; an item's score is its inner product with the point.

    A linear map that starts at the identity plus a little noise. At the identity the score is `<state, item>`, so that
    encoder and item vectors learn from the first step on (SASRec, Kang and McAuley 2018, equation 6, has no map at
    all). The noise makes twin networks differ.
    """

    def __init__(self, dim: int, offset: bool = False, noise: float = 0.1) -> None:
        """Points of `dim` columns.

        Args:
            dim: of state and point.
            offset: add a last column, a value that is added to every item's score; it starts at 0.
            noise: standard deviation of the initial noise, in units of `dim ** -0.5`.
        """
        super().__init__()
        self.linear = nn.Linear(dim, dim + offset)
        with torch.no_grad():
            self.linear.bias.zero_()
            self.linear.weight.zero_()
            self.linear.weight[:dim] = torch.eye(dim) + noise * dim**-0.5 * torch.randn(dim, dim)

    def forward(self, states: Float[Tensor, "*grid dim"]) -> Float[Tensor, "*grid columns"]:
        """The point of each state."""
        points: Tensor = self.linear(states)
        return points


class Value(nn.Module):
    """One number for each state, by two layers. It starts near 0, so a bootstrapped target starts as the reward."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(dim, dim), nn.ReLU())
        self.last = _near_zero(dim)

    def forward(self, states: Float[Tensor, "*grid dim"]) -> Float[Tensor, "*grid"]:
        """The number of each state."""
        values: Tensor = self.last(self.hidden(states))
        return values.squeeze(-1)


class PairValue(nn.Module):
    """One number for a state and a vector (an item's, or a proposed point), by three layers; it starts near 0.

    It can value any point, not only items, and need not be linear in it: an actor that proposes points ascends it.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.state = nn.Linear(dim, dim)
        # Vectors have a length of about 1, states have entries of about 1: the scale gives both the same influence.
        self.vector = nn.Linear(dim, dim, bias=False)
        self.scale = dim**0.5
        self.hidden = nn.Sequential(nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())
        self.last = _near_zero(dim)

    def forward(
        self, states: Float[Tensor, "*#grid dim"], vectors: Float[Tensor, "*#grid dim"]
    ) -> Float[Tensor, "..."]:
        """The number of each pair. Pass `states.unsqueeze(-2)` for several vectors per state: mapped only once."""
        values: Tensor = self.last(self.hidden(self.state(states) + self.vector(vectors * self.scale)))
        return values.squeeze(-1)


def mlp(width: int, hidden: int, columns: int) -> nn.Sequential:
    """Three linear layers with ReLUs between them, from `width` over `hidden` to `columns` entries."""
    return nn.Sequential(
        nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, columns)
    )


def _near_zero(dim: int) -> nn.Linear:
    """A last layer whose outputs start near 0, but not equal."""
    layer = nn.Linear(dim, 1)
    with torch.no_grad():
        layer.weight.mul_(0.1)
        layer.bias.zero_()
    return layer
