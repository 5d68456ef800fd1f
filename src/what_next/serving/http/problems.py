"""What a request that cannot be answered is told: one shape for every status."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import orjson
from pydantic import ValidationError

from what_next.errors import CatalogueError, StoreUnavailable
from what_next.serving.request import Overloaded, Refused, Stopping
from what_next.serving.store.records import AnsweredBefore, InvalidWrite, Withdrawn

FIELDS = 20
"""A body with more mistakes than this is told of the first ones."""

MISTAKES = 1000
"""With more than this only their number is told: a megabyte of mistakes takes seconds to be put into words."""

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
    431: "too_large",
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
        code: for programs; empty: the usual one of the status.
    """

    status: int
    message: str
    fields: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    code: str = ""

    @property
    def content(self) -> dict[str, Any]:
        """What the answer holds."""
        return {
            "error": {
                "code": self.code or CODES.get(self.status, "refused"),
                "message": self.message,
                "fields": [{"field": name, "reason": reason} for name, reason in self.fields],
            }
        }

    @property
    def body(self) -> bytes:
        """The same as bytes."""
        return orjson.dumps(self.content)

    @property
    def response(self) -> bytes:
        """All of HTTP/1.1's response, for what is refused before there is a request; the connection is closed then."""
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}", "content-type: application/json"]
        lines += [f"{name}: {value}" for name, value in {**self.headers, "connection": "close"}.items()]
        return "\r\n".join([*lines, f"content-length: {len(self.body)}", "", ""]).encode() + self.body


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


def malformed(message: str) -> Problem:
    """What is no request of HTTP/1.1 as it must be."""
    return Problem(400, message, headers={"connection": "close"}, code="bad_request")


def overloaded(seconds: float) -> Problem:
    """More is asked than can be answered in time."""
    return Problem(503, "too many questions at once; ask again later", headers={"retry-after": str(int(seconds) + 1)})


def of_refused(error: Refused) -> Problem:
    """A question that cannot be answered as it was put."""
    return invalid([(error.field, error.reason)])


def problem_of(error: Exception) -> Problem | None:
    """What the client is told of an error of another part; None: it is our own fault."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, Refused):
        return of_refused(error)
    if isinstance(error, Overloaded):
        return overloaded(error.seconds)
    if isinstance(error, ValidationError):
        if (count := error.error_count()) > MISTAKES:
            return Problem(422, f"the body has {count:,} mistakes; compare it with the schema, /openapi.json")
        return of_validation(error.errors(include_url=False, include_input=False, include_context=False))
    if isinstance(error, Stopping):
        return Problem(503, str(error), headers=RETRY)
    if isinstance(error, StoreUnavailable):
        return store_away()
    if isinstance(error, Withdrawn | AnsweredBefore):
        return Problem(503, "what was to be answered changed meanwhile; ask again", headers=RETRY)
    if isinstance(error, InvalidWrite):
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
