"""The options and the result of an import, and the files that hold the result."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import polars as pl

from what_next.data.catalogue import Catalogue
from what_next.data.files import FORMATS, beside, write_together
from what_next.data.importing.attributes import Fill
from what_next.data.importing.columns import ALIASES
from what_next.data.importing.ids import MISSING
from what_next.errors import MOST_NAMES, DataError, counted, some

if TYPE_CHECKING:
    from what_next.data.dataset import Dataset

REASONS = (
    "not UTF-8", "too many fields", "not a JSON object", "no user", "no item", "zero or negative time",
    "time in another unit", "not a time", "reward too large", "reward not a number", "no event word",
    "item not in the item table", "exact duplicate",
)  # fmt: skip
"""Reasons for rejecting a row; the first that applies is given."""
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def duration(text: str) -> timedelta:
    """A pause such as `30m` as a timedelta; a `DataError` if it is invalid."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", text.strip().lower())
    try:
        gap = timedelta(**{UNITS[found[2]]: float(found[1])}) if found else None
    except OverflowError:  # more days than a timedelta can hold
        gap = None
    if not gap:
        raise DataError(f"--session-gap {text!r}: expected a number and s, m, h or d, such as 30m")
    return gap


@dataclass(frozen=True)
class Options:
    """The user's options for a table. For a column, None: recognised by name; "": there is none.

    Column names may be numbers, as in pandas, and a single text is one name.

    Attributes:
        user: the column with the user, and so on for `item`, `time`, `reward` and `titles`.
        event: the column with the kind of each event, such as play, skip, purchase.
        attributes: columns with item attributes; from the item table if there is one, else from the log.
        tags: columns of words that items share, such as an artist; from the same table. None: none if `attributes` are
            given, else those in which enough items share a word.
        context: numeric log columns that describe the event.
        fill: "median" replaces missing attribute values.
        keep_duplicates: keep rows that are equal in every column; a log without times keeps them anyway.
        session_gap: a pause longer than this starts a new session, which becomes a user of its own.
        time_format: the format of the times (`times.FORMS`).
        header: whether the first line of a text holds names.
        names: the columns of a text in their order, if no line holds them.
        missing: words for a missing id.

    Raises:
        DataError: `fill` or `session_gap` is invalid.
    """

    user: str | None = None
    item: str | None = None
    time: str | None = None
    reward: str | None = None
    titles: str | None = None
    attributes: Sequence[str] | None = None
    tags: Sequence[str] | None = None
    context: Sequence[str] | None = None
    fill: Fill | None = None
    keep_duplicates: bool = False
    session_gap: timedelta | None = None
    event: str | None = None
    time_format: str | None = None
    header: bool | None = None
    names: Sequence[str] | None = None
    missing: Sequence[str] = MISSING

    def __post_init__(self) -> None:
        own: dict[str, Any] = {role: str(name) for role, name in self.given.items() if name is not None}
        for several in ("attributes", "tags", "context", "names", "missing"):
            if (names := getattr(self, several)) is not None:
                own[several] = tuple(map(str, [names] if isinstance(names, str | int) else names))
        if self.tags is None and self.attributes is not None:
            own["tags"] = ()
        for name, value in own.items():
            object.__setattr__(self, name, value)  # because the class is frozen
        if self.fill not in (None, *get_args(Fill)):
            raise DataError(f"--fill {self.fill!r}: expected {' or '.join(get_args(Fill))}")
        if not isinstance(self.session_gap, timedelta | None):
            raise DataError(f"--session-gap {self.session_gap!r}: expected a timedelta, or a text such as '30m'")

    @property
    def given(self) -> Mapping[str, str | None]:
        """The given columns, by role."""
        return {role: getattr(self, role) for role in ALIASES}


@dataclass(frozen=True)
class Tables:
    """A clean data set, as two tables.

    Attributes:
        log: `user_id`, `item_id`, then if known `timestamp` (Datetime us UTC), `reward` (Float32), `event` (Enum),
            context columns (Float32); by user, then time, ties in file order.
        items: `item_id`, `title`, one Float32 column per attribute, and lists of tags; in catalogue order.
        rejected: `line`, `reason` and the raw columns of every row that is not in the log.
        rows: the number of rows before cleaning.
        columns: the column of each role.
        how: for each role, how its column was found: by its name, by its values, by an option.
        notes: other facts for the user.
        warnings: for the user, about data that may have been misread.
    """

    log: pl.DataFrame
    items: pl.DataFrame
    rejected: pl.DataFrame
    rows: int
    columns: dict[str, str]
    notes: list[str] = field(default_factory=list)
    how: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def reasons(self) -> dict[str, int]:
        """How many rows were rejected, by reason."""
        return by_reason(self.rejected)

    def roles(self, dataset: "Dataset") -> dict[str, tuple[str, str]]:
        """The column of each role, and how it was found; for times, with their range."""
        found = {role: (column, self.how[role]) for role, column in self.columns.items()}
        if (span := dataset.span()) and "time" in found:
            column, known = found["time"]
            found["time"] = column, f"{known}: {span['first']} to {span['last']}"
        return found

    def told(self, dataset: "Dataset") -> list[str]:
        """Lines for the user: each role, the use of the other columns, and what was left out or rejected, and why."""
        others = {
            "attributes of the items": dataset.catalogue.names,
            "tags of the items": dataset.catalogue.kinds,
            "context of the events": dataset.context_names,
        }
        return [
            *(f"{role}: {column} ({known})" for role, (column, known) in self.roles(dataset).items()),
            *(f"{what}: {some(names)}" for what, names in others.items() if names),
            *self.notes,
            *(f"{counted(count, 'row')} rejected: {one}{self._lines(one)}" for one, count in self.reasons().items()),
        ]

    def _lines(self, reason: str) -> str:
        """The lines of the rows rejected for a reason; with several files, their number in each."""
        found = self.rejected.filter(pl.col("reason") == reason)
        lines = found["line"]
        if "file" in found.columns:
            files = found.group_by("file", maintain_order=True).agg(pl.len(), pl.col("line").first())
            return f" ({some(f'{count:,} in {name}, from line {line} on' for name, count, line in files.iter_rows())})"
        return f" (line{'s' if len(lines) > 1 else ''} {some(lines.head(MOST_NAMES), len(lines))})"

    @property
    def lost(self) -> str:
        """How many rows were rejected, and why."""
        return f"{len(self.rejected):,} of {self.rows:,} rows rejected ({why(self.rejected)})"

    def must_know(self) -> list[str]:
        """Warnings to show where no report is printed, including how many rows were rejected."""
        told = len(self.rejected) and self.lost not in self.warnings
        return [*self.warnings, *([f"{self.lost}; what-next data import keeps them apart"] if told else [])]


def by_reason(bad: pl.DataFrame) -> dict[str, int]:
    """How many of the rejected rows have each reason, in the order of `REASONS`."""
    found = dict(bad["reason"].value_counts().iter_rows())
    return {reason: found[reason] for reason in REASONS if reason in found}


def why(bad: pl.DataFrame) -> str:
    """The reasons of the rejected rows for a message, with advice if most are not UTF-8."""
    counts = by_reason(bad)
    hint = "; save it as UTF-8" if 2 * counts.get("not UTF-8", 0) > len(bad) else ""
    return ", ".join(f"{reason}: {count:,}" for reason, count in counts.items()) + hint


def save(tables: Tables, path: Path, *, footer: Mapping[str, str] | None = None) -> list[Path]:
    """Write `NAME.parquet`, `NAME.items.parquet` and, where rows were rejected, `NAME.rejected.parquet`.

    With a `footer`, the log is left out, because it is in parts that have the footer already.

    Raises:
        SaveError: a file cannot be written; existing files stay intact.
    """
    frames = {beside(path, "items"): tables.items}
    if footer is None:
        catalogue = Catalogue.from_table(tables.items).hash()
        footer = {"what_next.format": FORMATS["event" in tables.log.columns], "what_next.catalogue": catalogue}
        frames[path] = tables.log
    if len(tables.rejected):
        frames = {beside(path, "rejected"): tables.rejected, **frames}
    write_together(frames, footer)
    if not len(tables.rejected):  # rejected rows of an earlier import are outdated
        beside(path, "rejected").unlink(missing_ok=True)
    return list(frames)
