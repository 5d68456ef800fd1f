"""Hyper-actions: a point that scores all items, and items as points."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from what_next.algorithms.base import LossContext, Search, Updates
from what_next.algorithms.ddpg import Ddpg
from what_next.types import Transitions


class Hac(Ddpg):
    """Hyper-actor critic (Liu et al. 2023, arXiv 2302.03431): one critic values hyper-actions and effect-actions.

    The actor's point is the hyper-action Z; its inner product with the items' vectors chooses the effect-action. The
    inverse, from an item to a hyper-action, is the item's own vector: the paper's mean over a list, for a list of one.
    The critic learns at the hyper-actions inferred from the log, and the actor ascends it at Z. An alignment loss pulls
    Z to the vector of the item that it chooses, so that the critic is asked about regions in which it has learned. A
    supervised loss keeps the actor near the log; the paper needs it for stability, and offline learning even more so.

    Left out are lists of more than one item, and exploring noise on Z (a log cannot answer new actions). The supervised
    loss is the next item's cross entropy, not the binary one, because a log of choices has no items that were shown and
    not chosen. The paper's kernel, a map of item features, is the encoder's own map to item vectors.
    """

    name: Literal["hac"] = "hac"  # type: ignore[assignment]
    linear: ClassVar[bool] = True
    search: ClassVar[Search] = {"sharpness": (5.0, 20.0), "climbing": (0.03, 1.0), "discount": (0.0, 0.9)}
    candidates: int = Field(default=1, ge=1, le=1, description="the item nearest to the point is taken")
    supervised: float = Field(default=1.0, ge=0, description="weight of the next item's cross entropy under the actor")
    climbing: float = Field(default=0.1, ge=0, description="weight of the critic's value in the actor's loss")
    alignment: float = Field(default=0.1, ge=0, description="weight of a point's squared distance to its item")
    updates: ClassVar[Updates] = {
        "critic": ("encoder", "critic"),
        "supervised": ("encoder", "actor"),
        "actor": ("actor",),
        "alignment": ("actor",),
    }
    needs_critic: ClassVar[bool] = False

    def supervise(self, context: LossContext[Transitions]) -> Tensor:
        """The points of the supervised loss: the hyper-actions."""
        points: Tensor = context.nets["actor"](context.batch.states)
        return points

    def actor_losses(self, context: LossContext[Transitions]) -> dict[str, Tensor]:
        """Minus the critic's value at the hyper-action, and the hyper-action's distance from the effect-action."""
        points, values = self.climb(context)
        effect = context.items.rows(context.items.best(points)[1]).detach()
        return {
            "actor": -self.climbing * values.mean(),
            "alignment": self.alignment * (points - effect).square().sum(-1).mean(),
        }
