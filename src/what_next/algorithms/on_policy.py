"""Base of algorithms that learn from their own choices in a world."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from what_next.algorithms.base import REWARDED, Algorithm, LossContext, Networks, Points, Rng, States, Updates
from what_next.errors import SetupError
from what_next.losses.rl import mean, plackett_luce, td_loss
from what_next.models.actor_critic import Sizes
from what_next.models.belief import Belief
from what_next.models.encoders import Encoder
from what_next.models.heads import Value
from what_next.models.slates import Pricer, Proposer
from what_next.types import Choices


class OnPolicy(Algorithm):
    """A policy over slates, and a value of the state; the base of `a2c`, `ppo` and, in a world, `reinforce`.

    Over `items`, a slate is drawn slot by slot without replacement from the softmax of `<point, item>`, and its
    propensity is exact (Plackett 1975). Over `points`, the point is drawn from a normal distribution, and the best
    items for it are taken (as in Dulac-Arnold et al. 2015): far fewer dimensions to explore. Points lie among the
    items' attributes if the encoder reads those, otherwise among their learned vectors. Over `prices`, the policy sets
    a price on each change that a click makes to the user's observed numbers; items are taken by their click probability
    less that price.

    With `balance`, and if a user's numbers are observed, a slate is made slot by slot: a chosen item lowers the scores
    of items with similar effects on the user (`models.slates.Proposer`). The effects of a click are learned by
    regression on the observed changes; their weight by the policy gradient. With `likeness, vectors` it lowers the
    scores of items with similar vectors, whatever is observed.
    """

    over: Literal["items", "points", "prices"] = Field(
        default="items",
        description="items: slates are drawn from a softmax; points: a point is drawn, and its best items taken; "
        "prices: prices of a click's effects on the user's observed numbers are drawn, and items are taken by their "
        "click probability less the price",
    )
    belief: bool = Field(
        default=False,
        description="with over prices, whether the click probability comes from the slates shown to the user before, "
        "by Bayesian logistic regression with a prior from slates of random items; otherwise the network predicts it",
    )
    rank: int = Field(default=12, gt=0, description="with belief, columns of the item vectors that are learned for it")
    balance: bool = Field(default=True, description="whether an item keeps similar items out of the slate")
    likeness: Literal["effects", "vectors"] = Field(
        default="effects",
        description="with balance, which items are similar: those whose clicks change the user's observed numbers in "
        "the same way (learned), or those with similar vectors",
    )
    trace: float = Field(default=0.95, ge=0, le=1, description="lambda of the advantages (GAE); 1: no bootstrapping")
    entropy: float = Field(default=0.0, ge=0, description="weight of the policy's entropy")
    click_weight: float = Field(default=0.0, ge=0, description="weight of the clicks' loss; it also guides the policy")
    value_weight: float = Field(default=0.5, gt=0, description="weight of the value's loss")
    monitors: ClassVar[tuple[str, ...]] = REWARDED
    source: ClassVar[str] = "world"
    updates: ClassVar[Updates] = {
        "actor": ("encoder", "actor"),
        "critic": ("encoder", "critic"),
        "effects": ("actor",),
        "clicks": ("encoder", "actor"),
    }
    preset: ClassVar[Mapping[str, object]] = {
        "discount": 0.9,
        "dim": 64,
        "dropout": 0.0,
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "skip": "no",
        "save_every": 10**9,
    }

    @model_validator(mode="after")
    def _beliefs_have_prices(self) -> "OnPolicy":
        if self.belief and self.over != "prices":
            raise ValueError(f"belief goes with over prices, and over is {self.over}")
        return self

    @property
    def turns(self) -> tuple[int, int]:
        """How often it learns from an experience, and into how many parts it divides it each time."""
        return 1, 1

    @property
    def draws_points(self) -> bool:
        """See `Algorithm.draws_points`."""
        return self.over != "items"

    @property
    def priced(self) -> bool:
        """See `Algorithm.priced`."""
        return self.over == "prices"

    def networks(self, sizes: Sizes, vectors: Float32[np.ndarray, "items dim"], rng: np.random.Generator) -> Networks:
        """See `Algorithm.networks`; `sizes.factors` is how many numbers of a user are observed."""
        width = vectors.shape[1] if self.draws_points and vectors.shape[1] else sizes.dim
        if self.over == "prices":
            return {"actor": self._pricer(sizes, vectors), "critic": Value(sizes.dim)}
        traits = sizes.factors if self.balance else 0
        by_vectors = self.balance and self.likeness == "vectors"
        return {
            "actor": Proposer(sizes.dim, width, traits, self.click_weight > 0, by_vectors),
            "critic": Value(sizes.dim),
        }

    def _pricer(self, sizes: Sizes, vectors: Float32[np.ndarray, "items dim"]) -> Pricer:
        """A network of prices. A belief's weights are among the observed numbers; prices are for the other numbers."""
        given = vectors.shape[1]
        if not sizes.factors:
            raise SetupError("algorithm.over is prices, of numbers that are seen of a user; here none are: take points")
        if not self.belief:
            return Pricer(sizes.dim, given or sizes.dim, sizes.factors, None)
        belief = Belief(len(vectors), given or self.rank)
        return Pricer(sizes.dim, belief.width, sizes.factors - belief.width - 1, belief)

    def propose(self, nets: Networks, states: States, rng: Rng = None) -> Points:
        """The mean point; with `rng`, a draw if points are drawn."""
        actor = nets["actor"]
        if not isinstance(actor, Proposer):  # an actor that learned from a log
            return super().propose(nets, states, rng)
        drawn = actor(states)
        if rng is not None and self.draws_points:
            noise = torch.from_numpy(rng.standard_normal(drawn.shape, np.float32)).to(drawn)
            drawn = actor.draw(drawn, noise)
        points = actor.points(drawn)
        if not isinstance(actor, Pricer):
            return points
        return torch.cat([actor.odds(states), torch.zeros_like(points[..., :-2]), points], -1)

    def columns(self, nets: Networks, vectors: Float[Tensor, "items dim"]) -> Float[Tensor, "items columns"]:
        """See `Algorithm.columns`."""
        actor = nets["actor"]
        return actor.columns(self.known(nets, vectors)) if isinstance(actor, Proposer) else vectors

    def traits(self, nets: Networks, vectors: Float[Tensor, "items dim"]) -> Float[Tensor, "items traits"] | None:
        """See `Algorithm.traits`; no gradient."""
        actor = nets["actor"]
        with torch.no_grad():
            return actor.alike(self.known(nets, vectors)) if isinstance(actor, Proposer) else None

    def known(self, nets: Networks, vectors: Float[Tensor, "items dim"]) -> Float[Tensor, "items width"]:
        """The vectors behind the points: the items' attributes, or their learned vectors."""
        actor = nets["actor"]
        if isinstance(actor, Pricer) and actor.belief is not None:
            return actor.belief.items[:, :-1]
        return vectors_of(nets, vectors) if self.draws_points else vectors

    def estimates(self, nets: Networks, batch: Choices, items: object) -> Float[Tensor, "steps"]:  # type: ignore[override]
        """The value of the state."""
        values: Tensor = nets["critic"](batch.states)
        return values

    def log_chances(self, context: LossContext[Choices]) -> tuple[Float[Tensor, "steps"], Float[Tensor, "..."]]:
        """The log probability of each choice under the current policy, and the policy's entropy."""
        batch, actor = context.batch, context.nets["actor"]
        assert isinstance(actor, Proposer)
        if self.draws_points:
            return actor.log_density(batch.states, batch.points), actor.log_deviation.sum()
        vectors, points = context.items.vectors, actor.points(actor(batch.states))
        traits = self.traits(context.nets, vectors)
        scores = points @ self.columns(context.nets, vectors).T
        return plackett_luce(scores, batch.slates, points[:, -1], traits)

    def advantages(self, batch: Choices) -> Float[Tensor, "steps"]:
        """The advantages, standardised over the batch."""
        found = batch.returns - batch.expected
        return (found - found.mean()) / (found.std(correction=0) + 1e-8)

    def other_losses(self, context: LossContext[Choices]) -> dict[str, Tensor]:
        """The losses of the value, of the effects of clicks, and of the clicks."""
        batch, actor = context.batch, context.nets["actor"]
        assert isinstance(actor, Proposer)
        found = {"critic": 2 * self.value_weight * td_loss(context.nets["critic"](batch.states), batch.returns)}
        if actor.traits and batch.answered.any():
            found["effects"] = self.effects_loss(context, actor)
        if actor.liking is not None and batch.answered.any():
            found["clicks"] = (self.click_weight or 1.0) * self.clicks_loss(context, actor)
        return found

    def clicks_loss(self, context: LossContext[Choices], actor: Proposer) -> Float[Tensor, ""]:
        """Cross entropy of the clicks on the slates, where they are known."""
        batch, vectors = context.batch, self.known(context.nets, context.items.vectors)
        logits = actor.click_logits(batch.states, vectors, batch.slates)
        losses = binary_cross_entropy_with_logits(logits, batch.clicks, reduction="none").mean(-1)
        return mean(losses, batch.answered.float())

    def effects_loss(self, context: LossContext[Choices], actor: Proposer) -> Float[Tensor, ""]:
        """Mean square of the unexplained part of the numbers' changes, in units of their variance."""
        batch, vectors = context.batch, self.known(context.nets, context.items.vectors.detach())
        clicks, numbers = batch.clicks * batch.answered[:, None], batch.numbers[:, : actor.traits]
        left = actor.unexplained(vectors, batch.slates, clicks, numbers, batch.next_numbers[:, : actor.traits])
        return mean(left, batch.answered.float())


def vectors_of(nets: Networks, vectors: Float[Tensor, "items dim"]) -> Float[Tensor, "items width"]:
    """The vectors behind drawn points: the items' attributes if the encoder reads those, otherwise `vectors`."""
    encoder = nets["encoder"]
    if isinstance(encoder, Encoder) and encoder.items.attributes is not None:
        attributes = encoder.items.attributes
        return attributes.div(attributes.shape[1] ** 0.5)
    return vectors
