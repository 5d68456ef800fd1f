"""Heads: what they are at the start, and what they can learn."""

import torch

from what_next.models.heads import PairValue, Point, Value


def test_a_point_starts_near_its_state_and_the_offset_at_nothing() -> None:
    torch.manual_seed(0)
    states = torch.randn(50, 7, 64)
    points = Point(64, offset=True)(states)
    assert points.shape == (50, 7, 65)
    assert (points[..., -1] == 0).all()
    difference = (points[..., :-1] - states).norm() / states.norm()
    assert 0.05 < difference < 0.2
    assert torch.equal(Point(64, noise=0.0)(states), states)


def test_twins_start_apart() -> None:
    state = torch.ones(8)
    for kind in (Point, Value):
        assert not torch.equal(kind(8)(state), kind(8)(state))


def test_the_offset_learns() -> None:
    head = Point(4, offset=True)
    head(torch.ones(3, 4))[..., -1].sum().backward()
    assert head.linear.weight.grad is not None
    assert head.linear.weight.grad[-1].tolist() == [3, 3, 3, 3]


def test_values_start_near_zero_with_a_shape_of_the_states() -> None:
    torch.manual_seed(0)
    states = torch.randn(20, 5, 32)
    value, pair = Value(32), PairValue(32)
    assert value(states).shape == (20, 5)
    assert value(states).abs().max() < 0.2
    several = pair(states.unsqueeze(-2), torch.randn(9, 32) * 32**-0.5)
    assert several.shape == (20, 5, 9)
    assert several.abs().max() < 0.2


def test_a_value_of_a_pair_tells_vectors_and_states_apart() -> None:
    """1 where state and vector agree in sign, -1 where not: no sum of a part for each can do it."""
    torch.manual_seed(0)
    head = PairValue(8)
    states, vectors = torch.randn(512, 8), torch.randn(512, 8) * 8**-0.5
    targets = (states[:, 0] * vectors[:, 0]).sign()
    optimiser = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        loss = (head(states, vectors) - targets).square().mean()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.3


def test_a_state_that_several_vectors_share_is_each_pair_by_itself() -> None:
    head = PairValue(6)
    states, vectors = torch.randn(3, 6), torch.randn(3, 4, 6)
    together = head(states.unsqueeze(-2), vectors)
    apart = torch.stack([head(states, vectors[:, choice]) for choice in range(4)], 1)
    torch.testing.assert_close(together, apart)
