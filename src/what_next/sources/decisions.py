"""Decisions as a source: the items a service showed, their propensities and rewards, after the events known then."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain, count, islice
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, Int64

from what_next.agent import Agent
from what_next.data.batches import JITTER, LEAST, ranges
from what_next.data.decisions.log import DecisionLog
from what_next.data.decisions.reader import read_log
from what_next.data.decisions.service_log import is_service_log
from what_next.errors import DataError, SetupError
from what_next.off_policy.learned import DECIDED_UNTIL
from what_next.policy import LearnedPolicy
from what_next.rewards import check
from what_next.settings import SHARE
from what_next.sources.base import Mixture, Source
from what_next.sources.joined import Answers
from what_next.sources.log import LogSource
from what_next.state import State
from what_next.types import Batch, History, Impressions

Shown = Float64[np.ndarray, "shown"]


def with_decisions(state: State) -> Source:
    """The log, with decisions beside its events if the setup asks for them or leaves it open (`decisions.share`).

    Raises:
        DataError: the setup asks for decisions, and there are none to learn from.
        SetupError: the setup asks for decisions, and its algorithm cannot learn from them.
    """
    setup, wanted = state.setup, state.setup.decisions
    path = wanted.log or setup.data
    asked, able = wanted.share is not None or wanted.log is not None, setup.algorithm.learns_from_decisions()
    if wanted.share == 0 or not (asked or (able and is_service_log(path))):
        return LogSource(state)
    try:
        source = DecisionSource(state, decisions_in(path))
    except DataError as error:
        if asked:
            raise
        return LogSource(state, reasons=[f"decisions.share 0: events alone are learned from, since {error}"])
    return beside_events(source, SHARE if wanted.share is None else wanted.share)


def refuse_unable(state: State) -> None:
    """Raise a `SetupError` if decisions are asked for and the algorithm cannot learn from them."""
    setup, algorithm = state.setup, state.setup.algorithm
    share = SHARE if setup.decisions.share is None and setup.decisions.log else setup.decisions.share
    if not share or algorithm.learns_from_decisions():
        return
    reasons = {
        "bandit": "tries items by itself, whose rewards it knows without a log",
        "world": "learns by acting in a world",
        "log": "reads as an input what is still to be earned, which would tell it of the item that was taken",
    }
    raise SetupError(
        f"decisions.share is {share:g}, and the algorithm {algorithm.name} "
        f"{reasons.get(algorithm.source, f'learns from the source {algorithm.source}')}; take another algorithm, such "
        "as reinforce, or decisions.share 0"
    )


def beside_events(source: "DecisionSource", share: float) -> Source:
    """The decisions, mixed with the events from before the first decision about each user."""
    events, given = LogSource(source.state, source.before), source.setup.decisions.share is not None
    if share == 1 or not len(events.users):
        why = "" if share == 1 else "; no user has events from before the first of these, so nothing stands beside them"
        source.reasons.append(f"decisions.share 1: {source.about}{why}")
        return source
    source.reasons.append(
        f"decisions.share {share:g}{'' if given else ' by default'}: {source.about}; beside them stand the events of "
        f"{len(events.users):,} users up to the first of these about each; `decisions.share` sets another, 0: events "
        "alone"
    )
    return Mixture({source: share, events: 1 - share})


def decisions_in(path: Path) -> DecisionLog:
    """The decisions of an exported log that can be learned from.

    Raises:
        DataError: it is no exported log, it has no usable propensity, or all rewards are equal.
    """
    if not is_service_log(path):
        raise DataError(
            f"{path}: is no exported log of a service, so it holds no decisions; write one with `what-next log export "
            "SETUP --to log.parquet`, and name it by data or decisions.log"
        )
    log = read_log(path)
    if np.ptp(log.rewards) == 0:
        raise DataError(
            f"{path}: all {len(log):,} items that were shown brought {log.rewards[0]:g}, so none is better than "
            "another; send feedback to the service, then export the log again"
        )
    return log


class DecisionSource(Source):
    """Items that were shown: each position of a slate is a step of its own, in the state in which the slate was chosen.

    A step's reward is that of its own item. The next state is the one in which the user's next slate was chosen; after
    the last slate nothing follows. So rewards add up over a slate, an item's reward does not depend on the others, as
    in Chen et al. (2019, section 4.3) and SlateQ (Ie et al. 2019, section 4.1), and all items of a slate are credited
    with what follows it. Left out are answers to users set aside by the split, answers after a held-out event or with
    its item, and answers for which no event was known.

    Attributes:
        answers: all answers of the log; `decisions`: those learned from, by user and time.
        rows: rows of the log, all items of the decisions; `owner`: for each of these rows, its index in `decisions`.
        before: for each user of the data, the number of events up to the user's first decision.
        reasons: sentences about the choice of decisions.
    """

    foreseen = False  # it does not learn what users do by themselves

    def __init__(self, state: State, log: DecisionLog | None = None) -> None:
        """Join the decisions to the events known to each; without a `log`, the setup's decisions are read.

        Raises:
            DataError: the log has another catalogue, or no decision is left.
        """
        super().__init__(state)
        log = log or decisions_in(self.setup.decisions.log or self.setup.data)
        check(state.setup.reward.terms, replace(state.dataset, catalogue=state.space.catalogue))
        self.answers, self.reasons = Answers(state, log), list(log.notes)
        self.decisions = self._usable()
        self.before = self.answers.before(self.decisions)
        first = self.answers.first
        sizes = np.diff(first)[self.decisions]
        self.owner = np.repeat(np.arange(len(sizes)), sizes)
        self.rows = ranges(first[self.decisions], sizes)
        self.gains = self.answers.gains[self.rows]
        self.units = self.answers.units[self.decisions]
        self._look_ahead()
        self.resume(0, 0)

    def _usable(self) -> Int64[np.ndarray, "decisions"]:
        """The answers that training may know and for which events were known; a `DataError` if there are none."""
        answers = self.answers
        held, unknown = answers.held, (answers.lengths == 0) & ~answers.held
        for some, why in (
            (int(unknown.sum()), "nothing was known of whom they were for"),
            (
                int(held.sum()),
                f"the split {self.state.split.kind} holds back their users, or events that they knew or that followed "
                "(`split, users` holds back some users whole, and none with split.test and split.validation 0)",
            ),
        ):
            if some:
                self.reasons.append(f"{some:,} answers left out: {why}")
        usable = np.flatnonzero(~held & ~unknown)
        if not len(usable):
            raise DataError(
                f"{answers.log.source.path}: none of {len(answers):,} answers is left to learn from "
                f"({'; '.join(self.reasons)}); serve more users of whom something is known, or hold fewer back"
            )
        return usable

    def _look_ahead(self) -> None:
        """For each decision, the sum of `n_step` rewards, the decision after those, and the whole return."""
        count, discount, steps = len(self.decisions), self.setup.discount, self.setup.n_step
        totals = np.bincount(self.owner, self.gains, count)
        last = np.searchsorted(self.units, self.units, "right") - 1
        later, summed = np.zeros(count), np.zeros(count)
        for place in range(count - 2, -1, -1):
            if place < last[place]:
                later[place] = discount * (totals[place + 1] + later[place + 1])
        for step in range(1, steps):
            there = np.flatnonzero(np.arange(count) + step <= last)
            summed[there] += discount**step * totals[there + step]
        ahead = np.arange(count) + steps
        self.follows, self.ends = np.where(ahead <= last, ahead, -1), np.arange(count) == last
        self.returns = (self.gains + later[self.owner]).astype(np.float32)
        self.rewards = (self.gains + summed[self.owner]).astype(np.float32)

    # Batches

    @cached_property
    def sizes(self) -> Int64[np.ndarray, "decisions"]:
        """Number of items that each decision showed."""
        return np.bincount(self.owner)

    @cached_property
    def most(self) -> int:
        """About how many items make a batch; fewer if a pass would otherwise have fewer than `LEAST` batches."""
        shown, setup = len(self.owner), self.setup
        if setup.batch_size is not None:
            return max(1, round(setup.batch_size * shown / len(np.unique(self.units))))
        return max(1, min(setup.batch_targets, shown // LEAST))

    @cached_property
    def groups(self) -> list[Int64[np.ndarray, "..."]]:
        """Runs of one user's decisions, each with at most about as many items as a batch."""
        shown = self.sizes.cumsum() - self.sizes
        part = (shown - shown[np.searchsorted(self.units, self.units)]) // self.most
        new = (np.diff(self.units, prepend=-1) != 0) | (np.diff(part, prepend=0) != 0)
        return np.split(np.arange(len(self.units)), np.flatnonzero(new)[1:])

    def _order(self, passed: int) -> list[Int64[np.ndarray, "..."]]:
        """The groups of each batch of a pass; groups with histories of similar length share a batch."""
        rng = np.random.default_rng([self.setup.seed, passed, 1])
        lengths = self.answers.lengths[self.decisions]
        longest = np.array([lengths[one].max() for one in self.groups])
        order = np.argsort(longest * rng.normal(1, JITTER, len(longest)), kind="stable")
        shown = np.array([self.sizes[self.groups[one]].sum() for one in order])
        batch = (shown.cumsum() - shown) // self.most
        parts = np.split(order, np.flatnonzero(np.diff(batch)) + 1)
        return [parts[turn] for turn in rng.permutation(len(parts))]

    def next_batch(self, policy: LearnedPolicy, rng: np.random.Generator) -> Batch:
        """See `Source.next_batch`. The policy is not asked, because the service chose. Fixed by seed and step."""
        return self.batch(policy, [self.groups[one] for one in next(self._batches)])

    def resume(self, histories: int, steps: int) -> None:
        """See `Source.resume`."""
        passes = (self._order(passed) for passed in count())
        self._batches = islice(chain.from_iterable(passes), steps, None)

    def batch(self, policy: LearnedPolicy, groups: Sequence[Int64[np.ndarray, "..."]]) -> Batch:
        """The batch of some groups of decisions; its events reach to the states that these lead to."""
        seen = [np.union1d(one, (after := self.follows[one])[after >= 0]) for one in groups]
        states, history = self._states(seen)
        place, own = np.full(len(self.decisions), -1), np.zeros(len(self.decisions), np.bool_)
        place[np.concatenate(seen)], own[np.concatenate(groups)] = states, True
        shown = np.flatnonzero(own[self.owner])
        owner = self.owner[shown]
        rows, ahead = self.rows[shown], self.follows[owner]
        actions, discount = self.answers.actions.astype(np.int32), self.setup.discount
        assert self.answers.log.propensities is not None
        propensities = self.answers.log.propensities[rows]
        inverse = inverse_chances(propensities, self.setup.decisions.weight_cap)
        impressions = Impressions(
            places=place[owner],
            following=np.where(ahead >= 0, place[ahead], place[owner]),
            actions=actions[rows],
            rewards=self.rewards[shown],
            discounts=np.where(ahead >= 0, discount**self.setup.n_step, 0).astype(np.float32),
            step_discounts=np.where(self.ends[owner], 0, discount).astype(np.float32),
            next_actions=np.where(ahead >= 0, actions[self.answers.first[self.decisions[ahead]]], -1).astype(np.int32),
            returns=self.returns[shown],
            propensities=propensities,
            inverse=inverse,
            weights=imitated(inverse, self.gains[shown]),
        )
        return self._on_grid(policy, history, impressions, self.gains[shown])

    def _states(self, groups: Sequence[Int64[np.ndarray, "..."]]) -> tuple[Int64[np.ndarray, "some"], History]:
        """The position of each decision's state on the flattened grid of events, and the events."""
        keys: dict[tuple[int, ...], int] = {}
        rows: list[np.ndarray] = []
        owners, found = [], []
        for group, decisions in enumerate(groups):
            for answer in self.decisions[decisions].tolist():
                key, events = self.answers.row(answer)
                row = keys.setdefault((group, *key), len(rows))
                if row == len(rows):
                    rows.append(events)
                    owners.append(answer)
                elif len(events) > len(rows[row]):
                    rows[row] = events
                found.append((row, len(events) - 1))
        history = self.answers.history(rows, np.array(owners))
        return np.array(found, np.int64) @ [history.items.shape[1], 1], history

    def _on_grid(self, policy: LearnedPolicy, history: History, shown: Impressions, gains: Shown) -> Batch:
        """The events, and at each state the first item shown there and the sum of the slate's rewards."""
        items = history.items
        actions = np.full(items.shape, -1, np.int32)
        actions.flat[shown.places[::-1]] = shown.actions[::-1]
        return Batch(
            items=items,
            factors=policy.agent.factorize(history),
            actions=actions,
            rewards=np.bincount(shown.places, gains, items.size).reshape(items.shape).astype(np.float32),
            mask=actions >= 0,
            discounts=np.zeros(items.shape, np.float32),
            histories=len(np.unique(shown.places // items.shape[1])),
            impressions=shown,
        )

    # A run

    def prepare(self, agent: Agent) -> None:
        """See `Source.prepare`: as for the log."""
        LogSource(self.state).prepare(agent)

    @property
    def save_every(self) -> int:
        """As for the log."""
        return LogSource(self.state).save_every

    @property
    def about(self) -> str:
        """In words, the decisions that are learned from."""
        share = float((self.gains > 0).mean())
        return (
            f"of {len(self.decisions):,} answers that were drawn, {share:.1%} of the {len(self.owner):,} items that "
            "were shown brought something"
        )

    @property
    def chosen(self) -> tuple[Mapping[str, str | int], Sequence[str]]:
        """The decisions that are learned from and why; and that validation does not choose among models."""
        reasons = [*self.reasons]
        if self.setup.patience and len(self.state.split.validation):
            reasons.append(
                "patience is not heeded: what validation users do by themselves does not tell how good a choice is; "
                "training goes on to its end, and the last model is kept"
            )
        loss = self.setup.loss.over(len(self.state.space.catalogue))
        times = self.answers.log.times
        assert times is not None, "answers have their times"
        last = int(times.max())  # of all decisions: events from held-out ones may be learned from
        return {"decisions": len(self.decisions), DECIDED_UNTIL: last, "loss": loss}, reasons


def inverse_chances(propensities: Shown, cap: float) -> Float32[np.ndarray, "shown"]:
    """Inverse propensities divided by their mean, capped at `cap`, and divided by their mean again.

    Rare items then count as if all had been shown equally often: self-normalised (Swaminathan and Joachims 2015, NIPS,
    equation 9) and truncated (Ionides 2008, "Truncated Importance Sampling").
    """
    if not len(propensities):
        return np.zeros(0, np.float32)
    found = 1 / propensities
    found = np.minimum(found / found.mean(), cap)
    return np.asarray(found / found.mean(), np.float32)


def imitated(inverse: Float32[np.ndarray, "shown"], gains: Shown) -> Float32[np.ndarray, "shown"]:
    """Weights of items in an imitation loss: reward over propensity, scaled to a mean of 1.

    Items without a positive reward have weight 0. The weighted cross entropy bounds the policy's inverse-propensity
    reward estimate (Ma, Wang and Narayanaswamy 2019, "Imitation-Regularized Offline Learning", section 3).
    """
    weights = inverse * np.maximum(gains, 0)
    mean = float(weights.mean()) if len(weights) else 0.0
    return np.asarray(weights / mean if mean else weights, np.float32)
