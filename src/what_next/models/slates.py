"""What proposes slates: a point with what is likely about it, and how a chosen item moves the point."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from what_next.models.belief import Belief
from what_next.models.heads import mlp

DEVIATION = 0.3
"""Of a drawn point's entries at the start, where scores have a spread of about 1."""
SHARE = 0.3
"""Of the logits of clicks in the mean of a drawn point, at the start."""
HELD_BACK = -2.0
"""Logarithm of the weight of likeness at the start."""
SQUARES = (-0.5, -0.5)
"""Logarithms of what the square of the numbers costs at the start: as they are, and by what a slate adds. Of five
values of the first, the best in `boredom` with slates (352); with single items 55, where -1.5 gives 57."""


class Proposer(nn.Module):
    """The mean and the standard deviation of a normal distribution over points, and what clicks are found to do.

    Its last layer starts near 0: at first all items are nearly alike, and the draws decide. With `traits`, a point has
    one entry more, the weight with which an item that was chosen keeps those away that would do the same to the user:
    maximal marginal relevance (Carbonell and Goldstein 1998), with a sum in place of their maximum.

    Attributes:
        width: columns of the items' vectors; `traits`: numbers that are seen of a user, of which clicks change some.
        by_vectors: like items are those of like vectors, and no effects are learned; `weighs`: a point has that entry.
        effects: what a click on an item adds to each of those numbers, by the item's vector.
        fades: what happens to the numbers without a click.
        liking: with `clicks`, the point of what a user would click, the level of its logits, and what a slot further
            down adds to them. `share`: how much of that point is in the mean of what is drawn.
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
        """The mean of what is drawn: a point, and the logarithm of the weight of likeness."""
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
        """Of the chance that each item of some slates is clicked."""
        assert self.liking is not None
        liked = self.liking(states)
        shown = torch.nn.functional.embedding(slates.clamp(min=0), vectors)
        level, further = liked[:, self.width :].unsqueeze(-1).unbind(1)
        slots = torch.arange(slates.shape[1], device=slates.device)
        logits: Tensor = (shown @ liked[:, : self.width, None]).squeeze(-1) + level + further * slots
        return logits

    def draw(self, mean: Float[Tensor, "*grid drawn"], noise: Float[Tensor, "*grid drawn"]) -> Float[Tensor, "..."]:
        """A draw, by standard normal noise."""
        return mean + self.log_deviation.exp() * noise

    def log_density(
        self, states: Float[Tensor, "steps dim"], points: Float[Tensor, "steps columns"]
    ) -> Float[Tensor, "steps"]:
        """The logarithm of the density with which points were drawn."""
        off = (self.drawn(points) - self(states)) / self.log_deviation.exp()
        found: Tensor = off.square() / 2 + self.log_deviation + math.log(2 * math.pi) / 2
        return -found.sum(-1)

    def points(self, drawn: Float[Tensor, "*grid drawn"]) -> Float[Tensor, "*grid drawn"]:
        """Points of what is drawn: the last entry is the weight of likeness, where there is one."""
        if not self.weighs:
            return drawn
        return torch.cat([drawn[..., :-1], drawn[..., -1:].exp()], -1)

    def drawn(self, points: Float[Tensor, "*grid drawn"]) -> Float[Tensor, "*grid drawn"]:
        """What such points were made of."""
        if not self.weighs:
            return points
        return torch.cat([points[..., :-1], points[..., -1:].log()], -1)

    def columns(self, vectors: Float[Tensor, "items width"]) -> Float[Tensor, "items drawn"]:
        """What points are multiplied with: an item's vector, and nothing for the weight of likeness."""
        return torch.nn.functional.pad(vectors, (0, 1)) if self.weighs else vectors

    def alike(self, vectors: Float[Tensor, "items width"]) -> Float[Tensor, "items traits"] | None:
        """Effects of the items, of a mean square length of 1: like items do the same to a user. Or their vectors."""
        if not self.weighs:
            return None
        effects = vectors if self.by_vectors else self.of_clicks(vectors)
        return effects / effects.square().sum(-1).mean().sqrt().clamp(min=1e-6)

    def of_clicks(self, vectors: Float[Tensor, "items width"]) -> Float[Tensor, "items traits"]:
        """What a click on each item adds to the numbers."""
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
        """Mean square of what clicks do not explain of the numbers' changes, in units of their variance."""
        effects, changes = self.of_clicks(vectors), following - numbers
        done = nn.functional.embedding_bag(slates.clamp(min=0), effects, mode="sum", per_sample_weights=clicks)
        left: Tensor = (changes - done - self.fades(numbers)) / (changes.std(0, correction=0) + 1e-2)
        return left.square().mean(-1)


class Pricer(Proposer):
    """The mean and the standard deviation of a normal distribution over prices: what the effects of a click cost.

    Drawn is a price for a unit of each number that clicks change, and the logarithms of what their square costs: of the
    numbers as they are, which fade, and of what a slate adds. The chance of a click comes from the network, or from a
    belief (`models.belief`), whose point takes the place of this one's. What is drawn is little, whatever the items'
    vectors are (`retrieval.slots.Priced`).

    Attributes:
        belief: what a user is believed to click, where the network does not tell it. Then each item also has effects of
            its own: of several that are as likely to be clicked, those of the least effects are taken, and what their
            vectors do not tell would be mistaken for little.
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
        """The mean of what is drawn."""
        found: Tensor = self.mean(states)
        return found

    def of_clicks(self, vectors: Float[Tensor, "items width"]) -> Float[Tensor, "items traits"]:
        """See `Proposer.of_clicks`."""
        effects = super().of_clicks(vectors)
        return effects if self.own is None else effects + self.own

    def odds(self, states: Float[Tensor, "*grid dim"]) -> Float[Tensor, "*grid width_plus_1"]:
        """The point of the log odds of clicks; 0 with a belief."""
        if self.liking is None:
            return states.new_zeros(*states.shape[:-1], self.width + 1)
        found: Tensor = self.liking(states)[..., :-1]
        return found

    def points(self, drawn: Float[Tensor, "*grid drawn"]) -> Float[Tensor, "*grid drawn"]:
        """See `Proposer.points`: the end of a point, after the odds and the numbers that are seen."""
        return torch.cat([drawn[..., :-2], drawn[..., -2:].exp()], -1)

    def drawn(self, points: Float[Tensor, "*grid columns"]) -> Float[Tensor, "*grid drawn"]:
        """See `Proposer.drawn`."""
        return torch.cat([points[..., -self.traits - 2 : -2], points[..., -2:].log()], -1)

    def columns(self, vectors: Float[Tensor, "items width"]) -> Float[Tensor, "items width_plus_1"]:
        """See `Proposer.columns`: an item's vector, and 1 for the level."""
        return nn.functional.pad(vectors, (0, 1), value=1.0)
