"""Data in which nothing is real."""

import numpy as np
import polars as pl


def made_up_log(users: int = 30, items: int = 60, events: int = 30, attributes: int = 3, seed: int = 0) -> pl.DataFrame:
    """A log in which nothing is real: random users, items and attributes, always the same for the same seed."""
    rng = np.random.default_rng(seed)
    chosen = rng.integers(items, size=users * events)
    values = rng.normal(size=(items, attributes))
    return pl.DataFrame(
        {
            "user_id": [f"user {user}" for user in np.repeat(np.arange(users), events)],
            "item_id": [f"item {item}" for item in chosen],
            **{f"attribute_{place}": values[chosen, place] for place in range(attributes)},
        }
    )
