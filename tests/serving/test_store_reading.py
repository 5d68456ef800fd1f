"""What the store tells of many at once is what it tells of each alone, in both databases."""

from typing import TYPE_CHECKING

from what_next.serving.store import AddEvents, EventRow

if TYPE_CHECKING:
    from what_next.serving.store import Store


def test_events_of_many_users_are_those_of_each(store: "Store") -> None:
    rows = [EventRow(f"{user}{place}", user, f"i{place}", time=10 - place) for user in "abc" for place in range(3)]
    store.commit([AddEvents((*rows, EventRow("d0", "d", "i0", time=1, reward=2.0, context={"x": 1.0})))])
    heads = store.heads(["a", "b", "c", "d"])
    found = store.events_after({heads["a"].key: 0, heads["b"].key: 2, heads["d"].key: 0, 999: 0})
    assert found[heads["a"].key] == store.events_of("a")
    assert [one.item_id for one in found[heads["a"].key]] == ["i2", "i1", "i0"]  # by time
    assert [one.event_id for one in found[heads["b"].key]] == ["b2"]  # its third one
    assert found[heads["d"].key][0].context == {"x": 1.0}
    assert set(found) == {heads["a"].key, heads["b"].key, heads["d"].key}
    assert store.events_after({}) == {}
