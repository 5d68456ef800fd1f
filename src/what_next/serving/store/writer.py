"""The one thread that writes: everything that waits goes into one transaction."""

import threading
from collections import deque
from concurrent.futures import Future
from typing import Any

from what_next.errors import StoreError, StoreUnavailable
from what_next.serving import logger
from what_next.serving.store.records import AddEvents, AddImpression, AddItems, CountDeliveries, Write
from what_next.serving.store.store import Store

MOST = 20_000
"""Rows that go into one transaction, at most: one that takes seconds keeps others waiting."""
FULL = 5 * MOST
"""Rows that wait, at most: some seconds' worth."""
Pending = tuple[Write, Future[Any], int]
"""A write, who waits for it, and its rows."""


class Outage:
    """Tells the log once that some work with the store (`writing to the store`) fails, and once that it works again.

    For one thread.
    """

    def __init__(self, work: str) -> None:
        self.work, self.lasts = work, False

    def failed(self, error: StoreError) -> None:
        """It failed. The error names the database, without a password, and the database's own reason."""
        if not self.lasts:
            logger.warning("%s fails: %s", self.work, error)
        self.lasts = True

    def worked(self) -> None:
        """It did not fail."""
        if self.lasts:
            logger.info("%s works again", self.work)
        self.lasts = False


def _taken_back(unseen: list[str]) -> list[Pending]:
    return [(CountDeliveries(tuple(unseen), -1), Future(), 1)] if unseen else []


class Writer:
    """Group commit: the disk is waited for once for all who wait, not once for each.

    A future is done when its write is durable; it holds the outcome, or the reason why the write was refused.

    Attributes:
        failing: by kind, the last write that the store did not take; none of a kind that it has taken since.
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
        """How many writes wait for the next transaction."""
        return len(self._waiting)

    def submit(self, write: Write) -> "Future[Any]":
        """Write when the thread comes to it.

        Raises:
            StoreUnavailable: the writer is closed, or too much waits already.
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
        """Write what waits, then end the thread; the store stays open."""
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
        """Write it; returns answers that the store may count for a client that did not get them.

        Where a connection breaks, the transaction may have been committed all the same.
        """
        unseen = list[str]()
        try:
            outcomes: list[Any] = self.store.commit([write for write, _, _ in group])
        except BaseException as error:  # whoever waits must hear of it, whatever it is
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
        """Everything that waits, up to `MOST` rows; nothing when the writer is closed."""
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
