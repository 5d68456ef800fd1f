"""The operations besides recommending: events, feedback, items, users, the model, the service's state, and the page."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import PurePath
from typing import Annotated, Any

import numpy as np
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import Field
from starlette.responses import Response

from what_next.errors import CatalogueError, StoreError
from what_next.serving.bodies import Event, Events, Feedback, Feedbacks, IdInPath, Item, Items
from what_next.serving.engine.served import WINDOW, similar, spreads
from what_next.serving.http import replies
from what_next.serving.http.callers import ADMIN, WRITE
from what_next.serving.http.parts import Parts
from what_next.serving.http.problems import CODES, OF_JSON, Problem, not_ready, problem_of
from what_next.serving.http.routes import Call, operation
from what_next.serving.loop.journal import status_of
from what_next.serving.request import EVENTS_PER_UNIT
from what_next.serving.store import records
from what_next.worlds import Boredom

ITEMS_PER_UNIT = 2000
"""Searching this many items costs about as much as answering a question."""
OTHER = {409: "there is another one under this id"}


# Events and feedback


@operation("POST", "/v1/events", replies.EventsKept, role=WRITE, refuses=OTHER)
async def add_event(call: Call, event: Event) -> dict[str, Any]:
    """Keep an event.

    The answer comes only when the event is durable. An event without an answer may be sent again: an event that is
    stored already changes nothing and counts as a duplicate; a different event under its id is refused. An event from
    before its user was erased is not kept, and is named in `erased`. An event whose `recommendation_id` is unknown, did
    not show the item or was for another user is kept, but does not count as feedback, and is named in `unmatched`. The
    same holds for an event with a `recommendation_id`, a kind of your own and no `reward`.
    """
    call.user = event.user_id
    return await _keep(call.parts, [event])


@operation("POST", "/v1/events/batch", replies.EventsKept, role=WRITE, refuses=OTHER)
async def add_events(call: Call, batch: Events) -> dict[str, Any]:
    """Keep several events: all of them, or none.

    The answer comes only when they are durable. Their order in the list decides between events of the same time.
    """
    return await _keep(call.parts, batch.events)


async def _keep(parts: Parts, events: list[Event]) -> dict[str, Any]:
    served = parts.model.served
    kept = await parts.written(records.AddEvents(tuple([event.row for event in events])))
    others = {"unmatched": len(kept.unmatched), "erased": len(kept.erased)}
    parts.metrics.happened("events", accepted=kept.accepted, duplicate=kept.duplicates, **others)
    return {**vars(kept), "unknown_items": [one.item_id for one in events if one.item_id not in served.places]}


@operation("POST", "/v1/feedback", replies.FeedbackKept, role=WRITE, refuses={404: "it is not known", **OTHER})
async def add_feedback(call: Call, feedback: Feedback) -> dict[str, int]:
    """Tell the reward of an item of a recommendation.

    Feedback may come late, more than once and out of order. The reward of an item is that of the feedback with the
    latest timestamp; ties go to the latest arrival. Feedback that is sent again changes nothing; different feedback
    under its id is refused.
    """
    try:
        new = int(await call.parts.written(feedback.row))
    except records.InvalidWrite:
        call.parts.metrics.happened("feedback", refused=1)
        raise
    call.parts.metrics.happened("feedback", accepted=new, duplicate=1 - new)
    return {"accepted": new, "duplicates": 1 - new}


@operation("POST", "/v1/feedback/batch", replies.FeedbackBatchKept, role=WRITE)
async def add_feedbacks(call: Call, batch: Feedbacks) -> dict[str, Any]:
    """Tell the rewards of several items.

    Each is kept or refused on its own; the answer names those that were refused, by their index, and why.
    """
    writes = [call.parts.written(one.row) for one in batch.feedback]
    new, refused = list[bool](), []
    for index, outcome in enumerate(await asyncio.gather(*writes, return_exceptions=True)):
        if isinstance(outcome, records.InvalidWrite) and (problem := problem_of(outcome)) is not None:
            refused.append({"index": index, "code": CODES[problem.status], "message": problem.message})
        elif isinstance(outcome, BaseException):
            raise outcome  # the whole batch may be sent again: kept ones are then duplicates
        else:
            new.append(outcome)
    accepted, duplicates = sum(new), len(new) - sum(new)
    call.parts.metrics.happened("feedback", accepted=accepted, duplicate=duplicates, refused=len(refused))
    return {"accepted": accepted, "duplicates": duplicates, "refused": refused}


# Items


Query = Annotated[
    str,
    Field(
        max_length=256,
        pattern=r"^[^\x00-\x1f\x7f-\x9f]*$",
        description="a part of the name; empty: all",
        examples=["blue"],
    ),
]
Limit = Annotated[int, Field(ge=1, le=200, description="how many, at most", examples=[20])]
Alike = Annotated[int, Field(ge=1, le=200, description="number of items", examples=[10])]
ItemId = Annotated[IdInPath, Field(examples=["i1"])]


@operation("GET", "/v1/items", replies.FoundItems)
async def search_items(call: Call, query: Query = "", limit: Limit = 20) -> dict[str, Any]:
    """Find items by a part of their title."""
    served = call.parts.model.served
    call.pay(len(served.ids) / ITEMS_PER_UNIT)
    return {"items": [vars(one) for one in await call.parts.run(served.search, query, limit)]}


@operation("POST", "/v1/items", replies.ItemsKept, role=ADMIN)
async def add_item(call: Call, item: Item) -> dict[str, Any]:
    """Add an item, or change one.

    A known id, from training or added later, gets the new title, attributes and tags (without `tags` it keeps its own),
    and counts as replaced. An item needs a number for each attribute of the catalogue, and no others; its tags must be
    of kinds that the catalogue has. It can be recommended as soon as this is answered; other processes on the same
    store recommend it within seconds, and so does this one if the store becomes unavailable at that moment. If the
    catalogue has no attributes, a new item must share a tag with an item from training, else it is refused: it can be
    recommended once a model is trained on events with it.
    """
    return await _added(call.parts, [item])


@operation("POST", "/v1/items/batch", replies.ItemsKept, role=ADMIN)
async def add_items(call: Call, batch: Items) -> dict[str, Any]:
    """Add or change several items: all of them, or none.

    Each is treated as a single one; the last item of an id counts. This is much faster than one by one.
    """
    return await _added(call.parts, batch.items)


async def _added(parts: Parts, items: list[Item]) -> dict[str, Any]:
    """Store items, and add them to the models."""
    engine = parts.model
    rows = tuple([item.row for item in items])
    await parts.run(engine.check_items, rows)
    held = engine.held([item.item_id for item in items])  # the store does not hold items from training
    kept: records.ItemsAdded = await parts.written(records.AddItems(rows))
    try:
        await parts.run(engine.models.grow)
    except Exception as error:  # they are stored, and the engine looks for new items every second
        parts.log.error(error, "/v1/items")
    return {"accepted": kept.accepted, "replaced": max(kept.replaced, held)}


@operation("GET", "/v1/items/{item_id}", replies.ItemReply)
async def get_item(call: Call, item_id: ItemId) -> Mapping[str, Any]:
    """Tell an item's title, attributes and tags."""
    found = call.parts.model.served.item(item_id)
    if found is None:
        raise CatalogueError("no such item")
    return vars(found)


@operation("DELETE", "/v1/items/{item_id}", replies.ItemWithdrawn, role=ADMIN)
async def withdraw_item(call: Call, item_id: ItemId) -> dict[str, int]:
    """Withdraw an item: it stays in histories, but is not recommended any more, by any process on the store.

    Adding it again (`POST /v1/items`) brings it back.
    """
    return {"withdrawn": int(await call.parts.run(call.parts.model.withdraw, item_id))}


@operation("GET", "/v1/items/{item_id}/similar", replies.SimilarItems)
async def similar_items(call: Call, item_id: ItemId, k: Alike = 10) -> dict[str, Any]:
    """Find the items most similar to an item, by the model's vectors."""
    active = call.parts.model.models.live.current
    call.pay(len(active.served.ids) / ITEMS_PER_UNIT)
    return {"items": await call.parts.run(similar, active.served, item_id, k, active.withdrawn[1])}


# Users


UserId = Annotated[IdInPath, Field(examples=["u1"])]
Latest = Annotated[int, Field(ge=0, le=1000, description="the latest events, at most", examples=[100])]


@operation("GET", "/v1/users", replies.Users)
async def search_users(call: Call, query: Query = "", limit: Limit = 20) -> dict[str, Any]:
    """List ids of users with events, which begin with the query."""
    return {"users": await call.parts.run(call.parts.reads.users, query, limit)}


@operation("DELETE", "/v1/users/{user_id}", replies.Erased, role=ADMIN)
async def erase_user(call: Call, user_id: UserId) -> Any:
    """Erase everything of a user: events, recommendations, feedback, and the session in memory.

    The models were trained on the log as it was; they only forget the user when they are trained again.
    """
    call.user = user_id
    return await call.parts.run(call.parts.model.erase, user_id)


@operation("GET", "/v1/users/{user_id}/history", replies.History)
async def user_history(call: Call, user_id: UserId, limit: Latest = 100) -> dict[str, Any]:
    """Tell a user's events, newest first; an unknown user has an empty history."""
    call.user = user_id
    call.pay(limit / EVENTS_PER_UNIT)
    return await call.parts.run(_history, call.parts, user_id, limit)


def _history(parts: Parts, user_id: str, limit: int) -> dict[str, Any]:
    """The latest events, and the spread after each of the last `WINDOW` ones, which needs earlier events, too."""
    served, store = parts.model.served, parts.reads
    head = store.heads([user_id]).get(user_id)
    events = store.events_of(user_id, max(limit, 2 * WINDOW - 1))
    places = [served.places.get(event.item_id, -1) for event in events]
    known = [place for place in places[-2 * WINDOW + 1 :] if place >= 0]
    return {
        "user_id": user_id,
        "events": [
            {
                "event_id": event.event_id,
                "item_id": event.item_id,
                "title": None if place < 0 else served.titles[place],
                "event": event.kind,
                "timestamp": event.time,
                "reward": event.reward,
            }
            for event, place in list(zip(events, places, strict=True))[::-1][:limit]
        ],
        "total": head.events if head else 0,
        "spread": spreads(served, np.array(known, np.int32)),
        "boredom": None if parts.world is None else _boredom(parts.world, served.catalogue.names, events),
    }


def _boredom(world: Boredom, names: Sequence[str], events: Sequence[records.StoredEvent]) -> dict[str, Any]:
    """The boredom by topic after some events (oldest first); item ids are positions in the world."""
    played = [one.kind == "play" and one.reward != 0 for one in events]
    state = world.followed([int(one.item_id) for one in events], played)
    counts = zip(names, state.counts[0].tolist(), state.rest[0].tolist(), strict=True)
    topics = [{"topic": name, "plays": plays, "rest": rest} for name, plays, rest in counts]
    return {"threshold": world.threshold, "topics": topics}


# The service itself


@operation("GET", "/v1/model", replies.Model)
async def get_model(call: Call) -> Any:
    """Tell which model answers, and what is known of it."""
    return await call.parts.run(call.parts.model.model)


@operation("GET", "/v1/experiment", replies.Experiments)
async def get_experiment(call: Call) -> dict[str, Any]:
    """Tell what both arms of an experiment, or of a canary, have earned, and whether one is better.

    It is computed every `loop.look` seconds, less often for a large store. Only answers to named users count.
    """
    return {"experiment": call.parts.model.experiment.now}


@operation("GET", "/v1/loop", replies.LoopStatus)
async def get_loop(call: Call) -> Any:
    """Tell what the loop on this store did, and why (`what-next loop`)."""
    return await call.parts.run(status_of, call.parts.model.setup)


@operation("GET", "/health", replies.Health)
async def health(call: Call) -> dict[str, str]:
    """Tell that the process lives; needs no key."""
    return {"status": "ok"}


@operation("GET", "/ready", replies.Ready)
async def ready(call: Call) -> dict[str, bool]:
    """Tell whether model, store and popular items are ready; otherwise 503 with what is missing; needs no key.

    The store also counts as missing if it cannot be written, such as on a full disk.
    """
    if missing := await call.parts.missing():
        raise not_ready(missing)
    return {"ready": True}


METRICS_COST = 5
"""Cost of `/metrics` besides that of any request: some milliseconds of the processor."""


@operation("GET", "/metrics")
async def metrics(call: Call) -> Response:
    """Tell all numbers that the service counts, as Prometheus reads them."""
    parts, model = call.parts, None
    call.pay(METRICS_COST)
    if (engine := parts.engine) is not None:
        model = engine.model()
        with suppress(StoreError):  # the metrics go on without the loop's journal
            parts.metrics.loop((await parts.run(status_of, engine.setup))["numbers"])
    await parts.missing()
    headers = {**OF_JSON, "content-type": CONTENT_TYPE_LATEST}
    return Response(await parts.run(parts.metrics.text, model), headers=headers)


# The page

KINDS = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Content types by ending; only files of the page with these endings are served."""
PAGE_HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "object-src 'none'",
    "cache-control": "no-cache",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@operation("GET", "/page/{name}", in_schema=False)
async def page_file(call: Call, name: str) -> Response:
    """A file of the page, from a dictionary of all files, so that a request cannot name another path."""
    content = _page_files().get(name)
    if content is None:
        raise Problem(404, "there is no such page")
    return Response(content, headers={"content-type": KINDS[PurePath(name).suffix], **PAGE_HEADERS})


@operation("GET", "/", in_schema=False)
async def page(call: Call) -> Response:
    """The page."""
    return await page_file(call, "page.html")  # type: ignore[no-any-return]


@cache
def _page_files() -> Mapping[str, bytes]:
    found = (files("what_next.serving") / "page").iterdir()
    return {one.name: one.read_bytes() for one in found if PurePath(one.name).suffix in KINDS}
