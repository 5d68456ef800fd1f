"""The schema of the store, version by version."""

from pathlib import Path

from sqlalchemy import Connection, exc, inspect
from tenacity import retry, retry_if_exception, stop_after_delay, wait_fixed

from what_next.errors import StoreError
from what_next.serving.store.backend import BUSY, PAGE, Backend, be_patient, make_file, waits

REVISIONS = ("0001", "0002", "0003")
"""All versions, oldest first; the files in `versions` are named so."""
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
            if _known(_version(connection), backend.where) == REVISIONS[-1]:
                return
        with backend.engine.begin() as connection:
            # A large table takes as long as it takes, and so do the others who wait for it.
            be_patient(connection, "lock_timeout", "statement_timeout")
            if waits(connection):
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
            # Another process may have done it while this one waited for the lock.
            if _known(_version(connection), backend.where) != REVISIONS[-1]:
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


def _version(connection: Connection) -> str | None:
    """The version of the schema; None where there is none yet."""
    # Asked first: in PostgreSQL a failed statement would end the transaction.
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()


def _known(version: str | None, where: str) -> str | None:
    if version is not None and version not in REVISIONS:
        raise StoreError(
            f"{where}: the store has version {version}, newer than this version of What Next? knows ({REVISIONS[-1]}); "
            "upgrade What Next?, or restore a back-up"
        )
    return version


def _upgrade(connection: Connection) -> None:
    # Alembic takes a tenth of a second to import, which a service that starts on a store in order need not spend.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
