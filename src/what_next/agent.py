"""Agent: the networks, how they read a history, and how they learn."""

from dataclasses import replace
from itertools import chain

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim import Adam, Optimizer

from what_next.algorithms.base import Networks
from what_next.artefacts import read_models
from what_next.data.space import Space
from what_next.errors import SetupError, TrainingError
from what_next.learning import Step, descend, slow_down
from what_next.models import AgentModel, CriticModel
from what_next.models.actor_critic import Sizes
from what_next.rewards import Samples, prospects, spread_reward
from what_next.rewards.spread import PROSPECTS, damped, learning_target
from what_next.settings import Setup
from what_next.types import Factors, History, Product, Proposal, Score, Trajectories, repeats


class Agent:
    """Models, losses and optimisers of one algorithm; training and inference.

    The methods of one cycle build on one another: `predict` keeps the history it read, `propagate` learns from it.
    """

    def __init__(self, setup: Setup, space: Space) -> None:
        self.setup = setup
        self.space = space
        self.device = _device(setup.device)
        self.vectors = torch.from_numpy(space.catalogue.vectors).to(self.device)
        self.nets: Networks = {}
        self.optimisers: dict[str, Optimizer] = {}
        self.histories = 0

    # Building

    def wake_agent(self) -> "Agent":
        """Build for learning, from the setup's seed; returns itself."""
        torch.manual_seed(self.setup.seed)
        self.nets, self.optimisers = self.add_model()
        return self

    def add_model(self) -> tuple[Networks, dict[str, Optimizer]]:
        """The algorithm's networks (`AgentModel`, `CriticModel`) and an optimiser for each; its losses come with it."""
        algorithm = self.setup.algorithm
        rng = np.random.default_rng(self.setup.seed)
        nets = algorithm.networks(self.sizes, self.space.catalogue.vectors[self.space.seen], rng)
        for net in nets.values():
            net.to(self.device)
        moved = sorted(set(chain.from_iterable(algorithm.moves.values())))
        return nets, {name: Adam(nets[name].parameters(), self.setup.learning_rate) for name in moved}

    def ready_agent(self) -> "Agent":
        """Load both models from the paths of the setup, for inference (the actor alone where it names no critic).

        Returns itself.

        Raises:
            ModelError: a file is missing, damaged, newer, or the two do not belong together.
        """
        saved = read_models(self.setup.model_agent_path, self.setup.model_critic_path)
        self.space = replace(saved.space, seen=np.arange(len(saved.space.catalogue), dtype=np.int32))
        self.setup = self.setup.model_copy(update=saved.trained_settings())
        self.vectors = torch.from_numpy(self.space.catalogue.vectors).to(self.device)
        nets, _ = self.add_model()
        self.nets = nets if self.setup.model_critic_path else {"actor": nets["actor"]}
        for name, net in self.nets.items():
            saved.fill(name, net)
        self.histories = saved.manifest.histories
        return self.quiet()

    def quiet(self) -> "Agent":
        """The networks set to inference (no dropout); returns itself."""
        for net in self.nets.values():
            net.eval()
        return self

    @property
    def sizes(self) -> Sizes:
        """The widths that the data and the setup ask for: an event is known by its vector, its numbers, and the sample
        so far (mean vector, spread, one over the number of events)."""
        points = len(self.space.catalogue.names)
        factors = 2 * points + len(self.space.event_names) + 2
        return Sizes(factors, points, PROSPECTS, self.setup.dim, self.setup.layers, self.setup.dropout)

    # Reading a history

    def factorize(self, history: History) -> Factors:
        """The factor arrays of actor and critic: one row for each event, made of events up to it.

        Attributes of the event; its reward and context, standardised; mean and spread of the sample so far, and one
        over its length. And, for each point that the actor chooses from, what an item there would do to the sample.
        """
        spread = self.setup.reward.spread
        samples = Samples.of(self.vectors[self._tensor(history.items)], spread.window, spread.pairs)
        numbers = history.context
        if "reward" in self.space.event_names:
            numbers = np.concatenate([history.rewards[..., None], numbers], -1)
        numbers = (numbers - self.space.event_center) / self.space.event_scale
        length = (1 / samples.count).expand(len(numbers), -1)
        parts = [samples.vectors, self._tensor(numbers), samples.mean, samples.spread[..., None], length[..., None]]
        factors = torch.cat([part.float() for part in parts], -1).cpu().numpy()
        ahead = self._prospects(samples, samples.grown(self._choices()[None, None]))
        self.samples = samples
        return Factors(factors, ahead.cpu().numpy(), factors)

    def predict(self, history: History, rng: np.random.Generator | None = None, *, grid: bool = False) -> Proposal:
        """The actor's proposal after the last event of each history; on a `grid`, after every event.

        A draw from its policy, or its likeliest point without `rng`. Of long histories only the latest events count:
        as many as the networks were trained on.
        """
        self.history = history.last(self.setup.window) if self.setup.window else history
        self.factors = self.factorize(self.history)
        factors, ahead = self._tensor(self.factors.actor), self._tensor(self.factors.prospects)
        with torch.no_grad():
            points = self.setup.algorithm.propose(self.nets, factors, ahead, rng)
        batch, time, _ = points.shape
        places = np.arange(batch * time)
        if not grid:
            places = places[::time] + self.history.lengths - 1
            points = points.flatten(0, 1)[self._tensor(places)]
        score = self._score(places) if self.setup.selection.name == "critic" else None
        return Proposal(np.ascontiguousarray(points.cpu().numpy()), score)

    def _score(self, places: Int[np.ndarray, "proposals"]) -> Score:
        """The critic's value of items at each proposal; `places` are those of the proposals on the flattened grid."""
        critic, samples = self.nets["critic"], self.samples
        assert isinstance(critic, CriticModel)
        with torch.no_grad():
            states = critic.encoder(self._tensor(self.factors.critic)).flatten(0, 1)

        @torch.no_grad()
        def score(proposals: Int[np.ndarray, "pairs"], items: Int[np.ndarray, "pairs"]) -> Float[np.ndarray, "pairs"]:
            place, points = self._tensor(places[proposals]), self.vectors[self._tensor(items)]
            count = samples.count[place % samples.vectors.shape[1]]
            spread = samples.spread.flatten()[place]
            ahead = prospects(spread, samples.at(place, points), count, self.space.typical)
            values: Tensor = critic.head(states[place], points[:, None], ahead[:, None])
            return values.squeeze(-1).cpu().numpy()

        return score

    # Learning

    def add_prediction(self, product: Product, rng: np.random.Generator | None = None) -> Trajectories:
        """The critic's factors grown by the item that was selected at each step and, with `rng`, by some random ones.

        An item joins by its vector and by what it makes of the sample; its reward comes along as a label. The reward
        of any item is known, played or not, so the critic learns of items besides those that the actor leads to.
        """
        chosen = self._tensor(product.items[..., 0]).long()
        drawn = np.empty((len(chosen), 1, 0), np.int32)
        if rng is not None:
            drawn = rng.choice(self.space.seen, size=(len(chosen), 1, self.setup.algorithm.explore))
        others = self._tensor(drawn).long()
        items = torch.cat([chosen[..., None], others.expand(-1, chosen.shape[1], -1)], -1)
        grown = [self.samples.grown(self.vectors[some]) for some in (chosen[..., None], others)]
        spread = self.setup.reward.spread
        reward, usable = spread_reward(
            self.samples, torch.cat(grown, -1), self._tensor(self.history.sigma), spread.form
        )
        if spread.repeat_factor < 1:
            reward = damped(reward, self._tensor(repeats(items.cpu().numpy(), self.history)), spread.repeat_factor)
        real = self._tensor(np.arange(items.shape[1]) < self.history.lengths[:, None])
        return Trajectories(
            actor_factors=self._tensor(self.factors.actor),
            actor_prospects=self._tensor(self.factors.prospects),
            factors=self._tensor(self.factors.critic),
            points=self.vectors[items],
            prospects=self._prospects(self.samples, torch.cat(grown, -1)),
            rewards=reward.float(),
            targets=learning_target(reward, self.samples.count, spread.clip).float(),
            mask=usable & real & (chosen >= 0),
        )

    def get_critic_loss(self) -> Tensor | None:
        """The critic's loss in this cycle: how far its estimates are from the reward (spread, by default).

        None where the algorithm has no critic, or none is due.
        """
        return self.losses.get("critic")

    def propagate(self, product: Product, rng: np.random.Generator | None = None) -> Step:
        """Learn from the selected items: the critic's estimates, the actor's loss and step, then the critic's.

        Args:
            product: what `State.produce` selected for the grid of proposals that `predict` made last.
            rng: draws the items that the critic learns of besides; None: it learns of the selected ones alone.

        Raises:
            TrainingError: a loss or gradient is not a finite number; nothing was moved.
        """
        batch = self.add_prediction(product, rng)
        self.losses = self.setup.algorithm.losses(self.nets, batch)
        losses = dict(self.losses)
        if (critic_loss := self.get_critic_loss()) is not None:
            losses["critic"] = critic_loss
        values = self._values(batch)
        slow_down(self.optimisers, self.setup.learning_rate, self.histories / self.setup.epochs)
        try:
            descend(losses, self.setup.algorithm.moves, self.nets, self.optimisers, self.setup.clip)
        except TrainingError as error:
            raise TrainingError(
                f"training stopped after {self.histories:,} histories: {error}; the last good save, if any, is kept at "
                f"{self.setup.model_agent_path}. Look for extreme attributes (`what-next data describe`), or "
                f"lower learning_rate ({self.setup.learning_rate:g})"
            ) from None
        self.histories += len(product.items)
        mask = batch.mask.cpu().numpy()
        return Step(
            losses={name: loss.item() for name, loss in losses.items()},
            reward=_mean(batch.rewards[..., 0].cpu().numpy()[mask]),
            value=_mean(values.cpu().numpy()[mask]),
            fallback=_mean(product.fallback[..., 0][mask]),
            matches=_mean(product.matches[..., 0][mask]),
            masked=1 - float(mask.mean()),
        )

    @torch.no_grad()
    def _values(self, batch: Trajectories) -> Float[Tensor, "batch time"]:
        """The critic's estimates for the selected items; 0 where the algorithm has no critic."""
        critic = self.nets.get("critic")
        if not isinstance(critic, CriticModel):
            return torch.zeros_like(batch.rewards[..., 0])
        values: Tensor = critic(batch.factors, batch.points[..., :1, :], batch.prospects[..., :1, :])
        return values[..., 0]

    def _choices(self) -> Float[Tensor, "choices dim"]:
        """The points that the actor chooses from."""
        actor = self.nets["actor"]
        assert isinstance(actor, AgentModel)
        return actor.prototypes

    def _prospects(
        self, samples: Samples, grown: Float[Tensor, "batch time choices"]
    ) -> Float[Tensor, "batch time choices prospects"]:
        return prospects(samples.spread[..., None], grown, samples.count[:, None], self.space.typical)

    def _tensor(self, values: np.ndarray) -> Tensor:
        """The array as a tensor on the agent's device; on the CPU they share memory."""
        return torch.from_numpy(values).to(self.device)


def _mean(values: np.ndarray) -> float:
    """Their mean; 0 where there are none."""
    return float(values.mean()) if values.size else 0.0


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise SetupError("device is cuda, and PyTorch finds no CUDA device here; set `device, auto` or `device, cpu`")
    return torch.device(name)
