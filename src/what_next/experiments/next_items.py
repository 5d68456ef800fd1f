"""Next-item evaluation of an agent beside chance, popularity, tuned baselines, and its untrained self."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int

from what_next.algorithms import WhatNext
from what_next.baselines.rules import Popular, RandomItem
from what_next.data.splits import Part
from what_next.data.stages import SILENT, Stages
from what_next.errors import DataError, counted
from what_next.experiments.baselines import EVERY, Allowed, Search, had, left_out, searched, targets_of
from what_next.experiments.evaluator import Evaluator, Groups, Scores
from what_next.experiments.kept import Shelf
from what_next.experiments.models import chosen, judged_state, policy, untrained
from what_next.metrics.beyond import ItemStatistics
from what_next.metrics.groups import events_per_active_day, groups
from what_next.metrics.next_items import Targets
from what_next.metrics.windows import Sampling
from what_next.settings import Setup, listed
from what_next.state import State

RIVALS = (*EVERY, "untrained")
"""Policies that each learned one is compared with, if they were evaluated too."""
FEW = 50
"""With fewer users than this a bootstrap's interval is visibly too narrow."""
HITS = 10
"""With fewer users with a hit than this it is too narrow as well, however many users there are."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Policies evaluated on the same next items, with the data behind the result, which a report shows in part.

    Attributes:
        result: plain values: what was evaluated (`protocol`), and `policies`, `differences` and `groups`. Each metric
            is a mean with a 95 % interval, `{mean, low, high, n}`, n being users.
        state: the data, split and catalogue.
        evaluator: the targets, users and metrics.
        scores: by name of the policy, its recommendations and metrics.
        setups: the setups of each learned policy's seeds, with their training logs and models.
        notes: messages for the user, such as which baselines were read from the cache.
    """

    result: dict[str, Any]
    state: State
    evaluator: Evaluator
    scores: Mapping[str, Scores]
    setups: Mapping[str, Sequence[Setup]]
    notes: Sequence[str] = ()


def evaluate_next(
    setup: Setup,
    part: Part = "test",
    seeds: Sequence[int] | None = None,
    allowed: Allowed = None,
    baselines: Collection[str] = EVERY,
    stages: Stages = SILENT,
    anew: bool = False,
) -> Comparison:
    """Evaluate the agent of any setup on next items.

    Policies: `agent`, `untrained` (the agent before its first step), `random` and the baselines. Each recommends its
    best items. Metrics are means over all orders of tied items; `random` ties all items, so its metrics are chance.

    Args:
        setup: its model is loaded.
        part: validation for tuning; test for reporting.
        seeds: of training; None: only the saved model. The model of each seed is trained if it is missing or has other
            settings, beside the setup's own, on the same split.
        allowed: items that may be recommended; None for all.
        baselines: which baselines to include. Their results are cached beside the data (`kept`), and read unless
            `anew`.
        stages: shows progress.

    Raises:
        DataError: the split has no user to evaluate on.
        ModelError: a model is missing or damaged, or was trained on another split.
    """
    state = State.from_setup(setup)
    setups = chosen(setup, state, seeds)
    state = judged_state(state, setups, part)
    evaluator = evaluator_of(state, part, allowed, stages)
    beside, settings, notes = rules(evaluator, state, baselines, anew)
    scores = {
        "agent": evaluator.score([policy(one, state) for one in setups], name="agent"),
        "untrained": evaluator.score([untrained(one, state) for one in setups], name="untrained"),
        **beside,
    }
    about = protocol(state, part, evaluator, [one.seed for one in setups], baselines) | {"baselines": settings}
    notes += few_hits(scores, evaluator)
    return Comparison(result_of(scores, evaluator, about), state, evaluator, scores, {"agent": setups}, notes)


def result_of(
    scores: Mapping[str, Scores],
    evaluator: Evaluator,
    about: Mapping[str, Any],
    differences: Mapping[str, tuple[str, str]] | None = None,
) -> dict[str, Any]:
    """The result of a `Comparison`.

    Args:
        scores: by name of the policy; `about`: what they were evaluated on (`protocol`).
        differences: by name, the two policies to compare; None: each learned one with `RIVALS`.
    """
    if differences is None:
        learned, rivals = [one for one in scores if one not in RIVALS], [one for one in RIVALS if one in scores]
        differences = {f"{name}-{rival}": (name, rival) for name in learned for rival in rivals}
    policies, apart = evaluator.means(scores, differences)
    return {
        **about,
        "k": list(evaluator.ks),
        "seen": evaluator.seen,
        "allowed": evaluator.choices,
        "policies": policies,
        "differences": apart,
        "groups": evaluator.by_group(scores),
    }


def rules(
    evaluator: Evaluator, state: State, wanted: Collection[str] = EVERY, anew: bool = False
) -> tuple[dict[str, Scores], dict[str, dict[str, float]], list[str]]:
    """The scores of chance and the baselines; the baselines' chosen settings; and messages for the user.

    Results of baselines are cached beside the data, and read unless `anew`.
    """
    plain = {"random": RandomItem(evaluator.targets.catalogue), "popular": Popular(evaluator.statistics.counts)}
    scores = {name: evaluator.score([rule], name=name) for name, rule in plain.items() if name in wanted}
    search = Search(state, evaluator.allowed, evaluator.stages)
    shelf, settings = Shelf(state, search.targets, evaluator, anew), {}
    for name in had(state, wanted):
        found = shelf.read(name)
        if found is None:
            chosen = shelf.settings(name)
            policy, chosen = search.best(name) if chosen is None else (search.fitted(name, chosen), chosen)
            found = chosen, evaluator.ranked(policy, name)
            shelf.write(name, *found)
        settings[name], scores[name] = found[0], evaluator.scored([found[1]])
    users = len(evaluator.targets.people[0])
    few = [f"judged on {counted(users, 'user')}, fewer than {FEW}: intervals are too narrow"] if users < FEW else []
    return scores, settings, [*_in_vain(evaluator, state), *_all_hit(evaluator), *few, *shelf.told()]


def few_hits(scores: Mapping[str, Scores], evaluator: Evaluator) -> Iterator[str]:
    """A warning about policies that hit the targets of so few users that the bootstrap underestimates the interval."""
    metric = f"hr@{evaluator.ks[0]}"
    hits = {name: len(np.unique(evaluator.owners[one.values[metric] > 0])) for name, one in scores.items()}
    few = ", ".join(f"{name} {count}" for name, count in hits.items() if count < HITS)
    if not few:
        return
    wanted = evaluator.targets.sets[evaluator.targets.sets >= 0]
    cold = int((evaluator.statistics.counts[wanted] == 0).sum())
    advice = "judge on more users"
    if 2 * cold > len(wanted):  # then more users would not help
        advice = (
            f"{cold:,} of {counted(len(wanted), 'target')} have no training event: learn from later events "
            "(`refit, validation`), and judge what comes soon after"
        )
    yield (
        f"users with a hit ({metric}): {few}; with fewer than {HITS}, intervals of accuracy are too narrow ([0, 0] "
        f"without any), and so may be those of differences from such a policy; {advice}"
    )


def _in_vain(evaluator: Evaluator, state: State) -> Iterator[str]:
    """A warning, with advice, if no model that learned from the log can hit any target."""
    sets, counts, catalogue = evaluator.targets.sets, evaluator.statistics.counts, state.space.catalogue
    words: list[str] = []
    if catalogue.tags is not None:
        words = catalogue.tags.gather(np.flatnonzero(counts)).explode().drop_nulls().unique().to_list()
    # Attributes describe any item, tags those that share one with an item of the training.
    told = (counts > 0) | catalogue.informative | catalogue.tagged(words)
    known = (sets >= 0) & told[sets]
    within = replace(evaluator.targets, relevant=np.where(known, sets, -1))
    held = 0 if evaluator.seen else within.held(state.dataset)
    if known.sum() > held:
        return
    ways = ["`evaluation.seen, yes`"] if held else []
    if (sets[~known] >= 0).any():
        later = ["a later moment (split.quantile or split.date)"] if state.split.kind == "time" else []
        ways += [*later, "items with attributes or tags"]
    yield (
        "no model that learned from the log can hit any target, because each is in its history already or has no "
        f"training event, so this table compares nothing; take {listed(ways, 'or')}"
    )


def _all_hit(evaluator: Evaluator) -> Iterator[str]:
    """A warning if slates hold all items, so that every policy hits every target."""
    items = evaluator.choices
    if long := [f"hr@{k}" for k in evaluator.ks if k >= items]:
        yield (
            f"{listed(long)} cannot tell policies apart: {counted(items, 'item')} may be recommended, and such a slate "
            f"holds them all; take `evaluation.k, {max(1, items // 2)}`"
        )


def protocol(
    state: State, part: Part, evaluator: Evaluator, seeds: Sequence[int], baselines: Collection[str] = EVERY
) -> dict[str, Any]:
    """What policies were evaluated on: `data`, `split`, `targets`, `seeds`, and how settings of `baselines` were
    chosen.

    Of the split: the `users` of this part and all others, how many users and events training knows, and the events that
    a second training added (`refit`).
    Of the targets: their `kind`, the `rows` and `users`, the relevant `items`, and a `hash` over all; `held`: targets
    that their history holds already, which policies that recommend only new items cannot hit; `cold_items`: those
    without a training event; `not_allowed`: those that may not be recommended; `cold_users`: users without a training
    event, unless the split holds out whole users; `without_history`: users of the part who are not evaluated.
    """
    dataset, split, targets, allowed = state.dataset, state.split, evaluator.targets, evaluator.allowed
    judged, people = getattr(split, part), targets.people[0]
    told = {"ease"} if set(baselines) == set(EVERY) else baselines  # other omissions matter only if asked for by name
    items = targets.sets[targets.sets >= 0]
    return {
        "data": dataset.name,
        "split": {
            "kind": split.kind,
            "part": part,
            "users": len(judged),
            "other_users": dataset.users - len(judged),
            "training_users": int((split.known > 0).sum()),
            "training_events": int(split.known.sum()),
            "hash": state.chosen_by.hash,
            "refit": state.more,
        },
        "targets": {
            "kind": state.setup.evaluation.targets,
            "rows": len(targets),
            "users": len(people),
            "items": len(items),
            "hash": targets.hash,
            "held": targets.held(dataset),
            "cold_users": int(np.isin(people, judged[split.cold(part)]).sum()),
            "cold_items": int((evaluator.statistics.counts[items] == 0).sum()),
            "not_allowed": 0 if allowed is None else int((~allowed[items]).sum()),
            "without_history": targets.without_history,
        },
        "seeds": list(seeds),
        "left_out": {name: why for name, why in left_out(state).items() if name in told},
        "searched": searched(state, baselines),
    }


def evaluator_of(state: State, part: Part, allowed: Allowed = None, stages: Stages = SILENT) -> Evaluator:
    """The evaluator for a state; with the spread where items have attributes.

    Raises:
        DataError: no user has a target with an event before it.
    """
    dataset, how, spread = state.dataset, state.setup.evaluation, state.setup.reward.spread
    targets = targets_of(state, part)
    if not len(targets):
        raise DataError(
            f"{state.setup.data}: no {part} user has two events, so there is nobody to judge on; take another split"
        )
    counts = state.space.counts
    assert counts is not None, "a state of the data counts them; one in the space of a model file has none"
    measured = None
    if state.space.catalogue.informative:
        lengths = np.minimum(targets.before, spread.window)
        # The spread needs histories as the founding algorithm reads them, with each user's sigma.
        founding = State(dataset, state.setup.model_copy(update={"algorithm": WhatNext()}), state.space)
        latest = founding.histories(targets.users, targets.before - lengths, lengths)
        measured = Sampling(state.space.catalogue.vectors, spread.window, spread.pairs), latest
    return Evaluator(
        targets,
        state.histories,
        ItemStatistics.of(state.space.catalogue, counts),
        measured,
        ks=how.k,
        seen=how.seen,
        allowed=allowed,
        groups=_groups(state, targets, counts),
        stages=stages,
    )


def _groups(state: State, targets: Targets, counts: Int[np.ndarray, "items"]) -> Groups:
    """Groups of rows that are evaluated separately, too; `counts`: training events of each item."""
    dataset, split = state.dataset, state.split
    times, activity = dataset.timestamps, None
    if times is not None:
        activity = events_per_active_day(times, dataset.offsets, targets.users, targets.before)
    known = None if split.kind == "users" else split.known[targets.users]
    found = groups(targets.before, targets.items, counts, activity=activity, known=known)
    if targets.relevant is not None:
        del found["item popularity"]  # a set has items of all popularities
    return {kind: masks for kind, masks in found.items() if len(masks) > 1}
