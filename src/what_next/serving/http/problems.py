"""Error responses: one shape for every status."""

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
"""Most mistakes of a body that are listed."""
MISTAKES = 1000
"""With more mistakes only their number is reported, because formatting a megabyte of mistakes takes seconds."""
OF_JSON = {"content-type": "application/json", "cache-control": "no-store", "x-content-type-options": "nosniff"}
"""Headers of every JSON response."""
RETRY = {"retry-after": "1"}
"""For temporary failures: try again in a second."""
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
"""The error code of each status, for programs."""
OF_WRITES = {records.Conflict: 409, records.UnknownRecommendation: 404}
"""Statuses of refused writes; for all others it is 422."""


@dataclass(eq=False)
class Problem(Exception):
    """An error response.

    Attributes:
        status: of HTTP.
        message: for people; it never holds internal details or parts of the request.
        fields: pairs of a field's name and what is wrong with it.
        headers: further headers of the response.
        code: for programs; empty: the status's code in `CODES`.
    """

    status: int
    message: str
    fields: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    code: str = ""

    @property
    def body(self) -> bytes:
        """The body of the response, as JSON."""
        fields = [{"field": name, "reason": reason} for name, reason in self.fields]
        code = self.code or CODES[self.status]
        return orjson.dumps({"error": {"code": code, "message": self.message, "fields": fields}})

    @property
    def response(self) -> bytes:
        """The whole HTTP/1.1 response, for refusals before a request is parsed."""
        headers = {**OF_JSON, **self.headers, "content-length": len(self.body)}
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


def not_ready(missing: Sequence[str]) -> Problem:
    """The service is starting, or has lost something that it needs."""
    return Problem(503, f"not ready; missing: {', '.join(missing)}", headers=RETRY)


def malformed(message: str) -> Problem:
    """A malformed HTTP/1.1 request."""
    return Problem(400, message, headers=CLOSE, code="bad_request")


def overloaded(seconds: float) -> Problem:
    """Too many questions to answer in time."""
    return Problem(503, "too many questions at once; ask again later", headers={"retry-after": str(int(seconds) + 1)})


def invalid(fields: Sequence[tuple[str, str]], status: int = 422) -> Problem:
    """The problem that names invalid fields."""
    first = tuple(fields[:FIELDS])
    more = f", and {len(fields) - FIELDS} more" if len(fields) > FIELDS else ""
    return Problem(status, "; ".join(f"{name}: {reason}" for name, reason in first) + more, first)


def problem_of(error: BaseException, several: str = "") -> Problem | None:
    """The error response for an exception; None if it is an internal error.

    `several`: for a batch, the name of the list in the body, to name its rows.
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
    """The problem for pydantic's errors, by field; a body that is not JSON has no fields."""
    if (count := error.error_count()) > MISTAKES:
        return Problem(422, f"the body has {count:,} mistakes; compare it with the schema, /openapi.json")
    found = error.errors(include_url=False, include_input=False, include_context=False)
    if found[0]["type"] == "json_invalid":
        return Problem(400, f"the body is no JSON: {found[0]['msg'].removeprefix('Invalid JSON: ')}")
    return invalid(
        [(".".join(str(part) for part in one["loc"] if part != "[key]") or "body", _reason(one)) for one in found]
    )


def _reason(error: Any) -> str:
    """A field's mistake, and what is allowed."""
    if error["type"] == "extra_forbidden":
        return "there is no such field"
    if error["type"] == "string_pattern_mismatch":
        return "must hold no control characters" + (", and not be blank" if SEEN in error["msg"] else "")
    message: str = (
        error["msg"].removeprefix("Value error, ").replace("Tuple", "List").replace("valid tuple", "valid list")
    )
    return message[:1].lower() + message[1:]
