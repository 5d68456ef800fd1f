"""What `estimate` and `gate` do not take at its word: columns, ranges, margins, policies made from the log itself."""

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from what_next.data.decisions.log import Roles
from what_next.data.decisions.reader import read_log
from what_next.errors import SetupError
from what_next.off_policy import LogSettings, estimate_policy, gate, judge
from what_next.off_policy.behaviour import estimate_behaviour
from what_next.off_policy.decisions import Options

from .off_policy_logs import ITEMS, decided, log_fixture, refused_fixture, run, told_fixture, write  # noqa: F401


def uniform_log(path: Path, rows: int = 2000, **more: np.ndarray) -> Path:
    """A log whose policy is uniform, so that the largest weight is known."""
    items = np.random.default_rng(1).integers(ITEMS, size=rows)
    return write(path, decided(rows, **{"item_id": items, "propensity": np.full(rows, 1 / ITEMS), **more}))


class TestRewardRange:
    def test_without_it_there_are_no_bernstein_bounds(self, tmp_path: Path, told) -> None:
        path = uniform_log(tmp_path / "log.csv", reward=np.arange(2000) % 3)
        assert told(path, "uniform")["estimates"]["ips"]["bernstein_low"] is None
        found = told(path, "uniform", "--reward-range", "0,2")
        assert found["estimates"]["ips"]["bernstein_low"] < 1 < found["estimates"]["ips"]["bernstein_high"]
        assert found["settings"]["reward_range"] == [0, 2]
        wider = told(path, "uniform", "--reward-range", "-5,20")["estimates"]["ips"]
        assert wider["bernstein_high"] > found["estimates"]["ips"]["bernstein_high"]

    def test_rewards_of_0_and_1_are_taken_for_all_there_are_and_that_is_said(self, tmp_path: Path, told) -> None:
        found = told(uniform_log(tmp_path / "log.csv"), "uniform")
        assert found["settings"]["reward_range"] == [0, 1]
        assert found["estimates"]["ips"]["bernstein_low"] is not None
        assert any("all rewards are 0 or 1, and Bernstein" in note for note in found["notes"])
        users = np.random.default_rng(2).integers(300, size=2000)  # units of unequal size have no such bounds
        found = told(uniform_log(tmp_path / "log.csv", user_id=users), "uniform")
        assert found["estimates"]["ips"]["bernstein_low"] is None
        assert not any("Bernstein" in note for note in found["notes"])

    def test_a_log_of_zeros_is_not_sure_of_0(self, tmp_path: Path, told) -> None:
        one = told(uniform_log(tmp_path / "log.csv", reward=np.zeros(2000)), "uniform", "--force")["estimates"]["ips"]
        assert one["bernstein_high"] > 0

    def test_estimated_propensities_have_none(self, tmp_path: Path, told) -> None:
        words = ["--behaviour", "estimated", "--reward-range", "0,1"]
        for one in told(uniform_log(tmp_path / "log.csv"), "uniform", *words)["estimates"].values():
            assert one["bernstein_low"] is None

    @pytest.mark.parametrize("text", ["1", "1,0", "0,0", "0,inf", "nan,1", "0,1,2", "low,high", ""])
    def test_what_is_no_range_is_a_mistake(self, log: Path, refused, text: str) -> None:
        assert f"--reward-range '{text}': give two numbers" in refused(log, "uniform", "--reward-range", text)

    def test_a_range_that_the_log_leaves_is_a_mistake(self, log: Path, refused) -> None:
        assert "the log's rewards reach from 0 to 1" in refused(log, "uniform", "--reward-range", "0,0.5")


class TestCopies:
    def test_rows_that_stand_there_twice_are_told_where_they_narrow_the_intervals(self, tmp_path: Path, told) -> None:
        columns = {name: np.append(one, one[:500]) for name, one in decided(timestamp=np.arange(2000)).items()}
        for more, told_of in (
            ({}, True),
            ({"user_id": np.arange(2500) % 2000}, False),
            ({"timestamp": np.arange(2500)}, False),
        ):
            notes = told(write(tmp_path / "log.csv", columns | more), "uniform", "--marginal")["notes"]
            assert any(one.startswith("500 rows are copies of others in all columns") for one in notes) is told_of


class TestColumnsWithARole:
    @pytest.mark.parametrize("column", ["reward", "item_id", "user_id", "timestamp"])
    def test_are_no_policy_and_no_context(self, tmp_path: Path, refused, column: str) -> None:
        path = write(tmp_path / "log.csv", decided(users=100))
        assert f"--policy '{column}': is the " in refused(path, column)
        assert f"column '{column}' is the " in refused(path, "uniform", "--context", column)

    def test_the_propensity_is_a_policy_and_no_context(self, log: Path, told, refused) -> None:
        found = told(log, "propensity")
        assert found["estimates"]["snips"]["mean"] == pytest.approx(found["on_policy"]["mean"])
        assert "column 'propensity' is the propensity, and no context" in refused(
            log, "uniform", "--context", "propensity"
        )

    def test_a_propensity_is_not_named_where_it_is_estimated(self, log: Path, refused) -> None:
        words = ["--behaviour", "estimated", "--propensity", "zzz"]
        assert "--propensity zzz: is not read with --behaviour estimated" in refused(log, "uniform", *words)

    def test_a_column_called_uniform_gives_way_to_the_word_and_that_is_said(self, tmp_path: Path, told) -> None:
        path = write(tmp_path / "log.csv", decided(uniform=np.ones(2000)))
        found = told(path, "uniform")
        assert found["policy"]["kind"] == "uniform"
        assert any("not the log's column of that name" in note for note in found["notes"])
        assert not any("column of that name" in note for note in told(path, "same")["notes"])

    def test_rewards_may_be_true_or_false(self, tmp_path: Path, told, refused) -> None:
        columns = decided()
        plain = told(write(tmp_path / "plain.csv", columns), "uniform")["estimates"]["snips"]
        columns["reward"] = np.where(columns["reward"] > 0, "True", "false")
        assert told(write(tmp_path / "words.csv", columns), "uniform")["estimates"]["snips"] == plain
        columns["reward"][0] = "yes"
        assert "is 'yes', not a number" in refused(write(tmp_path / "words.csv", columns), "uniform")


class TestEstimatedBehaviourWithContext:
    @pytest.fixture
    def confounded(self, tmp_path: Path) -> Path:
        """Group 1 mostly gets item 1, and earns more whatever it gets: both items are worth .45."""
        rng, rows = np.random.default_rng(0), 8000
        group = rng.integers(2, size=rows)
        items = np.where(rng.random(rows) < 0.85, group, 1 - group)
        rewards = (rng.random(rows) < np.where(group == 1, 0.8, 0.1)).astype(float)
        age = np.where(group == 1, rng.uniform(40, 80, rows), rng.uniform(0, 40, rows))
        columns = {"item_id": items, "reward": rewards, "group": group, "age": age, "always": items.astype(float)}
        return write(tmp_path / "log.csv", columns)

    @pytest.mark.parametrize("column", ["group", "age"])
    def test_the_gate_is_not_fooled_by_a_policy_that_looked_at_it(self, confounded: Path, column: str) -> None:
        assert gate(LogSettings(confounded, estimated=True), "always", "uniform")["promote"]
        found = gate(LogSettings(confounded, Roles(context=(column,)), estimated=True), "always", "uniform")
        assert found["log"]["behaviour"]["given"] == column
        assert not found["promote"]
        assert found["difference"]["low"] < 0 < found["difference"]["high"]

    def test_two_columns_together_may_be_what_it_looked_at(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        left, right = rng.integers(2, size=(2, 4000))
        items = np.where(rng.random(4000) < 0.9, left ^ right, 1 - (left ^ right))
        path = write(tmp_path / "log.csv", {"item_id": items, "reward": [0] * 4000, "left": left, "right": right})
        propensities, about = estimate_behaviour(read_log(path, Roles(context=("left", "right")), propensities=False))
        assert about["given"] == "left and right"
        assert propensities[items == (left ^ right)].mean() == pytest.approx(0.9, abs=0.02)


class TestMadeFromTheLog:
    def test_frequencies_of_the_log_are_not_promoted_on_it_whatever_its_file(self, log: Path, tmp_path: Path) -> None:
        rows = pl.read_csv(log)
        copy, later = tmp_path / "copy.parquet", tmp_path / "later.parquet"
        rows.reverse().write_parquet(copy)
        rows[:-1].write_parquet(later)
        for path, own in ((log, True), (copy, True), (later, False)):
            found = gate(LogSettings(log), str(path), "worse")
            assert found["new"]["own"] is own
            assert found["promote"] is not own
            if own:
                told = f"the evidence is refused: {path} was made from this log; judge it on later rows"
                assert found["why"] == told

    def test_as_the_current_policy_they_may_be_beaten(self, log: Path) -> None:
        assert gate(LogSettings(log), "better", str(log))["promote"]


class TestMargin:
    @pytest.mark.parametrize("margin", ["nan", "inf", "-inf"])
    def test_it_is_finite(self, log: Path, capsys, margin: str) -> None:
        ran = run(capsys, "gate", "better", "same", "--log", log, "--margin", margin, "--json")
        assert ran.code == 2
        assert ran.out == ""
        assert f"--margin {margin}: is not a finite number" in ran.err
        with pytest.raises(SetupError):
            gate(LogSettings(log), "better", "same", margin=math.nan)

    def test_below_0_it_is_said(self, log: Path) -> None:
        for margin, count in ((-0.5, 1), (0.0, 0), (0.5, 0)):
            notes = gate(LogSettings(log), "better", "same", margin=margin)["notes"]
            assert sum("is below 0: a policy that earns less may be promoted" in note for note in notes) == count


class TestTables:
    def test_at_80_columns_nothing_is_cut(self, log: Path, capsys, monkeypatch) -> None:
        words = {"FORCE_COLOR": "1", "TERM": "dumb", "COLUMNS": "80"}  # a terminal, and an old one
        for terminal in ({}, words):
            for name, value in terminal.items():
                monkeypatch.setenv(name, value)
            for command in (["estimate", "--policy", "uniform"], ["gate", "better", "same"]):
                shown = run(capsys, *command, "--log", log).out
                assert "\N{HORIZONTAL ELLIPSIS}" not in shown
                assert " per " not in shown.replace("snips per decision", "")
                assert (max(map(len, shown.splitlines())) <= 80) == bool(terminal)

    def test_what_an_estimate_is_per_is_told_where_that_differs(self, tmp_path: Path, capsys, monkeypatch) -> None:
        monkeypatch.setenv("COLUMNS", "200")
        path = write(tmp_path / "log.csv", decided(users=500))
        shown = run(capsys, "estimate", "--log", path, "--policy", "uniform", "--discount", "0.5").out
        assert " per " in shown
        assert "trajectory" in shown

    def test_what_a_model_says_of_unknown_items_is_called_a_guess(self, log: Path, tmp_path: Path, told) -> None:
        other = write(tmp_path / "other.csv", {"item_id": [1, 2, 3, 9], "reward": [0] * 4})
        notes = " ".join(told(log, other)["notes"])
        assert "weights count nothing for them, and a reward model (dm, dr, switch_dr) guesses" in notes


def test_the_gate_makes_no_estimate_but_the_one_that_decides(log: Path, monkeypatch) -> None:
    asked, made = [], judge.Judged.of

    def watched(*words):
        asked.append(next(one.only for one in words if isinstance(one, Options)))
        return made(*words)

    monkeypatch.setattr(judge.Judged, "of", watched)
    every = estimate_policy(LogSettings(log), "uniform")["estimates"]
    assert gate(LogSettings(log), "uniform", "same", estimator="ips")["new"]["estimate"] == every["ips"]
    assert asked == [None, "ips", "ips"]
