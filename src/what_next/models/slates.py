"""Networks that propose slates: a distribution over points, click probabilities, and the effects of clicks."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from what_next.models.belief import Belief
from what_next.models.heads import mlp

DEVIATION = 0.3
"""Initial standard deviation of a drawn point's entries; scores then have a standard deviation of about 1."""
SHARE = 0.3
"""Initial share of the click point in the mean of a drawn point."""
HELD_BACK = -2.0
"""Initial logarithm of the weight of similarity."""
SQUARES = (-0.5, -0.5)
"""Initial logarithms of the costs of squared numbers: of the numbers as they are, and of a slate's effect on them. The
first is the best of five values in `boredom` with slates (352); with single items it gives 55, and -1.5 gives 57."""


class Proposer(nn.Module):
    """The mean and the standard deviation of a normal distribution over points, and the learned effects of clicks.

    Its last layer starts near 0: at first all items score nearly alike, and the draws decide. With `traits`, a point
    has one more entry, the weight of similarity: a chosen item lowers the scores of items with similar effects on the
    user by this weight. This is maximal marginal relevance (Carbonell and Goldstein 1998), with a sum in place of the
    maximum.

    Attributes:
        width: columns of the item vectors; `traits`: observed numbers of a user, some of which clicks change.
        by_vectors: similarity is that of the vectors, and no effects are learned; `weighs`: points have a weight of
            similarity.
        effects: the change of each number by a click on an item, from the item's vector.
        fades: the change of the numbers without a click.
        liking: with `clicks`, the point of the click logits, their level, and their change per slot further down.
            `share`: share of that point in the mean of the drawn point.
    """

    def __init__(
        self, dim: int, width: int, traits: int, clicks: bool = False, by_vectors: bool = False, hidden: int = 64
    ) -> None:
        super().__init__()
        self.width, self.traits = width, 0 if by_vectors else traits
        self.by_vectors, self.weighs = by_vectors, by_vectors or traits > 0
        self.liking = nn.Linear(dim, width + 2) if clicks else None
        self.share = nn.Parameter(torch.tensor(SHARE)) if clicks else None
        self.mean = nn.Linear(dim, width + self.weighs)
        self.log_deviation = nn.Parameter(torch.full((width + self.weighs,), DEVIATION).log())
        with torch.no_grad():
            self.mean.weight.mul_(0.01)
            self.mean.bias.zero_()
            self.mean.bias[width:] = HELD_BACK
        if self.traits:
            self.effects = mlp(width, hidden, traits)
            self.fades = nn.Linear(traits, traits)

    def forward(self, states: Float[Tensor, "*grid dim"]) -> Float[Tensor, "*grid drawn"]:
        """The mean of the distribution: a point, and the logarithm of the weight of similarity."""
        found: Tensor = self.mean(states)
        if self.liking is None or self.share is None:
            return found
        liked = self.share * self.liking(states)[..., : self.width].detach()
        return found + torch.nn.functional.pad(liked, (0, found.shape[-1] - self.width))

    def click_logits(
        self,
        states: Float[Tensor, "steps dim"],
        vectors: Float[Tensor, "items width"],
        slates: Int64[Tensor, "steps slots"],
    ) -> Float[Tensor, "steps slots"]:
        """Logits of the click probability of each item of some slates."""
        assert self.liking is not None
        liked = self.liking(states)
        shown = torch.nn.functional.embedding(slates.clamp(min=0), vectors)
        level, further = liked[:, self.width :].unsqueeze(-1).unbind(1)
        slots = torch.arange(slates.shape[1], device=slates.device)
        logits: Tensor = (shown @ liked[:, : self.width, None]).squeeze(-1) + level + further * slots
        return logits

    def draw(self, mean: Float[Tensor, "*grid drawn"], noise: Float[Tensor, "*grid drawn"]) -> Float[Tensor, "..."]:
        """A draw from the distribution, from standard normal noise."""
        return mean + self.log_deviation.exp() * noise

    def log_density(
        self, states: Float[Tensor, "steps dim"], points: Float[Tensor, "steps columns"]
    ) -> Float[Tensor, "steps"]:
        """The log density of drawn points."""
        off = (self.drawn(points) - self(states)) / self.log_deviation.exp()
        found: Tensor = off.square() / 2 + self.log_deviation + math.log(2 * math.pi) / 2
        return -found.sum(-1)

    def points(self, drawn: Float[Tensor, "*grid drawn"]) -> Float[Tensor, "*grid drawn"]:
        """Points from draws: the last entry becomes the weight of similarity, if there is one."""
        if not self.weighs:
            return drawn
        return torch.cat([drawn[..., :-1], drawn[..., -1:].exp()], -1)

    def drawn(self, points: Float[Tensor, "*grid drawn"]) -> Float[Tensor, "*grid drawn"]:
        """The draws that gave these points; inverse of `points`."""
        if not self.weighs:
            return points
        return torch.cat([points[..., :-1], points[..., -1:].log()], -1)

    def columns(self, vectors: Float[Tensor, "items width"]) -> Float[Tensor, "items drawn"]:
        """The columns that points are multiplied with: an item's vector, and 0 for the weight of similarity."""
        return torch.nn.functional.pad(vectors, (0, 1)) if self.weighs else vectors

    def alike(self, vectors: Float[Tensor, "items width"]) -> Float[Tensor, "items traits"] | None:
        """Traits for similarity: the items' effects, or their vectors, scaled to a mean square length of 1."""
        if not self.weighs:
            return None
        effects = vectors if self.by_vectors else self.of_clicks(vectors)
        return effects / effects.square().sum(-1).mean().sqrt().clamp(min=1e-6)

    def of_clicks(self, vectors: Float[Tensor, "items width"]) -> Float[Tensor, "items traits"]:
        """The change of the numbers by a click on each item."""
        effects: Tensor = self.effects(vectors)
        return effects

    def unexplained(
        self,
        vectors: Float[Tensor, "items width"],
        slates: Int64[Tensor, "steps slots"],
        clicks: Float[Tensor, "steps slots"],
        numbers: Float[Tensor, "steps traits"],
        following: Float[Tensor, "steps traits"],
    ) -> Float[Tensor, "steps"]:
        """Mean square of the numbers' changes that clicks and fading do not explain, in units of their variance."""
        effects, changes = self.of_clicks(vectors), following - numbers
        done = nn.functional.embedding_bag(slates.clamp(min=0), effects, mode="sum", per_sample_weights=clicks)
        left: Tensor = (changes - done - self.fades(numbers)) / (changes.std(0, correction=0) + 1e-2)
        return left.square().mean(-1)


class Pricer(Proposer):
    """The mean and the standard deviation of a normal distribution over prices of the effects of clicks.

    Drawn are a price per unit of each number that clicks change, and the logarithms of the costs of squared numbers: of
    the numbers as they are, which fade, and of a slate's effect on them. The click probability comes from the network,
    or from a belief (`models.belief`), whose point then replaces the network's. Few numbers are drawn, however wide the
    item vectors are (`retrieval.slots.Priced`).

    Attributes:
        belief: the belief about what a user clicks, if the network does not predict it. Then each item also has learned
            effects of its own: among items that are equally likely to be clicked, those with the smallest effects are
            taken, and an effect that the vectors do not explain would look small.
    """

    def __init__(self, dim: int, width: int, traits: int, belief: Belief | None) -> None:
        super().__init__(dim, width, traits, belief is None)
        self.belief = belief
        self.own = nn.Parameter(torch.zeros(len(belief.items), traits)) if belief is not None and traits else None
        self.mean = nn.Linear(dim, traits + 2)
        self.log_deviation = nn.Parameter(torch.full((traits + 2,), DEVIATION).log())
        with torch.no_grad():
            self.mean.weight.mul_(0.01)
            self.mean.bias.zero_()
            self.mean.bias[-2:] = torch.tensor(SQUARES)

    def forward(self, states: Float[Tensor, "*grid dim"]) -> Float[Tensor, "*grid drawn"]:
        """The mean of the distribution."""
        found: Tensor = self.mean(states)
        return found

    def of_clicks(self, vectors: Float[Tensor, "items width"]) -> Float[Tensor, "items traits"]:
        """See `Proposer.of_clicks`."""
        effects = super().of_clicks(vectors)
        return effects if self.own is None else effects + self.own

    def odds(self, states: Float[Tensor, "*grid dim"]) -> Float[Tensor, "*grid width_plus_1"]:
        """The point of the click log odds; 0 with a belief."""
        if self.liking is None:
            return states.new_zeros(*states.shape[:-1], self.width + 1)
        found: Tensor = self.liking(states)[..., :-1]
        return found

    def points(self, drawn: Float[Tensor, "*grid drawn"]) -> Float[Tensor, "*grid drawn"]:
        """See `Proposer.points`: the last part of a point, after the log odds and the observed numbers."""
        return torch.cat([drawn[..., :-2], drawn[..., -2:].exp()], -1)

    def drawn(self, points: Float[Tensor, "*grid columns"]) -> Float[Tensor, "*grid drawn"]:
        """See `Proposer.drawn`."""
        return torch.cat([points[..., -self.traits - 2 : -2], points[..., -2:].log()], -1)

    def columns(self, vectors: Float[Tensor, "items width"]) -> Float[Tensor, "items width_plus_1"]:
        """See `Proposer.columns`: an item's vector, and 1 for the level of the log odds."""
        return nn.functional.pad(vectors, (0, 1), value=1.0)
