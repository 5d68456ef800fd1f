"""From a raw table to clean events: checks every row, rejects unusable ones, sorts, and reports.

Columns are processed one at a time, and ids become int32 numbers early, so that a hundred million rows fit in a few
gigabytes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from what_next.data.decisions.service_log import is_service_log
from what_next.data.importing.attributes import first_values, item_table, tag_columns
from what_next.data.importing.columns import ITEM_TABLE_ALIASES, ROW_LABELS, aliased, as_reward, numeric, recognise
from what_next.data.importing.contents import data_file
from what_next.data.importing.events import Events, Order, in_sessions, repeated
from what_next.data.importing.ids import as_ids, told_alike
from what_next.data.importing.raw_log import FILE, ROW, RawLog, event_words, free_columns, like_ids, odd_columns
from what_next.data.importing.readers import Source, open_source, readable
from what_next.data.importing.tables import Options, Tables, by_reason, why
from what_next.data.importing.times import EARLIEST, NEGATIVE, Times, like_times, read_times
from what_next.errors import MOST_NAMES, DataError, as_found, counted, some

NO = {
    "user_id": "no user",
    "item_id": "no item",
    "timestamp": "not a time",
    "reward": "reward not a number",
    "event": "no event word",
}
"""The reason for rejecting a row with a missing value, by column."""
REPEATED, UNLISTED = "exact duplicate", "item not in the item table"
"""Reasons for rejecting a row that need its other rows, or the item table."""
LARGEST = 1e30
"""Largest reward, so that sums over batches do not overflow 32 bits."""
BASKETS = 0.75
"""From this share of a user's rows with the time of the row before, the import warns that order hardly counts."""
SHOWN = 0.8
"""From this share of rewards of 0, none below, the import warns that rows may have been shown and not chosen."""
BY_CHANCE = 20
"""With fewer pairs of neighbouring events than this, they may be in the order of their items by chance."""
FEW = 10
"""A warning is given if at least one row in this many is rejected."""
MANY = 2**22
"""Most events that are checked for that order."""


@dataclass(frozen=True)
class Checked:
    """A raw log whose rows have been checked; nothing is sorted yet, and only unusable rows are in memory.

    Attributes:
        log: the raw log.
        kept: its usable rows.
        values: expressions for `user_id`, `item_id`, then if known `timestamp` (Int64, microseconds), `reward`,
            `event`, context.
        times: details of the times, if there are any.
        attributes: the columns of the log that describe the item; `tags`: text columns that may become tags.
        table: the separate item table, if there is one.
        bad: `ROW` and `reason` of the unusable rows.
        notes: for the user; `left_out`: likewise, about columns.
        warnings: for the user, about likely mistakes.
    """

    log: RawLog
    kept: pl.LazyFrame
    values: dict[str, pl.Expr]
    times: Times | None
    attributes: list[str]
    tags: list[str]
    table: pl.DataFrame | None
    bad: pl.DataFrame
    notes: list[str]
    left_out: list[str]
    warnings: list[str]

    @classmethod
    def of(cls, sources: Sequence[Source], items: Source | None, options: Options) -> "Checked":
        """Check every row.

        Raises:
            DataError: a column is missing, more than half of the rows are rejected, or an attribute cannot be used.
        """
        _refuse_patterns([*sources, *([items] if items else [])])
        log = RawLog.open(sources, items, options)
        values, item_ids, times = _values(log, items)
        warnings = list(log.warnings)
        table, notes = _given_table(items, item_ids, options, warnings) if items is not None else (None, [])
        faults = _faults(log, values, table)
        useless = pl.any_horizontal(test for test, _ in faults)
        bad = log.raw.filter(useless).select(ROW, _reason(faults, times)).collect(engine="streaming")
        refuse_most(bad, log, None if table is None else (values["item_id"], table["item_id"]))
        kept = log.raw.filter(~useless) if len(bad) else log.raw
        attributes, tags, context, left_out = log.others(kept, values["item_id"], table is not None)
        warnings += odd_columns(log.times, [name for name in log.ids if name not in tags], log.where)
        warnings += log.taken_back(kept)
        notes = [*(note for source in sources for note in source.notes), *notes]
        return cls(log, kept, {**values, **context}, times, attributes, tags, table, bad, notes, left_out, warnings)

    @property
    def compared(self) -> list[str]:
        """The columns that must be equal for a row to repeat another; empty if repeats are allowed."""
        if "time" not in self.log.columns or self.log.options.keep_duplicates:
            return []
        return self.told

    @property
    def told(self) -> list[str]:
        """The columns of the log's files, but for the row numbers that pandas wrote."""
        return [name for name in self.log.names if name not in ROW_LABELS]

    def item_table(self, item_ids: pl.Series) -> tuple[pl.DataFrame, list[str]]:
        """The item table, and notes about it. `item_ids`: the items of the usable rows, sorted.

        A table with only titles and tags is extended by the items that it lacks.
        """
        if self.table is not None:
            if _has_attributes(self.table):
                return self.table, []
            missing = item_ids.filter(~item_ids.is_in(self.table["item_id"].implode()))
            added = pl.DataFrame({"item_id": missing, "title": missing.cast(pl.String)})
            return pl.concat([self.table, added], how="diagonal"), self._added(missing, len(item_ids))
        titles = self.log.columns.get("titles")
        columns = list(dict.fromkeys([*([titles] if titles else []), *self.attributes, *self.tags]))
        with_ids = self.kept.with_columns(self.values["item_id"].alias("item_id"))
        raw = first_values(with_ids, columns) if columns else pl.DataFrame({"item_id": item_ids})
        tags = tag_columns(raw, self.tags, self.log.options.tags, self.log.where)
        left = [name for name in self.tags if name not in (*tags, *self.attributes)]
        told = [f"log columns left out, since few items share a word: {some(left)}"] if left else []
        table, notes = item_table(raw.drop(left), titles, self.attributes, tags, self.log.options.fill, self.log.where)
        return table, told + notes

    def _added(self, missing: pl.Series, items: int) -> list[str]:
        """What to say of the log's items that an item table without attributes lacks; many of them are a warning."""
        if self.table is None or not len(missing):
            return []
        told = (
            f"{len(missing):,} of the log's {counted(items, 'item')} are not in the item table, so they have neither "
            f"title nor tags{_unlike(missing, self.table['item_id'])}"
        )
        if FEW * len(missing) < items:
            return [told]
        self.warnings.append(told)
        return []

    def tables(
        self,
        clean: pl.LazyFrame,
        items: tuple[pl.DataFrame, list[str]],
        bad: pl.DataFrame,
        kept: pl.DataFrame,
        users: pl.Series,
    ) -> Tables:
        """The result of the import.

        Args:
            clean: the log.
            items: the result of `item_table`.
            bad: all rejected rows, see `with_repeats`.
            kept: the log for the tables.
            users: the distinct users, before sessions are cut.

        Raises:
            DataError: fewer than two users or items are left.
        """
        log, ends = self.log, pl.col("^(user_id|item_id|timestamp)$")
        least, most = (clean.select(one).collect(engine="streaming").row(0) for one in (ends.min(), ends.max()))
        for what, low, high in zip(("user", "item"), least, most, strict=False):
            if low == high:  # with one user or item there is nothing to learn
                one = f"all events belong to one {what} ({low!r})"
                raise DataError(f"{log.where}: {one}; at least two are needed")
        rejected = log.rejected(bad)
        table, more = items
        how = {**log.how, "time": f"{log.how['time']}, {self.times.kind}"} if self.times else log.how
        notes = [*self.notes, *more, *self.left_out, *_no_ids(log, rejected), *_equal_rows(self)]
        if log.options.session_gap is not None:
            notes.append(f"each session is a user, such as {least[0]!r}")
        warnings = [*self.warnings, *_lost_files(log, rejected), *_of_order(self, clean, least[-1], most[-1])]
        warnings += _of_future(self, bad, most[-1]) if self.times else ()
        warnings += _only_shown(log, clean)
        alike = (told_alike(users, "user"), told_alike(table["item_id"], "item"))
        warnings += [f"{log.where}: {told}" for told in alike if told]
        found = Tables(kept, table, rejected, log.rows, log.columns, notes, how, warnings)
        if FEW * len(rejected) >= log.rows:
            warnings.append(found.lost)
        return found


def import_files(files: Sequence[Path], items: Path | None = None, options: Options | None = None) -> Tables:
    """Read and clean one or more log files; RecBole's NAME.inter (or NAME.train.inter) includes NAME.item.

    Raises:
        DataError: a file cannot be read or used.
        UnsafePickleError: a pickle holds more than a DataFrame.
    """
    options = options or Options()
    with readable(*files, items):
        return clean(*opened(files, items, options), options)


def opened(
    files: Sequence[Path], items: Path | None, options: Options, spills: Sequence[Path | None] = ()
) -> tuple[list[Source], Source | None]:
    """Open the logs and their item table; see `open_source`. `spills`: for each log, a file that its rows are spilled
    to.

    Raises:
        DataError: a file cannot be read, or is the log of a service.
    """
    for path in map(data_file, files):
        if is_service_log(path):
            raise DataError(f"{path}: is the exported log of a service, which is read as it is: name it with data")
    beside = [] if items or files[0].suffix != ".inter" else [files[0].stem, files[0].name.split(".")[0]]
    companion = next((one for one in (files[0].with_name(f"{name}.item") for name in beside) if one.is_file()), None)
    sought = [name for name in options.given.values() if name]
    sources = [
        open_source(path, header=options.header, names=options.names, sought=sought, spill=spill)
        for path, spill in zip(files, spills or [None] * len(files), strict=True)
    ]
    if companion is None:
        return sources, open_source(items, sought=sought) if items else None
    table, told = open_source(companion, sought=sought), f"items: {companion.name} (beside {files[0].name})"
    return sources, replace(table, notes=(told, *table.notes))


def clean(sources: Sequence[Source], items: Source | None, options: Options) -> Tables:
    """Check every row, reject what cannot be used, and sort the rest by user and time.

    Raises:
        DataError: a column is missing, more than half of the rows are rejected, an attribute cannot be used, or fewer
            than two users or items are left.
    """
    checked = Checked.of(sources, items, options)
    events = Events.collect(checked.kept.select(aliased(checked.values)), list(checked.values)[2:])
    order, bad = events.order(), checked.bad
    if checked.compared:
        order, bad = _without_repeats(checked, events, order)
    table, log = checked.item_table(events.item_ids), events.table(order)
    if options.session_gap is not None:
        log = in_sessions(log, options.session_gap)
    return checked.tables(log.lazy(), table, bad, log, events.user_ids)


def _refuse_patterns(sources: Sequence[Source]) -> None:
    """Raises a `DataError` for a column name that Polars would take for a pattern."""
    for source in sources:
        for name in source.names:
            if name == "*" or (name.startswith("^") and name.endswith("$")):
                raise DataError(f"{source.path}: column {name!r} is called like a pattern of names; rename it")


def _values(log: RawLog, items: Source | None) -> tuple[dict[str, pl.Expr], pl.Expr | None, Times | None]:
    """How the columns are read.

    Returns:
        Expressions for `user_id`, `item_id`, `timestamp` (Int64, microseconds), `reward`, `event`, null in unusable
        rows; one for the ids of the item table, so that both tables' ids have the same type; and details of the times.
    """
    columns, missing, times = log.columns, log.options.missing, None
    pairs = [(log.raw, columns["item"])]
    if items is not None:
        pairs.append((items.frame, _item_columns(items, log.options)["item"]))
    item, *rest = as_ids(pairs, missing, log.where)
    values = {"user_id": as_ids([(log.raw, columns["user"])], missing, log.where)[0], "item_id": item}
    if "time" in columns:
        times = read_times(log.raw, columns["time"], log.options.time_format, log.where)
        values["timestamp"] = times.value
    if "reward" in columns:
        number = _reward(log)
        values["reward"] = pl.when(number.is_finite() & (number.abs() <= LARGEST)).then(number).cast(pl.Float32)
    if "event" in columns:
        values["event"] = event_words(log.raw, columns["event"])
    return values, rest[0] if rest else None, times


def _reward(log: RawLog) -> pl.Expr:
    """The number in the reward column."""
    return as_reward(log.columns["reward"], log.raw.collect_schema())


def _item_columns(items: Source, options: Options) -> dict[str, str]:
    names = items.names
    # The item table may have other column names than the log.
    given = {role: name for role, name in options.given.items() if name in names}
    return recognise(names, ("item", "titles"), ("item",), given, str(items.path), ITEM_TABLE_ALIASES)


def _given_table(
    items: Source, ids: pl.Expr | None, options: Options, warnings: list[str]
) -> tuple[pl.DataFrame, list[str]]:
    """The item table of a file: distinct items, in the file's order. Adds to `warnings`."""
    where, columns, notes = str(items.path), _item_columns(items, options), list(items.notes)
    rest = pl.all().exclude(columns["item"], "item_id")
    raw = items.frame.select(ids.alias("item_id"), rest).collect()  # type: ignore[union-attr]
    for mark, reason in items.misfits.items():
        odd = raw[mark].is_not_null()
        lines = some((odd.arg_true() + items.first_line).head(MOST_NAMES), int(odd.sum()))
        warnings.append(f"{where}: {counted(int(odd.sum()), 'row')} left out, {reason}: line {lines}")
        raw = raw.filter(~odd).drop(mark)
    nameless = raw["item_id"].null_count()
    if nameless:
        notes.append(f"{where}: {counted(nameless, 'row')} without an item id left out")
        raw = raw.filter(pl.col("item_id").is_not_null())
    if raw["item_id"].is_duplicated().any():
        rows = len(raw)
        raw = raw.unique(maintain_order=True)
        if raw["item_id"].is_duplicated().any():
            raise DataError(f"{where}: {_contradicting(raw)}; keep one row of each")
        notes.append(f"{where}: {rows - len(raw)} repeated rows left out")
    free = [name for name in raw.columns if name not in ("item_id", columns.get("titles"))]
    numbers = numeric(raw.lazy(), free)
    codes = like_ids(raw.lazy(), list(numbers))
    others = [name for name in free if name not in numbers]
    times = like_times(raw.lazy(), others)
    texts = [name for name in free if name in codes or (name in others and name not in times)]
    tags = tag_columns(raw, texts, options.tags, where)
    if options.attributes is None:
        codes = [name for name in codes if name not in tags]
        warnings += odd_columns([], codes, where)
        raw = raw.drop(codes)
    table, more = item_table(raw, columns.get("titles"), options.attributes, tags, options.fill, where)
    return table, notes + more


def _contradicting(rows: pl.DataFrame) -> str:
    """Which items of an item table have several rows, and in which columns the first of them differ."""
    several = rows.filter(pl.col("item_id").is_duplicated())
    items = several["item_id"].unique(maintain_order=True)
    first = several.filter(pl.col("item_id") == items[0])
    apart = [name for name in first.columns if first[name].n_unique() > 1]
    others = f" (and {counted(len(items) - 1, 'other item')}, such as {some(items[1:4])})" if len(items) > 1 else ""
    return f"item {items[0]!r}{others} has several rows with different values, in {some(apart)}"


def _has_attributes(table: pl.DataFrame) -> bool:
    """Whether an item table has more than titles and tags, so that items cannot be added without values."""
    return any(kind == pl.Float32 for kind in table.dtypes[2:])


def _faults(log: RawLog, values: dict[str, pl.Expr], table: pl.DataFrame | None) -> list[tuple[pl.Expr, str]]:
    """The tests that make a row of the raw log unusable, each with its reason."""
    tests = [(pl.col(mark).is_not_null(), reason) for mark, reason in log.misfits.items()]
    for name, value in values.items():
        if name == "reward":
            number = _reward(log)
            tests.append((number.is_finite() & (number.abs() > LARGEST), "reward too large"))
        tests.append((value.is_null(), NO[name]))
    if table is not None and _has_attributes(table):
        known = values["item_id"].is_in(pl.lit(table["item_id"]).implode())
        tests.append((~known.fill_null(False), UNLISTED))
    return tests


def _reason(faults: list[tuple[pl.Expr, str]], times: Times | None) -> pl.Expr:
    """The first reason that applies; for an unreadable time, the more specific one if there is one."""
    tests: list[tuple[pl.Expr, str]] = []
    for test, reason in faults:
        if times and reason == NO["timestamp"]:
            tests += [(fault, closer) for closer, fault in times.faults.items()]
        tests.append((test, reason))
    return pl.coalesce(pl.when(test).then(pl.lit(reason)) for test, reason in tests).alias("reason")


def _without_repeats(checked: Checked, events: Events, order: Order) -> tuple[Order, pl.DataFrame]:
    """The order without rows that repeat an earlier one, and all rejected rows."""
    suspects = events.alike(order)
    if not len(suspects):
        return order, checked.bad
    rows = checked.kept.select(ROW).collect(engine="streaming").to_series().gather(suspects)
    again = repeated(checked.kept, rows, checked.compared)
    keep = np.ones(len(events.users), np.bool_)
    keep[suspects[rows.is_in(again.implode()).to_numpy()]] = False
    return np.flatnonzero(keep) if isinstance(order, slice) else order[keep[order]], with_repeats(checked, again)


def with_repeats(checked: Checked, rows: pl.Series) -> pl.DataFrame:
    """The rejected rows, including those that repeat an earlier one (`ROW`).

    Raises:
        DataError: they are more than half of the log.
    """
    repeats = pl.DataFrame({ROW: rows}).with_columns(pl.lit(REPEATED).alias("reason"))
    bad = pl.concat([checked.bad, repeats])
    refuse_most(bad, checked.log)
    return bad


def _of_order(checked: Checked, clean: pl.LazyFrame, first: Any, last: Any) -> Iterator[str]:
    """Warnings about the order of events; `first`, `last`: the first time and the last one, if there are times."""
    times, where = checked.times, checked.log.where
    if times and times.guessed and last.timestamp() < EARLIEST:
        yield (
            f"the times are small numbers: read as {times.kind} they end on {last:%Y-%m-%d}; if they only number the "
            "events, all is well; else say what they are with --time-format"
        )
    tied, by_item = _tied(clean.head(MANY))
    if by_item:
        rows, finer = ("rows of one time", "finer times") if times else ("rows", "times")
        yield (
            f"{where}: a user's {rows} stand in the order of the item ids, so the next item follows from the file's "
            "order, and that is most of what a model would learn and be judged by; shuffle the rows before the import, "
            f"or name a column with {finer} (--time of what-next data import)"
        )
    elif not times and checked.log.options.time is None:
        yield (
            f"{where}: no column holds times, so the order of the rows is taken as the order of events; name one that "
            "holds them, or numbers them, with --time of what-next data import, or say --time '' if there is none"
        )
    elif times and first == last:
        yield (
            f"{where}: all events have the same time, so the order of the rows is taken as the order of events; name a "
            "column whose times differ, or say --time '' if there is none"
        )
    elif times and BASKETS <= tied < 1:  # 1: each order is a user already
        yield (
            f"{where}: {tied:.0%} of a user's rows have the time of the row before, as in orders of several products; "
            "among these, what comes next is only the order of the file. See 'orders of several products' in "
            "docs/quickstart.md for what to do, unless the file's order is that of the events"
        )


def _of_future(checked: Checked, bad: pl.DataFrame, last: datetime) -> Iterator[str]:
    """Warnings about rows in the future; `last`: the last time."""
    tomorrow = datetime.now(UTC) + timedelta(days=1)  # allows for clocks and time zones
    if last <= tomorrow:
        return
    coming = checked.kept.filter(checked.values["timestamp"] > int(tomorrow.timestamp() * 10**6)).select(ROW)
    late = coming.collect(engine="streaming").join(bad, on=ROW, how="anti").sort(ROW)
    first = checked.log.rejected(late.head(MOST_NAMES).with_columns(reason=pl.lit("future")))
    files = [f" of {name}" for name in first["file"]] if "file" in first.columns else [""] * len(first)
    lines = some((f"line {line}{file}" for line, file in zip(first["line"], files, strict=True)), len(late))
    yield (
        f"{checked.log.where}: {counted(len(late), 'row')} more than a day in the future, up to {last:%Y-%m-%d %H:%M} "
        f"({lines}): splits and models that depend on the latest events would depend on these; correct or delete them "
        "and import again, or say what the times are with --time-format"
    )


def _tied(log: pl.LazyFrame) -> tuple[float, bool]:
    """The share of a user's rows that have the time of the row before; and whether most users' events are ordered by
    item id alone, as in sorted tables."""
    same = {name: pl.col(name) == pl.col(name).shift() for name in log.collect_schema().names()}
    tied = same["user_id"] & same.get("timestamp", True)
    other, back = tied & ~same["item_id"], pl.col("item_id") < pl.col("item_id").shift()
    counts = log.select(a=same["user_id"].sum(), b=tied.sum(), c=other.sum(), d=(other & back).sum())
    neighbours, ties, others, backwards = counts.collect(engine="streaming").row(0)
    share = (others if others >= BY_CHANCE else 0) / max(1, neighbours)
    return share, bool(2 * ties >= neighbours and others >= BY_CHANCE and 1000 * backwards <= others)


def _no_ids(log: RawLog, rejected: pl.DataFrame) -> Iterator[str]:
    """Notes on rows rejected for words that stand for a missing id."""
    for role, reason in (("user", "no user"), ("item", "no item")):
        column = rejected.filter(reason=reason)[log.shown(log.columns[role])]
        if column.dtype == pl.String:
            words = column.filter(column.str.strip_chars() != "").value_counts(sort=True)
            counts = some(f"{word!r} in {counted(count, 'row')}" for word, count in words.iter_rows())
            if counts:
                yield f"no {role}: {counts}: rejected as words for no value; --missing names those"


def _equal_rows(checked: Checked) -> Iterator[str]:
    """Notes on equal rows, which are kept because without times repeats and copies look alike."""
    log = checked.log
    if "time" in log.columns or log.options.keep_duplicates:
        return
    row = pl.struct(checked.told).hash()
    count = int(checked.kept.head(MANY).select(row.len() - row.n_unique()).collect(engine="streaming").item())
    if count:
        among = f" of the first {MANY:,}" if log.rows > MANY else ""
        rows = f"{counted(count, 'row')}{among}"
        yield f"{rows} equal to an earlier one in every column: kept, since the log has no times"


def _only_shown(log: RawLog, clean: pl.LazyFrame) -> Iterator[str]:
    """A warning if rewards look like clicks in a log of all that was shown."""
    if "reward" not in log.columns or "event" in log.columns:
        return
    reward, name = pl.col("reward"), log.columns["reward"]
    facts = clean.select(zeros=(reward == 0).mean(), least=reward.min()).collect(engine="streaming")
    zeros, least = facts.row(0)
    if zeros >= SHOWN and least >= 0:
        yield (
            f"{log.where}: {zeros:.0%} of the rewards in {name!r} are 0, and none is below: if those rows were shown "
            "and not chosen, leave them out, since training would learn what was shown; what-next estimate judges "
            "policies by all rows"
        )


def _lost_files(log: RawLog, rejected: pl.DataFrame) -> Iterator[str]:
    """Notes on files without any usable row."""
    if not log.several or not len(rejected):
        return
    rows = dict(log.raw.group_by(FILE).len().collect(engine="streaming").iter_rows())
    files = rejected.group_by("file", maintain_order=True)
    found = [f"{name} ({', '.join(by_reason(lost))})" for (name,), lost in files if len(lost) == rows[name]]
    if found:
        yield f"no row of {some(found)} can be used; make it like the other files, and import them again"


def _unlike(ids: pl.Series, known: pl.Series) -> str:
    """How ids of the log differ from those of the item table, for the end of a message."""
    without = [one.cast(pl.String).str.strip_chars_start("0") for one in (ids, known)]
    zeros = without[0].is_in(without[1].implode())
    if zeros.any():
        place = zeros.arg_true()[0]
        other = known.filter(without[1] == without[0][place])[0]
        return (
            f"; {str(ids[place])!r} of the log is {str(other)!r} there: pandas and spreadsheets drop leading zeros "
            "(pandas.read_csv(..., dtype=str) keeps them)"
        )
    return f"; the log has items such as {str(ids[0])!r}, the item table {str(known[0])!r}" if len(known) else ""


def refuse_most(bad: pl.DataFrame, log: RawLog, items: tuple[pl.Expr, pl.Series] | None = None) -> None:
    """Raises a `DataError` if more than half of the rows are rejected.

    Args:
        items: reads the item of a row, and the ids of the item table, if there is one.
    """
    if 2 * len(bad) <= log.rows:
        return
    first = log.rejected(bad.sort(ROW).head(1)).row(0, named=True)
    line, values = first.pop("line"), some(f"{name} {as_found(value)}" for name, value in first.items())
    untimed = FEW * by_reason(bad).get(NO["timestamp"], 0) >= len(bad)
    dated = like_times(log.raw, free_columns(log.names, log.columns, log.options)) if untimed else []
    raise DataError(
        f"{log.where}: {len(bad):,} of {log.rows:,} rows cannot be used ({why(bad)}), more than half, so nothing was "
        f"imported; the first is line {line}: {values}; {_cause(bad, log)}"
        + ("; --time-format says what the times are" if untimed else "")
        + (f"; {_no_numbers(log)}" if NO["reward"] in by_reason(bad) else "")
        + (f", and column {dated[0]!r} looks like times: name it with --time if it is meant" if dated else "")
        + ("; say --time '' where no column holds times" if NEGATIVE in by_reason(bad) else "")
        + (_strangers(log, *items) if items and UNLISTED in by_reason(bad) else "")
    )


def _no_numbers(log: RawLog) -> str:
    """What to do where the rewards are no numbers, for the end of a message."""
    column, told = log.columns["reward"], "write rewards as plain numbers, such as 12.5"
    words = log.raw.select(column).head(MANY).collect(engine="streaming")[column].drop_nulls().unique()
    if words.dtype.is_nested() or len(words) > MOST_NAMES or words.cast(pl.String).str.contains(r"\d").any():
        return told
    return (
        f"{told}; if these words are the kinds of events, name the column with --event, and reward.logged.WORD in the "
        "setup says what each is worth"
    )


def _strangers(log: RawLog, item: pl.Expr, known: pl.Series) -> str:
    """How the log's items differ from those of the item table, for the end of a message."""
    ids = log.raw.select(item.alias("id")).head(MANY).collect(engine="streaming")["id"].drop_nulls().unique()
    return _unlike(strange, known) if len(strange := ids.filter(~ids.is_in(known.implode())).sort()) else ""


def _cause(bad: pl.DataFrame, log: RawLog) -> str:
    """What to check, by the reason for which most rows are rejected."""
    most, count = max(by_reason(bad).items(), key=lambda found: found[1])
    if 2 * count > len(bad):
        if most == REPEATED:
            return "the log may hold the same rows twice: leave out the copies; or keep them with --keep-duplicates"
        if most == UNLISTED:
            return (
                f"the ids of the item table are not those of column {log.columns['item']!r}: name the column that has "
                "them with --item, correct the table, or leave it out"
            )
    return f"check which column is which ({some(f'{role}: {column}' for role, column in log.columns.items())})"
