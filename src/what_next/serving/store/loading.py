"""Filling a store with the histories of a data set."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import orjson
import polars as pl
from sqlalchemy import Connection, func, select
from tenacity import retry, retry_if_exception, stop_after_attempt

from what_next.data import Dataset
from what_next.errors import StoreError
from what_next.serving.store import tables
from what_next.serving.store.backend import PATIENCE, Backend, among, be_patient, in_the_way, insert_all
from what_next.serving.store.histories import NOTE, Histories, note, put_note
from what_next.serving.store.records import AddEvents, EventRow
from what_next.serving.store.tables import dumps

Progress = Callable[[int, int], None]
CHUNK = 50_000
"""Approximate number of events per transaction, which takes some tenths of a second; other writers wait meanwhile."""
ATTEMPTS = 20
"""Attempts at a chunk that conflicts with other writes of its users."""
LONGEST = 2600
"""Most bytes of an id in PostgreSQL: an index entry holds at most a third of a page, including overhead."""
LOADING, LOADED = "loading", "loaded"
"""Names of the store's notes: the progress of filling, and that it is done."""


def progress_of(connection: Connection) -> Any:
    """The progress of filling; None: not begun. It is locked until the transaction ends: the next chunk waits."""
    found = connection.execute(NOTE.with_for_update(), {"note": LOADING}).scalar()
    return None if found is None else orjson.loads(found)


class Filling:
    """Fills a store with a data set, some users at a time."""

    def __init__(self, backend: Backend, dataset: Dataset, clock: Callable[[], int]) -> None:
        self.backend, self.dataset, self.clock = backend, dataset, clock
        self.hash = content_hash(dataset)
        self.users = dataset.user_ids.cast(pl.String).to_list()
        self.items = dataset.catalogue.ids.cast(pl.String).to_list()

    def run(self, progress: Progress) -> int:
        """See `Store.load_histories`."""
        self._check()
        added, total = 0, self.dataset.events
        progress(0, total)
        while (done := self._next()) is not None:
            end, more = done
            added += more
            progress(int(self.dataset.offsets[end]), total)
        return added

    def _check(self) -> None:
        """Raise a `StoreError` if PostgreSQL cannot store an id of the data; SQLite can store all."""
        for kind, ids in (("user", self.users), ("item", self.items)) if not self.backend.sqlite else ():
            if odd := [one for one in ids if "\0" in one or len(one.encode()) > LONGEST]:
                raise StoreError(
                    f"{self.backend.where}: cannot hold {len(odd):,} {kind} ids of {self.dataset.name} (above "
                    f"{LONGEST:,} bytes, or with a NUL character), such as {odd[0][:40]!r}; rename them in the data"
                )

    @retry(retry=retry_if_exception(in_the_way), stop=stop_after_attempt(ATTEMPTS), reraise=True)
    def _next(self) -> tuple[int, int] | None:
        """Load one chunk; returns the first user after it and the number of new events; None if all are loaded."""
        with self.backend.engine.begin() as connection:
            if (start := self.position(connection)) is None:
                return None
            end, added = self.chunk(connection, start)
            self.remember(connection, end)
            return end, added

    def position(self, connection: Connection) -> int | None:
        """The first user who is not loaded yet; None if all are. Other processes wait for the end of this chunk."""
        # No timeouts: another process's chunk may take longer than a write may, and this one prepares its rows.
        be_patient(connection, lock_timeout=0, idle_in_transaction_session_timeout=PATIENCE)
        put_note(connection, LOADING, self._state(0), replace=False)
        state = progress_of(connection)
        if note(connection, LOADED) is not None:
            return None
        if state["hash"] != self.hash:
            raise StoreError(
                f"{self.backend.where}: was half filled from another data set than {self.dataset.name}; fill it from "
                "that one to the end, or begin with a new store"
            )
        return int(state["users"])

    def remember(self, connection: Connection, end: int) -> None:
        """Record the progress."""
        put_note(connection, LOADING, self._state(end))
        if end == self.dataset.users:
            put_note(connection, LOADED, self.hash)

    def _state(self, users: int) -> str:
        return dumps({"hash": self.hash, "users": users})

    def chunk(self, connection: Connection, start: int) -> tuple[int, int]:
        """Load the next users; returns the first user after them, and the number of new events."""
        offsets = self.dataset.offsets
        end = int(np.searchsorted(offsets, offsets[start] + CHUNK, side="right")) - 1
        end = min(max(end, start + 1), self.dataset.users)
        histories = Histories(connection, self.clock())
        ids = self.users[start:end]
        there = select(func.count()).where(among(tables.users.c.user_id, "users"))
        if histories.erasures(ids) or connection.execute(there, {"users": ids}).scalar():
            # Existing users have numbered events, perhaps these; events of erased users must not be loaded.
            outcome = histories.add([AddEvents(tuple(self._rows(start, end)))])[0]
            if isinstance(outcome, Exception):
                raise outcome
            return end, outcome.accepted
        if self.dataset.users:
            self._insert(histories, start, end)
        return end, int(offsets[end] - offsets[start])

    def _insert(self, histories: Histories, start: int, end: int) -> None:
        """Insert users who are not in the store yet: their events are numbered 1, 2, 3, ..."""
        offsets, lengths = self.dataset.offsets, self.dataset.lengths[start:end].tolist()
        columns = self._columns(int(offsets[start]), int(offsets[end]))
        latest = np.maximum.reduceat(np.array(columns[3], np.int64), offsets[start:end] - offsets[start]).tolist()
        users = self.users[start:end]
        insert_all(histories.connection, tables.users, list(zip(users, lengths, lengths, latest, strict=True)))
        accounts = histories.accounts(users)
        keys = [accounts[user].key for user, length in zip(users, lengths, strict=True) for _ in range(length)]
        numbers = [number for length in lengths for number in range(1, length + 1)]
        arrived = [histories.now] * len(keys)
        insert_all(histories.connection, tables.events, list(zip(keys, numbers, *columns, arrived, strict=True)))

    def _rows(self, start: int, end: int) -> Iterator[EventRow]:
        """The events of some users in the form that clients send."""
        offsets = self.dataset.offsets
        owners = np.repeat(np.arange(start, end), self.dataset.lengths[start:end]).tolist()
        columns = self._columns(int(offsets[start]), int(offsets[end]))
        for owner, event, item, kind, time, reward, context, _ in zip(owners, *columns, strict=True):
            yield EventRow(event, self.users[owner], item, kind, time, reward, context and orjson.loads(context))

    def _columns(self, start: int, end: int) -> tuple[list[Any], ...]:
        """The columns of some events: id, item, kind, time, reward, context, recommendation."""
        data, rows = self.dataset, range(start, end)
        none: list[Any] = [None] * len(rows)
        kinds = ["play"] * len(rows)
        if data.event_codes is not None:
            kinds = [data.event_words[code] for code in data.event_codes[start:end].tolist()]
        # Without times only the order is known: numbers near 0 are before all new events.
        times = list(range(start + 1, end + 1)) if data.timestamps is None else data.timestamps[start:end].tolist()
        rewards = none if data.rewards is None else data.rewards[start:end].tolist()
        contexts = none
        if data.context_names:
            values = data.context[start:end].tolist()
            contexts = [dumps(dict(zip(data.context_names, one, strict=True))) for one in values]
        # With leading zeros, so that ids ascend with the rows: an index is filled fastest in its own order.
        ids = [f"data:{self.hash}:{row:010d}" for row in rows]
        items = [self.items[item] for item in data.items[start:end].tolist()]
        return ids, items, kinds, times, rewards, contexts, none


def content_hash(dataset: Dataset) -> str:
    """Short SHA-256 over the catalogue, users, events, times and rewards."""
    digest = hashlib.sha256(dataset.catalogue.hash().encode())
    digest.update("\0".join(dataset.user_ids.cast(pl.String)).encode())
    for values in (dataset.offsets, dataset.items, dataset.timestamps, dataset.rewards, dataset.event_codes):
        digest.update(b"-" if values is None else np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:16]
