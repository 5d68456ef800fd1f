"""Logs of decisions with a known truth, and the two commands that judge by them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import typer

from what_next.cli import estimate as commands
from what_next.cli.output import guarded

ITEMS = 4
LOGGING = np.array([0.4, 0.3, 0.2, 0.1])
BETTER = np.array([0.1, 0.2, 0.3, 0.4])
WORTH = np.array([0.1, 0.2, 0.5, 0.8])
"""The chance of a reward of 1 for each item: .28 as logged, .4 at random, .52 by the better policy."""


@dataclass(frozen=True)
class Ran:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> Ran:
    """Run `estimate` or `gate` as the command line does."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command("estimate")(commands.estimate)
    app.command("gate")(commands.gate)

    @guarded
    def main() -> int:
        code = app(list(map(str, words)), standalone_mode=False)
        return code if isinstance(code, int) else 0

    code = main()
    return Ran(code, *capsys.readouterr())


def estimated(capsys: pytest.CaptureFixture[str], log: Path, policy: str | Path, *words: str | Path) -> dict[str, Any]:
    """The result of `estimate` as JSON; the command must succeed."""
    ran = run(capsys, "estimate", "--log", log, "--policy", policy, *words, "--json")
    assert ran.code == 0, ran.err
    return ran.json


def mistaken(capsys: pytest.CaptureFixture[str], log: Path, policy: str | Path, *words: str | Path) -> str:
    """The one line in which `estimate` tells a mistake; the exit code is 2."""
    ran = run(capsys, "estimate", "--log", log, "--policy", policy, *words)
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith("what-next: ")
    assert ran.err.count("\n") == 1
    return ran.err


@pytest.fixture(name="told")
def told_fixture(capsys: pytest.CaptureFixture[str]) -> partial[dict[str, Any]]:
    """`told(log, policy, ...)`: the result as JSON."""
    return partial(estimated, capsys)


@pytest.fixture(name="refused")
def refused_fixture(capsys: pytest.CaptureFixture[str]) -> partial[str]:
    """`refused(log, policy, ...)`: the message."""
    return partial(mistaken, capsys)


@pytest.fixture(name="log")
def log_fixture(tmp_path: Path) -> Path:
    """A log of 2,000 rows without users."""
    return write(tmp_path / "log.csv", decided())


def write(path: Path, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> Path:
    """A CSV or Parquet file."""
    frame = pl.DataFrame(dict(columns))
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    else:
        frame.write_csv(path)
    return path


def decided(rows: int = 2000, seed: int = 0, users: int = 0, **more: np.ndarray) -> dict[str, Any]:
    """Rows of the logging policy, with the chance of the logged item under the better policy and under others."""
    rng = np.random.default_rng(seed)
    items = rng.choice(ITEMS, rows, p=LOGGING)
    columns: dict[str, Any] = {
        "item_id": items,
        "reward": (rng.random(rows) < WORTH[items]).astype(float),
        "propensity": LOGGING[items],
        "better": BETTER[items],
        "worse": LOGGING[items] ** 2 / (LOGGING**2).sum(),
        "flat": np.full(rows, 1 / ITEMS),
        "same": LOGGING[items],
        "elsewhere": np.zeros(rows),
    }
    if users:
        columns |= {"user_id": [f"u{number % users}" for number in range(rows)], "timestamp": np.arange(rows)}
    return columns | more


def setup_file(path: Path, **settings: Any) -> Path:
    """A setup.txt of some settings."""
    words = {"train": "no", **settings}
    path.write_text(", ".join(f'{key}, "{value}"' for key, value in words.items()))
    return path
