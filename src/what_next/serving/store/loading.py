"""Filling a store with the histories of a data set."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import orjson
import polars as pl

from what_next.data import Dataset
from what_next.errors import StoreError
from what_next.serving.store import tables
from what_next.serving.store.backend import AGAIN, Backend, Link, of_database, sqlstate
from what_next.serving.store.histories import ATTEMPTS, Histories
from what_next.serving.store.notes import note, note_once, told
from what_next.serving.store.writes import AddEvents, EventRow

Progress = Callable[[int, int], None]
Clock = Callable[[], int]
CHUNK = 50_000
"""Events of one transaction, about: some tenths of a second, in which other writers wait."""
LOADING, LOADED = "loading", "loaded"
"""What is remembered: how far it went, and that it was done."""


def is_loaded(link: Link) -> bool:
    """Whether a store was filled to the end."""
    return told(link, LOADED) is not None


def hold(backend: Backend, link: Link) -> None:
    """Where a store is being filled, the next chunk waits for the end of the caller's transaction, as that for this."""
    _position(backend, link)


def load(backend: Backend, dataset: Dataset, clock: Clock, progress: Progress) -> int:
    """See `Store.load_histories`."""
    loading, added, total = _Loading(backend, dataset, clock), 0, dataset.events
    progress(0, total)
    failures = 0
    while True:
        try:
            with backend.begin() as link:
                here = loading.position(link)
                if here is None:
                    return added
                end, more = loading.chunk(link, here)
                loading.remember(link, end)
        except Exception as error:
            # A user of this chunk wrote in the same moment.
            failures += 1
            if failures == ATTEMPTS or not of_database(error) or sqlstate(error) not in AGAIN:
                raise
            continue
        added, failures = added + more, 0
        progress(int(dataset.offsets[end]), total)


def _position(backend: Backend, link: Link) -> Any:
    """How far the filling went, locked; None: it never began."""
    found = told(link, LOADING, "" if backend.sqlite else " FOR UPDATE")
    return None if found is None else orjson.loads(found)


class _Loading:
    """A data set on its way into a store, some users at a time."""

    def __init__(self, backend: Backend, dataset: Dataset, clock: Clock) -> None:
        self.backend, self.dataset, self.clock = backend, dataset, clock
        self.hash = content_hash(dataset)
        self.users = dataset.user_ids.cast(pl.String).to_list()
        self.items = dataset.catalogue.ids.cast(pl.String).to_list()

    def position(self, link: Link) -> int | None:
        """The first user that is not in yet; None where all are. Other processes wait for the end of this chunk."""
        if not self.backend.sqlite:
            link.execute("SET LOCAL lock_timeout = 0")  # a chunk of another process may take longer than a write may
        note_once(self.backend, link, LOADING, self._state(0))
        state = _position(self.backend, link)
        if is_loaded(link):
            return None
        if state["hash"] != self.hash:
            raise StoreError(
                f"{self.backend.where}: was half filled from another data set than {self.dataset.name}; fill it from "
                "that one to the end, or begin with a new store"
            )
        return int(state["users"])

    def remember(self, link: Link, end: int) -> None:
        """How far it went."""
        note(self.backend, link, LOADING, self._state(end))
        if end == self.dataset.users:
            note(self.backend, link, LOADED, self.hash)

    def _state(self, users: int) -> str:
        return orjson.dumps({"hash": self.hash, "users": users}).decode()

    def chunk(self, link: Link, start: int) -> tuple[int, int]:
        """Put in the next users; returns the first user after them, and how many events were new."""
        offsets = self.dataset.offsets
        end = int(np.searchsorted(offsets, offsets[start] + CHUNK, side="right")) - 1
        end = min(max(end, start + 1), self.dataset.users)
        histories = Histories(self.backend, link, self.clock())
        ids = self.users[start:end]
        there = f"SELECT count(*) FROM users WHERE user_id {self.backend.among()}"
        if histories.erasures.moments(ids) or link.execute(there, (self.backend.listed(ids),)).fetchone()[0]:
            # A user who is here already has numbers and perhaps these very events; of one who was erased none comes in.
            outcome = histories.add([AddEvents(tuple(self._rows(start, end)))])[0]
            if isinstance(outcome, Exception):
                raise outcome
            return end, outcome.accepted
        if self.dataset.users:
            self._bulk(link, histories, start, end)
        return end, int(offsets[end] - offsets[start])

    def _bulk(self, link: Link, histories: Histories, start: int, end: int) -> None:
        """Users that are not here yet: their numbers are 1, 2, 3, ..."""
        offsets, lengths = self.dataset.offsets, self.dataset.lengths[start:end].tolist()
        columns = self._columns(int(offsets[start]), int(offsets[end]))
        latest = np.maximum.reduceat(np.array(columns[3], np.int64), offsets[start:end] - offsets[start]).tolist()
        users = self.users[start:end]
        self.backend.insert(link, tables.users, list(zip(users, lengths, lengths, latest, strict=True)))
        accounts = histories.accounts(users)
        keys = [accounts[user].key for user, length in zip(users, lengths, strict=True) for _ in range(length)]
        numbers = [number for length in lengths for number in range(1, length + 1)]
        arrived = [histories.now] * len(keys)
        self.backend.insert(link, tables.events, list(zip(keys, numbers, *columns, arrived, strict=True)))

    def _rows(self, start: int, end: int) -> Iterator[EventRow]:
        """The events of some users, as anybody else would send them."""
        offsets = self.dataset.offsets
        owners = np.repeat(np.arange(start, end), self.dataset.lengths[start:end]).tolist()
        columns = self._columns(int(offsets[start]), int(offsets[end]))
        for owner, event, item, kind, time, reward, context, _ in zip(owners, *columns, strict=True):
            yield EventRow(
                event, self.users[owner], item, kind, time, reward, orjson.loads(context) if context else None
            )

    def _columns(self, start: int, end: int) -> tuple[list[Any], ...]:
        """Of some events: id, item, kind, time, reward, context, recommendation."""
        data, rows = self.dataset, range(start, end)
        none: list[Any] = [None] * len(rows)
        kinds = ["play"] * len(rows)
        if data.event_codes is not None:
            kinds = [data.event_words[code] for code in data.event_codes[start:end].tolist()]
        # Without times the order alone is known; it lies before all that happens from now on.
        times = list(range(start + 1, end + 1)) if data.timestamps is None else data.timestamps[start:end].tolist()
        rewards = none if data.rewards is None else data.rewards[start:end].tolist()
        contexts = none
        if data.context_names:
            values = data.context[start:end].tolist()
            contexts = [orjson.dumps(dict(zip(data.context_names, one, strict=True))).decode() for one in values]
        # With leading zeros, so that ids ascend as rows do: an index is filled fastest in its own order.
        ids = [f"data:{self.hash}:{row:010d}" for row in rows]
        items = [self.items[item] for item in data.items[start:end].tolist()]
        return ids, items, kinds, times, rewards, contexts, none


def content_hash(dataset: Dataset) -> str:
    """Short SHA-256 over who did what, when, and what it brought."""
    digest = hashlib.sha256(dataset.catalogue.hash().encode())
    digest.update("\0".join(dataset.user_ids.cast(pl.String)).encode())
    for values in (dataset.offsets, dataset.items, dataset.timestamps, dataset.rewards, dataset.event_codes):
        digest.update(b"-" if values is None else np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:16]
