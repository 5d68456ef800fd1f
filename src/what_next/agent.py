"""Agent: the networks, how they read a history, and how they learn."""

import copy
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer, SparseAdam

from what_next.algorithms.base import LossContext, Networks, Part, Root
from what_next.data.space import Space
from what_next.errors import ModelError, SetupError, TrainingError
from what_next.models.encoders import Encoder
from what_next.settings import Setup
from what_next.training.artefacts import SavedModels, models_of, read_models
from what_next.training.distributed import Lost, Ranks
from what_next.training.encoder_learner import EncoderLearner
from what_next.training.founding_learner import FoundingLearner
from what_next.training.learner import Learner
from what_next.training.play_learner import PlayLearner
from what_next.training.refit import Recipe
from what_next.training.step import OutOfTime, Step, Total, decay_rate, descend, losses_of, polyak_update
from what_next.types import Batch, Factors, History, Proposal


class Agent:
    """Models, losses and optimisers of one algorithm; training and inference.

    The proposals of `predict` go into a batch (`sources`), and `propagate` learns from it; nothing is kept in between.

    Attributes:
        learner: how the algorithm's networks are built, read histories, and learn.
        nets: the networks by name; `targets`: the target networks, by the same names.
        histories: number of user histories it was trained on; `steps`: number of training steps.
        horizon: histories of the whole run, over which the learning rate falls; `spent`: share of the time limit used.
        polyak: how far target networks follow their networks after a step.
        halved: how often validation has halved the learning rate.
        recipe: for a second training (`refit`), the learning rates of the first one, which it follows.
        deadline: in `time.perf_counter` seconds; no step begins or ends after it.
        held: the losses of the last step, kept until the next step's exist.
        ranks: the processes that share its batches; one, unless an environment sets it.
        learns: whether `add_model` makes optimisers; the first makes PyTorch import its compiler, which takes seconds.
    """

    def __init__(self, setup: Setup, space: Space) -> None:
        self.setup, self.space, self.device = setup, space, _device(setup.device)
        self.learner = self.new_learner()
        self.nets: Networks = {}
        self.targets: Networks = {}
        self.optimisers: dict[str, Optimizer] = {}
        self.histories = self.steps = self.halved = 0
        self.horizon, self.spent, self.deadline = setup.epochs, 0.0, math.inf
        self.polyak = setup.algorithm.polyak
        self.learns = False
        self.recipe: Recipe | None = None
        self.held: Mapping[str, Tensor] = {}
        self.ranks = Ranks()

    def __repr__(self) -> str:
        weights = sum(weight.numel() for net in self.nets.values() for weight in net.parameters())
        nets = f"{', '.join(self.nets)} with {weights:,} weights" if self.nets else "not built yet"
        trained = f"trained on {self.histories:,} {self.setup.unit}"
        return f"Agent({self.setup.algorithm!r};\n  {nets}; {trained}; on {self.device})"

    # Building

    def new_learner(self) -> Learner:
        """The learner for what the setup's algorithm proposes."""
        if self.setup.algorithm.by_attributes:
            return FoundingLearner(self.setup, self.space, self.device)
        return (PlayLearner if self.setup.acts else EncoderLearner)(self.setup, self.space, self.device)

    def wake_agent(self) -> "Agent":
        """Build for learning, from the setup's seed; returns itself.

        Raises:
            SetupError: the networks are larger than this machine's memory, cannot be sharded as the setup asks, or do
                not match the algorithm's declarations.
        """
        if self.ranks.joined and self.setup.cluster.items == "sharded":
            self.learner.shard(self.ranks)
        self._fits()
        self.learns = True
        self.build()
        self.copy_targets()
        return self

    def build(self) -> "Agent":
        """Build the networks from the setup's seed, as they are before the first step; returns itself."""
        torch.manual_seed(self.setup.seed)
        self.nets, self.optimisers = self.add_model()
        self.learner.check(self.nets)
        return self

    def copy_targets(self) -> None:
        """Copy the networks into their target networks, which have no gradient."""
        copied = {name: copy.deepcopy(self.nets[name]) for name in self.learner.targets}
        self.targets = {name: net.eval().requires_grad_(False) for name, net in copied.items()}

    def like(self, path: Path) -> "Agent":
        """Adopt the settings that the data decided for a saved model, to build the same networks before loading its
        weights; returns itself.

        Raises:
            ModelError: the file is missing, damaged or newer.
        """
        self.setup = self.setup.model_copy(update=read_models(path).built_with(self.setup))
        self.learner = self.new_learner()
        return self

    def place_items(self, vectors: Float32[np.ndarray, "items dim"]) -> None:
        """Set the initial learned item vectors; items with a row of zeros keep theirs.

        Args:
            vectors: rows of length 1, like the encoder's own initial vectors.
        """
        encoder = self.nets["encoder"]
        assert isinstance(encoder, Encoder)
        assert encoder.items.learned is not None, "the vectors of items are learned"
        vectors = vectors if encoder.items.shards is None else vectors[encoder.items.shards.own]
        known = torch.from_numpy(vectors.any(1))
        with torch.no_grad():
            encoder.items.learned[known] = torch.from_numpy(vectors)[known].to(self.device)
        self.copy_targets()

    def _fits(self) -> None:
        """Raise a `SetupError` if weights, gradients and Adam's two moments exceed the machine's memory."""
        needed = 4 * sum(weight.nbytes for net in self.sketch().values() for weight in net.parameters())
        here = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if needed > here:
            raise SetupError(
                f"dim is {self.setup.dim} and layers is {self.setup.layers}: to train networks of that size takes "
                f"{needed / 2**30:,.0f} GiB of memory and more, and this machine has {here / 2**30:,.0f}; lower dim"
            )

    def sketch(self) -> Networks:
        """The networks on the meta device: shapes without values."""
        with torch.device("meta"):
            return self.learner.networks(np.random.default_rng(self.setup.seed))

    def add_model(self) -> tuple[Networks, dict[str, Optimizer]]:
        """The algorithm's networks (`AgentModel`, `CriticModel`) and, for learning, an optimiser for each; the losses
        are the algorithm's own."""
        nets = self.learner.networks(np.random.default_rng(self.setup.seed))
        for net in nets.values():
            net.to(self.device)
        return nets, self._optimisers(nets) if self.learns else {}

    def _optimisers(self, nets: Networks) -> dict[str, Optimizer]:
        """An optimiser for each network that a loss updates."""
        optimisers: dict[str, Optimizer] = {}
        for name in sorted(set(chain.from_iterable(self.setup.algorithm.updates.values())) & set(nets)):
            weights, rows = list(nets[name].parameters()), _rows(nets[name])
            if rows is not None:
                weights = [weight for weight in weights if weight is not rows]
                optimisers[f"{name}:rows"] = SparseAdam([rows], self.setup.learning_rate)
            rate, decay = self.setup.learning_rate, self.setup.weight_decay
            kind = AdamW if decay else Adam
            optimisers[name] = kind(weights, rate, weight_decay=decay, fused=True)  # one kernel on the CPU, too
        return optimisers

    def ready_agent(self, saved: SavedModels | None = None) -> "Agent":
        """Load both models from the setup's paths, for inference (only the actor if it names no critic).

        Returns itself. `saved`: the models, if they were read already.

        Raises:
            ModelError: a file is missing, damaged, newer, or the two do not belong together.
        """
        saved = saved or models_of(self.setup)
        self.space = replace(saved.space, seen=np.arange(len(saved.space.catalogue), dtype=np.int32))
        self.setup = self.setup.model_copy(update=saved.trained_settings(self.setup))
        self.learner = self.new_learner()
        self.nets, _ = self.add_model()
        if saved.critic is None:
            self.nets = _Loaded(self.setup.algorithm.name, self.nets)
        saved.fill(self.nets)
        self.histories = saved.manifest.histories
        return self.eval()

    def eval(self) -> "Agent":
        """Set the networks to inference (no dropout); returns itself."""
        for net in self.nets.values():
            net.eval()
        return self

    def train(self) -> "Agent":
        """Set the networks to training; returns itself."""
        for net in self.nets.values():
            net.train()
        return self

    # Reading a history

    def factorize(self, history: History) -> Factors:
        """The factor arrays of actor and critic: one row per event, computed from the events up to it."""
        return self.learner.factorize(self.nets, history)

    def predict(self, history: History, rng: np.random.Generator | None = None, *, grid: bool = False) -> Proposal:
        """The actor's proposal after the last event of each history; on a `grid`, after every event.

        A draw from its policy, or its likeliest point without `rng`. Of a long history, the founding algorithm reads
        only as many of the latest events as in training.
        """
        history = self.learner.window(history)
        return self.learner.predict(self.nets, history, self.factorize(history), rng, grid)

    # Learning

    def add_prediction(
        self, batch: Batch, rng: np.random.Generator | None = None, part: Part | None = None
    ) -> LossContext[Any]:
        """The inputs of a batch's losses: the critic's factors grown by the item selected at each step.

        With an encoder: its states, each with the item chosen there. `rng`: source of the losses' randomness. `part`:
        the part of the batch that counts here; None: all of it.
        """
        rng = rng or np.random.default_rng(self.steps)
        return self.learner.context(self.nets, self.targets, batch, self.steps, rng, part)

    def get_critic_loss(self, losses: Mapping[str, Tensor]) -> Tensor | None:
        """The critic's loss of a cycle: how far its estimates are from the reward (spread, by default).

        None if the algorithm has no critic, or no loss is due.
        """
        return losses.get("critic")

    def propagate(self, batch: Batch, rng: np.random.Generator | None = None) -> Step:
        """Learn from a batch: the critic's estimates, the actor's loss and step, then the critic's.

        Args:
            batch: from any source; it is not changed, and may be learned from again.
            rng: source of the losses' randomness; None: seeded with the step's number.

        Raises:
            TrainingError: a loss or gradient is not finite; nothing was updated.
            OutOfTime: the deadline came before the gradient; nothing was updated.
        """
        algorithm = self.setup.algorithm
        rows = self.learner.rows_of_steps(batch)
        part = self.ranks.part(batch, rows, (self.setup.seed, self.steps))
        context = self.add_prediction(batch, rng, part)
        losses = losses_of(algorithm, context, self.nets)
        if not len(rows if part is None else part.steps):
            losses = {name: loss.nan_to_num() for name, loss in losses.items()}  # the mean over no steps counts as 0
        self.in_time()
        if (critic_loss := self.get_critic_loss(losses)) is not None:
            losses["critic"] = critic_loss
        shown = self.learner.shown(context, batch, losses)

        def total(weights: Sequence[nn.Parameter]) -> Mapping[str, float]:
            nonlocal shown
            shown = shown if part is None else self.ranks.total(weights, shown, part.weight)
            if isinstance(encoder := self.nets.get("encoder"), Encoder):
                encoder.items.gather_gradient()
            return shown.losses

        if part is not None:
            losses = {name: part.weight * loss for name, loss in losses.items()}
        updated = self._descend(losses, context.roots, total)
        polyak_update(self.nets, self.targets, updated, self.polyak)
        self.histories += batch.histories
        self.steps += 1
        # If freed now, a step's memory would return to the system, which costs the next step a tenth of its time.
        self.held = losses
        return shown

    def _descend(self, losses: Mapping[str, Tensor], roots: Mapping[str, Sequence[Root]], total: Total) -> set[str]:
        """A step of every optimiser at the current learning rate; returns the networks that were updated."""
        share = self.histories / self.horizon
        halved, done = self.recipe.rate(share) if self.recipe else (self.halved, max(self.spent, share))
        decay_rate(self.optimisers, self.setup.learning_rate / 2**halved, done)
        try:
            return descend(
                losses, self.setup.algorithm.updates, self.nets, self.optimisers, self.setup.clip, roots, total
            )
        except Lost:
            raise
        except TrainingError as error:
            algorithm = self.setup.algorithm
            own = type(algorithm).__module__.partition(".")[0] != __name__.partition(".")[0]
            first = f"for a logarithm of 0 or a division by 0 in the losses of {algorithm.name!r}, " if own else ""
            raise TrainingError(
                f"training stopped after {self.histories:,} {self.setup.unit}: {error}; the last good save, if any, is "
                f"kept at {self.setup.model_agent_path}. Look {first}for extreme rewards and attributes (`what-next "
                f"data describe`), or lower learning_rate ({self.setup.learning_rate:g})"
            ) from None

    def in_time(self) -> None:
        """Raise `OutOfTime` after the deadline."""
        if time.perf_counter() > self.deadline:
            raise OutOfTime


class _Loaded(dict[str, nn.Module]):
    """The networks of the agent's file alone."""

    def __init__(self, algorithm: str, nets: Networks) -> None:
        super().__init__({name: net for name, net in nets.items() if name in ("encoder", "actor")})
        self.algorithm = algorithm

    def __missing__(self, name: str) -> nn.Module:
        raise ModelError(
            f"the algorithm {self.algorithm} recommends by the network {name!r}, which is not in the agent's file; "
            "`needs_critic` must be true in its class, and model_critic_path be set"
        )


def _rows(net: torch.nn.Module) -> torch.nn.Parameter | None:
    """The item vectors whose gradient is sparse, if there are any."""
    return net.items.learned if isinstance(net, Encoder) and net.items.sparse else None


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise SetupError("device is cuda, and PyTorch finds no CUDA device here; set `device, auto` or `device, cpu`")
    return torch.device(name)
