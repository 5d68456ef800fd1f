"""The schema of the store, also in stores that an earlier version made."""

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
"""All versions, oldest first, with the tables that each added to those of the first. So far each has only added tables
and columns, which is what `_upgrade` does: 0002 for withdrawn items, answers that are given again, and who was erased;
0003 for which items a request permitted; 0004 for how many clients have an answer; 0005 for the tags of items."""
REVISIONS = tuple(ADDED)
MARKS = {"alembic_version": {"version_num"}, "meta": {"name", "value"}, "users": {"user_id", "last", "events"}}
"""Columns of the tables that a store has had since the first version, and another program hardly has."""
LOCK = 0x5768_4E78
"""Of PostgreSQL's advisory locks the one that a migration holds."""


def migrate(backend: Backend, make: bool = True) -> None:
    """Bring the schema to the newest version; two processes may do so at once. With `make`, a store that is not there
    is made.

    Raises:
        StoreError: the store is of a newer version, or is none: there is none to read, or another program's tables are.
        StoreUnavailable: the database is away, or locked.
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
            # A large table takes as long as it takes, and so do the others who wait for it; the machine may be busy.
            be_patient(connection, lock_timeout=0, statement_timeout=0, idle_in_transaction_session_timeout=PATIENCE)
            if waits(connection):
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
            # Another process may have done it while this one waited for the lock.
            if (version := known_version(connection, backend.where)) != REVISIONS[-1]:
                _upgrade(connection, version)
    if version not in (None, REVISIONS[-1]):
        logger.warning(
            "%s: the store was migrated from %s to %s; earlier versions of What Next? do not start on it any more",
            backend.where, version, REVISIONS[-1],
        )  # fmt: skip


def missing(backend: Backend) -> StoreError:
    """What is raised where there is no store."""
    return StoreError(
        f"{backend.where}: no such store; serve first (what-next serve), or name it with server.store or {VARIABLE}"
    )


def _locked(error: BaseException) -> bool:
    return isinstance(error, exc.OperationalError) and "locked" in str(error)


# SQLite does not wait here for another process that switches at the same time.
@retry(retry=retry_if_exception(_locked), wait=wait_fixed(0.01), stop=stop_after_delay(BUSY), reraise=True)
def _write_ahead(backend: Backend) -> None:
    """Write-ahead logging, which lets readers read while one writes. It is a property of the file."""
    with backend.reader.connect() as connection:
        if connection.exec_driver_sql("PRAGMA journal_mode").scalar() != "wal":
            connection.exec_driver_sql(f"PRAGMA page_size = {PAGE}")
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")


def version_of(connection: Connection, where: str) -> str | None:
    """The version of the schema, which may be a newer one; None where there is no store.

    Raises:
        StoreError: another program has tables of these names.
    """
    # All names at once: a store that another process makes meanwhile is seen whole or not at all.
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
    """The version of the schema; None where there is no store.

    Raises:
        StoreError: it is newer than those known here, or another program has tables of these names.
    """
    version = version_of(connection, where)
    if version is not None and version not in REVISIONS:
        raise StoreError(
            f"{where}: the store has version {version}, newer than this version of What Next? knows ({REVISIONS[-1]}); "
            "upgrade What Next?, or restore a back-up"
        )
    return version


def drop_later(connection: Connection, version: str) -> None:
    """Drop the tables that later versions added: an older back-up, put over them, knows none of them."""
    later = [table for one, added in ADDED.items() if one > version for table in added]
    tables.metadata.drop_all(connection, tables=later)


def _upgrade(connection: Connection, version: str | None) -> None:
    """Add the tables that are missing, and the columns that are missing in those that are there."""
    if version is not None:
        drop_later(connection, version)
    before = inspect(connection).get_multi_columns()
    tables.metadata.create_all(connection)
    for (_, name), columns in before.items():
        there = {one["name"] for one in columns}
        for column in tables.metadata.tables[name].columns if name in tables.metadata.tables else ():
            if column.name not in there:
                added = CreateColumn(column).compile(dialect=connection.dialect)
                connection.exec_driver_sql(f"ALTER TABLE {name} ADD COLUMN {added}")
    connection.execute(delete(tables.version))
    connection.execute(insert(tables.version).values(version_num=REVISIONS[-1]))
