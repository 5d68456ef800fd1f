"""Environments of other packages as worlds (extra `sim`): from Gymnasium, or objects with `reset` and `step`.

    world = preset("gym:sardine/SlateTopK-Bored-v0")

An action is an item (`Discrete`), a slate (`MultiDiscrete`) or a point (`Box`). A `Layout` interprets the observations
(`what_next.worlds.layouts`).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float32, Int, Int64
from pydantic import Field, PrivateAttr

from what_next.errors import MissingExtraError, SetupError, WhatNextError
from what_next.worlds.base import Draws, Feedback, Observation, Reference, State, World, integers
from what_next.worlds.layouts import Layout, Numbers, Own, RecSim, Sardine, told

LAYOUTS: tuple[type[Layout], ...] = (Sardine, RecSim, Own, Numbers)
"""Known layouts; the first one that fits is used."""
REGISTERS: Mapping[str, tuple[str, str]] = {
    "sardine": ("sardine", "sardine-rec"),
    "what_next": ("what_next.worlds.gym", "gymnasium"),
}
"""By the namespace of an environment: the module that registers it with Gymnasium, and the library that contains it.
Other packages register theirs by an entry point of the group `gymnasium.envs`."""
LONG = 1000
"""Slates of an episode if an environment has no time limit."""


@dataclass(frozen=True, eq=False)
class Visits(State):
    """The users of an environment.

    Attributes:
        envs: an environment for each user.
        numbers: the other observations; `ideal`: with the hidden state, or no columns where that is unknown.
        cut: whether the episode has reached the environment's own time limit.
    """

    envs: np.ndarray
    numbers: Float32[np.ndarray, "users columns"]
    ideal: Float32[np.ndarray, "users hidden"]
    cut: Bool[np.ndarray, "users"]


class EnvironmentWorld(World):
    """An environment of Gymnasium, with one copy for each user.

    Unlike in other worlds, a step mutates the environments in the given state, so earlier states are lost.
    """

    name: Literal["gym"] = "gym"
    id: str = Field(description="the environment's id in Gymnasium")
    _make: Callable[[], Any] = PrivateAttr()
    _layout: Layout = PrivateAttr()

    @classmethod
    def of(cls, env: Any) -> "EnvironmentWorld":
        """The world of an environment, or of an id that Gymnasium knows.

        Args:
            env: copied for each user; it is not changed itself.

        Raises:
            SetupError: there is no such environment, it cannot be made or copied, or no layout describes its
                observations.
            MissingExtraError: Gymnasium, or the library that has the environment, is not installed.
        """
        make = _maker(env) if isinstance(env, str) else lambda: deepcopy(env)
        name = env if isinstance(env, str) else getattr(getattr(env, "spec", None), "id", type(env).__name__)
        if hasattr(env, "single_action_space"):
            raise SetupError(f"environment {name}: is a vector of several; give one, and `world.users` for its copies")
        with _strange(name, "cannot be made or copied", "give the id by which Gymnasium makes it anew"):
            first = make()
        layout = layout_of(first, name)
        limit = _limit(first) or layout.steps or LONG
        found = cls(id=name, slots=layout.slots, items=layout.items, steps=limit)
        assert isinstance(found, EnvironmentWorld)
        found._make, found._layout = make, layout
        return found

    @property
    def known_as(self) -> str:
        """See `World.known_as`."""
        return f"gym:{self.id}"

    @cached_property
    def item_vectors(self) -> Float32[np.ndarray, "items dim"]:
        """The vectors from the layout; no columns where it has none."""
        return self._layout.vectors

    def reset(self, users: int, rng: Draws) -> Visits:
        """See `World.reset`."""
        envs = np.empty(users, object)
        envs[:] = [self._make() for _ in range(users)]
        return self._begin(envs, rng)

    def restart(self, state: Visits, rows: Int[np.ndarray, "some"], rng: Draws) -> Visits:
        """See `World.restart`; the environments are reused."""
        return state.put(rows, self._begin(state.envs[rows], rng)) if len(rows) else state

    def _begin(self, envs: np.ndarray, rng: Draws) -> Visits:
        layout, users = self._layout, len(envs)
        seeds = integers(rng, users, 2**31 - 1).tolist()
        with _strange(self.id, "reset(seed=...) fails, which should give an observation and a dictionary"):
            observations = [layout.reset(env, seed) for env, seed in zip(envs, seeds, strict=True)]
        nothing = np.full((users, self.slots), -1, np.int64)
        return self._seen(envs, observations, nothing, np.zeros(users, np.int32), np.zeros(users, np.bool_))

    def step(self, state: Visits, slates: Int[np.ndarray, "users slots"], rng: Draws) -> tuple[Visits, Feedback]:
        """See `World.step`; the environments use their own random numbers."""
        layout = self._layout
        with _strange(self.id, "step(action) fails, which should give an observation, a reward, two ends and info"):
            steps = [layout.step(env, slate) for env, slate in zip(state.envs, slates, strict=True)]
        observations = [one.observation for one in steps]
        rewards = np.array([one.reward for one in steps], np.float32)
        terminated, cut = (np.array([getattr(one, end) for one in steps], np.bool_) for end in ("left", "cut"))
        after = self._seen(state.envs, observations, slates, state.age + np.int32(1), cut)
        return after, Feedback(after.clicks, rewards, terminated)

    def _seen(
        self,
        envs: np.ndarray,
        observations: list[Any],
        slates: Int64[np.ndarray, "users slots"],
        age: np.ndarray,
        cut: Bool[np.ndarray, "users"],
    ) -> Visits:
        with _strange(self.id, "an observation is none of its space"):
            seen = [self._layout.read(*one) for one in zip(envs, observations, slates, strict=True)]
            numbers = np.array([one.numbers for one in seen], np.float32).reshape(len(envs), -1)
            ideal = np.array([one.ideal for one in seen], np.float32).reshape(len(envs), -1)
            shown = np.array([one.shown for one in seen], np.int64)
            clicks = np.array([one.clicks for one in seen], np.bool_)
        if numbers.shape[1] != (count := len(self._layout.bounds[0])) or not np.isfinite(numbers).all():
            strange = numbers[~np.isfinite(numbers).all(1)] if numbers.shape[1] == count else numbers
            raise SetupError(f"environment {self.id}: an observation is {strange[0]}; its space says {count} numbers")
        return Visits(age, shown, clicks, envs, numbers, ideal, cut)

    def truncated(self, state: Visits) -> Bool[np.ndarray, "users"]:
        """See `World.truncated`."""
        return np.asarray(state.cut | super().truncated(state))

    def observe(self, state: Visits, ideal: bool = False) -> Observation:
        """See `World.observe`."""
        return Observation(state.shown, state.clicks, state.ideal if ideal else state.numbers)

    def bounds(self, ideal: bool = False) -> tuple[Float32[np.ndarray, "columns"], Float32[np.ndarray, "columns"]]:
        """See `World.bounds`; 0 and 1 where the environment has no bounds.

        Raises:
            SetupError: `ideal` is set, and the layout has no hidden state.
        """
        found = self._layout.hidden if ideal else self._layout.bounds
        if found is None:
            raise SetupError(
                f"environment {self.id}: the hidden state of its users is not known; set `world.ideal, no`"
            )
        return found

    def references(self) -> Mapping[str, Reference]:
        """Random slates, and the layout's greedy policy if there is one."""
        layout = self._layout

        def greedy(state: Visits, rng: Draws) -> Int64[np.ndarray, "users slots"]:
            return np.stack([layout.greedy(env) for env in state.envs])  # type: ignore[misc]

        return {"random": self.random_slates, **({"greedy": greedy} if layout.greedy else {})}


@contextmanager
def _strange(name: str, what: str, hint: str = "") -> Iterator[None]:
    """Turn any error of foreign code inside into one message."""
    try:
        yield
    except WhatNextError:
        raise
    except Exception as error:
        raise SetupError(f"environment {name}: {what} ({error!r}){hint and '; '}{hint}") from error


def _limit(env: Any) -> int | None:
    """The lowest time limit of an environment: of its id, or of a `TimeLimit` around it; None if there is none."""
    limits: list[Any] = []
    while env is not None:
        own = getattr(env, "__dict__", {})
        limits += [own.get("_max_episode_steps"), getattr(getattr(env, "spec", None), "max_episode_steps", None)]
        env = own.get("env")
    return min((one for one in limits if isinstance(one, int)), default=None)


def layout_of(env: Any, name: str) -> Layout:
    """The layout of an environment's observations."""
    for kind in LAYOUTS:
        if kind.fits(env):
            return kind(env, name)
    raise SetupError(
        f"environment {name}: nothing here knows the layout of its observations, {told(env.observation_space)}; known "
        "are SARDINE's, RecSim's, those of what_next's own environments, and plain numbers: "
        "gymnasium.wrappers.FlattenObservation makes plain numbers of any other"
    )


def _maker(name: str) -> Callable[[], Any]:
    """A function that makes the environment of an id."""
    try:
        import gymnasium
    except ModuleNotFoundError:
        raise MissingExtraError("gymnasium", "sim", f"The environment {name}") from None
    module, library = REGISTERS.get(name.partition("/")[0], (None, ""))
    if module is not None:
        try:
            import_module(module)
        except ModuleNotFoundError:
            raise MissingExtraError(library, "sim", f"The environment {name}") from None
    if name not in gymnasium.registry:
        raise SetupError(
            f"Gymnasium knows no environment {name!r}; install the package that registers it (by an entry point of "
            "gymnasium.envs), or give the environment itself to wn.play or wn.simulate"
        )
    return lambda: gymnasium.make(name, disable_env_checker=True)
