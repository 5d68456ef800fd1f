"""What was played in our worlds, as data sets of Minari: what it reads of ours, and what we read of its collector's."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("minari", reason="minari is not installed: pip install 'what-next-rl[sim]'")

import gymnasium
import minari

from what_next import Environment, LearnedPolicy
from what_next.cli import app
from what_next.errors import DataError
from what_next.worlds.gym import WorldEnv, WorldVectorEnv
from what_next.worlds.minari import log_of, write

from ..conftest import SetupOf
from ..test_log_learning import log_setup

SMALL = {"items": 30, "slots": 3, "steps": 6}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def recorded(world: str, ideal: bool = False, mode: str = "NextStep", **settings: Any) -> Any:
    envs = WorldVectorEnv(5, world, ideal=ideal, autoreset_mode=mode, **(SMALL | settings))
    write(f"{world}/greedy-v0", envs, envs.world.references()["greedy"], seed=3, author="somebody")
    return minari.load_dataset(f"{world}/greedy-v0")


def again(world: str, episode: Any, seed: int, ideal: bool = False, **settings: Any) -> list[tuple[Any, ...]]:
    """The same slates, shown to one user alone."""
    env = WorldEnv(world, ideal=ideal, **(SMALL | settings))
    seen, _ = env.reset(seed=seed)
    steps = [(seen,)]
    for action in episode.actions:
        steps.append(env.step(action)[:4])
    return steps


@pytest.mark.parametrize("ideal", [False, True], ids=["plain", "ideal"])
@pytest.mark.parametrize(("world", "mode"), [("boredom", "NextStep"), ("choice", "SameStep"), ("sessions", "NextStep")])
def test_what_we_write_minari_reads_and_it_is_what_happened(world: str, mode: str, ideal: bool) -> None:
    dataset = recorded(world, ideal, mode)
    assert dataset.total_episodes == 5
    assert dataset.storage.metadata["author"] == {"somebody"}
    for place, episode in enumerate(dataset.iterate_episodes()):
        steps = again(world, episode, 3 + place, ideal)
        seen = [step[0] for step in steps]
        if ideal:
            assert np.array_equal(episode.observations, np.stack(seen))
        else:
            for name in ("shown", "clicks", "numbers"):
                assert np.array_equal(episode.observations[name], np.stack([one[name] for one in seen]))
        assert episode.rewards.tolist() == [step[1] for step in steps[1:]]
        assert episode.terminations.tolist() == [step[2] for step in steps[1:]]
        assert episode.truncations.tolist() == [step[3] for step in steps[1:]]
        assert episode.terminations[-1] or episode.truncations[-1]


@pytest.mark.parametrize(
    ("identity", "mode", "told"),
    [
        ("choice/new-v0", "Disabled", "autoreset_mode is Disabled, and users end at different times"),
        ("no id", "NextStep", "Malformed dataset ID: no id"),
        ("boredom/greedy-v0", "NextStep", "boredom/greedy-v0: Minari has it already"),
    ],
)
def test_what_cannot_be_kept_is_told_before_anything_is_played(identity: str, mode: str, told: str) -> None:
    recorded("boredom")
    envs = WorldVectorEnv(5, "choice", autoreset_mode=mode, **SMALL)
    with pytest.raises(DataError, match=told):
        write(identity, envs, lambda state, rng: pytest.fail("it is played"))


def test_a_log_has_a_row_for_each_item_and_its_click() -> None:
    dataset = recorded("boredom")
    log = log_of(dataset)
    assert log.columns == ["user_id", "timestamp", "slate", "position", "item_id", "reward"]
    assert log.height == 5 * 6 * 3
    assert log["slate"].n_unique() == 30
    for episode in dataset.iterate_episodes():
        own = log.filter(pl.col("user_id") == episode.id)
        assert own["item_id"].to_list() == episode.actions.ravel().tolist()
        assert own.group_by("timestamp", maintain_order=True).agg(pl.col("reward").sum())["reward"].to_list() == list(
            episode.rewards
        )


def test_of_single_items_the_rewards_are_enough_and_of_slates_they_are_refused() -> None:
    log = log_of(recorded("boredom", ideal=True, slots=1))
    assert log.height == 30
    with pytest.raises(DataError, match="which item was clicked is not told"):
        log_of(recorded("choice", ideal=True))


@pytest.mark.medium
def test_a_log_of_play_is_trained_on(tmp_path: Path, setup_of: SetupOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clicks as events: imported, and learned from."""
    log_of(recorded("boredom", steps=20)).filter(pl.col("reward") > 0).write_csv(tmp_path / "played.csv")
    words = ["data", "import", str(tmp_path / "played.csv"), "--to", str(tmp_path / "played.parquet")]
    monkeypatch.setattr("sys.argv", ["what-next", *words])
    assert app.main() == 0
    Environment.from_setup(log_setup(setup_of, tmp_path, data=tmp_path / "played.parquet")).run_sim()
    assert isinstance(LearnedPolicy.load(tmp_path / "agent.safetensors"), LearnedPolicy)


def test_what_its_collector_recorded_of_our_world_is_what_we_write() -> None:
    pytest.importorskip("jax", reason="minari[create] is not installed, whose collector needs JAX")
    ours = recorded("boredom")
    env = minari.DataCollector(gymnasium.make("what_next/Boredom-v0", **SMALL), data_format="arrow")
    for place, episode in enumerate(ours.iterate_episodes()):
        env.reset(seed=3 + place)
        for action in episode.actions:
            env.step(action)
    theirs = env.create_dataset("boredom/collected-v0", description="of a test")
    assert log_of(theirs).equals(log_of(ours))
