"""Does the log know anything of this policy? What says so, and when an estimate is refused."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

Rows = Float64[np.ndarray, "rows"]


@dataclass(frozen=True)
class Thresholds:
    """When an estimate is refused.

    Attributes:
        ess: the least effective sample size, of decisions and of units. A bootstrap of fewer than about 50 numbers is
            visibly too narrow.
        seen: the least effective number of decisions like the target's that any estimate needs, a model's too. Below
            it, a model that was fitted on this log answers a question that it has not seen.
        support: the least share of the target's choices that the behaviour policy could have made. Of the rest the log
            tells nothing; at 0.9 it could move a mean reward of 0 .. 1 by 0.1.
        mean_weight: where the mean weight must be able to lie. It is the target's supported share, so 1 at most; a mean
            well outside says that the log's propensities are not those of the policy that wrote it.
        largest_share: the most of all weight that one decision may have. At a tenth, one reward moves the estimate by a
            tenth.
        clipped: the most of all weight that clipping may have taken away: the bias may be as large.
        errors: how many standard errors a mean weight is given before it is held against a threshold. With three, one
            sound log in a thousand would be refused by chance for a mean that lies just at the threshold.
    """

    ess: float = 50.0
    seen: float = 10.0
    support: float = 0.9
    mean_weight: tuple[float, float] = (0.5, 2.0)
    largest_share: float = 0.1
    clipped: float = 0.1
    errors: float = 3.0


@dataclass(frozen=True)
class Overlap:
    """How well a log covers what a policy would do. Each estimate has its own, for the weights that it uses.

    Attributes:
        ess: the effective sample size of the decisions (or slates, or trajectories).
        ess_units: of the units, with the sums of their weights.
        mean_weight: over the decisions; 1 is expected where the log supports all of the policy.
        error: the mean weight's standard error over units.
        largest: the largest weight.
        largest_share: its share of the sum.
    """

    ess: float
    ess_units: float
    mean_weight: float
    error: float
    largest: float
    largest_share: float

    @classmethod
    def of(cls, weights: Rows, units: Int64[np.ndarray, "rows"], ess: float | None = None) -> "Overlap":
        """Of one weight per decision; `ess` where it is not simply that of the weights."""
        sums, numbers = np.bincount(units, weights), np.bincount(units)
        mean, total = float(weights.mean()), float(weights.sum())
        spread = np.square(sums - mean * numbers).sum() / max(1, len(sums) - 1)
        return cls(
            ess=effective_size(weights) if ess is None else ess,
            ess_units=effective_size(sums),
            mean_weight=mean,
            error=float(np.sqrt(spread * len(sums)) / len(weights)),
            largest=float(weights.max()),
            largest_share=float(weights.max() / total) if total > 0 else 1.0,
        )


def effective_size(weights: Rows) -> float:
    """How many decisions with equal weights would tell as much: (sum w)^2 / sum w^2 (Kish 1965, section 11.7)."""
    squares = np.square(weights).sum()
    return float(np.square(weights.sum()) / squares) if squares > 0 else 0.0


def efficiency_of_steps(weights: Rows, steps: Int64[np.ndarray, "rows"]) -> Float64[np.ndarray, "steps"]:
    """At each step, the effective size of the rows there as a share of their number; 0 where no weight is left."""
    squares = np.bincount(steps, np.square(weights))
    sizes = np.divide(np.square(np.bincount(steps, weights)), squares, out=np.zeros(len(squares)), where=squares > 0)
    return sizes / np.maximum(np.bincount(steps), 1)


def effective_size_over_steps(
    efficiency: Float64[np.ndarray, "steps"], reached: Int64[np.ndarray, "steps"], discount: float = 1.0
) -> float:
    """How many slates or trajectories would tell as much without weights of the sum of their discounted rewards.

    A step's part in the sum's variance goes with discount^(2 step), how many reach it, and 1 / efficiency.

    Args:
        efficiency: of the weights at each step, 0 .. 1.
        reached: how many reach it; the first step is reached by all.
        discount: of the rewards.
    """
    matters = discount ** (2 * np.arange(len(reached))) * reached
    least = 1 / reached[0]  # a step without any weight tells as little as one row would
    return float(reached[0] * matters.sum() / (matters / np.maximum(efficiency, least)).sum())


def supported(
    target: Float64[np.ndarray, "rows items"], behaviour: Float64[np.ndarray, "#rows items"]
) -> Float64[np.ndarray, "rows"]:
    """In each row, the target's chance of an action that the behaviour policy can take."""
    return np.asarray(np.where(behaviour > 0, target, 0.0).sum(axis=1))


# Each comparison is written so that what is not a number is refused.


def refusal(
    own: Overlap | None,
    log: Overlap,
    known_support: float | None,
    thresholds: Thresholds,
    *,
    clipped: float = 0.0,
    units: int,
    seen: float,
) -> str | None:
    """Why an estimate is not to be trusted, in words; None where nothing speaks against it.

    Args:
        own: of the weights that the estimate uses; None where it uses none.
        log: of the decisions' plain weights.
        known_support: the share of support, where it is known; otherwise it is told by the mean plain weight, whose
            expectation it is.
        thresholds: when to refuse.
        clipped: the share of the weight that was clipped.
        units: how many there are.
        seen: the effective number of decisions that are like the target's.
    """
    reasons = [*_uncovered(log, known_support, thresholds, units, seen)]
    if own is not None:
        reasons += _weighted(own, log, thresholds)
    if clipped > thresholds.clipped:
        reasons.append(
            f"clipping takes {clipped:.0%} of the weight, more than {thresholds.clipped:.0%}: the estimate is biased"
        )
    return "; ".join(reasons) or None


def _uncovered(
    log: Overlap, known_support: float | None, thresholds: Thresholds, units: int, seen: float
) -> Iterator[str]:
    """What speaks against any estimate, with weights or without."""
    share = log.mean_weight + thresholds.errors * log.error if known_support is None else known_support
    if not share >= thresholds.support:
        shown = (
            f"{known_support:.1%}" if known_support is not None else f"about {log.mean_weight:.1%} (the mean weight)"
        )
        yield (
            f"the behaviour policy could have made {shown} of the policy's choices, fewer than "
            f"{thresholds.support:.0%}: the log says nothing of the others"
        )
    if units < thresholds.ess:
        yield f"the log has {units:,} independent units, fewer than {thresholds.ess:g}: no interval can be told"
    if not seen >= thresholds.seen:
        yield (
            f"the log's decisions are worth {seen:.1f} of the policy's, fewer than {thresholds.seen:g}: "
            "it hardly shows what the policy would do"
        )


def _weighted(own: Overlap, log: Overlap, thresholds: Thresholds) -> Iterator[str]:
    """What speaks against an estimate with weights."""
    size = min(own.ess, own.ess_units)
    if not size >= thresholds.ess:
        yield (
            f"the effective sample size is {size:.1f}, below {thresholds.ess:g}: too few decisions or units carry the "
            "weight; take a larger log or a policy nearer to the one that wrote it"
        )
    if not own.largest_share <= thresholds.largest_share:
        yield (
            f"one decision has {own.largest_share:.0%} of all weight, more than {thresholds.largest_share:.0%}: "
            "it alone decides"
        )
    low, high = thresholds.mean_weight
    margin = thresholds.errors * log.error
    if log.mean_weight + margin < low or log.mean_weight - margin > high:
        yield (
            f"the mean weight is {log.mean_weight:.2f} (standard error {log.error:.2f}), outside {low:g} .. {high:g}: "
            "the propensities do not fit the log"
        )
