"""Boredom: too many clicks on one topic within a short time bore the user for a while."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from math import comb
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float32, Int, Int8, Int16, Int32, Int64
from pydantic import Field, model_validator

from what_next.data.batches import ranges
from what_next.errors import MissingExtraError
from what_next.worlds.base import (
    Draws,
    Feedback,
    Observation,
    State,
    World,
    best,
    count,
    integers,
    sigmoid,
    tally,
    uniform,
    unit,
)

NEVER = -(2**30)
CAUTION = 2.5
"""Safety margin of the rule `aware`, in standard deviations; the best of five values in `SlateTopK-Bored-v0`."""
SARDINE = {"sardine_focused_small": (1000, 10), "sardine_rerank": (10, 10)}
"""Numbers of items and topics in the embeddings that sardine-rec ships."""
LIKED = 4
"""Mean number of topics that a user likes: from three to five."""


@dataclass(frozen=True, eq=False)
class Listeners(State):
    """The users of `Boredom`.

    Attributes:
        tastes: how much each topic is liked, as a vector of length 1.
        recent: topics of the last clicks, a ring buffer; stamps: the age at each of them; head: the next write
            position.
        counts: remembered clicks of each topic.
        rest: steps for which the user stays bored of a topic; 0: not bored.
    """

    tastes: Float32[np.ndarray, "users topics"]
    recent: Int16[np.ndarray, "users clicks"]
    stamps: Int32[np.ndarray, "users clicks"]
    head: Int64[np.ndarray, "users"]
    counts: Int16[np.ndarray, "users topics"]
    rest: Int8[np.ndarray, "users topics"]


_SINGLE: Mapping[str, Any] = {"slots": 1}
_RERANK: Mapping[str, Any] = {"items": 10, "steps": 10, "offset": 0.3, "slope": 5.0, "position_discount": 0.7}
_NEVER_BORED: Mapping[str, Any] = {"threshold": 11}
_VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "SingleItem-Static-v0": {**_SINGLE, **_NEVER_BORED},
    "SingleItem-BoredInf-v0": {**_SINGLE, "omega": 0.95},
    "SingleItem-Uncertain-v0": {**_SINGLE, **_NEVER_BORED, "slope": 10.0},
    "SlateTopK-Bored-v0": {},
    "SlateTopK-BoredInf-v0": {"omega": 0.95},
    "SlateTopK-Uncertain-v0": {"omega": 0.95, "slope": 10.0},
    "SlateRerank-Static-v0": {**_RERANK, **_NEVER_BORED},
    "SlateRerank-Bored-v0": {**_RERANK, "threshold": 4},
}


class Boredom(World):
    """Users who lose interest for a while after too many clicks on one topic (SARDINE, Deffayet et al. 2023).

    Items have two or three topics, users three to five; both are vectors of length 1. The probability of a click is
    `sigmoid(slope * (<user, item> - offset)) * position_discount ^ slot`. If `threshold` of the last `memory` clicks
    are on one topic and at most `window` steps old, the user is bored of it for `window` steps, in which the user's
    vector is zero. After each step the vector moves towards the mean of the clicked items by `1 - omega`.
    The reward is the number of clicks. Each user has seen one random slate before the first step.

    The presets are SARDINE's registered environments. Under their own names they reproduce its code: its items, and its
    drift, which moves the vector towards a single number, the mean of all coordinates of the clicked items. Without
    `sardine/` the drift is the paper's, and the items are drawn. Not implemented, because no registered environment
    uses them: the penalty for slates of one topic, relevance by a threshold, boredom of one topic only.
    """

    name: Literal["boredom"] = "boredom"
    topics: int = Field(default=10, ge=6, le=1000, description="number of topics")
    offset: float = Field(default=0.65, description="relevance at which half of the items are clicked")
    slope: float = Field(default=100.0, gt=0, description="slope of the click probability over relevance")
    position_discount: float = Field(default=0.85, gt=0, le=1, description="factor of the click probability per slot")
    threshold: int = Field(default=5, ge=1, description="remembered clicks on one topic that bore the user")
    memory: int = Field(default=10, ge=1, le=1000, description="number of clicks that are remembered")
    window: int = Field(default=5, ge=1, le=100, description="steps for which a click is remembered, and boredom lasts")
    omega: float = Field(
        default=1.0, ge=0, le=1, description="share of the user's vector kept after a step with clicks"
    )
    drift: Literal["vector", "scalar"] = Field(default="vector", description="target of the drift; scalar: SARDINE's")
    vectors: Literal["drawn", "sardine_focused_small", "sardine_rerank"] = Field(
        default="drawn", description="item vectors: drawn by the seed, or those in the installed sardine-rec"
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **_VARIANTS,
        **{
            f"sardine/{name}": {
                **changes,
                "drift": "scalar",
                "vectors": "sardine_rerank" if "Rerank" in name else "sardine_focused_small",
            }
            for name, changes in _VARIANTS.items()
        },
    }

    @model_validator(mode="after")
    def _of_sardine(self) -> "Boredom":
        """Check that items and topics match the vectors of sardine-rec."""
        found = self.items, self.topics
        if found != (known := SARDINE.get(self.vectors, found)):
            raise ValueError(
                f"items is {self.items} and topics is {self.topics}, and {self.vectors} has {known[0]} items of "
                f"{known[1]} topics; leave both out, or set vectors to drawn"
            )
        return self

    @cached_property
    def item_vectors(self) -> Float32[np.ndarray, "items topics"]:
        """Vectors of length 1, with two or three topics each."""
        if self.vectors != "drawn":
            return _sardine(self.vectors.removeprefix("sardine_"))
        rng = np.random.default_rng(self.seed)
        count = rng.integers(2, 4, self.items)
        rank = rng.random((self.items, self.topics)).argsort(1).argsort(1)
        vectors = rng.random((self.items, self.topics)) * (rank < count[:, None])
        return unit(vectors).astype(np.float32)

    @property
    def item_labels(self) -> list[str]:
        """See `World.item_labels`."""
        return [*(f"topic {topic}" for topic in range(self.topics))]

    @cached_property
    def item_topics(self) -> Int16[np.ndarray, "items"]:
        """The main topic of each item, of which it can bore."""
        return np.asarray(self.item_vectors.argmax(1).astype(np.int16))

    @cached_property
    def _columns(self) -> Float32[np.ndarray, "topics items"]:
        return np.ascontiguousarray(self.item_vectors.T)

    @cached_property
    def positions(self) -> Float32[np.ndarray, "slots"]:
        """The probability that each slot is looked at."""
        return np.power(self.position_discount, np.arange(self.slots)).astype(np.float32)

    def reset(self, users: int, rng: Draws) -> Listeners:
        """See `World.reset`."""
        tastes, slates = self._tastes(users, rng), integers(rng, users, self.items, self.slots)
        return self._after(self._fresh(tastes), slates, self._clicked(tastes, slates, rng))

    def followed(self, items: Sequence[int], clicked: Sequence[bool]) -> Listeners:
        """A user of unknown taste after slates of one item each, with the remembered clicks and the boredom.

        Args:
            items: of each slate, oldest first; `clicked`: whether each was.
        """
        state = self._fresh(np.ones((1, self.topics), np.float32))
        for item, click in zip(items, clicked, strict=True):
            state = self._after(state, np.array([[item]]), np.array([[click]]))
        return state

    def step(self, state: Listeners, slates: Int[np.ndarray, "users slots"], rng: Draws) -> tuple[Listeners, Feedback]:
        """See `World.step`."""
        clicks = self._clicked(self.interest(state), slates, rng)
        rewards = count(clicks).astype(np.float32)
        return self._after(state, slates, clicks), Feedback(clicks, rewards, np.zeros(len(slates), np.bool_))

    def interest(self, state: Listeners) -> Float32[np.ndarray, "users topics"]:
        """The users' current vectors: zero for bored users."""
        return np.asarray(state.tastes * (count(state.rest > 0) == 0)[:, None])

    def observe(self, state: Listeners, ideal: bool = False) -> Observation:
        """The share of `threshold` that each topic's remembered clicks have reached, at most 1.

        `ideal`: before it the user's current vector, after it the remaining share of `window` that boredom lasts (1
        without boredom). These are SARDINE's plain and ideal observations.
        """
        numbers = np.minimum(state.counts / np.float32(self.threshold), 1)
        if ideal:
            rest = np.where(state.rest > 0, state.rest, self.window) / np.float32(self.window)
            numbers = np.concatenate([self.interest(state), numbers, rest], axis=1)
        return Observation(state.shown, state.clicks, numbers)

    def bounds(self, ideal: bool = False) -> tuple[Float32[np.ndarray, "columns"], Float32[np.ndarray, "columns"]]:
        """See `World.bounds`."""
        columns = self.topics * (3 if ideal else 1)
        return np.zeros(columns, np.float32), np.ones(columns, np.float32)

    def relevance(self, scores: Float32[np.ndarray, "*grid"]) -> Float32[np.ndarray, "*grid"]:
        """The probability of a click in the first slot."""
        return sigmoid(np.float32(self.slope) * (scores - np.float32(self.offset)))

    def _fresh(self, tastes: Float32[np.ndarray, "users topics"]) -> Listeners:
        """Users of given tastes before their first slate."""
        users = len(tastes)
        return Listeners(
            age=np.full(users, -1, np.int32),
            shown=np.zeros((users, self.slots), np.int64),
            clicks=np.zeros((users, self.slots), np.bool_),
            tastes=tastes,
            recent=np.zeros((users, self.memory), np.int16),
            stamps=np.full((users, self.memory), NEVER, np.int32),
            head=np.zeros(users, np.int64),
            counts=np.zeros((users, self.topics), np.int16),
            rest=np.zeros((users, self.topics), np.int8),
        )

    def _tastes(self, users: int, rng: Draws) -> Float32[np.ndarray, "users topics"]:
        """Three to five topics for each user, distributed as SARDINE's rejection sampling leaves them."""
        share = LIKED / self.topics
        sizes = range(LIKED - 1, LIKED + 2)
        odds = np.array([comb(self.topics, size) * (share / (1 - share)) ** size for size in sizes])
        counts = sizes[0] + np.searchsorted(np.cumsum(odds / odds.sum())[:-1], uniform(rng, users), side="right")
        rank = uniform(rng, users, self.topics).argsort(1).argsort(1)
        tastes = uniform(rng, users, self.topics) * (rank < counts[:, None])
        return unit(tastes)

    def _clicked(
        self, interest: Float32[np.ndarray, "users topics"], slates: Int[np.ndarray, "users slots"], rng: Draws
    ) -> Bool[np.ndarray, "users slots"]:
        """Loops over topics, so that the data fits the processor's cache and sums do not depend on the batch."""
        shown, wants = np.ascontiguousarray(slates.T), np.ascontiguousarray(interest.T)
        scores, part = np.zeros(shown.shape, np.float32), np.empty(shown.shape, np.float32)
        for column, want in zip(self._columns, wants, strict=True):
            column.take(shown, out=part, mode="clip")
            scores += np.multiply(part, want, out=part)
        # uniform < discount * sigmoid(x) is uniform * (1 + exp(-x)) < discount.
        scores -= np.float32(self.offset)
        scores *= np.float32(-self.slope)
        with np.errstate(over="ignore"):
            np.exp(scores, out=scores)
        scores += 1
        scores *= uniform(rng, len(slates), self.slots).T
        return np.ascontiguousarray((scores < self.positions[:, None]).T)

    def _after(
        self, state: Listeners, slates: Int[np.ndarray, "users slots"], clicks: Bool[np.ndarray, "users slots"]
    ) -> Listeners:
        """Users after their clicks, with new memory, boredom and tastes."""
        number = count(clicks)
        places = np.flatnonzero(clicks)
        rows, items = places // self.slots, slates.reshape(-1)[places]
        # The ring takes the clicks in the order of the slots; if they exceed it, the last ones stay.
        spots = (state.head[rows] + ranges(0, number)) % self.memory
        recent, stamps = state.recent.copy(), state.stamps.copy()
        recent[rows, spots] = self.item_topics[items]
        stamps[rows, spots] = state.age[rows]
        age = state.age + np.int32(1)
        counts = tally(recent, stamps >= (age - self.window)[:, None], self.topics).astype(np.int16)
        rest = state.rest - (state.rest > 0)
        rest = np.where((rest == 0) & (counts >= self.threshold), np.int8(self.window), rest)
        tastes = self._drifted(state.tastes, number, items) if self.omega < 1 else state.tastes
        head = (state.head + number) % self.memory
        return Listeners(age, slates, clicks, tastes, recent, stamps, head, counts, rest)

    def _drifted(
        self,
        tastes: Float32[np.ndarray, "users topics"],
        number: Int64[np.ndarray, "users"],
        items: Int[np.ndarray, "clicked"],
    ) -> Float32[np.ndarray, "users topics"]:
        """Tastes after clicks on `items`, which are grouped by user."""
        rows = np.flatnonzero(number)
        if not len(rows):
            return tastes
        first = (np.cumsum(number) - number)[rows]
        mean = np.add.reduceat(self.item_vectors[items], first, axis=0) / number[rows, None].astype(np.float32)
        if self.drift == "scalar":
            mean = mean.mean(1, keepdims=True)
        moved, omega = tastes.copy(), np.float32(self.omega)
        moved[rows] = unit(omega * tastes[rows] + (1 - omega) * mean)
        return moved

    @cached_property
    def _popular_slate(self) -> Int64[np.ndarray, "slots"]:
        """The items of the highest mean relevance to a thousand users."""
        tastes = self._tastes(1000, np.random.default_rng(self.seed))
        return np.asarray(best(self.relevance(tastes @ self._columns).mean(0)[None], self.slots)[0])

    def _greedy(self, state: Listeners, rng: Draws) -> Int64[np.ndarray, "users slots"]:
        """The most relevant items, the best first."""
        return best(self.interest(state) @ self._columns, self.slots)

    def _aware(self, state: Listeners, rng: Draws) -> Int64[np.ndarray, "users slots"]:
        """Greedy without boredom: for each slot the most relevant item of a topic that can take another click.

        A topic can if its remembered clicks, plus those expected from the slate, plus a margin stay below the
        threshold. The margin is half a click or `CAUTION` standard deviations, whichever is more. If no topic can, the
        least relevant item fills the slot.
        """
        users, interest = len(state.age), self.interest(state)
        items, relevance = self._by_topic(interest)
        remembered = state.stamps >= (state.age + 1 - self.window)[:, None]
        mean = tally(state.recent, remembered, self.topics).astype(np.float32)
        variance, taken = np.zeros_like(mean), np.zeros(mean.shape, np.int64)
        every, slates = np.arange(users), np.empty((users, self.slots), np.int64)
        for slot, position in enumerate(self.positions):
            chance = np.take_along_axis(relevance, taken[..., None], 2)[..., 0] * position
            spread = np.sqrt(variance + np.maximum(chance, 0) * (1 - chance))
            fits = mean + chance + np.maximum(CAUTION * spread, 0.5) < self.threshold
            topic = np.where(fits, chance, -1).argmax(1)
            chance = chance[every, topic]
            some = fits[every, topic] & (chance >= 0)
            slates[:, slot] = np.where(some, items[every, topic, taken[every, topic]], -1)
            mean[every, topic] += chance * some
            variance[every, topic] += chance * (1 - chance) * some
            taken[every, topic] += some
        if (slates < 0).any():
            worst = (interest @ self._columns).argmin(1)
            slates[:] = np.where(slates < 0, worst[:, None], slates)
        return slates

    def _by_topic(
        self, interest: Float32[np.ndarray, "users topics"]
    ) -> tuple[Int64[np.ndarray, "users topics ranks"], Float32[np.ndarray, "users topics ranks"]]:
        """The most relevant items of each main topic, as many as a slate takes, and their relevance; padded with -1."""
        items = np.full((len(interest), self.topics, self.slots + 1), -1, np.int64)
        relevance = np.full(items.shape, -1, np.float32)
        for topic in range(self.topics):
            members = np.flatnonzero(self.item_topics == topic)
            if not len(members):
                continue
            scores = interest @ self._columns[:, members]
            places = best(scores, min(self.slots, len(members)))
            items[:, topic, : places.shape[1]] = members[places]
            relevance[:, topic, : places.shape[1]] = self.relevance(np.take_along_axis(scores, places, 1))
        return items, relevance


def _sardine(name: str) -> Float32[np.ndarray, "items topics"]:
    """The item vectors shipped with sardine-rec, read without importing it."""
    found = find_spec("sardine")
    if found is None or found.origin is None:
        raise MissingExtraError("sardine-rec", "sim", "a preset with SARDINE's own items")
    path = Path(found.origin).parent / "embeddings" / f"item_embeddings_{name}.npy"
    return np.asarray(np.load(path, allow_pickle=False).astype(np.float32))
