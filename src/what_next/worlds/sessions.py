"""Sessions: users skip, play and like items, leave, and return on a later day."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float32, Int, Int8, Int32, Int64
from pydantic import Field

from what_next.worlds.base import (
    Draws,
    Feedback,
    Observation,
    State,
    World,
    best,
    count,
    sigmoid,
    tally,
    uniform,
    unit,
)

SKIPPED, PLAYED, LIKED = 0, 1, 2
Score = Callable[[Float32[np.ndarray, "users items"]], Float32[np.ndarray, "users items"]]
PICKY = 3
"""Power of the uniform coordinates of vectors: the higher, the fewer of them are large."""


@dataclass(frozen=True, eq=False)
class Visitors(State):
    """The users of `Sessions`.

    Attributes:
        tastes: vectors of length 1.
        fatigue: of each topic.
        patience: slates that the user would still look at without enjoying anything.
        satisfaction: the running mean of the enjoyment, from -1 to 1.
        responses: to the last slate: skipped (0), played (1), liked (2).
        day: since the first visit; visits: completed; away: days of absence before a visit that just began, else 0.
    """

    tastes: Float32[np.ndarray, "users topics"]
    fatigue: Float32[np.ndarray, "users topics"]
    patience: Float32[np.ndarray, "users"]
    satisfaction: Float32[np.ndarray, "users"]
    responses: Int8[np.ndarray, "users slots"]
    day: Int32[np.ndarray, "users"]
    visits: Int32[np.ndarray, "users"]
    away: Int32[np.ndarray, "users"]


@dataclass(frozen=True, eq=False)
class Responses(Feedback):
    """Feedback with several kinds of responses.

    Attributes:
        responses: skipped (0), played (1), liked (2); `clicks` are those that are not 0.
        left: who ended the visit with this slate.
        away: after how many days they return.
    """

    responses: Int8[np.ndarray, "users slots"]
    left: Bool[np.ndarray, "users"]
    away: Int32[np.ndarray, "users"]


class Sessions(World):
    """Users who skip, play and like, lose patience, and return sooner the more they enjoyed (as in KuaiSim).

    The structure is that of KuaiSim (Zhao et al. 2023): several kinds of feedback, similarity within a slate that
    lowers enjoyment, patience that runs out, a day of return. The formulas are our own: KuaiSim's are networks, one of
    which applies its sigmoid twice, and another adds a random layer. An item's worth to a user is `<tastes, item> -
    fatigue of its topic - sameness * (mean similarity to the items before it in the slate)`. It is played with
    probability `sigmoid(slope * (worth + catch - play_offset))`, where `catch` raises plays but not likes; a played
    item is liked with probability `sigmoid(slope * (worth - like_offset))`. The enjoyment is `(likes - regret * plays
    without a like) / slots`. Each slate costs one unit of patience and gives back `relief` times the enjoyment. Without
    patience the user leaves, and returns on each day with probability `sigmoid(return_offset + return_slope *
    satisfaction)`, at the latest after `longest` days.

    The reward is either minus the days until the return, at the end of each visit (`days`, over a number of visits), or
    1 for each return (`visits`, over a month).
    """

    name: Literal["sessions"] = "sessions"
    slots: int = Field(default=6, ge=1, description="items of a slate")
    steps: int | None = Field(default=1000, ge=1, description="slates of an episode; none: until its last visit or day")
    topics: int = Field(default=8, ge=2, le=1000, description="number of topics")
    reward: Literal["days", "visits"] = Field(default="days", description="minus the days away, or 1 for each return")
    last_visit: int = Field(default=5, ge=1, description="visits of an episode, if the reward is days")
    month: int = Field(default=30, ge=1, description="days of an episode, if the reward is visits")
    slope: float = Field(default=10.0, gt=0, description="slope of both probabilities over worth")
    play_offset: float = Field(default=0.75, description="worth plus catch at which half of the items are played")
    like_offset: float = Field(default=0.65, description="worth at which half of the played items are liked")
    catch: float = Field(default=0.5, ge=0, description="largest catch of an item; it is uniform from 0")
    sameness: float = Field(default=0.3, ge=0, description="loss of worth by similarity to the items before it")
    fatigue: float = Field(default=0.05, ge=0, description="fatigue that a play adds to the item's topic")
    recovery: float = Field(default=0.9, ge=0, le=1, description="share of the fatigue kept after a slate, or a day")
    regret: float = Field(default=0.3, ge=0, description="cost of a play without a like, in likes")
    patience: float = Field(default=4.0, gt=0, description="slates that are looked at if nothing is enjoyed")
    relief: float = Field(default=1.5, ge=0, description="patience regained per unit of enjoyment")
    memory: float = Field(default=0.9, ge=0, lt=1, description="share of the satisfaction kept after a slate")
    return_offset: float = Field(default=-1.0, description="log odds of a return per day at a satisfaction of 0")
    return_slope: float = Field(default=5.0, ge=0, description="slope of these log odds over satisfaction")
    longest: int = Field(default=10, ge=1, description="days after which everyone has returned")
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"month": {"reward": "visits"}}

    @cached_property
    def _drawn(self) -> tuple[Float32[np.ndarray, "items topics"], Float32[np.ndarray, "items"]]:
        rng = np.random.default_rng(self.seed)
        vectors = unit(rng.random((self.items, self.topics), dtype=np.float32) ** PICKY)
        return vectors, rng.random(self.items, dtype=np.float32) * np.float32(self.catch)

    @property
    def topic_vectors(self) -> Float32[np.ndarray, "items topics"]:
        """The topic vectors of the items, of length 1."""
        return self._drawn[0]

    @property
    def item_catch(self) -> Float32[np.ndarray, "items"]:
        """The catch of each item, which raises plays but not likes."""
        return self._drawn[1]

    @property
    def item_labels(self) -> list[str]:
        """See `World.item_labels`."""
        return [*(f"topic {topic}" for topic in range(self.topics)), "catch"]

    @cached_property
    def item_topics(self) -> Int64[np.ndarray, "items"]:
        """The main topic of each item, whose fatigue it raises."""
        return np.asarray(self.topic_vectors.argmax(1).astype(np.int64))

    @cached_property
    def item_vectors(self) -> Float32[np.ndarray, "items columns"]:
        """The topics and the catch."""
        return np.column_stack([self.topic_vectors, self.item_catch])

    def reset(self, users: int, rng: Draws) -> Visitors:
        """See `World.reset`."""
        return Visitors(
            age=np.zeros(users, np.int32),
            shown=np.full((users, self.slots), -1, np.int64),
            clicks=np.zeros((users, self.slots), np.bool_),
            tastes=unit(uniform(rng, users, self.topics) ** PICKY + np.float32(1e-6)),
            fatigue=np.zeros((users, self.topics), np.float32),
            patience=np.full(users, self.patience, np.float32),
            satisfaction=np.zeros(users, np.float32),
            responses=np.zeros((users, self.slots), np.int8),
            day=np.zeros(users, np.int32),
            visits=np.zeros(users, np.int32),
            away=np.zeros(users, np.int32),
        )

    def step(self, state: Visitors, slates: Int[np.ndarray, "users slots"], rng: Draws) -> tuple[Visitors, Feedback]:
        """See `World.step`; the feedback is `Responses`. In the returned state, users who left have returned."""
        users = len(slates)
        worth = self.worth(state, slates)
        played = uniform(rng, users, self.slots) < self.play_chance(worth + self.item_catch[slates])
        liked = played & (uniform(rng, users, self.slots) < self.like_chance(worth))
        drawn = uniform(rng, users)
        responses = played.astype(np.int8) + liked
        likes, plays = (count(one).astype(np.float32) for one in (liked, played))
        enjoyed = (likes - np.float32(self.regret) * (plays - likes)) / np.float32(self.slots)
        satisfaction = np.float32(self.memory) * state.satisfaction + np.float32(1 - self.memory) * enjoyed
        plays_of = tally(self.item_topics[slates], played, self.topics).astype(np.float32)
        fatigue = state.fatigue * np.float32(self.recovery) + np.float32(self.fatigue) * plays_of
        patience = state.patience - 1 + np.float32(self.relief) * enjoyed
        left = patience <= 0
        away = np.where(left, self._days(satisfaction, drawn), 0).astype(np.int32)
        after = replace(
            state,
            age=state.age + np.int32(1),
            shown=slates,
            clicks=played,
            fatigue=fatigue * np.float32(self.recovery) ** away[:, None].astype(np.float32),
            patience=np.where(left, np.float32(self.patience), patience),
            satisfaction=satisfaction,
            responses=responses,
            day=state.day + away,
            visits=state.visits + left.astype(np.int32),
            away=away,
        )
        back = left & (after.day < self.month)
        rewards = -away.astype(np.float32) if self.reward == "days" else back.astype(np.float32)
        return after, Responses(played, rewards, np.zeros(users, np.bool_), responses, left, away)

    def truncated(self, state: Visitors) -> Bool[np.ndarray, "users"]:
        """See `World.truncated`: after the last visit, or at the end of the month."""
        over = state.visits >= self.last_visit if self.reward == "days" else state.day >= self.month
        return np.asarray(over | super().truncated(state))

    def worth(self, state: Visitors, slates: Int[np.ndarray, "users slots"]) -> Float32[np.ndarray, "users slots"]:
        """The worth of each item to the user, after the items before it in the slate."""
        vectors = self.topic_vectors[slates]
        worth: Float32[np.ndarray, "users slots"] = np.einsum("ust,ut->us", vectors, state.tastes)
        worth -= np.take_along_axis(state.fatigue, self.item_topics[slates], 1)
        before = np.cumsum(vectors, axis=1)[:, :-1] / np.arange(1, self.slots, dtype=np.float32)[:, None]
        worth[:, 1:] -= np.float32(self.sameness) * np.einsum("ust,ust->us", vectors[:, 1:], before)
        return worth

    def play_chance(self, worth: Float32[np.ndarray, "*grid"]) -> Float32[np.ndarray, "*grid"]:
        """The probability of a play, from worth plus catch."""
        return sigmoid(np.float32(self.slope) * (worth - np.float32(self.play_offset)))

    def like_chance(self, worth: Float32[np.ndarray, "*grid"]) -> Float32[np.ndarray, "*grid"]:
        """The probability of a like for a played item, from its worth."""
        return sigmoid(np.float32(self.slope) * (worth - np.float32(self.like_offset)))

    def observe(self, state: Visitors, ideal: bool = False) -> Observation:
        """Which items were liked, and after what share of `longest` the user returned, if just now (else 0).

        `ideal`: followed by the tastes, the fatigue (at most 1), the share of patience left (at most 1), and the
        satisfaction.
        """
        seen = [(state.responses == LIKED).astype(np.float32), (state.away / np.float32(self.longest))[:, None]]
        if ideal:
            left = np.clip(state.patience / np.float32(self.patience), 0, 1)
            seen += [state.tastes, np.minimum(state.fatigue, 1), left[:, None], state.satisfaction[:, None]]
        return Observation(state.shown, state.clicks, np.concatenate(seen, axis=1).astype(np.float32))

    def bounds(self, ideal: bool = False) -> tuple[Float32[np.ndarray, "columns"], Float32[np.ndarray, "columns"]]:
        """See `World.bounds`."""
        low, high = [0.0] * (self.slots + 1), [1.0] * (self.slots + 1)
        if ideal:
            most = max(1.0, self.regret)
            low, high = [*low, *[0.0] * (2 * self.topics + 1), -most], [*high, *[1.0] * (2 * self.topics + 1), most]
        return np.array(low, np.float32), np.array(high, np.float32)

    def _days(
        self, satisfaction: Float32[np.ndarray, "users"], drawn: Float32[np.ndarray, "users"]
    ) -> Int64[np.ndarray, "users"]:
        """Days until the return: geometric, truncated at `longest`."""
        chance = sigmoid(np.float32(self.return_offset) + np.float32(self.return_slope) * satisfaction)
        days = 1 + np.floor(np.log1p(-drawn) / np.log1p(-np.minimum(chance, np.float32(1 - 1e-6))))
        return np.asarray(np.minimum(days, self.longest).astype(np.int64))

    @cached_property
    def _popular_slate(self) -> Int64[np.ndarray, "slots"]:
        """The items with the highest mean probability to be played by a thousand new users."""
        users = self.reset(1000, np.random.default_rng(self.seed))
        played = self.play_chance(users.tastes @ self.topic_vectors.T + self.item_catch).mean(0)
        return np.asarray(best(played[None], self.slots)[0])

    def _greedy(self, state: Visitors, rng: Draws) -> Int64[np.ndarray, "users slots"]:
        """For each slot the item with the highest probability of a play."""
        return self._by_slots(state, lambda worth: worth + self.item_catch)

    def _aware(self, state: Visitors, rng: Draws) -> Int64[np.ndarray, "users slots"]:
        """For each slot the item with the highest expected enjoyment, given the fatigue that the slate causes."""

        def enjoyed(worth: Float32[np.ndarray, "users items"]) -> Float32[np.ndarray, "users items"]:
            like = self.like_chance(worth)
            return self.play_chance(worth + self.item_catch) * (like - np.float32(self.regret) * (1 - like))

        return self._by_slots(state, enjoyed, tiring=True)

    def _by_slots(self, state: Visitors, score: Score, tiring: bool = False) -> Int64[np.ndarray, "users slots"]:
        """A slate filled slot by slot with the item of the highest score, given the items before it."""
        every, slates = np.arange(len(state.age)), np.empty((len(state.age), self.slots), np.int64)
        own = state.tastes @ self.topic_vectors.T - state.fatigue[:, self.item_topics]
        total, tired = np.zeros_like(state.tastes), np.zeros_like(state.fatigue)
        taken = np.zeros(own.shape, np.bool_)
        for slot in range(self.slots):
            worth = own - np.float32(self.sameness / max(slot, 1)) * (total @ self.topic_vectors.T)
            if tiring:
                worth = worth - tired[:, self.item_topics]
            item = np.where(taken, -np.inf, score(worth)).argmax(1)
            slates[:, slot], taken[every, item] = item, True
            total += self.topic_vectors[item]
            tired[every, self.item_topics[item]] += np.float32(self.fatigue)
        return slates
