"""The log as a data set: what was shown with which chance and what it brought, or what people did."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from what_next.data import Catalogue, Tables
from what_next.data.files import write_together
from what_next.data.ids import as_ids
from what_next.data.importer import FORMATS, beside
from what_next.errors import StoreError
from what_next.server.store.rewards import rewards_of
from what_next.server.store.store import Store

Progress = Callable[[int, int], None]
PAGE = 20_000
"""Rows that are read at once: a long read would keep the database from putting its files in order."""
TIME = pl.Datetime("us", "UTC")
DECISION = ("propensity", "position", "slate", "version", "policy")
"""Columns that tell of the decision, not of the event: no network may read them, so the file's footer names them."""
IMPRESSION = {
    "number": pl.Int64, "recommendation_id": pl.String, "user_id": pl.String, "time": pl.Int64, "version": pl.String,
    "policy": pl.String, "shown": pl.Boolean, "items": pl.String, "propensities": pl.String,
}  # fmt: skip
EVENT = {
    "user": pl.Int64, "number": pl.Int64, "item_id": pl.String, "kind": pl.String, "time": pl.Int64,
    "reward": pl.Float64, "context": pl.String,
}  # fmt: skip


def decisions(store: Store, catalogue: Catalogue, *, shown: bool = True, progress: Progress | None = None) -> Tables:
    """One row per item of an answer: who, what, when, its reward, its chance, its place, in which answer.

    The reward is that of the latest feedback (see `rewards_of`), 0 without. Who gave no name is a user of their own. An
    answer without the chances of all its items cannot be weighed, and is left out.

    Args:
        store: with the impressions.
        catalogue: of the model; items that the store knows go before it.
        shown: whether the answers that nobody saw (shadow mode) are left out.
        progress: is called with how many answers were read, and of all.

    Raises:
        StoreError: there is none.
    """
    sql = f"SELECT {', '.join(IMPRESSION)} FROM impressions WHERE number > {store.backend.mark} ORDER BY number"
    pages, notes, read = [], list[str](), 0
    for page in _pages(store, sql, IMPRESSION, ("number",), "impressions", progress):
        chosen = page.filter(pl.col("shown")) if shown else page
        read += len(chosen)
        pages.append(_slates(chosen))
    rows = pl.concat(pages) if pages else pl.DataFrame()
    if not len(rows):
        raise StoreError(f"{store.backend.where}: holds no answers yet; serve recommendations first, or --rows events")
    if (left := read - rows["number"].n_unique()) > 0:
        notes.append(f"{left:,} answers left out: without items, or without the chances of all their items")
    rows = rows.join(rewards_of(store, rows), on=["number", "item_id"], how="left", maintain_order="left")
    rows = rows.with_columns(pl.col("reward").fill_null(0.0))
    extra = [*DECISION, *([] if shown else ["shown"])]
    return _tables(store, rows, ["timestamp", "reward", *extra], ["timestamp", "number", "position"], catalogue, notes)


def events(store: Store, catalogue: Catalogue, *, progress: Progress | None = None) -> Tables:
    """One row per event: histories, with time, kind, and reward and context where all events have them.

    Where only some have a reward, the others' is 1 for a play or a purchase, and 0 for anything else.

    Args:
        store, catalogue, progress: as of `decisions`.

    Raises:
        StoreError: there is none.
    """
    where = f'("user", number) > ({store.backend.mark}, {store.backend.mark})'
    names = ", ".join(f'"{name}"' for name in EVENT)
    sql = f'SELECT {names} FROM events WHERE {where} ORDER BY "user", number'
    pages = list(_pages(store, sql, EVENT, ("user", "number"), "events", progress))
    if not pages:
        raise StoreError(f"{store.backend.where}: holds no events yet")
    users = pl.DataFrame(store.fetch("SELECT key, user_id FROM users", ()), ["user", "user_id"], orient="row")
    # Who was erased while this was read is gone.
    rows = pl.concat(pages).join(users, on="user", how="inner", maintain_order="left")
    rows = rows.with_columns(
        pl.col("time").cast(pl.Datetime("us")).dt.replace_time_zone("UTC").alias("timestamp"),
        pl.col("kind").cast(pl.Enum(rows["kind"].unique().sort())).alias("event"),
        pl.coalesce("reward", pl.col("kind").is_in(["play", "purchase"]).cast(pl.Float64)).cast(pl.Float32),
    )
    rewarded = any(page["reward"].null_count() < len(page) for page in pages)
    context, notes = _context(rows["context"])
    columns = ["timestamp", *(["reward"] if rewarded else []), "event", *context.columns]
    return _tables(store, rows.hstack(context), columns, ["timestamp", "number"], catalogue, notes)


def write(tables: Tables, path: Path) -> list[Path]:
    """Write `NAME.parquet` and `NAME.items.parquet`, as `what-next data import` does.

    Raises:
        SaveError: a file cannot be written; what stood there before is intact.
    """
    frames = {beside(path, "items"): tables.items, path: tables.log}
    told = [name for name in tables.log.columns if name in (*DECISION, "shown") and "propensity" in tables.log.columns]
    footer = {
        "what_next.format": FORMATS["event" in tables.log.columns],
        "what_next.catalogue": Catalogue.from_table(tables.items).hash(),
        "what_next.decisions": ",".join(told),
    }
    write_together(frames, footer)
    beside(path, "rejected").unlink(missing_ok=True)
    return list(frames)


def _pages(
    store: Store, sql: str, schema: dict[str, Any], key: tuple[str, ...], table: str, progress: Progress | None
) -> Iterator[pl.DataFrame]:
    """The rows of a table, some at a time, in the order of their key."""
    total = store.fetch(f"SELECT count(*) FROM {table}", ())[0][0]
    after: tuple[int, ...] = (0,) * len(key)
    read = 0
    while rows := store.fetch(f"{sql} LIMIT {PAGE}", after):
        page = pl.DataFrame(rows, schema, orient="row", strict=False)
        after = tuple(page[name][-1] for name in key)
        read += len(page)
        if progress is not None:
            progress(read, total)
        yield page


def _slates(page: pl.DataFrame) -> pl.DataFrame:
    """The items of some answers, a row each."""
    chances = pl.col("propensities").str.json_decode(pl.List(pl.Float64))
    decoded = page.with_columns(pl.col("items").str.json_decode(pl.List(pl.String)), chances)
    element = pl.element()
    usable = pl.col("propensities").list.eval(element.is_not_null() & (element > 0) & (element <= 1)).list.all()
    kept = decoded.filter(usable & (pl.col("items").list.len() > 0))
    places = pl.int_ranges(1, pl.col("items").list.len() + 1, dtype=pl.Int32)
    anonymous = pl.concat_str(pl.lit("anonymous:"), "recommendation_id")
    return (
        kept.select(
            "number", "version", "policy", "shown",
            pl.coalesce("user_id", anonymous).alias("user_id"),
            pl.col("time").cast(pl.Datetime("us")).dt.replace_time_zone("UTC").alias("timestamp"),
            pl.col("recommendation_id").alias("slate"),
            pl.col("items").alias("item_id"), pl.col("propensities").alias("propensity"), places.alias("position"),
        )
        .explode("item_id", "propensity", "position")
    )  # fmt: skip


def _tables(
    store: Store, rows: pl.DataFrame, columns: list[str], order: list[str], catalogue: Catalogue, notes: list[str]
) -> Tables:
    """The log and its item table, ids as an import reads them."""
    items, more = _items(store, catalogue, rows["item_id"])
    there = rows["item_id"].is_in(items["item_id"].implode())
    if not there.all():
        more.append(f"{int((~there).sum()):,} rows left out: item not in the item table")
        rows = rows.filter(there)
    mine, theirs = as_ids([(rows.lazy(), "item_id"), (items.lazy(), "item_id")])
    (user,) = as_ids([(rows.lazy(), "user_id")])
    rows = rows.with_columns(user.alias("user_id"), mine.alias("item_id")).sort("user_id", *order, maintain_order=True)
    log = rows.select("user_id", "item_id", *columns)
    return Tables(log, items.with_columns(theirs.alias("item_id")), pl.DataFrame(), len(rows), {}, notes + more)


def _items(store: Store, catalogue: Catalogue, logged: pl.Series) -> tuple[pl.DataFrame, list[str]]:
    """The catalogue with the store's items, which go before; ids as text."""
    table, notes = catalogue.to_table().with_columns(pl.col("item_id").cast(pl.String)), list[str]()
    names, added = list(catalogue.names), store.items_after(0)
    if added:
        rows = [(one.item_id, one.title, *(one.attributes.get(name) for name in names)) for one in added]
        new = pl.DataFrame(rows, {**dict(table.schema), "title": pl.String}, orient="row", strict=False)
        gaps = sum(new[name].null_count() for name in names)
        table = pl.concat([table.filter(~pl.col("item_id").is_in(new["item_id"].implode())), new])
        if gaps:
            notes.append(f"{gaps:,} missing attributes of added items set to the median")
            table = table.with_columns(pl.col(name).fill_null(pl.col(name).median()) for name in names)
    if not names:
        missing = logged.unique(maintain_order=True)
        missing = missing.filter(~missing.is_in(table["item_id"].implode())).sort()
        table = pl.concat([table, pl.DataFrame({"item_id": missing, "title": missing})])
    return table, notes


def _context(texts: pl.Series) -> tuple[pl.DataFrame, list[str]]:
    """The numbers that every event's context holds."""
    first = texts[0]
    if first is None:
        return pl.DataFrame(), []
    names = [name for name in orjson.loads(first) if name not in (*DECISION, "user_id", "item_id", "reward", "event")]
    if not names:
        return pl.DataFrame(), []
    found = texts.str.json_decode(pl.Struct(dict.fromkeys(names, pl.Float32))).struct.unnest()
    gaps = {name: found[name].null_count() for name in names if found[name].null_count()}
    notes = [f"context {name} left out: {count:,} events lack it" for name, count in gaps.items()]
    return found.drop(list(gaps)), notes
