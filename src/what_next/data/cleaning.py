"""From a raw table to clean events: check every row, reject what cannot be used, sort, and split a wide log.

Columns are worked on one at a time, and ids become int32 numbers early, so that a hundred million rows fit in a few
gigabytes.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from jaxtyping import Int64

from what_next.data.attributes import first_values, item_table
from what_next.data.columns import ITEM_TABLE_ALIASES, ROW_LABELS, as_number, recognise
from what_next.data.events import Events, Order
from what_next.data.extras import Extras
from what_next.data.ids import as_ids
from what_next.data.raw_log import ROW, RawLog, event_words
from what_next.data.readers import Source
from what_next.data.tables import Options, Tables, counted
from what_next.data.times import as_microseconds
from what_next.errors import DataError


def clean(sources: Sequence[Source], items: Source | None, options: Options) -> Tables:
    """Check every row, reject what cannot be used, and sort the rest by user and time.

    Raises:
        DataError: a column is missing, more than half of the rows are rejected, an attribute cannot be used, or fewer
            than two users or items are left.
    """
    log = RawLog.open(sources, items, options)
    values, item_ids = _values(log, items)
    table, notes = _given_table(items, item_ids, options) if items is not None else (None, [])
    bad = _unusable(log, values, table)
    _refuse_most(bad, log)
    kept = log.raw.filter(_reason(values, table).is_null()) if len(bad) else log.raw
    extras = Extras.sort_out(log, kept, values["item_id"], table is not None)
    events = Events.collect(kept.select(**values, **extras.context), [*list(values)[2:], *extras.context])
    order = events.order()
    if "time" in log.columns and not options.keep_duplicates:
        repeats = events.duplicates(order, kept, [name for name in log.names if name not in ROW_LABELS])
        order = _without(order, repeats, len(events.users))
        bad = _with_repeats(bad, kept, repeats)
        _refuse_most(bad, log)
    if table is None:
        table, more = _wide_table(log, kept.with_columns(values["item_id"].alias("item_id")), events.item_ids, extras)
        notes += more
    elif table.width == 2:
        table = _with_missing_items(table, events.item_ids)
    clean_log = events.table(order, options.session_gap)
    _require_two(clean_log, log.where)
    return Tables(clean_log, table, log.rejected(bad), log.rows, log.columns, notes + extras.notes)


def _values(log: RawLog, items: Source | None) -> tuple[dict[str, pl.Expr], pl.Expr | None]:
    """Expressions for `user_id`, `item_id`, `timestamp` (int64, microseconds), `reward`, `event`; null where unusable.

    Second, the expression that reads the ids of the item table, so that both tables' ids are of one type.
    """
    columns = log.columns
    pairs = [(log.raw, columns["item"])]
    if items is not None:
        pairs.append((items.frame, _item_columns(items, log.options)["item"]))
    item, *rest = as_ids(pairs)
    values = {"user_id": as_ids([(log.raw, columns["user"])])[0], "item_id": item}
    if "time" in columns:
        values["timestamp"] = as_microseconds(log.raw, columns["time"])
    if "reward" in columns:
        number = as_number(log.raw, columns["reward"]).cast(pl.Float32)
        values["reward"] = pl.when(number.is_finite()).then(number)
    if "event" in columns:
        values["event"] = event_words(log.raw, columns["event"])
    return values, rest[0] if rest else None


def _item_columns(items: Source, options: Options) -> dict[str, str]:
    names = items.frame.collect_schema().names()
    # The item table may call its columns otherwise than the log does.
    given = {role: name for role, name in options.given.items() if name in names}
    return recognise(names, ("item", "titles"), ("item",), given, str(items.path), ITEM_TABLE_ALIASES)


def _given_table(items: Source, ids: pl.Expr | None, options: Options) -> tuple[pl.DataFrame, list[str]]:
    """The item table of a file: distinct items, in the file's order."""
    where, columns, notes = str(items.path), _item_columns(items, options), []
    others = pl.all().exclude(columns["item"], "item_id")
    raw = items.frame.select(ids.alias("item_id"), others).collect()  # type: ignore[union-attr]
    nameless = raw["item_id"].null_count()
    if nameless:
        notes.append(f"{where}: {nameless} rows without an item id left out")
        raw = raw.filter(pl.col("item_id").is_not_null())
    if raw["item_id"].is_duplicated().any():
        rows = len(raw)
        raw = raw.unique(maintain_order=True)
        if raw["item_id"].is_duplicated().any():
            twin = raw.filter(pl.col("item_id").is_duplicated())["item_id"][0]
            raise DataError(f"{where}: item {twin!r} stands there more than once, with different values; keep one")
        notes.append(f"{where}: {rows - len(raw)} repeated rows left out")
    table, more = item_table(raw, columns.get("titles"), options.attributes, options.fill, where)
    return table, notes + more


def _reason(values: Mapping[str, pl.Expr], table: pl.DataFrame | None) -> pl.Expr:
    """Why a row of the raw log cannot be used; null where it can."""
    tests = {
        "user_id": "no user",
        "item_id": "no item",
        "timestamp": "not a time",
        "reward": "reward not a number",
        "event": "no event word",
    }
    found = [pl.when(value.is_null()).then(pl.lit(tests[name])) for name, value in values.items()]
    if table is not None and table.width > 2:
        known = values["item_id"].is_in(pl.lit(table["item_id"]).implode())
        found.append(pl.when(~known).then(pl.lit("item not in the item table")))
    return pl.coalesce(found)


def _unusable(log: RawLog, values: Mapping[str, pl.Expr], table: pl.DataFrame | None) -> pl.DataFrame:
    """Row number and reason of every row that cannot be used."""
    reasons = log.raw.select(ROW, _reason(values, table).alias("reason"))
    return reasons.filter(pl.col("reason").is_not_null()).collect(engine="streaming")


def _refuse_most(bad: pl.DataFrame, log: RawLog) -> None:
    if 2 * len(bad) <= log.rows:
        return
    counts = ", ".join(f"{reason}: {count:,}" for reason, count in counted(bad).items())
    first = log.rejected(bad.sort(ROW).head(1)).row(0, named=True)
    raise DataError(
        f"{log.where}: {len(bad):,} of {log.rows:,} rows cannot be used ({counts}), more than half, so nothing was "
        f"imported; the first is line {first.pop('line')}: {first}; check which column is which "
        f"({', '.join(f'{role}: {column}' for role, column in log.columns.items())})"
    )


def _without(order: Order, repeats: Int64[np.ndarray, "repeats"], events: int) -> Order:
    if not len(repeats):
        return order
    keep = np.ones(events, np.bool_)
    keep[repeats] = False
    return np.flatnonzero(keep) if isinstance(order, slice) else order[keep[order]]


def _with_repeats(bad: pl.DataFrame, kept: pl.LazyFrame, repeats: Int64[np.ndarray, "repeats"]) -> pl.DataFrame:
    if not len(repeats):
        return bad
    rows = kept.select(ROW).collect(engine="streaming").to_series().gather(repeats)
    return pl.concat([bad, pl.DataFrame({ROW: rows}).with_columns(pl.lit("exact duplicate").alias("reason"))])


def _wide_table(log: RawLog, kept: pl.LazyFrame, item_ids: pl.Series, extras: Extras) -> tuple[pl.DataFrame, list[str]]:
    """The item table out of the log itself, ordered by id."""
    titles = log.columns.get("titles")
    columns = [*([titles] if titles else []), *extras.attributes]
    raw = first_values(kept, columns) if columns else pl.DataFrame({"item_id": item_ids})
    return item_table(raw, titles, extras.attributes, log.options.fill, log.where)


def _with_missing_items(table: pl.DataFrame, item_ids: pl.Series) -> pl.DataFrame:
    """A table of titles only, grown by the items of the log that it lacks, ordered by id."""
    missing = item_ids.filter(~item_ids.is_in(table["item_id"].implode()))
    return pl.concat([table, pl.DataFrame({"item_id": missing, "title": missing.cast(pl.String)})])


def _require_two(log: pl.DataFrame, where: str) -> None:
    """Refuse a log of one user or one item: there is nothing to learn or to choose."""
    for column, what in (("user_id", "user"), ("item_id", "item")):
        if log[column].min() == log[column].max():
            raise DataError(f"{where}: all events belong to one {what} ({log[column][0]!r}); at least two are needed")
