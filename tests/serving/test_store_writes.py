"""What may be written into the store and what is read again, in both databases."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any
from uuid import uuid4

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from what_next.errors import StoreError
from what_next.serving.store import (
    AddEvents,
    AddFeedback,
    AddImpression,
    AddItems,
    AnsweredBefore,
    Conflict,
    CountDeliveries,
    Deploy,
    Erased,
    EraseUser,
    EventRow,
    EventsAdded,
    ItemsAdded,
    KeptResponse,
    NewItem,
    NotShown,
    Store,
    StoredEvent,
    UnknownRecommendation,
    Withdrawal,
    WithdrawItem,
    Withdrawn,
    answers,
    histories,
)
from what_next.serving.store import store as store_module

from .waiting import impressions_of, rows


def event(event_id: str, user: str = "anna", item: str = "i1", **more: Any) -> EventRow:
    return EventRow(event_id, user, item, **more)


def impression(name: str, user: str | None = "anna", **more: Any) -> AddImpression:
    return AddImpression(name, user, 5, "v1", "trained", ("i1", "i2"), (0.5, 0.25), **more)


def one(store: Store, write: Any) -> Any:
    return store.commit([write])[0]


def test_an_event_that_is_sent_again_is_in_the_store_once(store: Store) -> None:
    assert one(store, AddEvents((event("e1"), event("e1"), event("e2")))) == EventsAdded(2, 1)
    assert one(store, AddEvents((event("e2"), event("e3")))) == EventsAdded(1, 1)
    assert [(e.number, e.event_id) for e in store.events_of("anna")] == [(1, "e1"), (2, "e2"), (3, "e3")]


CONTENT = {"time": 7, "kind": "rating", "reward": 0.1, "context": {"hour": 3.5, "day": 1.0}, "recommendation_id": "r1"}
OTHERS: list[dict[str, Any]] = [
    {"user": "bert"}, {"item": "i9"}, {"time": 8}, {"kind": "play"}, {"reward": 0.2}, {"reward": None},
    {"context": {"hour": 3.5}}, {"context": None}, {"recommendation_id": "r2"}, {"recommendation_id": None},
]  # fmt: skip


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_another_event_under_an_id_that_is_there_is_refused_and_the_first_one_stays(
    store: Store, other: dict[str, Any]
) -> None:
    first, second = event("e1", **CONTENT), event("e1", **CONTENT | other)
    fine = event("e2", "carl")
    # In one write, in two of one transaction, and in two transactions; each time all of the write or none of it.
    results = store.commit([AddEvents((first, second)), AddEvents((first,)), AddEvents((fine, second))])
    assert isinstance(results[0], Conflict)
    assert results[1] == EventsAdded(1, 0, ("e1",))
    assert isinstance(results[2], Conflict)
    again = one(store, AddEvents((fine, event("e3"), second)))
    assert isinstance(again, Conflict)
    assert (again.place, again.field) == (2, "event_id")
    assert store.heads(["bert", "carl"]) == {}
    told = [(e.item_id, e.kind, e.time, e.reward, e.context) for e in store.events_of("anna")]
    assert told == [("i1", "rating", 7, 0.1, {"hour": 3.5, "day": 1.0})]
    turned = event("e1", **CONTENT | {"context": {"day": 1.0, "hour": 3.5}})
    assert one(store, AddEvents((fine, turned))) == EventsAdded(1, 1, ("e1",))


def test_of_two_processes_with_other_content_under_one_id_one_is_told_of_the_conflict(place: str) -> None:
    stores = [Store.open(place), Store.open(place)]
    answer = impression("r1")
    stores[0].commit([answer])
    with ThreadPoolExecutor(8) as pool:
        for number in range(12):
            writes = [AddEvents((event(f"e{number}", f"user-{user}"),)) for user in range(4)]
            found = list(pool.map(lambda place, write: one(stores[place % 2], write), range(4), writes))
            assert sorted(type(outcome) is Conflict for outcome in found) == [False, True, True, True]
            feedback = [AddFeedback(f"f{number}", "r1", "i1", float(value)) for value in range(4)]
            found = list(pool.map(lambda place, write: one(stores[place % 2], write), range(4), feedback))
            assert sorted(type(outcome) is Conflict for outcome in found) == [False, True, True, True]
    assert rows(stores[0], "SELECT count(*) FROM events") == [(12,)]
    for store in stores:
        store.close()


def test_an_event_without_a_time_is_the_same_when_it_is_sent_again(store: Store) -> None:
    one(store, AddEvents((event("e1"), event("e2", time=5))))
    (first, _) = sorted(store.events_of("anna"), key=lambda e: e.event_id)
    assert one(store, AddEvents((event("e1"), event("e2")))) == EventsAdded(0, 2)
    assert one(store, AddEvents((event("e1", time=first.time),))) == EventsAdded(0, 1)
    assert isinstance(one(store, AddEvents((event("e1", time=first.time - 1),))), Conflict)
    assert one(store, AddEvents((event("z", time=0), event("z", time=0)))) == EventsAdded(1, 1)
    assert isinstance(one(store, AddEvents((event("z", time=1),))), Conflict)


def test_other_feedback_under_an_id_that_is_there_is_refused(store: Store) -> None:
    store.commit([impression("r1"), impression("r2")])
    row = AddFeedback("f1", "r1", "i1", 1.0, 7)
    assert one(store, row) is True
    others = [replace(row, recommendation_id="r2"), replace(row, item_id="i2"), replace(row, reward=2.0)]
    for number, other in enumerate((*others, replace(row, time=8))):
        refused = one(store, other)
        assert isinstance(refused, Conflict)
        assert (refused.place, refused.field) == (0, "feedback_id")
        new = replace(row, feedback_id=f"new-{number}")
        taken, refused = store.commit([new, replace(other, feedback_id=f"new-{number}")])  # in one transaction
        assert taken is True
        assert isinstance(refused, Conflict)
    stored = [("f1", 1.0), *((f"new-{number}", 1.0) for number in range(4))]
    assert rows(store, "SELECT feedback_id, reward FROM feedback ORDER BY number") == stored
    assert store.commit([row, replace(row, time=None)]) == [False, False]


def test_an_event_that_names_an_answer_which_does_not_fit_is_kept_and_named(store: Store) -> None:
    answers = [impression("r1"), impression("r2", None), impression("r3", shown=False)]
    store.commit([AddEvents((event("e0"),)), *answers])
    rows = (
        event("fits", recommendation_id="r1"),
        event("of nobody", "bert", "i2", recommendation_id="r2"),
        event("unknown", recommendation_id="r9"),
        event("not shown", item="i3", recommendation_id="r1"),
        event("of another", "bert", recommendation_id="r1"),
        event("of a shadow", recommendation_id="r3"),
        event("names none"),
    )
    bad = ("unknown", "not shown", "of another", "of a shadow")
    first, second = store.commit([AddEvents(rows), AddEvents((event("another", recommendation_id="r1"),))])
    assert (first, second) == (EventsAdded(7, 0, bad), EventsAdded(1, 0))
    assert one(store, AddEvents(rows)) == EventsAdded(0, 7, bad)
    assert {e.event_id for e in store.events_of("bert")} == {"of nobody", "of another"}


def test_an_id_that_two_writes_of_one_transaction_share_is_accepted_for_the_first_of_them(store: Store) -> None:
    assert store.commit([AddEvents((event("e1"),)), AddEvents((event("e1"), event("e2")))]) == [
        EventsAdded(1, 0),
        EventsAdded(1, 1),
    ]


def test_all_that_is_known_of_an_event_is_read_again(store: Store) -> None:
    whole = event("é\U0001f3b5", time=7, kind="rating", reward=0.1, context={"hour": 3.5}, recommendation_id="r1")
    one(store, AddEvents((whole, event("e2", time=8))))
    assert store.events_of("anna") == [
        StoredEvent(1, "é\U0001f3b5", "i1", "rating", 7, 0.1, {"hour": 3.5}, "r1"),
        StoredEvent(2, "e2", "i1", "play", 8, None, None, None),
    ]


def test_events_come_by_time_and_then_by_arrival(store: Store) -> None:
    times = (50, 10, 50, 30)
    one(store, AddEvents(tuple(event(f"e{place}", time=time) for place, time in enumerate(times, 1))))
    assert [e.number for e in store.events_of("anna")] == [2, 4, 1, 3]
    assert [e.number for e in store.events_of("anna", 2)] == [1, 3]
    assert store.events_of("nobody") == []


def test_an_event_without_a_time_is_never_before_the_latest_of_its_user(place: str) -> None:
    clock = iter([100, 40, 41])
    store = Store.open(place, clock=lambda: next(clock))
    one(store, AddEvents((event("e1"), event("e2", time=120), event("e3"))))
    one(store, AddEvents((event("e4"), event("e5", "bert"))))  # the clock has jumped back
    assert [(e.event_id, e.time) for e in store.events_of("anna")] == [
        ("e1", 100),
        ("e2", 120),
        ("e3", 120),
        ("e4", 120),
    ]
    assert [e.time for e in store.events_of("bert")] == [40]
    store.close()


def test_heads_tell_of_users_with_events_alone(store: Store) -> None:
    one(store, AddEvents((event("e1"), event("e2"), event("e3", "bert"))))
    one(store, impression("r1", "carl"))
    one(store, AddEvents((event("e1", "dora"),)))  # refused
    heads = store.heads(["anna", "bert", "carl", "dora", "nobody"])
    assert {user: (head.last, head.events) for user, head in heads.items()} == {"anna": (2, 2), "bert": (1, 1)}
    assert store.heads([]) == {}
    many = [f"u{number}" for number in range(1200)]
    one(store, AddEvents(tuple(event(f"m{user}", user) for user in many)))
    assert len(store.heads(many)) == 1200


def test_an_answer_is_read_again_and_written_once(store: Store) -> None:
    told = {"fallback": "deadline", "explore": {"temperature": 0.5, "seed": None}, "history": ("i7",), "known": 3}
    assert one(store, impression("r1", **told, shown=False)) is None
    assert one(store, impression("r1", "bert")) is None
    (found,) = impressions_of(store, "anna")
    assert (found.recommendation_id, found.items, found.propensities) == ("r1", ("i1", "i2"), (0.5, 0.25))
    assert (found.fallback, found.explore, found.history, found.known) == tuple(told.values())
    assert (found.version, found.policy, found.shown, found.time) == ("v1", "trained", False, 5)
    assert impressions_of(store, "bert") == []


def test_feedback_is_taken_once_and_refused_alone_where_it_fits_nothing(store: Store) -> None:
    row = AddFeedback("f1", "r1", "i1", 1.0)
    outcomes = store.commit(
        [
            row,
            row,
            AddFeedback("f3", "r1", "i9", 1.0),
            AddFeedback("f4", "nothing", "i1", 1.0),
            AddFeedback("f5", "r2", "i1", 1.0),
            impression("r1"),
            impression("r2", shown=False),
        ]
    )
    assert outcomes[:2] == [True, False]
    assert isinstance(outcomes[2], NotShown)
    assert isinstance(outcomes[3], UnknownRecommendation)
    assert isinstance(outcomes[4], UnknownRecommendation)  # nobody saw that answer
    # Of what was refused nothing is in the store: its id is free.
    assert store.commit([AddFeedback("f3", "r1", "i1", 1.0), row]) == [True, False]


def test_items_are_numbered_on_so_that_a_reader_misses_none(store: Store) -> None:
    assert one(store, AddItems((NewItem("a", "A", {"x": 1.0}), NewItem("b", "B", {})))) == ItemsAdded(2, 0)
    assert [(item.number, item.item_id) for item in store.items_after(0)] == [(1, "a"), (2, "b")]
    again = [AddItems((NewItem("b", "B2", {"x": 2.0}),)), AddItems((NewItem("b", "B3", {"x": 3.0}),))]
    assert store.commit(again) == [ItemsAdded(1, 1), ItemsAdded(1, 1)]
    (item,) = store.items_after(2)
    assert (item.number, item.item_id, item.title, item.attributes) == (4, "b", "B3", {"x": 3.0})


def test_an_item_keeps_its_tags_until_others_are_told(store: Store) -> None:
    tagged = [NewItem("a", "A", {}, {"artist": ["Queen"]}), NewItem("a", "B", {}), NewItem("b", "", {})]
    store.commit([AddItems(tuple(tagged)), AddItems((NewItem("a", "C", {}),))])
    assert {item.item_id: (item.title, item.tags) for item in store.items_after(0)} == {
        "a": ("C", {"artist": ["Queen"]}),
        "b": ("", None),
    }
    one(store, AddItems((NewItem("a", "D", {}), NewItem("b", "", {}, {"genre": ["rock", "pop"]}))))
    latest = store.items_after(0)
    assert [item.tags for item in latest] == [{"artist": ["Queen"]}, {"genre": ["rock", "pop"]}]
    one(store, AddItems((NewItem("a", "E", {}, {}),)))
    assert [item.tags for item in store.items_after(latest[-1].number)] == [{}]


def test_an_item_is_withdrawn_until_it_is_put_again_and_every_change_is_kept(store: Store) -> None:
    assert store.commit([WithdrawItem("a"), WithdrawItem("b"), WithdrawItem("a")]) == [True, True, False]
    assert one(store, WithdrawItem("b")) is False
    assert one(store, AddItems((NewItem("b", "B", {}), NewItem("c", "C", {})))) == ItemsAdded(2, 0)
    assert one(store, WithdrawItem("b")) is True
    changes = [(1, "a", True), (2, "b", True), (3, "b", False), (4, "b", True)]
    assert store.withdrawals_after(0) == [Withdrawal(*change) for change in changes]
    assert store.withdrawals_after(3) == [Withdrawal(4, "b", True)]


def test_an_answer_with_an_item_that_was_withdrawn_while_it_was_made_is_refused_alone(store: Store) -> None:
    one(store, WithdrawItem("i2"))
    mine, theirs = impression("r1"), AddImpression("r2", "anna", 5, "v1", "trained", ("i3",), (1.0,))
    late, known = store.commit([mine, theirs])
    assert (type(late), known) == (Withdrawn, None)
    assert [one.recommendation_id for one in impressions_of(store, "anna")] == ["r2"]
    one(store, AddItems((NewItem("i2", "", {}),)))
    assert one(store, impression("r3", withdrawn=2)) is None


def repeated(name: str, idempotency: str = "k1", user: str | None = "anna", **more: Any) -> AddImpression:
    return impression(name, user, response=KeptResponse(idempotency, "body", name, f'"{name}"'), **more)


def test_a_key_is_answered_once_and_that_answer_is_kept_for_a_day(place: str) -> None:
    clock = [10**15]
    store = Store.open(place, clock=lambda: clock[0])
    first, second, other = store.commit([repeated("r1"), repeated("r2"), repeated("r3", "k2")])
    assert (first, type(second), other) == (None, AnsweredBefore, None)
    assert isinstance(one(store, repeated("r4")), AnsweredBefore)
    assert store.response("k1") == KeptResponse("k1", "body", "r1", '"r1"')
    assert [one.recommendation_id for one in impressions_of(store, "anna")] == ["r1", "r3"]
    clock[0] += 24 * 3600 * 10**6
    assert store.response("k1") is None
    assert one(store, repeated("r5")) is None
    kept = store.response("k1")
    assert kept is not None
    assert kept.recommendation_id == "r5"
    assert rows(store, "SELECT key FROM idempotency_keys") == [("k1",)]
    store.close()


def test_answers_to_keys_are_bounded_in_number(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MOST", 3)
    for number in range(6):
        one(store, repeated(f"r{number}", f"k{number}"))
    assert [store.response(f"k{number}") is not None for number in range(6)] == [False, False, True, True, True, True]


def test_answers_to_keys_go_with_the_person_and_none_is_kept_of_who_is_gone(store: Store) -> None:
    store.commit([AddEvents((event("e1"),)), repeated("r1"), repeated("r2", "k2", None)])
    key = store.heads(["anna"])["anna"].key
    store.commit([EraseUser("anna"), repeated("r3", "k3", key=key)])
    assert [store.response(one) is not None for one in ("k1", "k2", "k3")] == [False, True, False]


def test_what_nobody_saw_can_be_marked_and_shown_after_all(store: Store) -> None:
    store.commit([repeated("r1"), impression("r2"), CountDeliveries(("r1", "r2", "unknown"), -1)])
    assert [one.shown for one in impressions_of(store, "anna")] == [False, False]
    assert isinstance(one(store, AddFeedback("f", "r1", "i1", 1.0)), UnknownRecommendation)
    one(store, CountDeliveries(("r1",), 1))
    assert [one.shown for one in impressions_of(store, "anna")] == [True, False]


@pytest.mark.parametrize("order", sorted(set(permutations((1, 1, -1)))))
def test_an_answer_is_shown_while_a_client_has_it_in_whatever_order_that_is_written(
    store: Store, order: tuple[int, ...]
) -> None:
    store.commit([impression("r1"), CountDeliveries(("r1",), -1)])  # the first client hung up
    for by in order:
        one(store, CountDeliveries(("r1",), by))
    assert impressions_of(store, "anna")[0].shown


def test_who_hung_up_counts_only_where_the_answer_counted(store: Store) -> None:
    store.commit([impression("r1", shown=False), CountDeliveries(("r1",), -1), CountDeliveries(("r1",), -1)])
    one(store, CountDeliveries(("r1",), 1))
    assert impressions_of(store, "anna")[0].shown


def test_deployments_are_numbered_and_keep_their_notes(store: Store) -> None:
    assert store.commit([Deploy("a", "first"), Deploy("b", "promoted", {"recall": 0.5})]) == [1, 2]
    assert one(store, Deploy("a", "rolled back")) == 3
    # Whoever is told late that it was done, and does it again, does nothing.
    assert store.commit([Deploy("a", "rolled back"), Deploy("a", "promoted")]) == [3, 3]
    assert [(d.number, d.version, d.kind, dict(d.note)) for d in store.deployments()] == [
        (1, "a", "first", {}),
        (2, "b", "promoted", {"recall": 0.5}),
        (3, "a", "rolled back", {}),
    ]


def test_erasure_takes_everything_of_a_person_and_of_nobody_else(store: Store) -> None:
    for user in ("anna", "bert"):
        one(store, AddEvents((event(f"{user}1", user), event(f"{user}2", user))))
        one(store, impression(f"r-{user}", user))
        one(store, AddFeedback(f"f-{user}", f"r-{user}", "i1", 1.0))
    before = store.heads(["anna", "bert"])
    assert one(store, EraseUser("anna")) == Erased(2, 1, 1)
    assert one(store, EraseUser("anna")) == Erased(0, 0, 0)
    assert store.heads(["anna", "bert"]) == {"bert": before["bert"]}
    assert (store.events_of("anna"), impressions_of(store, "anna")) == ([], [])
    assert (len(store.events_of("bert")), len(impressions_of(store, "bert"))) == (2, 1)
    assert isinstance(one(store, AddFeedback("f", "r-anna", "i1", 1.0)), UnknownRecommendation)


def test_who_comes_back_after_an_erasure_is_another_person(store: Store) -> None:
    one(store, AddEvents((event("e1"),)))
    first = store.heads(["anna"])["anna"]
    # The last of all keys would be the first to be used again.
    outcomes = store.commit(
        [AddEvents((event("e2"),)), EraseUser("anna"), AddEvents((event("e3"),)), EraseUser("bert")]
    )
    assert outcomes == [EventsAdded(1, 0), Erased(2, 0, 0), EventsAdded(1, 0), Erased(0, 0, 0)]
    second = store.heads(["anna"])["anna"]
    assert second.key > first.key
    assert (second.last, second.events) == (1, 1)
    assert [e.event_id for e in store.events_of("anna")] == ["e3"]


def test_events_of_items_are_counted_but_for_skips(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "COUNTED", 2)
    plays = [event(f"a{n}", item="a") for n in range(2)] + [event(f"b{n}", item="b") for n in range(3)]
    skips = [event(f"s{n}", item="a", kind="skip") for n in range(5)]
    one(store, AddEvents((*plays, *skips, event("c", "bert", "c"), event("d", "carl", "0"), event("x", "dora", "x"))))
    one(store, EraseUser("dora"))
    one(store, AddEvents((event("d2", "emil", "0"),)))
    assert store.event_counts() == {"b": 3, "0": 2, "a": 2, "c": 1}


def test_users_are_found_by_how_their_ids_begin_case_and_all(store: Store) -> None:
    ids = ("b1", "a2", "a1", "a%b", "A1", "a-3", "é1", "\U0010ffff1", "_")
    one(store, AddEvents(tuple(event(f"e-{user}", user) for user in ids)))
    assert store.users("a") == ["a%b", "a-3", "a1", "a2"]
    assert store.users("a%") == ["a%b"]
    assert store.users("A") == ["A1"]
    assert store.users("é") == ["é1"]
    assert store.users("\U0010ffff") == ["\U0010ffff1"]
    assert store.users("c") == []
    assert store.users(limit=3) == ["A1", "_", "a%b"]


def test_users_are_searched_by_the_index(store: Store) -> None:
    sql = "SELECT user_id FROM users WHERE user_id >= 'a' AND events > 0 ORDER BY user_id LIMIT 20"
    if store.backend.sqlite:
        ((*_, plan),) = rows(store, f"EXPLAIN QUERY PLAN {sql}")
        assert plan == "SEARCH users USING INDEX sqlite_autoindex_users_1 (user_id>?)"
        return
    with store.backend.engine.begin() as link:
        link.exec_driver_sql("SET LOCAL enable_seqscan = off")  # the table is too small for the planner to care
        plan = "".join(line for (line,) in link.exec_driver_sql(f"EXPLAIN {sql}").fetchall())
    assert "Index Scan using users_user_id_key" in plan
    assert "Sort" not in plan


@pytest.mark.parametrize(
    "statement", [store_module.HEADS, histories.LOCKED, histories.KNOWN, store_module.AFTER["sqlite"]]
)
def test_lists_of_any_length_are_looked_up_by_an_index(tmp_path: Path, statement: Any) -> None:
    store = Store.open(tmp_path / "store.sqlite")
    sql = str(statement.compile(store.backend.engine))
    with store.backend.reader.connect() as connection:
        values = ("[]",) * sql.count("?") if "events > ?" not in sql else (0, "[]")
        plan = [line for *_, line in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values)]
    assert any(line.startswith("SEARCH") for line in plan)
    assert not any(line.startswith(("SCAN users", "SCAN events")) for line in plan)
    store.close()


def test_keys_are_kept_by_their_digest_and_revoked_once(place: str) -> None:
    clock = iter(range(10, 70, 10))
    store = Store.open(place, clock=lambda: next(clock))
    store.add_key("phone", "write", "d1")
    with pytest.raises(StoreError, match="there is a key 'phone' already"):
        store.add_key("phone", "read", "d2")
    store.revoke_key("phone")
    store.revoke_key("phone")
    with pytest.raises(StoreError, match="there is no key 'web'"):
        store.revoke_key("web")
    (key,) = store.keys()
    assert (key.name, key.role, key.digest, key.created, key.revoked) == ("phone", "write", "d1", 10, 30)
    store.add_key("phone", "read", "d3")
    (key,) = store.keys()
    assert (key.name, key.role, key.digest, key.created, key.revoked) == ("phone", "read", "d3", 60, None)
    store.close()


IDS = st.lists(st.lists(st.integers(0, 11), max_size=5), max_size=6)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=IDS, data=st.data())
def test_any_order_and_repetition_of_batches_gives_the_same_events(
    store: Store, batches: list[list[int]], data: st.DataObject
) -> None:
    def commit(order: list[list[int]], user: str) -> set[str]:
        for batch in order:
            rows = tuple(event(f"{user}{number}", user, f"i{number}", time=number) for number in batch)
            outcome = one(store, AddEvents(rows))
            assert outcome.accepted + outcome.duplicates == len(rows)
        return {e.item_id for e in store.events_of(user)}

    first, second = (f"{name}-{uuid4().hex}-" for name in ("first", "second"))  # of this example alone
    wanted = {f"i{number}" for batch in batches for number in batch}
    shuffled = data.draw(st.permutations(batches + batches[:2]))
    assert commit(batches, first) == commit(shuffled, second) == wanted
    times = [e.time for e in store.events_of(second)]
    assert times == sorted(times)
    head = store.heads([second]).get(second)
    assert (head.events if head else 0) == len(wanted)
