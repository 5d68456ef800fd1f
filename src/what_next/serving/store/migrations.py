"""The schema of the store, also in stores that an earlier version made."""

from pathlib import Path

from sqlalchemy import Connection, delete, exc, insert, inspect, select
from sqlalchemy.schema import CreateColumn
from tenacity import retry, retry_if_exception, stop_after_delay, wait_fixed

from what_next.errors import StoreError
from what_next.serving.store import tables
from what_next.serving.store.backend import BUSY, PAGE, Backend, be_patient, make_file, waits

REVISIONS = ("0001", "0002", "0003")
"""All versions, oldest first. So far each has only added tables and columns, which is what `_upgrade` does: 0002 those
for withdrawn items, answers that are given again, and who was erased; 0003 which items a request permitted."""
LOCK = 0x5768_4E78
"""Of PostgreSQL's advisory locks the one that a migration holds."""


def migrate(backend: Backend) -> None:
    """Bring the schema to the newest version; two processes may do so at once.

    Raises:
        StoreError: the store is of a newer version, or is none.
        StoreUnavailable: the database is away, or locked.
    """
    if backend.sqlite:
        make_file(Path(backend.where))
    with backend.explained():
        if backend.sqlite:
            _write_ahead(backend)
        with backend.reader.connect() as connection:
            if _version(connection, backend.where) == REVISIONS[-1]:
                return
        with backend.engine.begin() as connection:
            # A large table takes as long as it takes, and so do the others who wait for it.
            be_patient(connection, "lock_timeout", "statement_timeout")
            if waits(connection):
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
            # Another process may have done it while this one waited for the lock.
            if _version(connection, backend.where) != REVISIONS[-1]:
                _upgrade(connection)


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


def _version(connection: Connection, where: str) -> str | None:
    """The version of the schema; None where there is none yet."""
    # Asked first: in PostgreSQL a failed statement would end the transaction.
    if not inspect(connection).has_table(tables.version.name):
        return None
    version: str | None = connection.execute(select(tables.version)).scalar()
    if version is not None and version not in REVISIONS:
        raise StoreError(
            f"{where}: the store has version {version}, newer than this version of What Next? knows ({REVISIONS[-1]}); "
            "upgrade What Next?, or restore a back-up"
        )
    return version


def _upgrade(connection: Connection) -> None:
    """Add the tables that are missing, and the columns that are missing in those that are there."""
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
