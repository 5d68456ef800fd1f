"""Files named by URL, read through fsspec: object stores (s3, gs, az) and anything else that it supports."""

import hashlib
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from what_next.data.importing.readers import kind_of
from what_next.data.stages import SILENT, Stages
from what_next.errors import DataError, MissingExtraError, SaveError, WhatNextError, disk_full, some, without_secrets


@contextmanager
def fetched(names: Sequence[str], to: Path, stages: Stages = SILENT) -> Iterator[list[Path]]:
    """The local paths of some files; those named by URL are copied beside `to`, because an import reads a log
    repeatedly.

    The copies are deleted at the end. After an interruption they stay, and complete ones are not fetched again.

    Args:
        names: paths and URLs of files, and of folders of them (see `_parts`); in a URL, `*` is a wildcard.
        to: the target of the import.
        stages: reports the bytes.

    Raises:
        MissingExtraError: fsspec is not installed.
        DataError: a file does not exist, or cannot be read.
        SaveError: the disk is full; the copies stay.
    """
    folder = to.with_name(f".{to.name}.fetched")
    try:
        yield [path for name in names for path in (_copies(name, folder, stages) if "://" in name else _local(name))]
    except SaveError:
        raise
    except WhatNextError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _local(name: str) -> list[Path]:
    parts = _parts(str(Path(name)), [str(one) for one in Path(name).rglob("*") if one.is_file()])
    return [Path(one) for one in parts or [name]]


def _parts(folder: str, files: Iterable[str]) -> list[str]:
    """The files in and below a folder by name, except names that begin with . or _, which programs write.

    Raises:
        DataError: they are of several kinds, so that it is unknown which are the log.
    """
    parts = [one for one in sorted(files) if not re.search(r"/[._]", one.removeprefix(folder))]
    kinds = sorted({kind_of(Path(one)) or Path(one).name for one in parts})
    if len(kinds) > 1:
        where = without_secrets(folder)
        raise DataError(f"{where}: holds files of several kinds ({some(kinds)}); name those that are the log")
    return parts


def _copies(url: str, folder: Path, stages: Stages) -> list[Path]:
    told = without_secrets(url)
    try:
        import fsspec
    except ImportError as error:
        raise MissingExtraError("fsspec", "remote", f"reading {told}") from error
    try:
        system, pattern = fsspec.core.url_to_fs(url)
        if "*" in pattern:
            remote = sorted(system.glob(pattern))
        elif system.info(pattern)["type"] == "directory":
            remote = _parts(pattern, system.find(pattern))
        else:
            remote = [pattern]
        copies = [_copied(system, one, folder, stages) for one in remote]
    except DataError:
        raise
    except Exception as error:  # every store has its own errors; a missing store library gives an ImportError
        if disk_full(error):
            raise SaveError(f"{folder}: the disk is full while {told} is fetched; make room, and it goes on") from error
        reason = without_secrets(str(error).splitlines()[0] if str(error) else type(error).__name__)
        hint = "install that" if isinstance(error, ImportError) else "check the URL, and what you may read there"
        raise DataError(f"{told}: cannot be read ({reason}); {hint}") from error
    if not copies:
        raise DataError(f"{told}: no such files; check the URL, and what you may read there")
    return copies


def _copied(system: Any, remote: str, folder: Path, stages: Stages) -> Path:
    """One file, in a folder named by the store's metadata, so that a changed file never gets the old one's place."""
    told = system.info(remote)
    size = told.get("size")  # an HTTP server may not report it
    *folders, name = Path(remote.partition("?")[0] if "://" in remote else remote).parts  # without a URL's signature
    columns = [one for one in folders if "=" in one]  # see `told_by_folders`
    to = folder.joinpath(hashlib.sha256(str(told).encode()).hexdigest()[:16], *columns, name)
    if to.is_file() and to.stat().st_size == size:
        return to
    done = stages.begin(f"fetching {without_secrets(name)}", size or 0)
    to.parent.mkdir(parents=True, exist_ok=True)
    begun = to.with_name("begun")
    with system.open(remote, "rb") as source, begun.open("wb") as file:
        while block := source.read(1 << 22):
            file.write(block)
            done(len(block))
    if size is not None and begun.stat().st_size != size:
        raise OSError(f"{begun.stat().st_size:,} of {size:,} bytes came")
    begun.replace(to)
    return to
