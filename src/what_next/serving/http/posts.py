"""The requests with a body: what each takes, what it does, and what it answers."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from what_next.serving.http import bodies
from what_next.serving.http.fields import Body, Reply
from what_next.serving.http.parts import Parts, caller, durable
from what_next.serving.http.problems import CODES, Problem, conflict, invalid, of_refused
from what_next.serving.request import IdempotencyKey, RecommendationResponse, Refused
from what_next.serving.store.records import (
    AddEvents,
    AddFeedback,
    AddItems,
    AnsweredBefore,
    Conflict,
    FeedbackAdded,
    InvalidWrite,
    MarkShown,
    NotShown,
    UnknownRecommendation,
)

HEADER = "Idempotency-Key"
IDEMPOTENCY_KEY = '[!#-~]{1,255}|"[!#-~]{1,255}"'
DUMP = orjson.OPT_SERIALIZE_NUMPY
FIELDS = {"user": "user_id", "temperature": "explore.temperature", "epsilon": "explore.epsilon"}
"""What the engine calls a field, where the body calls it otherwise."""
STORED = {"kind": "event", "time": "timestamp"}
"""The same for the store."""


@dataclass(frozen=True)
class Sent:
    """An answer.

    Attributes:
        status: of HTTP; `body`: JSON.
        user: whom it was about, for the log, which tells a hash at most.
    """

    status: int
    body: bytes
    user: str | None = None


@dataclass
class Asking:
    """What a request for recommendations brings besides its body.

    Attributes:
        caller: the name of the key, or nothing. key: of the header Idempotency-Key, where there is one.
        request: a hash of its body.
        shown: ids of the answers that go out with it.
    """

    caller: str
    key: str | None
    request: str = ""
    shown: list[str] = field(default_factory=list)

    def once(self, place: int) -> IdempotencyKey | None:
        """What the question at some place of it is answered once for; None: it need not be."""
        if self.key is None:
            return None
        told = "\0".join((self.caller, self.key, str(place)))
        return IdempotencyKey(hashlib.blake2b(told.encode(), digest_size=16).hexdigest(), self.request)


Handler = Callable[..., Awaitable[Sent]]
"""Takes parts and body, and an `Asking` where the request is for recommendations."""


@dataclass(frozen=True)
class Post:
    """One request with a body.

    Attributes:
        path: of the request; `role`: who may, as a place in `keys.ROLES`.
        body, reply: what is taken, and what is answered with `status`.
        answer: does it.
        name: of the operation; `about`: what it does, the first line is a summary.
        asks: whether it is for recommendations: of no use to a client that hung up, and answered once for a key.
        refuses: the statuses of its own, and when; those that any request may meet go without saying.
        examples: a body by name.
        answered: an example of an answer.
    """

    path: str
    role: int
    body: type[Body]
    reply: type[Reply]
    status: int
    answer: Handler
    name: str
    about: str
    examples: Mapping[str, dict[str, Any]]
    answered: dict[str, Any]
    asks: bool = False
    refuses: Mapping[int, str] = field(default_factory=dict)


async def recommend(parts: Parts, question: bodies.Question, asking: Asking) -> Sent:
    """Recommend items to a user, after a history, or both.

    With both, the history is what the answer goes by, and the recommendation is noted under the user's name. A user
    without events and without a history is answered with popular items, and `fallback` says so. A recommendation is
    answered only when it is noted durably, with the exact chance of each choice. The same question with the same
    Idempotency-Key gets the first answer again for a day.
    """
    return Sent(200, await _asked(parts, question, asking, 0), question.user_id)


async def recommend_batch(parts: Parts, questions: bodies.Questions, asking: Asking) -> Sent:
    """Answer several questions at once.

    Each is answered for itself, in the order of the questions: with an answer, or with an error where it cannot be
    answered (such as an attribute that is not known). A batch with a question that cannot be read (a field that is
    missing, unknown or of another type) is refused whole: 422, which names the field.
    """
    places = range(len(questions.requests))
    found = {place: kept for place in places if (kept := await _before(parts, asking, place)) is not None}
    left = [place for place in places if place not in found]
    asks = [questions.requests[place].ask._replace(once=asking.once(place)) for place in left]
    outcomes = await parts.model.recommend_all(asks, caller.get())
    asking.shown += [one.recommendation_id for one in outcomes if isinstance(one, RecommendationResponse)]
    for place, outcome in zip(left, outcomes, strict=True):  # where one fails, the others are not shown either
        found[place] = await _sent(parts, outcome, asking, place)
    answers = [orjson.Fragment(found[place]) for place in places]
    return Sent(200, orjson.dumps({"answers": answers}, option=DUMP))


async def add_event(parts: Parts, event: bodies.Event) -> Sent:
    """Keep an event.

    Answered only when it is durable. What was not acknowledged may be sent again: an event that is there already
    changes nothing, and counts as a duplicate; another one under its id is refused. One from before the erasure of its
    user is not kept, and named in `erased`. An event whose `recommendation_id` is not known, did not show the item
    or was for another user is kept, and named in `unmatched`: it is no feedback.
    """
    return await _keep(parts, (event,), event.user_id)


async def add_events(parts: Parts, events: bodies.Events) -> Sent:
    """Keep several events: all of them, or none.

    Answered only when they are durable; in the order of arrival, which decides between events of one time.
    """
    return await _keep(parts, tuple(events.events), several="events")


async def add_feedback(parts: Parts, feedback: bodies.Feedback) -> Sent:
    """Tell what an item of a recommendation was worth.

    May come late, more than once and out of order. The reward of an item is that of the feedback with the latest
    timestamp, and among equal ones of the latest arrival; an older one that comes late replaces nothing. Feedback that
    is sent again changes nothing; other feedback under its id is refused.
    """
    try:
        kept: FeedbackAdded = await durable(parts.writes.submit(AddFeedback((feedback.row,))))
    except (UnknownRecommendation, NotShown, InvalidWrite, Conflict) as error:
        parts.metrics.feedback(0, 0, 1)
        raise _refusal(error) from None
    parts.metrics.feedback(kept.accepted, kept.duplicates, 0)
    return Sent(201, orjson.dumps({"accepted": kept.accepted, "duplicates": kept.duplicates}))


async def add_feedbacks(parts: Parts, batch: bodies.Feedbacks) -> Sent:
    """Tell what several items were worth.

    Each stands for itself: what cannot be kept is named in the answer, with its place and the reason.
    """
    writes = [durable(parts.writes.submit(AddFeedback((one.row,)))) for one in batch.feedback]
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    kept, refused = [one for one in outcomes if isinstance(one, FeedbackAdded)], []
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, UnknownRecommendation | NotShown | InvalidWrite | Conflict):
            problem = _refusal(outcome)
            refused.append({"index": index, "code": CODES[problem.status], "message": problem.message})
        elif isinstance(outcome, BaseException):
            raise outcome  # the whole batch may be sent again: what was kept is a duplicate then
    accepted, duplicates = sum(one.accepted for one in kept), sum(one.duplicates for one in kept)
    parts.metrics.feedback(accepted, duplicates, len(refused))
    return Sent(201, orjson.dumps({"accepted": accepted, "duplicates": duplicates, "refused": refused}))


async def add_item(parts: Parts, item: bodies.Item) -> Sent:
    """Add an item, or change one.

    An id that the catalogue holds, of the training or added later, gets the new title and attributes, and counts as
    replaced. An item needs a number for each attribute of the catalogue, and no others. It can be recommended as soon
    as this is answered; another process on the same store takes it up within seconds, and so does this one if the store
    goes away just then.
    """
    await parts.run(parts.model.check_item, item.attributes)
    return await _grown(parts, (item,))


async def add_items(parts: Parts, batch: bodies.Items) -> Sent:
    """Add or change several items: all of them, or none.

    Each is as one alone; the last one of an id counts. Much faster than one by one.
    """
    await parts.run(_check_all, parts, batch)
    return await _grown(parts, tuple(batch.items))


def _check_all(parts: Parts, batch: bodies.Items) -> None:
    for place, item in enumerate(batch.items):
        parts.model.check_item(item.attributes, f"items.{place}.attributes")


async def _grown(parts: Parts, items: tuple[bodies.Item, ...]) -> Sent:
    """Keep items, and have them recommended."""
    engine = parts.model
    held = engine.held([item.item_id for item in items])  # the store does not know of those of the training
    kept = await durable(parts.writes.submit(AddItems(tuple([item.row for item in items]))))
    try:
        await parts.run(engine.grow)
    except Exception as error:  # they are kept, and the engine looks for new items every second
        parts.log.error(error, "/v1/items")
    return Sent(201, orjson.dumps({"accepted": kept.accepted, "replaced": max(kept.replaced, held)}))


async def _asked(parts: Parts, question: bodies.Question, asking: Asking, place: int) -> bytes:
    """The answer in JSON: the first one, where the request has a key and was answered before."""
    if (found := await _before(parts, asking, place)) is not None:
        return found
    try:
        answer = await parts.model.recommend(question.ask._replace(once=asking.once(place)), caller.get())
    except Refused as error:
        raise _named(error) from None
    except AnsweredBefore as error:
        return await _sent(parts, error, asking, place)
    asking.shown.append(answer.recommendation_id)
    return orjson.dumps(answer.content, option=DUMP)


async def _before(parts: Parts, asking: Asking, place: int) -> bytes | None:
    """What the question at some place of a request with a key was answered before; None: nothing yet."""
    once = asking.once(place)
    return None if once is None else await _again(parts, once, asking)


async def _sent(parts: Parts, outcome: RecommendationResponse | BaseException, asking: Asking, place: int) -> bytes:
    """The outcome of one question of several in JSON; raises an error that is not of this question alone."""
    if isinstance(outcome, RecommendationResponse):
        return orjson.dumps(outcome.content, option=DUMP)
    if isinstance(outcome, Refused):
        return orjson.dumps(of_refused(_named(outcome)).content)
    if isinstance(outcome, AnsweredBefore) and (found := await _before(parts, asking, place)) is not None:
        return found
    raise outcome  # whom it was for was erased, or the service cannot answer now


async def _again(parts: Parts, once: IdempotencyKey, asking: Asking) -> bytes | None:
    """What was answered to a key; None: nothing yet."""
    kept = await parts.run(parts.reads.response, once.key)
    if kept is None:
        return None
    if kept.request != once.request:
        raise invalid([(HEADER, "came with another request before; give each request a key of its own")])
    asking.shown.append(kept.recommendation_id)
    if not kept.shown:  # whoever asked first had hung up
        await durable(parts.writes.submit(MarkShown((kept.recommendation_id,), True)))
    return kept.body.encode()


def _named(error: Refused) -> Refused:
    """The same by the name that the body has for the field."""
    return Refused(FIELDS.get(error.field, error.field), error.reason)


async def _keep(parts: Parts, events: tuple[bodies.Event, ...], user: str | None = None, several: str = "") -> Sent:
    writer, engine = parts.writes, parts.model
    try:
        kept = await durable(writer.submit(AddEvents(tuple([event.row for event in events]))))
    except (InvalidWrite, Conflict) as error:
        raise _refusal(error, several) from None
    parts.metrics.events(kept.accepted, kept.duplicates, len(kept.unmatched), len(kept.erased))
    told = {
        "accepted": kept.accepted,
        "duplicates": kept.duplicates,
        "unknown_items": engine.unknown([event.item_id for event in events]),
        "unmatched": kept.unmatched,
        "erased": kept.erased,
    }
    return Sent(201, orjson.dumps(told), user)


def _refusal(error: UnknownRecommendation | NotShown | InvalidWrite | Conflict, several: str = "") -> Problem:
    """Why something is not kept; `several` names the list that it stands in."""
    if isinstance(error, Conflict):
        return conflict(f"{several}.{error.place}.{error.field}" if several else error.field, error.reason)
    if isinstance(error, InvalidWrite):
        field = STORED.get(error.field, error.field)
        return invalid([(f"{several}.{error.place}.{field}" if several else field, error.reason)])
    if isinstance(error, NotShown):
        return invalid([("item_id", "this recommendation did not show it; give one of its items")])
    reason = "there is no such recommendation; give the recommendation_id of an answer (those of erased users are gone)"
    return Problem(404, f"recommendation_id: {reason}", (("recommendation_id", reason),))
