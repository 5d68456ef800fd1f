"""Clean events as arrays: ids as int32 numbers, sorted by user and time, with duplicates found."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import polars as pl
from jaxtyping import Int32, Int64, Shaped

from what_next.data.importing.ids import positions
from what_next.data.importing.raw_log import ROW

Order = Shaped[np.ndarray, "_"] | slice
"""The indices of the events to take, in order; `slice(None)` if all are in order already."""


@dataclass(eq=False)
class Events:
    """The usable rows of a log, in file order.

    Attributes:
        user_ids: the distinct users, sorted; likewise `item_ids`.
        users: for each event, the index of its user in `user_ids`; likewise `items`.
        values: `timestamp` (Int64, microseconds), `reward` and context columns (Float32), `event` (Enum), if there are
            any.
    """

    user_ids: pl.Series
    item_ids: pl.Series
    users: Int32[np.ndarray, "events"]
    items: Int32[np.ndarray, "events"]
    values: dict[str, pl.Series]

    @classmethod
    def collect(cls, log: pl.LazyFrame, values: Sequence[str]) -> "Events":
        """Read the log one column at a time, so that at most one column of ids is in memory."""
        user_ids, users = _numbered(_column(log, "user_id"))
        item_ids, items = _numbered(_column(log, "item_id"))
        return cls(user_ids, item_ids, users, items, {name: _value(log, name) for name in values})

    def order(self) -> Order:
        """By user, then by time if there is one; ties stay in file order."""
        time = self.values["timestamp"].to_numpy() if "timestamp" in self.values else None
        packed = self.users if time is None else _packed(self.users, time)
        keys = {"user": self.users, "time": time} if packed is None else {"packed": packed}
        if packed is not None and np.all(packed[1:] >= packed[:-1]):
            return slice(None)
        return pl.DataFrame(keys).select(pl.arg_sort_by(*keys, maintain_order=True)).to_series().to_numpy()

    def alike(self, order: Order) -> Int64[np.ndarray, "some"]:
        """Rows that equal another row in user, time and everything else, as indices in file order."""
        users, times = self.users[order], self.values["timestamp"].to_numpy()[order]
        same = (users[1:] == users[:-1]) & (times[1:] == times[:-1])
        if not same.any():
            return np.empty(0, np.int64)
        tied = np.flatnonzero(np.append(same, False) | np.insert(same, 0, False))
        tied = tied if isinstance(order, slice) else order[tied].astype(np.int64)
        columns = {"user": pl.Series(self.users), "item": pl.Series(self.items), **self.values}
        rows = pl.DataFrame([column.gather(tied).alias(name) for name, column in columns.items()])
        return np.asarray(tied[rows.is_duplicated().to_numpy()])

    def table(self, order: Order) -> pl.DataFrame:
        """The events in an order: `user_id`, `item_id`, `timestamp` (Datetime us UTC), `reward`, `event`, context."""
        columns = {
            "user_id": self.user_ids.gather(pl.Series(self.users[order])),
            "item_id": self.item_ids.gather(pl.Series(self.items[order])),
        }
        for name, column in self.values.items():
            columns[name] = column if isinstance(order, slice) else column.gather(pl.Series(order))
        log = pl.DataFrame([column.alias(name) for name, column in columns.items()])
        if "timestamp" in columns:
            log = log.with_columns(pl.col("timestamp").cast(pl.Datetime("us")).dt.replace_time_zone("UTC"))
        return log


def _column(log: pl.LazyFrame, name: str) -> pl.Series:
    return log.select(name).collect(engine="streaming").to_series().rechunk()


def _value(log: pl.LazyFrame, name: str) -> pl.Series:
    """A column; words become an Enum, with categories sorted by code point."""
    column = _column(log, name)
    return column.cast(pl.Enum(column.unique().sort())) if column.dtype == pl.String else column


def _numbered(column: pl.Series) -> tuple[pl.Series, Int32[np.ndarray, "events"]]:
    """The distinct values, sorted (numbers by size, text by code point), and the index of each value among them."""
    distinct = column.unique().sort()
    return distinct, positions(column, distinct)


def _packed(
    users: Int32[np.ndarray, "events"], time: Int64[np.ndarray, "events"]
) -> Int64[np.ndarray, "events"] | None:
    """User and time packed into one integer, which sorts twice as fast as two; None if they do not fit."""
    start = int(time.min())
    since = time - start
    unit = next((unit for unit in (10**6, 10**3) if not np.any(since % unit)), 1)
    since //= unit
    span = int(since.max()) + 1
    if (int(users.max()) + 1) * span >= 2**63:
        return None
    since += users.astype(np.int64) * span
    return since


def repeated(raw: pl.LazyFrame, suspects: pl.Series, compared: Sequence[str]) -> pl.Series:
    """The rows among `suspects` (`ROW`) that repeat an earlier one in every compared column.

    Equal raw rows stay equal when cleaned (`Events.alike`), so only rows that are equal then are suspects.
    """
    lists = [name for name, kind in raw.collect_schema().items() if isinstance(kind, pl.List)]
    as_text = pl.col(lists).cast(pl.List(pl.String)).list.join("\0")  # Polars cannot compare lists
    near = raw.filter(pl.col(ROW).is_in(pl.lit(suspects).implode())).with_columns(as_text)
    found = near.select(ROW, pl.struct(compared).alias("row")).collect(engine="streaming").sort(ROW)
    return found.filter(~pl.col("row").is_first_distinct())[ROW]


def sessions(log: pl.DataFrame, gap: timedelta) -> pl.Series:
    """For each event of a sorted log, the number of its session within the user, from 1."""
    pause = pl.col("timestamp").diff().over("user_id") > gap
    return log.select(pause.fill_null(False).cum_sum().over("user_id") + 1).to_series()


def in_sessions(log: pl.DataFrame, gap: timedelta, width: int | None = None) -> pl.DataFrame:
    """A sorted log with each session as a user; a pause of a user longer than `gap` starts a new session.

    The users are `user:1`, `user:2`, ..., zero-padded if there are ten or more, so that they sort as text.
    `width`: digits of the largest number, if the log is only a part.
    """
    ordinal = sessions(log, gap).cast(pl.String)
    width = width or int(ordinal.str.len_bytes().to_numpy().max())
    return log.with_columns(pl.col("user_id").cast(pl.String) + ":" + ordinal.str.zfill(width))
