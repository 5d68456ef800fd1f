"""A trained model as the target policy on a log: its chance of each logged item, given the user's earlier rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float32, Float64, Int32, Int64

from what_next.data import Dataset
from what_next.data.batches import by_length
from what_next.data.decisions.log import DecisionLog
from what_next.data.decisions.reader import read_log
from what_next.data.decisions.service_log import EVENT, is_service_log
from what_next.data.importing.columns import numeric
from what_next.data.stages import Done, no_progress
from what_next.errors import DataError, SetupError
from what_next.off_policy.decisions import Decisions, Target
from what_next.off_policy.served import EVENTS, PAIRS, Asked
from what_next.off_policy.targets import FULL, PolicyOnLog, TargetPolicy, outside_note
from what_next.policy import LearnedPolicy
from what_next.settings import Setup, SplitSettings
from what_next.state import State
from what_next.training.artefacts import read_manifest
from what_next.types import Permitted, Request

Which = Bool[np.ndarray, "rows"]

DECIDED_UNTIL = "decided_until"
"""Key in a model's manifest: the time of the last decision in its training data."""


class Learned(TargetPolicy):
    """The trained agent of a setup.

    On the exported log of a service it is judged as the service would run it: with the information that each decision
    had, and with the setup's `server.temperature` and `server.epsilon`. On any other log it draws from its own
    distribution given the user's earlier rows, and without the items of these unless `seen`.
    """

    def __init__(self, name: str, setup: Setup, *, seen: bool = False) -> None:
        """`name`: for messages and results, such as the setup's file."""
        self.name, self.seen = name, seen
        # No test or validation split: the log is not trained on.
        self.setup = setup.model_copy(update={"split": SplitSettings(test=0, validation=0)})

    def on_log(self, log: DecisionLog, decisions: Decisions, done: Done = no_progress) -> PolicyOnLog:
        """See `TargetPolicy.on_log`. Rows are covered if their user has at least one earlier known event.

        Decisions of a service that are in the agent's training data are not covered.

        Raises:
            DataError: the log has no users, no user has a known event, or the agent was trained on all of the log.
            ModelError: the model is missing or damaged.
            SetupError: `seen` is given for a service's log, which tells it itself; or slates have marginal chances.
        """
        if log.user_ids is None:
            raise DataError(
                f"{log.source.path}: has no users, so {self.name} has no histories to decide by; name their column "
                "with --user, or judge uniform, a column, or another log"
            )
        if decisions.marginal and decisions.slated:
            raise SetupError(
                f"{self.name}: a model's chances are of items given those above them in a slate, and the propensities "
                f"of {log.source.path} are marginal (--marginal, or estimated); judge by a log with chances like those"
            )
        events, learned = self._events(log), self._learned_from(log)
        covered = self._asked(log, events, learned)
        target, outside = self._target(log, decisions, events, covered, done)
        about = {
            "kind": "setup",
            "setup": self.name,
            "algorithm": self.setup.algorithm.name,
            "run": read_manifest(self.setup.model_agent_path, "agent").run,
            "seen": self.seen,
            "unknown_items": int((events.places[log.actions] < 0).sum()),
            "without_history": int((events.before == 0).sum()),
            "learned": int(learned.sum()),
            "outside": outside,
            "own": log.kind != "service" and self._trained_on(log),
        }
        return PolicyOnLog(target, covered, about, tuple(self._notes(log, about)))

    def _events(self, log: DecisionLog) -> "_Events | Asked":
        policy = LearnedPolicy.load(self.setup)
        if log.kind != "service":
            return _Events.of(log, policy, self.seen)
        if self.seen:
            raise SetupError(f"--seen: {log.source.path} says for each decision whether items could be shown again")
        return Asked.of(log, policy, self.setup.server)

    def _asked(self, log: DecisionLog, events: "_Events | Asked", learned: Which) -> Which:
        """The rows with a known history that the agent was not trained on; a `DataError` if there are none."""
        covered = events.before > 0
        if not covered.any():
            before = "a known event" if log.kind == "service" else "an earlier one of the same user"
            raise DataError(
                f"{log.source.path}: no row has {before} with an item that {self.name} knows "
                f"({len(events.policy.agent.space.catalogue):,} items); give a log of the same catalogue, with "
                "users who come back"
            )
        if learned[covered].all():
            raise DataError(
                f"{log.source.path}: {self.name} was trained on what all these decisions brought; judge on later ones"
            )
        return np.asarray(covered & ~learned)

    def _target(
        self, log: DecisionLog, decisions: Decisions, events: "_Events | Asked", covered: Which, done: Done
    ) -> tuple[Target, float]:
        """The agent's chances, and their mean share on items outside the log's catalogue."""
        rows, items, outside = len(log), len(log.items), 0.0
        chances, expected = np.zeros(rows), np.zeros((rows, decisions.vectors.shape[1]))
        full = np.zeros((rows, items)) if rows * items <= FULL else None
        known = events.places >= 0
        done(rows - int(covered.sum()))
        for part, found in events.chances(np.flatnonzero(covered)):
            mine = np.where(known, found[:, np.where(known, events.places, 0)], 0.0)
            chances[part] = mine[np.arange(len(part)), log.actions[part]]
            expected[part] = mine @ decisions.vectors
            outside += float((1 - mine.sum(axis=1)).sum())
            if full is not None:
                full[part] = mine
            done(len(part))
        return Target(chances, expected, full), max(0.0, outside / int(covered.sum()))

    def _learned_from(self, log: DecisionLog) -> Which:
        """The rows of a service's log whose slates are in the agent's training data."""
        found = np.zeros(len(log), np.bool_)
        if log.kind == "service":
            slates = log.source.frame.select("slate").collect().to_series().gather(log.order)
            manifest = read_manifest(self.setup.model_agent_path, "agent")
            trained = manifest.made_by(type(self.setup.algorithm))
            until = manifest.metrics.get("fitted", {}).get(DECIDED_UNTIL)
            for data in {self.setup.data, trained.data, trained.decisions.log}:
                if data is not None and is_service_log(data):
                    rows = pl.scan_parquet(data, glob=False).filter(~EVENT)
                    if until is not None:  # the export may have grown since training
                        rows = rows.filter(pl.col("timestamp").dt.epoch("us") <= until)
                    told = rows.select(pl.col("slate").unique()).collect().to_series()
                    found |= slates.is_in(told.implode()).to_numpy()
        return found

    def _trained_on(self, log: DecisionLog) -> bool:
        """Whether the agent's training data are this log: the same file, or the same rows."""
        data = self.setup.data
        if data.resolve() == log.source.path.resolve():
            return True
        try:
            return data.is_file() and read_log(data, propensities=False).content == log.content
        except DataError:  # not a decision log: it has no rewards
            return False

    def _notes(self, log: DecisionLog, about: dict[str, Any]) -> Iterator[str]:
        if about["without_history"] and log.kind == "service":
            yield (
                f"{about['without_history']:,} rows left out: nothing was known of their user, so popular items would "
                f"be the answer, and not {self.name}"
            )
        elif about["without_history"]:
            yield (
                f"{about['without_history']:,} rows without an earlier row of their user are only used as history: "
                f"{self.name} cannot be asked there"
            )
        if about["learned"]:
            yield f"{about['learned']:,} rows left out: {self.name} was trained on what they brought"
        if about["unknown_items"]:
            yield f"{about['unknown_items']:,} rows show items that {self.name} does not know: it would never show them"
        if about["outside"] > 1e-9:
            yield outside_note(about["outside"])
        if about["own"]:
            yield (
                f"{self.name} was trained on this log: it has seen these rewards, and the estimate is too good; judge "
                "on later rows"
            )


@dataclass(frozen=True, eq=False)
class _Events:
    """The log as histories that the agent reads: the rows whose items are in the agent's catalogue.

    Attributes:
        policy: the agent's, with a state of the log's events in the agent's catalogue.
        seen: whether items of the history may be chosen.
        users: the user of each row of the log; `before`: how many events of that user come before it.
        above: the items above each row in its slate, in the agent's catalogue; -1 for padding and unknown items.
        places: the index of each item of the log in the agent's catalogue; -1 if it is not there.
    """

    policy: LearnedPolicy
    seen: bool
    users: Int64[np.ndarray, "rows"]
    before: Int64[np.ndarray, "rows"]
    above: Int32[np.ndarray, "rows width"]
    places: Int64[np.ndarray, "items"]

    @classmethod
    def of(cls, log: DecisionLog, policy: LearnedPolicy, seen: bool) -> "_Events":
        """The events, with the rewards, times and context that the agent reads."""
        assert log.user_ids is not None
        agent, space = policy.agent, policy.state.space
        places = space.catalogue.index(log.items.ids.to_list()).astype(np.int64)
        known = places[log.actions] >= 0
        owners = log.units[known]
        names = [name for name in agent.space.context_names if name in log.source.names]
        dataset = Dataset(
            name=str(log.source.path),
            user_ids=log.user_ids,
            items=places[log.actions[known]].astype(np.int32),
            offsets=np.searchsorted(owners, np.arange(log.count + 1)).astype(np.int64),
            timestamps=None if log.times is None else log.times[known],
            rewards=log.rewards[known].astype(np.float32),
            context=_context(log, names)[known],
            context_names=tuple(names),
            catalogue=agent.space.catalogue,
        )
        policy = LearnedPolicy(agent, State(dataset, agent.setup, space))
        running, rows = np.cumsum(known) - known, np.arange(len(log))
        # Rows decided at the same moment are not each other's history. In a slate, earlier rows are above later ones.
        now = log.moments
        before = running[now] - running[np.searchsorted(log.units, log.units)]
        steps = np.arange(0 if log.slates is None else int((rows - now).max()))
        above = np.where(
            steps < (rows - now)[:, None], places[log.actions[np.minimum(now[:, None] + steps, rows[-1])]], -1
        )
        return cls(policy, seen, log.units, before, above.astype(np.int32), places)

    def chances(
        self, rows: Int64[np.ndarray, "asked"]
    ) -> Iterator[tuple[Int64[np.ndarray, "part"], Float64[np.ndarray, "part items"]]]:
        """The chance of every item of the agent's catalogue, in batches of rows with histories of similar length."""
        # The chances are also gathered into the log's catalogue, which may be the larger one.
        policy, widest = self.policy, max(len(self.policy.agent.space.catalogue), len(self.places))
        for some in by_length(self.before[rows], EVENTS, PAIRS // widest):
            part = rows[some]
            lengths = self.before[part]
            history = policy.state.histories(self.users[part].astype(np.int32), np.zeros_like(lengths), lengths)
            heard = history.items[:, :0] if self.seen else history.items
            permitted = Permitted(without=np.concatenate([heard, self.above[part]], axis=1))
            request, nothing = Request(1, policy.sampler, permitted), np.full((len(part), 1), -1, np.int32)
            yield part, next(policy.chances(policy.states(history), request, nothing))


def _context(log: DecisionLog, names: list[str]) -> Float32[np.ndarray, "rows names"]:
    """The log's columns that the agent reads as context of events; 0 for a missing number."""
    numbers = numeric(log.source.frame, names)
    columns = [log.source.frame.select(numbers[name].fill_null(0)).collect().to_series()[log.order] for name in names]
    return np.array(columns, np.float32).reshape(len(names), len(log)).T
