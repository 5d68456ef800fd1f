"""Agent: the networks, how they read a history, and how they learn."""

import copy
import math
import os
import time
from dataclasses import replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer, SparseAdam

from what_next.algorithms.base import Networks
from what_next.data.space import Space
from what_next.errors import SetupError, TrainingError
from what_next.models.encoders import Encoder
from what_next.settings import Setup
from what_next.sources import Experience, experience_of, follow
from what_next.training.artefacts import critic_beside, read_manifest, read_models
from what_next.training.step import OutOfTime, Step, descend, slow_down
from what_next.types import Factors, History, Product, Proposal, Trajectories, Trials


class Agent:
    """Models, losses and optimisers of one algorithm; training and inference.

    The methods of one cycle build on one another: `predict` keeps the history it read, `propagate` learns from it.

    Attributes:
        nets: the networks by name; `slow`: the slow copies of some.
        histories: how many user histories it was trained on; `steps`: in how many steps.
        horizon: histories of the whole run, over which the learning rate falls; `spent`: share of its time behind us.
        deadline: by `time.perf_counter`, after which no step is begun or gone on with.
        learns: whether `add_model` makes optimisers; PyTorch imports its compiler for the first, which takes seconds.
    """

    def __init__(self, setup: Setup, space: Space) -> None:
        self.setup = setup
        self.space = space
        self.device = _device(setup.device)
        self.experience: Experience = experience_of(setup, space, self.device)
        self.nets: Networks = {}
        self.slow: Networks = {}
        self.optimisers: dict[str, Optimizer] = {}
        self.histories = 0
        self.steps = 0
        self.horizon = setup.epochs
        self.spent = 0.0
        self.deadline = math.inf
        self.learns = False

    def __repr__(self) -> str:
        weights = sum(weight.numel() for net in self.nets.values() for weight in net.parameters())
        nets = f"{', '.join(self.nets)} with {weights:,} weights" if self.nets else "not built yet"
        trained = f"trained on {self.histories:,} histories"
        return f"Agent({self.setup.algorithm!r};\n  {nets}; {trained}; on {self.device})"

    # Building

    def wake_agent(self) -> "Agent":
        """Build for learning, from the setup's seed; returns itself.

        Raises:
            SetupError: the networks are larger than this machine's memory.
        """
        self._fits()
        self.learns = True
        torch.manual_seed(self.setup.seed)
        self.nets, self.optimisers = self.add_model()
        self.slow = {name: _slow(self.nets[name]) for name in self.setup.algorithm.targets}
        return self

    def _fits(self) -> None:
        """Raises a `SetupError` where weights, gradients and Adam's two moments are more than all memory there is."""
        with torch.device("meta"):  # sizes without contents
            nets = self.experience.networks(np.random.default_rng(self.setup.seed))
        needed = 4 * sum(weight.nbytes for net in nets.values() for weight in net.parameters())
        here = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if needed > here:
            raise SetupError(
                f"dim is {self.setup.dim} and layers is {self.setup.layers}: to train networks of that size takes "
                f"{needed / 2**30:,.0f} GiB of memory and more, and this machine has {here / 2**30:,.0f}; lower dim"
            )

    def add_model(self) -> tuple[Networks, dict[str, Optimizer]]:
        """The algorithm's networks (`AgentModel`, `CriticModel`) and, to learn, an optimiser for each; its losses come
        with it."""
        nets = self.experience.networks(np.random.default_rng(self.setup.seed))
        for net in nets.values():
            net.to(self.device)
        return nets, self._optimisers(nets) if self.learns else {}

    def _optimisers(self, nets: Networks) -> dict[str, Optimizer]:
        """One for each network that a loss moves."""
        optimisers: dict[str, Optimizer] = {}
        for name in sorted(set(chain.from_iterable(self.setup.algorithm.moves.values()))):
            weights, rows = list(nets[name].parameters()), _rows(nets[name])
            if rows is not None:
                weights = [weight for weight in weights if weight is not rows]
                optimisers[f"{name}:rows"] = SparseAdam([rows], self.setup.learning_rate)
            rate, decay = self.setup.learning_rate, self.setup.weight_decay
            optimisers[name] = AdamW(weights, rate, weight_decay=decay) if decay else Adam(weights, rate)
        return optimisers

    def ready_agent(self) -> "Agent":
        """Load both models from the paths of the setup, for inference (the actor alone where it names no critic).

        Returns itself.

        Raises:
            ModelError: a file is missing, damaged, newer, or the two do not belong together.
        """
        agent, critic = self.setup.model_agent_path, self.setup.model_critic_path
        known = type(self.setup.algorithm)
        if critic is None and read_manifest(agent, "agent").made_by(known).algorithm.needs_critic:
            critic = critic_beside(agent)
        saved = read_models(agent, critic)
        self.space = replace(saved.space, seen=np.arange(len(saved.space.catalogue), dtype=np.int32))
        self.setup = self.setup.model_copy(update=saved.trained_settings(self.setup))
        self.experience = experience_of(self.setup, self.space, self.device)
        nets, _ = self.add_model()
        if critic is None:
            nets = {name: net for name, net in nets.items() if name in ("encoder", "actor")}
        self.nets = nets
        for name, net in self.nets.items():
            saved.fill(name, net)
        self.histories = saved.manifest.histories
        return self.quiet()

    def quiet(self) -> "Agent":
        """The networks set to inference (no dropout); returns itself."""
        for net in self.nets.values():
            net.eval()
        return self

    def freeze(self) -> "Agent":
        """For service: as `quiet`, and the item vectors are computed once, not for every proposal; returns itself.

        Once a weight has moved they are computed anew. `loud` ends it.
        """
        self.experience.frozen = True
        return self.quiet()

    def loud(self) -> "Agent":
        """The networks set to training; returns itself."""
        self.experience.frozen = False
        for net in self.nets.values():
            net.train()
        return self

    # Reading a history

    def factorize(self, history: History) -> Factors:
        """The factor arrays of actor and critic: one row for each event, made of events up to it."""
        return self.experience.factorize(self.nets, history)

    def predict(self, history: History, rng: np.random.Generator | None = None, *, grid: bool = False) -> Proposal:
        """The actor's proposal after the last event of each history; on a `grid`, after every event.

        A draw from its policy, or its likeliest point without `rng`. The founding algorithm reads the latest events
        alone of a long history: as many as the networks were trained on. One that learns from the log proposes nothing
        on the grid: its points there are the encoder's states.
        """
        self.history = self.experience.window(history)
        self.factors = self.factorize(self.history)
        return self.experience.predict(self.nets, self.history, self.factors, rng, grid)

    # Learning

    def add_prediction(self, product: Product, rng: np.random.Generator | None = None) -> Trajectories | Trials:
        """What the critic learns of: its factors grown by the item that was selected at each step.

        With `rng` the founding algorithm adds some random items.
        """
        return self.experience.batch(self.nets, self.slow, self.history, product, rng)

    def get_critic_loss(self) -> Tensor | None:
        """The critic's loss in this cycle: how far its estimates are from the reward (spread, by default).

        None where the algorithm has no critic, or none is due.
        """
        return self.losses.get("critic")

    def propagate(self, product: Product, rng: np.random.Generator | None = None) -> Step:
        """Learn from the selected items: the critic's estimates, the actor's loss and step, then the critic's.

        Args:
            product: what `State.produce` selected for the grid of proposals that `predict` made last; for an algorithm
                that learns from the log, what came next (`State.next_items`).
            rng: draws the items that the critic learns of besides; None: it learns of the selected ones alone.

        Raises:
            TrainingError: a loss or gradient is not a finite number; nothing was moved.
            OutOfTime: the deadline came before the gradient; nothing was moved.
        """
        batch = self.add_prediction(product, rng)
        self.losses = self.experience.losses(self.nets, self.slow, batch, self.steps, rng)
        self.in_time()
        losses = dict(self.losses)
        if (critic_loss := self.get_critic_loss()) is not None:
            losses["critic"] = critic_loss
        told = self.experience.told(self.nets, batch)
        slow_down(self.optimisers, self.setup.learning_rate, max(self.spent, self.histories / self.horizon))
        try:
            roots = self.experience.roots()
            moved = descend(losses, self.setup.algorithm.moves, self.nets, self.optimisers, self.setup.clip, roots)
        except TrainingError as error:
            raise TrainingError(
                f"training stopped after {self.histories:,} histories: {error}; the last good save, if any, is kept at "
                f"{self.setup.model_agent_path}. Look for extreme attributes (`what-next data describe`), or "
                f"lower learning_rate ({self.setup.learning_rate:g})"
            ) from None
        follow(self.nets, self.slow, moved, self.setup.algorithm.pace)
        self.histories += self._counted()
        self.steps += 1
        return Step(
            losses={name: loss.item() for name, loss in losses.items()},
            reward=told.reward,
            value=told.value,
            fallback=told.share(product.fallback),
            matches=told.share(product.matches),
            masked=told.masked,
            targets=told.targets,
            notes=told.notes,
        )

    def in_time(self) -> None:
        """Raises `OutOfTime` after the deadline."""
        if time.perf_counter() > self.deadline:
            raise OutOfTime

    def _counted(self) -> int:
        """How many histories a batch is: of one that is cut into windows, the first counts."""
        before = self.history.before
        return len(self.history.users) if before is None else int((before == 0).sum())


def _slow(net: torch.nn.Module) -> torch.nn.Module:
    """A copy that learns nothing by itself."""
    return copy.deepcopy(net).eval().requires_grad_(False)


def _rows(net: torch.nn.Module) -> torch.nn.Parameter | None:
    """The item vectors of which a step moves the drawn rows alone, if there are any."""
    return net.items.learned if isinstance(net, Encoder) and net.items.sparse else None


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise SetupError("device is cuda, and PyTorch finds no CUDA device here; set `device, auto` or `device, cpu`")
    return torch.device(name)
