"""What the validation users can tell is said before a training relies on it."""

from pathlib import Path

import polars as pl
import pytest

import what_next as wn
from what_next.training import validation


def log_of(users: int, events: int) -> pl.DataFrame:
    songs = [f"s{(user + 3 * step) % 40}" for user in range(users) for step in range(events)]
    return pl.DataFrame({"user": [f"fm{user}" for user in range(users) for _ in range(events)], "item": songs})


def told_of(frame: pl.DataFrame, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    how = {"time": "", "epochs": 1, "dim": 4, "linear": "no", "inputs_start": "random", "evaluation_seen": True}
    wn.fit(frame, folder=folder, threads=1, refit="no", **how)
    said = capsys.readouterr()
    return " ".join((said.out + said.err).split())


def test_few_users_with_long_histories_validate_by_chance_and_are_told_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = told_of(log_of(3, 1000), tmp_path / "long", capsys)
    assert "validation has 3 targets, one event of each of 3 validation users: too few to tell which" in told
    assert "cut into more users, for example one for each day" in told
    assert "few users with long histories" in Path("docs/quickstart.md").read_text()
    assert "too few to tell" not in told_of(log_of(30, 20), tmp_path / "short", capsys)


def test_users_whose_histories_are_too_long_together_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "EVENTS", 2500)
    assert "one event of each of 2 of the 3 validation users" in told_of(log_of(3, 1000), tmp_path, capsys)
