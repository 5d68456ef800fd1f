"""The judge of next items: every policy on the same users, every metric as a mean over users with its interval.

The seeds of training are averaged first, then the rows of a user, then the users. A difference of two policies is taken
for each row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64

from what_next.data import Dataset, Split
from what_next.data.splits import Part
from what_next.data.stages import SILENT, Done, Stages
from what_next.metrics.accuracy import average_precision, hit_rate, ndcg, precision, recall, reciprocal_rank
from what_next.metrics.beyond import (
    Background,
    Profile,
    calibration,
    diversity,
    novelty,
    popularity_lift,
    serendipity,
)
from what_next.metrics.bootstrap import Interval, coverage, gini, seed_means
from what_next.metrics.means import means, means_of
from what_next.metrics.next_items import Histories, Kind, Ranks, Targets, chunks, rank
from what_next.metrics.rules import Popular
from what_next.metrics.sampling import Sampling
from what_next.types import History, Policy

SHARE_RESAMPLES = 200
"""Of the shares of the catalogue: each counts the items in the slates of the users who were drawn."""
RIVALS = ("random", "popular", "popular_recent", "markov", "item_knn", "ease", "untrained")
"""What each learned policy is compared with, where it is judged too."""
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
"""Kind of group, its name, and the rows that are in it."""


@dataclass(frozen=True, eq=False)
class Judged:
    """What the policies of some seeds recommended.

    Attributes:
        slates: in every row, for each seed; as long as the longest that is judged.
        values: for each metric its value in each row, seeds averaged; not a number where there is none.
    """

    slates: Int32[np.ndarray, "seeds rows k"]
    values: Values


@dataclass(frozen=True, eq=False)
class Yardstick:
    """Whom policies are judged on, and by what.

    Attributes:
        targets: not empty; `histories`: from users, starts and lengths to what policies read.
        catalogue: how many items there are.
        background: what training knows of the items; None: only what needs none of it is measured.
        sampling: how the spread of the top item is measured; None: it is not.
        latest: the last events before each target, sigma included; None likewise.
        ks: lengths of slates; the first one leads.
        seen: whether items of the history may be recommended; `allowed`: which items may, None for all.
        groups: of rows, which are judged apart, too.
        seed: of the order of ties, and of the bootstrap.
        stages: who is told how far the work is.
    """

    targets: Targets
    histories: Histories
    catalogue: int
    background: Background | None = None
    sampling: Sampling | None = None
    latest: History | None = None
    ks: tuple[int, ...] = (10,)
    seen: bool = False
    allowed: Bool[np.ndarray, "items"] | None = None
    groups: Groups | None = None
    seed: int = 0
    stages: Stages = SILENT

    @property
    def owners(self) -> Int64[np.ndarray, "rows"]:
        """The user of each row, counted among those who are judged."""
        return self.targets.people[1]

    def judge(self, group: Sequence[Policy[Any]], histories: Histories | None = None, name: str = "a policy") -> Judged:
        """Let the policy of each seed recommend in every row, greedily.

        Args:
            group: a policy for each seed of training, or one alone where no seed matters.
            histories: what they read, where it is not what others do.
            name: what to call them while that goes on.
        """
        done = self.stages.begin(f"judging {name}", len(group) * len(self.targets))
        ranks = [self._rank(policy, histories or self.histories, place, done) for place, policy in enumerate(group)]
        values = [self._values(one) for one in ranks]
        slates = np.stack([one.items for one in ranks])
        return Judged(slates, {name: seed_means(np.stack([one[name] for one in values])) for name in values[0]})

    def told(self, judged: Judged) -> dict[str, Interval]:
        """The mean of each metric over users, with its interval; and how the slates share the catalogue."""
        return self._means(judged.values) | self._shares(judged.slates)

    def difference(self, one: Judged, other: Judged) -> dict[str, Interval]:
        """One minus the other, by metric."""
        return self._means(_apart(one, other))

    def compared(
        self, judged: Mapping[str, Judged], differences: Mapping[str, tuple[str, str]]
    ) -> tuple[dict[str, dict[str, Interval]], dict[str, dict[str, Interval]]]:
        """`told` of each, and `difference` of some pairs, by name: the users are drawn once for all of them."""
        values = {("", name): one.values for name, one in judged.items()}
        values |= {("-", name): _apart(judged[one], judged[other]) for name, (one, other) in differences.items()}
        found = means_of(values, self.owners, seed=self.seed, stages=self.stages)
        told = {name: found["", name] | self._shares(one.slates) for name, one in judged.items()}
        return told, {name: found["-", name] for name in differences}

    def apart(self, judged: Mapping[str, Judged]) -> dict[str, dict[str, dict[str, Any]]]:
        """All policies in each group of rows: by kind and name, `users`, `rows` and `policies`."""
        return {
            kind: {name: self._of_group(judged, rows) for name, rows in groups.items()}
            for kind, groups in (self.groups or {}).items()
        }

    def _of_group(self, judged: Mapping[str, Judged], rows: Bool[np.ndarray, "rows"]) -> dict[str, Any]:
        people, owners = np.unique(self.owners[rows], return_inverse=True)
        values = {name: {metric: value[rows] for metric, value in one.values.items()} for name, one in judged.items()}
        policies = means_of(values, owners, seed=self.seed, stages=self.stages)
        return {"users": len(people), "rows": int(rows.sum()), "policies": policies}

    def _rank(self, policy: Policy[Any], histories: Histories, place: int, done: Done) -> Ranks:
        k, seed = max(self.ks), self.seed + place
        return rank(policy, self.targets, histories, k, seen=self.seen, allowed=self.allowed, seed=seed, done=done)

    def _values(self, ranks: Ranks) -> dict[str, Float64[np.ndarray, "rows"]]:
        found = {f"{name}@{k}": metric(ranks.places, k) for k in self.ks for name, metric in ACCURACY.items()}
        if ranks.reward is not None:
            found["reward@1"] = ranks.reward
        if self.sampling is not None and self.latest is not None:
            found[f"spread@{self.sampling.window}"] = self.sampling.reward(self.latest, ranks.items[:, 0])
        if self.background is not None:
            for k in self.ks:
                found |= {f"{name}@{k}": value for name, value in self._beyond(self.background, ranks, k).items()}
        return found

    def _beyond(self, background: Background, ranks: Ranks, k: int) -> Values:
        """What is measured of the slates themselves."""
        slates = ranks.items[:, :k]
        found = {
            "novelty": novelty(slates, background),
            "serendipity": serendipity(ranks.places, self.targets.sets, self._popular[:, :k]),
            "popularity_lift": popularity_lift(slates, self._profile, background),
        }
        if background.vectors.shape[1]:
            found["diversity"] = diversity(slates, background)
        if background.categories is not None:
            found["calibration"] = calibration(slates, self._profile, background)
        return found

    @cached_property
    def _popular(self) -> Int32[np.ndarray, "rows k"]:
        """What the most popular items come to, which nobody is surprised by."""
        assert self.background is not None
        done = self.stages.begin("what popularity finds", len(self.targets))
        return self._rank(Popular(self.background.counts), self.histories, 0, done).items

    @cached_property
    def _profile(self) -> Profile:
        """What the history of each row is like."""
        assert self.background is not None
        parts = []
        for rows in chunks(self.targets):
            lengths = self.targets.before[rows]
            history = self.histories(self.targets.users[rows], np.zeros_like(lengths), lengths)
            parts.append((rows, Profile.of(history.items, self.background)))
        order = np.argsort(np.concatenate([rows for rows, _ in parts]))
        return Profile(
            np.concatenate([one.popularity for _, one in parts])[order],
            np.concatenate([one.shares for _, one in parts])[order],
        )

    def _means(self, values: Values) -> dict[str, Interval]:
        return means(values, self.owners, seed=self.seed)

    def _shares(self, slates: Int32[np.ndarray, "seeds rows k"]) -> dict[str, Interval]:
        found, catalogue = {}, self.catalogue if self.allowed is None else int(self.allowed.sum())
        for k in self.ks:
            rows, owners = slates[:, :, :k].reshape(len(slates), -1), np.repeat(self.owners, k)
            for name, measure in (("coverage", coverage), ("gini", gini)):
                share = measure(rows, owners, catalogue, resamples=SHARE_RESAMPLES, seed=self.seed)
                if share is not None:
                    found[f"{name}@{k}"] = share
        return found


def evaluate_next(
    judged: Mapping[str, Judged],
    yardstick: Yardstick,
    about: Mapping[str, Any],
    differences: Mapping[str, tuple[str, str]] | None = None,
) -> dict[str, Any]:
    """The result, of plain values alone.

    Args:
        judged: by name of the policy; `yardstick`: what judged them.
        about: what they were judged on, see `judged_on`.
        differences: by name, which two policies are compared; None: each learned one with `RIVALS`.

    Returns:
        `about`, and `policies`, `differences` and `groups`: each metric is a mean with a 95 % interval, `{mean, low,
        high, n}`, n being users.
    """
    if differences is None:
        differences = {
            f"{name}-{rival}": (name, rival)
            for name in judged
            for rival in RIVALS
            if name not in RIVALS and rival in judged
        }
    told, apart = yardstick.compared(judged, differences)
    return {
        **about,
        "k": list(yardstick.ks),
        "seen": yardstick.seen,
        "allowed": yardstick.catalogue if yardstick.allowed is None else int(yardstick.allowed.sum()),
        "policies": told,
        "differences": apart,
        "groups": yardstick.apart(judged),
    }


def _apart(one: Judged, other: Judged) -> Values:
    """One minus the other in each row, by metric."""
    return {name: value - other.values[name] for name, value in one.values.items()}


def judged_on(
    dataset: Dataset,
    split: Split,
    part: Part,
    targets: Targets,
    seeds: Sequence[int],
    *,
    kind: Kind = "last",
    counts: Int64[np.ndarray, "items"] | None = None,
    allowed: Bool[np.ndarray, "items"] | None = None,
) -> dict[str, Any]:
    """On what next items are judged: `data`, `split`, `targets` and `seeds`.

    Of the split, how many users and events training knows, how many `users` the part has and how many users it has not.
    Of the targets: their `kind`, the `rows` and `users`, the `items` to be named, and a `hash` over them all; `held`:
    those that the history holds, which nobody can name who leaves its items out; `cold_items`: those without a training
    event (by `counts`); `not_allowed`: those that may not be recommended; `cold_users`: of whom training knows nothing,
    though the split sets nobody aside; `without_history`: users of the part who are not judged.
    """
    judged, people = getattr(split, part), targets.people[0]
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
            "hash": split.hash,
        },
        "targets": {
            "kind": kind,
            "rows": len(targets),
            "users": len(people),
            "items": len(items),
            "hash": targets.hash,
            "held": int(targets.held(dataset).sum()),
            "cold_users": int(np.isin(people, judged[split.cold(part)]).sum()),
            "cold_items": None if counts is None else int((counts[items] == 0).sum()),
            "not_allowed": 0 if allowed is None else int((~allowed[items]).sum()),
            "without_history": targets.without_history,
        },
        "seeds": list(seeds),
    }
