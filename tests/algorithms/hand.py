"""Two steps and networks whose every number is set, for losses worked by hand: three items, two columns.

State A = (1, -1), in which item 1 came next and earned 1; B = (1, 1) follows it. In B item 0 earned 2, and the history
ended.

|                          | in A            | in B          |
|--------------------------|-----------------|---------------|
| critic                   | 1.5, -1.5, -0.5 | 1.5, 2.5, 3.5 |
| its slow copy            | 2, 2, 3         | 4, 0, 3       |
| actor (logits)           | 1, -1, 0        | 1, 1, 2       |
| its slow copy            | 0, 0, 0         | 0, 0, 0       |
| behaviour (to its best)  | 1, 1/2, 1/4     | 1, 1/2, 1/4   |
| value                    | 0.5             | 4.5           |
"""

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from what_next.types import Transitions

from .worlds import Head, transitions

VECTORS = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
RNG = np.random.default_rng(0)
CROSS_ENTROPY = (2.4076059, 1.5514447)  # of the actor's logits, for what came next


class Number(Head):
    """A number for each state."""

    def forward(self, states: Tensor) -> Tensor:
        return super().forward(states).squeeze(-1)


def networks() -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """The networks of the table, and the slow copies."""
    nets: dict[str, nn.Module] = {
        "actor": Head([[1.0, 0.0], [0.0, 1.0]]),
        "critic": Head([[1.0, 0.0, 0.5], [0.0, 2.0, 0.0]]),
        "behaviour": Head([[-math.log(2), -math.log(4)], [0.0, 0.0]]),
        "value": Number([[2.5], [2.0]]),
    }
    return nets, {"critic": Head([[2.0, 0.0, 1.0], [1.0, -1.0, 0.0]]), "actor": Head([[0.0, 0.0], [0.0, 0.0]])}


def batch(actions: Sequence[int] = (1, 0)) -> Transitions:
    """The two steps."""
    return transitions(
        [[1.0, -1.0], [1.0, 1.0]],
        actions,
        rewards=[1.0, 2.0],
        next_states=[[1.0, 1.0], [1.0, -1.0]],
        discounts=[0.5, 0.0],
    )


def halves(*errors: float) -> float:
    """The mean of half the squares."""
    return sum(error**2 for error in errors) / 2 / len(errors)


def weighted(*weights: float) -> float:
    """The actor's cross entropy, each step weighted."""
    return sum(weight * entropy for weight, entropy in zip(weights, CROSS_ENTROPY, strict=True)) / 2
