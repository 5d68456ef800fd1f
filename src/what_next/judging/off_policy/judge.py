"""What a policy would have earned by a log of decisions; and whether a new one may replace the current one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from what_next.data.decision_log import DecisionLog, Roles
from what_next.data.decision_reader import read_log
from what_next.errors import DataError, SetupError
from what_next.evaluation.off_policy import Decisions, Options, Target, difference, estimate
from what_next.evaluation.off_policy.marginalised import clusters_of
from what_next.judging.off_policy.behaviour import estimate_behaviour
from what_next.judging.off_policy.learned import Learned
from what_next.judging.off_policy.targets import (
    COLUMNS,
    Answer,
    Frequencies,
    TargetPolicy,
    Told,
    Uniform,
    decisions_of,
    vectors_of,
)

LOGS = {".csv", ".tsv", ".parquet", ".pq", ".gz", ".dat", ".inter", ".pk", ".pkl", ".pickle"}
"""Endings of files that are logs; any other file is a setup."""
ROUNDING = 1e-9
"""Part of an estimate that a difference has to exceed, so that two ways to write the same policy do not differ."""
SETTINGS = ("level", "resamples", "seed", "discount", "thresholds")
"""What estimates were made with."""
FEW = 100
"""Rows with another reward than the commonest, of which fewer decide nothing, whatever an interval of them says."""


@dataclass(frozen=True)
class Reading:
    """Which log decides, and how it is read.

    Attributes:
        path: of the log; `roles`, `items`: see `read_log`.
        estimated: take the behaviour policy's chances from the log's own frequencies, and not from a column.
        seen: a trained model may choose items of the user's history, too.
        clusters: how many clusters of items marginalised weights are of; None: see `Options`.
        discount: of rewards along a user's rows; None leaves estimators of sequences out.
        level: of the intervals, in percent.
        seed: of whatever is drawn: resamples, folds, halves.
    """

    path: Path
    roles: Roles = field(default_factory=Roles)
    items: Path | None = None
    estimated: bool = False
    seen: bool = False
    clusters: int | None = None
    discount: float | None = None
    level: float = 95.0
    seed: int = 0


@dataclass(frozen=True, eq=False)
class _Case:
    """The rows in which all policies could be asked, and what these would do there.

    Attributes:
        log: those rows; `left`: how many others the file has.
        decisions, options: the same, as estimators read them.
        answers: of the policies, over all rows of the file; `targets`: over those of `log`.
        behaviour: how propensities are known, as plain values.
    """

    log: DecisionLog
    left: int
    decisions: Decisions
    options: Options
    answers: Sequence[Answer]
    targets: Sequence[Target]
    behaviour: dict[str, Any]

    @classmethod
    def of(cls, reading: Reading, policies: Sequence[str]) -> "_Case":
        whole, behaviour = _read(reading)
        vectors = vectors_of(whole)
        everything = decisions_of(whole, vectors)
        answers = [policy_of(one, whole, reading).answer(whole, everything) for one in policies]
        asked = np.logical_and.reduce([one.asked for one in answers])
        if not asked.any():
            raise DataError(f"{reading.path}: no row in which {' and '.join(policies)} could be asked")
        log = whole.of_rows(asked)
        return cls(
            log,
            len(whole) - len(log),
            decisions_of(log, vectors),
            _options(log, reading),
            answers,
            [one.of_rows(asked) for one in answers],
            behaviour,
        )

    def about(self) -> dict[str, Any]:
        """The log, as plain values."""
        return {**self.log.describe(), "left_out_rows": self.left, "behaviour": self.behaviour}

    def thin(self) -> str | None:
        """Why these rewards decide nothing, where there are so few that differ."""
        values, counts = np.unique(self.log.rewards, return_counts=True)
        other = len(self.log) - int(counts.max())
        if other >= FEW:
            return None
        return f"{other:,} of {len(self.log):,} rows have a reward other than {values[counts.argmax()]:g}"

    def notes(self) -> list[str]:
        """What people should know of the log and the policies."""
        return list(dict.fromkeys([*(note for one in self.answers for note in one.notes), *self._of_log()]))

    def _of_log(self) -> Iterator[str]:
        log, thin = self.log, self.thin()
        if thin is not None:
            yield f"{thin}: so few decide nothing"
        if self.behaviour["kind"] == "estimated":
            yield (
                f"propensities are estimated from the log's own frequencies given {self.behaviour['given']} (on "
                f"held-out rows {self.behaviour['miscalibrated']:.1%} of the chance stands in the wrong bin): the "
                "estimates are right only if the policy that wrote the log looked at no more"
            )
        if log.kind == "open bandit":
            yield "Open Bandit files tell no users: rows are independent decisions, and the position is context"
        if log.items.vectors is None:
            yield "items have no attributes: reward models know them by their ids, and clusters are single items"


def estimate_policy(reading: Reading, policy: str, *, force: bool = False) -> dict[str, Any]:
    """Every estimate of what a policy would have earned, as plain values.

    Args:
        reading: the log.
        policy: `uniform`, a column with its chance of the logged item, a setup file, or another log.
        force: tell refused estimates, too.

    Raises:
        DataError: the log cannot be used, or not for this policy.
        ModelError: the model of the setup is missing or damaged.
        SetupError: there is no such policy.
    """
    case = _Case.of(reading, [policy])
    found = estimate(case.decisions, case.targets[0], options=case.options, force=force, **_drawn(reading))
    return {
        "log": case.about(),
        "policy": {"name": policy, **case.answers[0].about},
        "on_policy": found["logged"],
        "estimates": found["estimates"],
        "left_out": found["left_out"],
        "diagnostics": found["diagnostics"],
        "settings": {name: found[name] for name in SETTINGS},
        "notes": case.notes(),
    }


def gate(reading: Reading, new: str, current: str, *, estimator: str = "snips", margin: float = 0.0) -> dict[str, Any]:
    """Whether a new policy may take the place of the current one: only if the log shows that it would earn more.

    Both are judged on the same rows, and the difference on the same resamples of the units. The new one is promoted if
    the lower bound of the difference is above the margin, neither estimate is refused, and enough rewards differ for an
    interval to be believed.

    Args:
        reading: the log; `new`, `current`: the policies, as of `estimate_policy`.
        estimator: which of the estimates decides.
        margin: how much more it must earn, in the log's own unit.

    Raises:
        DataError, ModelError: as of `estimate_policy`.
        SetupError: there is no such policy, or the estimate cannot be made.
    """
    case = _Case.of(reading, [new, current])
    each = [estimate(case.decisions, one, options=case.options, **_drawn(reading)) for one in case.targets]
    for name, found in zip((new, current), each, strict=True):
        _can_be_made(estimator, found, name)
    apart = difference(case.decisions, *case.targets, options=case.options, **_drawn(reading))[estimator]
    refused = _refusal(apart, new, current, case.thin())
    least = margin + ROUNDING * abs(each[0]["estimates"][estimator]["mean"] or 0.0)
    promote = refused is None and apart["low"] > least
    verdict = {"promote": promote, "why": refused or _told(apart, estimator, promote, margin)}
    return verdict | {
        "estimator": estimator,
        "margin": margin,
        "difference": apart,
        "new": {"name": new, **case.answers[0].about, "estimate": each[0]["estimates"][estimator]},
        "current": {"name": current, **case.answers[1].about, "estimate": each[1]["estimates"][estimator]},
        "on_policy": each[0]["logged"],
        "log": case.about(),
        "settings": {name: each[0][name] for name in SETTINGS},
        "notes": case.notes(),
    }


def policy_of(name: str, log: DecisionLog, reading: Reading) -> TargetPolicy:
    """The policy that is meant: `uniform`, then a column of the log, then a file.

    Raises:
        SetupError: it is none of them, or the setup cannot be read.
    """
    if name == "uniform":
        return Uniform()
    columns = log.source.frame.collect_schema().names()
    if name in columns:
        return Told(name)
    path = Path(name)
    if not path.is_file():
        raise SetupError(
            f"--policy {name!r}: is not uniform, not a column of {reading.path} ({', '.join(map(repr, columns[:12]))}"
            f"{', ...' if len(columns) > 12 else ''}), and not a file; give a setup, or another log"
        )
    if path.suffix.lower() in LOGS:
        return Frequencies(path, reading.roles)
    return Learned(path, seen=reading.seen)


def _read(reading: Reading) -> tuple[DecisionLog, dict[str, Any]]:
    """The log with propensities, and how they are known."""
    log = read_log(reading.path, reading.roles, reading.items, told=not reading.estimated)
    if not reading.estimated:
        return log, {"kind": "logged", "column": log.columns["propensity"]}
    found = estimate_behaviour(log, reading.seed)
    return replace(log, propensities=found.propensities), found.about


def _options(log: DecisionLog, reading: Reading) -> Options:
    """What the log tells beyond its rows: a behaviour policy that is uniform is known whole."""
    items, clusters = len(log.items), None
    if reading.clusters is not None:
        if log.items.vectors is None:
            raise SetupError(
                f"--clusters {reading.clusters}: the items of {reading.path} have no attributes to make clusters of; "
                "give their table with --items"
            )
        clusters = clusters_of(log.items.vectors, min(reading.clusters, items), reading.seed)
    elif log.items.vectors is None and items > COLUMNS:
        clusters = np.arange(items)  # the columns of the rare items are shared, and make no clusters
    assert log.propensities is not None
    same = not reading.estimated and bool(np.allclose(log.propensities, 1 / items, rtol=1e-6, atol=0))
    behaviour = np.full((1, items), 1 / items) if same else None
    return Options(behaviour, clusters, discount=reading.discount)


def _drawn(reading: Reading) -> dict[str, Any]:
    return {"level": reading.level, "seed": reading.seed}


def _told(apart: dict[str, Any], estimator: str, promote: bool, margin: float) -> str:
    return (
        f"the lower bound of the difference by {estimator} is {apart['low']:.4g} (mean {apart['mean']:.4g}), "
        f"{'above' if promote else 'not above'} {margin:g}"
    )


def _can_be_made(estimator: str, found: dict[str, Any], name: str) -> None:
    """Raises a `SetupError` where the estimate does not exist, with what it lacks."""
    if estimator not in found["estimates"]:
        lacking = found["left_out"].get(estimator, "there is no such estimate of this log")
        known = ", ".join(found["estimates"])
        raise SetupError(f"--estimator {estimator!r}, of {name}: {lacking}; there are {known}")


def _refusal(apart: dict[str, Any], new: str, current: str, thin: str | None) -> str | None:
    """Why nothing can be promoted on this evidence; None where it can be looked at."""
    if apart["refused"] is not None:
        told = apart["refused"].replace("the other policy:", f"{current}:").replace("the policy:", f"{new}:")
        return f"the evidence is refused: {told}"
    if thin is not None:
        return f"the evidence is refused: {thin}, and at least {FEW} are needed"
    return None if apart["low"] is not None else "the evidence is refused: the difference has no interval on this log"
