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

from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
from jaxtyping import Bool, Float64

from what_next.errors import DataError
from what_next.off_policy.decisions import Decisions, Target
from what_next.off_policy.reward_model import FEATURES, Features, Some, deal
from what_next.off_policy.weighting import Ids, Rows

RIDGE = 1e-4
"""Penalty per row, on standardised features; the constant goes free."""
Matrix = Float64[np.ndarray, "features features"]


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

    values: Rows
    chosen: Rows
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
        decisions: the log, with `vectors`; `target`: with `expected`.
        discount: what a reward loses with each step, 0 to 1.
        folds: more than one: the values of each fold of the units come from a fit on the other folds, as doubly robust
            estimates want them (cross-fitting; Chernozhukov et al., 2018, arXiv 1608.00060). At most the units.
        ridge: penalty per row on standardised features, above 0; `features`: how many at most, see `Bilinear`.
        seed: which units make a fold.

    Raises:
        DataError: where the items have no vectors, or the target no expected ones.
    """
    if decisions.vectors is None or target.expected is None:
        raise DataError(
            "fitted Q evaluation needs vectors of the items and the policy's expected vector in each row, and one is "
            "missing; give both, one-hot vectors where items have no attributes"
        )
    psi = Features.of(decisions.contexts, decisions.vectors[decisions.actions], target.expected, features)
    first = np.flatnonzero(np.diff(decisions.units, prepend=-1))
    ends = np.append(np.diff(decisions.units) > 0, True)
    fold = deal(len(first), max(1, min(folds, len(first))), seed)[decisions.units]
    systems = _systems(psi, decisions.rewards, fold, ends)
    values, chosen = np.empty(len(fold)), np.empty(len(fold))
    for rows, system in systems:
        theta = np.linalg.solve(system.matrix(discount, ridge), system.earned)
        for some in psi.blocks(rows):
            values[some], chosen[some] = psi.aimed(some) @ theta, psi.logged(some) @ theta
    influence = None
    if len(systems) == 1:
        errors = decisions.rewards + discount * np.where(ends, 0, np.roll(values, -1)) - chosen
        matrix = systems[0][1].matrix(discount, ridge)
        influence = values[first] + _pulls(psi, matrix, first, decisions.units, errors)
    contraction = max(one.contraction(discount, ridge) for _, one in systems)
    return Fitted(values, chosen, values[first], influence, contraction)


@dataclass(frozen=True, eq=False)
class _Equations:
    """The normal equations of some rows: sums of psi psi', of psi psi(next)', and of psi * reward."""

    rows: int
    gram: Matrix
    ahead: Matrix
    earned: Float64[np.ndarray, "features"]

    @classmethod
    def of(cls, psi: Features, rewards: Rows, rows: Some, ends: Bool[np.ndarray, "rows"]) -> "_Equations":
        """Of whole units: the row after each that does not end its unit is the next state."""
        width = psi.psi.width
        gram, ahead, earned = np.zeros((width, width)), np.zeros((width, width)), np.zeros(width)
        for part in psi.blocks(rows):
            logged, going = psi.logged(part), ~ends[part]
            gram += logged.T @ logged
            ahead += logged[going].T @ psi.aimed(part[going] + 1)
            earned += logged.T @ rewards[part]
        return cls(len(rows), gram, ahead, earned)

    def __add__(self, other: "_Equations") -> "_Equations":
        return _Equations(
            self.rows + other.rows, self.gram + other.gram, self.ahead + other.ahead, self.earned + other.earned
        )

    def penalised(self, ridge: float) -> Matrix:
        """The squares, with the penalty on all but the constant."""
        return self.gram + np.diag(np.append(0.0, np.full(len(self.gram) - 1, ridge * self.rows)))

    def matrix(self, discount: float, ridge: float) -> Matrix:
        """What theta is multiplied by at the fixed point, where it gives `earned`."""
        return self.penalised(ridge) - discount * self.ahead

    def contraction(self, discount: float, ridge: float) -> float:
        one_round = np.linalg.solve(self.penalised(ridge), discount * self.ahead)
        return float(np.abs(np.linalg.eigvals(one_round)).max())


def _systems(psi: Features, rewards: Rows, fold: Ids, ends: Bool[np.ndarray, "rows"]) -> list[tuple[Some, _Equations]]:
    """The rows of each fold, with the equations of all others; of a single fold, with its own."""
    parts = [np.flatnonzero(fold == one) for one in np.unique(fold)]
    every = [_Equations.of(psi, rewards, rows, ends) for rows in parts]
    if len(parts) == 1:
        return [(parts[0], every[0])]
    return [(rows, reduce(add, every[:one] + every[one + 1 :])) for one, rows in enumerate(parts)]


def _pulls(psi: Features, matrix: Matrix, first: Some, units: Ids, errors: Rows) -> Float64[np.ndarray, "units"]:
    """How far each unit moved the estimate by way of theta, to first order; they sum to zero.

    `errors` are what each row earned and led to, less what the model said of it.
    """
    aim = sum(psi.aimed(part).sum(axis=0) for part in psi.blocks(first))
    lever = np.linalg.solve(matrix.T, aim)
    reach = np.concatenate([psi.logged(part) @ lever for part in psi.blocks(np.arange(len(errors)))])
    pulls = np.bincount(units, reach * errors)
    return np.asarray(pulls - pulls.mean())
