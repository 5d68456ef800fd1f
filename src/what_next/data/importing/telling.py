"""What an import took for what, told to people."""

import polars as pl

from what_next.data.dataset import Dataset
from what_next.data.importing.tables import Tables
from what_next.errors import MOST_NAMES, counted, some


def told(tables: Tables, dataset: Dataset) -> list[str]:
    """A line for each role, for what the other columns became, and for what was left out or rejected, and why."""
    others = {"attributes of the items": dataset.catalogue.names, "context of the events": dataset.context_names}
    return [
        *(f"{role}: {column} ({known})" for role, (column, known) in roles(tables, dataset).items()),
        *(f"{what}: {some(names)}" for what, names in others.items() if names),
        *tables.notes,
        *(f"{counted(count, 'row')} rejected: {why}{_lines(tables, why)}" for why, count in tables.reasons().items()),
    ]


def roles(tables: Tables, dataset: Dataset) -> dict[str, tuple[str, str]]:
    """The column of each role, and how that is known; of the times, which they are, too."""
    found = {role: (column, tables.how[role]) for role, column in tables.columns.items()}
    if (span := dataset.span()) and "time" in found:
        column, known = found["time"]
        found["time"] = column, f"{known}: {span['first']} to {span['last']}"
    return found


def _lines(tables: Tables, reason: str) -> str:
    """Where the rows stand that were rejected for a reason; of several files, how many in each."""
    found = tables.rejected.filter(pl.col("reason") == reason)
    lines = found["line"]
    if "file" in found.columns:
        files = found.group_by("file", maintain_order=True).agg(pl.len(), pl.col("line").first())
        return f" ({some(f'{count:,} in {name}, from line {line} on' for name, count, line in files.iter_rows())})"
    return f" (line{'s' if len(lines) > 1 else ''} {some(lines.head(MOST_NAMES), len(lines))})"
