"""What encoders, rewards and worlds promise: run it on one of your own.

from what_next.testing import check_encoder, check_reward, check_world

check_encoder(MyEncoder)
check_reward(MyReward(cost=2))
check_world(MyWorld())
"""

from dataclasses import fields

import numpy as np

from what_next.errors import SetupError
from what_next.models.encoders import Encoder, EncoderSizes
from what_next.models.encoders.base import check
from what_next.models.items import ItemVectors
from what_next.rewards import Reward
from what_next.rewards.promises import keeps
from what_next.worlds import State, Streams, World

USERS = 5


def check_encoder(kind: type[Encoder]) -> None:
    """Of one layer and of two: shapes, no look ahead, and single steps equal to the pass over a history.

    Training checks an encoder of another package so, too, before its first step.

    Raises:
        SetupError: it says which promise is broken.
    """
    for layers in (1, 2):
        check(kind(ItemVectors(30, 16), EncoderSizes(16, layers, dropout=0.3, max_length=20)))


def check_reward(reward: Reward) -> None:
    """A number within its range for each event, none at padding, and nothing that is not known when it is earned.

    Training checks all but the range, too, before its first step.

    Raises:
        SetupError: it says which promise is broken.
    """
    earned, (low, high) = keeps(reward), reward.range
    if earned.min() < min(low, 0) - 1e-5 or earned.max() > max(high, 0) + 1e-5:
        found = f"{earned.min():g} to {earned.max():g}"
        raise SetupError(f"{reward.key}: gives {found} for made-up events; its range is {low:g} to {high:g}")


def check_world(world: World) -> None:
    """Pure steps, bounds, references whose slates are of the catalogue, and users who do not depend on each other.

    Raises:
        AssertionError: it says which promise is broken.
    """
    _steps_are_pure(world)
    for ideal in (False, True):
        _within_bounds(world, ideal)
    _users_are_apart(world)


def _steps_are_pure(world: World) -> None:
    state = world.reset(USERS, np.random.default_rng(0))
    before = state.rows(np.arange(USERS))
    slates = world.random_slates(state, np.random.default_rng(1))
    (one, first), (two, second) = (world.step(state, slates, np.random.default_rng(2)) for _ in range(2))
    _expect(_same(state, before), world, "a step changes the state that it was given")
    _expect(
        _same(one, two) and np.array_equal(first.rewards, second.rewards), world, "the same draws give another step"
    )
    told = np.array_equal(one.shown, slates) and np.array_equal(one.clicks, first.clicks)
    _expect(told and bool((one.age == 1).all()), world, "after a step, `shown`, `clicks` or `age` are not the step's")
    after = world.restart(one, np.array([2]), np.random.default_rng(3))
    others = np.array([0, 1, 3, 4])
    _expect(_same(after.rows(others), one.rows(others)), world, "where one user begins anew, others change")


def _within_bounds(world: World, ideal: bool) -> None:
    """Observations; and what the references show."""
    rng, (low, high) = np.random.default_rng(0), world.bounds(ideal)
    references = world.references()
    _expect("random" in references, world, f"its references are {list(references)}; `random` is missing")
    for reference in references.values():
        state = world.reset(USERS, rng)
        for _ in range(25):
            numbers = world.observe(state, ideal).numbers
            shape = f"numbers of shape {numbers.shape} and type {numbers.dtype}"
            right = numbers.shape == (USERS, len(low)) == (USERS, len(high)) and numbers.dtype == np.float32
            _expect(right, world, f"{shape}, and bounds of {len(low)} and {len(high)}, with ideal={ideal}")
            inside = (low <= numbers) & (numbers <= high)
            _expect(bool(inside.all()), world, f"numbers {numbers[~inside][:3]} are out of bounds, with ideal={ideal}")
            state, feedback = world.step(state, world.check(reference(state, rng)), rng)
            told = feedback.rewards.shape == feedback.terminated.shape == (USERS,)
            _expect(told and bool(np.isfinite(feedback.rewards).all()), world, f"rewards {feedback.rewards}")
            state = world.restart(state, np.flatnonzero(feedback.terminated | world.truncated(state)), rng)


def _users_are_apart(world: World) -> None:
    """Each user's fate, bit for bit, is the same in a batch and alone: all draw the same count of numbers."""
    rng = Streams(np.random.default_rng(0).integers(2**64, size=USERS, dtype=np.uint64))
    singles = [Streams(rng.keys[row : row + 1]) for row in range(USERS)]
    together, alone = world.reset(USERS, rng), [world.reset(1, single) for single in singles]
    chooser, policies = np.random.default_rng(3), [*world.references().values()]
    for step in range(30):  # who chooses draws from another generator than the users
        slates = policies[step % len(policies)](together, chooser)
        together, feedback = world.step(together, slates, rng)
        ended = feedback.terminated | (together.age >= 11 + np.arange(USERS))
        for row, single in enumerate(singles):
            alone[row], one = world.step(alone[row], slates[row : row + 1], single)
            same = one.rewards[0] == feedback.rewards[row] and one.terminated[0] == feedback.terminated[row]
            _expect(bool(same), world, f"user {row} gets another answer alone than in a batch")
            if ended[row]:
                alone[row] = world.restart(alone[row], np.zeros(1, np.int64), single)
        together = world.restart(together, np.flatnonzero(ended), rng)
        for row in range(USERS):
            same = _same(together.rows(np.array([row])), alone[row])
            _expect(same, world, f"user {row} becomes another one alone than in a batch")


def _same(one: State, other: State) -> bool:
    return all(np.array_equal(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))


def _expect(true: bool, world: World, broken: str) -> None:
    if not true:
        raise AssertionError(f"world {world.known_as}: {broken}")
