"""What proposes slates, against numbers worked by hand."""

from math import exp, log, pi

import pytest
import torch

from what_next.algorithms import Ppo
from what_next.models.belief import Belief
from what_next.models.slates import Pricer, Proposer


def proposer(**settings: object) -> Proposer:
    made = Proposer(2, 2, **{"traits": 1, **settings})  # type: ignore[arg-type]
    with torch.no_grad():
        made.mean.weight.copy_(torch.tensor([[1.0, 0], [0, 1], [0, 0]])[: len(made.mean.weight)])
        made.mean.bias.copy_(torch.tensor([0, 0, log(0.5)])[: len(made.mean.bias)])
        made.log_deviation.fill_(log(2.0))
    return made


def test_a_point_and_the_weight_of_likeness() -> None:
    made = proposer()
    drawn = made(torch.tensor([[3.0, 4.0]]))
    points = made.points(drawn)
    assert points[0].tolist() == pytest.approx([3, 4, 0.5])
    assert torch.allclose(made.drawn(points), drawn)
    assert made.columns(torch.ones(5, 2)).tolist() == [[1, 1, 0]] * 5


def test_without_traits_there_is_no_weight() -> None:
    made = proposer(traits=0)
    assert made.points(made(torch.tensor([[3.0, 4.0]]))).tolist() == [[3, 4]]
    assert made.alike(torch.ones(5, 2)) is None


def test_density_by_hand() -> None:
    """One standard deviation off in the first entry: exp(-1/2) / (2 sqrt(2 pi)) for it, and 1 / (2 sqrt(2 pi)) else."""
    made = proposer()
    states = torch.tensor([[3.0, 4.0]])
    points = made.points(made.draw(made(states), torch.tensor([[1.0, 0, 0]])))
    found = made.log_density(states, points).exp().item()
    assert points[0].tolist() == pytest.approx([5, 4, 0.5])
    assert found == pytest.approx(exp(-0.5) / (2 * (2 * pi) ** 0.5) ** 3)


def test_effects_have_a_mean_square_of_one() -> None:
    found = proposer(traits=4).alike(torch.randn(50, 2))
    assert found is not None
    assert found.square().sum(1).mean().item() == pytest.approx(1, abs=1e-5)


def test_clicks_by_hand() -> None:
    made = proposer(clicks=True)
    assert made.liking is not None
    with torch.no_grad():
        made.liking.weight.zero_()
        made.liking.bias.copy_(torch.tensor([1.0, 2, -3, -0.5]))  # a point, a level, less for each slot
    vectors = torch.tensor([[1.0, 0], [0, 1]])
    found = made.click_logits(torch.zeros(1, 2), vectors, torch.tensor([[0, 1, 1]]))
    assert found[0].tolist() == [1 - 3, 2 - 3 - 0.5, 2 - 3 - 1]


def test_the_policy_starts_from_a_share_of_what_would_be_clicked_and_does_not_teach_it() -> None:
    made = proposer(clicks=True)
    assert made.liking is not None
    with torch.no_grad():
        made.liking.weight.zero_()
        made.liking.bias.copy_(torch.tensor([10.0, 20, 0, 0]))
    mean = made(torch.tensor([[3.0, 4.0]]))
    assert mean[0].tolist() == pytest.approx([3 + 3, 4 + 6, log(0.5)])
    mean.sum().backward()
    assert made.liking.weight.grad is None
    assert made.share is not None
    assert made.share.grad is not None


def test_like_vectors_may_stand_for_like_effects() -> None:
    made = proposer(traits=4, by_vectors=True)
    vectors = torch.randn(50, 2)
    found = made.alike(vectors)
    assert found is not None
    assert torch.allclose(found, vectors / vectors.square().sum(1).mean().sqrt())
    assert not any(name.startswith("effects") for name, _ in made.named_parameters())
    assert made(torch.zeros(1, 2)).shape == (1, 3)  # a point, and the weight
    assert made.columns(vectors).shape == (50, 3)


def test_prices_are_all_that_is_drawn() -> None:
    """Of a point: two entries of the log odds and their level, a number that is seen, a price, and what squares cost,
    whose logarithms are drawn."""
    made = Pricer(2, 2, 1, None)
    assert made.liking is not None
    with torch.no_grad():
        made.mean.weight.copy_(torch.tensor([[1.0, 0], [0, 0], [0, 0]]))
        made.mean.bias.copy_(torch.tensor([0, log(2.0), log(0.5)]))
        made.liking.weight.zero_()
        made.liking.bias.copy_(torch.tensor([5.0, 6, -3, 1]))
    states = torch.tensor([[3.0, 4.0]])
    points = Ppo(over="prices").propose({"actor": made}, states)
    assert points[0].tolist() == pytest.approx([5, 6, -3, 0, 3, 2, 0.5])
    assert made.log_density(states, points).exp().item() == pytest.approx(1 / (0.3 * (2 * pi) ** 0.5) ** 3)
    assert made.columns(torch.full((4, 2), 7.0)).tolist() == [[7, 7, 1]] * 4


def test_items_that_are_believed_have_effects_of_their_own() -> None:
    made, vectors = Pricer(2, 2, 3, Belief(4, 2)), torch.ones(4, 2)
    assert made.own is not None
    with torch.no_grad():
        made.own[1] += 2
    found = made.of_clicks(vectors)
    assert torch.allclose(found[1] - found[0], torch.full((3,), 2.0))
    assert torch.equal(found[2], found[0])
    assert not made.odds(torch.ones(1, 2)).any()
