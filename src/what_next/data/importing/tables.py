"""What goes into an import, what comes out of it, and the files that keep it."""

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
"""Why a row is rejected; the first that applies."""
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def duration(text: str) -> timedelta:
    """A pause such as `30m`; a `DataError` where it is none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", text.strip().lower())
    try:
        gap = timedelta(**{UNITS[found[2]]: float(found[1])}) if found else None
    except OverflowError:  # of more days than Python counts
        gap = None
    if not gap:
        raise DataError(f"--session-gap {text!r}: expected a number and s, m, h or d, such as 30m")
    return gap


@dataclass(frozen=True)
class Options:
    """What the user says about a table; None is recognised, and "" stands for no column.

    Names of columns may be numbers, as pandas has them, and a text alone is one name.

    Attributes:
        user: the column with the user, and so on for `item`, `time`, `reward` and `titles`.
        event: the column with the kind of each event, such as play, skip, purchase.
        attributes: columns with item attributes; of the item table where there is one, else of the log.
        tags: columns of words that items share, such as an artist; of the same table. None: none where `attributes`
            are named, else those of which enough items share a word.
        context: numeric log columns that describe the event.
        fill: "median" replaces missing attribute values.
        keep_duplicates: keep rows that are equal in every column; a log without times keeps them anyway.
        session_gap: a pause longer than this starts a new session, which becomes a user of its own.
        time_format: what the times are (`times.FORMS`).
        header: whether the first line of a text holds names.
        names: the columns of a text in their order, where no line holds them.
        missing: words that are no id.

    Raises:
        DataError: `fill` or `session_gap` is something else.
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
            object.__setattr__(self, name, value)  # it is frozen
        if self.fill not in (None, *get_args(Fill)):
            raise DataError(f"--fill {self.fill!r}: expected {' or '.join(get_args(Fill))}")
        if not isinstance(self.session_gap, timedelta | None):
            raise DataError(f"--session-gap {self.session_gap!r}: expected a timedelta, or a text such as '30m'")

    @property
    def given(self) -> Mapping[str, str | None]:
        """The columns that were named, by role."""
        return {role: getattr(self, role) for role in ALIASES}


@dataclass(frozen=True)
class Tables:
    """A clean data set, as two tables.

    Attributes:
        log: `user_id`, `item_id`, then where known `timestamp` (Datetime us UTC), `reward` (Float32), `event` (Enum),
            context columns (Float32); by user, then time, ties in file order.
        items: `item_id`, `title`, one Float32 column per attribute, and lists of tags; in catalogue order.
        rejected: `line`, `reason` and the raw columns of every row that is not in the log.
        rows: how many rows there were.
        columns: which column played which role.
        how: for each role, how that is known: by its name, by its values, by an option.
        notes: what else people should know.
        warnings: what people must look at: the data may mean something else than was read.
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
        """The column of each role, and how that is known; of the times, which they are, too."""
        found = {role: (column, self.how[role]) for role, column in self.columns.items()}
        if (span := dataset.span()) and "time" in found:
            column, known = found["time"]
            found["time"] = column, f"{known}: {span['first']} to {span['last']}"
        return found

    def told(self, dataset: "Dataset") -> list[str]:
        """For people: each role, what the other columns became, and what was left out or rejected, and why."""
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
        """Where the rows stand that were rejected for a reason; of several files, how many in each."""
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
        """What a person must know where no report is printed: the warnings, and how many rows were rejected."""
        told = len(self.rejected) and self.lost not in self.warnings
        return [*self.warnings, *([f"{self.lost}; what-next data import keeps them apart"] if told else [])]


def by_reason(bad: pl.DataFrame) -> dict[str, int]:
    """How many of the rejected rows have each reason, in the order of `REASONS`."""
    found = dict(bad["reason"].value_counts().iter_rows())
    return {reason: found[reason] for reason in REASONS if reason in found}


def why(bad: pl.DataFrame) -> str:
    """The reasons of the rejected rows for a message, and what to do where most have no letters of UTF-8."""
    counts = by_reason(bad)
    hint = "; save it as UTF-8" if 2 * counts.get("not UTF-8", 0) > len(bad) else ""
    return ", ".join(f"{reason}: {count:,}" for reason, count in counts.items()) + hint


def save(tables: Tables, path: Path, *, footer: Mapping[str, str] | None = None) -> list[Path]:
    """Write `NAME.parquet`, `NAME.items.parquet` and, where rows were rejected, `NAME.rejected.parquet`.

    With a `footer`, all but the log: that lies in parts, which have it already.

    Raises:
        SaveError: a file cannot be written; what stood there before is intact.
    """
    frames = {beside(path, "items"): tables.items}
    if footer is None:
        catalogue = Catalogue.from_table(tables.items).hash()
        footer = {"what_next.format": FORMATS["event" in tables.log.columns], "what_next.catalogue": catalogue}
        frames[path] = tables.log
    if len(tables.rejected):
        frames = {beside(path, "rejected"): tables.rejected, **frames}
    write_together(frames, footer)
    if not len(tables.rejected):  # those of an earlier import say nothing about this one
        beside(path, "rejected").unlink(missing_ok=True)
    return list(frames)
