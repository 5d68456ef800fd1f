"""Operations: what each request takes, does and answers; for the router, the schema and the tests alike."""

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
"""What is answered however much is asked: who is not told that the service lives takes it away."""
CONNECTION = "what_next.connection"
"""Where the `Connection` that a request came by lies in the scope of ASGI."""
BYTES = 4096
"""Bytes of a body that the rate counts as much as one question: so long it takes to read them at worst."""
ENCODED = [(name.encode(), value.encode()) for name, value in OF_JSON.items()]


class Connection:
    """Whether a client is still there; `task` is of a request that is of no use without it.

    `told` is the status that ended the connection in the midst of a request; 0: none did.
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
    """One request on its way.

    Attributes:
        parts: what it may need; `connection`: what it came by; `headers`: the last one of each name.
        route: the template of the path; `status`: of the answer, 0 as long as there is none.
        caller: whom the limits count it for; `key`: the name of the API key; `role`: what the caller may do.
        user: whom it is about.
        several: the list that is its body, whose rows errors name by their places; empty: it is of one thing alone.
        counted: whether it counts among those under way.
        held: bytes of its body in memory; `complete`: whether it is not being read.
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
    held: int = 0
    complete: bool = True

    def pay(self, cost: float) -> None:
        """Has the limit of the rate count more than the 1 of any request; raises a `Problem` where that is too much."""
        self.parts.rate.charge(self.caller, cost, 1)

    async def answer(self, send: Send, status: int, body: bytes, extra: Mapping[str, str] | None = None) -> None:
        """Sends JSON."""
        self.status = status
        headers = [*ENCODED, (b"content-length", b"%d" % len(body))]
        if extra:
            headers += [(name.encode(), value.encode()) for name, value in extra.items()]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Params(BaseModel):
    """What stands in a path and in the query behind it."""

    model_config = ConfigDict(extra="forbid")


Handler = Callable[..., Awaitable[Any]]
"""Takes the call, and a body or what path and query hold; returns JSON, what becomes JSON, or a response."""


@dataclass(frozen=True)
class Operation:
    """One request that the service answers.

    Attributes:
        method, path: of the request; `handler`: answers it.
        takes: what the handler takes besides the call; `reply`: what it answers; None: something of its own.
        role: who may, as a place in `keys.ROLES`.
        refuses: the statuses of its own, and when; those that any request may meet go without saying.
        idempotent: whether it takes an Idempotency-Key; `in_schema`: whether the schema tells of it.
    """

    method: str
    path: str
    handler: Handler
    takes: type[Params] | type[Body] | None
    reply: type[Reply] | None
    role: int = READ
    refuses: Mapping[int, str] = field(default_factory=dict)
    idempotent: bool = False
    in_schema: bool = True

    @property
    def status(self) -> int:
        """That of an answer."""
        return 201 if self.method == "POST" and self.role > READ else 200

    async def __call__(self, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if call.role < self.role:
            raise Problem(403, f"this key has the role {ROLES[call.role]}, and this request needs {ROLES[self.role]}")
        if self.takes is None:
            content = await self.handler(call)
        elif issubclass(self.takes, Body):
            content = await self.handler(call, await self._body(self.takes, call, receive))
        else:
            query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
            params = self.takes.model_validate({**query, **scope.get("path_params", {})})
            content = await self.handler(call, **vars(params))
        if isinstance(content, Response):
            call.status = content.status_code
            await content(scope, receive, send)
        else:
            if not isinstance(content, bytes):
                content = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
            await call.answer(send, self.status, content)

    async def _body(self, kind: type[Body], call: Call, receive: Receive) -> Body:
        """What the body says; a long one is paid for before it is looked at, and all by what they ask for."""
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
        paid = 1.0
        if (size := len(content)) > BYTES:
            parts.rate.charge(call.caller, size / BYTES, paid)
            paid += size / BYTES
        body = await parts.bodies.parsed(kind, content)
        if (units := body.units) > paid:
            parts.rate.charge(call.caller, units - paid, paid)
        if isinstance(body, Batch):
            (call.several,) = type(body).model_fields
        return body


OPERATIONS: list[Operation] = []


def operation(method: str, path: str, reply: type[Reply] | None = None, **more: Any) -> Callable[[Handler], Handler]:
    """Makes a function answer a request; `more`: see `Operation`. What it takes is told by its signature."""

    def made(handler: Handler) -> Handler:
        _, *given = signature(handler).parameters.values()
        takes: type[Params] | type[Body] | None = None
        if given and isinstance(given[0].annotation, type) and issubclass(given[0].annotation, Body):
            takes = given[0].annotation
        elif given:
            fields = {one.name: (one.annotation, ... if one.default is one.empty else one.default) for one in given}
            takes = create_model(handler.__name__, __base__=Params, **fields)  # type: ignore[call-overload]
        OPERATIONS.append(Operation(method, path, handler, takes, reply, **more))
        return handler

    return made
