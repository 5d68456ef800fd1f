"""The founding algorithm's networks: they read attributes, the spread of the sample so far, and how an item would
change it."""

from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from what_next.algorithms.base import LossContext, Networks, Part
from what_next.models import AgentModel, CriticModel
from what_next.models.actor_critic import Sizes
from what_next.models.item_space import ItemSpace
from what_next.rewards import Samples, prospects
from what_next.rewards.spread import PROSPECTS, SMALLEST_SIGMA, learning_target
from what_next.training.learner import Learner
from what_next.types import BanditSteps, Batch, Factors, History, Proposal, Score


class FoundingLearner(Learner):
    """An actor over points of the catalogue and a one-step critic, each with its own LSTM over the factors."""

    @property
    def targets(self) -> tuple[str, ...]:
        """See `Learner.targets`: the critic has one only in a world, where it learns from what follows an item."""
        return ("critic",) if self.setup.acts else ()

    def networks(self, rng: np.random.Generator) -> dict[str, nn.Module]:
        """See `Learner.networks`."""
        return dict(self.algorithm.networks(self.sizes, self.space.catalogue.vectors[self.space.seen], rng))

    @property
    def sizes(self) -> Sizes:
        """The widths that the data and the setup need. An event is read as its vector, its numbers, and the sample so
        far (mean vector, spread, one over the number of events). With a log, values start at the typical user's."""
        setup, points, typical = self.setup, len(self.space.catalogue.names), self.space.typical
        factors = 2 * points + len(self.space.event_names) + 2
        towards = setup.reward.spread.form == "towards" and not setup.acts and typical > SMALLEST_SIGMA
        prior = 1 / typical if towards else 0.0
        return Sizes(factors, points, PROSPECTS, setup.dim, setup.layers, setup.dropped(self.space), prior=prior)

    def window(self, history: History) -> History:
        """The latest events: as many as the networks were trained on."""
        return history.last(self.setup.longest)

    def factorize(self, nets: Networks, history: History) -> Factors:
        """Attributes of each event; its standardised reward and context; mean and spread of the sample so far, and one
        over its length. And, for each point that the actor chooses from, how an item there would change the sample."""
        samples, actor = self.samples(history.items), nets["actor"]
        assert isinstance(actor, AgentModel)
        numbers = self.standardised(history)
        length = (1 / samples.count).expand(len(numbers), -1)
        parts = [samples.vectors, self.tensor(numbers), samples.mean, samples.spread[..., None], length[..., None]]
        factors = torch.cat([part.float() for part in parts], -1).cpu().numpy()
        ahead = self._prospects(samples, samples.with_item(actor.prototypes[None, None]))
        return Factors(factors, ahead.cpu().numpy(), factors)

    def predict(
        self, nets: Networks, history: History, factors: Factors, rng: np.random.Generator | None, grid: bool
    ) -> Proposal:
        """A draw from the actor's policy, or its likeliest point without `rng`."""
        with torch.no_grad():
            read: Any = (self.tensor(factors.actor), self.tensor(factors.prospects))
            points = self.algorithm.propose(nets, read, rng)
        batch, time, _ = points.shape
        places = np.arange(batch * time)
        if not grid:
            places = places[::time] + history.lengths - 1
            points = points.flatten(0, 1)[self.tensor(places)]
        values = self._values_at(nets, history, factors, places)
        score = values if self.setup.selection.name == "critic" else None
        return Proposal(np.ascontiguousarray(points.cpu().numpy()), score, values=values, factors=factors)

    def _values_at(
        self, nets: Networks, history: History, factors: Factors, places: Int[np.ndarray, "proposals"]
    ) -> Score | None:
        """The critic's value of items at each proposal; None if there is no such critic.

        `places`: the proposals' positions on the flattened grid.
        """
        critic = nets.get("critic")
        if not isinstance(critic, CriticModel):
            return None

        @cache
        @torch.no_grad()
        def read() -> tuple[Samples, Tensor]:  # computed once, and only if needed
            return self.samples(history.items), critic.encoder(self.tensor(factors.critic)).flatten(0, 1)

        @torch.no_grad()
        def score(proposals: Int[np.ndarray, "pairs"], items: Int[np.ndarray, "pairs"]) -> Float[np.ndarray, "pairs"]:
            samples, states = read()
            place, points = self.tensor(places[proposals]), self.vectors[self.tensor(items)]
            count = samples.count[place % samples.vectors.shape[1]]
            spread = samples.spread.flatten()[place]
            ahead = prospects(spread, samples.at(place, points), count, self.space.typical)
            values: Tensor = critic.head(states[place], points[:, None], ahead[:, None])
            return values.squeeze(-1).cpu().numpy()

        return score

    def context(
        self,
        nets: Networks,
        targets: Networks,
        batch: Batch,
        step: int,
        rng: np.random.Generator,
        part: Part | None = None,
    ) -> LossContext[Any]:
        """The critic's factors grown by the item that was selected at each step, and by the other items tried.

        An item enters as its vector and as its effect on the sample; its reward is the label.
        """
        batch = batch if part is None else batch.rows(part.rows)
        samples, spread = self.samples(batch.items), self.setup.reward.spread
        selected = self.tensor(batch.actions).long()[..., None]
        items, with_item, rewards = selected, samples.with_item(self.vectors[selected]), batch.rewards[..., None]
        if batch.others is not None and batch.other_rewards is not None:
            others = self.tensor(batch.others).long()[:, None]
            items = torch.cat([selected, others.expand(-1, selected.shape[1], -1)], -1)
            with_item = torch.cat([with_item, samples.with_item(self.vectors[others])], -1)
            rewards = np.concatenate([rewards, batch.other_rewards], -1)
        acts, labels = self.setup.acts, self.tensor(rewards)
        steps = BanditSteps(
            actor_factors=self.tensor(batch.factors.actor),
            actor_prospects=self.tensor(batch.factors.prospects),
            factors=self.tensor(batch.factors.critic),
            points=self.vectors[items],
            prospects=self._prospects(samples, with_item),
            targets=labels * (1 - self.setup.discount) if acts else learning_target(labels, samples.count, spread.clip),
            mask=self.tensor(batch.mask),
            discounts=self.tensor(batch.discounts) if acts else None,
        )
        return LossContext(nets, targets, steps, ItemSpace.of(self.vectors), step, rng, part=part)

    def metrics(self, context: LossContext[Any], batch: Batch) -> float:
        """The mean of the critic's estimates, on the scale of its targets."""
        mask, actions = batch.mask, batch.actions
        largest = float(np.abs(batch.rewards).max()) if self.setup.acts else self.setup.reward.spread.clip
        context.metrics["largest_reward"] = largest
        if mask.any():
            items, counts = np.unique(actions[mask], return_counts=True)
            context.metrics["top_item"] = float(items[counts.argmax()])
            context.metrics["top_share"] = float(counts.max() / mask.sum())
        return context.metrics.pop("value", 0.0)

    @property
    def vectors(self) -> Tensor:
        """Standardised attributes of all items."""
        return self.tensor(self.space.catalogue.vectors)

    def samples(self, items: Int[np.ndarray, "batch time"]) -> Samples:
        """The latest events at every step of some histories."""
        spread = self.setup.reward.spread
        return Samples.of(self.vectors[self.tensor(items)], spread.window, spread.pairs)

    def _prospects(
        self, samples: Samples, with_item: Float[Tensor, "batch time choices"]
    ) -> Float[Tensor, "batch time choices prospects"]:
        return prospects(samples.spread[..., None], with_item, samples.count[:, None], self.space.typical)
