"""Impressions and feedback within a transaction."""

from collections import Counter
from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, bindparam, case, delete, func, literal_column, select, update

from what_next.serving.store import records, tables
from what_next.serving.store.backend import among, execute_all, insert_all
from what_next.serving.store.tables import dumps

KEPT, MOST = 24 * 3600 * 1_000_000, 100_000
"""For how many microseconds an answer to a request with an Idempotency-Key is kept, and the most that are kept."""
Content = tuple[int, str, float, int | None]
"""Content of feedback: its answer's number, item, reward and time."""

IMPRESSIONS, FEEDBACK, RESPONSES = tables.impressions.c, tables.feedback.c, tables.idempotency_keys.c
LATEST_RESPONSE = select(func.coalesce(func.max(RESPONSES.number), 0)).scalar_subquery()
OLD_RESPONSES = delete(tables.idempotency_keys).where(
    (RESPONSES.time <= bindparam("oldest")) | (RESPONSES.number <= LATEST_RESPONSE - bindparam("most"))
)
ANSWERED = select(RESPONSES.key).where(among(RESPONSES.key, "keys"))
WITHDRAWN = (
    select(tables.withdrawals.c.number, tables.withdrawals.c.item_id)
    .where(tables.withdrawals.c.number > bindparam("after"), tables.withdrawals.c.withdrawn)
    .with_for_update(read=True, key_share=True)
)
LIVING = (
    select(tables.users.c.key, tables.users.c.user_id)
    .where(among(tables.users.c.key, "keys"))
    .order_by(tables.users.c.user_id)
    .with_for_update(read=True, key_share=True)
)
NONE: ColumnElement[int] = literal_column("0")
HAVE = case((IMPRESSIONS.shown, IMPRESSIONS.deliveries), else_=NONE) + bindparam("by")
DELIVER = (
    update(tables.impressions)
    .where(IMPRESSIONS.recommendation_id == bindparam("answer"))
    .values(shown=HAVE > NONE, deliveries=case((HAVE > NONE, HAVE), else_=NONE))
)
SHOWN = select(IMPRESSIONS.recommendation_id, IMPRESSIONS.number, IMPRESSIONS.user_id, IMPRESSIONS["items"]).where(
    IMPRESSIONS.shown, among(IMPRESSIONS.recommendation_id, "answers")
)
SHOWN_LOCKED = SHOWN.order_by(IMPRESSIONS.number).with_for_update(key_share=True)
LATEST = (
    select(FEEDBACK.impression, func.max(FEEDBACK.time))
    .where(among(FEEDBACK.impression, "numbers"))
    .group_by(FEEDBACK.impression)
)
KNOWN = select(
    FEEDBACK.feedback_id, FEEDBACK.impression, FEEDBACK.item_id, FEEDBACK.reward, FEEDBACK.time
).where(among(FEEDBACK.feedback_id, "feedback"))  # fmt: skip


class Answers:
    """Impressions and feedback; `now` is in microseconds since 1970 UTC."""

    def __init__(self, connection: Connection, now: int) -> None:
        self.connection, self.now = connection, now

    def add(self, writes: Sequence[records.AddImpression]) -> list[Exception | None]:
        """Add impressions, each once, and without the user if the user was erased after the answer was made.

        Impressions with an item that was withdrawn meanwhile are refused, and so are second answers to a key.
        """
        # Locks the withdrawals until the end of the transaction.
        since = self.connection.execute(WITHDRAWN, {"after": min(write.withdrawn for write in writes)})
        withdrawn, answered = list(since), self._answered(writes)
        results: list[Exception | None] = []
        for write in writes:
            if any(number > write.withdrawn and item in write.items for number, item in withdrawn):
                results.append(records.Withdrawn())
            elif write.response is not None and write.response.key in answered:
                results.append(records.AnsweredBefore())
            else:
                results.append(None)
                if write.response is not None:
                    answered.add(write.response.key)
        self._insert([one for one, refused in zip(writes, results, strict=True) if refused is None])
        return results

    def _answered(self, writes: Sequence[records.AddImpression]) -> set[str]:
        """Keys of requests that already have an answer; deletes expired answers first."""
        keys = [write.response.key for write in writes if write.response is not None]
        if not keys:
            return set()
        self.connection.execute(OLD_RESPONSES, {"oldest": self.now - KEPT, "most": MOST})
        return set(self.connection.scalars(ANSWERED, {"keys": keys}))

    def _insert(self, writes: list[records.AddImpression]) -> None:
        writes.sort(key=lambda one: one.recommendation_id)  # a fixed order prevents deadlocks
        keys = sorted({one.key for one in writes if one.key is not None})
        # Locks the users until the end of the transaction: they cannot be erased meanwhile.
        living = dict(map(tuple, self.connection.execute(LIVING, {"keys": keys}))) if keys else {}
        nameless = [one.key is not None and living.get(one.key) != one.user_id for one in writes]
        rules = {one.rule.hash: one.rule.text for one in writes if one.rule is not None}
        insert_all(self.connection, tables.rules, sorted(rules.items()), once=True)
        rows = [_row(one, gone) for one, gone in zip(writes, nameless, strict=True)]
        insert_all(self.connection, tables.impressions, rows, once=True)
        # The answer itself names the user, so it is not kept if the user was erased.
        responses = [
            (one.response.key, one.response.request, one.recommendation_id, one.user_id, one.response.body, self.now)
            for one, gone in zip(writes, nameless, strict=True)
            if one.response is not None and not gone
        ]
        insert_all(self.connection, tables.idempotency_keys, responses)

    def count_deliveries(self, writes: Sequence[records.CountDeliveries]) -> list[None]:
        """Change the number of clients that have some answers."""
        sums = Counter[str]()
        for write in writes:
            for one in write.recommendation_ids:
                sums[one] += write.by
        execute_all(self.connection, DELIVER, [(by, by, by, one) for one, by in sorted(sums.items()) if by])
        return [None] * len(writes)

    def add_feedback(self, writes: Sequence[records.AddFeedback]) -> list[bool | records.InvalidWrite]:
        """Add feedback, each once; returns whether it is new, or why it is refused.

        The answers are locked, so that feedback to the same answer is numbered in the order of the commits.
        """
        names = sorted({write.recommendation_id for write in writes})
        shown = {
            name: (number, items)
            for name, number, _, items in self.connection.execute(SHOWN_LOCKED, {"answers": names})
        }
        numbers = {"numbers": [number for number, _ in shown.values()]}
        latest: dict[int, int] = dict(map(tuple, self.connection.execute(LATEST, numbers)))
        ids = {"feedback": [write.feedback_id for write in writes]}
        known: dict[str, Content] = {one: tuple(held) for one, *held in self.connection.execute(KNOWN, ids)}
        rows, results = list[tuple[object, ...]](), list[bool | records.InvalidWrite]()
        for write in writes:
            if write.recommendation_id not in shown:
                results.append(records.UnknownRecommendation())
                continue
            number, items = shown[write.recommendation_id]
            if write.item_id not in items:
                results.append(records.NotShown())
                continue
            content = (number, write.item_id, write.reward, write.time)
            if (held := known.setdefault(write.feedback_id, content)) is content:
                # Without a time, it is never earlier than other feedback to the answer.
                time = max(self.now, latest.get(number, self.now)) if write.time is None else write.time
                latest[number] = max(latest.get(number, time), time)
                rows.append((write.feedback_id, number, write.item_id, write.reward, time, self.now))
                results.append(True)
            else:
                same = content in (held, (*held[:3], None))
                results.append(False if same else records.Conflict(0, "feedback_id"))
        insert_all(self.connection, tables.feedback, rows)
        return results

    def unmatched(self, rows: Sequence[records.EventRow]) -> set[str]:
        """Ids of events that do not count as feedback to the answer that they name.

        The answer is unknown, did not show the item, or was for another named user; or the event has no reward.
        """
        named = sorted({row.recommendation_id for row in rows if row.recommendation_id is not None})
        found = self.connection.execute(SHOWN, {"answers": named})
        shown = {name: (user, frozenset(items)) for name, _, user, items in found}
        nothing: tuple[None, frozenset[str]] = (None, frozenset())
        return {
            row.event_id
            for row in rows
            for user, items in [shown.get(row.recommendation_id or "", nothing)]
            if row.item_id not in items or user not in (None, row.user_id) or row.worth is None
        }

    def erase(self, user_id: str) -> tuple[int, int]:
        """Delete a user's impressions and the feedback to them; returns the numbers of both."""
        own = select(IMPRESSIONS.number).where(IMPRESSIONS.user_id == user_id)
        feedback = self.connection.execute(delete(tables.feedback).where(FEEDBACK.impression.in_(own)))
        self.connection.execute(delete(tables.idempotency_keys).where(RESPONSES.user_id == user_id))
        gone = self.connection.execute(delete(tables.impressions).where(IMPRESSIONS.user_id == user_id))
        return gone.rowcount, feedback.rowcount


def _row(write: records.AddImpression, nameless: bool) -> tuple[object, ...]:
    """The row of an impression, in the order of the table's columns."""
    return (
        write.recommendation_id,
        None if nameless else write.user_id,
        write.time,
        write.version,
        write.policy,
        write.fallback,
        dumps(dict(write.explore)),
        None if nameless or write.history is None else dumps(write.history),
        write.known,
        dumps(write.items),
        dumps(write.propensities),
        "",
        write.shown,
        write.withdrawn,
        int(write.shown),
        None if write.rule is None else write.rule.hash,
    )
