"""Two arms of a live experiment: what an answer earned in each, and whether one is better, at any number of looks."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool

from what_next.off_policy.confidence_sequences import effect_of, normal_mixture
from what_next.off_policy.weighting import Ids, Rows, Terms

FEW = 50
"""Users of either arm, below whom nothing is said: the bounds hold in the limit of many."""
Verdict = Literal["better", "worse", "undecided"]


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
    """Compare two arms by an asymptotic confidence sequence (see `confidence_sequences.asymptotic`).

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
