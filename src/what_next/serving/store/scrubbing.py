"""Removes the bytes of erased users from the files of SQLite, some time after their rows were deleted."""

import secrets
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, select

from what_next.errors import StoreError, StoreUnavailable
from what_next.serving import logger
from what_next.serving.store import tables
from what_next.serving.store.backend import Backend, waits
from what_next.serving.store.histories import note, put_note

ERASED, SCRUBBED = "erased", "scrubbed"
"""Names of the store's notes: a mark that bytes of erased users may be in the files, which is a new random text for
each erasure; and the time of the last rebuild, in microseconds since 1970 UTC."""
EVERY = 3600.0
"""Shortest interval in seconds between two rebuilds of the file, however many users are erased."""
LOOK = 1.0
"""Seconds between two looks at the mark."""
AGAIN = 60.0
"""Seconds until a retry after a failure, doubled after each further failure up to `EVERY`, because each attempt may
write as much as the store holds."""
UNNAMED = delete(tables.rules).where(
    tables.rules.c.hash.not_in(select(tables.impressions.c.rule).where(tables.impressions.c.rule.is_not(None)))
)
"""Deletes the lists of permitted items that no answer names any more. An answer and its list are written in one
transaction, and SQLite writes one at a time, so none is lost."""
READERS = 500
"""Milliseconds that emptying the write-ahead log waits for readers."""


def mark(connection: Connection) -> None:
    """Mark an erasure, in the erasure's transaction, so that the mark survives if this process is killed."""
    if not waits(connection):  # PostgreSQL reuses the space by itself
        put_note(connection, ERASED, secrets.token_hex(8))


class Scrubber:
    """Removes erased data from the files of an SQLite store.

    `secure_delete` overwrites a row in its current place, but not its copies from before its page was split (of 200
    users erased from 2,000, 4 were still found). So the file is rebuilt, which takes a second per million events while
    writes wait. Then the write-ahead log is emptied, which a long read can prevent. The mark stays until both are done.
    """

    def __init__(self, backend: Backend, clock: Callable[[], int]) -> None:
        self.backend, self.clock = backend, clock
        self._built: str | None = None  # the mark for which the file was already rebuilt
        self._lock = threading.Lock()
        self._running: Any = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def scrub(self, every: float = 0.0) -> bool:
        """Scrub the files if needed; returns whether they are now free of erased data.

        Args:
            every: seconds that must have passed since the last rebuild.

        Raises:
            StoreUnavailable: it cannot be done now (locked, disk full); the next call tries again.
        """
        if not self.backend.sqlite:
            return True
        with self.backend.explained(), self.backend.reader.connect() as connection:
            marked = note(connection, ERASED)
            if marked is None or not (marked == self._built or self._due(connection, every)):
                return marked is None
            with self._lock:
                self._running = connection.connection.driver_connection
            try:
                return self._scrub(connection, marked)
            finally:
                with self._lock:
                    self._running = None
                connection.invalidate()  # its settings were changed

    def _due(self, connection: Connection, every: float) -> bool:
        """Whether the last rebuild was at least `every` seconds ago, or the clock went back."""
        last = note(connection, SCRUBBED)
        return last is None or not 0 <= self.clock() - int(last) < every * 1e6

    def _scrub(self, connection: Connection, marked: str) -> bool:
        if marked != self._built:
            self._find_room(connection)
            connection.exec_driver_sql("PRAGMA temp_store = FILE")  # it needs as much space as the store
            connection.execute(UNNAMED)
            connection.exec_driver_sql("VACUUM")
            self._built = marked
            put_note(connection, SCRUBBED, str(self.clock()))
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {READERS}")
        if connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]:
            return False
        # If another user was erased meanwhile, the mark has changed and stays.
        meta = tables.meta.c
        return connection.execute(delete(tables.meta).where(meta.name == ERASED, meta.value == marked)).rowcount == 1

    def _find_room(self, connection: Connection) -> None:
        """Raise a `StoreUnavailable` if the disk has no room for the new file, so that events do not lose the rest."""
        file = Path(self.backend.where)
        pages, size = (
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in ("page_count", "page_size")
        )
        needed, free = pages * size, shutil.disk_usage(file.parent).free
        if free < needed:
            raise StoreUnavailable(f"{file}: the file cannot be built anew in {free:,} free bytes; it takes {needed:,}")

    def interrupt(self) -> None:
        """Interrupt scrubbing in another thread; the mark stays."""
        with self._lock:
            if self._running is not None:
                self._running.interrupt()

    def start(self) -> None:
        """Scrub periodically in a thread, so that erasures and other writes need not."""
        if self.backend.sqlite:
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, name="what-next-scrubber", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread; unfinished scrubbing is left to the next process."""
        self._stop.set()
        while self._thread is not None and self._thread.is_alive():
            self.interrupt()
            self._thread.join(0.1)

    def _run(self) -> None:
        wait = LOOK
        while not self._stop.wait(wait):
            try:
                self.scrub(EVERY)
                wait = LOOK
                continue
            except StoreError as error:
                if wait == LOOK and not self._stop.is_set():
                    logger.warning("bytes of erased users are still in the files of the store: %s", error)
            except Exception:
                logger.exception("scrubbing the files of the store failed; it is tried anew")
            wait = min(EVERY, AGAIN if wait == LOOK else 2 * wait)
