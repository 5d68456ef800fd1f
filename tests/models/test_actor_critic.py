"""The head that weighs kinds of user: what a point would earn, expected over them."""

import numpy as np
import pytest
import torch

from what_next.models.actor_critic import BeliefHead, Sizes

SIZES = Sizes(factors=3, points=2, prospects=4 + 2, dim=5, kinds=2)


def test_the_value_is_the_expected_earning_by_hand() -> None:
    head = BeliefHead(SIZES)
    last = head.belief[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([0.75, 0.25]).log())
        head.scale.fill_(2.0)
    prospects = torch.tensor([[9.0, 9, 9, 9, 1, -1], [9, 9, 9, 9, 0, 4]])
    found = head(torch.zeros(5), torch.zeros(2, 2), prospects)
    assert found.tolist() == pytest.approx([2 * (0.75 - 0.25), 2 * (0.25 * 4)])


def test_it_learns_of_which_kind_a_user_is_from_what_they_earn() -> None:
    torch.manual_seed(0)
    rng, head = np.random.default_rng(0), BeliefHead(SIZES)
    states = torch.from_numpy(rng.normal(size=(400, 5)).astype(np.float32))
    kinds = (states[:, 0] > 0).long()
    prospects = torch.from_numpy(rng.normal(size=(400, 8, 6)).astype(np.float32))
    earned = prospects[..., 4:].gather(-1, kinds[:, None, None].expand(-1, 8, 1)).squeeze(-1)
    optimiser = torch.optim.Adam(head.parameters(), 0.02)
    for _ in range(100):
        optimiser.zero_grad()
        loss = (head(states, torch.zeros(8, 2), prospects) - earned).square().mean()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.05
