"""The store: the truth of all histories, and of what was answered."""

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
"""Bytes that must be free on the disk of a SQLite file: about a minute's worth of answers."""
SECOND = "second"
"""What the store calls the version beside the current one."""
COUNTED = 2000
"""Users whose events SQLite counts at once."""

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
    dialect: rows.order_by("user", "time", "number")
    for dialect, rows in after_each("users", EVENTS.user, EVENTS.number, [EVENTS.user, *EVENT]).items()
}
KEPT_RESPONSE = (
    select(RESPONSES.key, RESPONSES.request, RESPONSES.recommendation_id, RESPONSES.body)
    .where(RESPONSES.key == bindparam("response"), RESPONSES.time > bindparam("since"))
)  # fmt: skip


def now() -> int:
    """Microseconds since 1970 UTC."""
    return time.time_ns() // 1000


class Store:
    """Histories, answers, feedback, new items, deployments and keys, in SQLite or PostgreSQL; safe for threads.

    Every method raises `StoreUnavailable` where the database cannot be used now (full, locked, away): nothing is lost,
    and the next call tries anew.
    """

    def __init__(self, backend: Backend, clock: Callable[[], int] = now) -> None:
        self.backend, self.clock = backend, clock
        self.scrubber = Scrubber(backend, clock)

    @classmethod
    def open(cls, place: str | Path, *, make: bool = True, clock: Callable[[], int] = now) -> "Store":
        """The store at a path (SQLite), or a URL (`sqlite:///PATH`, `postgresql://USER:PASSWORD@HOST/DATABASE`).

        `make`: whether it is made where there is none, and so is its SQLite file. `clock` tells the time, in
        microseconds since 1970 UTC.

        Raises:
            StoreError: it cannot be opened (its URL is wrong), is of a newer version, or is not there; or another
                program's tables are.
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
        """Give the connections back."""
        self.backend.close()

    # Writing

    def commit(self, writes: Sequence[records.Write]) -> records.Results:
        """Put writes into ONE durable transaction; returns the outcome of each, in their order.

        An outcome is an exception where that write alone is refused (`InvalidWrite`, `Withdrawn`, `AnsweredBefore`);
        the others are in the store then. Where the transaction fails because of a write (a number that the
        database does not hold), each write has a transaction of its own, so that it spoils no other.

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
        """One write in a transaction of its own; returns its outcome, raises what it is refused for."""
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
            return Filling(self.backend, dataset, self.clock).run(progress)

    @property
    def loaded(self) -> bool:
        """Whether `load_histories` was done."""
        return bool(self.fetch(NOTE, note=LOADED))

    def add_key(self, name: str, role: str, digest: str) -> None:
        """Keep the digest of a new API key; one of the same name that was revoked is forgotten.

        Raises:
            StoreError: there is one of this name that was not revoked.
        """
        row = {"name": name, "role": role, "digest": digest, "created": self.clock()}
        gone = (tables.keys.c.name == name) & tables.keys.c.revoked.is_not(None)
        try:
            with self.backend.begin() as connection:
                connection.execute(delete(tables.keys).where(gone))
                connection.execute(insert(tables.keys), row)
        except StoreError as error:
            if isinstance(error.__cause__, exc.IntegrityError):
                message = f"{self.backend.where}: there is a key {name!r} already; choose another name"
                raise StoreError(message) from None
            raise

    def revoke_key(self, name: str) -> None:
        """Let an API key open nothing from now on.

        Raises:
            StoreError: there is none of this name.
        """
        keys = tables.keys.c
        gone = update(tables.keys).where(keys.name == name).values(revoked=func.coalesce(keys.revoked, self.clock()))
        with self.backend.begin() as connection:
            if not connection.execute(gone).rowcount:
                raise StoreError(f"{self.backend.where}: there is no key {name!r}")

    def put_second(self, second: records.Second | None) -> None:
        """Have the services on this store answer by a second version, too; None: by the current one alone."""
        value = "" if second is None else json.dumps(asdict(second))
        with self.backend.begin() as connection:
            put_note(connection, SECOND, value)

    def try_writing(self, writes: Sequence[records.Write] = ()) -> None:
        """Raises a `StoreUnavailable` where nothing can be written: the only way to tell that it can be again.

        `writes` that failed are tried, too, and taken back: what refuses one table may take the others.
        """
        with self.backend.begin() as connection:
            put_note(connection, "tried", str(self.clock()))
            for write in writes:
                try:
                    with connection.begin_nested() as trial:
                        Transaction(connection, self.clock()).apply([write])
                        trial.rollback()
                except Exception as error:  # what cannot be stored at all says nothing of the store
                    if isinstance(error, exc.DBAPIError) and passes(error):
                        raise

    # Reading

    def fetch(self, statement: Executable, /, **values: Any) -> Sequence[Any]:
        """What a statement finds, and all of it."""
        return self.backend.fetch(statement, values)

    def try_reading(self) -> None:
        """Raises a `StoreUnavailable` where users and their events cannot be read, though the database may answer."""
        self.fetch(select(exists(select(USERS.key)), exists(select(EVENTS.number))))

    def ping(self) -> None:
        """Raises a `StoreUnavailable` where the database cannot be read, its file is gone, or its disk is full."""
        self.try_reading()
        if not self.backend.sqlite:
            return
        path = Path(self.backend.where)
        if not path.exists():  # whoever has it open goes on with what nobody will find again
            raise StoreUnavailable(f"{path}: is gone; put it back, or restore a back-up")
        if (free := shutil.disk_usage(path.parent).free) < ROOM:
            raise StoreUnavailable(f"{path}: its disk is full ({free:,} bytes are free); make room")

    def heads(self, user_ids: Sequence[str]) -> dict[str, records.Head]:
        """Where the events of some users end; those without events are left out."""
        return {user: records.Head(*head) for user, *head in self.fetch(HEADS, users=list(user_ids))}

    def events_of(self, user_id: str, limit: int = 2**62) -> list[records.StoredEvent]:
        """The latest events of a user, by time, then number: the oldest of them first."""
        return [records.StoredEvent(*row) for row in self.fetch(LATEST, user_id=user_id, most=limit)][::-1]

    def events_after(self, users: Mapping[int, int]) -> dict[int, list[records.StoredEvent]]:
        """The events of several users by time, then number, in one query; those without any are left out.

        Args:
            users: by the key of each (see `heads`), the number that all of theirs are larger than.
        """
        found: dict[int, list[records.StoredEvent]] = {}
        for key, *rest in self.fetch(AFTER[self.backend.dialect], users=users):
            found.setdefault(key, []).append(records.StoredEvent(*rest))
        return found

    def users(self, query: str = "", limit: int = 20) -> list[str]:
        """Ids of users that have events, in the order of their characters, that begin with a text, case and all."""
        found = select(USERS.user_id).where(USERS.user_id >= query, USERS.events > 0).order_by(USERS.user_id)
        return [user for (user,) in self.fetch(found.limit(limit)) if user.startswith(query)]

    def event_counts(self) -> Counter[str]:
        """How many events there are with each item, skips not counted.

        In SQLite some users at a time: sorting all events at once takes twice as long, and would keep it from putting
        its files in order. PostgreSQL does not sort, and its rows do not lie by user.
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
        """Items that were added or replaced since the one with this number."""
        items = tables.items.c
        rows = select(items.item_id, items.title, items.attributes, items.tags, items.number)
        found = self.fetch(rows.where(items.number > number).order_by(items.number))
        return [records.StoredItem(*row) for row in found]

    def withdrawals_after(self, number: int) -> list[records.Withdrawal]:
        """The changes of the withdrawn items since the one with this number."""
        changes = tables.withdrawals.c
        rows = select(changes.number, changes.item_id, changes.withdrawn).where(changes.number > number)
        return [records.Withdrawal(*row) for row in self.fetch(rows.order_by(changes.number))]

    def response(self, key: str) -> records.KeptResponse | None:
        """What a request with an Idempotency-Key (its hash) was answered; None: nothing, or too long ago."""
        found = self.fetch(KEPT_RESPONSE, response=key, since=self.clock() - KEPT)
        return records.KeptResponse(*found[0]) if found else None

    def deployments(self) -> list[records.Deployment]:
        """All versions that were deployed, oldest first."""
        return [records.Deployment(*row) for row in self.fetch(select(tables.deployments).order_by("number"))]

    def second(self) -> records.Second | None:
        """The version beside the current one; None: there is none."""
        found = self.fetch(NOTE, note=SECOND)
        return records.Second(**json.loads(found[0][0])) if found and found[0][0] else None

    def keys(self) -> list[records.Key]:
        """All API keys, those that were revoked, too."""
        return [records.Key(*row) for row in self.fetch(select(tables.keys).order_by("created"))]
