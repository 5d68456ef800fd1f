"""Baselines at their best: their few settings are chosen on the validation users."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from what_next.baselines import BASELINES, Ease, ItemKnn, Markov
from what_next.baselines.rules import Ranking
from what_next.data.stages import SILENT, Done, Stages
from what_next.metrics.next_items import Targets, rank
from what_next.state import State

Allowed = Bool[np.ndarray, "items"] | None
MOST = 2000
"""Validation users that settings are chosen on, at most: always the same ones."""

GRIDS: Mapping[str, Mapping[str, Sequence[float]]] = {
    "popular_recent": {
        "half_life_days": (30.0, 0.1, 0.5, 2.0, 7.0, 90.0, 365.0),
        "half_life_events": (10.0, 1.0, 3.0, 30.0, 100.0),
    },
    "markov": {"decay": (0.4, 0.0, 0.2, 0.6, 0.8), "smoothing": (10.0, 1.0, 100.0)},
    "item_knn": {
        "decay": (0.8, 0.3, 0.5, 0.95, 1.0),
        "shrinkage": (10.0, 0.0, 50.0),
        "neighbours": (100.0, 20.0, 500.0),
    },
    "ease": {"penalty": (300.0, 30.0, 100.0, 1000.0)},
}
"""The values that each setting may take, the one to start from first; settings are chosen one after another."""
POPULAR = 4000
"""Items, the most popular ones, that the penalty of EASE is chosen with at most: a solution for all 13,000 of a
catalogue takes thirty times as long, and would be needed for each penalty."""
PLAIN = ("random", "popular")
"""Baselines without settings."""
EVERY = (*PLAIN, *BASELINES)


def tuned(
    state: State, allowed: Allowed = None, wanted: Collection[str] = EVERY, stages: Stages = SILENT
) -> dict[str, tuple[Ranking, dict[str, float]]]:
    """The wanted baselines that fit the catalogue, fitted to what training may know, and the settings that were chosen.

    Each setting in turn takes the value with the highest NDCG on the validation users' targets, judged as the setup
    says (`evaluation`), among the `allowed` items, the others as chosen so far; the earlier value of the grid among
    equals. Without validation users all stay at their first. No event of the test is read. The penalty of EASE is
    chosen with the most popular items alone where there are more than `POPULAR`, and then fitted to all.
    """
    found, targets = {}, chosen_on(state)
    for name in BASELINES:
        if name not in wanted or name in left_out(len(state.dataset.catalogue)):
            continue
        grid = grid_of(name, state)
        done = stages.begin(f"choosing the settings of {name}", tries(grid) * len(targets))
        found[name] = _best(name, grid, state, targets, allowed, done)
    return found


def chosen_on(state: State) -> Targets:
    """The validation targets that settings are chosen on."""
    how = state.setup.evaluation
    targets = Targets.of(state.dataset, state.split, "validation", how.targets, state.setup.split.seed)
    if len(targets) > MOST:
        some = np.random.default_rng(state.setup.split.seed).choice(len(targets), MOST, replace=False)
        targets = targets.of_rows(np.sort(some))
    return targets


def grid_of(name: str, state: State) -> dict[str, Sequence[float]]:
    """The values that are tried for each setting of a baseline on these data."""
    unused = "half_life_events" if state.dataset.timestamps is not None else "half_life_days"
    return {setting: values for setting, values in GRIDS[name].items() if setting != unused}


def tries(grid: Mapping[str, Sequence[float]]) -> int:
    """How many settings are tried: the first, and every other value of each setting once."""
    return 1 + sum(len(values) - 1 for values in grid.values())


def searched(state: State, wanted: Collection[str] = EVERY) -> dict[str, Any]:
    """How settings were chosen, for results: on how many validation `targets` of how many, and the `tried` settings.

    `most_popular`: among how many items, the most popular ones, where these were not all.
    """
    how = state.setup.evaluation
    every = Targets.of(state.dataset, state.split, "validation", how.targets, state.setup.split.seed)
    out = left_out(len(state.dataset.catalogue))
    tried = {name: tries(grid_of(name, state)) for name in BASELINES if name in wanted and name not in out}
    targets = min(len(every), MOST)
    some = {"ease": POPULAR} if targets and "ease" in tried and len(state.dataset.catalogue) > POPULAR else {}
    tried = tried if targets else dict.fromkeys(tried, 1)
    return {"targets": targets, "of": len(every), "tried": tried, "most_popular": some}


def left_out(items: int) -> dict[str, str]:
    """The baselines that cannot be had for so many items, and why."""
    return {} if Ease.fits(items) else {"ease": f"{items:,} items are more than it is solved for"}


def _best(
    name: str, grid: Mapping[str, Sequence[float]], state: State, targets: Targets, allowed: Allowed, done: Done
) -> tuple[Ranking, dict[str, float]]:
    """The fitted policy with the best settings, and these."""
    fitted: dict[tuple[tuple[str, float], ...], Ranking] = {}
    fit, known, items = BASELINES[name], state.split.known, len(state.dataset.catalogue)
    cheaper = {"most": POPULAR} if name == "ease" and len(targets) and items > POPULAR else {}

    def tried(settings: Mapping[str, float]) -> tuple[Ranking, float]:
        counted = tuple(item for item in settings.items() if item[0] != "decay")
        if counted not in fitted:
            fitted.clear()  # one at a time in memory
            fitted[counted] = fit(state.dataset, known, **settings, **cheaper)
        policy = fitted[counted]
        if isinstance(policy, Markov | ItemKnn):
            policy = policy.decayed(settings["decay"])  # nothing needs to be counted again
        if not len(targets):
            return policy, 0.0
        how = state.setup.evaluation
        ranks = rank(policy, targets, state.histories, how.k[0], seen=how.seen, allowed=allowed, done=done)
        return policy, float(ranks.ndcg.mean())

    chosen = {setting: float(values[0]) for setting, values in grid.items()}
    best, reached = tried(chosen)
    for setting, values in grid.items() if len(targets) else ():
        for value in values[1:]:
            settings = chosen | {setting: float(value)}
            policy, ndcg = tried(settings)
            if ndcg > reached:
                best, reached, chosen = policy, ndcg, settings
    return (fit(state.dataset, known, **chosen) if cheaper else best), chosen
