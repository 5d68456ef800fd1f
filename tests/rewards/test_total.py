"""A setup's weights choose the rewards, and their weighted sum is what an algorithm earns."""

from typing import ClassVar

import polars as pl
import pytest
import torch
from torch import Tensor

from what_next import Dataset
from what_next.errors import SetupError, TrainingError
from what_next.rewards import Events, Reward, check, total
from what_next.settings import Setup

BASE = "train, yes, data, d.csv, model_agent_path, a.safetensors, model_critic_path, c.safetensors\n"


def terms(*lines: str):
    return Setup.from_text(BASE + "\n".join(lines)).reward.terms


def weights(*lines: str) -> dict[str, float]:
    return {term.key.removeprefix("reward."): term.weight for term in terms(*lines)}


class TestWhichCount:
    def test_without_any_weight_the_log_speaks_alone(self) -> None:
        assert weights() == weights("reward.spread.window, 30") == {"logged": 1}

    def test_with_a_weight_only_what_has_one(self) -> None:
        assert weights("reward.spread.weight, 0.5") == {"spread": 0.5}
        assert weights("reward.novelty.weight, 2, reward.repeat.weight, -1") == {"novelty": 2, "repeat": -1}
        assert weights("reward.logged.weight, 0, reward.spread.weight, 0.5") == {"spread": 0.5}

    def test_numbers_for_words_say_that_the_log_counts_too(self) -> None:
        words = "reward.logged.skip, -1, reward.logged.play, 1"
        assert weights(words, "reward.spread.weight, 0.5") == {"logged": 1, "spread": 0.5}
        assert weights(words, "reward.logged.weight, 3") == {"logged": 3}
        assert weights(words, "reward.logged.weight, 0, reward.spread.weight, 1") == {"spread": 1}

    def test_nothing_at_all_is_refused(self, dataset) -> None:
        with pytest.raises(SetupError, match=r"every reward has weight 0; .*reward\.logged\.weight, 1"):
            check(terms("reward.logged.weight, 0"), dataset)


def test_the_sum_is_weighted(heard) -> None:
    log = heard([[0, 1, 0, -1]], rewards=[[3.0, -2.0, 1.0, 0.0]], popularity=[1 / 2, 1 / 4])
    both = terms("reward.logged.weight, 2, reward.novelty.weight, 4, reward.repeat.weight, 1, reward.repeat.fade, 0.5")
    # Twice the log's, four times 1/2 and 1, and half a repeat two events later.
    assert total(both, log).tolist() == [[6 + 2, -4 + 4, 2 + 2 - 0.5, 0]]
    assert total((), log).tolist() == [[0, 0, 0, 0]]


class Short(Reward):
    """Of histories of three events alone."""

    def of(self, events: Events) -> Tensor:
        return events.rewards * torch.ones(3)


def test_a_reward_that_fails_on_some_histories_is_told(heard, monkeypatch: pytest.MonkeyPatch) -> None:
    short, long = heard([[0, 1, 0]], popularity=[0.5, 0.5]), heard([[0, 1, 0, 1]], popularity=[0.5, 0.5])
    assert total([Short(weight=1.0)], short).shape == (1, 3)
    with pytest.raises(SetupError, match=r"reward.short: fails on .*\(nothing\), in a grid of 1 by 4: RuntimeError"):
        total([Short(weight=1.0)], long)
    monkeypatch.setattr(Short, "__module__", "what_next.rewards.short")  # as if it were ours
    with pytest.raises(RuntimeError):
        total([Short(weight=1.0)], long)


class Rare(Reward):
    """1, and more than any number for the second item."""

    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    weight: float | None = 2.0

    def of(self, events: Events) -> Tensor:
        return torch.where(events.items == 1, torch.inf, 1.0) * events.real


def test_a_reward_that_is_no_number_for_one_item_is_named(heard) -> None:
    assert total((Rare(),), heard([[0, 2]])).tolist() == [[2, 2]]
    with pytest.raises(TrainingError, match=r"reward\.rare: gives inf for an event of item 2 of the catalogue"):
        total((*terms(), Rare()), heard([[0, 1]]))


class TestWhatTheDataLack:
    BARE = Dataset.from_frame(pl.DataFrame({"user": [1, 1, 2], "item": [1, 2, 1]}), name="bare")

    @pytest.mark.parametrize("name", ["spread", "diversity", "serendipity", "profile_correlation"])
    def test_attributes_are_asked_for(self, name: str, dataset) -> None:
        chosen = terms(f"reward.{name}.weight, 1")
        with pytest.raises(
            SetupError, match=rf"reward\.{name} needs attributes .* bare has none; import .*--attributes"
        ):
            check(chosen, self.BARE)
        check(chosen, dataset)

    def test_times_are_asked_for(self, dataset) -> None:
        chosen = terms("reward.return_time.weight, 1")
        with pytest.raises(SetupError, match=r"reward\.return_time needs the times .* bare has none; .*--time"):
            check(chosen, self.BARE)
        check(chosen, dataset)

    def test_a_correlation_asks_for_two_attributes(self) -> None:
        frame = pl.DataFrame({"user": [1, 1, 2], "item": [1, 2, 1], "tempo": [1.0, 2.0, 1.0]})
        with pytest.raises(SetupError, match="needs two attributes"):
            check(terms("reward.profile_correlation.weight, 1"), Dataset.from_frame(frame))

    def test_a_log_of_users_and_items_alone_is_enough_for_the_others(self) -> None:
        check(terms("reward.novelty.weight, 1, reward.repeat.weight, 1, reward.logged.weight, 1"), self.BARE)
