"""Values of all items, with a penalty on values that the log does not support."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from what_next.algorithms.base import LossContext, Search
from what_next.algorithms.dqn import Dqn
from what_next.losses.rl import mean
from what_next.types import Transitions


class Cql(Dqn):
    """Conservative Q-learning (Kumar et al. 2020, arXiv 2006.04779) on `dqn`: CQL(H), for a discrete choice.

    The penalty log sum exp Q(s, .) - Q(s, a) is added to the temporal differences. It lowers the values of all items
    and raises that of the item that came next. It is the cross entropy of softmax(Q): a large `alpha` gives imitation,
    0 gives `dqn`. So `alpha` balances frequency against reward in the order of the items; its unit is squared rewards
    per nat.
    """

    name: Literal["cql"] = "cql"  # type: ignore[assignment]
    whole_catalogue: ClassVar[bool] = True
    replays: ClassVar[bool] = False
    search: ClassVar[Search] = {"alpha": (0.1, 30.0), "discount": (0.0, 0.9)}
    alpha: float = Field(default=1.0, ge=0, description="weight of the penalty on values; 0: none, large: imitation")

    def losses(self, context: LossContext[Transitions]) -> dict[str, Tensor]:
        """Equation 4: half the squared error of temporal differences, and alpha times the penalty."""
        error = super().losses(context)["critic"]
        if not self.alpha:
            return {"critic": error}
        batch, items = context.batch, context.items
        points = context.nets["critic"](batch.states)
        if items.loss == "gbce":  # not the cross entropy of a softmax, so the sum over all items is needed
            penalty = mean(items.logsumexp(points) - items.values(points, batch.actions))
        else:
            penalty = items.cross_entropy(points, batch.actions)
        context.metrics["penalty"] = float(penalty.detach())
        return {"critic": error + self.alpha * penalty}
