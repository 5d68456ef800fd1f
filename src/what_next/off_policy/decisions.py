"""What off-policy evaluation sees: logged decisions, what the policy in question would have done in each, and options.

`Evidence` is all of it, checked, with what several estimators need.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

from what_next.errors import DataError
from what_next.metrics.bootstrap import LEVEL, RESAMPLES, Bounds
from what_next.off_policy.diagnostics import Overlap, Thresholds, never_shown, unlike_claimed
from what_next.off_policy.weighting import Ids, Rows, growing_threshold

Looks = Literal["one", "any"]
LARGEST = 1e200
"""Weight. An estimate that meets it means nothing, but stays a number."""
THRESHOLDS = Thresholds()


@dataclass(frozen=True, eq=False)
class Decisions:
    """Logged decisions, one row each; the rows of one unit stand together, in the order of time. Units are independent.

    A unit is what was drawn independently: a user, a session, or, where neither is known, a single decision. Its first
    row starts its trajectory, its last row ends it.

    Attributes:
        units: 0, 1, 2, ... without gaps, ascending.
        actions: which item was shown, 0 .. items - 1.
        rewards: what it earned.
        propensities: the behaviour policy's chance of the logged action, in (0, 1].
        items: how many actions there are.
        positions: the slot in a slate, 0 = first.
        slates: which slate, ascending; the rows of one stand together, in the order of their positions.
        marginal: of slates, what the propensities and the target's chances are: of an item at its position, whatever
            stands above it; else of an item given the items above it, as whoever draws slot by slot has them.
        contexts: what reward models read of each row.
        vectors: of the items: attributes, or one-hot where there are none.
    """

    units: Ids
    actions: Ids
    rewards: Rows
    propensities: Rows
    items: int
    positions: Ids | None = None
    slates: Ids | None = None
    contexts: Float64[np.ndarray, "rows dim"] | None = None
    vectors: Float64[np.ndarray, "items width"] | None = None
    marginal: bool = False

    @property
    def slated(self) -> bool:
        """Whether there are slates of two rows or more; one of a single row is a decision like any other."""
        return self.slates is not None and bool((np.diff(self.slates) == 0).any())


@dataclass(frozen=True, eq=False)
class Target:
    """What the policy in question would do in each logged row.

    Attributes:
        chances: of the logged action.
        expected: the sum over all items of chance * vectors[item], for reward models that are linear in the vectors.
        full: the whole distribution, where it fits in memory.
    """

    chances: Rows
    expected: Float64[np.ndarray, "rows width"] | None = None
    full: Float64[np.ndarray, "rows items"] | None = None


def importance_weights(decisions: Decisions, target: Target) -> Rows:
    """How much more often than the behaviour policy the target would take each logged action; at most `LARGEST`."""
    chances, propensities = target.chances, decisions.propensities
    assert 0 < len(propensities) == len(chances)
    assert ((propensities > 0) & (propensities <= 1)).all(), "whoever reads a log looks at its propensities"
    assert ((chances >= 0) & (chances <= 1 + 1e-6)).all(), "chances are from 0 to 1"
    with np.errstate(over="ignore"):
        return np.asarray(np.minimum(chances / propensities, LARGEST))


@dataclass(frozen=True, eq=False)
class Options:
    """What is known of a log beyond its rows, and how its estimates are made.

    Attributes:
        behaviour: the whole distribution of the behaviour policy in each row, or one row for all; without it the
            largest possible weight is not known, and there are no empirical Bernstein bounds but of clipped IPS.
        clusters: of each item, counted from 0: categories for marginalised weights. None: as many clusters of the
            items' vectors as the square root of the number of items, where these are not one-hot.
        reward_range: the least and the largest reward that could have been, for the same bounds. None: 0 to 1 where the
            log has no other rewards than these two, and otherwise not known (the rare largest one may be missing from
            the log), and no such bounds.
        clip: the largest weight of clipped IPS; `switch`: the threshold of SWITCH. None: `growing_threshold`.
        discount: of the rewards along a unit, for the estimators of sequences; None leaves them out.
        estimated: the propensities are estimated from the log; no weight is known then, and there are no such bounds.
        only: the name of the one estimate that is wanted, where the others need not be made.
        force: tell refused estimates too, marked; `thresholds`: when one is refused.
        level: of the intervals, in percent; `resamples`: of the units, for the bootstrap.
        seed: of the resamples, the reward model's folds and the clusters.
        looks: at how many looks the interval of a difference holds: at one, or at any number of a growing log.
    """

    behaviour: Float64[np.ndarray, "rows_or_one items"] | None = None
    clusters: Int64[np.ndarray, "items"] | None = None
    reward_range: Bounds | None = None
    clip: float | None = None
    switch: float | None = None
    discount: float | None = None
    estimated: bool = False
    only: str | None = None
    force: bool = False
    thresholds: Thresholds = THRESHOLDS
    level: float = LEVEL
    resamples: int = RESAMPLES
    seed: int = 0
    looks: Looks = "one"


@dataclass(frozen=True, eq=False)
class Evidence:
    """A log and a target policy.

    Attributes:
        decisions, target: the same; slates of one row each are none.
        options: what the caller said.
        weights: of the logged actions; `overlap`: theirs.
        support: the share of the target's choices that the behaviour policy could have made; None where not known.
        missing: the share among items that the log never shows, where support is not known (`never_shown`).
        largest_weight: that could have been, where it is known.
        rewards: the least and the largest reward that could have been, with 0 in between; None where not known.
        clip, switch: the thresholds that are used.
    """

    decisions: Decisions
    target: Target
    options: Options
    weights: Rows
    overlap: Overlap
    support: float | None
    missing: float
    largest_weight: float | None
    rewards: Bounds | None
    clip: float
    switch: float

    @classmethod
    def of(cls, decisions: Decisions, target: Target, options: Options) -> "Evidence":
        """With what several estimators need.

        Raises:
            DataError: for a given range of rewards that does not hold them.
        """
        weights, behaviour = importance_weights(decisions, target), options.behaviour
        support, missing = None, 0.0
        if target.full is not None and behaviour is not None:
            support = float(np.where(behaviour > 0, target.full, 0).sum(axis=1).mean())
        elif target.full is not None:
            missing = never_shown(target.full, decisions.actions)
        growing = growing_threshold(len(weights))
        return cls(
            decisions if decisions.slated else replace(decisions, slates=None),
            target,
            options,
            weights=weights,
            overlap=Overlap.of(weights, decisions.units),
            support=support,
            missing=missing,
            largest_weight=_largest_weight(weights, target, behaviour),
            rewards=_reward_range(decisions, options),
            clip=growing if options.clip is None else options.clip,
            switch=growing if options.switch is None else options.switch,
        )

    @cached_property
    def unlike(self) -> str | None:
        """That the log does not show items as the one behaviour policy of all its rows would; None: it does."""
        behaviour, log = self.options.behaviour, self.decisions
        if behaviour is None or len(behaviour) > 1:
            return None
        return unlike_claimed(log.actions, log.units, behaviour[0])

    @property
    def units(self) -> int:
        """How many there are."""
        return int(self.decisions.units[-1]) + 1

    def span(self, most: float | None) -> Bounds | None:
        """What a reward times a weight of at most `most` cannot leave; None where that is not known."""
        if most is None or self.rewards is None or self.options.estimated:
            return None
        return self.rewards[0] * most, self.rewards[1] * most


def _largest_weight(
    weights: Rows, target: Target, behaviour: Float64[np.ndarray, "#rows items"] | None
) -> float | None:
    """As the distributions have it over the log's contexts, with chances of 1 where the target's are not known."""
    if behaviour is None:
        return None
    chances = np.ones_like(behaviour) if target.full is None else target.full
    can = np.broadcast_to(behaviour > 0, chances.shape)
    ratios = np.divide(chances, behaviour, out=np.zeros_like(chances), where=can)
    return max(float(ratios.max()), float(weights.max()))


def _reward_range(decisions: Decisions, options: Options) -> Bounds | None:
    """As it is given, or 0 to 1; 0 always belongs to it, for an action with no weight earns it."""
    rewards, given = decisions.rewards, options.reward_range
    if given is None:
        clicks = ((rewards == 0) | (rewards == 1)).all() and rewards.any()  # of zeros alone, the 1 is not known
        return (0.0, 1.0) if clicks else None
    (low, high), least, most = given, float(rewards.min()), float(rewards.max())
    if not (np.isfinite(given).all() and low <= least and most <= high):
        raise DataError(
            f"the log's rewards reach from {least:g} to {most:g}, and the given range only from {low:g} to {high:g}; "
            "give finite numbers that hold them all"
        )
    return min(0.0, low), max(0.0, high)
