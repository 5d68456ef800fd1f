"""Interprets the observations of an environment: the shown slate, the clicks, and other numbers."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float32, Int, Int64

from what_next.errors import SetupError

SCATTERED = 1000
"""Candidate points of an environment whose actions are points."""
Bounds = tuple[Float32[np.ndarray, "columns"], Float32[np.ndarray, "columns"]]


@dataclass(frozen=True, eq=False)
class Seen:
    """One user's observation: see `worlds.Observation`; `ideal`: the numbers with all of the hidden state."""

    shown: Int[np.ndarray, "slots"]
    clicks: np.ndarray
    numbers: np.ndarray
    ideal: np.ndarray


@dataclass(frozen=True, eq=False)
class Step:
    """The result of an environment's step: `left` if the user left, `cut` at a time limit."""

    observation: Any
    reward: float
    left: bool
    cut: bool


class Layout(ABC):
    """How to act on an environment and read it. Layouts define `fits` and `read`, and may override the rest.

    Attributes:
        slots, items: size of a slate, and of the catalogue.
        steps: the time limit, if it is not in the environment's registration.
        bounds, hidden: least and largest value of each observed number; and with the hidden state, if known.
        greedy: the best slate for a user now, if known.
    """

    steps: int | None = None
    hidden: Bounds | None = None
    greedy: Callable[[Any], Int64[np.ndarray, "slots"]] | None = None
    known: ClassVar[frozenset[str]] = frozenset()
    """Names of the parts of an observation."""
    numbers: ClassVar[str | None] = None
    """The part with plain numbers; None: the whole observation."""

    def __init__(self, env: Any, name: str) -> None:
        """Read the action space: an item, a slate, or a point of a box.

        Raises:
            SetupError: the action space is of another kind.
        """
        self.env, space = env, env.action_space
        kind = type(space).__name__
        counts = np.atleast_1d(getattr(space, "nvec", getattr(space, "n", 0)))
        bounded = kind == "Box" and len(space.shape) == 1 and np.isfinite([space.low, space.high]).all()
        self.box = space if bounded else None
        if self.box is None and (kind not in ("Discrete", "MultiDiscrete") or counts.ndim > 1 or len(set(counts)) > 1):
            raise SetupError(
                f"environment {name}: an action is {told(space)}; expected an item (Discrete), a slate of items of one "
                "catalogue (MultiDiscrete), or a point within bounds (Box)"
            )
        self.discrete, self.first = kind == "Discrete", int(np.min(getattr(space, "start", 0)))
        self.slots, self.items = (1, SCATTERED) if self.box else (len(counts), int(counts[0]))

    @classmethod
    def fits(cls, env: Any) -> bool:
        """Whether this layout describes an environment's observations; by default, whether they have its parts."""
        parts = getattr(env.observation_space, "spaces", None)
        return isinstance(parts, dict) and set(parts) == cls.known

    @abstractmethod
    def read(self, env: Any, observation: Any, slate: Int64[np.ndarray, "slots"]) -> Seen:
        """The meaning of an observation. `slate`: what was shown, -1 where nothing was shown yet."""

    @property
    def bounds(self) -> Bounds:
        """See the attributes above."""
        space = self.env.observation_space
        return limits(space if self.numbers is None else space[self.numbers])

    @cached_property
    def vectors(self) -> Float32[np.ndarray, "items dim"]:
        """The item vectors. Where an action is a point: points that fill the box evenly (Sobol 1967)."""
        if self.box is None:
            return np.zeros((self.items, 0), np.float32)
        spread = torch.quasirandom.SobolEngine(len(self.box.low)).draw(self.items).numpy()
        points: Float32[np.ndarray, "items dim"] = self.box.low + spread * (self.box.high - self.box.low)
        return points.astype(np.float32)

    def action(self, slate: Int64[np.ndarray, "slots"]) -> Any:
        """The slate as an action of the environment."""
        if self.box is not None:
            return self.vectors[slate[0]].astype(self.box.dtype)
        return int(slate[0]) + self.first if self.discrete else slate + self.first

    def reset(self, env: Any, seed: int) -> Any:
        """Start a new user; returns the first observation."""
        return env.reset(seed=seed)[0]

    def step(self, env: Any, slate: Int64[np.ndarray, "slots"]) -> Step:
        """Show a slate."""
        observation, reward, terminated, truncated, _ = env.step(self.action(slate))
        return Step(observation, float(reward), bool(terminated), bool(truncated and not terminated))


class Own(Layout):
    """Environments of this package without the hidden state."""

    known, numbers = frozenset({"shown", "clicks", "numbers"}), "numbers"

    @cached_property
    def vectors(self) -> Float32[np.ndarray, "items dim"]:
        """See `Layout`."""
        return np.asarray(self.env.unwrapped.world.item_vectors)

    def read(self, env: Any, observation: Any, slate: Int64[np.ndarray, "slots"]) -> Seen:
        """See `Layout`; the item number after the last one says that nothing was shown."""
        shown = np.where(observation["shown"] < self.items, observation["shown"], -1)
        return Seen(shown, observation["clicks"] > 0, observation["numbers"], np.zeros(0))


class Numbers(Layout):
    """Plain numbers without further structure. They may be the complete state, so they count as ideal, too."""

    @classmethod
    def fits(cls, env: Any) -> bool:
        """See `Layout`."""
        return type(env.observation_space).__name__ in ("Box", "Discrete", "MultiDiscrete", "MultiBinary")

    @property
    def hidden(self) -> Bounds:  # type: ignore[override]
        """See `Layout`."""
        return self.bounds

    def read(self, env: Any, observation: Any, slate: Int64[np.ndarray, "slots"]) -> Seen:
        """See `Layout`; clicks are unknown."""
        numbers = flat(env.observation_space, observation)
        return Seen(slate, np.zeros(self.slots, np.bool_), numbers, numbers)


class Sardine(Layout):
    """SARDINE's own environments (`sardine-rec`, Deffayet et al. 2023).

    They show the last slate, its clicks, and the share of the boredom threshold that each topic's recent clicks have
    reached. The hidden state is that of its wrapper `IdealState`. `terminated` is its time limit, so it means `cut`.
    """

    known, numbers = frozenset({"slate", "clicks", "hist"}), "hist"

    def __init__(self, env: Any, name: str) -> None:
        super().__init__(env, name)
        self.steps: int | None = env.unwrapped.H

    @property
    def hidden(self) -> Bounds:  # type: ignore[override]
        """See `Layout`."""
        columns = 3 * self.env.unwrapped.num_topics
        return np.zeros(columns, np.float32), np.ones(columns, np.float32)

    @cached_property
    def vectors(self) -> Float32[np.ndarray, "items dim"]:
        """See `Layout`."""
        return np.asarray(self.env.unwrapped.item_embedd.astype(np.float32))

    def read(self, env: Any, observation: Any, slate: Int64[np.ndarray, "slots"]) -> Seen:
        """See `Layout`."""
        user = env.unwrapped
        rest = user.bored_timeout / user.boredom_moving_window
        ideal = np.concatenate([user.cur_user_embedd, observation["hist"], rest])
        return Seen(observation["slate"], observation["clicks"] > 0, observation["hist"], ideal)

    def step(self, env: Any, slate: Int64[np.ndarray, "slots"]) -> Step:
        """See `Layout`."""
        one = super().step(env, slate)
        return Step(one.observation, one.reward, False, one.left or one.cut)

    def greedy(self, env: Any) -> Int64[np.ndarray, "slots"]:
        """The most relevant items, the best first."""
        scores = self.vectors @ env.unwrapped.cur_user_embedd
        return np.argsort(-scores, kind="stable")[: self.slots]


class RecSim(Layout):
    """RecSim's environments (Ie et al. 2019), which use Gym, Gymnasium's predecessor.

    They show the user, the response to each item of the slate, and the candidate documents. If the documents are drawn
    anew for each slate, an item is a position among them, and the observed numbers describe the document at each
    position; otherwise the numbers of the documents are the items' vectors.
    """

    known = frozenset({"user", "doc", "response"})

    def __init__(self, env: Any, name: str) -> None:
        super().__init__(env, name)
        inner = env.unwrapped.environment
        self.drawn_anew: bool = inner._resample_documents
        self.documents = inner.candidate_set.observation_space()
        self.user, self.response = inner.user_model.observation_space(), inner.user_model.response_space()
        self.none = np.zeros(len(limits(self.response)[0]), np.float32)

    @property
    def bounds(self) -> Bounds:
        """See `Layout`."""
        parts = [limits(self.user), limits(self.response), *([limits(self.documents)] if self.drawn_anew else [])]
        low, high = (np.concatenate([one[end] for one in parts]) for end in (0, 1))
        return low, high

    @cached_property
    def vectors(self) -> Float32[np.ndarray, "items dim"]:
        """See `Layout`."""
        if self.drawn_anew:
            return np.zeros((self.items, 0), np.float32)
        seen = self.env.unwrapped.environment.candidate_set.create_observation()
        return np.array([np.ravel(one) for one in seen.values()], np.float32)

    def read(self, env: Any, observation: Any, slate: Int64[np.ndarray, "slots"]) -> Seen:
        """See `Layout`."""
        responses = observation["response"]
        clicks = np.array([bool(one.get("click", 0)) for one in responses or [{}] * self.slots])
        parts = [flat(self.user, observation["user"]), flat(self.response, responses) if responses else self.none]
        if self.drawn_anew:
            parts.append(np.concatenate([np.ravel(one) for one in observation["doc"].values()]).astype(np.float32))
        return Seen(slate, clicks, np.concatenate(parts), np.zeros(0))

    def reset(self, env: Any, seed: int) -> Any:
        """See `Layout`. Its samplers have generators of their own, which every copy must seed separately."""
        inner = env.unwrapped.environment
        for place, sampler in enumerate((inner._document_sampler, inner.user_model._user_sampler)):
            sampler._rng = np.random.RandomState([seed, place])
        return env.reset()

    def step(self, env: Any, slate: Int64[np.ndarray, "slots"]) -> Step:
        """See `Layout`."""
        observation, reward, done, _ = env.step(slate)
        return Step(observation, float(reward), bool(done), False)


def flat(space: Any, value: Any) -> Float32[np.ndarray, "columns"]:
    """An element of a space of Gymnasium or Gym as numbers; discrete values become one-hot."""
    if hasattr(space, "spaces"):
        keys = space.spaces if isinstance(space.spaces, dict) else range(len(space.spaces))
        return np.concatenate([np.zeros(0, np.float32), *(flat(space[key], value[key]) for key in keys)])
    if hasattr(space, "low"):
        return np.asarray(value, np.float32).ravel()
    if hasattr(space, "nvec") or type(space).__name__ == "Discrete":
        counts, first = np.ravel(getattr(space, "nvec", getattr(space, "n", 0))), np.min(getattr(space, "start", 0))
        members = np.ravel(value) - first
        return np.concatenate(
            [(np.arange(n) == one).astype(np.float32) for n, one in zip(counts, members, strict=True)]
        )
    return np.asarray(value, np.float32).ravel()  # MultiBinary


def limits(space: Any) -> Bounds:
    """The least and the largest value of each number of `flat`; 0 and 1 where the space has no bounds."""
    if hasattr(space, "spaces"):
        keys = space.spaces if isinstance(space.spaces, dict) else range(len(space.spaces))
        several = [limits(space[key]) for key in keys]
        low, high = (np.concatenate([np.zeros(0, np.float32), *(one[end] for one in several)]) for end in (0, 1))
        return low, high
    if hasattr(space, "low"):
        low, high = np.ravel(space.low).astype(np.float32), np.ravel(space.high).astype(np.float32)
        # Bounds of integer or unbounded boxes can be so large that no number comes near them.
        bounded = (np.abs(low) < np.float32(1e6)) & (np.abs(high) < np.float32(1e6))
        return np.where(bounded, low, 0).astype(np.float32), np.where(bounded, high, 1).astype(np.float32)
    count = int(np.sum(getattr(space, "nvec", getattr(space, "n", 0))))
    return np.zeros(count, np.float32), np.ones(count, np.float32)


def told(space: Any) -> str:
    """A space, described for messages."""
    text = " ".join(str(space).split())
    return text if len(text) <= 120 else f"{text[:117]}..."
