"""Answers within a transaction: impressions, and the feedback to them."""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from what_next.server.store import tables
from what_next.server.store.backend import Backend, Link
from what_next.server.store.writes import (
    AddFeedback,
    AddImpression,
    EventRow,
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
    """Impressions and feedback; `now` is in microseconds since 1970 UTC."""

    def __init__(self, backend: Backend, link: Link, now: int) -> None:
        self.backend, self.link, self.now = backend, link, now

    def add(self, writes: Sequence[AddImpression]) -> list[None]:
        """Impressions, each once, and without the user who was erased after the answer was made."""
        living = self._living(sorted({write.key for write in writes if write.key is not None}))
        # In one order, so that two processes with the same ids do not wait for each other.
        ordered = sorted(writes, key=lambda write: write.recommendation_id)
        rows = [_row(one, one.key is not None and living.get(one.key) != one.user_id) for one in ordered]
        self.backend.insert(self.link, tables.impressions, rows, "ON CONFLICT (recommendation_id) DO NOTHING")
        return [None] * len(writes)

    def _living(self, keys: list[int]) -> dict[int, str]:
        """Whose keys these are; until the end of the transaction nobody erases them."""
        if not keys:
            return {}
        sql = f"SELECT key, user_id FROM users WHERE key {self.backend.among()}"
        ending = "" if self.backend.sqlite else " ORDER BY user_id FOR KEY SHARE"
        return dict(self.link.execute(sql + ending, (self.backend.listed(keys),)).fetchall())

    def add_feedback(self, writes: Sequence[AddFeedback]) -> list[FeedbackAdded | Exception]:
        """Feedback, each row once; a write with a row that cannot be is refused whole, and spoils no other."""
        shown = self._shown({row.recommendation_id for write in writes for row in write.rows})
        known = self._known([row.feedback_id for write in writes for row in write.rows])
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
                values.append(_feedback(row, shown[row.recommendation_id], self.now))
            results.append(FeedbackAdded(accepted, len(write.rows) - accepted))
        self.backend.insert(self.link, tables.feedback, values)
        return results

    def _shown(self, recommendation_ids: set[str]) -> dict[str, Shown]:
        """The answers, locked, so that feedback to one of them is numbered in the order of the commits."""
        chosen = "SELECT recommendation_id, number, items FROM impressions WHERE shown AND recommendation_id "
        ending = "" if self.backend.sqlite else " ORDER BY number FOR NO KEY UPDATE"
        sql = f"{chosen}{self.backend.among()}{ending}"
        found = self.link.execute(sql, (self.backend.listed(sorted(recommendation_ids)),)).fetchall()
        numbers = self.backend.listed([number for _, number, _ in found])
        times = f"SELECT impression, max(time) FROM feedback WHERE impression {self.backend.among()} GROUP BY 1"
        latest = dict(self.link.execute(times, (numbers,)).fetchall())
        return {one: Shown(number, frozenset(orjson.loads(items)), latest.get(number)) for one, number, items in found}

    def unmatched(self, rows: Sequence[EventRow]) -> set[str]:
        """Ids of events whose answer is not known, did not show the item, or was for another user by name."""
        sql = (
            "SELECT recommendation_id, user_id, items FROM impressions "
            f"WHERE shown AND recommendation_id {self.backend.among()}"
        )
        named = sorted({row.recommendation_id for row in rows if row.recommendation_id is not None})
        found = self.link.execute(sql, (self.backend.listed(named),)).fetchall()
        shown = {one: (user, frozenset(orjson.loads(items))) for one, user, items in found}
        nothing: tuple[None, frozenset[str]] = (None, frozenset())
        return {
            row.event_id
            for row in rows
            for user, items in [shown.get(row.recommendation_id, nothing)]
            if row.item_id not in items or user not in (None, row.user_id)
        }

    def _known(self, feedback_ids: list[str]) -> set[str]:
        sql = f"SELECT feedback_id FROM feedback WHERE feedback_id {self.backend.among()}"
        return {one for (one,) in self.link.execute(sql, (self.backend.listed(feedback_ids),)).fetchall()}

    def erase(self, user_id: str) -> tuple[int, int]:
        """Remove a person's impressions and the feedback to them; returns how many of each there were."""
        mark = self.backend.mark
        own = f"SELECT number FROM impressions WHERE user_id = {mark}"
        feedback = self.link.execute(f"DELETE FROM feedback WHERE impression IN ({own})", (user_id,))
        gone = self.link.execute(f"DELETE FROM impressions WHERE user_id = {mark}", (user_id,))
        return gone.rowcount, feedback.rowcount


def _row(write: AddImpression, nameless: bool) -> tuple[object, ...]:
    """In the order of the table's columns."""
    return (
        write.recommendation_id,
        None if nameless else write.user_id,
        write.time,
        write.version,
        write.policy,
        write.fallback,
        orjson.dumps(dict(write.explore)).decode(),
        None if nameless or write.history is None else orjson.dumps(write.history).decode(),
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
