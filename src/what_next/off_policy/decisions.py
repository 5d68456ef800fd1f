"""The inputs of off-policy evaluation: logged decisions, the target policy's chances in each row, and options.

`Evidence` holds all three, checked, with the weights and thresholds that several estimators share.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

from what_next.errors import DataError, SetupError
from what_next.metrics.bootstrap import LEVEL, RESAMPLES, Bounds
from what_next.off_policy.diagnostics import Overlap, Thresholds, never_shown, unlike_claimed
from what_next.off_policy.slates import places
from what_next.off_policy.weighting import Ids, Rows, growing_threshold

Looks = Literal["one", "any"]
LARGEST = 1e200
"""Largest importance weight. An estimate that reaches it is meaningless, but stays finite."""
THRESHOLDS = Thresholds()


@dataclass(frozen=True, eq=False)
class Decisions:
    """Logged decisions, one row each. The rows of a unit are contiguous and in time order; units are independent.

    A unit is what was drawn independently: a user, a session, or, if neither is known, a single decision. Its rows are
    one trajectory.

    Attributes:
        units: the unit of each row: 0, 1, 2, ... without gaps, ascending.
        actions: the item that was shown, as an index of `vectors`.
        rewards: what it earned.
        propensities: the behaviour policy's chance of the logged action, in (0, 1].
        vectors: the vector of each item that could have been shown: attributes, or one-hot if there are none.
        positions: the slot in the slate, 0 = first.
        slates: the slate of each row, ascending; the rows of a slate are contiguous and ordered by position.
        marginal: only matters for slates. True: propensities and the target's chances are those of an item at its
            position, whatever is above it. False: they are conditional on the items above, as in drawing slot by slot.
        contexts: the features of each row that reward models read.
        times: of each row; None if unknown: then rows of single-row units are taken to be in time order.
    """

    units: Ids
    actions: Ids
    rewards: Rows
    propensities: Rows
    vectors: Float64[np.ndarray, "items width"]
    positions: Ids | None = None
    slates: Ids | None = None
    contexts: Float64[np.ndarray, "rows dim"] | None = None
    marginal: bool = False
    times: Ids | None = None

    @property
    def items(self) -> int:
        """The number of possible actions."""
        return len(self.vectors)

    @cached_property
    def above(self) -> Ids:
        """For each row of a log of slates, the number of rows above it in its slate."""
        assert self.slates is not None, "the log has slates"
        return places(self.slates)

    @property
    def slated(self) -> bool:
        """Whether any slate has two rows or more; a slate of one row is an ordinary decision."""
        return self.slates is not None and bool((np.diff(self.slates) == 0).any())


@dataclass(frozen=True, eq=False)
class Target:
    """The choice probabilities of the target policy in each logged row.

    Attributes:
        chances: of the logged action.
        expected: the sum over all items of chance * vectors[item], for reward models that are linear in the vectors.
        full: the whole distribution over items, if it fits in memory.
    """

    chances: Rows
    expected: Float64[np.ndarray, "rows width"] | None = None
    full: Float64[np.ndarray, "rows items"] | None = None


def importance_weights(decisions: Decisions, target: Target) -> Rows:
    """The target's chance of each logged action over the behaviour policy's; at most `LARGEST`."""
    chances, propensities = target.chances, decisions.propensities
    assert 0 < len(propensities) == len(chances)
    assert ((propensities > 0) & (propensities <= 1)).all(), "propensities are checked when a log is read"
    assert ((chances >= 0) & (chances <= 1 + 1e-6)).all(), "chances are from 0 to 1"
    with np.errstate(over="ignore"):
        return np.asarray(np.minimum(chances / propensities, LARGEST))


@dataclass(frozen=True, eq=False)
class Options:
    """What is known about a log beyond its rows, and how its estimates are made.

    A level that is no percentage between 0 and 100 raises a `SetupError`.

    Attributes:
        behaviour: the behaviour policy's whole distribution in each row, or one row for all. Without it the largest
            possible weight is unknown, so only clipped IPS has empirical Bernstein bounds.
        clusters: the cluster of each item, from 0, for marginalised weights. None: k-means of the item vectors into
            sqrt(items) clusters, unless the vectors are one-hot.
        reward_range: the smallest and the largest possible reward, for Bernstein bounds. None: 0 to 1 if the log holds
            both and no other reward; else unknown (a rare largest reward may be missing from the log): no such bounds.
        clip: the largest weight of clipped IPS; `switch`: the threshold of SWITCH. None: `growing_threshold`.
        discount: of the rewards along a unit, for the estimators of sequences; None leaves these out.
        estimated: the propensities are estimated from the log; the weights are then uncertain: no Bernstein bounds.
        only: the name of the only estimate to compute; None: all.
        force: show refused estimates too, marked as such; `thresholds`: when an estimate is refused.
        level: of the intervals, in percent; `resamples`: bootstrap resamples of the units.
        seed: of the resamples, the reward model's folds and the clusters.
        looks: whether the interval of a difference holds at one look or at any number of looks at a growing log.
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

    def __post_init__(self) -> None:
        if not 0 < self.level < 100:
            raise SetupError(
                f"the level of the intervals is {self.level:g}; expected a percentage above 0 and below 100"
            )


@dataclass(frozen=True, eq=False)
class Evidence:
    """A log and a target policy, checked, with the quantities that several estimators share.

    Attributes:
        decisions, target: as given; `slates` is dropped if every slate has one row.
        options: as given.
        weights: importance weights of the logged actions; `overlap`: the overlap of these weights.
        support: the share of the target's choices that the behaviour policy could have made; None if unknown.
        missing: if `support` is unknown, the target's share of items that the log never shows (`never_shown`).
        largest_weight: the largest possible weight; None if unknown.
        rewards: the smallest and the largest possible reward, extended to include 0; None if unknown.
        clip, switch: the thresholds in use.
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
        """Check the inputs and compute the shared quantities.

        Raises:
            DataError: the given range of rewards does not hold the log's rewards.
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
        """A message if the logged items contradict the claimed behaviour distribution; None if they fit it.

        Only checked if one distribution holds for all rows.
        """
        behaviour, log = self.options.behaviour, self.decisions
        if behaviour is None or len(behaviour) > 1:
            return None
        return unlike_claimed(log.actions, log.units, behaviour[0])

    @property
    def units(self) -> int:
        """The number of units."""
        return int(self.decisions.units[-1]) + 1

    def span(self, most: float | None) -> Bounds | None:
        """The range of a reward times a weight of at most `most`; None if it is unknown."""
        if most is None or self.rewards is None or self.options.estimated:
            return None
        return self.rewards[0] * most, self.rewards[1] * most


def _largest_weight(
    weights: Rows, target: Target, behaviour: Float64[np.ndarray, "#rows items"] | None
) -> float | None:
    """The largest ratio of the distributions over the log's rows; an unknown target chance counts as 1."""
    if behaviour is None:
        return None
    chances = np.ones_like(behaviour) if target.full is None else target.full
    can = np.broadcast_to(behaviour > 0, chances.shape)
    ratios = np.divide(chances, behaviour, out=np.zeros_like(chances), where=can)
    return max(float(ratios.max()), float(weights.max()))


def _reward_range(decisions: Decisions, options: Options) -> Bounds | None:
    """The given range, or 0 to 1; it always includes 0, because an action with weight 0 contributes 0."""
    rewards, given = decisions.rewards, options.reward_range
    if given is None:
        clicks = ((rewards == 0) | (rewards == 1)).all() and rewards.any()  # with zeros only, 1 may not be the largest
        return (0.0, 1.0) if clicks else None
    (low, high), least, most = given, float(rewards.min()), float(rewards.max())
    if not (np.isfinite(given).all() and low <= least and most <= high):
        raise DataError(
            f"the log's rewards reach from {least:g} to {most:g}, and the given range only from {low:g} to {high:g}; "
            "give finite numbers that hold them all"
        )
    return min(0.0, low), max(0.0, high)
