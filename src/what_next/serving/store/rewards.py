"""What the items of answers brought: feedback, and events that name their answer."""

import polars as pl

from what_next.serving.store.paging import PAGE, pages, users_of
from what_next.serving.store.store import Store

EARNED = {"play": 1.0, "purchase": 1.0, "skip": 0.0}
"""The reward of an event that has none, by its kind."""
TOLD = {"item_id": pl.String, "reward": pl.Float64, "time": pl.Int64, "arrived": pl.Int64}
ITEM = ("number", "item_id")


def rewards_of(store: Store, rows: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """The reward of each item of an answer that is known: columns `number`, `item_id`, `reward`; and notes.

    The rule: feedback is the rows that were sent as such, and every event with a `recommendation_id`, for the item of
    the event, if that recommendation showed it, and to the event's user or to nobody by name. Such an event's reward is
    its own; where it has none, 1 for a play or a purchase, 0 for a skip, and for other kinds it is no feedback. An
    item's reward is that of its feedback with the latest time. Of equal times the one that the store numbered last
    counts, whatever the clock said; of a row and an event, which are numbered apart, the later arrival.

    Args:
        store: with the feedback.
        rows: the items of the answers: columns `number` and `slate` (the recommendation's id) of the answer, `user_id`
            (null: nobody by name), `item_id`.
    """
    answers = rows.select("number", "slate", "user_id").unique().sort("number")
    named, others = _named(store, answers)
    mine = named.join(rows, on=ITEM, how="semi")
    told = [_latest(found, "time", "order") for found in (_sent(store, answers), mine)]
    latest = _latest(pl.concat(told), "time", "arrived")
    others += len(named) - len(mine)
    notes = [f"{others:,} events are no feedback: the answer that they name did not show their item to their user"]
    return latest.select(*ITEM, pl.col("reward").cast(pl.Float32)), notes if others else []


def _sent(store: Store, answers: pl.DataFrame) -> pl.DataFrame:
    """The rows of feedback to some answers."""
    mark, schema = store.backend.mark, {"number": pl.Int64, **TOLD, "order": pl.Int64}
    sql = (
        "SELECT impression, item_id, reward, time, arrived, number FROM feedback "
        f"WHERE impression >= {mark} AND impression <= {mark}"
    )
    found = [pl.DataFrame(schema=schema)]
    for part in answers.iter_slices(PAGE):
        some = pl.DataFrame(store.fetch(sql, (part["number"][0], part["number"][-1])), schema, orient="row")
        found.append(_latest(some.join(part, on="number", how="semi"), "time", "order"))
    return pl.concat(found)


def _named(store: Store, answers: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """The events that name one of some answers to their user, and have a reward or one by their kind.

    And how many more name an answer to somebody else.
    """
    columns = {"user": pl.Int64, "number": pl.Int64, "recommendation_id": pl.String, "kind": pl.String, **TOLD}
    earned = pl.coalesce("reward", pl.col("kind").replace_strict(EARNED, default=None, return_dtype=pl.Float64))
    schema = {"number": pl.Int64, **TOLD, "order": pl.Int64}
    found = [pl.DataFrame(schema=schema | {"shown_to": pl.String, "user": pl.Int64})]
    for page in pages(store, "events", columns, ("user", "number"), where="recommendation_id IS NOT NULL"):
        some = page.rename({"number": "order"}).with_columns(earned.alias("reward"))
        some = some.filter(pl.col("reward").is_not_null()).join(answers, left_on="recommendation_id", right_on="slate")
        found.append(some.rename({"user_id": "shown_to"}).select(found[0].columns))
    named = pl.concat(found).join(users_of(store), on="user", how="inner")
    mine = named.filter(pl.col("shown_to").is_null() | (pl.col("shown_to") == pl.col("user_id"))).select(*schema)
    return mine, len(named) - len(mine)


def _latest(told: pl.DataFrame, *order: str) -> pl.DataFrame:
    """The last row of each item of each answer in an order."""
    return told.sort(*order, maintain_order=True).group_by(ITEM, maintain_order=True).last()
