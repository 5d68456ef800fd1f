"""What the best model is chosen by: accuracy, or what the log says that it would have earned."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from what_next import Agent, Dataset, Environment, LearnedPolicy, State
from what_next.experiments.next_items import evaluator_of
from what_next.experiments.tuning import _Watched
from what_next.sources import source_of
from what_next.training.artefacts import read_manifest
from what_next.training.weighing import _times
from what_next.types import Greedy, Permitted, Request

from .conftest import SetupOf, Trained, listening


def with_rewards(rewards: object) -> Dataset:
    log, items = listening()
    return Dataset.from_frame(log.with_columns(pl.Series("reward", np.broadcast_to(rewards, len(log)))), items)


@pytest.mark.parametrize(
    ("algorithm", "rewards", "changes", "monitored"),
    [
        ("crr", np.arange(2400) % 2, {}, "dcg@10"),
        ("next_item", np.arange(2400) % 2, {}, "ndcg@10"),
        ("next_item", np.arange(2400) % 2, {"monitor": "dcg@10"}, "dcg@10"),
        ("crr", np.arange(2400) % 2, {"monitor": "hr@10"}, "hr@10"),
        ("crr", 3.0, {}, "ndcg@10"),  # they do not differ
        ("crr", -(np.arange(2400) % 2), {}, "ndcg@10"),  # none is worth having
        ("crr", np.arange(2400) % 2, {"reward": {"diversity": {"weight": 1.0}}}, "ndcg@10"),  # they do not count
        ("crr", np.arange(2400) % 2, {"reward": {"logged": {"weight": -1.0}}}, "ndcg@10"),  # they are costs
        ("whatnext", np.arange(2400) % 2, {}, "spread"),
    ],
)
def test_what_is_learned_decides_what_is_measured(
    algorithm: str, rewards: object, changes: dict[str, Any], monitored: str, setup_of: SetupOf, tmp_path: Path
) -> None:
    assert State(with_rewards(rewards), setup_of(tmp_path, algorithm=algorithm, **changes)).monitored == monitored


def test_words_earn_what_the_setup_says(setup_of: SetupOf, tmp_path: Path) -> None:
    log, items = listening()
    log = log.drop("reward").with_columns(event=pl.Series(np.where(np.arange(len(log)) % 3, "play", "skip")))
    state = State(
        Dataset.from_frame(log, items),
        setup_of(tmp_path, algorithm="dqn", reward={"logged": {"play": 1.0, "skip": -1.0}}),
    )
    assert state.monitored == "dcg@10"


def test_the_gain_of_a_hit_is_its_reward_less_by_its_place(setup_of: SetupOf, tmp_path: Path) -> None:
    setup = setup_of(tmp_path, algorithm="crr", window=None, dim=8)
    state = State(with_rewards(np.arange(2400) % 7 - 2.0), setup)
    agent = Agent(setup, state.space).wake_agent().eval()
    gains = []
    for user in state.split.validation:
        last = state.split.targets("validation")[1][user] - 1
        event = state.dataset.offsets[user] + last
        history = state.histories(np.array([user]), np.zeros(1, np.int64), np.array([last]))
        policy, without = LearnedPolicy(agent, state), Permitted.of(without=history.items)
        slate = policy.act(policy.states(history), Request(10, Greedy(), without), np.random.default_rng(0)).items[0]
        place = np.flatnonzero(slate == state.dataset.items[event])
        gains.append(float(state.dataset.rewards[event] / np.log2(place[0] + 2)) if len(place) else 0.0)
    found = Environment(agent, state, setup).validate()
    assert found["dcg@10"] == pytest.approx(np.mean(gains), abs=1e-6)
    assert np.count_nonzero(gains) > 3


class Told(Environment):
    """The validation users say what they are told to say."""

    says = (0.9, 0.8, 0.1, 0.3, 0.2)
    measure = "dcg@10"

    def validate(self) -> dict[str, float]:
        self.says, value = self.says[1:], self.says[0]
        return {self.measure: value}


@pytest.mark.parametrize(("warm_up", "kept"), [(0, 60), (9, 240), (99, 300)])
def test_a_model_from_the_warm_up_is_not_the_one_that_is_kept(
    warm_up: int, kept: int, dataset: Dataset, setup_of: SetupOf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setup = setup_of(
        tmp_path, algorithm={"name": "sac_rec", "warm_up": warm_up}, window=None, max_length=40, batch_size=15,
        save_every=60, passes=5, patience=9, linear="no",
    )  # fmt: skip
    state = State(dataset, setup)
    Told(Agent(setup, state.space), state, setup).run_sim()
    assert read_manifest(setup.model_agent_path).histories == kept
    assert "monitor dcg@10: sac_rec learns from rewards" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("algorithm", "reward", "told"),
    [("sqn", {}, True), ("next_item", {}, False), ("sqn", {"logged": {"skip": 0.0, "play": 1.0}}, False)],
)
def test_where_a_skip_earns_as_much_as_a_play_that_is_said(
    algorithm: str, reward: dict[str, object], told: bool, dataset: Dataset, setup_of: SetupOf, tmp_path: Path
) -> None:
    codes = np.arange(dataset.events, dtype=np.int32) % 2
    words = replace(dataset, rewards=None, event_words=("play", "skip"), event_codes=codes)
    setup = setup_of(tmp_path, algorithm={"name": algorithm}, reward=reward, window=None, max_length=40)
    said = " ".join(source_of(State(words, setup)).chosen[1])
    alike = "events of all kinds (play, skip) earn the same; `reward.logged.play` and `reward.logged.skip` say what"
    assert (alike in said) is told


def test_what_words_of_the_log_earn_is_judged_as_the_setup_says(
    dataset: Dataset, setup_of: SetupOf, tmp_path: Path
) -> None:
    """Else nobody would see what an algorithm learns that is told that a skip is worth nothing."""
    codes = np.arange(dataset.events, dtype=np.int32) % 2
    words = replace(dataset, rewards=None, event_words=("play", "skip"), event_codes=codes)
    for reward, earned in (({"logged": {"skip": -1.0, "play": 2.0}}, np.array([2.0, -1.0])), ({}, None)):
        setup = setup_of(tmp_path, algorithm={"name": "next_item"}, reward=reward, window=None, split="leave_last_out")
        targets = evaluator_of(State(words, setup), "test").targets
        if earned is None:
            assert targets.rewards is None
        else:
            places = words.offsets[targets.users] + targets.before
            np.testing.assert_array_equal(targets.rewards, earned[codes[places]])


def test_an_alarm_after_the_model_that_is_kept_says_so(
    dataset: Dataset, setup_of: SetupOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("MEMORY", 1), ("TOP_SHARE", 0.0)):
        monkeypatch.setattr(f"what_next.training.monitor.{name}", value)
    changes = {"window": None, "max_length": 40, "batch_size": 15, "save_every": 60, "patience": 9, "linear": "no"}
    setup = setup_of(tmp_path, algorithm="next_item", passes=5, **changes)
    state = State(dataset, setup)
    environment = Told(Agent(setup, state.space), state, setup)
    environment.measure = "ndcg@10"
    (alarm,) = environment.run_sim().alarms
    assert alarm.startswith("after 90 histories: one item")
    assert alarm.endswith("; the model that is kept is from before, after 60 histories")


def test_a_run_that_goes_on_by_another_measure_keeps_its_best(
    dataset: Dataset, setup_of: SetupOf, tmp_path: Path
) -> None:
    changes = {"window": None, "max_length": 40, "batch_size": 15, "save_every": 60, "patience": 9, "linear": "no"}
    for passes, monitor in ((1, "ndcg@10"), (5, None)):
        setup = setup_of(tmp_path, algorithm="crr", passes=passes, monitor=monitor, **changes)
        state = State(dataset, setup)
        environment = Told(Agent(setup, state.space), state, setup, resume=monitor is None)
        environment.says = Told.says if monitor is None else (0.5,)
        environment.measure = setup.monitor or "dcg@10"
        environment.run_sim()
    assert read_manifest(setup.model_agent_path).histories == 60
    assert read_manifest(setup.model_agent_path).metrics["valid"] == {"dcg@10": 0.9}


@pytest.mark.parametrize(("factor", "value", "expected"), [(1.02, 0.5, 0.51), (1.02, -0.5, -0.49), (0.97, -1.0, -1.03)])
def test_a_part_better_or_worse_of_a_measure_below_0(factor: float, value: float, expected: float) -> None:
    assert _times(factor, value) == pytest.approx(expected)


def test_a_trial_hears_of_the_spread_by_its_window(trained: Trained) -> None:
    told: list[float] = []
    environment = _Watched(Agent(trained.setup, trained.state.space).ready_agent(), trained.state, trained.setup)
    environment.trial = SimpleNamespace(report=lambda value, _: told.append(value), should_prune=lambda: False)
    assert told == [environment.validate()["spread@20"]]
