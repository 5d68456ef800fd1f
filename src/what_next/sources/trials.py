"""The founding experience: items are tried after every event, and the spread tells what each would earn."""

from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from what_next.algorithms.base import Networks
from what_next.models import AgentModel, CriticModel
from what_next.models.actor_critic import Sizes
from what_next.rewards import Samples, prospects, spread_reward
from what_next.rewards.spread import PROSPECTS, damped, learning_target
from what_next.sources.base import Experience, Told, mean
from what_next.types import Factors, History, Product, Proposal, Score, Trajectories, Trials, repeats


class TrialExperience(Experience):
    """Attributes of the events, the spread of the sample so far, and what each item would do to it."""

    samples: Samples

    def networks(self, rng: np.random.Generator) -> dict[str, nn.Module]:
        """See `Experience.networks`."""
        return dict(self.algorithm.networks(sizes_of(self), self.space.catalogue.vectors[self.space.seen], rng))

    def window(self, history: History) -> History:
        """The latest events: as many as the networks were trained on."""
        return history.last(self.setup.longest)

    def factorize(self, nets: Networks, history: History) -> Factors:
        """Attributes of each event; its reward and context, standardised; mean and spread of the sample so far, and one
        over its length. And, for each point that the actor chooses from, what an item there would do to the sample."""
        spread = self.setup.reward.spread
        self.vectors = self.tensor(self.space.catalogue.vectors)
        samples = Samples.of(self.vectors[self.tensor(history.items)], spread.window, spread.pairs)
        numbers = history.context
        if "reward" in self.space.event_names:
            numbers = np.concatenate([history.rewards[..., None], numbers], -1)
        numbers = (numbers - self.space.event_center) / self.space.event_scale
        length = (1 / samples.count).expand(len(numbers), -1)
        parts = [samples.vectors, self.tensor(numbers), samples.mean, samples.spread[..., None], length[..., None]]
        factors = torch.cat([part.float() for part in parts], -1).cpu().numpy()
        ahead = self._prospects(samples, samples.grown(_choices(nets)[None, None]))
        self.samples = samples
        return Factors(factors, ahead.cpu().numpy(), factors)

    def predict(
        self, nets: Networks, history: History, factors: Factors, rng: np.random.Generator | None, grid: bool
    ) -> Proposal:
        """A draw from the actor's policy, or its likeliest point without `rng`."""
        self.factors = factors
        with torch.no_grad():
            read: Any = (self.tensor(factors.actor), self.tensor(factors.prospects))
            points = self.algorithm.propose(nets, read, rng)
        batch, time, _ = points.shape
        places = np.arange(batch * time)
        if not grid:
            places = places[::time] + history.lengths - 1
            points = points.flatten(0, 1)[self.tensor(places)]
        values = self._values_at(nets, places)
        score = values if self.setup.selection.name == "critic" else None
        return Proposal(np.ascontiguousarray(points.cpu().numpy()), score, values=values)

    def _values_at(self, nets: Networks, places: Int[np.ndarray, "proposals"]) -> Score | None:
        """The critic's value of items at each proposal; `places` are those of the proposals on the flattened grid.

        None where there is no such critic.
        """
        critic, samples, factors, vectors = nets.get("critic"), self.samples, self.factors.critic, self.vectors
        if not isinstance(critic, CriticModel):
            return None

        @cache
        @torch.no_grad()
        def encoded() -> Float[Tensor, "places dim"]:  # once, and only if somebody asks
            states: Tensor = critic.encoder(self.tensor(factors))
            return states.flatten(0, 1)

        @torch.no_grad()
        def score(proposals: Int[np.ndarray, "pairs"], items: Int[np.ndarray, "pairs"]) -> Float[np.ndarray, "pairs"]:
            place, points = self.tensor(places[proposals]), vectors[self.tensor(items)]
            count = samples.count[place % samples.vectors.shape[1]]
            spread = samples.spread.flatten()[place]
            ahead = prospects(spread, samples.at(place, points), count, self.space.typical)
            values: Tensor = critic.head(encoded()[place], points[:, None], ahead[:, None])
            return values.squeeze(-1).cpu().numpy()

        return score

    def batch(
        self, nets: Networks, slow: Networks, history: History, product: Product, rng: np.random.Generator | None
    ) -> Trials:
        """The selected item at each step and, with `rng`, some random ones.

        An item joins by its vector and by what it makes of the sample; its reward comes along as a label. The reward
        of any item is known, played or not, so the critic learns of items besides those that the actor leads to.
        """
        self.chosen = product.items[..., 0]
        chosen = self.tensor(self.chosen).long()
        drawn = np.empty((len(chosen), 1, 0), np.int32)
        if rng is not None:
            drawn = rng.choice(self.space.seen, size=(len(chosen), 1, self.algorithm.explore))
        others = self.tensor(drawn).long()
        items = torch.cat([chosen[..., None], others.expand(-1, chosen.shape[1], -1)], -1)
        grown = [self.samples.grown(self.vectors[some]) for some in (chosen[..., None], others)]
        spread = self.setup.reward.spread
        reward, usable = spread_reward(self.samples, torch.cat(grown, -1), self.tensor(history.sigma), spread.form)
        if spread.repeat_factor < 1:
            reward = damped(reward, self.tensor(repeats(items.cpu().numpy(), history)), spread.repeat_factor)
        real = self.tensor(np.arange(items.shape[1]) < history.lengths[:, None])
        return Trials(
            actor_factors=self.tensor(self.factors.actor),
            actor_prospects=self.tensor(self.factors.prospects),
            factors=self.tensor(self.factors.critic),
            points=self.vectors[items],
            prospects=self._prospects(self.samples, torch.cat(grown, -1)),
            rewards=reward.float(),
            targets=learning_target(reward, self.samples.count, spread.clip).float(),
            mask=usable & real & (chosen >= 0),
        )

    def losses(
        self, nets: Networks, slow: Networks, batch: Trajectories | Trials, step: int, rng: np.random.Generator | None
    ) -> dict[str, Tensor]:
        """See `Experience.losses`."""
        losses: dict[str, Tensor] = self.algorithm.losses(nets, slow, batch, None, step, rng)  # type: ignore[arg-type]
        return losses

    def told(self, nets: Networks, batch: Trajectories | Trials) -> Told:
        """The reward of the selected items in units of the user's sigma, and the critic's estimates, as its targets."""
        assert isinstance(batch, Trials)
        values = self._values(nets, batch).cpu().numpy()
        mask = batch.mask.cpu().numpy()
        reward, target = batch.rewards[..., 0].cpu().numpy(), batch.targets[..., 0].cpu().numpy()
        notes = {"largest_reward": self.setup.reward.spread.clip}
        if mask.any():
            notes["top_share"] = float(np.unique(self.chosen[mask], return_counts=True)[1].max() / mask.sum())
            if target[mask].var() > 0:
                notes["explained"] = 1 - float((target - values)[mask].var() / target[mask].var())
        return Told(mask, mean(reward[mask]), mean(values[mask]), notes)

    @torch.no_grad()
    def _values(self, nets: Networks, batch: Trials) -> Float[Tensor, "batch time"]:
        """The critic's estimates for the selected items; 0 where the algorithm has no critic."""
        critic = nets.get("critic")
        if not isinstance(critic, CriticModel):
            return torch.zeros_like(batch.rewards[..., 0])
        values: Tensor = critic(batch.factors, batch.points[..., :1, :], batch.prospects[..., :1, :])
        return values[..., 0]

    def _prospects(
        self, samples: Samples, grown: Float[Tensor, "batch time choices"]
    ) -> Float[Tensor, "batch time choices prospects"]:
        return prospects(samples.spread[..., None], grown, samples.count[:, None], self.space.typical)


def sizes_of(experience: Experience) -> Sizes:
    """The widths that the data and the setup ask for: an event is known by its vector, its numbers, and the sample
    so far (mean vector, spread, one over the number of events)."""
    setup, space = experience.setup, experience.space
    points = len(space.catalogue.names)
    factors = 2 * points + len(space.event_names) + 2
    return Sizes(factors, points, PROSPECTS, setup.dim, setup.layers, setup.dropout)


def _choices(nets: Networks) -> Float[Tensor, "choices dim"]:
    """The points that the actor chooses from."""
    actor = nets["actor"]
    assert isinstance(actor, AgentModel)
    return actor.prototypes
