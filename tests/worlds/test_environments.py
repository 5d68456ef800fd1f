"""Environments of other people: how each layout is read, what is refused, and that an agent learns in one."""

import re
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import what_next as wn
from what_next.errors import MissingExtraError, ModelError, SetupError
from what_next.worlds import play, preset
from what_next.worlds.environments import LONG, EnvironmentWorld


class Ring(gymnasium.Env):
    """One of eight items is wanted; each step the next one is. What is wanted is seen."""

    observation_space = spaces.Box(0, 1, (8,), np.float32)
    action_space: Any = spaces.Discrete(8, start=3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.wanted, self.age = int(self.np_random.integers(8)), 0
        return self.seen(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = float(self.points(action))
        self.wanted, self.age = (self.wanted + 1) % 8, self.age + 1
        return self.seen(), reward, False, self.age == 10, {}

    def points(self, action: int) -> bool:
        assert isinstance(action, int)
        return action - 3 == self.wanted

    def seen(self) -> np.ndarray:
        return np.eye(8, dtype=np.float32)[self.wanted]


class Target(Ring):
    """A point near the right corner is wanted."""

    action_space = spaces.Box(np.array([-1, 0], np.float32), np.array([1, 3], np.float32))

    def points(self, action: Any) -> bool:
        assert action.shape == (2,)
        return bool(action[0] > 0.5 and action[1] > 2)


def wanted(state: Any, rng: Any) -> np.ndarray:
    return np.array([[env.wanted] for env in state.envs])


class TestAnEnvironment:
    def test_of_items_and_plain_numbers(self) -> None:
        world = EnvironmentWorld.of(Ring())
        assert (world.items, world.slots, world.steps, world.known_as) == (8, 1, LONG, "gym:Ring")
        assert play(world, wanted, 5, np.random.default_rng(0)).returns.tolist() == [10.0] * 5  # cut off at its limit
        state = world.reset(5, np.random.default_rng(0))
        assert len({env.wanted for env in state.envs}) > 1  # users differ
        assert (world.observe(state).numbers.argmax(1) == wanted(state, None)[:, 0]).all()
        assert (world.observe(state, ideal=True).numbers == world.observe(state).numbers).all()
        after, feedback = world.step(state, wanted(state, None), np.random.default_rng(0))
        assert feedback.rewards.tolist() == [1.0] * 5
        assert not after.clicks.any()
        begun = world.restart(after, np.array([1, 3]), np.random.default_rng(0))
        assert begun.age.tolist() == [1, 0, 1, 0, 1]
        assert begun.shown[:, 0].tolist()[1::2] == [-1, -1]

    @pytest.mark.parametrize("steps", [7, LONG + 500])
    def test_a_time_limit_around_it_is_the_worlds(self, steps: int) -> None:
        limited = gymnasium.wrappers.TimeLimit(gymnasium.wrappers.OrderEnforcing(Ring()), steps)
        assert EnvironmentWorld.of(limited).steps == steps
        assert EnvironmentWorld.of(gymnasium.wrappers.OrderEnforcing(limited)).steps == steps
        assert EnvironmentWorld.of(gymnasium.wrappers.TimeLimit(limited, 2 * steps)).steps == steps

    def test_whose_action_is_a_point_is_given_points_that_fill_the_box(self) -> None:
        world = EnvironmentWorld.of(Target())
        low, high = world.item_vectors.min(0), world.item_vectors.max(0)
        assert np.allclose(low, [-1, 0], atol=0.02)
        assert np.allclose(high, [1, 3], atol=0.02)
        best = int((world.item_vectors @ np.array([1.0, 1.0])).argmax())
        assert play(world, lambda state, _: np.full((len(state.age), 1), best), 3, np.random.default_rng(0)).mean == 10
        everything = play(world, world.references()["random"], 200, np.random.default_rng(0))
        assert abs(everything.mean - 10 * 0.25 / 3) < 0.3  # a quarter of one side, a third of the other

    def test_of_this_package_is_the_world_itself(self) -> None:
        outside, world = preset("gym:what_next/Boredom-v0"), preset("boredom")
        assert (outside.item_vectors == world.item_vectors).all()
        state = outside.reset(3, np.random.default_rng(0))
        inner = [env.unwrapped for env in state.envs]
        seen = outside.observe(state)
        assert (seen.numbers == np.concatenate([world.observe(env._state).numbers for env in inner])).all()
        assert (seen.shown == np.concatenate([env._state.shown for env in inner])).all()
        rng = np.random.default_rng(0)
        slates = np.concatenate([world.references()["greedy"](env._state, rng) for env in inner])
        _, feedback = outside.step(state, slates, rng)
        assert feedback.rewards.tolist() == feedback.clicks.sum(1).tolist()
        assert feedback.rewards.sum() > 0

    @pytest.mark.parametrize(
        ("name", "told"),
        [
            ("gym:nothing-v0", "Gymnasium knows no environment 'nothing-v0'"),
            ("gym:Blackjack-v1", r"the layout of its observations, Tuple\(Discrete\(32\).*FlattenObservation"),
        ],
    )
    def test_that_is_not_known_or_not_understood(self, name: str, told: str) -> None:
        with pytest.raises(SetupError, match=told):
            preset(name)

    def test_whose_action_is_no_item(self) -> None:
        env = Ring()
        env.action_space = spaces.MultiDiscrete([3, 4])
        with pytest.raises(
            SetupError, match=r"environment Ring: an action is MultiDiscrete\(\[3 4\]\); expected an item"
        ):
            EnvironmentWorld.of(env)

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"step": lambda self, action: 1 / 0}, r"step\(action\) fails, which should give .*division by zero"),
            ({"points": lambda self, action: None, "step": lambda *_: (0, None, 0, 0, {})}, "should give .*NoneType"),
            ({"reset": lambda self: (self.seen(), {})}, r"reset\(seed=...\) fails, .* unexpected keyword argument"),
            ({"seen": lambda self: np.full(8, np.nan)}, r"an observation is \[nan .*; its space says 8 numbers"),
            ({"seen": lambda self: np.zeros(7)}, r"an observation is \[0. .*; its space says 8 numbers"),
            ({"__deepcopy__": lambda *_: 1 / 0}, "cannot be made or copied .*give the id"),
            ({"action_space": spaces.MultiDiscrete([2, 2, 2])}, "a slate longer than the catalogue of 2 items"),
            ({"single_action_space": spaces.Discrete(8)}, "is a vector of several; give one"),
        ],
    )
    def test_whose_own_code_fails_is_one_message(self, changes: dict[str, Any], told: str) -> None:
        env = type("Broken", (Ring,), changes)()
        with pytest.raises(SetupError, match=told):
            wn.play(lambda state, _: np.zeros((len(state.age), 1), np.int64), env, 2)

    def test_of_a_library_that_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "sardine", None)
        with pytest.raises(MissingExtraError, match=r"needs sardine-rec.*what-next-rl\[sim\]"):
            preset("gym:sardine/SlateTopK-Bored-v0")


class TestSardine:
    @pytest.mark.medium
    def test_is_read_as_our_own_world_of_the_same_law(self) -> None:
        pytest.importorskip("sardine", reason="sardine-rec is not installed: pip install 'what-next-rl[dev]'")
        theirs, ours = preset("gym:sardine/SlateTopK-Bored-v0"), preset("boredom:sardine/SlateTopK-Bored-v0")
        assert (theirs.items, theirs.slots, theirs.steps) == (ours.items, ours.slots, ours.steps)
        assert np.allclose(theirs.item_vectors, ours.item_vectors)
        for ideal in (False, True):
            assert np.array_equal(theirs.bounds(ideal), ours.bounds(ideal))
        rng = np.random.default_rng(0)
        state = theirs.reset(4, rng)
        user = state.envs[0].unwrapped
        assert np.allclose(theirs.observe(state, ideal=True).numbers[0, :10], user.cur_user_embedd)
        for _ in range(100):
            assert not theirs.truncated(state).any()
            state, feedback = theirs.step(state, theirs.random_slates(state, rng), rng)
            assert not feedback.terminated.any()  # it says so of its time limit
        assert theirs.truncated(state).all()
        for name in ("random", "greedy"):
            one, other = (
                play(world, world.references()[name], 60, np.random.default_rng(1)) for world in (theirs, ours)
            )
            assert one.lengths.tolist() == [100] * 60
            assert abs(one.mean - other.mean) < 4 / 1.96 * np.hypot(one.margin, other.margin)


class TestRecSim:
    @pytest.mark.parametrize("anew", [True, False])
    def test_is_read(self, anew: bool) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pytest.importorskip("recsim", reason="recsim-no-tf is not installed: pip install 'what-next-rl[dev]'")
            from absl.logging import get_absl_handler
            from recsim.environments import interest_evolution

            get_absl_handler().python_handler.stream = sys.__stderr__  # not that of pytest, which it would close
            config = {"num_candidates": 10, "slate_size": 2, "resample_documents": anew, "seed": 0}
            world = EnvironmentWorld.of(interest_evolution.create_environment(config))
        assert (world.items, world.slots) == (10, 2)
        assert world.item_vectors.shape == ((10, 0) if anew else (10, 20))
        state = world.reset(3, np.random.default_rng(0))
        seen = world.observe(state)
        assert len(np.unique(seen.numbers[:, :20], axis=0)) == 3  # no two users have the same interests
        documents = np.array(list(state.envs[0].environment.candidate_set.create_observation().values()))
        if anew:
            assert np.allclose(seen.numbers[0, -200:], documents.ravel())
        else:
            assert np.allclose(world.item_vectors, documents)
        assert seen.numbers.shape[1] == len(world.bounds()[0])
        clicks, rng = np.zeros(2), np.random.default_rng(1)
        for _ in range(20):
            state, feedback = world.step(state, world.random_slates(state, rng), rng)
            clicks += feedback.clicks.sum(0)
            assert (feedback.clicks.any(1) | (feedback.rewards == 0)).all()
        assert (clicks > 0).all()
        with pytest.raises(SetupError, match="the hidden state of its users is not known"):
            world.bounds(ideal=True)


SETUP = """
train, yes
algorithm, ppo
algorithm.balance, no
model, mlp
dim, 16
learning_rate, .01
world.ideal, yes
world.users, 64
world.window, 10
world.steps, 20000
world.explore, 0
world.episodes, 50
model_agent_path, agent.safetensors
model_critic_path, critic.safetensors
"""


@pytest.mark.medium
def test_an_agent_learns_in_an_environment_and_plays_there_again(tmp_path: Path) -> None:
    (tmp_path / "setup.txt").write_text(SETUP)
    found = wn.simulate(tmp_path / "setup.txt", Ring())
    assert found.world == "gym:Ring"
    assert set(found.episodes) == {"ppo", "ppo, drawn", "random"}
    assert found.episodes["ppo"].mean > 9  # of 10; at random 1.25
    again = wn.play(tmp_path / "agent.safetensors", Ring(), 50)
    assert again.mean > 9
    with pytest.raises(ModelError, match="was trained with 8 items and 8 numbers of a user; gym:Target has 1,000"):
        wn.play(tmp_path / "agent.safetensors", Target())


def test_the_documented_world_is_played_and_learned_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "worlds.md").read_text()
    (code,) = (one for one in re.findall(r"```python\n(.*?)```", page, re.S) if "class Parity" in one)
    names: dict[str, Any] = {"__name__": "stranger"}
    exec(compile(code, "docs/worlds.md", "exec"), names)
    assert capsys.readouterr().out.startswith("Episodes(of 500 users: mean return ")
    (tmp_path / "setup.txt").write_text(SETUP.replace("20000", "500"))
    with pytest.raises(SetupError, match="has no time limit, so an episode may never end"):
        wn.simulate(tmp_path / "setup.txt", names["Parity"](steps=None))
    assert not (tmp_path / "agent.safetensors").exists()
    found = wn.simulate(tmp_path / "setup.txt", names["Parity"]())
    assert found.episodes["random"].mean == pytest.approx(10, abs=2)
    most = wn.Setup.read(tmp_path / "setup.txt", ["data=-", "world.explore=2000", "inputs.items=learned"])
    with pytest.raises(SetupError, match=r"explore takes 2,000 of the 500 slates of world\.steps, so nothing is left"):
        wn.simulate(most, names["Parity"](), force=True)
    for wrong in (names["Parity"], 5):
        with pytest.raises(SetupError, match="expected a world, the name of one, or an environment of Gymnasium"):
            wn.simulate(tmp_path / "setup.txt", wrong)
