"""What every request passes on its way to its operation, in this order: each layer does one thing."""

import asyncio
from time import perf_counter

from starlette.types import ASGIApp, Receive, Scope, Send

from what_next.errors import StoreUnavailable
from what_next.serving.http.limits import ClientGone, is_local
from what_next.serving.http.parts import Parts
from what_next.serving.http.problems import CLOSE, RETRY, Problem, malformed, problem_of
from what_next.serving.http.routes import CALL, CONNECTION, Call, Connection

MOST = 2048
"""Requests under way at once; more are asked to come again."""
OPEN = frozenset({"/", "/health", "/ready", "/openapi.json"})
"""What needs no key, besides the files of the page."""
PAGE = "/page/"
ALWAYS = frozenset({"/health", "/ready"})
"""What is answered however much is asked: who is not told that the service lives takes it away."""
PROBES = ALWAYS | {"/metrics"}
"""What machines ask every few seconds: worth a line in the log only where it fails."""


class AccessLog:
    """Counts each request, and writes a line of it."""

    def __init__(self, app: ASGIApp, parts: Parts) -> None:
        self.app, self.parts = app, parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, which has been answered at the end, whatever went wrong."""
        parts, start = self.parts, perf_counter()
        call = scope[CALL] = Call(parts, dict(scope["headers"]), scope.get(CONNECTION) or Connection())
        try:
            await self.app(scope, receive, send)
        finally:
            parts.bodies.held -= call.held
            seconds, method = perf_counter() - start, scope["method"]
            parts.metrics.request(method, call.route, call.status, seconds)
            if call.status != 200 or call.route not in PROBES:
                parts.log.request(method, call.route, call.status, seconds, call.key, call.user)


class Problems:
    """Tells the client why it is not answered, and the log what was our own fault."""

    def __init__(self, app: ASGIApp, parts: Parts) -> None:
        self.app, self.parts = app, parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        call: Call = scope[CALL]
        try:
            await self.app(scope, receive, send)
        except ClientGone:
            call.status = 499
        except Exception as error:
            problem = self._told(error, call)
            if not call.status:
                await call.answer(send, problem.status, problem.body, problem.headers)

    def _told(self, error: Exception, call: Call) -> Problem:
        if isinstance(error, StoreUnavailable):
            self.parts.metrics.store_failed()
        if isinstance(error, TimeoutError) and not call.complete:
            return Problem(408, "the body did not come in time", headers=CLOSE)
        if (problem := problem_of(error)) is None:
            self.parts.log.error(error, call.route)
            problem = Problem(500, "something went wrong here; the service's own log tells more")
        return problem


class Deadline:
    """Ends a request that takes too long, by a `TimeoutError`."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self.app, self.seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        async with asyncio.timeout(self.seconds):
            await self.app(scope, receive, send)


class Admission:
    """Lets in who may ask: by the key, not too often, and not too many at once."""

    def __init__(self, app: ASGIApp, parts: Parts) -> None:
        self.app, self.parts, self._under_way = app, parts, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if (raw := scope.get("raw_path")) is not None:
            scope["path"] = raw.decode("latin-1")  # an id may hold a %2F: the router must not take it for a slash
        path, call = scope["path"], scope[CALL]
        self._under_way += 1
        try:
            if self._under_way > MOST and path not in ALWAYS:
                raise Problem(503, "too many requests at once; try again", headers=RETRY)
            self._admit(call, scope, path)
            await self.app(scope, receive, send)
        finally:
            self._under_way -= 1

    def _admit(self, call: Call, scope: Scope, path: str) -> None:
        """Who asks, and whether they may."""
        headers, parts, needed = call.headers, self.parts, self.parts.settings.needs_keys
        if len(headers) < len(scope["headers"]) and sum(name == b"host" for name, _ in scope["headers"]) > 1:
            raise malformed("there are two Host headers; send one")
        if not needed and not is_local(headers.get(b"host", b"").decode("latin-1")):
            raise Problem(403, "without keys, only this machine's own names (localhost, 127.0.0.1) are answered")
        token = headers.get(b"x-api-key", b"")
        if not token and (bearer := headers.get(b"authorization", b""))[:7].lower() == b"bearer ":
            token = bearer[7:]  # what is of another kind is a proxy's own business
        caller, call.caller = parts.caller(scope["client"][0] if scope.get("client") else "", token)
        if path not in ALWAYS:
            parts.rate.charge(call.caller)
        if caller is not None:
            call.key, call.role = caller.name, caller.role
        elif (token or needed) and path not in OPEN and not path.startswith(PAGE):
            if parts.keys is None:
                raise Problem(503, "the service is starting", headers=RETRY)
            told = "this key is not known, or was revoked" if token else "a key is needed: Authorization: Bearer wn_..."
            raise Problem(401, told, headers={"www-authenticate": "Bearer"})
