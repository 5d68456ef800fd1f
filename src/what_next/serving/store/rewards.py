"""The rewards of answers' items from feedback, and the store's tables as data frames."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int64
from sqlalchemy import BigInteger, Boolean, ColumnElement, Double, Select, Table, Text, bindparam, func, select, tuple_
from sqlalchemy import type_coerce as as_type

from what_next.errors import some
from what_next.serving.store import tables
from what_next.serving.store.backend import among
from what_next.serving.store.histories import EVENTS, USERS
from what_next.serving.store.records import EARNED
from what_next.serving.store.store import Store
from what_next.serving.store.tables import Json, dumps

PAGE = 20_000
"""Rows of one read: a longer one would keep SQLite from checkpointing its write-ahead log."""
AT_ONCE = 200_000
"""Approximate number of answers in memory at once: 200 MB."""
SLACK = 3600 * 10**6
"""Microseconds by which the clocks of several processes may differ."""
ITEM = ("number", "item_id")
NAMING = ("user_id", "number", "recommendation_id", "kind", "item_id", "reward", "time", "arrived")
"""Columns of events that name an answer."""
FEEDBACK = ("number", "item_id", "reward", "time", "arrived", "order")
DTYPES: dict[type[Any], Any] = {BigInteger: pl.Int64, Double: pl.Float64, Boolean: pl.Boolean}
ANSWERS, SENT = tables.impressions.c, tables.feedback.c
SENT_TO = select(
    SENT.impression.label("number"), SENT.item_id, SENT.reward, SENT.time, SENT.arrived, SENT.number.label("order")
).where(among(SENT.impression, "answers"))
Progress = Callable[[str, int, int], None]
"""Called with the name of a table, the number of rows read, and that of all its rows."""


# Tables


def frame(store: Store, statement: Select[Any], **values: Any) -> pl.DataFrame:
    """The rows of a statement as a data frame; JSON as text."""
    columns = [
        as_type(one, Text).label(one.name) if isinstance(one.type, Json) else one for one in statement.selected_columns
    ]
    rows = [tuple(row) for row in store.fetch(statement.with_only_columns(*columns), **values)]
    schema = {one.name: DTYPES.get(type(one.type), pl.String) for one in columns}
    return pl.DataFrame(rows, schema, orient="row", strict=False)


def pages(
    store: Store,
    table: Table,
    names: tuple[str, ...],
    *where: ColumnElement[bool],
    progress: Progress | None = None,
    after: int = 0,
) -> Iterator[pl.DataFrame]:
    """Some columns of a table, including its key, in pages by ascending key; there is at least one page.

    `after`: the key to start after.
    """
    key = list(table.primary_key)
    begins = tuple_(*key) > tuple_(*(bindparam(f"after_{one.name}", type_=one.type) for one in key))
    statement = select(*(table.c[name] for name in names)).where(begins, *where).order_by(*key).limit(PAGE)
    total = 0 if progress is None else store.fetch(select(func.count()).select_from(table))[0][0]
    last, read = {f"after_{one.name}": after for one in key}, 0
    while True:
        page = frame(store, statement, **last)
        read += len(page)
        if progress is not None and len(page):
            progress(table.name, read, total)
        yield page
        if len(page) < PAGE:
            return
        last = {f"after_{one.name}": page[one.name][-1] for one in key}


def slices(rows: pl.DataFrame, size: int) -> Iterator[pl.DataFrame]:
    """The rows in slices; an empty table gives one empty slice."""
    yield from rows.iter_slices(size) if len(rows) else (rows,)


def users(store: Store) -> pl.DataFrame:
    """The users: columns `user` (the key in events) and `user_id`. Read them after the events that refer to them."""
    return frame(store, select(USERS.key.label("user"), USERS.user_id))


# Rewards of items


def rewards_of(store: Store, rows: pl.DataFrame, naming: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """The known rewards of answers' items: columns `number`, `item_id`, `reward`; and notes.

    Feedback consists of the rows sent as feedback, and of every event with a `recommendation_id` whose recommendation
    showed the event's item, to the event's user or to an unnamed one. The reward of such an event is its own or, if it
    has none, 1 for a play or a purchase and 0 for a skip; events of other kinds without a reward do not count. The
    reward of an item is that of its feedback with the latest time. Ties go to the one that the store numbered last;
    between a row and an event, which are numbered separately, to the later arrival.

    Args:
        rows: the answers: columns `number`, `slate` (the recommendation's id), `user_id` (null: unnamed), and
            `item_id`, a list.
        naming: all events that name one of these answers (`NAMING`).
    """
    answers = rows.select("number", "slate", "user_id").sort("number")
    named, others = _named(naming, answers)
    shown = rows.select("number", "item_id").join(named, on="number", how="semi").explode("item_id")
    mine = named.join(shown, on=ITEM, how="semi")
    latest = _latest(pl.concat([_sent(store, answers), _latest(mine, "time", "order")]), "time", "arrived")
    others += len(named) - len(mine)
    notes = [f"{others:,} events are no feedback: the answer that they name did not show their item to their user"]
    return latest.select(*ITEM, pl.col("reward").cast(pl.Float32)), [*(notes if others else []), *_worthless(naming)]


def naming_events(store: Store, slates: pl.Series, since: int) -> pl.DataFrame:
    """The events that name one of the answers and arrived after `since`: columns `NAMING`."""
    where = EVENTS.recommendation_id.is_not(None), EVENTS.arrived > since
    found = pages(store, tables.events, ("user", *NAMING[1:]), *where)
    named = pl.concat(page.filter(pl.col("recommendation_id").is_in(slates.implode())) for page in found)
    return named.join(users(store), on="user", how="inner").select(*NAMING)


def _sent(store: Store, answers: pl.DataFrame) -> pl.DataFrame:
    """The latest row of feedback to each item of some answers."""
    parts = (frame(store, SENT_TO, answers=part["number"].to_list()) for part in slices(answers, PAGE))
    return pl.concat(_latest(part, "time", "order") for part in parts)


def _worthless(naming: pl.DataFrame) -> list[str]:
    """A note about events that name an answer, but have no reward, neither their own nor by kind."""
    kinds = naming.filter(pl.col("reward").is_null() & ~pl.col("kind").is_in(list(EARNED)))["kind"]
    if not len(kinds):
        return []
    return [
        f"{len(kinds):,} events that name an answer are no feedback: of kind {some(kinds.unique().sort().to_list())}, "
        "and without a reward; send a `reward` with them"
    ]


def _named(naming: pl.DataFrame, answers: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """The events with a reward (their own or by kind) that name an answer to their user or to an unnamed one; and the
    number of those that name an answer to another user.
    """
    earned = pl.coalesce("reward", pl.col("kind").replace_strict(EARNED, default=None, return_dtype=pl.Float64))
    some = naming.with_columns(earned.alias("reward"), pl.col("number").alias("order")).drop("number")
    some = some.filter(pl.col("reward").is_not_null())
    shown = answers.rename({"user_id": "shown_to"})
    named = some.join(shown, left_on="recommendation_id", right_on="slate")
    mine = named.filter(pl.col("shown_to").is_null() | (pl.col("shown_to") == pl.col("user_id"))).select(*FEEDBACK)
    return mine, len(named) - len(mine)


def _latest(feedback: pl.DataFrame, *order: str) -> pl.DataFrame:
    """The last row of each item of each answer, in the given order."""
    return feedback.sort(*order, maintain_order=True).group_by(ITEM, maintain_order=True).last()


# Rewards of answers


def answers(store: Store, after: int, names: tuple[str, ...], *where: ColumnElement[bool]) -> pl.DataFrame:
    """The answers that named users saw, with numbers above `after`, oldest first.

    Columns `number`, `slate`, `user_id`, `names`, and `reward`: the sum over the items (see `rewards_of`), 0 without
    feedback.

    Raises:
        StoreUnavailable: the store cannot be read now.
    """
    return pl.concat(_answers(store, after, names, *where))


def _answers(store: Store, after: int, names: tuple[str, ...], *where: ColumnElement[bool]) -> Iterator[pl.DataFrame]:
    """See `answers`: in tables of about `AT_ONCE` answers, oldest first; there is at least one table."""
    wanted = ("number", "recommendation_id", "user_id", "items", "time", *names)
    shown = (ANSWERS.shown, ANSWERS.user_id.is_not(None), *where)
    held = list[pl.DataFrame]()
    for page in pages(store, tables.impressions, wanted, *shown, after=after):
        held.append(page)
        if sum(map(len, held)) >= AT_ONCE:
            yield _with_rewards(store, pl.concat(held))
            held = []
    yield _with_rewards(store, pl.concat(held) if held else page.clear())


def _with_rewards(store: Store, found: pl.DataFrame) -> pl.DataFrame:
    """Answers with `recommendation_id` renamed to `slate`, and the column `reward`."""
    found = found.rename({"recommendation_id": "slate"})
    if not len(found):
        return found.with_columns(reward=pl.lit(0.0))
    items = found.select("number", "slate", "user_id", item_id=pl.col("items").str.json_decode(pl.List(pl.String)))
    naming = naming_events(store, found["slate"], min(found["time"]) - SLACK)
    rewards, _ = rewards_of(store, items, naming)
    sums = rewards.group_by("number").agg(pl.col("reward").cast(pl.Float64).sum())
    joined = found.join(sums, on="number", how="left", maintain_order="left")
    return joined.with_columns(pl.col("reward").fill_null(0.0))


Earned = tuple[Int64[np.ndarray, "answers"], Bool[np.ndarray, "answers"], Float64[np.ndarray, "answers"], int | None]


def earned(store: Store, experiment: str, arm: str, share: float) -> Earned:
    """The answers of an experiment: the user as an id from 0, whether the user is in the arm, and the reward; and the
    time of the first of these answers in microseconds, None without any.

    Only answers after the last one at another share of the users count (by any process): rewards change with time, so
    an arm that had more users in better days would look better. The share of answers by earlier versions is unknown,
    and counts as another share.

    Fallback answers with popular items belong to the arm that they were given for.
    """
    like = as_type(ANSWERS.explore, Text).like(f'%"experiment":{dumps(experiment)}%')
    kept, since = list[pl.DataFrame](), None
    for found in _answers(store, 0, ("explore",), like):
        told = [
            pl.col("explore").str.json_path_match(f"$.{name}").alias(name) for name in ("experiment", "share", "arm")
        ]
        # LIKE also matches other names, because an underscore matches any character.
        found = found.with_columns(told).filter(pl.col("experiment") == experiment)
        others = found["number"].filter(found["share"].cast(pl.Float64).ne_missing(share))
        if len(others):
            kept, since = [], None
            found = found.filter(pl.col("number") > others.max())
        if since is None and len(found):
            since = int(found["time"].min())  # type: ignore[arg-type]
        kept.append(
            found.select(pl.col("user_id").hash(), pl.col("arm").eq_missing(arm), "reward")
        )  # hashes, to save memory for millions of answers
    rows = pl.concat(kept)
    _, first, user = np.unique(rows["user_id"].to_numpy(), return_index=True, return_inverse=True)
    return first.argsort().argsort()[user], rows["arm"].to_numpy(), rows["reward"].to_numpy(), since
