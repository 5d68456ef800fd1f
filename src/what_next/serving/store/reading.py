"""What the store tells."""

import shutil
import sqlite3
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import delete, exc, func, insert, select, update
from sqlalchemy.pool import PoolProxiedConnection

from what_next.errors import StoreError, StoreUnavailable
from what_next.serving.store import tables
from what_next.serving.store.answers import KEPT
from what_next.serving.store.backend import Backend
from what_next.serving.store.notes import note
from what_next.serving.store.rows import Deployment, Head, Key, StoredEvent, StoredImpression, StoredItem, Withdrawal
from what_next.serving.store.writes import KeptResponse

EVENT = "number, event_id, item_id, kind, time, reward, context, recommendation_id"
IMPRESSION = (
    "number, recommendation_id, user_id, time, version, policy, fallback, explore, history, known, items, "
    "propensities, candidates, shown"
)
CHUNK = 500
"""Users that are asked for at once; SQLite takes at least 999 parameters."""
ROOM = 2**24
"""Bytes that must be free on the disk of a SQLite file: about a minute's worth of answers."""
KEYS = 2000
"""Users whose events SQLite counts at once."""


class Reading:
    """The methods of the store that read, and those that keep keys."""

    clock: Any

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def heads(self, user_ids: Sequence[str]) -> dict[str, Head]:
        """Where the events of some users end; those without events are left out."""
        found: dict[str, Head] = {}
        for start in range(0, len(user_ids), CHUNK):
            chosen = user_ids[start : start + CHUNK]
            marks, values = "= ANY(%s)", tuple[Any, ...]([list(chosen)])
            if self.backend.sqlite:  # faster than a list in JSON
                marks, values = f"IN ({','.join('?' * len(chosen))})", tuple(chosen)
            sql = f"SELECT user_id, key, last, events FROM users WHERE events > 0 AND user_id {marks}"
            for user, key, last, events in self.fetch(sql, values):
                found[user] = Head(key, last, events)
        return found

    def events_of(
        self, user_id: str, after: int = 0, limit: int | None = None, newest_first: bool = False
    ) -> list[StoredEvent]:
        """The events of a user by time, then number.

        Args:
            user_id: whose.
            after: only those with a larger number.
            limit: so many, from the start of the order.
            newest_first: the order turned round.
        """
        mark, way = self.backend.mark, "DESC" if newest_first else "ASC"
        sql = (
            f'SELECT {EVENT} FROM events WHERE "user" = (SELECT key FROM users WHERE user_id = {mark}) '
            f"AND number > {mark} ORDER BY time {way}, number {way} LIMIT {mark}"
        )
        return [_event(row) for row in self.fetch(sql, (user_id, after, 2**62 if limit is None else limit))]

    def events_after(self, users: Sequence[tuple[int, int]]) -> dict[int, list[StoredEvent]]:
        """The events of several users by time, then number, in one query; those without any are left out.

        Args:
            users: of each the key (see `heads`), and the number that all of theirs are larger than.
        """
        columns = ", ".join(f"events.{name}" for name in EVENT.split(", "))
        values: tuple[Any, ...] = tuple(map(list, zip(*users, strict=True))) or ([], [])
        wanted, join = "SELECT * FROM unnest(%s::bigint[], %s::bigint[]) AS pair (key, after)", "JOIN"
        if self.backend.sqlite:  # the cross join says which of the two is gone through first
            values = (orjson.dumps(users).decode(),)
            pair = "json_extract(value, '$[0]') AS key, json_extract(value, '$[1]') AS after"
            wanted, join = f"SELECT {pair} FROM json_each(?)", "CROSS JOIN"
        sql = (
            f'SELECT wanted.key, {columns} FROM ({wanted}) AS wanted {join} events ON events."user" = wanted.key '
            "AND events.number > wanted.after ORDER BY wanted.key, events.time, events.number"
        )
        found: dict[int, list[StoredEvent]] = {}
        for key, *row in self.fetch(sql, values):
            found.setdefault(key, []).append(_event(row))
        return found

    def impressions_of(self, user_id: str) -> list[StoredImpression]:
        """What a user was answered, in the order of arrival."""
        sql = f"SELECT {IMPRESSION} FROM impressions WHERE user_id = {self.backend.mark} ORDER BY number"
        return [_impression(row) for row in self.fetch(sql, (user_id,))]

    def users(self, query: str = "", limit: int = 20) -> list[str]:
        """Ids of users that have events, in the order of their characters, that begin with a text, case and all."""
        mark = self.backend.mark
        sql = f"SELECT user_id FROM users WHERE user_id >= {mark} AND events > 0 ORDER BY user_id LIMIT {mark}"
        return [user for (user,) in self.fetch(sql, (query, limit)) if user.startswith(query)]

    def popular(self, limit: int) -> list[tuple[str, int]]:
        """The items with most events, skips not counted; among equals by id.

        In SQLite some users at a time: sorting all events at once takes twice as long, and would keep it from putting
        its files in order. PostgreSQL does not sort, and its rows do not lie by user.
        """
        mark, counts = self.backend.mark, Counter[str]()
        sql = (
            "SELECT item_id, count(*) FROM events WHERE kind <> 'skip' "
            f'AND "user" >= {mark} AND "user" < {mark} GROUP BY item_id'
        )
        ((last,),) = self.fetch("SELECT coalesce(max(key), 0) FROM users", ())
        step = KEYS if self.backend.sqlite else last + 1
        for start in range(0, last + 1, step):
            for item, many in self.fetch(sql, (start, start + step)):
                counts[item] += many
        return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:limit]

    def items_after(self, number: int) -> list[StoredItem]:
        """Items that were added or replaced since the one with this number."""
        chosen = select(tables.items).where(tables.items.c.number > number).order_by(tables.items.c.number)
        rows = self._select(chosen)
        return [StoredItem(one.number, one.item_id, one.title, orjson.loads(one.attributes)) for one in rows]

    def withdrawals_after(self, number: int) -> list[Withdrawal]:
        """The changes of the withdrawn items since the one with this number."""
        sql = f"SELECT number, item_id, withdrawn FROM withdrawals WHERE number > {self.backend.mark} ORDER BY number"
        return [Withdrawal(last, item, bool(gone)) for last, item, gone in self.fetch(sql, (number,))]

    def response(self, key: str) -> KeptResponse | None:
        """What a request with an Idempotency-Key (its hash) was answered; None: nothing, or too long ago."""
        mark = self.backend.mark
        sql = (
            "SELECT request, recommendation_id, body, (SELECT shown FROM impressions "
            "WHERE recommendation_id = one.recommendation_id) "
            f"FROM idempotency_keys AS one WHERE key = {mark} AND time > {mark}"
        )
        for request, answer, body, shown in self.fetch(sql, (key, self.clock() - KEPT)):
            return KeptResponse(key, request, answer, body, bool(shown))
        return None

    def deployments(self) -> list[Deployment]:
        """All versions that were deployed, oldest first."""
        chosen = select(tables.deployments).order_by(tables.deployments.c.number)
        return [
            Deployment(one.number, one.version, one.kind, one.time, orjson.loads(one.note))
            for one in self._select(chosen)
        ]

    def keys(self) -> list[Key]:
        """All API keys, those that were revoked, too."""
        return [Key(*row) for row in self._select(select(tables.keys).order_by(tables.keys.c.created))]

    def add_key(self, name: str, role: str, digest: str) -> None:
        """Keep the digest of a new API key; one of the same name that was revoked is forgotten.

        Raises:
            StoreError: there is one of this name that was not revoked.
        """
        row = {"name": name, "role": role, "digest": digest, "created": self.clock()}
        try:
            with self.backend.engine.begin() as connection:
                gone = (tables.keys.c.name == name) & tables.keys.c.revoked.is_not(None)
                connection.execute(delete(tables.keys).where(gone))
                connection.execute(insert(tables.keys), row)
        except exc.IntegrityError:
            raise StoreError(f"{self.backend.where}: there is a key {name!r} already; choose another name") from None
        except exc.DBAPIError as error:
            raise self.backend.translated(error) from error

    def revoke_key(self, name: str) -> None:
        """Let an API key open nothing from now on.

        Raises:
            StoreError: there is none of this name.
        """
        keys = tables.keys.c
        gone = update(tables.keys).where(keys.name == name).values(revoked=func.coalesce(keys.revoked, self.clock()))
        with self.backend.explained(), self.backend.engine.begin() as connection:
            if not connection.execute(gone).rowcount:
                raise StoreError(f"{self.backend.where}: there is no key {name!r}")

    def ping(self) -> None:
        """Raises a `StoreUnavailable` where the database does not answer, its file is gone, or its disk is full."""
        self.fetch("SELECT 1 FROM meta LIMIT 1", ())
        if not self.backend.sqlite:
            return
        path = Path(self.backend.where)
        if not path.exists():  # whoever has it open goes on with what nobody will find again
            raise StoreUnavailable(f"{path}: is gone; put it back, or restore a back-up")
        if (free := shutil.disk_usage(path.parent).free) < ROOM:
            raise StoreUnavailable(f"{path}: its disk is full ({free:,} bytes are free); make room")

    def try_writing(self) -> None:
        """Raises a `StoreUnavailable` where nothing can be written: the only way to tell that it can be again."""
        with self.backend.explained(), self.backend.begin() as link:
            note(self.backend, link, "tried", str(self.clock()))

    def close(self) -> None:
        """Give the connections back."""
        self.backend.close()

    def _select(self, chosen: Any) -> list[Any]:
        for attempt in range(2):
            try:
                with self.backend.explained(), self.backend.reader.connect() as connection:
                    return list(connection.execute(chosen))
            except StoreError as error:
                if attempt or not _broken(error.__cause__):
                    raise
        raise AssertionError("unreachable")

    def fetch(self, sql: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """What a statement finds, past SQLAlchemy's own layers: they would cost more than the query."""
        for attempt in range(2):
            with self.backend.explained():
                connection = self.backend.reader.raw_connection()
            try:
                return _fetched(connection, sql, values)
            except Exception as error:
                if isinstance(error, sqlite3.Error):
                    raise self.backend.translated(error) from error
                if not hasattr(error, "sqlstate"):
                    raise
                # The server may have been started anew since this connection was made; the others are as old.
                connection.invalidate()
                if attempt:
                    raise self.backend.translated(error) from error
                self.backend.reader.dispose()
            finally:
                connection.close()
        raise AssertionError("unreachable")


def _fetched(connection: PoolProxiedConnection, sql: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    cursor = connection.cursor()
    try:
        cursor.execute(sql, values)
        return list(cursor.fetchall())
    finally:
        cursor.close()


def _broken(error: BaseException | None) -> bool:
    return bool(getattr(error, "connection_invalidated", False))


def _event(row: Sequence[Any]) -> StoredEvent:
    number, event, item, kind, time, reward, context, answer = row
    return StoredEvent(number, event, item, kind, time, reward, orjson.loads(context) if context else None, answer)


def _impression(row: tuple[Any, ...]) -> StoredImpression:
    number, answer, user, time, version, policy, fallback, explore, history, known, items, chances, hashed, shown = row
    return StoredImpression(
        number, answer, user, time, version, policy, fallback, orjson.loads(explore),
        None if history is None else tuple(orjson.loads(history)), known, tuple(orjson.loads(items)),
        tuple(orjson.loads(chances)), hashed, bool(shown),
    )  # fmt: skip
