"""What the arms of an experiment earned: the answers to their users, and the feedback to them."""

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int64
from sqlalchemy import Text, bindparam, select, type_coerce

from what_next.serving.store import tables
from what_next.serving.store.export import with_rewards
from what_next.serving.store.store import Store
from what_next.serving.store.tables import dumps

PAGE = 20_000
SHOWN = tables.impressions.c
EXPLORE = type_coerce(SHOWN.explore, Text)
OF_ARM = (
    select(SHOWN.number, SHOWN.recommendation_id, SHOWN.user_id, EXPLORE, type_coerce(SHOWN["items"], Text))
    .where(
        SHOWN.number > bindparam("after"), SHOWN.shown, SHOWN.user_id.is_not(None),
        EXPLORE.like(bindparam("like")),
    )
    .order_by(SHOWN.number)
    .limit(PAGE)
)  # fmt: skip
COLUMNS = {
    "number": pl.Int64, "slate": pl.String, "user_id": pl.String, "explore": pl.String, "items": pl.String,
}  # fmt: skip

Earned = tuple[Int64[np.ndarray, "answers"], Bool[np.ndarray, "answers"], Float64[np.ndarray, "answers"]]


def earned(store: Store, experiment: str, arm: str) -> Earned:
    """The answers to users of an experiment, oldest first: the user's number, whether the user is of the arm, and what
    the items of the answer brought together (see `rewards_of`; 0 without feedback).

    Answers by popular items in the model's place belong to the arm that they were given for.

    Raises:
        StoreUnavailable: the store cannot be read now.
    """
    found, after = [pl.DataFrame(schema=COLUMNS)], 0
    while rows := store.fetch(OF_ARM, after=after, like=f'%"experiment":{dumps(experiment)}%'):
        found.append(pl.DataFrame([tuple(row) for row in rows], COLUMNS, orient="row"))
        after = int(rows[-1][0])
    # An underscore in a name stands for any letter there.
    answers = pl.concat(found).filter(pl.col("explore").str.json_path_match("$.experiment") == experiment)
    whole = with_rewards(store, answers).with_columns(
        user=pl.col("user_id").rank("dense").cast(pl.Int64) - 1,
        ours=pl.col("explore").str.json_path_match("$.arm") == arm,
    )
    return whole["user"].to_numpy(), whole["ours"].to_numpy(), whole["reward"].to_numpy()
