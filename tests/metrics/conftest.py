"""Small worlds, made by hand, and a stand-in for `State.histories`."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
import torch

from what_next.data import Catalogue, Dataset
from what_next.metrics.next_items import Histories
from what_next.rewards import population_sigma
from what_next.types import History


class World(NamedTuple):
    """A data set with its vectors as they are given, and what makes histories of it."""

    dataset: Dataset
    vectors: np.ndarray
    history_of: Histories
    users: np.ndarray


def histories_of(dataset: Dataset, vectors: np.ndarray) -> Histories:
    def history_of(users: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> History:
        events = (dataset.offsets[users] + starts)[:, None] + np.arange(lengths.max(initial=1))
        events = np.minimum(events, dataset.events - 1)
        distinct, rows = np.unique(users, return_inverse=True)
        heard = [dataset.items[dataset.offsets[user] : dataset.offsets[user + 1]] for user in distinct]
        sigma = np.array([population_sigma(torch.from_numpy(vectors[items])) for items in heard], np.float32)
        return History(
            users.astype(np.int32),
            dataset.items[events],
            lengths.astype(np.int64),
            np.zeros(events.shape, np.float32),
            np.zeros((*events.shape, 0), np.float32),
            sigma[rows],
        )

    return history_of


def build_world(vectors: Sequence[Sequence[float]], *histories: Sequence[int]) -> World:
    table = np.array(vectors, np.float32)
    ids = pl.Series("item_id", np.arange(len(table)))
    names = tuple(f"a{column}" for column in range(table.shape[1]))
    neutral = np.zeros(len(names), np.float32)
    dataset = Dataset(
        name="world",
        user_ids=pl.Series("user_id", np.arange(len(histories))),
        items=np.concatenate([np.array(one, np.int32) for one in histories]),
        offsets=np.cumsum([0, *map(len, histories)]),
        timestamps=None,
        rewards=None,
        context=np.zeros((sum(map(len, histories)), 0), np.float32),
        context_names=(),
        catalogue=Catalogue(ids, ids.cast(pl.String), names, table, neutral, neutral + 1),
    )
    return World(dataset, table, histories_of(dataset, table), np.arange(len(histories), dtype=np.int32))


@pytest.fixture(scope="session")
def world() -> Callable[..., World]:
    """`world(vectors, history, history, ...)`."""
    return build_world


@pytest.fixture(scope="session")
def stand_in() -> Callable[[Dataset, np.ndarray], Histories]:
    """What makes the histories of a data set in a space of given vectors."""
    return histories_of


@pytest.fixture(scope="session")
def line() -> World:
    """Four items at 0, 1, 3 and 7, and one user who heard them in that order."""
    return build_world([[0], [1], [3], [7]], [0, 1, 2, 3])


@pytest.fixture(scope="session")
def crowd() -> World:
    """40 items of 3 attributes and 6 users: of 30 events with repeats, one of 9, and one of 4."""
    rng = np.random.default_rng(0)
    histories = [rng.integers(40, size=size) for size in (30, 30, 30, 30, 9, 4)]
    return build_world(rng.standard_normal((40, 3)).tolist(), *histories)
