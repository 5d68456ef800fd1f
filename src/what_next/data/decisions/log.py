"""Logs of decisions for off-policy evaluation: shown items, their propensities and their rewards."""

import hashlib
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int64

from what_next.data.importing.readers import Source

Kind = Literal["open bandit", "service", "log"]


@dataclass(frozen=True)
class Roles:
    """The column of each role; None: recognised by its name.

    Attributes:
        user: the column with the user; likewise for the other roles.
        context: further columns that were known before the decision, for reward models.
    """

    user: str | None = None
    item: str | None = None
    time: str | None = None
    reward: str | None = None
    propensity: str | None = None
    position: str | None = None
    slate: str | None = None
    context: tuple[str, ...] = ()

    @property
    def given(self) -> dict[str, str | None]:
        """The given columns, by role."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "context"}


@dataclass(frozen=True, eq=False)
class Items:
    """The catalogue of items that could have been chosen.

    Attributes:
        ids: external ids (Int64 or String), distinct.
        vectors: standardised attributes; None without attributes.
    """

    ids: pl.Series
    vectors: Float64[np.ndarray, "items width"] | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class DecisionLog:
    """Logged decisions, one row each: by unit, then time, the rows of a slate together; ties in file order.

    Attributes:
        source: the file; `kind`: its format; `columns`: the column of each role.
        items: the catalogue.
        user_ids: external ids, by unit; None where the log has no users.
        units: 0, 1, 2, ... ascending: users, else slates, else rows. Units are independent of one another.
        actions: catalogue indices of the logged items; `rewards`: their rewards.
        propensities: probability of the logged item under the logging policy; None where the log has none.
        places: slot in the slate, 0 = first; None without slots.
        slates: the slate of each row, ascending; None without slates.
        times: microseconds since 1970 UTC; None without times.
        contexts: the context of each decision, standardised; `context_names`: of its columns.
        order: for each row here, its row in the file.
        context_columns: columns of the file that were known before the decision.
        notes: what was left out, in words.
    """

    source: Source
    kind: Kind
    columns: dict[str, str]
    items: Items
    user_ids: pl.Series | None
    units: Int64[np.ndarray, "rows"]
    actions: Int64[np.ndarray, "rows"]
    rewards: Float64[np.ndarray, "rows"]
    propensities: Float64[np.ndarray, "rows"] | None
    places: Int64[np.ndarray, "rows"] | None
    slates: Int64[np.ndarray, "rows"] | None
    times: Int64[np.ndarray, "rows"] | None
    contexts: Float64[np.ndarray, "rows context"]
    context_names: tuple[str, ...]
    order: Int64[np.ndarray, "rows"]
    context_columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """The number of units."""
        return int(self.units[-1]) + 1

    @property
    def unit(self) -> str:
        """The kind of units."""
        return "user" if self.user_ids is not None else "row" if self.slates is None else "slate"

    @property
    def moments(self) -> Int64[np.ndarray, "rows"]:
        """See `moments_of`."""
        return moments_of(self.units, self.slates, self.times)

    def __len__(self) -> int:
        return len(self.actions)

    def of_rows(self, kept: Bool[np.ndarray, "rows"]) -> "DecisionLog":
        """Some of the decisions; units and slates are renumbered."""
        if kept.all():
            return self
        numbered, units = np.unique(self.units[kept], return_inverse=True)
        rows: dict[str, Any] = {
            name: None if (values := getattr(self, name)) is None else values[kept]
            for name in ("actions", "rewards", "propensities", "places", "times", "contexts", "order")
        }
        slates = None if self.slates is None else np.unique(self.slates[kept], return_inverse=True)[1]
        users = None if self.user_ids is None else self.user_ids.gather(numbered)
        return replace(self, user_ids=users, units=units, slates=slates, **rows)

    @cached_property
    def hash(self) -> str:
        """Short SHA-256 over the decisions: items, rewards, propensities, units, places and slates."""
        digest = hashlib.sha256("\0".join(self.items.ids.cast(pl.String)).encode())
        for values in (self.units, self.actions, self.rewards, self.propensities, self.places, self.slates):
            digest.update(b"-" if values is None else np.ascontiguousarray(values).astype("<f8").tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def content(self) -> str:
        """SHA-256 over users, shown items and rewards, independent of the file, the row order and the propensities."""
        users = pl.repeat("", len(self), eager=True) if self.user_ids is None else self.user_ids.gather(self.units)
        rows = pl.DataFrame(
            {
                "user": users.cast(pl.String),
                "item": self.items.ids.gather(self.actions).cast(pl.String),
                "reward": self.rewards.astype(np.float32),  # the type after an import
            }
        )
        lines = rows.sort(rows.columns).select(pl.concat_str(pl.all(), separator="\0")).to_series()
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """A description of the log as plain values."""
        return {
            "file": str(self.source.path),
            "kind": self.kind,
            "rows": len(self),
            "units": self.count,
            "unit": self.unit,
            "slates": None if self.slates is None else int(self.slates[-1]) + 1,
            "items": len(self.items),
            "items_logged": len(np.unique(self.actions)),
            "attributes": 0 if self.items.vectors is None else self.items.vectors.shape[1],
            "columns": self.columns,
            "context": list(self.context_names),
            "hash": self.hash,
        }


def moments_of(
    units: Int64[np.ndarray, "rows"], slates: Int64[np.ndarray, "rows"] | None, times: Int64[np.ndarray, "rows"] | None
) -> Int64[np.ndarray, "rows"]:
    """For each row, the first row that was decided at the same time: in its slate, or in its unit at the same
    timestamp.

    None of their rewards was known when they were decided.

    Args:
        units: of each row, as in `DecisionLog`; `slates`, `times`: likewise.
    """
    if slates is not None:
        return np.searchsorted(slates, slates)
    if times is None:
        return np.arange(len(units))
    later = (np.diff(units, prepend=-1) != 0) | (np.diff(times, prepend=times[:1]) != 0)
    return np.maximum.accumulate(np.where(later, np.arange(len(units)), 0))
