"""Fitted Q evaluation with bilinear features (Le, Voloshin and Yue, 2019, arXiv 1903.08738).

    Q(s, a) = psi(s, a) @ theta,  psi = outer([1, context], [1, vector of the item])

psi is linear in the vector, so the mean of Q over the target's actions is psi at their expected vector, without a sum
over the items. The iteration

    theta <- argmin sum (psi(s, a) @ theta - r - discount * psi(s', expected') @ theta_old)^2 + penalty

applies the same linear map in each round: its fixed point is the solution of one linear system (LSTDQ: Lagoudakis and
Parr, 2003), which is solved here instead. Nothing is earned after the last decision of a unit.

The model is right if Q is bilinear in its features, as with one-hot contexts and vectors. If it is not, the estimate is
biased however long the log is, and the interval does not cover the bias.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from what_next.off_policy.decisions import Decisions, Target
from what_next.off_policy.reward_model import FEATURES, Features, Folds, Some, Squares, deal
from what_next.off_policy.weighting import Ids, Rows

RIDGE = 1e-4
"""Ridge penalty per row, on standardised features; the constant has no penalty."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """The result of fitted Q evaluation.

    Attributes:
        values: V of each row's state under the target.
        chosen: Q of each row's state and logged action.
        initial: V at the first state of each unit; the mean is the estimate. An interval from these covers the draw of
            first states but not the uncertainty of the regression: it is too narrow if rewards are noisy, and has no
            width if all first states look alike.
        influence: of each unit: `initial` plus, to first order, the unit's effect on the regression (one Newton step;
            Hao et al., 2021, arXiv 2102.03607, compare it with refits). The mean is the estimate, too, and an interval
            from these covers the regression's uncertainty without refits. None for a cross-fitted result.
        contraction: the spectral radius of one round of the iteration. At 1 or above the iteration would diverge, and
            the estimate is meaningless.
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
        decisions: the log; `target`: with `expected`.
        discount: the factor per step, 0 to 1.
        folds: if more than one, the values of each fold of the units come from a fit on the other folds, as doubly
            robust estimates need (cross-fitting; Chernozhukov et al., 2018, arXiv 1608.00060). At most one per unit.
        ridge: penalty per row on standardised features, above 0; `features`: the most features, see `Bilinear`.
        seed: of the assignment of units to folds.
    """
    assert target.expected is not None
    psi = Features.of(decisions.contexts, decisions.vectors[decisions.actions], target.expected, features)
    first = np.flatnonzero(np.diff(decisions.units, prepend=-1))
    ends = np.append(np.diff(decisions.units) > 0, True)
    fold = deal(len(first), max(1, min(folds, len(first))), seed)[decisions.units]
    rows, gram, ahead, earned = _equations(psi, decisions.rewards, fold, ends)
    penalised = gram + ridge * rows[:, None, None] * np.diag(np.append(0.0, np.ones(psi.psi.width - 1)))
    matrix = penalised - discount * ahead  # the fixed point is matrix @ theta = earned
    theta = np.linalg.solve(matrix, earned[:, :, None])[:, :, 0]
    values, chosen = np.empty(len(fold)), np.empty(len(fold))
    for part in range(len(rows)):
        for some in psi.blocks(np.flatnonzero(fold == part)):
            values[some], chosen[some] = psi.aimed(some) @ theta[part], psi.logged(some) @ theta[part]
    influence = None
    if len(rows) == 1:
        errors = decisions.rewards + discount * np.where(ends, 0, np.roll(values, -1)) - chosen
        influence = values[first] + _pulls(psi, matrix[0], first, decisions.units, errors)
    contraction = float(np.abs(np.linalg.eigvals(np.linalg.solve(penalised, discount * ahead))).max())
    return Fitted(values, chosen, values[first], influence, contraction)


def _equations(
    psi: Features, rewards: Rows, fold: Ids, ends: Bool[np.ndarray, "rows"]
) -> tuple[Float64[np.ndarray, "folds"], Squares, Squares, Folds]:
    """The normal equations for each fold, from the rows of all other folds (of a single fold, from its own): the number
    of rows, and the sums of psi psi', of psi psi(next)' over rows with a next row in their unit, and of psi * reward.
    """
    folds, width = int(fold.max()) + 1, psi.psi.width
    gram, ahead, earned = np.zeros((folds, width, width)), np.zeros((folds, width, width)), np.zeros((folds, width))
    for one in range(folds):
        for part in psi.blocks(np.flatnonzero(fold == one)):
            logged, going = psi.logged(part), ~ends[part]
            gram[one] += logged.T @ logged
            ahead[one] += logged[going].T @ psi.aimed(part[going] + 1)
            earned[one] += logged.T @ rewards[part]
    every = np.bincount(fold) * 1.0, gram, ahead, earned
    found = every if folds == 1 else tuple(values.sum(axis=0) - values for values in every)
    return found[0], found[1], found[2], found[3]


def _pulls(
    psi: Features, matrix: Float64[np.ndarray, "features features"], first: Some, units: Ids, errors: Rows
) -> Float64[np.ndarray, "units"]:
    """Each unit's effect on the estimate through theta, to first order; they sum to zero.

    `errors` are the temporal-difference errors: reward + discount * V(next) - Q of each row.
    """
    aim = sum(psi.aimed(part).sum(axis=0) for part in psi.blocks(first))
    lever = np.linalg.solve(matrix.T, aim)
    reach = np.concatenate([psi.logged(part) @ lever for part in psi.blocks(np.arange(len(errors)))])
    pulls = np.bincount(units, reach * errors)
    return np.asarray(pulls - pulls.mean())
