"""The value of every item, learnt from the log, and the best of them."""

from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float, Float32
from pydantic import Field
from torch import Tensor

from what_next.algorithms.base import Algorithm, LossContext, Networks, Search, Updates
from what_next.algorithms.double_q import double_q_target
from what_next.losses.rl import td_loss
from what_next.models.actor_critic import Sizes
from what_next.models.heads import Point
from what_next.types import Transitions


class Dqn(Algorithm):
    """Double DQN (van Hasselt et al. 2016, arXiv 1509.06461) on the encoder's states; recommends by value.

    Value learning alone: nothing holds it to the log. An item that never came after a state has an estimate there that
    no reward has corrected, and the best of all items is often such a one (Fujimoto et al. 2019, arXiv 1812.02900,
    section 3). It is the floor for `cql` and `bcq`, which mend that.
    """

    name: Literal["dqn"] = "dqn"
    search: ClassVar[Search] = {"tau": (0.002, 0.05), "discount": (0.0, 0.9)}
    tau: float = Field(default=0.005, gt=0, le=1, description="how far the target networks follow after a step")
    replays: ClassVar[bool] = True
    updates: ClassVar[Updates] = {"critic": ("encoder", "critic")}
    targets: ClassVar[tuple[str, ...]] = ("encoder", "critic")
    needs_critic: ClassVar[bool] = True

    def networks(self, sizes: Sizes, vectors: Float32[np.ndarray, "items dim"], rng: np.random.Generator) -> Networks:
        """See `Algorithm.networks`."""
        return {"critic": Point(sizes.dim, offset=True)}

    def losses(self, context: LossContext[Transitions]) -> dict[str, Tensor]:
        """Half the squared error of temporal differences, towards the target of "Double DQN"."""
        return {"critic": td_loss(context.values(), double_q_target(context))}

    def propose(
        self, nets: Networks, states: Float[Tensor, "*grid dim"], rng: np.random.Generator | None = None
    ) -> Float[Tensor, "*grid dim"]:
        """The critic's point; what is added to every item's value orders nothing."""
        points: Tensor = nets["critic"](states)[..., :-1]
        return points
