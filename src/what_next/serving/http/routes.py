"""Operations: the path, parameters, handler and reply of each request; used by the router, the schema and the tests."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import Any
from urllib.parse import parse_qsl

import orjson
from pydantic import BaseModel, ConfigDict, create_model
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from what_next.serving.bodies import Batch, Body
from what_next.serving.http.callers import ADMIN, READ, ROLES
from what_next.serving.http.parts import Parts
from what_next.serving.http.problems import OF_JSON, Problem
from what_next.serving.http.replies import Reply

ALWAYS = frozenset({"/health", "/ready"})
"""Probes, which are answered under any load: an orchestrator restarts a service that does not answer them."""
CONNECTION = "what_next.connection"
"""Key in the ASGI scope of a request's `Connection`."""
BYTES = 4096
"""Bytes of a body that the rate limit counts as one question: parsing them takes as long in the worst case."""
ENCODED = [(name.encode(), value.encode()) for name, value in OF_JSON.items()]


class Connection:
    """The state of a client's connection; `task` is cancelled when the client hangs up.

    `told` is the status with which the connection was ended in the middle of a request; 0: it was not.
    """

    gone, told = False, 0
    task: "asyncio.Task[Any] | None" = None

    def lost(self) -> None:
        """The client hung up."""
        self.gone = True
        if self.task is not None:
            self.task.cancel()


@dataclass(slots=True, eq=False)
class Call:
    """One request while it is handled.

    Attributes:
        parts: the shared parts; `connection`: its connection; `headers`: the last value of each name.
        route: the template of the path; `status`: of the answer, 0 as long as there is none.
        caller: the name under which limits count it; `key`: the name of the API key; `role`: the caller's rights.
        user: the user that the request concerns, for the log.
        several: for a batch, the name of the list in the body, to name rows in errors; else empty.
        counted: whether it is counted as a concurrent request; `paid`: its cost so far.
        held: bytes of its body in memory; `complete`: False while the body is being read.
    """

    parts: Parts
    headers: Mapping[bytes, bytes]
    connection: Connection
    route: str = "unmatched"
    status: int = 0
    caller: str = ""
    key: str | None = None
    role: int = ADMIN
    user: str | None = None
    several: str = ""
    counted: bool = False
    paid: float = 0.0
    held: int = 0
    complete: bool = True

    def pay(self, cost: int | float) -> None:
        """Charge the caller's rate limit for a further cost; raises a `Problem` if the caller has to wait."""
        if wait := self.parts.rate.take(self.caller, cost, self.paid):
            message = (
                f"the rate limit of {self.parts.settings.rate:,} requests a second for each key, or address without a "
                "key, is used up (server.rate, counted by cost: items, history, reasons, bytes); wait as Retry-After "
                "says"
            )
            raise Problem(429, message, headers={"retry-after": str(int(wait) + 1)})
        self.paid += cost

    async def answer(self, send: Send, status: int, body: bytes, extra: Mapping[str, str] | None = None) -> None:
        """Send a JSON response."""
        self.status = status
        headers = [*ENCODED, (b"content-length", b"%d" % len(body))]
        if extra:
            headers += [(name.encode(), value.encode()) for name, value in extra.items()]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Params(BaseModel):
    """The parameters in a path and a query string."""

    model_config = ConfigDict(extra="forbid")


Handler = Callable[..., Awaitable[Any]]
"""Takes the call, and a body or parameters; returns JSON bytes, values for JSON, or a response."""


@dataclass(frozen=True)
class Operation:
    """One request that the service answers.

    Attributes:
        method, path: of the request; `handler`: answers it.
        body, params: what the handler takes besides the call, if anything; at most one of them.
        reply: the schema of the answer; None: not JSON.
        role: the required role, as an index in `callers.ROLES`.
        refuses: its own error statuses, with descriptions, besides those of every request.
        idempotent: whether it takes an Idempotency-Key; `in_schema`: whether it is in the OpenAPI schema.
    """

    method: str
    path: str
    handler: Handler
    body: type[Body] | None
    params: type[Params] | None
    reply: type[Reply] | None
    role: int = READ
    refuses: Mapping[int, str] = field(default_factory=dict)
    idempotent: bool = False
    in_schema: bool = True

    @property
    def status(self) -> int:
        """The status of a successful answer."""
        return 201 if self.method == "POST" and self.role > READ else 200

    async def __call__(self, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if call.role < self.role:
            raise Problem(403, f"this key has the role {ROLES[call.role]}, and this request needs {ROLES[self.role]}")
        if self.body is not None:
            content = await self.handler(call, await self._read(self.body, call, receive))
        elif self.params is not None:
            query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
            params = self.params.model_validate({**query, **scope.get("path_params", {})})
            content = await self.handler(call, **vars(params))
        else:
            content = await self.handler(call)
        if isinstance(content, Response):
            call.status = content.status_code
            await content(scope, receive, send)
        else:
            if not isinstance(content, bytes):
                content = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
            await call.answer(send, self.status, content)

    async def _read(self, kind: type[Body], call: Call, receive: Receive) -> Body:
        """Read and parse the body. The rate limit charges a long body before parsing, and then the body's cost."""
        if call.headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
            raise Problem(415, "the body must be JSON; send the header Content-Type: application/json")
        if call.headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
            raise Problem(
                415,
                "the body must not be packed; send it without Content-Encoding",
                headers={"accept-encoding": "identity"},
            )
        parts, length = call.parts, call.headers.get(b"content-length", b"")
        content = await parts.bodies.read(receive, int(length[:19]) if length.isdigit() else 0, call)
        if len(content) > BYTES:
            call.pay(len(content) / BYTES)
        body = await parts.bodies.parsed(kind, content)
        if (units := body.units) > call.paid:
            call.pay(units - call.paid)
        if isinstance(body, Batch):
            (call.several,) = type(body).model_fields
        return body


OPERATIONS: list[Operation] = []


def operation(method: str, path: str, reply: type[Reply] | None = None, **more: Any) -> Callable[[Handler], Handler]:
    """Register a function as an operation; its signature defines the parameters. `more`: see `Operation`."""

    def made(handler: Handler) -> Handler:
        _, *given = signature(handler).parameters.values()
        body = params = None
        if given and isinstance(given[0].annotation, type) and issubclass(given[0].annotation, Body):
            body = given[0].annotation
        elif given:
            fields = {one.name: (one.annotation, ... if one.default is one.empty else one.default) for one in given}
            params = create_model(handler.__name__, __base__=Params, **fields)  # type: ignore[call-overload]
        OPERATIONS.append(Operation(method, path, handler, body, params, reply, **more))
        return handler

    return made
