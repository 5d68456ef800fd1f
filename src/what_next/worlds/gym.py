"""Worlds as Gymnasium environments (extra `sim`): importing this module registers them for `gymnasium.make`.

    import gymnasium, what_next.worlds.gym
    env = gymnasium.make("what_next/Boredom-v0", preset="SlateTopK-Bored-v0", ideal=True)
    envs = gymnasium.make_vec("what_next/Boredom-v0", num_envs=4096)

Settings of the world are further arguments. An action is a slate; with `Points` around it, a point in item space.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt64

from what_next.errors import CatalogueError, MissingExtraError, SetupError, no_setting
from what_next.worlds import OWN, Observation, Streams, World, known_worlds, preset
from what_next.worlds.base import best

try:
    import gymnasium
except ModuleNotFoundError:
    raise MissingExtraError("gymnasium", "sim", "A world as an environment of Gymnasium") from None

from gymnasium import spaces
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorActionWrapper, VectorEnv
from gymnasium.vector.utils import batch_space

Seen = np.ndarray | dict[str, np.ndarray]
"""An environment's observation: only the numbers if ideal; otherwise with the last slate and its clicks."""


def world_of(world: str | World, variant: str | None, settings: dict[str, Any]) -> World:
    """The world from the arguments of `gymnasium.make`.

    Raises:
        SetupError: there is no such world, preset or setting.
    """
    if isinstance(world, World):
        return world
    kind = known_worlds().get(world.partition(":")[0])
    odd = [name for name in settings if kind and name not in kind.model_fields]
    if kind and odd:  # raised here, because the environment has arguments that the world does not list
        raise SetupError(f"{kind.called()}: {no_setting(odd[0], [*kind.model_fields, 'preset', 'ideal'])}")
    return preset(f"{world}:{variant}" if variant else world, **settings)


def seen_space(world: World, ideal: bool) -> spaces.Space[Any]:
    """The space of one user's observation. In `items` the number after the last item says that nothing was shown
    yet."""
    low, high = world.bounds(ideal)
    numbers = spaces.Box(low, high, dtype=np.float32)
    if ideal:
        return numbers
    shown = spaces.MultiDiscrete([world.items + 1] * world.slots)
    return spaces.Dict({"shown": shown, "clicks": spaces.MultiBinary(world.slots), "numbers": numbers})


def seen_of(world: World, observation: Observation, ideal: bool) -> Seen:
    """The observation of all users as an element of the space."""
    if ideal:
        return observation.numbers
    shown = np.where(observation.shown < 0, world.items, observation.shown)
    return {"shown": shown, "clicks": observation.clicks.astype(np.int8), "numbers": observation.numbers}


def row_of(seen: Seen, row: int) -> Seen:
    """A copy of one user's part."""
    return {name: values[row].copy() for name, values in seen.items()} if isinstance(seen, dict) else seen[row].copy()


class WorldEnv(gymnasium.Env):
    """One user of a world. The reward is the world's; a time limit truncates, and only a user who leaves terminates."""

    def __init__(
        self,
        world: str | World = "boredom",
        *,
        preset: str | None = None,
        ideal: bool = False,
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        self.world, self.ideal, self.render_mode = world_of(world, preset, settings), ideal, render_mode
        self.observation_space = seen_space(self.world, ideal)
        self.action_space = spaces.MultiDiscrete([self.world.items] * self.world.slots)
        self._streams: Streams | None = None
        self._state: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Seen, dict[str, Any]]:
        """A new user. The same seed gives the same user; without a seed, the next one of the stream."""
        super().reset(seed=seed)
        if seed is not None or self._streams is None:
            self._streams = Streams(_key(self.np_random)[None])
        self._state = self.world.reset(1, self._streams)
        return self._seen(), {}

    def step(self, action: Int[np.ndarray, "slots"]) -> tuple[Seen, float, bool, bool, dict[str, Any]]:
        """Show a slate."""
        assert self._streams is not None, "call reset before step"
        slates = self.world.check(np.asarray(action)[None])
        self._state, feedback = self.world.step(self._state, slates, self._streams)
        truncated = bool(self.world.truncated(self._state)[0])
        return self._seen(), float(feedback.rewards[0]), bool(feedback.terminated[0]), truncated, {}

    def _seen(self) -> Seen:
        return row_of(seen_of(self.world, self.world.observe(self._state, self.ideal), self.ideal), 0)


class WorldVectorEnv(VectorEnv):
    """Many users of a world at once; each evolves bit for bit like a single user with the same seed."""

    def __init__(
        self,
        num_envs: int = 1,
        world: str | World = "boredom",
        *,
        preset: str | None = None,
        ideal: bool = False,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        self.num_envs, self.ideal, self.render_mode = num_envs, ideal, render_mode
        self.world, self.mode = world_of(world, preset, settings), AutoresetMode(autoreset_mode)
        self.metadata = {"render_modes": [], "autoreset_mode": self.mode}
        self.single_observation_space = seen_space(self.world, ideal)
        self.single_action_space = spaces.MultiDiscrete([self.world.items] * self.world.slots)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._streams: Streams | None = None
        self._state: Any = None
        self._ended: Bool[np.ndarray, users] = np.zeros(num_envs, np.bool_)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Seen, dict[str, Any]]:
        """New users; only in the rows of `options["reset_mask"]`, if given."""
        mask = self._mask(options)
        seeds = [seed + row for row in range(self.num_envs)] if isinstance(seed, int) else seed
        if seeds is not None and len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds for {self.num_envs} environments")
        if self._streams is None:
            self._streams = Streams(np.array([_key(np_random(None)[0]) for _ in range(self.num_envs)], np.uint64))
        for row, one in enumerate(seeds or []):
            if mask[row] and one is not None:
                self._streams.keys[row], self._streams.drawn[row] = _key(np_random(one)[0]), 0
        if mask.all() or self._state is None:
            self._state = self.world.reset(self.num_envs, self._streams)
        else:
            self._state = self.world.restart(self._state, np.flatnonzero(mask), self._streams)
        self._ended = self._ended & ~mask
        return self._seen(), {}

    def step(self, actions: Int[np.ndarray, "users slots"]) -> tuple[Seen, Any, Any, Any, dict[str, Any]]:
        """Show each user a slate. Ended users are reset now (NEXT_STEP), were before (SAME_STEP), or must be
        (DISABLED)."""
        assert self._streams is not None, "call reset before step"
        slates, begun = self.world.check(np.asarray(actions)), self._ended
        if begun.any():
            assert self.mode is AutoresetMode.NEXT_STEP, "an environment has ended: reset it before the next step"
            rewards, terminated, truncated = self._step_some(slates, np.flatnonzero(~begun))
            self._state = self.world.restart(self._state, np.flatnonzero(begun), self._streams)
        else:
            self._state, feedback = self.world.step(self._state, slates, self._streams)
            rewards, terminated = feedback.rewards, feedback.terminated
            truncated = self.world.truncated(self._state)
        self._ended = terminated | truncated
        infos = self._begin_anew() if self.mode is AutoresetMode.SAME_STEP and self._ended.any() else {}
        return self._seen(), rewards.astype(np.float64), terminated, truncated, infos

    @property
    def state(self) -> Any:
        """The state of all users, hidden parts included, which the world's references read."""
        return self._state

    def _step_some(self, slates: Int[np.ndarray, "users slots"], rows: Int[np.ndarray, "some"]) -> tuple[Any, Any, Any]:
        """Rewards and ends of some users; the others do not change."""
        assert self._streams is not None
        rewards, terminated, truncated = (np.zeros(self.num_envs, kind) for kind in (np.float32, np.bool_, np.bool_))
        if len(rows):
            some, feedback = self.world.step(self._state.rows(rows), slates[rows], self._streams.of(rows))
            rewards[rows], terminated[rows] = feedback.rewards, feedback.terminated
            truncated[rows] = self.world.truncated(some)
            self._state = self._state.put(rows, some)
        return rewards, terminated, truncated

    def _begin_anew(self) -> dict[str, Any]:
        """Replace ended users by new ones; returns infos with the last observations of the ended ones."""
        last, rows = self._seen(), np.flatnonzero(self._ended)
        infos: dict[str, Any] = {}
        for row in rows.tolist():
            infos = self._add_info(infos, {"final_obs": row_of(last, row), "final_info": {}}, row)
        assert self._streams is not None
        self._state = self.world.restart(self._state, rows, self._streams)
        self._ended = np.zeros(self.num_envs, np.bool_)
        return infos

    def _mask(self, options: dict[str, Any] | None) -> Bool[np.ndarray, "users"]:
        if options is None or "reset_mask" not in options:
            return np.ones(self.num_envs, np.bool_)
        mask = np.asarray(options["reset_mask"])
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise ValueError(f"reset_mask: expected {self.num_envs} booleans, one of them true; found {mask!r}")
        return mask

    def _seen(self) -> Seen:
        return seen_of(self.world, self.world.observe(self._state, self.ideal), self.ideal)


class Points(gymnasium.ActionWrapper, gymnasium.utils.RecordConstructorArgs):
    """Actions are points in item space; the items with the largest inner products are shown, the best first."""

    def __init__(self, env: Any) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self)
        gymnasium.ActionWrapper.__init__(self, env)
        self.world: World = env.unwrapped.world
        self.action_space = spaces.Box(-1.0, 1.0, (self.world.item_vectors.shape[1],), np.float32)

    def action(self, action: Float32[np.ndarray, "dim"]) -> Int[np.ndarray, "slots"]:
        """The slate for a point."""
        return np.asarray(nearest(self.world, np.asarray(action)[None])[0])


class VectorPoints(VectorActionWrapper):
    """`Points` for many users at once."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.world: World = env.unwrapped.world
        self.single_action_space = spaces.Box(-1.0, 1.0, (self.world.item_vectors.shape[1],), np.float32)
        self.action_space = batch_space(self.single_action_space, env.num_envs)

    def actions(self, actions: Float32[np.ndarray, "users dim"]) -> Int[np.ndarray, "users slots"]:
        """The slates for the points."""
        return nearest(self.world, actions)


def nearest(world: World, points: Float32[np.ndarray, "users dim"]) -> Int[np.ndarray, "users slots"]:
    """The items with the largest inner products with each point.

    Raises:
        CatalogueError: a point has another dimension than the item vectors, or is not finite.
    """
    points, dim = np.asarray(points), world.item_vectors.shape[1]
    if points.ndim != 2 or points.shape[1] != dim or not np.isfinite(points).all():
        found = "not all finite" if points.shape[1:] == (dim,) else f"of shape {points.shape[1:]}"
        raise CatalogueError(f"world {world.known_as}: points are {found}; expected {dim} finite numbers each")
    return best(points @ world.item_vectors.T, world.slots)


def _key(rng: np.random.Generator) -> UInt64[np.ndarray, ""]:
    """A random key of a user's stream."""
    return np.asarray(rng.integers(2**64, dtype=np.uint64))


def register() -> None:
    """Register the project's worlds with Gymnasium."""
    for name in (*OWN, "fitted"):
        identity = f"what_next/{name.capitalize()}-v0"
        if identity not in gymnasium.registry:
            gymnasium.register(
                identity,
                entry_point="what_next.worlds.gym:WorldEnv",
                vector_entry_point="what_next.worlds.gym:WorldVectorEnv",
                kwargs={"world": name},
            )


register()
