"""`what-next estimate`: which policies a log can judge, what is told of them, and what is refused."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import what_next as wn
from what_next import Agent, Dataset, Environment, State
from what_next.data import Options, import_files, save
from what_next.data.decision_reader import read_log
from what_next.judging.off_policy.behaviour import estimate_behaviour
from what_next.judging.off_policy.learned import Learned
from what_next.judging.off_policy.targets import Uniform, decisions_of, vectors_of

from .conftest import SetupOf, Trained, listening
from .off_policy_logs import ITEMS, decided, run, setup_file, write

HAND = {"item_id": ["a", "b", "c", "b"], "reward": [1, 0, 2, 3], "propensity": [0.5, 0.25, 0.1, 0.5]}
"""Under `uniform` the weights are 2/3, 4/3, 10/3 and 2/3."""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write(tmp_path / "log.csv", decided())


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]):
    """`told(log, policy, ...)`: the result as JSON; the command must succeed."""

    def ask(log: Path, policy: str | Path, *words: str | Path) -> dict[str, Any]:
        ran = run(capsys, "estimate", "--log", log, "--policy", policy, *words, "--json")
        assert ran.code == 0, ran.err
        return ran.json

    return ask


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]):
    """`refused(log, policy, ...)`: the one line that a mistake is told in; the exit code is 2."""

    def ask(log: Path, policy: str | Path, *words: str | Path) -> str:
        ran = run(capsys, "estimate", "--log", log, "--policy", policy, *words)
        assert ran.code == 2
        assert ran.out == ""
        assert ran.err.startswith("what-next: ")
        assert ran.err.count("\n") == 1
        return ran.err

    return ask


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
        path = write(tmp_path / "log.csv", {**HAND, "position": [1, 2, 1, 3]})
        other = write(
            tmp_path / "other.csv",
            {"item_id": ["a", "b", "b", "b", "c"], "reward": [0] * 5, "position": [1, 1, 2, 2, 2]},
        )
        # At position 1 half are a, none c; at 2 two thirds are b; 3 is not there: three in five of all are b.
        found = told(path, other, "--force")
        assert found["estimates"]["ips"]["mean"] == pytest.approx((1 * 1 + 0 + 0 * 2 + 0.6 / 0.5 * 3) / 4)
        assert found["policy"]["by"] == "position"

    def test_what_the_log_itself_earned_is_told_beside(self, log: Path, told) -> None:
        found = told(log, "same")
        rewards = pl.read_csv(log)["reward"]
        assert found["on_policy"]["mean"] == pytest.approx(rewards.mean())
        assert found["on_policy"]["low"] < rewards.mean() < found["on_policy"]["high"]
        for name in ("ips", "snips"):
            assert {key: found["estimates"][name][key] for key in ("mean", "low", "high")} == found["on_policy"]


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
        found = told(path, "uniform", "--discount", "0.5")
        assert found["settings"]["discount"] == 0.5
        for name in names:
            one = found["estimates"][name]
            assert one["per"] == "trajectory"
            assert one["low"] < 0.4 + 0.5 * 0.4 < one["high"]

    def test_slates_are_told_by_position(self, tmp_path: Path, told) -> None:
        more = {"slate_id": np.arange(2000) // 2, "position": np.arange(2000) % 2}
        found = told(write(tmp_path / "log.csv", decided(**more)), "uniform")
        for name in ("independent_ips", "cascade_ips", "slate_ips"):
            assert found["estimates"][name]["low"] < 0.8 < found["estimates"][name]["high"]
        assert (found["log"]["unit"], found["log"]["slates"]) == ("slate", 1000)

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
        assert "ips, clipped_ips, snips" in shown
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
            ({"propensity": [0.5, 0.25, None, 0.5]}, "the propensity in line 4 (column 'propensity') is None"),
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


class TestEstimatedBehaviour:
    def test_frequencies_of_the_other_half_are_the_propensities(self, tmp_path: Path) -> None:
        log = read_log(write(tmp_path / "log.csv", {"item_id": [0, 1, 1, 1, 2, 0], "reward": [0] * 6}), told=False)
        found = estimate_behaviour(log, seed=0)
        halves = np.random.default_rng(0).permutation(6) % 2
        for row, item in enumerate(log.actions):
            others = log.actions[halves != halves[row]]
            smoothed = ((others == item).sum() + 1) / (3 + 3)
            assert found.propensities[row] == pytest.approx(smoothed)

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
        again = estimate_behaviour(read_log(path, told=False))
        assert again.propensities == pytest.approx(true, abs=0.02)
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
        log = read_log(write(tmp_path / "log.csv", columns), told=False)
        found = estimate_behaviour(log)
        assert found.about["given"] == "the item before"
        follows = np.append(False, (log.actions[1:] == (log.actions[:-1] + 1) % 5) & (log.units[1:] == log.units[:-1]))
        assert found.propensities[follows].mean() == pytest.approx(0.84, abs=0.02)
        losses = found.about["log_loss"]
        assert losses["the item before"] == pytest.approx(-np.log(found.propensities).mean())
        assert losses["the item before"] < losses["nothing"]

    def test_a_policy_that_looked_at_the_position_is_seen_to(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        places = np.arange(6000) % 2
        items = np.where(rng.random(6000) < 0.8, places, 1 - places)
        columns = {"item_id": items, "reward": [0] * 6000, "position": places + 1}
        found = estimate_behaviour(read_log(write(tmp_path / "log.csv", columns), told=False))
        assert found.about["given"] == "position"
        assert found.propensities[items == places] == pytest.approx(np.full((items == places).sum(), 0.8), abs=0.03)

    def test_a_wrong_policy_is_seen_in_the_table(self, tmp_path: Path) -> None:
        # The second item is shown to every other user alone, and nothing in the log tells to whom.
        users = np.arange(4000) // 40
        items = np.where(users % 2, 1, 0)
        columns = {"user_id": users, "item_id": items, "reward": [0] * 4000}
        told = estimate_behaviour(read_log(write(tmp_path / "log.csv", columns), told=False), seed=0).about
        assert told["given"] == "the item before"  # it tells the user's group, but for the first row

    def test_one_unit_cannot_be_halved(self, tmp_path: Path, refused) -> None:
        path = write(tmp_path / "log.csv", {**HAND, "user_id": ["u"] * 4})
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


@pytest.fixture(scope="session")
def ranked(dataset: Dataset, setup_of: SetupOf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The setup file of a `next_item` agent that was trained for a second on the listening log."""
    folder = tmp_path_factory.mktemp("ranked")
    setup = setup_of(folder, algorithm="next_item", epochs=60, batch_size=16, window=None, max_length=20)
    state = State(dataset, setup)
    Environment(Agent(setup, state.space), state, setup).run_sim()
    return setup_file(
        folder / "ranked.setup",
        data="elsewhere.parquet",
        algorithm="next_item",
        dim=16,
        max_length=20,
        model_agent_path=setup.model_agent_path,
    )


@pytest.fixture(scope="session")
def boxed(trained: Trained) -> Path:
    """The setup file of the founding algorithm's agent."""
    paths = {name: getattr(trained.setup, name) for name in ("model_agent_path", "model_critic_path", "data")}
    return setup_file(trained.folder / "boxed.setup", relax=1, tolerance=1.5, window=20, dim=16, **paths)


@pytest.fixture(scope="session")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of a uniform policy over the catalogue, eight rows each of twelve users, and an item that nobody knows."""
    log, _ = listening(users=12, events=8, seed=5)
    log = log.with_columns(propensity=pl.lit(1 / 80))
    log = log.with_columns(item_id=pl.when(pl.int_range(pl.len()) % 17 == 8).then(pl.lit("new")).otherwise("item_id"))
    return write(tmp_path_factory.mktemp("heard") / "heard.csv", log.to_dict(as_series=False))


class TestTrainedModels:
    def answer(self, heard: Path, setup: Path, **how: Any) -> tuple[Any, Any]:
        log = read_log(heard)
        return log, Learned(setup, **how).answer(log, decisions_of(log, vectors_of(log)))

    @pytest.mark.parametrize("seen", [False, True])
    def test_chances_are_the_agents_own_after_what_the_user_heard_before(self, heard, ranked, trained, seen) -> None:
        log, found = self.answer(heard, ranked, seen=seen)
        agent = ranked.parent / "agent.safetensors"
        recommender, ids, checked = wn.load(agent), log.items.ids.to_list(), 0
        for row in range(0, len(log), 3):
            before = [ids[item] for item in log.actions[np.flatnonzero((log.units == log.units[row])[:row])]]
            known = [one for one in before if one != "new"]
            assert found.asked[row] == bool(known)
            if not known:
                continue
            history, _ = recommender.state.history_of(known)
            chances = recommender.policy.chances(history, exclude=None if seen else history.items)[0]
            place = recommender.catalogue.index([ids[log.actions[row]]])[0]
            assert found.target.chances[row] == pytest.approx(chances[place] if place >= 0 else 0.0, abs=1e-6)
            checked += 1
        assert checked > 20

    def test_expected_vectors_are_those_of_the_distribution(self, heard, ranked) -> None:
        log, found = self.answer(heard, ranked)
        assert found.target.expected == pytest.approx(found.target.full @ vectors_of(log))
        assert found.target.chances == pytest.approx(found.target.full[np.arange(len(log)), log.actions])

    def test_the_founding_algorithm_can_be_judged(self, heard, boxed, told) -> None:
        found = self.answer(heard, boxed)[1]
        sums = found.target.full[found.asked].sum(axis=1)
        assert (sums <= 1 + 1e-9).all()
        assert sums.max() > 0.3
        assert found.about["algorithm"] == "whatnext"
        assert told(heard, boxed)["policy"]["kind"] == "setup"

    def test_what_is_left_out_and_unknown_is_counted(self, heard, ranked, told) -> None:
        log = read_log(heard)
        result = told(heard, ranked)
        new = int((log.actions == log.items.ids.to_list().index("new")).sum())
        assert new == 6
        assert result["policy"]["unknown_items"] == new
        starts = np.flatnonzero(np.diff(log.units, prepend=-1))
        late = int((log.items.ids.gather(log.actions[starts]) == "new").sum())
        assert result["policy"]["without_history"] == 12 + late == result["log"]["left_out_rows"]
        assert result["log"]["rows"] == 96 - 12 - late
        assert result["log"]["units"] == 12
        told_notes = " ".join(result["notes"])
        for words in ("rows without an earlier row", "show items that", "items that the log's catalogue does not hold"):
            assert words in told_notes

    def test_an_agent_that_was_trained_on_the_log_is_said_to_have_seen_it(self, heard, ranked, tmp_path, told) -> None:
        assert not any("was trained on this log" in one for one in told(heard, ranked)["notes"])
        text = ranked.read_text().replace("elsewhere.parquet", str(heard))
        (tmp_path / "own.setup").write_text(text)
        assert any("was trained on this log" in one for one in told(heard, tmp_path / "own.setup")["notes"])

    def test_a_catalogue_that_the_agent_does_not_know_is_refused(self, ranked, tmp_path, refused) -> None:
        path = write(tmp_path / "log.csv", decided(users=10))
        assert "no row has an earlier one of the same user with an item that" in refused(path, ranked)

    def test_a_slate_is_decided_before_it_is_seen(self, ranked, tmp_path: Path) -> None:
        columns = {
            "user_id": ["u"] * 5, "timestamp": [1, 2, 2, 3, 3],
            "slate_id": [1, 2, 2, 3, 3], "position": [1, 1, 2, 1, 2],
            "item_id": ["i1", "i2", "i3", "i4", "i2"], "reward": [1] * 5, "propensity": [0.1] * 5,
        }  # fmt: skip
        _, found = self.answer(write(tmp_path / "log.csv", columns), ranked, seen=True)
        recommender = wn.load(ranked.parent / "agent.safetensors")
        assert found.asked.tolist() == [False, True, True, True, True]
        histories = {
            2: (["i1"], ["i2"], "i3"),
            3: (["i1", "i2", "i3"], [], "i4"),
            4: (["i1", "i2", "i3"], ["i4"], "i2"),
        }
        for row, (before, above, item) in histories.items():
            history, _ = recommender.state.history_of(before)
            exclude = recommender.catalogue.index(above)[None]
            chances = recommender.policy.chances(history, exclude=exclude)[0]
            place = recommender.catalogue.index([item])[0]
            assert found.target.chances[row] == pytest.approx(chances[place], abs=1e-6)

    def test_a_large_log_is_answered_in_chunks(self, heard, ranked, monkeypatch) -> None:
        _, whole = self.answer(heard, ranked)
        monkeypatch.setattr("what_next.judging.off_policy.learned.PAIRS", 160)
        monkeypatch.setattr("what_next.judging.off_policy.learned.FULL", 1000)
        _, parts = self.answer(heard, ranked)
        assert parts.target.full is None
        assert parts.target.chances == pytest.approx(whole.target.chances, abs=1e-6)
        assert parts.target.expected == pytest.approx(whole.target.expected, abs=1e-5)


class TestManyItems:
    def test_the_commonest_have_columns_of_their_own(self, tmp_path: Path, monkeypatch, told) -> None:
        monkeypatch.setattr("what_next.judging.off_policy.targets.COLUMNS", 3)
        monkeypatch.setattr("what_next.judging.off_policy.judge.COLUMNS", 3)
        log = read_log(write(tmp_path / "log.csv", decided()))
        vectors = vectors_of(log)
        assert vectors.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]
        target = Uniform().answer(log, decisions_of(log, vectors)).target
        assert target.expected[0].tolist() == [0.25, 0.25, 0.5]
        found = told(tmp_path / "log.csv", "uniform")["estimates"]
        assert found["mips"]["mean"] == pytest.approx(found["ips"]["mean"])  # no clusters of those that share a column

    def test_whole_distributions_are_kept_only_where_they_fit(self, tmp_path: Path, monkeypatch) -> None:
        log = read_log(write(tmp_path / "log.csv", decided()))
        decisions = decisions_of(log, vectors_of(log))
        assert Uniform().answer(log, decisions).target.full.shape == (2000, 4)
        monkeypatch.setattr("what_next.judging.off_policy.targets.FULL", 7999)
        target = Uniform().answer(log, decisions).target
        assert target.full is None
        assert target.expected == pytest.approx(np.full((2000, 4), 0.25))
