"""Choice: users choose one item of a slate or none, and satisfaction decays under clickbait."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float32, Int, Int64
from pydantic import Field

from what_next.worlds.base import Draws, Feedback, Observation, State, World, best, normal, sigmoid, uniform

MOST = 100.0
"""Largest observed reward, as in RecSim."""
TRASHY = 0.7
"""Share of the topics whose items have negative quality."""
LAST = 2.0
"""`aware` turns greedy when the budget left is below this many item lengths."""


@dataclass(frozen=True, eq=False)
class Watchers(State):
    """The users of `Choice`.

    Attributes:
        interests: in each topic, from -1 to 1.
        budget: minutes left.
        exposure: recent exposure to good items (above 0) or clickbait (below 0).
        reward: of the last step; quality: of the item chosen in it.
    """

    interests: Float32[np.ndarray, "users topics"]
    budget: Float32[np.ndarray, "users"]
    exposure: Float32[np.ndarray, "users"]
    reward: Float32[np.ndarray, "users"]
    quality: Float32[np.ndarray, "users"]


_ALWAYS: Mapping[str, Any] = {"slots": 1, "topics": 1, "no_click": 0.0, "evolution": 0.0}


class Choice(World):
    """Users who choose an item or none, and leave when their time is used up (RecSim, Ie et al. 2019).

    An item has a topic, a quality and a share of clickbait. It is chosen with a weight of `1 + interest` in its topic,
    no item with a weight of `no_click`. The reward is `length * exp(normal(mean, 1) * noise)` with
    `mean = satisfaction * (clickbait * bait + (1 - clickbait) * plain)`, where `satisfaction = sigmoid(sensitivity *
    exposure)` and, after each choice, `exposure = memory * exposure - 2 * (clickbait - 0.5) + noise`. The interest in
    the chosen topic moves up, or down where it is low. An item costs its length in minutes of the budget, less
    `bonus * length * quality`; choosing none costs `penalty`. The user leaves when the budget is used up.

    `interest_evolution` and `satisfaction` are RecSim's classics. There, every slate is chosen from ten items drawn for
    it; here, from the whole catalogue. In RecSim's `satisfaction` the first item is always taken; here the slate has
    one item. With RecSim's sensitivity of 0.01 clickbait is optimal. By default, and in `worn`, it is 0.3: a policy
    that shows clickbait, as greed does, soon has unsatisfied users.
    """

    name: Literal["choice"] = "choice"
    slots: int = Field(default=3, ge=1, description="items of a slate")
    steps: int | None = Field(default=1000, ge=1, description="slates of an episode; none: until the user leaves")
    topics: int = Field(default=10, ge=1, le=1000, description="number of topics")
    no_click: float = Field(default=1.0, ge=0, description="weight of choosing none; items have weights of 0 to 2")
    budget: float = Field(default=60.0, gt=0, description="minutes of an episode")
    length: float = Field(default=1.0, gt=0, description="minutes of an item")
    penalty: float = Field(default=0.5, gt=0, description="minutes that a slate costs if no item is chosen")
    bonus: float = Field(default=0.0, ge=0, description="share of an item's length refunded per unit of quality")
    evolution: float = Field(default=0.3, ge=0, le=1, description="how far a choice moves an interest of 0")
    plain: float = Field(default=4.0, description="log reward per minute without clickbait, at full satisfaction")
    bait: float = Field(default=5.0, description="log reward per minute of pure clickbait, at full satisfaction")
    noise: float = Field(default=1.0, ge=0, description="standard deviation of the log reward")
    memory: float = Field(default=0.7, ge=0, lt=1, description="share of the exposure kept after a choice")
    innovation: float = Field(default=0.05, ge=0, description="standard deviation of the exposure's noise")
    sensitivity: float = Field(default=0.3, ge=0, description="sensitivity of the satisfaction to the exposure")
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "interest_evolution": {
            "slots": 2,
            "topics": 20,
            "no_click": 2.0,
            "budget": 200.0,
            "length": 4.0,
            "bonus": 0.9 / 3.4,
            "plain": 0.0,
            "bait": 0.0,
            "noise": 0.0,
        },
        "satisfaction": {**_ALWAYS, "sensitivity": 0.01},
        "worn": _ALWAYS,
    }

    @property
    def item_labels(self) -> list[str]:
        """See `World.item_labels`."""
        return [*(f"topic {topic}" for topic in range(self.topics)), "clickbait"]

    @cached_property
    def item_topics(self) -> Int64[np.ndarray, "items"]:
        """The topic of each item; topics have as equal numbers of items as possible."""
        return np.arange(self.items) % self.topics

    @cached_property
    def _drawn(self) -> tuple[Float32[np.ndarray, "items"], Float32[np.ndarray, "items"]]:
        rng = np.random.default_rng(self.seed)
        trashy = int(self.topics * TRASHY)
        means = np.concatenate([np.linspace(-3, 0, trashy), np.linspace(0, 3, self.topics - trashy)])
        quality = (means[self.item_topics] + 0.1 * rng.standard_normal(self.items)).astype(np.float32)
        return quality, rng.random(self.items, dtype=np.float32)

    @property
    def item_quality(self) -> Float32[np.ndarray, "items"]:
        """The quality of each item, around the mean of its topic, from -3 to 3."""
        return self._drawn[0]

    @property
    def item_clickbait(self) -> Float32[np.ndarray, "items"]:
        """The clickbait share of each item, from 0 to 1."""
        return self._drawn[1]

    @cached_property
    def item_vectors(self) -> Float32[np.ndarray, "items columns"]:
        """The topic, one-hot, and the clickbait share; quality is only observed for chosen items."""
        return np.column_stack([np.eye(self.topics, dtype=np.float32)[self.item_topics], self.item_clickbait])

    def reset(self, users: int, rng: Draws) -> Watchers:
        """See `World.reset`."""
        nothing = np.zeros(users, np.float32)
        return Watchers(
            age=np.zeros(users, np.int32),
            shown=np.full((users, self.slots), -1, np.int64),
            clicks=np.zeros((users, self.slots), np.bool_),
            interests=2 * uniform(rng, users, self.topics) - 1,
            budget=np.full(users, self.budget, np.float32),
            exposure=(uniform(rng, users) - np.float32(0.5)) / np.float32(1 - self.memory),
            reward=nothing,
            quality=nothing,
        )

    def step(self, state: Watchers, slates: Int[np.ndarray, "users slots"], rng: Draws) -> tuple[Watchers, Feedback]:
        """See `World.step`."""
        users = len(slates)
        every, topics = np.arange(users), self.item_topics[slates]
        ends = np.cumsum(1 + np.take_along_axis(state.interests, topics, 1), axis=1)
        drawn = uniform(rng, users) * (ends[:, -1] + np.float32(self.no_click))
        slot = (ends <= drawn[:, None]).sum(1)
        chose = slot < self.slots
        item = slates[every, np.minimum(slot, self.slots - 1)]
        flip, noise, innovation = uniform(rng, users), normal(rng, users), normal(rng, users)

        watched = np.minimum(state.budget, np.float32(self.length))
        mean = self.satisfaction(state.exposure) * self._appeal(self.item_clickbait[item])
        reward = np.where(chose, watched * np.exp(mean + np.float32(self.noise) * noise), 0).astype(np.float32)
        quality = np.where(chose, self.item_quality[item], 0).astype(np.float32)
        spent = np.where(chose, watched * (1 - np.float32(self.bonus) * quality), np.float32(self.penalty))
        exposure = np.float32(self.memory) * state.exposure - 2 * (self.item_clickbait[item] - np.float32(0.5))
        exposure += np.float32(self.innovation) * innovation
        after = Watchers(
            age=state.age + np.int32(1),
            shown=slates,
            clicks=(np.arange(self.slots) == slot[:, None]),
            interests=self._moved(state.interests, self.item_topics[item], chose, flip),
            budget=(state.budget - spent).astype(np.float32),
            exposure=np.where(chose, exposure, state.exposure),
            reward=reward,
            quality=quality,
        )
        return after, Feedback(after.clicks, reward, after.budget <= 0)

    def satisfaction(self, exposure: Float32[np.ndarray, "users"]) -> Float32[np.ndarray, "users"]:
        """The share of an item's appeal that reaches the user."""
        return sigmoid(np.float32(self.sensitivity) * exposure)

    def observe(self, state: Watchers, ideal: bool = False) -> Observation:
        """The last reward, capped at 100 and divided by it, and the quality of the chosen item, divided by 4.

        `ideal`: followed by the interests, the share of the budget left, and the exposure (its long-run mean under pure
        clickbait is -1).
        """
        seen = [np.minimum(state.reward / np.float32(MOST), 1)[:, None], np.clip(state.quality / 4, -1, 1)[:, None]]
        if ideal:
            left = np.clip(state.budget / np.float32(self.budget), 0, 1)
            exposure = np.clip(state.exposure * np.float32(1 - self.memory), -2, 2)
            seen += [state.interests, left[:, None], exposure[:, None]]
        return Observation(state.shown, state.clicks, np.concatenate(seen, axis=1).astype(np.float32))

    def bounds(self, ideal: bool = False) -> tuple[Float32[np.ndarray, "columns"], Float32[np.ndarray, "columns"]]:
        """See `World.bounds`."""
        low, high = [0.0, -1.0], [1.0, 1.0]
        if ideal:
            low, high = [*low, *[-1.0] * self.topics, 0.0, -2.0], [*high, *[1.0] * self.topics, 1.0, 2.0]
        return np.array(low, np.float32), np.array(high, np.float32)

    def _appeal(self, clickbait: Float32[np.ndarray, "some"]) -> Float32[np.ndarray, "some"]:
        """The mean log reward per minute for a fully satisfied user."""
        return np.float32(self.plain) + clickbait * np.float32(self.bait - self.plain)

    def _moved(
        self,
        interests: Float32[np.ndarray, "users topics"],
        topics: Int64[np.ndarray, "users"],
        chose: np.ndarray,
        flip: Float32[np.ndarray, "users"],
    ) -> Float32[np.ndarray, "users topics"]:
        """Interests after a choice: towards 1 with the chance `(1 + interest) / 2`, else away from it (section 4.2)."""
        every = np.arange(len(topics))
        old = interests[every, topics]
        size = np.float32(self.evolution) * (1 - np.abs(old)) * (1 - old)
        new = np.clip(old + np.where(flip < (1 + old) / 2, size, -size), -1, 1)
        moved = interests.copy()
        moved[every, topics] = np.where(chose, new, old)
        return moved

    def _rewards(self, exposure: Float32[np.ndarray, "users"]) -> Float32[np.ndarray, "users items"]:
        """The expected reward of each item if it is chosen now."""
        mean = self.satisfaction(exposure)[:, None] * self._appeal(self.item_clickbait)
        found: Float32[np.ndarray, "users items"] = np.exp(mean + np.float32(self.noise**2 / 2)) * np.float32(
            self.length
        )
        return found

    def _ratio(
        self,
        interests: Float32[np.ndarray, "users topics"],
        rewards: Float32[np.ndarray, "#users items"],
        costs: Float32[np.ndarray, "items"],
        nothing: float,
    ) -> Int64[np.ndarray, "users slots"]:
        """The slate of the highest expected reward per expected cost (Dinkelbach 1967: a few rounds suffice)."""
        weights = 1 + interests[:, self.item_topics]
        ratio = np.zeros((len(weights), 1), np.float32)
        for _ in range(3):
            slates = best(weights * (rewards - ratio * costs), self.slots)
            chosen = np.take_along_axis(weights, slates, 1)
            earned = np.take_along_axis(np.broadcast_to(rewards, weights.shape), slates, 1)
            cost = (chosen * costs[slates]).sum(1) + nothing
            ratio = ((chosen * earned).sum(1) / np.maximum(cost, 1e-6))[:, None]
        return slates

    @cached_property
    def _popular_slate(self) -> Int64[np.ndarray, "slots"]:
        """The items of the highest expected reward to a thousand new users."""
        users = self.reset(1000, np.random.default_rng(self.seed))
        worth = (1 + users.interests[:, self.item_topics]) * self._rewards(users.exposure)
        return np.asarray(best(worth.mean(0)[None], self.slots)[0])

    def _greedy(self, state: Watchers, rng: Draws) -> Int64[np.ndarray, "users slots"]:
        """The slate of the largest expected reward."""
        ones = np.ones(self.items, np.float32)
        return self._ratio(state.interests, self._rewards(state.exposure), ones, self.no_click)

    def _aware(self, state: Watchers, rng: Draws) -> Int64[np.ndarray, "users slots"]:
        """The slate of the highest long-run reward per minute of the budget.

        Long-run means at the exposure to which showing the same clickbait leads. Near the budget's end it is greedy.
        """
        lasting = -2 * (self.item_clickbait - np.float32(0.5)) / np.float32(1 - self.memory)
        mean = self.satisfaction(lasting) * self._appeal(self.item_clickbait)
        rewards = (np.exp(mean) * np.float32(self.length))[None]
        costs = np.maximum(np.float32(self.length) * (1 - np.float32(self.bonus) * self.item_quality), 0.01)
        slates = self._ratio(state.interests, rewards, costs, self.no_click * self.penalty)
        ending = state.budget <= LAST * self.length
        return np.where(ending[:, None], self._greedy(state, rng), slates)
