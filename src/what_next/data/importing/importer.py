"""Importing: read files, clean them, and write `NAME.parquet` with its item table and its rejected rows."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from what_next.data.catalogue import Catalogue
from what_next.data.importing.cleaning import clean
from what_next.data.importing.contents import data_file
from what_next.data.importing.files import write_together
from what_next.data.importing.readers import open_source
from what_next.data.tables import Options, Tables
from what_next.errors import DataError

FORMATS = ("1", "2", "3")
"""Versions of the files, kept in their footers; the second has a column of words, `event`; the third is the log of a
service (`service_log`)."""


def save(tables: Tables, path: Path) -> list[Path]:
    """Write `NAME.parquet`, `NAME.items.parquet` and, where rows were rejected, `NAME.rejected.parquet`.

    Raises:
        SaveError: a file cannot be written; what stood there before is intact.
    """
    frames = {beside(path, "items"): tables.items, path: tables.log}
    if len(tables.rejected):
        frames = {beside(path, "rejected"): tables.rejected, **frames}
    catalogue = Catalogue.from_table(tables.items).hash()
    version = FORMATS["event" in tables.log.columns]
    write_together(frames, {"what_next.format": version, "what_next.catalogue": catalogue})
    if not len(tables.rejected):
        # Rows that an earlier import rejected say nothing about this one.
        beside(path, "rejected").unlink(missing_ok=True)
    return list(frames)


def beside(path: Path, what: str) -> Path:
    """`data/NAME.items.parquet` for `data/NAME.parquet`."""
    return path.with_name(f"{path.stem}.{what}.parquet")


def footer_of(path: Path) -> dict[str, str]:
    """The text in the footer of a Parquet file; nothing where the file is missing, damaged or of another kind.

    Raises:
        DataError: it is of a newer format.
    """
    if path.suffix != ".parquet" or not path.is_file():
        return {}
    try:
        footer = pl.read_parquet_metadata(path)
    except (pl.exceptions.PolarsError, OSError):
        return {}
    version = footer.get("what_next.format", FORMATS[-1])
    if version not in FORMATS:
        known = FORMATS[-1]
        raise DataError(f"{path}: has format {version}, newer than this version knows ({known}); upgrade What Next?")
    return footer


def import_files(files: Sequence[Path], items: Path | None = None, options: Options | None = None) -> Tables:
    """Read and clean one or more log files; RecBole's `.inter` brings the `.item` file beside it along.

    Raises:
        DataError: a file cannot be read or used.
        UnsafePickleError: a pickle holds more than a DataFrame.
    """
    options = options or Options()
    for path in map(data_file, files):
        if footer_of(path).get("what_next.format") == FORMATS[2]:
            raise DataError(f"{path}: is the exported log of a service, which is read as it is: name it with data")
    companion = files[0].with_suffix(".item")
    if items is None and files[0].suffix == ".inter" and companion.is_file():
        items = companion
    sought = [name for name in options.given.values() if name]
    sources = [open_source(path, header=options.header, names=options.names, sought=sought) for path in files]
    return clean(sources, open_source(items, sought=sought) if items else None, options)
