"""The log as a data set: what people did, and what was decided for them, with which chance, and what it brought; all
of it, or what came since an earlier export.

An answer is one row here, with lists of its items. It becomes a row for each of them as the file is written: held at
once, those would take several times the memory.
"""

from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import polars as pl
from sqlalchemy import Column, select

from what_next.data import Catalogue
from what_next.data.catalogue import tags_of
from what_next.data.decisions.service_log import (
    ADDED,
    DECISION,
    EVENT,
    WITHDRAWALS,
    context_of,
    is_service_log,
    readable_export,
    scan_of,
)
from what_next.data.files import FORMATS, beside, footer_of, write_together
from what_next.data.importing.ids import as_ids
from what_next.errors import DataError, StoreError
from what_next.serving.store import tables
from what_next.serving.store.backend import after_each, among
from what_next.serving.store.histories import EVENTS, NOTE, SALT, USERS, digest_of, moment
from what_next.serving.store.records import Withdrawal
from what_next.serving.store.rewards import NAMING, PAGE, Progress, frame, pages, rewards_of, slices, users
from what_next.serving.store.store import Store
from what_next.serving.store.tables import dumps

ANONYMOUS = "anonymous:"
"""Before the id of an answer to nobody by name: a user of its own."""
NOBODY = pl.col("user_id") == pl.concat_str(pl.lit(ANONYMOUS), "slate")
"""Which items were shown to nobody by name."""
EACH = ("item_id", "propensity", "reward")
"""Columns of an answer that are lists, of a value for each of its items."""
COLUMNS: dict[str, Any] = {
    "user_id": pl.String, "item_id": pl.String, "timestamp": pl.Datetime("us", "UTC"), "reward": pl.Float32,
    "event": pl.String, "number": pl.Int64, "arrived": pl.Int64, "context": pl.String, **DECISION,
}  # fmt: skip
ANSWERS = (
    "number", "recommendation_id", "user_id", "time", "version", "policy", "explore", "history", "known", "items",
    "propensities", "withdrawn", "rule",
)  # fmt: skip
HAPPENED = ("user", "number", "item_id", "kind", "time", "reward", "context", "recommendation_id", "arrived")
OF_EVENTS = ("event", "number", "arrived")
"""Columns that answers lack."""
EXPLORED: dict[str, Any] = {
    "explore": pl.String, "seen": pl.Boolean, "masked": pl.Boolean, "context": pl.String,
    "experiment": pl.String, "arm": pl.String,
}  # fmt: skip
RULES = select(tables.rules.c.hash.label("rule"), tables.rules.c.text.label("permitted")).where(
    among(tables.rules.c.hash, "rules")
)
AGAIN = 10_000
"""So many of the last answers, and of the last feedback, are read again: where several processes write, a lower number
may come to be there after a higher one."""
GROUP = 500
"""Users, answers or ids that are asked for at once."""
SHOWN, SENT = tables.impressions.c, tables.feedback.c
NUMBERS = select(SHOWN.recommendation_id.label("slate"), SHOWN.number.label("answer")).where(
    among(SHOWN.recommendation_id, "answers")
)
SINCE = after_each("users", EVENTS.user, EVENTS.number, [EVENTS[name] for name in HAPPENED])
UNTIL = "what_next.until"
"""In the footer of an exported log: how far the store was read, as JSON of `Until`."""
EARLIER = "was written by an earlier version"
FURTHER = "goes further than the store, which was restored or is another"


@dataclass(frozen=True)
class Until:
    """How far a store was read.

    Attributes:
        answers, feedback: the last number of each; `slate`: id of that answer.
        time: by the store's clock, when the reading began: later than of all erasures before (`moment`).
        feedback_id: of that feedback; None: there is none, or the export before did not keep it.
    """

    answers: int
    slate: str | None
    feedback: int
    time: int
    feedback_id: str | None = None

    @classmethod
    def of(cls, store: Store) -> "Until":
        """How far it can be read now."""
        numbers = select(SHOWN.number, SHOWN.recommendation_id).order_by(SHOWN.number.desc())
        fed_back = select(SENT.number, SENT.feedback_id).order_by(SENT.number.desc())
        last, sent, time = store.fetch(numbers.limit(1)), store.fetch(fed_back.limit(1)), store.clock()
        number, slate = tuple(last[0]) if last else (0, None)
        feedback, feedback_id = tuple(sent[0]) if sent else (0, None)
        with suppress(StoreError), store.backend.begin() as connection:  # a full disk can be read
            time = moment(connection, time)
        return cls(number, slate, feedback, time, feedback_id)


@dataclass(frozen=True, eq=False)
class Exported:
    """A log, see `data.service_log`.

    Attributes:
        happened: events by user, time and number.
        decided: answers by user, time and id, with the lists of `EACH`.
        items: the item table; `added`: how many at its end the store has, and not the catalogue.
        withdrawals: every change of the withdrawn items, in order.
        notes: what people should know.
        until: how far the store was read (see `appended`).
    """

    happened: pl.DataFrame
    decided: pl.DataFrame
    items: pl.DataFrame
    added: int
    withdrawals: list[Withdrawal]
    notes: list[str]
    until: Until

    @property
    def rows(self) -> pl.LazyFrame:
        """The log: events, then the items of the answers by their place, a row each."""
        places = pl.int_ranges(1, pl.col("item_id").list.len() + 1, dtype=pl.Int32).alias("position")
        shown = self.decided.lazy().with_columns(places).explode(*EACH, "position")
        return pl.concat([self.happened.lazy(), shown], how="diagonal").select(*COLUMNS)

    @property
    def users(self) -> pl.Series:
        """Who is in it, each once."""
        return pl.concat([self.happened["user_id"], self.decided["user_id"]]).unique()

    @property
    def events(self) -> int:
        """How many rows are events."""
        return len(self.happened)

    @property
    def decisions(self) -> int:
        """How many rows are decisions."""
        return int(self.decided["item_id"].list.len().sum())

    def about(self, users: pl.Series) -> "Exported":
        """The log of some users alone."""
        mine = pl.col("user_id").is_in(users.implode())
        return replace(self, happened=self.happened.filter(mine), decided=self.decided.filter(mine))

    def write(self, path: Path) -> list[Path]:
        """Write `NAME.parquet` and `NAME.items.parquet`, as `what-next data import` does, but for the owner alone.

        Raises:
            SaveError: a file cannot be written; what stood there before is intact.
        """
        frames: dict[Path, pl.DataFrame | pl.LazyFrame] = {beside(path, "items"): self.items, path: self.rows}
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

    The `catalogue` is that of the model; items that the store knows go before it.

    Raises:
        DataError: there is nothing.
    """
    until = Until.of(store)
    # Answers first: whatever an answer knew is in the store by then.
    answers, notes = read_answers(store, 0, progress)
    happened = _happened(store, pl.concat(pages(store, tables.events, HAPPENED, progress=progress)))
    return completed(store, catalogue, happened, answers, [], notes, until)


def completed(
    store: Store,
    catalogue: Catalogue,
    happened: pl.DataFrame,
    answers: list[pl.DataFrame],
    rest: list[pl.DataFrame],
    notes: list[str],
    until: Until,
) -> Exported:
    """The log of some events and answers.

    Args:
        answers: those whose rewards are to be found, with their numbers.
        rest: the others. Both lists are emptied, so that nobody holds their frames once these were copied.

    Raises:
        DataError: there is nothing.
    """
    decided, ignored = _rewarded(store, pl.concat(answers, how="diagonal"), happened)
    answers.clear()
    happened, decided = _still_there(store, happened, pl.concat([*rest, decided], how="diagonal"))
    rest.clear()
    if not len(happened) and not len(decided):
        raise DataError(f"{store.backend.where}: holds no events and no answers yet; serve first")
    logged = pl.concat([happened["item_id"], decided["item_id"].explode()]).unique()
    items, added, more = _items(store, catalogue, logged)
    happened, decided, left = _known(happened, decided, items)
    # No word stands for a missing id here: what was sent as `null` or `undefined` is somebody's name.
    (item,) = as_ids([(items.lazy(), "item_id")], missing=())  # the log has no others
    first, second = as_ids([(happened.lazy(), "user_id"), (decided.lazy(), "user_id")], missing=())
    kinds = pl.Enum(happened["event"].drop_nulls().unique().sort())
    happened = happened.with_columns(first.alias("user_id"), item.alias("item_id"), pl.col("event").cast(kinds))
    theirs = items.select(item.alias("item_id"))["item_id"]
    each = pl.element().replace_strict(items["item_id"], theirs, return_dtype=theirs.dtype)
    decided = decided.with_columns(second.alias("user_id"), pl.col("item_id").list.eval(each))
    happened = _sorted(happened, "user_id", "timestamp", "number")
    notes += [*ignored, *more, *left, *context_of(happened["context"])[1]]
    decided = _sorted(decided, "user_id", "timestamp", "slate")
    return Exported(happened, decided, items.with_columns(theirs), added, store.withdrawals_after(0), notes, until)


def _sorted(rows: pl.DataFrame, *by: str) -> pl.DataFrame:
    """Rows in an order, taken from a frame column by column, so that never two copies of all are held."""
    order = rows.select(pl.arg_sort_by(*by)).to_series()
    return pl.DataFrame([rows.drop_in_place(name).gather(order) for name in rows.columns])


def _happened(store: Store, rows: pl.DataFrame) -> pl.DataFrame:
    """Some events as rows of the log; who was erased while they were read is gone."""
    return rows.join(users(store), on="user", how="inner", maintain_order="left").select(
        "user_id", "item_id", _moment("time"), pl.col("reward").cast(pl.Float32), "number", "arrived", "context",
        pl.col("kind").alias("event"), pl.col("recommendation_id").alias("slate"),
    )  # fmt: skip


def read_answers(store: Store, after: int, progress: Progress | None = None) -> tuple[list[pl.DataFrame], list[str]]:
    """Pages of answers of a larger number, without what they brought; and what is left out, in words."""
    read, found = 0, []
    for page in pages(store, tables.impressions, ANSWERS, tables.impressions.c.shown, progress=progress, after=after):
        read += len(page)
        rules = frame(store, RULES, rules=page["rule"].drop_nulls().unique().sort().to_list())
        found.append(_slates(page.join(rules, on="rule", how="left")))
    left = read - sum(map(len, found))
    notes = [f"{left:,} answers left out: without items, or without the chances of all their items"] if left else []
    return found, notes


def _rewarded(store: Store, rows: pl.DataFrame, events: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """Some answers with what their items brought, 0 where that is not told; without the answers' numbers."""
    nobody = pl.when(~NOBODY).then("user_id").alias("user_id")
    naming = events.filter(pl.col("slate").is_not_null()).rename({"slate": "recommendation_id", "event": "kind"})
    naming = naming.with_columns(pl.col("timestamp").dt.epoch("us").alias("time"), pl.col("reward").cast(pl.Float64))
    asked = rows.select(pl.col("answer").alias("number"), "slate", "item_id", nobody)
    rewards, notes = rewards_of(store, asked, naming.select(*NAMING))
    rewards = rewards.rename({"number": "answer"})
    earned = pl.concat(_earned(some, rewards) for some in slices(rows, PAGE))
    return rows.with_columns(earned).drop("answer"), notes


def _earned(rows: pl.DataFrame, rewards: pl.DataFrame) -> pl.Series:
    """What each item of some answers brought, in their order."""
    items = rows.select("answer", "item_id").explode("item_id")
    items = items.join(rewards, on=["answer", "item_id"], how="left", maintain_order="left")
    return items.group_by("answer", maintain_order=True).agg(pl.col("reward").fill_null(0.0))["reward"]


def _still_there(store: Store, happened: pl.DataFrame, decided: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Without those who were erased, while this was read or since an earlier export."""
    asked, known = frame(store, select(SHOWN.user_id).distinct())["user_id"], users(store)["user_id"]
    user = pl.col("user_id")
    return happened.filter(user.is_in(known.implode())), decided.filter(NOBODY | user.is_in(asked.implode()))


def _slates(page: pl.DataFrame) -> pl.DataFrame:
    """Some answers, with the items and their chances as lists."""
    chances, element = pl.col("propensities").str.json_decode(pl.List(pl.Float64)), pl.element()
    decoded = page.with_columns(pl.col("items").str.json_decode(pl.List(pl.String)), chances)
    decoded = decoded.join(_explored(page["explore"].unique()), on="explore", maintain_order="left")
    usable = pl.col("propensities").list.eval(element.is_not_null() & (element > 0) & (element <= 1)).list.all()
    kept = decoded.filter(usable & (pl.col("items").list.len() > 0))
    anonymous = pl.concat_str(pl.lit(ANONYMOUS), "recommendation_id")
    return kept.select(
        pl.col("number").alias("answer"),
        pl.coalesce("user_id", anonymous).alias("user_id"),
        _moment("time"),
        pl.col("recommendation_id").alias("slate"),
        pl.col("items").alias("item_id"),
        pl.col("propensities").alias("propensity"),
        *("version", "policy", "known", "history", "seen", "masked", "withdrawn", "context", "permitted"),
        *("experiment", "arm"),
    )


def _explored(texts: pl.Series) -> pl.DataFrame:
    """Of what answers noted, a text each, whether seen items were permitted and a mask was on, the context of the
    question, as JSON, and its experiment and arm."""
    rows = []
    for text in texts:
        told: dict[str, Any] = orjson.loads(text)
        context = {name.removeprefix("context."): value for name, value in told.items() if name.startswith("context.")}
        experiment = told.get("experiment"), told.get("arm")
        rows.append((text, "seen" in told, "masked" in told, dumps(context) if context else None, *experiment))
    return pl.DataFrame(rows, EXPLORED, orient="row")


def _moment(name: str) -> pl.Expr:
    return pl.col(name).cast(pl.Datetime("us")).dt.replace_time_zone("UTC").alias("timestamp")


def _known(
    happened: pl.DataFrame, decided: pl.DataFrame, items: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame, list[str]]:
    """The events with an item of the table, and the answers whose items are all there: a chance depends on the items
    before it."""
    known = items["item_id"].implode()
    events = happened.filter(pl.col("item_id").is_in(known))
    answers = decided.filter(pl.col("item_id").list.eval(pl.element().is_in(known)).list.all())
    notes = []
    if left := len(happened) - len(events):
        notes.append(f"{left:,} events left out: item not in the item table")
    if left := len(decided) - len(answers):
        notes.append(f"{left:,} answers left out: an item of theirs is not in the item table")
    return events, answers, notes


def _items(store: Store, catalogue: Catalogue, logged: pl.Series) -> tuple[pl.DataFrame, int, list[str]]:
    """The catalogue with the store's items, which go before, at the end; how many these are; ids as text."""
    table, notes = catalogue.to_table().with_columns(pl.col("item_id").cast(pl.String)), list[str]()
    names, added = list(catalogue.names), store.items_after(0)
    if not names:
        told = {one.item_id for one in added}
        missing = logged.filter(~logged.is_in(table["item_id"].implode()) & ~logged.is_in(list(told))).sort()
        table = pl.concat([table, pl.DataFrame({"item_id": missing, "title": missing})], how="diagonal")
    if added:
        rows = [(one.item_id, one.title, *(one.attributes.get(name) for name in names)) for one in added]
        kinds = {name: kind for name, kind in table.schema.items() if name in ("item_id", *names)}
        new = pl.DataFrame(rows, {"item_id": kinds["item_id"], "title": pl.String, **kinds}, orient="row", strict=False)
        gaps = sum(new[name].null_count() for name in names)
        before = table.select(pl.exclude("title", *names))  # the tags of those that were there before
        new = new.join(before, on="item_id", how="left", maintain_order="left").select(table.columns)
        if catalogue.tags is not None:
            tags = [None if one.tags is None else tags_of(one.tags) for one in added]
            given = pl.Series(catalogue.tags.name, tags, catalogue.tags.dtype)
            new = new.with_columns(pl.coalesce(given, given.name))
        table = pl.concat([table.filter(~pl.col("item_id").is_in(new["item_id"].implode())), new])
        if gaps:
            notes.append(f"{gaps:,} missing attributes of added items set to the median")
            table = table.with_columns(pl.col(name).fill_null(pl.col(name).median()) for name in names)
    return table, len(added), notes


# What came since an earlier export


def appended(store: Store, catalogue: Catalogue, path: Path, *, progress: Progress | None = None) -> Exported:
    """What `exported` gives; read are the rows of an earlier export, and of the store what came since.

    Late feedback to answers of the earlier export counts, and who was erased since is gone. Where there is no such file
    yet, where an earlier version wrote it, or where the store is another or was restored, all is read.

    Raises:
        DataError: the file is not as it was exported, or is no exported log.
    """
    before, reason = _before(store, path)
    until, kept = Until.of(store), [] if before is None else _kept(store, path, before)
    if kept and not _holds(store, kept[0]):
        before, reason = None, f"{path} {FURTHER}"
    if before is None:
        found = exported(store, catalogue, progress=progress)
        return found if reason is None else replace(found, notes=[f"all was read: {reason}", *found.notes])
    # Answers first: whatever an answer knew is in the store by then.
    since = max(0, before.answers - AGAIN)
    again = frame(store, select(SHOWN.recommendation_id).where(SHOWN.number > since)).to_series()
    answers, notes = read_answers(store, since, progress)
    events = kept.pop(0)
    kept[0] = kept[0].filter(~pl.col("slate").is_in(again.implode()))
    happened = _since(store, events)
    fed_back = select(SHOWN.recommendation_id).join(tables.feedback, SENT.impression == SHOWN.number)
    fed_back = fed_back.where(SENT.number > max(0, before.feedback - AGAIN)).distinct()
    touched = pl.concat([happened["recommendation_id"].drop_nulls(), frame(store, fed_back).to_series()]).unique()
    late = pl.col("slate").is_in(touched.implode())
    slates = kept[0].filter(late).drop("reward")
    kept[0] = kept[0].filter(~late)
    numbers = pl.concat(frame(store, NUMBERS, answers=some["slate"].to_list()) for some in slices(slates, GROUP))
    answers.append(slates.join(numbers, on="slate", how="inner"))
    events = pl.concat([events, _happened(store, happened)], how="diagonal")
    return completed(store, catalogue, events, answers, kept, notes, until)


def _kept(store: Store, path: Path, before: Until) -> list[pl.DataFrame]:
    """The events and the answers of an earlier export, as they are read from a store; who was erased since is gone."""
    rows = scan_of(path).with_columns(pl.col("user_id", "item_id", "event").cast(pl.String))
    with readable_export(path):
        rows = rows.filter(~pl.col("user_id").is_in(_erased(store, rows, before).implode()))
        each = (pl.col(name).sort_by("position") for name in EACH)
        names = [name for name in COLUMNS if name not in (*EACH, "slate", "position", *OF_EVENTS)]
        answers = rows.filter(~EVENT).group_by("slate").agg(*each, pl.col(names).first())
        events = rows.filter(EVENT).select("user_id", "item_id", "timestamp", "reward", *OF_EVENTS, "context", "slate")
        return pl.collect_all([events, answers], engine="streaming")


def _before(store: Store, path: Path) -> tuple[Until | None, str | None]:
    """How far an earlier export came; else why it cannot be gone on from, None where there is none."""
    if not path.exists():
        return None, None
    if not is_service_log(path):
        raise DataError(f"{path}: is no exported log of a service, so nothing can be appended to it; name another file")
    if (before := _until(path)) is None:
        return None, f"{path} {EARLIER}"
    answer = (SHOWN.number, SHOWN.recommendation_id, before.answers, before.slate)
    feedback = (SENT.number, SENT.feedback_id, before.feedback, before.feedback_id)
    if all(_reaches(store, *one) for one in (answer, feedback)):
        return before, None
    return None, f"{path} {FURTHER}"


def _reaches(store: Store, number: Column[int], name: Column[str], last: int, known: str | None) -> bool:
    """Whether a table holds the row that had the last number, or at least later ones: its user may have been erased."""
    found = store.fetch(select(number, name).where(number >= last).order_by(number).limit(1))
    if not found:
        return not last
    return bool(found[0][0] > last or known is None or found[0][1] == known)


def _holds(store: Store, events: pl.DataFrame) -> bool:
    """Whether a store holds the last event to arrive of an earlier export: else it was restored since, and has given
    the numbers of what it lost to others. Events have no number over all users."""
    if not len(events):
        return True
    user, number, arrived = events.sort("arrived").select("user_id", "number", "arrived").row(-1)
    there = select(EVENTS.number).join(tables.users, USERS.key == EVENTS.user)
    return bool(store.fetch(there.where(USERS.user_id == user, EVENTS.number == number, EVENTS.arrived == arrived)))


def _until(path: Path) -> Until | None:
    """How far an export came; None: an earlier version wrote it."""
    try:
        return Until(**orjson.loads(footer_of(path)[UNTIL]))
    except (KeyError, ValueError, TypeError):
        return None


def _erased(store: Store, rows: pl.LazyFrame, before: Until) -> pl.Series:
    """Who of the users of some rows was erased since an export, as texts."""
    salt = store.fetch(NOTE, note=SALT)
    erased = tables.erased_users.c
    digests = {digest for (digest,) in store.fetch(select(erased.digest).where(erased.time >= before.time))}
    if not salt or not digests:
        return pl.Series(dtype=pl.String)
    users = rows.select(pl.col("user_id").cast(pl.String).unique()).collect(engine="streaming").to_series()
    return pl.Series([user for user in users if digest_of(salt[0][0], user) in digests], dtype=pl.String)


def forget_erased(store: Store, path: Path) -> bool:
    """Take those who were erased since an export out of its file; whether there were any.

    Raises:
        DataError: the file is not as it was exported.
        SaveError: it cannot be written, or a page of it is damaged; it is as it was.
    """
    if (before := _until(path)) is None:
        raise DataError(f"{path}: {EARLIER}; export it again")
    rows = scan_of(path)
    with readable_export(path):
        gone = _erased(store, rows, before)
    if len(gone):
        own = {name: text for name, text in footer_of(path).items() if name.startswith("what_next.")}
        left = rows.filter(~pl.col("user_id").cast(pl.String).is_in(gone.implode()))
        with readable_export(path):  # it is read as it is written
            write_together({path: left}, own, private=True)
    return len(gone) > 0


def _since(store: Store, kept: pl.DataFrame) -> pl.DataFrame:
    """The events that are not among some: of each user those of a larger number."""
    users = frame(store, select(USERS.key.label("user"), USERS.user_id, USERS.last))
    last = kept.group_by("user_id").agg(pl.col("number").max().alias("after"))
    ahead = users.join(last, on="user_id", how="left").with_columns(pl.col("after").fill_null(0))
    ahead = ahead.filter(pl.col("last") > pl.col("after")).select("user", "after").sort("user")
    return pl.concat(
        frame(store, SINCE[store.backend.dialect], users=dict(some.iter_rows())) for some in slices(ahead, GROUP)
    )
