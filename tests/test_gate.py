"""`what-next gate`: a new policy is promoted only if the log shows that it earns more."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from what_next import Agent, Environment, State
from what_next.data import Dataset
from what_next.data.decisions.log import Roles
from what_next.data.decisions.reader import read_log
from what_next.off_policy.candidates import Found, candidates_of
from what_next.off_policy.decisions import Evidence
from what_next.off_policy.targets import Frequencies, decisions_of, vectors_of

from .conftest import SetupOf
from .off_policy_logs import (
    Ran,
    decided,
    log_fixture,  # noqa: F401
    run,
    setup_file,
    write,
)


@pytest.fixture
def gate(log: Path, capsys: pytest.CaptureFixture[str]):
    """`gate(new, current, ...)`: on a log of 2,000 rows, where `better` is worth .52, `uniform` .4 and `same` .28."""

    def ask(new: str | Path, current: str | Path, *words: str | Path, log: Path = log) -> Ran:
        return run(capsys, "gate", new, current, "--log", log, "--json", *words)

    return ask


class TestVerdict:
    @pytest.mark.parametrize(
        ("new", "current", "more"),
        [("better", "same", 0.24), ("better", "uniform", 0.12), ("uniform", "same", 0.12), ("flat", "worse", 0.2)],
    )
    @pytest.mark.parametrize("estimator", ["snips", "ips"])
    def test_a_policy_that_earns_more_is_promoted(self, gate, new: str, current: str, more: float, estimator) -> None:
        ran = gate(new, current, "--estimator", estimator)
        assert ran.code == 0
        assert ran.json["promote"] is True
        assert 0 < ran.json["difference"]["low"] < more < ran.json["difference"]["high"]
        assert ran.json["estimator"] == estimator
        assert ran.json["why"].startswith(f"the lower bound of the difference by {estimator} is 0.")
        assert ran.json["why"].endswith(", above 0")

    @pytest.mark.parametrize("looks", ["one", "any"])
    def test_the_evidence_for_each_policy_is_made_once(self, gate, monkeypatch: pytest.MonkeyPatch, looks: str) -> None:
        made: list[str | None] = []

        def counted(log: Evidence, *more: Any) -> Found:
            made.append(log.options.only)
            return candidates_of(log, *more)

        monkeypatch.setattr("what_next.off_policy.estimate.candidates_of", counted)
        assert gate("better", "same", "--looks", looks).code == 0
        assert made == ["snips", "snips"]

    @pytest.mark.parametrize(("new", "current"), [("same", "better"), ("uniform", "better"), ("worse", "uniform")])
    def test_one_that_earns_less_is_not(self, gate, new: str, current: str) -> None:
        ran = gate(new, current)
        assert ran.code == 3
        assert ran.json["promote"] is False
        assert ran.json["difference"]["high"] < 0
        assert "not above 0" in ran.json["why"]
        assert ran.json["difference"]["refused"] is None

    def test_a_policy_is_no_better_than_itself(self, gate) -> None:
        for other in ("uniform", "flat"):
            ran = gate("uniform", other)
            assert ran.code == 3
            assert ran.json["difference"]["mean"] == pytest.approx(0, abs=1e-12)
            assert ran.json["difference"]["low"] == pytest.approx(0, abs=1e-12)
            assert ran.json["difference"]["high"] == pytest.approx(0, abs=1e-12)

    def test_rounding_is_no_improvement(self, gate, tmp_path: Path) -> None:
        log = write(tmp_path / "noisy.csv", decided(noisy=np.full(2000, 0.25 * (1 + 1e-14))))
        ran = gate("noisy", "uniform", "--estimator", "ips", log=log)
        assert ran.json["difference"]["low"] > 0
        assert ran.code == 3

    def test_it_must_be_better_by_the_margin(self, gate) -> None:
        low = gate("better", "same").json["difference"]["low"]
        codes = [gate("better", "same", "--margin", margin).code for margin in (low - 1e-6, low, low + 1e-6)]
        assert codes == [0, 3, 3]
        assert gate("better", "same", "--margin", "-1").code == 0
        assert gate("same", "same", "--margin", "-0.01").code == 0

    def test_the_same_users_are_drawn_for_both(self, tmp_path: Path, gate) -> None:
        found = gate("better", "uniform").json
        apart = found["difference"]["high"] - found["difference"]["low"]
        alone = [found[role]["estimate"]["high"] - found[role]["estimate"]["low"] for role in ("new", "current")]
        assert apart < 0.8 * np.hypot(*alone)
        by_user = gate("better", "uniform", log=write(tmp_path / "users.csv", decided(users=100))).json
        assert (by_user["log"]["unit"], by_user["log"]["units"]) == ("user", 100)

    def test_a_models_estimate_may_decide(self, gate, tmp_path: Path) -> None:
        # The better policy's own frequencies, as a log of it, tell what it would do with every item.
        items = np.repeat(np.arange(4), [10, 20, 30, 40])
        other = write(tmp_path / "other.csv", {"item_id": items, "reward": np.zeros(100)})
        for estimator in ("dr", "dm"):
            ran = gate(other, "uniform", "--estimator", estimator)
            assert ran.code == 0
            assert ran.json["difference"]["low"] < 0.12 < ran.json["difference"]["high"]


class TestLooks:
    def test_an_interval_for_any_number_of_looks_is_wider_and_may_promote(self, gate) -> None:
        one, any_ = (gate("better", "same", "--looks", looks).json for looks in ("one", "any"))
        assert (one["difference"]["interval"], any_["difference"]["interval"]) == ("bootstrap", "asymptotic")
        assert (one["looks"], any_["looks"]) == ("one", "any")
        assert any_["promote"] is True
        assert 0 < any_["difference"]["low"] < one["difference"]["low"] < 0.24
        assert 0.24 < one["difference"]["high"] < any_["difference"]["high"]
        assert any_["difference"]["mean"] == pytest.approx(one["difference"]["mean"], rel=1e-12)

    def test_what_is_better_by_little_waits(self, gate, tmp_path: Path) -> None:
        little = np.array([0.45, 0.2, 0.25, 0.1])  # .29
        columns = decided(500)
        log = write(tmp_path / "little.csv", columns | {"little": little[columns["item_id"]]})
        assert [gate("little", "same", "--looks", looks, log=log).code for looks in ("one", "any")] == [0, 3]

    def test_how_often_one_may_look_is_told(self, gate) -> None:
        told = "the interval of the difference "
        said = {looks: gate("better", "same", "--looks", looks).json["notes"] for looks in ("one", "any")}
        assert any(one.startswith(told + "is good for one look") and "--looks any" in one for one in said["one"])
        assert any(one.startswith(told + "holds at any number of looks (asymptotic)") for one in said["any"])

    def test_the_unit_is_the_user(self, gate, tmp_path: Path) -> None:
        # Every row of a user is there twice: as rows they would tell twice as much.
        columns = {name: np.repeat(one, 2) for name, one in decided(1000).items()}
        rows = gate("better", "same", "--looks", "any", log=write(tmp_path / "rows.csv", columns)).json["difference"]
        columns |= {"user_id": np.repeat(np.arange(1000), 2), "timestamp": np.arange(2000)}
        found = gate("better", "same", "--looks", "any", log=write(tmp_path / "users.csv", columns)).json
        users = found["difference"]
        assert any("many users" in one and "later rewards of a user" in one for one in found["notes"])
        half = [one["high"] - one["mean"] for one in (rows, users)]
        assert half[1] > 1.3 * half[0]
        assert users["mean"] == pytest.approx(rows["mean"])

    def test_bounded_terms_are_bet_on(self, gate, tmp_path: Path) -> None:
        # Logged uniformly, so that no weight can be above 4, and rewards are clicks.
        rng = np.random.default_rng(0)
        items = rng.integers(4, size=4000)
        columns = {
            "item_id": items, "propensity": np.full(4000, 0.25), "better": np.array([0.1, 0.2, 0.3, 0.4])[items],
            "reward": (rng.random(4000) < np.array([0.1, 0.2, 0.5, 0.8])[items]).astype(float),
        }  # fmt: skip
        words = ("--looks", "any", "--estimator")
        log = write(tmp_path / "u.csv", columns)
        clipped = gate("better", "uniform", *words, "clipped_ips", log=log)  # whose threshold grows with the log
        assert clipped.json["difference"]["interval"] == "asymptotic"
        ran = gate("better", "uniform", *words, "ips", log=log)
        assert ran.json["difference"]["interval"] == "betting"
        assert 0 < ran.json["difference"]["low"] < 0.12 < ran.json["difference"]["high"]
        assert ran.code == 0

    @pytest.mark.parametrize("timed", [True, False])
    def test_a_file_sorted_by_items_is_not_bet_on_in_its_own_order(self, gate, tmp_path: Path, timed: bool) -> None:
        # Two equal policies: with the items that only one of them likes in front, the other always seemed better.
        rng, worth = np.random.default_rng(0), np.array([0.5, 0.5, 0.3, 0.3])
        items = rng.integers(4, size=2000)
        columns = {
            "item_id": items, "propensity": np.full(2000, 0.25), "reward": (rng.random(2000) < worth[items]) * 1.0,
            "new": np.array([0.7, 0.1, 0.1, 0.1])[items], "current": np.array([0.1, 0.7, 0.1, 0.1])[items],
        }  # fmt: skip
        columns |= {"timestamp": np.arange(2000)} if timed else {}
        order = np.argsort(items, kind="stable")
        log = write(tmp_path / "sorted.csv", {name: one[order] for name, one in columns.items()})
        ran = gate("new", "current", "--looks", "any", "--estimator", "ips", log=log)
        apart = ran.json["difference"]
        assert ran.code == 3
        assert apart["low"] < apart["mean"] < apart["high"]
        assert apart["interval"] == ("betting" if timed else "asymptotic")

    def test_trajectories_have_a_sequence_too(self, gate, tmp_path: Path) -> None:
        log = write(tmp_path / "users.csv", decided(users=400))
        words = ("--discount", "0.5", "--estimator", "weighted_per_decision_is")
        one, any_ = (gate("better", "same", *words, "--looks", looks, log=log).json for looks in ("one", "any"))
        assert any_["difference"]["interval"] == "asymptotic"
        assert any_["difference"]["low"] < one["difference"]["low"] < 0.24 * 1.9375 < one["difference"]["high"]


class TestRefusedEvidence:
    @pytest.mark.parametrize(("new", "current"), [("elsewhere", "same"), ("better", "elsewhere")])
    def test_nothing_is_promoted_on_it(self, gate, new: str, current: str) -> None:
        for words in ([], ["--margin", "-5"]):
            ran = gate(new, current, *words)
            assert ran.code == 3
            assert ran.json["promote"] is False
            assert ran.json["why"].startswith("the evidence is refused: elsewhere: ")
            assert ran.json["difference"]["refused"]
            assert ran.json["difference"]["low"] is None

    def test_too_few_users_are_none(self, gate, tmp_path: Path) -> None:
        few = write(tmp_path / "few.csv", decided(users=20))
        ran = gate("better", "same", log=few)
        assert ran.code == 3
        assert "20 independent units, fewer than 50" in ran.json["why"]

    def test_a_few_rewards_are_none(self, gate, tmp_path: Path) -> None:
        # The 99 rewards are of one item, which the better policy shows more often.
        columns = decided()
        rewarded = np.flatnonzero(columns["item_id"] == 3)
        for count, code in ((99, 3), (100, 0)):
            columns["reward"] = np.isin(np.arange(2000), rewarded[:count]).astype(float)
            ran = gate("better", "same", log=write(tmp_path / "few.csv", columns))
            assert ran.code == code
            assert ran.json["difference"]["low"] > 0
            if code:
                told = (
                    "the evidence is refused: 99 of 2,000 rows have a reward other than 0, and at least 100 are needed"
                )
                assert ran.json["why"] == told

    @pytest.mark.parametrize("estimator", ["snips", "ips"])
    def test_chances_that_sum_to_more_than_1_are_none(self, gate, tmp_path: Path, estimator: str) -> None:
        # By ips a policy would earn more for every chance that is larger than it should be.
        log = write(tmp_path / "more.csv", decided(more=1.3 * decided()["same"]))
        ran = gate("more", "same", "--estimator", estimator, log=log)
        assert ran.code == 3
        assert "more: the mean weight is 1.30 (standard error 0.00), outside 0.5 .. 1.25" in ran.json["why"]
        assert "sum to another number than 1" in ran.json["why"]

    def test_a_log_that_claims_to_be_uniform_and_is_not_is_none(self, gate, tmp_path: Path) -> None:
        columns = decided()
        columns["propensity"][:] = 1 / len(np.unique(columns["item_id"]))
        columns["item_id"][:400] = 3
        ran = gate("same", "better", log=write(tmp_path / "claims.csv", columns))
        assert ran.code == 3
        assert "items were shown unlike their propensities" in ran.json["why"]
        assert ran.json["new"]["mean_weight"] > 0

    def test_a_lottery_is_none(self, gate, tmp_path: Path) -> None:
        # One row of 2,000 has nearly all of the weight.
        columns = decided()
        columns["propensity"][7] = 1e-5
        ran = gate("uniform", "same", log=write(tmp_path / "lottery.csv", columns))
        assert ran.code == 3
        assert "one decision has" in ran.json["why"]


class TestTold:
    def test_the_same_seed_gives_the_same_bytes(self, gate) -> None:
        outs = [gate("better", "same", "--seed", seed).out for seed in ("1", "1", "2")]
        assert outs[0] == outs[1] != outs[2]

    def test_the_result_says_on_what_it_was_measured(self, gate, log: Path) -> None:
        found = gate("better", "same", "--level", "90").json
        assert found["log"]["rows"] == 2000
        assert found["log"]["file"] == str(log)
        assert found["new"]["name"] == found["new"]["column"] == "better"
        assert found["current"]["name"] == "same"
        assert found["settings"]["level"] == 90
        mean = found["new"]["estimate"]["mean"] - found["current"]["estimate"]["mean"]
        assert found["difference"]["mean"] == pytest.approx(mean)

    @pytest.mark.parametrize(
        ("new", "current", "words"),
        [
            ("better", "same", "promote better: the lower bound of the difference by snips is 0."),
            ("same", "better", "do not promote same: the lower bound of the difference by snips is -0."),
            ("elsewhere", "same", "do not promote elsewhere: the evidence is refused: elsewhere: the behaviour policy"),
        ],
    )
    def test_people_are_told_why(self, log: Path, capsys, monkeypatch, new: str, current: str, words: str) -> None:
        monkeypatch.setenv("COLUMNS", "300")
        shown = run(capsys, "gate", new, current, "--log", log).out
        assert words in shown
        assert f"new: {new}" in shown
        assert "new \N{MINUS SIGN} current" in shown
        assert "2,000 decisions in" in shown

    def test_an_estimate_that_cannot_be_made_is_a_mistake(self, gate) -> None:
        for estimator, words in (("dr", "of better: the policy's mean"), ("luck", "there is no such estimate")):
            ran = gate("better", "same", "--estimator", estimator)
            assert ran.code == 2
            assert f"--estimator '{estimator}'" in ran.err
            assert words in ran.err
            assert "there are ips, clipped_ips, snips" in ran.err

    def test_a_policy_that_is_nothing_is_a_mistake(self, gate) -> None:
        ran = gate("better", "model.setup")
        assert ran.code == 2
        assert "'model.setup': is not uniform, not a column" in ran.err


@pytest.fixture(scope="module")
def ring(setup_of: SetupOf, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Two setups, one trained on users that walk round a ring of items, one that was not; and a log to judge by."""
    folder = tmp_path_factory.mktemp("ring")
    rng = np.random.default_rng(0)
    walks = [(rng.integers(8) + np.arange(24)) % 8 for _ in range(120)]
    ring = pl.DataFrame({"user_id": np.repeat(np.arange(120), 24), "item_id": np.concatenate(walks)})
    dataset = Dataset.from_frame(ring.with_columns(timestamp=pl.int_range(pl.len())))
    files = []
    for name, epochs in (("new", 3000), ("old", 1)):
        (folder / name).mkdir()
        learned = {"algorithm": "next_item", "dim": 16, "learning_rate": 0.01, "inputs": {"items": "learned"}}
        setup = setup_of(folder / name, epochs=epochs, window=None, **learned)
        state = State(dataset, setup)
        Environment(Agent(setup, state.space), state, setup).run_sim()
        settings = {"algorithm": "next_item", "data": "none.parquet", "dim": 16, "inputs.items": "learned"}
        files.append(setup_file(folder / f"{name}.setup", model_agent_path=setup.model_agent_path, **settings))
    items = rng.integers(8, size=(150, 12))
    follows = np.diff(items, axis=1, prepend=items[:, :1]) % 8 == 1
    log = {
        "user_id": np.repeat(np.arange(150), 12),
        "timestamp": np.arange(1800),
        "item_id": items.ravel(),
        "reward": follows.ravel().astype(float),
        "propensity": np.full(1800, 1 / 8),
    }
    return files[0], files[1], write(folder / "log.csv", log)


class TestTrainedModels:
    def test_the_one_that_knows_what_follows_is_promoted(self, ring, gate) -> None:
        new, old, log = ring
        ran = gate(new, old, "--seen", log=log)
        assert ran.code == 0, ran.out + ran.err
        assert ran.json["difference"]["low"] > 0.2
        assert ran.json["log"]["rows"] == 150 * 11
        assert ran.json["new"]["estimate"]["mean"] > 0.4 > 0.2 > ran.json["current"]["estimate"]["mean"]
        assert json.dumps(ran.json)  # no number that JSON has no word for

    def test_the_other_way_round_it_is_not(self, ring, gate) -> None:
        new, old, log = ring
        assert gate(old, new, "--seen", log=log).code == 3
        assert gate(new, new, "--seen", log=log).code == 3

    def test_both_are_judged_on_the_rows_in_which_both_can_be_asked(self, ring, gate) -> None:
        new, _, log = ring
        ran = gate(new, "uniform", "--seen", log=log)
        assert ran.code == 0
        assert ran.json["log"]["rows"] == 150 * 11
        assert ran.json["log"]["left_out_rows"] == 150


class TestSlates:
    """Five items with means .6, .45 and three of .1, slates of two without replacement, logged uniformly.

    `a` takes the items with .92 and four times .02, `b` with twice .48: it earns .108 less a decision.
    """

    @pytest.fixture
    def slates(self, tmp_path: Path) -> Path:
        rng, means = np.random.default_rng(1), np.array([0.6, 0.45, 0.1, 0.1, 0.1])
        shown = np.argsort(rng.random((6000, 5)), axis=1)[:, :2]
        weights = {
            "a": np.array([0.92, 0.02, 0.02, 0.02, 0.02]),
            "b": np.array([0.48, 0.48, 0.04 / 3, 0.04 / 3, 0.04 / 3]),
        }
        chances = {
            name: np.stack([one[shown[:, 0]], one[shown[:, 1]] / (1 - one[shown[:, 0]])], axis=1).ravel()
            for name, one in weights.items()
        }
        columns = {
            "slate": np.repeat(np.arange(6000), 2), "position": np.tile([1, 2], 6000), "item_id": shown.ravel(),
            "reward": (rng.random((6000, 2)) < means[shown]).astype(float).ravel(),
            "propensity": np.tile([1 / 5, 1 / 4], 6000), **chances,
        }  # fmt: skip
        return write(tmp_path / "slates.csv", columns)

    NAMED = ("--slate", "slate", "--position", "position", "--propensity", "propensity")

    def test_the_worse_policy_is_not_promoted_and_the_better_is(self, gate, slates: Path) -> None:
        ran = gate("a", "b", *self.NAMED, log=slates)
        assert (ran.code, ran.json["estimator"]) == (3, "cascade_snips")
        assert ran.json["difference"]["high"] < 0
        assert ran.json["difference"]["per"] == "slate"
        ran = gate("b", "a", *self.NAMED, log=slates)
        assert ran.code == 0
        assert ran.json["difference"]["low"] < 0.216 < ran.json["difference"]["high"]

    @pytest.mark.parametrize("estimator", ["snips", "ips", "clipped_ips", "independent_snips", "dm", "dr", "mips"])
    def test_an_estimate_that_needs_marginal_chances_decides_nothing(self, gate, slates: Path, estimator: str) -> None:
        uniform = estimator in ("dm", "dr")  # a column tells the logged item alone
        policies = ("uniform", "uniform") if uniform else ("a", "b")
        ran = gate(*policies, *self.NAMED, "--estimator", estimator, log=slates)
        if estimator == "mips":
            assert ran.code == 2  # there are no clusters
            return
        assert ran.code == 3
        assert "the evidence is refused" in ran.json["why"]
        assert "cascade_snips" in ran.json["why"]

    def test_marginal_chances_are_said_to_be_such(self, gate, slates: Path, tmp_path: Path) -> None:
        log = write(tmp_path / "marginal.csv", pl.read_csv(slates).with_columns(propensity=0.2, c=0.2).to_dict())
        ran = gate("c", "c", *self.NAMED, "--marginal", log=log)
        assert (ran.code, ran.json["estimator"]) == (3, "independent_snips")
        assert ran.json["difference"]["mean"] == 0
        assert (
            "are marginal"
            in gate("c", "c", *self.NAMED, "--marginal", "--estimator", "slate_snips", log=log).json["why"]
        )

    def test_uniform_draws_what_does_not_stand_above(self, gate, slates: Path) -> None:
        # So it is the policy that wrote the log: all its weights are 1.
        ran = gate("uniform", "propensity", *self.NAMED, log=slates)
        assert ran.json["new"]["estimate"]["mean"] == pytest.approx(ran.json["current"]["estimate"]["mean"], rel=1e-12)
        assert ran.json["new"]["estimate"]["ess"] == pytest.approx(6000)
        assert ran.json["new"]["estimate"]["support"] == 1.0

    def test_frequencies_of_another_log_leave_out_what_stands_above(self, slates: Path, tmp_path: Path) -> None:
        other = write(tmp_path / "other.csv", {"item_id": [0] * 5 + [1] * 3 + [2, 3], "reward": [0.0] * 10})
        log = read_log(slates, Roles(slate="slate", position="position", propensity="propensity"))
        found = Frequencies(other, Roles()).on_log(log, decisions_of(log, vectors_of(log))).target
        shares = np.array([0.5, 0.3, 0.1, 0.1, 0.0])
        first, second = log.actions.reshape(-1, 2).T
        assert found.chances.reshape(-1, 2)[:, 0] == pytest.approx(shares[first])
        assert found.chances.reshape(-1, 2)[:, 1] == pytest.approx(shares[second] / (1 - shares[first]))
        assert found.full is not None
        assert found.full.sum(axis=1) == pytest.approx(np.ones(12_000))
        assert found.expected == pytest.approx(found.full)  # one-hot vectors

    def test_estimated_chances_are_marginal(self, gate, slates: Path) -> None:
        named = ("--slate", "slate", "--position", "position", "--behaviour", "estimated")
        ran = gate("uniform", "propensity", *named, log=slates)
        assert ran.json["estimator"] == "independent_snips"
        ran = gate("uniform", "uniform", *named, "--estimator", "cascade_snips", log=slates)
        assert "are marginal" in ran.json["why"]

    def test_the_first_positions_alone_may_decide(self, gate, slates: Path) -> None:
        ran = gate("a", "b", *self.NAMED, "--top", "1", log=slates)
        assert (ran.code, ran.json["estimator"], ran.json["log"]["rows"]) == (0, "snips", 6000)
        # .92 * .6 + .02 * .45 + ... - (.48 * .6 + .48 * .45 + ...): on top, A is the better one.
        assert ran.json["difference"]["low"] < 0.567 - 0.508 < ran.json["difference"]["high"]
        assert "judged by the first 1 positions of each slate, and by nothing below" in ran.json["notes"]
        both = gate("a", "b", *self.NAMED, "--top", "2", log=slates).json
        assert both["difference"] == gate("a", "b", *self.NAMED, log=slates).json["difference"]

    @pytest.mark.parametrize(
        ("left", "told"),
        [
            (["item_id", "position"], "rows have positions (column 'position')"),  # row by row, `a` is promoted
            (["item_id", "position", "user_id"], "rows have positions (column 'position')"),
            (["item_id", "position", "user_id", "twice"], "rows have positions (column 'position')"),  # one slate twice
            (["item_id", "user_id", "timestamp"], "a user has several rows at one time (column 'timestamp')"),
        ],
    )
    def test_slates_that_cannot_be_told_apart_are_a_mistake(
        self, gate, slates: Path, tmp_path: Path, left, told
    ) -> None:
        rows = pl.read_csv(slates).with_columns(user_id=pl.col("slate") % 99, timestamp="slate")
        if "twice" in left:
            rows, left = pl.concat([rows, rows[:2]]), [*left[:-1], "timestamp"]
        log = write(tmp_path / "bare.csv", rows.select(*left, "reward", "propensity", "a", "b").to_dict())
        ran = gate("a", "b", log=log)
        assert (ran.code, ran.out) == (2, "")
        assert f"bare.csv: {told}, and nothing tells which of them were shown as one slate; name the column" in ran.err
        assert ("copies of others in all columns" in ran.err) == (len(rows) > 12_000)
        assert gate("a", "b", "--marginal", log=log).json["estimator"] == "snips"
        named = write(
            tmp_path / "named.csv", rows.with_columns(request_id=pl.int_range(pl.len())).drop("slate").to_dict()
        )
        assert gate("a", "b", log=named).json["estimator"] == "snips"

    def test_chances_of_whole_slates_are_no_chances_of_items(self, gate, slates: Path, tmp_path: Path) -> None:
        whole = pl.read_csv(slates).with_columns(pl.col("propensity", "a", "b").product().over("slate"))
        ran = gate("b", "a", *self.NAMED, log=write(tmp_path / "whole.csv", whole.to_dict()))
        assert ran.code == 3
        assert "the mean product of the weights up to row 2 is" in ran.json["why"]

    def test_a_log_without_slates_has_no_first_positions(self, gate) -> None:
        ran = gate("better", "same", "--top", "1")
        assert ran.code == 2
        assert "--top 1:" in ran.err
        assert "has no slates" in ran.err
