"""The log of an earlier export, and what came since: the store is asked for that alone."""

import json
from dataclasses import replace
from pathlib import Path

import polars as pl
from sqlalchemy import select

from what_next.data import Catalogue
from what_next.data.decisions.service_log import EVENT, is_service_log, rows_of
from what_next.data.files import footer_of
from what_next.errors import DataError
from what_next.serving.store import tables
from what_next.serving.store.backend import among, pairs
from what_next.serving.store.export import HAPPENED, UNTIL, Exported, Until, completed, exported, read_answers
from what_next.serving.store.histories import EVENTS, NOTE, SALT, USERS, digest_of
from what_next.serving.store.rewards import Progress, frame, slices
from what_next.serving.store.store import Store

AGAIN = 10_000
"""So many of the last answers, and of the last feedback, are read again: where several processes write, a lower number
may come to be there after a higher one."""
GROUP = 500
"""Users, answers or ids that are asked for at once."""
SHOWN, SENT = tables.impressions.c, tables.feedback.c
NUMBERS = select(SHOWN.recommendation_id.label("slate"), SHOWN.number.label("answer")).where(
    among(SHOWN.recommendation_id, "answers")
)
WANTED = pairs("users")
SINCE = select(*(EVENTS[name] for name in HAPPENED)).join_from(
    WANTED, tables.events, (EVENTS.user == WANTED.c.key) & (EVENTS.number > WANTED.c.after)
)
ERASED = select(tables.erased_users.c.digest)


def appended(store: Store, catalogue: Catalogue, path: Path, *, progress: Progress | None = None) -> Exported:
    """What `exported` gives; read are the rows of an earlier export, and of the store what came since.

    Late feedback to answers of the earlier export counts, and who was erased since is gone. Where there is no such file
    yet, where an earlier version wrote it, or where the store is another or was restored, all is read.

    Raises:
        DataError: the file is not as it was exported, or is no exported log.
    """
    before, reason = _before(store, path)
    if before is None:
        found = exported(store, catalogue, progress=progress)
        return found if reason is None else replace(found, notes=[f"all was read: {reason}", *found.notes])
    until, old = Until.of(store), _old(store, path, before)
    # Answers first: whatever an answer knew is in the store by then.
    since = max(0, before.answers - AGAIN)
    again = frame(store, select(SHOWN.recommendation_id).where(SHOWN.number > since)).to_series()
    decided, notes = read_answers(store, since, progress)
    kept = old.filter(EVENT | ~pl.col("slate").is_in(again.implode()))
    happened = _since(store, kept)
    fed_back = select(SHOWN.recommendation_id).join(tables.feedback, SENT.impression == SHOWN.number)
    fed_back = fed_back.where(SENT.number > max(0, before.feedback - AGAIN)).distinct()
    touched = pl.concat([happened["recommendation_id"].drop_nulls(), frame(store, fed_back).to_series()]).unique()
    late = kept.filter(~EVENT & pl.col("slate").is_in(touched.implode()))
    slates = late.select("slate").unique()
    numbers = pl.concat(frame(store, NUMBERS, answers=some["slate"].to_list()) for some in slices(slates, GROUP))
    fresh = pl.concat([late.join(numbers, on="slate", how="inner"), decided], how="diagonal")
    rest = kept.filter(EVENT | ~pl.col("slate").is_in(slates["slate"].implode()))
    return completed(store, catalogue, rest, fresh, happened, notes, until)


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
    users = frame(store, select(USERS.key.label("user"), USERS.user_id, USERS.last))
    last = kept.filter(EVENT).group_by("user_id").agg(pl.col("number").max().alias("after"))
    ahead = users.join(last, on="user_id", how="left").with_columns(pl.col("after").fill_null(0))
    ahead = ahead.filter(pl.col("last") > pl.col("after")).select("user", "after").sort("user")
    return pl.concat(frame(store, SINCE, users=dict(some.iter_rows())) for some in slices(ahead, GROUP))
