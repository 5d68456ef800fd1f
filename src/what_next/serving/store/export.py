"""The log as a data set: what people did, and what was decided for them, with which chance, and what it brought."""

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from what_next.data import Catalogue
from what_next.data.decisions.service_log import ADDED, DECISION, EVENT, WITHDRAWALS, context_of
from what_next.data.files import FORMATS, beside, write_together
from what_next.data.importing.ids import as_ids
from what_next.errors import DataError
from what_next.serving.store.paging import Progress, pages, users_of
from what_next.serving.store.rewards import rewards_of
from what_next.serving.store.rows import Withdrawal
from what_next.serving.store.store import Store

ANONYMOUS = "anonymous:"
"""Before the id of an answer to nobody by name: a user of its own."""
NOBODY = pl.col("user_id") == pl.concat_str(pl.lit(ANONYMOUS), "slate")
"""Which items were shown to nobody by name."""
COLUMNS: dict[str, Any] = {
    "user_id": pl.String, "item_id": pl.String, "timestamp": pl.Datetime("us", "UTC"), "reward": pl.Float32,
    "event": pl.String, "number": pl.Int64, "context": pl.String, **DECISION,
}  # fmt: skip
IMPRESSION = {
    "number": pl.Int64, "recommendation_id": pl.String, "user_id": pl.String, "time": pl.Int64, "version": pl.String,
    "policy": pl.String, "explore": pl.String, "history": pl.String, "known": pl.Int64, "items": pl.String,
    "propensities": pl.String, "withdrawn": pl.Int64,
}  # fmt: skip
EVENTS = {
    "user": pl.Int64, "number": pl.Int64, "item_id": pl.String, "kind": pl.String, "time": pl.Int64,
    "reward": pl.Float32, "context": pl.String,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Exported:
    """A log, see `data.service_log`.

    Attributes:
        log: events by user, time and number; then decisions by user, time and place.
        items: the item table; `added`: how many at its end the store has, and not the catalogue.
        withdrawals: every change of the withdrawn items, in order.
        notes: what people should know.
    """

    log: pl.DataFrame
    items: pl.DataFrame
    added: int
    withdrawals: list[Withdrawal]
    notes: list[str]

    @property
    def events(self) -> int:
        """How many rows are events."""
        return int(self.log.select(EVENT.sum()).item())

    @property
    def decisions(self) -> int:
        """How many rows are decisions."""
        return len(self.log) - self.events

    def write(self, path: Path) -> list[Path]:
        """Write `NAME.parquet` and `NAME.items.parquet`, as `what-next data import` does, but for the owner alone.

        Raises:
            SaveError: a file cannot be written; what stood there before is intact.
        """
        frames = {beside(path, "items"): self.items, path: self.log}
        catalogue = Catalogue.from_table(self.items).hash()
        write_together(
            frames,
            {
                "what_next.format": FORMATS[2],
                "what_next.catalogue": catalogue,
                ADDED: str(self.added),
                WITHDRAWALS: orjson.dumps([astuple(one) for one in self.withdrawals]).decode(),
            },
            private=True,  # people's histories, as in the store
        )
        beside(path, "rejected").unlink(missing_ok=True)
        return list(frames)


def exported(store: Store, catalogue: Catalogue, *, progress: Progress | None = None) -> Exported:
    """All events, and all answers that somebody saw, a row for each of their items.

    The reward of an item is that of the latest feedback (see `rewards_of`), 0 without; that of an event is its own,
    where it has one. Who gave no name is a user of their own. An answer without the chances of all its items cannot be
    weighed, and is left out.

    Args:
        store: with events and answers.
        catalogue: of the model; items that the store knows go before it.
        progress: see `Progress`.

    Raises:
        DataError: there is nothing.
    """
    # Answers first: whatever an answer knew is in the store by then.
    decided, notes = _decided(store, progress)
    happened = _happened(store, progress)
    rows = pl.concat([happened, _still_there(store, decided)], how="diagonal")
    if not len(rows):
        raise DataError(f"{store.backend.where}: holds no events and no answers yet; serve first")
    items, added, more = _items(store, catalogue, rows["item_id"])
    rows, left = _known(rows, items)
    mine, theirs = as_ids([(rows.lazy(), "item_id"), (items.lazy(), "item_id")])
    (user,) = as_ids([(rows.lazy(), "user_id")])
    kinds = pl.Enum(rows["event"].drop_nulls().unique().sort())
    rows = rows.with_columns(user.alias("user_id"), mine.alias("item_id"), pl.col("event").cast(kinds))
    log = rows.sort(~EVENT, "user_id", "timestamp", "number", "answer", "position", maintain_order=True)
    notes += [*more, *left, *context_of(log.filter(EVENT)["context"])[1]]
    items = items.with_columns(theirs.alias("item_id"))
    return Exported(log.select(*COLUMNS), items, added, store.withdrawals_after(0), notes)


def _happened(store: Store, progress: Progress | None) -> pl.DataFrame:
    """The events."""
    found = [pl.DataFrame(schema=EVENTS), *pages(store, "events", EVENTS, ("user", "number"), progress=progress)]
    # Who was erased while this was read is gone.
    rows = pl.concat(found).join(users_of(store), on="user", how="inner", maintain_order="left")
    return rows.select(
        "user_id", "item_id", _moment("time"), "reward", pl.col("kind").alias("event"), "number", "context"
    )


def _decided(store: Store, progress: Progress | None) -> tuple[pl.DataFrame, list[str]]:
    """The items of answers with their rewards, and the answer's own number; and what is left out, in words."""
    read, found = 0, [pl.DataFrame(schema=COLUMNS | {"answer": pl.Int64}).drop("event", "number")]
    for page in pages(store, "impressions", IMPRESSION, ("number",), where="shown", progress=progress):
        read += len(page)
        found.append(_slates(page).select(found[0].columns))
    rows = pl.concat(found)
    left = read - rows["answer"].n_unique()
    notes = [f"{left:,} answers left out: without items, or without the chances of all their items"] if left else []
    owner = pl.when(~NOBODY).then("user_id").alias("user_id")
    rewards, ignored = rewards_of(store, rows.select("slate", "item_id", owner, number="answer"))
    rewards = rewards.rename({"number": "answer", "reward": "earned"})
    rows = rows.join(rewards, on=["answer", "item_id"], how="left", maintain_order="left")
    return rows.with_columns(pl.col("earned").fill_null(0.0).alias("reward")).drop("earned"), notes + ignored


def _still_there(store: Store, decided: pl.DataFrame) -> pl.DataFrame:
    """Without those who were erased while this was read."""
    named = pl.Series(
        [user for (user,) in store.fetch("SELECT DISTINCT user_id FROM impressions", ())], dtype=pl.String
    )
    return decided.filter(NOBODY | pl.col("user_id").is_in(named.implode()))


def _slates(page: pl.DataFrame) -> pl.DataFrame:
    """The items of some answers, a row each."""
    chances, element = pl.col("propensities").str.json_decode(pl.List(pl.Float64)), pl.element()
    told = pl.DataFrame(list(_explored(page["explore"])), ["seen", "masked", "context"], orient="row")
    decoded = page.with_columns(pl.col("items").str.json_decode(pl.List(pl.String)), chances).hstack(
        told.cast({"seen": pl.Boolean, "masked": pl.Boolean, "context": pl.String})
    )
    usable = pl.col("propensities").list.eval(element.is_not_null() & (element > 0) & (element <= 1)).list.all()
    kept = decoded.filter(usable & (pl.col("items").list.len() > 0))
    anonymous = pl.concat_str(pl.lit(ANONYMOUS), "recommendation_id")
    return kept.select(
        pl.col("number").alias("answer"),
        pl.coalesce("user_id", anonymous).alias("user_id"),
        _moment("time"),
        pl.lit(0.0, pl.Float32).alias("reward"),
        pl.col("recommendation_id").alias("slate"),
        pl.col("items").alias("item_id"),
        pl.col("propensities").alias("propensity"),
        pl.int_ranges(1, pl.col("items").list.len() + 1, dtype=pl.Int32).alias("position"),
        *("version", "policy", "known", "history", "seen", "masked", "withdrawn", "context"),
    ).explode("item_id", "propensity", "position")


def _explored(texts: pl.Series) -> Iterator[tuple[bool, bool, str | None]]:
    """Of each answer whether seen items were permitted and a mask was on, and the context of the question, as JSON."""
    for text in texts:
        told: dict[str, Any] = orjson.loads(text)
        context = {name.removeprefix("context."): value for name, value in told.items() if name.startswith("context.")}
        yield "seen" in told, "masked" in told, orjson.dumps(context).decode() if context else None


def _moment(name: str) -> pl.Expr:
    return pl.col(name).cast(pl.Datetime("us")).dt.replace_time_zone("UTC").alias("timestamp")


def _known(rows: pl.DataFrame, items: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """The rows with an item of the table, of answers all or none: a chance depends on the items before it."""
    strange = rows.filter(~pl.col("item_id").is_in(items["item_id"].implode()))
    events, answers = strange.filter(EVENT), strange["slate"].drop_nulls().unique()
    notes = []
    if len(events):
        notes.append(f"{len(events):,} events left out: item not in the item table")
        rows = rows.filter(~EVENT | pl.col("item_id").is_in(items["item_id"].implode()))
    if len(answers):
        notes.append(f"{len(answers):,} answers left out: an item of theirs is not in the item table")
        rows = rows.filter(EVENT | ~pl.col("slate").is_in(answers.implode()))
    return rows, notes


def _items(store: Store, catalogue: Catalogue, logged: pl.Series) -> tuple[pl.DataFrame, int, list[str]]:
    """The catalogue with the store's items, which go before, at the end; how many these are; ids as text."""
    table, notes = catalogue.to_table().with_columns(pl.col("item_id").cast(pl.String)), list[str]()
    names, added = list(catalogue.names), store.items_after(0)
    if not names:
        told = {one.item_id for one in added}
        missing = logged.unique(maintain_order=True)
        missing = missing.filter(~missing.is_in(table["item_id"].implode()) & ~missing.is_in(list(told))).sort()
        table = pl.concat([table, pl.DataFrame({"item_id": missing, "title": missing})])
    if added:
        rows = [(one.item_id, one.title, *(one.attributes.get(name) for name in names)) for one in added]
        new = pl.DataFrame(rows, {**dict(table.schema), "title": pl.String}, orient="row", strict=False)
        gaps = sum(new[name].null_count() for name in names)
        table = pl.concat([table.filter(~pl.col("item_id").is_in(new["item_id"].implode())), new])
        if gaps:
            notes.append(f"{gaps:,} missing attributes of added items set to the median")
            table = table.with_columns(pl.col(name).fill_null(pl.col(name).median()) for name in names)
    return table, len(added), notes
