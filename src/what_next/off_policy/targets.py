"""Target policies: uniform, a column of the log, and the frequencies of another log (`learned` has trained models)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int64

from what_next.data.decisions.log import DecisionLog, Roles
from what_next.data.decisions.reader import propensities_in, read_log
from what_next.data.importing.ids import positions
from what_next.data.stages import Done, no_progress
from what_next.off_policy.decisions import Decisions, Target
from what_next.off_policy.slates import places

FULL = 2**24
"""Largest whole distribution (rows times items) that is kept: 128 MB. If larger, `Target.full` is None."""
ROUNDING = 1e-9
"""Remaining probability up to this is rounding error."""
COLUMNS = 128
"""Most columns of one-hot vectors: the commonest items have one each, all others share the last."""


@dataclass(frozen=True, eq=False)
class PolicyOnLog:
    """What a policy would do in each row of a log.

    Attributes:
        target: over all rows of the log.
        covered: the rows in which the policy can be asked; the other rows are not used.
        about: the policy, as plain values; `own`: whether it was made from the log that judges it.
        notes: for the user.
    """

    target: Target
    covered: Bool[np.ndarray, "rows"]
    about: dict[str, Any]
    notes: tuple[str, ...] = ()

    def of_rows(self, kept: Bool[np.ndarray, "rows"]) -> Target:
        """The target of some rows."""
        target = self.target
        if kept.all():
            return target
        expected, full = (None if one is None else one[kept] for one in (target.expected, target.full))
        return Target(target.chances[kept], expected, full)


class TargetPolicy(ABC):
    """A policy that a log can judge.

    Attributes:
        name: for messages and results.
    """

    name: str

    @abstractmethod
    def on_log(self, log: DecisionLog, decisions: Decisions, done: Done = no_progress) -> PolicyOnLog:
        """The policy's chances in each row; `decisions` are the same rows.

        `done` is called with the number of rows as they are finished, if this is slow.
        """


class Uniform(TargetPolicy):
    """Each item of the catalogue with the same chance; on slates, without the items above (see `_drawn`)."""

    name = "uniform"

    def on_log(self, log: DecisionLog, decisions: Decisions, done: Done = no_progress) -> PolicyOnLog:
        """See `TargetPolicy.on_log`."""
        items, same = len(log.items), np.zeros(len(log), np.int64)
        found = _drawn(np.full((1, items), 1 / items), same, decisions, {"kind": "uniform", "items": items})
        return _unrestricted(found, log)


class ColumnPolicy(TargetPolicy):
    """A policy whose chance of each logged item is in a column of the log."""

    def __init__(self, column: str) -> None:
        self.name = self.column = column

    def on_log(self, log: DecisionLog, decisions: Decisions, done: Done = no_progress) -> PolicyOnLog:
        """See `TargetPolicy.on_log`. Chances of other items are unknown, so no reward model can be used."""
        target, everywhere = Target(propensities_in(log, self.column)), np.ones(len(log), np.bool_)
        note = f"column {self.column!r} tells the chance of the logged item alone, so there is no estimate by a model"
        return PolicyOnLog(target, everywhere, {"kind": "column", "column": self.column}, (note,))


class Frequencies(TargetPolicy):
    """The item frequencies of another log, at each position: the average of the policy that wrote it.

    On slates, the items above are excluded (see `_drawn`).
    """

    def __init__(self, path: Path, roles: Roles) -> None:
        """`roles`: of the log that judges it; the other log's context and propensities are not read."""
        self.name, self.path, self.roles = str(path), path, replace(roles, context=(), propensity=None)

    def on_log(self, log: DecisionLog, decisions: Decisions, done: Done = no_progress) -> PolicyOnLog:
        """See `TargetPolicy.on_log`."""
        other = read_log(self.path, self.roles, propensities=False)
        places = positions(other.items.ids.cast(pl.String), log.items.ids.cast(pl.String)).astype(np.int64)
        actions = places[other.actions]
        shares, slots = _shares(other, actions, len(log.items)), np.zeros(len(log), np.int64)
        if len(shares) > 1 and log.places is not None:
            slots = np.where(log.places < len(shares) - 1, log.places + 1, 0)
        outside = float((actions < 0).mean())
        about = {
            "kind": "frequencies",
            "log": str(self.path),
            "rows": len(other),
            "by": "position" if slots.any() else "item",
            "outside": outside,
            "hash": other.hash,
            "own": self.path.resolve() == log.source.path.resolve() or other.content == log.content,
        }
        notes = [
            f"the frequencies of {len(other):,} rows are an average of the policy that wrote {self.path}: where it "
            "varied in time, as Thompson sampling does, or with the user, the estimate is of its average, not of itself"
        ]
        if outside:
            notes.append(outside_note(outside))
        if about["own"]:
            notes.append("the policy was made from the log that judges it: the estimate may be too good")
        found = _drawn(shares, slots, decisions, about)
        return _unrestricted(replace(found, notes=tuple(notes)), log)


def _unrestricted(found: PolicyOnLog, log: DecisionLog) -> PolicyOnLog:
    """Without the rows whose requests permitted only some items, because the policy ignores such restrictions."""
    if log.kind != "service":
        return found
    free = log.source.frame.select(pl.col("permitted").is_null()).collect().to_series().to_numpy()[log.order]
    if free.all():
        return found
    note = (
        f"{int((~free).sum()):,} rows left out: their requests permitted some items only, and {found.about['kind']} "
        "chooses among all"
    )
    return replace(found, covered=found.covered & free, notes=(*found.notes, note))


def decisions_of(log: DecisionLog, vectors: Float64[np.ndarray, "items width"], *, marginal: bool = False) -> Decisions:
    """A log with propensities as estimators read it, with vectors of the items (`vectors_of`).

    `marginal`: as for `Decisions`.
    """
    slates = log.slates is not None
    assert log.propensities is not None
    return Decisions(
        units=log.units,
        actions=log.actions,
        rewards=log.rewards,
        propensities=log.propensities,
        vectors=vectors,
        positions=places_of(log) if slates else None,
        slates=log.slates,
        contexts=log.contexts,
        marginal=marginal,
        times=log.times,
    )


def vectors_of(log: DecisionLog) -> Float64[np.ndarray, "items columns"]:
    """The item vectors: attributes or, if there are none, one-hot vectors of at most `COLUMNS` columns."""
    if log.items.vectors is not None:
        return log.items.vectors
    items = len(log.items)
    if items <= COLUMNS:
        return np.eye(items)
    common = np.argsort(-np.bincount(log.actions, minlength=items), kind="stable")[: COLUMNS - 1]
    columns = np.full(items, COLUMNS - 1)
    columns[common] = np.arange(COLUMNS - 1)
    return np.asarray(np.eye(COLUMNS)[columns])


def outside_note(share: float) -> str:
    """A note on choices outside the log's catalogue."""
    return (
        f"{share:.1%} of the policy's choices are items that the log's catalogue does not hold: weights count nothing "
        "for them, and a reward model (dm, dr, switch_dr) guesses what they would bring"
    )


def places_of(log: DecisionLog) -> Int64[np.ndarray, "rows"]:
    """The position of each row in its slate: as logged, or counted if the log has none."""
    assert log.slates is not None
    return places(log.slates) if log.places is None else log.places


def _shares(log: DecisionLog, actions: Int64[np.ndarray, "rows"], items: int) -> Float64[np.ndarray, "kinds items"]:
    """How often each item was shown: overall, then at each position if the log has them. Actions of -1 are ignored."""
    slots = np.zeros(len(log), np.int64) if log.places is None else log.places
    counts, known = np.zeros((int(slots.max()) + 1, items)), actions >= 0
    np.add.at(counts, (slots[known], actions[known]), 1)
    rows = np.bincount(slots, minlength=len(counts))
    everywhere = counts.sum(axis=0, keepdims=True) / len(log)
    if log.places is None:
        return np.asarray(everywhere)
    return np.concatenate([everywhere, np.where(rows[:, None], counts / np.maximum(rows, 1)[:, None], everywhere)])


def _drawn(
    kinds: Float64[np.ndarray, "kinds items"],
    of_rows: Int64[np.ndarray, "rows"],
    decisions: Decisions,
    about: dict[str, Any],
) -> PolicyOnLog:
    """A policy that draws each row from one of a few distributions: `kinds[of_rows]`.

    If chances are conditional on the items above, and no slate of the log holds an item twice, the policy draws without
    replacement, too: from its distribution without the items above, normalised.
    """
    rows, vectors = np.arange(len(of_rows)), kinds @ decisions.vectors
    full = kinds[of_rows] if len(rows) * decisions.items <= FULL else None
    # A single distribution is broadcast, not copied per row.
    expected = vectors[of_rows] if len(kinds) > 1 else np.broadcast_to(vectors, (len(rows), vectors.shape[1]))
    chances = kinds[of_rows, decisions.actions]
    if _all_different(decisions):
        left, expected = _left(kinds, of_rows, decisions, expected, full)
        chances, expected = np.minimum(chances / left, 1.0), expected / left[:, None]
        full = None if full is None else full / left[:, None]
    return PolicyOnLog(Target(chances, expected, full), np.ones(len(rows), np.bool_), about)


def _left(
    kinds: Float64[np.ndarray, "kinds items"],
    of_rows: Int64[np.ndarray, "rows"],
    decisions: Decisions,
    expected: Float64[np.ndarray, "rows width"],
    full: Float64[np.ndarray, "rows items"] | None,
) -> tuple[Float64[np.ndarray, "rows"], Float64[np.ndarray, "rows width"]]:
    """For each row of `_drawn`, the total chance and the summed vectors that remain without the items above.

    `full` is changed in place. If nothing remains, the total is infinite, so that all chances become 0.
    """
    left, expected = np.ones(len(of_rows)), expected.copy()
    for back in range(1, int(decisions.above.max()) + 1):
        here = np.flatnonzero(decisions.above >= back)
        items = decisions.actions[here - back]
        lost = kinds[of_rows[here], items]
        left[here] -= lost
        expected[here] -= lost[:, None] * decisions.vectors[items]
        if full is not None:
            full[here, items] = 0.0
    return np.where(left > ROUNDING, left, np.inf), expected


def _all_different(decisions: Decisions) -> bool:
    """Whether slates are drawn without replacement: chances are conditional, and no slate holds an item twice."""
    if decisions.marginal or not decisions.slated:
        return False
    assert decisions.slates is not None
    return len(np.unique(decisions.slates * decisions.items + decisions.actions)) == len(decisions.actions)
