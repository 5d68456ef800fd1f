"""A data set that is read from the disk teaches what one in memory teaches, and no part of it is copied whole."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from what_next import Agent, Dataset, Environment, State
from what_next.baselines import counts
from what_next.baselines.counts import Known
from what_next.data import split_leave_last_out, split_time, split_users, splits
from what_next.data.importing.large import import_large
from what_next.data.space import scaled_space
from what_next.errors import DataError
from what_next.metrics.next_items import Targets
from what_next.rewards import Logged

from ..conftest import SetupOf, listening


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of `log_file` as a folder of parts."""
    log, items = listening()
    path = tmp_path_factory.mktemp("large")
    log.write_csv(path / "log.csv")
    items.write_csv(path / "items.csv")
    import_large([path / "log.csv"], path / "listening.parquet", path / "items.csv", memory=100_000)
    return path / "listening.parquet"


@pytest.mark.medium
@pytest.mark.parametrize(("algorithm", "split"), [("whatnext", "users"), ("next_item", "time")])
def test_a_run_from_the_disk_is_that_from_memory(
    folder: Path, dataset: Dataset, setup_of: SetupOf, tmp_path: Path, algorithm: str, split: str
) -> None:
    assert len(list(folder.iterdir())) > 4
    mapped = Dataset.read(folder)
    assert isinstance(mapped.timestamps, np.memmap)
    saved = []
    for data, home in ((dataset, tmp_path / "a"), (mapped, tmp_path / "b")):
        setup = setup_of(home, algorithm=algorithm, split=split, epochs=64)
        state = State(data, setup)
        Environment(Agent(setup, state.space), state, setup, quiet=True).run_sim()
        saved.append((state.split.hash, load_file(setup.model_agent_path)))
    (first, one), (second, other) = saved
    assert first == second
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_small_pieces_of_a_log_give_what_the_whole_gives(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = datetime.fromtimestamp(1_600_000_000 + 7 * 10**6, UTC)
    made = [
        lambda: split_users(dataset),
        lambda: split_leave_last_out(dataset),
        lambda: split_time(dataset),
        lambda: split_time(dataset, moment=moment),
    ]
    whole = [one() for one in made]
    spaces = [scaled_space(dataset, split) for split in whole]
    held = [Targets.of(dataset, split, "test").held(dataset) for split in whole]
    assert 0 < sum(held) < sum(len(Targets.of(dataset, split, "test")) for split in whole)
    monkeypatch.setattr(splits, "CHUNK", 77)
    monkeypatch.setattr("what_next.data.space.EVENTS", 77)
    for before, space, holds, one in zip(whole, spaces, held, made, strict=True):
        split = one()
        assert Targets.of(dataset, split, "test").held(dataset) == holds
        assert split.hash == before.hash
        assert np.array_equal(split.known, before.known)
        again = scaled_space(dataset, split)
        assert np.array_equal(again.counts, space.counts)
        np.testing.assert_allclose(again.event_center, space.event_center, rtol=1e-6)
        np.testing.assert_allclose(again.event_scale, space.event_scale, rtol=1e-6)
        # By another road: all training events at once.
        owners = np.repeat(np.arange(dataset.users), dataset.lengths)
        known = np.arange(dataset.events) - dataset.offsets[owners] < split.known[owners]
        assert np.array_equal(space.counts, np.bincount(dataset.items[known], minlength=len(dataset.catalogue)))
        assert space.event_names == ("reward", "time_of_day_sin", "time_of_day_cos")
        np.testing.assert_allclose(space.event_scale[0], dataset.rewards[known].std(dtype=np.float64), rtol=1e-6)


def test_the_moment_of_a_split_is_the_order_statistic() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        times = rng.integers(-20, 20, rng.integers(1, 30))
        for place in range(len(times)):
            assert splits._smallest(times, place) == np.sort(times)[place]


def test_baselines_count_a_share_of_the_users_of_a_large_log(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Known.of(dataset, dataset.lengths)
    assert len(whole.items) == dataset.events
    monkeypatch.setattr(counts, "MOST", dataset.events // 2)
    some = Known.of(dataset, dataset.lengths)
    assert 0.3 < len(some.items) / dataset.events < 0.7
    for user in np.unique(some.users):  # whole histories
        start, stop = dataset.offsets[user : user + 2]
        assert np.array_equal(some.items[some.users == user], dataset.items[start:stop])


def test_a_log_without_rewards_earns_ones_that_take_no_memory(dataset: Dataset) -> None:
    ones = Logged().of_events(replace(dataset, rewards=None))
    assert ones.shape == (dataset.events,)
    assert ones.strides == (0,)
    assert set(ones.tolist()) == {1.0}


def test_arrays_of_another_import_are_refused(folder: Path, tmp_path: Path) -> None:
    for one in folder.parent.glob("listening.*"):
        (shutil.copytree if one.is_dir() else shutil.copy)(one, tmp_path / one.name)
    min((tmp_path / "listening.parquet").iterdir()).unlink()
    with pytest.raises(DataError, match=r"listening\.events: belongs to another import"):
        Dataset.read(tmp_path / "listening.parquet")
    shutil.rmtree(tmp_path / "listening.events")
    with pytest.raises(DataError, match=r"listening\.events: cannot be read .* import the data again"):
        Dataset.read(tmp_path / "listening.parquet")
