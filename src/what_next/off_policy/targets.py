"""The policies that a log can judge: chance, a column of the log, the frequencies of another log, a trained model."""

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
"""Most chances (rows times items) that are kept: 128 MB. Beyond, those of the logged items and expected vectors are."""
ROUNDING = 1e-9
"""Chance that is nothing but the rounding of a sum."""
COLUMNS = 128
"""Most columns of one-hot vectors: the commonest items have one each, all others share the last."""


@dataclass(frozen=True, eq=False)
class PolicyOnLog:
    """What a policy would do in each row of a log.

    Attributes:
        target: over all rows of the log.
        covered: the rows in which it could be asked; the others are no decisions of its, and count for nothing.
        about: the policy, as plain values; `own` there: whether it was made from the very log that judges it.
        notes: what people should know.
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
    """Whoever may have decided instead of the policy that wrote the log.

    Attributes:
        name: what people call it.
    """

    name: str

    @abstractmethod
    def on_log(self, log: DecisionLog, decisions: Decisions, done: Done = no_progress) -> PolicyOnLog:
        """What it would do in each row; `decisions` are the same rows, with vectors of the items.

        `done` is told of rows as they are answered, where that takes its time.
        """


class Uniform(TargetPolicy):
    """Each item of the catalogue with the same chance; on slates, each that does not stand above (see `_drawn`)."""

    name = "uniform"

    def on_log(self, log: DecisionLog, decisions: Decisions, done: Done = no_progress) -> PolicyOnLog:
        """See `TargetPolicy.on_log`."""
        items, same = len(log.items), np.zeros(len(log), np.int64)
        found = _drawn(np.full((1, items), 1 / items), same, decisions, {"kind": "uniform", "items": items})
        return _unrestricted(found, log)


class ColumnPolicy(TargetPolicy):
    """A policy whose chance of each logged item stands in a column of the log."""

    def __init__(self, column: str) -> None:
        self.name = self.column = column

    def on_log(self, log: DecisionLog, decisions: Decisions, done: Done = no_progress) -> PolicyOnLog:
        """See `TargetPolicy.on_log`. Of the other items nothing is known, so no reward model can speak for it."""
        target, everywhere = Target(propensities_in(log, self.column)), np.ones(len(log), np.bool_)
        note = f"column {self.column!r} tells the chance of the logged item alone, so there is no estimate by a model"
        return PolicyOnLog(target, everywhere, {"kind": "column", "column": self.column}, (note,))


class Frequencies(TargetPolicy):
    """The item frequencies of another log, at each position: the average of the policy that wrote it.

    On slates, of the items that do not stand above (see `_drawn`).
    """

    def __init__(self, path: Path, roles: Roles) -> None:
        """`roles`: as of the log that judges it; its own context and propensities are not asked for."""
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
            notes.append("the policy was made from the log that judges it, and may have followed its rewards: too good")
        found = _drawn(shares, slots, decisions, about)
        return _unrestricted(replace(found, notes=tuple(notes)), log)


def _unrestricted(found: PolicyOnLog, log: DecisionLog) -> PolicyOnLog:
    """Without the rows whose requests permitted some items only: who does not know them cannot be asked there."""
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
    """The log, which tells propensities, as estimators read it; and with vectors of the items (`vectors_of`).

    `marginal`: what its propensities are on slates, as of `Decisions`.
    """
    slates = log.slates is not None
    assert log.propensities is not None
    return Decisions(
        units=log.units,
        actions=log.actions,
        rewards=log.rewards,
        propensities=log.propensities,
        items=len(log.items),
        positions=places_of(log) if slates else None,
        slates=log.slates,
        contexts=log.contexts,
        vectors=vectors,
        marginal=marginal,
    )


def vectors_of(log: DecisionLog) -> Float64[np.ndarray, "items columns"]:
    """Of the items: their attributes; without any, one-hot.

    Where there are many items, the commonest have a column each, and all others share the last.
    """
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
    """A policy chooses what the log's catalogue does not hold."""
    return (
        f"{share:.1%} of the policy's choices are items that the log's catalogue does not hold: weights count nothing "
        "for them, and a reward model (dm, dr, switch_dr) guesses what they would bring"
    )


def places_of(log: DecisionLog) -> Int64[np.ndarray, "rows"]:
    """The slot of each row in its slate: as logged, or counted where the log tells none."""
    assert log.slates is not None
    return places(log.slates) if log.places is None else log.places


def _shares(log: DecisionLog, actions: Int64[np.ndarray, "rows"], items: int) -> Float64[np.ndarray, "kinds items"]:
    """How often each item was shown: at all, then at each position, where there are some; -1 is another item."""
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
    """The answer of a policy that draws from a few distributions, one of which holds in each row.

    Where chances are those given the items above, and no slate of the log holds an item twice, it draws without
    replacement, too: from the distribution over what does not stand above.
    """
    assert decisions.vectors is not None
    rows, vectors = np.arange(len(of_rows)), kinds @ decisions.vectors
    full = kinds[of_rows] if len(rows) * decisions.items <= FULL else None
    # One for all rows needs no copy for each.
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
    """The chance and the vectors that are left where the items above are taken from the distributions of `_drawn`.

    They are taken from `full`, in place, too. Where nothing is left, the chance is infinite: nothing is drawn there.
    """
    assert decisions.slates is not None
    assert decisions.vectors is not None
    left, expected = np.ones(len(of_rows)), expected.copy()
    above = places(decisions.slates)
    for back in range(1, int(above.max()) + 1):
        here = np.flatnonzero(above >= back)
        items = decisions.actions[here - back]
        lost = kinds[of_rows[here], items]
        left[here] -= lost
        expected[here] -= lost[:, None] * decisions.vectors[items]
        if full is not None:
            full[here, items] = 0.0
    return np.where(left > ROUNDING, left, np.inf), expected


def _all_different(decisions: Decisions) -> bool:
    """Whether items are drawn without replacement: chances are given the items above, and none stands above itself."""
    if decisions.marginal or not decisions.slated:
        return False
    assert decisions.slates is not None
    return len(np.unique(decisions.slates * decisions.items + decisions.actions)) == len(decisions.actions)
