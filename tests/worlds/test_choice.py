"""The law of choice: by hand, and against RecSim, step by step and in returns."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import exp
from typing import Any

import numpy as np
import pytest

from what_next.worlds import Choice, Episodes, Streams, play, preset
from what_next.worlds.base import best
from what_next.worlds.choice import Watchers

EVOLUTION, SATISFACTION = "choice:interest_evolution", "choice:satisfaction"


class Scripted(Streams):
    """Draws that a test chose."""

    def __init__(self, *numbers: float) -> None:
        super().__init__(np.zeros(1, np.uint64))
        self.numbers = list(numbers)

    def uniform(self, *shape: int) -> Any:
        count = int(np.prod(shape))
        drawn, self.numbers = self.numbers[:count], self.numbers[count:]
        return np.array(drawn, np.float32).reshape(1, *shape)


def draws(choice: float, flip: float) -> Scripted:
    """What a step draws: which item, whether interest moves up, and noise of zero."""
    return Scripted(choice, flip, 0, 0, 0, 0)


def user(world: Choice, **changes: Any) -> Watchers:
    state = world.reset(1, np.random.default_rng(0))
    return replace(state, **{name: np.array([value], np.float32) for name, value in changes.items()})


class TestByHand:
    def test_who_is_chosen_is_drawn_in_proportion_to_the_interests(self) -> None:
        world = Choice(topics=3, items=3, slots=2, no_click=0.5)
        state = user(world, interests=[-0.5, 0.0, 1.0]).rows(np.zeros(40_000, np.int64))
        _, feedback = world.step(state, np.array([[0, 2]]).repeat(40_000, 0), np.random.default_rng(0))
        # Weights .5, 2 and .5 for none.
        assert feedback.clicks.mean(0) == pytest.approx([1 / 6, 2 / 3], abs=0.009)
        assert feedback.clicks.sum(1).max() == 1

    @pytest.mark.parametrize(
        ("choice", "clicks"),
        [(0.0, [True, False]), (0.17, [False, True]), (0.83, [False, True]), (0.84, [False, False])],
    )
    def test_and_stands_where_the_draw_falls(self, choice: float, clicks: list[bool]) -> None:
        world = Choice(topics=3, items=3, slots=2, no_click=0.5)
        _, feedback = world.step(user(world, interests=[-0.5, 0.0, 1.0]), np.array([[0, 2]]), draws(choice, 0))
        assert feedback.clicks[0].tolist() == clicks

    @pytest.mark.parametrize(
        ("before", "flip", "after"),
        [
            (0.0, 0.49, 0.3),  # up by .3 * (1 - 0) * (1 - 0)
            (0.0, 0.51, -0.3),
            (0.5, 0.74, 0.575),  # by .3 * .5 * .5, with a chance of .75
            (0.5, 0.76, 0.425),
            (-0.8, 0.09, -0.692),  # by .3 * .2 * 1.8
            (-0.95, 0.9, -0.97925),  # by .3 * .05 * 1.95
            (-0.2, 0.9, -0.488),
        ],
    )
    def test_interest_moves(self, before: float, flip: float, after: float) -> None:
        world = Choice(topics=2, items=2, slots=1, no_click=0.0)
        state, _ = world.step(user(world, interests=[before, 0.7]), np.array([[0]]), draws(0.5, flip))
        assert state.interests[0] == pytest.approx([after, 0.7], abs=1e-6)

    def test_interest_ends_at_minus_one(self) -> None:
        world = Choice(topics=2, items=2, slots=1, no_click=0.0, evolution=1.0)
        state, _ = world.step(user(world, interests=[-0.5, 0.7]), np.array([[0]]), draws(0.5, 0.99))
        assert state.interests[0, 0] == -1

    def test_time_runs_by_what_is_watched_and_comes_back_by_quality(self) -> None:
        world = preset(EVOLUTION)
        assert isinstance(world, Choice)
        good, bad = int(world.item_quality.argmax()), int(world.item_quality.argmin())
        for item in (good, bad):
            state, feedback = world.step(user(world, budget=200.0), np.array([[item, item]]), draws(0.0, 0.0))
            assert feedback.rewards.tolist() == [4.0]
            assert state.budget[0] == pytest.approx(200 - 4 + 0.9 / 3.4 * 4 * world.item_quality[item], abs=1e-4)
            assert state.quality[0] == world.item_quality[item]
        state, feedback = world.step(user(world, budget=3.0), np.array([[bad, bad]]), draws(0.0, 0.0))
        assert (feedback.rewards[0], bool(feedback.terminated[0])) == (3.0, True)
        state, feedback = world.step(user(world, budget=0.6), np.array([[bad, bad]]), draws(0.9999, 0.0))
        assert (feedback.rewards[0], bool(feedback.terminated[0])) == (0.0, False)
        assert state.budget[0] == pytest.approx(0.1)

    def test_clickbait_earns_more_now_and_wears_the_user_down(self) -> None:
        world = preset("choice:worn", items=2)
        assert isinstance(world, Choice)
        vars(world)["_drawn"] = (np.zeros(2, np.float32), np.array([0.0, 1.0], np.float32))
        state = user(world, exposure=0.5)
        satisfied = 1 / (1 + exp(-0.3 * 0.5))
        for item, mean, exposure in ((0, 4, 0.7 * 0.5 + 1), (1, 5, 0.7 * 0.5 - 1)):
            after, feedback = world.step(state, np.array([[item]]), draws(0.5, 0.0))
            assert feedback.rewards[0] == pytest.approx(exp(mean * satisfied), rel=1e-5)
            assert after.exposure[0] == pytest.approx(exposure)
        assert world.references()["greedy"](state, np.random.default_rng(0)).tolist() == [[1]]
        assert world.references()["aware"](state, np.random.default_rng(0)).tolist() == [[0]]
        ending = replace(state, budget=np.ones(1, np.float32))
        assert world.references()["aware"](ending, np.random.default_rng(0)).tolist() == [[1]]

    def test_noise_makes_rewards_lognormal(self) -> None:
        world = preset("choice:worn", innovation=0.0)
        state = user(world, exposure=0.0).rows(np.zeros(40_000, np.int64))
        _, feedback = world.step(state, np.zeros((40_000, 1), np.int64), np.random.default_rng(0))
        assert isinstance(world, Choice)
        mean = (4 + world.item_clickbait[0]) / 2
        assert np.log(feedback.rewards).mean() == pytest.approx(mean, abs=0.02)
        assert np.log(feedback.rewards).std() == pytest.approx(1, abs=0.02)

    def test_greed_finds_the_best_slate_of_all(self) -> None:
        """Of all 45 pairs of ten items."""
        world = Choice(items=10, topics=5, slots=2)
        state = world.reset(20, np.random.default_rng(4))
        found = world.references()["greedy"](state, np.random.default_rng(0))
        weights = 1 + state.interests[:, world.item_topics]
        earned = np.exp(world.satisfaction(state.exposure)[:, None] * (4 + world.item_clickbait) + 0.5)
        for row in range(20):
            worth = {
                (one, two): (weights[row, [one, two]] * earned[row, [one, two]]).sum()
                / (weights[row, [one, two]].sum() + 1)
                for one in range(10)
                for two in range(one)
            }
            assert worth[tuple(sorted(found[row].tolist(), reverse=True))] == pytest.approx(
                max(worth.values()), rel=1e-5
            )


class TestLookingOneStepAhead:
    @pytest.mark.medium
    @pytest.mark.parametrize("name", ["choice", "choice:worn", EVOLUTION])
    def test_loses(self, name: str) -> None:
        world = preset(name)
        greedy, aware = (
            play(world, world.references()[policy], 100, np.random.default_rng(0)) for policy in ("greedy", "aware")
        )
        assert aware.mean - aware.margin > 2 * (greedy.mean + greedy.margin)

    def test_is_best_in_recsims_own_satisfaction(self) -> None:
        world = preset(SATISFACTION)
        random, greedy = (
            play(world, world.references()[policy], 300, np.random.default_rng(0)) for policy in ("random", "greedy")
        )
        assert greedy.mean - greedy.margin > random.mean + random.margin


@contextmanager
def recsim(name: str, **changes: Any) -> Iterator[Any]:
    """RecSim's own environment, seeded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("recsim", reason="recsim-no-tf and six are not installed: pip install 'what-next-rl[dev]'")
        from absl.logging import get_absl_handler
        from recsim.environments import interest_evolution, long_term_satisfaction

        # It took what pytest captures for the stream of its log, and would close it with the next set-up of logging.
        get_absl_handler().python_handler.stream = sys.__stderr__
        made = interest_evolution if name == EVOLUTION else long_term_satisfaction
        slots = 2 if name == EVOLUTION else 1
        state = np.random.get_state()
        np.random.seed(0)
        config = {"num_candidates": 10, "slate_size": slots, "resample_documents": True, "seed": 0}
        yield made.create_environment(config | changes)
        np.random.set_state(state)


class TestAgainstRecSim:
    def test_interests_and_time_are_followed_step_by_step(self) -> None:
        world, rng = preset(EVOLUTION), np.random.default_rng(0)
        assert isinstance(world, Choice)
        with recsim(EVOLUTION) as theirs:
            for _ in range(5):
                seen, done = theirs.reset(), False
                state = user(world, interests=seen["user"], budget=200.0)
                while not done:
                    documents = list(theirs.environment.candidate_set._documents.values())
                    slate = rng.choice(10, 2, replace=False)
                    # Our items: two of the topics and qualities of theirs.
                    topics = np.array([documents[place].cluster_id for place in slate])
                    quality = np.array([documents[place].quality for place in slate], np.float32)
                    vars(world).update(item_topics=topics, _drawn=(quality, np.zeros(2, np.float32)))
                    seen, reward, done, _ = theirs.step(slate)
                    ends = np.append(0, np.cumsum(1 + state.interests[0, topics]))
                    chosen = next((slot for slot, one in enumerate(seen["response"]) if one["click"]), None)
                    choice, flip = 0.999999, 0.0
                    if chosen is not None:
                        choice = (ends[chosen] + ends[chosen + 1]) / 2 / (ends[-1] + world.no_click)
                        flip = 0.0 if seen["user"][topics[chosen]] > state.interests[0, topics[chosen]] else 0.999999
                    state, feedback = world.step(state, np.array([[0, 1]]), draws(choice, flip))
                    assert feedback.rewards[0] == pytest.approx(reward, abs=1e-3)
                    assert state.interests[0] == pytest.approx(seen["user"], abs=1e-4)
                    assert state.budget[0] == pytest.approx(
                        theirs.environment.user_model._user_state.time_budget, abs=1e-2
                    )
                    assert bool(feedback.terminated[0]) == done

    def test_satisfaction_is_followed_step_by_step(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world, rng = preset(SATISFACTION), np.random.default_rng(0)
        assert isinstance(world, Choice)
        with recsim(SATISFACTION) as theirs:
            monkeypatch.setattr(np.random, "normal", lambda loc=0.0, scale=1.0: loc)
            theirs.reset()
            begun = theirs.environment.user_model._user_state.net_positive_exposure
            state, done = user(world, exposure=begun), False
            while not done:
                place = int(rng.integers(10))
                clickbait = list(theirs.environment.candidate_set._documents.values())[place].clickbait_score
                vars(world).update(_drawn=(np.zeros(1, np.float32), np.array([clickbait], np.float32)))
                _, reward, done, _ = theirs.step([place])
                state, feedback = world.step(state, np.zeros((1, 1), np.int64), draws(0.5, 0.0))
                assert feedback.rewards[0] == pytest.approx(reward, rel=1e-4)
                assert bool(feedback.terminated[0]) == done
            assert state.age[0] == 60

    @pytest.mark.parametrize("name", [EVOLUTION, SATISFACTION])
    @pytest.mark.parametrize("policy", ["random", "greedy"])
    def test_returns_agree(self, name: str, policy: str) -> None:
        agree(name, policy, 30)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", [EVOLUTION, SATISFACTION])
    @pytest.mark.parametrize("policy", ["random", "greedy"])
    def test_returns_agree_over_500_episodes(self, name: str, policy: str) -> None:
        agree(name, policy, 500)


def agree(name: str, policy: str, episodes: int) -> None:
    """Their mean return and ours differ by no more than four standard errors.

    Of ten drawn items, as theirs are, `greedy` takes those of the most interest, or the one of the most clickbait.
    """
    world = preset(name)
    assert isinstance(world, Choice)
    rng = np.random.default_rng(1)

    def ours(state: Watchers, _: Any) -> np.ndarray:
        drawn = rng.integers(world.items, size=(len(state.age), 10))
        topics, bait = np.take_along_axis(state.interests, world.item_topics[drawn], 1), world.item_clickbait[drawn]
        worth = topics if name == EVOLUTION else bait
        return np.take_along_axis(drawn, best(worth, world.slots), 1) if policy == "greedy" else drawn[:, : world.slots]

    one = play(world, ours, 2_000, rng)
    returns = np.zeros(episodes)
    with recsim(name) as theirs:
        for episode in range(episodes):
            seen, done = theirs.reset(), False
            while not done:
                slate = rng.choice(10, world.slots, replace=False)
                if policy == "greedy":
                    documents = np.array(list(seen["doc"].values()))
                    worth = documents @ seen["user"] if name == EVOLUTION else documents[:, 0]
                    slate = np.argsort(-worth)[: world.slots]
                seen, reward, done, _ = theirs.step(slate)
                returns[episode] += reward
    other = Episodes(returns, np.zeros(episodes, np.int64))
    assert abs(one.mean - other.mean) < 4 / 1.96 * np.hypot(one.margin, other.margin)
