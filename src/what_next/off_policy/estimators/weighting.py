"""Estimators of one step: the mean reward per decision that a policy would have earned, from another one's log.

Each is a pure function from plain arrays, one number per logged decision, to `Terms`. `weights` are the target's chance
of the logged action over the behaviour policy's; `chosen` is what a reward model says of the logged action, and
`expected` what it says of the target policy, its mean over the target's actions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

Rows = Float64[np.ndarray, "rows"]


@dataclass(frozen=True, eq=False)
class Terms:
    """An estimate as a ratio of two sums over rows, so that rows can be drawn anew without estimating anew.

    Attributes:
        tops: what each row adds above the line.
        bottoms: and below: 1 each, where the estimate is a mean over the rows.
    """

    tops: Rows
    bottoms: Rows

    @property
    def value(self) -> float:
        """The estimate; NaN where nothing stands below the line."""
        return float(self.resampled(np.ones((1, len(self.tops))))[0])

    def resampled(self, counts: Float64[np.ndarray, "resamples rows"]) -> Float64[np.ndarray, "resamples"]:
        """The estimate from each resample, that is, from so many copies of each row; NaN where there is none."""
        return ratios(stacked([self]), counts)[:, 0]

    def by_unit(self, units: Int64[np.ndarray, "rows"]) -> "Terms":
        """The same estimate with one row per unit, `units` as of `Decisions`."""
        return Terms(np.bincount(units, self.tops), np.bincount(units, self.bottoms))


def stacked(terms: Sequence[Terms]) -> Float64[np.ndarray, "rows columns"]:
    """Several estimates with as many rows each: all their tops, then all their bottoms."""
    return np.stack([one.tops for one in terms] + [one.bottoms for one in terms], axis=1)


def ratios(
    table: Float64[np.ndarray, "rows columns"], counts: Float64[np.ndarray, "resamples rows"]
) -> Float64[np.ndarray, "resamples terms"]:
    """`Terms.resampled` of all that are `stacked`, by one product of matrices."""
    above, below = np.hsplit(counts @ table, 2)
    return np.asarray(np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0))


def mean_of(values: Rows) -> Terms:
    """The mean over the rows."""
    return Terms(values, np.ones(len(values)))


def ips(weights: Rows, rewards: Rows) -> Terms:
    """Inverse propensity scoring (Horvitz and Thompson 1952): unbiased where the log supports the target."""
    return mean_of(weights * rewards)


def clipped_ips(weights: Rows, rewards: Rows, at_most: float) -> Terms:
    """The same with weights of at most `at_most` (Ionides 2008; Bottou et al. 2013, section 4.4).

    Less variance, and too low where rewards are positive and a weight was clipped.
    """
    return mean_of(np.minimum(weights, at_most) * rewards)


def snips(weights: Rows, rewards: Rows) -> Terms:
    """Self-normalised: over the sum of the weights, not their number (Swaminathan and Joachims 2015, equation 8).

    Consistent, always within the range of the rewards, and moved by exactly what is added to all of them.
    """
    return Terms(weights * rewards, weights)


def dm(expected: Rows, pull: Rows | None = None) -> Terms:
    """The direct method: the mean of what a reward model expects of the target policy.

    Args:
        expected: of each row.
        pull: how each row has moved the model, and with it the estimate (`reward_model.Modelled`). Their mean is taken
            away, so that they leave the estimate as it is and make its interval tell the model's own error.
    """
    return mean_of(expected if pull is None else expected + (pull - pull.mean()))


def dr(weights: Rows, rewards: Rows, chosen: Rows, expected: Rows) -> Terms:
    """Doubly robust: the model's expectation, and the weighted rest that it left unexplained (Dudik et al. 2011).

    Consistent where the propensities or the model are right.
    """
    return mean_of(expected + weights * (rewards - chosen))


def switch_dr(weights: Rows, rewards: Rows, chosen: Rows, expected: Rows, threshold: float) -> Terms:
    """Doubly robust where a weight is at most `threshold`, the model alone where it is larger (Wang et al. 2017).

    With a threshold of 0 this is the direct method, with an infinite one it is doubly robust.
    """
    return dr(switched(weights, threshold), rewards, chosen, expected)


def switched(weights: Rows, threshold: float) -> Rows:
    """The weights that SWITCH keeps; 0 where it asks the model alone."""
    return np.where(weights <= threshold, weights, 0.0)


def growing_threshold(rows: int) -> float:
    """The largest weight that is let pass in a log of so many rows: their square root.

    It must grow, or the bias stays, and slower than the rows, or one weight may decide: Ionides (2008) shows that
    truncation at the square root (weights have a mean of 1) keeps the estimate consistent, and its variance of the
    usual order.
    """
    return float(np.sqrt(rows))
