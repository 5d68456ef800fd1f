"""What a request that cannot be answered is told: one shape for every status."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import ValidationError

from what_next.errors import CatalogueError, StoreUnavailable
from what_next.server.asks import Refused, Stopping
from what_next.server.store.writes import AnsweredBefore, Unfit, Withdrawn

FIELDS = 20
"""A body with more mistakes than this is told of the first ones."""

RETRY = {"retry-after": "1"}
"""For what passes by itself: try again in a second."""

CODES = {
    400: "bad_json",
    401: "no_key",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "slow_request",
    409: "conflict",
    413: "too_large",
    415: "not_json",
    422: "invalid",
    429: "too_many_requests",
    500: "internal",
    503: "unavailable",
    504: "timeout",
}
"""The code of each status, for programs."""

SENT = {"time": "timestamp", "kind": "event"}
"""What a body calls a field, where the store calls it otherwise."""


@dataclass(eq=False)
class Problem(Exception):
    """Why a request is not answered as it was meant.

    Attributes:
        status: of HTTP.
        message: for people; it never holds what the service knows of itself, nor what was sent.
        fields: pairs of a field's name and what is wrong with it.
        headers: to send along.
    """

    status: int
    message: str
    fields: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def content(self) -> dict[str, Any]:
        """What the answer holds."""
        return {
            "error": {
                "code": CODES.get(self.status, "refused"),
                "message": self.message,
                "fields": [{"field": name, "reason": reason} for name, reason in self.fields],
            }
        }

    @property
    def body(self) -> bytes:
        """The same as bytes."""
        return orjson.dumps(self.content)


def internal() -> Problem:
    """Our own fault."""
    return Problem(500, "something went wrong here; the service's own log tells more")


def not_ready(missing: Sequence[str]) -> Problem:
    """The service is starting, or has lost something that it needs."""
    return Problem(503, f"not ready; missing: {', '.join(missing)}", headers=RETRY)


def store_away() -> Problem:
    """The store takes nothing now."""
    told = "the store of events cannot be reached now; nothing of this request was kept, and it may be sent again"
    return Problem(503, told, headers=RETRY)


def problem_of(error: Exception) -> Problem | None:
    """What the client is told of an error of another part; None: it is our own fault."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, Refused):
        return invalid([(error.field, error.reason)])
    if isinstance(error, ValidationError):
        return of_validation(error.errors(include_url=False, include_input=False, include_context=False))
    if isinstance(error, Stopping):
        return Problem(503, str(error), headers=RETRY)
    if isinstance(error, StoreUnavailable):
        return store_away()
    if isinstance(error, Withdrawn | AnsweredBefore):
        return Problem(503, "what was to be answered changed meanwhile; ask again", headers=RETRY)
    if isinstance(error, Unfit):
        return invalid([(SENT.get(error.field, error.field), error.reason)])
    if isinstance(error, CatalogueError):
        return Problem(404, "there is no such item in the catalogue")
    if isinstance(error, TimeoutError):
        return Problem(504, "no answer within the time that a request may take; try again", headers=RETRY)
    return None


def conflict(field: str, reason: str) -> Problem:
    """What was sent does not go with what is there."""
    return Problem(409, f"{field}: {reason}", ((field, reason),))


def invalid(fields: Sequence[tuple[str, str]]) -> Problem:
    """The problem of fields that are not as they must be."""
    told = tuple(fields[:FIELDS])
    more = f", and {len(fields) - FIELDS} more" if len(fields) > FIELDS else ""
    return Problem(422, "; ".join(f"{name}: {reason}" for name, reason in told) + more, told)


def of_validation(errors: Sequence[Any]) -> Problem:
    """What pydantic found, as field and reason; what is no JSON at all has no fields."""
    if errors and errors[0]["type"] == "json_invalid":
        return Problem(400, f"the body is no JSON: {errors[0]['msg'].removeprefix('Invalid JSON: ')}")
    return invalid([(_name(error["loc"]), _reason(error)) for error in errors])


def _name(place: tuple[int | str, ...]) -> str:
    """A place within a body, such as `events.3.user_id`; the part of the request it is in goes without saying."""
    inside = place[1:] if place and place[0] in ("query", "path", "body", "header") else place
    return ".".join(str(part) for part in inside if part != "[key]") or "body"


def _reason(error: Any) -> str:
    """What is wrong, and what is allowed."""
    if error["type"] == "extra_forbidden":
        return "there is no such field"
    if error["type"] == "string_pattern_mismatch":
        return "must hold no control characters, and not be blank"
    message: str = error["msg"].removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
