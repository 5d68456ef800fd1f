"""What every world and every preset keeps: pure steps, bounds, users apart, one clear message for a mistake."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

import what_next as wn
from what_next.errors import CatalogueError, MissingExtraError, SetupError, TrainingError
from what_next.testing import check_world
from what_next.worlds import Choice, Draws, Feedback, State, Streams, World, known_worlds, play, preset
from what_next.worlds.base import best, integers, normal, uniform
from what_next.worlds.fitted import write_world

from ..shapes import unchecked

NAMES = [
    name for world, kind in known_worlds().items() for name in (world, *(f"{world}:{one}" for one in kind.presets))
]
EVERY = pytest.mark.parametrize("name", NAMES)


FITTED = {"path": ""}


@pytest.fixture(scope="module", autouse=True)
def small_fitted_world(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The file of a world of ratings: three users, eight items, three positions."""
    rng = np.random.default_rng(0)
    arrays = {"users": rng.normal(size=(3, 2)), "items": rng.normal(size=(8, 2)), "positions": [0, -0.1, -0.2]}
    told = {"kind": "ratings", "items": 8, "positions": 3, "range": [1, 5], "levels": 4, "noise": 1, "leave": 0.1}
    path = tmp_path_factory.mktemp("fitted") / "world.safetensors"
    weights = {"weights": np.array([1, 2, 3], np.float32)}
    write_world({name: np.array(values, np.float32) for name, values in arrays.items()} | weights, told, path)
    FITTED["path"] = str(path)


def world_of(name: str, **changes: Any) -> World:
    if name == "fitted":
        changes = {"slots": 2, "steps": 30, **FITTED, **changes}
    try:
        world = preset(name, **changes)
        assert len(world.item_vectors)
    except MissingExtraError as missing:
        pytest.skip(str(missing))
    return world


def same(one: State, other: State) -> bool:
    return all(np.array_equal(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))


def streams(users: int, seed: int = 0) -> Streams:
    return Streams(np.random.default_rng(seed).integers(2**64, size=users, dtype=np.uint64))


class TestEveryWorld:
    @EVERY
    def test_it_keeps_what_all_promise(self, name: str) -> None:
        check_world(world_of(name))

    @EVERY
    def test_references_make_slates_of_the_catalogue(self, name: str) -> None:
        world, rng = world_of(name), np.random.default_rng(0)
        assert list(world.references()) == ["random", "popular", "greedy", "aware"]
        state = world.reset(6, rng)
        for reference in world.references().values():
            slates = world.check(reference(state, rng))
            assert slates.shape == (6, world.slots)

    @EVERY
    def test_who_begins_anew_is_at_the_start_and_nobody_means_no_change(self, name: str) -> None:
        world, rng = world_of(name), np.random.default_rng(0)
        state = world.reset(4, rng)
        state, _ = world.step(state, world.random_slates(state, rng), rng)
        assert world.restart(state, np.array([2]), rng).age.tolist() == [1, 1, 0, 1]
        assert world.restart(state, np.array([], np.int64), rng) is state


class TestMistakes:
    @pytest.mark.parametrize(
        ("name", "changes", "told"),
        [
            ("bored", {}, "world 'bored' is not known; there are boredom"),
            ("fitted", {}, "world fitted: path is missing, the file that what-next data world wrote; give that as the"),
            ("boredom:SlateTopK-Bored", {}, "the nearest is 'SlateTopK-Bored-v0'"),
            ("boredom", {"slots": 2000}, "slots is 2000, a slate longer than the catalogue of 1000 items"),
            ("boredom", {"slope": -1}, "slope is -1: "),
            ("boredom:sardine/SlateTopK-Bored-v0", {"items": 50}, "items is 50 and topics is 10, and sardine_focused_"),
            ("boredom:sardine/SlateRerank-Bored-v0", {"topics": 20}, "has 10 items of 10 topics; leave both out, or"),
            ("boredom", {"slope": float("nan")}, "slope is nan: "),
            ("boredom", {"speed": 1}, "there is no setting 'speed'; the nearest is 'seed'; allowed: name, slots"),
        ],
    )
    def test_of_names_and_settings(self, name: str, changes: dict[str, Any], told: str) -> None:
        with pytest.raises(SetupError) as refused:
            preset(name, **changes)
        assert told in str(refused.value)

    @pytest.mark.parametrize(
        ("slates", "told"),
        [
            ([[0] * 9], r"shape \(1, 9\); expected whole numbers of shape \(users, 10\)"),
            ([[0.5] * 10], "slates are float64"),
            ([[0] * 9 + [1000]], "item 1000 is not in the catalogue of 1000 items"),
            ([[-1] * 10], "item -1 is not in the catalogue"),
        ],
    )
    def test_of_slates(self, slates: list[list[float]], told: str) -> None:
        with pytest.raises(CatalogueError, match=told):
            preset("boredom").check(np.array(slates))

    def test_an_episode_without_an_end_is_refused(self) -> None:
        world = preset("boredom", steps=None)
        policy = world.references()["random"]
        with pytest.raises(SetupError, match="no time limit"):
            play(world, policy, 2, np.random.default_rng(0))
        assert play(world, policy, 2, np.random.default_rng(0), steps=3).lengths.tolist() == [3, 3]

    @pytest.mark.parametrize("episodes", [-1, 0, 1, 2.5])
    def test_of_too_few_episodes(self, episodes: int) -> None:
        world = preset("boredom")
        with unchecked(), pytest.raises(SetupError, match=f"episodes is {episodes}; .* give 2 or more"):
            wn.play(world.references()["random"], world, episodes=episodes)

    @pytest.mark.parametrize(
        ("policy", "seed", "told"), [(3, 0, "policy is 3; expected a model"), (min, -1, "seed is -1; allowed")]
    )
    def test_of_what_is_played(self, policy: Any, seed: int, told: str) -> None:
        with unchecked(), pytest.raises(SetupError, match=told):
            wn.play(policy, "boredom", seed=seed)

    def test_of_a_world_that_declares_settings_without_their_bounds(self) -> None:
        unbounded = type("Unbounded", (Choice,), {"__annotations__": {"steps": int}, "steps": 10})
        with pytest.raises(SetupError, match="world choice: steps is 0; allowed: a whole number above 0"):
            unbounded(steps=0)

    def test_a_return_that_is_no_number_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        kind = known_worlds()["boredom"]
        step = kind.step

        def broken(self: World, state: Any, slates: Any, rng: Draws) -> tuple[Any, Feedback]:
            after, feedback = step(self, state, slates, rng)
            return after, Feedback(feedback.clicks, feedback.rewards * np.float32(np.nan), feedback.terminated)

        monkeypatch.setattr(kind, "step", broken)
        with pytest.raises(TrainingError, match="not a number"):
            play(preset("boredom"), preset("boredom").references()["random"], 2, np.random.default_rng(0))


class TestStreams:
    def test_the_numbers_are_those_of_splitmix64(self) -> None:
        """The first outputs of its reference implementation for the seed 1234567."""
        known = [6457827717110365317, 3203168211198807973, 9817491932198370423]
        drawn = Streams(np.array([1234567], np.uint64)).uniform(3)
        assert drawn[0].tolist() == [(number >> 40) / 2**24 for number in known]

    def test_what_is_drawn_of_some_is_drawn(self) -> None:
        one, other = streams(3), streams(3)
        first = one.of(np.array([0, 2])).uniform(2)
        assert np.array_equal(first, other.uniform(2)[[0, 2]])
        assert np.array_equal(one.uniform(1)[[0, 2]], other.uniform(1)[[0, 2]])
        assert one.drawn.tolist() == [3, 1, 3]

    @pytest.mark.parametrize("rng", [np.random.default_rng(0), streams(20_000)], ids=["generator", "streams"])
    def test_draws_are_uniform_whole_and_normal(self, rng: Draws) -> None:
        numbers = uniform(rng, 20_000, 2)
        assert ((numbers >= 0) & (numbers < 1)).all()
        assert abs(numbers.mean() - 0.5) < 0.008
        assert abs(np.corrcoef(numbers.T)[0, 1]) < 0.03
        assert np.abs(np.bincount(integers(rng, 20_000, 4, 1)[:, 0]) / 20_000 - 0.25).max() < 0.015
        drawn = normal(rng, 20_000)
        assert abs(drawn.mean()) < 0.03
        assert abs(drawn.std() - 1) < 0.02
        assert abs((drawn < -1.6449).mean() - 0.05) < 0.006


def test_the_best_come_in_order() -> None:
    scores = np.array([[1.0, 5.0, 3.0, 4.0]], np.float32)
    assert best(scores, 2).tolist() == [[1, 3]]
    assert best(scores, 4).tolist() == [[1, 3, 2, 0]]


def test_a_preset_with_sardines_items_says_when_they_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("what_next.worlds.boredom.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"SARDINE's own items needs sardine-rec.*what-next-rl\[sim\]"):
        preset("boredom:sardine/SlateTopK-Bored-v0").item_vectors  # noqa: B018
