"""Evaluation of the founding algorithm: its agent beside rules and chance, on windows of held-out users.

All policies are judged on the same windows. The seeds of training are averaged first, then each user's windows, then
the users. A difference of two policies is taken on each window.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int32

from what_next.baselines.rules import NearestMean, Oracle, RandomItem, Steer, TrueNext
from what_next.data.splits import Part
from what_next.data.stages import SILENT, Done, Stages
from what_next.errors import DataError
from what_next.experiments.models import chosen, judged_state, policy, untrained
from what_next.metrics.accuracy import hit_rate, ndcg
from what_next.metrics.beyond import shares
from what_next.metrics.bootstrap import means_of, user_means
from what_next.metrics.places import Places
from what_next.metrics.windows import Sampling, Windows, draw_windows, followed
from what_next.settings import Setup
from what_next.state import State
from what_next.types import Permitted, Policy, Request, Slate

LENGTHS = (5, 10, 20)
RANKED = 20
"""Length of the windows for ranking metrics."""
FOLLOWED, STEPS, EVERY = 10, 10, 4
"""After one in `EVERY` windows of `FOLLOWED` events, `STEPS` recommendations are taken one after another."""
AHEAD = f"followed@{STEPS}"
RULES = ("random", "untrained", "true_next", "nearest_mean", "steer")
"""Policies that each learned one is compared with, if they were evaluated too."""
ORACLE = "oracle"
DESCRIPTIVE = ("repeats", "fallbacks")
"""Metrics that describe a policy instead of ranking it: no differences of them are taken."""
Values = Mapping[str, Float64[np.ndarray, "..."]]
"""For each metric its value on each of its windows, averaged over seeds; NaN without a value."""


@dataclass(frozen=True, eq=False)
class WindowScores:
    """A policy's first item in every window of every length, a row for each seed, and its metrics."""

    items: Int32[np.ndarray, "seeds all_windows"]
    values: Values

    def minus(self, other: "WindowScores") -> Values:
        """The difference on each window, for the metrics that both have."""
        both = self.values.keys() & other.values.keys() - set(DESCRIPTIVE)
        return {name: value - other.values[name] for name, value in self.values.items() if name in both}

    @property
    def spreads(self) -> Values:
        """The metrics of the spread."""
        return {name: value for name, value in self.values.items() if name == AHEAD or name.startswith("spread@")}


def evaluate_windows(
    setup: Setup, part: Part = "test", seeds: Sequence[int] | None = None, stages: Stages = SILENT
) -> dict[str, Any]:
    """Evaluate a setup's founding agent on windows of 5, 10 and 20 events of a split's users; returns plain values.

    Policies: `agent` (the founding rule), `agent_critic` (the critic chooses among the items that match), `untrained`
    (the agent before its first step), `random`, `nearest_mean`, `true_next`, `steer` and `oracle`. See
    `compare_on_windows`; for the arguments, `evaluate_next`.
    """
    state = State.from_setup(setup)
    setups = chosen(setup, state, seeds)
    state = judged_state(state, setups, part)
    users, (since, until), spread = getattr(state.split, part), state.split.targets(part), setup.reward.spread
    windows = {
        length: draw_windows(state.dataset, users, state.histories, length=length, since=since, until=until)
        for length in LENGTHS
    }
    if not any(len(some) for some in windows.values()):
        raise DataError(f"{setup.data}: no {part} user has {LENGTHS[0] + 1} events, so there is nobody to judge on")
    sampling = Sampling(state.space.catalogue.vectors, spread.window, spread.pairs)
    rules: dict[str, list[Policy]] = {
        "random": [RandomItem(len(sampling.vectors))],
        "nearest_mean": [NearestMean(sampling, state.box)],
        "true_next": [TrueNext({length: some.following for length, some in windows.items()})],
        "steer": [Steer(sampling, state.space.typical)],
        ORACLE: [Oracle(sampling)],
    }
    cold, hashed = int(state.split.cold(part).sum()), state.chosen_by.hash
    about = {
        "data": state.dataset.name,
        "split": {"kind": state.split.kind, "part": part, "users": len(users), "cold_users": cold, "hash": hashed},
        "seeds": [one.seed for one in setups],
    }
    return about | compare_on_windows({**_learned(setups, state), **rules}, windows, sampling, stages=stages)


def _learned(setups: Sequence[Setup], state: State) -> dict[str, list[Policy]]:
    """The trained agents with both selections, and the untrained ones; a policy for each seed."""

    def selecting(setup: Setup, name: str) -> Setup:
        return setup.model_copy(update={"selection": setup.selection.model_copy(update={"name": name})})

    return {
        "agent": [policy(selecting(setup, "random"), state) for setup in setups],
        "agent_critic": [policy(selecting(setup, "critic"), state) for setup in setups],
        "untrained": [untrained(selecting(setup, "random"), state) for setup in setups],
    }


def compare_on_windows(
    policies: Mapping[str, Sequence[Policy]],
    windows: Mapping[int, Windows],
    sampling: Sampling,
    *,
    k: int = 10,
    seed: int = 0,
    stages: Stages = SILENT,
) -> dict[str, Any]:
    """Evaluate policies; the result holds only plain values, and is the same for the same arguments.

    No policy may choose an item of the window. The evaluated item is the first of the slate. HR@k and NDCG@k are taken
    on windows of 20 events, for policies that name at least k items; windows that hold the next item already are left
    out, because no policy may name it. `followed@10` is the mean reward of ten recommendations, each taken before the
    next; `true_next` has none. Coverage, repeats (items anywhere in the user's whole history) and fallbacks are over
    the windows of all lengths.

    Args:
        policies: by name, a policy for each training seed, or a single one if it does not depend on a seed.
        windows: by length; at least one of them is not empty.
        sampling: item vectors, and how the spread is measured.
        k: slots for the ranking metrics.
        seed: of the policies' draws and of the bootstrap.

    Returns:
        `windows`, `policies`, `differences` and `share_of_oracle`; each metric is a mean with a 95 % interval, `{mean,
        low, high, n}`, n being users. Metrics without a value are left out.
    """
    filled = {length: windows[length] for length in sorted(windows) if len(windows[length])}
    every, scores = sum(map(len, filled.values())), {}
    for name, group in policies.items():
        done = stages.begin(f"judging {name} by windows", len(group) * every)
        scores[name] = _score(group, filled, sampling, k, seed, done)
    people, everyone = np.unique(np.concatenate([part.users for part in filled.values()]), return_inverse=True)
    owners = {f"spread@{length}": np.searchsorted(people, part.users) for length, part in filled.items()}
    if FOLLOWED in filled:
        owners[AHEAD] = owners[f"spread@{FOLLOWED}"][::EVERY]
    owners |= {f"window_{name}@{k}": owners.get(f"spread@{RANKED}", everyone) for name in ("hr", "ndcg")}

    def by_user(values: Values) -> dict[str, Float64[np.ndarray, "users"]]:
        return {name: user_means(value, owners.get(name, everyone), len(people)) for name, value in values.items()}

    pairs = [(one, rule) for one in scores if one not in (*RULES, ORACLE) for rule in RULES if rule in scores]
    values = {("", name): by_user(one.values) for name, one in scores.items()}
    values |= {("-", f"{one}-{rule}"): by_user(scores[one].minus(scores[rule])) for one, rule in pairs}
    found = means_of(values, seed=seed, stages=stages)
    result: dict[str, Any] = {
        "windows": {str(length): _described(windows[length]) for length in sorted(windows)},
        "policies": {
            name: found["", name] | shares(one.items, everyone, len(sampling.vectors), ("coverage",), seed=seed)
            for name, one in scores.items()
        },
        "differences": {name: some for (kind, name), some in found.items() if kind},
    }
    if ORACLE in scores:
        spreads = {name: by_user(one.spreads) for name, one in scores.items() if name != ORACLE}
        result["share_of_oracle"] = means_of(spreads, by_user(scores[ORACLE].spreads), seed=seed, stages=stages)
    return result


def _score(
    policies: Sequence[Policy], windows: Mapping[int, Windows], sampling: Sampling, k: int, seed: int, done: Done
) -> WindowScores:
    """Let the policy of each training seed act on all windows."""
    items, heard, fallbacks, values = [], [], [], {}
    for length, part in windows.items():
        slates = []
        for index, one in enumerate(policies):
            rng, slots = np.random.default_rng([seed, length, index]), k if length == RANKED else 1
            request = Request(slots, one.sampler, Permitted.of(without=part.history.items), propensities=False)
            slates.append(one.act(one.states(part.history), request, rng))
            done(len(part))
        chosen = np.stack([slate.items[:, 0] for slate in slates])
        values[f"spread@{length}"] = np.mean([sampling.reward(part.history, row) for row in chosen], axis=0)
        items.append(chosen)
        heard.append(part.heard(chosen))
        none = np.zeros(len(part), np.bool_)
        fallbacks.append(np.stack([none if one.fallback is None else one.fallback[:, 0] for one in slates]))
        if length == FOLLOWED and not isinstance(policies[0], TrueNext):
            paths = [_followed(one, part, sampling, [seed, STEPS, index]) for index, one in enumerate(policies)]
            values[AHEAD] = np.mean(paths, axis=0)
        if length == RANKED and all(slate.items.shape[1] == k for slate in slates):
            values |= _ranked(slates, part, k)
    everything = np.concatenate(items, axis=1)
    for name, marked in (("repeats", heard), ("fallbacks", fallbacks)):
        values[name] = np.where(everything < 0, np.nan, np.concatenate(marked, axis=1)).mean(axis=0)
    return WindowScores(everything, values)


def _followed(
    policy: Policy, windows: Windows, sampling: Sampling, seed: Sequence[int]
) -> Float64[np.ndarray, "windows"]:
    """The mean reward of successive recommendations; NaN where one of them has no reward."""
    rng, history = np.random.default_rng(seed), windows.history.rows(slice(None, None, EVERY))
    rewards = []
    for _ in range(STEPS):
        request = Request(1, policy.sampler, Permitted.of(without=history.items), propensities=False)
        items = policy.act(policy.states(history), request, rng).items[:, 0]
        rewards.append(sampling.reward(history, items))
        history = followed(history, items)
    return np.asarray(np.mean(rewards, axis=0))


def _ranked(slates: Sequence[Slate], windows: Windows, k: int) -> Values:
    """Whether and where the slates contain the next item."""
    held = (windows.history.items == windows.following[:, None]).any(axis=1)
    places = [Places.of_slates(slate.items, windows.following[:, None]) for slate in slates]
    return {
        f"{name}@{k}": np.where(held, np.nan, np.mean([metric(one, k) for one in places], axis=0))
        for name, metric in (("window_hr", hit_rate), ("window_ndcg", ndcg))
    }


def _described(windows: Windows) -> dict[str, int]:
    return {"windows": len(windows), "users": len(np.unique(windows.users)), "too_short": windows.too_short}
