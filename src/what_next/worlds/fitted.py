"""A world fitted to a log of shown items and their rewards: clicks, or ratings."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
from jaxtyping import Float32, Float64, Int, Int64
from pydantic import Field, model_validator
from safetensors.numpy import load_file, save

from what_next.data.files import write_files
from what_next.errors import ModelError
from what_next.worlds.base import Draws, Feedback, Observation, State, World, best, normal, sigmoid, uniform

Slots = Float32[np.ndarray, "users slots"]

FORMAT = "1"


@dataclass(frozen=True, eq=False)
class Guests(State):
    """The users of `Fitted`.

    Attributes:
        who: the user of the log.
        responses: to the last slate: 1 for a click, or the rating.
    """

    who: Int64[np.ndarray, "users"]
    responses: Slots


class Fitted(World):
    """Users of a log, who click or rate as a model of the log predicts (`what-next data world`).

    The score of an item is `<user, item> + position`: logistic regression of clicks, or ridge regression of ratings, on
    the products of user features and item features, with each row weighted by the inverse of its propensity. A click
    has the sigmoid of the score as its probability; a rating on a scale of integers is binomial with the score as its
    mean, any other rating is the score plus normal noise. Users are drawn as often as in the log, and leave as often as
    it has pauses of half an hour. The reward is the sum over the slate. Effects of earlier slates on later ones are not
    modelled, so looking one step ahead is optimal, and `aware` is `greedy`.
    """

    name: Literal["fitted"] = "fitted"
    path: Path = Field(
        description="the file that what-next data world wrote; give that as the world "
        "(--world world.safetensors), or path=; see docs/worlds.md"
    )
    slots: int = Field(default=1, ge=1, description="items of a slate; at most the number of positions in the log")
    steps: int | None = Field(default=10, ge=1, description="slates of an episode; none: until the user leaves")
    leave: float | None = Field(
        default=None, ge=0, lt=1, description="chance that a user leaves after a slate; none: as in the log, else 0"
    )

    @model_validator(mode="before")
    @classmethod
    def _items(cls, given: Any) -> Any:
        """Take the size of the catalogue from the file."""
        if isinstance(given, dict) and "path" in given and "items" not in given:
            return {**given, "items": about(Path(given["path"]))["items"]}
        return given

    @model_validator(mode="after")
    def _file(self) -> "Fitted":
        told = about(self.path)
        if self.items != told["items"]:
            raise ValueError(f"items is {self.items}, and {self.path} has {told['items']}")
        if self.slots > told["positions"] > 1:
            raise ValueError(f"slots is {self.slots}, and the log of {self.path} had {told['positions']} positions")
        return self

    @cached_property
    def about(self) -> dict[str, Any]:
        """The file's description of the log, the fit and its calibration."""
        return about(self.path)

    @cached_property
    def _arrays(self) -> Mapping[str, np.ndarray]:
        return load_file(self.path)

    @property
    def item_ids(self) -> Sequence[str | int]:
        """The ids in the log."""
        ids: Sequence[str] = self.about["item_ids"]
        return ids

    @property
    def item_vectors(self) -> Float32[np.ndarray, "items dim"]:
        """The item vectors of the fitted model."""
        return self._arrays["items"]

    @property
    def user_vectors(self) -> Float32[np.ndarray, "known dim"]:
        """The vectors of the log's users."""
        return self._arrays["users"]

    @cached_property
    def _positions(self) -> Float32[np.ndarray, "slots"]:
        known = self._arrays["positions"]
        return known[: self.slots] if len(known) > 1 else np.zeros(self.slots, np.float32)

    @cached_property
    def _shares(self) -> Float64[np.ndarray, "known"]:
        return np.cumsum(self._arrays["weights"].astype(np.float64))

    def reset(self, users: int, rng: Draws) -> Guests:
        """See `World.reset`."""
        drawn = uniform(rng, users).astype(np.float64) * self._shares[-1]
        who = np.minimum(np.searchsorted(self._shares, drawn, side="right"), len(self._shares) - 1)
        nothing = np.zeros((users, self.slots), np.float32)
        shown = np.full((users, self.slots), -1, np.int64)
        return Guests(np.zeros(users, np.int32), shown, nothing > 0, who.astype(np.int64), nothing)

    def step(self, state: Guests, slates: Int[np.ndarray, "users slots"], rng: Draws) -> tuple[Guests, Feedback]:
        """See `World.step`."""
        users = len(slates)
        responses = self._responses(self.scores(state.who, slates), rng)
        after = Guests(state.age + np.int32(1), slates, responses > 0, state.who, responses)
        left = uniform(rng, users) < np.float32(self.about["leave"] if self.leave is None else self.leave)
        return after, Feedback(after.clicks, responses.sum(1, dtype=np.float32), left)

    def _responses(self, scores: Slots, rng: Draws) -> Slots:
        """Random responses with the predicted mean."""
        users, (low, high) = len(scores), self.about["range"]
        if self.about["kind"] == "clicks":
            return np.asarray(uniform(rng, users, self.slots) < sigmoid(scores), np.float32)
        if not self.about["levels"]:
            return np.asarray(scores + np.float32(self.about["noise"]) * normal(rng, users, self.slots))
        chance = (scores - np.float32(low)) / np.float32(high - low)
        steps = uniform(rng, users, self.slots, self.about["levels"]) < chance[..., None]
        return np.asarray(np.float32(low) + steps.sum(-1), np.float32)

    def scores(self, who: Int64[np.ndarray, "users"], slates: Int[np.ndarray, "users slots"]) -> Slots:
        """Log odds of a click, or the expected rating."""
        found: Slots = np.einsum("usd,ud->us", self.item_vectors[slates], self.user_vectors[who])
        found += self._positions
        return found

    def expected(self, scores: Float32[np.ndarray, "*grid"]) -> Float32[np.ndarray, "*grid"]:
        """The mean response for given scores (for ratings, before they are clipped to the scale)."""
        return sigmoid(scores) if self.about["kind"] == "clicks" else scores

    def observe(self, state: Guests, ideal: bool = False) -> Observation:
        """The responses to the last slate and, if `ideal`, the user's vector, both divided by the largest values."""
        seen = np.clip(state.responses / np.float32(max(np.abs(self.about["range"]))), -1, 1)
        if ideal:
            seen = np.concatenate([seen, self.user_vectors[state.who] / self._largest], axis=1)
        return Observation(state.shown, state.clicks, seen.astype(np.float32))

    @cached_property
    def _largest(self) -> np.float32:
        return np.float32(np.abs(self.user_vectors).max() + 1e-6)

    def bounds(self, ideal: bool = False) -> tuple[Float32[np.ndarray, "columns"], Float32[np.ndarray, "columns"]]:
        """See `World.bounds`."""
        columns = self.slots + (self.user_vectors.shape[1] if ideal else 0)
        return np.full(columns, -1, np.float32), np.ones(columns, np.float32)

    @cached_property
    def _popular_slate(self) -> Int64[np.ndarray, "slots"]:
        """The items of the highest mean response."""
        weights = self._arrays["weights"] / self._arrays["weights"].sum()
        total = np.zeros(self.items, np.float32)
        for start in range(0, len(weights), 1000):
            part = slice(start, start + 1000)
            total += weights[part] @ self.expected(self.user_vectors[part] @ self.item_vectors.T)
        return np.asarray(best(total[None], self.slots)[0])

    def _greedy(self, state: Guests, rng: Draws) -> Int64[np.ndarray, "users slots"]:
        """The items of the highest scores."""
        return best(self.user_vectors[state.who] @ self.item_vectors.T, self.slots)

    _aware = _greedy


def about(path: Path) -> dict[str, Any]:
    """The description in a world's file.

    Raises:
        ModelError: there is no such file, or it is not a world's.
    """
    try:
        with safetensors.safe_open(path, framework="np") as file:
            header = file.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelError(f"{path}: cannot be read as a world ({error}); make one with what-next data world") from error
    if header.get("what_next.world") != FORMAT:
        raise ModelError(f"{path}: is no world of format {FORMAT}; make one with what-next data world")
    told: dict[str, Any] = json.loads(header["about"])
    return told


def write_world(arrays: Mapping[str, np.ndarray], told: Mapping[str, Any], path: Path) -> None:
    """Write the result of `fit`.

    Raises:
        SaveError: it cannot be written.
    """
    write_files({path: save(dict(arrays), {"what_next.world": FORMAT, "about": json.dumps(told)})})
