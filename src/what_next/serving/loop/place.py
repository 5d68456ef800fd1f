"""The place of the only loop on a store: a lock of the journal's file and, in PostgreSQL, one of the server."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from sqlalchemy import Connection, func, select
from sqlalchemy.exc import SQLAlchemyError

from what_next.errors import StoreError
from what_next.serving.loop.journal import Journal
from what_next.serving.store import Store
from what_next.serving.store.backend import Backend

LOCK = 0x6C6F6F70
LOCKED, FREED = select(func.pg_try_advisory_lock(LOCK)), select(func.pg_advisory_unlock(LOCK))
"""Whether PostgreSQL gives the lock of the loop to this connection, as long as that is open; and takes it back."""


class NotAlone(StoreError):
    """Another loop works on the store."""


@dataclass(eq=False)
class Place:
    """The place of the only loop on a store in PostgreSQL: a lock that its server knows, and forgets when it restarts.

    Attributes:
        backend: of the store; `connection`: which has the lock as long as it is open; None: before the first time.
    """

    backend: Backend
    connection: Connection | None = None

    def take(self) -> None:
        """Take the place, or make sure that it is taken still.

        Raises:
            NotAlone: another loop has it.
            StoreUnavailable: the store is away.
        """
        if self.backend.sqlite:  # the lock of the journal's file is enough
            return
        if self.connection is not None:
            with suppress(SQLAlchemyError):
                self.connection.execute(select(1))
                return
            self.connection.close()
            self.connection = None
        with self.backend.explained():
            connection = self.backend.reader.connect()
            connection.detach()  # the lock goes when it is closed, and not back to the pool with it
            if not connection.execute(LOCKED).scalar():
                connection.close()
                raise NotAlone(f"{self.backend.where}: another loop works on this store; there can be one")
        self.connection = connection

    def leave(self) -> None:
        """Give it back."""
        if self.connection is not None:
            with suppress(SQLAlchemyError):  # the server may take its time to notice that the connection is closed
                self.connection.execute(FREED)
            self.connection.close()


@contextmanager
def alone(store: Store, journal: Journal) -> Iterator[Callable[[], None]]:
    """Be the only loop on a store, in all its processes and on all machines; it ends with the process.

    Yields what makes sure that it still is the only one: see `Place.take`.

    Raises:
        StoreError: another loop works on it.
    """
    lock, place = journal.lock(), Place(store.backend)
    try:
        place.take()
        yield place.take
    finally:
        place.leave()
        lock.release()
