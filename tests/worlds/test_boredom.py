"""The law of boredom: by hand, and against SARDINE itself, step by step and in returns."""

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from what_next.worlds import Boredom, Episodes, play, preset
from what_next.worlds.boredom import NEVER, Listeners

VARIANTS = [name for name in Boredom.presets if not name.startswith("sardine/")]


def world_with(vectors: list[list[float]], **settings: Any) -> Boredom:
    """A world of some items; its relevance is all or nothing, and every slot is looked at."""
    world = Boredom(
        **{"items": len(vectors), "topics": 6, "slots": 2, "slope": 1e4, "offset": 0.5, "position_discount": 1}
        | settings
    )
    padded = np.zeros((len(vectors), 6), np.float32)
    padded[:, : len(vectors[0])] = vectors
    vars(world)["item_vectors"] = padded
    return world


def user(world: Boredom, tastes: list[float]) -> Listeners:
    """One who has seen nothing yet."""
    state = world.reset(1, np.random.default_rng(0))
    taste = np.zeros((1, world.topics), np.float32)
    taste[0, : len(tastes)] = tastes
    return replace(
        state,
        tastes=taste,
        stamps=np.full_like(state.stamps, NEVER),
        counts=np.zeros_like(state.counts),
        rest=np.zeros_like(state.rest),
        head=np.zeros_like(state.head),
    )


def clicks_of(world: Boredom, state: Listeners, slates: list[list[int]]) -> tuple[Listeners, list[int]]:
    rng, found = np.random.default_rng(0), []
    for slate in slates:
        state, feedback = world.step(state, np.array([slate]), rng)
        found.append(int(feedback.rewards[0]))
    return state, found


LIKED, OTHER, HATED = 0, 1, 2
ITEMS = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


class TestByHand:
    def test_five_clicks_on_a_topic_within_five_steps_empty_the_user_for_five(self) -> None:
        world = world_with(ITEMS)
        _, clicks = clicks_of(world, user(world, [0.8, 0.6]), [[LIKED, LIKED]] * 12)
        # Two, two, and the fifth in the third step; nothing in the next five; then those three steps are forgotten.
        assert clicks == [2, 2, 2, 0, 0, 0, 0, 0, 2, 2, 2, 0]

    def test_a_bored_user_wants_nothing_of_any_topic(self) -> None:
        world = world_with(ITEMS)
        _, clicks = clicks_of(world, user(world, [0.8, 0.6]), [[LIKED, LIKED]] * 3 + [[OTHER, OTHER]] * 6)
        assert clicks == [2, 2, 2, 0, 0, 0, 0, 0, 2]

    def test_four_clicks_within_the_window_never_bore(self) -> None:
        world = world_with(ITEMS)
        _, clicks = clicks_of(world, user(world, [0.8, 0.6]), [[LIKED, OTHER], [HATED, HATED]] * 10)
        assert clicks == [2, 0] * 10  # three of each topic among six steps

    def test_only_the_last_ten_clicks_count(self) -> None:
        world = world_with(ITEMS, slots=3, threshold=7)
        state, clicks = clicks_of(
            world, user(world, [0.8, 0.6]), [[LIKED, LIKED, OTHER], [OTHER, OTHER, LIKED], [OTHER, OTHER, LIKED]]
        )
        assert clicks == [3, 3, 3]
        assert state.counts[0, :2].tolist() == [4, 5]
        state, _ = clicks_of(world, state, [[LIKED, LIKED, LIKED]])
        # Of twelve clicks within the window the first two, both of the liked topic, are forgotten.
        assert state.counts[0, :2].tolist() == [5, 5]

    def test_more_clicks_in_a_slate_than_are_remembered_leave_the_last(self) -> None:
        world = world_with(ITEMS, slots=3, memory=2)
        state, clicks = clicks_of(world, user(world, [0.8, 0.6]), [[LIKED, LIKED, OTHER]])
        assert clicks == [3]
        assert state.counts[0, :2].tolist() == [1, 1]

    def test_a_click_is_remembered_for_the_window(self) -> None:
        world = world_with(ITEMS, slots=1)
        state, _ = clicks_of(world, user(world, [0.8, 0.6]), [[LIKED]])
        counts = [int(state.counts[0, 0])]
        for _ in range(6):
            state, _ = clicks_of(world, state, [[HATED]])
            counts.append(int(state.counts[0, 0]))
        assert counts == [1, 1, 1, 1, 1, 0, 0]

    @pytest.mark.parametrize(
        ("drift", "expected"),
        # .5 * (.8, .6, 0, ..) + .5 * (.5, .5, 0, ..) over its length; and .5 * (..) + .5 * (1 / 6) everywhere.
        [("vector", [0.65, 0.55, 0, 0, 0, 0]), ("scalar", [0.4 + 1 / 12, 0.3 + 1 / 12, *[1 / 12] * 4])],
    )
    def test_clicks_move_the_user(self, drift: str, expected: list[float]) -> None:
        world = world_with(ITEMS, omega=0.5, drift=drift)
        state, clicks = clicks_of(world, user(world, [0.8, 0.6]), [[LIKED, OTHER]])
        assert clicks == [2]
        assert state.tastes[0] == pytest.approx(np.array(expected) / np.linalg.norm(expected), abs=1e-6)

    def test_the_chance_of_a_click_is_the_sigmoid_times_the_slots(self) -> None:
        world = world_with(ITEMS, slope=2.0, position_discount=0.7)
        state = user(world, [0.8, 0.6]).rows(np.zeros(40_000, np.int64))
        _, feedback = world.step(state, np.array([[OTHER, LIKED]]).repeat(40_000, 0), np.random.default_rng(0))
        # 1 / (1 + exp(-2 * (.6 - .5))) = .54983; .7 / (1 + exp(-2 * (.8 - .5))) = .45200
        assert feedback.clicks.mean(0) == pytest.approx([0.54983, 0.45200], abs=0.009)
        assert np.array_equal(feedback.rewards, feedback.clicks.sum(1))

    def test_greed_and_the_rule_that_sees_boredom(self) -> None:
        """Two liked topics, all or nothing: greed takes one topic; the rule takes four clicks of each."""
        vectors = [[1, 0], [1, 0], [0, 1], [0, 1], [0, 0]]
        world = world_with(vectors)
        state = user(world, [0.8, 0.6])
        assert sorted(world.references()["greedy"](state, np.random.default_rng(0))[0].tolist()) == [0, 1]
        aware, shown = world.references()["aware"], []
        for _ in range(6):
            slate = aware(state, np.random.default_rng(0))
            shown.append(sorted(slate[0].tolist()))
            state, _ = world.step(state, slate, np.random.default_rng(0))
        assert shown[:4] == [[0, 1], [0, 1], [2, 3], [2, 3]]
        assert (state.rest == 0).all()


class TestUsersAndItems:
    def test_are_drawn_by_the_law_of_sardine(self) -> None:
        world = Boredom()
        tastes = world.reset(40_000, np.random.default_rng(0)).tastes
        assert np.square(tastes).sum(1) == pytest.approx(1, abs=1e-5)
        sizes = np.bincount((tastes > 0).sum(1), minlength=7) / len(tastes)
        # Binomial(10, .4) at 3, 4 and 5: .21499, .25082, .20066 of .66647.
        assert sizes[3:6] == pytest.approx([0.32258, 0.37634, 0.30108], abs=0.008)
        assert sizes[:3].sum() == sizes[6:].sum() == 0
        assert set((world.item_vectors > 0).sum(1)) == {2, 3}
        assert np.square(world.item_vectors).sum(1) == pytest.approx(1, abs=1e-5)
        assert np.array_equal(Boredom(seed=0).item_vectors, world.item_vectors)
        assert not np.array_equal(Boredom(seed=1).item_vectors, world.item_vectors)


def sardine(variant: str) -> Any:
    """SARDINE's own environment."""
    pytest.importorskip("sardine", reason="sardine-rec is not installed: pip install 'what-next-rl[dev]'")
    import gymnasium

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return gymnasium.make(f"sardine/{variant}").unwrapped


class TestAgainstSardine:
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_a_user_of_theirs_is_followed_step_by_step(self, variant: str) -> None:
        """Their user, their clicks: relevance, what is remembered, boredom and drift are the same at every step."""
        theirs, world, rng = sardine(variant), preset(f"boredom:sardine/{variant}"), np.random.default_rng(0)
        assert isinstance(world, Boredom)
        for episode in range(4):
            seen, info = theirs.reset(seed=episode)
            state = replace(user(world, []), tastes=_tastes_of(theirs, episode), age=np.full(1, -1, np.int32))
            state = world._after(state, seen["slate"][None], seen["clicks"][None].astype(bool))
            assert world.steps is not None
            for step in range(world.steps):
                assert world.observe(state, ideal=True).numbers[0] == pytest.approx(info["user_state"], abs=2e-6)
                assert world.observe(state).numbers[0] == pytest.approx(seen["hist"], abs=1e-6)
                policy = "greedy" if rng.random() < 0.7 else "random"
                slates = world.references()[policy](state, rng)
                relevance = world.relevance((world.interest(state) @ world.item_vectors.T)[0, slates[0]])
                seen, _, terminated, _, info = theirs.step(slates[0])
                assert relevance == pytest.approx(info["relevances"], abs=2e-5)
                assert terminated == (step == world.steps - 1)
                state = world._after(state, slates, info["clicks"][None].astype(bool))

    @pytest.mark.parametrize("policy", ["random", "greedy", "aware"])
    def test_returns_agree(self, policy: str) -> None:
        agree("SlateRerank-Bored-v0", policy, 60)

    @pytest.mark.slow
    @pytest.mark.parametrize("variant", VARIANTS)
    @pytest.mark.parametrize("policy", ["random", "greedy", "aware"])
    def test_returns_agree_over_500_episodes(self, variant: str, policy: str) -> None:
        agree(variant, policy, 500)


def agree(variant: str, policy: str, episodes: int) -> None:
    """Their mean return and ours differ by no more than four standard errors (24 such comparisons are made)."""
    theirs, world = sardine(variant), preset(f"boredom:sardine/{variant}")
    assert isinstance(world, Boredom)
    ours = play(world, world.references()[policy], 2_000, np.random.default_rng(1))
    rng, returns = np.random.default_rng(2), np.zeros(episodes)
    theirs.reset(seed=3)
    for episode in range(episodes):
        theirs.reset()
        terminated = False
        while not terminated:
            slates = world.references()[policy](_state_of(theirs, world), rng)
            _, reward, terminated, _, _ = theirs.step(slates[0])
            returns[episode] += reward
    other = Episodes(returns, np.zeros(episodes, np.int64))
    assert abs(ours.mean - other.mean) < 4 / 1.96 * np.hypot(ours.margin, other.margin) + 1e-9


def _tastes_of(theirs: Any, seed: int) -> np.ndarray:
    """What their user of a seed liked before the first click, by their lines."""
    from gymnasium.utils.seeding import np_random

    theirs_rng, kept = theirs.np_random, theirs.user_embedd
    theirs.np_random = np_random(seed)[0]
    theirs._reset_user_embedds()
    tastes = theirs.user_embedd
    theirs.np_random, theirs.user_embedd = theirs_rng, kept
    return tastes[None].astype(np.float32)


def _state_of(theirs: Any, world: Boredom) -> Listeners:
    """Their user as a state of ours."""
    state = user(world, [])
    topics, steps = list(theirs.clicked_item_topics), list(theirs.clicked_step)
    recent, stamps = state.recent.copy(), np.full_like(state.stamps, NEVER)
    recent[0, : len(topics)], stamps[0, : len(steps)] = topics, np.array(steps, int) - 1
    return replace(
        state,
        age=np.array([theirs.t - 1], np.int32),
        tastes=theirs.user_embedd[None].astype(np.float32),
        recent=recent,
        stamps=stamps,
        rest=np.where(theirs.bored, theirs.bored_timeout, 0)[None].astype(np.int8),
    )
