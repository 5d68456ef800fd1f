"""The judge: every policy on the same windows, every metric as a mean over users with its interval.

The seeds of training are averaged first, then each user's windows, then the users. A difference of two policies is
taken on each window, so that both are always judged on the same ones.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64

from what_next.data.stages import SILENT, Done, Stages
from what_next.metrics.accuracy import hit_rate, ndcg
from what_next.metrics.bootstrap import Interval, coverage, interval, seed_means, user_means
from what_next.metrics.places import Places
from what_next.metrics.sampling import Sampling
from what_next.metrics.windows import Windows
from what_next.types import Permitted, Policy, Request, Slate

Item = TypeVar("Item")
Values = Mapping[str, Float64[np.ndarray, "..."]]
"""For each metric its value on each of its windows."""

RANKED = 20
"""The length of the windows that ranking metrics are taken on."""
BASELINES = ("random", "untrained", "true_next", "nearest_mean", "steer")
"""What each learned policy is compared with, where it is judged too."""
ORACLE = "oracle"
DESCRIPTIVE = ("repeats", "fallbacks")
"""Metrics that say what a policy does, not how well: no differences are told."""


@dataclass(frozen=True, eq=False)
class Judged:
    """What a policy did.

    Attributes:
        items: the judged item of every window of every length, a row for each seed.
        values: for each metric its value on each of its windows, seeds averaged; not a number where it has none.
    """

    items: Int32[np.ndarray, "seeds all_windows"]
    values: Values


def evaluate(
    policies: Mapping[str, Sequence[Policy[Any]]],
    windows: Mapping[int, Windows],
    sampling: Sampling,
    *,
    data: str,
    split: Mapping[str, Any],
    seeds: Sequence[int],
    k: int = 10,
    seed: int = 0,
    stages: Stages = SILENT,
) -> dict[str, Any]:
    """Judge policies; the result holds plain values alone, and is the same for the same arguments.

    No policy may choose an item of the window. The judged item is the first of the slate. HR@k and NDCG@k are taken on
    windows of 20 events; a policy that names fewer than k items has none, nor has a window whose next item it holds
    already, since nobody may name it. Coverage, repeats (items anywhere in the user's whole history) and fallbacks are
    over the windows of all lengths.

    Args:
        policies: by name, a policy for each seed of training, or one alone where no seed matters.
        windows: by length; at least one of them is not empty.
        sampling: item vectors, and how the spread is measured.
        data: name of the data set.
        split: `kind`, `users` (how many are judged) and `hash`.
        seeds: of training.
        k: slots of the ranking metrics.
        seed: of the policies' draws and of the bootstrap.
        stages: who is told how far the work is.

    Returns:
        `data`, `split`, `seeds`, `windows`, `policies`, `differences` and `share_of_oracle`; each metric is a mean with
        a 95 % interval, `{mean, low, high, n}`, n being users. What cannot be told is left out.
    """
    filled = {length: windows[length] for length in sorted(windows) if len(windows[length])}
    every = sum(map(len, filled.values()))
    judged = {
        name: _judge(group, filled, sampling, k, seed, stages.begin(f"judging {name} by windows", len(group) * every))
        for name, group in policies.items()
    }
    crowd = Crowd.of(filled, k, seed)
    pairs = {
        f"{name}-{baseline}": (one, judged[baseline])
        for name, one in judged.items()
        for baseline in BASELINES
        if name not in (*BASELINES, ORACLE) and baseline in judged
    }
    done = stages.begin("intervals", len(judged) + len(pairs))
    result: dict[str, Any] = {
        "data": data,
        "split": dict(split),
        "seeds": list(seeds),
        "windows": {str(length): _described(windows[length]) for length in sorted(windows)},
        "policies": {
            name: crowd.told(one.values) | crowd.covered(one.items, len(sampling.vectors))
            for name, one in _each(judged, done)
        },
        "differences": {name: crowd.told(_difference(*pair)) for name, pair in _each(pairs, done)},
    }
    if ORACLE in judged:
        best = _spreads(judged[ORACLE])
        result["share_of_oracle"] = {
            name: crowd.told(_spreads(one), over=best) for name, one in judged.items() if name != ORACLE
        }
    return result


@dataclass(frozen=True, eq=False)
class Crowd:
    """The users who are judged, and the step from values on windows to means over users.

    Attributes:
        everyone: the user of every window of every length, counted among those who are judged.
        owners: for each metric the user of each of its windows, likewise.
        count: how many users there are.
        seed: of the bootstrap.
    """

    everyone: Int64[np.ndarray, "all_windows"]
    owners: dict[str, Int64[np.ndarray, "..."]]
    count: int
    seed: int

    @classmethod
    def of(cls, windows: Mapping[int, Windows], k: int, seed: int) -> "Crowd":
        """The users of some windows, by length in ascending order."""
        parts = [part.users for part in windows.values()]
        people, everyone = np.unique(np.concatenate(parts), return_inverse=True)
        ends = np.cumsum([len(part) for part in parts])
        owners = dict(zip(windows, np.split(everyone, ends[:-1]), strict=True))
        metrics = {f"spread@{length}": users for length, users in owners.items()}
        metrics |= {"repeats": everyone, "fallbacks": everyone}
        if RANKED in owners:
            metrics |= {f"window_hr@{k}": owners[RANKED], f"window_ndcg@{k}": owners[RANKED]}
        return cls(everyone, metrics, len(people), seed)

    def told(self, values: Values, over: Values | None = None) -> dict[str, Interval]:
        """The mean of each metric with its interval; the ratio of two means where `over` is given."""
        found = {
            name: interval(
                user_means(value, self.owners[name], self.count),
                None if over is None else user_means(over[name], self.owners[name], self.count),
                seed=self.seed,
            )
            for name, value in values.items()
        }
        return {name: one for name, one in found.items() if one is not None}

    def covered(self, items: Int32[np.ndarray, "seeds all_windows"], catalogue: int) -> dict[str, Interval]:
        """The share of the catalogue among the judged items."""
        share = coverage(items, self.everyone, catalogue, seed=self.seed)
        return {} if share is None else {"coverage": share}


def _each(named: Mapping[str, Item], done: Done) -> Iterator[tuple[str, Item]]:
    """The names and values, each done when the next is asked for."""
    for name, one in named.items():
        yield name, one
        done(1)


def _judge(
    group: Sequence[Policy[Any]], windows: Mapping[int, Windows], sampling: Sampling, k: int, seed: int, done: Done
) -> Judged:
    """Let the policy of each seed of training act on all windows."""
    items, heard, fallbacks = [], [], []
    values = {}
    for length, part in windows.items():
        slates = []
        for index, policy in enumerate(group):
            rng, slots = np.random.default_rng([seed, length, index]), k if length == RANKED else 1
            request = Request(slots, policy.sampler, Permitted.of(without=part.history.items), propensities=False)
            slates.append(policy.act(policy.states(part.history), request, rng))
            done(len(part))
        chosen = np.stack([slate.items[:, 0] for slate in slates])
        values[f"spread@{length}"] = seed_means(np.stack([sampling.reward(part.history, row) for row in chosen]))
        items.append(chosen)
        heard.append(part.heard(chosen))
        fallbacks.append(np.stack([_fallback(slate) for slate in slates]))
        if length == RANKED and all(slate.items.shape[1] == k for slate in slates):
            values |= _ranked(slates, part, k)
    everything = np.concatenate(items, axis=1)
    for name, marked in (("repeats", heard), ("fallbacks", fallbacks)):
        values[name] = seed_means(np.where(everything < 0, np.nan, np.concatenate(marked, axis=1)))
    return Judged(everything, values)


def _ranked(slates: Sequence[Slate], windows: Windows, k: int) -> Values:
    """Whether and where the slates name the next item."""
    held = (windows.history.items == windows.following[:, None]).any(axis=1)
    places = [Places.of_slates(slate.items, windows.following[:, None]) for slate in slates]
    return {
        f"{name}@{k}": np.where(held, np.nan, seed_means(np.stack([metric(one, k) for one in places])))
        for name, metric in (("window_hr", hit_rate), ("window_ndcg", ndcg))
    }


def _fallback(slate: Slate) -> Bool[np.ndarray, "batch"]:
    """Which of the judged items are fallbacks."""
    return np.zeros(len(slate.items), np.bool_) if slate.fallback is None else slate.fallback[:, 0]


def _difference(one: Judged, other: Judged) -> Values:
    """One minus the other on each window, for the metrics that both have."""
    return {
        name: value - other.values[name]
        for name, value in one.values.items()
        if name in other.values and name not in DESCRIPTIVE
    }


def _spreads(judged: Judged) -> Values:
    return {name: value for name, value in judged.values.items() if name.startswith("spread@")}


def _described(windows: Windows) -> dict[str, int]:
    return {"windows": len(windows), "users": len(np.unique(windows.users)), "too_short": windows.too_short}
