"""Promotion by the service's own log: who follows a ring of items is deployed, who goes the other way is not."""

import json
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import typer

from what_next.agent import Agent
from what_next.cli import estimate, promote, service
from what_next.cli.output import guarded
from what_next.data import Options, import_files, save
from what_next.environment import Environment
from what_next.serving.engine.versions import version_of
from what_next.serving.store import AddFeedback
from what_next.settings import Setup
from what_next.state import State

from .engines import Service, asking, ids, running

ITEMS = 8
PEOPLE = 250


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three models: `first` has learned nothing yet, `better` how people walk round the ring, `worse` the
    other way round."""
    folder, rng = tmp_path_factory.mktemp("ring"), np.random.default_rng(0)
    for name, step, epochs in (("first", 1, 1), ("better", 1, 1500), ("worse", -1, 1500)):
        (folder / name).mkdir()
        walks = [(rng.integers(ITEMS) + step * np.arange(16)) % ITEMS for _ in range(120)]
        ring = {"user_id": np.repeat(np.arange(120), 16), "item_id": np.concatenate(walks), "timestamp": range(1920)}
        pl.DataFrame(ring).write_csv(folder / name / "ring.csv")
        save(import_files([folder / name / "ring.csv"], None, Options()), folder / name / "ring.parquet")
        values = {
            "train": "yes", "data": "ring.parquet", "algorithm": "next_item", "inputs.items": "learned", "dim": 16,
            "skip": "no", "epochs": epochs, "batch_size": 32, "learning_rate": 0.01, "threads": 1, "seed": 1,
            "device": "cpu",
            "model_agent_path": "agent.safetensors", "model_critic_path": "critic.safetensors",
            "server.temperature": 1, "server.deadline": 60_000,
        }  # fmt: skip
        (folder / name / "setup.txt").write_text("".join(f"{key}, {value}\n" for key, value in values.items()))
        train(folder / name / "setup.txt")
    return folder


def train(path: Path, *overrides: str) -> None:
    setup = Setup.read(path, overrides)
    state = State.from_setup(setup)
    Environment(Agent(setup, state.space), state, setup).train_agent()


@pytest.fixture
def models(trained: Path, tmp_path: Path) -> Path:
    """The same, a test's own."""
    return Path(shutil.copytree(trained, tmp_path / "models"))


Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def run(models: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command on the setup of the first model; its exit code, and what it says as JSON (or `error`)."""
    app = typer.Typer()
    for commands in (promote, estimate, service):
        app.add_typer(commands.app)

    def command(*words: object) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = guarded(lambda: app([*map(str, words), "--json"], standalone_mode=False) or 0)()
        told = capsys.readouterr()
        return code, json.loads(told.out) if told.out else {"error": told.err}

    return command


def walk(service: Service, rounds: int = 3, **how: Any) -> None:
    """People go round the ring, and are glad of the item that comes next, in whichever slot it stands."""
    rng, numbers = np.random.default_rng(0), count()
    for _ in range(rounds):
        places = rng.integers(ITEMS, size=PEOPLE)
        service.all_played({f"p{one}": (str(place), str((place + 1) % ITEMS)) for one, place in enumerate(places)})
        asks = [
            asking(user=f"p{person}", k=2, exclude_seen=False, seed=next(numbers), **how) for person in range(PEOPLE)
        ]
        told = [
            AddFeedback(f"{answer.recommendation_id}{item}", answer.recommendation_id, item, 1.0)
            for place, answer in zip(places, service.ask_all(asks), strict=True)
            for item in ids(answer)
            if item == str((place + 2) % ITEMS)
        ]
        service.store.commit(told)


def test_a_better_model_is_promoted_and_a_worse_one_is_not(models: Path, run: Run) -> None:
    first, better, worse = (models / name / "setup.txt" for name in ("first", "better", "worse"))
    with running(Setup.read(first, ["train=no"])) as service:
        walk(service)
        code, told = run("promote", first, "--model", worse)
        assert (code, told["gate"]["promote"]) == (3, False)
        assert told["gate"]["difference"]["mean"] < 0
        code, told = run("promote", first, "--model", better)
        assert code == 0, told["why"]
        assert told["gate"]["difference"]["low"] > 0.2
        assert told["gate"]["new"]["estimate"]["mean"] > 0.4
        assert told["gate"]["current"]["estimate"]["mean"] == pytest.approx(told["gate"]["on_policy"]["mean"], rel=1e-4)
        newest = service.store.deployments()[-1]
        assert (newest.version, newest.kind) == (told["version"], "promoted")
        assert newest.note["why"] == told["why"]
        assert newest.note["gate"]["difference"] == told["gate"]["difference"]  # type: ignore[index]
        assert run("promote", first, "--model", worse)[0] == 3
        assert len(service.store.deployments()) == 2


def test_people_read_versions_whole_and_the_reason_once(
    models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    first, better, worse = (models / name / "setup.txt" for name in ("first", "better", "worse"))

    def said(model: Path) -> str:
        capsys.readouterr()
        promote.promote(first, model=model)
        return capsys.readouterr().out

    with running(Setup.read(first, ["train=no"])) as service:
        walk(service)
        names = {path: version_of(path.with_name("agent.safetensors")) for path in (first, better, worse)}
        told = said(worse)
        assert f"new: {names[worse]}" in told
        assert f"current: {names[first]}" in told
        assert f"do not promote {names[worse]}: the lower bound" in told
        assert told.endswith(f"\n{names[worse]} is not deployed\n")
        told = said(better)
        assert (told.count("the lower bound"), told.count("\N{HORIZONTAL ELLIPSIS}")) == (1, 0)
        assert f"{PEOPLE * 6:,} decisions of {PEOPLE} users in the service's own log (" in told
        assert "log.parquet" not in told
        assert f"\n{names[better]} is deployed\n" in told
        assert said(better) == f"{names[better]} is deployed already\n"
        assert service.store.deployments()[-1].note["gate"]["log"]["file"] == "the service's own log"  # type: ignore[index]


def test_promote_says_what_the_gate_says_of_the_exported_log(models: Path, run: Run, tmp_path: Path) -> None:
    first, better = (models / name / "setup.txt" for name in ("first", "better"))
    with running(Setup.read(first, ["train=no"])) as service:
        walk(service)
    code, told = run("log", "export", first, "--to", tmp_path / "log.parquet")
    assert (code, told["events"], told["decisions"], told["users"]) == (0, PEOPLE * 6, PEOPLE * 6, PEOPLE)
    code, gated = run("gate", better, first, "--log", tmp_path / "log.parquet")
    assert code == 0
    assert run("promote", first, "--model", better)[1]["gate"]["difference"] == gated["difference"]
    # With more exploration, the better one is less sure of itself.
    code, unsure = run("gate", better, first, "server.temperature=2", "--log", tmp_path / "log.parquet")
    assert unsure["new"]["estimate"]["mean"] < gated["new"]["estimate"]["mean"] - 0.05
    assert unsure["current"]["estimate"]["mean"] != pytest.approx(gated["current"]["estimate"]["mean"], abs=1e-3)
    code, told = run("estimate", "server.temperature=2", "--log", tmp_path / "log.parquet", "--policy", better)
    assert told["estimates"]["cascade_snips"]["mean"] == pytest.approx(unsure["new"]["estimate"]["mean"])
    code, told = run("gate", "uniform", "propensity", "server.temperature=0", "--log", tmp_path / "log.parquet")
    assert (code, "settings are for setups, and none is judged" in told["error"]) == (2, True)
    agent = models / "better" / "agent.safetensors"
    code, told = run("gate", agent, first, "--log", tmp_path / "log.parquet")
    assert (code, f"{agent}: is a model's file; name its setup" in told["error"]) == (2, True)


@pytest.mark.medium
def test_a_model_is_not_judged_by_what_it_was_trained_on(models: Path, run: Run, tmp_path: Path) -> None:
    first, new = models / "first" / "setup.txt", models / "new" / "setup.txt"
    with running(Setup.read(first, ["train=no"])) as service:
        walk(service)
        assert run("log", "export", first, "--to", tmp_path / "log.parquet")[0] == 0
        new.parent.mkdir()
        new.write_text(first.read_text().replace("ring.parquet", "elsewhere.parquet"))
        train(new, f"data={tmp_path / 'log.parquet'}")
        code, told = run("gate", new, first, "--log", tmp_path / "log.parquet")
        assert (code, "was trained on what all these decisions brought" in told["error"]) == (2, True)
        code, told = run("promote", first, "--model", new)
        assert (code, told["gate"]) == (3, None)
        assert "was trained on what all these decisions brought; judge on later ones" in told["why"]
        walk(service, rounds=1)
        told = run("promote", first, "--model", new)[1]["gate"]
        assert told["log"]["rows"] == PEOPLE * 2
        assert told["new"]["learned"] == PEOPLE * 6
        assert any(f"{PEOPLE * 6:,} rows left out" in note for note in told["notes"])


def test_a_service_that_never_explored_has_no_evidence(models: Path, run: Run) -> None:
    first, better = (models / name / "setup.txt" for name in ("first", "better"))
    with running(Setup.read(first, ["train=no"])) as service:
        code, told = run("promote", first, "--model", better)
        assert code == 3
        assert "holds no events and no answers yet" in told["why"]
        walk(service, rounds=1, temperature=0.0)
        code, told = run("promote", first, "--model", better)
        assert (code, told["gate"], len(service.store.deployments())) == (3, None, 1)
        assert f"{PEOPLE} answers left out: given without exploration" in told["why"]
        assert "serve with server.temperature or server.epsilon" in told["why"]


def test_a_log_that_is_given_goes_before_the_services_own(models: Path, run: Run, tmp_path: Path) -> None:
    first, better = (models / name / "setup.txt" for name in ("first", "better"))
    with running(Setup.read(first, ["train=no"])):
        code, told = run("promote", first, "--model", better, "--log", tmp_path / "none.parquet")
        assert (code, "none.parquet: no such file" in told["error"]) == (2, True)
        rng, rows = np.random.default_rng(0), 3000
        items = rng.integers(ITEMS, size=(rows // 3, 3))
        follows = np.diff(items, axis=1, prepend=items[:, :1]) % ITEMS == 1
        told = {
            "user_id": np.repeat(np.arange(rows // 3), 3), "timestamp": range(rows), "item_id": items.ravel(),
            "reward": follows.ravel().astype(float), "propensity": np.full(rows, 1 / ITEMS),
        }  # fmt: skip
        pl.DataFrame(told).write_csv(tmp_path / "log.csv")
        code, told = run("promote", first, "--model", better, "--log", tmp_path / "log.csv", "--margin", "0.9")
        assert (code, told["gate"]["margin"]) == (3, 0.9)
        assert told["gate"]["looks"] == "one"
        assert any("good for one look" in one for one in told["gate"]["notes"])
        words = ("--log", tmp_path / "log.csv", "--margin", "0.9", "--looks", "any")
        code, told = run("promote", first, "--model", better, *words)
        assert (code, told["gate"]["looks"], told["gate"]["difference"]["interval"]) == (3, "any", "asymptotic")
        assert run("promote", first, "--model", better, "--log", tmp_path / "log.csv")[0] == 0
