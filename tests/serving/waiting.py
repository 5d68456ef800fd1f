"""Waiting for what another thread is about to do."""

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
    return lambda: bool(store.fetch(sql, ()))
