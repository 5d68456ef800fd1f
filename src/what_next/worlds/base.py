"""The interface of worlds: simulated users, thousands of whom advance at once.

A world is a frozen settings object with pure functions: `reset` makes users, `step` shows each of them a slate and
returns their feedback, `restart` puts new users where episodes have ended, `observe` returns what an agent may see. The
state holds everything that changes: a frozen dataclass whose arrays have the users as first axis. Only slates are
scored, never the whole catalogue. Randomness is an argument: a NumPy generator for the whole batch, or `Streams`, one
for each user, which make a user's fate independent of the other users in the batch.

    state = world.reset(4096, rng)
    state, feedback = world.step(state, policy(state, rng), rng)
    ended = feedback.terminated | world.truncated(state)
    state = world.restart(state, np.flatnonzero(ended), rng)
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Int32, Int64, UInt64
from pydantic import BaseModel, Field, model_validator

from what_next.errors import CatalogueError, Explained, SetupError, TrainingError

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Streams:
    """A random stream for each user: splitmix64 (Steele et al. 2014) of the user's key and a counter.

    A user's numbers are the same alone and among thousands, at a fraction of the cost of one generator per user.
    """

    def __init__(self, keys: UInt64[np.ndarray, "users"]) -> None:
        self.keys, self.drawn = keys, np.zeros(len(keys), np.uint64)
        self.rows = np.arange(len(keys))

    def of(self, rows: Int[np.ndarray, "some"]) -> "Streams":
        """The streams of some users; they share their counters with this object."""
        some = Streams(self.keys)
        some.drawn, some.rows = self.drawn, self.rows[rows]
        return some

    def uniform(self, *shape: int) -> Float32[np.ndarray, "users *rest"]:
        """For each user an array of uniform numbers in [0, 1)."""
        count = int(np.prod(shape))
        numbers = self.drawn[self.rows, None] + np.arange(1, count + 1, dtype=np.uint64)
        bits: UInt64[np.ndarray, "users count"] = self.keys[self.rows, None] + numbers * GOLDEN
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        self.drawn[self.rows] += np.uint64(count)
        top = ((bits ^ (bits >> np.uint64(31))) >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
        return np.asarray(top.reshape(len(self.rows), *shape))


Draws = np.random.Generator | Streams
"""A source of randomness: one generator for all users of a batch, or a stream for each."""


def uniform(rng: Draws, users: int, *shape: int) -> Float32[np.ndarray, "users *rest"]:
    """For each user an array of uniform numbers in [0, 1)."""
    if isinstance(rng, Streams):
        return rng.uniform(*shape)
    return rng.random((users, *shape), dtype=np.float32)


def integers(rng: Draws, users: int, below: int, *shape: int) -> Int64[np.ndarray, "users *rest"]:
    """For each user an array of integers from 0 to `below - 1`."""
    return (uniform(rng, users, *shape).astype(np.float64) * below).astype(np.int64)


def normal(rng: Draws, users: int, *shape: int) -> Float32[np.ndarray, "users *rest"]:
    """For each user an array of standard normal numbers (Box and Muller 1958)."""
    radius, angle = uniform(rng, users, *shape), uniform(rng, users, *shape)
    return np.asarray(np.sqrt(-2 * np.log1p(-radius)) * np.cos(np.float32(2 * np.pi) * angle))


S = TypeVar("S", bound="State")


@dataclass(frozen=True, eq=False)
class State:
    """The state of each user. Worlds add their own fields.

    Attributes:
        age: steps since the episode began.
        shown: the last slate.
        clicks: which of its items were clicked.
    """

    age: Int32[np.ndarray, "users"]
    shown: Int64[np.ndarray, "users slots"]
    clicks: Bool[np.ndarray, "users slots"]

    def rows(self: "S", rows: Int[np.ndarray, "some"]) -> "S":
        """The rows of some users."""
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def put(self: "S", rows: Int[np.ndarray, "some"], others: "S") -> "S":
        """A copy with some rows replaced."""
        changed = {field.name: getattr(self, field.name).copy() for field in fields(self)}
        for name, values in changed.items():
            values[rows] = getattr(others, name)
        return replace(self, **changed)


@dataclass(frozen=True, eq=False)
class Feedback:
    """The users' reaction to a slate.

    Attributes:
        clicks: which of its items were clicked.
        rewards: the agent's reward; its sum over an episode is to be maximised.
        terminated: who left. A time limit is reported separately (`World.truncated`), because the user would stay.
    """

    clicks: Bool[np.ndarray, "users slots"]
    rewards: Float32[np.ndarray, "users"]
    terminated: Bool[np.ndarray, "users"]


@dataclass(frozen=True, eq=False)
class Observation:
    """What an agent may see of each user.

    Attributes:
        shown: the last slate; for a new user, what the world showed first, or -1.
        clicks: which of its items were clicked.
        numbers: the other observations, in the order and within the bounds of `World.bounds`.
    """

    shown: Int64[np.ndarray, "users slots"]
    clicks: Bool[np.ndarray, "users slots"]
    numbers: Float32[np.ndarray, "users columns"]


OwnState = Any
"""The subclass of `State` that the world in question uses."""
Reference = Callable[[OwnState, Draws], Int64[np.ndarray, "users slots"]]
"""A reference policy: from users, whose hidden state it may read, to slates."""


class World(Explained, BaseModel, ABC, frozen=True, extra="forbid", allow_inf_nan=False):
    """A world: its settings, and how its users react.

    A world defines `reset`, `step`, `observe`, `bounds` and `item_vectors`; the rest has defaults.
    """

    name: str
    slots: int = Field(default=10, ge=1, description="items of a slate")
    items: int = Field(default=1000, ge=1, description="items of the catalogue")
    steps: int | None = Field(default=100, ge=1, description="slates of an episode; none: until the user leaves")
    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of what all users share, such as the items")
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Settings by the names that they have elsewhere."""

    @model_validator(mode="after")
    def _fits(self) -> "World":
        for name in ("slots", "items", "steps"):  # a world of your own may redeclare them without bounds
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}; allowed: a whole number above 0")
        if self.slots > self.items:
            raise ValueError(f"slots is {self.slots}, a slate longer than the catalogue of {self.items} items")
        return self

    @property
    def known_as(self) -> str:
        """Its name in messages and in models."""
        return self.name

    @property
    def item_ids(self) -> Sequence[str | int]:
        """The ids of its items, in the order of their numbers."""
        return range(self.items)

    @property
    def item_labels(self) -> list[str]:
        """The names of the columns of `item_vectors`."""
        return [f"number {column}" for column in range(self.item_vectors.shape[1])]

    @property
    @abstractmethod
    def item_vectors(self) -> Float32[np.ndarray, "items dim"]:
        """Attributes of the items, which an agent may be given."""

    @abstractmethod
    def reset(self, users: int, rng: Draws) -> OwnState:
        """New users at the beginning of their episodes."""

    @abstractmethod
    def step(self, state: OwnState, slates: Int[np.ndarray, "users slots"], rng: Draws) -> tuple[OwnState, Feedback]:
        """Show each user a slate, which may repeat items. Slates are not validated here; see `check`."""

    @abstractmethod
    def observe(self, state: OwnState, ideal: bool = False) -> Observation:
        """The observation after a step; `ideal`: with all of the relevant hidden state."""

    @abstractmethod
    def bounds(self, ideal: bool = False) -> tuple[Float32[np.ndarray, "columns"], Float32[np.ndarray, "columns"]]:
        """The least and the largest value of each of the observation's numbers."""

    def references(self) -> Mapping[str, Reference]:
        """Policies to compare every result with: `random`, and those of the following that the world has.

        `popular` (`_popular_slate`, the same for all); `greedy` (`_greedy`: knows the user, and looks one step ahead);
        `aware` (`_aware`: a handmade rule that knows the whole hidden state).
        """
        found: dict[str, Reference] = {"random": self.random_slates}
        if (slate := getattr(self, "_popular_slate", None)) is not None:
            found["popular"] = lambda state, rng: np.repeat(slate[None], len(state.age), axis=0)
        own = {name: getattr(self, f"_{name}", None) for name in ("greedy", "aware")}
        return found | {name: policy for name, policy in own.items() if policy is not None}

    def restart(self, state: OwnState, rows: Int[np.ndarray, "some"], rng: Draws) -> OwnState:
        """Replace the users in `rows`, whose episodes have ended, by new ones."""
        if not len(rows):
            return state
        return state.put(rows, self.reset(len(rows), rng.of(rows) if isinstance(rng, Streams) else rng))

    def truncated(self, state: OwnState) -> Bool[np.ndarray, "users"]:
        """Whether each user's episode has reached the time limit."""
        return state.age >= self.steps if self.steps else np.zeros(len(state.age), np.bool_)

    @classmethod
    def called(cls) -> str:
        """Its name in messages about its settings."""
        return f"world {cls.model_fields['name'].default}"

    def check(self, slates: np.ndarray) -> Int64[np.ndarray, "users slots"]:
        """A copy of slates from outside, in the form that `step` takes.

        Raises:
            CatalogueError: their shape or type is wrong, or an item is not in the catalogue.
        """
        slates = np.asarray(slates)
        if slates.ndim != 2 or slates.shape[1] != self.slots or not np.issubdtype(slates.dtype, np.integer):
            raise CatalogueError(
                f"world {self.known_as}: slates are {slates.dtype} of shape {slates.shape}; expected whole numbers of "
                f"shape (users, {self.slots})"
            )
        if slates.size and not (slates.min() >= 0 and slates.max() < self.items):
            wrong = slates[(slates < 0) | (slates >= self.items)][0]
            raise CatalogueError(f"world {self.known_as}: item {wrong} is not in the catalogue of {self.items} items")
        return slates.astype(np.int64)

    def random_slates(self, state: OwnState, rng: Draws) -> Int64[np.ndarray, "users slots"]:
        """Random items, uniformly with replacement."""
        return integers(rng, len(state.age), self.items, self.slots)


def unit(vectors: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
    """The vectors scaled to length 1."""
    return np.asarray(vectors / np.sqrt(np.square(vectors).sum(1, keepdims=True)))


def sigmoid(odds: Float[np.ndarray, "*grid"]) -> Float[np.ndarray, "*grid"]:
    """The probability for log odds."""
    with np.errstate(over="ignore"):
        chance: Float[np.ndarray, "*grid"] = 1 / (1 + np.exp(-odds))
    return chance


def count(flags: Bool[np.ndarray, "users width"]) -> Int64[np.ndarray, "users"]:
    """The number of true flags of each user; NumPy's sum along such a short axis takes five times as long."""
    return np.asarray(np.ascontiguousarray(flags.T).sum(0, dtype=np.int64))


def tally(
    topics: Int[np.ndarray, "users width"], kept: Bool[np.ndarray, "users width"], width: int
) -> Int64[np.ndarray, "users topics"]:
    """For each user, how many of the `kept` places have each of `width` topics."""
    users = len(topics)
    cells = (topics + np.arange(0, users * width, width)[:, None])[kept]
    return np.bincount(cells, minlength=users * width).reshape(users, width)


def best(scores: Float32[np.ndarray, "users items"], slots: int) -> Int64[np.ndarray, "users slots"]:
    """The indices of the largest scores of each row, the largest first."""
    if slots < scores.shape[1]:
        places = np.argpartition(scores, -slots, axis=1)[:, -slots:]
    else:
        places = np.broadcast_to(np.arange(slots), scores.shape)
    order = np.argsort(-np.take_along_axis(scores, places, 1), axis=1, kind="stable")
    return np.take_along_axis(places, order, 1)


@dataclass(frozen=True, eq=False)
class Episodes:
    """The returns of a policy, one episode for each user.

    Attributes:
        returns: the sum of the rewards.
        lengths: slates until the user left or the time limit was reached.
    """

    returns: Float64[np.ndarray, "users"]
    lengths: Int64[np.ndarray, "users"]

    def __repr__(self) -> str:
        users, steps = len(self.returns), self.lengths.mean()
        return f"Episodes(of {users:,} users: mean return {self.mean:.4g} ± {self.margin:.2g}, mean length {steps:.4g})"

    @property
    def mean(self) -> float:
        """Mean of the returns."""
        return float(self.returns.mean())

    @property
    def margin(self) -> float:
        """Half the width of the mean's 95 % interval, by the normal approximation."""
        return float(1.96 * self.returns.std(ddof=1) / np.sqrt(len(self.returns)))


def play(world: World, policy: Reference, users: int, rng: Draws, steps: int | None = None) -> Episodes:
    """Play one episode for each of some users.

    Args:
        policy: if it has a method `keep`, that gets the rows of the users who stay whenever others leave.
        steps: the most slates of an episode, if the world's own time limit is not lower.

    Raises:
        SetupError: there are fewer than two users, or neither the world nor the caller sets a time limit.
        CatalogueError: the policy does not return a slate of catalogue items for each user.
        TrainingError: a reward is not a number.
    """
    if not isinstance(users, int | np.integer) or users < 2:
        raise SetupError(f"episodes is {users!r}; a mean with its interval is of several: give 2 or more")
    limit = steps or limit_of(world)
    returns, lengths = np.zeros(users), np.zeros(users, np.int64)
    for going, _, _, feedback in played(world, policy, users, rng, limit):
        returns[going] += feedback.rewards
        lengths[going] += 1
    if not np.isfinite(returns).all():
        raise TrainingError(f"world {world.known_as}: a return is not a number")
    return Episodes(returns, lengths)


def limit_of(world: World) -> int:
    """The time limit of a world's episodes; a `SetupError` if it has none."""
    if world.steps is None:
        raise SetupError(f"world {world.known_as}: has no time limit, so an episode may never end; set steps")
    return world.steps


def played(
    world: World, policy: Reference, users: int, rng: Draws, limit: int
) -> Iterator[tuple[Int64[np.ndarray, "going"], OwnState, OwnState, Feedback]]:
    """One episode for each of some users, slate by slate: the users left, their states before and after, and
    feedback."""
    state, going = world.reset(users, rng), np.arange(users)
    for _ in range(limit):
        before, slates = state, world.check(policy(state, rng))
        if len(slates) != len(going):
            raise CatalogueError(f"world {world.known_as}: {len(slates)} slates for {len(going)} users; give each one")
        state, feedback = world.step(before, slates, rng)
        yield going, before, state, feedback
        stay = np.flatnonzero(~(feedback.terminated | world.truncated(state)))
        if not len(stay):
            return
        if len(stay) < len(going):
            going, state = going[stay], state.rows(stay)
            if hasattr(policy, "keep"):
                policy.keep(stay)
            rng = rng.of(stay) if isinstance(rng, Streams) else rng
