"""What the store tells of many at once is what it tells of each alone, in both databases."""

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import sqlalchemy as sa

from what_next.serving.store import AddEvents, EventRow
from what_next.serving.store.export import COLUMNS, _since

if TYPE_CHECKING:
    from what_next.serving.store import Store

FILLED = """
INSERT INTO users (key, user_id, last, events) SELECT u, 'u' || u, 100, 100 FROM generate_series(1, 400) AS u;
INSERT INTO events ("user", number, event_id, item_id, kind, time, arrived)
    SELECT u, n, u || '_' || n, 'i', 'play', 1, 1 FROM generate_series(1, 400) AS u, generate_series(1, 100) AS n;
ANALYZE
"""


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


@pytest.mark.medium
@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
def test_one_of_many_long_histories_is_read_by_its_index(store: "Store") -> None:
    with store.backend.engine.begin() as connection:
        connection.exec_driver_sql(FILLED)
    asked = list[tuple[str, Any]]()
    sa.event.listen(store.backend.reader, "before_cursor_execute", lambda *told: asked.append((told[2], told[3])))
    assert len(store.events_after({7: 90})[7]) == 10
    _since(store, pl.DataFrame(schema=COLUMNS))
    plans = list[str]()
    with store.backend.reader.connect() as connection:
        for statement, values in [one for one in asked if "json_each" in one[0]]:
            plans += ["\n".join(connection.exec_driver_sql(f"EXPLAIN {statement}", values).scalars())]
    assert len(plans) == 2
    for plan in plans:
        assert "events_pkey" in plan, plan
        assert "Seq Scan on events" not in plan, plan
