"""The losses and the slates of `slateq`, against numbers worked by hand and against every slate there is."""

from itertools import combinations
from math import log
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from what_next.algorithms import Slateq
from what_next.algorithms.base import LossContext
from what_next.algorithms.slateq import best_slate

from .worlds import choices, items_of

VECTORS = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]


class Fixed(nn.Module):
    """The same point in every state, and the same value of choosing none."""

    def __init__(self, point: list[float], none: float = 0.0) -> None:
        super().__init__()
        self.point, self.level = torch.tensor(point), none

    def forward(self, states: Tensor) -> Tensor:
        return self.point.expand(len(states), -1)

    def none(self, states: Tensor) -> Tensor:
        return torch.full((len(states),), self.level)


def context_of(clicks: list[list[float]], **more: Any) -> LossContext[Any]:
    slates = [[0, 1]] * len(clicks)
    batch = choices([[1.0, 0.0]] * len(clicks), slates, clicks, **more)
    critic, choice = Fixed([2.0, 4.0, 1.0], none=0.5), Fixed([log(2.0), 0.0, 0.0])
    nets = {"critic": critic, "choice": choice, "encoder": nn.Identity()}
    return LossContext(nets, nets, batch, items_of(VECTORS), 0, np.random.default_rng(0))


@pytest.fixture(autouse=True)
def any_critic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("what_next.algorithms.slateq.Values", Fixed)


def test_by_hand() -> None:
    """Values are 3, 5 and 7, weights 2, 1 and 2. The best two are the last and the first, with (.5 + 2*3 + 2*7) / 5 =
    4.1, or the last and the second, with (.5 + 5 + 14) / 4 = 4.875, which is better."""
    found = Slateq().losses(context_of([[1.0, 0.0], [0.0, 0.0]], rewards=[1.0, 2.0], discounts=[0.5, 0.0]))
    target = 1 + 0.5 * 4.875
    assert found["critic"].item() == pytest.approx(((3 - target) ** 2 + (0.5 - 2) ** 2) / 2 / 2)
    assert found["choice"].item() == pytest.approx((log(4 / 2) + log(4 / 1)) / 2)  # of the weights 2, 1 and 1


def test_of_several_clicks_each_is_learned_from() -> None:
    found = Slateq().losses(context_of([[1.0, 1.0]], rewards=[4.0], discounts=[0.0]))
    assert found["critic"].item() == pytest.approx(((3 - 4) ** 2 + (5 - 4) ** 2) / 2 / 2)
    assert found["choice"].item() == pytest.approx((log(4 / 2) + log(4 / 1)) / 2)


def test_what_was_not_answered_does_not_count() -> None:
    batch = context_of([[1.0, 0.0], [1.0, 0.0]], rewards=[1.0, 9.0], discounts=[0.0, 0.0], answered=[True, False])
    assert Slateq().losses(batch)["critic"].item() == pytest.approx((3 - 1) ** 2 / 2 / 2)


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_no_slate_is_better(slots: int) -> None:
    rng = np.random.default_rng(0)
    values, weights, none = rng.normal(size=(50, 7)), rng.normal(size=(50, 7)), rng.normal(size=50)
    scores, found = best_slate(*(torch.from_numpy(one) for one in (values, weights, none)), slots)
    for row in range(50):
        w = np.exp(weights[row])
        worth = {
            slate: (none[row] + (w * values[row])[list(slate)].sum()) / (1 + w[list(slate)].sum())
            for slate in combinations(range(7), slots)
        }
        best = max(worth, key=worth.__getitem__)
        assert found[row].item() == pytest.approx(worth[best])
        assert set(scores[row].topk(slots).indices.tolist()) == set(best)
