"""DQN, SQN, SAC, SNQN and SA2C: losses worked by hand, what they reduce to, and a world that tells them apart."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from what_next.algorithms import Algorithm
from what_next.algorithms.base import LossContext
from what_next.algorithms.dqn import Dqn, best_value, best_values
from what_next.algorithms.next_item import NextItem
from what_next.algorithms.sa2c import Sa2c
from what_next.algorithms.sac_rec import SacRec
from what_next.algorithms.snqn import Snqn, judged, others
from what_next.algorithms.sqn import Sqn
from what_next.types import Transitions

from .worlds import Head, World, detour, items_of, learn, narrow, transitions

VECTORS = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
RNG = np.random.default_rng(0)
# Of the items that came next: A's logits are (1, -1, 0), B's are (1, 1, 2).
CROSS_ENTROPY = (2.4076059, 1.5514447)


def networks() -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """An actor whose point is the state; a critic with values (1.5, -1.5, -0.5) in A and (1.5, 2.5, 3.5) in B; its slow
    copy with (2, 2, 3) in A and (4, 0, 3) in B."""
    nets: dict[str, nn.Module] = {
        "actor": Head([[1.0, 0.0], [0.0, 1.0]]),
        "critic": Head([[1.0, 0.0, 0.5], [0.0, 2.0, 0.0]]),
        "behaviour": Head([[0.0, 0.0], [0.0, 0.0]]),
    }
    return nets, {"critic": Head([[2.0, 0.0, 1.0], [1.0, -1.0, 0.0]]), "actor": nets["actor"]}


def batch() -> Transitions:
    """Step A: item 1 earns 1, and B is next. Step B: item 0 earns 2, and the history ends."""
    return transitions(
        [[1.0, -1.0], [1.0, 1.0]],
        [1, 0],
        rewards=[1.0, 2.0],
        next_states=[[1.0, 1.0], [1.0, -1.0]],
        discounts=[0.5, 0.0],
        step_discounts=[0.5, 0.0],
        returns=[3.0, 2.0],
    )


def context(step: int = 0) -> LossContext[Transitions]:
    nets, target = networks()
    return LossContext(nets, target, batch(), items_of(VECTORS), step, np.random.default_rng(0))


def losses(algorithm: Algorithm, step: int = 0) -> Mapping[str, Tensor]:
    return algorithm.losses(context(step))


# In A: the critic prefers item 2 in B, where its slow copy expects 3 (and not 4, its own best): 1 + 0.5 * 3 = 2.5, and
# the estimate is -1.5. In B: 2, and the estimate is 1.5. The loss is half the square.
Q_LOSS = (4.0**2 / 2 + 0.5**2 / 2) / 2


class TestDqn:
    def test_one_network_chooses_and_the_slow_one_tells_the_value(self) -> None:
        assert losses(Dqn())["critic"].item() == pytest.approx(Q_LOSS)

    def test_the_slow_networks_item_vectors_tell_the_value(self) -> None:
        nets, target = networks()
        items = items_of(VECTORS, target=[[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]])  # item 2 is now worth 6 in B
        found = Dqn().losses(LossContext(nets, target, batch(), items, 0, RNG))["critic"]
        assert found.item() == pytest.approx(((1 + 0.5 * 6 + 1.5) ** 2 / 2 + 0.5**2 / 2) / 2)

    def test_the_gradient_is_that_of_the_estimates_alone(self) -> None:
        nets, target = networks()
        given = batch()
        given.next_states.requires_grad_()
        loss = Dqn().losses(LossContext(nets, target, given, items_of(VECTORS), 0, RNG))["critic"]
        moved = torch.autograd.grad(
            loss, [nets["critic"].weights, target["critic"].weights, given.next_states], allow_unused=True
        )
        # d/dQ is (Q - target) / 2: -2 in A for item 1, -0.25 in B for item 0; the columns are (item 0, item 1, offset).
        torch.testing.assert_close(moved[0], torch.tensor([[-0.25, -2.0, -2.25], [-0.25, 2.0, 1.75]]))
        assert moved[1:] == (None, None)

    def test_recommends_by_value(self) -> None:
        points = Dqn().propose(networks()[0], torch.tensor([[1.0, -1.0], [1.0, 1.0]]))
        assert (points @ torch.tensor(VECTORS).T).tolist() == [[1.0, -2.0, -1.0], [1.0, 2.0, 3.0]]


class TestSqn:
    def test_the_losses_are_those_worked_by_hand(self) -> None:
        found = losses(Sqn(weight=0.25))
        assert found["actor"].item() == pytest.approx(sum(CROSS_ENTROPY) / 2)
        assert found["critic"].item() == pytest.approx(0.25 * Q_LOSS)

    def test_without_weight_it_is_the_supervised_floor(self) -> None:
        total = torch.stack(list(losses(Sqn(weight=0)).values())).sum()
        assert total.item() == pytest.approx(losses(NextItem())["actor"].item(), abs=1e-6)


class TestSacRec:
    def test_in_the_warm_up_it_is_sqn(self) -> None:
        mine, theirs = losses(SacRec(warm_up=3, weight=0.5), step=2), losses(Sqn(weight=0.5))
        assert {name: loss.item() for name, loss in mine.items()} == {
            name: loss.item() for name, loss in theirs.items()
        }

    def test_then_a_step_weighs_what_the_critic_expects(self) -> None:
        given = context(step=3)
        found = SacRec(warm_up=3, weight=0.5).losses(given)
        # The estimates are -1.5, which counts as 0, and 1.5.
        assert found["actor"].item() == pytest.approx(1.5 * CROSS_ENTROPY[1] / 2)
        assert found["critic"].item() == pytest.approx(0.5 * Q_LOSS)
        assert given.metrics["largest_weight"] == 1.5

    def test_no_gradient_of_the_actors_loss_reaches_the_critic(self) -> None:
        nets, target = networks()
        loss = SacRec(warm_up=0).losses(LossContext(nets, target, batch(), items_of(VECTORS), 0, RNG))["actor"]
        assert torch.autograd.grad(loss, [nets["critic"].weights], allow_unused=True) == (None,)


NEGATIVES = torch.tensor([[0, 2], [1, 2]])
# A: estimates 1.5 and -0.5; the critic prefers item 0 there, worth 2 to its slow copy: both targets are 0.5 * 2. B:
# estimates 2.5 and 3.5, and nothing follows.
NEGATIVE_LOSS = ((0.5**2 + 1.5**2) / 2 + (2.5**2 + 3.5**2) / 2) / 2


class TestSnqn:
    def test_the_loss_of_negatives_is_the_one_worked_by_hand(self) -> None:
        values, error = judged(context(), NEGATIVES)
        assert values.tolist() == [[-1.5, 1.5, -0.5], [1.5, 2.5, 3.5]]
        assert error.item() == pytest.approx(Q_LOSS + NEGATIVE_LOSS)

    def test_states_that_follow_one_another_are_searched_once(self) -> None:
        """Rows 1 and 2 follow those before them; row 3 shares one number with what follows row 2."""
        states = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
        ahead = torch.stack([states[1], states[2], torch.stack([states[3, 0], -states[3, 1]]), -states[0]])
        given = transitions(states.tolist(), [0, 1, 2, 0], next_states=ahead.tolist())
        whole = replace(context(), batch=given)
        here, there = best_values(whole)
        torch.testing.assert_close(here, best_value(whole, given.states))
        torch.testing.assert_close(there, best_value(whole, given.next_states))

    def test_its_losses_are_those_of_sqn_and_the_negatives(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("what_next.algorithms.snqn.others", lambda *_: NEGATIVES)
        found = losses(Snqn(weight=0.25))
        assert found["actor"].item() == pytest.approx(sum(CROSS_ENTROPY) / 2)
        assert found["critic"].item() == pytest.approx(0.25 * (Q_LOSS + NEGATIVE_LOSS))

    def test_without_weight_it_is_the_supervised_floor(self) -> None:
        total = torch.stack(list(losses(Snqn(weight=0)).values())).sum()
        assert total.item() == pytest.approx(losses(NextItem())["actor"].item(), abs=1e-6)

    def test_negatives_are_the_other_items_each_as_often(self) -> None:
        given = transitions([[0.0]] * 3, [0, 1, 2])
        drawn = others(replace(context(), batch=given, items=items_of([[0.0]] * 3)), 3000)
        counts = torch.stack([row.bincount(minlength=3) for row in drawn])
        assert counts.diagonal().tolist() == [0, 0, 0]
        assert (counts[~torch.eye(3, dtype=torch.bool)] / 3000 - 0.5).abs().max() < 0.03


class TestSa2c:
    @pytest.fixture(autouse=True)
    def fixed_negatives(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("what_next.algorithms.sa2c.others", lambda *_: NEGATIVES)

    def test_in_the_warm_up_it_is_snqn(self) -> None:
        found = losses(Sa2c(warm_up=3, weight=0.25), step=2)
        assert found["actor"].item() == pytest.approx(sum(CROSS_ENTROPY) / 2)
        assert found["critic"].item() == pytest.approx(0.25 * (Q_LOSS + NEGATIVE_LOSS))
        assert set(found) == {"actor", "critic"}

    @pytest.mark.parametrize(("clip", "of_a"), [(5.0, -4 / 3), (1.25, -1.25)])
    def test_then_a_step_weighs_its_advantage(self, clip: float, of_a: float) -> None:
        given = context(step=3)
        found = Sa2c(warm_up=3, clip=clip).losses(given)
        # Means of the estimates: -1/6 in A and 2.5 in B, so the advantages are -4/3 and -1.
        assert found["actor"].item() == pytest.approx((of_a * CROSS_ENTROPY[0] - CROSS_ENTROPY[1]) / 2)
        assert given.metrics["largest_weight"] == pytest.approx(-of_a)

    def test_with_smoothing_also_a_power_of_how_much_likelier_it_is(self) -> None:
        found = losses(Sa2c(warm_up=0, smooth=0.5))
        # The policy's probabilities are 0.0900306 and 0.2119416, the behaviour's 1/3.
        weights = -4 / 3 * 0.2700917**0.5, -1 * 0.6358249**0.5
        expected = sum(weight * entropy for weight, entropy in zip(weights, CROSS_ENTROPY, strict=True)) / 2
        assert found["actor"].item() == pytest.approx(expected, rel=1e-5)
        assert found["behaviour"].item() == pytest.approx(np.log(3), rel=1e-6)


class TestChains:
    """Where the most rewarding next item is wrong, and imitation as well."""

    def test_imitation_takes_what_was_common(self) -> None:
        found = learn(NextItem(), detour())
        assert (found.choose(["start"]), found.choose(["start", "patient"])) == ("greedy", "dust")
        assert found.play() == detour().greedy

    def test_dqn_finds_the_best_policy_where_everything_was_tried(self) -> None:
        assert learn(Dqn(tau=0.1), detour()).play() == detour().best

    def test_with_a_small_discount_the_greedy_choice_is_the_best(self) -> None:
        assert learn(Dqn(tau=0.1), detour(), discount=0.1).play() == detour().greedy

    @pytest.mark.medium
    def test_where_little_was_tried_dqn_follows_estimates_that_nothing_corrected(self) -> None:
        world = narrow()
        earned = [learn(Dqn(tau=0.1), world, seed=seed).play() for seed in range(2)]
        assert min(earned) < world.best

    @pytest.mark.medium
    @pytest.mark.parametrize("algorithm", [Sqn(tau=0.1), Snqn(tau=0.1, negatives=1)], ids=lambda one: one.name)
    def test_a_regulariser_does_not_keep_the_supervised_head_from_imitating(self, algorithm: Algorithm) -> None:
        found = learn(algorithm, detour())
        assert (found.choose(["start"]), found.choose(["start", "patient"])) == ("greedy", "dust")
        values = found.values(["start"])
        assert max(values, key=values.__getitem__) == "patient"  # its critic knows better

    def test_imitation_of_what_the_critic_values_finds_the_best_policy(self) -> None:
        assert learn(SacRec(tau=0.1, warm_up=50), detour()).play() == detour().best

    @pytest.mark.medium
    @pytest.mark.parametrize("world", [detour(), narrow()], ids=["detour", "narrow"])
    def test_imitation_of_what_was_better_than_others_finds_the_best_policy(self, world: World) -> None:
        assert learn(Sa2c(tau=0.1, warm_up=50, negatives=1), world).play() == world.best
