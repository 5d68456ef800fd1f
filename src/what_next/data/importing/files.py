"""Writing files so that a reader sees the whole new file or the whole old one."""

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from errno import EISDIR
from functools import partial
from pathlib import Path
from typing import BinaryIO

import polars as pl

from what_next.errors import SaveError

Writer = Callable[[BinaryIO], object]
"""Writes the content of a file into it."""


def write_together(
    frames: Mapping[Path, pl.DataFrame], metadata: Mapping[str, str] | None = None, *, private: bool = False
) -> None:
    """Write Parquet files that belong together, `metadata` in the footer of every one: see `write_files`."""
    footer = dict(metadata or {})
    write_files({path: partial(one.write_parquet, metadata=footer) for path, one in frames.items()}, private=private)


def write_files(writers: Mapping[Path, Writer], *, private: bool = False) -> None:
    """Write files that belong together: all under temporary names first, then all renamed, in the order given.

    `private` files are for their owner alone; the others are shared like any other file of the user's.

    Raises:
        SaveError: a file could not be written; what stood at the paths before is intact.
    """
    check_paths(writers)
    waiting: list[tuple[Path, Path]] = []
    path = Path()
    try:
        for path, writer in writers.items():
            waiting.append((_written_beside(path, writer, private), path))
        for temporary, path in waiting:
            temporary.replace(path)
    except (OSError, pl.exceptions.ComputeError) as error:
        # Polars reports a full disk as a ComputeError, with the system's reason in its text.
        reason = getattr(error, "strerror", None) or error
        raise SaveError(f"{path}: cannot be written ({reason}); nothing was changed there") from error
    finally:
        for temporary, _ in waiting:
            temporary.unlink(missing_ok=True)


def check_paths(paths: Iterable[Path]) -> None:
    """Raises a `SaveError` where a file could not be written; makes the folders that are missing."""
    for path in paths:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(EISDIR, "it is a folder")
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            reason = error.strerror or error
            raise SaveError(f"{path}: cannot be written ({reason}); nothing was changed there") from error


def _written_beside(path: Path, writer: Writer, private: bool) -> Path:
    """The content in a temporary file in the folder of `path`, flushed to the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            writer(file)
            file.flush()
            os.fsync(file.fileno())
        if not private:  # as mkstemp makes them
            Path(name).chmod(0o666 & ~_umask())
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk: what names them must not outlive them."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
