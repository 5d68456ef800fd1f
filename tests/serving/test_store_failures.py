"""What the store does when the disk is full, the database away or locked, or the file is another's."""

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import event as listen
from sqlalchemy import inspect
from sqlalchemy.exc import DBAPIError

from what_next.errors import StoreError, StoreUnavailable
from what_next.serving.store import (
    AddEvents,
    AddItems,
    CountDeliveries,
    EventRow,
    EventsAdded,
    NewItem,
    Store,
    StoredItem,
    WithdrawItem,
    Writer,
    backend,
    tables,
)

from .postgres import Postgres
from .waiting import impressions_of, rows

EPISODE = ["writing to the store fails", "writing to the store works again"]


def events(start: int, count: int = 1, user: str = "anna") -> AddEvents:
    return AddEvents(tuple(EventRow(f"e{number}", user, "i1") for number in range(start, start + count)))


def told(caplog: pytest.LogCaptureFixture) -> list[str]:  # up to the reason
    return [one.getMessage().partition(": ")[0] for one in caplog.records if one.name == "what_next.serving"]


def test_a_full_disk_is_told_loses_nothing_and_is_got_over_without_a_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    store = Store.open(tmp_path / "store.sqlite")
    writer = Writer(store)
    limit = [2**30]

    def full(connection: sqlite3.Connection, *others: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {limit[0]}")

    listen.listen(store.backend.engine, "checkout", full)
    assert writer.submit(events(0, 10)).result(10) == EventsAdded(10, 0)
    limit[0] = 1  # SQLite takes it for the size that the file has
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="full"):
            writer.submit(events(10, 1000)).result(10)
    assert store.heads(["anna"])["anna"].events == 10
    limit[0] = 2**30
    assert writer.submit(events(5, 1005)).result(10) == EventsAdded(1000, 5)
    assert [e.number for e in store.events_of("anna")] == list(range(1, 1011))
    writer.close()
    assert (told(caplog), "full" in caplog.text, "anna" in caplog.text) == (EPISODE, True, False)
    store.close()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_was_moved_away_takes_nothing_that_would_be_lost(tmp_path: Path, replaced: bool) -> None:
    path, away = tmp_path / "store.sqlite", tmp_path / "away.sqlite"
    store = Store.open(path)
    writer = Writer(store)
    assert writer.submit(events(0)).result(10) == EventsAdded(1, 0)
    path.rename(away)
    if replaced:
        path.write_bytes(away.read_bytes())
    with pytest.raises(StoreUnavailable, match=r"store\.sqlite: was moved or replaced; put it back"):
        writer.submit(events(1)).result(10)
    away.replace(path)
    assert writer.submit(events(1)).result(10) == EventsAdded(1, 0)
    writer.close()
    store.close()


def test_a_disk_that_is_really_full_is_told_and_got_over(tmp_path: Path) -> None:
    (disk := tmp_path / "disk").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        store = Store.open(disk / "store.sqlite")
        assert store.commit([events(0, 10)]) == [EventsAdded(10, 0)]
        (disk / "ballast").write_bytes(bytes(2**20))
        done = 10

        def fill() -> None:
            nonlocal done
            while done < 30_000:
                store.commit([events(done, 1000)])
                done += 1000

        with pytest.raises(StoreUnavailable):
            fill()
        assert store.heads(["anna"])["anna"].events == done
        (disk / "ballast").unlink()
        assert store.commit([events(done - 5, 10)]) == [EventsAdded(5, 5)]
        store.close()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_database_that_is_locked_for_too_long_is_unavailable_until_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "BUSY", 0.05)
    store = Store.open(tmp_path / "store.sqlite")
    other = sqlite3.connect(tmp_path / "store.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"):
        store.commit([events(0)])
    assert store.heads(["anna"]) == {}  # readers do not wait
    other.execute("COMMIT")
    assert store.commit([events(0)]) == [EventsAdded(1, 0)]
    other.close()
    store.close()


def test_a_server_that_goes_and_comes_back_loses_nothing(
    postgres_server: Postgres, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    store = Store.open(postgres_url.replace("postgres@", "postgres:s3cret@"))
    writer = Writer(store)
    assert writer.submit(events(0, 2)).result(10) == EventsAdded(2, 0)
    assert len(store.events_of("anna")) == 2
    postgres_server.stop()
    try:
        with pytest.raises(StoreUnavailable):
            writer.submit(events(2)).result(10)
        for read in (lambda: store.heads(["anna"]), store.ping, store.deployments, store.event_counts):
            with pytest.raises(StoreUnavailable):
                read()
        with pytest.raises(StoreUnavailable):
            Store.open(postgres_url)
    finally:
        postgres_server.start()
    assert store.heads(["anna"])["anna"].last == 2
    assert writer.submit(events(1, 2)).result(10) == EventsAdded(1, 1)
    writer.close()
    store.close()
    assert (told(caplog), "s3cret" in caplog.text) == (EPISODE, False)


def test_what_a_role_may_no_longer_do_is_told_until_it_may(
    limited: tuple[str, Callable[[str], object]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    (url, sql), denied = limited, "permission denied for table"
    store = Store.open(url)
    writer = Writer(store)
    sql("REVOKE INSERT ON events")
    with pytest.raises(StoreUnavailable, match=rf"{denied} events\); an administrator"):
        writer.submit(events(0)).result(10)
    assert writer.submit(WithdrawItem("i1")).result(10)  # what it may write says nothing of what it may not
    with pytest.raises(StoreUnavailable, match=f"{denied} events"):
        store.try_writing([*writer.failing.values()])
    assert told(caplog) == EPISODE[:1]
    sql("GRANT INSERT ON events")
    store.try_writing([*writer.failing.values()])
    assert store.heads(["anna"]) == {}  # it was tried alone
    assert writer.submit(events(0)).result(10) == EventsAdded(1, 0)
    writer.close()
    assert (told(caplog), f"{denied} events" in caplog.text) == (EPISODE, True)
    sql("REVOKE SELECT ON users")
    with pytest.raises(StoreUnavailable, match=f"{denied} users"):
        store.ping()
    store.close()


@pytest.mark.medium
def test_a_server_that_was_started_anew_between_two_calls_is_not_noticed(
    postgres_server: Postgres, postgres_url: str
) -> None:
    store = Store.open(postgres_url)
    store.commit([events(0)])
    store.heads(["anna"])
    postgres_server.stop()
    postgres_server.start()
    assert store.commit([events(1)]) == [EventsAdded(1, 0)]
    postgres_server.stop()
    postgres_server.start()
    assert store.heads(["anna"])["anna"].events == 2
    postgres_server.stop()
    postgres_server.start()
    assert store.deployments() == []
    store.close()


def test_a_lock_that_is_held_for_too_long_in_the_server_is_told_and_got_over(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "BUSY", 0.1)
    store, other = Store.open(postgres_url), Store.open(postgres_url)
    store.commit([events(0)])
    with other.backend.engine.begin() as link:
        link.exec_driver_sql("SELECT * FROM users FOR UPDATE")
        with pytest.raises(StoreUnavailable, match="lock timeout"):
            store.commit([events(1)])
    with other.backend.engine.begin() as link:
        link.exec_driver_sql("LOCK TABLE items IN EXCLUSIVE MODE")
        with pytest.raises(StoreUnavailable, match="lock timeout"):
            store.commit([AddItems((NewItem("i", "", {}),))])
    assert store.commit([events(1)]) == [EventsAdded(1, 0)]
    store.close()
    other.close()


def test_a_process_that_stands_still_within_a_transaction_does_not_hold_its_locks_for_ever(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = Store.open(postgres_url), Store.open(postgres_url)
    store.commit([events(0)])
    other.close()  # so that its next connection is a new one
    with monkeypatch.context() as patch:
        patch.setattr(backend, "STILL", 0.5)
        still = other.backend.engine.connect()
    with still:
        still.exec_driver_sql("SELECT * FROM users FOR UPDATE")
        assert store.commit([events(1)]) == [EventsAdded(1, 0)]  # as soon as the server has ended the other
        with pytest.raises(DBAPIError, match="idle-in-transaction timeout"):
            still.commit()
    assert other.commit([events(2)]) == [EventsAdded(1, 0)]
    store.close()
    other.close()


def test_a_write_during_which_this_process_stood_still_is_tried_anew(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "STILL", 0.2)
    store, stood = Store.open(postgres_url), list[float]()

    def still(connection: object, statement: str, *others: object) -> None:
        if "INSERT INTO events" in statement and not stood:
            stood.append(time.monotonic())
            time.sleep(0.6)

    listen.listen(store.backend.engine, "before_cursor_execute", lambda connection, cursor, *more: still(cursor, *more))
    assert store.commit([events(0)]) == [EventsAdded(1, 0)]
    assert (len(stood), [one.event_id for one in store.events_of("anna")]) == (1, ["e0"])
    store.close()


def test_to_open_a_store_again_takes_no_lock_from_whoever_has_it_open(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = Store.open(path)
    store.commit([events(0)])
    Store.open(path).close()
    # Whoever closes a store last empties its write-ahead log and deletes it; the locks tell that it is not the last.
    code = f"import sqlite3; c = sqlite3.connect({str(path)!r}); c.execute('SELECT * FROM users').fetchall(); c.close()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert (tmp_path / "store.sqlite-wal").exists()
    store.close()


def test_a_store_of_a_newer_version_is_refused(place: str) -> None:
    store = Store.open(place)
    with store.backend.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    store.close()
    with pytest.raises(StoreError, match=r"version 9999, newer than .* upgrade What Next\?"):
        Store.open(place)


@pytest.mark.medium
def test_a_store_of_the_first_version_is_brought_up_and_keeps_what_it_holds(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store.open(place)
    columns = "recommendation_id, user_id, time, version, policy, explore, known, items, propensities, candidates"
    values = """'r1', 'anna', 5, 'v1', 'trained', '{}', 0, '["i1"]', '[1.0]', '', true"""
    new = schema_of(store)
    with store.backend.engine.begin() as link:  # as it was made then
        for table in ("withdrawals", "idempotency_keys", "erased_users", "erased_events", "rules"):
            link.exec_driver_sql(f"DROP TABLE {table}")
        for column in ("withdrawn", "rule", "deliveries"):
            link.exec_driver_sql(f"ALTER TABLE impressions DROP COLUMN {column}")
        link.exec_driver_sql("ALTER TABLE items DROP COLUMN tags")
        link.exec_driver_sql("INSERT INTO items (number, item_id, title, attributes) VALUES (1, 'old', 'Old', '{}')")
        link.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
        for one in (values, values.replace("r1", "r0").replace("anna", "bert").replace("true", "false")):
            link.exec_driver_sql(f"INSERT INTO impressions ({columns}, shown) VALUES ({one})")
    assert schema_of(store) != new
    store.close()
    assert "migrated" not in caplog.text, "a new store is not told of"
    store = Store.open(place)
    assert "was migrated from 0001 to 0005; earlier versions" in caplog.text
    assert schema_of(store) == new
    assert [(one.recommendation_id, one.items) for one in impressions_of(store, "anna")] == [("r1", ("i1",))]
    assert rows(store, "SELECT withdrawn FROM impressions") == [(0,), (0,)]
    assert store.items_after(0) == [StoredItem("old", "Old", {}, None, 1)]
    for by in (1, -1):  # who asked again hung up again
        store.commit([CountDeliveries(("r0",), by)])
    assert not impressions_of(store, "bert")[0].shown
    assert store.commit([WithdrawItem("i1"), events(0)]) == [True, EventsAdded(1, 0)]
    store.close()


def test_what_later_versions_keep_goes_where_an_older_back_up_was_put_over_it(place: str) -> None:
    store = Store.open(place)
    store.commit([WithdrawItem("i1")])
    with store.backend.engine.begin() as link:  # as pg_restore --clean leaves it: the dump knows no such table
        link.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    store.close()
    store = Store.open(place)
    assert store.withdrawals_after(0) == []
    store.close()


VERSION = "CREATE TABLE alembic_version (version_num text); INSERT INTO alembic_version VALUES "


@pytest.mark.parametrize(
    "others",
    [
        "CREATE TABLE users (id int, email text); CREATE TABLE events (id int); CREATE TABLE orders (id int)",
        f"{VERSION} ('0001'); CREATE TABLE items (sku text); CREATE TABLE keys (id int)",
        f"{VERSION} ('abc123def'); CREATE TABLE users (user_id text); CREATE TABLE meta (name text)",
        "CREATE TABLE orders (id int); CREATE VIEW events AS SELECT id FROM orders",
    ],
)
def test_a_database_of_another_program_is_refused_and_stays_as_it_was(place: str, others: str) -> None:
    store = Store(backend.connect(place))
    with store.backend.engine.begin() as link:
        for statement in others.split(";"):
            link.exec_driver_sql(statement)
    before = schema_of(store)
    with pytest.raises(
        StoreError, match=r"tables of another program \((alembic_version|events).*\); nothing was changed"
    ):
        Store.open(place)
    assert schema_of(store) == before
    if store.backend.sqlite:
        assert rows(store, "PRAGMA journal_mode") == [("delete",)]
    store.close()


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_is_not_kept_in_utf8_is_refused(postgres_server: Postgres, encoding: str) -> None:
    name = encoding.lower()
    postgres_server.sql(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(StoreError, match=f"{name}.*: keeps texts in {encoding}, .*; make .* ENCODING 'UTF8' TEMPLATE"):
        Store.open(postgres_server.url(name))


def test_who_reads_makes_no_store(place: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no such store; serve first"):
        Store.open(place, make=False)
    assert list(tmp_path.iterdir()) == []
    store = Store.open(place)
    schema = schema_of(store)
    assert schema
    Store.open(place, make=False).close()
    with store.backend.engine.begin() as link:
        for table in reversed(tables.metadata.sorted_tables):
            table.drop(link)
    with pytest.raises(StoreError, match=r"no such store; serve first"):
        Store.open(place, make=False)
    assert schema_of(store) == {}
    store.close()


def schema_of(store: Store) -> dict[str, list[tuple[str, ...]]]:
    """The columns and indices of each table."""
    found = inspect(store.backend.engine)
    columns = {
        name: [(one["name"], str(one["type"]), str(one["nullable"]), str(one["default"])) for one in kept]
        for (_, name), kept in found.get_multi_columns().items()
    }
    indices = {
        name: [(one["name"] or "", *map(str, one["column_names"])) for one in kept]
        for (_, name), kept in found.get_multi_indexes().items()
    }
    return {name: columns[name] + sorted(indices.get(name, [])) for name in columns}


def test_two_may_open_a_new_store_at_once(place: str) -> None:
    for _ in range(3):
        with ThreadPoolExecutor(4) as pool:
            stores = list(pool.map(Store.open, [place] * 4))
        for number, store in enumerate(stores):
            store.commit([events(number)])
            store.close()


def test_what_is_no_store_is_refused_with_one_message(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is a text, not a database; " * 100)
    with pytest.raises(
        StoreError, match=r"not a database; restore a back-up: what-next restore SETUP BACKUP --replace"
    ):
        Store.open(tmp_path / "text")
    with pytest.raises(StoreError, match="cannot be opened"):
        Store.open(tmp_path)
    with pytest.raises(StoreError, match="in memory it would be lost"):
        Store.open("sqlite://")
    with pytest.raises(StoreError, match="cannot be kept in 'mysql'"):
        Store.open("mysql://anna:secret@localhost/db")
    for place in ("127.0.0.1:x", "127.0.0.1:", "one:5432,two:5432"):
        with pytest.raises(StoreError, match=r"cannot be read.*host=FIRST,SECOND"):
            Store.open(f"postgresql://anna:secret@{place}/db")
    with pytest.raises(StoreError, match="has no host"):
        Store.open("sqlite://folder/store.sqlite")


@pytest.mark.parametrize("place", ["anna:secret@127.0.0.1:1/db", "anna@127.0.0.1:1/db?sslmode=allow&password=secret"])
def test_no_message_holds_a_password(place: str) -> None:
    with pytest.raises(StoreUnavailable) as refused:
        Store.open(f"postgresql://{place}")
    assert "secret" not in str(refused.value)
    assert "anna" in str(refused.value)


def test_a_password_that_is_not_escaped_is_told_and_not_repeated() -> None:
    with pytest.raises(StoreError, match="write %40 for @") as refused:
        Store.open("postgresql://anna:sec@ret@127.0.0.1:1/db")
    assert "ret@" not in str(refused.value)


def test_what_an_url_has_wrong_is_told_without_waiting(postgres_server: Postgres, postgres_url: str) -> None:
    for wrong in (postgres_url.replace("postgres@", "nobody@"), postgres_server.url("none")):
        with pytest.raises(StoreError, match=r"does not exist\); mend the user") as refused:
            Store.open(wrong)
        assert not isinstance(refused.value, StoreUnavailable)


def test_a_new_file_is_read_by_its_owner_alone(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "folder" / "store.sqlite")
    store.commit([events(0)])
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "folder").iterdir()} == {0o600}
    store.close()


def test_a_commit_waits_for_the_disk(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store.sqlite")
    for engine in (store.backend.engine, store.backend.reader):
        with engine.connect() as connection:
            ask = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("synchronous", "journal_mode")
            }
            assert ask == {"synchronous": 2, "journal_mode": "wal"}
    store.close()


def test_the_server_is_asked_to_wait_for_the_disk_whatever_its_default(
    postgres_server: Postgres, postgres_url: str
) -> None:
    name = postgres_url.split("/")[3].split("?")[0]
    postgres_server.sql(f"ALTER DATABASE {name} SET synchronous_commit = off")
    store = Store.open(postgres_url)
    with store.backend.engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
    store.close()


def test_the_clock_is_the_wall_clock_in_microseconds(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store.sqlite")
    store.commit([events(0)])
    assert store.events_of("anna")[0].time == pytest.approx(time.time() * 1e6, abs=60e6)
    store.close()


def test_a_folder_that_cannot_hold_the_store_is_told_with_the_setting_that_names_another(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot be opened \(.*\); mend that, or name another by server.store$"):
        Store.open(tmp_path / ("x" * 300) / "store.sqlite")
