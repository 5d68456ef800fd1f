"""The thread that writes: all waiting writes go into one transaction."""

import threading
from collections import deque
from concurrent.futures import Future
from typing import Any

from what_next.errors import StoreError, StoreUnavailable
from what_next.serving import logger
from what_next.serving.store.records import AddEvents, AddImpression, AddItems, CountDeliveries, Write
from what_next.serving.store.store import Store

MOST = 20_000
"""Most rows of one transaction: a transaction of several seconds would block other writers."""
FULL = 5 * MOST
"""Most rows that wait: writing them takes some seconds."""
Pending = tuple[Write, Future[Any], int]
"""A write, its future, and its number of rows."""


class Outage:
    """Logs once when some work with the store (`writing to the store`) starts to fail, and once when it works again.

    Not thread-safe.
    """

    def __init__(self, work: str) -> None:
        self.work, self.lasts = work, False

    def failed(self, error: StoreError) -> None:
        """Record a failure. The error names the database, without a password, and the reason."""
        if not self.lasts:
            logger.warning("%s fails: %s", self.work, error)
        self.lasts = True

    def worked(self) -> None:
        """Record a success."""
        if self.lasts:
            logger.info("%s works again", self.work)
        self.lasts = False


def _taken_back(unseen: list[str]) -> list[Pending]:
    return [(CountDeliveries(tuple(unseen), -1), Future(), 1)] if unseen else []


class Writer:
    """Group commit: all waiting writes share one flush to disk.

    A future is done when its write is durable; it holds the outcome, or the reason why the write was refused.

    Attributes:
        failing: by kind of write, the last one that failed because the store was unavailable, until one succeeds.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._waiting: deque[Pending] = deque()
        self._rows = 0
        self._changed = threading.Condition()
        self._closed = False
        self.failing: dict[type[Write], Write] = {}
        self._thread = threading.Thread(target=self._run, name="what-next-writer", daemon=True)
        self._thread.start()
        store.scrubber.start()

    @property
    def depth(self) -> int:
        """The number of writes that wait for the next transaction."""
        return len(self._waiting)

    def submit(self, write: Write) -> "Future[Any]":
        """Queue a write; returns its future.

        Raises:
            StoreUnavailable: the writer is closed, or too many rows wait already.
        """
        future: Future[Any] = Future()
        rows = len(write.rows) if isinstance(write, AddEvents | AddItems) else 1
        with self._changed:
            if self._closed:
                raise StoreUnavailable("the store is being closed; send it again to the next process")
            if self._rows and self._rows + rows > FULL:
                raise StoreUnavailable(f"{self._rows:,} rows wait for the store already; send it again later")
            self._waiting.append((write, future, rows))
            self._rows += rows
            if len(self._waiting) == 1:
                self._changed.notify()
        return future

    def close(self) -> None:
        """Write everything that waits, then end the thread; the store stays open."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        self.store.scrubber.close()

    def _run(self) -> None:
        outage, unseen = Outage("writing to the store"), list[str]()
        while group := self._next():
            unseen = self._write([*_taken_back(unseen), *group], outage)
        if unseen and (unseen := self._write(_taken_back(unseen), outage)):
            logger.warning("%d answers that nobody saw may stand in the log as shown", len(unseen))

    def _write(self, group: list[Pending], outage: Outage) -> list[str]:
        """Write a group; returns ids of answers that may be stored as shown although the client did not get them,
        because a transaction may have been committed even if the connection broke.
        """
        unseen = list[str]()
        try:
            outcomes: list[Any] = self.store.commit([write for write, _, _ in group])
        except BaseException as error:  # any error must reach the futures
            outcomes = [error] * len(group)
        for (write, future, _), outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, StoreUnavailable):
                self.failing[type(write)] = write
                outage.failed(outcome)
                match write:
                    case AddImpression():
                        unseen.append(write.recommendation_id)
                    case CountDeliveries(by=-1):
                        unseen += write.recommendation_ids
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                self.failing.pop(type(write), None)
                future.set_result(outcome)
        if not self.failing:
            outage.worked()
        return unseen[-MOST:]

    def _next(self) -> list[Pending]:
        """Wait for writes and take up to `MOST` rows; empty when the writer is closed."""
        with self._changed:
            group: list[Pending] = []
            taken = 0
            while not group and (self._waiting or not self._closed):
                if not self._waiting:
                    self._changed.wait()
                while self._waiting and taken < MOST:
                    write, future, rows = self._waiting.popleft()
                    self._rows -= rows
                    if future.set_running_or_notify_cancel():
                        taken += rows
                        group.append((write, future, rows))
            return group
