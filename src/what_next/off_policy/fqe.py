"""Fitted Q evaluation with bilinear features (Le, Voloshin and Yue, 2019, arXiv 1903.08738).

    Q(s, a) = psi(s, a) @ theta,  psi = outer([1, context], [1, vector of the item])

psi is linear in the vector, so the mean of Q over the target's actions is psi at their expected vector, whatever the
number of items. The iteration

    theta <- argmin sum (psi(s, a) @ theta - r - discount * psi(s', expected') @ theta_old)^2 + penalty

is a linear map of theta_old, the same each time: its fixed point is the solution of one linear system (LSTDQ:
Lagoudakis and Parr, 2003), which is solved here instead. Nothing is earned after the last decision of a unit.

The model is right where Q is bilinear in what it reads, as with one-hot contexts and vectors. Where it is not, the
estimate is off, however long the log, and no interval tells by how much.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from what_next.errors import DataError
from what_next.off_policy.decisions import Decisions, Target
from what_next.off_policy.reward_model import Bilinear

RIDGE = 1e-4
"""Penalty per row, on standardised features; the constant goes free."""
FEATURES = 512
CHUNK = 2**18
"""Numbers in the features at work at a time: as many as a cache holds."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """What fitted Q evaluation found.

    Attributes:
        values: V of each row's state under the target.
        chosen: Q of each row's state and logged action.
        initial: V at the first state of each unit; the mean is the estimate. An interval from these alone tells what
            the draw of first states leaves open, and ignores that the regression could have come out otherwise: too
            narrow where rewards are noisy, and of no width where all first states look alike.
        influence: of each unit: `initial`, and to first order how much the unit pulled the regression (one step of
            Newton's method; Hao et al., 2021, arXiv 2102.03607, compare it with refits). Their mean is the estimate,
            too, and an interval from them counts the regression's own uncertainty, without refits. None where the fit
            is crossed.
        contraction: the spectral radius of one round of the iteration. From 1 on the iteration would diverge, and the
            estimate means nothing.
    """

    values: Float64[np.ndarray, "rows"]
    chosen: Float64[np.ndarray, "rows"]
    initial: Float64[np.ndarray, "units"]
    influence: Float64[np.ndarray, "units"] | None
    contraction: float


def fqe(
    decisions: Decisions,
    target: Target,
    discount: float,
    *,
    folds: int = 1,
    ridge: float = RIDGE,
    features: int = FEATURES,
    seed: int = 0,
) -> Fitted:
    """Fit the target's value by regression on the log.

    Args:
        decisions: the log; `vectors` are needed, `contexts` may be missing.
        target: `expected` is needed.
        discount: what a reward loses with each step, 0 to 1.
        folds: more than one: the values of each fold of the units come from a fit on the other folds, as doubly robust
            estimates want them (cross-fitting; Chernozhukov et al., 2018, arXiv 1608.00060). At most the units.
        ridge: penalty per row on standardised features, above 0, which makes any set of features safe.
        features: how many at most; see `Bilinear`.
        seed: which units make a fold.

    Raises:
        DataError: where the items have no vectors, or the target no expected ones.
    """
    if decisions.vectors is None or target.expected is None:
        raise DataError(
            "fitted Q evaluation needs vectors of the items and the policy's expected vector in each row, and one is "
            "missing; give both, one-hot vectors where items have no attributes"
        )
    log = _Log(decisions, target, Bilinear.of(decisions.contexts, decisions.vectors[decisions.actions], features))
    folds = max(1, min(folds, log.units))
    fold = (np.random.default_rng(seed).permutation(log.units) % folds)[decisions.units]
    parts = [np.flatnonzero(fold == one) for one in range(folds)]
    systems = _systems(log, parts)
    values, chosen = np.empty(len(fold)), np.empty(len(fold))
    for system, rows in zip(systems, parts, strict=True):
        values[rows], chosen[rows] = log.predict(system.solve(discount, ridge), rows)
    initial = values[log.first]
    influence = None if folds > 1 else initial + _pulls(log, systems[0], discount, ridge, values, chosen)
    return Fitted(values, chosen, initial, influence, max(one.contraction(discount, ridge) for one in systems))


@dataclass(frozen=True, eq=False)
class _Log:
    """The log as the regression reads it, features made in chunks as they are asked for."""

    decisions: Decisions
    target: Target
    bilinear: Bilinear

    @property
    def units(self) -> int:
        return int(self.decisions.units[-1]) + 1

    @property
    def first(self) -> Int64[np.ndarray, "units"]:
        return np.flatnonzero(np.diff(self.decisions.units, prepend=-1))

    @property
    def last(self) -> Int64[np.ndarray, "units"]:
        return np.flatnonzero(np.diff(self.decisions.units, append=self.units))

    def chunks(self, rows: Int64[np.ndarray, "rows"]) -> list[Int64[np.ndarray, "part"]]:
        step = max(1, CHUNK // self.bilinear.width)
        return [rows[start : start + step] for start in range(0, len(rows), step)]

    def logged(self, rows: Int64[np.ndarray, "rows"]) -> Float64[np.ndarray, "rows features"]:
        """psi(s, a) of the logged action."""
        vectors = self.decisions.vectors
        assert vectors is not None
        return self._psi(rows, vectors[self.decisions.actions[rows]])

    def expected(self, rows: Int64[np.ndarray, "rows"]) -> Float64[np.ndarray, "rows features"]:
        """The mean of psi(s, a) over the target's actions."""
        assert self.target.expected is not None
        return self._psi(rows, self.target.expected[rows])

    def predict(
        self, theta: Float64[np.ndarray, "features"], rows: Int64[np.ndarray, "rows"]
    ) -> tuple[Float64[np.ndarray, "rows"], Float64[np.ndarray, "rows"]]:
        """V and Q of some rows."""
        parts = self.chunks(rows)
        values = [self.expected(part) @ theta for part in parts]
        return np.concatenate(values), np.concatenate([self.logged(part) @ theta for part in parts])

    def _psi(
        self, rows: Int64[np.ndarray, "rows"], vectors: Float64[np.ndarray, "rows width"]
    ) -> Float64[np.ndarray, "rows features"]:
        contexts = self.decisions.contexts
        return self.bilinear(None if contexts is None else contexts[rows], vectors)


@dataclass(frozen=True, eq=False)
class _Equations:
    """The normal equations of some rows: sums of psi psi', of psi psi(next)', and of psi * reward."""

    rows: int
    gram: Float64[np.ndarray, "features features"]
    ahead: Float64[np.ndarray, "features features"]
    earned: Float64[np.ndarray, "features"]

    @classmethod
    def empty(cls, log: _Log) -> "_Equations":
        width = log.bilinear.width
        return cls(0, np.zeros((width, width)), np.zeros((width, width)), np.zeros(width))

    @classmethod
    def of(cls, log: _Log, rows: Int64[np.ndarray, "rows"]) -> "_Equations":
        """Of whole units: the row after each that does not end its unit is the next state."""
        total, ends = cls.empty(log), np.zeros(len(log.decisions.units), np.bool_)
        ends[log.last] = True
        for part in log.chunks(rows):
            psi, going = log.logged(part), ~ends[part]
            ahead = psi[going].T @ log.expected(part[going] + 1)
            total += cls(len(part), psi.T @ psi, ahead, psi.T @ log.decisions.rewards[part])
        return total

    def __add__(self, other: "_Equations") -> "_Equations":
        return _Equations(
            self.rows + other.rows, self.gram + other.gram, self.ahead + other.ahead, self.earned + other.earned
        )

    def penalised(self, ridge: float) -> Float64[np.ndarray, "features features"]:
        penalty = np.full(len(self.gram), ridge * self.rows)
        penalty[0] = 0  # the constant
        return self.gram + np.diag(penalty)

    def matrix(self, discount: float, ridge: float) -> Float64[np.ndarray, "features features"]:
        """What theta is multiplied by at the fixed point, where it gives `earned`."""
        return self.penalised(ridge) - discount * self.ahead

    def solve(self, discount: float, ridge: float) -> Float64[np.ndarray, "features"]:
        return np.linalg.solve(self.matrix(discount, ridge), self.earned)

    def contraction(self, discount: float, ridge: float) -> float:
        one_round = np.linalg.solve(self.penalised(ridge), discount * self.ahead)
        return float(np.abs(np.linalg.eigvals(one_round)).max())


def _systems(log: _Log, parts: Sequence[Int64[np.ndarray, "_"]]) -> list[_Equations]:
    """For each fold the equations of all others; for a single one, its own."""
    equations, empty = [_Equations.of(log, rows) for rows in parts], _Equations.empty(log)
    if len(parts) == 1:
        return equations
    return [sum(equations[:one] + equations[one + 1 :], start=empty) for one in range(len(parts))]


def _pulls(
    log: _Log,
    system: _Equations,
    discount: float,
    ridge: float,
    values: Float64[np.ndarray, "rows"],
    chosen: Float64[np.ndarray, "rows"],
) -> Float64[np.ndarray, "units"]:
    """How far each unit moved the estimate by way of theta, to first order; they sum to zero."""
    following = np.roll(values, -1)
    following[log.last] = 0
    errors = log.decisions.rewards + discount * following - chosen
    first = sum(log.expected(part).sum(axis=0) for part in log.chunks(log.first))
    lever = np.linalg.solve(system.matrix(discount, ridge).T, first)
    reach = np.concatenate([log.logged(part) @ lever for part in log.chunks(np.arange(len(errors)))])
    pulls = np.bincount(log.decisions.units, reach * errors)
    return np.asarray(pulls - pulls.mean())
