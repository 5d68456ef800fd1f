"""The raw log of one or more files, and the role of each of its columns."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import polars as pl

from what_next.data.importing.attributes import check_describes, describing, named_tags, of_words, varying, word_text
from what_next.data.importing.columns import (
    QUANTITIES,
    ROW_LABELS,
    TEXT,
    aliased,
    exact,
    is_called,
    numeric,
    recognise,
    told_unread,
    unread,
)
from what_next.data.importing.ids import as_ids
from what_next.data.importing.readers import Source
from what_next.data.importing.tables import Options
from what_next.data.importing.times import like_times
from what_next.errors import MOST_NAMES, DataError, counted, some

ROW, LINE, FILE, REASON = "\0row", "\0line", "\0file", "\0reason"
"""Columns for an event's origin and reason of rejection; the NUL keeps them apart from names in files."""
NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"
"""Hive's folder value for null."""
MOST_WORDS = 200
"""Most kinds of events in a log."""
FEW_WORDS = 12
"""Up to this many different words, such as solved and failed, may be kinds of events, whatever the column's name."""
ID_NAME = r"(?:^|[\s_.-])(?:id|uid|iid|uuid|guid|asin|isbn|ean|upc|sku|user|item|code)$|[a-z]I[dD]$"
"""Endings of the names of id columns."""
EXACT_IN_FLOATS = 2**24
"""Integers up to here are exact in 32-bit floats; a column with mostly larger ones is hardly a quantity."""


@dataclass(frozen=True)
class RawLog:
    """The raw log, with the role of each column.

    Attributes:
        raw: the columns of the file, and `ROW`, `LINE` and `FILE`.
        names: the file's own columns.
        rows: the number of rows.
        columns: the column of each role that has one; `how`: how it was found.
        times, ids: columns without a role that look like times or ids, so they are neither attribute nor context.
        warnings: about these columns.
        misfits: columns that mark malformed rows, with the reason.
        options: the user's options.
        where: the files, for messages.
        several: whether there is more than one file.
        quoted: whether a field may contain line breaks.
    """

    raw: pl.LazyFrame
    names: list[str]
    rows: int
    columns: dict[str, str]
    how: dict[str, str]
    times: list[str]
    ids: list[str]
    warnings: list[str]
    misfits: dict[str, str]
    options: Options
    where: str
    several: bool
    quoted: bool

    @classmethod
    def open(cls, sources: Sequence[Source], items: Source | None, options: Options) -> "RawLog":
        """Concatenate the files, and find the roles of their columns.

        Raises:
            DataError: there is no row, or a role is missing (see `recognise`).
        """
        where = some(source.path for source in sources)
        frames = [
            source.frame.with_row_index(LINE, source.first_line).with_columns(
                pl.lit(str(source.path)).alias(FILE),
                *(pl.lit(value).alias(key) for key, value in told.items() if key not in source.names),
            )
            for source, told in zip(sources, told_by_folders([source.path for source in sources]), strict=True)
        ]
        raw = pl.concat(frames, how="diagonal_relaxed").with_row_index(ROW)
        misfits = {mark: reason for source in sources for mark, reason in source.misfits.items()}
        names = [name for name in raw.collect_schema().names() if name not in (ROW, LINE, FILE, *misfits)]
        rows = int(raw.select(pl.len()).collect(engine="streaming").item())
        if rows == 0:
            raise DataError(f"{where}: is empty: no rows; expected one row per event")
        given = dict(options.given)
        if items is not None and options.titles in items.names:
            given["titles"] = None
        columns, how = _roles(raw, names, sources, given, options, where)
        warnings = _without_headlines(raw, columns, where) if how.get("titles") == "by its name" else []
        free = free_columns(names, columns, options)
        times = like_times(raw, free)
        ids = like_ids(raw, [name for name in free if name not in times])
        if options.session_gap is not None and "time" not in columns:
            raise DataError(f"{where}: sessions need times, and no column holds any; name it with --time")
        several, quoted = len(sources) > 1, any(source.quoted for source in sources)
        return cls(raw, names, rows, columns, how, times, ids, warnings, misfits, options, where, several, quoted)

    def rejected(self, bad: pl.DataFrame) -> pl.DataFrame:
        """The rejected rows as in the file, with their line and the reason."""
        # Malformed content stands in extra columns, named by the reason.
        reasons = bad.lazy().select(ROW, pl.col("reason").alias(REASON))
        found = (self._with_lines() if len(bad) else self.raw.limit(0)).join(reasons, on=ROW)
        columns = [pl.col(name).alias(self.shown(name)) for name in self.names]
        columns += [pl.col(mark).alias(self.shown(reason)) for mark, reason in self.misfits.items()]
        place = [pl.col(LINE).alias("line"), *([pl.col(FILE).alias("file")] if self.several else [])]
        return found.sort(ROW).select(*place, pl.col(REASON).alias("reason"), *columns).collect()

    def _with_lines(self) -> pl.LazyFrame:
        """The log, with `LINE` also counting line breaks within quoted fields."""
        schema = self.raw.collect_schema()
        texts = [name for name in self.names if schema[name] == pl.String] if self.quoted else []
        broken = [pl.col(name).str.contains("\n", literal=True).any().alias(name) for name in texts]
        found = self.raw.select(broken).collect(engine="streaming").row(0, named=True) if broken else {}
        counts = [pl.col(name).str.count_matches("\n", literal=True) for name, yes in found.items() if yes]
        if not counts:
            return self.raw
        breaks = pl.sum_horizontal(counts)
        return self.raw.with_columns(pl.col(LINE) + (breaks.cum_sum() - breaks).over(FILE))

    @staticmethod
    def shown(name: str) -> str:
        """The name of a file's column among the rejected rows, which have additional columns."""
        return f"{name} (raw)" if name in ("line", "file", "reason") else name

    def others(
        self, kept: pl.LazyFrame, item_id: pl.Expr, has_table: bool
    ) -> tuple[list[str], list[str], dict[str, pl.Expr], list[str]]:
        """The use of the columns without a role: numbers and words that are constant for each item describe the item.

        Args:
            kept: the usable rows.
            item_id: reads their item.
            has_table: whether there is a separate item table.

        Returns:
            The attributes of the item, the text columns that may be its tags, the context of the event as Float32
            expressions, and notes about what was left out.
        """
        own = ("user_id", "item_id", "timestamp", "reward", "title", *(["event"] if "event" in self.columns else []))
        taken = [*self.columns.values(), *ROW_LABELS, *own]
        others = [name for name in self.names if name not in taken]
        numbers, wanted, where = numeric(kept, others), self.options.attributes, self.where
        given, schema = not has_table, kept.collect_schema()
        named = [exact(self.names, n, "--attributes", where) for n in wanted or () if given]
        for name in named:
            check_describes(name, schema[name], name in numbers, where)
        words = named_tags(kept.select(self.names), self.options.tags or (), where) if given else []
        if ids := {"user_id", "item_id"}.intersection((*named, *words)):
            raise DataError(f"{where}: column {min(ids)!r} is called like ids, so it cannot describe items; rename it")
        written = unread(kept, [n for n in others if n not in (*numbers, *self.times, *self.ids, *named, *words)])
        wordy = [n for n in others if n not in written and (n in self.ids or n not in (*numbers, *self.times))]
        free = [] if has_table or self.options.tags is not None else of_words(kept, wordy)
        text = {n: _hashed(n, schema[n]) for n in (*words, *free, *(n for n in named if n not in numbers))}
        plain = {n: number for n, number in numbers.items() if n not in text}
        log = kept.select(*aliased({"user_id": pl.col(self.columns["user"]), "item_id": item_id, **plain, **text}))
        moving = varying(log, list(plain), list(text))
        self._refuse(moving, named, words)
        # A column that is constant for all events of a user describes the user instead of the item.
        fixed = [name for name in free if name not in moving]
        still = _moving(log, fixed, ["user_id"])
        words += describing(log, still) if still else []
        plain = {n: number for n, number in plain.items() if n not in (*self.times, *self.ids)}
        attributes = named
        if wanted is None and not has_table:
            telling = _telling(kept, plain, moving)
            same = set(telling).difference(_moving(log, telling, ["user_id"]))
            of_users = describing(log, same, "user_id", "item_id") if same else []
            attributes = [name for name in telling if name not in of_users]
        context, notes = self._context(kept, [name for name in plain if name in moving], numbers)
        used = (*attributes, *words, *context, *self.times, *self.ids, *written)
        left = [name for name in others if name not in used]
        notes += told_unread(written) + _left_out(left, still, fixed) + self._like_events(kept, left)
        return attributes, words, context, notes

    def taken_back(self, kept: pl.LazyFrame) -> list[str]:
        """What to say of quantities and amounts that are below 0 in some rows, and above it in more: refunds, probably.

        Args:
            kept: the rows that can be used.
        """
        found = numeric(kept, [name for name in self.names if is_called(name, QUANTITIES)])
        if not found:
            return []
        below = kept.select((number < 0).sum().alias(name) for name, number in found.items())
        above = kept.select((number > 0).sum().alias(name) for name, number in found.items())
        lower, higher = (one.collect(engine="streaming").row(0, named=True) for one in (below, above))
        told = [name for name in found if 0 < lower[name] < higher[name]]
        return [
            f"{self.where}: column {name!r} is below 0 in {counted(lower[name], 'row')}, which are events like "
            "all others: where something was taken back in them, leave them out, and the rows that they take back"
            for name in told[:1]
        ]

    def _like_events(self, kept: pl.LazyFrame, columns: Sequence[str]) -> list[str]:
        """Notes on unused columns that may be the kinds of events, if no column has that role."""
        schema = kept.collect_schema()
        texts = [name for name in columns if isinstance(schema[name], TEXT)]
        if "event" in self.columns or self.options.event is not None or not texts:
            return []
        counts = kept.select(pl.col(texts).drop_nulls().n_unique()).collect(engine="streaming").row(0, named=True)
        few = [name for name, count in counts.items() if 1 < count <= FEW_WORDS]
        return [
            f"column {name} may be the kinds of events: it holds {counts[name]} different words; if so, name it with "
            "--event, and reward.logged.WORD in the setup says what each is worth"
            for name in _moving(kept, few, (self.columns["user"], self.columns["item"]))
        ]

    def _refuse(self, moving: Mapping[str, object], attributes: Collection[str], tags: Collection[str]) -> None:
        """Raises a `DataError` for a column that was named for the item, but varies within an item."""
        for name in (*attributes, *tags):
            if name in moving:
                option = "attribute" if name in attributes else "tag"
                raise DataError(
                    f"{self.where}: column {name!r} is no {option} of the item: it varies for item {moving[name]!r}; "
                    f"leave it out of --{option}s, or give an item table with --items"
                )

    def _context(
        self, kept: pl.LazyFrame, moving: list[str], numbers: dict[str, pl.Expr]
    ) -> tuple[dict[str, pl.Expr], list[str]]:
        """Named context columns must be complete; recognised ones with gaps are left out, with a note."""
        wanted, where = self.options.context, self.where
        names = moving if wanted is None else [exact(self.names, name, "--context", where) for name in wanted]
        for name in names:
            if name not in numbers:
                raise DataError(f"{where}: column {name!r} cannot be context: it does not hold numbers")
        if not names:
            return {}, []
        gaps = kept.select((~numbers[name].is_finite().fill_null(False)).sum().alias(name) for name in names)
        missing = {name: count for name, count in gaps.collect(engine="streaming").row(0, named=True).items() if count}
        for name, count in missing.items():
            if wanted is not None:
                raise DataError(f"{where}: context column {name!r} is not a number in {count:,} rows; correct them")
        notes = [
            f"column {name} is no context: not a number in {count:,} rows; fill these in, and it is"
            for name, count in missing.items()
        ]
        return {name: numbers[name].cast(pl.Float32) for name in names if name not in missing}, notes


def _hashed(name: str, kind: Any) -> pl.Expr:
    """A text column as hashes, which are compared several times faster; null for a missing word."""
    text = word_text(name, kind)
    return pl.when(text.is_not_null()).then(text.hash())


def _left_out(columns: Sequence[str], still: Collection[str], fixed: Collection[str]) -> list[str]:
    """Notes on unused columns; those that are constant for each item (`fixed`) can be named as tags; `still`: those of
    them that vary within a user."""
    found = {
        "log columns left out": [name for name in columns if name not in fixed],
        "log columns left out, since too few items have events of several users to tell that they describe the item, "
        "not who had it; --tags names such that do": [name for name in columns if name in still],
        "log columns left out, since they are the same in all events of a user, too, and may describe the user; --tags "
        "names such that describe the item": [name for name in columns if name in fixed and name not in still],
    }
    return [f"{what}: {some(names)}" for what, names in found.items() if names]


def told_by_folders(paths: Sequence[Path]) -> list[dict[str, str | None]]:
    """The columns in each file's folder names, in Hive's form (`day=2024-01-01/`), if they differ between files."""
    found = [
        {unquote(key): None if value == NO_PARTITION else unquote(value) for key, value in pairs}
        for path in paths
        for pairs in [re.findall("([^/=]+)=([^/]*)/", path.as_posix())]
    ]
    telling = [
        key for key in dict.fromkeys(key for one in found for key in one) if len({o.get(key) for o in found}) > 1
    ]
    return [{key: one[key] for key in telling if key in one} for one in found]


def event_words(raw: pl.LazyFrame, column: str) -> pl.Expr:
    """The kind of each event as stripped text; null for a missing one."""
    return as_ids([(raw, column)], ())[0].cast(pl.String).str.strip_chars()


def like_ids(raw: pl.LazyFrame, columns: Collection[str]) -> list[str]:
    """The columns that are named like ids, or hold codes with leading zeros, or integers too large to be exact."""
    head = raw.select(columns).head(1000).collect() if columns else pl.DataFrame()
    return [name for name in columns if re.search(ID_NAME, name) or _codes(head[name].drop_nulls())]


def odd_columns(times: Sequence[str], ids: Sequence[str], where: str) -> list[str]:
    """Warnings about columns that look like times or ids, and have no role."""
    return [
        f"{where}: column {name!r} looks like {what} and got no role, so it is left out; name it with {roles}, or with "
        "--context, --attributes or --tags where it describes the event or the item"
        for what, found, roles in (("times", times, "--time"), ("ids", ids, "--user or --item"))
        for name in found[:MOST_NAMES]
    ]


def _roles(
    raw: pl.LazyFrame,
    names: Sequence[str],
    sources: Sequence[Source],
    given: Mapping[str, str | None],
    options: Options,
    where: str,
) -> tuple[dict[str, str], dict[str, str]]:
    """The column of each role, and how it was found: by the user's options, else by names, else by values."""
    named, hint = {source.named for source in sources}, " of what-next data import"
    guessed = _by_place(raw, names, given, where) if named == {"nobody"} else {}
    if lists := [name for name, kind in raw.collect_schema().items() if kind == pl.List(pl.Struct)]:
        hint += f"; {some(map(repr, lists))} holds lists of objects: write those alone, each on a line"
    elif options.header is None and sources[0].first_line > 1:
        hint += "; if the first line holds no names, see --no-header and --columns"
    columns = recognise(names, options.given, ("user", "item"), {**given, **guessed}, where, hint=hint)
    by_name = "by the layout of MovieLens' files" if named == {"layout"} else "by its name"
    how = {role: f"by --{role}" if given.get(role) else by_name for role in columns}
    how |= {role: "by its place" if role in ("user", "item") else "by its values" for role in guessed}
    if "time" not in columns and given.get("time") is None:
        dated = like_times(raw, free_columns(names, columns, options))
        moving = _moving(raw, dated, (columns["user"], columns["item"]))
        if len(moving) == 1:
            columns["time"], how["time"] = moving[0], "by its values"
    if "event" in columns and not _few_words(raw, columns["event"], options, where):
        del columns["event"]
    return columns, how


def _by_place(raw: pl.LazyFrame, names: Sequence[str], given: Mapping[str, str | None], where: str) -> dict[str, str]:
    """Roles of columns without names: first the user, then the item, as is usual in logs; the others by their
    values."""
    said = [exact(names, wanted, f"--{role}", where) for role, wanted in given.items() if wanted]
    free = [name for name in names if name not in said]
    times = like_times(raw, free)
    others = [name for name in free if name not in times]
    found = {role: others.pop(0) for role in ("user", "item") if not given.get(role) and others}
    for role, those in (("time", times), ("reward", _telling(raw, numeric(raw, others), {}))):
        if given.get(role) is None and len(those) == 1:
            found[role] = those[0]
    return found


def free_columns(names: Sequence[str], columns: Mapping[str, str], options: Options) -> list[str]:
    """The columns without a role or another use."""
    named = (name for several in (options.attributes, options.tags, options.context) for name in several or ())
    said = {*columns.values(), *named, *ROW_LABELS}
    return [name for name in names if name not in said]


def _moving(raw: pl.LazyFrame, names: Sequence[str], owners: Sequence[str]) -> list[str]:
    """The columns that vary within a user and within an item; dates of birth or of release do not, and are no event
    times."""
    for owner in owners:
        if names:
            varies = [(pl.col(name).min() != pl.col(name).max()).alias(name) for name in names]
            found = raw.group_by(owner).agg(varies).select(pl.col(names).any()).collect(engine="streaming")
            names = [name for name in names if found[name].item()]
    return list(names)


def _few_words(raw: pl.LazyFrame, column: str, options: Options, where: str) -> bool:
    """Whether a column may hold the kinds of events: with too many different words only its name suggests it."""
    nested = raw.collect_schema()[column].is_nested()
    words = 0 if nested else raw.select(event_words(raw, column).n_unique()).collect(engine="streaming").item()
    few = not nested and words <= MOST_WORDS
    if not few and options.event is not None:
        found = "lists" if nested else f"{words:,} different words"
        raise DataError(
            f"{where}: column {column!r} cannot be the event: it holds {found}, and at most {MOST_WORDS} words are "
            "allowed; name another with --event"
        )
    return few


def _without_headlines(raw: pl.LazyFrame, columns: dict[str, str], where: str) -> list[str]:
    """Drops the role of a column that is named like titles but varies within items; returns notes about it."""
    name = columns["titles"]
    if raw.collect_schema()[name].is_nested():
        return []
    title = pl.col(name).cast(pl.String)
    items = raw.group_by(columns["item"]).agg(rows=title.count(), several=title.min() < title.max())
    share = items.filter(pl.col("rows") > 1).select(pl.col("several").mean()).collect(engine="streaming").item()
    if not share or share <= 0.5:
        return []
    del columns["titles"]
    return [
        f"{where}: column {name!r} holds no titles of items, since {share:.0%} of those with two rows or more have "
        "several, so it is left out; --titles takes it all the same"
    ]


def _codes(values: pl.Series) -> bool:
    if values.dtype == pl.String:
        if values.str.contains(r"^0\d+$").any() and values.str.contains(r"^\d+$").all():
            return True
        values = values.cast(pl.Int64, strict=False)
    if not len(values) or not values.dtype.is_integer():
        return False
    # As floats, since integers of 8 or 16 bits cannot be compared with so large a number.
    return (values.cast(pl.Float64) > EXACT_IN_FLOATS).sum() >= 0.9 * len(values)


def _telling(kept: pl.LazyFrame, numbers: Mapping[str, pl.Expr], moving: Mapping[str, object]) -> list[str]:
    """Columns that are constant for each item but differ between items, so that they distinguish items."""
    steady = {name: number for name, number in numbers.items() if name not in moving}
    if not steady:
        return []
    differs = kept.select((number.min() < number.max()).alias(name) for name, number in steady.items())
    return [name for name, yes in differs.collect(engine="streaming").row(0, named=True).items() if yes]
