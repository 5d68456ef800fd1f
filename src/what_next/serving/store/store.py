"""The store: histories, answers, feedback and deployments, in a database."""

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy import Executable, bindparam, delete, exc, exists, func, insert, select, update
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_exponential

from what_next.data import Dataset
from what_next.errors import StoreError, StoreUnavailable
from what_next.serving.store import records, tables
from what_next.serving.store.answers import KEPT, RESPONSES
from what_next.serving.store.backend import Backend, after_each, among, connect, in_the_way, is_mistake, passes
from what_next.serving.store.histories import EVENTS, NOTE, USERS, put_note
from what_next.serving.store.loading import LOADED, Filling, Progress
from what_next.serving.store.migrations import migrate
from what_next.serving.store.scrubbing import Scrubber
from what_next.serving.store.transaction import Transaction

ROOM = 2**24
"""Bytes that must be free on the disk of an SQLite file: enough for answers of about a minute."""
SECOND = "second"
"""Name of the store's note about the second version."""
COUNTED = 2000
"""Users whose events SQLite counts in one query."""

HEADS = select(USERS.user_id, USERS.key, USERS.last, USERS.events).where(
    USERS.events > 0, among(USERS.user_id, "users")
)
EVENT = [EVENTS.number, EVENTS.event_id, EVENTS.item_id, EVENTS.kind, EVENTS.time, EVENTS.reward, EVENTS.context,
         EVENTS.recommendation_id]  # fmt: skip
LATEST = (
    select(*EVENT)
    .where(EVENTS.user == select(USERS.key).where(USERS.user_id == bindparam("user_id")).scalar_subquery())
    .order_by(EVENTS.time.desc(), EVENTS.number.desc())
    .limit(bindparam("most"))
)
AFTER = {
    dialect: rows.order_by("user", "time", "number") for dialect, rows in after_each([EVENTS.user, *EVENT]).items()
}
KEPT_RESPONSE = (
    select(RESPONSES.key, RESPONSES.request, RESPONSES.recommendation_id, RESPONSES.body)
    .where(RESPONSES.key == bindparam("response"), RESPONSES.time > bindparam("since"))
)  # fmt: skip


def now() -> int:
    """Microseconds since 1970 UTC."""
    return time.time_ns() // 1000


class Store:
    """Histories, answers, feedback, new items, deployments and keys, in SQLite or PostgreSQL; thread-safe.

    Every method raises `StoreUnavailable` if the database cannot be used now (full, locked, unavailable): nothing is
    lost, and the next call tries again.
    """

    def __init__(self, backend: Backend, clock: Callable[[], int] = now) -> None:
        self.backend, self.clock = backend, clock
        self.scrubber = Scrubber(backend, clock)

    @classmethod
    def open(cls, place: str | Path, *, make: bool = True, clock: Callable[[], int] = now) -> "Store":
        """The store at a path (SQLite), or a URL (`sqlite:///PATH`, `postgresql://USER:PASSWORD@HOST/DATABASE`).

        `make`: create the store, and its SQLite file, if missing. `clock` gives the time in microseconds since 1970
        UTC.

        Raises:
            StoreError: the store cannot be opened (wrong URL), is of a newer version, or is missing; or the database
                holds another program's tables.
        """
        backend = connect(place)
        try:
            migrate(backend, make)
            return cls(backend, clock)
        except BaseException as error:
            backend.close()
            if isinstance(error, StoreUnavailable) and is_mistake(error.__cause__):
                raise StoreError(str(error)) from error.__cause__
            raise

    def close(self) -> None:
        """Close the connections."""
        self.backend.close()

    # Writing

    def commit(self, writes: Sequence[records.Write]) -> records.Results:
        """Put writes into ONE durable transaction; returns the outcome of each, in their order.

        The outcome of a refused write is an exception (`InvalidWrite`, `Withdrawn`, `AnsweredBefore`); the others are
        stored. If the transaction fails because of a write (such as a number that the database cannot hold), each write
        is retried in a transaction of its own, so that it does not affect the others.

        Raises:
            StoreUnavailable: the database cannot be used now; nothing of the writes was acknowledged.
        """
        try:
            with self.backend.explained():
                return self._commit(writes)
        except StoreUnavailable:
            raise
        except Exception as error:
            if len(writes) > 1:
                return [self._alone(write) for write in writes]
            return [error if isinstance(error, StoreError) else StoreError(f"this cannot be stored ({error})")]

    def put(self, write: records.Write) -> Any:
        """Commit a single write; returns its outcome, and raises its refusal."""
        (outcome,) = self.commit([write])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    @retry(retry=retry_if_exception(in_the_way), wait=wait_exponential(0.01), stop=stop_after_attempt(6), reraise=True)
    def _commit(self, writes: Sequence[records.Write]) -> records.Results:
        with self.backend.engine.begin() as connection:
            return Transaction(connection, self.clock()).apply(writes)

    def _alone(self, write: records.Write) -> Any:
        try:
            return self.commit([write])[0]
        except StoreUnavailable as error:
            return error

    def load_histories(self, dataset: Dataset, progress: Progress = lambda done, total: None) -> int:
        """Fill the store with the histories of a data set; returns the number of new events.

        It can be interrupted and called again, and two processes may call it at once: every event is stored once. If it
        was completed before, with any data, nothing happens. Users who are erased meanwhile are left out from then on.
        Event ids are `data:HASH:ROW`.

        Args:
            dataset: the events, with their times, rewards, kinds and contexts if there are any.
            progress: called with the numbers of stored and of all events.
        """
        if self.loaded:
            return 0
        with self.backend.explained():
            return Filling(self.backend, dataset, self.clock).run(progress)

    @property
    def loaded(self) -> bool:
        """Whether `load_histories` was completed."""
        return bool(self.fetch(NOTE, note=LOADED))

    def add_key(self, name: str, role: str, digest: str) -> None:
        """Store the hash of a new API key; it replaces a revoked key of the same name.

        Raises:
            StoreError: there is a valid key of this name.
        """
        row = {"name": name, "role": role, "digest": digest, "created": self.clock()}
        gone = (tables.keys.c.name == name) & tables.keys.c.revoked.is_not(None)
        with self.backend.begin() as connection:
            connection.execute(delete(tables.keys).where(gone))
            try:
                connection.execute(insert(tables.keys), row)
            except exc.IntegrityError:
                message = f"{self.backend.where}: there is a key {name!r} already; choose another name"
                raise StoreError(message) from None

    def revoke_key(self, name: str) -> None:
        """Revoke an API key.

        Raises:
            StoreError: there is no key of this name.
        """
        keys = tables.keys.c
        gone = update(tables.keys).where(keys.name == name).values(revoked=func.coalesce(keys.revoked, self.clock()))
        with self.backend.begin() as connection:
            if not connection.execute(gone).rowcount:
                raise StoreError(f"{self.backend.where}: there is no key {name!r}")

    def put_second(self, second: records.Second | None) -> None:
        """Set the second version for all services on this store; None removes it."""
        value = "" if second is None else json.dumps(asdict(second))
        with self.backend.begin() as connection:
            put_note(connection, SECOND, value)

    def try_writing(self, writes: Sequence[records.Write] = ()) -> None:
        """Raise a `StoreUnavailable` if the store cannot be written; only an actual write can tell.

        `writes` that failed before are tried, too, and rolled back, because one table may fail and others work.
        """
        with self.backend.begin() as connection:
            put_note(connection, "tried", str(self.clock()))
            for write in writes:
                try:
                    with connection.begin_nested() as trial:
                        Transaction(connection, self.clock()).apply([write])
                        trial.rollback()
                except Exception as error:  # an invalid write says nothing about the store
                    if isinstance(error, exc.DBAPIError) and passes(error):
                        raise

    # Reading

    def fetch(self, statement: Executable, /, **values: Any) -> Sequence[Any]:
        """All rows of a statement."""
        return self.backend.fetch(statement, values)

    def try_reading(self) -> None:
        """Raise a `StoreUnavailable` if users and events cannot be read, even if the database is up."""
        self.fetch(select(exists(select(USERS.key)), exists(select(EVENTS.number))))

    def ping(self) -> None:
        """Raise a `StoreUnavailable` if the database cannot be read, its file is gone, or its disk is full."""
        self.try_reading()
        if not self.backend.sqlite:
            return
        path = Path(self.backend.where)
        if not path.exists():  # open connections still work, but their data would be lost
            raise StoreUnavailable(f"{path}: is gone; put it back, or restore a back-up")
        if (free := shutil.disk_usage(path.parent).free) < ROOM:
            raise StoreUnavailable(f"{path}: its disk is full ({free:,} bytes are free); make room")

    def heads(self, user_ids: Sequence[str]) -> dict[str, records.Head]:
        """The heads of some users; users without events are left out."""
        return {user: records.Head(*head) for user, *head in self.fetch(HEADS, users=list(user_ids))}

    def events_of(self, user_id: str, limit: int = 2**62) -> list[records.StoredEvent]:
        """The latest events of a user, by time, then number; oldest first."""
        return [records.StoredEvent(*row) for row in self.fetch(LATEST, user_id=user_id, most=limit)][::-1]

    def events_after(self, users: Mapping[int, int]) -> dict[int, list[records.StoredEvent]]:
        """New events of several users by time, then number, in one query; users without new events are left out.

        Args:
            users: for the key of each user (see `heads`), the number after which events are wanted.
        """
        found: dict[int, list[records.StoredEvent]] = {}
        for key, *rest in self.fetch(AFTER[self.backend.dialect], users=users):
            found.setdefault(key, []).append(records.StoredEvent(*rest))
        return found

    def users(self, query: str = "", limit: int = 20) -> list[str]:
        """Ids of users with events that begin with a text (case matters), sorted by code point."""
        found = select(USERS.user_id).where(USERS.user_id >= query, USERS.events > 0).order_by(USERS.user_id)
        return [user for (user,) in self.fetch(found.limit(limit)) if user.startswith(query)]

    def event_counts(self) -> Counter[str]:
        """The number of events of each item, without skips.

        SQLite counts some users at a time: sorting all events at once takes twice as long, and such a long read would
        keep SQLite from checkpointing its log. PostgreSQL does not sort, and does not store rows by user.
        """
        counts = Counter[str]()
        ((last,),) = self.fetch(select(func.coalesce(func.max(USERS.key), 0)))
        step = COUNTED if self.backend.sqlite else last + 1
        for start in range(0, last + 1, step):
            some = (EVENTS.kind != "skip", EVENTS.user >= start, EVENTS.user < start + step)
            for item, many in self.fetch(select(EVENTS.item_id, func.count()).where(*some).group_by(EVENTS.item_id)):
                counts[item] += many
        return counts

    def items_after(self, number: int) -> list[records.StoredItem]:
        """Items that were added or replaced after the one with this number."""
        items = tables.items.c
        rows = select(items.item_id, items.title, items.attributes, items.tags, items.number)
        found = self.fetch(rows.where(items.number > number).order_by(items.number))
        return [records.StoredItem(*row) for row in found]

    def withdrawals_after(self, number: int) -> list[records.Withdrawal]:
        """The changes of the withdrawn items after the one with this number."""
        changes = tables.withdrawals.c
        rows = select(changes.number, changes.item_id, changes.withdrawn).where(changes.number > number)
        return [records.Withdrawal(*row) for row in self.fetch(rows.order_by(changes.number))]

    def response(self, key: str) -> records.KeptResponse | None:
        """The stored answer of an idempotency key (its hash); None if there is none, or it has expired."""
        found = self.fetch(KEPT_RESPONSE, response=key, since=self.clock() - KEPT)
        return records.KeptResponse(*found[0]) if found else None

    def deployments(self) -> list[records.Deployment]:
        """All deployments, oldest first."""
        return [records.Deployment(*row) for row in self.fetch(select(tables.deployments).order_by("number"))]

    def second(self) -> records.Second | None:
        """The second version; None if there is none."""
        found = self.fetch(NOTE, note=SECOND)
        return records.Second(**json.loads(found[0][0])) if found and found[0][0] else None

    def keys(self) -> list[records.Key]:
        """All API keys, including revoked ones."""
        return [records.Key(*row) for row in self.fetch(select(tables.keys).order_by("created"))]
