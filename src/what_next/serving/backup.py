"""Back-ups of a running service (store, models and setup), and their restoration.

A back-up may come from an untrusted source, so restoring checks its contents.
"""

import gzip
import os
import re
import shutil
import sqlite3
import subprocess
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from errno import EEXIST, ENOTEMPTY
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.engine import URL

from what_next.data.files import ASIDE, remove_stale, sha256, sync
from what_next.errors import ModelError, SaveError, StoreError, disk_full, some
from what_next.serving.engine.versions import AGENT, CARD, CATALOGUE, HASHED, intact, versions_folder
from what_next.serving.store import store_of, tables
from what_next.serving.store.backend import VARIABLE, Backend, connect, is_damaged
from what_next.serving.store.migrations import MARKS, REVISIONS, drop_later, known_version, missing, version_of
from what_next.settings import Setup
from what_next.settings.service import VERSION
from what_next.training.artefacts import CRITIC, catalogue_path, critic_beside
from what_next.training.card import card_path

SQLITE, POSTGRESQL, MODELS = "store.sqlite", "store.dump", "models.tar.gz"
"""File names in a back-up: the store as an SQLite file or as a `pg_dump` file, and the models."""
OTHERS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend' "
    "AND pid <> pg_backend_pid()"
)
SUMS = "SHA256SUMS"
"""The checksums of all other files, as `sha256sum --check` reads them."""
VERSIONS, OWN = "versions", "agent"
"""Folders in the archive of models: the deployed versions, and the files of the setup's own agent."""
FILES = (AGENT, CATALOGUE, CRITIC, CARD)
"""Files of a deployed version."""
FOLDER = re.compile(rf"{OWN}|{VERSIONS}(/{VERSION.pattern})?")
FILE = re.compile(rf"{OWN}/[^/.][^/]*|{VERSIONS}/{VERSION.pattern}/({'|'.join(map(re.escape, FILES))})")
"""The only folders and files that an archive of models may hold."""
MOST, RATIO, SMALL = 10_000, 100, 2**26
"""Most members of an archive; its unpacked size is at most `RATIO` times the packed one, or `SMALL` bytes if more."""
TRIES = 3
"""Attempts at copying store and models without a deployment in between."""
AT_ONCE = 2**20
"""Most bytes of one read of an archive; a header that asks for more is invalid."""
AGAIN = "nothing was changed; take another back-up"
BROKEN = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, OverflowError, RecursionError)
"""Exceptions from reading an invalid archive."""


def back_up(file: Path, setup: Setup, folder: Path) -> Path:
    """Write a back-up to `folder / TIME`, atomically: it is written under another name and then renamed.

    `file` is the setup's file, which is copied; `folder` is created if missing. Only the owner can read the back-up.

    Returns:
        The back-up's folder.

    Raises:
        ModelError: a deployed version is damaged; the back-up was written without that version.
        StoreError: there is no store, it cannot be read, or `pg_dump` failed.
        SaveError: the back-up could not be written; nothing is left of it.
    """
    stamp = _now()
    whole = folder / stamp
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{stamp}.", suffix=ASIDE) as name:
            damaged = _keep(setup, aside := Path(name))
            shutil.copyfile(file, aside / file.name)
            _seal(aside)
            whole = _named(aside, whole)
        sync(folder)
        remove_stale(folder)
    except OSError as error:
        raise SaveError(f"{whole}: cannot be written ({error.strerror or error}); nothing is left of it") from error
    if damaged:
        raise ModelError(f"{whole}: was written, but lacks what is damaged. {' '.join(damaged)}")
    return whole


def restore(setup: Setup, backup: Path, replace: bool = False) -> Path | None:
    """Restore the store and models of a setup from a back-up. The service must be stopped.

    Existing models are not overwritten. Restored files get the owner of their folder, so that the service can read what
    an administrator restores.

    With `replace`, an existing store is replaced: an SQLite file is moved aside, and the tables of a PostgreSQL
    database are replaced in one transaction.

    Returns:
        The new path of the SQLite file that was moved aside; None if there was none.

    Raises:
        ModelError: a version in the back-up is damaged; everything else is restored.
        StoreError: the back-up is incomplete or of the other database, or a store exists already or is in use.
        SaveError: something could not be written. The existing store is unchanged.
    """
    check(backup)
    with closing(connect(store_of(setup))) as backend:
        if backend.sqlite:
            kept, kind, put_back = backup / SQLITE, "SQLite", _put_back_file
        else:
            kept, kind, put_back = backup / POSTGRESQL, "PostgreSQL", _put_back_tables
        if not kept.is_file():
            raise StoreError(
                f"{backup}: holds no {kept.name}, but the setup's store is in {kind}; nothing was changed; name a "
                f"back-up of {kind}, or by server.store or {VARIABLE} a store of the kind that was backed up"
            )
        if not (backup / MODELS).is_file():
            raise StoreError(f"{backup}: holds no {MODELS}; {AGAIN}")
        try:
            damaged, before = put_back(setup, backend, kept, replace)
        except OSError as error:
            where = error.filename or backup
            raise SaveError(f"{where}: {error.strerror or error}; the store is as it was") from error
    if damaged:
        aside = f"; the store that was there lies in {before}" if before else ""
        raise ModelError(f"{backup}: is restored, but for some versions{aside}. {' '.join(damaged)}")
    return before


def _put_back_file(setup: Setup, backend: Backend, kept: Path, replace: bool) -> tuple[list[str], Path | None]:
    """Restore an SQLite store; returns messages about damaged versions, and the path of the file moved aside."""
    check_store(kept)
    file = Path(backend.where)
    _free(file, replace)
    return unpack(setup, kept.with_name(MODELS)), _placed(kept, file)


def _put_back_tables(setup: Setup, backend: Backend, kept: Path, replace: bool) -> tuple[list[str], None]:
    """Restore a PostgreSQL store; returns messages about damaged versions."""
    version = check_dump(kept)
    there = _tables(backend, replace)
    damaged = unpack(setup, kept.with_name(MODELS))
    words = ["--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges"]
    clean = ["--clean", "--if-exists"] if there else []
    _postgresql("pg_restore", [*words, *clean, str(kept)], "the database is as it was", backend.engine.url)
    with backend.begin() as link:
        drop_later(link, version)
    return damaged, None


def _now() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")


def _named(aside: Path, whole: Path) -> Path:
    """Rename a back-up to its final name, or to that of a later second if the name is taken."""
    while True:
        try:
            return aside.rename(whole)
        except OSError as error:
            if error.errno not in (EEXIST, ENOTEMPTY):
                raise
        time.sleep(0.1)
        whole = whole.with_name(_now())


def _keep(setup: Setup, folder: Path) -> list[str]:
    """Copy store and models; returns messages about damaged versions, which are left out.

    The models are copied after the store, so that every version that the store names exists. But the loop removes old
    versions when it deploys a new one, perhaps the one that was current when the store was copied. So if the current
    version changed meanwhile, both are copied again.
    """
    for _ in range(TRIES):
        answers = _answering(setup)
        _keep_store(setup, folder)
        damaged = pack(setup, folder / MODELS)
        if _answering(setup) == answers:
            break
    return damaged


def _answering(setup: Setup) -> str | None:
    """The deployed version; None if there is none, or if the store is unreadable, which copying it reports."""
    with suppress(StoreError), closing(connect(store_of(setup))) as backend:
        if not backend.sqlite or Path(backend.where).is_file():
            ours = tables.deployments.c
            newest = backend.fetch(select(ours.version).order_by(ours.number.desc()).limit(1))
            return newest[0][0] if newest else None
    return None


def _keep_store(setup: Setup, folder: Path) -> None:
    with closing(connect(store_of(setup))) as backend:
        if backend.sqlite:
            _copied(Path(backend.where), folder / SQLITE)
        with backend.explained(), backend.reader.connect() as link:
            if known_version(link, backend.where) is None:
                raise missing(backend)
        if not backend.sqlite:
            words = ["--format=custom", "--no-owner", "--no-privileges", f"--file={folder / POSTGRESQL}"]
            own = [f"--table={name}" for name in tables.metadata.tables]  # other tables are not ours
            _postgresql("pg_dump", [*words, *own], "no back-up was made", backend.engine.url)


def _seal(folder: Path) -> None:
    """Write the checksums of all files, make the files readable for their owner only, and flush them to disk."""
    (folder / SUMS).write_text("".join(f"{sha256(path)}  {path.name}\n" for path in sorted(folder.iterdir())))
    for path in folder.iterdir():
        path.chmod(0o600)
        sync(path)
    sync(folder)


def _copied(file: Path, to: Path) -> None:
    """Copy a consistent snapshot of an SQLite store in one read transaction, which does not block writers."""
    if not file.is_file():
        raise StoreError(f"{file}: there is no store; serve first (what-next serve), or name it with server.store")
    try:
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(to)) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # a single file, without a write-ahead log
            (found,) = copy.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.Error as error:
        if not is_damaged(error):
            raise StoreError(f"{file}: cannot be backed up ({error})") from error
        found = str(error)
    if found != "ok":
        reason = found.splitlines()[-1]  # the first line only names the database
        raise StoreError(f"{file}: is damaged ({reason}); restore an earlier back-up (what-next restore --replace)")


def _free(file: Path, replace: bool) -> None:
    """Raise a `StoreError` if an SQLite file exists already and may not be replaced, or is in use."""
    if not file.exists():
        return
    if not replace:
        raise StoreError(f"{file}: is there already; nothing was changed; give --replace to move it aside")
    try:
        with closing(sqlite3.connect(file, timeout=0)) as opened:
            opened.execute("PRAGMA journal_mode = DELETE")  # SQLite refuses this while others have the file open
    except sqlite3.OperationalError as error:
        raise StoreError(f"{file}: is in use ({error}); nothing was changed; stop the service first") from error
    except sqlite3.DatabaseError:
        pass  # a damaged store may be replaced


def _placed(kept: Path, file: Path) -> Path | None:
    """Put the file of the back-up in place; returns the path of the existing file, which is moved aside."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside, before = file.with_name(f".{file.name}.restored"), file.with_name(f"{file.name}.before-{_now()}")
    there = file.exists()
    try:
        with _full_at(file):
            shutil.copyfile(kept, aside)
            aside.chmod(0o600)  # users' histories are private
            give_to_owner(aside, file.parent)
            sync(aside)
        if there:
            try:  # a hard link, so that the store's own name always exists
                before.hardlink_to(file)
            except OSError:  # some file systems have no hard links
                file.rename(before)
        for ending in ("-wal", "-shm"):  # else SQLite would apply the old file's log to the new file
            old = file.with_name(file.name + ending)
            if old.exists():
                old.rename(f"{before}{ending}")
        aside.replace(file)
        sync(file.parent)
    finally:
        aside.unlink(missing_ok=True)
    return before if there else None


@contextmanager
def _full_at(place: Path) -> Iterator[None]:
    """Name `place` in errors of a full disk: copying names the source instead, and unpacking names no file."""
    try:
        yield
    except OSError as error:
        if disk_full(error):
            error.filename = str(place)
        raise


def _tables(backend: Backend, replace: bool) -> bool:
    """Whether a PostgreSQL database holds a store; a `StoreError` if that must not be replaced, or is in use."""
    with backend.explained(), backend.reader.connect() as link:
        there = version_of(link, backend.where) is not None
        others = link.exec_driver_sql(OTHERS).scalar_one()
    if there and not replace:
        raise StoreError(f"{backend.where}: holds a store already; nothing was changed; give --replace to replace it")
    if others > 0:
        connected = f"{others} other connections" if others > 1 else "another connection"
        raise StoreError(f"{backend.where}: has {connected}; nothing was changed; stop the service first")
    return there


def _postgresql(program: str, words: Sequence[str], after: str, url: URL | None = None) -> str:
    """Run a PostgreSQL program, on the database of `url` if given; returns its output.

    The password is passed in the environment, because other users can see command lines. `after` ends the message of a
    failure: it says what state things are in.
    """
    command, known = [str(Path(os.environ.get("PG_BIN", "")) / program), *words], dict(os.environ)
    if url is not None:
        shown = url.set(drivername="postgresql", password=None).difference_update_query(["password"])
        command.append(f"--dbname={shown.render_as_string(hide_password=False)}")
        if password := url.password or url.query.get("password"):
            known["PGPASSWORD"] = str(password)
    try:
        done = subprocess.run(command, env=known, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise StoreError(
            f"{command[0]}: cannot be run ({error.strerror}); install PostgreSQL's client programs, no older than the "
            "server, or name their folder by PG_BIN"
        ) from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[0]
        raise StoreError(f"{reason}; {after}")
    return done.stdout


# The models in their archive


class _Bounded(gzip.GzipFile):
    """Limits the size of one read, because a tar header may claim any size."""

    def read(self, size: int | None = -1) -> bytes:
        """At most `size` bytes; a `ReadError` if that is more than `AT_ONCE`."""
        if size is None or not 0 <= size <= AT_ONCE:
            raise tarfile.ReadError("a header that is too large")
        return super().read(size)


def pack(setup: Setup, to: Path) -> list[str]:
    """Archive the deployed versions and the setup's agent; returns messages about damaged versions, which are left out.

    Raises:
        StoreError: `unpack` would refuse the archive.
    """
    size, damaged = _packed(setup, to, level=9)
    if size > max(SMALL, RATIO * to.stat().st_size):  # such as tables of zeros; restoring would refuse the ratio
        _, damaged = _packed(setup, to, level=0)
    try:
        with _Bounded(to) as stream, tarfile.open(fileobj=stream, mode="r:") as packed:
            list(_members(packed, to, versions_folder(setup)))
    except StoreError as error:
        reason = str(error).removesuffix(f"; {AGAIN}")
        raise StoreError(f"{reason}, so it could not be restored; no back-up was made; remove old versions") from None
    return damaged


def _packed(setup: Setup, to: Path, level: int) -> tuple[int, list[str]]:
    """The number of bytes that were archived, and messages about damaged versions."""
    agent, versions, damaged = setup.model_agent_path, versions_folder(setup), []
    # Links are archived as the files that they point to.
    with tarfile.open(to, "w:gz", dereference=True, compresslevel=level) as models:
        for place in sorted(versions.iterdir()) if versions.is_dir() else ():
            if not place.is_dir() or not VERSION.fullmatch(place.name):  # such as a version that is being written
                continue
            with ExitStack() as stack:  # open files stay readable if the loop removes them
                try:
                    there = [path for name in FILES if (path := place / name).is_file()]
                    files = [stack.enter_context(path.open("rb")) for path in there]
                    intact(place, place.name)
                except (ModelError, FileNotFoundError) as error:
                    damaged += [f"{error}."] if place.exists() else []
                    continue
                for file in files:
                    name = f"{VERSIONS}/{place.name}/{Path(file.name).name}"
                    models.addfile(models.gettarinfo(arcname=name, fileobj=file), file)
        for own in (agent, catalogue_path(agent), critic_beside(agent), card_path(agent)) if agent.is_file() else ():
            if own is not None and own.is_file():
                models.add(own, f"{OWN}/{own.name}")
        return sum(one.size for one in models.getmembers()), damaged


def unpack(setup: Setup, models: Path) -> list[str]:
    """Unpack versions and the agent's files into temporary folders, then move them; existing ones are not overwritten.

    Returns:
        Messages about damaged versions, which are left out.

    Raises:
        StoreError: the archive is not one of ours, or is damaged; nothing was written.
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
        asides = {VERSIONS: versions, OWN: own}
        try:
            with _Bounded(models) as stream, tarfile.open(fileobj=stream, mode="r:") as packed:
                for member in list(_members(packed, models, models)):  # all are checked before the first is written
                    name = member.name.partition("/")[0]
                    with _full_at(targets[name]):
                        packed.extract(member, asides[name], filter="data")
        except BROKEN as error:
            raise StoreError(f"{models}: is no archive that can be read ({error}); {AGAIN}") from None
        for name, target in targets.items():
            for found in sorted(Path(asides[name], name).glob("*")):
                if (target / found.name).exists():
                    continue
                try:
                    if name == VERSIONS:
                        intact(found, found.name)
                except ModelError:
                    why = "is damaged" if HASHED.fullmatch(found.name) else "has no hash to be checked by"
                    damaged.append(f"Version {found.name} in {models} {why}; deploy its model again.")
                    continue
                give_to_owner(found, target)
                found.rename(target / found.name)
    return damaged


def _members(packed: tarfile.TarFile, models: Path, told: Path) -> Iterator[tarfile.TarInfo]:
    """The files of an archive; a `StoreError` unless all are plain files of known names, within the limits.

    `models` is the archive; `told` is the path that messages name.
    """
    room, size = max(SMALL, RATIO * models.stat().st_size), 0
    for count, one in enumerate(packed):
        size += one.size
        plain = one.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and FILE.fullmatch(one.name)
        if not plain and not (one.isdir() and FOLDER.fullmatch(one.name)):
            raise StoreError(f"{told}: holds {one.name[:100]!r}, which no back-up holds; {AGAIN}")
        if count >= MOST or size > room:
            raise StoreError(f"{told}: holds more than {room:,} bytes or {MOST:,} files; {AGAIN}")
        if plain:
            yield one


def check(backup: Path) -> None:
    """Raise a `StoreError` if a back-up does not match its checksums."""
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
        found = {name: sha256(backup / name) for name in there if name != SUMS}
        if wrong := sorted({name for name, _ in found.items() ^ sums.items()}):
            raise StoreError(f"{backup}: is not whole ({some(wrong)}); {AGAIN}")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{backup}: is no back-up that can be read ({error}); {AGAIN}") from error


def check_store(file: Path) -> None:
    """Raise a `StoreError` if a file is not an intact SQLite store, or is of a newer version."""
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as store:
            store.execute("PRAGMA trusted_schema = OFF")
            (found,) = store.execute("PRAGMA quick_check(1)").fetchone()
            (version,) = store.execute("SELECT version_num FROM alembic_version").fetchone() or (None,)
    except (sqlite3.Error, UnicodeError) as error:
        raise StoreError(f"{file}: is no store ({error}); {AGAIN}") from None
    if found != "ok":
        raise StoreError(f"{file}: is damaged ({found}); {AGAIN}")
    _check_version(file, version)


def check_dump(file: Path) -> str:
    """The store's version in a `pg_dump` file; a `StoreError` if it is not a store, or of a newer version."""
    listed = _postgresql("pg_restore", ["--list", str(file)], AGAIN)
    rows = _postgresql("pg_restore", ["--data-only", "--table=alembic_version", "--file=-", str(file)], AGAIN)
    version = re.search(r"^COPY \S*alembic_version \(version_num\) FROM stdin;\n(.*)$", rows, re.MULTILINE)
    if version is None or not MARKS.keys() <= set(re.findall(r"^\d+; \d+ \d+ TABLE \S+ (\S+)", listed, re.MULTILINE)):
        raise StoreError(f"{file}: is no store; {AGAIN}")
    _check_version(file, version[1])
    return version[1]


def _check_version(file: Path, version: str | None) -> None:
    if version not in REVISIONS:
        raise StoreError(
            f"{file}: is of version {version}, and {REVISIONS[-1]} is the newest known; upgrade What Next?; {AGAIN}"
        )


def give_to_owner(path: Path, folder: Path) -> None:
    """If run by root, give files to the owner of the folder that they go into."""
    if os.geteuid() == 0:
        owner = folder.stat()
        for one in (path, *path.rglob("*")):
            os.chown(one, owner.st_uid, owner.st_gid)
