"""The judge of next items: every policy on the same users, every metric as a mean over users with its interval.

The seeds of training are averaged first, then the users. A difference of two policies is taken for each user.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int32

from what_next.data import Dataset, Split
from what_next.data.splits import Part
from what_next.evaluation.bootstrap import Interval, coverage, interval, seed_means
from what_next.evaluation.next_items import Histories, Ranks, Targets, rank
from what_next.evaluation.sampling import Sampling
from what_next.types import History, Policy

COVERAGE_RESAMPLES = 200
"""Each counts the items that are left in the slates of the users who were drawn: ten times as much work as a mean."""
RIVALS = ("random", "popular", "untrained")
"""What each learned policy is compared with, where it is judged too."""


@dataclass(frozen=True, eq=False)
class Judged:
    """What the policies of some seeds recommended.

    Attributes:
        slates: to every user, a row of slates for each seed.
        values: for each metric its value for each user, seeds averaged; not a number where there is none.
    """

    slates: Int32[np.ndarray, "seeds users k"]
    values: Mapping[str, Float64[np.ndarray, "users"]]


@dataclass(frozen=True, eq=False)
class Yardstick:
    """Whom policies are judged on, and by what.

    Attributes:
        targets: one for each user; not empty.
        histories: from users, starts and lengths to what policies read.
        catalogue: how many items there are.
        sampling: how the spread of the top item is measured; None: it is not.
        latest: the last events before each target, sigma included; None likewise.
        k: slots.
        seed: of the draws of chance, and of the bootstrap.
    """

    targets: Targets
    histories: Histories
    catalogue: int
    sampling: Sampling | None = None
    latest: History | None = None
    k: int = 10
    seed: int = 0

    def judge(self, group: Sequence[Policy], histories: Histories | None = None, *, drawn: bool = False) -> Judged:
        """Let the policy of each seed recommend to everyone.

        Args:
            group: a policy for each seed of training, or one alone where no seed matters.
            histories: what they read, where it is not what others do.
            drawn: by a generator; otherwise greedily.
        """
        ranks = [
            rank(
                policy,
                self.targets,
                histories or self.histories,
                self.k,
                rng=np.random.default_rng([self.seed, place]) if drawn else None,
            )
            for place, policy in enumerate(group)
        ]
        values = [self._values(one) for one in ranks]
        slates = np.stack([one.items for one in ranks])
        return Judged(slates, {name: seed_means(np.stack([one[name] for one in values])) for name in values[0]})

    def told(self, judged: Judged) -> dict[str, Interval]:
        """The mean of each metric over users, with its interval; and the share of the catalogue in their slates."""
        return self._means(judged.values) | self._covered(judged.slates)

    def difference(self, one: Judged, other: Judged) -> dict[str, Interval]:
        """One minus the other for each user, by metric."""
        return self._means({name: value - other.values[name] for name, value in one.values.items()})

    def _values(self, ranks: Ranks) -> dict[str, Float64[np.ndarray, "users"]]:
        found = {f"hr@{self.k}": ranks.hr, f"ndcg@{self.k}": ranks.ndcg}
        if ranks.reward is not None:
            found["reward@1"] = ranks.reward
        if self.sampling is not None and self.latest is not None:
            found[f"spread@{self.sampling.window}"] = self.sampling.reward(self.latest, ranks.items[:, 0])
        return found

    def _means(self, values: Mapping[str, Float64[np.ndarray, "users"]]) -> dict[str, Interval]:
        found = {name: interval(value, seed=self.seed) for name, value in values.items()}
        return {name: one for name, one in found.items() if one is not None}

    def _covered(self, slates: Int32[np.ndarray, "seeds users k"]) -> dict[str, Interval]:
        owners = np.repeat(np.arange(slates.shape[1]), self.k)
        rows = slates.reshape(len(slates), -1)
        share = coverage(rows, owners, self.catalogue, resamples=COVERAGE_RESAMPLES, seed=self.seed)
        return {} if share is None else {f"coverage@{self.k}": share}


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
        `about`, and `policies` and `differences`: each metric is a mean with a 95 % interval, `{mean, low, high, n}`, n
        being users.
    """
    if differences is None:
        differences = {
            f"{name}-{rival}": (name, rival)
            for name in judged
            for rival in RIVALS
            if name not in RIVALS and rival in judged
        }
    return {
        **about,
        "policies": {name: yardstick.told(one) for name, one in judged.items()},
        "differences": {
            name: yardstick.difference(judged[one], judged[other]) for name, (one, other) in differences.items()
        },
    }


def judged_on(dataset: Dataset, split: Split, part: Part, targets: Targets, seeds: Sequence[int]) -> dict[str, Any]:
    """On what next items are judged: `data`, `split`, `targets` (`held`: those that nobody can hit) and `seeds`."""
    return {
        "data": dataset.name,
        "split": {"kind": split.kind, "part": part, "users": len(getattr(split, part)), "hash": split.hash},
        "targets": {"users": len(targets), "held": int(targets.held(dataset).sum())},
        "seeds": list(seeds),
    }
