"""Opens files as raw Polars frames: one function per format, and `open_source`, which chooses.

Text stays text here and is not parsed as numbers, so that an unusable row can be rejected, counted and shown later.
"""

import csv
import gzip
import io
import json
import lzma
import re
import shutil
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from what_next.data.files import steady
from what_next.data.importing import contents
from what_next.data.importing.columns import aliased, is_known_name
from what_next.data.importing.times import LIKE_A_DATE
from what_next.data.pickles import read_pickled_frame
from what_next.errors import LONGEST_NAME, MOST_NAMES, DataError, disk_full, some

PICKLE, ATOMIC, JSON = {".pk", ".pkl", ".pickle"}, {".inter", ".item", ".user"}, {".json", ".jsonl", ".ndjson"}
PACKED = {".gz", ".zst", ".bz2", ".xz", ".zip"}
QUOTED = {";": '"', ",": '"'}
"""The quote character for each separator; with other separators a quote is an ordinary character."""
ATOMIC_HEADER = r":(token|float)(_seq)?(\t|$)"
OBJECTS = r"\s*(\[\s*)?\{"
"""Start of JSON lines, or of an array of objects."""
MOVIELENS = {3: ("item_id", "title", "genres"), 4: ("user_id", "item_id", "rating", "timestamp")}
"""Column names of files separated by `::` without a header, by their number of columns: MovieLens' layouts."""
EXTRA, BROKEN, DAMAGED = "\0extra", "\0broken", "\0damaged"
MISFITS = {DAMAGED: "not UTF-8", EXTRA: "too many fields", BROKEN: "not a JSON object"}
"""Columns that mark malformed rows: they hold the first field with invalid bytes, the first superfluous field, or the
line that is no JSON object; and the reasons for rejecting the rows."""
LOST = "\ufffd"
"""Replacement character for invalid bytes."""
NOT_UTF_8 = "is not UTF-8, so its letters are read as those of Windows-1252; if they are others, save it as UTF-8"
ROW_GROUP = 1 << 16
"""Rows of a spilled file in memory at a time."""
NOTE = "what_next.note"
"""Key in the footer of a spilled file for the notes about the reading."""
THOUSANDS = r"^[+-]?[1-9]\d{0,2}[.,]\d{3}$"
"""A number that is a decimal one, or a whole one with a mark between its thousands."""
DECIMAL_COMMA = r"^\s*[+-]?(?:\d+|\d{1,3}(?:\.\d{3})+),\d+\s*$"
"""A number with a decimal comma, possibly with points between its thousands."""
MATRIX = 50
"""With this many numbers and no name, a first line is hardly that of a log."""


@dataclass(frozen=True)
class Source:
    """An opened file.

    Attributes:
        frame: its raw columns; a RecBole `token_seq` column is a list of words. Columns of `MISFITS`, if any, mark
            malformed rows.
        path: the file.
        first_line: the line (text) or row (other formats) of the first record, for messages.
        named: the origin of the column names: the file or the user; MovieLens' layout; or nobody, so that the names are
            the columns' numbers.
        quoted: whether a field may contain line breaks, so that records and lines differ.
        notes: for the user, about the reading.
    """

    frame: pl.LazyFrame
    path: Path
    first_line: int = 1
    named: Literal["names", "layout", "nobody"] = "names"
    quoted: bool = False
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """The columns of the file."""
        return [name for name in self.frame.collect_schema().names() if name not in MISFITS]

    @property
    def copies(self) -> int:
        """The number of rows that equal an earlier one in every column."""
        rows = self.frame.select(pl.struct(pl.all()).hash()).collect().to_series()
        return len(rows) - rows.n_unique()

    @property
    def advice_on_copies(self) -> str:
        """Advice that ends a message about rows that are too many; empty if no row is a copy."""
        if not (copies := self.copies):
            return ""
        told = "1 row is a copy of another" if copies == 1 else f"{copies:,} rows are copies of others"
        return f". {told} in all columns: first leave copies out"

    @property
    def misfits(self) -> dict[str, str]:
        """The columns that mark malformed rows, with the reason."""
        names = self.frame.collect_schema().names()
        return {mark: reason for mark, reason in MISFITS.items() if mark in names}


def open_source(
    path: Path,
    *,
    header: bool | None = None,
    names: Sequence[str] | None = None,
    sought: Collection[str] = (),
    spill: Path | None = None,
) -> Source:
    """Open a file of any supported format: Parquet and Arrow by their first bytes, pickles only by their suffix.

    Args:
        path: the file; text may be compressed by gzip, bzip2, xz, Zstandard, or be the only file of a zip archive.
        header: whether the first line of a text holds names; None: decided by its content; a line of values is refused.
        names: the columns of a text, in their order.
        sought: columns that the user named: a first line with one of them holds names.
        spill: a Parquet file for the rows of a text, so that only some are in memory; one from an earlier run is
            reused. A JSON array, pickles, UTF-16 and damaged JSON lines are read into memory anyway.

    Raises:
        DataError: the file is missing, empty, or does not match its suffix; or it seems to have no header.
        UnsafePickleError: a pickle holds more than a DataFrame.
        MissingExtraError: a pickle was given, and pandas is not installed.
    """
    start = contents.magic(contents.data_file(path))
    suffix = kind_of(path)
    with _explained(path):
        if suffix in PICKLE:
            return Source(read_pickled_frame(path).lazy(), path)
        if start.startswith((contents.PARQUET, contents.ARROW)) or suffix in (".parquet", ".pq"):
            scan: Callable[..., pl.LazyFrame] = pl.scan_ipc if start.startswith(contents.ARROW) else pl.scan_parquet
            return Source(_flat(scan(path, glob=False)), path)
        if start.startswith(contents.ARROW_STREAM):
            return Source(_flat(pl.read_ipc_stream(path).lazy()), path)
        content = contents.head(path)
        contents.refuse_foreign(path, content)
        text = contents.decoded(content)
        if not text.strip():
            raise DataError(f"{path}: the file is empty but for white space; expected a table with one row per event")
        if re.match(OBJECTS, text) or suffix in JSON:
            return read_json(path, text, spill)
        # The suffix is not enough: MovieLens has a `u.item` of its own.
        if suffix in ATOMIC and re.search(ATOMIC_HEADER, text.partition("\n")[0].rstrip("\r")):
            return read_atomic(path, text, spill)
        return read_text(path, text, header, names, sought, spill)


def kind_of(path: Path) -> str:
    """The suffix of the decompressed file: `.csv` for `log.csv.gz`."""
    return Path(path.stem if path.suffix.lower() in PACKED else path.name).suffix.lower()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        with steady():
            yield
    except (
        pl.exceptions.PolarsError, EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, UnicodeError, csv.Error,
    ) as error:  # fmt: skip
        if disk_full(error):  # while spilling: the file itself is not damaged
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{path}: cannot be read ({reason}); check that it is whole, and of the format its suffix says"
        ) from error
    except OSError as error:
        if disk_full(error):
            raise
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); check that it is whole") from error


@contextmanager
def readable(*files: Path | None) -> Iterator[None]:
    """For reading opened files, because the pages of a Parquet file are only checked when they are read.

    Raises:
        DataError: one of the files is damaged; the message names it.
    """
    try:
        yield
    except pl.exceptions.PolarsError:
        for path in filter(None, files):
            if contents.magic(path).startswith((contents.PARQUET, contents.ARROW)):
                with _explained(path):
                    open_source(path).frame.select(pl.all().null_count()).collect(engine="streaming")
        raise  # no file is damaged, so this is our own bug


def read_json(path: Path, text: str, spill: Path | None = None) -> Source:
    """JSON lines, or one array of objects. Lines that are no object are marked as malformed.

    Raises:
        DataError: it is another kind of JSON.
    """
    if not re.match(OBJECTS, text):
        raise DataError(f"{path}: is JSON, but neither lines with an object each nor one array of objects; write it so")
    if text.lstrip().startswith("["):
        found, foreign = _array(contents.content_of(path))
        return Source(_flat(found.lazy()), path, notes=(f"{path}: {NOT_UTF_8}",) if foreign else ())
    if spill is not None and spill.exists():
        return Source(pl.scan_parquet(spill, glob=False), path)
    try:
        if spill is not None:
            return Source(_spilled(_flat(pl.scan_ndjson(_plain(path, spill), infer_schema_length=None)), spill), path)
        return Source(_flat(pl.read_ndjson(contents.for_polars(path), infer_schema_length=None).lazy()), path)
    except pl.exceptions.ComputeError as error:
        if disk_full(error):
            raise
    content = contents.content_of(path)
    encoding = contents.encoding_of(content)
    text, foreign = contents.decoded(content), encoding == contents.WINDOWS
    damaged = not foreign and text != content.decode(encoding, errors="ignore")
    lines = [_object(line, damaged) for line in text.splitlines()]
    if 2 * sum(line.startswith(f'{{"{BROKEN}"'.replace("\0", "\\u0000")) for line in lines) > len(lines):
        raise DataError(f"{path}: most of its lines are no JSON objects; write one object on each line, or an array")
    frame = _flat(pl.read_ndjson("\n".join(lines).encode(), infer_schema_length=None).lazy())
    return Source(frame, path, notes=(f"{path}: {NOT_UTF_8}",) if foreign else ())


def _array(content: bytes) -> tuple[pl.DataFrame, bool]:
    """One array of objects, in any supported encoding; and whether the encoding is not Unicode."""
    try:
        return pl.read_json(content, infer_schema_length=None), False
    except pl.exceptions.ComputeError:
        encoding = contents.encoding_of(content.replace(b'"', b"\n"))  # by strings, because all may be on one line
        text = contents.from_windows(content) if encoding == contents.WINDOWS else content.decode(encoding)
        strange = re.search("NaN|Infinity", text)
        if encoding == "utf-8-sig" and not strange:
            raise
        with suppress(ValueError, RecursionError):  # invalid JSON, which Polars reports
            text = _strict(text) if strange else text
    return pl.read_json(text.encode(), infer_schema_length=None), encoding == contents.WINDOWS


def _flat(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Nested objects as columns of their own: `product.sku`."""
    while nested := [name for name, kind in frame.collect_schema().items() if isinstance(kind, pl.Struct)]:
        frame = frame.unnest(nested, separator=".")
    return frame


def _spilled(frame: pl.LazyFrame, spill: Path, note: str = "") -> pl.LazyFrame:
    """The same rows, read from a file that holds them, with a note in its footer."""
    begun, told = spill.with_suffix(".begun"), {NOTE: note}
    frame.sink_parquet(begun, compression="lz4", row_group_size=ROW_GROUP, metadata=told, engine="streaming")
    begun.replace(spill)
    _unpacked(spill).unlink(missing_ok=True)
    return pl.scan_parquet(spill, glob=False)


def _plain(path: Path, spill: Path) -> Path:
    """An uncompressed file: itself, or a decompressed copy beside `spill`."""
    if not contents.magic(path).startswith(contents.STREAMED):
        return path
    with contents.unpacked(path) as packed, _unpacked(spill).open("wb") as file:
        shutil.copyfileobj(packed, file, 1 << 20)
    return _unpacked(spill)


def _unpacked(spill: Path) -> Path:
    return spill.with_suffix(".unpacked")


def _object(line: str, damaged: bool) -> str:
    """The line if it is a JSON object; else an object that holds the line in the column for malformed lines.

    In a `damaged` file, a line with `LOST` in it is malformed, too.
    """
    if damaged and LOST in line:
        return json.dumps({DAMAGED: line})
    try:
        if isinstance(json.loads(line), dict):
            return _strict(line) if re.search("NaN|Infinity", line) else line
    except (ValueError, RecursionError):
        pass
    return json.dumps({BROKEN: line})


def _strict(text: str) -> str:
    """JSON with null in place of NaN and Infinity, which Python and other programs write."""
    return json.dumps(json.loads(text, parse_constant=lambda _: None))


def read_atomic(path: Path, text: str, spill: Path | None = None) -> Source:
    """RecBole's atomic file: tab separated, with a header of `name:type`, and sequences separated by spaces.

    A `float_seq` of constant length becomes numeric columns `NAME_0` and so on; otherwise it stays text.
    """
    full = text.partition("\n")[0].rstrip("\r").split("\t")
    raw, notes = _delimited(path, "\t", full, 1, spill=spill)
    words = pl.col("^.*:float_seq$").replace("", None).str.split(" ")
    lengths = raw.select(words.list.len().drop_nulls().unique().implode()).collect(engine="streaming")
    widths = {heading: found[0][0] for heading, found in lengths.to_dict().items() if len(found[0]) == 1}
    names = {heading.partition(":")[0] for heading in full}
    columns = []
    for heading in raw.collect_schema().names():
        name, _, kind = heading.partition(":")
        column = pl.col(heading).alias(name)
        if kind == "token_seq":
            column = column.str.split(" ")
        elif heading in widths and names.isdisjoint(fields := [f"{name}_{n}" for n in range(widths[heading])]):
            column = column.str.split(" ").list.to_struct(fields=fields).struct.unnest()
        columns.append(column)
    return Source(raw.select(columns), path, 2, notes=tuple(f"{path}: {note}" for note in notes))


def read_text(
    path: Path,
    text: str,
    header: bool | None,
    names: Sequence[str] | None,
    sought: Collection[str],
    spill: Path | None = None,
) -> Source:
    """Delimited text; the separator is detected in the first line: `::`, tab, `;`, `,`, `|` or spaces.

    Quotes are supported with `,` and `;`. With `;`, numeric columns may have decimal commas.
    """
    # Leading blank lines, and the separator line that Excel writes.
    told = re.match(r"(?:\s*\n)?(?:sep=(.)\r?\n)?", text)
    assert told is not None  # the pattern matches the empty string
    above, text = told[0].count("\n"), text[told.end() :]
    line = re.split(r"[\r\n]", text, maxsplit=1)[0]
    unquoted = re.sub(r'"[^"]*"', "", line)
    separator = told[1] or next((mark for mark in ("::", "\t", ";", ",", "|", " ") if mark in unquoted), ",")
    quoted = separator in QUOTED
    first = next(csv.reader(io.StringIO(text, newline=""), delimiter=separator)) if quoted else None
    fields = first or line.split(separator)
    colons = separator == "::"
    if header is None and names is None and not colons:
        _refuse_values(path, fields, sought)
    if header is None:
        header = names is None and not (colons and any(map(is_value, fields)))
    names, named = _names(path, fields, header, MOVIELENS.get(len(fields)) if colons else None, names)
    skipped = above + int(header)
    columns, notes = _distinct(names)
    if colons:
        frame, more = _split_by_colons(path, columns, skipped, spill)
    else:
        frame, more = _delimited(path, separator, columns, skipped, above, "\n" if "\n" in text else "\r", spill)
    notes += more
    if separator == ";":
        notes += _like_thousands(frame)
        frame, more = _with_points(frame)
        notes += more
    if spill is None:
        frame = frame.collect().lazy()  # otherwise each pass would repeat the changes made since reading
    return Source(frame, path, 1 + skipped, named, quoted, tuple(f"{path}: {note}" for note in notes))


def is_value(field: str) -> bool:
    """Whether a field is a number or a date, which column names never are."""
    try:
        float(field.replace(",", "."))
    except ValueError:
        return re.match(LIKE_A_DATE, field.strip()) is not None
    return field.strip().lower() not in ("nan", "inf", "infinity")


def _names(
    path: Path, fields: Sequence[str], header: bool, layout: Sequence[str] | None, given: Sequence[str] | None
) -> tuple[Sequence[str], Literal["names", "layout", "nobody"]]:
    """The column names and their origin: given, the header, or a known layout; else the columns' numbers."""
    if given is not None and len(given) != len(fields):
        raise DataError(
            f"{path}: --columns has {len(given)} names ({some(given)}), and the first line {len(fields)} fields"
        )
    if given or header:
        return given or fields, "names"
    return (layout, "layout") if layout else ([f"column_{n + 1}" for n in range(len(fields))], "nobody")


def _refuse_values(path: Path, fields: Sequence[str], sought: Collection[str]) -> None:
    """Raises a `DataError` if the first line contains values and no known name."""
    if not any(map(is_value, fields)) or any(field in sought or is_known_name(field) for field in fields):
        return
    if len(fields) >= MATRIX and all(map(is_value, fields)):
        raise DataError(
            f"{path}: looks like a matrix of users by items ({len(fields)} numbers in its first line), and a log has a "
            "row for each event; write user,item,rating for each cell that is known"
        )
    raise DataError(
        f"{path}: seems to have no header: its first line looks like data ({some(map(repr, fields))}). Put a "
        "line of names on top; or let what-next data import name the columns in their order (--columns "
        "user,item,time,rating) or tell them by place and values (--no-header); if these are names, say --header"
    )


def _distinct(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names, with a number appended to repeated ones, and notes about these."""
    found: dict[str, None] = {}
    notes = []
    for name in map(str.strip, names):
        fresh, number = name, 1
        while fresh in found:
            number += 1
            fresh = f"{name}_{number}"
        if fresh != name and name:
            notes.append(f"column {name!r} stands in the header more than once; a later one is called {fresh!r}")
        found[fresh] = None
    return list(found), notes[:MOST_NAMES]


def _delimited(
    path: Path,
    separator: str,
    columns: Sequence[str],
    skipped: int,
    above: int = 0,
    end: str = "\n",
    spill: Path | None = None,
) -> tuple[pl.LazyFrame, list[str]]:
    """A text file as text columns, decoded like `decoded`; and notes about it.

    Args:
        separator: one character; `columns`: their names.
        skipped: number of lines before the first record; `above`: how many of them are before the header.
        end: the line ending; `spill`: see `open_source`.
    """
    if spill is not None and spill.exists():
        note = pl.read_parquet_metadata(spill).get(NOTE)
        return pl.scan_parquet(spill, glob=False), [note] if note else []
    source, lossy, wide, note = _source(path, spill), False, False, ""
    # Quoted fields may contain line breaks, so lines above the header are skipped by lines, otherwise by rows.
    form = {"separator": separator, "eol_char": end, "skip_lines" if above else "skip_rows": skipped}
    while True:
        try:
            frame = _scanned(source, columns, form, wide=wide, lossy=lossy)
            frame = frame.collect().lazy() if spill is None else _spilled(frame, spill, note)
            return frame, [note] if note else []
        except pl.exceptions.NoDataError:
            return pl.LazyFrame(schema=dict.fromkeys(columns, pl.String)), []
        except (pl.exceptions.ComputeError, pl.exceptions.SchemaError) as error:
            if "could not parse" in str(error) and separator in QUOTED:
                stray = str(error).splitlines()[0].partition("`")[2][:LONGEST_NAME]
                raise DataError(f"{path}: a quote is opened and not closed, at {stray!r}; close it there") from error
            if ("more fields" in str(error) or "n_extra" in str(error)) and not wide:
                wide = True
            elif "utf-8" in str(error) and not (lossy or note):
                with contents.unpacked(path) as file:
                    lossy = contents.is_mostly_utf_8(file)
                if not lossy:
                    source, note = contents.from_windows(contents.content_of(path)).encode(), NOT_UTF_8
            else:
                raise


def _scanned(
    source: Path | bytes, columns: Sequence[str], form: Mapping[str, Any], *, wide: bool, lossy: bool
) -> pl.LazyFrame:
    """A text file in UTF-8; `wide`: rows may have more fields; `lossy`: bytes may be invalid."""
    names = [*columns, EXTRA] if wide else list(columns)
    frame = pl.scan_csv(
        source, has_header=False, quote_char=QUOTED.get(form["separator"]), glob=False, missing_columns="insert",
        schema=dict.fromkeys(names, pl.String), truncate_ragged_lines=wide,
        extra_columns="ignore" if wide else "raise", encoding="utf8-lossy" if lossy else "utf8", **form,
    )  # fmt: skip
    frame = frame.with_columns(pl.all().str.strip_chars())  # people write `u1, i1` for u1 and i1
    if not lossy:
        return frame
    lost = [pl.when(pl.col(name).str.contains(LOST, literal=True)).then(name) for name in names]
    return frame.with_columns(pl.coalesce(lost).alias(DAMAGED))


def _source(path: Path, spill: Path | None) -> Path | bytes:
    """A text file for Polars: uncompressed, and not in UTF-16."""
    if contents.head(path).startswith(contents.UTF_16):
        return contents.content_of(path).decode("utf-16").encode()
    if spill is not None:
        return _plain(path, spill)
    return contents.for_polars(path)


def _split_by_colons(
    path: Path, columns: Sequence[str], skipped: int, spill: Path | None
) -> tuple[pl.LazyFrame, list[str]]:
    """Text separated by `::`, which CSV readers do not support: read as lines, then split; and notes about it."""
    # A separator that text does not contain (the C0 control "unit separator") keeps each line in one piece.
    lines, notes = _delimited(path, "\x1f", ["line"], skipped, spill=spill)
    lines = lines.with_columns(pl.col("line").str.split("::"))
    longest = lines.select(pl.col("line").list.len().max()).collect(engine="streaming").item()
    names = [*columns, EXTRA] if longest is not None and longest > len(columns) else columns
    fields = [pl.col("line").list.get(place, null_on_oob=True).alias(name) for place, name in enumerate(names)]
    return lines.select(*fields, pl.all().exclude("line")), notes


def _with_points(frame: pl.LazyFrame) -> tuple[pl.LazyFrame, list[str]]:
    """Numeric columns with points instead of decimal commas, and a note that names them."""
    number = pl.all().exclude(list(MISFITS)).str.contains(DECIMAL_COMMA)
    some_comma = frame.select(number.any()).collect(engine="streaming").row(0, named=True)
    columns = [name for name, found in some_comma.items() if found]
    pointed = {
        name: pl.when(pl.col(name).str.contains(DECIMAL_COMMA))
        .then(pl.col(name).str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True))
        .otherwise(pl.col(name))
        for name in columns
    }
    plain = pl.all().str.strip_chars()
    mended = frame.select(aliased(pointed)).select(
        (plain.cast(pl.Float64, strict=False).is_not_null() | (plain == "")).all()
    )
    numbers = mended.collect(engine="streaming").row(0, named=True) if columns else {}
    pointed = {name: one for name, one in pointed.items() if numbers[name]}
    if not pointed:
        return frame, []
    return frame.with_columns(aliased(pointed)), [f"decimal commas read as points in {some(pointed)}"]


def _like_thousands(frame: pl.LazyFrame) -> list[str]:
    """Notes on columns in which each number may be a decimal one, or a whole one with a mark between thousands."""
    text = pl.all().exclude(list(MISFITS)).str.strip_chars()
    filled = text.filter(text != "")
    alike, examples = (
        frame.select(one).collect(engine="streaming").row(0, named=True)
        for one in (filled.str.contains(THOUSANDS).all() & (filled.n_unique() > 1), filled.first())
    )
    return [
        f"each number of column {name} has three digits after its mark, such as {examples[name]}, and is read as one "
        "below a thousand; if that mark stands between thousands, delete it, and import again"
        for name, told in alike.items()
        if told
    ]
