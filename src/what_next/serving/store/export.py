"""Export of the log as a data set: events, and decisions with propensities and rewards; all, or what came since an
earlier export.

In memory an answer is one row with lists of its items, which are expanded to one row each only when the file is
written, because this takes several times the memory.
"""

from contextlib import suppress
from dataclasses import astuple, dataclass, replace
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
from what_next.serving.store.rewards import ITEM, NAMING, PAGE, Progress, frame, pages, rewards_of, slices, users
from what_next.serving.store.store import Store
from what_next.serving.store.tables import dumps

ANONYMOUS = "anonymous:"
"""Prefix of the user id of an answer without a user: `anonymous:` and the answer's id."""
NOBODY = pl.col("user_id") == pl.concat_str(pl.lit(ANONYMOUS), "slate")
"""Rows of answers without a user."""
EACH = ("item_id", "propensity", "reward")
"""Columns of an answer that are lists with a value per item."""
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
"""Columns of events that answers lack."""
EXPLORED: dict[str, Any] = {
    "explore": pl.String, "seen": pl.Boolean, "masked": pl.Boolean, "context": pl.String,
    "experiment": pl.String, "arm": pl.String,
}  # fmt: skip
RULES = select(tables.rules.c.hash.label("rule"), tables.rules.c.text.label("permitted")).where(
    among(tables.rules.c.hash, "rules")
)
AGAIN = 10_000
"""The last answers and the last feedback, this many of each, are read again by the next export, because with several
writing processes a lower number may be committed after a higher one."""
GROUP = 500
"""Users, answers or ids in one query."""
SHOWN, SENT = tables.impressions.c, tables.feedback.c
NUMBERS = select(SHOWN.recommendation_id.label("slate"), SHOWN.number).where(among(SHOWN.recommendation_id, "answers"))
SINCE = after_each([EVENTS[name] for name in HAPPENED])
UNTIL = "what_next.until"
"""Key in the footer of an exported log: how far the store was read, as JSON of `Until`."""
EARLIER = "was written by an earlier version"
FURTHER = "goes further than the store, which was restored or is another"


@dataclass(frozen=True)
class Until:
    """How far a store was read.

    Attributes:
        answers, feedback: the last number of each; `slate`: id of the last answer.
        time: when reading began, by the store's clock; later than all earlier erasures (`moment`).
        feedback_id: of the last feedback; None: there is none, or an older export did not store it.
    """

    answers: int
    slate: str | None
    feedback: int
    time: int
    feedback_id: str | None = None

    @classmethod
    def of(cls, store: Store) -> "Until":
        """How far the store can be read now."""
        numbers = select(SHOWN.number, SHOWN.recommendation_id).order_by(SHOWN.number.desc())
        fed_back = select(SENT.number, SENT.feedback_id).order_by(SENT.number.desc())
        last, sent, time = store.fetch(numbers.limit(1)), store.fetch(fed_back.limit(1)), store.clock()
        number, slate = tuple(last[0]) if last else (0, None)
        feedback, feedback_id = tuple(sent[0]) if sent else (0, None)
        with suppress(StoreError), store.backend.begin() as connection:  # with a full disk the store can still be read
            time = moment(connection, time)
        return cls(number, slate, feedback, time, feedback_id)


@dataclass(frozen=True, eq=False)
class Exported:
    """An exported log, see `data.service_log`.

    Attributes:
        happened: events by user, time and number.
        decided: answers by user, time and id, with the lists of `EACH`.
        items: the item table; `added`: how many at its end are from the store, not from the catalogue.
        withdrawals: all changes of the withdrawn items, in order.
        notes: for the user.
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
        """The log: events, then the items of answers by position, one row each."""
        places = pl.int_ranges(1, pl.col("item_id").list.len() + 1, dtype=pl.Int32).alias("position")
        shown = self.decided.lazy().with_columns(places).explode(*EACH, "position")
        return pl.concat([self.happened.lazy(), shown], how="diagonal").select(*COLUMNS)

    @property
    def users(self) -> pl.Series:
        """The distinct user ids of the log; an answer without a user has one of its own."""
        return pl.concat([self.happened["user_id"], self.decided["user_id"]]).unique()

    @property
    def anonymous(self) -> int:
        """The number of answers without a user."""
        return len(self.decided.with_columns(pl.col("user_id").cast(pl.String)).filter(NOBODY))

    @property
    def events(self) -> int:
        """The number of events."""
        return len(self.happened)

    @property
    def decisions(self) -> int:
        """The number of decisions: the items of all answers."""
        return int(self.decided["item_id"].list.len().sum())

    def about(self, users: pl.Series) -> "Exported":
        """The log of some users only."""
        mine = pl.col("user_id").is_in(users.implode())
        return replace(self, happened=self.happened.filter(mine), decided=self.decided.filter(mine))

    def write(self, path: Path) -> list[Path]:
        """Write `NAME.parquet` and `NAME.items.parquet`, as `what-next data import` does, but private to the owner.

        Raises:
            SaveError: a file cannot be written; existing files are unchanged.
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
                UNTIL: dumps(self.until),
            },
            private=True,  # personal data, as in the store
        )
        beside(path, "rejected").unlink(missing_ok=True)
        return list(frames)


def exported(store: Store, catalogue: Catalogue, *, progress: Progress | None = None) -> Exported:
    """Export all events, and all answers that were shown, one row per item.

    The reward of an item is that of its latest feedback (see `rewards_of`), 0 without feedback; an event has its own
    reward, if any. Each answer without a user gets a user of its own. Answers without the chances of all their items
    are left out, because they cannot be weighted.

    `catalogue`: of the model; items of the store override it.

    Raises:
        DataError: the store has no events and no answers.
    """
    until = Until.of(store)
    # Answers first, so that every event that an answer knew is read, too.
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
        answers: answers whose rewards are still to be found, with their numbers.
        rest: answers with rewards. Both lists are emptied, to free their frames after these were copied.

    Raises:
        DataError: there are no events and no answers.
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
    # No word means a missing id here: an id of `null` or `undefined` was sent as such.
    (item,) = as_ids([(items.lazy(), "item_id")], missing=())  # the log has no other items
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
    """Rows sorted column by column, which empties the frame, so that there are never two copies of all columns."""
    order = rows.select(pl.arg_sort_by(*by)).to_series()
    return pl.DataFrame([rows.drop_in_place(name).gather(order) for name in rows.columns])


def _happened(store: Store, rows: pl.DataFrame) -> pl.DataFrame:
    """Events as rows of the log, without users who were erased while they were read."""
    return rows.join(users(store), on="user", how="inner", maintain_order="left").select(
        "user_id", "item_id", _moment("time"), pl.col("reward").cast(pl.Float32), "number", "arrived", "context",
        pl.col("kind").alias("event"), pl.col("recommendation_id").alias("slate"),
    )  # fmt: skip


def read_answers(store: Store, after: int, progress: Progress | None = None) -> tuple[list[pl.DataFrame], list[str]]:
    """Pages of answers after a number, without rewards; and notes about answers that are left out."""
    read, found = 0, []
    for page in pages(store, tables.impressions, ANSWERS, tables.impressions.c.shown, progress=progress, after=after):
        read += len(page)
        rules = frame(store, RULES, rules=page["rule"].drop_nulls().unique().sort().to_list())
        found.append(_slates(page.join(rules, on="rule", how="left")))
    left = read - sum(map(len, found))
    notes = [f"{left:,} answers left out: without items, or without the chances of all their items"] if left else []
    return found, notes


def _rewarded(store: Store, rows: pl.DataFrame, events: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """Answers with the rewards of their items (0 without feedback), without the column `number`; and notes."""
    nobody = pl.when(~NOBODY).then("user_id").alias("user_id")
    naming = events.filter(pl.col("slate").is_not_null()).rename({"slate": "recommendation_id", "event": "kind"})
    naming = naming.with_columns(pl.col("timestamp").dt.epoch("us").alias("time"), pl.col("reward").cast(pl.Float64))
    rewards, notes = rewards_of(store, rows.select("number", "slate", "item_id", nobody), naming.select(*NAMING))
    earned = pl.concat(_earned(some, rewards) for some in slices(rows, PAGE))
    return rows.with_columns(earned).drop("number"), notes


def _earned(rows: pl.DataFrame, rewards: pl.DataFrame) -> pl.Series:
    """The rewards of the items of answers, as lists in the answers' order."""
    items = rows.select(ITEM).explode("item_id")
    items = items.join(rewards, on=ITEM, how="left", maintain_order="left")
    return items.group_by("number", maintain_order=True).agg(pl.col("reward").fill_null(0.0))["reward"]


def _still_there(store: Store, happened: pl.DataFrame, decided: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows without users who were erased since they were read or exported."""
    asked, known = frame(store, select(SHOWN.user_id).distinct())["user_id"], users(store)["user_id"]
    user = pl.col("user_id")
    return happened.filter(user.is_in(known.implode())), decided.filter(NOBODY | user.is_in(asked.implode()))


def _slates(page: pl.DataFrame) -> pl.DataFrame:
    """Answers with their items and propensities as lists, without unusable ones."""
    chances, element = pl.col("propensities").str.json_decode(pl.List(pl.Float64)), pl.element()
    decoded = page.with_columns(pl.col("items").str.json_decode(pl.List(pl.String)), chances)
    decoded = decoded.join(_explored(page["explore"].unique()), on="explore", maintain_order="left")
    usable = pl.col("propensities").list.eval(element.is_not_null() & (element > 0) & (element <= 1)).list.all()
    kept = decoded.filter(usable & (pl.col("items").list.len() > 0))
    anonymous = pl.concat_str(pl.lit(ANONYMOUS), "recommendation_id")
    return kept.select(
        "number",
        pl.coalesce("user_id", anonymous).alias("user_id"),
        _moment("time"),
        pl.col("recommendation_id").alias("slate"),
        pl.col("items").alias("item_id"),
        pl.col("propensities").alias("propensity"),
        *("version", "policy", "known", "history", "seen", "masked", "withdrawn", "context", "permitted"),
        *("experiment", "arm"),
    )


def _explored(texts: pl.Series) -> pl.DataFrame:
    """Parse the column `explore` of answers: whether seen items were permitted and a mask was used, the question's
    context as JSON, and its experiment and arm."""
    rows = []
    for text in texts:
        told: dict[str, Any] = orjson.loads(text)
        context = {name.removeprefix("context."): value for name, value in told.items() if name.startswith("context.")}
        experiment = told.get("experiment"), told.get("arm")
        rows.append((text, "seen" in told, "masked" in told, dumps(context) if context else None, *experiment))
    return pl.DataFrame(rows, EXPLORED, orient="row")


def _moment(name: str) -> pl.Expr:
    return pl.col(name).cast(pl.Datetime("us", "UTC")).alias("timestamp")


def _known(
    happened: pl.DataFrame, decided: pl.DataFrame, items: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame, list[str]]:
    """The events with a known item, and the answers whose items are all known, because each propensity depends on the
    items before it; and notes."""
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
    """The catalogue with the store's items, which override its own, at the end; the number of these; and notes."""
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
        before = table.select(pl.exclude("title", *names))  # known items keep their tags
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
    """The same as `exported`, but reads only the store's new rows, and the others from an earlier export.

    Late feedback to answers of the earlier export is included, and users who were erased since are left out. The whole
    store is read if there is no earlier export, an earlier version wrote it, or it is of another store or one that was
    restored since.

    Raises:
        DataError: the file was changed, or is not an exported log.
    """
    before, reason = _before(store, path)
    until, kept = Until.of(store), [] if before is None else _kept(store, path, before)
    if kept and not _holds(store, kept[0]):
        before, reason = None, f"{path} {FURTHER}"
    if before is None:
        found = exported(store, catalogue, progress=progress)
        return found if reason is None else replace(found, notes=[f"all was read: {reason}", *found.notes])
    # Answers first, so that every event that an answer knew is read, too.
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
    """The events and the answers of an earlier export, in the form of `Exported`, without users erased since."""
    rows = scan_of(path).with_columns(pl.col("user_id", "item_id", "event").cast(pl.String))
    with readable_export(path):
        rows = rows.filter(~pl.col("user_id").is_in(_erased(store, rows, before).implode()))
        each = (pl.col(name).sort_by("position") for name in EACH)
        names = [name for name in COLUMNS if name not in (*EACH, "slate", "position", *OF_EVENTS)]
        answers = rows.filter(~EVENT).group_by("slate").agg(*each, pl.col(names).first())
        events = rows.filter(EVENT).select("user_id", "item_id", "timestamp", "reward", *OF_EVENTS, "context", "slate")
        return pl.collect_all([events, answers], engine="streaming")


def _before(store: Store, path: Path) -> tuple[Until | None, str | None]:
    """How far an earlier export read; else None and the reason why it cannot be continued (None: there is none)."""
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
    """Whether a table still holds the row with the last number, or later rows: the row's user may have been erased."""
    found = store.fetch(select(number, name).where(number >= last).order_by(number).limit(1))
    if not found:
        return not last
    return bool(found[0][0] > last or known is None or found[0][1] == known)


def _holds(store: Store, events: pl.DataFrame) -> bool:
    """Whether a store holds the last arrived event of an earlier export. If not, it was restored since, and may have
    used the same numbers for other events. (Events are numbered per user.)"""
    if not len(events):
        return True
    user, number, arrived = events.sort("arrived").select("user_id", "number", "arrived").row(-1)
    there = select(EVENTS.number).join(tables.users, USERS.key == EVENTS.user)
    return bool(store.fetch(there.where(USERS.user_id == user, EVENTS.number == number, EVENTS.arrived == arrived)))


def _until(path: Path) -> Until | None:
    """How far an export read the store; None: an earlier version wrote it."""
    try:
        return Until(**orjson.loads(footer_of(path)[UNTIL]))
    except (KeyError, ValueError, TypeError):
        return None


def _erased(store: Store, rows: pl.LazyFrame, before: Until) -> pl.Series:
    """The users of some rows who were erased since an export, as texts."""
    salt = store.fetch(NOTE, note=SALT)
    erased = tables.erased_users.c
    digests = {digest for (digest,) in store.fetch(select(erased.digest).where(erased.time >= before.time))}
    if not salt or not digests:
        return pl.Series(dtype=pl.String)
    users = rows.select(pl.col("user_id").cast(pl.String).unique()).collect(engine="streaming").to_series()
    return pl.Series([user for user in users if digest_of(salt[0][0], user) in digests], dtype=pl.String)


def forget_erased(store: Store, path: Path) -> bool:
    """Remove users who were erased since an export from its file; returns whether there were any.

    Raises:
        DataError: the file was changed.
        SaveError: it cannot be written, or a page of it is damaged; it is unchanged.
    """
    if (before := _until(path)) is None:
        raise DataError(f"{path}: {EARLIER}; export it again")
    rows = scan_of(path)
    with readable_export(path):
        gone = _erased(store, rows, before)
    if len(gone):
        own = {name: text for name, text in footer_of(path).items() if name.startswith("what_next.")}
        left = rows.filter(~pl.col("user_id").cast(pl.String).is_in(gone.implode()))
        with readable_export(path):  # reading happens during writing
            write_together({path: left}, own, private=True)
    return len(gone) > 0


def _since(store: Store, kept: pl.DataFrame) -> pl.DataFrame:
    """The events after those in `kept`: for each user, those with a larger number."""
    users = frame(store, select(USERS.key.label("user"), USERS.user_id, USERS.last))
    last = kept.group_by("user_id").agg(pl.col("number").max().alias("after"))
    ahead = users.join(last, on="user_id", how="left").with_columns(pl.col("after").fill_null(0))
    ahead = ahead.filter(pl.col("last") > pl.col("after")).select("user", "after").sort("user")
    return pl.concat(
        frame(store, SINCE[store.backend.dialect], users=dict(some.iter_rows())) for some in slices(ahead, GROUP)
    )
