"""Losses of learning by acting, against numbers worked by hand."""

from itertools import permutations
from math import exp, log

import pytest
import torch

from what_next.losses import rl as losses


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None]


class TestGae:
    def test_by_hand(self) -> None:
        # deltas: 1 + .5 * 4 - 2 = 1 and 3 + .5 * 6 - 4 = 2; the first is 1 + .5 * .8 * 2.
        found = losses.gae(column(1, 3), column(2, 4), column(4, 6), column(0.5, 0.5), column(0.8, 0.8))
        assert found[:, 0].tolist() == pytest.approx([1.8, 2])

    def test_where_a_user_left_nothing_follows(self) -> None:
        found = losses.gae(column(1, 3), column(2, 4), column(100, 6), column(0, 0.5), column(0, 0.8))
        assert found[:, 0].tolist() == pytest.approx([-1, 2])

    def test_a_time_limit_is_bootstrapped_and_the_next_row_is_another_ones(self) -> None:
        found = losses.gae(column(1, 3), column(2, 4), column(10, 6), column(0.5, 0.5), column(0, 0.8))
        assert found[:, 0].tolist() == pytest.approx([1 + 5 - 2, 2])

    def test_with_a_trace_of_one_it_is_the_return_less_the_value(self) -> None:
        rewards, values = torch.rand(6, 3), torch.rand(7, 3)
        ones = torch.ones(6, 3)
        found = losses.gae(rewards, values[:-1], values[1:], 0.9 * ones, ones)
        expected = sum(0.9**step * rewards[step] for step in range(6)) + 0.9**6 * values[6] - values[0]
        assert torch.allclose(found[0], expected)

    def test_it_carries_no_gradient(self) -> None:
        values = torch.rand(2, 1, requires_grad=True)
        assert not losses.gae(values, values, values, values, values).requires_grad


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "moves"),
    [
        (1.5, 2.0, -2.4, False),  # as far up as it may go
        (1.1, 2.0, -2.2, True),
        (0.5, 2.0, -1.0, True),  # too low for what it is worth: it may come back
        (0.5, -2.0, 1.6, False),
        (1.5, -2.0, 3.0, True),
    ],
)
def test_clipped_surrogate(ratio: float, advantage: float, loss: float, moves: bool) -> None:
    ratios = torch.tensor([ratio], requires_grad=True)
    found = losses.clipped_surrogate(ratios, torch.tensor([advantage]), 0.2)
    assert found.item() == pytest.approx(loss)
    found.backward()
    assert (ratios.grad != 0).item() is moves


class TestPlackettLuce:
    def test_by_hand(self) -> None:
        scores = torch.tensor([[log(1.0), log(2.0), log(5.0)]])
        logs, entropy = losses.plackett_luce(scores, torch.tensor([[2, 0]]))
        assert logs.exp().item() == pytest.approx(5 / 8 * 1 / 3)
        first = -sum(p * log(p) for p in (1 / 8, 2 / 8, 5 / 8))
        second = -sum(p * log(p) for p in (1 / 3, 2 / 3))
        assert entropy.item() == pytest.approx((first + second) / 2)

    def test_likeness_by_hand(self) -> None:
        """Items 1 and 2 are alike: once 2 is chosen, 1 falls by the weight times 3."""
        scores, traits = torch.zeros(1, 3), torch.tensor([[0.0], [1.0], [3.0]])
        logs, _ = losses.plackett_luce(scores, torch.tensor([[2, 1]]), torch.tensor([0.5]), traits)
        assert logs.exp().item() == pytest.approx(1 / 3 * exp(-1.5) / (1 + exp(-1.5)))

    def test_all_slates_together_have_a_chance_of_one(self) -> None:
        scores, traits = torch.randn(1, 4), torch.randn(4, 2)
        slates = torch.tensor(list(permutations(range(4), 3)))
        logs, _ = losses.plackett_luce(scores.expand(len(slates), -1), slates, torch.ones(len(slates)), traits)
        assert logs.exp().sum().item() == pytest.approx(1, abs=1e-5)

    def test_empty_slots_do_not_count(self) -> None:
        scores = torch.randn(1, 4)
        short, _ = losses.plackett_luce(scores, torch.tensor([[1]]))
        long, _ = losses.plackett_luce(scores, torch.tensor([[1, -1, -1]]))
        assert torch.equal(short, long)

    def test_its_gradient_is_finite(self) -> None:
        scores = torch.randn(2, 3, requires_grad=True)
        logs, entropy = losses.plackett_luce(scores, torch.tensor([[0, 1, 2], [2, 1, 0]]))
        (logs.sum() + entropy.sum()).backward()
        assert torch.isfinite(scores.grad).all()
