"""Evaluates policies on the same next items: every metric is a mean over users with its interval.

The seeds of training are averaged first, then the rows of a user, then the users. A difference of two policies is taken
for each row.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64

from what_next.baselines.rules import Popular
from what_next.data.stages import SILENT, Done, Stages
from what_next.metrics import beyond
from what_next.metrics.accuracy import average_precision, hit_rate, ndcg, precision, recall, reciprocal_rank
from what_next.metrics.beyond import ItemStatistics
from what_next.metrics.bootstrap import Interval, means_of, user_means
from what_next.metrics.next_items import Histories, Ranks, Targets, chunks, rank
from what_next.metrics.places import Places
from what_next.metrics.windows import Sampling
from what_next.types import History, Policy

SHARE_RESAMPLES = 200
"""Resamples for coverage and gini; each counts the items in the slates of the resampled users."""
ACCURACY = {
    "hr": hit_rate,
    "ndcg": ndcg,
    "mrr": reciprocal_rank,
    "recall": recall,
    "precision": precision,
    "map": average_precision,
}
Values = Mapping[str, Float64[np.ndarray, "rows"]]
Groups = Mapping[str, Mapping[str, Bool[np.ndarray, "rows"]]]
"""The rows of each group, by kind of group and name."""
Name = TypeVar("Name", bound=Hashable)
Means = dict[str, dict[str, Interval]]
"""By name of the policy or difference, then by metric."""


@dataclass(frozen=True, eq=False)
class Scores:
    """The recommendations of a policy's seeds, and their metrics.

    Attributes:
        slates: for each seed and row; as long as the longest evaluated slate.
        values: for each metric its value in each row, averaged over seeds; NaN without a value.
    """

    slates: Int32[np.ndarray, "seeds rows k"]
    values: Values


@dataclass(frozen=True, eq=False)
class Evaluator:
    """The targets, users and metrics of an evaluation.

    Attributes:
        targets: not empty; `histories`: from users, starts and lengths to what policies read.
        statistics: item statistics known in training.
        spread: how the spread of the top item is measured, and the last events before each target, sigma included;
            None: it is not measured.
        ks: slate lengths; the first one is the main one.
        seen: whether items of the history may be recommended; `allowed`: which items may, None for all.
        groups: groups of rows that are evaluated separately, too.
        seed: of the order of ties, and of the bootstrap.
        stages: shows progress.
    """

    targets: Targets
    histories: Histories
    statistics: ItemStatistics
    spread: tuple[Sampling, History] | None = None
    ks: tuple[int, ...] = (10,)
    seen: bool = False
    allowed: Bool[np.ndarray, "items"] | None = None
    groups: Groups | None = None
    seed: int = 0
    stages: Stages = SILENT

    @property
    def owners(self) -> Int64[np.ndarray, "rows"]:
        """The user of each row, as an index among the evaluated users."""
        return self.targets.people[1]

    def score(self, policies: Sequence[Policy], histories: Histories | None = None, name: str = "a policy") -> Scores:
        """Let the policy of each training seed recommend in every row, greedily.

        `histories`: what they read, if it differs from the evaluator's; `name`: their name in the progress display.
        """
        done = self.stages.begin(f"judging {name}", len(policies) * len(self.targets))
        read = histories or self.histories
        return self.scored([self._rank(one, read, self.seed + place, done) for place, one in enumerate(policies)])

    def ranked(self, policy: Policy, name: str) -> Ranks:
        """One policy's ranking of the targets."""
        return self._rank(policy, self.histories, self.seed, self.stages.begin(f"judging {name}", len(self.targets)))

    def scored(self, ranks: Sequence[Ranks]) -> Scores:
        """The metrics of a policy's rankings, one ranking for each training seed."""
        values = [self._values(one) for one in ranks]
        # Seeds are averaged before intervals are computed; NaN if one seed has no value.
        means = {name: np.mean([one[name] for one in values], axis=0) for name in values[0]}
        return Scores(np.stack([one.items for one in ranks]), means)

    def means(
        self, scores: Mapping[str, Scores], differences: Mapping[str, tuple[str, str]] | None = None
    ) -> tuple[Means, Means]:
        """Each policy's mean of each metric and share of the catalogue; and the differences of some pairs, by name."""
        values = {("", name): one.values for name, one in scores.items()}
        for name, (one, other) in (differences or {}).items():
            mine, theirs = scores[one].values, scores[other].values
            values["-", name] = {metric: value - theirs[metric] for metric, value in mine.items()}
        found = self._means(values, self.owners)
        done, policies = self.stages.begin("shares of the catalogue", len(scores)), {}
        for policy, recommended in scores.items():
            policies[policy] = found["", policy] | self._shares(recommended.slates)
            done(1)
        return policies, {name: found["-", name] for name in differences or {}}

    def by_group(self, scores: Mapping[str, Scores]) -> dict[str, dict[str, dict[str, Any]]]:
        """All policies in each group of rows: by kind and name, `users`, `rows` and `policies`."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for kind, groups in (self.groups or {}).items():
            found[kind] = {}
            for group, rows in groups.items():
                people, owners = np.unique(self.owners[rows], return_inverse=True)
                values = {
                    name: {metric: value[rows] for metric, value in one.values.items()} for name, one in scores.items()
                }
                policies = self._means(values, owners)
                found[kind][group] = {"users": len(people), "rows": int(rows.sum()), "policies": policies}
        return found

    def _means(
        self, values: Mapping[Name, Values], owners: Int64[np.ndarray, "rows"]
    ) -> dict[Name, dict[str, Interval]]:
        people = int(owners.max()) + 1
        by_user = {
            name: {metric: user_means(value, owners, people) for metric, value in some.items()}
            for name, some in values.items()
        }
        return means_of(by_user, seed=self.seed, stages=self.stages)

    def _rank(self, policy: Policy, histories: Histories, seed: int, done: Done) -> Ranks:
        k = max(self.ks)
        return rank(policy, self.targets, histories, k, seen=self.seen, allowed=self.allowed, seed=seed, done=done)

    def _values(self, ranks: Ranks) -> dict[str, Float64[np.ndarray, "rows"]]:
        found = {f"{name}@{k}": metric(ranks.places, k) for k in self.ks for name, metric in ACCURACY.items()}
        if ranks.reward is not None:
            found["reward@1"] = ranks.reward
        if self.spread is not None:
            sampling, latest = self.spread
            found[f"spread@{sampling.window}"] = sampling.reward(latest, ranks.items[:, 0])
        for k in self.ks:
            found |= {f"{name}@{k}": value for name, value in self._beyond(ranks, k).items()}
        return found

    def _beyond(self, ranks: Ranks, k: int) -> Values:
        """The metrics of the slates themselves."""
        slates, statistics = ranks.items[:, :k], self.statistics
        found = {
            "novelty": beyond.novelty(slates, statistics),
            "serendipity": beyond.serendipity(ranks.places, self._popular, k),
            "popularity_lift": beyond.popularity_lift(slates, self._heard[0], statistics),
        }
        if statistics.vectors.shape[1]:
            found["diversity"] = beyond.diversity(slates, statistics)
        if statistics.categories.shape[1]:
            found["calibration"] = beyond.calibration(slates, self._heard[1], statistics)
        return found

    @cached_property
    def _popular(self) -> Places:
        """The targets' places in the popularity ranking, the reference for serendipity."""
        done = self.stages.begin("what popularity finds", len(self.targets))
        return self._rank(Popular(self.statistics.counts), self.histories, self.seed, done).places

    @cached_property
    def _heard(self) -> tuple[Float64[np.ndarray, "rows"], Float64[np.ndarray, "rows categories"]]:
        """The popularity of each row's history, counting repeats, and the shares of the categories in it."""
        users, statistics = self.targets.users, self.statistics
        popularity, shares = np.empty(len(users)), np.empty((len(users), statistics.categories.shape[1]))
        for rows in chunks(self.targets):
            lengths = self.targets.before[rows]
            items = self.histories(users[rows], np.zeros_like(lengths), lengths).items
            popularity[rows], shares[rows] = statistics.popularity(items), statistics.shares(items)
        return popularity, shares

    @property
    def choices(self) -> int:
        """How many items may be recommended."""
        return self.targets.catalogue if self.allowed is None else int(self.allowed.sum())

    def _shares(self, slates: Int32[np.ndarray, "seeds rows k"]) -> dict[str, Interval]:
        found: dict[str, Interval] = {}
        for k in self.ks:
            rows, owners = slates[:, :, :k].reshape(len(slates), -1), np.repeat(self.owners, k)
            of_k = beyond.shares(rows, owners, self.choices, resamples=SHARE_RESAMPLES, seed=self.seed)
            found |= {f"{name}@{k}": one for name, one in of_k.items()}
        return found
