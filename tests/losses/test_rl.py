"""The losses of reinforcement learning, against numbers worked by hand."""

from math import exp, log

import pytest
import torch

from what_next.losses import rl as losses


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


NONE = torch.zeros(0)


def test_td_target():
    target = losses.td_target(tensor(1, 2), tensor(0.5, 0), tensor(10, 10))
    assert target.tolist() == [6, 2]  # the discount 0 ends the history
    assert not target.requires_grad


def test_td_loss():
    values, targets = tensor(1.5, 0), tensor(1, 3)
    found = losses.td_loss(values, targets)
    assert found.item() == (0.125 + 4.5) / 2  # errors 0.5 and -3
    found.backward()
    assert targets.grad is None
    assert values.grad.tolist() == [0.25, -1.5]


def test_weights_divide_by_the_steps():
    assert losses.mean(tensor(2, 8), tensor(3, 0).detach()).item() == 3.0


def test_expectile_loss():
    values, targets = tensor(0, 0), tensor(2, -2)  # u is 2 and -2
    found = losses.expectile_loss(values, targets, 0.75)
    assert found.item() == (0.75 * 4 + 0.25 * 4) / 2
    found.backward()
    assert targets.grad is None
    assert values.grad.tolist() == [-1.5, 0.5]


def test_the_expectile_lies_between_mean_and_largest():
    targets = torch.arange(11, dtype=torch.float64)
    value = tensor(0)
    for _ in range(300):
        (gradient,) = torch.autograd.grad(losses.expectile_loss(value.expand(11), targets, 0.9), value)
        value = (value - gradient).detach().requires_grad_()
    # What lies above, 8 to 10, sums to 27; the rest, 0 to 7, to 28: 0.9 (27 - 3 v) = 0.1 (8 v - 28), so v = 27.1 / 3.5.
    assert value.item() == pytest.approx(27.1 / 3.5)


def test_topk_correction():
    found = losses.topk_correction(torch.tensor([0.5, 0.0, 1.0]).log(), 3)
    assert found.tolist() == [3 * 0.25, 3, 0]
    assert losses.topk_correction(torch.tensor([0.5, 1.0]).log(), 1).tolist() == [1, 1]
    assert losses.topk_correction(torch.tensor([1e-7]), 2).tolist() == [0]  # a log just above 0, by rounding


def test_importance_weights():
    found = losses.importance_weights(tensor(log(0.5), log(0.1)), tensor(log(0.25), log(0.001)), cap=10.0)
    assert found.tolist() == pytest.approx([2, 10])
    assert not found.requires_grad
    assert losses.importance_weights(tensor(0), tensor(-1e4), cap=7.0).item() == 7  # not infinite


def test_advantage_weights():
    found = losses.advantage_weights(tensor(1, -1, 1e6), temperature=0.5)
    assert found.tolist() == pytest.approx([exp(2), exp(-2), 20])
    assert not found.requires_grad


def test_means_of_no_steps_are_0():
    assert losses.td_loss(NONE, NONE).item() == 0
    assert losses.expectile_loss(NONE, NONE).item() == 0
