"""What no store takes: the same in both databases, told by row, field and reason, and no harm to what comes with it."""

from typing import Any

from what_next.errors import StoreError
from what_next.serving.store import (
    AddEvents,
    AddFeedback,
    AddImpression,
    EventRow,
    EventsAdded,
    InvalidWrite,
    Store,
)
from what_next.serving.store.records import AHEAD

NAN = float("nan")


def event(event_id: str = "e", user: str = "anna", item: str = "i1", **more: Any) -> EventRow:
    return EventRow(event_id, user, item, **more)


def test_of_a_batch_with_one_bad_row_nothing_is_kept_and_the_row_is_told(store: Store) -> None:
    bad = AddEvents((event("e2"), event("e3"), event("e4", time=2**60)))
    first, refused, last = store.commit([AddEvents((event("e1"),)), bad, AddEvents((event("e5"),))])
    assert (first, last) == (EventsAdded(1, 0), EventsAdded(1, 0))
    assert isinstance(refused, InvalidWrite)
    assert (refused.place, refused.field) == (2, "timestamp")
    assert str(refused) == "row 3: timestamp is more than a day ahead of the clock here; mend it and send it again"
    assert store.heads(["anna"])["anna"].events == 2


def test_a_time_is_at_most_a_day_ahead_of_the_clock_here(place: str) -> None:
    store = Store.open(place, clock=lambda: 1000)
    ahead, too_far = 1000 + AHEAD, 1001 + AHEAD
    store.commit([AddImpression("r1", "anna", 5, "v1", "trained", ("i1",), (1.0,))])
    outcomes = store.commit(
        [
            AddEvents((event("e1", time=too_far),)),
            AddEvents((event("e2", time=ahead), event("e3", time=-5))),
            AddFeedback("f1", "r1", "i1", 1.0, too_far),
            AddFeedback("f2", "r1", "i1", 1.0, ahead),
        ]
    )
    for refused in outcomes[::2]:
        assert isinstance(refused, InvalidWrite)
        assert (refused.field, refused.reason) == ("timestamp", "is more than a day ahead of the clock here")
    assert not any(isinstance(taken, Exception) for taken in outcomes[1::2])
    assert [(one.event_id, one.time) for one in store.events_of("anna")] == [("e3", -5), ("e2", ahead)]
    store.close()


def test_a_write_that_only_the_database_refuses_spoils_no_other(store: Store) -> None:
    bad = AddImpression("r1", "anna", 2**70, "v1", "trained", ("i1",), (1.0,))
    outcomes = store.commit([AddEvents((event("e1"),)), bad, AddEvents((event("e2"),))])
    assert outcomes[::2] == [EventsAdded(1, 0), EventsAdded(1, 0)]
    assert isinstance(outcomes[1], StoreError)
    assert isinstance(store.commit([bad])[0], StoreError)


def test_a_context_is_kept_as_it_came_whatever_its_names(store: Store) -> None:
    context = {"time": 1.0, "kind": 2.0, "user": 3.0, "": 4.0, 'a"\\b': 5.5, "é\0": -0.0, "number": 1e300}
    assert store.commit([AddEvents((event(context=context),))]) == [EventsAdded(1, 0)]
    assert store.events_of("anna")[0].context == context
