"""Tuned baselines: their few settings are chosen on the validation users."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool

from what_next.baselines import BASELINES, Content, Ease, ItemKnn, Markov, PopularPersonal
from what_next.baselines.classic import ItemToItem
from what_next.baselines.counts import Known
from what_next.baselines.ease import THIRDS
from what_next.baselines.rules import Ranking
from what_next.data.splits import Part, Split
from what_next.data.stages import SILENT, Done, Stages
from what_next.metrics.next_items import Targets, rank
from what_next.state import State

Allowed = Bool[np.ndarray, "items"] | None
Settings = dict[str, float]
Fitted = tuple[tuple[str, float], ...]
"""The settings that a fit depends on."""
MOST = 2000
"""Most validation users for choosing settings; always the same ones."""

GRIDS: Mapping[str, Mapping[str, Sequence[float]]] = {
    "popular_recent": {
        "half_life_days": (30.0, 0.1, 0.5, 2.0, 7.0, 90.0, 365.0),
        "half_life_events": (10.0, 1.0, 3.0, 30.0, 100.0),
    },
    "popular_personal": {"decay": (1.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)},
    "content": {"decay": (0.8, 0.5, 0.95, 1.0)},
    "markov": {"decay": (0.4, 0.0, 0.2, 0.6, 0.8), "smoothing": (10.0, 1.0, 100.0)},
    "item_knn": {
        "decay": (0.8, 0.3, 0.5, 0.95, 1.0),
        "shrinkage": (10.0, 0.0, 50.0),
        "neighbours": (100.0, 20.0, 500.0),
    },
    "ease": {"penalty": (300.0, 30.0, 100.0, 1000.0)},
    "slim": {"decay": (0.8, 0.3, 0.5, 0.95, 1.0), "penalty": (100.0, 10.0, 300.0)},
}
"""Candidate values of each setting, the default first; settings are chosen one after another."""
POPULAR = 4000
"""The penalty of EASE is chosen with at most this many of the most popular items: a solution for all 13,000 items of a
catalogue takes thirty times as long, and each candidate penalty needs one."""
PLAIN = ("random", "popular")
"""Baselines without settings."""
EVERY = (*PLAIN, *BASELINES)
SHARING = ("item_knn", "ease", "slim")
"""Baselines that count pairs of items; one count serves all settings."""


def had(state: State, wanted: Collection[str]) -> list[str]:
    """The wanted baselines with settings that are available for this catalogue and evaluation, in display order."""
    out = left_out(state)
    return [name for name in BASELINES if name in wanted and name not in out]


def targets_of(state: State, part: Part) -> Targets:
    """The targets that the setup asks for; their rewards are the log's numbers that have a weight in the setup."""
    dataset, setup = state.dataset, state.setup
    if setup.reward.logged.numbers:
        dataset = replace(dataset, rewards=state.logged)
    split = state.chosen_by if part == "validation" else state.split
    return Targets.of(dataset, split, part, setup.evaluation.targets, setup.split.seed)


def chosen_on(state: State) -> Targets:
    """The validation targets that settings are chosen on."""
    targets = targets_of(state, "validation")
    if len(targets) > MOST:
        some = np.random.default_rng(state.setup.split.seed).choice(len(targets), MOST, replace=False)
        targets = targets.of_rows(np.sort(some))
    return targets


def grid_of(name: str, state: State) -> dict[str, Sequence[float]]:
    """The candidate values for each setting of a baseline on this data."""
    unused = "half_life_events" if state.dataset.timestamps is not None else "half_life_days"
    return {setting: values for setting, values in GRIDS[name].items() if setting != unused}


def tries(grid: Mapping[str, Sequence[float]]) -> int:
    """How many combinations are tried: the defaults, and every other value of each setting once."""
    return 1 + sum(len(values) - 1 for values in grid.values())


def searched(state: State, wanted: Collection[str] = EVERY) -> dict[str, Any]:
    """How settings were chosen, for results: the number of validation `targets`, `of` how many, and the `tried`
    settings.

    `most_popular`: for baselines tuned with the most popular items only, how many items these were.
    """
    every = targets_of(state, "validation")
    tried = {name: tries(grid_of(name, state)) for name in had(state, wanted)}
    targets = min(len(every), MOST)
    some = {"ease": POPULAR} if targets and "ease" in tried and len(state.dataset.catalogue) > POPULAR else {}
    tried = tried if targets else dict.fromkeys(tried, 1)
    return {"targets": targets, "of": len(every), "tried": tried, "most_popular": some}


def left_out(state: State) -> dict[str, str]:
    """The baselines that are left out, because of the catalogue's size or because they equal another one, and why."""
    catalogue, out = state.dataset.catalogue, dict[str, str]()
    if not state.setup.evaluation.seen:
        out["popular_personal"] = (
            "it is `popular` where no item of the history is recommended again (evaluation.seen, no)"
        )
    if catalogue.tags is None:
        out["content"] = "the items have no tags"
    if not Ease.fits(len(catalogue)):
        out["ease"] = f"{len(catalogue):,} items are more than it is solved for"
    return out


class Search:
    """Chooses settings on validation targets; counts that several settings share are made once.

    Each setting in turn takes the value with the highest NDCG on the validation users' targets, evaluated as the setup
    says (`evaluation`) among the `allowed` items, with the other settings as chosen so far; the grid's earlier value
    wins ties. Without validation users all settings keep their defaults. No test event is read. With more than
    `POPULAR` items, EASE's penalty is chosen with the most popular ones, and the model is then fitted to all. Beside a
    model with a second training (`refit`), the baseline is fitted to the validation events too, once it is chosen.

    Attributes:
        state: the data; `targets`: for choosing settings (`chosen_on`); `allowed`: items that may be recommended.
        split: what is fitted now; `events`: the events that training may know by it.
        stages: shows progress.
    """

    def __init__(self, state: State, allowed: Allowed = None, stages: Stages = SILENT) -> None:
        self.state, self.targets, self.allowed, self.stages = state, chosen_on(state), allowed, stages
        self._known: dict[str, Known] = {}
        self._fit_to(state.chosen_by)

    def _fit_to(self, split: Split) -> None:
        """Fit to this split's events from now on; what is counted of them is counted once."""
        if split.hash not in self._known:
            self._known[split.hash] = Known.of(self.state.dataset, split.known)
        self.split, self.events = split, self._known[split.hash]

    def best(self, name: str) -> tuple[Ranking, Settings]:
        """A baseline fitted with the best settings, and these settings."""
        grid = grid_of(name, self.state)
        chosen = {setting: float(values[0]) for setting, values in grid.items()}
        if not len(self.targets):
            return self.fitted(name, chosen), chosen
        self._fit_to(self.state.chosen_by)
        done = self.stages.begin(f"choosing the settings of {name}", tries(grid) * len(self.targets))
        fits: dict[Fitted, Ranking] = {}
        best, reached = self._tried(name, chosen, fits, done)
        for setting, values in grid.items():
            for value in values[1:]:
                settings = chosen | {setting: float(value)}
                policy, ndcg = self._tried(name, settings, fits, done)
                if ndcg > reached:
                    best, reached, chosen = policy, ndcg, settings
                for other in fits.keys() - {_counted(name, chosen)}:  # keeps one fit in memory
                    del fits[other]
        again = self._cheaper(name) or self.state.more
        return (self.fitted(name, chosen) if again else best), chosen

    def fitted(self, name: str, settings: Settings) -> Ranking:
        """A baseline fitted with the given settings."""
        self._fit_to(self.state.split)
        more: dict[str, Any] = {}
        if name == "ease":
            more["done"] = self.stages.begin(f"solving ease for {self.events.catalogue:,} items", THIRDS)
        return self._fit(name, settings, **more)

    def _fit(self, name: str, settings: Settings, **more: Any) -> Ranking:
        shared = {"events": self.events} if name in SHARING else {}
        return BASELINES[name](self.state.dataset, self.split.known, **settings, **shared, **more)

    def _tried(self, name: str, settings: Settings, fits: dict[Fitted, Ranking], done: Done) -> tuple[Ranking, float]:
        """A baseline, or a cheaper approximation of it, and its NDCG on the targets."""
        counted = _counted(name, settings)
        if counted not in fits:
            fits[counted] = self._fit(name, settings | dict(counted), **self._cheaper(name))
        policy, how = fits[counted], self.state.setup.evaluation
        if isinstance(policy, ItemKnn):
            policy = policy.nearest(settings["neighbours"])
        if isinstance(policy, Markov | ItemToItem | PopularPersonal | Content):
            policy = policy.decayed(settings["decay"])
        ranks = rank(
            policy, self.targets, self.state.histories, how.k[0], seen=how.seen, allowed=self.allowed, done=done
        )
        return policy, float(ranks.ndcg.mean())

    def _cheaper(self, name: str) -> dict[str, int]:
        """The arguments that make a fit for choosing settings cheaper than the final one."""
        return {"most": POPULAR} if name == "ease" and self.events.catalogue > POPULAR else {}


def _counted(name: str, settings: Settings) -> Fitted:
    """The settings that a fit depends on: one count serves every decay, and the most neighbours serve any fewer."""
    most = {"neighbours": float(max(GRIDS[name]["neighbours"]))} if name == "item_knn" else {}
    return tuple((setting, value) for setting, value in (settings | most).items() if setting != "decay")
