"""What the demo of the loop came to, as a table and a picture."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def picture() -> Any:
    spec = importlib.util.spec_from_file_location("loop_picture", ROOT / "benchmarks/loop_picture.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["loop_picture"] = module
    spec.loader.exec_module(module)
    return module


def run(arm: str, rewards: list[float], seed: int = 0, **more: Any) -> dict[str, Any]:
    """Four users, each with two answers in the last of three days."""
    days = [0.1, 0.2, sum(rewards) / 8]
    return {
        "arm": arm, "world": "sessions", "users": 4, "days": 3, "seed": seed, "shift": None, "reward": days,
        "answers": [8, 8, 8], "visits": [4, 3, 1], "coverage": [0.5, 0.6, 0.7], "gini": [0.3, 0.2, 0.1],
        "late_reward": rewards, "late_answers": [2.0] * 4, **more,
    }  # fmt: skip


def test_intervals_are_over_users_and_differences_over_the_same_users(picture: Any) -> None:
    ours, theirs = [4.0, 2.0, 0.0, 2.0], [2.0, 0.0, -2.0, 0.0]
    told = picture.table([run("loop rl", ours, deployments=["first", "promoted"]), run("no loop", theirs)]).splitlines()
    half = 1.96 * np.std([2.0, 1.0, 0.0, 1.0], ddof=1) / 2  # of four users' means
    assert told[2].startswith(f"| loop rl | 1.000 [{1 - half:.3f}, {1 + half:.3f}] |  | 0.433 | 2.00 | 0.50 to 0.70 |")
    assert " | 1 | - |" in told[2]
    assert f"| no loop | 0.000 [{-half:.3f}, {half:.3f}] | 1.000 [1.000, 1.000] |" in told[3]  # each has two more


def test_visits_have_an_interval_over_users_where_those_of_each_are_kept(picture: Any) -> None:
    told = picture.table([run("random", [2.0] * 4, visits_of_user=[1, 2, 3, 2])]).splitlines()[2]
    half = 1.96 * np.std([1, 2, 3, 2], ddof=1) / 2
    assert f"| 2.00 [{2 - half:.2f}, {2 + half:.2f}] |" in told


def test_a_day_is_below_the_day_before_beyond_what_all_days_together_leave_to_chance(picture: Any) -> None:
    days = {"days": 4, "reward": [0.5, 0.4, 0.1, 0.2], "change_error": [0.0, 0.05, 0.05, 0.05]}
    lines = [
        {**run("loop rl", [1.0] * 4), **days},
        {**run("loop rl", [1.0] * 4, seed=1), **days, "lines": ["4: canary: rolled back the canary: it is worse"]},
        {**run("loop rl", [1.0] * 4, seed=2), **days, "lines": ["5: watch: rolled back from a to b"]},
        run("random", [1.0] * 4),  # of an earlier run, which did not keep the errors
    ]
    told = picture.falls(lines)[2:]
    half = 2.394 * 0.05  # the normal quantile of 1 - .05 / 2 / 3: .1 less is chance, .3 less is not
    assert told[0] == f"| loop rl | 0 | 3 | 1 | -0.300 +/- {half:.3f} (day 3) |"
    assert told[1].startswith("| loop rl | 1 | 3 | 0 |")
    assert told[2].startswith("| loop rl | 2 | 3 | 1 |")  # two days later is too late
    assert len(told) == 3


def test_seeds_are_averaged(picture: Any) -> None:
    lines = [run("random", [2.0] * 4), run("random", [4.0] * 4, seed=1)]
    assert picture.table(lines).splitlines()[2].startswith("| random | 1.500 [1.500, 1.500] |")


def test_the_picture_is_drawn(picture: Any) -> None:
    drawn = picture.draw([run("loop rl", [4.0] * 4), run("popular", [-2.0] * 4)])
    root = ElementTree.fromstring(drawn)
    words = ["".join(one.itertext()) for one in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "loop rl" in words
    assert "World sessions, 4 users, 3 days, seeds [0]" in words
    assert sum(one.get("class") == "day" for one in root.iter("{http://www.w3.org/2000/svg}path")) == 2


def test_the_kept_table_and_picture_are_what_was_measured(picture: Any) -> None:
    lines = [json.loads(line) for line in picture.LINES.read_text().splitlines()]
    assert picture.table(lines) in (ROOT / "docs/loop.md").read_text(), "write it anew: benchmarks/loop_picture.py"
    assert picture.draw(lines) == picture.PICTURE.read_text(), "draw it anew: benchmarks/loop_picture.py"
