"""What a policy would have earned on a log: every estimator that applies, with intervals, or the reason against it."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from what_next.data.stages import SILENT, Stages
from what_next.metrics.bootstrap import Bounds, empirical_bernstein, percentiles, resampled_counts
from what_next.off_policy.candidates import Candidate, Found, candidates_of
from what_next.off_policy.confidence_sequences import asymptotic, betting, effect_of
from what_next.off_policy.decisions import Decisions, Evidence, Options, Target
from what_next.off_policy.diagnostics import LITTLE, Overlap, Thresholds, drawn_in_this_order, few_units
from what_next.off_policy.slates import slate_ips
from what_next.off_policy.weighting import Ids, Terms, mean_of

PLAIN = Options()

NUMBERS = ("mean", "low", "high", "bernstein_low", "bernstein_high")
WRONG = (
    "the log's propensities are not those that it was written with, or the policy's chances of all items sum to more "
    "than 1, or the policy was made from this very log"
)
"""What a mean weight above 1 tells."""


@dataclass(frozen=True, eq=False)
class Judged:
    """A policy on a log: the evidence, and for each estimator its estimate or the reason why it cannot be made."""

    log: Evidence
    found: Found

    @classmethod
    @np.errstate(over="ignore", invalid="ignore")
    def of(cls, decisions: Decisions, target: Target, options: Options = PLAIN, stages: Stages = SILENT) -> "Judged":
        """See `estimate`."""
        log = Evidence.of(decisions, target, options)
        return cls(log, candidates_of(log, stages))

    @property
    def made(self) -> dict[str, Candidate]:
        """The estimates that could be made."""
        return {name: one for name, one in self.found.items() if isinstance(one, Candidate)}


def estimate(decisions: Decisions, target: Target, options: Options = PLAIN, stages: Stages = SILENT) -> dict[str, Any]:
    """Every estimate of what the target policy would have earned, as plain values.

    Args:
        decisions: the log.
        target: the target policy's chances in each row of the log.
        options: what else is known, and how the estimates are made.

    Returns:
        `estimates`: for each name `mean`, `low`, `high` (bootstrap over units), `bernstein_low`, `bernstein_high` (None
        without a known range; for clipped IPS they bound the clipped mean), `ess` (None if no weights are used),
        `support`, `per` ("decision", "slate" or "trajectory"), `refused` (None, or why), and `forced` if a refused one
        is shown all the same. `left_out`: for each other estimator, why it could not be made. `logged`: what the
        behaviour policy earned, per decision, or per slate if the chances are conditional on the items above.
        `diagnostics`: of the plain weights, and the range of rewards behind the Bernstein bounds. `notes`: errors that
        the intervals do not cover. Then the options that were used. All numbers are finite.

    Raises:
        DataError: the given range of rewards does not hold the log's rewards.
    """
    return estimates_of(Judged.of(decisions, target, options, stages), stages)


@np.errstate(over="ignore", invalid="ignore")  # an overflow is reported as None
def estimates_of(judged: Judged, stages: Stages = SILENT) -> dict[str, Any]:
    """The result of `estimate`, from a policy that is already judged."""
    log, made, options = judged.log, judged.made, judged.log.options
    logged, per = _logged(log.decisions)
    several = [logged, *(one.estimate for one in made.values())]
    samples = _resampled(several, log.units, options, stages)
    estimates = {
        name: _shown(_summary(one, sample, log) | {"refused": refusal(one, log)}, options.force)
        for (name, one), sample in zip(made.items(), samples[1:], strict=True)
    }
    result = {name: getattr(options, name) for name in ("level", "resamples", "seed", "discount")} | {
        "n": len(log.decisions.units),
        "units": log.units,
        "logged": _interval(logged.value, percentiles(samples[0], options.level)) | {"per": per},
        "estimates": estimates,
        "left_out": {name: one for name, one in judged.found.items() if isinstance(one, str)},
        "diagnostics": _diagnostics(log),
        "notes": [*_off(log), *_narrow(made, estimates, log.options.thresholds)],
        "thresholds": asdict(options.thresholds) | {"clip": log.clip, "switch": log.switch},
    }
    return {name: _finite(one) for name, one in result.items()}


@np.errstate(over="ignore", invalid="ignore")
def difference(judged: Judged, other: Judged, stages: Stages = SILENT) -> dict[str, dict[str, Any]]:
    """How much more one policy would have earned than another, on the same log and the same resamples.

    Args:
        judged: one policy.
        other: the policy to subtract, on the same log with the same options.

    Returns:
        For each estimator that both policies allow: `mean`, `low`, `high`, `per` and `refused`, which names the policy
        whose estimate is refused; one is enough to refuse the difference. `interval` is the kind of bounds:
        "bootstrap", valid at one look, or, if the options ask for any number of looks, the confidence sequence
        "asymptotic" or "betting".
    """
    logs, options, theirs = (judged.log, other.log), judged.log.options, other.made
    pairs = {name: (one, theirs[name]) for name, one in judged.made.items() if name in theirs}
    several = [one.estimate for pair in pairs.values() for one in pair]
    samples = _resampled(several, logs[0].units, options, stages) if options.looks == "one" else []
    found = {}
    for place, (name, pair) in enumerate(pairs.items()):
        reasons = [refusal(one, log) for one, log in zip(pair, logs, strict=True)]
        if options.looks == "any":
            kind, bounds = _sequence(name, pair, logs[0])
        else:
            kind, bounds = "bootstrap", percentiles(samples[2 * place] - samples[2 * place + 1], options.level)
        interval = _interval(pair[0].estimate.value - pair[1].estimate.value, bounds)
        about = {"interval": kind, "per": pair[0].per, "refused": _of_both(reasons)}
        found[name] = _finite(_shown(interval | about, options.force))
    return found


def _sequence(name: str, pair: tuple[Candidate, Candidate], log: Evidence) -> tuple[str, Bounds | None]:
    """The kind of confidence sequence for a difference, and its bounds; None if it has no bounds.

    Betting needs one row per unit, because a user's rows are not independent, and terms whose values and range do not
    change as the log grows. Clipped IPS is excluded, because its threshold grows with the log. Bets are made in the
    order of time, and in no other: in a file that is sorted by items, the first rows would foretell the later ones.
    """
    (one, other), options, decisions = pair, log.options, log.decisions
    ours, theirs = one.estimate, other.estimate
    fixed, behaviour = one.span and other.span and name != "clipped_ips", options.behaviour
    order = np.arange(len(decisions.units)) if decisions.times is None else np.argsort(decisions.times, kind="stable")
    if fixed and behaviour is not None and log.units == len(decisions.units) and _drawn_so(log, order):
        span = log.span(float(1 / behaviour[behaviour > 0].min()))  # for the largest weight of any policy
        assert span is not None, "estimates with a range have one"
        assert log.rewards is not None, "a range is that of the rewards, weighted"
        width, most = span[1] - span[0], log.rewards[1] - log.rewards[0]
        bounds = betting((ours.tops - theirs.tops)[order], (-width, width), options.level)
        return "betting", _within(bounds, -most, most)
    number = len(decisions.units) if one.per == "decision" else ours.bottoms.sum()
    return "asymptotic", asymptotic(ours, theirs, effect_of(decisions.rewards, float(number)), options.level)


def _drawn_so(log: Evidence, order: Ids) -> bool:
    """Whether the rows, one per unit, may have been drawn in this order; only known of a single distribution."""
    behaviour = log.options.behaviour
    if behaviour is None or len(behaviour) > 1:
        return True
    return drawn_in_this_order(log.decisions.actions[order], behaviour[0])


def _logged(decisions: Decisions) -> tuple[Terms, str]:
    """The log's own reward by units, and whether per decision or per slate, to match the estimates."""
    if decisions.slates is None or decisions.marginal:
        return mean_of(decisions.rewards).by_unit(decisions.units), "decision"
    ones = np.ones_like(decisions.rewards)
    return slate_ips(ones, decisions.rewards, decisions.slates).by_unit(decisions.units), "slate"


def _resampled(
    estimates: Sequence[Terms], units: int, options: Options, stages: Stages
) -> list[Float64[np.ndarray, "resamples"]]:
    """Each estimate on the same resamples of the units."""
    parts, done = [], stages.begin("intervals", options.resamples)
    for counts in resampled_counts(units, options.resamples, options.seed):
        parts.append(np.stack([one.resampled(counts) for one in estimates]))
        done(len(counts))
    return list(np.concatenate(parts, axis=1))


def refusal(one: Candidate, log: Evidence) -> str | None:
    """The reasons why an estimate is refused, as one message; None if there are none."""
    weighted = [] if one.own is None else _weighted(one.own, log)
    return "; ".join([*_uncovered(one, log), *weighted, *_odd(one, log)]) or None


# Each comparison is written so that NaN is refused.


def _uncovered(one: Candidate, log: Evidence) -> Iterator[str]:
    """Reasons that apply to every estimate, with weights or without. Unknown support is estimated by the mean weight,
    whose expectation it is."""
    overlap, thresholds = log.overlap, log.options.thresholds
    share, shown = log.support, f"{log.support or 0:.1%}"
    if share is None:
        share = overlap.mean_weight + thresholds.errors * overlap.error
        shown = f"about {overlap.mean_weight:.1%} (the mean weight)"
    if not share >= thresholds.support:
        yield (
            f"the behaviour policy could have made {shown} of the policy's choices, fewer than "
            f"{thresholds.support:.0%}: the log says nothing of the others, or is too small to hold them"
            + ("" if log.support is not None else ", or its propensities are not those that it was written with")
        )
    if log.units < thresholds.ess:
        yield f"the log has {log.units:,} independent units, fewer than {thresholds.ess:g}: there is no interval"
    if not one.seen >= thresholds.seen:
        yield (
            f"the log's decisions are worth {one.seen:.1f} of the policy's, fewer than {thresholds.seen:g}: "
            "it hardly shows what the policy would do"
        )
    if not 1 - log.missing >= thresholds.support:
        yield f"{log.missing:.0%} of the policy's choices are items that the log never shows: it says nothing of them"


def _off(log: Evidence) -> Iterator[str]:
    """A note if the mean weight is off 1 by more than chance, and not so far above it that all is refused."""
    overlap, thresholds = log.overlap, log.options.thresholds
    above, refused = (overlap.excessive(log.units, errors) for errors in (thresholds.errors, thresholds.excess))
    if overlap.mean_weight + thresholds.errors * overlap.error < 1 - LITTLE:
        yield (
            f"{_mean_weight(overlap)}, where 1 is expected: part of what the policy would do is hardly in the log, and "
            "no interval here covers what that part earns; or the propensities are not those that the log was written "
            "with"
        )
    elif above and not refused and not log.options.estimated:
        yield f"{_mean_weight(overlap)}, where 1 is the most: probably {WRONG}; estimates by weights are then wrong"


def _mean_weight(overlap: Overlap) -> str:
    """The mean weight in words."""
    return f"the mean weight is {overlap.mean_weight:.3f} (standard error {overlap.error:.3f})"


def _narrow(made: dict[str, Candidate], told: dict[str, Any], thresholds: Thresholds) -> Iterator[str]:
    """A note that names the shown estimates whose intervals are too narrow, because few units carry the weight."""
    few = {
        name: one.own.carriers
        for name, one in made.items()
        if one.own is not None and one.own.carriers < thresholds.carriers and told[name]["mean"] is not None
    }
    if few:
        yield (
            f"{', '.join(few)}: few units have most of the squared weight (their effective number is "
            f"{min(few.values()):.0f}, and should be {thresholds.carriers:.0f}), so the interval is likely too narrow "
            "and, if rewards are positive, too low: intervals of 95 % held the value in about 84 % of such logs by "
            "ips, in 91 % by snips; a Bernstein interval, if there is one, keeps its level"
        )


def _weighted(own: Overlap, log: Evidence) -> Iterator[str]:
    """Reasons to refuse an estimate with weights."""
    overlap, thresholds = log.overlap, log.options.thresholds
    if not own.ess >= thresholds.ess:
        yield (
            f"the effective sample size is {own.ess:.1f}, below {thresholds.ess:g}: too few decisions or units carry "
            "the weight; take a larger log, one that explored more, or a policy nearer to the one that wrote it"
        )
    elif crowded := few_units(own.ess_units, thresholds):
        yield crowded
    if not own.largest:
        yield "no decision has any weight: the policy never chooses what the log shows"
    elif not own.largest_share <= thresholds.largest_share:
        yield (
            f"one decision has {own.largest_share:.0%} of all weight, more than {thresholds.largest_share:.0%}: "
            "it alone decides"
        )
    low, high = thresholds.mean_weight
    margin = thresholds.errors * overlap.error
    if overlap.mean_weight + margin < low or overlap.mean_weight - margin > high:
        yield (
            f"the mean weight is {overlap.mean_weight:.2f} (standard error {overlap.error:.2f}), outside {low:g} .. "
            f"{high:g}, where 1 is expected: either the log is too small for what it explored (take more decisions, or "
            "explore more: a service by server.temperature), or its propensities are not those that it was written "
            "with, or the policy's chances of all items sum to another number than 1"
        )
    elif not log.options.estimated and overlap.excessive(log.units, thresholds.excess):
        yield (f"{_mean_weight(overlap)}, above 1, the most that it can be, by more than chance: {WRONG}")
    if log.unlike is not None:
        yield log.unlike


def _odd(one: Candidate, log: Evidence) -> Iterator[str]:
    """Other reasons to refuse: clipping, lost support of trajectories, the candidate's own flaw, a value not finite."""
    thresholds = log.options.thresholds
    if one.clipped > thresholds.clipped:
        most = f"more than {thresholds.clipped:.0%}"
        yield f"clipping takes {one.clipped:.0%} of the weight, {most}: the estimate is biased"
    if one.steps is not None and (lost := one.steps.lost(thresholds)):
        yield lost
    if one.flaw:
        yield one.flaw
    if not np.isfinite(one.estimate.value):
        yield "the estimate is not a finite number"


def _of_both(reasons: Sequence[str | None]) -> str | None:
    """The reason why a difference is refused: both policies' reasons, stated once if they are equal."""
    if reasons[0] == reasons[1]:
        return reasons[0] and f"both policies: {reasons[0]}"
    named = zip(("the policy", "the other policy"), reasons, strict=True)
    return "; ".join(f"{which}: {reason}" for which, reason in named if reason is not None)


def _summary(one: Candidate, sample: Float64[np.ndarray, "resamples"], log: Evidence) -> dict[str, Any]:
    """An estimate as plain values."""
    bounds, estimate, level = None, one.estimate, log.options.level
    if one.span is not None and (estimate.bottoms == estimate.bottoms[0]).all():
        bounds = _possible(empirical_bernstein(estimate.tops / estimate.bottoms[0], one.span, level), one, log)
    low, high = bounds or (None, None)
    trust = {"ess": None if one.own is None else one.own.ess, "support": _support(log), "per": one.per}
    interval = _interval(estimate.value, percentiles(sample, level))
    return interval | {"bernstein_low": low, "bernstein_high": high} | trust


def _possible(bounds: Bounds | None, one: Candidate, log: Evidence) -> Bounds | None:
    """The part of the bounds that a value can have: weights of right chances have a mean of at most 1, so a value lies
    in the range of a decision's reward, or of a slate's summed rewards. Bounds beyond it are at its end."""
    if bounds is None or log.rewards is None:
        return bounds
    longest = 1 if one.per == "decision" else int(log.decisions.above.max()) + 1
    return _within(bounds, longest * log.rewards[0], longest * log.rewards[1])


def _within(bounds: Bounds, least: float, most: float) -> Bounds:
    """The bounds, each moved into a range if it is outside."""
    return max(least, min(most, bounds[0])), max(least, min(most, bounds[1]))


def _interval(mean: float, bounds: Bounds | None) -> dict[str, Any]:
    """The mean and its bounds, with None for each that does not exist."""
    low, high = bounds or (None, None)
    return {"mean": mean, "low": low, "high": high} if np.isfinite(mean) else dict.fromkeys(("mean", "low", "high"))


def _shown(summary: dict[str, Any], force: bool) -> dict[str, Any]:
    """The summary without the numbers of a refused estimate, unless `force`, which marks it instead."""
    if summary["refused"] is None:
        return summary
    return summary | ({"forced": True} if force else dict.fromkeys(set(summary) & set(NUMBERS)))


def _support(log: Evidence) -> float:
    """The support, if known; else its estimate, the mean weight."""
    return min(1.0, log.overlap.mean_weight) if log.support is None else log.support


def _diagnostics(log: Evidence) -> dict[str, Any]:
    """Diagnostics of the decisions' plain weights, as plain values."""
    return asdict(log.overlap) | {
        "matched": float((log.weights > 0).mean()),
        "support": _support(log),
        "support_is_known": log.support is not None,
        "largest_possible": log.largest_weight,
        "never_shown": log.missing,
        "reward_range": None if log.rewards is None else list(log.rewards),
        "reward_range_is_given": log.options.reward_range is not None,
    }


def _finite(value: Any) -> Any:
    """Plain values with None for each number that is not finite."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value
