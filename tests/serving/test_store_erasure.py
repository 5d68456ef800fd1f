"""Who is erased is gone, and does not come back by what other processes are about to write."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import polars as pl
import pytest

from what_next.data import Dataset
from what_next.serving.store import (
    AddEvents,
    AddImpression,
    Erased,
    EraseUser,
    EventRow,
    EventsAdded,
    Store,
    loading,
    now,
)
from what_next.serving.store.transaction import Transaction

from .waiting import impressions_of, rows, until, waits

PERSON = "person-4711"


def events(start: int, count: int = 1, user: str = PERSON) -> AddEvents:
    return AddEvents(tuple(EventRow(f"e{number}", user, "i1") for number in range(start, start + count)))


def impression(name: str, user: str, key: int | None) -> AddImpression:
    return AddImpression(name, user, 5, "v1", "trained", ("i1",), (1.0,), history=("i7",), key=key)


@pytest.fixture
def two(postgres_url: str) -> Iterator[tuple[Store, Store]]:
    """Two processes on one database, so to say."""
    stores = Store.open(postgres_url), Store.open(postgres_url)
    yield stores
    for one in stores:
        one.close()


def test_an_event_that_waited_for_an_erasure_belongs_to_who_came_back(two: tuple[Store, Store]) -> None:
    store, other = two
    store.commit([events(0)])
    first = store.heads([PERSON])[PERSON]
    with ThreadPoolExecutor(1) as pool:
        with other.backend.engine.begin() as link:
            assert Transaction(link, now()).apply([EraseUser(PERSON)]) == [Erased(1, 0, 0)]
            writing = pool.submit(store.commit, [events(1)])
            until(waits(other))
        assert writing.result(10) == [EventsAdded(1, 0)]
    head = store.heads([PERSON])[PERSON]
    assert head.key != first.key
    assert (head.last, head.events) == (1, 1)
    assert [one.event_id for one in store.events_of(PERSON)] == ["e1"]
    assert rows(store, 'SELECT * FROM events WHERE "user" NOT IN (SELECT key FROM users)') == []


def test_an_erasure_that_waited_for_an_event_takes_it(two: tuple[Store, Store]) -> None:
    store, other = two
    store.commit([events(0)])
    with ThreadPoolExecutor(1) as pool:
        with other.backend.engine.begin() as link:
            assert Transaction(link, now()).apply([events(1)]) == [EventsAdded(1, 0)]
            erasing = pool.submit(store.commit, [EraseUser(PERSON)])
            until(waits(other))
        assert erasing.result(10) == [Erased(2, 0, 0)]
    assert rows(store, "SELECT * FROM events") == []


def test_an_answer_to_somebody_who_was_erased_meanwhile_is_kept_without_the_person(store: Store) -> None:
    store.commit([events(0), events(1, user="bert")])
    heads = store.heads([PERSON, "bert"])
    known, other = heads[PERSON].key, heads["bert"].key
    store.commit([EraseUser(PERSON)])
    store.commit([impression("r1", PERSON, known), impression("r2", "bert", other), impression("r3", "carl", None)])
    store.commit([events(2)])
    store.commit([impression("r4", PERSON, known)])  # who came back is another person
    assert impressions_of(store, PERSON) == []
    assert [one.history for one in impressions_of(store, "bert")] == [("i7",)]
    assert len(impressions_of(store, "carl")) == 1
    kept = rows(store, "SELECT recommendation_id, history FROM impressions WHERE user_id IS NULL ORDER BY number")
    assert kept == [("r1", None), ("r4", None)]
    store.commit([impression("r5", PERSON, store.heads([PERSON])[PERSON].key)])
    assert [one.recommendation_id for one in impressions_of(store, PERSON)] == ["r5"]


def test_an_erasure_waits_for_an_answer_that_is_being_written_and_takes_it(two: tuple[Store, Store]) -> None:
    store, other = two
    store.commit([events(0)])
    key = store.heads([PERSON])[PERSON].key
    with ThreadPoolExecutor(1) as pool:
        with other.backend.engine.begin() as link:
            Transaction(link, now()).apply([impression("r1", PERSON, key)])
            assert store.commit([events(1)]) == [EventsAdded(1, 0)]  # no other write of theirs waits
            erasing = pool.submit(store.commit, [EraseUser(PERSON)])
            until(waits(other))
        assert erasing.result(10) == [Erased(2, 1, 0)]
    assert rows(store, "SELECT * FROM impressions") == []


def late(name: str, time: int | None, user: str = PERSON) -> AddEvents:
    return AddEvents((EventRow(name, user, "i1", time=time),))


def test_an_event_from_before_an_erasure_does_not_bring_the_person_back(place: str) -> None:
    clock = [1000]
    store = Store.open(place, clock=lambda: clock[0])
    store.commit([late("timed", 500), late("timeless", None), late("ahead", 1500), late("other", 500, "bert")])
    clock[0] = 1100
    assert store.commit([EraseUser(PERSON)]) == [Erased(3, 0, 0)]
    clock[0] = 2000
    # What is sent again, and what was still on its way: in one transaction and in one write with others.
    for name, time in (("timed", 500), ("timeless", None), ("ahead", 1500), ("never came", 1100)):
        assert store.commit([late(name, time)]) == [EventsAdded(0, 0, erased=(name,))]
    both = AddEvents((*late("timed", 500).rows, EventRow("b2", "bert", "i1", time=7)))
    assert store.commit([both]) == [EventsAdded(1, 0, erased=("timed",))]
    assert rows(store, "SELECT user_id FROM users") == [("bert",)]  # not even the id is there
    # Who comes with something new is another person.
    assert store.commit([late("new", 1101), late("newer", None)]) == [EventsAdded(1, 0)] * 2
    assert store.commit([late("new", 1101), late("newer", None)]) == [EventsAdded(0, 1)] * 2
    assert [one.event_id for one in store.events_of(PERSON)] == ["new", "newer"]
    assert store.commit([late("timeless", None)]) == [EventsAdded(0, 0, erased=("timeless",))]
    assert store.commit([late("timeless", None, "bert")]) == [EventsAdded(1, 0)]
    store.close()


def test_who_was_erased_is_known_by_keyed_hashes_alone(store: Store) -> None:
    store.commit([late("secret-event", None), EraseUser(PERSON), EraseUser("never-here")])
    tables = ("erased_users", "erased_events", "meta", "users", "events")
    everything = repr([rows(store, f"SELECT * FROM {table}") for table in tables])
    assert not any(name in everything for name in (PERSON, "secret-event", "never-here"))
    unkeyed = hashlib.blake2b(PERSON.encode(), digest_size=16).hexdigest()
    assert len(rows(store, "SELECT * FROM erased_users")) == 2
    assert unkeyed not in everything
    assert store.commit([late("e", 7, "never-here")]) == [EventsAdded(0, 0, erased=("e",))]


def test_an_old_event_that_waited_for_the_erasure_of_somebody_unknown_is_late(two: tuple[Store, Store]) -> None:
    store, other = two
    with ThreadPoolExecutor(1) as pool:
        with other.backend.engine.begin() as link:
            assert Transaction(link, now()).apply([EraseUser(PERSON)]) == [Erased(0, 0, 0)]
            writing = pool.submit(store.commit, [late("old", 7)])
            until(waits(other))
        assert writing.result(10) == [EventsAdded(0, 0, erased=("old",))]
    assert rows(store, "SELECT * FROM users") == []


def test_who_was_erased_before_a_store_is_filled_is_left_out(store: Store) -> None:
    store.commit([EraseUser("b")])
    assert store.load_histories(data()) == 4
    assert sorted(store.heads(["a", "b", "c"])) == ["a", "c"]


def data() -> Dataset:
    users = ["a", "a", "b", "b", "c", "c"]
    return Dataset.from_frame(pl.DataFrame({"user_id": users, "item_id": list("xyxyxy"), "timestamp": range(6)}))


def test_who_is_erased_while_a_store_is_filled_does_not_come_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "CHUNK", 2)

    def erase(done: int, total: int) -> None:
        if done == 2:
            store.commit([EraseUser("a"), EraseUser("b"), EraseUser("c")])
            store.commit([events(0, user="c")])  # who comes back is not who was erased

    assert store.load_histories(data(), erase) == 2
    assert {user: head.events for user, head in store.heads(["a", "b", "c"]).items()} == {"c": 1}
    assert store.loaded
    store.commit([EraseUser("c")])
    assert {name for (name,) in rows(store, "SELECT name FROM meta")} - {"erased", "moment", "salt"} == {
        "loading",
        "loaded",
    }


def test_an_erasure_waits_for_the_chunk_that_puts_the_person_in(two: tuple[Store, Store]) -> None:
    store, other = two
    filling = loading.Filling(other.backend, data(), now)
    with ThreadPoolExecutor(1) as pool:
        with other.backend.engine.begin() as link:
            filling.remember(link, filling.chunk(link, filling.position(link) or 0)[0] - 1)
        with other.backend.engine.begin() as link:
            assert filling.position(link) == 2
            erasing = pool.submit(store.commit, [EraseUser("c")])
            until(waits(other))
            filling.remember(link, filling.chunk(link, 2)[0])
        assert erasing.result(10) == [Erased(2, 0, 0)]
    assert sorted(store.heads(["a", "b", "c"])) == ["a", "b"]
