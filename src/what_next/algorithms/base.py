"""The base class of all algorithms, and the context of their losses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from pydantic import BaseModel
from torch import Tensor, nn

from what_next.errors import Explained, TrainingError
from what_next.models.actor_critic import Sizes
from what_next.models.heads import Point, Value
from what_next.models.item_space import ItemSpace
from what_next.types import Choices, Events, Shown, Transitions

Networks = Mapping[str, nn.Module]
Updates = Mapping[str, tuple[str, ...]]
"""For each loss, the networks that it updates."""
Search = Mapping[str, tuple[Any, ...]]
Steps = TypeVar("Steps")
States = Float[Tensor, "*grid dim"]
Points = Float[Tensor, "*grid columns"]
Candidates = Float[Tensor, "batch candidates dim"]
Rng = np.random.Generator | None
HEADS: Mapping[str, Callable[[int], nn.Module]] = {
    "actor": Point,
    "critic": partial(Point, offset=True),
    "behaviour": Point,
    "value": Value,
}
"""The networks made by default, by name."""


@dataclass(frozen=True, eq=False)
class Root:
    """The point where losses end and a network's backward pass begins: losses read `leaf`, and its total gradient is
    passed on to `output` once."""

    output: Tensor
    leaf: Tensor


@dataclass(frozen=True, eq=False)
class Part:
    """The part of a batch that one of several processes learns from (`training.distributed`).

    Attributes:
        rows: rows of the batch; `steps`: positions of their steps among the `total` steps of the whole batch.
        weight: weight of the part's means in those of the whole batch.
        summed: sums values over all parts, without gradient.
    """

    rows: slice
    steps: Int64[np.ndarray, "steps"]
    total: int
    weight: float
    summed: Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class LossContext(Generic[Steps]):
    """The inputs of one step's losses.

    Attributes:
        nets: all networks, `encoder` among them; `targets`: the target networks of those in `Algorithm.targets`.
        batch: the steps to learn from.
        items: the vectors of all items, and computations over them.
        step: counts from 0.
        rng: source of all randomness of the losses.
        roots: for each network, where its one backward pass for all losses starts.
        metrics: numbers from the losses for reports and alarms, by name.
        part: which part of a batch `batch` is, if several processes share it; None: the whole.
    """

    nets: Networks
    targets: Networks
    batch: Steps
    items: ItemSpace
    step: int
    rng: np.random.Generator
    roots: Mapping[str, list[Root]] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    part: Part | None = None

    def cross_entropy(
        self: "LossContext[Transitions]", weights: Float[Tensor, "steps"] | None = None
    ) -> Float[Tensor, ""]:
        """The cross entropy of the chosen items under the actor, weighted by step.

        Without `weights`, they are imitated (weights of `imitated`).
        """
        weights = self.imitated if weights is None else weights
        return self.items.cross_entropy(self.nets["actor"](self.batch.states), self.batch.actions, weights)

    @property
    def imitated(self: "LossContext[Transitions]") -> Float[Tensor, "steps"] | None:
        """Weights of the chosen items for imitation: None (all equal) if users chose them, the reward they brought if a
        service showed them, and in a world whether they were clicked."""
        if isinstance(self.batch, Choices):
            return self.batch.clicks[:, 0]
        return self.batch.weights if isinstance(self.batch, Shown) else None

    def values(self: "LossContext[Transitions]") -> Float[Tensor, "steps"]:
        """The critic's values of the chosen items."""
        return self.items.values(self.nets["critic"](self.batch.states), self.batch.actions)

    def mean(self, values: Float[Tensor, "steps"]) -> Float[Tensor, ""]:
        """The mean over the steps of the whole batch, without gradient; for losses that are no plain means of steps."""
        if self.part is None:
            return values.detach().mean()
        return self.part.summed(values.sum() * (self.part.weight > 0)) / max(1, self.part.total)

    def draw(self: "LossContext[Transitions]", numbers: Callable[[int], np.ndarray]) -> Tensor:
        """Random numbers for each step, the same however a batch is shared out; `numbers` draws them for n steps."""
        steps = self.batch.actions
        drawn = numbers(len(steps)) if self.part is None else numbers(self.part.total)[self.part.steps]
        return torch.from_numpy(drawn).to(steps.device)


REWARDED = ("dcg@10", "ndcg@10", "hr@10")
"""`Algorithm.monitors` of algorithms whose losses read rewards."""


class Algorithm(Explained, BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """An algorithm: its hyper-parameters, its networks, which of them each loss updates, and the losses.

    It never touches an optimiser: `Agent.propagate` takes each loss's gradient only for the networks in `updates`, and
    steps those. Losses that update the same networks are summed first. Networks named in `targets` have target
    networks, which follow by `tau` after every step in which their network changed (Polyak averaging). The states and
    the item vectors belong to the encoder: without a target encoder, targets follow its every step.

    By default, an algorithm reads an encoder's state after every event, the item chosen there, and its reward. Only
    `losses` and `updates` must be defined; everything else below has a default.
    """

    name: str
    updates: ClassVar[Updates] = {}
    targets: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = "log"
    """Default source of its batches: a name of `sources.SOURCES`."""
    replays: ClassVar[bool] = False
    """In a world, it learns from a replay of all play (`sources.ReplaySource`); `slates`: also from slates of several
    items."""
    slates: ClassVar[bool] = False
    episodes: ClassVar[bool] = False
    """In a world, it learns from whole episodes, whose returns are known and need no estimate."""
    by_attributes: ClassVar[bool] = False
    """It proposes points among the items' attributes, and an item near the point is drawn; else it scores items."""
    one_step: ClassVar[bool] = False
    """Its critic predicts only the reward of the step, no later one."""
    least_events: ClassVar[int] = 2
    """Fewest events of a history from which anything can be learned."""
    monitors: ClassVar[tuple[str, ...]] = ("ndcg@10", "hr@10", "dcg@10")
    """The measures on the validation users that may choose the best model (`spread` is another). The default is the
    first that the log allows: `dcg@10`, whose gain is the reward of the item, needs rewards that differ."""
    encoders: ClassVar[tuple[str, ...]] = ()
    """The only values of `model` that it supports; empty: any."""
    ignores: ClassVar[frozenset[str]] = frozenset()
    """Settings that it does not read."""
    needs_critic: ClassVar[bool] = False
    """`propose` or `rescore` reads networks besides encoder and actor, so inference loads them too."""
    whole_catalogue: ClassVar[bool] = False
    """Its losses give gradients to the vectors of all items, whatever the setting `loss` says."""
    preset: ClassVar[Mapping[str, object]] = {
        "split": "leave_last_out",
        "dim": 128,
        "passes": 60,
        "patience": 2,
        "batch_size": None,
        "dropout": None,
        "learning_rate": 2e-3,
        "weight_decay": 0.1,
    }
    """Settings whose defaults differ from those of `whatnext`; an algorithm inherits its bases' entries."""
    search: ClassVar[Search] = {}
    """The search space of `what-next tune`: for a field or setting, a range (pair of numbers) or the values to try."""
    linear: ClassVar[bool] = False
    """Whether a linear model of items on items may be beside the encoder (`models.linear`): only if at least one loss
    learns the score from what came next, and not if the score is a value."""
    extra_features: ClassVar[int] = 0
    """How many numbers `inputs` adds to each event."""
    reads_returns: ClassVar[bool] = False
    """`inputs` gives the encoder the returns in training; rewards that know the future are then refused."""

    @classmethod
    def defaults(cls) -> dict[str, object]:
        """`preset`, merged with that of the bases."""
        found: dict[str, object] = {}
        for base in reversed(cls.__mro__):
            found |= vars(base).get("preset", {})
        return found

    @classmethod
    def learns_from_decisions(cls) -> bool:
        """Whether it can learn from what a service showed: it needs transitions, and no returns as inputs."""
        return cls.source in ("log", "decisions") and not cls.reads_returns

    @property
    def draws_points(self) -> bool:
        """Whether it explores by drawing points, for which the best items are taken; otherwise it draws items."""
        return False

    @property
    def unready(self) -> int:
        """Steps of its warm-up (`warm_up`), in which its losses are incomplete; no model of it is kept as the best."""
        return int(getattr(self, "warm_up", 0) or 0)

    @property
    def polyak(self) -> float:
        """The step of a target network towards its network: the field `tau`, if there is one."""
        return float(getattr(self, "tau", 0.005))

    @property
    def explore(self) -> int:
        """With bandit feedback: number of random items per step that the critic learns besides the selected one."""
        return 0

    def networks(self, sizes: Sizes, vectors: Float32[np.ndarray, "items dim"], rng: np.random.Generator) -> Networks:
        """New networks besides the encoder; `actor` is saved in the agent's file, all others in the critic's.

        By default, the networks of `HEADS` that a loss updates: an `actor` and a `behaviour` that score items (an actor
        also if `propose` reads it), Q values (`critic`), and the value of a state (`value`).

        Args:
            sizes: `dim` is the width of the encoder's states and of the item vectors.
            vectors: attributes of the items that have a training event, standardised.
            rng: source of draws from them; the weights use torch's own generator.
        """
        named = {name for updated in self.updates.values() for name in updated}
        if type(self).propose is Algorithm.propose:
            named.add("actor")
        return {name: head(sizes.dim) for name, head in HEADS.items() if name in named}

    def inputs(self, events: Events, returns: Float[Tensor, "batch time"] | None) -> Events:
        """The encoder's inputs. `returns` after each event are known only in training; None at inference."""
        return events

    def losses(self, context: LossContext[Transitions]) -> dict[str, Tensor]:
        """The losses due at this step, by their names in `updates`: scalars that are means over the batch's steps."""
        raise TrainingError(f"the algorithm {self.name} defines no losses")

    def estimates(self, nets: Networks, batch: Transitions, items: ItemSpace) -> Float[Tensor, "steps"] | None:
        """The critic's values of the items that came next (for reports and alarms); None: there is no critic."""
        critic = nets.get("critic")
        return items.values(critic(batch.states), batch.actions) if isinstance(critic, Point) else None

    def propose(self, nets: Networks, states: States, rng: Rng = None) -> Points:
        """The actor's point in each state: items are ranked by their inner product with it (`vectors`)."""
        points: Tensor = nets["actor"](states)
        return points

    def vectors(self, vectors: Float[Tensor, "items dim"]) -> Float[Tensor, "items columns"]:
        """The columns that the points of `propose` are multiplied with; for the nearest by distance, see `nearest`."""
        return vectors

    def columns(self, nets: Networks, vectors: Float[Tensor, "items dim"]) -> Float[Tensor, "items columns"]:
        """As `vectors`, for an algorithm whose columns depend on its actor."""
        return self.vectors(vectors)

    def traits(self, nets: Networks, vectors: Float[Tensor, "items dim"]) -> Float[Tensor, "items traits"] | None:
        """Traits by which an item keeps similar items out of a slate (`types.Ranked`); None: it does not."""
        return None

    @property
    def priced(self) -> bool:
        """Whether items are ranked by the click probability less a price (`types.Ranked`)."""
        return False

    @property
    def rescored(self) -> int:
        """How many of the best items `rescore` reorders; 0: none, -1: all."""
        return 0

    def rescore(self, nets: Networks, states: States, vectors: Candidates) -> Float[Tensor, "batch candidates"]:
        """Scores of some items from their vectors; they replace the order by inner product."""
        raise NotImplementedError


def nearest(
    points: Float[Tensor, "*grid dim"], vectors: Float[Tensor, "items dim"]
) -> tuple[Float[Tensor, "*grid columns"], Float[Tensor, "items columns"]]:
    """Points and vectors whose inner product rises as Euclidean distance falls: |p - v|² = |p|² - 2 <p, v> + |v|²."""
    one = torch.ones_like(points[..., :1])
    return torch.cat([2 * points, one], -1), torch.cat([vectors, -vectors.square().sum(-1, keepdim=True)], -1)


def largest(weights: Float[Tensor, "steps"]) -> float:
    """The largest of some weights, for the alarms; 0 without steps."""
    return float(weights.detach().max()) if len(weights) else 0.0
