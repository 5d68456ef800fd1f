"""Overlap and support: whether a log can judge a policy at all, and when an estimate is refused."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from what_next.off_policy.weighting import Ids, Rows

Steps = Float64[np.ndarray, "steps"]
LITTLE = 0.01
"""Deviation of the mean weight from 1 that is never reported."""
CHANCE = 5.0
"""Standard errors up to which a chi-square counts as chance: of 100,000 logs of 80 rows and 80 items, one had more."""
OFTEN = 30
"""If the target would show an item this often in the log's rows, its absence from the log is not chance."""
EMPTY = 10
"""If so many slates without any reward are expected, their absence is not chance: without dependence e^-10."""


@dataclass(frozen=True)
class Thresholds:
    """When an estimate is refused.

    Attributes:
        ess: the smallest effective sample size, of decisions and of units. A bootstrap over fewer than about 50 numbers
            gives visibly too narrow intervals.
        seen: the smallest effective number of logged decisions that the target would have taken. It applies to every
            estimate: with fewer, a reward model fitted on this log has to extrapolate.
        support: the smallest share of the target's choices that the behaviour policy could have made. The log says
            nothing about the rest; at 0.9 these could move a mean reward of 0 .. 1 by 0.1.
        mean_weight: the range in which the mean weight must lie. Its expectation is the supported share of the target's
            choices, so at most 1. A mean far outside tells that the propensities are not those that the log was
            written with (or that the target's chances do not sum to 1), or that the log hardly holds any of the
            target's choices. `excess` is the stricter test of a mean above 1.
        largest_share: the largest share of the total weight for one decision. At a tenth, one reward moves the estimate
            by a tenth.
        clipped: the largest share of the total weight that clipping may take away: the bias may be as large.
        carriers: the smallest effective number of units by squared weights. With fewer, the estimate is not refused,
            but a note says that its interval is too narrow: over 9,500 logs of 600 made-up worlds, 95 % intervals held
            the value in 84 % (ips) and 91 % (snips) of logs below this threshold, and in 94 % and 95 % from it on.
        errors: standard errors of tolerance before a mean weight counts as outside a threshold. With three, one sound
            log in a thousand whose true mean is just at the threshold would be refused by chance.
        excess: as `errors`, for a mean weight above 1, which correct propensities give by chance only. Of 460,000 sound
            logs of 50 to 10,000 rows, with weights of 0 and one other value, lognormal ones, and ones without a
            variance, not one was refused.
    """

    ess: float = 50.0
    seen: float = 10.0
    support: float = 0.9
    mean_weight: tuple[float, float] = (0.5, 1.25)
    largest_share: float = 0.1
    clipped: float = 0.1
    carriers: float = 50.0
    errors: float = 3.0
    excess: float = 4.0


@dataclass(frozen=True)
class Overlap:
    """How well a log covers the target's choices. Each estimate has its own, for the weights that it uses.

    Attributes:
        ess: the effective sample size of the decisions (or slates, or trajectories).
        ess_units: the effective sample size of the units, by the sums of their weights.
        mean_weight: over the decisions; 1 is expected if the log supports all of the target's choices.
        error: the mean weight's standard error over units.
        largest: the largest weight.
        largest_share: the largest weight as a share of the sum.
        carriers: the effective number of units by squared weights; the variance is estimated from so many.
    """

    ess: float
    ess_units: float
    mean_weight: float
    error: float
    largest: float
    largest_share: float
    carriers: float

    @classmethod
    def of(cls, weights: Rows, units: Ids, ess: float | None = None) -> "Overlap":
        """From one weight per decision; give `ess` if it differs from the weights' own effective size."""
        largest = float(weights.max())
        parts = weights / largest if largest > 0 else weights  # squares of the weights themselves may overflow
        sums, numbers = np.bincount(units, parts), np.bincount(units)
        spread = np.square(sums - parts.mean() * numbers).sum() / max(1, len(sums) - 1)
        return cls(
            ess=effective_size(weights) if ess is None else ess,
            ess_units=effective_size(sums),
            mean_weight=float(weights.mean()),
            error=largest * float(np.sqrt(spread * len(sums)) / len(weights)),
            largest=largest,
            largest_share=float(1 / parts.sum()) if largest > 0 else 1.0,
            carriers=effective_size(np.square(sums)),
        )

    def excessive(self, units: int, errors: float) -> bool:
        """Whether the mean weight over `units` units is above 1 by more than `errors` standard errors and `LITTLE`.

        If weights are rarely 0, a short log may hold equal weights only, with a standard error of 0. So up to errors^2
        units of weight 0 are assumed to be missing by chance.
        """
        return self.mean_weight * (1 - errors**2 / units) - errors * self.error > 1 + LITTLE


@dataclass(frozen=True, eq=False)
class StepSupport:
    """How much of the target's trajectories (or slates) the log supports, step by step.

    The expectation of the product of weights up to a step is the target's chance to get there by choices that the
    behaviour policy can make. Even if each single choice is almost fully supported, ten in a row may hardly be by half.

    Attributes:
        means: the mean product at each step, over all trajectories; one that has ended keeps its last product.
        ess: the effective sample size of the same products; 0 if no weight is left.
        largest: the largest product of any step (at most e^600).
        trajectories: the number of trajectories.
        matters: the weight of each step's rewards in the estimate.
    """

    means: Steps
    ess: Steps
    largest: float
    trajectories: int
    matters: Steps | Ids

    @property
    def errors(self) -> Steps:
        """The standard errors of the means."""
        return np.asarray(self.means * np.sqrt(np.maximum(1 / np.maximum(self.ess, 1) - 1 / self.trajectories, 0)))

    def share(self, thresholds: Thresholds) -> float:
        """An upper bound, from the log, of the supported share of the target's trajectories.

        Each step's mean product gets a tolerance of `errors` standard errors. A mean is only used if its effective size
        is twice `ess`: products are skewed, so the mean of a few mostly lies below its expectation, by more than its
        standard error. Support that is lost at a step is lost at all later steps.
        """
        known = self.ess >= 2 * thresholds.ess
        most = np.where(known, self.means + thresholds.errors * self.errors, 1.0)
        return float(np.average(np.minimum.accumulate(np.minimum(most, 1.0)), weights=self.matters))

    def lost(self, thresholds: Thresholds) -> str | None:
        """Why an estimate of whole trajectories is refused; None if it is not."""
        high = self.means - thresholds.errors * self.errors > thresholds.mean_weight[1]
        if high.any():
            step = int(high.argmax())
            return (
                f"the mean product of the weights up to row {step + 1} is {self.means[step]:.2f}, where 1 is the most: "
                "each row must have the chance of its own item given those before it, not that of a whole slate"
            )
        share = self.share(thresholds)
        if share >= thresholds.support:
            return None
        return (
            f"over {len(self.means):,} steps the log supports at most {share:.0%} of what the policy would do, fewer "
            f"than {thresholds.support:.0%}: it says nothing of what follows the other choices"
        )


def effective_size(weights: Rows) -> float:
    """How many equally weighted decisions have the same variance: (sum w)^2 / sum w^2 (Kish 1965, section 11.7)."""
    largest = weights.max(initial=0)
    if not largest > 0:
        return 0.0
    parts = weights / largest
    return float(np.square(parts.sum()) / np.square(parts).sum())


def efficiency_of_steps(weights: Rows, steps: Ids) -> Steps:
    """At each step, the effective size of its rows as a share of their number; 0 if no weight is left."""
    largest = np.zeros(int(steps.max()) + 1)
    np.maximum.at(largest, steps, weights)
    parts = weights / np.where(largest > 0, largest, 1)[steps]
    squares = np.bincount(steps, np.square(parts))
    sizes = np.divide(np.square(np.bincount(steps, parts)), squares, out=np.zeros(len(squares)), where=squares > 0)
    return sizes / np.maximum(np.bincount(steps), 1)


def effective_size_over_steps(efficiency: Steps, reached: Steps | Ids, discount: float = 1.0) -> float:
    """The effective number of slates or trajectories for the sum of their discounted rewards.

    A step's share of the sum's variance is proportional to discount^(2 step), to the number of slates or trajectories
    that reach it, and to 1 / efficiency.

    Args:
        efficiency: of the weights at each step, 0 .. 1.
        reached: how many slates or trajectories reach each step; all reach the first.
        discount: of the rewards.
    """
    matters = discount ** (2 * np.arange(len(reached))) * reached
    least = 1 / reached[0]  # a step without any weight counts as one row
    return float(reached[0] * matters.sum() / (matters / np.maximum(efficiency, least)).sum())


def never_shown(target: Float64[np.ndarray, "rows items"], actions: Ids) -> float:
    """The target's share of choices that are items which the log never shows.

    Only items that the target would show in at least `OFTEN` of the rows count: a rarer one may be missing by chance.
    """
    share, shown = target.mean(axis=0), np.bincount(actions, minlength=target.shape[1]) > 0
    return float(share[~shown & (share * len(actions) >= OFTEN)].sum())


def unlike_claimed(actions: Ids, units: Ids, claimed: Float64[np.ndarray, "items"]) -> str | None:
    """A message if Pearson's chi-square test rejects that items were drawn from the claimed distribution, else None.

    Only each unit's first row is used, because the rows of a unit are not independent. The statistic minus its
    expectation, per row, is how far the mean weight of a policy with the log's own frequencies exceeds 1. The p-value
    uses the cube root of the statistic, which is nearly normal (Wilson and Hilferty 1931); there is no test if any item
    has fewer than one expected row.

    Args:
        actions: the shown items; `units`: the unit of each.
        claimed: the chance of each item.
    """
    can = claimed > 0
    counts = np.bincount(actions[np.diff(units, prepend=-1) > 0], minlength=len(claimed))[can]
    rows, free = int(counts.sum()), int(can.sum()) - 1
    expected = rows * claimed[can]
    if free < 1 or expected.min() < 1:
        return None
    statistic, spread = float((np.square(counts - expected) / expected).sum()), 2 / (9 * free)
    errors = ((statistic / free) ** (1 / 3) - (1 - spread)) / spread**0.5
    if errors <= CHANCE or statistic - free <= LITTLE * rows:
        return None
    most = int(np.argmax(counts - expected))
    return (
        f"items were shown unlike their propensities: one in {counts[most] / rows:.1%} of {rows:,} independent rows, "
        f"where {expected[most] / rows:.1%} is claimed (chi-square {statistic:,.0f} of {free:,}, beyond chance): the "
        "log was not written with these propensities; name those that it was written with, or have them estimated "
        "(--behaviour estimated)"
    )


def drawn_in_this_order(actions: Ids, claimed: Float64[np.ndarray, "items"]) -> bool:
    """Whether neighbouring rows show the same item as often as independent draws do, up to `CHANCE` standard errors.

    Not so in a file that is sorted by its items.

    Args:
        actions: the shown items; `claimed`: the chance of each item in every row.
    """
    pairs, same, triple = len(actions) - 1, (claimed**2).sum(), (claimed**3).sum()
    variance = pairs * (same * (1 - same) + 2 * (triple - same**2))
    excess = (actions[1:] == actions[:-1]).sum() - pairs * same
    return bool(abs(excess) <= CHANCE * np.sqrt(variance))


def without_failures(rewards: Rows, slates: Ids | None) -> str | None:
    """A message if decisions that earned nothing seem to have been left out of the log, else None.

    Of single decisions, if all rewards are the same and not 0. Of slates, if each has a reward although, by the share
    of rows without one at each place, at least `EMPTY` slates without any are expected.
    """
    earned = rewards != 0
    if slates is None:
        if not earned.all() or np.ptp(rewards) > 0:
            return None
        found, missing = f"all rewards are {rewards[0]:g}", "decisions"
    else:
        firsts = np.flatnonzero(np.diff(slates, prepend=-1))
        place = np.arange(len(slates)) - firsts[np.cumsum(np.diff(slates, prepend=-1) != 0) - 1]
        nothing = 1 - np.bincount(place, earned) / np.bincount(place)
        expected = float(np.multiply.reduceat(nothing[place], firsts).sum())
        if expected < EMPTY or not np.logical_or.reduceat(earned, firsts).all():
            return None
        found, missing = f"each of the {len(firsts):,} slates has an item with a reward", "slates"
    return (
        f"{found}: if {missing} without any reward were left out of the log, no estimate here tells what a policy "
        f"would earn, because the log was chosen by its rewards; give a log of all {missing} that were shown, with a "
        "reward of 0 where nothing happened"
    )


def few_units(number: float, thresholds: Thresholds) -> str | None:
    """A reason to refuse an estimate whose effective number of units is too small; None if it is large enough."""
    if number >= thresholds.ess:
        return None
    return (
        f"the effective number of units is {number:.1f}, below {thresholds.ess:g}: a few units have most of the rows, "
        "or of their weight; take a log of more units, or at most a few rows of each"
    )
