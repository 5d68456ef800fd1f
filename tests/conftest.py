"""What every test shares: shapes are checked, real data is found, and the graphics card is optional."""

import gc
import os
import runpy
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import numpy as np
import polars as pl
import pytest
import torch

from .forked import Forked
from .shapes import begin_test, install_checks

if TYPE_CHECKING:
    from what_next import Dataset, Setup, State

install_checks()

CI = os.environ.get("CI") == "true"
OTHER_PROGRAMS = {"browser", "postgres_server"}
"""Fixtures that start one; the tests that ask for them are `medium`, whatever they take."""

hypothesis.settings.register_profile("house", deadline=None, derandomize=CI, max_examples=50)
hypothesis.settings.register_profile("thorough", deadline=None, derandomize=CI, max_examples=200)  # make test-all
hypothesis.settings.load_profile("house")
torch.set_num_threads(1)  # two wait for each other where the machine is busy


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside the repository; no test copies them into it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        missing = f"the real data sets are not there: {folder}"
        if CI:
            pytest.fail(missing)
        pytest.skip(missing)
    return folder


def listening(users: int = 60, items: int = 80, events: int = 40, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A log with times and rewards, and its item table with four attributes; random, and the same every time."""
    rng = np.random.default_rng(seed)
    ids = [f"i{number}" for number in range(items)]
    table = pl.DataFrame(
        {"item_id": ids, "title": [f"Song {number}" for number in range(items)]}
        | {name: rng.normal(size=items) for name in ("danceability", "energy", "tempo", "valence")}
    )
    rows = users * events
    log = pl.DataFrame(
        {
            "user_id": np.repeat([f"u{number}" for number in range(users)], events),
            "item_id": [ids[place] for place in rng.integers(items, size=rows)],
            "timestamp": 1_600_000_000 + np.sort(rng.integers(10**7, size=(users, events)), axis=1).ravel(),
            "reward": rng.integers(1, 6, size=rows).astype(float),
        }
    )
    return log, table


@pytest.fixture(scope="session")
def forked() -> Iterator[Forked]:
    """Runs Python in processes of their own that start fast."""
    process = Forked()
    yield process
    process.close()


@pytest.fixture(scope="session")
def dataset() -> "Dataset":
    """60 users with 40 events each, 80 items with four attributes, times and rewards."""
    from what_next import Dataset

    return Dataset.from_frame(*listening(), name="listening")


@pytest.fixture(scope="session")
def log_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same data as an imported file, its items beside it."""
    from what_next.data import Options, import_files, save

    log, items = listening()
    folder = tmp_path_factory.mktemp("a log [№ 1]")  # a name like any other
    log.write_csv(folder / "log.csv")
    items.write_csv(folder / "items.csv")
    save(import_files([folder / "log.csv"], folder / "items.csv", Options()), folder / "listening.parquet")
    return folder / "listening.parquet"


SetupOf = Callable[..., "Setup"]


@pytest.fixture(scope="session")
def setup_of(log_file: Path) -> SetupOf:
    """A setup for a run of a second, its models in a folder; keywords change it."""
    from what_next import Setup

    def make(folder: Path, **changes: Any) -> "Setup":
        values = {
            "train": True,
            "data": log_file,
            "epochs": 256,
            "batch_size": 32,
            "window": 20,
            "dim": 16,
            "threads": 1,
            "model_agent_path": folder / "agent.safetensors",
            "model_critic_path": folder / "critic.safetensors",
        }
        return Setup(**(values | changes))

    return make


def run_main(*words: str | Path) -> int:
    """The exit code of `src/main.py`, run in this process."""
    path = Path(__file__).resolve().parents[1] / "src" / "main.py"
    code: int = runpy.run_path(str(path))["main"](*map(str, words))
    return code


@dataclass(frozen=True)
class Trained:
    """A short training, its models in a folder that no test changes."""

    folder: Path
    setup: "Setup"
    state: "State"


@pytest.fixture(scope="session")
def trained(dataset: "Dataset", setup_of: SetupOf, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    from what_next import Agent, Environment, State

    folder = tmp_path_factory.mktemp("trained [*]")
    setup = setup_of(folder)
    state = State(dataset, setup)
    Environment(Agent(setup, state.space), state, setup).run_sim()
    return Trained(folder, setup, state)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """`-n auto` takes one worker more than there are processors: tests wait for processes, ports and clocks, too."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return None if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ else there + 1


def pytest_runtest_setup() -> None:
    begin_test()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Looks for no garbage while tests are collected: nearly all that is made then stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`make test` needs neither a browser nor a database server; without a graphics card its tests are skipped."""
    for item in items:
        if not OTHER_PROGRAMS.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.medium)
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="there is no NVIDIA graphics card here"))
