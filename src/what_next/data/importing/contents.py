"""The format of a file by its first bytes instead of its name; and its decompressed bytes."""

import bz2
import codecs
import gzip
import io
import lzma
import re
import zipfile
from pathlib import Path
from typing import cast

import polars as pl

from what_next.errors import DataError, some, without_secrets

HEAD = 1 << 20
"""Bytes that are inspected before a file is read."""
LINES = 50
"""Lines that are inspected of a file that only Polars can decompress."""

GZIP, ZSTD, BZ2, XZ, ZIP = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ\0", b"PK\3\4"
PARQUET, ARROW = b"PAR1", b"ARROW1"
ARROW_STREAM = b"\xff\xff\xff\xff"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
STREAMED = (GZIP, BZ2, XZ, ZIP)
"""Compressions that Python can stream."""
WINDOWS = "cp1252"

FOREIGN = {
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook", "save the sheet as CSV"),
    b"SQLite format 3\0": ("an SQLite database", "write the table of events to a CSV or Parquet file"),
    b"\x89HDF": ("an HDF5 file", "write the table of events to Parquet"),
    b"\x93NUMPY": ("a NumPy array", "write a table with named columns to Parquet"),
    b"ORC": ("an ORC file", "write it as Parquet"),
    b"Obj\1": ("an Avro file", "write it as Parquet"),
    b"%PDF": ("a PDF document", "give a table"),
    b"\x04\x22\x4d\x18": ("compressed with LZ4", "decompress it first (lz4 -d)"),
    b"7z\xbc\xaf\x27\x1c": ("a 7-Zip archive", "unpack it first"),
    b"Rar!": ("a RAR archive", "unpack it first"),
    b"\xff\x06\0\0sNaPpY": ("compressed with Snappy", "decompress it first"),
    b"<!doctype": ("an HTML page, perhaps in place of a download that failed", "download the data again"),
    b"<html": ("an HTML page, perhaps in place of a download that failed", "download the data again"),
    b"<?xml": ("an XML file", "write it as CSV, JSON lines or Parquet"),
}
"""Unsupported formats: first bytes, name, and advice."""
TAR = 257
"""Offset of the mark `ustar` in a tar archive."""


def data_file(path: Path) -> Path:
    """The path, after a check that it is a regular file with content.

    Raises:
        DataError: it does not exist, is a folder or no regular file, or is empty.
    """
    if path.is_dir():
        files = [one.name for one in sorted(path.iterdir()) if one.is_file()]
        holds = f"it holds {some(files)}" if files else "it holds no files"
        raise DataError(f"{path}: is a folder; give the path of a data file ({holds})")
    if url := re.search(r"(?:^|/)(\w\w+):/(.*)", str(path)):  # a path keeps only one slash of ://
        told = without_secrets(f"{url[1]}://{url[2]}")
        raise DataError(f"{told}: is a URL, which what-next data import alone reads; import it, and name what it wrote")
    if str(path) == "-":
        raise DataError("-: is no file; write what comes through a pipe to a file first, and name that")
    if not path.exists():
        raise DataError(f"{path}: no such file; give the path of a data file")
    if not path.is_file():
        raise DataError(f"{path}: is no regular file, and data is read more than once; write it to a file first")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; expected a table with one row per event")
    return path


def magic(path: Path) -> bytes:
    """The first bytes of a file as stored."""
    with path.open("rb") as file:
        return file.read(TAR + 5)


def for_polars(path: Path) -> Path | bytes:
    """A text file for Polars: the path if it is plain, gzip or Zstandard; otherwise its bytes."""
    return content_of(path) if magic(path).startswith((BZ2, XZ, ZIP, *UTF_16)) else path


def unpacked(path: Path) -> io.BufferedIOBase:
    """The decompressed bytes of a file: gzip, bzip2, xz, Zstandard, or a zip archive with one file.

    Raises:
        DataError: the archive has several files, or is a workbook.
    """
    start = magic(path)
    if start.startswith(GZIP):
        return gzip.open(path)
    if start.startswith(BZ2):
        return bz2.open(path)
    if start.startswith(XZ):
        return lzma.open(path)
    if start.startswith(ZIP):
        return _only_member(path)
    if start.startswith(ZSTD):
        return io.BytesIO(_lines(path, None))
    return path.open("rb")


def content_of(path: Path) -> bytes:
    """All decompressed bytes of a file, see `unpacked`."""
    with unpacked(path) as file:
        return file.read()


def head(path: Path) -> bytes:
    """The first bytes of the content, cut at a line end if there are several lines."""
    if magic(path).startswith(ZSTD):
        return _lines(path, LINES)
    with unpacked(path) as file:
        start = file.read(HEAD)
    return start[: start.rfind(b"\n") + 1] or start if len(start) == HEAD else start


def decoded(content: bytes) -> str:
    """Text in its encoding, with a mark for invalid bytes."""
    encoding = encoding_of(content)
    return from_windows(content) if encoding == WINDOWS else content.decode(encoding, errors="replace")


def from_windows(content: bytes) -> str:
    """Text in Windows-1252; a UTF-8 byte-order mark is removed, so that it does not become part of the first name."""
    return content.removeprefix(codecs.BOM_UTF8).decode(WINDOWS, errors="replace")


def encoding_of(content: bytes) -> str:
    """UTF-16 by its byte-order mark, UTF-8, or else Windows-1252, as spreadsheets write text."""
    if content.startswith(UTF_16):
        return "utf-16"
    return "utf-8-sig" if is_mostly_utf_8(io.BytesIO(content)) else WINDOWS


def is_mostly_utf_8(file: io.BufferedIOBase) -> bool:
    """Whether text is UTF-8, although up to half of its lines with non-ASCII characters may be invalid.

    Lines are counted, because in other encodings single characters may look like UTF-8 (É® in Windows-1252), but whole
    lines hardly ever do.
    """
    balance = 0
    for block in file:
        for line in block.split(b"\r"):
            if not line.isascii():
                balance += 1 if line.decode(errors="ignore").encode() == line else -1
    return balance >= 0


def _lines(path: Path, most: int | None) -> bytes:
    """The first lines of a file that Polars decompresses, each with a line break at its end."""
    # Python itself reads Zstandard only from 3.14 on.
    try:
        lines = pl.scan_lines(path, n_rows=most, glob=False).collect().to_series()
    except pl.exceptions.ComputeError as error:
        if "utf8" not in str(error):
            raise
        raise DataError(f"{path}: is compressed with Zstandard, and not UTF-8 inside; decompress it first") from error
    return "".join(f"{line}\n" for line in lines).encode()


def _only_member(path: Path) -> io.BufferedIOBase:
    try:
        archive = zipfile.ZipFile(path)
        # macOS adds a folder of metadata files.
        names = [one for one in archive.namelist() if not one.endswith("/") and not one.startswith("__MACOSX/")]
        if "[Content_Types].xml" in names:
            raise DataError(f"{path}: is an Excel workbook or the like, not a text file; save the sheet as CSV")
        if len(names) != 1:
            raise DataError(f"{path}: is a zip archive of {len(names)} files ({some(names)}); unpack it, and give one")
        return cast(io.BufferedIOBase, archive.open(names[0]))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path}: is a zip archive that cannot be opened ({error}); unpack it yourself") from error


def refuse_foreign(path: Path, start: bytes) -> None:
    """Raises a `DataError` that names a file's format if its decompressed first bytes are of an unsupported one."""
    lower = start.lstrip()[:16].lower()
    kind = next((about for mark, about in FOREIGN.items() if start.startswith(mark) or lower.startswith(mark)), None)
    if start[TAR : TAR + 5] == b"ustar":
        kind = ("a tar archive", "unpack it first")
    if kind:
        raise DataError(f"{path}: is {kind[0]}, which is not read; {kind[1]}")
    if b"\0" in start and not start.startswith(UTF_16):
        raise DataError(
            f"{path}: is not a text file, since it holds zero bytes, nor of another kind that is read (CSV, TSV, JSON "
            "lines, Parquet, Arrow, RecBole's files, pickled DataFrames; packed by gzip, bzip2, xz, Zstandard or zip)"
        )
