"""The law of sessions, by hand."""

from dataclasses import replace
from math import exp
from typing import Any

import numpy as np
import pytest

from what_next.worlds import Sessions, play, preset
from what_next.worlds.sessions import Responses, Visitors

ITEMS = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)


def world_with(**settings: Any) -> Sessions:
    """Three items; all or nothing, and no item is catchy."""
    usual = {"items": 3, "topics": 2, "slots": 2, "slope": 1e4, "play_offset": 0.5, "like_offset": 0.7, "catch": 0}
    world = Sessions(**(usual | settings))
    vars(world)["_drawn"] = (ITEMS, np.zeros(3, np.float32))
    return world


def user(world: Sessions, tastes: tuple[float, float] = (1.0, 0.0), **changes: float) -> Visitors:
    state = world.reset(1, np.random.default_rng(0))
    given = {name: np.array([value], np.float32) for name, value in changes.items()}
    return replace(state, tastes=np.array([tastes], np.float32), **given)


def step(world: Sessions, state: Visitors, slate: list[int]) -> tuple[Visitors, Responses]:
    after, feedback = world.step(state, np.array([slate]), np.random.default_rng(0))
    assert isinstance(feedback, Responses)
    return after, feedback


class TestByHand:
    def test_worth_is_the_likeness_to_the_tastes_less_fatigue_and_sameness(self) -> None:
        world = world_with(slots=3, sameness=0.5, fatigue=0.1)
        state = replace(user(world, (0.8, 0.6)), fatigue=np.array([[0.2, 0.05]], np.float32))
        # <(.8, .6), item>: .8, .6, .96; fatigue .2 of the first topic, .05 of the second, which is the third's, too;
        # likeness to those before: the second's 0; the third's mean of .6 and .8.
        assert world.worth(state, np.array([[0, 1, 2]]))[0] == pytest.approx(
            [0.8 - 0.2, 0.6 - 0.05, 0.96 - 0.05 - 0.5 * 0.7], abs=1e-6
        )

    def test_is_played_above_one_line_and_liked_above_the_other(self) -> None:
        world = world_with(sameness=0)
        _, feedback = step(world, user(world), [0, 2])
        assert feedback.responses.tolist() == [[2, 1]]  # worth 1 and .6
        _, feedback = step(world, user(world), [1, 0])
        assert feedback.responses.tolist() == [[0, 2]]
        assert feedback.clicks.tolist() == [[False, True]]

    def test_what_is_catchy_is_played_and_not_liked(self) -> None:
        world = world_with(sameness=0)
        vars(world)["_drawn"] = (ITEMS, np.array([0, 0.9, 0], np.float32))
        _, feedback = step(world, user(world), [1, 1])
        assert feedback.responses.tolist() == [[1, 1]]

    def test_chances(self) -> None:
        world = world_with(slope=4.0, slots=1)
        state = user(world).rows(np.zeros(40_000, np.int64))
        _, feedback = world.step(state, np.full((40_000, 1), 2), np.random.default_rng(0))
        assert isinstance(feedback, Responses)
        play_chance, like_chance = 1 / (1 + exp(-4 * 0.1)), 1 / (1 + exp(4 * 0.1))
        assert (feedback.responses > 0).mean() == pytest.approx(play_chance, abs=0.009)
        assert (feedback.responses == 2).mean() == pytest.approx(play_chance * like_chance, abs=0.009)

    def test_patience_satisfaction_and_fatigue_follow_what_was_enjoyed(self) -> None:
        world = world_with(sameness=0, regret=0.4, relief=1.5, memory=0.8, fatigue=0.1, recovery=0.5)
        begun = replace(user(world, patience=3.0, satisfaction=0.5), fatigue=np.full((1, 2), 0.04, np.float32))
        state, feedback = step(world, begun, [0, 2])
        enjoyed = (1 - 0.4 * 1) / 2
        assert feedback.rewards[0] == 0
        assert state.patience[0] == pytest.approx(3 - 1 + 1.5 * enjoyed)
        assert state.satisfaction[0] == pytest.approx(0.8 * 0.5 + 0.2 * enjoyed)
        assert state.fatigue[0] == pytest.approx([0.02 + 0.1, 0.02 + 0.1])
        assert (state.visits[0], state.day[0], state.away[0]) == (0, 0, 0)

    def test_without_patience_the_user_leaves_and_is_back_rested(self) -> None:
        world = world_with(sameness=0, patience=2.0, fatigue=0.1, recovery=0.5, return_offset=100.0)
        begun = replace(user(world), fatigue=np.array([[0.0, 0.8]], np.float32))
        state, feedback = step(world, begun, [1, 1])
        assert not feedback.left[0]
        state, feedback = step(world, state, [1, 1])
        assert feedback.left[0]
        assert not feedback.terminated[0]
        # A day for certain: two slates and a day halve the fatigue three times.
        assert (feedback.away[0], feedback.rewards[0]) == (1, -1.0)
        assert (state.patience[0], state.visits[0], state.day[0], state.away[0]) == (2.0, 1, 1, 1)
        assert state.fatigue[0] == pytest.approx([0, 0.1])

    @pytest.mark.parametrize("satisfaction", [-0.5, 0.0, 0.4])
    def test_the_day_of_return_is_geometric_up_to_the_longest(self, satisfaction: float) -> None:
        world = world_with(memory=0.0, relief=0.0, patience=0.5, return_offset=-1.0, return_slope=2.0, longest=4)
        count = 40_000
        days = world._days(np.full(count, satisfaction, np.float32), np.random.default_rng(0).random(count, np.float32))
        chance = 1 / (1 + exp(1 - 2 * satisfaction))
        expected = [chance, (1 - chance) * chance, (1 - chance) ** 2 * chance, (1 - chance) ** 3]
        assert np.bincount(days, minlength=5)[1:] / count == pytest.approx(expected, abs=0.01)

    def test_an_episode_is_some_visits_or_a_month(self) -> None:
        bored = {"patience": 1.0, "play_offset": 9.0, "return_offset": 100.0}
        for changes, visits in (({"last_visit": 3}, 3), ({"reward": "visits", "month": 4}, 4)):
            world = world_with(**bored, **changes)
            found = play(world, world.references()["random"], 5, np.random.default_rng(0))
            assert found.lengths.tolist() == [visits] * 5
            # Three absences of a day; or back on days 1, 2 and 3 of the month.
            assert set(found.returns) == {-3.0 if "last_visit" in changes else 3.0}


class TestReferences:
    @pytest.mark.parametrize("name", ["sessions", "sessions:month"])
    def test_plays_are_not_what_brings_people_back(self, name: str) -> None:
        world = preset(name)
        greedy, aware = (
            play(world, world.references()[policy], 100, np.random.default_rng(0)) for policy in ("greedy", "aware")
        )
        assert aware.mean - aware.margin > greedy.mean + greedy.margin

    def test_greed_is_for_plays_and_awareness_for_likes(self) -> None:
        world = world_with(slots=1)
        vars(world)["_drawn"] = (ITEMS, np.array([0, 1.1, 0], np.float32))
        state = user(world)
        assert world.references()["greedy"](state, np.random.default_rng(0)).tolist() == [[1]]
        assert world.references()["aware"](state, np.random.default_rng(0)).tolist() == [[0]]

    def test_a_slate_has_no_item_twice(self) -> None:
        world = Sessions(items=20)
        state = world.reset(10, np.random.default_rng(0))
        for name in ("popular", "greedy", "aware"):
            slates = world.references()[name](state, np.random.default_rng(0))
            assert all(len(set(slate)) == world.slots for slate in slates.tolist())
