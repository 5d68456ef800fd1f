"""The supervised head, with a critic of every item beside it on the same encoder."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from what_next.algorithms.base import REWARDED, Algorithm, LossContext, Search, Updates
from what_next.algorithms.dqn import double_q_target
from what_next.losses.rl import td_loss
from what_next.types import Transitions


class Sqn(Algorithm):
    """Self-supervised Q-learning (SQN: Xin et al. 2020, arXiv 2006.05779).

    The critic is a regulariser: its loss reaches the encoder and the item vectors, but the supervised head, which
    imitates the log, recommends. So this is imitation on states that know of rewards; if the log chooses badly, so does
    this. The paper learns two critics in turn, each with its own encoder; here one critic is on the shared encoder,
    with a target network of both.
    """

    name: Literal["sqn"] = "sqn"
    monitors: ClassVar[tuple[str, ...]] = REWARDED
    linear: ClassVar[bool] = True
    search: ClassVar[Search] = {"weight": (0.05, 2.0), "discount": (0.0, 0.9)}
    weight: float = Field(default=0.5, ge=0, description="weight of the critic's loss; the supervised one's is 1")
    tau: float = Field(default=0.005, gt=0, le=1, description="how far the target networks follow after a step")
    updates: ClassVar[Updates] = {"actor": ("encoder", "actor"), "critic": ("encoder", "critic")}
    targets: ClassVar[tuple[str, ...]] = ("encoder", "critic")

    def losses(self, context: LossContext[Transitions]) -> dict[str, Tensor]:
        """The paper's L_s (cross entropy) and L_q (squared error of temporal differences; half of it here)."""
        return {
            "actor": context.cross_entropy(),
            "critic": self.weight * td_loss(context.values(), double_q_target(context)),
        }
