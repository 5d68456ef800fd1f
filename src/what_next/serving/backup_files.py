"""The files of a back-up: models in an archive, and checks of what somebody else may have written."""

import gzip
import hashlib
import os
import re
import sqlite3
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from what_next.data.files import ASIDE, remove_stale
from what_next.errors import ModelError, StoreError, some
from what_next.serving.engine.versions import AGENT, CARD, CATALOGUE, CRITIC, NAME, intact, versions_folder
from what_next.serving.store.migrations import REVISIONS
from what_next.settings import Setup
from what_next.training.artefacts import catalogue_path, critic_beside
from what_next.training.card import card_path

SUMS = "SHA256SUMS"
"""The checksums of all other files, as `sha256sum --check` reads them."""
VERSIONS, OWN = "versions", "agent"
"""Folders among the models: the deployed ones, and the files of the setup's own agent."""
FILES = (AGENT, CATALOGUE, CRITIC, CARD)
"""Files of a version."""
FOLDER = re.compile(rf"{OWN}|{VERSIONS}(/{NAME.pattern})?")
FILE = re.compile(rf"{OWN}/[^/.][^/]*|{VERSIONS}/{NAME.pattern}/({'|'.join(map(re.escape, FILES))})")
"""What an archive of models holds, and nothing else."""
MOST, RATIO, SMALL = 10_000, 100, 2**26
"""Members of an archive, at most; and how many times its own size it may hold, where that is more than `SMALL`."""
AT_ONCE = 2**20
"""Bytes that are read at once, at most: a header that says it is larger is no header."""
AGAIN = "nothing was changed; take another back-up"
BROKEN = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, OverflowError, RecursionError)
"""What reading an archive raises that is no archive."""


class _Bounded(gzip.GzipFile):
    """Takes no header's word for how much memory it needs."""

    def read(self, size: int | None = -1) -> bytes:
        """So many bytes, or fewer at the end."""
        if size is None or not 0 <= size <= AT_ONCE:
            raise tarfile.ReadError("a header that is too large")
        return super().read(size)


def pack(setup: Setup, to: Path) -> list[str]:
    """The deployed versions, and the files of the setup's agent; returns what is wrong with those left out."""
    agent, versions, damaged = setup.model_agent_path, versions_folder(setup), []
    with tarfile.open(to, "w:gz") as models:
        for place in sorted(versions.iterdir()) if versions.is_dir() else ():
            if not place.is_dir() or not NAME.fullmatch(place.name):  # such as what is being written there
                continue
            try:
                intact(place, place.name)
            except ModelError as error:
                damaged.append(f"{error}.")
                continue
            for file in (place / name for name in FILES):
                if file.is_file():
                    models.add(file, f"{VERSIONS}/{place.name}/{file.name}")
        for own in (agent, catalogue_path(agent), critic_beside(agent), card_path(agent)) if agent.is_file() else ():
            if own is not None and own.is_file():
                models.add(own, f"{OWN}/{own.name}")
    return damaged


def unpack(setup: Setup, models: Path) -> list[str]:
    """Versions and the agent's files, all aside first; those that are there stay as they are.

    Returns:
        What is wrong with the versions that were left out.

    Raises:
        StoreError: the archive is none of ours, or damaged; nothing was written.
    """
    damaged: list[str] = []
    targets = {VERSIONS: versions_folder(setup), OWN: setup.model_agent_path.parent}
    for target in targets.values():
        if not target.exists():
            target.mkdir(parents=True)
            give_to_owner(target, target.parent)
        remove_stale(target)
    with (
        tempfile.TemporaryDirectory(dir=targets[VERSIONS], prefix=".restored.", suffix=ASIDE) as versions,
        tempfile.TemporaryDirectory(dir=targets[OWN], prefix=".restored.", suffix=ASIDE) as own,
    ):
        asides = {VERSIONS: Path(versions, VERSIONS), OWN: Path(own, OWN)}
        try:
            with _Bounded(models) as stream, tarfile.open(fileobj=stream, mode="r:") as packed:
                for member in list(_members(packed, models)):  # all are looked at before one is written
                    packed.extract(member, asides[member.name.partition("/")[0]].parent, filter="data")
        except BROKEN as error:
            raise StoreError(f"{models}: is no archive that can be read ({error}); {AGAIN}") from None
        for name, target in targets.items():
            for found in sorted(asides[name].glob("*")):
                if (target / found.name).exists():
                    continue
                try:
                    if name == VERSIONS:
                        intact(found, found.name)
                except ModelError:
                    damaged.append(f"Version {found.name} in {models} is damaged; deploy its model again.")
                    continue
                give_to_owner(found, target)
                found.rename(target / found.name)
    return damaged


def _members(packed: tarfile.TarFile, models: Path) -> Iterator[tarfile.TarInfo]:
    """The files, as long as they are what a back-up holds: plain ones, of known names, and not too many bytes."""
    room, size = max(SMALL, RATIO * models.stat().st_size), 0
    for count, one in enumerate(packed):
        size += one.size
        plain = one.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and FILE.fullmatch(one.name)
        if not plain and not (one.isdir() and FOLDER.fullmatch(one.name)):
            raise StoreError(f"{models}: holds {one.name[:100]!r}, which no back-up holds; {AGAIN}")
        if count >= MOST or size > room:
            raise StoreError(f"{models}: holds more than {room:,} bytes or {MOST:,} files; {AGAIN}")
        if plain:
            yield one


def check(backup: Path) -> None:
    """Raises a `StoreError` where a back-up is not as it was written."""
    try:
        if inside := sorted(path.parent for path in backup.glob(f"*/{SUMS}")):
            raise StoreError(f"{backup}: is no back-up, but holds some; give one of them, such as {inside[-1]}")
        there = {path.name: path.is_file() and not path.is_symlink() for path in backup.iterdir()}
        if odd := sorted(name for name, plain in there.items() if not plain):
            raise StoreError(f"{backup}: holds what is no plain file ({some(odd)}); {AGAIN}")
        if (backup / SUMS).stat().st_size > AT_ONCE:
            raise StoreError(f"{backup / SUMS}: is too large for checksums; {AGAIN}")
        lines = (backup / SUMS).read_text().splitlines()
        sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        names = there.keys() - {SUMS}
        if wrong := sorted(
            (names ^ sums.keys()) | {name for name in names & sums.keys() if sha256(backup / name) != sums[name]}
        ):
            raise StoreError(f"{backup}: is not whole ({some(wrong)}); {AGAIN}")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{backup}: is no back-up that can be read ({error}); {AGAIN}") from error


def check_store(file: Path) -> None:
    """Raises a `StoreError` where a file is no whole store of SQLite, or one of a newer version."""
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as store:
            store.execute("PRAGMA trusted_schema = OFF")
            (found,) = store.execute("PRAGMA quick_check(1)").fetchone()
            (version,) = store.execute("SELECT version_num FROM alembic_version").fetchone() or (None,)
    except (sqlite3.Error, UnicodeError) as error:
        raise StoreError(f"{file}: is no store ({error}); {AGAIN}") from None
    if found != "ok" or version not in REVISIONS:
        reason = (
            f"damaged ({found})" if found != "ok" else f"of version {version}, and {REVISIONS[-1]} is the newest known"
        )
        raise StoreError(f"{file}: is {reason}; {AGAIN}")


def give_to_owner(path: Path, folder: Path) -> None:
    """Give what an administrator wrote to the owner of the folder that it goes into."""
    if os.geteuid() == 0:
        owner = folder.stat()
        for one in (path, *path.rglob("*")):
            os.chown(one, owner.st_uid, owner.st_gid)


def sha256(path: Path) -> str:
    """The checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
