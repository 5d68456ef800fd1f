"""How good a policy is on the validation users, whose targets training never saw."""

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int, Int32
from torch import Tensor

from what_next.data import Dataset, Split
from what_next.data.space import Space
from what_next.metrics.next_items import Histories, Targets, rank
from what_next.metrics.windows import Sampling, draw_windows
from what_next.retrieval.exact import NARROW
from what_next.settings import Setup
from what_next.training.distributed import ALONE, Ranks
from what_next.types import (
    History,
    Permitted,
    Policy,
    Proposal,
    Random,
    Request,
    Sampler,
    Slate,
    Softmax,
)

MOST = 10_000
"""Validation users that are measured during training, at most: always the same ones."""
ROWS = 64
"""Of them at a time."""
FEW = 2000
"""Those of whom every item's chance is computed, or the whole history read, at most."""
FEWEST = 500
"""Of whom every item's chance is computed, however many items there are."""
EVENTS = 2**21
"""Events of their histories, at most (or one user's)."""
SCORES = 2**26
"""Of items for users in each of many measurements, at most, where that leaves `FEW` users or more."""


def affordable(items: int) -> int:
    """Users of whom all items can be ranked many times."""
    return min(MOST, max(FEW, SCORES // items))


def next_items(
    policy: Policy,
    dataset: Dataset,
    split: Split,
    histories: Histories,
    *,
    seed: int,
    seen: bool = False,
    most: int = MOST,
    ranks: Ranks = ALONE,
    earned: Float32[np.ndarray, "events"] | None = None,
) -> dict[str, float]:
    """HR@10 and NDCG@10 of what came next, among items of the history too where `seen`. Empty: nobody is judged.

    Of so many users at `most`. Each of several processes (`ranks`) measures its share of them. With what each event of
    the log `earned`, also DCG@10: the gain of what came next is what it earned (Jarvelin and Kekalainen 2002).
    """
    targets = some_targets(dataset, split, seed, most)
    if not len(targets):
        return {}
    rows = ranks.share(len(targets))
    found = rank(policy, targets.of_rows(rows), histories, seen=seen)
    ndcg, hr = ranks.by_row(rows, found.ndcg, found.hr, count=len(targets))
    gain = (
        {}
        if earned is None
        else {"dcg@10": float((ndcg * earned[dataset.offsets[targets.users] + targets.before]).mean())}
    )
    return {"ndcg@10": float(ndcg.mean()), "hr@10": float(hr.mean()), **gain, "users": float(len(targets))}


class Shortlist(Policy[Proposal]):
    """A policy that is asked for the best items of the same histories again and again, while little of it changes.

    What some items have beside the inner product is never below 0 (`models.LinearTerm.boosts`). So the best ones are
    among those that have it, and those that would be the best without it. The latter are remembered as long as points
    and vectors are the same; only the two are looked at. Slates are those of the policy, made of fewer scores. It is
    for greedy requests of one length.

    Attributes:
        policy: what was given.
        vectors: of the items, in the last call.
        best: with them, the best items without boosts, by a hash of the points and of what may not be chosen.
    """

    def __init__(self, policy: Policy[Proposal]) -> None:
        self.policy, self.best = policy, dict[bytes, Int32[np.ndarray, "batch slots"]]()
        self.vectors: Tensor | None = None

    @property
    def sampler(self) -> Sampler:
        """That of the policy."""
        return self.policy.sampler

    def states(self, history: History) -> Proposal:
        """Those of the policy."""
        return self.policy.states(history)

    def propensities(
        self, states: Proposal, request: Request, slates: Int32[np.ndarray, "batch slots"]
    ) -> Float64[np.ndarray, "batch slots"]:
        """Those of the policy."""
        return self.policy.propensities(states, request, slates)

    def act(self, states: Proposal, request: Request, rng: Random = None) -> Slate:
        """The best items of each state."""
        ranked, permitted = states.ranked, request.permitted
        if ranked is None or ranked.boosts is None or ranked.rescored:
            return self.policy.act(states, request, rng)
        boosted, count = ranked.boosts.items, len(ranked.vectors)
        if NARROW * (request.width + boosted.shape[1]) > count:
            return self.policy.act(states, request, rng)
        if self.vectors is not ranked.vectors:
            if self.vectors is None or not torch.equal(self.vectors, ranked.vectors):
                self.best = {}
            self.vectors = ranked.vectors
        without = np.zeros(0) if permitted.without is None else permitted.without
        key = sha256(states.points.tobytes() + without.tobytes()).digest()
        if key not in self.best:
            alone = replace(states, ranked=replace(ranked, boosts=None))
            self.best[key] = self.policy.act(alone, request).items
        short = np.concatenate([self.best[key], boosted], 1)
        masks = np.zeros((len(short), count), np.bool_)
        rows, columns = np.nonzero(short >= 0)
        masks[rows, short[rows, columns]] = True
        return self.policy.act(states, replace(request, permitted=Permitted.of(masks, permitted.without)), rng)


def some_targets(dataset: Dataset, split: Split, seed: int, most: int) -> Targets:
    """The targets of the validation users; of so many at most, always the same ones."""
    targets = Targets.of(dataset, split, "validation")
    if len(targets) <= most and targets.before.sum() <= EVENTS:
        return targets
    chosen = np.random.default_rng(seed).choice(len(targets), min(most, len(targets)), replace=False)
    chosen = chosen[: max(1, np.searchsorted(targets.before[chosen].cumsum(), EVENTS))]
    return targets.of_rows(np.sort(chosen))


def _parts(targets: Targets, rows: Int[np.ndarray, "rows"], histories: Histories) -> Iterator[tuple[Targets, History]]:
    """Some of the rows of targets at a time, each with what was heard before it."""
    for start in range(0, len(rows), ROWS):
        some = targets.of_rows(rows[start : start + ROWS])
        yield some, histories(some.users, np.zeros_like(some.before), some.before)


def repeated(dataset: Dataset, split: Split, histories: Histories, *, seed: int) -> float:
    """The share of the targets that stand in their user's history; 0 where nobody is judged."""
    targets = some_targets(dataset, split, seed, FEW)
    parts = _parts(targets, np.arange(len(targets)), histories)
    found = [(history.items == some.items[:, None]).any(1) for some, history in parts]
    return float(np.concatenate(found).mean()) if found else 0.0


def surprise(
    policy: Policy, dataset: Dataset, split: Split, histories: Histories, *, seed: int, seen: bool, ranks: Ranks = ALONE
) -> float:
    """The mean negative logarithm of the chance that a softmax of the scores gives to what came next.

    Targets that may not be recommended, since they stand in the history, are left out; infinite where all are. A chance
    that is too small for a number counts as the smallest: scores that are too sure are the worse for it.
    """
    most = min(FEW, max(FEWEST, SCORES // len(dataset.catalogue)))
    targets, found = some_targets(dataset, split, seed, most), list[np.ndarray]()
    rows = ranks.share(len(targets))
    for some, history in _parts(targets, rows, histories):
        request = Request(1, Softmax(), Permitted.of(without=None if seen else history.items))
        chances = policy.propensities(policy.states(history), request, some.items[:, None])[:, 0]
        heard = (history.items == some.items[:, None]).any(1)
        found.append(np.where(heard & (not seen), 0.0, chances.clip(np.finfo(np.float64).tiny)))
    (chances,) = ranks.by_row(rows, np.concatenate([*found, np.zeros(0)]), count=len(targets))
    return float(-np.log(chances[chances > 0]).mean()) if (chances > 0).any() else np.inf


def spread(
    policy: Policy, dataset: Dataset, split: Split, histories: Histories, *, space: Space, setup: Setup
) -> dict[str, float]:
    """The mean spread reward (`towards`) on a window of each validation user. Empty: nobody is judged."""
    spread = setup.reward.spread
    since, until = split.targets("validation")
    windows = draw_windows(
        dataset, split.validation, histories, length=spread.window, per_user=1, since=since, until=until
    )
    if not len(windows):
        return {}
    rng = np.random.default_rng(setup.seed)
    request = Request(1, policy.sampler, Permitted.of(without=windows.history.items), propensities=False)
    items = policy.act(policy.states(windows.history), request, rng).items[:, 0]
    sampling = Sampling(space.catalogue.vectors, spread.window, spread.pairs)
    earned = sampling.reward(windows.history, items)
    found = earned[np.isfinite(earned)]
    return {f"spread@{spread.window}": float(found.mean()), "users": float(len(found))} if len(found) else {}
