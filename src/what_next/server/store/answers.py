"""Answers within a transaction: impressions, and the feedback to them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import orjson
from sqlalchemy import Connection

from what_next.server.store import tables
from what_next.server.store.backend import Backend
from what_next.server.store.writes import (
    AddFeedback,
    AddImpression,
    FeedbackAdded,
    FeedbackRow,
    NotShown,
    UnknownRecommendation,
)


@dataclass
class Shown:
    """What feedback must know of an impression.

    Attributes:
        number: of the impression; `items`: that were shown.
        latest: the greatest time of feedback to it; None before the first.
    """

    number: int
    items: frozenset[str]
    latest: int | None


class Answers:
    """Impressions and feedback."""

    def __init__(self, backend: Backend, connection: Connection, clock: Callable[[], int]) -> None:
        self.backend, self.connection, self.clock = backend, connection, clock

    def add(self, writes: Sequence[AddImpression]) -> list[None]:
        """Impressions, each once."""
        # In one order, so that two processes with the same ids do not wait for each other.
        ordered = sorted(writes, key=lambda write: write.recommendation_id)
        once = "ON CONFLICT (recommendation_id) DO NOTHING"
        self.backend.insert(self.connection, tables.impressions, [_row(write) for write in ordered], once)
        return [None] * len(writes)

    def add_feedback(self, writes: Sequence[AddFeedback]) -> list[FeedbackAdded | Exception]:
        """Feedback, each row once; a write with a row that cannot be is refused whole, and spoils no other."""
        shown = self._shown({row.recommendation_id for write in writes for row in write.rows})
        known = self._known([row.feedback_id for write in writes for row in write.rows])
        now = self.clock()
        values: list[tuple[object, ...]] = []
        results: list[FeedbackAdded | Exception] = []
        for write in writes:
            refusal = next(filter(None, (_refusal(row, shown) for row in write.rows)), None)
            if refusal is not None:
                results.append(refusal)
                continue
            accepted = 0
            for row in write.rows:
                if row.feedback_id in known:
                    continue
                known.add(row.feedback_id)
                accepted += 1
                values.append(_feedback(row, shown[row.recommendation_id], now))
            results.append(FeedbackAdded(accepted, len(write.rows) - accepted))
        self.backend.insert(self.connection, tables.feedback, values)
        return results

    def _shown(self, recommendation_ids: set[str]) -> dict[str, Shown]:
        sql = (
            "SELECT recommendation_id, number, items, (SELECT max(time) FROM feedback WHERE impression = number_of) "
            "FROM (SELECT recommendation_id, number, number AS number_of, items FROM impressions "
            f"WHERE shown AND recommendation_id {self.backend.among()}) AS chosen"
        )
        rows = self.connection.exec_driver_sql(sql, (self.backend.listed(sorted(recommendation_ids)),))
        return {one: Shown(number, frozenset(orjson.loads(items)), latest) for one, number, items, latest in rows}

    def _known(self, feedback_ids: list[str]) -> set[str]:
        sql = f"SELECT feedback_id FROM feedback WHERE feedback_id {self.backend.among()}"
        return {one for (one,) in self.connection.exec_driver_sql(sql, (self.backend.listed(feedback_ids),))}

    def erase(self, user_id: str) -> tuple[int, int]:
        """Remove a person's impressions and the feedback to them; returns how many of each there were."""
        mark = self.backend.mark
        own = f"SELECT number FROM impressions WHERE user_id = {mark}"
        feedback = self.connection.exec_driver_sql(f"DELETE FROM feedback WHERE impression IN ({own})", (user_id,))
        gone = self.connection.exec_driver_sql(f"DELETE FROM impressions WHERE user_id = {mark}", (user_id,))
        return gone.rowcount, feedback.rowcount


def _row(write: AddImpression) -> tuple[object, ...]:
    """In the order of the table's columns."""
    return (
        write.recommendation_id,
        write.user_id,
        write.time,
        write.version,
        write.policy,
        write.fallback,
        orjson.dumps(dict(write.explore)).decode(),
        None if write.history is None else orjson.dumps(write.history).decode(),
        write.known,
        orjson.dumps(write.items).decode(),
        orjson.dumps(write.propensities).decode(),
        write.candidates,
        write.shown,
    )


def _refusal(row: FeedbackRow, shown: dict[str, Shown]) -> Exception | None:
    found = shown.get(row.recommendation_id)
    if found is None:
        return UnknownRecommendation(row.recommendation_id)
    return None if row.item_id in found.items else NotShown(row.recommendation_id, row.item_id)


def _feedback(row: FeedbackRow, shown: Shown, now: int) -> tuple[object, ...]:
    """In the order of the table's columns; what arrives later without a time is later, whatever the clock says."""
    time = row.time if row.time is not None else max(now, shown.latest if shown.latest is not None else now)
    shown.latest = time if shown.latest is None else max(shown.latest, time)
    return (row.feedback_id, shown.number, row.item_id, row.reward, time, now)
