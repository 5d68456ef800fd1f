"""Writes files atomically, so that a reader sees either the old or the whole new file; and names a data set's files."""

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from errno import EISDIR
from functools import partial
from pathlib import Path
from typing import BinaryIO

import polars as pl

from what_next.errors import DataError, SaveError, WhatNextError

ASIDE = ".aside"
"""Suffix of temporary names of files that are not complete yet; the names begin with a dot."""
NAMES = f".names{ASIDE}"
"""Suffix of a journal: a list of temporary names, each `.NAME.RANDOM.aside`, that are still to be renamed to NAME."""
STALE = 86_400
"""Age in seconds above which a temporary file is abandoned."""
Writer = Callable[[BinaryIO], object]
"""A function that writes the content of a file."""

FORMATS = ("1", "2", "3")
"""Format versions of a data set's files, kept in their footers: 2 has a column of words, `event`; 3 is the log of a
service (see `decisions.service_log`)."""


@contextmanager
def steady() -> Iterator[None]:
    """Turn a panic of Polars inside into an `OSError`, the error of other unreadable files: Polars panics if a Parquet
    file is replaced while it is read."""
    try:
        yield
    except pl.exceptions.PanicException as error:
        raise OSError("it is damaged, or was changed while it was read: try again") from error


def sha256(path: Path) -> str:
    """The checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def path_of(given: str | Path) -> Path:
    """A path given in Python, with `~` expanded, which no shell has done.

    Raises:
        DataError: it is not a path, or there is no such home folder.
    """
    try:
        return Path(given).expanduser()
    except (TypeError, RuntimeError) as error:
        raise DataError(
            f"{given!r:.200} is found where a path is expected ({error}); give a file or a folder"
        ) from None


def beside(path: Path, what: str) -> Path:
    """`data/NAME.items.parquet` for `data/NAME.parquet`."""
    return path.parent / f"{path.stem}.{what}.parquet"


def footer_of(path: Path) -> dict[str, str]:
    """The metadata in the footer of a Parquet file, or of a folder's first file; empty if it cannot be read.

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
    frames: Mapping[Path, pl.DataFrame | pl.LazyFrame],
    footer: Mapping[str, str],
    *,
    private: bool = False,
) -> None:
    """Write Parquet files that belong together, with metadata in the footer of each: see `write_files`.

    Lazy frames are streamed, and never held in memory as a whole."""
    contents = {path: partial(one.lazy().sink_parquet, metadata=dict(footer)) for path, one in frames.items()}
    write_files(contents, private=private)


def write_files(contents: Mapping[Path, Writer | bytes], *, private: bool = False) -> None:
    """Write files that belong together: all under temporary names first, then all renamed, in the order given.

    If the process is killed between two renames, a journal in each folder lets `finish` do the rest. A symbolic link is
    followed, and stays a link. `private` files are readable by their owner only; other files keep the permissions of
    the file that was there, or get the default ones.

    Raises:
        SaveError: a file could not be written; the files that were there stay intact.
    """
    check_paths(contents)
    waiting: list[tuple[Path, Path]] = []
    journals: list[Path] = []
    path = Path()
    try:
        for path, content in contents.items():
            finish(path)  # otherwise a later call would rename an older file over the new one
            target = _target(path)
            waiting.append((_written_beside(target, content, private), target))
        folders = {path.parent for _, path in waiting}
        if len(waiting) > 1:
            journals += (_journal(folder, waiting, private) for folder in folders)
        for temporary, path in waiting:
            _rename(temporary, path)
        _settle(folders, journals)
        for folder in folders:
            remove_stale(folder)
    except (OSError, pl.exceptions.ComputeError) as error:
        # Polars reports a full disk as a ComputeError, with the system's reason in its text.
        raise _cannot_write(path, error) from error
    finally:
        # Otherwise some are renamed, and `finish` does the rest.
        if all(temporary.exists() for temporary, _ in waiting):
            for left in (*journals, *(temporary for temporary, _ in waiting)):
                left.unlink(missing_ok=True)


def finish(path: Path) -> None:
    """Complete the renames beside a path of a `write_files` that was killed in between; readers call this first.

    Several processes may do so at once, even beside the writer. Damaged or foreign journals are ignored, as are folders
    without write permission.
    """
    journals = set[Path]()
    with suppress(OSError, ValueError):  # the folder cannot be listed
        journals = {found for one in (path, _target(path)) for found in one.parent.glob(f".*{NAMES}")}
    for journal in journals:
        folder = journal.parent
        with suppress(OSError, ValueError, TypeError, RecursionError):
            names = json.loads(journal.read_text(encoding="utf-8"))
            found = [re.fullmatch(rf"\.(.*[^.].*)\.\w+{re.escape(ASIDE)}", name, re.DOTALL) for name in names]
            waiting = {one[0]: one[1] for one in found if one and Path(one[0]).name == one[0]}
            if len(waiting) < len(names):
                continue  # the names are in another folder
            for temporary, name in waiting.items():
                with suppress(FileNotFoundError):  # it was renamed already
                    (folder / temporary).replace(folder / name)
            _settle({folder}, [journal])


def check_paths(paths: Iterable[Path]) -> None:
    """Raises a `SaveError` where a file could not be written; creates missing folders."""
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
    """Remove temporary files of killed processes from a folder, because they may contain histories."""
    for path in folder.glob(f".*{ASIDE}"):
        with suppress(OSError):  # for example, another process was first
            if path.stat().st_mtime < time.time() - STALE:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def alone(lock: Path, refusal: WhatNextError) -> Iterator[None]:
    """Hold a lock, which is a file, exclusively; the lock of a killed process is released.

    Where the file system has no locks, a warning is given instead.

    Raises:
        WhatNextError: `refusal`, if another process holds the lock.
    """
    from filelock import FileLock, Timeout  # comes with PyTorch

    held = FileLock(lock, timeout=0)
    try:
        held.acquire()
    except Timeout:
        raise refusal from None
    except (OSError, NotImplementedError) as error:
        warnings.warn(f"{lock}: cannot be locked ({error}); see that nobody else writes there", stacklevel=3)
    try:
        yield
    finally:
        if held.is_locked:
            with suppress(OSError):  # Windows cannot remove an open file
                lock.unlink()
        held.release()


@contextmanager
def scratch(purpose: str) -> Iterator[Path]:
    """A temporary folder of the system, deleted afterwards; those of killed processes are deleted first.

    Each process holds a lock on its folder, which the system releases with the process. Without locks, folders of other
    processes are never deleted.
    """
    prefix = f"what-next-{purpose}-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError, ImportError), _locked(left):
            shutil.rmtree(left)
    folder = Path(tempfile.mkdtemp(prefix="what-next-"))
    try:
        with ExitStack() as held:
            with suppress(OSError, ImportError):
                held.enter_context(_locked(folder))
                # Other processes look for this name, so the folder gets it only once it is locked.
                folder = folder.rename(folder.with_name(prefix + folder.name.rpartition("-")[2]))
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock; an `OSError` if another process does, or if there are no locks."""
    import fcntl  # not on Windows

    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on disk; some file systems cannot do this for folders."""
    with suppress(OSError) if path.is_dir() else nullcontext():
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _target(path: Path) -> Path:
    """The file to write for a path: the target of a link."""
    return Path(os.path.realpath(path))


def _journal(folder: Path, waiting: Iterable[tuple[Path, Path]], private: bool) -> Path:
    """Write a journal of the temporary files of a folder that are to be renamed."""
    names = [temporary.name for temporary, target in waiting if target.parent == folder]
    written = _written_beside(folder / "journal", json.dumps(names).encode(), private)
    journal = written.with_suffix(NAMES)
    written.rename(journal)
    sync(folder)
    return journal


def _rename(temporary: Path, path: Path) -> None:
    """Rename a file, unless a reader did so before (`finish`)."""
    try:
        temporary.replace(path)
    except FileNotFoundError:
        if not path.exists():
            raise


def _settle(folders: Iterable[Path], journals: Iterable[Path]) -> None:
    """Wait until all renames are on disk before the journals are deleted."""
    for folder in folders:
        sync(folder)
    for journal in journals:
        journal.unlink(missing_ok=True)


def _cannot_write(path: Path, error: Exception) -> SaveError:
    reason = getattr(error, "strerror", None) or f"{error}; is the disk full?"  # Polars may tell no more than a failure
    return SaveError(f"{path}: cannot be written ({reason}); nothing was changed there")


def _written_beside(path: Path, content: Writer | bytes, private: bool) -> Path:
    """Write the content to a temporary file in the folder of `path`, and flush it to disk."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=ASIDE)
    try:
        os.close(handle)
        with Path(name).open("wb") as file:  # some libraries write to the name instead of the file object
            file.write(content) if isinstance(content, bytes) else content(file)
        sync(Path(name))
        if not private and path.exists():
            shutil.copymode(path, name)
        elif not private:  # mkstemp makes private files
            mask = os.umask(0)
            os.umask(mask)
            Path(name).chmod(0o666 & ~mask)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)
