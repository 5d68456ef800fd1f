"""The judge: every policy on the same windows, every metric as a mean over users with its interval.

The seeds of training are averaged first, then each user's windows, then the users. A difference of two policies is
taken on each window, so that both are always judged on the same ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int32, Int64

from what_next.evaluation.bootstrap import Interval, coverage, interval, seed_means, user_means
from what_next.evaluation.ranking import hit_rate, ndcg
from what_next.evaluation.sampling import Sampling
from what_next.evaluation.windows import Windows
from what_next.types import Policy, Slate

RANKED = 20
"""The length of the windows that ranking metrics are taken on."""
BASELINES = ("random", "untrained", "true_next", "nearest_mean", "steer")
"""What each learned policy is compared with, where it is judged too."""
ORACLE = "oracle"
DESCRIPTIVE = ("repeats", "fallbacks", "coverage")
"""Metrics that say what a policy does, not how well: no differences are told."""


@dataclass(frozen=True, eq=False)
class Judged:
    """What a policy did.

    Attributes:
        items: the judged item of every window of every length, a row for each seed.
        values: for each metric its value on each of its windows, seeds averaged; not a number where it has none.
    """

    items: Int32[np.ndarray, "seeds all_windows"]
    values: dict[str, Float64[np.ndarray, "..."]]


def evaluate(
    policies: Mapping[str, Sequence[Policy]],
    windows: Mapping[int, Windows],
    sampling: Sampling,
    *,
    data: str,
    split: Mapping[str, Any],
    seeds: Sequence[int],
    k: int = 10,
    seed: int = 0,
) -> dict[str, Any]:
    """Judge policies; the result holds plain values alone, and is the same for the same arguments.

    No policy may choose an item of the window. The judged item is the first of the slate. HR@k and NDCG@k are taken on
    windows of 20 events; a policy that names fewer than k items has none, nor has a window whose next item it holds
    already, since nobody may name it. Coverage, repeats (items anywhere in the user's whole history) and fallbacks are
    over the windows of all lengths.

    Args:
        policies: by name, a policy for each seed of training, or one alone where no seed matters.
        windows: by length.
        sampling: item vectors, and how the spread is measured.
        data: name of the data set.
        split: `kind`, `users` (how many are judged) and `hash`.
        seeds: of training.
        k: slots of the ranking metrics.
        seed: of the policies' draws and of the bootstrap.

    Returns:
        `data`, `split`, `seeds`, `windows`, `policies`, `differences` and `share_of_oracle`; each metric is a mean with
        a 95 % interval, `{mean, low, high, n}`, n being users. What cannot be told is left out.
    """
    lengths = sorted(windows)
    people, everyone = np.unique(np.concatenate([windows[length].users for length in lengths]), return_inverse=True)
    owners = _owners(windows, everyone, k)
    judged = {name: _judge(group, windows, sampling, k, seed) for name, group in policies.items()}

    def told(values: Mapping[str, Float64[np.ndarray, "..."]], over: Judged | None = None) -> dict[str, Interval]:
        means = {name: user_means(value, owners[name], len(people)) for name, value in values.items()}
        if over is not None:
            known = {name: user_means(over.values[name], owners[name], len(people)) for name in means}
            found = {name: interval(mean, known[name], seed=seed) for name, mean in means.items()}
        else:
            found = {name: interval(mean, seed=seed) for name, mean in means.items()}
        return {name: one for name, one in found.items() if one is not None}

    result: dict[str, Any] = {
        "data": data,
        "split": dict(split),
        "seeds": list(seeds),
        "windows": {str(length): _described(windows[length]) for length in lengths},
        "policies": {name: told(one.values) for name, one in judged.items()},
        "differences": {
            f"{name}-{baseline}": told(_difference(judged[name], judged[baseline]))
            for name in judged
            for baseline in BASELINES
            if name not in (*BASELINES, ORACLE) and baseline in judged
        },
    }
    for name, one in judged.items():
        covered = coverage(one.items, everyone, len(sampling.vectors), seed=seed)
        if covered is not None:
            result["policies"][name]["coverage"] = covered
    if ORACLE in judged:
        result["share_of_oracle"] = {
            name: told(_spreads(one), over=judged[ORACLE]) for name, one in judged.items() if name != ORACLE
        }
    return result


def _judge(
    group: Sequence[Policy], windows: Mapping[int, Windows], sampling: Sampling, k: int, seed: int
) -> Judged:
    """Let a policy act on all windows, for each seed of training."""
    items, fallbacks, values = [], [], {}
    for length in sorted(windows):
        part, slots = windows[length], k if length == RANKED else 1
        slates = [
            policy.act(part.history, slots, np.random.default_rng([seed, length, index]), exclude=part.history.items)
            for index, policy in enumerate(group)
        ]
        chosen = np.stack([slate.items[:, 0] for slate in slates])
        rewards = np.stack([sampling.reward(part.history, row) for row in chosen])
        values[f"spread@{length}"] = seed_means(rewards)
        items.append(chosen)
        fallbacks.append(np.stack([_fallback(slate) for slate in slates]))
        if length == RANKED and all(slate.items.shape[1] == k for slate in slates):
            values |= _ranked(slates, part, k)
    heard = [windows[length].heard(chosen) for length, chosen in zip(sorted(windows), items, strict=True)]
    everything = np.concatenate(items, axis=1)
    values["repeats"] = _share(np.concatenate(heard, axis=1).astype(np.float64), everything)
    values["fallbacks"] = _share(np.concatenate(fallbacks, axis=1), everything)
    return Judged(everything, values)


def _ranked(slates: Sequence[Slate], windows: Windows, k: int) -> dict[str, Float64[np.ndarray, "windows"]]:
    """Where the next item stands in the slates."""
    impossible = (windows.history.items == windows.following[:, None]).any(axis=1)
    return {
        f"{name}@{k}": np.where(impossible, np.nan, seed_means(np.stack([metric(s.items, windows.following) for s in slates])))
        for name, metric in (("hr", hit_rate), ("ndcg", ndcg))
    }


def _fallback(slate: Slate) -> Float64[np.ndarray, "batch"]:
    return np.zeros(len(slate.items)) if slate.fallback is None else slate.fallback[:, 0].astype(np.float64)


def _share(
    marked: Float64[np.ndarray, "seeds rows"], items: Int32[np.ndarray, "seeds rows"]
) -> Float64[np.ndarray, "rows"]:
    """How many of the seeds' items are marked; not a number where there is no item."""
    return seed_means(np.where(items < 0, np.nan, marked))


def _owners(
    windows: Mapping[int, Windows], everyone: Int64[np.ndarray, "all_windows"], k: int
) -> dict[str, Int64[np.ndarray, "..."]]:
    """For each metric the user of each of its windows, counted among those who are judged."""
    lengths = sorted(windows)
    ends = np.cumsum([len(windows[length]) for length in lengths])
    parts = dict(zip(lengths, np.split(everyone, ends[:-1]), strict=True))
    owners = {f"spread@{length}": parts[length] for length in lengths} | {"repeats": everyone, "fallbacks": everyone}
    if RANKED in parts:
        owners |= {f"hr@{k}": parts[RANKED], f"ndcg@{k}": parts[RANKED]}
    return owners


def _difference(one: Judged, other: Judged) -> dict[str, Float64[np.ndarray, "..."]]:
    """One minus the other on each window, for the metrics that both have."""
    return {
        name: value - other.values[name]
        for name, value in one.values.items()
        if name in other.values and name not in DESCRIPTIVE
    }


def _spreads(judged: Judged) -> dict[str, Float64[np.ndarray, "..."]]:
    return {name: value for name, value in judged.values.items() if name.startswith("spread@")}


def _described(windows: Windows) -> dict[str, int]:
    return {"windows": len(windows), "users": len(np.unique(windows.users)), "too_short": windows.too_short}
