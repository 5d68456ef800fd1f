"""What holds for every reward: its range, its silence at padding, and that it reads nothing undeclared."""

from dataclasses import replace
from math import inf

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from what_next.errors import SetupError
from what_next.rewards import REWARDS, Reward
from what_next.rewards.promises import other_future, random_events
from what_next.settings import RewardSettings as Settings

ALL: list[Reward] = [kind() for kind in REWARDS.values()]
OTHERS = [
    REWARDS["spread"](form="change", pairs="consecutive", window=3, clip=0.5, repeat_factor=0.5),
    REWARDS["profile_correlation"](window=2),
    REWARDS["diversity"](window=2),
    REWARDS["serendipity"](window=2, above=1),
    REWARDS["repeat"](fade=1),
    REWARDS["return_time"](half=2),
]
every = pytest.mark.parametrize("reward", [*ALL, *OTHERS], ids=lambda one: f"{type(one).__name__} {one!r}")


@every
@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-3, 1.0, 30.0]))
def test_it_is_within_its_range_and_nothing_at_padding(reward: Reward, seed: int, scale: float) -> None:
    log = random_events(seed, scale)
    earned = reward.of(log)
    low, high = reward.range
    assert earned.shape == log.items.shape
    assert earned.isfinite().all()
    assert low <= earned.min()
    assert earned.max() <= high
    assert not earned[~log.real].any()


@every
def test_its_range_is_declared_and_no_wider_than_need_be(reward: Reward) -> None:
    low, high = reward.range
    earned = torch.cat([reward.of(random_events(seed, scale)) for seed in range(25) for scale in (0.03, 1.0, 30.0)])
    assert low < high
    for bound, reached in ((low, earned.min().item()), (high, earned.max().item())):
        # Near a finite bound; where there is none, further out than 3.
        assert abs(reached - bound) < 0.2 if abs(bound) < inf else abs(reached) > 3


@every
@pytest.mark.parametrize("known", [1, 3, 4, 6, 8])
def test_it_reads_later_events_and_labels_only_where_its_class_says_so(reward: Reward, known: int) -> None:
    same = all(
        torch.allclose(reward.of(log)[:, :known], reward.of(other_future(log, known))[:, :known], atol=1e-5)
        for log in map(random_events, range(8))
    )
    # Spread is 0 for the first three events, whatever their label.
    assert same == (not reward.reads_future or (type(reward).__name__ == "Spread" and known <= 3))


@every
def test_rows_do_not_look_at_one_another_nor_at_padding(reward: Reward) -> None:
    log = random_events(3)
    short = {name: getattr(log, name)[1:2, :4] for name in ("items", "rewards", "times")}
    labels = {name: getattr(log, name)[1:2] for name in ("sigma", "profile", "after")}
    alone = reward.of(replace(log, **short, **labels))
    torch.testing.assert_close(alone, reward.of(log)[1:2, :4], rtol=1e-5, atol=1e-5)


@every
def test_a_single_event_and_a_long_history_are_no_trouble(reward: Reward) -> None:
    log = random_events(3)
    rows = {name: getattr(log, name)[:, :1] for name in ("items", "rewards", "times")}
    assert reward.of(replace(log, **rows)).shape == (4, 1)
    rows = {name: getattr(log, name)[3:].repeat(1, 500) for name in ("items", "rewards", "times")}
    labels = {name: getattr(log, name)[3:] for name in ("sigma", "profile", "after")}
    assert reward.of(replace(log, **rows, **labels)).isfinite().all()


@every
@pytest.mark.gpu
def test_the_graphics_card_gives_the_same(reward: Reward) -> None:
    log = random_events(3)
    there = replace(log, **{name: value.cuda() for name, value in vars(log).items()})
    torch.testing.assert_close(reward.of(there).cpu(), reward.of(log), rtol=1e-4, atol=1e-5)


def test_a_setup_has_the_settings_of_every_reward() -> None:
    assert {name: type(getattr(Settings(), name)) for name in Settings.model_fields} == dict(REWARDS)
    assert all(reward.key == f"reward.{name}" for name, reward in zip(REWARDS, ALL, strict=True))


@every
def test_it_is_frozen_and_takes_no_weight_that_is_no_number(reward: Reward) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        reward.weight = 1.0
    with pytest.raises(SetupError, match=f"{type(reward).__name__}: weight is inf: Input should be a finite number"):
        type(reward)(weight=inf)
