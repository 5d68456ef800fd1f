"""Bilinear features of a context and an item's vector."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

FLAT = 1e-9
"""A direction with less variance than this, where a column has 1, holds rounding alone."""


@dataclass(frozen=True, eq=False)
class Bilinear:
    """outer([1, context], [1, vector]), the constant first, in at most a given number of columns.

    Both sides are standardised over the logged rows and turned to their principal axes, which changes no fit with a
    ridge penalty; a column that never varies is left out. Where the outer product has more columns than allowed, the
    constant stays, then the axes by themselves, then the products of the strongest axes by the product of their
    variances. So all stays linear in the vector, and nothing is drawn at random.

    Attributes:
        context, vector: the axes of each side.
        left, right: which axis of either side each feature is the product of; 0 is the constant.
    """

    context: "Axes"
    vector: "Axes"
    left: Int64[np.ndarray, "features"]
    right: Int64[np.ndarray, "features"]

    @classmethod
    def of(
        cls,
        contexts: Float64[np.ndarray, "rows dim"] | None,
        vectors: Float64[np.ndarray, "rows width"],
        most: int,
    ) -> "Bilinear":
        """As many features as there are, or `most`, fitted to logged contexts and the logged items' vectors."""
        context, vector = Axes.of(np.empty((len(vectors), 0)) if contexts is None else contexts), Axes.of(vectors)
        above = 1 / FLAT**2  # any axis times the constant comes before any product of two axes
        sides = [np.append(above, axes.variances) for axes in (context, vector)]
        strength = np.outer(*sides)
        left, right = np.unravel_index(np.argsort(-strength, axis=None, kind="stable")[:most], strength.shape)
        return cls(context, vector, left.astype(np.int64), right.astype(np.int64))

    @property
    def width(self) -> int:
        """How many features there are."""
        return len(self.left)

    def __call__(
        self, contexts: Float64[np.ndarray, "rows dim"] | None, vectors: Float64[np.ndarray, "rows width"]
    ) -> Float64[np.ndarray, "rows features"]:
        """The features of some rows; of an expected vector, the mean of the features over the items."""
        contexts = np.empty((len(vectors), 0)) if contexts is None else contexts
        left, right = self.context(contexts).take(self.left, axis=1), self.vector(vectors).take(self.right, axis=1)
        return np.asarray(left * right)


@dataclass(frozen=True, eq=False)
class Axes:
    """Principal axes of standardised columns, strongest first.

    Attributes:
        centre: the columns' means.
        turn: from centred columns to the axes.
        variances: of the rows, along each axis.
    """

    centre: Float64[np.ndarray, "columns"]
    turn: Float64[np.ndarray, "columns axes"]
    variances: Float64[np.ndarray, "axes"]

    @classmethod
    def of(cls, table: Float64[np.ndarray, "rows columns"]) -> "Axes":
        """The axes along which the rows vary at all."""
        centre, deviation = table.mean(axis=0), table.std(axis=0)
        varies = deviation > FLAT * np.abs(table).max(axis=0, initial=0)
        scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=varies)
        standard = (table - centre) * scale
        variances, turn = np.linalg.eigh(standard.T @ standard / len(table))
        kept = np.flatnonzero(variances > FLAT)[::-1]
        return cls(centre, scale[:, None] * turn[:, kept], variances[kept])

    def __call__(self, table: Float64[np.ndarray, "rows columns"]) -> Float64[np.ndarray, "rows one_and_axes"]:
        """A constant 1, then where each row stands along the axes."""
        return np.hstack([np.ones((len(table), 1)), (table - self.centre) @ self.turn])
