"""What every algorithm is."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float32
from pydantic import BaseModel
from torch import Tensor, nn

from what_next.models.actor_critic import Sizes
from what_next.models.heads import Point
from what_next.models.item_space import ItemSpace
from what_next.types import Events, Trajectories

Networks = Mapping[str, nn.Module]
Search = Mapping[str, tuple[Any, ...]]


WHEN_MADE: list[Callable[[type["Algorithm"]], None]] = []
"""Called with every further class of algorithms."""


class Algorithm(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """An algorithm: its hyper-parameters, its networks, which of them each loss may move, and the losses.

    It never touches an optimiser: `Agent.propagate` takes each loss's gradient for the networks in `moves` alone, and
    steps them. Losses that move the same networks are summed first. Networks named in `targets` have slow copies,
    which follow by `tau` after every step in which their network moved. The states and the item vectors are the
    encoder's: name it as well, or targets follow every step of it.

    This base learns from the log: the encoder's states after every event, the item that came next, its reward. Only
    `losses` and `moves` must be defined; what else may be is below, each with its default.
    """

    name: str
    moves: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    targets: ClassVar[tuple[str, ...]] = ()
    trials: ClassVar[bool] = False
    """It tries items whose reward is known, as the founding algorithm does, and reads the log as histories alone."""
    needs_critic: ClassVar[bool] = False
    """`propose` or `rescore` reads networks besides encoder and actor, so that those are loaded for inference too."""
    whole_catalogue: ClassVar[bool] = False
    """Its losses take gradients for the vectors of all items, whatever the setting `loss` says."""
    usual: ClassVar[Mapping[str, object]] = {
        "split": "leave_last_out",
        "dim": 128,
        "passes": 30,
        "batch_size": None,
        "dropout": 0.5,
        "learning_rate": 4e-3,
        "weight_decay": 0.1,
    }
    """Settings whose defaults are others for this algorithm than for `whatnext`; those of its bases hold too."""
    search: ClassVar[Search] = {}
    """Where `what-next tune` looks: a field (or a setting of the setup), and a pair of numbers or the values to try."""
    numbers: ClassVar[int] = 0
    """How many numbers `inputs` adds to each event."""
    reads_returns: ClassVar[bool] = False
    """`inputs` gives the encoder the returns, in training alone; rewards that know the future are refused then."""

    @classmethod
    def __pydantic_init_subclass__(cls, **more: Any) -> None:
        super().__pydantic_init_subclass__(**more)
        for told in WHEN_MADE:
            told(cls)

    @classmethod
    def defaults(cls) -> dict[str, object]:
        """`usual`, with that of the bases."""
        found: dict[str, object] = {}
        for base in reversed(cls.__mro__):
            found |= vars(base).get("usual", {})
        return found

    @property
    def pace(self) -> float:
        """How far a slow copy goes towards its network after a step (tau): the field `tau`, where there is one."""
        return float(getattr(self, "tau", 0.005))

    @property
    def explore(self) -> int:
        """With `trials`: how many random items the critic learns of besides the selected one, for each history."""
        return 0

    def networks(self, sizes: Sizes, vectors: Float32[np.ndarray, "items dim"], rng: np.random.Generator) -> Networks:
        """New networks besides the encoder; `actor` is saved in the agent's file, all others in the critic's.

        By default a policy, and Q values where a loss moves a `critic`.

        Args:
            sizes: `dim` is the width of the encoder's states and of the item vectors.
            vectors: attributes of the items that have a training event, standardised.
            rng: for what is drawn from them; the weights follow torch's own generator.
        """
        heads = {"actor": Point(sizes.dim)}
        if any("critic" in moved for moved in self.moves.values()):
            heads["critic"] = Point(sizes.dim, offset=True)
        return heads

    def inputs(self, events: Events, returns: Float[Tensor, "batch time"] | None) -> Events:
        """What the encoder reads. `returns` after each event are known in training alone; None: at inference."""
        return events

    def losses(
        self,
        nets: Networks,
        target: Networks,
        batch: Trajectories,
        items: ItemSpace,
        step: int,
        rng: np.random.Generator,
    ) -> dict[str, Tensor]:
        """The losses due at this step, by the names in `moves`: scalars that are means over the batch's steps.

        Args:
            nets: all networks, `encoder` among them; `target`: the slow copies of those in `targets`.
            batch: transitions; `items`: the vectors of all items, and what is computed over them.
            step: counts from 0.
            rng: all randomness of the losses.
        """
        raise NotImplementedError

    def estimates(self, nets: Networks, batch: Trajectories, items: ItemSpace) -> Float[Tensor, "steps"] | None:
        """What the critic expects of the items that came next (for reports and alarms); None: there is no critic."""
        critic = nets.get("critic")
        return items.values(critic(batch.states), batch.actions) if isinstance(critic, Point) else None

    def propose(
        self, nets: Networks, states: Float[Tensor, "*grid dim"], rng: np.random.Generator | None = None
    ) -> Float[Tensor, "*grid dim"]:
        """The actor's point in each state: items are ranked by their inner product with it (`vectors`)."""
        points: Tensor = nets["actor"](states)
        return points

    def vectors(self, vectors: Float[Tensor, "items dim"]) -> Float[Tensor, "items columns"]:
        """What the points of `propose` are multiplied with; for the nearest by distance, see `nearest`."""
        return vectors

    @property
    def rescored(self) -> int:
        """How many of the best items `rescore` puts in order anew; 0: none, -1: all."""
        return 0

    def rescore(
        self,
        nets: Networks,
        states: Float[Tensor, "batch dim"],
        vectors: Float[Tensor, "batch candidates dim"],
    ) -> Float[Tensor, "batch candidates"]:
        """Scores of some items, by their vectors, that go before the inner product."""
        raise NotImplementedError


def nearest(
    points: Float[Tensor, "*grid dim"], vectors: Float[Tensor, "items dim"]
) -> tuple[Float[Tensor, "*grid columns"], Float[Tensor, "items columns"]]:
    """Both, so that a larger inner product is a smaller Euclidean distance: |p - v|² = |p|² - 2 <p, v> + |v|²."""
    one = torch.ones_like(points[..., :1])
    return torch.cat([2 * points, one], -1), torch.cat([vectors, -vectors.square().sum(-1, keepdim=True)], -1)
