"""The requests with a body: what each takes, what it does, and what it answers."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from what_next.server.asks import Answer, Refused
from what_next.server.http import bodies
from what_next.server.http.fields import Body, Reply
from what_next.server.http.parts import Parts, caller, durable
from what_next.server.http.problems import Problem, invalid, of_refused
from what_next.server.store.writes import (
    AddEvents,
    AddFeedback,
    AddItems,
    FeedbackAdded,
    NotShown,
    Unfit,
    UnknownRecommendation,
)

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


Handler = Callable[[Parts, Any], Awaitable[Sent]]


@dataclass(frozen=True)
class Post:
    """One request with a body.

    Attributes:
        path: of the request; `role`: who may, as a place in `keys.ROLES`.
        body, reply: what is taken, and what is answered with `status`.
        answer: does it.
        name: of the operation; `about`: what it does, the first line is a summary.
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
    refuses: Mapping[int, str] = field(default_factory=dict)


async def recommend(parts: Parts, question: bodies.Question) -> Sent:
    """Recommend items to a user, after a history, or both.

    With both, the history is what the answer goes by, and the recommendation is noted under the user's name. A user
    without events and without a history is answered with popular items, and `fallback` says so. A recommendation is
    answered only when it is noted durably, with the exact chance of each choice.
    """
    return Sent(200, orjson.dumps(told(await _asked(parts, question)), option=DUMP), question.user_id)


async def recommend_batch(parts: Parts, questions: bodies.Questions) -> Sent:
    """Answer several questions at once.

    Each is answered for itself, in the order of the questions: with an answer, or with an error where it cannot be
    answered (such as an attribute that is not known). A batch with a question that cannot be read (a field that is
    missing, unknown or of another type) is refused whole: 422, which names the field.
    """
    found = await parts.model.recommend_all([one.ask for one in questions.requests], caller.get())
    answers = [of_refused(_named(one)).content if isinstance(one, Refused) else told(one) for one in found]
    return Sent(200, orjson.dumps({"answers": answers}, option=DUMP))


async def add_event(parts: Parts, event: bodies.Event) -> Sent:
    """Keep an event.

    Answered only when it is durable. What was not acknowledged may be sent again: an event whose id is there already
    changes nothing, and counts as a duplicate. An event whose `recommendation_id` is not known, did not show the item
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
    timestamp, and among equal ones of the latest arrival; an older one that comes late replaces nothing; an id that is
    there already changes nothing.
    """
    try:
        kept: FeedbackAdded = await durable(parts.writes.submit(AddFeedback((feedback.row,))))
    except (UnknownRecommendation, NotShown, Unfit) as error:
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
        if isinstance(outcome, UnknownRecommendation | NotShown | Unfit):
            problem = _refusal(outcome)
            code = "not_found" if problem.status == 404 else "invalid"
            refused.append({"index": index, "code": code, "message": problem.message})
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
    engine = parts.model
    await parts.run(engine.check_item, item.attributes)
    held = not engine.unknown([item.item_id])  # of the training, of which the store does not know
    kept = await durable(parts.writes.submit(AddItems((item.row,))))
    try:
        await parts.run(engine.grow)
    except Exception as error:  # it is kept, and the engine looks for new items every second
        parts.log.error(error, "/v1/items")
    return Sent(201, orjson.dumps({"accepted": kept.accepted, "replaced": max(kept.replaced, int(held))}))


def told(answer: Answer) -> dict[str, Any]:
    """An answer as clients read it."""
    columns = zip(answer.ids, answer.titles, answer.scores, answer.propensities, answer.reasons, strict=True)
    return {
        "recommendation_id": answer.recommendation_id,
        "user_id": answer.user,
        "items": [
            {"item_id": item, "title": title, "score": score, "propensity": propensity, "reason": reason}
            for item, title, score, propensity, reason in columns
        ],
        "model": {"version": answer.version, "role": answer.role},
        "policy": answer.policy,
        "fallback": answer.fallback,
        "unknown": answer.unknown,
        "known_events": answer.known_events,
        "spread": answer.spread,
    }


async def _asked(parts: Parts, question: bodies.Question) -> Answer:
    try:
        return await parts.model.recommend(question.ask, caller.get())
    except Refused as error:
        raise _named(error) from None


def _named(error: Refused) -> Refused:
    """The same by the name that the body has for the field."""
    return Refused(FIELDS.get(error.field, error.field), error.reason)


async def _keep(parts: Parts, events: tuple[bodies.Event, ...], user: str | None = None, several: str = "") -> Sent:
    writer, engine = parts.writes, parts.model
    try:
        kept = await durable(writer.submit(AddEvents(tuple([event.row for event in events]))))
    except Unfit as error:
        raise _refusal(error, several) from None
    parts.metrics.events(kept.accepted, kept.duplicates, len(kept.unmatched))
    told = {
        "accepted": kept.accepted,
        "duplicates": kept.duplicates,
        "unknown_items": engine.unknown([event.item_id for event in events]),
        "unmatched": kept.unmatched,
    }
    return Sent(201, orjson.dumps(told), user)


def _refusal(error: UnknownRecommendation | NotShown | Unfit, several: str = "") -> Problem:
    """Why something is not kept; `several` names the list that it stands in."""
    if isinstance(error, Unfit):
        field = STORED.get(error.field, error.field)
        return invalid([(f"{several}.{error.place}.{field}" if several else field, error.reason)])
    if isinstance(error, NotShown):
        return invalid([("item_id", "this recommendation did not show it; give one of its items")])
    reason = "there is no such recommendation; give the recommendation_id of an answer (those of erased users are gone)"
    return Problem(404, f"recommendation_id: {reason}", (("recommendation_id", reason),))
