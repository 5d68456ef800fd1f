"""Creates the store's schema, and migrates stores of earlier versions."""

import re
from pathlib import Path

from sqlalchemy import Connection, Table, delete, exc, insert, inspect, select
from sqlalchemy.engine.reflection import ObjectKind
from sqlalchemy.schema import CreateColumn
from tenacity import retry, retry_if_exception, stop_after_delay, wait_fixed

from what_next.errors import StoreError
from what_next.serving import logger
from what_next.serving.store import tables
from what_next.serving.store.backend import BUSY, PAGE, PATIENCE, VARIABLE, Backend, be_patient, make_file, waits

ADDED: dict[str, tuple[Table, ...]] = {
    "0001": (),
    "0002": (tables.withdrawals, tables.idempotency_keys, tables.erased_users, tables.erased_events),
    "0003": (tables.rules,),
    "0004": (),
    "0005": (),
}
"""All versions of the schema, oldest first, with the tables that each added. So far versions have only added tables and
columns, which is all that `_upgrade` does: 0002 for withdrawn items, idempotency keys and erasures; 0003 for the items
that a request permitted; 0004 for the number of clients that have an answer; 0005 for the tags of items."""
REVISIONS = tuple(ADDED)
MARKS = {"alembic_version": {"version_num"}, "meta": {"name", "value"}, "users": {"user_id", "last", "events"}}
"""Tables and columns of every version, by which a store is told from another program's database."""
LOCK = 0x5768_4E78
"""Number of the PostgreSQL advisory lock that a migration holds."""


def migrate(backend: Backend, make: bool = True) -> None:
    """Bring the schema to the newest version; safe to run in two processes at once. With `make`, a missing store is
    created.

    Raises:
        StoreError: the store is of a newer version, is missing, or the database holds another program's tables.
        StoreUnavailable: the database is unavailable or locked.
    """
    if backend.sqlite:
        if not make and not Path(backend.where).exists():
            raise missing(backend)
        make_file(Path(backend.where))
    with backend.explained():
        with backend.reader.connect() as connection:
            version = known_version(connection, backend.where)
        if version is None and not make:
            raise missing(backend)
        if backend.sqlite:
            _write_ahead(backend)
        if version == REVISIONS[-1]:
            return
        with backend.engine.begin() as connection:
            # No timeouts: changing a large table takes time, also for the processes that wait for it.
            be_patient(connection, lock_timeout=0, statement_timeout=0, idle_in_transaction_session_timeout=PATIENCE)
            if waits(connection):
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
            # Another process may have migrated it while this one waited for the lock.
            if (version := known_version(connection, backend.where)) != REVISIONS[-1]:
                _upgrade(connection, version)
    if version not in (None, REVISIONS[-1]):
        logger.warning(
            "%s: the store was migrated from %s to %s; earlier versions of What Next? do not start on it any more",
            backend.where, version, REVISIONS[-1],
        )  # fmt: skip


def missing(backend: Backend) -> StoreError:
    """The error for a missing store."""
    return StoreError(
        f"{backend.where}: no such store; serve first (what-next serve), or name it with server.store or {VARIABLE}"
    )


def _locked(error: BaseException) -> bool:
    return isinstance(error, exc.OperationalError) and "locked" in str(error)


# Retried, because SQLite does not wait here for another process that switches at the same time.
@retry(retry=retry_if_exception(_locked), wait=wait_fixed(0.01), stop=stop_after_delay(BUSY), reraise=True)
def _write_ahead(backend: Backend) -> None:
    """Switch the file to write-ahead logging, so that writes do not block readers; this is a property of the file."""
    with backend.reader.connect() as connection:
        if connection.exec_driver_sql("PRAGMA journal_mode").scalar() != "wal":
            connection.exec_driver_sql(f"PRAGMA page_size = {PAGE}")
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")


def version_of(connection: Connection, where: str) -> str | None:
    """The version of the schema, which may be unknown (newer); None if there is no store.

    Raises:
        StoreError: another program has tables of these names.
    """
    # One query for all tables, so that a store that another process is creating is seen completely or not at all.
    found = inspect(connection).get_multi_columns(filter_names=list(tables.metadata.tables), kind=ObjectKind.ANY)
    there = {name: {one["name"] for one in columns} for (_, name), columns in found.items()}
    if not there:
        return None
    own = all(columns <= there.get(name, set()) for name, columns in MARKS.items())
    version: str | None = connection.execute(select(tables.version)).scalar() if own else None
    if version is None or not re.fullmatch("[0-9]{4}", version):
        raise StoreError(
            f"{where}: holds tables of another program ({', '.join(sorted(there))}); nothing was changed; "
            "give the store a database of its own"
        )
    return version


def known_version(connection: Connection, where: str) -> str | None:
    """The version of the schema; None if there is no store.

    Raises:
        StoreError: the version is newer than those known here, or another program has tables of these names.
    """
    version = version_of(connection, where)
    if version is not None and version not in REVISIONS:
        raise StoreError(
            f"{where}: the store has version {version}, newer than this version of What Next? knows ({REVISIONS[-1]}); "
            "upgrade What Next?, or restore a back-up"
        )
    return version


def drop_later(connection: Connection, version: str) -> None:
    """Drop the tables that versions after `version` added: restoring an older back-up does not remove them."""
    later = [table for one, added in ADDED.items() if one > version for table in added]
    tables.metadata.drop_all(connection, tables=later)


def _upgrade(connection: Connection, version: str | None) -> None:
    """Add missing tables, and missing columns of existing tables."""
    if version is not None:
        drop_later(connection, version)
    before = inspect(connection).get_multi_columns(filter_names=list(tables.metadata.tables))
    tables.metadata.create_all(connection)
    for (_, name), columns in before.items():
        there = {one["name"] for one in columns}
        for column in tables.metadata.tables[name].columns:
            if column.name not in there:
                added = CreateColumn(column).compile(dialect=connection.dialect)
                connection.exec_driver_sql(f"ALTER TABLE {name} ADD COLUMN {added}")
    connection.execute(delete(tables.version))
    connection.execute(insert(tables.version).values(version_num=REVISIONS[-1]))
