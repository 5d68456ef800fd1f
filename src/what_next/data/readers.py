"""Files as Polars frames, raw: one function per format, and `open_source`, which chooses.

Text stays text here (no number is guessed), so that a row that cannot be used is rejected, counted and shown later.
"""

import gzip
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from what_next.data.pickles import read_pickled_frame
from what_next.errors import DataError

PARQUET, ATOMIC, PICKLE = {".parquet", ".pq"}, {".inter", ".item", ".user"}, {".pk", ".pkl", ".pickle"}
ATOMIC_HEADER = r":(token|float)(_seq)?(\t|$)"
NO_HEADER = {3: ("item_id", "title", "genres"), 4: ("user_id", "item_id", "rating", "timestamp")}
"""Names for files without a header line, by their number of columns: the layouts of the MovieLens files."""


@dataclass(frozen=True)
class Source:
    """A file that was opened.

    Attributes:
        frame: its columns as they stand; a RecBole `token_seq` column is a list of words.
        path: where it came from.
        first_line: the line (text) or row (other formats) of the first record, for messages.
    """

    frame: pl.LazyFrame
    path: Path
    first_line: int = 1


def open_source(path: Path) -> Source:
    """Open a file of any known format, chosen by its suffix (`.gz` aside).

    Raises:
        DataError: the file is missing, empty, or not what its suffix says.
        UnsafePickleError: a pickle holds more than a DataFrame.
        MissingExtraError: a pickle, and pandas is not installed.
    """
    if not path.is_file():
        raise DataError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; give the path of a data file")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; expected a table with one row per event")
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    with _explained(path):
        if suffix.lower() in PARQUET:
            return read_parquet(path)
        if suffix.lower() in PICKLE:
            return Source(read_pickled_frame(path).lazy(), path)
        # The suffix alone does not tell: MovieLens has a `u.item` of its own.
        if suffix.lower() in ATOMIC and re.search(ATOMIC_HEADER, _first_line(path)):
            return read_atomic(path)
        return read_text(path)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, EOFError, gzip.BadGzipFile, UnicodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: cannot be read ({reason}); check that it is the format its suffix says") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_parquet(path: Path) -> Source:
    """A Parquet file, scanned: nothing but its schema is read yet."""
    frame = pl.scan_parquet(path)
    frame.collect_schema()
    return Source(frame, path)


def read_atomic(path: Path) -> Source:
    """RecBole's atomic file: tab separated, header `name:type`, sequences separated by spaces."""
    raw = _delimited(path, "\t", header=True, quote=None)
    columns = []
    for full in raw.columns:
        name, _, kind = full.partition(":")
        column = pl.col(full).alias(name)
        columns.append(column.str.split(" ") if kind.endswith("_seq") else column)
    return Source(raw.lazy().select(columns), path, 2)


def read_text(path: Path) -> Source:
    """Delimited text; the separator is the one that the first line shows: `::`, tab, `;`, `,`, `|` or spaces.

    A first line with a number among its fields is data: such a file has no header, and its columns are named as in
    the MovieLens files (three or four columns) or `column_1`, `column_2`, ... Quotes are understood with `,` and `;`.
    """
    first = _first_line(path)
    separator = next((mark for mark in ("::", "\t", ";", ",", "|", " ") if mark in first), ",")
    header = not any(_is_number(field) for field in first.split(separator))
    if separator == "::":
        frame = _split_by_colons(path, header)
    else:
        frame = _delimited(path, separator, header, quote='"' if separator in ";," else None)
    if not header and len(frame.columns) in NO_HEADER:
        frame.columns = list(NO_HEADER[len(frame.columns)])
    return Source(frame.lazy(), path, 2 if header else 1)


def _first_line(path: Path) -> str:
    with _opened(path) as file:
        line = file.readline(1 << 20)
    if b"\0" in line:
        raise DataError(f"{path}: is not a text file; known suffixes are .csv .tsv .txt .dat .parquet .inter .pk (.gz)")
    return line.decode("utf-8-sig", errors="replace").rstrip("\r\n")


def _opened(path: Path) -> io.BufferedIOBase:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _delimited(path: Path, separator: str, header: bool, quote: str | None) -> pl.DataFrame:
    """A text file as columns of text; UTF-8, or Latin-1 where it is not UTF-8."""
    source: Path | bytes = path
    while True:
        try:
            return pl.read_csv(source, separator=separator, has_header=header, quote_char=quote, infer_schema=False)
        except pl.exceptions.ComputeError as error:
            if "more fields" in str(error):
                raise DataError(
                    f"{path}: a line has more fields than the first one has (separator {separator!r}); "
                    "put fields that hold the separator in quotes"
                ) from error
            if "utf-8" not in str(error) or isinstance(source, bytes):
                raise
            with _opened(path) as file:
                source = file.read().decode("latin-1").encode()


def _split_by_colons(path: Path, header: bool) -> pl.DataFrame:
    """Text separated by `::`, which no CSV reader takes: whole lines first, then split."""
    # A separator that text does not hold (the C0 control "unit separator") keeps each line in one piece.
    lines = _delimited(path, "\x1f", header=False, quote=None).to_series().str.split("::")
    width = int(lines.list.len().to_numpy().max())
    names = list(lines[0]) if header else [f"column_{number + 1}" for number in range(width)]
    if len(names) < width:
        raise DataError(f"{path}: a line has {width} fields where the header has {len(names)}")
    rows = lines[1:] if header else lines
    return pl.DataFrame([rows.list.get(place, null_on_oob=True).alias(name) for place, name in enumerate(names)])
