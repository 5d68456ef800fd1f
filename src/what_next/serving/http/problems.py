"""What a request that cannot be answered is told: one shape for every status."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import orjson
from pydantic import ValidationError

from what_next.errors import CatalogueError, StoreUnavailable
from what_next.serving.bodies import SEEN
from what_next.serving.request import Overloaded, Refused, Stopping
from what_next.serving.store import records

FIELDS = 20
"""A body with more mistakes than this is told of the first ones."""
MISTAKES = 1000
"""With more than this only their number is told: a megabyte of mistakes takes seconds to be put into words."""
OF_JSON = {"content-type": "application/json", "cache-control": "no-store", "x-content-type-options": "nosniff"}
"""Of every answer in JSON."""
RETRY = {"retry-after": "1"}
"""For what passes by itself: try again in a second."""
CLOSE = {"connection": "close"}

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
    431: "too_large",
    500: "internal",
    503: "unavailable",
    504: "timeout",
}
"""The code of each status, for programs."""
OF_WRITES = {records.Conflict: 409, records.UnknownRecommendation: 404}
"""Statuses of writes that the store refuses; of the others it is 422."""


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
    def body(self) -> bytes:
        """What the answer holds."""
        fields = [{"field": name, "reason": reason} for name, reason in self.fields]
        code = self.code or CODES.get(self.status, "refused")
        return orjson.dumps({"error": {"code": code, "message": self.message, "fields": fields}})

    @property
    def response(self) -> bytes:
        """The whole response of HTTP/1.1, for what is refused before there is a request."""
        headers = {**OF_JSON, **self.headers, "content-length": len(self.body)}
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


def not_ready(missing: Sequence[str]) -> Problem:
    """The service is starting, or has lost something that it needs."""
    return Problem(503, f"not ready; missing: {', '.join(missing)}", headers=RETRY)


def malformed(message: str) -> Problem:
    """What is no request of HTTP/1.1 as it must be."""
    return Problem(400, message, headers=CLOSE, code="bad_request")


def overloaded(seconds: float) -> Problem:
    """More is asked than can be answered in time."""
    return Problem(503, "too many questions at once; ask again later", headers={"retry-after": str(int(seconds) + 1)})


def invalid(fields: Sequence[tuple[str, str]], status: int = 422) -> Problem:
    """The problem of fields that are not as they must be."""
    first = tuple(fields[:FIELDS])
    more = f", and {len(fields) - FIELDS} more" if len(fields) > FIELDS else ""
    return Problem(status, "; ".join(f"{name}: {reason}" for name, reason in first) + more, first)


def problem_of(error: BaseException, several: str = "") -> Problem | None:
    """What the client is told of an error; None: it is our own fault.

    `several` names the list of the body whose rows the store speaks of.
    """
    match error:
        case Problem():
            return error
        case Refused():
            return invalid([(error.field, error.reason)])
        case Overloaded():
            return overloaded(error.seconds)
        case ValidationError():
            return _of_validation(error)
        case Stopping():
            return Problem(503, str(error), headers=RETRY)
        case StoreUnavailable():
            message = "the store of events cannot be reached now; what was sent may have been kept; send it again"
            return Problem(503, message, headers=RETRY)
        case records.Withdrawn() | records.AnsweredBefore():
            return Problem(503, "what was to be answered changed meanwhile; ask again", headers=RETRY)
        case records.InvalidWrite():
            name = f"{several}.{error.place}.{error.field}" if several else error.field
            return invalid([(name, error.reason)], OF_WRITES.get(type(error), 422))
        case CatalogueError():
            return Problem(404, "there is no such item in the catalogue")
        case TimeoutError():
            return Problem(504, "no answer within the time that a request may take; try again", headers=RETRY)
    return None


def _of_validation(error: ValidationError) -> Problem:
    """What pydantic found, as field and reason; what is no JSON at all has no fields."""
    if (count := error.error_count()) > MISTAKES:
        return Problem(422, f"the body has {count:,} mistakes; compare it with the schema, /openapi.json")
    found = error.errors(include_url=False, include_input=False, include_context=False)
    if found[0]["type"] == "json_invalid":
        return Problem(400, f"the body is no JSON: {found[0]['msg'].removeprefix('Invalid JSON: ')}")
    return invalid(
        [(".".join(str(part) for part in one["loc"] if part != "[key]") or "body", _reason(one)) for one in found]
    )


def _reason(error: Any) -> str:
    """What is wrong, and what is allowed."""
    if error["type"] == "extra_forbidden":
        return "there is no such field"
    if error["type"] == "string_pattern_mismatch":
        return "must hold no control characters" + (", and not be blank" if SEEN in error["msg"] else "")
    message: str = (
        error["msg"].removeprefix("Value error, ").replace("Tuple", "List").replace("valid tuple", "valid list")
    )
    return message[:1].lower() + message[1:]
