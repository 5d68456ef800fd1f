"""Long reads, some rows at a time: one that held the database would keep it from putting its files in order."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import polars as pl

from what_next.serving.store.store import Store

PAGE = 20_000
"""Rows that are read at once."""
Progress = Callable[[str, int, int], None]
"""Is called with the name of a table, how many of its rows were read, and of how many."""


def users_of(store: Store) -> pl.DataFrame:
    """Who is who: columns `user`, the key that events have, and `user_id`. Read it after the events that it is for."""
    columns = {"user": pl.Int64, "user_id": pl.String}
    return pl.DataFrame(store.fetch("SELECT key, user_id FROM users", ()), columns, orient="row")


def pages(
    store: Store,
    table: str,
    columns: Mapping[str, Any],
    key: tuple[str, ...],
    *,
    where: str = "",
    progress: Progress | None = None,
) -> Iterator[pl.DataFrame]:
    """The rows of a table in the order of their key.

    Args:
        store: with the table; `columns`: of it, with their types.
        key: columns that tell rows apart, whole numbers above 0.
        where: which rows, in SQL; all, unless told.
        progress: is called after every page.
    """
    names, ordered = (", ".join(f'"{name}"' for name in some) for some in (columns, key))
    marks = ", ".join([store.backend.mark] * len(key))
    chosen = f"({ordered}) > ({marks}) {where and f'AND {where}'}"
    sql = f"SELECT {names} FROM {table} WHERE {chosen} ORDER BY {ordered} LIMIT {PAGE}"
    total = 0 if progress is None else store.fetch(f"SELECT count(*) FROM {table}", ())[0][0]
    after, read = (0,) * len(key), 0
    while rows := store.fetch(sql, after):
        page = pl.DataFrame(rows, dict(columns), orient="row", strict=False)
        after = tuple(page[name][-1] for name in key)
        read += len(page)
        if progress is not None:
            progress(table, read, total)
        yield page
