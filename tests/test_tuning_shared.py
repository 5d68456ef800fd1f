"""Several processes share a study in a database: no trial is judged twice, and a killed one is taken up."""

import importlib.util
import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from what_next import Setup
from what_next.errors import SaveError, SetupError
from what_next.experiments import study, tuning

from .conftest import SetupOf
from .forked import FORKING
from .serving.conftest import postgres_server, postgres_url  # noqa: F401 - fixtures

optuna = pytest.importorskip("optuna")
sqlalchemy = pytest.importorskip("sqlalchemy")

TRIALS = 12
BRIEF = 3.0
"""Seconds of a trial, where a killed one is waited for by that."""


@pytest.fixture
def setup(setup_of: SetupOf, tmp_path: Path) -> Setup:
    return setup_of(tmp_path / "models", algorithm="next_item", passes=4, split="leave_last_out", batch_size=32)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'study.db'}"
    found: str = request.getfixturevalue("postgres_url")
    return found


def share(setup: Setup, url: str, folder: Path, hang: bool, seconds: float) -> None:
    """Take part in the search; training is a look at the learning rate, which may never end."""

    def score(setup: Setup, *_: object) -> float:
        (folder / f"{os.getpid()}-{time.time_ns()}.json").write_text(json.dumps(setup.learning_rate))
        time.sleep(3600 if hang else 0.7)  # so that the trial of a killed process is missed before the last one
        return -setup.learning_rate

    tuning._score = score  # type: ignore[assignment]
    study.HEARTBEAT, study.GRACE, tuning.WAIT = 1, 12, 0.2  # a disk that is flushed may hold a sign of life for long
    tuning.tune(setup, TRIALS, seconds=seconds, study=url)


def started(setup: Setup, url: str, folder: Path, hang: bool = False, seconds: float = 60.0) -> Any:
    process = FORKING.Process(target=share, args=(setup, url, folder, hang, seconds))
    process.start()
    return process


def gave_a_sign_of_life(url: str) -> bool:
    """Whether a trial did, without which nobody can say that it is dead."""
    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        found: int = connection.scalar(sqlalchemy.text("SELECT count(*) FROM trial_heartbeats"))
    engine.dispose()
    return found > 0


def begun(folder: Path) -> list[float]:
    """The learning rates of all trials that were begun."""
    return [float(json.loads(one.read_text())) for one in sorted(folder.glob("*.json")) if one.stat().st_size]


@pytest.mark.medium
def test_a_lost_trial_keeps_its_place_until_it_is_put_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna fails it and puts it up in two steps; whoever looks in between would begin another one."""
    kept = study.open_study(f"sqlite:///{tmp_path / 'study.db'}", {})
    trial = kept.ask()
    assert len(study.with_a_place(kept, 1.0)) == 1
    kept._storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.FAIL)
    assert len(study.with_a_place(kept, 1.0)) == 1
    monkeypatch.setattr(study, "GRACE", -1)
    assert study.with_a_place(kept, 1.0) == []  # whoever failed it was killed as well
    monkeypatch.undo()
    optuna.storages.RetryHeartbeatStaleTrialCallback()(kept, kept.get_trials()[0])
    assert study.with_a_place(kept, 1.0) == []
    again = kept.ask()
    assert kept.get_trials()[again.number].system_attrs["failed_trial"] == trial.number
    kept._storage.set_trial_state_values(again._trial_id, optuna.trial.TrialState.FAIL)
    assert len(study.with_a_place(kept, 1.0)) == 1  # lost a second time
    optuna.storages.RetryHeartbeatStaleTrialCallback()(kept, kept.get_trials()[again.number])
    assert study.with_a_place(kept, 1.0) == []


def test_of_two_that_take_the_last_trial_at_once_one_gives_it_up(tmp_path: Path) -> None:
    kept = study.open_study(f"sqlite:///{tmp_path / 'study.db'}", {})
    killed, second, third = kept.ask(), kept.ask(), kept.ask()
    assert [study.is_too_many(kept, one.number, 2, 60.0) for one in (killed, second, third)] == [False, False, True]
    kept._storage.set_trial_state_values(killed._trial_id, optuna.trial.TrialState.FAIL)
    assert study.is_too_many(kept, third.number, 2, 60.0)
    optuna.storages.RetryHeartbeatStaleTrialCallback()(kept, kept.get_trials()[0])
    assert study.is_too_many(kept, third.number, 2, 60.0)  # though the other one waits
    again = kept.ask()
    assert again.number == 3
    assert [study.is_too_many(kept, one.number, 2, 60.0) for one in (again, second, third)] == [False, False, True]


@pytest.mark.medium
def test_no_trial_twice_and_a_killed_one_is_taken_up(url: str, setup: Setup, tmp_path: Path) -> None:
    folder = tmp_path / "begun"
    folder.mkdir()
    hanging = started(setup, url, folder, hang=True)
    while not (begun(folder) and gave_a_sign_of_life(url)):
        assert hanging.is_alive()
        time.sleep(0.1)
    os.kill(hanging.pid, signal.SIGKILL)
    hanging.join()
    (lost,) = begun(folder)
    assert lost == setup.learning_rate  # the first trial is of the setup's own values
    others = [started(setup, url, folder) for _ in range(4)]
    for one in others:
        one.join()
        assert one.exitcode == 0
    found = tuning.tune(setup, 1, study=url)
    rates = [trial.settings["learning_rate"] for trial in found.trials]
    assert len(rates) == TRIALS
    assert len(set(rates)) == len(rates)
    assert rates.count(lost) == 1
    assert begun(folder).count(lost) == 2
    assert len(begun(folder)) == len(rates) + 1


def take(url: str, folder: Path) -> None:
    """Ask for trials, each of which is written down, until those that wait are taken."""
    shared = study.open_study(url, {})
    for _ in range(TRIALS):
        (folder / f"{os.getpid()}-{shared.ask().number}").touch()


@pytest.mark.medium
def test_a_waiting_trial_of_sqlite_is_given_to_one_process(tmp_path: Path) -> None:
    folder, url = tmp_path / "taken", f"sqlite:///{tmp_path / 'study.db'}"
    folder.mkdir()
    shared = study.open_study(url, {})
    for _ in range(2 * TRIALS):
        shared.enqueue_trial({})
    processes = [FORKING.Process(target=take, args=(url, folder)) for _ in range(2)]
    for one in processes:
        one.start()
    for one in processes:
        one.join()
    taken = [int(one.name.partition("-")[2]) for one in folder.iterdir()]
    assert sorted(taken) == list(range(2 * TRIALS))


def proxy(study: str, port: int) -> None:
    optuna.storages.run_grpc_proxy_server(optuna.storages.RDBStorage(study), host="127.0.0.1", port=port)


@pytest.mark.slow
def test_behind_a_grpc_proxy_no_trial_is_judged_twice_and_a_killed_one_is_not_waited_for(
    setup: Setup, tmp_path: Path
) -> None:
    pytest.importorskip("grpc", reason="grpcio is not installed")
    folder = tmp_path / "begun"
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serving = FORKING.Process(target=proxy, args=(f"sqlite:///{tmp_path / 'study.db'}", port), daemon=True)
    serving.start()
    url = f"grpc://127.0.0.1:{port}"
    try:
        hanging = started(setup, url, folder, hang=True, seconds=BRIEF)
        while not begun(folder):
            assert hanging.is_alive()
            time.sleep(0.1)
        os.kill(hanging.pid, signal.SIGKILL)
        others = [started(setup, url, folder, seconds=BRIEF) for _ in range(2)]
        for one in others:
            one.join()
            assert one.exitcode == 0
        rates = [one.settings["learning_rate"] for one in tuning.tune(setup, 1, seconds=BRIEF, study=url).trials]
    finally:
        serving.kill()
    assert len(rates) == TRIALS
    assert len(set(rates)) == len(rates)
    assert len(begun(folder)) == len(rates) + 1  # the lost one was begun once


def test_trials_that_fall_behind_are_given_up(setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []

    def validate(self: tuning.Environment) -> dict[str, float]:
        told.append(self.agent.steps)
        return {"ndcg@10": 1 / len(told)}  # each is worse than all before

    monkeypatch.setattr("what_next.environment.Environment.validate", validate)
    setup = setup.model_copy(update={"patience": 2, "linear": "no"})
    found = tuning.tune(setup, 3, study=tmp_path / "study.jsonl", prune="halving")
    first = found.trials[0].score
    assert [trial.score < first for trial in found.trials] == [False, True, True]
    assert len(told) == 4 + 2 + 2  # the first trains its four passes, the others give up after two
    with pytest.raises(SetupError, match="patience is none; set patience=2"):
        tuning.tune(setup.model_copy(update={"patience": None}), 3, prune="halving")


def test_a_database_that_is_away_is_told_without_its_password(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("me:secret@127.0.0.1:1/none", "me:sec/ret@127.0.0.1:1/none", "me@127.0.0.1:1/none?password=secret"):
        with pytest.raises(SaveError, match=r"cannot be kept there") as told:
            tuning.tune(setup, 1, study=f"postgresql://{place}")
        assert "ret" not in str(told.value)
    with pytest.raises(SetupError, match="write %40 for @"):
        tuning.tune(setup, 1, study="postgresql://me:sec@ret@127.0.0.1:1/none")
    with pytest.raises(SaveError, match=r"cannot be kept there"):
        tuning.tune(setup, 1, study=f"sqlite:///{tmp_path}/no/such/folder.db")
    if importlib.util.find_spec("grpc") is None:
        return
    monkeypatch.setattr(study, "PATIENCE", 0.1)
    for url in ("grpc://127.0.0.1:1", "grpc://127.0.0.1:one"):
        with pytest.raises(SaveError, match=rf"{url}: the study cannot be kept there"):
            tuning.tune(setup, 1, study=url)


@pytest.mark.parametrize("url", ["sqlite:///", "sqlite:///:memory:", "mysql://me:secret@db/trials"])
def test_a_database_that_cannot_be_shared_is_told_at_once(url: str) -> None:
    with pytest.raises(SetupError, match=r"sqlite:///") as told:
        study.open_study(url, {})
    assert "secret" not in str(told.value)
