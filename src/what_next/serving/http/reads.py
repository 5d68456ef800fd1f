"""The requests without a body: items, users, the model."""

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import unquote

import orjson
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from what_next.errors import CatalogueError
from what_next.serving.engine import CatalogueItem
from what_next.serving.http import replies
from what_next.serving.http.fields import Id
from what_next.serving.http.parts import Parts
from what_next.serving.http.posts import DUMP

SPREAD = 20
"""Latest events of a history whose spread is told, and events that a spread is of."""

router = APIRouter(prefix="/v1")


def _decoded(value: Any) -> Any:
    """A part of a path, which the gate hands on as it came, since an id may hold a slash."""
    if not isinstance(value, str):
        return value
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("must be UTF-8") from None


InPath = Annotated[Id, BeforeValidator(_decoded), Path(examples=["i1"])]
UserInPath = Annotated[Id, BeforeValidator(_decoded), Path(examples=["u1"])]
Part = Annotated[str, Field(max_length=256, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]


class Search(BaseModel):
    """What is searched for."""

    model_config = ConfigDict(extra="forbid")

    query: Part = Field(default="", description="a part of the name; empty: all", examples=["blue"])
    limit: int = Field(default=20, ge=1, le=200, description="how many, at most", examples=[20])


class Several(BaseModel):
    """How many are told."""

    model_config = ConfigDict(extra="forbid")

    k: int = Field(default=10, ge=1, le=200, description="number of items", examples=[10])


class Latest(BaseModel):
    """How many are told."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=100, ge=0, le=1000, description="the latest events, at most", examples=[100])


def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


def _sent(content: object) -> Response:
    return Response(orjson.dumps(content, option=DUMP), media_type="application/json")


@router.get("/items", response_model=replies.Items, operation_id="searchItems")
async def search_items(request: Request, search: Annotated[Search, Query()]) -> Response:
    """Find items by a part of their title."""
    parts = _parts(request)
    found = await parts.run(parts.model.search, search.query, search.limit)
    return _sent({"items": [_item(one) for one in found]})


@router.get("/items/{item_id}", response_model=replies.ItemReply, operation_id="getItem")
async def get_item(request: Request, item_id: InPath) -> Response:
    """Tell an item's title and attributes."""
    found = _parts(request).model.item(item_id)
    if found is None:
        raise CatalogueError("no such item")
    return _sent(_item(found))


@router.get("/items/{item_id}/similar", response_model=replies.SimilarItems, operation_id="similarItems")
async def similar_items(request: Request, item_id: InPath, several: Annotated[Several, Query()]) -> Response:
    """Find the items most like one, by the model's vectors."""
    parts = _parts(request)
    return _sent({"items": await parts.run(parts.model.similar, item_id, several.k)})


@router.delete("/items/{item_id}", response_model=replies.ItemWithdrawn, operation_id="withdrawItem")
async def withdraw_item(request: Request, item_id: InPath) -> Response:
    """Withdraw an item: it stays in histories, and no answer holds it any more, in any process on the store.

    It is back when it is put again (`POST /v1/items`).
    """
    parts = _parts(request)
    return _sent({"withdrawn": int(await parts.run(parts.model.withdraw, item_id))})


@router.get("/users", response_model=replies.Users, operation_id="searchUsers")
async def search_users(request: Request, search: Annotated[Search, Query()]) -> Response:
    """List ids of users that have events and whose id begins with the query."""
    parts = _parts(request)
    return _sent({"users": await parts.run(parts.reads.users, search.query, search.limit)})


@router.get("/users/{user_id}/history", response_model=replies.History, operation_id="userHistory")
async def user_history(request: Request, user_id: UserInPath, latest: Annotated[Latest, Query()]) -> Response:
    """Tell a user's events, newest first; nobody has an empty history rather than none."""
    parts = _parts(request)
    return _sent(await parts.run(_history, parts, user_id, latest.limit))


@router.delete("/users/{user_id}", response_model=replies.Erased, operation_id="eraseUser")
async def erase_user(request: Request, user_id: UserInPath) -> Response:
    """Erase everything of a user: events, recommendations, feedback, and what the model remembers.

    The models themselves were trained on what the log held then; they forget when they are trained anew.
    """
    parts = _parts(request)
    return _sent(await parts.run(parts.model.erase, user_id))


@router.get("/model", response_model=replies.Model, operation_id="getModel")
async def get_model(request: Request) -> Response:
    """Tell which model answers, and what is known of it."""
    parts = _parts(request)
    return _sent(await parts.run(parts.model.model))


def _history(parts: Parts, user_id: str, limit: int) -> dict[str, Any]:
    """The latest events, and the spread after each of the last ones, each of which looks back itself."""
    engine, store = parts.model, parts.reads
    head = store.heads([user_id]).get(user_id)
    events = store.events_of(user_id, limit=max(limit, 2 * SPREAD - 1), newest_first=True)
    spreads = engine.spreads([event.item_id for event in reversed(events[: 2 * SPREAD - 1])])
    return {
        "user_id": user_id,
        "events": [
            {
                "event_id": event.event_id,
                "item_id": event.item_id,
                "title": None if (item := engine.item(event.item_id)) is None else item.title,
                "event": event.kind,
                "timestamp": event.time,
                "reward": event.reward,
            }
            for event in events[:limit]
        ],
        "total": head.events if head else 0,
        "spread": list(spreads)[-SPREAD:],
    }


def _item(item: CatalogueItem) -> Mapping[str, Any]:
    return {"item_id": item.item_id, "title": item.title, "attributes": dict(item.attributes)}
