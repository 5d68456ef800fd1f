"""What every algorithm is."""

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
"""Of each loss the networks that it updates."""
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
"""What networks are by their names, where an algorithm makes no others."""


@dataclass(frozen=True, eq=False)
class Root:
    """Where losses end and a network begins: they see `leaf`, and its gradient goes on into `output`, all at once."""

    output: Tensor
    leaf: Tensor


@dataclass(frozen=True, eq=False)
class Part:
    """The part of a batch that one of several processes learns from (`training.distributed`).

    Attributes:
        rows: of the batch; `steps`: places of their steps among the `total` of the whole batch.
        weight: of its means in those of the whole batch.
        summed: gives the sums of some numbers over all parts, without gradient.
    """

    rows: slice
    steps: Int64[np.ndarray, "steps"]
    total: int
    weight: float
    summed: Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class LossContext(Generic[Steps]):
    """What the losses of one step are computed from.

    Attributes:
        nets: all networks, `encoder` among them; `targets`: the target networks of those in `Algorithm.targets`.
        batch: the steps to learn from.
        items: the vectors of all items, and what is computed over them.
        step: counts from 0.
        rng: all randomness of the losses.
        roots: by network, where its one backward pass for all losses starts.
        metrics: numbers that the losses leave for reports and alarms, by name.
        part: which part of a batch `batch` is, where several processes share it; None: the whole.
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
        """Of the chosen items under the actor, weighted by step.

        Without `weights` they are imitated (`imitated`).
        """
        weights = self.imitated if weights is None else weights
        return self.items.cross_entropy(self.nets["actor"](self.batch.states), self.batch.actions, weights)

    @property
    def imitated(self: "LossContext[Transitions]") -> Float[Tensor, "steps"] | None:
        """Weights of the chosen items for a loss that imitates: what a user chose counts alike (None), what was shown
        by what it brought, and in a world by whether it was clicked."""
        if isinstance(self.batch, Choices):
            return self.batch.clicks[:, 0]
        return self.batch.weights if isinstance(self.batch, Shown) else None

    def values(self: "LossContext[Transitions]") -> Float[Tensor, "steps"]:
        """The critic's values of the chosen items."""
        return self.items.values(self.nets["critic"](self.batch.states), self.batch.actions)

    def mean(self, values: Float[Tensor, "steps"]) -> Float[Tensor, ""]:
        """The mean over the steps of the whole batch, without gradient: for a loss that is no mean over steps alone."""
        if self.part is None:
            return values.detach().mean()
        return self.part.summed(values.sum() * (self.part.weight > 0)) / max(1, self.part.total)

    def draw(self: "LossContext[Transitions]", numbers: Callable[[int], np.ndarray]) -> Tensor:
        """Numbers drawn for each step: the same however a batch is shared out. `numbers` draws them for so many."""
        steps = self.batch.actions
        drawn = numbers(len(steps)) if self.part is None else numbers(self.part.total)[self.part.steps]
        return torch.from_numpy(drawn).to(steps.device)


REWARDED = ("dcg@10", "ndcg@10", "hr@10")
"""`Algorithm.monitors` of those whose losses read rewards."""


class Algorithm(Explained, BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """An algorithm: its hyper-parameters, its networks, which of them each loss updates, and the losses.

    It never touches an optimiser: `Agent.propagate` takes each loss's gradient for the networks in `updates` alone, and
    steps them. Losses that update the same networks are summed first. Networks named in `targets` have target networks,
    which follow by `tau` after every step in which their network changed (Polyak averaging). The states and the item
    vectors are the encoder's: name it as well, or targets follow every step of it.

    This base reads an encoder's states after every event, the item that was chosen there, its reward. Only `losses` and
    `updates` must be defined; what else may be is below, each with its default.
    """

    name: str
    updates: ClassVar[Updates] = {}
    targets: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = "log"
    """Where its batches come from by default: a name of `sources.SOURCES`."""
    replays: ClassVar[bool] = False
    """In a world it learns from all that was played there (`sources.ReplaySource`); `slates`: also of several items."""
    slates: ClassVar[bool] = False
    episodes: ClassVar[bool] = False
    """In a world it learns from whole episodes: what followed a choice is known, and never estimated."""
    by_attributes: ClassVar[bool] = False
    """It proposes points among the items' attributes, for whose box an item is drawn; otherwise it scores all items."""
    one_step: ClassVar[bool] = False
    """Its critic foresees the reward of the step alone, and no later one."""
    least_events: ClassVar[int] = 2
    """The fewest events of a history that teach anything."""
    monitors: ClassVar[tuple[str, ...]] = ("ndcg@10", "hr@10", "dcg@10")
    """What may be measured on the validation users (`spread`, too); by default the first that the log can be measured
    by: `dcg@10`, whose gain is what the log says that the item brought, needs rewards that differ."""
    encoders: ClassVar[tuple[str, ...]] = ()
    """The only names of `model` that it knows; none: any."""
    ignores: ClassVar[frozenset[str]] = frozenset()
    """Settings that it does not read."""
    needs_critic: ClassVar[bool] = False
    """`propose` or `rescore` reads networks besides encoder and actor, so that those are loaded for inference too."""
    whole_catalogue: ClassVar[bool] = False
    """Its losses take gradients for the vectors of all items, whatever the setting `loss` says."""
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
    """Settings whose defaults are others for this algorithm than for `whatnext`; those of its bases hold too."""
    search: ClassVar[Search] = {}
    """Where `what-next tune` looks: a field (or a setting of the setup), and a pair of numbers or the values to try."""
    linear: ClassVar[bool] = False
    """A linear model of items by items may stand beside the encoder (`models.linear`): where the score is learned from
    what came next, if only as one of several losses, and not where it is a value."""
    extra_features: ClassVar[int] = 0
    """How many numbers `inputs` adds to each event."""
    reads_returns: ClassVar[bool] = False
    """`inputs` gives the encoder the returns, in training alone; rewards that know the future are refused then."""

    @classmethod
    def defaults(cls) -> dict[str, object]:
        """`preset`, with that of the bases."""
        found: dict[str, object] = {}
        for base in reversed(cls.__mro__):
            found |= vars(base).get("preset", {})
        return found

    @classmethod
    def learns_from_decisions(cls) -> bool:
        """Whether it can learn from what a service showed: from transitions, and what is still to come is no input."""
        return cls.source in ("log", "decisions") and not cls.reads_returns

    @property
    def draws_points(self) -> bool:
        """Whether it explores by points that it draws; the best items are taken for each. Else it draws items."""
        return False

    @property
    def unready(self) -> int:
        """Steps in which its losses still leave out what it is about (`warm_up`); no model from before is the best."""
        return int(getattr(self, "warm_up", 0) or 0)

    @property
    def polyak(self) -> float:
        """How far a target network goes towards its network after a step: the field `tau`, where there is one."""
        return float(getattr(self, "tau", 0.005))

    @property
    def explore(self) -> int:
        """With bandit feedback: how many random items the critic learns of besides the selected one, at each step."""
        return 0

    def networks(self, sizes: Sizes, vectors: Float32[np.ndarray, "items dim"], rng: np.random.Generator) -> Networks:
        """New networks besides the encoder; `actor` is saved in the agent's file, all others in the critic's.

        By default those of these that a loss updates: an `actor` and a `behaviour` that score items (an actor also
        where `propose` reads it), Q values (`critic`), and the value of a state (`value`).

        Args:
            sizes: `dim` is the width of the encoder's states and of the item vectors.
            vectors: attributes of the items that have a training event, standardised.
            rng: for what is drawn from them; the weights follow torch's own generator.
        """
        named = {name for updated in self.updates.values() for name in updated}
        if type(self).propose is Algorithm.propose:
            named.add("actor")
        return {name: head(sizes.dim) for name, head in HEADS.items() if name in named}

    def inputs(self, events: Events, returns: Float[Tensor, "batch time"] | None) -> Events:
        """What the encoder reads. `returns` after each event are known in training alone; None: at inference."""
        return events

    def losses(self, context: LossContext[Transitions]) -> dict[str, Tensor]:
        """The losses due at this step, by the names in `updates`: scalars that are means over the batch's steps."""
        raise TrainingError(f"the algorithm {self.name} defines no losses")

    def estimates(self, nets: Networks, batch: Transitions, items: ItemSpace) -> Float[Tensor, "steps"] | None:
        """What the critic expects of the items that came next (for reports and alarms); None: there is no critic."""
        critic = nets.get("critic")
        return items.values(critic(batch.states), batch.actions) if isinstance(critic, Point) else None

    def propose(self, nets: Networks, states: States, rng: Rng = None) -> Points:
        """The actor's point in each state: items are ranked by their inner product with it (`vectors`)."""
        points: Tensor = nets["actor"](states)
        return points

    def vectors(self, vectors: Float[Tensor, "items dim"]) -> Float[Tensor, "items columns"]:
        """What the points of `propose` are multiplied with; for the nearest by distance, see `nearest`."""
        return vectors

    def columns(self, nets: Networks, vectors: Float[Tensor, "items dim"]) -> Float[Tensor, "items columns"]:
        """The same for an algorithm whose actor has a say in it."""
        return self.vectors(vectors)

    def traits(self, nets: Networks, vectors: Float[Tensor, "items dim"]) -> Float[Tensor, "items traits"] | None:
        """By which an item keeps like ones out of a slate (`types.Ranked`); None: it does not."""
        return None

    @property
    def priced(self) -> bool:
        """Whether items are taken by the chance of a click, less what it costs (`types.Ranked`)."""
        return False

    @property
    def rescored(self) -> int:
        """How many of the best items `rescore` puts in order anew; 0: none, -1: all."""
        return 0

    def rescore(self, nets: Networks, states: States, vectors: Candidates) -> Float[Tensor, "batch candidates"]:
        """Scores of some items, by their vectors, that go before the inner product."""
        raise NotImplementedError


def nearest(
    points: Float[Tensor, "*grid dim"], vectors: Float[Tensor, "items dim"]
) -> tuple[Float[Tensor, "*grid columns"], Float[Tensor, "items columns"]]:
    """Both, so that a larger inner product is a smaller Euclidean distance: |p - v|² = |p|² - 2 <p, v> + |v|²."""
    one = torch.ones_like(points[..., :1])
    return torch.cat([2 * points, one], -1), torch.cat([vectors, -vectors.square().sum(-1, keepdim=True)], -1)


def largest(weights: Float[Tensor, "steps"]) -> float:
    """The largest of some weights, for the alarms; 0 without steps."""
    return float(weights.detach().max()) if len(weights) else 0.0
