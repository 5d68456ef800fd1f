"""The supervised head, with a value of every item beside it on the same encoder."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from what_next.algorithms.base import REWARDED, Algorithm, LossContext, Search, Updates
from what_next.algorithms.dqn import double_q_target
from what_next.losses.rl import td_loss
from what_next.types import Transitions


class Sqn(Algorithm):
    """Self-supervised Q-learning (SQN: Xin et al. 2020, arXiv 2006.05779).

    The critic is a regulariser: its loss reaches the encoder and the item vectors, and recommendations are those of the
    supervised head, which learns what came next as it was. So this is imitation on states that know of rewards; where
    the log itself chooses badly, so does this. The paper learns two critics in turn, each on an encoder of its own;
    here is one, on the shared encoder, and a target network of the whole.
    """

    name: Literal["sqn"] = "sqn"
    monitors: ClassVar[tuple[str, ...]] = REWARDED
    linear: ClassVar[bool] = True
    search: ClassVar[Search] = {"weight": (0.05, 2.0), "discount": (0.0, 0.9)}
    weight: float = Field(default=0.5, ge=0, description="of the critic's loss beside the supervised one")
    tau: float = Field(default=0.005, gt=0, le=1, description="how far the target networks follow after a step")
    updates: ClassVar[Updates] = {"actor": ("encoder", "actor"), "critic": ("encoder", "critic")}
    targets: ClassVar[tuple[str, ...]] = ("encoder", "critic")

    def losses(self, context: LossContext[Transitions]) -> dict[str, Tensor]:
        """The paper's L_s (cross entropy) and L_q (squared error of temporal differences; half of it here)."""
        return {
            "actor": context.cross_entropy(),
            "critic": self.weight * td_loss(context.values(), double_q_target(context)),
        }
