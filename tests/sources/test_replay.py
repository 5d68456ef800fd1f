"""What was played is kept and learned from again: which steps, what follows them, and what is learned by it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from what_next import Agent, Environment, LearnedPolicy
from what_next.algorithms import Ddpg, Dqn, Hac, Sac, Slateq, Td3, WhatNext
from what_next.algorithms.base import Algorithm
from what_next.errors import SetupError
from what_next.experiments.simulation import player_of
from what_next.sources import FoundingPlayer, FoundingSource, Mixture, Player, Replay, ReplaySource, source_in, state_in
from what_next.types import Batch, Factors
from what_next.worlds import Feedback, World, play, preset

from .detour import DUST, GREEDY, PATIENT, PRIZE, Detour, setup_for


class Single(Detour):
    """Of one slot; greed is as good as it ever is."""

    slots: int = 1

    def references(self) -> Any:
        return {"greedy": lambda state, rng: np.full((len(state.age), 1), GREEDY)}


class Clicked(Single):
    """Whatever changes the state is clicked, as `slateq` supposes."""

    def step(self, state: Any, slates: np.ndarray, rng: Any) -> tuple[Any, Feedback]:
        after, found = super().step(state, slates, rng)
        clicks = slates != DUST
        return replace(after, clicks=clicks), replace(found, clicks=clicks)


class Chain(Single):
    """`patient` leads a step on, and from the third place on pays 4; all else leads back, and `greedy` pays 1."""

    def step(self, state: Any, slates: np.ndarray, rng: Any) -> tuple[Any, Feedback]:
        first, place = slates[:, 0], state.waiting.astype(np.int64)
        rewards = np.where(first == GREEDY, 1, np.where((place == 2) & (first == PATIENT), 4, 0)).astype(np.float32)
        clicks, after = rewards[:, None] > 0, np.where(first == PATIENT, np.minimum(place + 1, 2), 0)
        found = Feedback(clicks, rewards, np.zeros(len(first), np.bool_))
        return replace(state, age=state.age + 1, shown=slates, clicks=clicks, waiting=after), found

    def observe(self, state: Any, ideal: bool = False) -> Any:
        place = np.eye(3, dtype=np.float32)[state.waiting.astype(np.int64)]
        return replace(super().observe(state, ideal), numbers=place if ideal else place[:, :0])

    def bounds(self, ideal: bool = False) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(3 * ideal, np.float32), np.ones(3 * ideal, np.float32)


def source_of(algorithm: Algorithm, inside: World, **settings: Any) -> tuple[ReplaySource, LearnedPolicy]:
    named = {"name": "detour", "users": 64, "window": 8, "steps": 10_000, "batch": 256, "reuse": 8.0, "ideal": True}
    model = "lstm" if isinstance(algorithm, WhatNext) else "mlp"
    more = {"model": model, "inputs": {"items": "attributes"}, "discount": 0.9, "tolerance": 1.0}
    settings["world"] = named | settings.get("world", {})
    state = state_in(inside, setup_for(algorithm, **more | settings))
    agent = Agent(state.setup, state.space).wake_agent()
    source = source_in(inside, state)
    assert isinstance(source, ReplaySource)
    return source, LearnedPolicy(agent, state)


@pytest.mark.parametrize("algorithm", [Dqn(), Slateq(), WhatNext()], ids=lambda one: one.name)
def test_episodes_that_the_time_limit_ends_after_one_slate_are_told(algorithm: Algorithm) -> None:
    """All steps were masked, and after 32 batches the message spoke of histories and of `mask`."""
    source, policy = source_of(algorithm, Single(steps=1))
    with pytest.raises(SetupError, match=r"world detour: its time limit ends every episode after one slate, and .*ppo"):
        source.next_batch(policy, np.random.default_rng(0))


def stretch(number: int, rows: int) -> Batch:
    mask = np.ones((rows, 2), np.bool_)
    numbers = np.full((rows, 2, 1), number, np.float32)
    return Batch(
        items=np.full((rows, 2), -1, np.int32),
        factors=Factors(numbers, np.zeros((rows, 2, 0, 0), np.float32), numbers),
        actions=np.full((rows, 2), number, np.int32),
        rewards=np.zeros((rows, 2), np.float32),
        mask=mask,
        discounts=np.zeros((rows, 2), np.float32),
        histories=2 * rows,
    )


def test_the_newest_take_the_place_of_the_oldest() -> None:
    replay, rng = Replay(5), np.random.default_rng(0)
    replay.add(stretch(1, 3))
    assert set(replay.sample(100, rng).actions.ravel()) == {1}
    arrays = {name: id(values) for name, values in replay.arrays.items()}
    replay.add(stretch(2, 3))
    assert sorted(replay.arrays["actions"][:, 0]) == [1, 1, 2, 2, 2]
    replay.add(stretch(3, 7))  # more than there is room for
    assert set(replay.sample(100, rng).actions.ravel()) == {3}
    assert arrays == {name: id(values) for name, values in replay.arrays.items()}  # made once
    shares = np.bincount(replay.sample(1000, rng, 7).actions[:, 0], minlength=4)
    assert shares[3] == 1000
    assert replay.sample(2, rng, 7).histories == 7


def test_a_step_leads_to_the_state_that_followed() -> None:
    source, policy = source_of(Dqn(), Single(steps=3, leaves=True), world={"epsilon": 1.0})
    batch = source.next_batch(policy, np.random.default_rng(0))
    assert batch.begins is not None
    assert not batch.mask[:, -1].any()
    begins_next, left = batch.begins[:, 1:], (batch.discounts == 0)[:, :-1]
    assert left.any()
    assert (batch.mask[:, :-1] == ~(begins_next & ~left)).all()  # cut off by the time limit: what followed is not there
    context = policy.agent.add_prediction(batch)
    steps, (rows, columns) = context.batch, np.nonzero(batch.mask)
    numbers = batch.factors.actor[rows, columns + 1]
    there = ~batch.begins[rows, columns + 1]
    assert np.array_equal(steps.next_numbers.numpy()[there], numbers[there])
    target = policy.agent.targets["encoder"]
    states = target(policy.agent.learner.seen(batch)).detach().numpy()  # type: ignore[attr-defined]
    assert np.allclose(steps.next_states.numpy()[there], states[rows, columns + 1][there], atol=1e-6)
    assert np.allclose(steps.rewards.numpy(), batch.rewards[batch.mask] * (1 - policy.agent.setup.discount))


class Parting(Clicked):
    """A click on the prize is the last one: the user leaves."""

    def step(self, state: Any, slates: np.ndarray, rng: Any) -> tuple[Any, Feedback]:
        after, found = super().step(state, slates, rng)
        return after, replace(found, terminated=slates[:, 0] == PRIZE)


def test_slateq_learns_from_the_slate_after_which_a_user_left() -> None:
    """The next event is another user's, and tells nothing of the clicks on that slate."""
    source, policy = source_of(Slateq(), Parting(steps=3), world={"epsilon": 1.0})
    batch = source.next_batch(policy, np.random.default_rng(0))
    steps = policy.agent.add_prediction(batch).batch
    last = (steps.discounts == 0).numpy()
    assert last.any()
    assert not steps.answered.numpy()[last].any()
    assert steps.clicks_known.all()
    assert np.array_equal(steps.clicks[:, 0].numpy(), (steps.slates[:, 0] != DUST).numpy())
    critic, rng = policy.agent.nets["critic"], np.random.default_rng(0)
    parting = replace(batch, mask=batch.mask & (batch.discounts == 0))
    for _ in range(200):
        policy.agent.propagate(parting, rng)
    context = policy.agent.add_prediction(parting)
    found = context.items.values(critic(context.batch.states), context.batch.actions)
    assert found.detach().numpy() == pytest.approx(context.batch.rewards.numpy(), abs=0.1)


def test_as_many_slates_are_played_as_are_learned_from() -> None:
    source, policy = source_of(Dqn(), Single(), world={"reuse": 3.0, "steps": 2048, "batch": 100})
    rng, learned = np.random.default_rng(0), 0
    while not source.done(policy.agent.histories, policy.agent.steps):
        learned += policy.agent.propagate(source.next_batch(policy, rng), rng).targets
    assert source.taken == policy.agent.histories == 2048
    assert learned == pytest.approx(3 * 2048, rel=0.3)  # but for the last step of each stretch, and time limits


def test_any_item_is_tried_less_and_less_often() -> None:
    source, _ = source_of(Dqn(), Single(), world={"epsilon": 0.1, "steps": 10_000})
    found = []
    for source.taken in (0, 500, 1000, 5000):
        found.append(round(source.epsilon, 3))
    assert found == [1.0, 0.5, 0.1, 0.1]


def test_target_networks_follow_faster_in_a_short_run_unless_tau_is_set() -> None:
    """20 experiences of 512 slates, each learned from 4 times in batches of 128."""
    world = {"users": 64, "window": 8, "steps": 20 * 512, "batch": 128, "reuse": 4.0}
    short, _ = source_of(Dqn(), Single(), world=world)
    assert short.polyak == pytest.approx(10 / (20 * 512 * 4 / 128))
    assert short.chosen[1][-1] == "algorithm.tau 0.031: the run is short; `algorithm.tau` sets another"
    set_by_hand, _ = source_of(Dqn(tau=0.005), Single(), world=world)
    long, _ = source_of(Dqn(), Single(), world=world | {"steps": 10**6})
    for source in (set_by_hand, long):
        assert source.polyak == 0.005
        assert not any("tau" in reason for reason in source.chosen[1])
    assert source_of(Dqn(), Single(), world=world | {"steps": 600, "batch": 512})[0].polyak == 1
    assert Mixture({long: 1.0, short: 1.0}).polyak == short.polyak


@pytest.mark.medium
def test_a_short_run_finds_the_end_of_a_chain_by_default(tmp_path: Path) -> None:
    """200 steps of 1,000 slates: target networks that moved by .005 in each would still be near where they began."""
    inside = Chain(steps=40)
    world = {"name": "detour", "ideal": True, "steps": 50_000, "batch": 1000, "explore": 0}
    setup = setup_for(Dqn(), tmp_path, model="mlp", dim=64, learning_rate=1e-3, discount=0.9, world=world)
    environment = Environment.from_setup(setup, world=inside)
    environment.run_sim()
    policy = LearnedPolicy(environment.agent.eval(), environment.state)
    assert play(inside, Player(policy, inside), 50, np.random.default_rng(1)).mean == 4 * 38


@pytest.mark.medium
@pytest.mark.parametrize(
    ("algorithm", "world"),
    [
        (Dqn(), Single()),
        (Ddpg(), Single()),
        (Td3(), Single()),
        (Slateq(), Clicked()),
        (Sac(temperature=0.5), Detour()),  # in a run of 300 steps, with less it settles on greed
        (WhatNext(entropy=0.1), Single()),
    ],
    ids=["dqn", "ddpg", "td3", "slateq", "sac", "whatnext"],
)
def test_it_learns_to_wait_for_the_prize(algorithm: Algorithm, world: World) -> None:
    """The best policy earns 10 in four steps, greed 4."""
    source, policy = source_of(algorithm, world)
    rng, agent = np.random.default_rng(0), policy.agent
    agent.horizon, agent.polyak = source.horizon, source.polyak
    while not source.done(agent.histories, agent.steps):
        agent.propagate(source.next_batch(policy, rng), rng)
    player = player_of(policy)(LearnedPolicy(agent.eval(), policy.state), world)
    assert play(world, player, 50, np.random.default_rng(1)).mean == 10


@pytest.mark.medium
def test_hac_does_as_well_as_greed() -> None:
    """Its actor climbs the critic by steps along a gradient, and stays where the click is: with `prize` in sight it
    would have to pass over items that earn nothing."""
    source, policy = source_of(Hac(), Single())
    rng, agent = np.random.default_rng(0), policy.agent
    while not source.done(agent.histories, agent.steps):
        agent.propagate(source.next_batch(policy, rng), rng)
    player = Player(LearnedPolicy(agent.eval(), policy.state), Single())
    assert play(Single(), player, 50, np.random.default_rng(1)).mean >= 4


class TestFounding:
    def test_a_row_is_what_one_user_was_shown_and_did(self) -> None:
        source, policy = source_of(WhatNext(), Single(steps=3, leaves=True), world={"epsilon": 1.0, "window": 5})
        assert isinstance(source, FoundingSource)
        batch = source._experience(policy, np.random.default_rng(0))
        space, lengths = policy.agent.space, batch.lengths
        assert space.event_names == ("reward", "seen_0")
        assert batch.histories == 64 * 5
        assert lengths.sum() == 64 * 5
        assert lengths.max() == 3
        clicked, waiting = batch.factors.actor[..., 4], batch.factors.actor[..., 5]  # after an item's four attributes
        for row, length in enumerate(lengths.tolist()):
            assert batch.items[row, 0] == DUST  # as the world begins
            for time in range(length - 1):
                assert batch.mask[row, time]
                assert batch.items[row, time + 1] == batch.actions[row, time]
                assert clicked[row, time + 1] == (batch.rewards[row, time] > 0)
                assert waiting[row, time + 1] == (batch.actions[row, time] == PATIENT)
            left = batch.discounts[row, length - 1] == 0
            assert batch.mask[row, length - 1] == left == (batch.actions[row, length - 1] == DUST)
        assert {1, 2, 3} <= set(lengths.tolist())

    def test_the_founding_cycle_is_on_the_path(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Predict factorizes, what produce gives is what users are shown, and propagate learns of it."""
        source, policy = source_of(WhatNext(), Single(), world={"epsilon": 0.0})
        seen = []
        for owner, name in (
            (policy.agent, "factorize"),
            (policy.agent, "predict"),
            (policy.state, "produce"),
            (policy.agent, "add_prediction"),
            (policy.agent, "get_critic_loss"),
        ):
            first = getattr(owner, name)

            def told(*given: Any, name: str = name, first: Any = first, **more: Any) -> Any:
                seen.append(name)
                found = first(*given, **more)
                if name == "produce":
                    found.items[:] = PRIZE
                return found

            monkeypatch.setattr(owner, name, told)
        source.taken = source.horizon  # nothing is tried at random
        batch = source.next_batch(policy, np.random.default_rng(0))
        policy.agent.propagate(batch)
        assert seen == [*["predict", "factorize", "produce"] * 8, "factorize", "add_prediction", "get_critic_loss"]
        assert (batch.actions == PRIZE).all()

    def test_a_player_reads_the_last_events(self) -> None:
        _, policy = source_of(WhatNext(), Single(steps=6), world={"window": 4})
        player = FoundingPlayer(policy, Single(steps=6))
        player.begin(2)
        for item in (0, 1, 2, 3):
            last = np.array([item, item + 10]), np.full((2, 2), item, np.float32)
            history = player.step(last)
        assert history.items.tolist() == [[1, 2, 3], [11, 12, 13]]
        assert history.rewards.tolist() == [[1, 2, 3]] * 2
        player.forget(np.array([0]))
        history = player.step((np.array([7, 14]), np.zeros((2, 2), np.float32)))
        assert history.items.tolist() == [[7, -1, -1], [12, 13, 14]]
        assert history.lengths.tolist() == [1, 3]
        player.keep(np.array([1]))
        assert player.step((np.array([15]), np.zeros((1, 2), np.float32))).items.tolist() == [[13, 14, 15]]


def test_slateq_learns_of_the_slates_of_its_world() -> None:
    state = state_in(preset("choice"), setup_for(Slateq(), world={"name": "choice"}))
    assert state.setup.algorithm.slots == 3  # type: ignore[attr-defined]


def test_slateq_which_has_no_actor_lets_learned_vectors_start_from_random_slates() -> None:
    source, policy = source_of(Slateq(), Clicked(), inputs={"items": "learned"}, world={"explore": 200})
    before = policy.agent.nets["encoder"].items.learned.detach().clone()
    source.prepare(policy.agent)
    assert not torch.equal(policy.agent.nets["encoder"].items.learned, before)


def test_mistakes() -> None:
    with pytest.raises(SetupError, match=r"dqn values single items, and world detour shows slates of 2; take slateq"):
        source_of(Dqn(), Detour())
    with pytest.raises(SetupError, match=r"n_step is 2; allowed in a world: 1"):
        source_of(Dqn(), Single(), n_step=2)
    for algorithm in (Dqn(), Sac(), WhatNext()):
        with pytest.raises(SetupError, match=r"world.window is 1, and \w+ learns only from .*; allowed: above 1"):
            source_of(algorithm, Single(), world={"window": 1})
