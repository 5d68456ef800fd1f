"""What no store takes: the same in both databases, told by row, field and reason, and no harm to what comes with it."""

from typing import Any

from what_next.errors import StoreError
from what_next.serving.store import (
    AddEvents,
    AddFeedback,
    AddImpression,
    AddItems,
    EraseUser,
    EventRow,
    EventsAdded,
    FeedbackRow,
    InvalidWrite,
    ItemRow,
    Store,
)
from what_next.serving.store.records import AHEAD

NAN = float("nan")


def event(event_id: str = "e", user: str = "anna", item: str = "i1", **more: Any) -> EventRow:
    return EventRow(event_id, user, item, **more)


def impression(user: str) -> AddImpression:
    return AddImpression("r1", user, 5, "v1", "trained", ("i1",), (1.0,))


UNFIT = [
    (AddEvents((event(user=""),)), "user_id", "is empty"),
    (AddEvents((event(user=" \t"),)), "user_id", "is blank"),
    (AddEvents((event(user="an\0na"),)), "user_id", "holds the character NUL"),
    (AddEvents((event(""),)), "event_id", "is empty"),
    (AddEvents((event(item="i\0"),)), "item_id", "holds the character NUL"),
    (AddEvents((event(kind="\0"),)), "kind", "holds the character NUL"),
    (AddEvents((event(recommendation_id="\0"),)), "recommendation_id", "holds the character NUL"),
    (AddEvents((event("\ud800"),)), "event_id", "holds half a character (a lone surrogate)"),
    (AddEvents((event(reward=NAN),)), "reward", "is nan, not a finite number"),
    (AddEvents((event(reward=-float("inf")),)), "reward", "is -inf, not a finite number"),
    (AddEvents((event(context={"hour": NAN}),)), "context.hour", "is nan, not a finite number"),
    (AddEvents((event(time=-(2**70)),)), "time", "is before all times"),
    (AddFeedback((FeedbackRow("", "r", "i", 1.0),)), "feedback_id", "is empty"),
    (AddFeedback((FeedbackRow("f", "r", "i", NAN),)), "reward", "is nan, not a finite number"),
    (AddItems((ItemRow("i", "\0", {}),)), "title", "holds the character NUL"),
    (AddItems((ItemRow("i", "", {"x": NAN}),)), "attributes.x", "is nan, not a finite number"),
    (impression("  "), "user_id", "is blank"),
    (EraseUser(" "), "user_id", "is blank"),
]


def test_what_no_store_takes_is_told_by_field_and_reason_and_spoils_no_other(store: Store) -> None:
    writes = [write for write, _, _ in UNFIT]
    first, *refused, last = store.commit([AddEvents((event("e1"),)), *writes, AddEvents((event("e2"),))])
    assert (first, last) == (EventsAdded(1, 0), EventsAdded(1, 0))
    assert all(isinstance(one, InvalidWrite) and one.place == 0 for one in refused)
    assert [(one.field, one.reason) for one in refused] == [(field, reason) for _, field, reason in UNFIT]
    assert str(refused[0]) == "row 1: user_id is empty; mend it and send it again"
    assert store.heads(["anna"])["anna"].events == 2
    assert store.items_after(0) == []


def test_of_a_batch_with_one_bad_row_nothing_is_kept_and_the_row_is_told(store: Store) -> None:
    (refused,) = store.commit([AddEvents((event("e1"), event("e2"), event("e3", reward=NAN)))])
    assert isinstance(refused, InvalidWrite)
    assert (refused.place, refused.field) == (2, "reward")
    assert store.heads(["anna"]) == {}


def test_a_time_is_at_most_a_day_ahead_of_the_clock_here(place: str) -> None:
    store = Store.open(place, clock=lambda: 1000)
    ahead, too_far = 1000 + AHEAD, 1001 + AHEAD
    store.commit([AddImpression("r1", "anna", 5, "v1", "trained", ("i1",), (1.0,))])
    outcomes = store.commit(
        [
            AddEvents((event("e1", time=too_far),)),
            AddEvents((event("e2", time=ahead), event("e3", time=-5))),
            AddFeedback((FeedbackRow("f1", "r1", "i1", 1.0, too_far),)),
            AddFeedback((FeedbackRow("f2", "r1", "i1", 1.0, ahead),)),
        ]
    )
    for refused in outcomes[::2]:
        assert isinstance(refused, InvalidWrite)
        assert (refused.field, refused.reason) == ("time", "is more than a day ahead of the clock here")
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
