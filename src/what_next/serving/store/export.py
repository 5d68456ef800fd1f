"""The log as a data set: what people did, and what was decided for them, with which chance, and what it brought."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import polars as pl
from sqlalchemy import ColumnElement, Table, Text, bindparam, func, select, true, tuple_, type_coerce

from what_next.data import Catalogue
from what_next.data.decisions.service_log import ADDED, DECISION, EVENT, WITHDRAWALS, context_of
from what_next.data.files import FORMATS, beside, write_together
from what_next.data.importing.ids import as_ids
from what_next.errors import DataError
from what_next.serving.store import tables
from what_next.serving.store.backend import among
from what_next.serving.store.histories import EVENTS, USERS
from what_next.serving.store.records import Withdrawal
from what_next.serving.store.store import Store
from what_next.serving.store.tables import Json, dumps

ANONYMOUS = "anonymous:"
"""Before the id of an answer to nobody by name: a user of its own."""
NOBODY = pl.col("user_id") == pl.concat_str(pl.lit(ANONYMOUS), "slate")
"""Which items were shown to nobody by name."""
COLUMNS: dict[str, Any] = {
    "user_id": pl.String, "item_id": pl.String, "timestamp": pl.Datetime("us", "UTC"), "reward": pl.Float32,
    "event": pl.String, "number": pl.Int64, "arrived": pl.Int64, "context": pl.String, **DECISION,
}  # fmt: skip
ANSWERS = {
    "number": pl.Int64, "recommendation_id": pl.String, "user_id": pl.String, "time": pl.Int64, "version": pl.String,
    "policy": pl.String, "explore": pl.String, "history": pl.String, "known": pl.Int64, "items": pl.String,
    "propensities": pl.String, "withdrawn": pl.Int64, "rule": pl.String,
}  # fmt: skip
HAPPENED = {
    "user": pl.Int64, "number": pl.Int64, "item_id": pl.String, "kind": pl.String, "time": pl.Int64,
    "reward": pl.Float32, "context": pl.String, "recommendation_id": pl.String, "arrived": pl.Int64,
}  # fmt: skip
EXPLORED: dict[str, Any] = {
    "seen": pl.Boolean, "masked": pl.Boolean, "context": pl.String, "experiment": pl.String, "arm": pl.String,
}  # fmt: skip
ITEM = ("number", "item_id")
FEEDBACK = {"number": pl.Int64, "item_id": pl.String, "reward": pl.Float64, "time": pl.Int64, "arrived": pl.Int64,
            "order": pl.Int64}  # fmt: skip
NAMING = {"user_id": pl.String, "number": pl.Int64, "recommendation_id": pl.String, "kind": pl.String,
          "item_id": pl.String, "reward": pl.Float64, "time": pl.Int64, "arrived": pl.Int64}  # fmt: skip
"""Columns of an event that names an answer."""
EARNED = {"play": 1.0, "purchase": 1.0, "skip": 0.0}
"""The reward of an event that has none, by its kind."""
SENT = tables.feedback.c
SENT_TO = (
    select(SENT.impression, SENT.item_id, SENT.reward, SENT.time, SENT.arrived, SENT.number)
    .where(among(SENT.impression, "answers"))
)  # fmt: skip
RULES = select(tables.rules.c.hash, tables.rules.c.text).where(among(tables.rules.c.hash, "rules"))
ASKED = select(tables.impressions.c.user_id).distinct()
LAST = (
    select(tables.impressions.c.number, tables.impressions.c.recommendation_id)
    .order_by(tables.impressions.c.number.desc()).limit(1)
)  # fmt: skip
LAST_FEEDBACK = select(func.max(SENT.number))
UNTIL = "what_next.until"
"""In the footer of an exported log: how far the store was read, as JSON of `Until`."""
PAGE = 20_000
"""Rows that are read at once: a read that held the database would keep it from putting its files in order."""
Progress = Callable[[str, int, int], None]
"""Is called with the name of a table, how many of its rows were read, and of how many."""


@dataclass(frozen=True)
class Until:
    """How far a store was read.

    Attributes:
        answers, feedback: the last number of each; `slate`: id of that answer.
        time: by the store's clock, when the reading began.
    """

    answers: int
    slate: str | None
    feedback: int
    time: int

    @classmethod
    def of(cls, store: Store) -> "Until":
        """How far it can be read now."""
        last = store.fetch(LAST)
        number, slate = tuple(last[0]) if last else (0, None)
        return cls(number, slate, store.fetch(LAST_FEEDBACK)[0][0] or 0, store.clock())


@dataclass(frozen=True, eq=False)
class Exported:
    """A log, see `data.service_log`.

    Attributes:
        log: events by user, time and number; then decisions by user, time, answer and place.
        items: the item table; `added`: how many at its end the store has, and not the catalogue.
        withdrawals: every change of the withdrawn items, in order.
        notes: what people should know.
        until: how far the store was read (see `appended`).
    """

    log: pl.DataFrame
    items: pl.DataFrame
    added: int
    withdrawals: list[Withdrawal]
    notes: list[str]
    until: "Until"

    def noted(self, note: str) -> "Exported":
        """The same with a note more."""
        return replace(self, notes=[note, *self.notes])

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
                WITHDRAWALS: dumps([astuple(one) for one in self.withdrawals]),
                UNTIL: dumps(asdict(self.until)),
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
    until = Until.of(store)
    # Answers first: whatever an answer knew is in the store by then.
    decided, notes = read_answers(store, 0, progress)
    rewards, ignored = rewards_of(store, shown_to(decided).rename({"answer": "number"}))
    found = [pl.DataFrame(schema=HAPPENED), *_pages(store, tables.events, HAPPENED, progress=progress)]
    return completed(store, catalogue, rewarded(decided, rewards), pl.concat(found), [*notes, *ignored], until)


def completed(
    store: Store,
    catalogue: Catalogue,
    decided: pl.DataFrame,
    happened: pl.DataFrame,
    notes: list[str],
    until: "Until",
    before: pl.DataFrame | None = None,
) -> Exported:
    """The log of some answers and events, and of the rows of an earlier export.

    Raises:
        DataError: there is nothing.
    """
    events = _happened(store, happened)
    rows = pl.concat([*([] if before is None else [before]), events, decided], how="diagonal")
    rows = _still_there(store, rows)
    if not len(rows):
        raise DataError(f"{store.backend.where}: holds no events and no answers yet; serve first")
    items, added, more = _items(store, catalogue, rows["item_id"])
    rows, left = _known(rows, items)
    mine, theirs = as_ids([(rows.lazy(), "item_id"), (items.lazy(), "item_id")])
    (user,) = as_ids([(rows.lazy(), "user_id")])
    kinds = pl.Enum(rows["event"].drop_nulls().unique().sort())
    rows = rows.with_columns(user.alias("user_id"), mine.alias("item_id"), pl.col("event").cast(kinds))
    log = rows.sort(~EVENT, "user_id", "timestamp", "number", "slate", "position", maintain_order=True)
    notes += [*more, *left, *context_of(log.filter(EVENT)["context"])[1]]
    items = items.with_columns(theirs.alias("item_id"))
    return Exported(log.select(*COLUMNS), items, added, store.withdrawals_after(0), notes, until)


def _happened(store: Store, rows: pl.DataFrame) -> pl.DataFrame:
    """Some events as rows of the log; who was erased while they were read is gone."""
    return rows.join(_users(store), on="user", how="inner", maintain_order="left").select(
        "user_id", "item_id", _moment("time"), "reward", "number", "arrived", "context",
        pl.col("kind").alias("event"), pl.col("recommendation_id").alias("slate"),
    )  # fmt: skip


def read_answers(store: Store, after: int, progress: Progress | None = None) -> tuple[pl.DataFrame, list[str]]:
    """The items of the answers of a larger number, without what they brought; and what is left out, in words."""
    read, found = 0, [pl.DataFrame(schema=COLUMNS | {"answer": pl.Int64}).drop("event", "number", "arrived")]
    for page in _pages(store, tables.impressions, ANSWERS, tables.impressions.c.shown, progress, after):
        read += len(page)
        found.append(_slates(page.join(_rules(store, page["rule"]), on="rule", how="left")).select(found[0].columns))
    rows = pl.concat(found)
    left = read - rows["answer"].n_unique()
    notes = [f"{left:,} answers left out: without items, or without the chances of all their items"] if left else []
    return rows, notes


def shown_to(rows: pl.DataFrame) -> pl.DataFrame:
    """The items of some answers as `rewards_of` asks for them, nobody by name being null; `answer` is the number."""
    return rows.select("answer", "slate", "item_id", pl.when(~NOBODY).then("user_id").alias("user_id"))


def rewarded(rows: pl.DataFrame, rewards: pl.DataFrame) -> pl.DataFrame:
    """The items of some answers with what they brought, 0 where that is not told; without the answers' numbers."""
    rewards = rewards.rename({"number": "answer", "reward": "earned"})
    rows = rows.join(rewards, on=["answer", "item_id"], how="left", maintain_order="left")
    return rows.with_columns(pl.col("earned").fill_null(0.0).alias("reward")).drop("earned", "answer")


def _rules(store: Store, hashes: pl.Series) -> pl.DataFrame:
    """The rules that some answers name: columns `rule` (its hash) and `permitted`."""
    wanted = hashes.drop_nulls().unique().sort().to_list()
    found = store.fetch(RULES, rules=wanted) if wanted else []
    return frame_of(found, {"rule": pl.String, "permitted": pl.String})


def _still_there(store: Store, rows: pl.DataFrame) -> pl.DataFrame:
    """Without those who were erased, while this was read or since an earlier export."""
    asked = pl.Series([user for (user,) in store.fetch(ASKED)], dtype=pl.String)
    known = _users(store)["user_id"]
    there = pl.when(EVENT).then(pl.col("user_id").is_in(known.implode()))
    return rows.filter(there.otherwise(NOBODY | pl.col("user_id").is_in(asked.implode())))


def _slates(page: pl.DataFrame) -> pl.DataFrame:
    """The items of some answers, a row each."""
    chances, element = pl.col("propensities").str.json_decode(pl.List(pl.Float64)), pl.element()
    told = pl.DataFrame(list(_explored(page["explore"])), EXPLORED, orient="row")
    decoded = page.with_columns(pl.col("items").str.json_decode(pl.List(pl.String)), chances).hstack(told)
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
        *("version", "policy", "known", "history", "seen", "masked", "withdrawn", "context", "permitted"),
        *("experiment", "arm"),
    ).explode("item_id", "propensity", "position")


def _explored(texts: pl.Series) -> Iterator[tuple[bool, bool, str | None, str | None, str | None]]:
    """Of each answer whether seen items were permitted and a mask was on, the context of the question, as JSON, and its
    experiment and arm."""
    for text in texts:
        told: dict[str, Any] = orjson.loads(text)
        context = {name.removeprefix("context."): value for name, value in told.items() if name.startswith("context.")}
        experiment = told.get("experiment"), told.get("arm")
        yield "seen" in told, "masked" in told, dumps(context) if context else None, *experiment


def _moment(name: str) -> pl.Expr:
    return pl.col(name).cast(pl.Datetime("us")).dt.replace_time_zone("UTC").alias("timestamp")


def _known(rows: pl.DataFrame, items: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """The rows with an item of the table, of answers all or none: a chance depends on the items before it."""
    strange = rows.filter(~pl.col("item_id").is_in(items["item_id"].implode()))
    events, answers = strange.filter(EVENT), strange.filter(~EVENT)["slate"].unique()
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


# What the items of answers brought


def rewards_of(store: Store, rows: pl.DataFrame, naming: pl.DataFrame | None = None) -> tuple[pl.DataFrame, list[str]]:
    """The reward of each item of an answer that is known: columns `number`, `item_id`, `reward`; and notes.

    The rule: feedback is the rows that were sent as such, and every event with a `recommendation_id`, for the item of
    the event, if that recommendation showed it, and to the event's user or to nobody by name. Such an event's reward is
    its own; where it has none, 1 for a play or a purchase, 0 for a skip, and for other kinds it is no feedback. An
    item's reward is that of its feedback with the latest time. Of equal times the one that the store numbered last
    counts, whatever the clock said; of a row and an event, which are numbered apart, the later arrival.

    Args:
        store: with the feedback.
        rows: the items of the answers: columns `number` and `slate` (the recommendation's id) of the answer, `user_id`
            (null: nobody by name), `item_id`.
        naming: all events that name one of these answers (`NAMING`); None: they are read.
    """
    answers = rows.select("number", "slate", "user_id").unique().sort("number")
    named, others = _named(naming_events(store, answers["slate"]) if naming is None else naming, answers)
    mine = named.join(rows, on=ITEM, how="semi")
    feedback = [_latest(found, "time", "order") for found in (_sent(store, answers), mine)]
    latest = _latest(pl.concat(feedback), "time", "arrived")
    others += len(named) - len(mine)
    notes = [f"{others:,} events are no feedback: the answer that they name did not show their item to their user"]
    return latest.select(*ITEM, pl.col("reward").cast(pl.Float32)), notes if others else []


def with_rewards(store: Store, answers: pl.DataFrame, naming: pl.DataFrame | None = None) -> pl.DataFrame:
    """Some answers with `reward`: what their items brought together (see `rewards_of`), 0 where that is not told.

    Args:
        answers: columns `number`, `slate`, `user_id` and `items`, as JSON, among others. store, naming: see there.
    """
    shown = answers.select("number", "slate", "user_id", item_id=pl.col("items").str.json_decode(pl.List(pl.String)))
    rewards, _ = rewards_of(store, shown.explode("item_id"), naming)
    sums = rewards.group_by("number").agg(pl.col("reward").cast(pl.Float64).sum())
    joined = answers.join(sums, on="number", how="left", maintain_order="left")
    return joined.with_columns(pl.col("reward").fill_null(0.0))


def _sent(store: Store, answers: pl.DataFrame) -> pl.DataFrame:
    """The rows of feedback to some answers."""
    found = [pl.DataFrame(schema=FEEDBACK)]
    for part in answers.iter_slices(PAGE):
        some = frame_of(store.fetch(SENT_TO, answers=part["number"].to_list()), FEEDBACK)
        found.append(_latest(some.join(part, on="number", how="semi"), "time", "order"))
    return pl.concat(found)


def naming_events(store: Store, slates: pl.Series) -> pl.DataFrame:
    """The events that name one of some answers: columns `NAMING`."""
    columns = {name: dtype for name, dtype in NAMING.items() if name != "user_id"} | {"user": pl.Int64}
    found = [pl.DataFrame(schema=columns)]
    for page in _pages(store, tables.events, columns, EVENTS.recommendation_id.is_not(None)):
        found.append(page.filter(pl.col("recommendation_id").is_in(slates.implode())))
    return pl.concat(found).join(_users(store), on="user", how="inner").select(*NAMING)


def _named(naming: pl.DataFrame, answers: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """The events that name one of some answers to their user, and have a reward or one by their kind.

    And how many more name an answer to somebody else.
    """
    earned = pl.coalesce("reward", pl.col("kind").replace_strict(EARNED, default=None, return_dtype=pl.Float64))
    some = naming.with_columns(earned.alias("reward"), pl.col("number").alias("order")).drop("number")
    some = some.filter(pl.col("reward").is_not_null())
    shown = answers.rename({"user_id": "shown_to"})
    named = some.join(shown, left_on="recommendation_id", right_on="slate")
    mine = named.filter(pl.col("shown_to").is_null() | (pl.col("shown_to") == pl.col("user_id"))).select(*FEEDBACK)
    return mine, len(named) - len(mine)


def _latest(feedback: pl.DataFrame, *order: str) -> pl.DataFrame:
    """The last row of each item of each answer in an order."""
    return feedback.sort(*order, maintain_order=True).group_by(ITEM, maintain_order=True).last()


# Reading


def _users(store: Store) -> pl.DataFrame:
    """Who is who: columns `user`, the key that events have, and `user_id`. Read it after the events that it is for."""
    return frame_of(store.fetch(select(USERS.key, USERS.user_id)), {"user": pl.Int64, "user_id": pl.String})


def frame_of(rows: Sequence[Any], schema: Mapping[str, Any]) -> pl.DataFrame:
    """What was fetched, as a table."""
    return pl.DataFrame([tuple(row) for row in rows], dict(schema), orient="row", strict=False)


def columns_of(table: Table, names: Iterable[str]) -> list[ColumnElement[Any]]:
    """Some columns of a table, JSON as text."""
    return [type_coerce(one, Text) if isinstance(one.type, Json) else one for one in (table.c[name] for name in names)]


def _pages(
    store: Store,
    table: Table,
    columns: Mapping[str, Any],
    where: ColumnElement[bool] | None = None,
    progress: Progress | None = None,
    first: int = 0,
) -> Iterator[pl.DataFrame]:
    """The rows of a table in the order of its key, JSON as text, a page at a time; `columns` with their types.

    `first`: the key after which they begin.
    """
    key = list(table.primary_key)
    asked = columns_of(table, columns)
    chosen = tuple_(*key) > tuple_(*(bindparam(f"after_{one.name}", type_=one.type) for one in key))
    statement = select(*asked).where(chosen, true() if where is None else where).order_by(*key).limit(PAGE)
    total = 0 if progress is None else store.fetch(select(func.count()).select_from(table))[0][0]
    after, read = {f"after_{one.name}": first for one in key}, 0
    while rows := store.fetch(statement, **after):
        page = frame_of(rows, columns)
        after = {f"after_{one.name}": page[one.name][-1] for one in key}
        read += len(page)
        if progress is not None:
            progress(table.name, read, total)
        yield page
