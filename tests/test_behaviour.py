"""The policy that wrote a log, estimated from the log itself."""

import sys
from pathlib import Path

import numpy as np
import pytest

from what_next.data.decisions.reader import read_log
from what_next.off_policy.behaviour import estimate_behaviour

from .off_policy_logs import ITEMS, decided, log_fixture, refused_fixture, told_fixture, write  # noqa: F401


class TestEstimatedBehaviour:
    def test_frequencies_of_the_other_half_are_the_propensities(self, tmp_path: Path) -> None:
        log = read_log(
            write(tmp_path / "log.csv", {"item_id": [0, 1, 1, 1, 2, 0], "reward": [0] * 6}), propensities=False
        )
        propensities, _ = estimate_behaviour(log, seed=0)
        halves = np.random.default_rng(0).permutation(6) % 2
        for row, item in enumerate(log.actions):
            others = log.actions[halves != halves[row]]
            smoothed = ((others == item).sum() + 1) / (3 + 3)
            assert propensities[row] == pytest.approx(smoothed)

    def test_the_truth_is_found_and_calibrated(self, tmp_path: Path, told) -> None:
        columns = decided(6000)
        true = columns.pop("propensity")
        path = write(tmp_path / "log.csv", columns)
        found = told(path, "uniform", "--behaviour", "estimated")
        one = found["estimates"]["snips"]
        assert one["low"] < 0.4 < one["high"]
        about = found["log"]["behaviour"]
        assert (about["kind"], about["given"]) == ("estimated", "nothing")
        table = about["calibration"]
        assert sum(one["pairs"] for one in table) == 6000 * ITEMS
        for name in ("predicted", "observed"):
            assert sum(one[name] * one["pairs"] for one in table) == pytest.approx(6000)
        assert all(one["from"] < one["predicted"] <= one["to"] for one in table)
        assert about["miscalibrated"] < 0.02
        again, _ = estimate_behaviour(read_log(path, propensities=False))
        assert again == pytest.approx(true, abs=0.02)
        assert any(
            "propensities are estimated from the log's own frequencies given nothing" in one for one in found["notes"]
        )

    def test_a_policy_that_looked_at_the_item_before_is_seen_to(self, tmp_path: Path) -> None:
        rng, items = np.random.default_rng(0), [0]
        for step in range(1, 8000):
            items.append(int(rng.integers(5)) if rng.random() < 0.2 or step % 20 == 0 else (items[-1] + 1) % 5)
        columns = {
            "user_id": np.arange(8000) // 20,
            "timestamp": np.arange(8000),
            "item_id": items,
            "reward": [0] * 8000,
        }
        log = read_log(write(tmp_path / "log.csv", columns), propensities=False)
        propensities, about = estimate_behaviour(log)
        assert about["given"] == "the item before"
        follows = np.append(False, (log.actions[1:] == (log.actions[:-1] + 1) % 5) & (log.units[1:] == log.units[:-1]))
        assert propensities[follows].mean() == pytest.approx(0.84, abs=0.02)
        losses = about["log_loss"]
        assert losses["the item before"] == pytest.approx(-np.log(propensities).mean())
        assert losses["the item before"] < losses["nothing"]

    def test_a_policy_that_looked_at_the_position_is_seen_to(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        places = np.arange(6000) % 2
        items = np.where(rng.random(6000) < 0.8, places, 1 - places)
        columns = {"item_id": items, "reward": [0] * 6000, "position": places + 1}
        propensities, about = estimate_behaviour(read_log(write(tmp_path / "log.csv", columns), propensities=False))
        assert about["given"] == "position"
        assert propensities[items == places] == pytest.approx(np.full((items == places).sum(), 0.8), abs=0.03)

    def test_a_wrong_policy_is_seen_in_the_table(self, tmp_path: Path) -> None:
        # The second item is shown to every other user alone, and nothing in the log tells to whom.
        users = np.arange(4000) // 40
        items = np.where(users % 2, 1, 0)
        columns = {"user_id": users, "item_id": items, "reward": [0] * 4000}
        _, told = estimate_behaviour(read_log(write(tmp_path / "log.csv", columns), propensities=False), seed=0)
        assert told["given"] == "the item before"  # it tells the user's group, but for the first row

    def test_one_unit_cannot_be_halved(self, tmp_path: Path, refused) -> None:
        path = write(
            tmp_path / "log.csv", {"item_id": ["a", "b", "c", "b"], "reward": [1, 0, 2, 3], "user_id": ["u"] * 4}
        )
        assert "has one user alone" in refused(path, "uniform", "--behaviour", "estimated")

    def test_the_plot_is_written_and_the_same_for_the_same_table(self, tmp_path: Path, told) -> None:
        path = write(tmp_path / "log.csv", decided())
        for name in ("a.svg", "b.svg"):
            told(path, "uniform", "--behaviour", "estimated", "--calibration", tmp_path / name)
        content = (tmp_path / "a.svg").read_text()
        assert "predicted chance" in content
        assert "given nothing, held-out rows" in content
        assert content == (tmp_path / "b.svg").read_text()

    def test_without_its_library_the_plot_is_refused(self, log: Path, tmp_path: Path, refused, monkeypatch) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        words = ["--behaviour", "estimated", "--calibration", tmp_path / "c.svg"]
        assert "needs matplotlib, which is not installed; pip install 'what-next-rl[report]'" in refused(
            log, "uniform", *words
        )
