"""The agent reads a history on a grid of steps; no step knows a later event, and one cycle learns from all of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from what_next import Agent, Dataset, Environment, State
from what_next.algorithms import WhatNext
from what_next.algorithms.whatnext import BOLD
from what_next.errors import SetupError, TrainingError
from what_next.rewards.spread import spread_of, spread_reward
from what_next.sources import BanditSource
from what_next.types import BanditSteps, Batch, History, Product

from .conftest import SetupOf, Trained, listening

STEP = 4
"""The step that is looked at."""


@pytest.fixture
def agent(trained: Trained) -> Agent:
    return Agent(trained.setup, trained.state.space).ready_agent()


@pytest.fixture
def learner(trained: Trained) -> Agent:
    space = trained.state.space
    return Agent(trained.setup, space).wake_agent()


@pytest.fixture
def history(trained: Trained) -> History:
    """Four windows of 20 events."""
    users = trained.state.train_users[:4]
    return trained.state.histories(users, np.full(4, 5), np.full(4, 20))


def product_of(items: np.ndarray) -> Product:
    grid = (*items.shape, 1)
    nothing = np.zeros(grid, np.bool_)
    return Product(items=items[..., None].astype(np.int32), matches=np.ones(grid, np.int64), fallback=nothing)


def batch_of(agent: Agent, state: State, history: History, items: np.ndarray) -> Batch:
    """The batch in which these items were selected."""
    factors = agent.factorize(history)
    return BanditSource(state).batch(history, factors, product_of(items), np.random.default_rng(0))


def judged(agent: Agent, state: State, history: History, items: np.ndarray) -> BanditSteps:
    """What the losses read of it."""
    return agent.add_prediction(batch_of(agent, state, history, items), np.random.default_rng(0)).batch


@torch.no_grad()
def critic_values(agent: Agent, state: State, history: History, items: np.ndarray) -> Tensor:
    """The critic's value of the selected item at every step."""
    batch = judged(agent, state, history, items)
    return agent.nets["critic"](batch.factors, batch.points, batch.prospects)[..., 0]


@torch.no_grad()
def actor_logits(agent: Agent, state: State, history: History, _: np.ndarray) -> Tensor:
    """What the actor would like to propose at every step."""
    factors = agent.factorize(history)
    return agent.nets["actor"](torch.from_numpy(factors.actor), torch.from_numpy(factors.prospects))


def other_item(history: History, step: int) -> History:
    """The history with another item at a step."""
    items = history.items.copy()
    items[:, step] = (items[:, step] + 37) % 80
    return replace(history, items=items)


def other_reward(history: History, step: int) -> History:
    rewards = history.rewards.copy()
    rewards[:, step] += 20
    return replace(history, rewards=rewards)


def other_context(history: History, step: int) -> History:
    context = history.context.copy()
    context[:, step] += 20
    return replace(history, context=context)


class TestFactors:
    def test_tensors_share_the_memory_of_the_arrays(self, agent: Agent, trained: Trained, history: History) -> None:
        batch = batch_of(agent, trained.state, history, history.items)
        steps = agent.add_prediction(batch).batch
        assert np.shares_memory(steps.factors.numpy(), batch.factors.critic)
        assert np.shares_memory(steps.actor_factors.numpy(), batch.factors.actor)
        assert np.shares_memory(steps.actor_prospects.numpy(), batch.factors.prospects)

    def test_an_event_is_its_attributes_numbers_and_the_sample_so_far(
        self, agent: Agent, trained: Trained, history: History
    ) -> None:
        row = agent.factorize(history).actor[1, STEP]
        space = trained.state.space
        vectors = space.catalogue.vectors[history.items[1, : STEP + 1]]
        numbers = np.append(history.rewards[1, STEP], history.context[1, STEP])
        expected = [
            *vectors[-1],
            *(numbers - space.event_center) / space.event_scale,
            *vectors.mean(0),
            spread_of(torch.from_numpy(vectors)),
            1 / (STEP + 1),
        ]
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-5)

    def test_prospects_are_those_of_the_actors_prototypes(
        self, agent: Agent, trained: Trained, history: History
    ) -> None:
        ahead = agent.factorize(history).prospects[2, STEP]
        vectors = torch.from_numpy(trained.state.space.catalogue.vectors[history.items[2, : STEP + 1]])
        prototypes = agent.nets["actor"].prototypes
        assert len(prototypes) == len(ahead) == WhatNext().prototypes
        grown = [spread_of(torch.cat([vectors, prototype[None]])) for prototype in prototypes]
        np.testing.assert_allclose(ahead[:, 0], grown, rtol=1e-4)

    def test_values_and_policy_begin_as_for_the_typical_user(
        self, learner: Agent, trained: Trained, history: History
    ) -> None:
        space = trained.state.space
        for net in learner.nets.values():
            for weight in net.head.value[-1].parameters():
                nn.init.zeros_(weight)
        samples, typical = learner.learner.samples(history.items), torch.full((4,), space.typical)
        selected = torch.from_numpy(space.catalogue.vectors[history.items])[:, :, None]
        reward, usable = spread_reward(samples, samples.with_item(selected), typical)
        values = critic_values(learner, trained.state, history, history.items)
        expected = reward[..., 0] * samples.count
        torch.testing.assert_close(values[usable], expected[usable].float(), rtol=1e-3, atol=1e-4)
        heard, prototypes = selected[2, : STEP + 1, 0], learner.nets["actor"].prototypes
        off = [abs(spread_of(torch.cat([heard, one[None]])) - space.typical) for one in prototypes]
        nearer = (abs(spread_of(heard) - space.typical) - np.array(off)) * (STEP + 1) / space.typical
        logits = actor_logits(learner, trained.state, history, history.items)[2, STEP]
        np.testing.assert_allclose(logits, nearer * BOLD, rtol=1e-2, atol=1e-2)

    def test_values_of_another_form_begin_from_nothing(
        self, trained: Trained, setup_of: SetupOf, tmp_path: Path
    ) -> None:
        agent = Agent(setup_of(tmp_path, reward={"spread": {"form": "change"}}), trained.state.space).wake_agent()
        assert [float(net.head.prior) for net in agent.nets.values()] == [0, 0]

    def test_the_label_is_not_read(self, agent: Agent, history: History) -> None:
        before, after = agent.factorize(history), agent.factorize(replace(history, sigma=history.sigma * 3))
        for name in ("actor", "critic", "prospects"):
            assert np.array_equal(getattr(before, name), getattr(after, name))


class TestCausality:
    @pytest.mark.parametrize("values", [critic_values, actor_logits])
    @pytest.mark.parametrize("change", [other_item, other_reward, other_context])
    def test_events_up_to_the_step_change_it_and_no_later_one_does(
        self,
        agent: Agent,
        trained: Trained,
        history: History,
        values: Callable[..., Tensor],
        change: Callable[..., History],
    ) -> None:
        items = np.roll(history.items, 3, axis=1)
        before = values(agent, trained.state, history, items)[:, STEP]
        for step in (0, STEP - 1, STEP):
            after = values(agent, trained.state, change(history, step), items)[:, STEP]
            assert (after - before).abs().max() > 1e-4, step
        for step in (STEP + 1, 19):
            after = values(agent, trained.state, change(history, step), items)[:, STEP]
            torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)

    def test_the_item_at_the_step_changes_its_value_and_no_other(
        self, agent: Agent, trained: Trained, history: History
    ) -> None:
        items = np.roll(history.items, 3, axis=1)
        other = items.copy()
        other[:, STEP] = (items[:, STEP] + 37) % 80
        before, after = (critic_values(agent, trained.state, history, some) for some in (items, other))
        assert ((after - before).abs()[:, STEP] > 1e-4).all()
        rest = np.arange(20) != STEP
        torch.testing.assert_close(after[:, rest], before[:, rest])


class TestPredict:
    def test_the_last_step_of_the_grid_is_the_prediction(self, agent: Agent, trained: Trained) -> None:
        history = trained.state.histories(trained.state.train_users[:3], np.zeros(3, int), np.array([20, 4, 11]))
        grid, last = agent.predict(history, grid=True).points, agent.predict(history).points
        assert grid.shape == (3, 20, 4)
        assert last.tolist() == [grid[0, 19].tolist(), grid[1, 3].tolist(), grid[2, 10].tolist()]

    def test_company_and_padding_change_nothing(self, agent: Agent, trained: Trained) -> None:
        users, lengths = trained.state.train_users[:3], np.array([20, 4, 11])
        together = trained.state.histories(users, np.zeros(3, int), lengths)
        alone = trained.state.histories(users[1:2], np.zeros(1, int), lengths[1:2])
        torch.testing.assert_close(
            actor_logits(agent, trained.state, together, alone.items)[1, :4],
            actor_logits(agent, trained.state, alone, alone.items)[0],
            rtol=1e-4, atol=1e-5,
        )  # fmt: skip

    def test_only_the_latest_window_counts(self, agent: Agent, trained: Trained) -> None:
        users = trained.state.train_users[:5]
        whole = trained.state.get_user_history(users)
        latest = trained.state.histories(users, np.full(5, 20), np.full(5, 20))
        proposals, factors = [], []
        for history in (whole, latest):
            proposal = agent.predict(history)
            proposals.append(proposal.points)
            factors.append(proposal.factors)
        assert np.array_equal(*proposals)
        assert np.array_equal(factors[0].actor, factors[1].actor)
        assert np.array_equal(factors[0].prospects, factors[1].prospects)

    def test_it_proposes_points_of_the_catalogue(self, agent: Agent, trained: Trained, history: History) -> None:
        points = agent.predict(history, np.random.default_rng(0), grid=True).points.reshape(-1, 4)
        vectors = trained.state.space.catalogue.vectors
        assert all((vectors == point).all(1).any() for point in points)

    def test_a_generator_makes_it_explore(self, agent: Agent, history: History) -> None:
        drawn = [agent.predict(history, np.random.default_rng(seed), grid=True).points for seed in (0, 0, 1)]
        assert np.array_equal(drawn[0], drawn[1])
        assert not np.array_equal(drawn[0], drawn[2])

    def test_the_critics_score_is_its_value_on_the_grid(self, trained: Trained, history: History) -> None:
        chosen = trained.setup.selection.model_copy(update={"name": "critic"})
        agent = Agent(trained.setup.model_copy(update={"selection": chosen}), trained.state.space).ready_agent()
        items = np.roll(history.items, 3, axis=1)
        values = critic_values(agent, trained.state, history, items)
        score = agent.predict(history, grid=True).score
        assert score is not None
        place = np.array([STEP, 20 + 7, 3 * 20 + 19])
        found = score(place, items.ravel()[place])
        np.testing.assert_allclose(found, values.flatten()[place], rtol=1e-3, atol=1e-5)
        score = agent.predict(history).score
        assert score is not None
        np.testing.assert_allclose(score(np.arange(4), items[:, -1]), values[:, -1], rtol=1e-3, atol=1e-5)


class TestLearning:
    def test_rewards_are_those_of_two_passes(self, learner: Agent, trained: Trained, history: History) -> None:
        items = np.roll(history.items, 3, axis=1)
        batch = batch_of(learner, trained.state, history, items)
        targets = learner.add_prediction(batch).batch.targets
        vectors = torch.from_numpy(trained.state.space.catalogue.vectors)
        sigma = history.sigma[1]
        for step in (2, STEP, 19):
            sample = vectors[history.items[1, : step + 1]]
            without, grown = spread_of(sample), spread_of(torch.cat([sample, vectors[items[1, step], None]]))
            reward = (abs(without - sigma) - abs(grown - sigma)) / sigma
            assert batch.rewards[1, step] == pytest.approx(reward, rel=1e-3, abs=1e-6)
            clip = trained.setup.reward.spread.clip
            target = max(-clip, min(clip, reward * (step + 1)))
            assert targets[1, step, 0].item() == pytest.approx(target, rel=1e-3, abs=1e-5)

    def test_the_selected_item_stands_before_some_random_ones(
        self, learner: Agent, trained: Trained, history: History
    ) -> None:
        batch = judged(learner, trained.state, history, history.items)
        vectors = trained.state.space.catalogue.vectors
        assert batch.points.shape == (4, 20, 1 + WhatNext().random_items, 4)
        assert np.array_equal(batch.points[..., 0, :].numpy(), vectors[history.items])

    def test_short_samples_padding_and_users_without_spread_are_masked(self, learner: Agent, trained: Trained) -> None:
        history = trained.state.histories(trained.state.train_users[:3], np.zeros(3, int), np.array([6, 4, 6]))
        history = replace(history, sigma=np.array([1, 1, 0], np.float32))
        mask = batch_of(learner, trained.state, history, np.zeros((3, 6), int)).mask
        assert mask.astype(int).tolist() == [[0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 0, 0], [0] * 6]

    def test_a_step_without_an_item_is_masked(self, learner: Agent, trained: Trained, history: History) -> None:
        items = history.items.copy()
        items[0, STEP] = -1
        assert (~batch_of(learner, trained.state, history, items).mask).sum() == 4 * 2 + 1

    def test_repeats_are_damped(self, trained: Trained, history: History) -> None:
        rewards = []
        for factor in (1.0, 0.5):
            reward = trained.setup.reward.model_copy(
                update={"spread": trained.setup.reward.spread.model_copy(update={"repeat_factor": factor})}
            )
            setup = trained.setup.model_copy(update={"reward": reward})
            state = State(trained.state.dataset, setup, trained.state.space)
            agent = Agent(setup, state.space).wake_agent()
            rewards.append(batch_of(agent, state, history, history.items).rewards)  # every one was just heard
        plain, less = rewards
        np.testing.assert_allclose(less, np.where(plain > 0, plain / 2, plain), rtol=1e-6)
        assert (plain > 0).any()

    def test_a_cycle_moves_both_networks_and_tells_of_it(
        self, learner: Agent, trained: Trained, history: History
    ) -> None:
        before = {name: [one.detach().clone() for one in net.parameters()] for name, net in learner.nets.items()}
        rng = np.random.default_rng(0)
        proposal = learner.predict(history, rng, grid=True)
        product = trained.state.produce(proposal.points, 0.0, np.random.default_rng(0))
        batch = BanditSource(trained.state).batch(history, learner.factorize(history), product, rng)
        step = learner.propagate(batch, rng)
        for name, net in learner.nets.items():
            assert all((old != new).any() for old, new in zip(before[name], net.parameters(), strict=True)), name
        assert learner.histories == 4
        assert set(step.losses) == {"actor", "critic"}
        assert step.masked == pytest.approx(2 / 20)
        assert step.matches == pytest.approx(product.matches[:, 2:].mean())
        assert step.fallback == pytest.approx(product.fallback[:, 2:].mean())

    def test_a_batch_in_which_nobody_has_spread_is_counted_not_fatal(
        self, learner: Agent, trained: Trained, history: History
    ) -> None:
        history = replace(history, sigma=np.zeros(4, np.float32))
        step = learner.propagate(batch_of(learner, trained.state, history, history.items))
        assert (step.masked, step.reward, step.losses) == (1, 0, {"actor": 0, "critic": 0})

    @pytest.mark.parametrize("name", ["actor", "critic"])
    def test_a_weight_that_is_no_number_stops_it_before_anything_moves(
        self, learner: Agent, trained: Trained, history: History, name: str
    ) -> None:
        with torch.no_grad():
            next(learner.nets[name].parameters()).view(-1)[0] = torch.nan
        before = [one.detach().clone() for net in learner.nets.values() for one in net.parameters()]
        learner.histories = 96
        batch = batch_of(learner, trained.state, history, history.items)
        with pytest.raises(TrainingError, match="after 96 histories: the loss"):
            learner.propagate(batch)
        after = [one for net in learner.nets.values() for one in net.parameters()]
        assert all(torch.equal(old.nan_to_num(), new.nan_to_num()) for old, new in zip(before, after, strict=True))
        assert learner.histories == 96


class TestBuilding:
    def test_the_same_seed_wakes_the_same_agent(self, trained: Trained) -> None:
        def weights(seed: int, begin: Callable[[Agent], Agent] = Agent.wake_agent) -> list[Tensor]:
            begun = begin(Agent(trained.setup.model_copy(update={"seed": seed}), trained.state.space))
            return [one for net in begun.nets.values() for one in net.state_dict().values()]

        assert all(map(torch.equal, weights(5), weights(5)))
        assert all(map(torch.equal, weights(5), weights(5, Agent.build)))
        assert not all(map(torch.equal, weights(5), weights(6)))

    def test_a_ready_agent_is_the_one_that_was_trained(self, trained: Trained, history: History) -> None:
        ready = [Agent(trained.setup, trained.state.space).ready_agent() for _ in range(2)]
        assert ready[0].histories == 256
        assert not any(net.training for net in ready[0].nets.values())
        assert np.array_equal(*(agent.predict(history).points for agent in ready))

    def test_the_trained_settings_go_before_those_of_the_setup(self, trained: Trained) -> None:
        other = trained.setup.model_copy(update={"dim": 99, "window": 5})
        agent = Agent(other, trained.state.space).ready_agent()
        assert (agent.setup.dim, agent.setup.window) == (16, 20)

    def test_an_agent_alone_needs_no_critic(self, trained: Trained) -> None:
        alone = trained.setup.model_copy(update={"model_critic_path": None})
        assert list(Agent(alone, trained.state.space).ready_agent().nets) == ["actor"]

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
    def test_a_device_that_is_not_there_is_refused(self, trained: Trained) -> None:
        with pytest.raises(SetupError, match="device is cuda"):
            Agent(trained.setup.model_copy(update={"device": "cuda"}), trained.state.space)

    def test_fewer_kinds_of_items_heard_than_there_are_load_again(self, setup_of: SetupOf, tmp_path: Path) -> None:
        """The prototypes are as many as the items heard in training, which are fewer than those of the catalogue."""
        log, items = listening(users=10, items=60)
        log = log.filter(log["item_id"].is_in([f"i{number}" for number in range(12)]))
        setup = setup_of(tmp_path, epochs=32)
        state = State(Dataset.from_frame(log, items), setup)
        Environment(Agent(setup, state.space), state, setup).run_sim()
        assert len(Agent(setup, state.space).ready_agent().nets["actor"].prototypes) == 12
