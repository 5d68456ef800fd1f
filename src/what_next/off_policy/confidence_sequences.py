"""Confidence sequences: intervals that hold at every look at a growing log at once, so that one may stop at any look.

An ordinary 95 % interval is right at 95 % of looks, taken singly: whoever looks often and acts on the first significant
result will act wrongly sooner or later. A 95 % confidence sequence is right at all looks in 95 % of logs.

`contrast` applies one to the two arms of a live experiment: what an answer earned in each, and whether one is better.
"""

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool

from what_next.metrics.bootstrap import Bounds
from what_next.off_policy.weighting import Ids, Rows, Terms

EFFECT = 0.1
"""Expected difference, as a share of the mean absolute reward: the sequence is tuned to be narrowest there."""
MOST_BET = 0.5
"""Largest share of the capital that is bet in one row (c of the paper)."""
FINEST = 2**40
"""Means among which a bound is searched: each is about 1e-12 of the range from the next."""
FEW = 50
"""Fewest users per arm for bounds: they are asymptotic, so an arm with fewer users gets infinite ones."""
Verdict = Literal["better", "worse", "undecided"]


def normal_mixture(error: float, effect: float, level: float = 95.0) -> float:
    """Half the width of a confidence sequence at one look, from the estimate's standard error at that look.

    Robbins' normal mixture (Howard et al. 2021, Annals of Statistics 49, equation 14) in the units of the estimate,
    with v = 1 / error^2 and rho = 1 / effect^2. Relative to the interval for one look it is narrowest where the
    standard error is about a third of `effect`; its coverage does not depend on `effect`.

    Args:
        error: the standard error of the estimate at this look.
        effect: the expected size of the difference, in the same unit; it must be fixed before the first look.
        level: two-sided, in percent.

    Returns:
        Half of the width; infinite if `effect` is 0.
    """
    if not effect > 0:
        return math.inf
    if not error > 0:
        return 0.0
    ratio = (error / effect) ** 2
    return error * math.sqrt((1 + ratio) * (math.log1p(1 / ratio) - 2 * math.log(1 - level / 100)))


def asymptotic(ours: Terms, theirs: Terms, effect: float, level: float = 95.0) -> Bounds | None:
    """An asymptotic confidence sequence of the difference of two estimates from the same units.

    Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024, arXiv 2103.06476, theorem 2.2): it needs no known range of
    rewards or weights. Ratios are linearised (the delta method), so that self-normalised estimates are allowed, too.

    It assumes that the units are independent and many: it holds in the limit, and needs more units the fewer of them
    carry the weight. A unit may grow between looks, as when a user comes back. The variance is then that of the whole
    unit, and it is assumed that a unit's later rewards are not negatively correlated with its earlier ones. The
    estimates of successive looks are then more alike than the values of a Brownian motion, so a sequence that holds for
    the Brownian motion holds for them (Slepian 1962).

    Args:
        ours: one estimate, with a row per unit; `theirs`: the other one.
        effect: the expected size of the difference; see `normal_mixture`.
        level: two-sided, in percent.

    Returns:
        The bounds of the difference; None if there is no standard error: with fewer than two units, or with a
        denominator of 0.
    """
    influence, number = _influence(ours) - _influence(theirs), len(ours.tops)
    if number < 2 or not np.isfinite(influence).all():
        return None
    mean = ours.value - theirs.value
    error = math.sqrt(float(influence.var(ddof=1)) / number)
    half = normal_mixture(error, effect, level)
    return mean - half, mean + half


def _influence(terms: Terms) -> Rows:
    """The influence of each unit on the estimate, times the number of units; the mean is 0."""
    below = terms.bottoms.mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((terms.tops - terms.value * terms.bottoms) / below)


def betting(values: Rows, span: Bounds, level: float = 95.0) -> Bounds:
    """A confidence sequence of the mean of bounded numbers, valid at any sample size: hedged bets against each mean.

    Waudby-Smith and Ramdas (2024, arXiv 2010.09686, theorem 3): a gambler who bets in each row that the mean is larger
    than m, with stakes that depend on earlier rows only, gets rich only if m is too small. The interval holds the means
    m for which neither of two gamblers, betting in opposite directions, turned 1 into 2 / (1 - level).

    The only assumption is that each number has the same mean given all earlier ones. If the means change, the interval
    only tells that no single mean fits. Rows of returning users violate the assumption, because users differ.

    Args:
        values: in time order.
        span: the smallest and the largest possible value, known beforehand and not taken from `values`.
        level: two-sided, in percent.
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
    """The bet in each row, from the rows before it (equations 24 to 26 of the paper)."""
    rows = np.arange(1, len(parts) + 1)
    means = (0.5 + parts.cumsum()) / (rows + 1)
    variances = (0.25 + np.square(parts - means).cumsum()) / (rows + 1)
    before = np.append(0.25, variances[:-1])
    return np.asarray(np.sqrt(2 * math.log(2 / alpha) / (before * rows * np.log1p(rows))))


def _capital(parts: Rows, bets: Rows, mean: float) -> float:
    """The log of the capital after betting that the true mean is above `mean`; it decreases in `mean`."""
    most = MOST_BET / mean if mean > 0 else math.inf
    return float(np.log1p(np.minimum(bets, most) * (parts - mean)).sum())


def _first(holds: Callable[[float], bool]) -> float:
    """The smallest number in [0, 1] for which `holds` is true, by bisection; it must be true for all larger ones."""
    return bisect_left(range(FINEST), True, key=lambda step: holds(step / FINEST)) / FINEST


def effect_of(rewards: Rows, number: float) -> float:
    """The default expected difference: `EFFECT` times the mean absolute reward.

    Args:
        rewards: of all rows.
        number: how many decisions, slates or trajectories there are: whichever the estimate is a mean of.
    """
    return EFFECT * float(np.abs(rewards).sum()) / number


@dataclass(frozen=True)
class Arm:
    """One arm: how many users and answers it had, and the mean reward of an answer (NaN without answers)."""

    users: int
    answers: int
    mean: float


@dataclass(frozen=True)
class Contrast:
    """The difference in mean reward per answer between two arms.

    Attributes:
        ours, theirs: the arms.
        mean: the difference, ours - theirs; NaN if an arm had no answer.
        low, high: bounds of the difference that hold at all looks at once; infinite if an arm has under `FEW` users.
    """

    ours: Arm
    theirs: Arm
    mean: float
    low: float
    high: float

    def verdict(self, margin: float = 0.0) -> Verdict:
        """Returns "better" if the lower bound is above `margin`, "worse" if the upper is below 0, else "undecided"."""
        if self.low > margin:
            return "better"
        return "worse" if self.high < 0 else "undecided"

    @property
    def cost(self) -> float:
        """The reward that our answers have lost so far, by the means; 0 if ours earned more."""
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

    The unit is the user: a hash of the id assigns each user to one arm, and the answers of one user are correlated. It
    is assumed that the hash is unrelated to behaviour, that users are independent, that each arm has many, and that a
    user's later rewards are not negatively correlated with the earlier ones. Each arm's variance is at least the pooled
    one, because an arm without any reward yet would otherwise have a standard error of 0.

    Args:
        users: who got each answer, as ids from 0.
        ours: whether the answer is the first arm's.
        rewards: the sum over the answer's items; feedback that has not arrived yet lowers both arms alike.
        level: of the bounds, two-sided, in percent.
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
