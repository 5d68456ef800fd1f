"""The bytes of whoever was erased go from the files of a store in SQLite."""

import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import select

from what_next.data.decisions.rule import Rule
from what_next.errors import StoreUnavailable
from what_next.serving.store import (
    AddEvents,
    AddImpression,
    Erased,
    EraseUser,
    EventRow,
    EventsAdded,
    Store,
    Writer,
    backend,
    scrubbing,
    tables,
)

from .waiting import rows, until

PERSON = "person-4711"


def events(start: int, count: int = 1, user: str = PERSON) -> AddEvents:
    return AddEvents(tuple(EventRow(f"e{number}", user, "i1") for number in range(start, start + count)))


def found(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if PERSON.encode() in path.read_bytes()]


def marks(store: Store) -> list[str]:
    return [value for (value,) in rows(store, "SELECT value FROM meta WHERE name = 'erased'")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "store"
    made.mkdir()
    return made


@pytest.fixture
def lite(folder: Path) -> Iterator[Store]:
    opened = Store.open(folder / "store.sqlite")
    yield opened
    opened.close()


def test_after_an_erasure_the_id_is_in_no_file_of_the_store(folder: Path, lite: Store) -> None:
    # Pages that split while others write are where old bytes might stay.
    for start in range(0, 6000, 300):
        rows = [
            EventRow(f"{(start + n) * 7919 % 6007}-{n % 9}", f"user-{(start + n) * 31 % 211}", "i") for n in range(300)
        ]
        own = [EventRow(f"{start * 17 % 6007}-{PERSON}-{n}", PERSON, f"i-{n}", context={PERSON: 1.0}) for n in range(9)]
        lite.commit([AddEvents((*rows, *own)), AddImpression(f"r{start}", PERSON, 5, "v1", "trained", ("i1",), (1.0,))])
    assert found(folder)
    lite.commit([EraseUser(PERSON)])
    assert len(marks(lite)) == 1
    assert lite.scrubber.scrub()
    assert found(folder) == []
    assert marks(lite) == []
    assert lite.scrubber.scrub()


def test_lists_that_only_erased_answers_permitted_are_erased_with_them(folder: Path, lite: Store) -> None:
    rules = [Rule((name,), (), {}) for name in (f"{PERSON}-own", "shared", "of-others")]
    for number, (user, rule) in enumerate(
        [(PERSON, rules[0]), (PERSON, rules[1]), ("other", rules[1]), ("other", rules[2])]
    ):
        lite.commit([AddImpression(f"r{number}", user, 5, "v1", "trained", ("i1",), (1.0,), rule=rule)])
    lite.commit([EraseUser(PERSON)])
    assert lite.scrubber.scrub()
    assert {text for (text,) in lite.fetch(select(tables.rules.c.text))} == {rule.text for rule in rules[1:]}
    assert found(folder) == []


def test_an_erasure_that_was_not_ended_is_ended_by_the_next_process(folder: Path, lite: Store) -> None:
    lite.commit([events(0)])
    lite.commit([EraseUser(PERSON)])
    later = Store.open(folder / "store.sqlite")
    assert later.scrubber.scrub()
    assert found(folder) == []
    assert marks(lite) == []
    later.close()


def test_bytes_that_a_long_read_kept_go_after_it(folder: Path, lite: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrubbing, "READERS", 10)
    lite.commit([events(0)])
    reader = sqlite3.connect(folder / "store.sqlite", isolation_level=None)
    reader.execute("BEGIN")
    assert len(reader.execute("SELECT * FROM users").fetchall()) == 1
    lite.commit([EraseUser(PERSON)])
    assert not lite.scrubber.scrub()
    assert len(marks(lite)) == 1
    reader.close()
    assert lite.scrubber.scrub(every=3600.0)  # the file is built anew already, only the log was left
    assert found(folder) == []


def test_the_file_is_built_anew_once_an_interval_and_the_mark_waits_for_it(folder: Path) -> None:
    clock = [10**15]
    store = Store.open(folder / "store.sqlite", clock=lambda: clock[0])
    store.commit([events(0), events(1, user="bert"), EraseUser("bert")])
    assert store.scrubber.scrub(every=60.0)
    store.commit([EraseUser(PERSON)])
    clock[0] += 59_000_000
    assert not store.scrubber.scrub(every=60.0)
    assert len(marks(store)) == 1
    clock[0] += 1_000_000
    assert store.scrubber.scrub(every=60.0)
    assert found(folder) == []
    store.commit([events(2), EraseUser(PERSON)])
    clock[0] = 10**14  # jumped back
    assert store.scrubber.scrub(every=60.0)
    store.close()


def test_who_is_erased_while_the_file_is_built_anew_leaves_a_mark(lite: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    lite.commit([events(0), events(1, user="bert"), EraseUser("bert")])
    put_note = scrubbing.put_note

    def noted(*told: Any) -> None:
        put_note(*told)
        if told[1] == scrubbing.SCRUBBED:  # the file is built, the log is not yet emptied
            lite.commit([EraseUser(PERSON)])

    monkeypatch.setattr(scrubbing, "put_note", noted)
    assert not lite.scrubber.scrub()
    assert len(marks(lite)) == 1


def test_nobody_erased_leaves_no_mark(lite: Store) -> None:
    lite.commit([events(0)])
    lite.commit([EraseUser("nobody")])
    assert marks(lite) == []


def test_an_erasure_stands_though_the_files_cannot_be_put_in_order_now(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "BUSY", 0.05)
    store = Store.open(folder / "store.sqlite")
    store.commit([events(0)])
    assert store.commit([EraseUser(PERSON)]) == [Erased(1, 0, 0)]
    other = sqlite3.connect(folder / "store.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"):
        store.scrubber.scrub()
    other.close()
    assert store.heads([PERSON]) == {}
    assert len(marks(store)) == 1
    assert store.scrubber.scrub()
    store.close()


def test_a_writer_scrubs_by_itself_some_time(folder: Path, lite: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrubbing, "LOOK", 0.01)
    writer = Writer(lite)
    assert writer.submit(events(0)).result(10) == EventsAdded(1, 0)
    assert writer.submit(EraseUser(PERSON)).result(10) == Erased(1, 0, 0)
    until(lambda: not marks(lite))
    writer.close()
    assert found(folder) == []


@pytest.mark.medium
def test_a_store_that_finds_no_room_is_not_built_anew_and_is_tried_seldom(
    folder: Path, lite: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(scrubbing, "LOOK", 0.01)
    monkeypatch.setattr(scrubbing, "AGAIN", 0.2)
    looks, written, free = list[float](), list[str](), [0]

    def usage(place: Path) -> Any:
        looks.append(time.monotonic())
        return SimpleNamespace(free=free[0])

    monkeypatch.setattr("shutil.disk_usage", usage)
    lite.commit([events(0), EraseUser(PERSON)])
    monkeypatch.setattr(scrubbing, "put_note", lambda *told: written.append(told[1]))
    writer = Writer(lite)
    time.sleep(1.5)
    assert len(looks) <= 4  # at once, after 0.2 s, 0.6 s, 1.4 s
    assert len(looks) >= 2
    assert looks[-1] - looks[-2] >= 0.2
    assert written == []
    assert caplog.text.count("are still in the files") == 1
    assert "takes" in caplog.text
    free[0] = 2**40
    until(lambda: not marks(lite))
    writer.close()
    assert found(folder) == []


@pytest.mark.medium
def test_a_failed_clean_up_of_a_disk_that_is_really_full_writes_little(tmp_path: Path) -> None:
    (disk := tmp_path / "disk").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        store = Store.open(disk / "store.sqlite")
        for start in range(0, 30_000, 5_000):
            store.commit([events(start, 5_000, f"user-{start}")])
        store.commit([events(10**6), EraseUser(PERSON)])
        rows(store, "PRAGMA wal_checkpoint(TRUNCATE)")
        free = shutil.disk_usage(disk).free
        (disk / "ballast").write_bytes(bytes(free - 2**20))  # half of what the new file takes is left
        before = Path("/proc/self/io").read_text()
        writer = Writer(store)
        time.sleep(2.5)  # a first attempt, and no second one
        after = Path("/proc/self/io").read_text()
        writer.close()
        assert len(marks(store)) == 1
        wrote = [int(told.split("wchar: ")[1].split()[0]) for told in (before, after)]
        assert wrote[1] - wrote[0] < 2**20
        (disk / "ballast").unlink()
        assert store.scrubber.scrub()
        store.close()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_whoever_closes_does_not_wait_until_the_file_is_built_anew(lite: Store) -> None:
    lite.commit([events(0)])
    lite.commit([EraseUser(PERSON)])
    endless = "WITH RECURSIVE more(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM more) SELECT count(*) FROM more"
    with lite.backend.engine.begin() as link, ThreadPoolExecutor(1) as pool:
        lite.scrubber._running = link.connection.driver_connection
        running = pool.submit(link.exec_driver_sql, endless)
        until(lambda: lite.scrubber.interrupt() or running.done())
        assert "interrupted" in str(running.exception())
    assert len(marks(lite)) == 1
