"""What the items of answers brought: feedback, and events that name their answer."""

from typing import Any

import polars as pl

from what_next.server.store.store import Store

EARNED = {"play": 1.0, "purchase": 1.0, "skip": 0.0}
"""The reward of an event that has none, by its kind."""


def rewards_of(store: Store, rows: pl.DataFrame) -> pl.DataFrame:
    """The reward of each item of an answer that is known: columns `number`, `item_id`, `reward`.

    The rule: feedback is the rows that were sent as such, and every event with a `recommendation_id`, for the item of
    the event. Such an event's reward is its own; where it has none, 1 for a play or a purchase, 0 for a skip, and for
    other kinds it is no feedback. An item's reward is that of its feedback with the latest time, then of the latest
    arrival; feedback to what was not shown changes nothing.

    Args:
        store: with the feedback.
        rows: columns `number` and `slate` (the recommendation's id) of the answers.
    """
    answers = rows.select("number", "slate").unique()
    sent = _frame(store, "SELECT impression, item_id, reward, time, arrived FROM feedback ORDER BY number", pl.Int64)
    named = _frame(
        store,
        "SELECT recommendation_id, item_id, reward, time, arrived, kind FROM events "
        'WHERE recommendation_id IS NOT NULL ORDER BY arrived, "user", number',
        pl.String,
        kind=pl.String,
    )
    earned = pl.col("kind").replace_strict(EARNED, default=None, return_dtype=pl.Float64)
    named = named.with_columns(pl.coalesce("reward", earned)).filter(pl.col("reward").is_not_null())
    named = named.join(answers, left_on="answer", right_on="slate", maintain_order="left")
    columns = ["number", "item_id", "reward", "time", "arrived"]
    told = pl.concat([sent.rename({"answer": "number"}).select(columns), named.select(columns)])
    latest = told.sort("time", "arrived", maintain_order=True).group_by("number", "item_id", maintain_order=True).last()
    return latest.select("number", "item_id", pl.col("reward").cast(pl.Float32))


def _frame(store: Store, sql: str, answer: Any, **more: Any) -> pl.DataFrame:
    schema = {"answer": answer, "item_id": pl.String, "reward": pl.Float64, "time": pl.Int64, "arrived": pl.Int64}
    return pl.DataFrame(store.fetch(sql, ()), schema | more, orient="row")
