"""What proposes slates: a point with what is likely about it, and how a chosen item moves the point."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

DEVIATION = 0.3
"""Of a drawn point's entries at the start, where scores have a spread of about 1."""
HELD_BACK = -2.0
"""Logarithm of the weight of likeness at the start."""


class Proposer(nn.Module):
    """The mean and the standard deviation of a normal distribution over points, and what clicks are found to do.

    Its last layer starts near 0: at first all items are nearly alike, and the draws decide. With `traits`, a point has
    as many columns more for what items do to a user, which start a slate at 0, and a last one: the weight with which an
    item that was chosen keeps like ones away.

    Attributes:
        width: columns of the items' vectors; `traits`: numbers that are seen of a user, of which clicks change some.
        effects: what a click on an item adds to each of those numbers, by the item's vector.
        fades: what happens to the numbers without a click.
    """

    def __init__(self, dim: int, width: int, traits: int, hidden: int = 64) -> None:
        super().__init__()
        self.width, self.traits = width, traits
        self.mean = nn.Linear(dim, width + (traits > 0))
        self.log_deviation = nn.Parameter(torch.full((width + (traits > 0),), DEVIATION).log())
        with torch.no_grad():
            self.mean.weight.mul_(0.01)
            self.mean.bias.zero_()
            self.mean.bias[width:] = HELD_BACK
        if traits:
            layers = nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, traits)
            self.effects = nn.Sequential(*layers)
            self.fades = nn.Linear(traits, traits)

    def forward(self, states: Float[Tensor, "*grid dim"]) -> Float[Tensor, "*grid drawn"]:
        """The mean of what is drawn: a point, and the logarithm of the weight of likeness."""
        found: Tensor = self.mean(states)
        return found

    def draw(self, mean: Float[Tensor, "*grid drawn"], noise: Float[Tensor, "*grid drawn"]) -> Float[Tensor, "..."]:
        """A draw, by standard normal noise."""
        return mean + self.log_deviation.exp() * noise

    def log_density(
        self, states: Float[Tensor, "steps dim"], points: Float[Tensor, "steps columns"]
    ) -> Float[Tensor, "steps"]:
        """The logarithm of the density with which points were drawn."""
        normal = torch.distributions.Normal(self(states), self.log_deviation.exp(), validate_args=False)
        found: Tensor = normal.log_prob(self.drawn(points)).sum(-1)
        return found

    def points(self, drawn: Float[Tensor, "*grid drawn"]) -> Float[Tensor, "*grid columns"]:
        """Points from which the first slot is chosen."""
        if not self.traits:
            return drawn
        none = drawn.new_zeros(*drawn.shape[:-1], self.traits)
        return torch.cat([drawn[..., : self.width], none, drawn[..., self.width :].exp()], -1)

    def drawn(self, points: Float[Tensor, "*grid columns"]) -> Float[Tensor, "*grid drawn"]:
        """What such points were made of."""
        if not self.traits:
            return points
        return torch.cat([points[..., : self.width], points[..., -1:].log()], -1)

    def columns(self, vectors: Float[Tensor, "items width"]) -> Float[Tensor, "items columns"]:
        """What points are multiplied with: an item's vector, and its effects, whose mean square length is 1."""
        if not self.traits:
            return vectors
        effects = self.effects(vectors.detach()).detach()
        size = effects.square().sum(-1).mean().sqrt().clamp(min=1e-6)
        return torch.cat([vectors, effects / size, vectors.new_zeros(len(vectors), 1)], -1)


def held_back(
    points: Float[Tensor, "batch columns"], chosen: Float[Tensor, "batch columns"], width: int
) -> Float[Tensor, "batch columns"]:
    """The points of the next slot, away from what the chosen items do to a user, by the weight in the last column.

    It is the greedy rule of maximal marginal relevance (Carbonell and Goldstein 1998), with a sum for their maximum: the
    score of an item falls by the weight times the sum of `<its effects, effects of those in the slate>`.
    """
    effects = torch.cat([torch.zeros_like(chosen[..., :width]), chosen[..., width:]], -1)
    return points - points[..., -1:] * effects
