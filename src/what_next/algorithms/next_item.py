"""The supervised baseline."""

from typing import ClassVar, Literal

from torch import Tensor

from what_next.algorithms.base import Algorithm, LossContext, Updates
from what_next.types import Transitions


class NextItem(Algorithm):
    """Supervised learning of the next item, by cross entropy (as in GRU4Rec: Hidasi et al. 2016, arXiv 1511.06939).

    No reward, no critic: the baseline that every other algorithm is judged against, tuned with the same care.
    """

    name: Literal["next_item"] = "next_item"
    updates: ClassVar[Updates] = {"actor": ("encoder", "actor")}
    linear: ClassVar[bool] = True

    def losses(self, context: LossContext[Transitions]) -> dict[str, Tensor]:
        """The cross entropy of the item that came next."""
        return {"actor": context.cross_entropy()}
