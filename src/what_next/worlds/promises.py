"""The contract of every world, checked on a few users."""

from dataclasses import fields

import numpy as np

from what_next.errors import SetupError
from what_next.worlds.base import Feedback, Observation, State, World

USERS = 5


def check_promises(world: World) -> None:
    """Check a world: pure steps, shapes, bounds, and references whose slates are of the catalogue.

    Raises:
        CatalogueError: a reference shows items that are not in the catalogue.
        SetupError: another check failed.
    """
    shape = world.item_vectors.shape
    expect(len(shape) == 2 and shape[0] == world.items, world, f"items is {world.items}, and item_vectors has {shape}")
    expect(bool(np.isfinite(world.item_vectors).all()), world, "item_vectors has what is no finite number")
    _steps_are_pure(world)
    for ideal in (False, True):
        _within_bounds(world, ideal)


def check_own(world: World) -> None:
    """Check a custom world. Ours are tested, and an environment of Gymnasium is not a pure function.

    Raises:
        CatalogueError, SetupError: as `check_promises`.
    """
    if not type(world).__module__.startswith("what_next."):
        check_promises(world)


def _steps_are_pure(world: World) -> None:
    state = world.reset(USERS, np.random.default_rng(0))
    right = isinstance(state, State) and len(state.age) == USERS
    expect(right, world, f"reset gives a {type(state).__name__}; expected a State of as many users as it was asked for")
    before = state.rows(np.arange(USERS))
    slates = world.random_slates(state, np.random.default_rng(1))
    steps: list[object] = [world.step(state, slates, np.random.default_rng(2)) for _ in range(2)]
    pairs = [found for found in steps if isinstance(found, tuple) and len(found) == 2]
    expect(len(pairs) == 2, world, "a step gives a pair, the next State and Feedback; found something else")
    (one, first), (two, second) = pairs
    expect(
        isinstance(one, State) and isinstance(first, Feedback) and _fits(first, slates),
        world,
        "a step gives a State, and Feedback with clicks of the shape of the slates, a reward and whether the user left "
        "(True or False) for each user; found others",
    )
    finite(first, world)
    expect(same(state, before), world, "a step changes the state that it was given")
    expect(same(one, two) and np.array_equal(first.rewards, second.rewards), world, "the same draws give another step")
    told = np.array_equal(one.shown, slates) and np.array_equal(one.clicks, first.clicks)
    expect(told and bool((one.age == 1).all()), world, "after a step, `shown`, `clicks` or `age` are not the step's")
    after = world.restart(one, np.array([2]), np.random.default_rng(3))
    others = np.array([0, 1, 3, 4])
    expect(same(after.rows(others), one.rows(others)), world, "where one user begins anew, others change")
    new, begun = after.rows(np.array([2])), world.reset(1, np.random.default_rng(3))
    right = np.array_equal(new.age, begun.age) and np.array_equal(new.shown < 0, begun.shown < 0)
    expect(right, world, "after restart, `age` or `shown` of who begins anew are not as reset makes them")


def _fits(feedback: Feedback, slates: np.ndarray) -> bool:
    """Whether feedback holds arrays, with clicks for these slates and a reward and an end for each user."""
    clicks, rewards, ends = feedback.clicks, feedback.rewards, feedback.terminated
    arrays = all(isinstance(one, np.ndarray) for one in (clicks, rewards, ends))
    shapes = arrays and (clicks.shape, rewards.shape, ends.shape) == (slates.shape, (USERS,), (USERS,))
    return shapes and ends.dtype == np.bool_


def _within_bounds(world: World, ideal: bool) -> None:
    """Check observations, and the references' slates."""
    rng, (low, high) = np.random.default_rng(0), world.bounds(ideal)
    expect(
        np.ndim(low) == np.ndim(high) == 1 and bool(np.isfinite(low).all() and np.isfinite(high).all()),
        world,
        f"bounds of {low!s:.80} and {high!s:.80}, with ideal={ideal}; expected two arrays of finite numbers, because "
        "agents read the numbers on this scale: give a range, and let observe clip the numbers to it",
    )
    for reference in (world.random_slates, *world.references().values()):
        state = world.reset(USERS, rng)
        for _ in range(25):
            seen = world.observe(state, ideal)
            _slates(seen, world)
            numbers = seen.numbers
            shape = f"numbers of shape {numbers.shape} and type {numbers.dtype}"
            right = numbers.shape == (USERS, len(low)) == (USERS, len(high)) and numbers.dtype == np.float32
            expect(right, world, f"{shape}, and bounds of {len(low)} and {len(high)}, with ideal={ideal}")
            inside = (low <= numbers) & (numbers <= high)
            expect(bool(inside.all()), world, f"numbers {numbers[~inside][:3]} are out of bounds, with ideal={ideal}")
            before = state.rows(np.arange(USERS))
            slates = world.check(reference(state, rng))
            expect(len(slates) == USERS, world, f"a reference gives {len(slates)} slates for {USERS} users")
            expect(same(state, before), world, "a reference changes the state that it was given")
            after, feedback = world.step(state, slates, rng)
            expect(same(state, before), world, "a step changes the state that it was given")
            finite(feedback, world)
            state = after
            state = world.restart(state, np.flatnonzero(feedback.terminated | world.truncated(state)), rng)


def _slates(seen: Observation, world: World) -> None:
    """Raises a `SetupError` where the shown items are no slate, or the clicks do not fit them."""
    shape, shown, clicks = (USERS, world.slots), np.asarray(seen.shown), np.asarray(seen.clicks)
    outside = shown[(shown < -1) | (shown >= world.items)]
    right = shown.shape == clicks.shape == shape and np.issubdtype(shown.dtype, np.integer) and clicks.dtype == np.bool_
    expect(
        right and not outside.size,
        world,
        f"an observation shows {shown.dtype} of shape {shown.shape}, {outside.size} of which are no items of the "
        f"catalogue {outside[:3]}, and clicks {clicks.dtype} of shape {clicks.shape}; expected items, or -1 for nothing"
        f", and booleans, both of shape {shape}",
    )


def finite(feedback: Feedback, world: World) -> None:
    """Raises a `SetupError` where a reward is not a finite number."""
    expect(bool(np.isfinite(feedback.rewards).all()), world, "a reward is not a number")


def same(one: State, other: State) -> bool:
    """Whether two states are equal."""
    return all(np.array_equal(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))


def expect(true: bool, world: World, broken: str) -> None:
    """Raises a `SetupError` unless `true`."""
    if not true:
        raise SetupError(f"world {world.known_as}: {broken}")
