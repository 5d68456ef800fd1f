"""The log as it stands in its files."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from what_next.data.importing.ids import as_ids
from what_next.data.importing.readers import Source
from what_next.data.importing.roles import Assigned, assign
from what_next.data.tables import Options
from what_next.errors import DataError, some

ROW, LINE, FILE, REASON = "\0row", "\0line", "\0file", "\0reason"
"""Where an event came from, and why it was rejected; names that no file uses."""
MOST_WORDS = 200
"""How many kinds of events a log has, at most."""


@dataclass(frozen=True)
class RawLog:
    """The raw log, and which of its columns is what.

    Attributes:
        raw: the columns of the file, and `ROW`, `LINE` and `FILE`.
        names: the file's own columns.
        rows: how many rows there are.
        roles: the column of each role that has one, and how that is known.
        misfits: columns that mark rows which do not fit, with the reason.
        options: what the user said.
        where: the files, for messages.
        several: whether there is more than one file.
        quoted: whether a field may hold line breaks.
    """

    raw: pl.LazyFrame
    names: list[str]
    rows: int
    roles: Assigned
    misfits: dict[str, str]
    options: Options
    where: str
    several: bool
    quoted: bool

    @property
    def columns(self) -> dict[str, str]:
        """The column of each role that has one."""
        return self.roles.columns

    @classmethod
    def open(cls, sources: Sequence[Source], items: Source | None, options: Options) -> "RawLog":
        """Put the files below one another, and recognise their columns."""
        where = some(source.path for source in sources)
        frames = [
            source.frame.with_row_index(LINE, source.first_line).with_columns(pl.lit(str(source.path)).alias(FILE))
            for source in sources
        ]
        joined = frames[0] if len(frames) == 1 else pl.concat(frames, how="diagonal_relaxed")
        raw = joined.with_row_index(ROW)
        misfits = {mark: reason for source in sources for mark, reason in source.misfits.items()}
        names = [name for name in raw.collect_schema().names() if name not in (ROW, LINE, FILE, *misfits)]
        rows = int(raw.select(pl.len()).collect(engine="streaming").item())
        if rows == 0:
            raise DataError(f"{where}: is empty: no rows; expected one row per event")
        given = dict(options.given)
        if items is not None and options.titles in items.names:
            given["titles"] = None
        roles = assign(raw, names, sources, given, options, where)
        _few_words(raw, roles.columns, options, where)
        if options.session_gap is not None and "time" not in roles.columns:
            raise DataError(f"{where}: sessions need times, and no column holds any; name it with --time")
        return cls(
            raw, names, rows, roles, misfits, options, where, len(sources) > 1, any(source.quoted for source in sources)
        )

    def rejected(self, bad: pl.DataFrame) -> pl.DataFrame:
        """The rejected rows as they stand in the file, with their line and the reason."""
        # What does not fit stands beside the other columns, named by the reason.
        reasons = bad.lazy().select(ROW, pl.col("reason").alias(REASON))
        found = (self._with_lines() if len(bad) else self.raw.limit(0)).join(reasons, on=ROW)
        columns = [pl.col(name).alias(self.shown(name)) for name in self.names]
        columns += [pl.col(mark).alias(self.shown(reason)) for mark, reason in self.misfits.items()]
        place = [pl.col(LINE).alias("line"), *([pl.col(FILE).alias("file")] if self.several else [])]
        return found.sort(ROW).select(*place, pl.col(REASON).alias("reason"), *columns).collect()

    def _with_lines(self) -> pl.LazyFrame:
        """The log, where `LINE` counts the lines within quoted fields, too."""
        schema = self.raw.collect_schema()
        texts = [name for name in self.names if schema[name] == pl.String] if self.quoted else []
        broken = [pl.col(name).str.contains("\n", literal=True).any().alias(name) for name in texts]
        found = self.raw.select(broken).collect(engine="streaming").row(0, named=True) if broken else {}
        texts = [name for name, yes in found.items() if yes]
        if not texts:
            return self.raw
        breaks = pl.sum_horizontal(pl.col(name).str.count_matches("\n", literal=True) for name in texts)
        return self.raw.with_columns(pl.col(LINE) + (breaks.cum_sum() - breaks).over(FILE))

    @staticmethod
    def shown(name: str) -> str:
        """What a column of the file is called among the rejected rows, which have columns of their own."""
        return f"{name} (raw)" if name in ("line", "file", "reason") else name


def event_words(raw: pl.LazyFrame, column: str) -> pl.Expr:
    """The kind of each event as text, without white space around it; null where there is none."""
    return as_ids([(raw, column)], ())[0].cast(pl.String).str.strip_chars()


def _few_words(raw: pl.LazyFrame, columns: dict[str, str], options: Options, where: str) -> None:
    """A column with more kinds of events than anybody rewards was only taken for one by its name: it has no role."""
    if "event" not in columns:
        return
    column = columns["event"]
    nested = raw.collect_schema()[column].is_nested()
    words = 0 if nested else raw.select(event_words(raw, column).n_unique()).collect(engine="streaming").item()
    if not nested and words <= MOST_WORDS:
        return
    if options.event is not None:
        found = "lists" if nested else f"{words:,} different words"
        raise DataError(
            f"{where}: column {column!r} cannot be the event: it holds {found}, and at most {MOST_WORDS} words are "
            "allowed; name another with --event"
        )
    del columns["event"]
