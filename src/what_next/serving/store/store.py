"""The store: the truth of all histories, and of what was answered."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import exc

from what_next.data import Dataset
from what_next.errors import StoreError, StoreUnavailable
from what_next.serving.store.backend import AGAIN, Backend, broke, connect, of_database, passes, sqlstate
from what_next.serving.store.loading import LOADED, Progress, load
from what_next.serving.store.migrations import migrate
from what_next.serving.store.reading import Reading
from what_next.serving.store.scrubbing import Scrubber
from what_next.serving.store.transaction import Results, Transaction
from what_next.serving.store.writes import Write

TRIES = 6
"""How often a transaction is tried that another process got in the way of."""
PAUSE = 0.01
"""Seconds before the second try; twice as long before each further one."""
Clock = Callable[[], int]


def now() -> int:
    """Microseconds since 1970 UTC."""
    return time.time_ns() // 1000


class Store(Reading):
    """Histories, answers, feedback, new items, deployments and keys, in SQLite or PostgreSQL; safe for threads.

    Every method raises `StoreUnavailable` where the database cannot be used now (full, locked, away): nothing is lost,
    and the next call tries anew.
    """

    def __init__(self, backend: Backend, clock: Clock = now) -> None:
        super().__init__(backend)
        self.clock = clock
        self.scrubber = Scrubber(backend, clock)

    @classmethod
    def open(cls, place: str | Path, *, clock: Clock = now) -> "Store":
        """The store at a path (SQLite), or a URL (`sqlite:///PATH`, `postgresql://USER:PASSWORD@HOST/DATABASE`).

        Args:
            place: where it is; a SQLite file is made where there is none.
            clock: tells the time, in microseconds since 1970 UTC.

        Raises:
            StoreError: it cannot be opened, or is of a newer version.
        """
        backend = connect(place)
        try:
            migrate(backend)
            return cls(backend, clock)
        except BaseException:
            backend.close()
            raise

    def commit(self, writes: Sequence[Write]) -> Results:
        """Put writes into ONE durable transaction; returns the outcome of each, in their order.

        An outcome is an exception where that write alone is refused (`Unfit`, `UnknownRecommendation`, `NotShown`); the
        others are in the store then. Where the transaction fails because of a write (a number that the database does
        not hold), each write has a transaction of its own, so that it spoils no other.

        Raises:
            StoreUnavailable: the database cannot be used now; nothing of the writes was acknowledged.
        """
        try:
            return self._tried(writes)
        except StoreUnavailable:
            raise
        except Exception as error:
            if len(writes) > 1:
                return [self._alone(write) for write in writes]
            return [self._refusal(error)]

    def _alone(self, write: Write) -> Any:
        try:
            return self.commit([write])[0]
        except StoreUnavailable as error:
            return error

    def _refusal(self, error: Exception) -> StoreError:
        """Why a write cannot be stored."""
        if of_database(error):
            return self.backend.translated(error)
        return error if isinstance(error, StoreError) else StoreError(f"this cannot be stored ({error})")

    def _tried(self, writes: Sequence[Write]) -> Results:
        """The outcomes; tried anew where another process got in the way, or an idle connection had broken."""
        for left in reversed(range(TRIES)):
            try:
                with self.backend.begin() as link:
                    return Transaction(self.backend, link, self.clock()).apply(writes)
            except exc.TimeoutError as error:
                raise StoreUnavailable(f"{self.backend.where}: all connections are in use; try again") from error
            except Exception as error:
                if not of_database(error):
                    raise
                broken = broke(error) and left == TRIES - 1
                if not left or not (broken or sqlstate(error) in AGAIN):
                    if passes(error):
                        raise self.backend.translated(error) from error
                    raise
                time.sleep(PAUSE * 2 ** (TRIES - 1 - left))
        raise AssertionError("unreachable")

    @property
    def loaded(self) -> bool:
        """Whether `load_histories` was done."""
        return bool(self.fetch(f"SELECT 1 FROM meta WHERE name = '{LOADED}'", ()))

    def load_histories(self, dataset: Dataset, progress: Progress = lambda done, total: None) -> int:
        """Fill the store with the histories of a data set; returns how many events that added.

        It may be broken off and called again, and two processes may call it at once: every event comes in once. Where
        it was done before, with whatever data, nothing happens. Users who are erased while it runs are left out from
        then on. Event ids are `data:HASH:ROW`.

        Args:
            dataset: whose events, with their times, rewards, kinds and contexts where there are any.
            progress: is called with the number of events that are in, and of all.
        """
        if self.loaded:
            return 0
        with self.backend.explained():
            return load(self.backend, dataset, self.clock, progress)
