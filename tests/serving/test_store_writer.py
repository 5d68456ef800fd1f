"""The thread that writes, and several processes that write at once."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from what_next.errors import StoreUnavailable
from what_next.serving.store import (
    AddEvents,
    AddFeedback,
    AddImpression,
    CountDeliveries,
    EventRow,
    EventsAdded,
    Store,
    UnknownRecommendation,
    Write,
    Writer,
)
from what_next.serving.store import writer as writer_module
from what_next.serving.store.transaction import Transaction

from ..forked import Forked
from .waiting import impressions_of, rows, until, waits


def events(start: int, count: int = 1, user: str = "anna") -> AddEvents:
    return AddEvents(tuple(EventRow(f"{user}{number}", user, "i1") for number in range(start, start + count)))


class Slow:
    """A store whose first transaction waits until it is let go."""

    def __init__(self, store: Store) -> None:
        self.commit_of, self.groups = store.commit, list[int]()
        self.begun, self.go = threading.Event(), threading.Event()

    def commit(self, writes: Sequence[Write]) -> list[Any]:
        self.groups.append(len(writes))
        self.begun.set()
        assert self.go.wait(10)
        return self.commit_of(writes)


def test_all_that_waits_goes_into_one_transaction(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(store)
    monkeypatch.setattr(store, "commit", slow.commit)
    writer = Writer(store)
    first = writer.submit(events(0))
    assert slow.begun.wait(10)
    others = [writer.submit(events(number)) for number in range(1, 8)]
    refused = writer.submit(AddFeedback("f", "nothing", "i", 1.0))
    assert others[0].cancel()
    assert (writer.depth, first.done()) == (8, False)
    slow.go.set()
    assert [one.result(10) for one in (first, *others[1:])] == [EventsAdded(1, 0)] * 7
    assert isinstance(refused.exception(10), UnknownRecommendation)
    assert slow.groups == [1, 7]
    assert [e.event_id for e in store.events_of("anna")] == ["anna0", *(f"anna{number}" for number in range(2, 8))]
    writer.close()


def test_what_was_submitted_before_the_end_is_written_and_nothing_after(store: Store) -> None:
    writer = Writer(store)
    futures = [writer.submit(events(number)) for number in range(50)]
    writer.close()
    assert all(one.done() for one in futures)
    assert store.heads(["anna"])["anna"].events == 50
    with pytest.raises(StoreUnavailable, match="being closed"):
        writer.submit(events(50))


def test_a_fault_reaches_whoever_waits_and_the_next_write_is_tried(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(store)

    def broken(writes: Sequence[Write]) -> list[Any]:
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(store, "commit", broken)
        with pytest.raises(ZeroDivisionError):
            writer.submit(events(0)).result(10)
    assert writer.submit(events(0)).result(10) == EventsAdded(1, 0)
    writer.close()


@pytest.mark.parametrize("ended", [False, True])
def test_an_answer_whose_transaction_may_have_ended_is_shown_to_nobody(
    store: Store, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    writer = Writer(store)
    commit = store.commit

    def cut_off(writes: Sequence[Write]) -> list[Any]:
        if ended:
            commit(writes)
        raise StoreUnavailable("the connection is gone")

    answer = AddImpression("r1", "anna", 5, "v1", "trained", ("i1",), (1.0,))
    with monkeypatch.context() as patch:
        patch.setattr(store, "commit", cut_off)
        for write in (answer, events(0)):
            with pytest.raises(StoreUnavailable):
                writer.submit(write).result(10)
    writer.close()
    assert [one.shown for one in impressions_of(store, "anna")] == [False] * ended


def test_who_hung_up_while_the_store_is_away_is_counted_later(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(store)
    writer.submit(AddImpression("r1", "anna", 5, "v1", "trained", ("i1",), (1.0,))).result(10)
    with monkeypatch.context() as patch:
        patch.setattr(store, "commit", lambda writes: [StoreUnavailable("away")] * len(writes))
        with pytest.raises(StoreUnavailable):
            writer.submit(CountDeliveries(("r1",), -1)).result(10)
    writer.submit(events(0)).result(10)
    assert [one.shown for one in impressions_of(store, "anna")] == [False]
    writer.close()


def test_what_comes_while_too_much_waits_is_refused_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(store)
    monkeypatch.setattr(store, "commit", slow.commit)
    monkeypatch.setattr(writer_module, "FULL", 10)
    writer = Writer(store)
    first = writer.submit(events(0, 20))  # more than there is room for, but nothing waits before it
    assert slow.begun.wait(10)
    second = writer.submit(events(20, 8))
    with pytest.raises(StoreUnavailable, match="8 rows wait"):
        writer.submit(events(28, 3))
    third = writer.submit(events(28, 2))
    slow.go.set()
    assert [one.result(10).accepted for one in (first, second, third)] == [20, 8, 2]
    assert writer.submit(events(30, 10)).result(10) == EventsAdded(10, 0)
    writer.close()


def test_numbers_of_a_user_ascend_with_arrival_though_many_write_at_once(place: str) -> None:
    """Four threads with a store each, as four processes would, on three users; a reader looks on."""
    stores, stop = [Store.open(place) for _ in range(5)], threading.Event()

    def write(store: Store, name: str) -> None:
        for number in range(20):
            rows = [EventRow(f"{name}-{number}-{user}", user, "i1") for user in ("u3", "u1", "u2")]
            turned = rows if len(name) % 2 else rows[::-1]
            assert store.commit([AddEvents(tuple(turned))]) == [EventsAdded(3, 0)]

    def read(store: Store) -> list[int]:
        seen = []
        while not stop.is_set() or not seen:
            head = store.heads(["u1"]).get("u1")
            if head is not None:
                # Whoever sees a number sees all below it.
                assert len(store.events_of("u1")) >= head.last
                seen.append(head.last)
        return seen

    with ThreadPoolExecutor(5) as pool:
        reader = pool.submit(read, stores[0])
        try:
            for done in [pool.submit(write, store, "x" * turn) for turn, store in enumerate(stores[1:], 1)]:
                done.result(60)
        finally:
            stop.set()
        seen = reader.result(10)
    assert seen == sorted(seen)
    for user in ("u1", "u2", "u3"):
        found = stores[0].events_of(user)
        assert sorted(e.number for e in found) == list(range(1, 81))
        for name in ("x", "xx", "xxx", "xxxx"):
            own = sorted((e.number, int(e.event_id.split("-")[1])) for e in found if e.event_id.startswith(f"{name}-"))
            assert [number for _, number in own] == list(range(20))
    for store in stores:
        store.close()


PROGRAM = """
import os, sys
from what_next.serving.store import AddEvents, AddItems, Deploy, EventRow, NewItem, Store
turn = 0 if os.fork() else 1
store = Store.open(sys.argv[1])
for number in range(15):
    rows = tuple(EventRow(f"{number}-{user}", f"u{user}", "i1") for user in range(20))
    steps = [AddEvents(rows), AddItems((NewItem(f"{turn}-{number}", "", {}),)), Deploy(f"{turn}-{number}", "promoted")]
    os.write(1, f"{store.commit(steps)[0].accepted}\\n".encode())
store.close()
if turn == 0:
    assert os.wait()[1] == 0
"""


@pytest.mark.medium
def test_two_processes_that_send_the_same_events_at_once_store_each_once(
    place: str, forked: Forked, tmp_path: Path
) -> None:
    done = forked.run("", place, code=PROGRAM, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    accepted = [int(line) for line in done.stdout.split()]
    assert len(accepted) == 2 * 15
    assert sum(accepted) == 15 * 20
    store = Store.open(place)
    heads = store.heads([f"u{user}" for user in range(20)])
    assert {(head.last, head.events) for head in heads.values()} == {(15, 15)}
    assert [item.number for item in store.items_after(0)] == list(range(1, 31))
    assert [one.number for one in store.deployments()] == list(range(1, 31))
    store.close()


def test_feedback_to_one_answer_is_numbered_and_timed_in_the_order_of_the_commits(postgres_url: str) -> None:
    store, other = Store.open(postgres_url, clock=lambda: 1000), Store.open(postgres_url)
    store.commit([AddImpression("r1", "anna", 5, "v1", "trained", ("i1",), (1.0,))])

    def feedback(name: str) -> AddFeedback:
        return AddFeedback(name, "r1", "i1", 1.0)

    with ThreadPoolExecutor(1) as pool:
        with other.backend.engine.begin() as link:
            Transaction(link, 2000).apply([feedback("first")])
            writing = pool.submit(store.commit, [feedback("second")])
            until(waits(other))
        assert writing.result(10) == [True]
    told = rows(store, "SELECT feedback_id, time FROM feedback ORDER BY number")
    assert told == [("first", 2000), ("second", 2000)]  # though the second one's clock is behind
    store.close()
    other.close()


def test_futures_are_those_of_the_standard_library(store: Store) -> None:
    writer = Writer(store)
    assert isinstance(writer.submit(events(0)), Future)
    writer.close()
