"""Losses equal numbers worked by hand, and each moves the networks that it names and no others."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

from what_next import Agent, Dataset, Environment, LearnedPolicy, State, WhatNext
from what_next.algorithms.base import LossContext
from what_next.errors import TrainingError
from what_next.models import AgentModel, CriticModel, spread_out
from what_next.models.actor_critic import Sizes
from what_next.models.item_space import ItemSpace
from what_next.rewards.spread import Form
from what_next.training.step import SLOWEST, decay_rate, descend
from what_next.types import BanditSteps, Request

from .conftest import SetupOf

SIZES = Sizes(factors=3, points=1, prospects=4, dim=5)


class FixedActor(AgentModel):
    """Proposes its two prototypes with the same probabilities everywhere."""

    def __init__(self) -> None:
        super().__init__(SIZES, torch.tensor([[1.0], [3.0]]))
        self.logits = nn.Parameter(torch.tensor([0.0, math.log(3)]))

    def forward(self, factors: Tensor, prospects: Tensor) -> Tensor:
        return self.logits.expand(*factors.shape[:2], -1)


class HalfPoint(nn.Module):
    """A head that values a point at half its place."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, state: Tensor, points: Tensor, prospects: Tensor) -> Tensor:
        return self.weight * points.expand(*prospects.shape[:-1], -1).sum(-1)


def fixed_networks() -> dict[str, nn.Module]:
    critic = CriticModel(SIZES)
    critic.head = HalfPoint()
    return {"actor": FixedActor(), "critic": critic}


def judged(mask: list[list[bool]], seed: int = 0) -> BanditSteps:
    """One history with a step for each entry of the mask; items at 2 and 4 are judged at each."""
    time = len(mask[0])
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return BanditSteps(
        actor_factors=random(1, time, 3),
        actor_prospects=random(1, time, 2, 4),
        factors=random(1, time, 3),
        points=torch.tensor([[2.0], [4.0]]).expand(1, time, 2, 1),
        prospects=random(1, time, 2, 4),
        targets=torch.tensor([0.5, 1.0]).expand(1, time, 2),
        mask=torch.tensor(mask),
    )


def context(nets: dict[str, nn.Module], steps: BanditSteps) -> LossContext[BanditSteps]:
    items = ItemSpace.of(torch.tensor([[2.0], [4.0]]))
    return LossContext(nets, {}, steps, items, 0, np.random.default_rng(0))


def weights(net: nn.Module) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in net.parameters()]).clone()


class TestWhatNext:
    @pytest.mark.parametrize("mask", [[[True, True]], [[False, True, False]]])
    def test_the_losses_are_those_worked_by_hand(self, mask: list[list[bool]]) -> None:
        losses = WhatNext(entropy=0.1).losses(context(fixed_networks(), judged(mask)))
        # The policy is (1/4, 3/4) over prototypes worth 0.5 and 1.5; its entropy is 0.5623351 nats.
        assert losses["actor"].item() == pytest.approx(-(0.25 * 0.5 + 0.75 * 1.5 + 0.1 * 0.5623351))
        # Estimates 1 and 2 for targets 0.5 and 1.
        assert losses["critic"].item() == pytest.approx((0.5**2 + 1**2) / 2)

    def test_in_a_world_the_value_of_the_next_step_counts(self) -> None:
        nets = fixed_networks()
        steps = replace(judged([[True, True]]), discounts=torch.tensor([[0.9, 0.9]]))
        target = CriticModel(SIZES)
        target.head = HalfPoint()
        target.head.weight.data.fill_(1.0)
        found = WhatNext().losses(replace(context(nets, steps), targets={"critic": target}))
        # The target critic values the prototypes at 1 and 3, which the policy expects to come to 2.5; the last step has
        # nothing after it. Estimates 1 and 2, of rewards .5 and 1.
        following = 0.9 * 2.5
        errors = (1 - 0.5 - following) ** 2 + (2 - 1 - following) ** 2 + 0.5**2 + 1**2
        assert found["critic"].item() == pytest.approx(errors / 4)

    def test_the_actors_gradient_is_the_one_worked_by_hand(self) -> None:
        nets = fixed_networks()
        loss = WhatNext(entropy=0).losses(context(nets, judged([[True, True]])))["actor"]
        (gradient,) = torch.autograd.grad(loss, [nets["actor"].logits])
        # d/dl_i of -sum p q is -p_i (q_i - E q), and E q is 1.25.
        torch.testing.assert_close(gradient, torch.tensor([-0.25 * (0.5 - 1.25), -0.75 * (1.5 - 1.25)]))

    def test_each_loss_reaches_its_own_network_alone(self) -> None:
        torch.manual_seed(0)
        prototypes = torch.tensor([[1.0], [3.0]])
        nets = {"actor": AgentModel(SIZES, prototypes), "critic": CriticModel(SIZES)}
        losses = WhatNext().losses(context(nets, judged([[False, False, True, True]])))
        for name, other in (("actor", "critic"), ("critic", "actor")):
            own = torch.autograd.grad(losses[name], list(nets[name].parameters()), retain_graph=True)
            assert all(gradient.abs().sum() > 0 for gradient in own), name
            foreign = torch.autograd.grad(
                losses[name], list(nets[other].parameters()), retain_graph=True, allow_unused=True
            )
            assert foreign == (None,) * len(foreign)

    def test_masked_steps_have_no_influence(self) -> None:
        torch.manual_seed(0)
        nets = {"actor": AgentModel(SIZES, torch.tensor([[1.0], [3.0]])), "critic": CriticModel(SIZES)}
        batch = judged([[False, True, True, False]])
        other = judged([[False, True, True, False]], seed=1)
        labels = torch.where(batch.mask[..., None], batch.targets, 99.0)
        # At the last step, padding: everything differs. At the first, too short: all but the events themselves.
        changed = replace(batch, targets=labels, points=batch.points.clone(), prospects=batch.prospects.clone())
        for name in ("points", "prospects", "factors", "actor_factors", "actor_prospects"):
            value = getattr(batch, name).clone()
            value[:, 3] = getattr(other, name)[:, 3] + 7
            if name in ("points", "prospects", "actor_prospects"):
                value[:, 0] = getattr(other, name)[:, 0] + 7
            changed = replace(changed, **{name: value})
        before, after = (WhatNext().losses(context(nets, some)) for some in (batch, changed))
        assert before["actor"].item() == after["actor"].item()
        assert before["critic"].item() == after["critic"].item()

    def test_a_batch_of_which_no_step_counts_has_no_gradient(self) -> None:
        nets = fixed_networks()
        losses = WhatNext().losses(context(nets, judged([[False, False]])))
        assert [loss.item() for loss in losses.values()] == [0, 0]
        assert not torch.autograd.grad(losses["actor"], [nets["actor"].logits])[0].any()

    def test_without_a_generator_the_likeliest_prototype_is_proposed(self) -> None:
        nets, batch = fixed_networks(), judged([[True, True]])
        points = WhatNext().propose(nets, (batch.actor_factors, batch.actor_prospects))
        assert points.tolist() == [[[3.0], [3.0]]]

    def test_with_one_they_are_drawn_as_often_as_the_policy_says(self) -> None:
        nets, rng = fixed_networks(), np.random.default_rng(0)
        many = torch.zeros(1, 10_000, 3), torch.zeros(1, 10_000, 2, 4)
        drawn = WhatNext().propose(nets, many, rng)
        assert (drawn == 3).float().mean().item() == pytest.approx(0.75, abs=0.02)


class TestPrototypes:
    def test_they_are_distinct_points_of_the_catalogue(self) -> None:
        vectors = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
        chosen = spread_out(vectors, 32, np.random.default_rng(1))
        assert len(set(chosen.tolist())) == 32

    def test_there_are_no_more_than_distinct_points(self) -> None:
        vectors = np.repeat(np.eye(3, dtype=np.float32), 10, axis=0)
        assert len(spread_out(vectors, 32, np.random.default_rng(0))) == 3

    def test_a_far_point_is_among_them(self) -> None:
        vectors = np.vstack([np.random.default_rng(0).normal(size=(500, 2)), [[50.0, 50.0]]]).astype(np.float32)
        found = [500 in spread_out(vectors, 8, np.random.default_rng(seed)) for seed in range(20)]
        assert all(found)


def pair() -> tuple[dict[str, nn.Module], dict[str, SGD]]:
    """Two networks of one weight, 2 and 3, with plain gradient descent of step size 1."""
    nets: dict[str, nn.Module] = {"one": nn.Linear(1, 1, bias=False), "two": nn.Linear(1, 1, bias=False)}
    nets["one"].weight.data.fill_(2)
    nets["two"].weight.data.fill_(3)
    return nets, {name: SGD(net.parameters(), 1.0) for name, net in nets.items()}


def values(nets: Mapping[str, nn.Module]) -> list[float]:
    return [weights(net).item() for net in nets.values()]


class TestDescend:
    def test_a_loss_moves_the_networks_that_it_names_alone(self) -> None:
        nets, optimisers = pair()
        product = (nets["one"].weight * nets["two"].weight).sum()
        descend({"a": product}, {"a": ("one",)}, nets, optimisers, clip=100.0)
        assert values(nets) == [2 - 3, 3]

    def test_losses_of_the_same_networks_are_summed(self) -> None:
        nets, optimisers = pair()
        one = nets["one"].weight.sum()
        descend({"a": one, "b": 4 * one}, {"a": ("one",), "b": ("one",)}, nets, optimisers, clip=100.0)
        assert values(nets) == [2 - 5, 3]

    def test_a_network_that_two_losses_share_gets_the_sum_of_its_gradients(self) -> None:
        nets, optimisers = pair()
        one, two = nets["one"].weight.sum(), nets["two"].weight.sum()
        moves = {"a": ("one",), "b": ("one", "two")}
        descend({"a": one, "b": 2 * one * two}, moves, nets, optimisers, clip=100.0)
        assert values(nets) == [2 - (1 + 2 * 3), 3 - 2 * 2]

    def test_gradients_are_those_before_any_network_was_moved(self) -> None:
        nets, optimisers = pair()
        product = (nets["one"].weight * nets["two"].weight).sum()
        descend({"a": product, "b": product}, {"a": ("one",), "b": ("two",)}, nets, optimisers, clip=100.0)
        assert values(nets) == [2 - 3, 3 - 2]

    def test_networks_are_stepped_in_the_order_of_the_losses(self) -> None:
        nets, _ = pair()
        order: list[str] = []

        class Recording(SGD):
            def step(self, closure: Any = None) -> None:
                order.append(self.name)

        optimisers = {name: Recording(net.parameters(), 1.0) for name, net in nets.items()}
        for name, optimiser in optimisers.items():
            optimiser.name = name
        losses = {"b": nets["two"].weight.sum(), "a": nets["one"].weight.sum()}
        descend(losses, {"a": ("one",), "b": ("two",)}, nets, optimisers, clip=100.0)
        assert order == ["two", "one"]

    def test_each_networks_gradient_is_scaled_down_to_the_clip(self) -> None:
        nets, optimisers = pair()
        losses = {"a": 8 * nets["one"].weight.sum(), "b": 0.25 * nets["two"].weight.sum()}
        descend(losses, {"a": ("one",), "b": ("two",)}, nets, optimisers, clip=0.5)
        assert values(nets) == pytest.approx([2 - 0.5, 3 - 0.25], abs=1e-5)

    def test_weights_count_that_they_moved(self) -> None:
        """Who keeps what is made of weights sees by their versions that they are others; fused kernels count none."""
        nets, _ = pair()
        optimisers = {name: Adam(net.parameters(), fused=True) for name, net in nets.items()}
        before = [net.weight._version for net in nets.values()]
        descend({"a": nets["one"].weight.sum()}, {"a": ("one",)}, nets, optimisers, clip=100.0)
        moved = [net.weight._version > version for net, version in zip(nets.values(), before, strict=True)]
        assert moved == [True, False]

    def test_a_gradient_does_not_linger(self) -> None:
        nets, optimisers = pair()
        for _ in range(2):
            descend({"a": nets["one"].weight.sum()}, {"a": ("one",)}, nets, optimisers, clip=100.0)
        assert values(nets) == [0, 3]

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_a_loss_that_is_no_number_moves_nothing(self, bad: float) -> None:
        nets, optimisers = pair()
        losses = {"a": nets["one"].weight.sum(), "b": nets["two"].weight.sum() * bad}
        with pytest.raises(TrainingError, match=f"the loss 'b' is {bad}"):
            descend(losses, {"a": ("one",), "b": ("two",)}, nets, optimisers, clip=1.0)
        assert values(nets) == [2, 3]

    def test_a_gradient_that_is_no_number_moves_nothing(self) -> None:
        nets, optimisers = pair()
        losses = {"a": nets["one"].weight.sum(), "b": (nets["two"].weight - 3).sqrt().sum()}
        with pytest.raises(TrainingError, match="a gradient of 'two'"):
            descend(losses, {"a": ("one",), "b": ("two",)}, nets, optimisers, clip=1.0)
        assert values(nets) == [2, 3]

    def test_the_learning_rate_falls_in_a_line_to_a_hundredth(self) -> None:
        _, optimisers = pair()
        for done, rate in ((0.0, 0.2), (0.25, 0.15), (0.5, 0.1), (1.0, 0.2 * SLOWEST), (3.0, 0.2 * SLOWEST)):
            decay_rate(optimisers, 0.2, done)
            assert [one.param_groups[0]["lr"] for one in optimisers.values()] == pytest.approx([rate, rate])


class TestTinyWorld:
    """Songs in a tight heap, and a few far away, which some users like and others do not."""

    def far(self, agent: Agent, state: State) -> float:
        """How often a far song is chosen after five songs of the heap."""
        users = np.arange(40, dtype=np.int32)
        windows = state.histories(users, np.full(40, 20), np.full(40, 5))
        heap = (windows.items < 36).all(1)
        assert heap.sum() > 15
        policy = LearnedPolicy(agent.eval(), state)
        chosen = policy.act(policy.states(windows), Request(1, policy.sampler), np.random.default_rng(0)).items[:, 0]
        return float((chosen[heap] >= 36).mean())

    @pytest.mark.parametrize(
        ("likes", "form", "untrained", "trained"),
        [
            # After songs of the heap, a far one brings the spread home; the typical user tells that `towards` at once.
            ([0.1], "towards", (0.95, 1), (0.95, 1)),
            ([0.1], "change", (0, 0.5), (0.95, 1)),
            # Who heard songs of the heap alone is no typical user, which is learned.
            ([0.0, 0.5], "towards", (0.95, 1), (0, 0.05)),
        ],
    )
    def test_the_trained_agent_finds_the_best_policy(
        self,
        likes: list[float],
        form: Form,
        untrained: tuple[float, float],
        trained: tuple[float, float],
        setup_of: SetupOf,
        tmp_path: Path,
    ) -> None:
        spread = {"window": 5, "form": form}
        setup = setup_of(tmp_path, epochs=2048, batch_size=64, window=6, reward={"spread": spread}, learning_rate=0.01)
        state = State(heap_world(np.resize(likes, 40)), setup)
        agent = Agent(setup, state.space)
        assert untrained[0] <= self.far(agent.wake_agent(), state) <= untrained[1]
        report = Environment(agent := Agent(setup, state.space), state, setup).run_sim()
        assert trained[0] <= self.far(agent, state) <= trained[1]
        earned = [step.reward for step in report.steps]
        assert np.mean(earned[-8:]) > np.mean(earned[:4])


def heap_world(likes: np.ndarray) -> Dataset:
    """40 songs, four of them far away; each of 40 users hears a far one with the chance given."""
    rng = np.random.default_rng(0)
    places = np.vstack([0.3 * rng.normal(size=(36, 2)), 10 + 0.3 * rng.normal(size=(4, 2))])
    items = pl.DataFrame({"item_id": np.arange(40), "x": places[:, 0], "y": places[:, 1]})
    heard = np.where(
        rng.random((40, 60)) < likes[:, None], rng.integers(36, 40, (40, 60)), rng.integers(36, size=(40, 60))
    )
    log = pl.DataFrame({"user_id": np.repeat(np.arange(40), 60), "item_id": heard.ravel()})
    return Dataset.from_frame(log, items, name="heap")
