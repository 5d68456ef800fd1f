"""Sorting, looking up and cutting events, at the edges that small files do not reach."""

import random

import numpy as np
import polars as pl
import pytest

from what_next.data.importing.events import Events
from what_next.data.importing.ids import positions


def events(users: list[int], times: list[int]) -> Events:
    ids = pl.Series(range(max(users) + 1))
    return Events(ids, ids, np.array(users, np.int32), np.zeros(len(users), np.int32), {"timestamp": pl.Series(times)})


@pytest.mark.parametrize("span", [5, 10**3, 10**9, 2**61])
@pytest.mark.parametrize("unit", [1, 10**3, 10**6])
def test_events_sort_by_user_then_time_then_place_whatever_the_span(span: int, unit: int) -> None:
    chance = random.Random(5)
    users = [chance.randrange(50) for _ in range(2000)]
    times = [chance.randrange(-span // unit - 1, span // unit + 1) * unit for _ in users]
    expected = sorted(range(2000), key=lambda place: (users[place], times[place]))
    assert np.arange(2000)[events(users, times).order()].tolist() == expected


def test_events_in_order_are_not_moved() -> None:
    assert events([0, 0, 1, 1], [5, 5, 1, 2]).order() == slice(None)
    assert not isinstance(events([0, 0, 1, 1], [5, 4, 1, 2]).order(), slice)


@pytest.mark.parametrize(
    "ids", [[5, 3, 9], [5, -(10**15), 10**15], [2**62, -(2**62)], ["b", "a", "é"]], ids=["near", "far", "ends", "text"]
)
def test_positions_are_found_and_strangers_are_minus_one(ids: list[int] | list[str]) -> None:
    strangers = [4, 10**15 - 1, 0, -(2**63), 2**63 - 1] if isinstance(ids[0], int) else ["", "c"]
    wanted = [*ids, *strangers, *reversed(ids)]
    expected = [ids.index(one) if one in ids else -1 for one in wanted]
    assert positions(pl.Series(wanted), pl.Series(ids)).tolist() == expected
    assert positions(pl.Series(wanted), pl.Series(ids[:0], dtype=pl.Series(ids).dtype)).tolist() == [-1] * len(wanted)
