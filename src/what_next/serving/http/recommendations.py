"""Requests for recommendations, with idempotency keys and the handling of clients that hang up."""

import asyncio
import hashlib
import re
from collections.abc import Sequence
from functools import cached_property
from types import TracebackType

from what_next.serving.bodies import Body, Question, Questions
from what_next.serving.http.callers import ClientGone
from what_next.serving.http.problems import invalid
from what_next.serving.http.replies import Recommendations, RecommendationsBatch
from what_next.serving.http.routes import Call, operation
from what_next.serving.request import IdempotencyKey, RecommendationResponse, Refused
from what_next.serving.store import CountDeliveries
from what_next.serving.store.records import AnsweredBefore, KeptResponse

HEADER = "Idempotency-Key"
IDEMPOTENCY_KEY = '[!#-~]{1,255}|"[!#-~]{1,255}"'


class Delivery:
    """The answers of one request; answers that the client never saw are not counted as shown.

    `with delivery: ...` raises `ClientGone` if the client hangs up meanwhile.
    """

    def __init__(self, call: Call, body: Body) -> None:
        self.parts, self.connection, self.body = call.parts, call.connection, body
        self.shown = list[str]()

    def __enter__(self) -> None:
        self.connection.task = asyncio.current_task()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        task, self.connection.task = self.connection.task, None
        gone = self.connection.gone
        if (error is not None or gone) and self.shown:
            self.parts.model.unseen(self.shown)
        if gone and isinstance(error, asyncio.CancelledError | None):
            if error is not None and task is not None:
                task.uncancel()
            raise ClientGone from None

    async def before(self, once: Sequence[IdempotencyKey | None]) -> list[bytes | None]:
        """The stored answers to questions with the same idempotency keys; None: no answer yet."""
        kept = [None if one is None else await self._kept(one) for one in once]
        if again := [one.recommendation_id for one in kept if one is not None]:
            self.shown += again
            try:
                await self.parts.written(CountDeliveries(tuple(again), 1))
            except Exception:  # they were not counted as shown, so they must not be uncounted if the client hangs up
                del self.shown[-len(again) :]
                raise
        return [None if one is None else one.body.encode() for one in kept]

    async def _kept(self, once: IdempotencyKey) -> KeptResponse | None:
        kept = await self.parts.run(self.parts.reads.response, once.key)
        if kept is not None and kept.request != once.request and kept.request != self.former:
            raise invalid([(HEADER, "came with another request before; give each request a key of its own")])
        return kept

    @cached_property
    def former(self) -> str:
        """The request's hash in versions before 0.1.0: over all fields that they had, with defaults."""
        # Not needed a day after the upgrade, when no such answer is stored any more.
        return _hash(self.body.model_dump_json(exclude={"tags": True, "requests": {"__all__": {"tags"}}}))


def _once(call: Call, body: Body, count: int) -> Sequence[IdempotencyKey | None]:
    """The idempotency key of each question of a request; None without the header."""
    if (header := call.headers.get(HEADER.lower().encode())) is None:
        return [None] * count
    if (found := re.fullmatch(IDEMPOTENCY_KEY, header.decode("latin-1"))) is None:
        reason = "must hold 1 to 255 printable characters of ASCII, none of them a space or a quote"
        raise invalid([(HEADER, reason)])
    keys = ["\0".join((call.key or "", found[0].strip('"'), str(place))) for place in range(count)]
    request = _hash(body.model_dump_json(exclude_unset=True))  # without defaults: a later version may have others
    return [IdempotencyKey(_hash(key), request) for key in keys]


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@operation("POST", "/v1/recommendations", Recommendations, idempotent=True)
async def recommend(call: Call, question: Question) -> bytes:
    """Recommend items to a user, after a history, or both.

    With both, the answer is based on the history, and the recommendation is logged for the user. A user without events
    and without a history gets popular items, and `fallback` says so. The answer comes only when the recommendation is
    durable in the log, with the exact chance of each choice. The same question with the same Idempotency-Key gets the
    first answer again for a day.
    """
    call.user = question.user_id
    (answer,) = await _answered(call, question, [question])
    if isinstance(answer, Refused):
        raise answer
    return answer


@operation("POST", "/v1/recommendations/batch", RecommendationsBatch, idempotent=True)
async def recommend_batch(call: Call, questions: Questions) -> bytes:
    """Answer several questions at once.

    There is an answer or an error (such as for an unknown attribute) for each question, in their order. A batch with an
    invalid question (a field is missing, unknown or of the wrong type) is refused as a whole: 422, which names the
    field.
    """
    answers = await _answered(call, questions, questions.requests)
    bodies = [invalid([(one.field, one.reason)]).body if isinstance(one, Refused) else one for one in answers]
    return b'{"answers":[' + b",".join(bodies) + b"]}"


async def _answered(call: Call, body: Body, questions: Sequence[Question]) -> list[bytes | Refused]:
    """The answer to each question as JSON, or its refusal; raises errors that concern the whole request."""
    engine, delivery, once = call.parts.model, Delivery(call, body), _once(call, body, len(questions))
    with delivery:
        before = await delivery.before(once)
        found: dict[int, bytes | Refused] = {place: one for place, one in enumerate(before) if one is not None}
        left = [place for place in range(len(questions)) if place not in found]
        outcomes = await engine.recommend_all([(questions[place], once[place]) for place in left], call.caller)
        delivery.shown += [one.recommendation_id for one in outcomes if isinstance(one, RecommendationResponse)]
        late = [place for place, outcome in zip(left, outcomes, strict=True) if isinstance(outcome, AnsweredBefore)]
        meanwhile = dict(zip(late, await delivery.before([once[place] for place in late]), strict=True))
        for place, outcome in zip(left, outcomes, strict=True):
            if isinstance(outcome, RecommendationResponse):
                found[place] = outcome.json
            elif isinstance(outcome, Refused):
                found[place] = outcome
            elif (kept := meanwhile.get(place)) is not None:
                found[place] = kept
            else:
                raise outcome  # its user was erased, or the service cannot answer now
        return [found[place] for place in range(len(questions))]
