"""`what-next estimate`: which policies a log can judge, what is told of them, and what is refused."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from what_next.data import Options, import_files, save
from what_next.data.decisions.reader import read_log
from what_next.off_policy.targets import Uniform, decisions_of, vectors_of

from .off_policy_logs import ITEMS, decided, log_fixture, refused_fixture, run, setup_file, told_fixture, write  # noqa: F401

HAND = {"item_id": ["a", "b", "c", "b"], "reward": [1, 0, 2, 3], "propensity": [0.5, 0.25, 0.1, 0.5]}
"""Under `uniform` the weights are 2/3, 4/3, 10/3 and 2/3."""


class TestByHand:
    def test_estimates_are_means_of_weighted_rewards(self, tmp_path: Path, told) -> None:
        found = told(write(tmp_path / "log.csv", HAND), "uniform", "--force")["estimates"]
        assert found["ips"]["mean"] == pytest.approx((2 / 3 + 20 / 3 + 2) / 4)
        assert found["snips"]["mean"] == pytest.approx((2 / 3 + 20 / 3 + 2) / 6)
        assert found["snips"]["ess"] == pytest.approx(6**2 / ((4 + 16 + 100 + 4) / 9))

    def test_a_column_tells_the_chances_of_the_policy(self, tmp_path: Path, told) -> None:
        path = write(tmp_path / "log.csv", {**HAND, "new": [0.5, 0.5, 0.0, 1.0]})
        found = told(path, "new", "--force")
        assert found["estimates"]["ips"]["mean"] == pytest.approx((1 * 1 + 2 * 0 + 0 * 2 + 2 * 3) / 4)
        assert found["policy"] == {"name": "new", "kind": "column", "column": "new"}
        assert {"dm", "dr", "switch_dr"} <= set(found["left_out"])
        assert "tells the chance of the logged item alone" in found["notes"][0]

    def test_the_page_gives_what_an_estimator_of_ones_own_needs(self, tmp_path: Path, monkeypatch) -> None:
        page = (Path(__file__).resolve().parents[1] / "docs" / "evaluation.md").read_text()
        (code,) = (one for one in re.findall(r"```text\n(.*?)```", page, re.S) if "importance_weights" in one)
        monkeypatch.chdir(tmp_path)
        write(tmp_path / "shown.csv", {**HAND, "new_chance": [0.5, 0.5, 0.0, 1.0]})
        names: dict[str, Any] = {}
        exec(compile(code, "docs/evaluation.md", "exec"), names)
        weights = np.asarray(names["weights"])
        assert (weights * names["decisions"].rewards).mean() == pytest.approx((1 * 1 + 2 * 0 + 0 * 2 + 2 * 3) / 4)

    def test_the_policy_of_another_log_is_its_item_frequencies(self, tmp_path: Path, told) -> None:
        other = write(tmp_path / "other.csv", {"item_id": ["b", "b", "c", "x"], "reward": [0] * 4})
        found = told(write(tmp_path / "log.csv", HAND), other, "--force")
        assert found["estimates"]["ips"]["mean"] == pytest.approx((0 + 2 * 0 + 2.5 * 2 + 1 * 3) / 4)
        assert found["policy"]["by"] == "item"
        assert found["policy"]["outside"] == 0.25
        assert any(
            "25.0% of the policy's choices are items that the log's catalogue does not" in one for one in found["notes"]
        )
        assert any("are an average of the policy that wrote" in one for one in found["notes"])

    def test_frequencies_are_those_at_the_position(self, tmp_path: Path, told) -> None:
        path = write(tmp_path / "log.csv", {**HAND, "reward": [1, 5, 2, 3], "position": [1, 3, 1, 2]})
        other = write(
            tmp_path / "other.csv",
            {"item_id": ["a", "b", "b", "b", "c"], "reward": [0] * 5, "position": [1, 1, 2, 2, 2]},
        )
        # At position 1 half are a, none c; at 2 two thirds are b; 3 is not there: three in five of all are b.
        found = told(path, other, "--force", "--marginal")
        weighted = [1 * 1, 0.6 / 0.25 * 5, 0 * 2, 2 / 3 / 0.5 * 3]
        assert found["estimates"]["ips"]["mean"] == pytest.approx(sum(weighted) / 4)
        assert found["policy"]["by"] == "position"

    def test_what_the_log_itself_earned_is_told_beside(self, log: Path, told) -> None:
        found = told(log, "same")
        rewards = pl.read_csv(log)["reward"]
        assert found["on_policy"]["mean"] == pytest.approx(rewards.mean())
        assert found["on_policy"]["low"] < rewards.mean() < found["on_policy"]["high"]
        for name in ("ips", "snips"):
            assert {key: found["estimates"][name][key] for key in ("mean", "low", "high", "per")} == found["on_policy"]


class TestKnownWorld:
    @pytest.mark.parametrize(("policy", "value"), [("uniform", 0.4), ("better", 0.52), ("same", 0.28)])
    def test_intervals_hold_the_truth(self, log: Path, told, policy: str, value: float) -> None:
        found = told(log, policy)["estimates"]
        names = {"ips", "clipped_ips", "snips"} | ({"dm", "dr", "switch_dr"} if policy == "uniform" else set())
        assert names <= set(found)
        for name in names:
            assert found[name]["refused"] is None
            assert found[name]["low"] < value < found[name]["high"], name
            assert found[name]["high"] - found[name]["low"] < 0.12

    def test_users_are_resampled_whole(self, tmp_path: Path, told) -> None:
        # Every user's 20 rewards are the same: 100 units tell less than 2,000 rows.
        columns = decided(users=100)
        columns["reward"] = np.arange(2000) % 100 % 2
        by_user = told(write(tmp_path / "users.csv", columns), "same")
        del columns["user_id"]
        by_row = told(write(tmp_path / "rows.csv", columns), "same")
        widths = [one["on_policy"]["high"] - one["on_policy"]["low"] for one in (by_user, by_row)]
        assert widths[0] > 3 * widths[1]
        assert [one["log"]["unit"] for one in (by_user, by_row)] == ["user", "row"]
        assert [one["log"]["units"] for one in (by_user, by_row)] == [100, 2000]

    def test_a_log_that_is_uniform_knows_its_support(self, tmp_path: Path, told) -> None:
        columns = decided()
        items = np.random.default_rng(1).integers(ITEMS, size=2000)
        columns |= {"item_id": items, "propensity": np.full(2000, 1 / ITEMS)}
        path = write(tmp_path / "log.csv", columns)
        found = told(path, "uniform")
        assert found["diagnostics"]["support_is_known"]
        low, high = (found["estimates"]["ips"][f"bernstein_{end}"] for end in ("low", "high"))
        assert low < found["estimates"]["ips"]["low"] < found["estimates"]["ips"]["high"] < high
        found = told(write(tmp_path / "other.csv", {**columns, "propensity": [0.2, *[0.25] * 1999]}), "uniform")
        assert not found["diagnostics"]["support_is_known"]

    def test_sequences_are_told_where_there_is_a_discount(self, tmp_path: Path, told) -> None:
        path = write(tmp_path / "log.csv", decided(users=1000))
        names = {"per_decision_is", "weighted_per_decision_is", "sequence_dr", "fqe"}
        assert names <= set(told(path, "uniform")["left_out"])
        alone = told(write(tmp_path / "alone.csv", decided()), "uniform", "--discount", "0.5")["left_out"]
        assert {alone[name] for name in names} == {
            "no user has two rows, so there are no trajectories; name the user's column"
        }
        found = told(path, "uniform", "--discount", "0.5")
        assert found["settings"]["discount"] == 0.5
        for name in names:
            one = found["estimates"][name]
            assert one["per"] == "trajectory"
            assert one["low"] < 0.4 + 0.5 * 0.4 < one["high"]

    def test_slates_are_told_by_position(self, tmp_path: Path, told) -> None:
        more = {"slate_id": np.arange(2000) // 2, "position": np.arange(2000) % 2}
        # Drawn with replacement: the chance given the items above is the marginal one, and either may be said.
        path = write(tmp_path / "log.csv", decided(**more))
        found, marginal = told(path, "uniform"), told(path, "uniform", "--marginal")
        for name in ("cascade_ips", "cascade_dr", "slate_ips"):
            assert found["estimates"][name]["low"] < 0.8 < found["estimates"][name]["high"]
            assert "are marginal" in marginal["estimates"][name]["refused"]
        assert marginal["estimates"]["independent_ips"]["low"] < 0.8 < marginal["estimates"]["independent_ips"]["high"]
        assert marginal["estimates"]["snips"]["low"] < 0.4 < marginal["estimates"]["snips"]["high"]
        assert "--marginal" in found["estimates"]["snips"]["refused"]
        assert any("given the items above it" in note for note in found["notes"])
        assert any("taken as marginal" in note for note in marginal["notes"])
        assert (found["log"]["unit"], found["log"]["slates"]) == ("slate", 1000)

    def test_a_slate_with_an_item_twice_is_told(self, tmp_path: Path, told) -> None:
        slates, places = np.arange(600) // 2, np.arange(600) % 2
        columns = {"slate_id": slates, "position": places, "item_id": (slates + places) % 4, "reward": slates % 3 == 0}
        columns |= {"propensity": 1 / (4 - places)}
        sound = told(write(tmp_path / "log.csv", columns), "uniform")
        assert sound["diagnostics"]["mean_weight"] == pytest.approx(1)
        assert not any("twice" in note for note in sound["notes"])
        columns["item_id"][41] = columns["item_id"][40]
        path = write(tmp_path / "log.csv", columns)
        note = f"1 of 300 slates hold an item twice (the first in line 43 of {path})"
        assert any(note in one for one in told(path, "uniform")["notes"])
        assert not any("twice" in one for one in told(path, "uniform", "--marginal")["notes"])

    def test_the_first_row_below_a_gap_in_its_slate_is_named(self, tmp_path: Path, told) -> None:
        more = {"slate_id": np.arange(2000) // 2, "position": np.arange(2000) % 2 + 2 * (np.arange(2000) == 41)}
        path = write(tmp_path / "log.csv", decided(**more))
        note = f"the first row of a slate that lacks a position above it is line 43 of {path}"
        assert note in told(path, "uniform")["notes"]

    def test_as_many_clusters_as_items_are_the_items(self, tmp_path: Path, told) -> None:
        columns = decided()
        items = write(tmp_path / "items.csv", {"item_id": np.arange(ITEMS), "size": [1.0, 2.0, 4.0, 8.0]})
        path = write(tmp_path / "log.csv", columns)
        every, two = (told(path, "uniform", "--items", items, "--clusters", count)["estimates"] for count in (ITEMS, 2))
        assert every["mips"]["mean"] == pytest.approx(every["ips"]["mean"])
        assert two["mips"]["mean"] != pytest.approx(two["ips"]["mean"])
        assert two["mips"]["ess"] > two["ips"]["ess"]


class TestTold:
    def test_the_same_seed_gives_the_same_bytes(self, log: Path, capsys) -> None:
        words = ["estimate", "--log", log, "--policy", "uniform", "--json"]
        outs = [run(capsys, *words, "--seed", seed).out for seed in ("3", "3", "4")]
        assert outs[0] == outs[1] != outs[2]

    def test_every_number_says_on_what_it_was_measured(self, log: Path, told) -> None:
        found = told(log, "uniform", "--level", "90")
        assert set(found) == {
            "log", "policy", "on_policy", "estimates", "left_out", "diagnostics", "settings", "notes",
        }  # fmt: skip
        assert found["log"]["file"] == str(log)
        assert found["log"]["rows"] == found["log"]["units"] == 2000
        assert found["log"]["items"] == found["log"]["items_logged"] == ITEMS
        assert found["log"]["columns"] == {"item": "item_id", "reward": "reward", "propensity": "propensity"}
        assert found["log"]["hash"] == read_log(log).hash
        assert found["log"]["behaviour"] == {"kind": "logged", "column": "propensity"}
        assert found["settings"]["level"] == 90
        assert {"ess", "largest", "support"} <= set(found["diagnostics"])
        assert {"mean", "low", "high", "ess", "support", "refused"} <= set(found["estimates"]["snips"])

    def test_a_higher_level_is_a_wider_interval(self, log: Path, told) -> None:
        ends = [told(log, "uniform", "--level", level)["estimates"]["snips"] for level in ("50", "99")]
        assert ends[1]["low"] < ends[0]["low"] < ends[0]["high"] < ends[1]["high"]

    def test_without_overlap_it_is_refused_with_the_reason(self, log: Path, told, capsys) -> None:
        found = told(log, "elsewhere")["estimates"]
        for one in found.values():
            assert one["refused"]
            assert {one["mean"], one["low"], one["high"]} == {None}
        shown = run(capsys, "estimate", "--log", log, "--policy", "elsewhere").out
        assert "ips, clipped_ips" in shown
        assert "refused: the behaviour policy could have made" in shown

    def test_force_shows_what_is_refused_and_marks_it(self, tmp_path: Path, told, capsys, monkeypatch) -> None:
        path = write(tmp_path / "log.csv", HAND)
        assert told(path, "uniform")["estimates"]["ips"]["mean"] is None
        one = told(path, "uniform", "--force")["estimates"]["ips"]
        assert one["forced"]
        assert one["refused"]
        assert one["mean"] == pytest.approx(7 / 3)
        monkeypatch.setenv("COLUMNS", "400")
        shown = run(capsys, "estimate", "--log", path, "--policy", "uniform", "--force").out
        assert "2.333" in shown
        assert "2.333 (refused)" in shown
        assert "refused: the log has 4 independent units, fewer than 50" in shown

    def test_numbers_without_a_bound_do_not_widen_the_table(self, tmp_path: Path, capsys, monkeypatch) -> None:
        monkeypatch.setenv("COLUMNS", "200")
        path = write(tmp_path / "log.csv", decided(reward=np.full(2000, 1e299)))
        assert max(map(len, run(capsys, "estimate", "--log", path, "--policy", "better").out.splitlines()[:8])) < 200
        assert "1e+299" in run(capsys, "estimate", "--log", path, "--policy", "better").out

    def test_people_see_a_table(self, log: Path, capsys, monkeypatch) -> None:
        monkeypatch.setenv("COLUMNS", "200")
        shown = run(capsys, "estimate", "--log", log, "--policy", "better").out
        for words in (
            "as logged",
            "snips",
            "better, by 2,000 decisions in",
            "95 % interval",
            "dm, dr, switch_dr: left out:",
            "support",
            "item: item_id, reward: reward, propensity: propensity",
        ):
            assert words in shown

    def test_few_rewards_are_said_to_decide_nothing(self, tmp_path: Path, told) -> None:
        columns = decided(reward=np.arange(2000) < 99)
        found = told(write(tmp_path / "log.parquet", columns), "uniform")
        assert "99 of 2,000 rows have a reward other than 0: so few decide nothing" in found["notes"]
        columns["reward"] = np.arange(2000) < 100
        found = told(write(tmp_path / "log.parquet", columns), "uniform")
        assert not any("decide nothing" in note for note in found["notes"])

    def test_an_import_keeps_propensities_as_context(self, tmp_path: Path, told) -> None:
        path = write(
            tmp_path / "log.csv", decided(users=80, propensity=np.random.default_rng(0).uniform(0.2, 0.3, 2000))
        )
        save(import_files([path], None, Options()), tmp_path / "done.parquet")
        ours, theirs = (told(one, "uniform")["estimates"]["snips"] for one in (path, tmp_path / "done.parquet"))
        for name in ("mean", "low", "high", "ess"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5)


class TestMistakes:
    def test_a_policy_that_is_nothing(self, log: Path, refused) -> None:
        told = refused(log, "best")
        assert "--policy 'best': is not uniform, not a column of" in told
        assert "'item_id', 'reward'" in told

    def test_a_setup_that_is_none(self, log: Path, tmp_path: Path, refused) -> None:
        (tmp_path / "x.setup").write_text("colour, red")
        assert "colour" in refused(log, tmp_path / "x.setup")

    def test_a_model_without_users_to_know(self, log: Path, tmp_path: Path, refused) -> None:
        setup = setup_file(tmp_path / "x.setup", data="d.parquet", model_agent_path="a", model_critic_path="b")
        assert "has no users, so" in refused(log, setup)

    def test_a_column_of_no_probabilities(self, tmp_path: Path, refused) -> None:
        path = write(tmp_path / "log.csv", {**HAND, "new": [0.1, 1.5, 0.1, 0.1]})
        assert "the policy in line 3 (column 'new') is '1.5', not a number from 0 to 1" in refused(path, "new")

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"propensity": [0.5, 0.0, 0.1, 0.5]}, "the propensity in line 3"),
            ({"propensity": [0.5, 0.25, 1.1, 0.5]}, "the propensity in line 4"),
            ({"propensity": [0.5, 0.25, None, 0.5]}, "the propensity in line 4 (column 'propensity') is empty"),
            ({"propensity": None}, "no column for the propensity"),
            ({"reward": ["1", "2", "much", "3"]}, "the reward in line 4 (column 'reward') is 'much'"),
            ({"item_id": None}, "no column for the item"),
        ],
    )
    def test_a_log_that_cannot_be_used(self, tmp_path: Path, refused, columns: dict[str, Any], message: str) -> None:
        given = {name: values for name, values in {**HAND, **columns}.items() if values is not None}
        assert message in refused(write(tmp_path / "log.csv", given), "uniform")

    def test_columns_that_are_not_there(self, log: Path, refused) -> None:
        assert "no column 'joy' (from --reward)" in refused(log, "uniform", "--reward", "joy")
        assert "no column 'joy' (from --propensity)" in refused(log, "uniform", "--propensity", "joy")

    def test_no_file(self, tmp_path: Path, refused) -> None:
        assert "no such file" in refused(tmp_path / "none.csv", "uniform")

    def test_clusters_of_nothing(self, log: Path, refused) -> None:
        assert "have no attributes to make clusters of" in refused(log, "uniform", "--clusters", "2")

    def test_a_plot_of_what_was_not_estimated(self, log: Path, tmp_path: Path, refused) -> None:
        assert "is for --behaviour estimated" in refused(log, "uniform", "--calibration", tmp_path / "c.svg")
        words = ["--behaviour", "estimated", "--calibration", tmp_path / "c.png"]
        assert "must end in .svg" in refused(log, "uniform", *words)


class TestManyItems:
    def test_the_commonest_have_columns_of_their_own(self, tmp_path: Path, monkeypatch, told) -> None:
        monkeypatch.setattr("what_next.off_policy.targets.COLUMNS", 3)
        monkeypatch.setattr("what_next.off_policy.reading.COLUMNS", 3)
        log = read_log(write(tmp_path / "log.csv", decided()))
        vectors = vectors_of(log)
        assert vectors.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]
        target = Uniform().on_log(log, decisions_of(log, vectors)).target
        assert target.expected[0].tolist() == [0.25, 0.25, 0.5]
        found = told(tmp_path / "log.csv", "uniform")["estimates"]
        assert found["mips"]["mean"] == pytest.approx(found["ips"]["mean"])  # no clusters of those that share a column

    def test_whole_distributions_are_kept_only_where_they_fit(self, tmp_path: Path, monkeypatch) -> None:
        log = read_log(write(tmp_path / "log.csv", decided()))
        decisions = decisions_of(log, vectors_of(log))
        assert Uniform().on_log(log, decisions).target.full.shape == (2000, 4)
        monkeypatch.setattr("what_next.off_policy.targets.FULL", 7999)
        target = Uniform().on_log(log, decisions).target
        assert target.full is None
        assert target.expected == pytest.approx(np.full((2000, 4), 0.25))
