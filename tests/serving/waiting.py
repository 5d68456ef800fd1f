"""Waiting for what another thread is about to do, and what a store holds."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from what_next.serving.store import Store


def until(true: Callable[[], Any]) -> None:
    """Ask again and again, for ten seconds at most."""
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end, "waited in vain"


def waits(store: "Store") -> Callable[[], bool]:
    """Whether somebody waits for a lock of the database of a store in PostgreSQL."""
    sql = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return lambda: bool(rows(store, sql))


def rows(store: "Store", sql: str) -> list[Any]:
    """What a statement finds in the database itself."""
    from sqlalchemy import text

    return list(store.fetch(text(sql)))


def impressions_of(store: "Store", user_id: str) -> list[Any]:
    """What a user was answered, in the order of arrival."""
    from sqlalchemy import select

    from what_next.serving.store import tables

    kept = tables.impressions
    return list(store.fetch(select(kept).where(kept.c.user_id == user_id).order_by(kept.c.number)))
