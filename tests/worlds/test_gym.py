"""Our worlds in other people's hands: Gymnasium, Stable-Baselines3, TorchRL, Minari."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gymnasium", reason="gymnasium is not installed: pip install 'what-next-rl[sim]'")

import gymnasium
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from what_next.errors import CatalogueError, SetupError
from what_next.worlds import OWN
from what_next.worlds.gym import Points, VectorPoints, WorldEnv, WorldVectorEnv

from ..shapes import unchecked

IDS = [f"what_next/{name.capitalize()}-v0" for name in OWN]
EVERY = pytest.mark.parametrize("identity", IDS)
EITHER = pytest.mark.parametrize("ideal", [False, True], ids=["plain", "ideal"])
SMALL = {"items": 12, "slots": 2}


@pytest.fixture
def strict() -> Iterator[None]:
    """A warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, np.ndarray) and one.dtype == object:
        return one.shape == other.shape and all(map(equal, one, other))
    return bool(np.array_equal(one, other))


class TestGymnasium:
    @EVERY
    @EITHER
    @pytest.mark.usefixtures("strict")
    def test_its_checker_finds_nothing(self, identity: str, ideal: bool) -> None:
        check_env(gymnasium.make(identity, ideal=ideal, disable_env_checker=True).unwrapped)

    @EVERY
    @pytest.mark.filterwarnings("error", "ignore:.*is different from the unwrapped version")
    def test_nor_in_points(self, identity: str) -> None:
        check_env(Points(gymnasium.make(identity, disable_env_checker=True).unwrapped))

    @EVERY
    @EITHER
    def test_what_is_seen_lies_in_the_space(self, identity: str, ideal: bool) -> None:
        env = gymnasium.make(identity, ideal=ideal)
        env.action_space.seed(0)
        seen, _ = env.reset(seed=0)
        for _ in range(30):
            assert seen in env.observation_space
            seen, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                seen, _ = env.reset()

    def test_a_time_limit_truncates_and_does_not_terminate(self) -> None:
        env = gymnasium.make("what_next/Boredom-v0", preset="SlateRerank-Bored-v0")
        env.reset(seed=0)
        ends = [env.step(np.arange(10))[2:4] for _ in range(10)]
        assert ends == [(False, False)] * 9 + [(False, True)]

    def test_leaving_terminates(self) -> None:
        env = gymnasium.make("what_next/Choice-v0", budget=2.0, no_click=0.0)
        env.reset(seed=0)
        assert [env.step(np.zeros(3, np.int64))[2:4] for _ in range(2)] == [(False, False), (True, False)]

    def test_presets_and_settings_are_arguments_and_mistakes_are_told(self) -> None:
        env = gymnasium.make("what_next/Boredom-v0", preset="SingleItem-BoredInf-v0", items=50)
        assert env.action_space == gymnasium.spaces.MultiDiscrete([50])
        with pytest.raises(SetupError, match="no preset 'Slate'"):
            gymnasium.make("what_next/Boredom-v0", preset="Slate")
        env.reset()
        with pytest.raises(CatalogueError, match="item 50 is not in the catalogue"):
            env.unwrapped.step(np.array([50]))


class TestVector:
    @EVERY
    @EITHER
    @pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
    def test_equals_as_many_single_ones_bit_for_bit(self, identity: str, ideal: bool, mode: AutoresetMode) -> None:
        """Of users whose episodes end at different times, as those who were there first are reset once more."""
        short = {"steps": 7, "ideal": ideal}
        ours = gymnasium.make_vec(identity, num_envs=4, autoreset_mode=mode, **short)
        theirs = SyncVectorEnv([lambda: gymnasium.make(identity, **short).unwrapped] * 4, autoreset_mode=mode)
        assert isinstance(ours, WorldVectorEnv)
        assert ours.observation_space == theirs.observation_space
        assert ours.action_space == theirs.action_space
        assert ours.metadata["autoreset_mode"] is mode
        assert equal(ours.reset(seed=5)[0], theirs.reset(seed=5)[0])
        chooser, ends = np.random.default_rng(0), 0
        for step in range(25):
            if step == 3:  # from here on they are out of step
                mask = {"reset_mask": np.array([True, False, False, True])}
                assert equal(ours.reset(options=dict(mask))[0], theirs.reset(options=dict(mask))[0])
            actions = chooser.integers(ours.single_action_space.nvec, size=(4, len(ours.single_action_space.nvec)))
            mine, other = ours.step(actions), theirs.step(actions)
            for one, two in zip(mine[:4], other[:4], strict=True):
                assert equal(one, two)
            assert equal(mine[4], other[4])
            done = mine[2] | mine[3]
            ends += done.sum()
            if mode is AutoresetMode.DISABLED and done.any():
                assert equal(ours.reset(options={"reset_mask": done})[0], theirs.reset(options={"reset_mask": done})[0])
        assert ends >= 8

    def test_a_seed_gives_the_same_users_and_lists_of_seeds_too(self) -> None:
        env = WorldVectorEnv(3, "boredom", ideal=True)
        first, _ = env.reset(seed=4)
        more, _ = env.reset()
        assert not equal(first, more)
        assert equal(env.reset(seed=4)[0], first)
        assert equal(env.reset(seed=[6, 4, 5])[0], first[[2, 0, 1]])
        assert not equal(env.reset(seed=[6, None, 5])[0][1], first[0])

    def test_a_step_after_the_end_is_refused_where_nobody_resets(self) -> None:
        env = WorldVectorEnv(2, "boredom", steps=1, autoreset_mode="Disabled")
        env.reset()
        env.step(np.zeros((2, 10), np.int64))
        with pytest.raises(AssertionError, match="reset it"):
            env.step(np.zeros((2, 10), np.int64))

    @pytest.mark.parametrize("mask", [np.zeros(2, np.bool_), np.ones(3, np.bool_), np.ones(2)])
    def test_a_mask_that_is_none_is_refused(self, mask: np.ndarray) -> None:
        env = WorldVectorEnv(2, "boredom")
        with pytest.raises(ValueError, match="expected 2 booleans"):
            env.reset(options={"reset_mask": mask})


class TestPoints:
    def test_show_the_items_of_the_largest_inner_product(self) -> None:
        env = Points(gymnasium.make("what_next/Boredom-v0", items=30, slots=3))
        point = np.array([0.3, -1, 0, 0.5, 0, 0, 0, 0.1, 0, 0], np.float32)
        assert env.action_space == gymnasium.spaces.Box(-1, 1, (10,), np.float32)
        env.reset(seed=0)
        seen, *_ = env.step(point)
        assert seen["shown"].tolist() == np.argsort(-(env.world.item_vectors @ point))[:3].tolist()
        envs = VectorPoints(WorldVectorEnv(2, "boredom", items=30, slots=3))
        envs.reset(seed=0)
        many, *_ = envs.step(np.stack([point, -point]))
        assert many["shown"][0].tolist() == seen["shown"].tolist()
        assert many["shown"][1].tolist() == np.argsort(env.world.item_vectors @ point)[:3].tolist()

    @pytest.mark.parametrize(
        ("point", "told"), [(np.zeros(3), r"of shape \(3,\)"), (np.full(10, np.nan), "not all finite")]
    )
    def test_that_are_none_are_refused(self, point: np.ndarray, told: str) -> None:
        one, many = Points(WorldEnv("boredom")), VectorPoints(WorldVectorEnv(2, "boredom"))
        for env, action in ((one, point), (many, np.stack([point, point]))):
            env.reset(seed=0)
            with unchecked(), pytest.raises(CatalogueError, match=f"points are {told}; expected 10 finite numbers"):
                env.step(action)

    def test_a_setting_that_there_is_not_is_told_with_the_nearest(self) -> None:
        told = "world boredom: there is no setting 'windw'; the nearest is 'window'; allowed: name, slots"
        with pytest.raises(SetupError, match=told):
            gymnasium.make("what_next/Boredom-v0", windw=1)
        with pytest.raises(SetupError, match=r"'idael'; the nearest is 'ideal'; allowed: name, .*, preset, ideal$"):
            gymnasium.make("what_next/Boredom-v0", idael=True)


class TestStableBaselines:
    @pytest.fixture(autouse=True)
    def logs(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("SB3_LOGDIR", str(tmp_path))  # else it leaves a folder among the temporary files

    @EVERY
    @EITHER
    @pytest.mark.usefixtures("strict")
    def test_its_checker_finds_nothing(self, identity: str, ideal: bool) -> None:
        checker = pytest.importorskip("stable_baselines3.common.env_checker", reason="stable-baselines3 is missing")
        checker.check_env(gymnasium.make(identity, ideal=ideal).unwrapped)

    @pytest.mark.medium
    @pytest.mark.parametrize(
        "points", [pytest.param(False, id="slates"), pytest.param(True, id="points", marks=pytest.mark.slow)]
    )
    def test_its_ppo_trains(self, points: bool) -> None:
        """A single item of twelve, of which a user wants a few, and never bores: more clicks than at random."""
        sb3 = pytest.importorskip("stable_baselines3", reason="stable-baselines3 is missing")
        make: Any = lambda: WorldEnv("boredom", ideal=True, items=12, slots=1, steps=20, threshold=11)  # noqa: E731
        env = Points(make()) if points else make()
        learning = {"n_steps": 128, "batch_size": 64, "learning_rate": 3e-3, "stats_window_size": 50}
        model = sb3.PPO("MlpPolicy", env, seed=0, device="cpu", **learning)

        def clicks(steps: int) -> float:
            """Of the last 50 episodes, at the end of so many steps more."""
            model.learn(steps, reset_num_timesteps=False)
            return float(np.mean([episode["r"] for episode in model.ep_info_buffer]))

        first = clicks(1_280)
        assert clicks(3_840) > first + 0.75  # of eight trainings each rose by 1.1 or more

    def test_its_ppo_reads_what_was_shown(self) -> None:
        sb3 = pytest.importorskip("stable_baselines3", reason="stable-baselines3 is missing")
        sb3.PPO(
            "MultiInputPolicy", WorldEnv("choice", items=12), n_steps=32, batch_size=32, seed=0, device="cpu"
        ).learn(64)


class TestTorchRL:
    @EVERY
    @EITHER
    def test_its_checker_finds_nothing(self, identity: str, ideal: bool) -> None:
        pytest.importorskip("torchrl", reason="torchrl is missing")
        from torchrl.envs import GymWrapper
        from torchrl.envs.utils import check_env_specs

        check_env_specs(GymWrapper(gymnasium.make(identity, ideal=ideal)))
