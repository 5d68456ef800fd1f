"""The OpenAPI schema, generated from the operations and the models of their bodies and replies."""

import inspect
import re
from functools import cache
from typing import Any

import orjson
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from what_next import __version__
from what_next.serving.http.recommendations import HEADER, IDEMPOTENCY_KEY
from what_next.serving.http.replies import Error
from what_next.serving.http.routes import ALWAYS, BYTES, OPERATIONS, Call, Operation, operation

ABOUT = """Recommendations from a trained agent, and the log of what was shown and what happened next.

Errors have one shape: `error.code` for programs, `error.message` for people, and `error.fields` with what is wrong with
each field. A request that gets 503 or 429 may be sent again after `Retry-After` seconds.
"""
ANY = {
    400: "the request is not valid HTTP/1.1: it needs one `Host`, and headers and lengths that fit",
    401: "a key is needed, or is not known",
    403: "the key's role does not permit this, or the host is not this machine's own",
    408: "the body did not come in time",
    429: "the caller's rate limit is used up; `Retry-After` tells when there is room",
    431: "the headers are larger than 64 KiB",
    500: "an internal error; the service's log tells more",
    503: "the store is unavailable, the service is starting, or has too many requests; `Retry-After` "
    "tells when to try again",
    504: "it took longer than a request may take",
}
"""Error statuses of every request; probes need no key, and are not limited."""
OF_PARAMS = {422: "invalid fields, with reasons"}
OF_PATHS = {404: "there is no such item"}
OF_BODIES = {
    400: "the body is not JSON, or the request is not valid HTTP/1.1",
    413: "the body is too large",
    415: "the Content-Type is not JSON, or the body is compressed",
    **OF_PARAMS,
}
IDEMPOTENCY = {
    "name": HEADER,
    "in": "header",
    "description": "the same request with the same key gets the first answer again for a day; another request is 422",
    "schema": {"type": "string", "pattern": f"^({IDEMPOTENCY_KEY})$"},
    "examples": {"uuid": {"value": "8e03978e-40d5-43dd-bc93-6894a57f9324"}},
}
SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "a key of `what-next key add`"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
PLACE = "#/components/schemas/{model}"
Json = dict[str, Any]


@operation("GET", "/openapi.json", in_schema=False)
async def openapi(call: Call) -> bytes:
    """The schema itself."""
    written = _written(call.parts.settings.needs_keys)
    call.pay(len(written) / BYTES)
    return written


@cache
def _written(needs_keys: bool) -> bytes:
    return orjson.dumps(document(needs_keys))


@cache
def document(needs_keys: bool) -> Json:
    """The schema; `needs_keys`: whether requests other than probes need a key."""
    documented = [one for one in OPERATIONS if one.in_schema]
    kinds = dict.fromkeys(kind for one in documented for kind in (one.body, one.reply, Error) if kind is not None)
    named: list[tuple[type[BaseModel], JsonSchemaMode]] = [(kind, "validation") for kind in kinds]
    _, definitions = models_json_schema(named, ref_template=PLACE)
    paths: dict[str, Json] = {}
    for one in documented:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one)
    made: Json = {
        "openapi": "3.1.0",
        "info": {"title": "What Next?", "version": __version__, "description": ABOUT},
        "paths": paths,
        "components": {"schemas": definitions["$defs"], "securitySchemes": SCHEMES},
    }
    if needs_keys:
        made["security"] = [{name: []} for name in SCHEMES]
        for path in ALWAYS:
            paths[path]["get"]["security"] = []
    return made


def _operation(one: Operation) -> Json:
    """The schema of one operation."""
    summary, _, more = inspect.cleandoc(one.handler.__doc__ or "").partition("\n\n")
    first, *others = one.handler.__name__.split("_")
    parameters = [*_parameters(one), *([IDEMPOTENCY] if one.idempotent else [])]
    refused = {status: about for status, about in ANY.items() if one.path not in ALWAYS or status not in (401, 429)}
    refused |= OF_BODIES if one.body else OF_PARAMS if one.params else {}
    refused |= (OF_PATHS if "{item_id}" in one.path else {}) | dict(one.refuses)
    responses = {str(one.status): _reply(one)}
    for status, about in sorted(refused.items()):
        responses[str(status)] = {"description": about, "content": _json(Error)}
    made: Json = {
        "summary": summary,
        "description": more or summary,
        "operationId": first + "".join(word.title() for word in others),
        "responses": responses,
    }
    if parameters:
        made["parameters"] = parameters
    if one.body is not None:
        examples = {name: {"value": value} for name, value in one.body.examples.items()}
        made["requestBody"] = {"required": True, "content": _json(one.body, examples=examples)}
    return made


def _reply(one: Operation) -> Json:
    """The schema of a successful answer; an operation without a reply model answers text for Prometheus."""
    if one.reply is None:
        text = {"text/plain": {"schema": {"type": "string"}}}
        return {"description": "Prometheus text format", "content": text}
    return {"description": inspect.cleandoc(one.reply.__doc__ or ""), "content": _json(one.reply)}


def _json(kind: type[BaseModel], **more: Any) -> Json:
    return {"application/json": {"schema": {"$ref": PLACE.format(model=kind.__name__)}, **more}}


def _parameters(one: Operation) -> list[Json]:
    """The parameters in path and query."""
    if one.params is None:
        return []
    schema, in_path = one.params.model_json_schema(), set(re.findall(r"\{(\w+)\}", one.path))
    return [
        {"name": name, "in": "path" if name in in_path else "query", "required": name in in_path, "schema": field}
        for name, field in schema["properties"].items()
    ]
