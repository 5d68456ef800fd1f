"""The log of an earlier export, and what came since: the store is asked for that alone."""

import json
from pathlib import Path

import polars as pl
from sqlalchemy import column, select, values

from what_next.data import Catalogue
from what_next.data.decisions.service_log import EVENT, is_service_log, rows_of
from what_next.data.files import footer_of
from what_next.errors import DataError
from what_next.serving.store import tables
from what_next.serving.store.backend import among
from what_next.serving.store.export import (
    HAPPENED,
    NAMING,
    UNTIL,
    Exported,
    Progress,
    Until,
    columns_of,
    completed,
    exported,
    frame_of,
    read_answers,
    rewarded,
    rewards_of,
    shown_to,
)
from what_next.serving.store.histories import EVENTS, NOTE, SALT, USERS, digest_of
from what_next.serving.store.store import Store

AGAIN = 10_000
"""So many of the last answers, and of the last feedback, are read again: where several processes write, a lower number
may come to be there after a higher one."""
GROUP = 500
"""Users, answers or ids that are asked for at once."""
KNOWN = {"user": pl.Int64, "user_id": pl.String, "last": pl.Int64}
SHOWN, SENT = tables.impressions.c, tables.feedback.c
NUMBERS = select(SHOWN.recommendation_id, SHOWN.number).where(among(SHOWN.recommendation_id, "answers"))
ERASED = select(tables.erased_users.c.digest)


def appended(store: Store, catalogue: Catalogue, path: Path, *, progress: Progress | None = None) -> Exported:
    """What `exported` gives; read are the rows of an earlier export, and of the store what came since.

    Late feedback to answers of the earlier export counts, and who was erased since is gone. Where there is no such file
    yet, where an earlier version wrote it, or where the store is another or was restored, all is read.

    Args:
        store, catalogue, progress: as of `exported`.
        path: of the earlier export.

    Raises:
        DataError: the file is not as it was exported, or is no exported log.
    """
    before, reason = _before(store, path)
    if before is None:
        found = exported(store, catalogue, progress=progress)
        return found if reason is None else found.noted(f"all was read: {reason}")
    until, old = Until.of(store), _old(store, path, before)
    # Answers first: whatever an answer knew is in the store by then.
    since = max(0, before.answers - AGAIN)
    again = pl.Series([one for (one,) in store.fetch(select(SHOWN.recommendation_id).where(SHOWN.number > since))])
    decided, notes = read_answers(store, since, progress)
    kept = old.filter(EVENT | ~pl.col("slate").is_in(again.cast(pl.String).implode()))
    happened = _since(store, kept)
    events = _naming(store, kept, happened)
    touched = pl.concat(
        [happened["recommendation_id"].drop_nulls(), _fed_back(store, max(0, before.feedback - AGAIN))]
    ).unique()
    late = kept.filter(~EVENT & pl.col("slate").is_in(touched.implode()))
    late = late.join(_numbers(store, late["slate"].unique()), on="slate", how="inner")
    fresh = pl.concat([late, decided], how="diagonal")
    rewards, ignored = rewards_of(store, shown_to(fresh).rename({"answer": "number"}), events)
    rest = kept.filter(EVENT | ~pl.col("slate").is_in(late["slate"].implode()))
    return completed(store, catalogue, rewarded(fresh, rewards), happened, [*notes, *ignored], until, rest)


def _before(store: Store, path: Path) -> tuple[Until | None, str | None]:
    """How far an earlier export came; else why it cannot be gone on from, None where there is none."""
    if not path.exists():
        return None, None
    if not is_service_log(path):
        raise DataError(f"{path}: is no exported log of a service, so nothing can be appended to it; name another file")
    try:
        before = Until(**json.loads(footer_of(path)[UNTIL]))
    except (KeyError, ValueError, TypeError):
        return None, f"{path} was written by an earlier version"
    found = store.fetch(select(SHOWN.number, SHOWN.recommendation_id).where(SHOWN.number >= before.answers).limit(1))
    gone = not found if before.answers else False
    if gone or (found and found[0][0] == before.answers and found[0][1] != before.slate):
        return None, f"{path} goes further than the store, which was restored or is another"
    return before, None


def _old(store: Store, path: Path, before: Until) -> pl.DataFrame:
    """The rows of an earlier export as they are read from a store; without those who were erased since."""
    rows = rows_of(path).with_columns(pl.col("user_id", "item_id", "event").cast(pl.String))
    salt = store.fetch(NOTE, note=SALT)
    since = tables.erased_users.c.time >= before.time
    if not salt or not (digests := {digest for (digest,) in store.fetch(ERASED.where(since))}):
        return rows
    gone = [user for user in rows["user_id"].unique() if digest_of(salt[0][0], user) in digests]
    return rows.filter(~pl.col("user_id").is_in(gone))


def _since(store: Store, kept: pl.DataFrame) -> pl.DataFrame:
    """The events that some rows do not hold: of each user those of a larger number."""
    users = frame_of(store.fetch(select(USERS.key, USERS.user_id, USERS.last)), KNOWN)
    last = kept.filter(EVENT).group_by("user_id").agg(pl.col("number").max().alias("after"))
    ahead = users.join(last, on="user_id", how="left").with_columns(pl.col("after").fill_null(0))
    found = [pl.DataFrame(schema=HAPPENED)]
    for some in ahead.filter(pl.col("last") > pl.col("after")).sort("user").iter_slices(GROUP):
        known = values(column("key", tables.NUMBER), column("after", tables.NUMBER), name="known")
        whose = known.data(some.select("user", "after").rows()).cte("whose")
        asked = select(*columns_of(tables.events, HAPPENED)).join_from(
            whose, tables.events, (EVENTS.user == whose.c.key) & (EVENTS.number > whose.c.after)
        )
        found.append(frame_of(store.fetch(asked), HAPPENED))
    return pl.concat(found)


def _fed_back(store: Store, after: int) -> pl.Series:
    """The answers that have feedback of a larger number."""
    asked = select(SHOWN.recommendation_id).join(tables.feedback, SENT.impression == SHOWN.number)
    found = store.fetch(asked.where(SENT.number > after).distinct())
    return pl.Series("recommendation_id", [one for (one,) in found], dtype=pl.String)


def _numbers(store: Store, slates: pl.Series) -> pl.DataFrame:
    """The numbers of some answers, by id: columns `slate` and `answer`."""
    found = [pl.DataFrame(schema={"slate": pl.String, "answer": pl.Int64})]
    for some in slates.to_frame().iter_slices(GROUP):
        rows = store.fetch(NUMBERS, answers=some.to_series().to_list())
        found.append(frame_of(rows, dict(found[0].schema)))
    return pl.concat(found)


def _naming(store: Store, kept: pl.DataFrame, happened: pl.DataFrame) -> pl.DataFrame:
    """All events that name an answer, of an earlier export and since."""
    users = frame_of(store.fetch(select(USERS.key, USERS.user_id)), {"user": pl.Int64, "user_id": pl.String})
    fresh = happened.filter(pl.col("recommendation_id").is_not_null()).join(users, on="user", how="inner")
    old = kept.filter(EVENT & pl.col("slate").is_not_null()).rename({"slate": "recommendation_id", "event": "kind"})
    old = old.with_columns(pl.col("timestamp").dt.epoch("us").alias("time"))
    return pl.concat([one.select(*NAMING).cast(pl.Schema(NAMING)) for one in (old, fresh)])
