"""Filling a store with the histories of a data set."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from what_next.data import Dataset
from what_next.errors import StoreError
from what_next.serving.store import AddEvents, EventRow, Store, loading
from what_next.serving.store.export import exported


def data(**more: Any) -> Dataset:
    log = pl.DataFrame(
        {
            "user_id": ["a", "b", "a", "c", "a", "b"],
            "item_id": ["x", "y", "z", "x", "y", "z"],
            "timestamp": [30, 20, 10, 40, 50, 5],
            "reward": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            "event": ["play", "skip", "play", "play", "skip", "play"],
            "hour": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        }
    )
    return Dataset.from_frame(log.drop(more.pop("without", [])), context=more.pop("context", ["hour"]), **more)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "CHUNK", 3)


def test_histories_come_in_whole_and_in_order(store: Store) -> None:
    steps: list[tuple[int, int]] = []
    assert not store.loaded
    assert store.load_histories(data(), lambda done, total: steps.append((done, total))) == 6
    assert store.loaded
    assert steps == [(0, 6), (3, 6), (6, 6)]
    found = store.events_of("a")
    assert [(e.number, e.item_id, e.time, e.reward, e.kind, e.context) for e in found] == [
        (1, "z", 10_000_000, 3.0, "play", {"hour": 3.0}),
        (2, "x", 30_000_000, 1.0, "play", {"hour": 1.0}),
        (3, "y", 50_000_000, 5.0, "skip", {"hour": 5.0}),
    ]
    heads = store.heads(["a", "b", "c"])
    assert {user: (head.last, head.events) for user, head in heads.items()} == {"a": (3, 3), "b": (2, 2), "c": (1, 1)}
    # The time of an event without one is not before what was loaded.
    store.clock = lambda: 1
    store.commit([AddEvents((EventRow("e", "a", "x"),))])
    assert store.events_of("a")[-1].time == 50_000_000


@pytest.mark.parametrize("odd", ["b\0", "\u00fc" * 2000])
def test_ids_that_postgresql_cannot_hold_are_told_before_anything_is_in(store: Store, odd: str) -> None:
    log = pl.DataFrame({"user_id": ["a", odd], "item_id": ["x", "y"]})
    if store.backend.sqlite:
        assert store.load_histories(Dataset.from_frame(log)) == 2
        return
    for dataset in (
        Dataset.from_frame(log),
        Dataset.from_frame(log.rename({"user_id": "item_id", "item_id": "user_id"})),
    ):
        with pytest.raises(
            StoreError, match=r"1 (user|item) ids.*, such as '(b\\x00|\u00fc{40})'; rename them in the data"
        ):
            store.load_histories(dataset)
        assert store.users() == []


def test_a_second_time_adds_nothing(store: Store) -> None:
    store.load_histories(data())
    assert store.load_histories(data()) == 0
    assert store.load_histories(data(without=["reward"])) == 0
    assert store.heads(["a"])["a"].events == 3


def test_what_was_broken_off_goes_on_where_it_stopped(store: Store) -> None:
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.load_histories(data(), stop)
    assert not store.loaded
    with pytest.raises(StoreError, match="half filled from another data set"):
        store.load_histories(data(without=["reward"]))
    store.commit([AddEvents((EventRow("e", "c", "y", time=1),))])  # served in between
    assert store.load_histories(data()) == 3
    assert [e.event_id == "e" for e in store.events_of("c")] == [True, False]
    assert [store.heads([user])[user].events for user in "abc"] == [3, 2, 2]
    assert store.loaded


def test_without_times_the_order_of_the_file_is_kept_before_all_that_follows(store: Store) -> None:
    store.load_histories(data(without=["timestamp", "event"]))
    store.commit([AddEvents((EventRow("e", "a", "x"),))])
    found = store.events_of("a")
    assert [(e.item_id, e.kind) for e in found] == [("x", "play"), ("z", "play"), ("y", "play"), ("x", "play")]
    assert found[-1].event_id == "e"


def test_what_was_loaded_is_exported_as_it_was(store: Store, tmp_path: Path) -> None:
    dataset = data()
    store.load_histories(dataset)
    exported(store, dataset.catalogue).write(tmp_path / "log.parquet")
    again = Dataset.read(tmp_path / "log.parquet")
    for name in ("items", "offsets", "timestamps", "rewards", "context", "event_codes"):
        assert np.array_equal(getattr(again, name), getattr(dataset, name)), name
    assert again.user_ids.to_list() == dataset.user_ids.to_list()
    assert again.event_words == dataset.event_words
