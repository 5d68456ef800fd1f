"""Off-policy values of whole trajectories: what the target policy would have earned over a unit's decisions.

A unit of `decisions` is a trajectory. `weights` are the importance weights of single decisions; the weight of a step is
the product of all weights up to it. `discount` is the factor per step, 0 to 1. Products are kept as logarithms, so that
long trajectories neither overflow nor underflow. After its last step a trajectory earns nothing and keeps its weight.

Sources: Precup, Sutton and Singh (2000), "Eligibility traces for off-policy policy evaluation"; Thomas (2015), "Safe
reinforcement learning"; Jiang and Li (2016), "Doubly robust off-policy value evaluation for reinforcement learning",
arXiv 1511.03722.
"""

import numpy as np
from jaxtyping import Float64, Int64

from what_next.off_policy.decisions import Decisions
from what_next.off_policy.diagnostics import Steps, StepSupport
from what_next.off_policy.slates import places
from what_next.off_policy.weighting import Ids, Rows

Units = Float64[np.ndarray, "units"]

LARGEST = 600.0
"""Logarithm of the largest product of weights: e^600. An estimate that reaches it is meaningless, but stays finite."""
NOTHING = -1e300
"""Stands for the logarithm of zero where differences are taken."""


def per_decision_is(decisions: Decisions, weights: Rows, discount: float) -> Units:
    """Per-decision importance sampling (Precup et al., 2000): one value per trajectory; their mean is the estimate.

    Each reward counts with the weights of the decisions up to it, and not with those after it.
    """
    steps = places(decisions.units)
    products = _products(_log_products(weights, steps))
    return np.bincount(decisions.units, discount**steps * products * decisions.rewards)


def weighted_per_decision_is(decisions: Decisions, weights: Rows, discount: float) -> Units:
    """Weighted per-decision importance sampling: a ratio of sums at each step (Precup et al., 2000; Thomas, 2015).

    A trajectory that has ended earns nothing more but keeps its weight in the denominator, so each ratio tends to the
    target's mean reward of that step over all trajectories, ended ones included. A step at which no weight is left
    adds nothing.

    A sum of ratios is not a ratio of sums. The values are its linearisation (the delta method), one per trajectory,
    with the same mean, and the same spread up to the order 1/n.
    """
    steps, lengths = places(decisions.units), np.bincount(decisions.units)
    logs = _log_products(weights, steps)
    last = logs[lengths.cumsum() - 1]
    totals = _log_totals(logs, last, steps, lengths)
    totals[np.isneginf(totals)] = 0.0
    shares = np.exp(logs - totals[steps])
    ratios = np.bincount(steps, shares * decisions.rewards)
    pulls = np.bincount(decisions.units, discount**steps * shares * (decisions.rewards - ratios[steps]))
    for step, ratio in enumerate(ratios):
        ended = lengths <= step
        pulls[ended] -= discount**step * ratio * np.exp(last[ended] - totals[step])
    return np.asarray(discount ** np.arange(len(ratios)) @ ratios + len(lengths) * pulls)


def sequence_dr(decisions: Decisions, weights: Rows, discount: float, values: Rows, chosen: Rows) -> Units:
    """The doubly robust value of each trajectory (Jiang and Li, 2016); their mean is the estimate.

    Their recursion DR_t = V_t + w_t (r_t + discount DR_(t+1) - Q_t), written as a sum over steps. The mean is right if
    either the weights or the model are. With cross-fitted values the model never saw the trajectory.

    Args:
        decisions: the log; `weights`, `discount`: see the top of this file.
        values: the model's value of each row's state under the target.
        chosen: the model's value of each row's state and logged action.
    """
    steps = places(decisions.units)
    products = _products(_log_products(weights, steps))
    before = np.where(steps == 0, 1.0, np.roll(products, 1))
    terms = products * (decisions.rewards - chosen) + before * values
    return np.bincount(decisions.units, discount**steps * terms)


def sequence_support(decisions: Decisions, weights: Rows) -> StepSupport:
    """The support of products of these weights; a step matters in proportion to the trajectories that reach it."""
    steps, lengths = places(decisions.units), np.bincount(decisions.units)
    logs = _log_products(weights, steps)
    last = logs[lengths.cumsum() - 1]
    totals, squares = _log_totals(logs, last, steps, lengths), _log_totals(2 * logs, 2 * last, steps, lengths)
    ess = np.exp(np.where(np.isneginf(totals), NOTHING, 2 * np.maximum(totals, NOTHING) - squares))
    means, largest = _products(totals - np.log(len(lengths))), float(_products(logs.max(keepdims=True))[0])
    return StepSupport(means, ess, largest, len(lengths), np.bincount(steps))


def _log_products(weights: Rows, steps: Ids) -> Rows:
    """The logarithm of the product of a trajectory's weights up to each row; minus infinity if a weight is zero.

    A prefix sum by doubling (Hillis and Steele, 1986). A plain cumulative sum over the whole log would carry one
    trajectory's rounding error, and its zeros, into the next.
    """
    with np.errstate(divide="ignore"):
        logs = np.asarray(np.log(weights))
    reach = 1
    while reach <= steps.max(initial=0):
        rows = np.flatnonzero(steps >= reach)
        logs[rows] += logs[rows - reach]
        reach *= 2
    return logs


def _products(logs: Rows) -> Rows:
    return np.asarray(np.exp(np.minimum(logs, LARGEST)))


def _log_totals(logs: Rows, last: Units, steps: Ids, lengths: Int64[np.ndarray, "units"]) -> Steps:
    """The logarithm of the sum of products at each step, over running and ended trajectories."""
    alive = np.full(lengths.max(), -np.inf)
    np.logaddexp.at(alive, steps, logs)
    ended = np.full(lengths.max() + 1, -np.inf)
    np.logaddexp.at(ended, lengths, last)
    return np.logaddexp(alive, np.logaddexp.accumulate(ended)[:-1])
