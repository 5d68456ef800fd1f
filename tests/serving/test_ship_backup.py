"""Back-ups: taken while the service runs, restored whole or not at all, and never in the place of what is in use."""

import contextlib
import gzip
import io
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from errno import ENOSPC
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from what_next.errors import ModelError, SaveError, StoreError
from what_next.settings import Setup

from .models import served
from .postgres import NOBODY, Postgres
from .processes import Forks, ask

pytest.importorskip("uvicorn", reason="the extra serve is not installed")

from what_next.cli.app import main
from what_next.cli.service import restore as command
from what_next.data.files import ASIDE, sha256
from what_next.serving import backup as backup_module
from what_next.serving.backup import SUMS, back_up, check, restore
from what_next.serving.engine.versions import _digest, keep, prune, versions_folder
from what_next.serving.store import AddEvents, AddItems, Deploy, EventRow, NewItem, Store, WithdrawItem


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


@pytest.mark.medium
def test_a_service_is_backed_up_under_load_and_restored_as_it_was_at_one_moment(
    services: Forks, tmp_path: Path
) -> None:
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

    port = services.start(source / "setup.txt")
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
    services.end(signal.SIGTERM)

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
    port = services.start(target / "setup.txt")
    assert ask(port, "POST", "/v1/events", event(0))[1]["duplicates"] == 1
    assert ask(port, "GET", "/v1/model")[1]["version"] == version
    services.end(signal.SIGTERM)


@pytest.fixture(scope="module")
def backup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A back-up of a store with one event."""
    folder = tmp_path_factory.mktemp("source")
    served(folder, import_data=False)
    filled(folder / "agent.store.sqlite", "before")
    return back_up(folder / "setup.txt", read(folder), folder / "backups")


def test_two_back_ups_of_one_second_are_both_there(backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([backup.name, backup.name, "20200102T030405Z"])
    monkeypatch.setattr("what_next.serving.backup._now", lambda: next(times))
    source = backup.parents[1]
    assert back_up(source / "setup.txt", read(source), backup.parent) == backup.with_name("20200102T030405Z")
    for one in (backup, backup.with_name("20200102T030405Z")):
        check(one)


def test_models_that_are_links_are_restored_as_files(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for folder in (source, target):
        folder.mkdir()
    served(source, import_data=False)
    filled(source / "agent.store.sqlite", "before")
    version = keep(versions_folder(read(source)), source / "agent.safetensors")
    place = source / "versions" / version / "agent.safetensors"
    (source / "agent.safetensors").rename(source / "agent-of-may.safetensors")
    (source / "agent.safetensors").symlink_to("agent-of-may.safetensors")
    place.unlink()
    place.hardlink_to(source / "agent-of-may.safetensors")
    kept = back_up(source / "setup.txt", read(source), tmp_path / "backups")
    shutil.copy(kept / "setup.txt", target)
    restore(read(target), kept)
    content = (source / "agent-of-may.safetensors").read_bytes()
    for path in (target / "agent.safetensors", target / "versions" / version / "agent.safetensors"):
        assert path.read_bytes() == content
        assert not path.is_symlink()


def empty_version(folder: Path, size: int) -> str:
    """A version whose files are zeros, named as it must be."""
    (place := folder / "being-made").mkdir(parents=True)
    for name in ("agent.safetensors", "agent.catalogue.parquet"):
        with (place / name).open("wb") as file:
            file.truncate(size)
    files = {name: place / name for name in ("agent.safetensors", "agent.catalogue.parquet")}
    name = f"zeros-1-{_digest(files)[:8]}"
    place.rename(folder / name)
    return name


@pytest.mark.medium
def test_models_that_are_mostly_zeros_are_restored(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for folder in (source, target):
        folder.mkdir()
    served(source, import_data=False)
    filled(source / "agent.store.sqlite", "before")
    version = empty_version(source / "versions", 2**26)
    kept = back_up(source / "setup.txt", read(source), tmp_path / "backups")
    shutil.copy(kept / "setup.txt", target)
    restore(read(target), kept)
    assert (target / "versions" / version / "agent.safetensors").stat().st_size == 2**26


def test_a_back_up_that_could_not_be_restored_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served(tmp_path, import_data=False)
    filled(tmp_path / "agent.store.sqlite", "before")
    monkeypatch.setattr(backup_module, "MOST", 2)
    with pytest.raises(StoreError, match=r"versions: holds more than .* 2 files, so it could not be restored; no back"):
        back_up(tmp_path / "setup.txt", read(tmp_path), tmp_path / "backups")
    assert not [*(tmp_path / "backups").iterdir()]


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_back_up_holds_the_version_that_its_store_names_though_old_ones_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    served(tmp_path, import_data=False)
    setup, store = read(tmp_path), Store.open(tmp_path / "agent.store.sqlite")
    versions = versions_folder(setup)
    first = keep(versions, setup.model_agent_path)
    second = f"other-1-{first.rpartition('-')[2]}"
    shutil.copytree(versions / first, versions / second)
    store.commit([Deploy(first, "first", {})])
    whole, done = backup_module.pack if when == "before" else backup_module.intact, list[str]()

    def promoted(*words: Any) -> Any:
        """Another version is deployed, and the first one removed, once the store is kept."""
        if not done:
            done.append(second)
            store.commit([Deploy(second, "promoted", {})])
            assert prune(versions, [first, second], [second]) == 1
        return whole(*words)

    monkeypatch.setattr(backup_module, "pack" if when == "before" else "intact", promoted)
    kept = back_up(tmp_path / "setup.txt", setup, tmp_path / "backups")
    store.close()
    with tarfile.open(kept / "models.tar.gz") as models:
        names = {name.split("/")[1] for name in models.getnames() if name.startswith("versions/")}
    with contextlib.closing(Store.open(kept / "store.sqlite")) as found:
        answers = found.deployments()[-1].version
    assert (names, answers) == ({second}, second)


def test_a_version_that_is_removed_is_there_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served(tmp_path, import_data=False)
    version = keep(tmp_path / "versions", tmp_path / "agent.safetensors")
    monkeypatch.setattr(shutil, "rmtree", lambda place, **_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):  # killed in the midst of it
        prune(tmp_path / "versions", [version], [])
    assert [one.name.endswith(ASIDE) for one in (tmp_path / "versions").iterdir()] == [True]


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


def summed(folder: Path) -> None:
    """Checksums that fit, as anybody can make them."""
    files = [path for path in sorted(folder.iterdir()) if path.name != SUMS and path.is_file()]
    (folder / SUMS).write_text("".join(f"{sha256(path)}  {path.name}\n" for path in files))


def archive(folder: Path, files: dict[str, bytes], odd: tarfile.TarInfo | None = None) -> None:
    """Models as somebody else may have packed them."""
    with tarfile.open(folder / "models.tar.gz", "w:gz") as packed:
        for name, content in files.items():
            one = tarfile.TarInfo(name)
            one.size = len(content)
            packed.addfile(one, io.BytesIO(content))
        if odd is not None:
            packed.addfile(odd)


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    one = tarfile.TarInfo(name)
    one.type, one.linkname, one.size = kind, link, size
    return one


def packed(one: tarfile.TarInfo) -> Callable[[Path], None]:
    return lambda folder: archive(folder, {"agent/fine.safetensors": b"fine"}, one)


def large_header(folder: Path) -> None:
    """A header of the format of 2001 that says it is 8 GB long, and zeros."""
    with gzip.open(folder / "models.tar.gz", "wb") as file:
        file.write(member("x", tarfile.XHDTYPE, size=2**33 - 1).tobuf(tarfile.GNU_FORMAT))
        file.write(bytes(2**20))


def truncated(folder: Path) -> None:
    archive(folder, {"agent/fine.safetensors": os.urandom(100_000)})
    content = (folder / "models.tar.gz").read_bytes()
    (folder / "models.tar.gz").write_bytes(content[: len(content) // 2])


def nested(folder: Path) -> None:
    """Headers that each stand for the next one."""
    with gzip.open(folder / "models.tar.gz", "wb") as file:
        file.write(member("x", tarfile.GNUTYPE_LONGNAME, size=0).tobuf(tarfile.GNU_FORMAT) * 100_000)


def text(name: str, content: bytes = b"neither store nor archive " * 100) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def fifo(folder: Path) -> None:
    (folder / "models.tar.gz").unlink()
    os.mkfifo(folder / "models.tar.gz")


def endless(folder: Path) -> None:
    (folder / "models.tar.gz").unlink()
    (folder / "models.tar.gz").symlink_to("/dev/zero")


def of_others(folder: Path) -> None:
    (folder / "store.sqlite").unlink()
    with contextlib.closing(sqlite3.connect(folder / "store.sqlite")) as other:
        other.execute("CREATE TABLE mine (x)")
        other.commit()


def newer(folder: Path) -> None:
    with contextlib.closing(sqlite3.connect(folder / "store.sqlite")) as store:
        store.execute("UPDATE alembic_version SET version_num = '9999'")
        store.commit()


HOSTILE: dict[str, Callable[[Path], None]] = {
    "out of the folder": packed(member("agent/../../evil")),
    "by its root": packed(member("/tmp/evil")),
    "a hidden file": packed(member("agent/.evil")),
    "a link": packed(member("agent/evil", tarfile.SYMTYPE, "/etc/passwd")),
    "a hard link": packed(member("agent/evil", tarfile.LNKTYPE, "agent/fine.safetensors")),
    "a device": packed(member("agent/evil", tarfile.CHRTYPE)),
    "a deep folder": packed(member("versions/" + "a/" * 5000, tarfile.DIRTYPE)),
    "a file that no version has": packed(member("versions/v/run.sh")),
    "a bomb": lambda folder: archive(folder, {"agent/bomb": bytes(2**26)}),
    "a size that is not there": packed(member("agent/huge", size=2**40)),
    "many files": lambda folder: archive(folder, {f"versions/v{n}/agent.safetensors": b"" for n in range(10_001)}),
    "a header of 8 GB": large_header,
    "headers in headers": nested,
    "half of it": truncated,
    "no archive": text("models.tar.gz"),
    "an archive of nothing": text("models.tar.gz", gzip.compress(b"\xff" * 5000)),
    "a folder": lambda folder: (folder / "more").mkdir(),
    "a pipe": fifo,
    "an endless file": endless,
    "no models": lambda folder: (folder / "models.tar.gz").unlink(),
    "no store": text("store.sqlite"),
    "a store of others": of_others,
    "a newer store": newer,
}


@pytest.fixture
def deployed(tmp_path: Path) -> Path:
    """The folder of a service with a deployed version."""
    folder = tmp_path / "deployed"
    folder.mkdir()
    setup = served(folder, import_data=False)
    filled(folder / "agent.store.sqlite", "before")
    keep(versions_folder(setup), setup.model_agent_path)
    return folder


class TestRestore:
    def test_a_store_in_the_way_is_kept_unless_it_is_to_be_replaced(
        self, backup: Path, killed: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        store = killed / "agent.store.sqlite"
        with pytest.raises(StoreError, match="is there already; nothing was changed; give --replace"):
            restore(read(killed), backup)
        with pytest.raises(StoreError, match=f"give one of them, such as .*{backup.name}$"):
            restore(read(killed), backup.parent)
        command(killed / "setup.txt", backup, replace=True)
        told = capsys.readouterr().out
        (aside,) = killed.glob("*.before-*")
        assert f"the store that was there lies in {aside}" in told
        assert "erase them again" in told
        assert held(store) == ["before"], "the log of the other store is not played into this one"
        assert store.stat().st_mode & 0o077 == 0
        assert held(aside) == ["after"], "what was replaced is not thrown away"

    def test_a_store_stays_in_its_place_until_the_other_one_takes_it(
        self, backup: Path, killed: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = killed / "agent.store.sqlite"

        def broken_off(move: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
            def moved(path: Path, to: Path) -> Path:
                if Path(to) == store:
                    raise KeyboardInterrupt
                return move(path, to)

            return moved

        with monkeypatch.context() as patched:
            for name in ("rename", "replace"):
                patched.setattr(Path, name, broken_off(getattr(Path, name)))
            with pytest.raises(KeyboardInterrupt):
                restore(read(killed), backup, replace=True)
        assert held(store) == ["after"], "who is killed here has a store still"
        restore(read(killed), backup, replace=True)
        assert held(store) == ["before"]

    def test_a_disk_without_links_takes_a_back_up_too(
        self, backup: Path, killed: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Path, "hardlink_to", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no links")))
        aside = restore(read(killed), backup, replace=True)
        assert aside is not None
        assert (held(killed / "agent.store.sqlite"), held(aside)) == (["before"], ["after"])

    @pytest.mark.parametrize(
        ("copies", "place"), [("os.sendfile", "agent.store.sqlite"), ("tarfile.copyfileobj", "versions")]
    )
    def test_a_full_disk_is_told_by_what_was_written_there(
        self, deployed: Path, killed: Path, monkeypatch: pytest.MonkeyPatch, copies: str, place: str
    ) -> None:
        kept = back_up(deployed / "setup.txt", read(deployed), deployed / "backups")

        def full(*_: Any, **__: Any) -> int:
            raise OSError(ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(copies, full)
            with pytest.raises(SaveError) as refused:
                restore(read(killed), kept, replace=True)
        assert str(refused.value) == f"{killed / place}: No space left on device; the store is as it was"
        assert held(killed / "agent.store.sqlite") == ["after"]

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

    @pytest.mark.parametrize("hostile", HOSTILE)
    def test_a_hostile_archive_is_one_message_and_changes_nothing(
        self, backup: Path, killed: Path, tmp_path: Path, hostile: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("what_next.serving.backup.SMALL", 2**20)
        odd = tmp_path / "odd"
        shutil.copytree(backup, odd)
        HOSTILE[hostile](odd)
        summed(odd)
        before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(odd)}
        start = time.monotonic()
        with pytest.raises(StoreError, match=r"odd.*; nothing was changed; take another back-up$") as refused:
            restore(read(killed), odd, replace=True)
        assert len(str(refused.value)) < 700
        assert ("upgrade What Next?" in str(refused.value)) == (hostile == "a newer store")
        assert time.monotonic() - start < 10
        new = {path for path in tmp_path.rglob("*") if not path.is_relative_to(odd)} - before
        assert new <= {killed / "versions"}
        assert not any((killed / "versions").glob("*"))
        assert held(killed / "agent.store.sqlite") == ["after"]

    def test_a_version_that_is_damaged_in_a_back_up_is_left_out_and_all_else_restored(
        self, deployed: Path, tmp_path: Path
    ) -> None:
        odd = tmp_path / "odd"
        shutil.copytree(back_up(deployed / "setup.txt", read(deployed), tmp_path), odd)
        (version,) = (deployed / "versions").iterdir()
        archive(odd, {f"versions/{version.name}/agent.safetensors": b"another"})
        summed(odd)
        target = tmp_path / "target"
        target.mkdir()
        shutil.copy(deployed / "setup.txt", target)
        with pytest.raises(
            ModelError, match=f"is restored, but .*{version.name} .* is damaged; deploy its model again"
        ):
            restore(read(target), odd)
        assert held(target / "agent.store.sqlite") == ["before"]
        assert list((target / "versions").iterdir()) == []

    def test_one_of_the_other_database_is_refused(
        self, backup: Path, killed: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WHAT_NEXT_STORE", "postgresql://nobody@127.0.0.1:1/none")
        with pytest.raises(
            StoreError, match=r"holds no store\.dump, but the setup's store is in PostgreSQL; .*server\.store"
        ):
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
        for damaged in (content[: len(content) // 2] + bytes(len(content) // 2), b"a text, no database; " * 500):
            file.write_bytes(damaged)
            with pytest.raises(
                StoreError, match=r"agent\.store\.sqlite: is damaged \(.*\); restore an earlier back-up"
            ):
                back_up(tmp_path / "setup.txt", read(tmp_path), tmp_path / "backups")
        assert list((tmp_path / "backups").iterdir()) == []

    def test_a_deployed_model_that_was_damaged_is_told_and_all_else_is_backed_up(
        self, deployed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (version,) = (deployed / "versions").iterdir()
        sound = deployed / "versions" / "sound-1-00000000"
        shutil.copytree(version, sound)
        content = bytearray((version / "agent.safetensors").read_bytes())
        content[-1] ^= 1
        (version / "agent.safetensors").write_bytes(content)
        digest = _digest({path.name: path for path in sound.iterdir() if path.suffix != ".md"})[:8]
        sound.rename(sound.with_name(f"sound-1-{digest}"))
        words = ["what-next", "backup", str(deployed / "setup.txt"), str(tmp_path / "backups")]
        monkeypatch.setattr(sys, "argv", words)
        assert main() == 2
        told = capsys.readouterr().err
        assert f"{version}: is damaged" in told.replace("\n", "")
        assert "was written, but lacks" in told.replace("\n", " ")
        (made,) = (tmp_path / "backups").iterdir()
        with tarfile.open(made / "models.tar.gz") as models:
            names = {name.split("/")[1] for name in models.getnames() if name.startswith("versions/")}
        assert names == {f"sound-1-{digest}"}
        target = tmp_path / "target"
        target.mkdir()
        shutil.copy(made / "setup.txt", target)
        restore(read(target), made)
        assert held(target / "agent.store.sqlite") == ["before"]
        assert {path.name for path in (target / "versions").iterdir()} == names

    def test_a_folder_that_cannot_be_is_told(self, backup: Path, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(SaveError, match=r"file/.*: cannot be written \(.*\); nothing is left of it"):
            back_up(backup / "setup.txt", read(backup), tmp_path / "file")


@pytest.fixture
def database(postgres_server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Makes a new database and names it as the place of the store, in `tmp_path`."""
    served(tmp_path, import_data=False)
    monkeypatch.setenv("PG_BIN", str(postgres_server.programs))

    def make() -> str:
        name = f"ship_{uuid4().hex}"
        postgres_server.sql(f"CREATE DATABASE {name}")
        monkeypatch.setenv("WHAT_NEXT_STORE", postgres_server.url(name))
        return name

    return make


def backed_up(folder: Path) -> Path:
    made = back_up(folder / "setup.txt", read(folder), folder / "backups")
    return made.rename(made.with_name(uuid4().hex))  # two may be made in one second


class TestPostgreSQL:
    def test_a_store_is_backed_up_and_restored(
        self,
        postgres_server: Postgres,
        database: Callable[[], str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        filled(url := postgres_server.url(database()), "kept")
        with contextlib.closing(Store.open(url)) as store:
            store.commit([AddItems((NewItem("new", "New", {}, {"artist": ["Queen"]}),))])
        backup = backed_up(tmp_path)
        url = postgres_server.url(database())
        filled(url, "other")
        with pytest.raises(StoreError, match="holds a store already; nothing was changed; give --replace"):
            restore(read(tmp_path), backup)
        running = Store.open(url)
        running.events_of("u1")
        with pytest.raises(StoreError, match="nothing was changed; stop the service first"):
            restore(read(tmp_path), backup, replace=True)
        running.close()
        assert held(url) == ["other"]
        restore(read(tmp_path), backup, replace=True)
        assert held(url) == ["kept"]
        with contextlib.closing(Store.open(url)) as store:
            assert [item.tags for item in store.items_after(0)] == [{"artist": ["Queen"]}]
        monkeypatch.setenv("PG_BIN", str(tmp_path))
        with pytest.raises(StoreError, match=r"pg_dump: cannot be run .* name their folder by PG_BIN"):
            backed_up(tmp_path)

    def test_tables_of_other_programs_are_neither_kept_nor_replaced(
        self, postgres_server: Postgres, database: Callable[[], str], tmp_path: Path
    ) -> None:
        name = database()
        filled(postgres_server.url(name), "kept")
        postgres_server.sql("CREATE TABLE orders (id int)", name)
        backup = backed_up(tmp_path)
        postgres_server.sql("INSERT INTO orders VALUES (1)", name)
        restore(read(tmp_path), backup, replace=True)
        assert postgres_server.sql("SELECT id FROM orders", name).split() == ["1"]
        postgres_server.sql(
            "CREATE TABLE events (id int, what text); CREATE TABLE items (sku text)", name := database()
        )
        for replace in (False, True):
            with pytest.raises(StoreError, match=r"tables of another program \(events, items\); nothing was changed"):
                restore(read(tmp_path), backup, replace)
        with pytest.raises(StoreError, match="tables of another program"):
            backed_up(tmp_path)
        assert postgres_server.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", name).split() == ["2"]

    @pytest.mark.medium
    def test_what_is_no_store_is_neither_backed_up_nor_restored(
        self, postgres_server: Postgres, database: Callable[[], str], tmp_path: Path
    ) -> None:
        name = database()
        with pytest.raises(StoreError, match="no such store; serve first"):
            backed_up(tmp_path)
        assert list((tmp_path / "backups").iterdir()) == []
        filled(postgres_server.url(name), "there")
        others, newer = database(), database()
        postgres_server.sql("CREATE TABLE mine (x int)", others)
        filled(postgres_server.url(newer), "newer")
        postgres_server.sql("UPDATE alembic_version SET version_num = '0009'", newer)
        with pytest.raises(StoreError, match="version 0009, newer than"):
            backed_up(tmp_path)
        url = postgres_server.url(database())
        filled(url, "there")
        odd = backed_up(tmp_path)
        dump = [str(postgres_server.programs / "pg_dump"), "--format=custom", f"--file={odd / 'store.dump'}"]
        for source, reason in ((others, "is no store"), (newer, "is of version 0009, and .* is the newest known")):
            subprocess.run([*dump, f"--dbname={postgres_server.url(source)}"], check=True)
            summed(odd)
            with pytest.raises(StoreError, match=f"{reason}.*; nothing was changed; take another back-up$"):
                restore(read(tmp_path), odd, replace=True)
        text("store.dump")(odd)
        summed(odd)
        with pytest.raises(StoreError, match=r"pg_restore: .*; nothing was changed; take another back-up$"):
            restore(read(tmp_path), odd, replace=True)
        assert held(url) == ["there"]

    @pytest.mark.medium
    def test_an_older_back_up_leaves_nothing_of_what_later_versions_keep(
        self, postgres_server: Postgres, database: Callable[[], str], tmp_path: Path
    ) -> None:
        url = postgres_server.url(name := database())
        filled(url, "kept")
        postgres_server.sql("DROP TABLE withdrawals; UPDATE alembic_version SET version_num = '0001'", name)
        backup = backed_up(tmp_path)
        store = Store.open(url)
        assert store.put(WithdrawItem("i1"))
        store.close()
        restore(read(tmp_path), backup, replace=True)
        assert (
            postgres_server.sql("SELECT version_num, to_regclass('withdrawals') FROM alembic_version", name)
            == "0001|\n"
        )
        assert held(url) == ["kept"]

    def test_a_failure_says_what_became_of_what_was_asked_for(
        self, postgres_server: Postgres, database: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = postgres_server.url(name := database())
        filled(url, "there")
        backup = backed_up(tmp_path)
        postgres_server.sql("CREATE VIEW seen AS SELECT * FROM impressions", name)
        with pytest.raises(StoreError, match=r"pg_restore: .* depend.*; the database is as it was$"):
            restore(read(tmp_path), backup, replace=True)
        assert held(url) == ["there"]
        (tmp_path / "pg_dump").write_text("#!/bin/sh\necho 'pg_dump: error: no room' >&2; exit 1\n")
        (tmp_path / "pg_dump").chmod(0o755)
        monkeypatch.setenv("PG_BIN", str(tmp_path))
        with pytest.raises(StoreError, match=r"^pg_dump: error: no room; no back-up was made$"):
            backed_up(tmp_path)
