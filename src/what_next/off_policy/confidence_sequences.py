"""Intervals that hold at every look at a growing log at once, so that one may stop at whichever look one likes.

An ordinary interval of 95 % is right at 95 % of looks, each for itself: who looks often enough, and acts at the first
look that pleases, acts wrongly in the end. A confidence sequence of 95 % is right at all looks in 95 % of logs.

`contrast` compares two arms of a live experiment by one: what an answer earned in each, and whether one is better.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool

from what_next.metrics.bootstrap import Bounds
from what_next.off_policy.weighting import Ids, Rows, Terms

EFFECT = 0.1
"""Part of the mean reward that a difference is expected to have: there the sequence is narrowest."""
MOST_BET = 0.5
"""Of the capital, in one row (c of the paper)."""
HALVINGS = 40
"""Of the range of a mean, until its bound is known: to one part in a million millions."""
FEW = 50
"""Users of either arm, below whom nothing is said: the bounds hold in the limit of many."""
Verdict = Literal["better", "worse", "undecided"]


def normal_mixture(error: float, effect: float, level: float = 95.0) -> float:
    """By how much an estimate may differ from the truth, at any look.

    Robbins' normal mixture (Howard et al. 2021, Annals of Statistics 49, equation 14) in the units of the estimate,
    with v = 1 / error^2 and rho = 1 / effect^2. It is narrowest, beside the interval for one look, where the standard
    error is about a third of `effect`; it holds whatever the truth is.

    Args:
        error: the standard error of the estimate at this look.
        effect: the size of differences that are expected, in the same unit; fixed before the first look.
        level: in percent, of both sides together.

    Returns:
        Half of the width; infinite where `effect` is 0.
    """
    if not effect > 0:
        return math.inf
    if not error > 0:
        return 0.0
    ratio = (error / effect) ** 2
    return error * math.sqrt((1 + ratio) * (math.log1p(1 / ratio) - 2 * math.log(1 - level / 100)))


def asymptotic(ours: Terms, theirs: Terms, effect: float, level: float = 95.0) -> Bounds | None:
    """An asymptotic confidence sequence of the difference of two estimates from the same units.

    Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024, arXiv 2103.06476, theorem 2.2): no range of the rewards or of
    the weights has to be known. Ratios are taken by their linear part (the delta method), so that self-normalised
    estimates are allowed, too.

    It assumes that the units are independent, and that there are many: it holds in the limit, and the rarer the rows
    that carry the weight, the later. A unit may grow from look to look, as a user does who comes back. Its variance is
    then that of the whole unit, and it is assumed that what a unit brings later does not run against what it brought
    before (no negative correlation). Then looks are more alike than those of a Brownian motion, and a sequence that
    holds for this one holds for them (Slepian 1962).

    Args:
        ours: with a row for each unit; `theirs`: likewise.
        effect: the size of differences that are expected; see `normal_mixture`.
        level: in percent, of both sides together.

    Returns:
        The least and the largest difference that the log leaves possible; None where it tells no error: of fewer than
        two units, or without anything below a line.
    """
    influence, number = _influence(ours) - _influence(theirs), len(ours.tops)
    if number < 2 or not np.isfinite(influence).all():
        return None
    mean = ours.value - theirs.value
    error = math.sqrt(float(influence.var(ddof=1)) / number)
    half = normal_mixture(error, effect, level)
    return mean - half, mean + half


def _influence(terms: Terms) -> Rows:
    """By how much each unit moves the estimate, times the number of units; their mean is 0."""
    below = terms.bottoms.mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((terms.tops - terms.value * terms.bottoms) / below)


def betting(values: Rows, span: Bounds, level: float = 95.0) -> Bounds:
    """A confidence sequence of the mean of bounded numbers, for any number of them: hedged bets against each mean.

    Waudby-Smith and Ramdas (2024, arXiv 2010.09686, theorem 3): whoever bets that the mean is larger than m, a part of
    the capital in each row that hangs on the rows before alone, gets rich only where m is too small. The bounds are the
    means at which neither better has made 2 / (1 - level) of 1.

    It assumes that each number, given all before it, has the same mean, and nothing else: of numbers whose means change
    it tells no more than that no single mean fits. Rows of users who come back, and differ, are no such numbers.

    Args:
        values: in the order of time.
        span: the least and the largest that could have been, known beforehand and not from `values`.
        level: in percent, of both sides together.
    """
    least, width = span[0], span[1] - span[0]
    if not len(values):
        return span
    assert width > 0
    assert span[0] <= values.min()
    assert values.max() <= span[1], "the span holds all numbers"
    parts, alpha = (values - least) / width, 1 - level / 100
    bets = _bets(parts, alpha)
    rich = math.log(2 / alpha)
    low = _first(lambda mean: _capital(parts, bets, mean) < rich)
    high = 1 - _first(lambda mean: _capital(1 - parts, bets, mean) < rich)
    return least + width * min(low, high), least + width * max(low, high)


def _bets(parts: Rows, alpha: float) -> Rows:
    """How much to bet in each row, from the rows before it (equations 24 to 26 of the paper)."""
    rows = np.arange(1, len(parts) + 1)
    means = (0.5 + parts.cumsum()) / (rows + 1)
    variances = (0.25 + np.square(parts - means).cumsum()) / (rows + 1)
    before = np.append(0.25, variances[:-1])
    return np.asarray(np.sqrt(2 * math.log(2 / alpha) / (before * rows * np.log1p(rows))))


def _capital(parts: Rows, bets: Rows, mean: float) -> float:
    """The logarithm of what a bet on more than `mean` has come to; it falls with `mean`."""
    most = MOST_BET / mean if mean > 0 else math.inf
    return float(np.log1p(np.minimum(bets, most) * (parts - mean)).sum())


def _first(holds: Callable[[float], bool]) -> float:
    """The least number of 0 .. 1 for which something holds that holds for all larger ones."""
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return low


def effect_of(rewards: Rows, number: float) -> float:
    """The difference to expect where nothing else is known: a tenth of the mean size of what was earned.

    Args:
        rewards: of all rows; `number`: of decisions, slates or trajectories, whichever an estimate is the mean of.
    """
    return EFFECT * float(np.abs(rewards).sum()) / number


@dataclass(frozen=True)
class Arm:
    """One of them: how many users and answers it had, and the mean reward of an answer (NaN: it had none)."""

    users: int
    answers: int
    mean: float


@dataclass(frozen=True)
class Contrast:
    """How much more an answer of one arm earned than one of another.

    Attributes:
        ours, theirs: the arms.
        mean: of the difference, ours - theirs; NaN where an arm had no answer.
        low, high: bounds of the difference that hold at all looks together; infinite for fewer than `FEW` users.
    """

    ours: Arm
    theirs: Arm
    mean: float
    low: float
    high: float

    def verdict(self, margin: float = 0.0) -> Verdict:
        """Whether ours is better by more than `margin`, worse than theirs beyond doubt, or neither as yet."""
        if self.low > margin:
            return "better"
        return "worse" if self.high < 0 else "undecided"

    @property
    def cost(self) -> float:
        """What the answers of ours have cost so far, by the means; 0 where they cost nothing."""
        return max(0.0, -self.mean * self.ours.answers) if math.isfinite(self.mean) else 0.0

    def __str__(self) -> str:
        bounds = f"[{self.low:.4g}, {self.high:.4g}] at any number of looks"
        if (few := min(self.ours.users, self.theirs.users)) < FEW:
            bounds = f"without bounds: {few:,} users in one arm, {FEW} are needed"
        return (
            f"{self.ours.mean:.4g} against {self.theirs.mean:.4g} for an answer, difference {self.mean:.4g} "
            f"{bounds} ({self.ours.answers:,} answers to {self.ours.users:,} users, {self.theirs.answers:,} to "
            f"{self.theirs.users:,})"
        )


def contrast(users: Ids, ours: Bool[np.ndarray, "rows"], rewards: Rows, level: float = 95.0) -> Contrast:
    """Compare two arms by an asymptotic confidence sequence (see `asymptotic`).

    The unit is the user, who is in one arm by a hash of the id, and whose answers are alike. It is assumed that the
    hash has nothing to do with what users do, that they are independent of each other, that there are many in each arm,
    and that what a user brings later does not run against what the user brought before. Of the variances of the arms,
    each is taken for at least the common one: an arm that has brought nothing yet would else seem to be known exactly.

    Args:
        users: who got each answer, as numbers from 0.
        ours: whether the answer is of the first arm, or of the second.
        rewards: what the answer brought, whatever its items brought together; feedback that is still to come makes both
            arms poorer alike.
        level: of the bounds, in percent, of both sides together.
    """
    sides = [
        Terms(rewards[mine], np.ones(int(mine.sum()))).by_unit(np.unique(users[mine], return_inverse=True)[1])
        for mine in (ours, ~ours)
    ]
    one, other = (Arm(len(side.tops), int(side.bottoms.sum()), side.value) for side in sides)
    half = math.inf
    if min(one.users, other.users) >= FEW:
        half = normal_mixture(_error(sides), effect_of(rewards, float(len(rewards))), level)
    mean = one.mean - other.mean
    low, high = (mean - half, mean + half) if half < math.inf else (-math.inf, math.inf)
    return Contrast(one, other, mean, low, high)


def _error(sides: list[Terms]) -> float:
    """The standard error of the difference of two ratios of sums over users (the delta method)."""
    squares = [float(np.square(side.tops - side.value * side.bottoms).sum()) for side in sides]
    answers = [float(side.bottoms.sum()) for side in sides]
    common = sum(squares) / sum(answers)
    each = (
        max(square, common * number) * len(side.tops) / (len(side.tops) - 1) / number**2
        for square, number, side in zip(squares, answers, sides, strict=True)
    )
    return math.sqrt(sum(each))
