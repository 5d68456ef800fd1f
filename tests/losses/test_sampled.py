"""Sampled losses: exact where every item is drawn once, unbiased in the sum, and no gradient beyond the drawn rows."""

from itertools import product
from math import exp, log

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from what_next.losses import chunked, sampled
from what_next.losses.sampled import Draws, Negatives, gbce, gbce_beta, sampled_softmax


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(chunked, "CHUNK_BYTES", {"cpu": 1})
    monkeypatch.setattr(chunked, "FEWEST_STEPS", {"fp32": 32, "bf16": 32})


ITEMS = 30


def inputs(steps=50, dim=4):
    torch.manual_seed(5)
    points = torch.randn(steps, dim, dtype=torch.float64, requires_grad=True)
    table = torch.randn(ITEMS, dim, dtype=torch.float64, requires_grad=True)
    return points, table, torch.randint(ITEMS, (steps,))


def own(points, table, actions):
    return (points * table[actions]).sum(1)


def everything_once():
    return Negatives.of(torch.arange(ITEMS), lambda ids: Draws(ITEMS).log_q(ids).double())


def skewed(seed=0):
    return torch.randn(ITEMS, generator=torch.Generator().manual_seed(seed))


def test_every_item_drawn_once_is_the_full_softmax():
    points, table, actions = inputs()
    weights = torch.rand(50, dtype=torch.float64)
    negatives = everything_once()
    loss = sampled_softmax(points, own(points, table, actions), table[negatives.ids], actions, negatives, weights)
    full = (F.cross_entropy(points @ table.T, actions, reduction="none") * weights).mean()
    # log q is held in fp32
    assert loss.item() == pytest.approx(full.item(), rel=1e-6)
    found = torch.autograd.grad(loss, (points, table), retain_graph=True)
    torch.testing.assert_close(found, torch.autograd.grad(full, (points, table)), rtol=1e-6, atol=1e-7)


def test_two_draws_by_hand():
    points, table = torch.ones(1, 1), torch.tensor([[log(2.0)], [log(3.0)], [log(5.0)]])
    actions, q = torch.tensor([0]), torch.tensor([0.5, 0.25, 0.25])
    # Drawn: item 1 twice, item 0 once (the action: left out). Z = 2 + 2 * 3 / (3 * 0.25) = 10.
    negatives = Negatives.of(torch.tensor([1, 0, 1]), q.log().__getitem__)
    assert negatives.ids.tolist() == [0, 1]
    assert negatives.counts.tolist() == [1, 2]
    loss = sampled_softmax(points, own(points, table, actions), table[negatives.ids], actions, negatives)
    assert loss.item() == pytest.approx(-log(2 / 10))


def test_the_expected_sum_is_the_full_one_whatever_q():
    """All 25 pairs of draws from 5 items, each times its probability."""
    points, table, _ = inputs(3)
    table, actions, q = table[:5], torch.tensor([0, 4, 2]), torch.tensor([0.1, 0.2, 0.4, 0.05, 0.25])
    values = own(points, table, actions).detach()
    sums = torch.zeros(3, dtype=torch.float64)
    for first, second in product(range(5), repeat=2):
        negatives = Negatives.of(torch.tensor([first, second]), q.log().__getitem__)
        for step in range(3):
            one = slice(step, step + 1)
            loss = sampled_softmax(points[one], values[one], table[negatives.ids], actions[one], negatives)
            sums[step] += q[first] * q[second] * (loss + values[step]).exp().item()
    torch.testing.assert_close(sums, (points @ table.T).exp().sum(1).detach(), rtol=1e-5, atol=0)


def test_many_draws_approach_the_full_softmax_under_a_skewed_q():
    points, table, actions = inputs()
    negatives = Draws.of((2 * skewed()).exp().numpy()).draw(400_000, np.random.default_rng(1))
    loss = sampled_softmax(points, own(points, table, actions), table[negatives.ids], actions, negatives)
    full = F.cross_entropy(points @ table.T, actions)
    assert loss.item() == pytest.approx(full.item(), rel=2e-3)
    found, exact = torch.autograd.grad(loss, table)[0], torch.autograd.grad(full, table)[0]
    assert (found - exact).norm() < 0.02 * exact.norm()
    wrong = Negatives(negatives.ids, negatives.counts, torch.full_like(negatives.log_q, -log(ITEMS)), negatives.drawn)
    without = sampled_softmax(points, own(points, table, actions), table[negatives.ids], actions, wrong)
    assert abs(without.item() - full.item()) > 0.03 * full.item()  # the correction by log q is needed


@pytest.mark.parametrize("loss", [sampled_softmax, lambda *inputs: gbce(*inputs, items=ITEMS)])
def test_negatives_that_are_all_hits_leave_the_target_alone(loss):
    points, table, _ = inputs(2)
    actions = torch.tensor([4, 4])
    negatives = Negatives.of(torch.tensor([4, 4, 4]), Draws(ITEMS).log_q)
    found = loss(points, own(points, table, actions), table[negatives.ids], actions, negatives)
    of_points, of_table = torch.autograd.grad(found, (points, table))
    assert of_points.isfinite().all()
    if loss is sampled_softmax:
        assert found.item() == 0
        assert not of_table.any()


@pytest.mark.parametrize("loss", [sampled_softmax, lambda *inputs: gbce(*inputs, items=ITEMS)])
def test_finite_differences_agree(loss):
    points, table, actions = inputs(6, 2)
    negatives = Draws.of(skewed().exp().numpy()).draw(20, np.random.default_rng(2))

    def of(points, table):
        return loss(points, own(points, table, actions), table[negatives.ids], actions, negatives)

    assert torch.autograd.gradcheck(of, (points, table))


def test_gbce_by_hand():
    points, table, actions = torch.ones(1, 1), torch.tensor([[log(3.0)], [0.0], [log(2.0)], [9.0], [9.0]]), [0]
    negatives = Negatives.of(torch.tensor([1, 2, 2, 0]), Draws(5).log_q)
    actions = torch.tensor(actions)
    loss = gbce(points, own(points, table, actions), table[negatives.ids], actions, negatives, 5, calibration=0.0)
    # sigmoid: 3/4 for the action; 1/2 and twice 2/3 for the others; the draw of the action itself is left out.
    assert loss.item() == pytest.approx((log(4 / 3) + log(2) + 2 * log(3)) / 5)


def test_gbce_beta():
    # alpha (t (1 - 1 / alpha) + 1 / alpha) with alpha = 256 / 1024, t = 0.75: 0.25 (0.75 (1 - 4) + 4)
    assert gbce_beta(256, 1025, 0.75) == 0.4375
    assert gbce_beta(256, 1025, 0.0) == 1  # plain binary cross entropy
    assert gbce_beta(256, 1025, 1.0) == 0.25  # the sampling rate
    assert gbce_beta(5, 3, 1.0) == 1  # more draws than items


def test_gbce_equals_the_published_form():
    points, table, actions = inputs()
    weights = torch.rand(50, dtype=torch.float64)
    drawn = torch.tensor([3, 3, 8, 20, 29])
    negatives = Negatives.of(drawn, Draws(ITEMS).log_q)
    loss = gbce(points, own(points, table, actions), table[negatives.ids], actions, negatives, ITEMS, 0.75, weights)
    logits = points @ table[drawn].T
    beta = gbce_beta(5, ITEMS, 0.75)
    chances = (own(points, table, actions).sigmoid() ** beta).log()
    others = torch.where(drawn == actions[:, None], 0.0, (1 - logits.sigmoid()).log()).sum(1)
    exact = (-(chances + others) / 6 * weights).mean()
    torch.testing.assert_close(loss, exact)
    found = torch.autograd.grad(loss, (points, table), retain_graph=True)
    torch.testing.assert_close(found, torch.autograd.grad(exact, (points, table)))


def test_with_t_1_the_best_sigmoid_is_the_probability():
    """One state, 4 items with known chances, all others drawn as negatives: gBCE's minimum is calibrated."""
    chances = torch.tensor([0.5, 0.25, 0.15, 0.1], dtype=torch.float64)
    scores = torch.zeros(4, 1, dtype=torch.float64, requires_grad=True)
    actions, points = torch.arange(4), torch.ones(4, 1, dtype=torch.float64)
    negatives = Negatives.of(torch.tensor([0, 1, 2, 3]), Draws(4).log_q)
    optimiser = torch.optim.LBFGS([scores], max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = gbce(points, scores[:, 0], scores, actions, negatives, 4, 1.0, weights=4 * chances)
        loss.backward()
        return loss

    optimiser.step(closure)
    # Each draw is one of the 3 others on average 4/3 times: the rate that beta assumes is capped at 1.
    assert scores.sigmoid()[:, 0].tolist() == pytest.approx(chances.tolist(), abs=1e-4)


def test_draws_follow_their_distribution():
    log_q = skewed() + 3.0  # not normalised
    draws = Draws.of(log_q.exp().numpy())
    exact = log_q.double().softmax(0)
    torch.testing.assert_close(draws.log_q(torch.arange(ITEMS)).double().exp(), exact, rtol=1e-5, atol=1e-7)
    negatives = draws.draw(300_000, np.random.default_rng(0))
    share = torch.zeros(ITEMS).index_put((negatives.ids,), negatives.counts / 300_000)
    assert (share - exact).abs().max() < 0.003
    assert int(negatives.counts.sum()) == negatives.drawn == 300_000


@pytest.mark.parametrize("items", [1, 7, 8, 9, 16, 100])
def test_draws_are_those_of_the_sums_over_all_items(items, monkeypatch):
    """By another road: each place below the sum of all weights, looked up in the sums up to each item."""
    monkeypatch.setattr(sampled, "SUMS", 8)
    counts = np.random.default_rng(items).poisson(1.0, items).astype(np.int32)
    sums, places = np.cumsum(np.maximum(counts, 0.5)), np.random.default_rng(0).random(2000)
    drawn = np.searchsorted(sums, places * sums[-1], side="right")
    found = Draws.of(counts, least=0.5).draw(2000, np.random.default_rng(0))
    assert found.ids.tolist() == np.unique(drawn).tolist()
    assert found.counts.tolist() == np.unique(drawn, return_counts=True)[1].tolist()
    chances = np.maximum(counts, 0.5)[found.ids] / sums[-1]
    np.testing.assert_allclose(found.log_q.exp(), chances, rtol=1e-6)


def test_draws_are_a_function_of_the_seed():
    for draws in (Draws(ITEMS), Draws.of(skewed().exp().numpy())):
        one, same, other = (draws.draw(10, np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert torch.equal(one.ids, same.ids)
        assert not torch.equal(one.ids, other.ids)


@pytest.mark.parametrize("loss", [sampled_softmax, lambda *inputs: gbce(*inputs, items=ITEMS)])
def test_without_steps_or_without_negatives_nothing_is_nan(loss):
    for steps, drawn in ((0, 3), (5, 0), (0, 0)):
        points, table, actions = inputs(steps)
        negatives = Draws(ITEMS).draw(drawn, np.random.default_rng(0))
        found = loss(points, own(points, table, actions), table[negatives.ids], actions, negatives)
        assert found.isfinite()
        found.backward()
        assert steps or found.item() == 0


@pytest.mark.filterwarnings("error")
def test_actions_of_every_second_step_are_no_warning():
    assert everything_once().without(torch.arange(8)[::2]).places[:, 0].tolist() == [0, 2, 4, 6]


def test_bf16_is_close():
    points, table, actions = (tensor.float() if tensor.is_floating_point() else tensor for tensor in inputs())
    negatives = Draws.of(skewed().exp().numpy()).draw(40, np.random.default_rng(3))
    both = [
        sampled_softmax(
            points, own(points, table, actions), table[negatives.ids], actions, negatives, precision=precision
        ).item()
        for precision in ("fp32", "bf16")
    ]
    assert both[0] != both[1] == pytest.approx(both[0], rel=5e-3)


def test_scores_far_apart_stay_finite():
    points = torch.tensor([[100.0]], requires_grad=True)
    table = torch.tensor([[-9.0], [9.0]], requires_grad=True)
    actions = torch.tensor([0])
    negatives = Negatives.of(torch.tensor([1]), Draws(2).log_q)
    loss = sampled_softmax(points, own(points, table, actions), table[[1]], actions, negatives)
    assert loss.item() == pytest.approx(1800 + log(2))
    loss = gbce(points, own(points, table, actions), table[[1]], actions, negatives, 2, 0.0)
    assert loss.item() == pytest.approx(900)
    assert exp(-loss.item()) == 0
