"""Answers within a transaction: impressions, and the feedback to them."""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from what_next.serving.store import tables
from what_next.serving.store.backend import Backend, Link
from what_next.serving.store.writes import (
    AddFeedback,
    AddImpression,
    AnsweredBefore,
    Conflict,
    EventRow,
    FeedbackAdded,
    FeedbackRow,
    MarkShown,
    NotShown,
    UnknownRecommendation,
    Withdrawn,
)

KEPT, MOST = 24 * 3600 * 1_000_000, 100_000
"""Microseconds for which an answer to a request with an Idempotency-Key is kept, and how many are, at most."""
Content = tuple[int, str, float, int | None]
"""What feedback tells: its answer's number, item, reward and time."""


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

    def add(self, writes: Sequence[AddImpression]) -> list[Exception | None]:
        """Impressions, each once, and without the user who was erased after the answer was made.

        Those with an item that was withdrawn meanwhile are refused, and so are second answers to a key.
        """
        withdrawn, answered = self._withdrawn(writes), self._answered(writes)
        results: list[Exception | None] = []
        for write in writes:
            if any(number > write.withdrawn and item in write.items for number, item in withdrawn):
                results.append(Withdrawn())
            elif write.response is not None and write.response.key in answered:
                results.append(AnsweredBefore())
            else:
                results.append(None)
                if write.response is not None:
                    answered.add(write.response.key)
        taken = [one for one, refused in zip(writes, results, strict=True) if refused is None]
        living = self._living(sorted({write.key for write in taken if write.key is not None}))
        # In one order, so that two processes with the same ids do not wait for each other.
        taken.sort(key=lambda write: write.recommendation_id)
        nameless = [one.key is not None and living.get(one.key) != one.user_id for one in taken]
        rows = [_row(one, without) for one, without in zip(taken, nameless, strict=True)]
        self.backend.insert(self.link, tables.impressions, rows, "ON CONFLICT (recommendation_id) DO NOTHING")
        # An answer that names whom somebody erased is not kept.
        self._keep([one for one, without in zip(taken, nameless, strict=True) if one.response and not without])
        return results

    def _withdrawn(self, writes: Sequence[AddImpression]) -> list[tuple[int, str]]:
        """The items that were withdrawn since the first of some answers was made; until the end, none is."""
        sql = f"SELECT number, item_id FROM withdrawals WHERE number > {self.backend.mark} AND withdrawn"
        ending = "" if self.backend.sqlite else " FOR KEY SHARE"
        return list(self.link.execute(sql + ending, (min(write.withdrawn for write in writes),)).fetchall())

    def _answered(self, writes: Sequence[AddImpression]) -> set[str]:
        """Keys of requests that were answered already, when those that are too old have gone."""
        keys = [write.response.key for write in writes if write.response is not None]
        if not keys:
            return set()
        mark = self.backend.mark
        self.link.execute(f"DELETE FROM idempotency_keys WHERE time <= {mark}", (self.now - KEPT,))
        most = f"SELECT coalesce(max(number), 0) - {MOST} FROM idempotency_keys"
        self.link.execute(f"DELETE FROM idempotency_keys WHERE number <= ({most})")
        sql = f"SELECT key FROM idempotency_keys WHERE key {self.backend.among()}"
        return {key for (key,) in self.link.execute(sql, (self.backend.listed(keys),)).fetchall()}

    def _keep(self, writes: Sequence[AddImpression]) -> None:
        """The answers that are given again."""
        rows = [
            (one.response.key, one.response.request, one.recommendation_id, one.user_id, one.response.body, self.now)
            for one in writes
            if one.response is not None
        ]
        self.backend.insert(self.link, tables.idempotency_keys, rows)

    def mark_shown(self, writes: Sequence[MarkShown]) -> list[None]:
        """Whether anybody saw some answers; the last one of each counts."""
        told = {one: write.shown for write in writes for one in write.recommendation_ids}
        for shown in (False, True):
            ids = sorted(one for one, value in told.items() if value is shown)
            sql = f"UPDATE impressions SET shown = {shown} WHERE recommendation_id {self.backend.among()}"
            if ids:
                self.link.execute(sql, (self.backend.listed(ids),))
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
            mine, new = dict[str, Content](), list[FeedbackRow]()
            refusal = None
            for place, row in enumerate(write.rows):
                if (refusal := refusal or _refusal(row, shown)) is not None:
                    break
                content = (shown[row.recommendation_id].number, row.item_id, row.reward, row.time)
                if (held := known.get(row.feedback_id) or mine.get(row.feedback_id)) is None:
                    mine[row.feedback_id] = content
                    new.append(row)
                elif content not in (held, (*held[:3], None)):
                    refusal = Conflict(place, "feedback_id")
            if refusal is not None:
                results.append(refusal)
                continue
            known |= mine
            values += [_feedback(row, shown[row.recommendation_id], self.now) for row in new]
            results.append(FeedbackAdded(len(new), len(write.rows) - len(new)))
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

    def _known(self, feedback_ids: list[str]) -> dict[str, Content]:
        """What the store holds under some ids."""
        chosen = "SELECT feedback_id, impression, item_id, reward, time FROM feedback WHERE feedback_id "
        found = self.link.execute(chosen + self.backend.among(), (self.backend.listed(feedback_ids),)).fetchall()
        return {one: (impression, item, reward, time) for one, impression, item, reward, time in found}

    def erase(self, user_id: str) -> tuple[int, int]:
        """Remove a person's impressions and the feedback to them; returns how many of each there were."""
        mark = self.backend.mark
        own = f"SELECT number FROM impressions WHERE user_id = {mark}"
        feedback = self.link.execute(f"DELETE FROM feedback WHERE impression IN ({own})", (user_id,))
        self.link.execute(f"DELETE FROM idempotency_keys WHERE user_id = {mark}", (user_id,))
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
        write.withdrawn,
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
