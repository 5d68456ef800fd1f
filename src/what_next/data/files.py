"""Writing files so that a reader sees the whole new file or the whole old one; and the data set's own files by name."""

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
"""How temporary names end, of what gets its own name when it is whole; they begin with a dot."""
NAMES = f".names{ASIDE}"
"""How a journal ends: a list of temporary names, each of them `.NAME.RANDOM.aside`, which are to become NAME."""
STALE = 86_400
"""Seconds after which nobody writes there any more."""
Writer = Callable[[BinaryIO], object]
"""Writes the content of a file into it."""

FORMATS = ("1", "2", "3")
"""Versions of a data set's files, kept in their footers: 2 has a column of words, `event`; 3 is the log of a service
(see `decisions.service_log`)."""


@contextmanager
def steady() -> Iterator[None]:
    """Within, what Polars panics at is an `OSError`, as of other files that cannot be read: it does so where a Parquet
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
    """A path that somebody gives in Python, where no shell has put their home in place of `~`.

    Raises:
        DataError: it is no path, or there is no such home.
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
    frames: Mapping[Path, pl.DataFrame | pl.LazyFrame],
    metadata: Mapping[str, str] | None = None,
    *,
    private: bool = False,
) -> None:
    """Write Parquet files that belong together, `metadata` in the footer of each: see `write_files`.

    A frame that is lazy is never held as a whole."""
    footer = dict(metadata or {})
    contents = {path: partial(one.lazy().sink_parquet, metadata=footer) for path, one in frames.items()}
    write_files(contents, private=private)


def write_files(contents: Mapping[Path, Writer | bytes], *, private: bool = False) -> None:
    """Write files that belong together: all under temporary names first, then all renamed, in the order given.

    Killed between two renames, a journal in each folder tells `finish` of the others. A link is followed: what it names
    is written, and the link stays. `private` files are readable by their owner alone; the others keep the rights of the
    file that was there, or get the usual ones.

    Raises:
        SaveError: a file could not be written; what stood at the paths before is intact.
    """
    check_paths(contents)
    waiting: list[tuple[Path, Path]] = []
    journals: list[Path] = []
    path = Path()
    try:
        for path, content in contents.items():
            finish(path)  # what is older must not come later
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
        if all(temporary.exists() for temporary, _ in waiting):  # else some have their names, and `finish` goes on
            for left in (*journals, *(temporary for temporary, _ in waiting)):
                left.unlink(missing_ok=True)


def finish(path: Path) -> None:
    """Rename what a `write_files` that was killed amid its renames has left beside a path; whoever reads there asks.

    Several may do so at once, and beside the one who still writes. A journal that is damaged or of something else is
    passed over, as is a folder that may not be written.
    """
    journals = set[Path]()
    with suppress(OSError, ValueError):  # no folder that can be looked at
        journals = {found for one in (path, _target(path)) for found in one.parent.glob(f".*{NAMES}")}
    for journal in journals:
        folder = journal.parent
        with suppress(OSError, ValueError, TypeError, RecursionError):
            names = json.loads(journal.read_text(encoding="utf-8"))
            found = [re.fullmatch(rf"\.(.*[^.].*)\.\w+{re.escape(ASIDE)}", name, re.DOTALL) for name in names]
            waiting = {one[0]: one[1] for one in found if one and Path(one[0]).name == one[0]}
            if len(waiting) < len(names):
                continue  # others are of other folders
            for temporary, name in waiting.items():
                with suppress(FileNotFoundError):  # it has its name
                    (folder / temporary).replace(folder / name)
            _settle({folder}, [journal])


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


@contextmanager
def alone(lock: Path, refusal: WhatNextError) -> Iterator[None]:
    """Within, nobody else holds a lock, which is a file; what a killed process leaves of it keeps nobody out.

    Where the file system has no locks, a warning says so, and that is all.

    Raises:
        WhatNextError: the refusal, where somebody else holds it.
    """
    from filelock import FileLock, Timeout  # PyTorch brings it

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
            with suppress(OSError):  # Windows removes no file that is open
                lock.unlink()
        held.release()


@contextmanager
def scratch(purpose: str) -> Iterator[Path]:
    """A folder among the system's temporary ones, gone afterwards; those that killed processes left are removed first.

    Whoever has one holds its lock, which the system drops with the process. Without locks, none of others is removed.
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
                # Now that it is locked, it may have the name that others look for.
                folder = folder.rename(folder.with_name(prefix + folder.name.rpartition("-")[2]))
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Within, this process alone holds a folder's lock; an `OSError` where another does, or there are no locks."""
    import fcntl  # Windows has none

    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk; of folders, not every file system can say so."""
    with suppress(OSError) if path.is_dir() else nullcontext():
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _target(path: Path) -> Path:
    """What is written for a path: where it leads, if it is a link."""
    return Path(os.path.realpath(path))


def _journal(folder: Path, waiting: Iterable[tuple[Path, Path]], private: bool) -> Path:
    """Note, on the disk, which temporary files of a folder are to be renamed."""
    names = [temporary.name for temporary, target in waiting if target.parent == folder]
    written = _written_beside(folder / "journal", json.dumps(names).encode(), private)
    journal = written.with_suffix(NAMES)
    written.rename(journal)
    sync(folder)
    return journal


def _rename(temporary: Path, path: Path) -> None:
    """Give a file its name; a reader may have been first (`finish`)."""
    try:
        temporary.replace(path)
    except FileNotFoundError:
        if not path.exists():
            raise


def _settle(folders: Iterable[Path], journals: Iterable[Path]) -> None:
    """All renames are on the disk before nothing tells of them any more."""
    for folder in folders:
        sync(folder)
    for journal in journals:
        journal.unlink(missing_ok=True)


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
