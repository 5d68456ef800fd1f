"""The supervised floor."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from what_next.algorithms.base import Algorithm, Networks
from what_next.models.item_space import ItemSpace
from what_next.types import Trajectories


class NextItem(Algorithm):
    """What comes next is learnt as it was, by cross entropy (as in GRU4Rec: Hidasi et al. 2016, arXiv 1511.06939).

    No reward, no critic: the floor that every other algorithm is judged against, tuned with the same care.
    """

    name: Literal["next_item"] = "next_item"
    moves: ClassVar[Mapping[str, tuple[str, ...]]] = {"actor": ("encoder", "actor")}

    def losses(
        self,
        nets: Networks,
        target: Networks,
        batch: Trajectories,
        items: ItemSpace,
        step: int,
        rng: np.random.Generator,
    ) -> dict[str, Tensor]:
        """The cross entropy of the item that came next."""
        return {"actor": items.cross_entropy(nets["actor"](batch.states), batch.actions)}
