"""Writing files so that a reader sees the whole new file or the whole old one; and the data set's own files by name."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from errno import EISDIR
from functools import partial
from pathlib import Path
from typing import BinaryIO

import polars as pl

from what_next.errors import DataError, SaveError

ASIDE = ".aside"
"""How temporary names end, of what gets its own name when it is whole; they begin with a dot."""
STALE = 86_400
"""Seconds after which nobody writes there any more."""
Writer = Callable[[BinaryIO], object]
"""Writes the content of a file into it."""

FORMATS = ("1", "2", "3")
"""Versions of a data set's files, kept in their footers: 2 has a column of words, `event`; 3 is the log of a service
(see `decisions.service_log`)."""


def beside(path: Path, what: str) -> Path:
    """`data/NAME.items.parquet` for `data/NAME.parquet`."""
    return path.parent / f"{path.stem}.{what}.parquet"


def footer_of(path: Path) -> dict[str, str]:
    """The text in the footer of a Parquet file, or of a folder's first; empty where none can be read.

    Raises:
        DataError: a newer version wrote it.
    """
    if path.is_dir():
        path = min(path.glob("*.parquet"), default=path)
    if path.suffix != ".parquet" or not path.is_file():
        return {}
    try:
        footer = pl.read_parquet_metadata(path)
    except (pl.exceptions.PolarsError, OSError):
        return {}
    version = footer.get("what_next.format", FORMATS[-1])
    if version not in FORMATS:
        raise DataError(f"{path}: has format {version}, and this version reads up to {FORMATS[-1]}; upgrade What Next?")
    return footer


def write_together(
    frames: Mapping[Path, pl.DataFrame], metadata: Mapping[str, str] | None = None, *, private: bool = False
) -> None:
    """Write Parquet files that belong together, `metadata` in the footer of each: see `write_files`."""
    footer = dict(metadata or {})
    write_files({path: partial(one.write_parquet, metadata=footer) for path, one in frames.items()}, private=private)


def write_files(contents: Mapping[Path, Writer | bytes], *, private: bool = False) -> None:
    """Write files that belong together: all under temporary names first, then all renamed, in the order given.

    A link is followed: what it names is written, and the link stays. `private` files are readable by their owner alone;
    the others keep the rights of the file that was there, or get the usual ones.

    Raises:
        SaveError: a file could not be written; what stood at the paths before is intact.
    """
    check_paths(contents)
    waiting: list[tuple[Path, Path]] = []
    path = Path()
    try:
        for path, content in contents.items():
            target = _target(path)
            waiting.append((_written_beside(target, content, private), target))
        for temporary, path in waiting:
            temporary.replace(path)
        for folder in {path.parent for _, path in waiting}:
            remove_stale(folder)
    except (OSError, pl.exceptions.ComputeError) as error:
        # Polars reports a full disk as a ComputeError, with the system's reason in its text.
        raise _cannot_write(path, error) from error
    finally:
        for temporary, _ in waiting:
            temporary.unlink(missing_ok=True)


def check_paths(paths: Iterable[Path]) -> None:
    """Raises a `SaveError` where a file could not be written; makes the folders that are missing."""
    for path in paths:
        try:
            if path.is_dir():
                raise IsADirectoryError(EISDIR, "it is a folder")
            if path.exists() and not path.is_file():
                raise SaveError(f"{path}: is a device or a pipe; name a file")
            folder = _target(path).parent
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise _cannot_write(path, error) from error


def remove_stale(folder: Path) -> None:
    """Remove from a folder what killed processes began to write under temporary names: histories may be in it."""
    for path in folder.glob(f".*{ASIDE}"):
        with suppress(OSError):  # another process was first, say
            if path.stat().st_mtime < time.time() - STALE:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _target(path: Path) -> Path:
    """What is written for a path: where it leads, if it is a link."""
    return Path(os.path.realpath(path))


def _cannot_write(path: Path, error: Exception) -> SaveError:
    reason = getattr(error, "strerror", None) or f"{error}; is the disk full?"  # Polars may tell no more than a failure
    return SaveError(f"{path}: cannot be written ({reason}); nothing was changed there")


def _written_beside(path: Path, content: Writer | bytes, private: bool) -> Path:
    """The content in a temporary file in the folder of `path`, flushed to the disk."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=ASIDE)
    try:
        os.close(handle)
        with Path(name).open("wb") as file:  # some libraries write to the name, not to the file
            file.write(content) if isinstance(content, bytes) else content(file)
        sync(Path(name))
        if not private and path.exists():
            shutil.copymode(path, name)
        elif not private:  # else as mkstemp makes them
            mask = os.umask(0)
            os.umask(mask)
            Path(name).chmod(0o666 & ~mask)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)
