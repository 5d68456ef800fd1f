"""The scripts that start, stop, back up and restore the service, as an image or a unit runs them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from .conftest import Postgres
from .processes import ROOT, SOURCE, ask, environment, free_port, until_ready

pytest.importorskip("uvicorn", reason="the extra serve is not installed")

DEPLOY = ROOT / "deploy"
SECONDS = 20.0
"""In which a service ends that was asked to."""


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `install.sh` leaves behind, without an environment of its own: the scripts beside the program."""
    folder = tmp_path_factory.mktemp("prefix") / "bin"
    folder.mkdir()
    for name in ("entrypoint", "backup", "restore"):
        shutil.copy(DEPLOY / f"{name}.sh", folder / f"what-next-{name}")
    for name, words in (("what-next", "-m what_next"), ("python", "")):
        program = folder / name
        program.write_text(f'#!/bin/sh\nPYTHONPATH={SOURCE} exec {sys.executable} {words} "$@"\n')
        program.chmod(0o755)
    return folder


def script(prefix: Path, name: str, *words: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [prefix / f"what-next-{name}", *map(str, words)],
        env=environment() | more,
        capture_output=True,
        text=True,
        timeout=120,
    )


@contextmanager
def started(prefix: Path, setup: Path, **more: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The service by the entrypoint, on a free port of this machine."""
    port = free_port()
    own = {"WHAT_NEXT_SETUP": str(setup), "WHAT_NEXT_PORT": str(port), "WHAT_NEXT_HOST": "127.0.0.1"}
    with (setup.parent / "service.log").open("ab") as log:
        process = subprocess.Popen(
            [prefix / "what-next-entrypoint"], env=environment() | own | more, stdout=log, stderr=log
        )
    try:
        until_ready(port, lambda: process.poll() is None)
        yield port, process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def ended(process: subprocess.Popen[bytes]) -> int:
    """Asked by SIGTERM, as docker and systemd ask; the exit code."""
    process.send_signal(signal.SIGTERM)
    return process.wait(SECONDS)


def event(number: int, user: str = "u1") -> dict[str, Any]:
    return {"event_id": f"e{number}", "user_id": user, "item_id": f"i{number}", "event": "play"}


def events_of(port: int, user: str = "u1") -> list[str]:
    status, told = ask(port, "GET", f"/v1/users/{user}/history?limit=100")
    assert status == 200, told
    return sorted(one["event_id"] for one in told["events"])


class TestEntrypoint:
    def test_without_a_setup_it_says_where_it_looked(self, prefix: Path, tmp_path: Path) -> None:
        missing = tmp_path / "setup.txt"
        done = script(prefix, "entrypoint", WHAT_NEXT_SETUP=str(missing))
        assert done.returncode == 2
        assert f"there is no setup file {missing}" in done.stderr

    def test_a_secret_that_cannot_be_read_is_told(self, prefix: Path, tmp_path: Path) -> None:
        done = script(prefix, "entrypoint", PGPASSWORD_FILE=str(tmp_path / "none"))
        assert done.returncode == 2
        assert "none, which cannot be read" in done.stderr

    def test_words_are_handed_on_with_the_password_of_the_secret(self, prefix: Path, tmp_path: Path) -> None:
        shutil.copy(prefix / "what-next-entrypoint", tmp_path / "entrypoint")
        (tmp_path / "what-next").write_text('#!/bin/sh\necho "$PGPASSWORD" "$@"\n')
        (tmp_path / "what-next").chmod(0o755)
        (tmp_path / "secret").write_text("s3cret word\n")
        (tmp_path / "setup.txt").touch()
        own = {"PGPASSWORD_FILE": str(tmp_path / "secret"), "WHAT_NEXT_SETUP": str(tmp_path / "setup.txt")}

        def told(*words: str, **more: str) -> str:
            return subprocess.run(
                [tmp_path / "entrypoint", *words], env=environment() | own | more, capture_output=True, text=True
            ).stdout.strip()

        assert told("key", "list", "a b") == "s3cret word key list a b"
        assert told() == f"s3cret word serve {tmp_path}/setup.txt"
        assert told("serve", "--json", WHAT_NEXT_PORT="80") == (
            f"s3cret word serve {tmp_path}/setup.txt server.port=80 --json"
        )


def test_a_service_is_backed_up_while_it_runs_and_restored_with_the_same_events(prefix: Path, tmp_path: Path) -> None:
    from .models import served

    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    served(source, import_data=False)
    with started(prefix, source / "setup.txt") as (port, process):
        assert ask(port, "POST", "/v1/events/batch", {"events": [event(1), event(2)]})[0] == 201
        done = script(prefix, "backup", source / "setup.txt", tmp_path / "backups")
        assert done.returncode == 0, done.stderr
        assert ask(port, "POST", "/v1/events", event(3))[0] == 201
        status, shown = ask(port, "POST", "/v1/recommendations", {"user_id": "u1", "k": 3})
        assert (status, len(shown["items"])) == (200, 3)
        assert ended(process) == 0
    backup = Path(done.stdout.strip())
    assert backup.parent == tmp_path / "backups"
    assert {path.name for path in backup.iterdir()} == {"store.sqlite", "models.tar.gz", "setup.txt", "SHA256SUMS"}
    assert oct(backup.stat().st_mode & 0o077) == "0o0", "people's histories are nobody else's"

    shutil.copy(backup / "setup.txt", target)
    shutil.copy(source / "listening.parquet", target)  # the log is not of the service
    assert script(prefix, "restore", target / "setup.txt", backup).returncode == 0
    with started(prefix, target / "setup.txt") as (port, process):
        assert events_of(port) == ["e1", "e2"], "as at the time of the backup"
        assert ask(port, "POST", "/v1/events", event(2))[1]["duplicates"] == 1
        assert ask(port, "GET", "/v1/model")[1]["version"] == shown["model"]["version"]
        assert ended(process) == 0


@pytest.fixture(scope="module")
def backup(prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of a store with one event."""
    from .models import served

    folder = tmp_path_factory.mktemp("source")
    served(folder, import_data=False)
    filled(str(folder / "agent.store.sqlite"), "before")
    done = script(prefix, "backup", folder / "setup.txt", folder / "backups")
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


class TestRestore:
    @pytest.fixture
    def setup(self, backup: Path, tmp_path: Path) -> Path:
        """A service that was killed: its store holds another event, in the log beside the file."""
        from what_next.server.store import Store

        shutil.copy(backup / "setup.txt", tmp_path)
        live = Store.open(str(tmp_path / "live.sqlite"))
        live.commit([one_event("after")])
        for path in tmp_path.glob("live.sqlite*"):
            shutil.copy(path, tmp_path / path.name.replace("live", "agent.store"))
        live.close()
        assert (tmp_path / "agent.store.sqlite-wal").stat().st_size > 0
        return tmp_path / "setup.txt"

    def test_a_store_in_the_way_is_kept_unless_it_is_to_be_replaced(
        self, prefix: Path, backup: Path, setup: Path
    ) -> None:
        store = setup.with_name("agent.store.sqlite")
        refused = script(prefix, "restore", setup, backup)
        assert refused.returncode == 2
        assert "is there already; give --replace" in refused.stderr
        assert script(prefix, "restore", setup, backup, "--replace").returncode == 0
        assert held(str(store)) == ["before"], "the log of the other store is not played into this one"
        (aside,) = [path for path in setup.parent.glob("*.before-*") if path.name[-1] == "Z"]
        assert held(str(aside)) == ["after"], "what was replaced is not thrown away"

    def test_a_backup_that_is_not_whole_changes_nothing(
        self, prefix: Path, backup: Path, setup: Path, tmp_path: Path
    ) -> None:
        damaged = tmp_path / "damaged"
        shutil.copytree(backup, damaged)
        content = bytearray((damaged / "store.sqlite").read_bytes())
        content[len(content) // 2] ^= 1
        (damaged / "store.sqlite").write_bytes(content)
        done = script(prefix, "restore", setup, damaged, "--replace")
        assert done.returncode == 2
        assert "is not whole; nothing was changed" in done.stderr
        assert held(str(setup.with_name("agent.store.sqlite"))) == ["after"]


@pytest.mark.slow
def test_a_store_in_postgresql_is_backed_up_and_restored(
    prefix: Path, postgres_server: Postgres, tmp_path: Path
) -> None:
    from .models import served

    served(tmp_path, import_data=False)
    urls = []
    for name in ("ship_from", "ship_to"):
        postgres_server.sql(f"CREATE DATABASE {name}")
        urls.append(postgres_server.url(name))
    filled(urls[0], "kept")
    programs = {"PG_BIN": str(postgres_server.programs)}
    done = script(prefix, "backup", tmp_path / "setup.txt", tmp_path / "backups", WHAT_NEXT_STORE=urls[0], **programs)
    assert done.returncode == 0, done.stderr
    backup = Path(done.stdout.strip())
    filled(urls[1], "other")
    words = (prefix, "restore", tmp_path / "setup.txt", backup)
    refused = script(*words, WHAT_NEXT_STORE=urls[1], **programs)
    assert (refused.returncode, held(urls[1])) == (2, ["other"])
    replaced = script(*words, "--replace", WHAT_NEXT_STORE=urls[1], **programs)
    assert replaced.returncode == 0, replaced.stderr
    assert held(urls[1]) == ["kept"]


def one_event(event_id: str) -> Any:
    from what_next.server.store import AddEvents, EventRow

    return AddEvents((EventRow(event_id, "u1", "i1", "play", None, None, None, None),))


def filled(place: str, event_id: str) -> None:
    """A store with one event."""
    from what_next.server.store import Store

    store = Store.open(place)
    store.commit([one_event(event_id)])
    store.close()


def held(place: str) -> list[str]:
    """The ids of a person's events in a store."""
    from what_next.server.store import Store

    store = Store.open(place)
    try:
        return [one.event_id for one in store.events_of("u1")]
    finally:
        store.close()


@pytest.mark.slow
def test_a_fresh_environment_installs_starts_answers_and_stops(tmp_path: Path) -> None:
    """The steps of the image, without the image; takes the time that pip needs."""
    from .models import served

    folder = tmp_path / "files"
    folder.mkdir()
    served(folder)
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "TORCH_INDEX")}
    fresh = tmp_path / "environment"
    done = subprocess.run(
        [DEPLOY / "install.sh", fresh], env=own | {"PYTHON": sys.executable}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    port = free_port()
    serving = own | {"WHAT_NEXT_SETUP": str(folder / "setup.txt"), "WHAT_NEXT_PORT": str(port)}
    with (folder / "service.log").open("ab") as log:
        process = subprocess.Popen([fresh / "bin" / "what-next-entrypoint"], env=serving, stdout=log, stderr=log)
    try:
        until_ready(port, lambda: process.poll() is None)
        status, answer = ask(port, "POST", "/v1/recommendations", {"user_id": "u1", "k": 5})
        assert (status, len(answer["items"]), answer["fallback"]) == (200, 5, None)
        began = time.monotonic()
        assert ended(process) == 0
        assert time.monotonic() - began < SECONDS
    finally:
        if process.poll() is None:
            process.kill()
    keys = subprocess.run(
        [fresh / "bin" / "what-next-entrypoint", "key", "list", str(folder / "setup.txt"), "--json"],
        env=serving, capture_output=True, text=True,
    )  # fmt: skip
    assert json.loads(keys.stdout) == {"keys": []}
