"""Fits users and items to a log of shown items and their rewards, and validates the fit on held-out rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from jaxtyping import Float32, Float64, Int64

from what_next.data import Dataset
from what_next.data.decisions.log import DecisionLog
from what_next.errors import DataError, ModelError, some
from what_next.off_policy.reward_model import Bilinear, deal
from what_next.policy import LearnedPolicy
from what_next.settings import Setup
from what_next.worlds.base import sigmoid

ONE_HOT = 500
"""Up to this many users (or items), each gets its own column; above, only their attributes are used."""
FEATURES = {"clicks": 256, "ratings": 1024}
"""Most features; each round of logistic regression solves a system of this many equations."""
PENALTIES = (1e4, 3e3, 1e3, 300.0, 100.0, 30.0, 10.0)
FOLDS, ROUNDS, BINS = 5, 12, 10
PAUSE = 30 * 60 * 1_000_000
"""Microseconds without events after which a user starts a new session."""
LEVELS = 20
"""Most steps of a rating scale for binomial draws; larger scales are drawn with normal noise."""
LARGEST = 20.0
"""Cap of a row's weight, as a multiple of the mean weight."""

Rows = Float64[np.ndarray, "rows"]


@dataclass(frozen=True, eq=False)
class Vectors:
    """A trained model's vectors, which replace the features of users and items from the log.

    Attributes:
        points: the actor's output after each user's history in the model's data; zero for unknown users.
        items: vectors of the log's items in the same space.
    """

    points: Float64[np.ndarray, "units dim"]
    items: Float64[np.ndarray, "items dim"]

    @classmethod
    def of(cls, setup: Setup, log: DecisionLog) -> "Vectors":
        """From a setup's model, with the histories in its own data.

        Raises:
            DataError: the log has no users, or has items that are not in the model.
            ModelError: the model is missing, or does not score items.
        """
        if log.user_ids is None:
            raise DataError(
                f"{log.source.path}: has no users, so the model has no histories; name their column (--user)"
            )
        dataset = Dataset.read(setup.data_path)
        policy = LearnedPolicy.load(setup, dataset)
        places = policy.state.space.catalogue.index(log.items.ids.to_list()).astype(np.int64)
        users = dataset.user_index(log.user_ids.to_list()).astype(np.int64)
        if (places < 0).any():
            unknown = some(log.items.ids.filter(pl.Series(places < 0)))
            raise DataError(f"{log.source.path}: the model does not know the items {unknown}")
        known, lengths = np.flatnonzero(users >= 0), np.diff(dataset.offsets)
        if not len(known):
            raise DataError(f"{log.source.path}: the data of the model, {setup.data}, hold none of its users")
        states = [
            policy.states(policy.state.histories(part, np.zeros(len(part), np.int64), lengths[part]))
            for part in np.array_split(users[known].astype(np.int32), len(known) // 256 + 1)
        ]
        ranked = states[0].ranked
        if ranked is None or ranked.rescored or ranked.traits is not None:
            raise ModelError(f"{setup.model_agent_path}: its algorithm does not score items by their vectors alone")
        # Other parts of some models' scores are ignored.
        vectors = ranked.vectors.detach().cpu().numpy().astype(np.float64)
        points = np.zeros((log.count, vectors.shape[1]))
        points[known] = np.concatenate([one.points.reshape(-1, vectors.shape[1]) for one in states])
        return cls(points, vectors[places])


def fit(
    log: DecisionLog, *, seed: int = 0, rows: Int64[np.ndarray, "some"] | None = None, model: Vectors | None = None
) -> tuple[dict[str, Float32[np.ndarray, "..."]], dict[str, Any]]:
    """Fit users, items and positions to a log.

    Args:
        log: with propensities, rows have inverse-propensity weights; without, equal weights.
        seed: of the folds, which never split a unit.
        rows: some of the log's rows, possibly repeated (a bootstrap); None: all.
        model: vectors that replace the log's features of users and items.

    Returns:
        The arrays and the description for `write_world`.

    Raises:
        DataError: all rewards are equal, or there are too few units for held-out folds.
    """
    data = _Data.of(log, np.arange(len(log)) if rows is None else rows, model)
    folds = deal(log.count, FOLDS, seed)[data.units]
    held_out, means = np.empty((len(folds), len(PENALTIES))), np.empty(len(folds))
    for fold in range(FOLDS):
        inside = folds != fold
        means[~inside] = np.average(data.rewards[inside], weights=data.weights[inside])
        for place, theta in enumerate(data.fitted(inside)):
            held_out[~inside, place] = data.psi[~inside] @ theta
    errors = np.column_stack([data.errors(scores) for scores in held_out.T])
    chosen = int(np.argmin(data.mean(errors)))
    # What is told of a fold uses the penalty that is best on the other folds, or the best of many would look too good.
    others = np.array([np.argmin(data.mean(errors, folds != fold)) for fold in range(FOLDS)])[folds]
    each = np.arange(len(folds))
    loss = float(data.mean(errors[each, others]))
    arrays = data.arrays(data.fitted(np.ones(len(folds), np.bool_), chosen)[chosen])
    chances = means.clip(1e-9, 1 - 1e-9)
    alone = data.errors(means if data.kind == "ratings" else np.log(chances / (1 - chances)))
    tried = {
        "penalty": PENALTIES[chosen],
        "loss": loss,
        "loss_of_the_mean": float(data.mean(alone)),
        "noise": loss**0.5 if data.kind == "ratings" else 0.0,  # standard deviation of the residuals
        "calibration": data.calibration(held_out[each, others]),
    }
    return arrays, _told(log, data, arrays) | tried


@dataclass(frozen=True, eq=False)
class _Data:
    """The features, rewards and weights of rows, and the features of all users and items."""

    kind: Literal["clicks", "ratings"]
    product: Bilinear
    psi: Float64[np.ndarray, "rows features"]
    rewards: Rows
    weights: Rows
    units: Int64[np.ndarray, "rows"]
    known: Float64[np.ndarray, "known columns"]
    shares: Float64[np.ndarray, "known"]
    catalogue: Float64[np.ndarray, "items width"]
    scale: float
    """Scale of the inner products of users and items, a feature if a model provides the vectors; else 0."""

    @classmethod
    def of(cls, log: DecisionLog, rows: Int64[np.ndarray, "some"], model: Vectors | None) -> "_Data":
        rewards = log.rewards[rows]
        if rewards.min() == rewards.max():
            raise DataError(f"{log.source.path}: every reward is {rewards[0]:g}, so nothing can be predicted of them")
        if log.count < FOLDS:
            raise DataError(
                f"{log.source.path}: has {log.count} {log.unit}s, too few to fit to some and try on others; give a log "
                f"of {FOLDS} or more"
            )
        kind: Literal["clicks", "ratings"] = "clicks" if np.isin(rewards, (0, 1)).all() else "ratings"
        contexts = _contexts(log) if model is None else model.points[log.units]
        catalogue = _catalogue(log) if model is None else model.items
        product = Bilinear.of(contexts[rows], catalogue[log.actions[rows]], FEATURES[kind])
        psi, scale = product(contexts[rows], catalogue[log.actions[rows]]), 0.0
        if model is not None:
            scores = np.einsum("rd,rd->r", contexts[rows], catalogue[log.actions[rows]])
            scale = float(1 / max(scores.std(), 1e-9))
            psi = np.hstack([psi, scale * scores[:, None]])
        if log.places is not None:
            psi = np.hstack([psi, np.eye(int(log.places.max()) + 1)[log.places[rows], 1:]])
        weights = np.ones(len(rows)) if log.propensities is None else 1 / log.propensities[rows]
        weights = np.minimum(weights / weights.mean(), LARGEST)
        known, shares = np.unique(contexts[rows], axis=0, return_counts=True)
        units, shares = log.units[rows], shares.astype(np.float64)
        return cls(kind, product, psi, rewards, weights, units, known, shares, catalogue, scale)

    def fitted(self, inside: np.ndarray, last: int | None = None) -> list[Float64[np.ndarray, "features"]]:
        """Coefficients from the rows `inside`: one fit for each penalty down to `last`, the constant unpenalised."""
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
                chance = sigmoid(psi @ theta)
                slope = psi.T @ (weights * (rewards - chance)) - ridge @ theta
                step = np.linalg.solve(psi.T @ (psi * (weights * chance * (1 - chance))[:, None]) + ridge, slope)
                theta = theta + step
                if np.abs(step).max() < 1e-4:
                    break
            found.append(theta)
        return found

    def _ridge(self, penalty: float) -> Float64[np.ndarray, "features features"]:
        return np.diag(np.append(1e-9, np.full(self.psi.shape[1] - 1, penalty)))

    def errors(self, scores: Rows) -> Rows:
        """The log loss of each click, or the squared error of each rating."""
        if self.kind == "ratings":
            return np.asarray(np.square(self.rewards - scores))
        return np.asarray(np.logaddexp(0, np.where(self.rewards > 0, -scores, scores)))

    def mean(self, errors: Float64[np.ndarray, "rows *some"], inside: np.ndarray | slice = slice(None)) -> Any:
        """The weighted mean over the rows `inside`."""
        return np.average(errors[inside], axis=0, weights=self.weights[inside])

    def calibration(self, scores: Rows) -> list[dict[str, Any]]:
        """Predicted and observed means in tenths of the held-out predictions, weighted."""
        predicted = sigmoid(scores) if self.kind == "clicks" else scores
        table = []
        for part in np.array_split(np.argsort(predicted, kind="stable"), min(BINS, len(scores))):
            weights = self.weights[part]
            table.append(
                {
                    "rows": len(part),
                    "predicted": float(np.average(predicted[part], weights=weights)),
                    "observed": float(np.average(self.rewards[part], weights=weights)),
                }
            )
        return table

    def arrays(self, theta: Float64[np.ndarray, "features"]) -> dict[str, Float32[np.ndarray, "..."]]:
        """Users and items as vectors whose inner product is the score: a factorisation of the coefficient matrix."""
        left, right = self.product.context(self.known), self.product.vector(self.catalogue)
        matrix = np.zeros((left.shape[1], right.shape[1]))
        matrix[self.product.left, self.product.right] = theta[: self.product.width]
        outer, sizes, inner = np.linalg.svd(matrix, full_matrices=False)
        kept = sizes > 1e-9 * sizes[0]
        root = np.sqrt(sizes[kept])
        users, items, more = left @ (outer[:, kept] * root), right @ (inner[kept].T * root), theta[self.product.width :]
        if self.scale:
            users, more = np.hstack([users, more[0] * self.scale * self.known]), more[1:]
            items = np.hstack([items, self.catalogue])
        found = {"users": users, "items": items, "positions": np.append(0.0, more), "weights": self.shares}
        return {name: np.ascontiguousarray(values, np.float32) for name, values in found.items()}


def _contexts(log: DecisionLog) -> Float64[np.ndarray, "rows columns"]:
    """Features of each row's user: those in the log, and a one-hot column if there are few users."""
    lasting = [place for place, name in enumerate(log.context_names) if not name.startswith(("slot=", "earlier "))]
    features = log.contexts[:, lasting]
    if log.user_ids is not None and log.count <= ONE_HOT:
        features = np.hstack([features, np.eye(log.count)[log.units]])
    return features


def _catalogue(log: DecisionLog) -> Float64[np.ndarray, "items width"]:
    """Features of the items: their attributes, and a one-hot column if there are few items."""
    parts = [] if log.items.vectors is None else [log.items.vectors]
    if len(log.items) <= ONE_HOT:
        parts.append(np.eye(len(log.items)))
    if not parts:
        raise DataError(
            f"{log.source.path}: {len(log.items):,} items without attributes are too many to tell apart by their rows "
            f"alone (at most {ONE_HOT}); give their table with --items"
        )
    return np.hstack(parts)


def _told(log: DecisionLog, data: _Data, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The description in a world's file, with all parameters that are not arrays."""
    low, high = data.rewards.min(), data.rewards.max()
    whole = (data.rewards == np.round(data.rewards)).all() and high - low <= LEVELS
    return {
        "kind": data.kind,
        "items": len(log.items),
        "item_ids": [str(one) for one in log.items.ids],
        "users": len(arrays["users"]),
        "positions": len(arrays["positions"]),
        "rows": len(data.rewards),
        "log": {"file": log.source.path.name, "hash": log.hash},
        "weighted": log.propensities is not None,
        "range": [float(low), float(high)],
        "mean": float(data.rewards.mean()),
        "levels": int(high - low) if whole else 0,  # steps of an integer rating scale; 0 without such a scale
        "leave": _leaving(log),
    }


def _leaving(log: DecisionLog) -> float:
    """The probability that a slate is the last before a pause; 0 if users or times are unknown."""
    if log.user_ids is None or log.times is None:
        return 0.0
    begins = (np.diff(log.units, prepend=-1) != 0) | (np.diff(log.times, prepend=log.times[:1]) > PAUSE)
    slates = len(log) if log.slates is None else int(log.slates[-1]) + 1
    return min(float(begins.sum() / slates), 0.99)
