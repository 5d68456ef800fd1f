"""Alarms are raised by signs that learning has gone wrong, once each, and by nothing else."""

import inspect
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from what_next import Agent, Dataset, Environment, State
from what_next.errors import TrainingError
from what_next.models.item_space import ItemSpace
from what_next.training.encoder_learner import EncoderLearner, explained
from what_next.training.monitor import MEMORY, Alarms
from what_next.training.step import Step

from .conftest import SetupOf

QUIET = Step(losses={}, reward=1.0, value=1.0, fallback=0.0, matches=1.0, masked=0.0, targets=32)
WELL = {"largest_reward": 5.0, "top_item": 1.0, "top_share": 0.1, "entropy_share": 0.5, "largest_weight": 30.0}
WELL |= {"explained": 0.4}


def raised(steps: int = MEMORY, done: float = 0.5, value: float = 1.0, targets: int = 32, **notes: float) -> set[str]:
    alarms = Alarms(discount=0.5)
    for _ in range(steps):
        alarms.look(replace(QUIET, value=value, targets=targets, metrics=WELL | notes), done, 500)
    return set(alarms.raised)


def test_how_much_of_the_returns_a_critic_explains() -> None:
    returns, values = torch.tensor([1.0, 3.0, 1.0, 3.0]), torch.tensor([1.5, 2.5, 1.5, 2.5])
    assert explained(returns, values) == pytest.approx(0.75)  # a variance of 1, of which .25 is left
    assert explained(returns, -values) == pytest.approx(1 - 2.25)
    assert explained(returns + 7, values) == pytest.approx(0.75)
    assert explained(returns + 8, values) == 1.0  # a variance of 1 beside a mean square of 101
    assert explained(torch.zeros(4), values) == 1.0
    assert explained(torch.zeros(0), torch.zeros(0)) == 1.0


def test_states_are_looked_at_evenly_over_a_batch() -> None:
    points = torch.eye(4)[[3] * 256 + [0, 1, 2] * 256]  # one user's, then those of many
    algorithm = SimpleNamespace(vectors=lambda rows: rows, propose=lambda nets, states: states)
    context: Any = SimpleNamespace(batch=SimpleNamespace(states=points), items=ItemSpace.of(torch.eye(4)), nets={})
    learner: Any = SimpleNamespace(algorithm=algorithm, shards=None)
    found = inspect.unwrap(EncoderLearner._diagnosed)(learner, context, None)
    assert found["top_share"] < 0.4


class TestAlarms:
    def test_a_run_that_goes_well_raises_none(self) -> None:
        assert raised() == set()

    @pytest.mark.parametrize(
        ("changes", "name"),
        [
            ({"value": 15.1}, "diverging"),
            ({"value": -15.1}, "diverging"),
            ({"top_share": 0.51}, "one item"),
            ({"entropy_share": 0.019}, "entropy"),
            ({"largest_weight": 1001.0}, "weights"),
            ({"explained": 0.009}, "critic"),
        ],
    )
    def test_each_sign_raises_its_alarm(self, changes: dict[str, float], name: str) -> None:
        assert raised(**changes) == {name}

    def test_a_value_may_be_as_large_as_the_largest_return_and_half_more(self) -> None:
        # Rewards of 5 at a discount of .5 sum up to 5 / (1 - .5) = 10.
        assert raised(value=14.9) == set()

    def test_one_odd_batch_is_not_enough(self) -> None:
        assert raised(steps=MEMORY - 1, top_share=0.9) == set()

    def test_shares_of_a_few_states_are_noise(self) -> None:
        assert raised(targets=31, top_share=1.0, explained=-1.0, entropy_share=0.0) == {"entropy"}

    @pytest.mark.parametrize(("share", "several", "found"), [(0.9, 1, True), (0.9, 2, False), (0.72, 1, False)])
    def test_one_item_leads_in_all_batches_and_more_than_in_the_log(
        self, share: float, several: int, found: bool
    ) -> None:
        # Of an item with half of the log's events, .5 + .5 * .5 of the states are no take-over.
        alarms = Alarms(discount=0.5, counts=np.array([10, 10], np.int32))
        for number in range(MEMORY):
            one = {"top_item": float(number % several), "top_share": share}
            alarms.look(replace(QUIET, metrics=one), 0.5, 500)
        assert ("one item" in alarms.raised) == found

    def test_what_is_just_below_a_bound_is_shown_below_it_and_worlds_count_slates(self) -> None:
        alarms = Alarms(discount=0.5, unit="slates")
        step = replace(QUIET, metrics={"explained": 0.0096})
        (told,) = (one for _ in range(MEMORY) for one in alarms.look(step, 0.5, 9))
        assert told.startswith("after 9 slates: the critic explains 0.96% of")

    def test_a_critic_has_time_to_learn_and_an_actor_to_learn_more_than_popularity(self) -> None:
        assert raised(done=0.1, value=15.1, explained=-3.0, top_share=0.9) == set()

    def test_what_a_critic_was_at_first_raises_none_later(self) -> None:
        alarms, odd = Alarms(discount=0.5), WELL | {"explained": -3.0, "top_share": 0.9}
        for _ in range(MEMORY - 1):
            alarms.look(replace(QUIET, value=15.1, metrics=odd), 0.1, 500)
        for _ in range(MEMORY):
            alarms.look(replace(QUIET, metrics=WELL), 0.3, 500)
        assert not alarms.raised

    def test_an_alarm_is_told_once_and_says_what_it_saw(self) -> None:
        alarms = Alarms(discount=0.5)
        told = [
            text
            for step in range(3 * MEMORY)
            for text in alarms.look(replace(QUIET, metrics={"top_item": 1.0, "top_share": 0.75}), 0.5, 1200 + step)
        ]
        assert len(told) == 1
        assert told[0].startswith(f"after {1200 + MEMORY - 1:,} histories: one item")
        assert "75%" in told[0]
        assert list(alarms.raised.values()) == told

    def test_without_diagnoses_there_are_none(self) -> None:
        alarms = Alarms(discount=0.5)
        assert not any(alarms.look(replace(QUIET, value=1e9), 0.9, 500) for _ in range(2 * MEMORY))


class TestInARun:
    @pytest.mark.medium
    def test_they_stand_in_the_report_and_can_stop_it(
        self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("what_next.training.monitor.MEMORY", 2)
        monkeypatch.setattr("what_next.training.monitor.TOP_SHARE", 0.0)
        setup = setup_of(tmp_path, algorithm="next_item", epochs=160, batch_size=8, max_length=20, window=None)
        state = State(dataset, setup)
        report = Environment(Agent(setup, state.space), state, setup).run_sim()
        assert len(report.alarms) == 1
        assert "taken over" in report.alarms[0]
        assert f"\nALARM {report.alarms[0]}\n" in str(report.__rich__())
        assert int(report.alarms[0].split()[1].replace(",", "")) < report.histories
        assert report.as_json()["alarms"] == list(report.alarms)
        strict = setup.model_copy(update={"stop_on_alarm": True})
        with pytest.raises(TrainingError, match="taken over"):
            Environment(Agent(strict, state.space), state, strict).run_sim()

    def test_the_founding_algorithm_raises_none(
        self, trained: object, dataset: Dataset, setup_of: SetupOf, tmp_path: Path
    ) -> None:
        setup = setup_of(tmp_path)
        state = State(dataset, setup)
        report = Environment(Agent(setup, state.space), state, setup).run_sim()
        assert not any("diverges" in alarm for alarm in report.alarms)
