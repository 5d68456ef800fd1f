"""How good a policy is on the validation users, whose targets are held out from training."""

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int, Int32
from torch import Tensor

from what_next.data import Dataset, Split
from what_next.data.space import Space
from what_next.errors import counted
from what_next.metrics.next_items import Histories, Targets, rank
from what_next.metrics.windows import Sampling, draw_windows
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
"""Most validation users that are measured during training; always the same ones."""
ROWS = 64
"""Users measured at a time."""
FEW = 2000
"""Most users for whom every item's probability is computed, or the whole history is read."""
FEWEST = 500
"""At least this many users have every item's probability computed, however many items there are."""
UNIFORM = 0.5
"""A softmax that draws among more than this share of the items, by their effective number, is almost uniform: on
ml-100k it draws among 0.12 of them, on a log of random items among 0.81."""
EVENTS = 2**21
"""Most events of the validation users' histories together (or one user's)."""
GATHERED = 128
"""The vector of one item, gathered for one user, costs as much time as some 80 of a product of all vectors with many
points; fewer than 1 / `GATHERED` of the items are therefore scored by themselves."""
SCORES = 2**26
"""Most scores (items x users) in each of many measurements, as long as that allows `FEW` users or more."""

UNSURE, LONG = 100, 1000
"""With fewer validation targets than `UNSURE`, which of two models is better on them is mostly chance. Training says so
if users have at least `LONG` events on average, because such histories can be cut into more users."""


def affordable(items: int) -> int:
    """Number of users for whom all items can be ranked many times."""
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
    """HR@10 and NDCG@10 of the item that came next; with `seen`, items of the history are ranked too. Empty: no users.

    At most `most` users are measured. Each of several processes (`ranks`) measures its share of them. With `earned`,
    the reward of each event of the log, also DCG@10, whose gain is the reward of the item that came next (Jarvelin and
    Kekalainen 2002).
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
    """A policy that is asked for the best items of the same histories many times, while few of its scores change.

    Boosts (`models.LinearTerm.boosts`) are never below 0. So the best items are among those with a boost and those that
    are best without boosts. The latter are cached as long as points and vectors stay the same, and only these two sets
    are scored. The slates are the policy's own, from fewer scores. Requests must be greedy and of one length.

    Attributes:
        policy: the policy that it wraps.
        vectors: the item vectors of the last call.
        best: the best items without boosts for these vectors, by a hash of the points and the excluded items.
    """

    def __init__(self, policy: Policy[Proposal]) -> None:
        self.policy, self.best = policy, dict[bytes, Int32[np.ndarray, "batch slots"]]()
        self.vectors: Tensor | None = None

    @property
    def sampler(self) -> Sampler:
        """The policy's sampler."""
        return self.policy.sampler

    def states(self, history: History) -> Proposal:
        """The policy's states."""
        return self.policy.states(history)

    def propensities(
        self, states: Proposal, request: Request, slates: Int32[np.ndarray, "batch slots"]
    ) -> Float64[np.ndarray, "batch slots"]:
        """The policy's propensities."""
        return self.policy.propensities(states, request, slates)

    def act(self, states: Proposal, request: Request, rng: Random = None) -> Slate:
        """The best items of each state."""
        ranked, permitted = states.ranked, request.permitted
        if ranked is None or ranked.boosts is None or ranked.rescored:
            return self.policy.act(states, request, rng)
        boosted, count = ranked.boosts.items, len(ranked.vectors)
        if GATHERED * (request.width + boosted.shape[1]) > count:
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
    """The targets of the validation users; at most `most`, always the same ones."""
    targets = Targets.of(dataset, split, "validation")
    if len(targets) <= most and targets.before.sum() <= EVENTS:
        return targets
    chosen = np.random.default_rng(seed).choice(len(targets), min(most, len(targets)), replace=False)
    chosen = chosen[: max(1, np.searchsorted(targets.before[chosen].cumsum(), EVENTS))]
    return targets.of_rows(np.sort(chosen))


def doubts(dataset: Dataset, split: Split, seed: int) -> list[str]:
    """A message if few long histories leave so few validation targets that these choose by chance."""
    targets = some_targets(dataset, split, seed, MOST)
    if not 0 < len(targets) < UNSURE or dataset.events < LONG * dataset.users:
        return []
    users, whole = len(targets.people[0]), len(Targets.of(dataset, split, "validation").people[0])
    some = f"{users} of the {whole}" if users < whole else str(users)
    return [
        f"validation has {counted(len(targets), 'target')}, one event of each of {some} validation users: too few to "
        "tell which of two models is better, when training should end, or how much the counts of the log weigh. Long "
        "histories can be cut into more users, for example one for each day: see 'few users with long histories' in "
        "docs/quickstart.md"
    ]


def _parts(targets: Targets, rows: Int[np.ndarray, "rows"], histories: Histories) -> Iterator[tuple[Targets, History]]:
    """Chunks of the rows of targets, each with the histories before its targets."""
    for start in range(0, len(rows), ROWS):
        some = targets.of_rows(rows[start : start + ROWS])
        yield some, histories(some.users, np.zeros_like(some.before), some.before)


def repeated(dataset: Dataset, split: Split, histories: Histories, *, seed: int) -> float:
    """The share of the targets that the user's history holds; 0 without validation users."""
    targets = some_targets(dataset, split, seed, FEW)
    parts = _parts(targets, np.arange(len(targets)), histories)
    found = [(history.items == some.items[:, None]).any(1) for some, history in parts]
    return float(np.concatenate(found).mean()) if found else 0.0


def surprise(
    policy: Policy,
    dataset: Dataset,
    split: Split,
    histories: Histories,
    *,
    seed: int,
    seen: bool,
    known: Bool[np.ndarray, "items"] | None = None,
    ranks: Ranks = ALONE,
) -> float:
    """The mean negative log-likelihood of the item that came next, under a softmax of the scores.

    Targets that may not be recommended, because the history holds them, are left out, and those of items that are not
    `known` (None: all are): no score tells how likely these are. Infinite if all are left out. A probability that
    underflows counts as the smallest positive number, which penalises overconfident scores.
    """
    most = min(FEW, max(FEWEST, SCORES // len(dataset.catalogue)))
    targets, found = some_targets(dataset, split, seed, most), list[np.ndarray]()
    rows = ranks.share(len(targets))
    for some, history in _parts(targets, rows, histories):
        request = Request(1, Softmax(), Permitted.of(without=None if seen else history.items))
        chances = policy.propensities(policy.states(history), request, some.items[:, None])[:, 0]
        out = (history.items == some.items[:, None]).any(1) & (not seen)
        if known is not None:
            out |= ~known[some.items]
        found.append(np.where(out, 0.0, chances.clip(np.finfo(np.float64).tiny)))
    (chances,) = ranks.by_row(rows, np.concatenate([*found, np.zeros(0)]), count=len(targets))
    return float(-np.log(chances[chances > 0]).mean()) if (chances > 0).any() else np.inf


def nearly_uniform(
    policy: Policy, dataset: Dataset, split: Split, histories: Histories, *, seed: int, seen: bool
) -> str | None:
    """That a service which draws from the softmax of the scores would draw almost at random, if it would."""
    items, many = len(dataset.catalogue), drawn(policy, dataset, split, histories, seed=seed, seen=seen)
    if many <= UNIFORM * items:
        return None
    return (
        "the log hardly tells which item comes next, so a service with server.temperature 1 would draw almost at "
        f"random, as if evenly among {many:,.0f} of {items:,} items; a lower one prefers the best items"
    )


def drawn(policy: Policy, dataset: Dataset, split: Split, histories: Histories, *, seed: int, seen: bool) -> float:
    """The effective number of items among which a softmax of the scores draws: the exponential of its mean entropy,
    from one draw for each validation user; 0 without validation users."""
    found, rng = list[np.ndarray](), np.random.default_rng(seed)
    targets = some_targets(dataset, split, seed, FEWEST)
    for _, history in _parts(targets, np.arange(len(targets)), histories):
        request = Request(1, Softmax(), Permitted.of(without=None if seen else history.items))
        slates = policy.act(policy.states(history), request, rng)
        assert slates.propensities is not None
        found.append(-np.log(slates.propensities[:, 0]))
    return float(np.exp(np.concatenate(found).mean())) if found else 0.0


def spread(
    policy: Policy, dataset: Dataset, split: Split, histories: Histories, *, space: Space, setup: Setup
) -> dict[str, float]:
    """The mean spread reward (`towards`) on a window of each validation user. Empty: no users to judge."""
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
