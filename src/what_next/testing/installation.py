"""Checks that an installed What Next? works: it reads a setup, and trains, saves, loads and uses a tiny agent."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from what_next.environment import Environment
from what_next.inference.recommender import Recommender
from what_next.policy import LearnedPolicy
from what_next.settings import Setup, read_entries

SETUP = """\
train, yes
model, lstm
data, log.parquet
epochs, 64
model_agent_path, agent.safetensors
model_critic_path, critic.safetensors
window, 20
batch_size, 16
dim, 8
"""


def run_tests(outcome: Path = Path("Test.test")) -> int:
    """Run every check, all in one folder; returns 0 where all passed, else 1."""
    tests: dict[str, Callable[[Path], None]] = {
        "setup.txt becomes a dictionary": _reads_setup,
        "a tiny agent is trained and saved": _trains,
        "the saved agent is loaded and recommends": _recommends,
        "the setup's inference recommends": _infers,
    }
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for name, test in tests.items():
            try:
                test(Path(folder))
                lines.append(f"passed: {name}")
            except Exception as error:  # any error is a failed check
                lines.append(f"FAILED: {name}: {error!r}")
    failed = sum(line.startswith("FAILED") for line in lines)
    lines.append(f"{len(tests) - failed} passed, {failed} failed")
    text = "\n".join(lines) + "\n"
    outcome.write_text(text)
    print(text, end="")
    return 1 if failed else 0


def _reads_setup(folder: Path) -> None:
    path = folder / "setup.txt"
    path.write_text(SETUP)
    entries = read_entries(path)
    _expect(entries["train"] == "yes" and entries["epochs"] == "64" and len(entries) == 9, f"read {entries}")


def _trains(folder: Path) -> None:
    made_up_log().write_parquet(folder / "log.parquet")
    report = Environment.from_setup(folder / "setup.txt").run_sim()
    _expect(report.histories == 64, f"trained on {report.histories} histories, not 64")
    _expect(all(path.is_file() for path in report.saved), f"not saved: {report.saved}")


def _recommends(folder: Path) -> None:
    recommender = Recommender(LearnedPolicy.load(folder / "agent.safetensors"))
    found = recommender.recommend(history=["item 1", "item 2", "item 3"], k=5)
    _expect(len({item.item_id for item in found.items}) == 5, f"recommended {found.items}")


def _infers(folder: Path) -> None:
    report = Environment.from_setup(Setup.read(folder / "setup.txt", ["train=no", "user=user 1"])).run_sim()
    _expect(len(report.recommendations) == 1, f"recommended to {len(report.recommendations)} users, not 1")


def _expect(true: bool, found: str) -> None:
    if not true:
        raise AssertionError(found)


def made_up_log(users: int = 30, items: int = 60, events: int = 30, attributes: int = 3, seed: int = 0) -> pl.DataFrame:
    """A synthetic log of random users, items and attributes; the same seed gives the same log."""
    rng = np.random.default_rng(seed)
    chosen = rng.integers(items, size=users * events)
    values = rng.normal(size=(items, attributes))
    return pl.DataFrame(
        {
            "user_id": [f"user {user}" for user in np.repeat(np.arange(users), events)],
            "item_id": [f"item {item}" for item in chosen],
            **{f"attribute_{place}": values[chosen, place] for place in range(attributes)},
        }
    )
