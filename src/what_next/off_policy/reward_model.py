"""A reward model for the direct method and doubly robust estimates: ridge regression, linear in the items' vectors.

`q(x, a)` is linear in psi = outer([1, context], [1, vector of the item]), standardised. The mean of q over a policy's
actions is then q at the policy's mean vector, exact and without a sum over the catalogue.

The model is cross-fitted (Chernozhukov et al., 2018, arXiv 1608.00060): units are dealt into folds, and each fold is
predicted by a model of the others, so that no prediction depends on the row's own reward.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from what_next.off_policy.weighting import Ids, Rows

Table = Float64[np.ndarray, "rows _"]
Some = Int64[np.ndarray, "_"]
"""Indices of some rows."""
Folds = Float64[np.ndarray, "folds features"]
Squares = Float64[np.ndarray, "folds features features"]
PENALTIES = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5)
"""Candidate ridge penalties, on standardised features."""
FLAT = 1e-9
"""A direction of standardised columns with less variance than this is only rounding error."""
FEATURES = 512
"""Most features; `Bilinear` says which are kept."""
BLOCK = 2**18
"""Feature values (rows times features) computed at a time: as many as a cache holds."""


@dataclass(frozen=True, eq=False)
class Axes:
    """Principal axes of standardised columns, strongest first.

    Attributes:
        centre: the columns' means.
        turn: the matrix from centred columns to the axes.
        variances: of the rows along each axis.
    """

    centre: Float64[np.ndarray, "columns"]
    turn: Float64[np.ndarray, "columns axes"]
    variances: Float64[np.ndarray, "axes"]

    @classmethod
    def of(cls, table: Float64[np.ndarray, "rows columns"]) -> "Axes":
        """The axes along which the rows vary by more than rounding."""
        centre, deviation = table.mean(axis=0), table.std(axis=0)
        varies = deviation > FLAT * np.abs(table).max(axis=0, initial=0)
        scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=varies)
        standard = (table - centre) * scale
        variances, turn = np.linalg.eigh(standard.T @ standard / len(table))
        kept = np.flatnonzero(variances > FLAT)[::-1]
        return cls(centre, scale[:, None] * turn[:, kept], variances[kept])

    def __call__(self, table: Float64[np.ndarray, "rows columns"]) -> Float64[np.ndarray, "rows one_and_axes"]:
        """A constant 1, then each row's coordinates along the axes."""
        return np.hstack([np.ones((len(table), 1)), (table - self.centre) @ self.turn])


@dataclass(frozen=True, eq=False)
class Bilinear:
    """outer([1, context], [1, vector]), the constant first, in at most a given number of columns.

    Both sides are standardised over the logged rows and turned to their principal axes, which changes no fit with a
    ridge penalty; a column that never varies is left out. If the outer product has too many columns, they are kept in
    this order: the constant, the axes by themselves, then products of two axes by the product of their variances. So
    the features stay linear in the vector, and there is no randomness.

    Attributes:
        context, vector: the axes of each side.
        left, right: the context axis and the vector axis whose product each feature is; 0 is the constant.
    """

    context: Axes
    vector: Axes
    left: Int64[np.ndarray, "features"]
    right: Int64[np.ndarray, "features"]

    @classmethod
    def of(cls, contexts: Table, vectors: Table, most: int) -> "Bilinear":
        """At most `most` features, fitted to the logged contexts and the logged items' vectors."""
        context, vector = Axes.of(contexts), Axes.of(vectors)
        above = 1 / FLAT**2  # any axis times the constant comes before any product of two axes
        sides = [np.append(above, axes.variances) for axes in (context, vector)]
        strength = np.outer(*sides)
        left, right = np.unravel_index(np.argsort(-strength, axis=None, kind="stable")[:most], strength.shape)
        return cls(context, vector, left.astype(np.int64), right.astype(np.int64))

    @property
    def width(self) -> int:
        """The number of features."""
        return len(self.left)

    def __call__(self, contexts: Table, vectors: Table) -> Table:
        """The features of some rows; for an expected vector, this is the mean of the features over the items."""
        left, right = self.context(contexts).take(self.left, axis=1), self.vector(vectors).take(self.right, axis=1)
        return np.asarray(left * right)


@dataclass(frozen=True, eq=False)
class Features:
    """Bilinear features of logged rows, computed on demand in blocks.

    Attributes:
        psi: the feature map.
        contexts: the features of each row that were known before the action.
        chosen: the vector of the logged action.
        expected: the mean vector of the target's actions.
    """

    psi: Bilinear
    contexts: Table
    chosen: Table
    expected: Table

    @classmethod
    def of(cls, contexts: Table | None, chosen: Table, expected: Table, most: int) -> "Features":
        """At most `most` features per row; without contexts, they depend on the item vector only."""
        contexts = np.empty((len(chosen), 0)) if contexts is None else contexts
        return cls(Bilinear.of(contexts, chosen, most), contexts, chosen, expected)

    def blocks(self, rows: Some) -> list[Some]:
        """The rows in blocks of about `BLOCK` feature values."""
        step = max(1, BLOCK // self.psi.width)
        return [rows[start : start + step] for start in range(0, len(rows), step)]

    def logged(self, rows: Some) -> Float64[np.ndarray, "_ features"]:
        """psi of the logged action."""
        return self.psi(self.contexts[rows], self.chosen[rows])

    def aimed(self, rows: Some) -> Float64[np.ndarray, "_ features"]:
        """The mean of psi over the target's actions."""
        return self.psi(self.contexts[rows], self.expected[rows])


@dataclass(frozen=True, eq=False)
class Modelled:
    """Cross-fitted predictions for each row.

    Attributes:
        chosen: q of the logged action.
        expected: the mean of q over the target's actions.
        pull: the effect of each row's reward, through the models, on the mean of `expected`: its influence times the
            number of rows (infinitesimal jackknife; Efron 1982). A bootstrap over `expected + pull` covers the models'
            error too, without refits.
        penalty: the chosen ridge penalty.
    """

    chosen: Rows
    expected: Rows
    pull: Rows
    penalty: float


def deal(units: int, folds: int, seed: int) -> Int64[np.ndarray, "units"]:
    """The fold of each unit: random, with sizes that differ by at most one."""
    return np.random.default_rng(seed).permutation(np.arange(units) % folds)


def cross_fit(
    contexts: Table | None,
    chosen: Table,
    expected: Table,
    rewards: Rows,
    folds: Ids,
    *,
    penalties: Sequence[float] = PENALTIES,
) -> Modelled:
    """Fit one model per fold on the rows of all other folds, and predict the fold with it.

    Args:
        contexts: as for `Features`; `chosen`, `expected`: likewise.
        rewards: the target of the regression.
        folds: the fold of each row: 0, 1, ... without gaps, at least two; all rows of a unit are in the same fold.
        penalties: candidates, all above 0, for every coefficient except the constant. See `chosen_penalty`.
    """
    features = Features.of(contexts, chosen, expected, FEATURES)
    count = int(folds.max()) + 1
    blocks = [(fold, rows) for fold in range(count) for rows in features.blocks(np.flatnonzero(folds == fold))]
    squares, sums, wanted = _equations(features, rewards, blocks, count)
    thetas = [_solved(squares, penalty, sums.sum(axis=0) - sums) for penalty in penalties]
    predicted = np.empty((len(rewards), len(penalties)))
    for fold, rows in blocks:
        predicted[rows] = features.logged(rows) @ np.stack([theta[fold] for theta in thetas], axis=1)
    best = chosen_penalty(np.square(rewards[:, None] - predicted), penalties)
    # features @ lever * residual is a row's effect on the sum of `expected`, through the models of all other folds.
    reach = _solved(squares, penalties[best], wanted)
    levers = reach.sum(axis=0) - reach
    aimed, pull = np.empty(len(predicted)), np.empty(len(predicted))
    for fold, rows in blocks:
        aimed[rows] = features.aimed(rows) @ thetas[best][fold]
        pull[rows] = features.logged(rows) @ levers[fold] * (rewards[rows] - predicted[rows, best])
    return Modelled(predicted[:, best], aimed, pull, penalties[best])


def chosen_penalty(errors: Float64[np.ndarray, "rows penalties"], penalties: Sequence[float]) -> int:
    """The index of the smallest penalty whose error is within one standard error of the lowest.

    Breiman et al. (1984) take the largest instead. Here the smallest is better, because shrinking biases the direct
    method: the mean of q over a policy and a log varies far less than q itself, so it gains less from shrinking.

    Args:
        errors: the squared held-out error of each row.
        penalties: of each column.
    """
    excess = errors - errors[:, [errors.mean(axis=0).argmin()]]
    near = excess.mean(axis=0) <= excess.std(axis=0) / np.sqrt(len(errors))
    return int(np.where(near, penalties, np.inf).argmin())


def _equations(
    features: Features, rewards: Rows, blocks: Sequence[tuple[int, Some]], count: int
) -> tuple[Squares, Folds, Folds]:
    """Per fold: the sums of psi psi', of psi * reward, and of the target's psi."""
    size = features.psi.width
    squares, sums, wanted = np.zeros((count, size, size)), np.zeros((count, size)), np.zeros((count, size))
    for fold, rows in blocks:
        psi = features.logged(rows)
        squares[fold] += psi.T @ psi
        sums[fold] += rewards[rows] @ psi
        wanted[fold] += features.aimed(rows).sum(axis=0)
    return squares, sums, wanted


def _solved(squares: Squares, penalty: float, right: Folds) -> Folds:
    """Ridge regression for each fold on the squares of all other folds; the constant has no penalty."""
    ridge = np.diag(np.append(0.0, np.full(squares.shape[1] - 1, penalty)))
    return np.linalg.solve(squares.sum(axis=0) - squares + ridge, right[:, :, None])[:, :, 0]
