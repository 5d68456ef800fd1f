"""Off-policy estimates on real logs, where the truth is known from another log."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from what_next.off_policy import LogSettings, estimate_policy, gate

from .off_policy_logs import run, write

RANDOM, SAMPLED = 0.0038, 0.0042
"""Click rates of the two Open Bandit logs: of the uniform policy, and of Thompson sampling."""
NAIVE, UNBIASED = 2.611, 2.229
"""Mean ratings of coats: of those that people chose themselves, and of a random test set."""


@pytest.fixture(scope="module")
def logs(shared_data: Path) -> dict[str, Path]:
    return {name: shared_data / "open-bandit-small" / name / "all" / "all.csv" for name in ("random", "bts")}


@pytest.fixture(scope="module")
def directions(logs) -> dict[str, dict[str, Any]]:
    """The uniform policy by the log of Thompson sampling, and the average of that by the random log."""
    return {
        "uniform from bts": estimate_policy(LogSettings(logs["bts"]), "uniform"),
        "bts from random": estimate_policy(LogSettings(logs["random"]), str(logs["bts"])),
    }


class TestOpenBandit:
    def test_the_files_are_read_as_they_are(self, directions) -> None:
        for found in directions.values():
            log = found["log"]
            assert (log["kind"], log["rows"], log["units"], log["items"]) == ("open bandit", 10_000, 10_000, 80)
            assert (log["items_logged"], log["attributes"]) == (80, 41)
            assert log["columns"]["reward"] == "click"
            assert {name.partition("=")[0] for name in log["context"]} == {
                "user_feature_0", "user_feature_1", "user_feature_2", "user_feature_3", "slot",
            }  # fmt: skip

    def test_each_log_tells_its_own_click_rate(self, directions) -> None:
        assert directions["uniform from bts"]["on_policy"]["mean"] == pytest.approx(SAMPLED)
        assert directions["bts from random"]["on_policy"]["mean"] == pytest.approx(RANDOM)

    @pytest.mark.parametrize(("direction", "value"), [("uniform from bts", RANDOM), ("bts from random", SAMPLED)])
    def test_intervals_hold_the_rate_of_the_other_log(self, directions, direction: str, value: float) -> None:
        for name, one in directions[direction]["estimates"].items():
            assert one["refused"] is None
            assert one["low"] < value < one["high"], name

    def test_the_numbers_are_those_of_the_formulas(self, directions) -> None:
        found = directions["uniform from bts"]
        assert found["estimates"]["ips"]["mean"] == pytest.approx(0.0023596395, abs=1e-9)
        assert found["estimates"]["snips"]["mean"] == pytest.approx(0.0023337139, abs=1e-9)
        assert found["estimates"]["snips"]["ess"] == pytest.approx(340.378, abs=1e-3)
        assert found["diagnostics"]["largest"] == pytest.approx(0.0125 / 4.5e-5)
        assert found["diagnostics"]["mean_weight"] == pytest.approx(1.01111, abs=1e-5)

    def test_so_few_clicks_decide_nothing_and_the_average_is_no_policy(self, directions) -> None:
        for direction, clicks in (("uniform from bts", 42), ("bts from random", 38)):
            notes = " ".join(directions[direction]["notes"])
            assert f"{clicks} of 10,000 rows have a reward other than 0: so few decide nothing" in notes
            one = directions[direction]["estimates"]["snips"]
            assert one["high"] / one["low"] > 2.5
        notes = " ".join(directions["bts from random"]["notes"])
        assert "an average of the policy that wrote" in notes
        assert "varied in time, as Thompson sampling does" in notes

    @pytest.mark.slow
    def test_neither_policy_is_promoted_over_the_other(self, logs) -> None:
        by_random = gate(LogSettings(logs["random"]), str(logs["bts"]), "uniform")
        assert not by_random["promote"]
        assert by_random["difference"]["low"] < 0 < by_random["difference"]["high"]
        # Here the interval would have it, by 42 clicks that the policy itself went after.
        by_own = gate(LogSettings(logs["bts"]), str(logs["bts"]), "uniform")
        assert by_own["difference"]["low"] > 0
        assert not by_own["promote"]
        assert by_own["why"].endswith("all.csv was made from this log; judge it on later rows")
        assert any("made from the log that judges it" in note for note in by_own["notes"])

    @pytest.mark.medium
    def test_estimated_propensities_are_calibrated(self, logs) -> None:
        found = estimate_policy(LogSettings(logs["random"], estimated=True), "uniform")
        behaviour = found["log"]["behaviour"]
        assert behaviour["miscalibrated"] < 0.2
        assert found["estimates"]["snips"]["mean"] == pytest.approx(RANDOM, abs=4e-4)
        found = estimate_policy(LogSettings(logs["bts"], estimated=True), "uniform")
        table = {one["to"]: one for one in found["log"]["behaviour"]["calibration"]}
        for to in (0.01, 0.02, 0.05, 0.1, 0.2):
            assert table[to]["observed"] == pytest.approx(table[to]["predicted"], rel=0.05)

    @pytest.mark.slow
    def test_the_same_command_gives_the_same_bytes(self, logs, capsys) -> None:
        words = ["estimate", "--log", logs["bts"], "--policy", "uniform", "--json"]
        outs = [run(capsys, *words).out for _ in range(2)]
        assert outs[0] == outs[1]
        assert json.loads(outs[0])["estimates"]["snips"]["refused"] is None


@pytest.fixture(scope="module")
def coat(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shared_data / "coat"
    ratings, propensities = (np.loadtxt(folder / f"{name}.ascii") for name in ("train", "propensities"))
    users, items = np.nonzero(ratings)
    # A cell's propensity is its chance to be among the user's 24 ratings; a decision is one of these.
    chances = propensities[users, items] / 24
    columns = {
        "user_id": users, "item_id": items, "rating": ratings[users, items], "propensity": chances,
        "unweighted": chances,
    }  # fmt: skip
    return write(tmp_path_factory.mktemp("coat") / "coat.parquet", columns)


class TestCoat:
    """Ratings of coats that people chose to rate (Schnabel et al. 2016): who chooses, rates higher."""

    def snips(self, log: Path, policy: str) -> dict[str, Any]:
        found = estimate_policy(LogSettings(log), policy)
        assert found["on_policy"]["mean"] == pytest.approx(NAIVE, abs=5e-4)
        assert (found["log"]["unit"], found["log"]["units"], found["log"]["rows"]) == ("user", 290, 6960)
        one: dict[str, Any] = found["estimates"]["snips"]
        assert one["refused"] is None
        return one

    def test_weights_bring_the_mean_near_to_that_of_random_ratings(self, coat: Path) -> None:
        found = self.snips(coat, "uniform")
        assert nearer(found["mean"])
        assert found["mean"] == pytest.approx(2.3308, abs=1e-4)
        assert found["low"] < found["mean"] < found["high"] < NAIVE

    def test_weights_of_one_leave_it_where_it_was(self, coat: Path) -> None:
        found = self.snips(coat, "unweighted")
        assert not nearer(found["mean"])
        assert found["mean"] == pytest.approx(NAIVE, abs=5e-4)


def nearer(mean: float) -> bool:
    """Whether a mean rating lies nearer to that of random coats than to that of chosen ones."""
    return abs(mean - UNBIASED) < abs(mean - NAIVE)
