"""Every estimate that a log allows, with its overlap and support; and why each of the others cannot be made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from jaxtyping import Int64

from what_next.data.stages import SILENT, Stages
from what_next.metrics.bootstrap import Bounds
from what_next.off_policy import sequences
from what_next.off_policy import slates as slate
from what_next.off_policy import weighting as step
from what_next.off_policy.decisions import Evidence
from what_next.off_policy.diagnostics import (
    Overlap,
    StepSupport,
    effective_size,
    effective_size_over_steps,
    efficiency_of_steps,
    few_units,
)
from what_next.off_policy.fqe import fqe
from what_next.off_policy.reward_model import Modelled, cross_fit, deal
from what_next.off_policy.weighting import Rows


@dataclass(frozen=True, eq=False)
class Candidate:
    """An estimate that could be computed, before the checks that may refuse it.

    Attributes:
        estimate: the terms of the estimate, one row per unit.
        own: the overlap of the weights that it uses; None if it uses none.
        per: what one term is: a decision, a slate, or a trajectory with its discounted rewards.
        seen: the effective number of logged decisions that the target policy would have taken.
        clipped: the share of the total weight that was clipped away.
        span: the range that holds every term of the mean, if it is known.
        steps: the support of whole slates or trajectories, for an estimate that uses products of weights.
        flaw: any other reason to refuse it.
    """

    estimate: step.Terms
    own: Overlap | None
    per: Literal["decision", "slate", "trajectory"]
    seen: float
    clipped: float = 0.0
    span: Bounds | None = None
    steps: StepSupport | None = None
    flaw: str | None = None


FOLDS = 5
"""Folds of the units for cross-fitting: a model never predicts a unit that it was fitted on."""
Found = dict[str, Candidate | str]
"""By estimator: its estimate, or the reason why it cannot be made."""


def candidates_of(log: Evidence, stages: Stages = SILENT) -> Found:
    """All candidates in display order; or only the one that the options name, without computing the others."""
    only = log.options.only
    found: Found = {}
    done = stages.begin("estimates", len(GROUPS))
    for names, make in GROUPS:
        if only is None or only in names:
            found |= make(log)
        done(1)
    # If only one was computed, messages suggest the estimates that every log with slates allows.
    made = [one for one in GIVEN_ABOVE if (isinstance(found[one], Candidate) if one in found else one in SLATES)]
    return {name: _in_slates(log, name, one, made) for name, one in found.items() if only in (None, name)}


def _in_slates(log: Evidence, name: str, one: Candidate | str, given: Sequence[str]) -> Candidate | str:
    """The candidate, with a flaw if the log's slates have the other kind of propensities than the estimator needs.

    `given`: the estimates that use chances given the items above and could be made.
    """
    decisions, given_above, flaw = log.decisions, name in GIVEN_ABOVE, None
    if isinstance(one, str) or decisions.slates is None:
        return one
    if decisions.marginal and given_above:
        flaw = MARGINAL
    elif not decisions.marginal and not given_above:
        flaw = (
            "the chances are conditional on the items above, and this estimate does not correct for how those were "
            f"chosen: take {', '.join(given)}; or give the chance of each item at its position, whatever is above it, "
            "and say so (--marginal)"
        )
    elif given_above and (gaps := decisions.slates[decisions.positions != decisions.above]).size:
        flaw = (
            f"{len(np.unique(gaps)):,} of {len(np.unique(decisions.slates)):,} slates lack the row of a position above "
            "others, so the chances of the items above are not known"
        )
    return replace(one, flaw="; ".join(filter(None, [one.flaw, flaw])) or None)


def _weighted(
    log: Evidence,
    terms: step.Terms,
    weights: Rows,
    *,
    largest: float | None = None,
    clipped: float = 0.0,
    seen: float | None = None,
) -> Candidate:
    """An estimate per decision that uses `weights`; it has a range (`span`) if the largest possible weight is given."""
    own = Overlap.of(weights, log.decisions.units)
    seen = log.overlap.ess if seen is None else seen
    return Candidate(terms.by_unit(log.decisions.units), own, "decision", seen, clipped, log.span(largest))


def _from_weights(log: Evidence) -> Found:
    """IPS, clipped IPS and SNIPS."""
    weights, rewards, largest = log.weights, log.decisions.rewards, log.largest_weight
    kept = np.minimum(weights, log.clip)
    clipped = float(1 - kept.sum() / weights.sum()) if weights.any() else 0.0
    most = log.clip if largest is None else min(log.clip, largest)
    return {
        "ips": _weighted(log, step.ips(weights, rewards), weights, largest=largest),
        "clipped_ips": _weighted(
            log, step.clipped_ips(weights, rewards, log.clip), kept, largest=most, clipped=clipped
        ),
        "snips": _weighted(log, step.snips(weights, rewards), weights),
    }


def _from_model(log: Evidence) -> Found:
    """The direct method, doubly robust, and SWITCH; on slates, doubly robust under the cascade model too."""
    names, slates, positions = ("dm", "dr", "switch_dr"), log.decisions.slates, log.decisions.positions
    model = _modelled(log)
    if isinstance(model, str):
        return dict.fromkeys(names if slates is None else (*names, "cascade_dr"), model)
    weights, rewards = log.weights, log.decisions.rewards
    crowded = few_units(effective_size(np.bincount(log.decisions.units) * 1.0), log.options.thresholds)
    dm = step.dm(model.expected, model.pull).by_unit(log.decisions.units)
    dr = step.dr(weights, rewards, model.chosen, model.expected)
    switch_dr = step.switch_dr(weights, rewards, model.chosen, model.expected, log.switch)
    found: Found = {
        "dm": Candidate(dm, None, "decision", log.overlap.ess, flaw=crowded),
        "dr": _weighted(log, dr, weights),
        "switch_dr": _weighted(log, switch_dr, step.switched(weights, log.switch)),
    }
    if slates is not None and positions is not None:
        products = slate.cascade_weights(weights, slates)
        terms = slate.cascade_dr(products, rewards, model.chosen, model.expected, slates, positions)
        found["cascade_dr"] = _per_slate(log, terms, products, _support_of_cascade(log))
    return found


def _modelled(log: Evidence) -> Modelled | str:
    """The cross-fitted reward model, or the reason why it cannot be fitted."""
    decisions, target = log.decisions, log.target
    if target.expected is None:
        return UNEXPECTED
    if log.units < 2:
        return "a reward model must be fitted on other units than it predicts, and the log has a single unit"
    folds = deal(log.units, min(FOLDS, log.units), log.options.seed)[decisions.units]
    chosen = decisions.vectors[decisions.actions]
    return cross_fit(decisions.contexts, chosen, target.expected, decisions.rewards, folds)


def _marginalised(log: Evidence) -> Found:
    """Marginalised IPS, with exact weights if both policies' whole distributions are known."""
    clusters = _clusters(log)
    if isinstance(clusters, str):
        return {"mips": clusters}
    actions, rewards = log.decisions.actions, log.decisions.rewards
    behaviour, full = log.options.behaviour, log.target.full
    if behaviour is None or full is None:
        if not step.of_items_alone(log.weights, actions, clusters):
            return {"mips": "an item's weight differs from row to row, and the two whole distributions are not known"}
        weights = step.averaged_weights(log.weights, actions, clusters)
        return {"mips": _weighted(log, step.averaged_ips(log.weights, actions, clusters, rewards), weights)}
    weights = step.marginal_weights(full, behaviour, clusters, actions)
    seen = Overlap.of(weights, log.decisions.units).ess
    return {"mips": _weighted(log, step.ips(weights, rewards), weights, largest=log.largest_weight, seen=seen)}


def _clusters(log: Evidence) -> Int64[np.ndarray, "items"] | str:
    """The given clusters, or clusters of the item vectors; or the reason why there are none."""
    if log.options.clusters is not None:
        return log.options.clusters
    vectors, items = log.decisions.vectors, log.decisions.items
    if vectors.shape[1] >= items and ((vectors != 0).sum(axis=1) <= 1).all():  # one-hot
        return "the items have neither categories nor attributes to make clusters of"
    return step.clusters_of(vectors, round(items**0.5), log.options.seed)


def _slates(log: Evidence) -> Found:
    """One estimate for each model of what a position's reward depends on, and its self-normalised form."""
    decisions = log.decisions
    ids, positions = decisions.slates, decisions.positions
    if ids is None or positions is None:
        return {}
    found, length, largest = Found(), int(decisions.above.max()) + 1, log.largest_weight
    cascade, last = _support_of_cascade(log), np.append(np.zeros(length - 1), 1.0)
    for name, weights, powers, steps in (
        ("independent", log.weights, np.ones(length), None),
        ("cascade", slate.cascade_weights(log.weights, ids), np.arange(1.0, length + 1), cascade),
        ("slate", slate.whole_weights(log.weights, ids), np.full(length, length * 1.0), replace(cascade, matters=last)),
    ):
        span = log.span(None if largest is None else float((max(1.0, largest) ** powers).sum()))
        plain = slate.slate_ips(weights, decisions.rewards, ids)
        normal = slate.slate_snips(weights, decisions.rewards, ids, positions)
        found[f"{name}_ips"] = _per_slate(log, plain, weights, steps, span)
        found[f"{name}_snips"] = _per_slate(log, normal, weights, steps)
    return found


def _by_items(log: Evidence) -> Found:
    """Estimates that assume that a reward depends on its item alone; the policy must draw without replacement."""
    decisions, full, names = log.decisions, log.target.full, ("item_ips", "item_snips")
    if decisions.slates is None or decisions.positions is None:
        return {}
    if decisions.marginal:
        return dict.fromkeys(names, MARGINAL)
    if full is None:
        return dict.fromkeys(names, "the policy's whole distribution is not known in each row, or is too large")
    ids = decisions.slates
    if not slate.one_by_one(full, decisions.actions, ids):
        return dict.fromkeys(names, "the policy does not draw a slate from one distribution without replacement")
    firsts = decisions.above == 0
    of = np.cumsum(firsts) - 1
    chances = slate.inclusion(full[firsts], np.bincount(of), np.random.default_rng(log.options.seed))
    weights = slate.item_weights(chances[of, decisions.actions], decisions.propensities, ids)
    flaw, own = None, Overlap.of(weights, decisions.units)
    thresholds = log.options.thresholds
    if not own.mean_weight + thresholds.errors * own.error >= thresholds.support:
        flaw = (
            f"the log supports about {own.mean_weight:.0%} of the policy's items, fewer than {thresholds.support:.0%}"
        )
    plain = slate.slate_ips(weights, decisions.rewards, ids)
    normal = slate.item_snips(weights, decisions.rewards, ids)
    return {
        name: replace(_per_slate(log, terms, weights, None), flaw=flaw)
        for name, terms in zip(names, (plain, normal), strict=True)
    }


def _per_slate(
    log: Evidence, terms: step.Terms, weights: Rows, steps: StepSupport | None, span: Bounds | None = None
) -> Candidate:
    """An estimate per slate that uses `weights`."""
    units, above = log.decisions.units, log.decisions.above
    ess = effective_size_over_steps(efficiency_of_steps(weights, above), np.bincount(above))
    own = Overlap.of(weights, units, ess)
    return Candidate(terms.by_unit(units), own, "slate", log.overlap.ess, span=span, steps=steps)


def _support_of_cascade(log: Evidence) -> StepSupport:
    """The share of the target's slates that the log supports, by position: each slate is treated as a trajectory."""
    slates = replace(log.decisions, units=np.cumsum(log.decisions.above == 0) - 1)
    return sequences.sequence_support(slates, log.weights)


def _sequences(log: Evidence) -> Found:
    """Estimates per trajectory, for logs whose units have several rows and no slates."""
    decisions, weights, discount = log.decisions, log.weights, log.options.discount
    alone, only, seed = len(decisions.units) == log.units, log.options.only, log.options.seed
    if discount is None and (alone or decisions.slates is not None):
        return {}
    if decisions.slates is not None:
        return dict.fromkeys(SEQUENCES, "rows are slates, whose positions are no steps")
    if alone:
        return dict.fromkeys(SEQUENCES, "no user has two rows, so there are no trajectories; name the user's column")
    if discount is None:
        return dict.fromkeys(SEQUENCES, "no discount is given for the rewards along a unit")
    whole, one = sequences.sequence_support(decisions, weights), np.ones(log.units)
    ess = effective_size_over_steps(whole.ess / log.units, whole.matters, discount)
    own = replace(log.overlap, ess=ess, ess_units=ess, largest=whole.largest, largest_share=0.0)
    steps = replace(whole, matters=discount ** np.arange(len(whole.ess)) * whole.matters)
    made = partial(Candidate, per="trajectory", seen=log.overlap.ess, steps=steps)
    found: Found = {
        each.__name__: made(step.Terms(each(decisions, weights, discount), one), own)
        for each in (sequences.per_decision_is, sequences.weighted_per_decision_is)
    }
    if log.target.expected is None:
        return found | dict.fromkeys(("sequence_dr", "fqe"), UNEXPECTED)
    if only in (None, "sequence_dr"):
        crossed = fqe(decisions, log.target, discount, folds=FOLDS, seed=seed)
        values = sequences.sequence_dr(decisions, weights, discount, crossed.values, crossed.chosen)
        found["sequence_dr"] = made(step.Terms(values, one), own, flaw=_diverging(crossed.contraction))
    if only in (None, "fqe"):
        fitted = fqe(decisions, log.target, discount)
        assert fitted.influence is not None, "of one fit to all they are known"
        found["fqe"] = made(step.Terms(fitted.influence, one), None, flaw=_diverging(fitted.contraction))
    return found


def _diverging(contraction: float) -> str | None:
    if contraction < 1:
        return None
    return f"fitted Q evaluation does not converge on this log (it grows by {contraction:.2f} a round)"


UNEXPECTED = "the policy's mean over the item vectors is not known in each row"
MARGINAL = "it needs the chance of each item given those above it, but the chances in this log are marginal"
SLATES = tuple(f"{model}_{kind}" for model in ("independent", "cascade", "slate") for kind in ("ips", "snips"))
GIVEN_ABOVE = ("cascade_snips", "cascade_ips", "cascade_dr", "slate_snips", "slate_ips", "item_snips", "item_ips")
"""Slate estimators that need the chance of each item given those above it; all others need marginal chances."""
SEQUENCES = ("per_decision_is", "weighted_per_decision_is", "sequence_dr", "fqe")
GROUPS: tuple[tuple[tuple[str, ...], Callable[[Evidence], Found]], ...] = (
    (("ips", "clipped_ips", "snips"), _from_weights),
    (("dm", "dr", "switch_dr", "cascade_dr"), _from_model),
    (("mips",), _marginalised),
    (SLATES, _slates),
    (("item_ips", "item_snips"), _by_items),
    (SEQUENCES, _sequences),
)
"""Names of the estimators that one function computes together, and that function."""
