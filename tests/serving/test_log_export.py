"""`what-next log export`, and that the other commands read what it writes as it is."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import typer

from what_next.cli import estimate, judge, model, service
from what_next.cli.output import guarded
from what_next.data import Dataset
from what_next.data.decisions.reader import read_log
from what_next.errors import DataError
from what_next.serving.store import AddEvents, AddFeedback, AddImpression, EventRow, Store, store_of

from ..conftest import SetupOf


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command as the command line does."""

    def ran(*words: str | Path) -> Ran:
        app = typer.Typer(pretty_exceptions_enable=False)
        for commands in (model, judge, estimate, service):
            app.add_typer(commands.app)

        @guarded
        def main() -> int:
            code = app(list(map(str, words)), standalone_mode=False)
            return code if isinstance(code, int) else 0

        return Ran(main(), *capsys.readouterr())

    return ran


@pytest.fixture
def setup_file(tmp_path: Path, log_file: Path) -> Path:
    """A setup of the listening data, whose store holds 300 answers with feedback."""
    path = tmp_path / "setup.txt"
    path.write_text(
        f"train, yes, model, lstm, data, {log_file}, epochs, 64, batch_size, 16, window, 20, dim, 8, threads, 1\n"
        "model_agent_path, models/agent.safetensors, model_critic_path, models/critic.safetensors\n"
    )
    rng, store = np.random.default_rng(0), Store.open(tmp_path / "models" / "agent.store.sqlite")
    writes: list[Any] = []
    for number in range(300):
        item, other = (f"i{one}" for one in rng.choice(80, 2, replace=False))
        slate, user = f"r{number}", f"u{number % 60}"
        writes.append(AddImpression(slate, user, number, "v1", "trained", (item, other), (1 / 80, 1 / 80)))
        writes.append(AddFeedback(f"f{number}", slate, item, float(number % 2)))
    heard = tuple(EventRow(f"e{n}", f"u{n % 60}", f"i{n % 7}", time=n) for n in range(600))
    store.commit([AddEvents(heard), *writes])
    store.close()
    return path


def test_the_exported_log_is_read_by_the_other_commands_as_it_is(run: Run, setup_file: Path, tmp_path: Path) -> None:
    to = tmp_path / "log.parquet"
    to.touch(0o644)
    ran = run("log", "export", setup_file, "--to", to, "--json")
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)
    assert [Path(file).stat().st_mode & 0o777 for file in told["files"]] == [0o600, 0o600]
    assert (told["events"], told["decisions"], told["users"], told["items"]) == (600, 600, 60, 80)
    for command in ("train", "evaluate"):
        ran = run(command, setup_file, f"data={to}", "--json")
        assert ran.code == 0, ran.err
    ran = run("gate", "uniform", "propensity", "--log", to, "--json")
    assert ran.code == 3, ran.err
    apart = json.loads(ran.out)["difference"]
    assert apart["low"] <= 0 <= apart["high"]  # the log was drawn so
    ran = run("train", setup_file, f"data={to}", "decisions.share=1")
    assert (ran.code, "the algorithm whatnext tries items by itself" in ran.err) == (2, True)
    # After training, the agent's own catalogue is the item table.
    assert run("log", "export", setup_file, "--to", to, "--append").code == 0
    assert Dataset.read(to).events == 600


def test_answers_without_a_user_are_no_users_of_the_summary(run: Run, setup_file: Path, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "models" / "agent.store.sqlite")
    store.commit([AddImpression(f"n{one}", None, one, "v1", "trained", ("i1",), (1 / 80,)) for one in range(3)])
    store.close()
    out = run("log", "export", setup_file, "--to", tmp_path / "log.parquet").out
    assert "60 users, 80 items, 600 events, 603 decisions; 3 answers named no user" in out
    told = json.loads(run("log", "export", setup_file, "--to", tmp_path / "log.parquet", "--json").out)
    assert (told["users"], told["anonymous"]) == (60, 3)


def test_a_store_that_is_not_there_is_no_store(
    run: Run, setup_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        ran = run("log", "export", setup_file, "server.store=nowhere.sqlite", "--to", tmp_path / "log.parquet")
        assert ran.code == 2
        assert "no such store" in ran.err
        assert not list(tmp_path.rglob("nowhere*"))
        monkeypatch.setenv("WHAT_NEXT_STORE", f"sqlite:///{tmp_path}/nowhere.sqlite")
    assert run("log", "export", setup_file, "--to", tmp_path / "log.csv").code == 2


def test_the_store_is_beside_the_agent_unless_said_otherwise(
    tmp_path: Path, setup_of: SetupOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WHAT_NEXT_STORE", raising=False)
    setup = setup_of(tmp_path)
    assert store_of(setup) == tmp_path / "agent.store.sqlite"
    elsewhere = setup.model_copy(update={"server": setup.server.model_copy(update={"store": tmp_path / "s.sqlite"})})
    assert store_of(elsewhere) == tmp_path / "s.sqlite"
    monkeypatch.setenv("WHAT_NEXT_STORE", "postgresql://localhost/wn")
    assert store_of(elsewhere) == "postgresql://localhost/wn"


def test_a_log_of_a_newer_version_is_not_read_as_if_it_were_known(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pl.DataFrame({"item_id": [1], "reward": [1], "propensity": [0.5]}).write_parquet(
        path, metadata={"what_next.format": "4"}
    )
    for read in (Dataset.read, read_log):
        with pytest.raises(DataError, match="has format 4, and this version reads up to 3"):
            read(path)
