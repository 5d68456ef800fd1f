"""The agent's policy plays in a world: what is written down is what happened, and what is learned from."""

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch

from what_next.algorithms import A2c, NextItem, Ppo, Reinforce, Slateq
from what_next.algorithms.base import Algorithm
from what_next.errors import SetupError, TrainingError
from what_next.losses.rl import gae
from what_next.models.encoders import Encoder
from what_next.models.slates import Pricer
from what_next.policy import LearnedPolicy
from what_next.settings.plugins import GIVEN
from what_next.sources import Player, ReplaySource, WorldSource, source_in, state_in, world_of
from what_next.sources.exploring import explored
from what_next.types import Batch
from what_next.worlds import Boredom, Feedback, Observation, World, known_worlds, play, preset
from what_next.worlds.promises import USERS

from .detour import DUST, GREEDY, PATIENT, PRIZE, Detour, playing, setup_for

EVERY = pytest.mark.parametrize(
    "algorithm",
    [Ppo(), Ppo(over="points"), A2c(balance=False), Reinforce()],
    ids=["items", "points", "a2c", "reinforce"],
)
MODELS = pytest.mark.parametrize("model", ["lstm", "gru", "mlp", "mean"])


def experience(source: WorldSource, policy: object, seed: int = 0) -> Batch:
    return source._experience(policy, np.random.default_rng(seed))  # type: ignore[arg-type]


class TestWhatIsWrittenDown:
    def test_rewards_and_events_are_those_of_the_world(self) -> None:
        source, policy = playing(Ppo(), Detour())
        found = experience(source, policy)
        assert found.slates is not None
        assert found.shown is not None
        assert found.begins is not None
        waiting = (found.shown[..., 0] == PATIENT) & ~found.begins
        first = found.slates[..., 0]
        assert np.array_equal(found.rewards, np.where(first == GREEDY, 1, np.where(waiting & (first == PRIZE), 5, 0)))
        assert np.array_equal(found.begins, np.arange(8)[None].repeat(64, 0) % 4 == 0)
        going = ~found.begins[:, 1:]
        assert np.array_equal(found.shown[:, 1:][going], found.slates[:, :-1][going])
        assert (found.shown[found.begins] == DUST).all()

    @MODELS
    @EVERY
    def test_one_pass_over_the_batch_tells_what_was_told_step_by_step(self, algorithm: Algorithm, model: str) -> None:
        """Values and chances of whoever acted; in the second experience, too, which begins amid episodes."""
        world = Detour(steps=5)
        source, policy = playing(algorithm, world, model=model, world={"name": "detour", "users": 32, "window": 8})
        for seed in (0, 1):
            batch = experience(source, policy, seed)
            context = policy.agent.add_prediction(batch)
            values = policy.agent.nets["critic"](context.batch.states).detach()
            assert torch.allclose(values, context.batch.expected, atol=1e-5)
            logs, _ = policy.agent.setup.algorithm.log_chances(context)  # type: ignore[attr-defined]
            assert torch.allclose(logs, context.batch.propensities, atol=1e-4)

    def test_numbers_and_clicks_of_the_step_after_belong_to_the_same_user(self) -> None:
        source, policy = playing(Ppo(), Boredom(steps=5, items=50, slots=3), dim=8)
        batch = experience(source, policy)
        steps = policy.agent.add_prediction(batch).batch
        assert batch.begins is not None
        assert batch.clicks is not None
        last = np.zeros_like(batch.begins)
        last[:, -1] = True
        answered = ~(np.roll(batch.begins, -1, 1) | last)
        assert np.array_equal(steps.answered.numpy(), answered.ravel())
        assert np.array_equal(steps.clicks.sum(1).numpy()[answered.ravel()], batch.rewards[answered])


class TestHowManyUsers:
    """As many as leave a run its steps, where the setup leaves it open: 750, or 50 experiences of what replays."""

    @pytest.mark.medium
    @pytest.mark.parametrize(
        ("algorithm", "steps", "users"),
        [
            (A2c(), 600_000, 100),  # 600,000 / (750 * 8)
            (Ppo(), 96_000, 256),  # an experience is learned from in 16 steps
            (Ppo(repeats=1, parts=1), 600_000, 100),
            (Ppo(), 2_000_000, 1024),
            (A2c(), 10_000, 32),
            (Reinforce(), 600_000, 200),  # an experience is one episode, of four slates
        ],
    )
    def test_it_follows_from_the_slates_to_learn_from(self, algorithm: Algorithm, steps: int, users: int) -> None:
        world = {"name": "detour", "window": 8, "steps": steps, "explore": 0}
        source, _ = playing(algorithm, Detour(), world=world)
        assert source.users == users
        known, (reason,) = source.chosen
        assert known == {"world.users": users}
        many = f"{'an episode of each, at most ' if algorithm.episodes else ''}{users * source.window:,} slates"
        assert reason.startswith(f"world.users {users:,}: an experience is {many}")

    def test_slates_that_explore_are_not_learned_from(self) -> None:
        world = {"name": "detour", "window": 8, "steps": 600_000, "explore": 300_000}
        source, _ = playing(A2c(), Detour(), world=world, inputs={"items": "learned"})
        assert source.users == 50  # 300,000 / (750 * 8)

    def test_the_setup_goes_before(self) -> None:
        source, _ = playing(A2c(), Detour(), world={"name": "detour", "users": 7, "steps": 600_000})
        assert source.users == 7
        assert source.chosen == ({}, ())

    def test_what_replays_has_experiences_enough(self) -> None:
        settings = setup_for(Slateq(), world={"name": "detour", "window": 8, "steps": 40_000, "explore": 0})
        world = Detour()
        assert ReplaySource(state_in(world, settings), world).users == 100  # 40,000 / (50 * 8)


class TestEnds:
    def test_a_time_limit_is_bootstrapped_by_the_state_that_was_reached(self) -> None:
        source, policy = playing(Ppo(trace=0.0), Detour())
        batch = experience(source, policy)
        assert batch.returns is not None
        assert batch.begins is not None
        assert batch.values is not None
        assert (batch.discounts == np.float32(0.9)).all()
        # Where an episode goes on, the value after a step is that of the next one.
        going = ~batch.begins[:, 1:]
        ahead = 0.1 * batch.rewards[:, :-1] + 0.9 * batch.values[:, 1:]
        assert np.allclose(batch.returns[:, :-1][going], ahead[going], atol=1e-5)
        # At a limit it is that of the state that was reached, which is not that of the user who comes next.
        assert not np.allclose(batch.returns[:, 3], ahead[:, 3], atol=1e-4)
        encoder = policy.agent.nets["encoder"]
        assert isinstance(encoder, Encoder)
        player = Player(policy, source.world)
        for time in range(4):
            player.step(seen(player, batch, time))
        reached = player.step(after(player, batch, 3))
        value = policy.agent.nets["critic"](reached).detach().numpy()
        assert np.allclose(batch.returns[:, 3], 0.1 * batch.rewards[:, 3] + 0.9 * value, atol=1e-5)

    def test_where_a_user_leaves_nothing_follows(self) -> None:
        source, policy = playing(A2c(), Detour(leaves=True))
        batch = experience(source, policy)
        assert batch.slates is not None
        assert batch.begins is not None
        assert batch.returns is not None
        left = batch.slates[..., 0] == DUST
        assert left.any()
        assert np.array_equal(batch.discounts == 0, left)
        assert batch.begins[:, 1:][left[:, :-1]].all()
        assert np.allclose(batch.returns[left], 0, atol=1e-6)  # dust pays nothing

    def test_reinforce_plays_one_episode_of_each_user_and_knows_what_it_came_to(self) -> None:
        source, policy = playing(Reinforce(), Detour(steps=6, leaves=True))
        lengths = []
        for seed in (0, 1):
            batch = experience(source, policy, seed)
            assert batch.begins is not None
            assert batch.returns is not None
            assert batch.begins[:, 0].all()  # of new users
            for row, user in enumerate(batch.mask):
                length = int(user.sum())
                assert user[:length].all()
                assert length == 6 or batch.discounts[row, length - 1] == 0
                following = 0.0
                for time in reversed(range(length)):  # at a time limit, too, nothing is added
                    following = 0.1 * batch.rewards[row, time] + 0.9 * following
                    assert batch.returns[row, time] == pytest.approx(following, abs=1e-5)
                lengths.append(length)
            assert batch.histories == sum(lengths[-64:])
        assert {1, 6} <= set(lengths)
        assert len(policy.agent.add_prediction(batch).batch.returns) == batch.histories

    def test_advantages_are_those_of_the_loss(self) -> None:
        source, policy = playing(Ppo(), Detour())
        batch = experience(source, policy)
        made = source.buffers
        parts = (made["rewards"] * np.float32(0.1), made["values"], made["next"], made["discounts"], made["traces"])
        found = gae(*(torch.from_numpy(part) for part in parts)).numpy() + made["values"]
        assert batch.returns is not None
        assert np.allclose(batch.returns, found.T)


def seen(player: Player, batch: Batch, time: int) -> object:
    assert batch.shown is not None
    assert batch.clicks is not None
    numbers = np.zeros((len(batch.shown), 0), np.float32)
    return player.look(Observation(batch.shown[:, time].astype(np.int64), batch.clicks[:, time], numbers))[0]


def after(player: Player, batch: Batch, time: int) -> object:
    """What was seen after the slates of a step."""
    assert batch.slates is not None
    clicks = np.zeros(batch.slates[:, time].shape, np.bool_)
    clicks[:, 0] = batch.rewards[:, time] > 0
    numbers = np.zeros((len(clicks), 0), np.float32)
    return player.look(Observation(batch.slates[:, time].astype(np.int64), clicks, numbers))[0]


class TestLearning:
    def test_each_user_is_in_every_turn_once(self) -> None:
        source, policy = playing(Ppo(repeats=2, parts=4), Detour())
        rng = np.random.default_rng(0)
        batches = [source.next_batch(policy, rng) for _ in range(8)]
        assert [len(batch.items) for batch in batches] == [16] * 8
        assert sum(batch.histories for batch in batches) == 64 * 8
        first = np.concatenate([batch.slates for batch in batches[:4] if batch.slates is not None])
        second = np.concatenate([batch.slates for batch in batches[4:] if batch.slates is not None])
        assert sorted(map(str, first.tolist())) == sorted(map(str, second.tolist()))

    @EVERY
    def test_it_learns_in_a_world_of_many_items(self, algorithm: Algorithm, monkeypatch: pytest.MonkeyPatch) -> None:
        """From so many on, a log's learner steps the vectors alone that it drew; one that acts has drawn by all."""
        monkeypatch.setattr("what_next.training.encoder_learner.SPARSE", 2)
        inputs = {"items": "attributes"} if algorithm.draws_points else {}
        source, policy = playing(algorithm, Detour(), loss={"name": "sampled_softmax", "negatives": 2}, inputs=inputs)
        policy.agent.horizon, rng = 10**9, np.random.default_rng(0)
        assert policy.agent.propagate(source.next_batch(policy, rng), rng).targets > 0

    @pytest.mark.parametrize(
        ("algorithm", "model", "ideal"),
        [
            (Ppo(), "lstm", False),
            (Ppo(), "mlp", True),
            (Ppo(over="points"), "mlp", True),
            (Reinforce(), "mlp", True),
            pytest.param(A2c(), "gru", False, marks=pytest.mark.slow),
            pytest.param(A2c(over="points"), "mlp", True, marks=pytest.mark.slow),
        ],
        ids=["ppo", "ppo ideal", "ppo points", "reinforce", "a2c", "a2c points"],
    )
    def test_it_learns_to_wait_for_the_prize(self, algorithm: Algorithm, model: str, ideal: bool) -> None:
        """The best policy earns 10 in four steps, greed 4."""
        settings = {"name": "detour", "users": 64, "window": 8, "ideal": ideal}
        inputs = {"items": "attributes"} if algorithm.draws_points else {}
        world = Detour()
        source, policy = playing(algorithm, world, model=model, world=settings, inputs=inputs)
        policy.agent.horizon, rng = 10**9, np.random.default_rng(0)
        steps = 160 if isinstance(algorithm, Ppo) else 120
        for _ in range(steps):
            policy.agent.propagate(source.next_batch(policy, rng), rng)
        policy.agent.eval()
        assert play(world, Player(policy, world), 10, rng).mean == 10
        assert play(world, world.references()["greedy"], 10, rng).mean == 4

    def test_the_same_seed_learns_the_same(self) -> None:
        learned = []
        for _ in range(2):
            source, policy = playing(Ppo(), Detour())
            rng = np.random.default_rng(5)
            for _ in range(6):
                policy.agent.propagate(source.next_batch(policy, rng), rng)
            learned.append([weight.clone() for weight in policy.agent.nets["actor"].parameters()])
        assert all(torch.equal(one, other) for one, other in zip(*learned, strict=True))

    def test_what_a_click_does_is_found_by_regression(self) -> None:
        """In the world of boredom a click adds 1 / threshold to its topic's number."""
        world = Boredom(topics=6, items=60, slots=4, slope=2.0, offset=0.0, threshold=20, steps=5)
        source, policy = playing(
            Ppo(over="points"), world, model="mlp", dim=16, inputs={"items": "attributes"}, learning_rate=0.01
        )
        rng = np.random.default_rng(0)
        policy.agent.horizon = 10**9
        for _ in range(160):
            policy.agent.propagate(source.next_batch(policy, rng), rng)
        algorithm, nets = policy.agent.setup.algorithm, policy.agent.nets
        encoder, actor = nets["encoder"], nets["actor"]
        assert isinstance(encoder, Encoder)
        effects = actor.effects(algorithm.known(nets, encoder.items()))  # type: ignore[attr-defined, operator]
        found = effects.argmax(1).detach().numpy()
        assert (found == world.item_topics).mean() > 0.9

    @pytest.mark.medium
    def test_it_foretells_clicks(self) -> None:
        """In a world without boredom, by what a user clicked before: better than the share of clicks alone."""
        world = Boredom(topics=6, items=60, slots=4, slope=20.0, offset=0.5, threshold=100, steps=8)
        settings = {"name": "boredom", "users": 64, "window": 8}
        algorithm = Ppo(over="points", balance=False, click_weight=1.0)
        source, policy = playing(algorithm, world, model="gru", world=settings, inputs={"items": "attributes"})
        rng, found, plain = np.random.default_rng(0), [], []
        policy.agent.horizon = 10**9
        for _ in range(160):
            batch = source.next_batch(policy, rng)
            clicked = policy.agent.add_prediction(batch).batch
            share = clicked.clicks[clicked.answered].mean()
            plain.append(-(share * share.log() + (1 - share) * (1 - share).log()).item())
            found.append(policy.agent.propagate(batch, rng).losses["clicks"])
        assert np.mean(found[-16:]) * 8 / 7 < 0.9 * np.mean(plain[-16:])  # one step in eight has no answer


class TestExploring:
    def test_items_that_the_same_users_click_start_near_each_other(self) -> None:
        world, settings = preset("boredom"), {"explore": 20_000, "steps": 50_000}
        source, policy = playing(Ppo(), world, dim=16, world=settings, inputs={"items": "learned"})
        assert source.horizon == 30_000  # what explores counts
        source.prepare(policy.agent)
        encoder = policy.agent.nets["encoder"]
        assert isinstance(encoder, Encoder)
        vectors = encoder.items().detach().numpy()
        alike = vectors @ vectors.T
        np.fill_diagonal(alike, -np.inf)
        topics = world.item_topics  # type: ignore[attr-defined]
        assert (topics[alike.argmax(1)] == topics).mean() > 0.6  # by chance .1

    def test_users_who_leave_give_their_place_to_others(self) -> None:
        items, users = explored(preset("choice", budget=3.0), 1_000, np.random.default_rng(0)).clicked
        assert (np.diff(users) >= 0).all()
        assert len(np.unique(users)) > 100  # of ten at a time
        assert np.bincount(users).max() <= 3  # minutes, an item each
        assert len(items) == len(users)


class TestBelieving:
    """An agent that finds out what a user likes by what it has shown, and prices what clicks do."""

    @staticmethod
    def believing(explore: int = 800) -> tuple[WorldSource, LearnedPolicy, Boredom]:
        world = Boredom(items=60, slots=5, steps=12)
        given = {"users": 32, "window": 8, "explore": explore, "steps": 10_000}
        source, policy = playing(Ppo(over="prices", belief=True, rank=8), world, model="mlp", world=given)
        source.prepare(policy.agent)
        return source, policy, world

    def test_clicks_on_random_slates_tell_what_each_item_does_and_what_users_like(self) -> None:
        source, policy, world = self.believing(6_000)
        actor = policy.agent.nets["actor"]
        assert isinstance(actor, Pricer)
        assert actor.belief is not None
        assert source.horizon == 4_000
        effects = actor.of_clicks(actor.belief.items[:, :-1]).detach().numpy()
        assert (effects.argmax(1) == world.item_topics).mean() > 0.9  # by chance .1
        earned = {name: play(world, one, 200, np.random.default_rng(0)) for name, one in world.references().items()}
        found = play(world, Player(policy, world), 200, np.random.default_rng(0))
        assert found.mean > 1.5 * earned["random"].mean

    def test_one_pass_over_the_batch_tells_what_was_told_step_by_step(self) -> None:
        source, policy, _ = self.believing()
        for seed in (0, 1):
            context = policy.agent.add_prediction(experience(source, policy, seed))
            values = policy.agent.nets["critic"](context.batch.states).detach()
            assert torch.allclose(values, context.batch.expected, atol=1e-5)
            logs, _ = policy.agent.setup.algorithm.log_chances(context)  # type: ignore[attr-defined]
            assert torch.allclose(logs, context.batch.propensities, atol=1e-4)

    def test_new_users_are_met_as_such(self) -> None:
        source, policy, _ = self.believing()
        found = experience(source, policy)
        after = experience(source, policy, 1)  # steps 8 to 15: users are new at step 12
        numbers = np.concatenate([found.factors.actor, after.factors.actor], 1)[..., -9:]
        first = np.abs(numbers[:, [0, 12]]).mean((0, 2))
        assert first[1] == pytest.approx(first[0], rel=0.5)
        assert (np.abs(numbers[:, 11]).mean() > 1.5 * first).all()

    def test_a_mistake(self) -> None:
        with pytest.raises(SetupError, match="belief goes with over prices, and over is items"):
            Ppo(belief=True)
        with pytest.raises(SetupError, match="numbers that are seen of a user; here none are: take points"):
            playing(Ppo(over="prices"), Detour())


class TestAMistake:
    def test_an_encoder_whose_carried_state_grows(self) -> None:
        with pytest.raises(SetupError, match="model is transformer"):
            playing(Ppo(), Detour(), model="transformer")

    def test_no_world(self) -> None:
        with pytest.raises(SetupError, match="no world is named"):
            world_of(setup_for(Ppo(), world={}))

    def test_a_world_is_found_whatever_case_it_is_written_in(self) -> None:
        assert world_of(setup_for(Ppo(), world={"name": "Boredom:slatetopk-bored-v0"})) == Boredom()

    def test_an_unknown_one(self) -> None:
        with pytest.raises(SetupError, match="world 'nowhere' is not known; there are boredom"):
            world_of(setup_for(Ppo(), world={"name": "nowhere"}))

    def test_an_algorithm_that_learns_from_a_log(self, monkeypatch: pytest.MonkeyPatch) -> None:
        state = state_in(Detour(), setup_for(NextItem()))
        with pytest.raises(SetupError, match=r"from a log; in a world learn whatnext, dqn, reinforce, .*ppo"):
            source_in(Detour(), state)
        with pytest.raises(SetupError, match="next_item learns from a log; in a world"):
            WorldSource(state, Detour())

        class Mine(Ppo):
            name: Literal["mine"] = "mine"  # type: ignore[assignment]

        monkeypatch.setitem(GIVEN, "what_next.algorithms", {"mine": Mine})  # of another package
        with pytest.raises(SetupError, match=r"in a world learn whatnext, .*ppo.*, mine"):
            WorldSource(state, Detour())

        class Streamed(NextItem):
            name: Literal["streamed"] = "streamed"  # type: ignore[assignment]
            source: ClassVar[str] = "stream"

        with pytest.raises(SetupError, match="streamed learns from the source 'stream'; in a world"):
            playing(Streamed(), Detour())

    def test_episodes_without_an_end(self) -> None:
        with pytest.raises(SetupError, match="reinforce learns from whole episodes, and world detour has no"):
            playing(Reinforce(), Detour(steps=None))

    def test_a_reward_that_is_not_a_number(self) -> None:
        class Broken(Detour):
            def step(self, state: object, slates: np.ndarray, rng: object) -> tuple[object, Feedback]:  # type: ignore[override]
                after, found = super().step(state, slates, rng)  # type: ignore[arg-type]
                return after, replace(found, rewards=found.rewards * (np.nan if len(slates) > USERS else 1.0))

        source, policy = playing(Ppo(), Broken())
        with pytest.raises(TrainingError, match="world detour: a reward is not a number"):
            experience(source, policy)


@pytest.mark.parametrize("name", sorted(known_worlds().keys() - {"fitted"}))  # which is a file
@pytest.mark.parametrize("ideal", [False, True], ids=["plain", "ideal"])
def test_every_world_can_be_learned_from(name: str, ideal: bool) -> None:
    settings = {"name": name, "users": 6, "window": 4, "ideal": ideal}
    source, policy = playing(Ppo(), preset(name), model="gru", dim=8, world=settings)
    step = policy.agent.propagate(source.next_batch(policy, np.random.default_rng(0)))
    assert np.isfinite(list(step.losses.values())).all()


def test_a_player_forgets_whom_it_acted_for_before() -> None:
    world: World = Detour()
    _, policy = playing(Ppo(), world)
    player = Player(policy, world, draws=True)
    first = play(world, player, 30, np.random.default_rng(0)).returns
    assert np.array_equal(first, play(world, player, 30, np.random.default_rng(0)).returns)
