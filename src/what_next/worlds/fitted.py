"""A world fitted to a log of what was shown and what it earned: clicks, or ratings."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
from jaxtyping import Float, Float32, Float64, Int, Int64
from pydantic import Field, model_validator
from safetensors.numpy import load_file, save

from what_next.data.decisions.log import DecisionLog
from what_next.data.files import write_files
from what_next.errors import DataError, ModelError
from what_next.off_policy.reward_model import Bilinear, deal
from what_next.worlds.base import Draws, Feedback, Observation, Reference, State, World, best, normal, uniform

FORMAT = "1"
ONE_HOT = 500
"""Users, or items, at most, of whom each has a column of their own; of more, the attributes alone are read."""
FEATURES = {"clicks": 256, "ratings": 1024}
"""At most; logistic regression solves one system of so many equations for each round."""
PENALTIES = (1e4, 3e3, 1e3, 300.0, 100.0, 30.0, 10.0)
FOLDS, ROUNDS, BINS = 5, 12, 10
PAUSE = 30 * 60 * 1_000_000
"""Microseconds after which a user who is back is in another session."""
LEVELS = 20
"""Steps at most of a scale of ratings, which are drawn with binomials; what has more is drawn with normal noise."""
LARGEST = 20.0
"""Times the mean weight that a row of a rare item may weigh."""

Rows = Float64[np.ndarray, "rows"]


@dataclass(frozen=True, eq=False)
class Guests(State):
    """The users of `Fitted`.

    Attributes:
        who: which user of the log.
        responses: to the last slate: 1 for a click, or the rating.
    """

    who: Int64[np.ndarray, "users"]
    responses: Float32[np.ndarray, "users slots"]


class Fitted(World):
    """Users of a log, who click or rate as a model of the log foretells (`what-next data world`).

    The score of an item is `<user, item> + position`: logistic regression of clicks, or ridge regression of ratings, on
    the products of what is known of users and of items, each row weighted by one over the chance with which it was
    shown. A click is drawn with the sigmoid of the score; a rating of a scale of whole numbers is binomial with the
    score as its mean, any other the score and normal noise. Users are drawn as often as in the log, and leave as its
    pauses of half an hour tell. The reward is the sum over the slate. Left out: whatever earlier slates do to later
    ones. So looking one step ahead is best, and `aware` is `greedy`.
    """

    name: Literal["fitted"] = "fitted"
    path: Path = Field(description="the file that what-next data world wrote")
    slots: int = Field(default=1, ge=1, description="items of a slate; at most as many as the log had positions")
    steps: int | None = Field(default=10, ge=1, description="slates of an episode; none: until the user leaves")
    leave: float | None = Field(
        default=None, ge=0, lt=1, description="chance that a user leaves after a slate; none: as in the log, else 0"
    )

    @model_validator(mode="before")
    @classmethod
    def _items(cls, given: Any) -> Any:
        """The catalogue is the file's."""
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
        """What the file tells of the log, the fit and its calibration."""
        return about(self.path)

    @cached_property
    def _arrays(self) -> Mapping[str, np.ndarray]:
        return load_file(self.path)

    @property
    def item_vectors(self) -> Float32[np.ndarray, "items dim"]:
        """Those of the model."""
        return self._arrays["items"]

    @property
    def user_vectors(self) -> Float32[np.ndarray, "known dim"]:
        """Of the log's users."""
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

    def _responses(self, scores: Float32[np.ndarray, "users slots"], rng: Draws) -> Float32[np.ndarray, "users slots"]:
        """Drawn, with the mean that was foretold."""
        users, (low, high) = len(scores), self.about["range"]
        if self.about["kind"] == "clicks":
            return np.asarray(uniform(rng, users, self.slots) < _sigmoid(scores), np.float32)
        if not self.about["levels"]:
            return np.asarray(scores + np.float32(self.about["noise"]) * normal(rng, users, self.slots))
        chance = (scores - np.float32(low)) / np.float32(high - low)
        steps = uniform(rng, users, self.slots, self.about["levels"]) < chance[..., None]
        return np.asarray(np.float32(low) + steps.sum(-1), np.float32)

    def scores(
        self, who: Int64[np.ndarray, "users"], slates: Int[np.ndarray, "users slots"]
    ) -> Float32[np.ndarray, "users slots"]:
        """Log odds of a click, or the expected rating."""
        found: Float32[np.ndarray, "users slots"] = np.einsum(
            "usd,ud->us", self.item_vectors[slates], self.user_vectors[who]
        )
        found += self._positions
        return found

    def expected(self, scores: Float32[np.ndarray, "*grid"]) -> Float32[np.ndarray, "*grid"]:
        """The mean response at some scores (of ratings: where the range does not cut it off)."""
        return _sigmoid(scores) if self.about["kind"] == "clicks" else scores

    def observe(self, state: Guests, ideal: bool = False) -> Observation:
        """The responses to the last slate, and if `ideal` the user's vector, as shares of the largest."""
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

    def references(self) -> Mapping[str, Reference]:
        """See `World.references`."""
        return {"random": self.random_slates, "popular": self._popular, "greedy": self._greedy, "aware": self._greedy}

    @cached_property
    def _popular_slate(self) -> Int64[np.ndarray, "slots"]:
        """The items of the highest mean response."""
        weights = self._arrays["weights"] / self._arrays["weights"].sum()
        total = np.zeros(self.items, np.float32)
        for start in range(0, len(weights), 1000):
            part = slice(start, start + 1000)
            total += weights[part] @ self.expected(self.user_vectors[part] @ self.item_vectors.T)
        slate: Int64[np.ndarray, slots] = best(total[None], self.slots)[0]
        return slate

    def _popular(self, state: Guests, rng: Draws) -> Int64[np.ndarray, "users slots"]:
        return np.repeat(self._popular_slate[None], len(state.age), axis=0)

    def _greedy(self, state: Guests, rng: Draws) -> Int64[np.ndarray, "users slots"]:
        """The items of the highest scores."""
        return best(self.user_vectors[state.who] @ self.item_vectors.T, self.slots)


def about(path: Path) -> dict[str, Any]:
    """What the file of a world tells of itself.

    Raises:
        ModelError: there is no such file, or it is none of a world.
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
    """Write what `fit` found.

    Raises:
        SaveError: it cannot be written.
    """
    content = save(dict(arrays), {"what_next.world": FORMAT, "about": json.dumps(told)})
    write_files({path: lambda file: file.write(content)})


def fit(
    log: DecisionLog, *, seed: int = 0, rows: Int64[np.ndarray, "some"] | None = None
) -> tuple[dict[str, Float32[np.ndarray, "..."]], dict[str, Any]]:
    """Fit users, items and positions to a log.

    Args:
        log: with propensities, by one over which its rows are weighted; without, they count alike.
        seed: of the folds, in which whole units stay together.
        rows: some of the log's rows, perhaps several times (a bootstrap); None: all.

    Returns:
        The arrays and the description that `write_world` writes.

    Raises:
        DataError: every reward is the same.
    """
    data = _Data.of(log, np.arange(len(log)) if rows is None else rows)
    folds = deal(log.count, FOLDS, seed)[data.units]
    losses, held_out = np.zeros(len(PENALTIES)), np.empty((len(data.rewards), len(PENALTIES)))
    for fold in range(FOLDS):
        inside = folds != fold
        for place, theta in enumerate(data.fitted(inside)):
            held_out[~inside, place] = data.psi[~inside] @ theta
    for place in range(len(PENALTIES)):
        losses[place] = data.loss(held_out[:, place])
    chosen = int(losses.argmin())
    theta = data.fitted(np.ones(len(folds), np.bool_), chosen)[chosen]
    arrays, noise = data.arrays(theta), data.noise(held_out[:, chosen])
    constant = np.empty(len(folds))
    for fold in range(FOLDS):
        constant[folds == fold] = np.average(data.rewards[folds != fold], weights=data.weights[folds != fold])
    told = {
        "kind": data.kind,
        "items": len(log.items),
        "item_ids": [str(one) for one in log.items.ids],
        "users": len(arrays["users"]),
        "positions": len(arrays["positions"]),
        "rows": len(data.rewards),
        "log": {"file": log.source.path.name, "hash": log.hash},
        "weighted": log.propensities is not None,
        "range": [float(data.rewards.min()), float(data.rewards.max())],
        "mean": float(data.rewards.mean()),
        "noise": noise,
        "levels": _levels(data.rewards),
        "leave": _leaving(log),
        "penalty": PENALTIES[chosen],
        "loss": float(losses[chosen]),
        "loss_of_the_mean": data.loss(np.log(constant / (1 - constant)) if data.kind == "clicks" else constant),
        "calibration": data.calibration(held_out[:, chosen]),
    }
    return arrays, told


@dataclass(frozen=True, eq=False)
class _Data:
    """What is fitted: features, rewards and weights of rows; and of whom and what the features are."""

    kind: Literal["clicks", "ratings"]
    product: Bilinear
    psi: Float64[np.ndarray, "rows features"]
    rewards: Rows
    weights: Rows
    units: Int64[np.ndarray, "rows"]
    known: Float64[np.ndarray, "known columns"]
    shares: Float64[np.ndarray, "known"]
    catalogue: Float64[np.ndarray, "items width"]

    @classmethod
    def of(cls, log: DecisionLog, rows: Int64[np.ndarray, "some"]) -> "_Data":
        rewards = log.rewards[rows]
        if rewards.min() == rewards.max():
            raise DataError(f"{log.source.path}: every reward is {rewards[0]:g}, so nothing can be foretold of them")
        kind: Literal["clicks", "ratings"] = "clicks" if np.isin(rewards, (0, 1)).all() else "ratings"
        contexts, catalogue = _contexts(log), _catalogue(log)
        product = Bilinear.of(contexts[rows], catalogue[log.actions[rows]], FEATURES[kind])
        psi = product(contexts[rows], catalogue[log.actions[rows]])
        if log.places is not None:
            psi = np.hstack([psi, np.eye(int(log.places.max()) + 1)[log.places[rows], 1:]])
        weights = np.ones(len(rows)) if log.propensities is None else 1 / log.propensities[rows]
        weights = np.minimum(weights / weights.mean(), LARGEST)
        known, shares = np.unique(contexts[rows], axis=0, return_counts=True)
        return cls(kind, product, psi, rewards, weights, log.units[rows], known, shares.astype(np.float64), catalogue)

    def fitted(self, inside: np.ndarray, last: int | None = None) -> list[Float64[np.ndarray, "features"]]:
        """Coefficients by some rows: one fit for each penalty down to `last`, the constant without any."""
        psi, rewards, weights = self.psi[inside], self.rewards[inside], self.weights[inside]
        penalties = PENALTIES[: None if last is None else last + 1]
        if self.kind == "ratings":
            square, right = psi.T @ (psi * weights[:, None]), psi.T @ (weights * rewards)
            return [np.linalg.solve(square + self._ridge(one), right) for one in penalties]
        theta, found = np.zeros(psi.shape[1]), []
        mean = np.average(rewards, weights=weights).clip(1e-6, 1 - 1e-6)
        theta[0] = np.log(mean / (1 - mean))
        for penalty in penalties:
            ridge = self._ridge(penalty)
            for _ in range(ROUNDS):  # Newton's method
                chance = _sigmoid(psi @ theta)
                slope = psi.T @ (weights * (rewards - chance)) - ridge @ theta
                step = np.linalg.solve(psi.T @ (psi * (weights * chance * (1 - chance))[:, None]) + ridge, slope)
                theta = theta + step
                if np.abs(step).max() < 1e-4:
                    break
            found.append(theta)
        return found

    def _ridge(self, penalty: float) -> Float64[np.ndarray, "features features"]:
        return np.diag(np.append(1e-9, np.full(self.psi.shape[1] - 1, penalty)))

    def loss(self, scores: Rows) -> float:
        """The weighted mean: log loss of clicks, squared error of ratings."""
        if self.kind == "ratings":
            return float(np.average(np.square(self.rewards - scores), weights=self.weights))
        losses = np.logaddexp(0, np.where(self.rewards > 0, -scores, scores))
        return float(np.average(losses, weights=self.weights))

    def noise(self, scores: Rows) -> float:
        """Standard deviation of what the scores of ratings do not foretell."""
        return self.loss(scores) ** 0.5 if self.kind == "ratings" else 0.0

    def calibration(self, scores: Rows) -> list[dict[str, Any]]:
        """By tenths of what was foretold of rows that the model has not seen: foretold and observed, weighted."""
        foretold = _sigmoid(scores) if self.kind == "clicks" else scores
        table = []
        for part in np.array_split(np.argsort(foretold, kind="stable"), BINS):
            weights = self.weights[part]
            table.append(
                {
                    "rows": len(part),
                    "predicted": float(np.average(foretold[part], weights=weights)),
                    "observed": float(np.average(self.rewards[part], weights=weights)),
                }
            )
        return table

    def arrays(self, theta: Float64[np.ndarray, "features"]) -> dict[str, Float32[np.ndarray, "..."]]:
        """Users and items as vectors whose inner product is the score: the factors of the coefficients' matrix."""
        left, right = self.product.context(self.known), self.product.vector(self.catalogue)
        matrix = np.zeros((left.shape[1], right.shape[1]))
        matrix[self.product.left, self.product.right] = theta[: self.product.width]
        outer, sizes, inner = np.linalg.svd(matrix, full_matrices=False)
        kept = sizes > 1e-9 * sizes[0]
        root = np.sqrt(sizes[kept])
        positions = np.append(0.0, theta[self.product.width :])
        found = {
            "users": left @ (outer[:, kept] * root),
            "items": right @ (inner[kept].T * root),
            "positions": positions,
            "weights": self.shares,
        }
        return {name: np.ascontiguousarray(values, np.float32) for name, values in found.items()}


def _contexts(log: DecisionLog) -> Float64[np.ndarray, "rows columns"]:
    """What is known of each row's user: features of the log, and a column for each where they are few."""
    lasting = [place for place, name in enumerate(log.context_names) if not name.startswith(("slot=", "earlier "))]
    features = log.contexts[:, lasting]
    if log.user_ids is not None and log.count <= ONE_HOT:
        features = np.hstack([features, np.eye(log.count)[log.units]])
    return features


def _catalogue(log: DecisionLog) -> Float64[np.ndarray, "items width"]:
    """Attributes of the items, and a column for each where they are few."""
    parts = [] if log.items.vectors is None else [log.items.vectors]
    if len(log.items) <= ONE_HOT:
        parts.append(np.eye(len(log.items)))
    if not parts:
        raise DataError(
            f"{log.source.path}: {len(log.items):,} items without attributes are too many to tell apart by their rows "
            f"alone (at most {ONE_HOT}); give their table with --items"
        )
    return np.hstack(parts)


def _levels(rewards: Rows) -> int:
    """Steps of a scale of whole numbers; 0: there is none."""
    low, high = rewards.min(), rewards.max()
    return int(high - low) if (rewards == np.round(rewards)).all() and high - low <= LEVELS else 0


def _leaving(log: DecisionLog) -> float:
    """The chance that a slate is the last before a pause; 0 where users or times are not known."""
    if log.user_ids is None or log.times is None:
        return 0.0
    begins = (np.diff(log.units, prepend=-1) != 0) | (np.diff(log.times, prepend=log.times[:1]) > PAUSE)
    slates = len(log) if log.slates is None else int(log.slates[-1]) + 1
    return min(float(begins.sum() / slates), 0.99)


def _sigmoid(odds: Float[np.ndarray, "*grid"]) -> Float[np.ndarray, "*grid"]:
    with np.errstate(over="ignore"):
        chance: Float[np.ndarray, "*grid"] = 1 / (1 + np.exp(-odds))
    return chance
