"""Trained models as the policies that a log judges: what they would do after what each user heard before."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import what_next as wn
from what_next import Agent, Dataset, Environment, Setup, State
from what_next.data.decisions.reader import read_log
from what_next.off_policy.learned import Learned
from what_next.off_policy.targets import decisions_of, vectors_of
from what_next.policy import LearnedPolicy
from what_next.types import History, Permitted, Request

from .conftest import SetupOf, Trained, listening
from .off_policy_logs import decided, refused_fixture, setup_file, told_fixture, write  # noqa: F401


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
def boxed(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The setup file of the founding algorithm's agent."""
    paths = {name: getattr(trained.setup, name) for name in ("model_agent_path", "model_critic_path", "data")}
    folder = tmp_path_factory.mktemp("boxed")
    return setup_file(folder / "boxed.setup", relax=1, tolerance=1.5, window=20, dim=16, **paths)


@pytest.fixture(scope="session")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of a uniform policy over the catalogue, eight rows each of twelve users, and an item that nobody knows."""
    log, _ = listening(users=12, events=8, seed=5)
    log = log.with_columns(propensity=pl.lit(1 / 80))
    log = log.with_columns(item_id=pl.when(pl.int_range(pl.len()) % 17 == 8).then(pl.lit("new")).otherwise("item_id"))
    return write(tmp_path_factory.mktemp("heard") / "heard.csv", log.to_dict(as_series=False))


def chances_of(recommender: wn.Recommender, history: History, without: np.ndarray | None) -> np.ndarray:
    """The chance of every item to be drawn next."""
    policy, nothing = recommender.policy, np.full((1, 1), -1, np.int32)
    request = Request(1, policy.sampler, Permitted.of(without=without))
    return next(policy.chances(policy.states(history), request, nothing))[0]


class TestTrainedModels:
    def answer(self, heard: Path, setup: Path, **how: Any) -> tuple[Any, Any]:
        log = read_log(heard)
        return log, Learned(str(setup), Setup.read(setup, ["train=no"]), **how).on_log(
            log, decisions_of(log, vectors_of(log))
        )

    @pytest.mark.parametrize("seen", [False, True])
    def test_chances_are_the_agents_own_after_what_the_user_heard_before(self, heard, ranked, trained, seen) -> None:
        log, found = self.answer(heard, ranked, seen=seen)
        agent = ranked.parent / "agent.safetensors"
        recommender, ids, checked = wn.load(agent), log.items.ids.to_list(), 0
        for row in range(0, len(log), 3):
            before = [ids[item] for item in log.actions[np.flatnonzero((log.units == log.units[row])[:row])]]
            known = [one for one in before if one != "new"]
            assert found.covered[row] == bool(known)
            if not known:
                continue
            history, _ = recommender.state.history_of(known)
            chances = chances_of(recommender, history, None if seen else history.items)
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
        sums = found.target.full[found.covered].sum(axis=1)
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

    def test_what_was_seen_may_be_chosen_where_that_is_asked_for(self, heard, ranked, told) -> None:
        new, seen = told(heard, ranked, "--force"), told(heard, ranked, "--seen", "--force")
        assert (new["policy"]["seen"], seen["policy"]["seen"]) == (False, True)
        assert new["estimates"]["ips"]["mean"] != seen["estimates"]["ips"]["mean"]

    def test_an_agent_that_was_trained_on_the_log_is_said_to_have_seen_it(self, heard, ranked, tmp_path, told) -> None:
        assert not any("was trained on this log" in one for one in told(heard, ranked)["notes"])
        text = ranked.read_text().replace("elsewhere.parquet", str(heard))
        (tmp_path / "own.setup").write_text(text)
        assert any("was trained on this log" in one for one in told(heard, tmp_path / "own.setup")["notes"])

    @pytest.mark.parametrize("kept", [96, 95])
    def test_a_copy_of_the_log_is_the_log(self, heard, ranked, tmp_path, told, kept: int) -> None:
        pl.read_csv(heard).reverse()[:kept].write_parquet(tmp_path / "copy.parquet")
        (tmp_path / "own.setup").write_text(ranked.read_text().replace("elsewhere", str(tmp_path / "copy")))
        assert told(heard, tmp_path / "own.setup")["policy"]["own"] is (kept == 96)

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
        assert found.covered.tolist() == [False, True, True, True, True]
        histories = {
            2: (["i1"], ["i2"], "i3"),
            3: (["i1", "i2", "i3"], [], "i4"),
            4: (["i1", "i2", "i3"], ["i4"], "i2"),
        }
        for row, (before, above, item) in histories.items():
            history, _ = recommender.state.history_of(before)
            exclude = recommender.catalogue.index(above)[None]
            chances = chances_of(recommender, history, exclude)
            place = recommender.catalogue.index([item])[0]
            assert found.target.chances[row] == pytest.approx(chances[place], abs=1e-6)

    def test_what_was_shown_at_one_time_is_no_history_of_itself(self, ranked, tmp_path: Path) -> None:
        columns = {
            "user_id": ["u"] * 3, "timestamp": [1, 2, 2], "item_id": ["i1", "i2", "i2"],
            "reward": [1] * 3, "propensity": [0.1] * 3,
        }  # fmt: skip
        _, found = self.answer(write(tmp_path / "log.csv", columns), ranked)
        recommender = wn.load(ranked.parent / "agent.safetensors")
        history, _ = recommender.state.history_of(["i1"])
        chances = chances_of(recommender, history, history.items)
        place = recommender.catalogue.index(["i2"])[0]
        assert found.target.chances[1:] == pytest.approx(np.full(2, chances[place]), abs=1e-6)

    def test_chunks_are_as_small_as_the_larger_catalogue_asks_for(self, heard, ranked, tmp_path, monkeypatch) -> None:
        table = write(tmp_path / "items.csv", {"item_id": ["new", *(f"i{number}" for number in range(319))]})
        log = read_log(heard, items=table)
        assert len(log.items) == 320
        sizes = []
        asked = LearnedPolicy.chances

        def watched(self: LearnedPolicy, states: Any, *how: Any) -> Any:
            sizes.append(len(states))
            return asked(self, states, *how)

        monkeypatch.setattr(LearnedPolicy, "chances", watched)
        monkeypatch.setattr("what_next.off_policy.learned.PAIRS", 640)
        Learned(str(ranked), Setup.read(ranked, ["train=no"])).on_log(log, decisions_of(log, vectors_of(log)))
        assert max(sizes) == 2

    def test_a_large_log_is_answered_in_chunks(self, heard, ranked, monkeypatch) -> None:
        _, whole = self.answer(heard, ranked)
        monkeypatch.setattr("what_next.off_policy.learned.PAIRS", 160)
        monkeypatch.setattr("what_next.off_policy.learned.FULL", 1000)
        _, parts = self.answer(heard, ranked)
        assert parts.target.full is None
        assert parts.target.chances == pytest.approx(whole.target.chances, abs=1e-6)
        assert parts.target.expected == pytest.approx(whole.target.expected, abs=1e-5)
