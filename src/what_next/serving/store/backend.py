"""The two databases behind the store, SQLite and PostgreSQL: connections, differences, and the meaning of errors."""

import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url

from what_next.errors import (
    UNESCAPED,
    MissingExtraError,
    SetupError,
    StoreError,
    StoreUnavailable,
    is_unescaped,
    without_password,
)
from what_next.serving.store.tables import dumps, events
from what_next.settings import Setup

VARIABLE = "WHAT_NEXT_STORE"
"""The environment variable with the store's URL, which overrides the setup."""
BUSY = 5.0
"""Seconds that a write waits for another process before it fails."""
PATIENCE = 60
"""PostgreSQL's statement timeout in seconds."""
STILL = 2.0
"""PostgreSQL's timeout of idle transactions in seconds: the locks of a process that was cut off within a transaction
must be released before others that wait for them fail after `BUSY` seconds."""
PAGE = 2048
"""Page size of SQLite in bytes, half of the default. Events of many users arrive interleaved, so each touches pages of
its own, and a commit writes whole pages."""
WAL_PAGES = 8000
"""Pages of SQLite's write-ahead log between two checkpoints: a page that many commits change is then written only once
to the file itself."""
CONFLICTS = ("40001", "40P01", "23505", "23503", "25P03")
"""SQLSTATEs after which a transaction is retried: serialisation failure, deadlock, an id that another process wrote
meanwhile, a reference that it erased, and an idle timeout because this process was suspended."""
REFUSED = ("42501", "42P01", "3F000")
"""SQLSTATEs that an administrator can repair: no permission, no such table, no such schema."""
MISTAKE = re.compile(r'authentication failed|no password|no pg_hba.conf entry|invalid port|"[^"]*" does not exist')
"""PostgreSQL's English messages for mistakes in a URL, because libpq does not expose their SQLSTATEs (28P01, 28000,
3D000). In another language such a mistake counts as an unavailable server."""
INSERTS: Mapping[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
_MAKING = threading.Lock()


def store_of(setup: Setup) -> str | Path:
    """The URL or path of a setup's store, as `Store.open` takes it.

    The environment variable WHAT_NEXT_STORE, a URL; else `server.store`; else a file beside the agent's:
    `models/agent.store.sqlite` for `models/agent.safetensors`.

    Raises:
        SetupError: the variable is not a URL.
    """
    given = os.environ.get(VARIABLE, "").strip()
    if given and "://" not in given:  # the value is not shown: it may be a password meant for another variable
        raise SetupError(
            f"{VARIABLE} is no URL; expected postgresql://USER:PASSWORD@HOST/DATABASE, or sqlite:///PATH (four slashes "
            "begin an absolute path), or no such variable: server.store is the place then"
        )
    return given or setup.server.store or setup.model_agent_path.with_suffix(".store.sqlite")


def file_of(setup: Setup) -> Path | None:
    """The SQLite file of a setup's store; None: it is in another database."""
    place = str(store_of(setup)).removeprefix("sqlite:///")
    return None if "://" in place else Path(place)


def home_of(setup: Setup) -> Path:
    """The folder for files that belong to a setup's store: that of its SQLite file, else that of the agent's file."""
    return (file_of(setup) or setup.model_agent_path).parent


# Errors


@dataclass(frozen=True)
class Backend:
    """A database.

    Attributes:
        where: its name in messages, without a password.
        engine: for writes; in SQLite, each transaction takes the write lock when it begins.
        reader: for reads; each statement is its own transaction, and sees all earlier commits.
        mend: advice for a damaged file.
    """

    where: str
    engine: sa.Engine
    reader: sa.Engine
    mend: str = "restore a back-up: what-next restore SETUP BACKUP --replace"

    @property
    def sqlite(self) -> bool:
        """Whether it is SQLite; else it is PostgreSQL."""
        return self.dialect == "sqlite"

    @property
    def dialect(self) -> str:
        """SQLAlchemy's name of the dialect: `sqlite` or `postgresql`."""
        return self.engine.dialect.name

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn errors of the database into `StoreUnavailable`, or into `StoreError` if waiting does not help."""
        try:
            yield
        except sa.exc.TimeoutError as error:
            raise StoreUnavailable(f"{self.where}: all connections are in use; try again") from error
        except sa.exc.DBAPIError as error:
            lines = str(error.orig).strip().splitlines()
            reason = lines[0] if lines else type(error.orig).__name__
            reason += "; is the disk full?" if reason == "disk I/O error" else ""  # while SQLite makes its index
            if passes(error):
                raise StoreUnavailable(f"{self.where}: cannot be used now ({reason}); {_next(error)}") from error
            reason += f"; {self.mend}" if is_damaged(error.orig) else ""
            raise StoreError(f"{self.where}: {reason}") from error

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """A write transaction; its errors are `explained`."""
        with self.explained(), self.engine.begin() as connection:
            yield connection

    def fetch(self, statement: sa.Executable, values: Mapping[str, Any] | None = None) -> Sequence[Any]:
        """All rows of a statement; errors are `explained`."""
        with self.explained(), self.reader.connect() as connection:
            return connection.execute(statement, values).all()

    def close(self) -> None:
        """Close all idle connections."""
        self.engine.dispose()
        self.reader.dispose()


def passes(error: sa.exc.DBAPIError) -> bool:
    """Whether an error is temporary (locked, full, unavailable), and not a bug or a problem of the written data."""
    if isinstance(error.orig, sqlite3.Error):
        code = getattr(error.orig, "sqlite_errorcode", 0)
        return isinstance(error, sa.exc.OperationalError) and code & 0xFF != sqlite3.SQLITE_ERROR
    state = sqlstate(error) or ""
    # A value too long for an index is an OperationalError, too, but a read-only server or an idle timeout is not one.
    return (isinstance(error, sa.exc.OperationalError) and state[:2] != "54") or state in ("25006", "25P03", *REFUSED)


def is_mistake(error: BaseException | None) -> bool:
    """Whether PostgreSQL refuses a connection because of a mistake in its URL, so that waiting does not help."""
    if not isinstance(error, sa.exc.OperationalError) or sqlstate(error) is not None:
        return False
    return MISTAKE.search(str(error.orig).partition("\n")[0]) is not None


def _next(error: sa.exc.DBAPIError) -> str:
    """Advice for a database that cannot be used now."""
    if is_mistake(error):
        return "mend the user, the password, the port or the database of its URL"
    return "an administrator of the database can mend it" if sqlstate(error) in REFUSED else "try again"


def is_damaged(error: BaseException | None) -> bool:
    """Whether an SQLite file is damaged, or is not an SQLite file."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def sqlstate(error: BaseException) -> str | None:
    """PostgreSQL's code of an error; None for SQLite, and if the server sent none."""
    return getattr(getattr(error, "orig", None), "sqlstate", None)


def in_the_way(error: BaseException) -> bool:
    """Whether the error is a conflict with another process, so that the transaction may succeed when retried."""
    return sqlstate(error) in CONFLICTS


# Differences


class _Object(sa.TypeDecorator[Any]):
    """A list, or pairs, as a JSON object, because `json_each` turns its members into rows in both databases."""

    impl, cache_ok = sa.JSON, True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> dict[str, Any]:
        """The members of the object; the values of a list become keys."""
        pairs = value if isinstance(value, dict) else dict.fromkeys(value, 0)
        return {str(key): after for key, after in pairs.items()}


def among(column: sa.ColumnElement[Any], name: str) -> sa.ColumnElement[bool]:
    """Whether a column's value is in the list bound as `name`; the statement is the same for lists of any length."""
    key = sa.func.json_each(sa.bindparam(name, type_=_Object())).table_valued("key").c.key
    return column.in_(sa.select(sa.cast(key, sa.BigInteger) if isinstance(column.type, sa.BigInteger) else key))


def after_each(columns: Sequence[sa.ColumnElement[Any]]) -> Mapping[str, sa.Select[Any]]:
    """By dialect: select columns of the events whose user's key is in the mapping bound as `users`, and whose number is
    larger than the mapping's value for the key."""
    given = sa.func.json_each(sa.bindparam("users", type_=_Object())).table_valued("key", "value").c
    after = sa.cast(sa.cast(given.value, sa.Text), sa.BigInteger)  # PostgreSQL cannot cast JSON to a number directly
    pairs = sa.select(sa.cast(given.key, sa.BigInteger).label("key"), after.label("after"))
    wanted = pairs.subquery("wanted")
    rows = sa.select(*columns).where(events.c.user == wanted.c.key, events.c.number > wanted.c.after)
    # PostgreSQL estimates 100 keys for any JSON, and would read the whole table for a single key. OFFSET 0 keeps it
    # from planning a join, so that it looks up each key in the index. SQLite does this anyway.
    each = rows.offset(0).lateral("each")
    return {"sqlite": rows, "postgresql": sa.select(*each.c).join_from(wanted, each, sa.true())}


def waits(connection: sa.Connection) -> bool:
    """Whether other processes may write at the same time: not in SQLite."""
    return connection.dialect.name != "sqlite"


def lock(connection: sa.Connection, table: sa.Table, mode: str = "SHARE ROW EXCLUSIVE") -> None:
    """Keep other processes from numbering rows of a table: a reader must not see a number before all lower ones."""
    if waits(connection):
        connection.exec_driver_sql(f"LOCK TABLE {table.name} IN {mode} MODE")


def be_patient(connection: sa.Connection, **limits: int) -> None:
    """Set other timeouts in seconds for the rest of a transaction; 0: none."""
    for limit, seconds in limits.items() if waits(connection) else ():
        connection.exec_driver_sql(f"SET LOCAL {limit} = {seconds * 1000}")


def execute_all(connection: sa.Connection, statement: sa.Executable, rows: Sequence[tuple[Any, ...]]) -> None:
    """Execute a statement for each row, whose values go directly to the driver, in the order of the parameters.

    SQLAlchemy's processing of the parameters would take longer than the database.
    """
    if rows:
        connection.exec_driver_sql(_compiled(statement, connection.dialect), list(rows))


def insert_all(connection: sa.Connection, table: sa.Table, rows: Sequence[tuple[Any, ...]], once: bool = False) -> None:
    """Insert whole rows, except for an autoincrement column: see `execute_all`.

    Args:
        rows: values in the order of the columns.
        once: whether rows with existing keys are skipped.
    """
    execute_all(connection, _insertion(table, connection.dialect.name, once), rows)


@lru_cache
def _insertion(table: sa.Table, dialect: str, once: bool) -> sa.Executable:
    own = [one.name for one in table.columns if one is not table.autoincrement_column]
    made = INSERTS[dialect](table).values({name: sa.bindparam(name) for name in own})
    return made.on_conflict_do_nothing() if once else made  # type: ignore[no-any-return]


@lru_cache  # bounded, because each engine has a dialect of its own
def _compiled(statement: sa.Executable, dialect: sa.Dialect) -> str:
    return str(statement.compile(dialect=dialect))  # type: ignore[attr-defined]


# Connections


def connect(place: str | Path) -> Backend:
    """The database at a path (SQLite) or a URL; it is not connected yet.

    Raises:
        StoreError: the URL is invalid.
        MissingExtraError: the driver is not installed.
    """
    url = _url(place)
    options: dict[str, Any] = {"pool_size": 8, "max_overflow": 24, "pool_timeout": BUSY, "json_serializer": dumps}
    if url.get_backend_name() == "sqlite":
        options["connect_args"] = {"timeout": BUSY, "isolation_level": None}
        where, prepare, alone = str(url.database), _careful, dict[str, Any]()
    else:
        where = without_password(url.render_as_string(hide_password=False))
        prepare, alone = partial(_patient, where), {"isolation_level": "AUTOCOMMIT"}
        # A connection is tested before use, because the server may have restarted. A lost packet must not hang a
        # request for minutes.
        waits = {"connect_timeout": 5, "tcp_user_timeout": 10_000}
        # Keepalives detect a broken connection while waiting for an answer, when nothing is sent.
        waits |= {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}
        options |= {"pool_recycle": 1800, "pool_pre_ping": True, "paramstyle": "format", "connect_args": waits}
    try:
        engine = sa.create_engine(url, **options)
    except ImportError:
        raise MissingExtraError("psycopg", "serve", "a store in PostgreSQL") from None
    backend = Backend(where, engine, sa.create_engine(url, pool_reset_on_return=None, **alone, **options))
    for one in (backend.engine, backend.reader):
        sa.event.listen(one, "connect", prepare, insert=True)  # before SQLAlchemy's own first query
    if backend.sqlite:
        sa.event.listen(engine, "begin", _locking(where))
    return backend


def _url(place: str | Path) -> URL:
    if isinstance(place, Path) or "://" not in place:
        return URL.create("sqlite", database=str(Path(place).absolute()))
    try:
        url = make_url(place)
    except (sa.exc.ArgumentError, ValueError):  # such as an invalid port
        raise StoreError(
            "the store's URL cannot be read; expected sqlite:///PATH, postgresql://USER:PASSWORD@HOST:PORT/DATABASE, "
            "or, for several servers, postgresql://USER:PASSWORD@/DATABASE?host=FIRST,SECOND&port=5432,5432"
        ) from None
    kind = url.get_backend_name()
    if kind == "sqlite" and url.database in (None, "", ":memory:"):
        raise StoreError("a SQLite store needs a file (sqlite:///PATH): in memory it would be lost")
    if kind == "sqlite" and url.host:
        raise StoreError("a SQLite store has no host; expected sqlite:///PATH (four slashes begin an absolute path)")
    if kind in ("postgresql", "postgres"):
        if is_unescaped(place):
            raise StoreError(UNESCAPED)
        return url.set(drivername="postgresql+psycopg")
    if kind != "sqlite":
        raise StoreError(f"a store cannot be kept in {kind!r}; expected sqlite:///PATH or postgresql://...")
    return url.set(drivername="sqlite")


def make_file(path: Path) -> None:
    """Create an empty file that only its owner can read, if there is none, because it will hold private data.

    An existing file is not opened here: closing it would release all locks that the process holds on it, including
    those of SQLite.

    Raises:
        StoreError: the folder is missing or not writable, or the existing file cannot be read and written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _MAKING:  # no other thread may open it before it is closed here
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        if not path.is_file() or not os.access(path, os.R_OK | os.W_OK):
            raise StoreError(f"{path}: cannot be opened; a store is a file that may be read and written") from None
    except OSError as error:
        reason = error.strerror or error
        raise StoreError(f"{path}: cannot be opened ({reason}); mend that, or name another by server.store") from error


def _careful(connection: sqlite3.Connection, record: object) -> None:
    """Settings of each SQLite connection: commits are durable, and deleted data are overwritten."""
    for setting in (
        "synchronous = FULL",
        "secure_delete = ON",
        "foreign_keys = ON",
        "temp_store = MEMORY",
        "cache_size = -32768",
        f"wal_autocheckpoint = {WAL_PAGES}",
    ):
        connection.execute(f"PRAGMA {setting}")


def _locking(path: str) -> Callable[[sa.Connection], None]:
    """Begin SQLite transactions, and check that the file is still that of the first one: writes to a file that was
    moved or replaced would be lost with the process."""
    first: list[tuple[int, int]] = []

    def begin(connection: sa.Connection) -> None:
        if first and _file(path) != first[0]:
            raise StoreUnavailable(f"{path}: was moved or replaced; put it back, or start the service anew")
        # IMMEDIATE waits for other writers; a transaction that reads first would fail if another one wrote meanwhile.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        if not first and (found := _file(path)):
            first.append(found)

    return begin


def _file(path: str) -> tuple[int, int] | None:
    """The identity (device and inode) of the file at a path; None if there is none."""
    with suppress(OSError):
        found = Path(path).stat()
        return found.st_dev, found.st_ino
    return None


def _patient(where: str, connection: Any, record: object) -> None:
    """Settings of each PostgreSQL connection: commits are durable, and nothing waits for ever.

    Raises:
        StoreError: the database's encoding is not UTF-8.
    """
    if (encoding := connection.info.parameter_status("server_encoding")) not in ("UTF8", None):
        raise StoreError(
            f"{where}: keeps texts in {encoding}, which cannot hold every language; make a database with "
            "CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
        )
    connection.execute(
        f"SET synchronous_commit = on; SET lock_timeout = {round(BUSY * 1000)}; "
        f"SET statement_timeout = {PATIENCE * 1000}; SET idle_in_transaction_session_timeout = {round(STILL * 1000)}; "
        "SET jit = off"  # it misjudges short statements: compiling them takes longer than running them
    )
    connection.commit()
