"""The two databases behind the store: how they are reached, what differs, and what their errors mean."""

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import orjson
from sqlalchemy import Engine, Table, create_engine, event, exc
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import URL, Connection, make_url

from what_next.errors import MissingExtraError, StoreError, StoreUnavailable

BUSY = 5.0
"""Seconds that a write waits for another process, before it is refused."""
PATIENCE = 60
"""Seconds that PostgreSQL spends on one statement, and lets a transaction idle that holds locks, at most."""
PAGE = 2048
"""Bytes of a page of SQLite, half of the usual. Events of many people come in mixed up, so that each touches pages of
its own, and whole pages are what a commit writes."""
WAL_PAGES = 8000
"""Pages that SQLite's write-ahead log grows by between two checkpoints: what many commits touch is then written once to
the file itself."""

PERMANENT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
AGAIN = ("40001", "40P01", "23505", "23503")
"""SQLSTATEs after which a transaction is tried anew: serialisation failure, deadlock, and another process that wrote
the same id (or erased what was referred to) in between."""
_MAKING = threading.Lock()


@runtime_checkable
class Link(Protocol):
    """A connection as both drivers have it (`sqlite3`, `psycopg`)."""

    def execute(self, sql: str, values: Sequence[Any] = (), /) -> Any:
        """Run a statement; returns the driver's cursor."""


@dataclass(frozen=True)
class Backend:
    """A database.

    Attributes:
        where: what messages call it, without a password.
        engine: for writes; each transaction of SQLite's takes the write lock as it begins.
        reader: for reads; each statement stands alone, and sees all that was committed before it.
        sqlite: whether it is SQLite; else it is PostgreSQL.
        mark: what stands for a parameter in its SQL.
    """

    where: str
    engine: Engine
    reader: Engine
    sqlite: bool

    @property
    def mark(self) -> str:
        """What stands for a parameter in its SQL."""
        return "?" if self.sqlite else "%s"

    def among(self) -> str:
        """What follows a column in SQL whose value is one of a list (see `listed`): one parameter, one statement."""
        return "IN (SELECT value FROM json_each(?))" if self.sqlite else "= ANY(%s)"

    def listed(self, values: Sequence[str] | Sequence[int]) -> Any:
        """The parameter of `among`."""
        return orjson.dumps(values).decode() if self.sqlite else list(values)

    def insert(self, link: Link, table: Table, rows: Sequence[tuple[Any, ...]], ending: str = "") -> None:
        """Insert whole rows (but for a number that the database gives), as fast as it can.

        PostgreSQL gets a list for each column, and so one statement for all.

        Args:
            link, table: where to.
            rows: values in the order of the columns.
            ending: what the statement ends with, such as ON CONFLICT.
        """
        if not rows:
            return
        sql = insertion(table, ending, self.sqlite)
        if isinstance(link, sqlite3.Connection):
            link.executemany(sql, rows)
        else:
            link.execute(sql, tuple(map(list, zip(*rows, strict=True))))

    @contextmanager
    def begin(self) -> Iterator[Link]:
        """A transaction for writes: committed at the end of the block, undone where an exception leaves it.

        On the driver's own connection: SQLAlchemy's layers would cost half as much again as a small transaction.
        """
        pooled = self.engine.raw_connection()
        link: Any = pooled.driver_connection
        try:
            if self.sqlite:
                link.execute("BEGIN IMMEDIATE")
            yield link
            link.commit()
        except BaseException:
            if not self.sqlite and link.closed:
                pooled.invalidate()
                self.engine.dispose()  # the server may have been started anew; the other connections are as old
            raise
        finally:
            pooled.close()  # which undoes what was not committed

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Errors of the database become a `StoreUnavailable`, or a `StoreError` where waiting does not help."""
        try:
            yield
        except exc.TimeoutError as error:
            raise StoreUnavailable(f"{self.where}: all connections are in use; try again") from error
        except Exception as error:
            if of_database(error):
                raise self.translated(error) from error
            raise

    def translated(self, error: Exception) -> StoreError:
        """The error of ours for one of the database's."""
        cause = getattr(error, "orig", None) or error
        lines = str(cause).strip().splitlines()
        reason = lines[0] if lines else type(cause).__name__
        if passes(error):
            return StoreUnavailable(f"{self.where}: cannot be used now ({reason}); try again")
        return StoreError(f"{self.where}: {reason}")

    def close(self) -> None:
        """Close all connections that are not in use."""
        self.engine.dispose()
        self.reader.dispose()


def alone(backend: Backend, link: Link, table: str, mode: str = "SHARE ROW EXCLUSIVE") -> None:
    """Let no other process number rows of a table: a reader must not see a number before those below it."""
    if not backend.sqlite:  # there, whoever writes is alone
        link.execute(f"LOCK TABLE {table} IN {mode} MODE")


def quoted(name: str) -> str:
    """A column's name in SQL; `user` is a word of PostgreSQL's own."""
    return f'"{name}"'


@cache
def insertion(table: Table, ending: str, sqlite: bool) -> str:
    """The statement of `Backend.insert`."""
    columns = [column for column in table.columns if column is not table.autoincrement_column]
    head = f"INSERT INTO {table.name} ({', '.join(quoted(column.name) for column in columns)})"
    if sqlite:
        return f"{head} VALUES ({', '.join('?' * len(columns))}) {ending}"
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    kinds = [column.type.compile(dialect).partition(" COLLATE")[0] for column in columns]
    return f"{head} SELECT * FROM unnest({', '.join(f'%s::{kind}[]' for kind in kinds)}) {ending}"


def of_database(error: BaseException) -> bool:
    """Whether a database said so: through SQLAlchemy, or its driver (PostgreSQL's errors have a `sqlstate`)."""
    return isinstance(error, exc.DBAPIError | sqlite3.Error) or hasattr(error, "sqlstate")


def broke(error: BaseException) -> bool:
    """Whether a connection to PostgreSQL is gone, or there was none to be had."""
    return hasattr(error, "sqlstate") and (error.sqlstate is None or error.sqlstate[:3] in ("57P", "25P"))


def passes(error: Exception) -> bool:
    """Whether an error of the database is a state that passes: locked, full, away; not a mistake of ours."""
    cause = getattr(error, "orig", None) or error
    if isinstance(cause, sqlite3.Error):
        code = getattr(cause, "sqlite_errorcode", None)
        return isinstance(cause, sqlite3.OperationalError) and (code is None or code & 0xFF not in PERMANENT)
    state = sqlstate(error)
    if state is None:  # the connection broke, or there was none
        return bool(getattr(error, "connection_invalidated", False)) or type(cause).__name__ == "OperationalError"
    # Connection, resources (a full disk), intervention of an operator, system, rollback; a server that only reads, a
    # transaction that idled, a lock that another holds.
    return state[:2] in ("08", "53", "57", "58", "40") or state in ("25006", "25P03", "55P03")


def sqlstate(error: Exception) -> str | None:
    """PostgreSQL's name of an error; None for SQLite's, and where the server said nothing."""
    return getattr(getattr(error, "orig", None) or error, "sqlstate", None)


def connect(place: str | Path) -> Backend:
    """The database at a path (SQLite) or a URL; nothing is read of it yet.

    Raises:
        StoreError: the URL cannot be used.
        MissingExtraError: the driver is not installed.
    """
    url = _url(place)
    if url.get_backend_name() == "sqlite":
        return _sqlite(url)
    where = url.render_as_string(hide_password=True)
    options: dict[str, Any] = {"pool_size": 8, "max_overflow": 24, "pool_timeout": BUSY, "pool_recycle": 1800}
    # A lost packet must not hang a request for minutes.
    options["connect_args"] = {"connect_timeout": 5, "keepalives_idle": 30, "tcp_user_timeout": 10_000}
    try:
        engine = create_engine(url, **options)
        reader = create_engine(url, isolation_level="AUTOCOMMIT", pool_reset_on_return=None, **options)
    except ImportError:
        raise MissingExtraError("psycopg", "serve", "a store in PostgreSQL") from None
    for one in (engine, reader):
        event.listen(one, "connect", _patient)
    return Backend(where, engine, reader, sqlite=False)


def _url(place: str | Path) -> URL:
    if isinstance(place, Path) or "://" not in place:
        return URL.create("sqlite", database=str(Path(place).absolute()))
    try:
        url = make_url(place)
    except exc.ArgumentError:
        raise StoreError(
            "the store's URL cannot be read; expected sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DATABASE"
        ) from None
    kind = url.get_backend_name()
    if kind == "sqlite" and url.database in (None, "", ":memory:"):
        raise StoreError("a SQLite store needs a file (sqlite:///PATH): in memory it would be lost")
    if kind in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if kind != "sqlite":
        raise StoreError(f"a store cannot be kept in {kind!r}; expected sqlite:///PATH or postgresql://...")
    return url.set(drivername="sqlite")


def _sqlite(url: URL) -> Backend:
    path = Path(str(url.database))
    options: dict[str, Any] = {"pool_size": 8, "max_overflow": 24, "pool_timeout": BUSY}
    options["connect_args"] = {"timeout": BUSY, "isolation_level": None}
    engine = create_engine(url, **options)
    reader = create_engine(url, pool_reset_on_return=None, **options)
    for one in (engine, reader):
        event.listen(one, "connect", _careful)
    event.listen(engine, "begin", _take_the_lock)
    return Backend(str(path), engine, reader, sqlite=True)


def make_file(path: Path) -> None:
    """Make an empty file that only its owner reads, where there is none: it will hold what people did.

    A file that is there is never opened here: whoever closes a file loses all locks that the process holds on it, and
    with them those of SQLite.

    Raises:
        StoreError: there is no such folder, it cannot be written into, or what is there is no file to write.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _MAKING:  # no other thread has it open before it is closed here
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        if not path.is_file() or not os.access(path, os.R_OK | os.W_OK):
            raise StoreError(f"{path}: cannot be opened; a store is a file that may be read and written") from None
    except OSError as error:
        raise StoreError(f"{path}: cannot be opened ({error.strerror or error})") from error


def _careful(connection: sqlite3.Connection, record: object) -> None:
    """Settings of each connection: durable at each commit, and what is deleted is overwritten."""
    for setting in (
        "synchronous = FULL",
        "secure_delete = ON",
        "foreign_keys = ON",
        "temp_store = MEMORY",
        "cache_size = -32768",
        f"wal_autocheckpoint = {WAL_PAGES}",
    ):
        connection.execute(f"PRAGMA {setting}")


def _take_the_lock(connection: Connection) -> None:
    # A transaction that reads first and writes then fails where another wrote in between; this one waits.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _patient(connection: Any, record: object) -> None:
    """Settings of each connection: a commit is on the disk when it returns, and nothing waits for ever."""
    before = connection.autocommit
    connection.autocommit = True
    connection.execute(
        f"SET synchronous_commit = on; SET lock_timeout = {round(BUSY * 1000)}; "
        f"SET statement_timeout = {PATIENCE * 1000}; SET idle_in_transaction_session_timeout = {PATIENCE * 1000}"
    )
    connection.autocommit = before
