"""Back-ups: taken while the service runs, restored whole or not at all, and never in the place of what is in use."""

import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from what_next.errors import SaveError, StoreError
from what_next.settings import Setup

from .conftest import NOBODY, Postgres
from .models import served
from .processes import ask, forks, free_port, until_ready

pytest.importorskip("uvicorn", reason="the extra serve is not installed")

from what_next.cli.backup import restore as command
from what_next.server.backup import SUMS, back_up, restore
from what_next.server.store import AddEvents, EventRow, Store


def read(folder: Path) -> Setup:
    return Setup.read(folder / "setup.txt", ["train=no"])


def filled(place: str | Path, *names: str) -> None:
    """Events of one person in a store."""
    store = Store.open(place)
    store.commit([AddEvents(tuple(EventRow(name, "u1", "i1", "play", None, None, None, None) for name in names))])
    store.close()


def held(place: str | Path) -> list[str]:
    """The ids of that person's events."""
    store = Store.open(place)
    try:
        return [one.event_id for one in store.events_of("u1")]
    finally:
        store.close()


def event(number: int) -> dict[str, Any]:
    return {"event_id": f"e{number}", "user_id": "u1", "item_id": f"i{number % 80}", "event": "play"}


def test_a_service_is_backed_up_under_load_and_restored_as_it_was_at_one_moment(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for folder in (source, target):
        folder.mkdir()
    served(source, import_data=False)
    sent, begun, stop = [0], threading.Event(), threading.Event()

    def load(port: int) -> None:
        while not stop.is_set():
            batch = [event(number) for number in range(sent[0], sent[0] + 20)]
            assert ask(port, "POST", "/v1/events/batch", {"events": batch})[0] == 201
            sent[0] += 20
            if sent[0] > 200:
                begun.set()

    with forks(tmp_path) as services:
        port = free_port()
        child = services.start("serve", source / "setup.txt", f"server.port={port}")
        until_ready(port)
        version = ask(port, "GET", "/v1/model")[1]["version"]
        thread = threading.Thread(target=load, args=(port,))
        thread.start()
        try:
            assert begun.wait(30)
            before = sent[0]
            backup = back_up(source / "setup.txt", read(source), tmp_path / "backups")
            after = sent[0] + 20  # a batch may be on its way
        finally:
            stop.set()
            thread.join()
        with pytest.raises(StoreError, match=r"agent\.store\.sqlite: is in use .* stop the service first"):
            restore(read(source), backup, replace=True)
        services.end(child, signal.SIGTERM)

        assert {path.name for path in backup.iterdir()} == {"store.sqlite", "models.tar.gz", "setup.txt", SUMS}
        assert {path.stat().st_mode & 0o077 for path in (backup, *backup.iterdir())} == {0}
        subprocess.run(["sha256sum", "--check", "--quiet", SUMS], cwd=backup, check=True)
        assert len(held(source / "agent.store.sqlite")) == sent[0]

        shutil.copy(backup / "setup.txt", target)
        shutil.copy(source / "listening.parquet", target)  # the log is not of the service
        assert restore(read(target), backup) is None
        found = held(target / "agent.store.sqlite")
        assert found == [f"e{number}" for number in range(len(found))], "each batch is there whole, none twice"
        assert len(found) % 20 == 0
        assert before <= len(found) <= after
        child = services.start("serve", target / "setup.txt", f"server.port={port}")
        until_ready(port)
        assert ask(port, "POST", "/v1/events", event(0))[1]["duplicates"] == 1
        assert ask(port, "GET", "/v1/model")[1]["version"] == version
        services.end(child, signal.SIGTERM)


@pytest.fixture(scope="module")
def backup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A back-up of a store with one event."""
    folder = tmp_path_factory.mktemp("source")
    served(folder, import_data=False)
    filled(folder / "agent.store.sqlite", "before")
    return back_up(folder / "setup.txt", read(folder), folder / "backups")


@pytest.fixture
def killed(backup: Path, tmp_path: Path) -> Path:
    """The folder of a service that was killed: its store holds another event, in the log beside the file."""
    shutil.copy(backup / "setup.txt", tmp_path)
    live = Store.open(tmp_path / "live.sqlite")
    live.commit([AddEvents((EventRow("after", "u1", "i1", "play", None, None, None, None),))])
    for path in tmp_path.glob("live.sqlite*"):
        shutil.copy(path, tmp_path / path.name.replace("live", "agent.store"))
    live.close()
    assert (tmp_path / "agent.store.sqlite-wal").stat().st_size > 0
    return tmp_path


class TestRestore:
    def test_a_store_in_the_way_is_kept_unless_it_is_to_be_replaced(
        self, backup: Path, killed: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        store = killed / "agent.store.sqlite"
        with pytest.raises(StoreError, match="is there already; nothing was changed; give --replace"):
            restore(read(killed), backup)
        command(killed / "setup.txt", backup, replace=True)
        told = capsys.readouterr().out
        (aside,) = killed.glob("*.before-*")
        assert f"the store that was there lies in {aside}" in told
        assert "erase them again" in told
        assert held(store) == ["before"], "the log of the other store is not played into this one"
        assert store.stat().st_mode & 0o077 == 0
        assert held(aside) == ["after"], "what was replaced is not thrown away"

    def test_a_damaged_store_gives_way(self, backup: Path, killed: Path) -> None:
        store = killed / "agent.store.sqlite"
        store.write_bytes(b"no store" * 1000)
        restore(read(killed), backup, replace=True)
        assert held(store) == ["before"]

    @pytest.mark.parametrize("spoil", ["a bit", "a file too few", "a file too many", "no sums"])
    def test_a_back_up_that_is_not_as_it_was_written_changes_nothing(
        self, backup: Path, killed: Path, tmp_path: Path, spoil: str
    ) -> None:
        damaged = tmp_path / "damaged"
        shutil.copytree(backup, damaged)
        if spoil == "a bit":
            content = bytearray((damaged / "store.sqlite").read_bytes())
            content[len(content) // 2] ^= 1
            (damaged / "store.sqlite").write_bytes(content)
        elif spoil == "a file too few":
            (damaged / "models.tar.gz").unlink()
        elif spoil == "a file too many":
            (damaged / "store.dump").touch()
        else:
            (damaged / SUMS).unlink()
        with pytest.raises(StoreError, match=r"damaged: is (not whole|no back-up).*; nothing was changed"):
            restore(read(killed), damaged, replace=True)
        assert not (killed / "versions").exists()
        assert held(killed / "agent.store.sqlite") == ["after"]

    def test_one_of_the_other_database_is_refused(
        self, backup: Path, killed: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WHAT_NEXT_STORE", "postgresql://nobody@127.0.0.1:1/none")
        with pytest.raises(StoreError, match=r"holds no store\.dump, but the setup's store is in PostgreSQL"):
            restore(read(killed), backup)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only an administrator gives files away")
    def test_what_an_administrator_restores_belongs_to_whom_the_folder_belongs(
        self, backup: Path, tmp_path: Path
    ) -> None:
        shutil.copy(backup / "setup.txt", tmp_path)
        os.chown(tmp_path, NOBODY, NOBODY)
        restore(read(tmp_path), backup)
        written = [path for path in tmp_path.rglob("*") if path.name != "setup.txt"]
        assert {"agent.store.sqlite", "versions", "agent.safetensors"} <= {path.name for path in written}
        assert {(path.stat().st_uid, path.stat().st_gid) for path in written} == {(NOBODY, NOBODY)}


class TestBackUp:
    def test_a_store_that_is_not_there_or_damaged_is_told_and_nothing_is_left(
        self, backup: Path, tmp_path: Path
    ) -> None:
        shutil.copy(backup / "setup.txt", tmp_path)
        with pytest.raises(StoreError, match=r"agent\.store\.sqlite: there is no store; serve first"):
            back_up(tmp_path / "setup.txt", read(tmp_path), tmp_path / "backups")
        filled(tmp_path / "agent.store.sqlite", *(f"many{number}" for number in range(2000)))
        file = tmp_path / "agent.store.sqlite"
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2] + bytes(len(content) // 2))
        with pytest.raises(StoreError, match=r"agent\.store\.sqlite: (is damaged|cannot be backed up)"):
            back_up(tmp_path / "setup.txt", read(tmp_path), tmp_path / "backups")
        assert list((tmp_path / "backups").iterdir()) == []

    def test_a_folder_that_cannot_be_is_told(self, backup: Path, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(SaveError, match=r"file/.*: cannot be written \(.*\); nothing is left of it"):
            back_up(backup / "setup.txt", read(backup), tmp_path / "file")


def test_a_store_in_postgresql_is_backed_up_and_restored(
    postgres_server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served(tmp_path, import_data=False)
    urls = []
    for name in ("ship_from", "ship_to"):
        postgres_server.sql(f"CREATE DATABASE {name}")
        urls.append(postgres_server.url(name))
    monkeypatch.setenv("PG_BIN", str(postgres_server.programs))
    filled(urls[0], "kept")
    monkeypatch.setenv("WHAT_NEXT_STORE", urls[0])
    backup = back_up(tmp_path / "setup.txt", read(tmp_path), tmp_path / "backups")
    filled(urls[1], "other")
    monkeypatch.setenv("WHAT_NEXT_STORE", urls[1])
    with pytest.raises(StoreError, match="holds a store already; nothing was changed; give --replace"):
        restore(read(tmp_path), backup)
    running = Store.open(urls[1])
    running.events_of("u1")
    with pytest.raises(StoreError, match="nothing was changed; stop the service first"):
        restore(read(tmp_path), backup, replace=True)
    running.close()
    assert held(urls[1]) == ["other"]
    restore(read(tmp_path), backup, replace=True)
    assert held(urls[1]) == ["kept"]
    monkeypatch.setenv("PG_BIN", str(tmp_path))
    with pytest.raises(StoreError, match=r"pg_dump: cannot be run .* name their folder by PG_BIN"):
        back_up(tmp_path / "setup.txt", read(tmp_path), tmp_path / "backups")
