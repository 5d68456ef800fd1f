"""The service as an ASGI application: authentication, limits and routing of every request."""

import asyncio
from time import perf_counter

from starlette.routing import compile_path
from starlette.types import Receive, Scope, Send

from what_next.errors import StoreUnavailable
from what_next.serving.http import operations, recommendations, schema  # noqa: F401 (they make the operations)
from what_next.serving.http.callers import LOCAL, ClientGone, Shares
from what_next.serving.http.parts import Parts
from what_next.serving.http.problems import CLOSE, RETRY, Problem, malformed, problem_of
from what_next.serving.http.routes import ALWAYS, CONNECTION, OPERATIONS, Call, Connection, Operation

MOST = 4096
"""Most concurrent requests, at most half of them of one caller; more get 503."""
OPEN = frozenset({"/", "/health", "/ready", "/openapi.json"})
"""Paths that need no key, besides the files of the page."""
PAGE = "/page/"
PROBES = ALWAYS | {"/metrics"}
"""Paths that machines poll every few seconds; they are only logged if they fail."""


class Application:
    """The service as an ASGI application; engine, store and writer of its `parts` may be set later."""

    def __init__(self, parts: Parts) -> None:
        self.parts, self._under_way = parts, Shares()
        paths: dict[str, dict[str, Operation]] = {}
        for one in OPERATIONS:
            paths.setdefault(one.path, {})[one.method] = one
            if one.method == "GET":
                paths[one.path]["HEAD"] = one  # the server drops its body
        self._fixed = {path: methods for path, methods in paths.items() if "{" not in path}
        self._patterns = [(compile_path(path)[0], path, paths[path]) for path in paths if path not in self._fixed]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, count and log one request, whatever goes wrong."""
        if scope["type"] != "http":
            raise NotImplementedError(f"no {scope['type']}")  # servers expect this exception
        parts, start = self.parts, perf_counter()
        call = Call(parts, dict(scope["headers"]), scope.get(CONNECTION) or Connection())
        try:
            async with asyncio.timeout(parts.settings.timeout):
                await self._admitted(call, scope)(call, scope, receive, send)
        except ClientGone:
            call.status = 499
        except Exception as error:
            problem = self._problem(error, call)
            if not call.status:
                await call.answer(send, problem.status, problem.body, problem.headers)
            elif isinstance(error, TimeoutError):  # the client does not read the answer
                call.status = 499
        finally:
            self._under_way.add(call.caller, -call.counted)
            parts.bodies.shares.add(call.caller, -call.held)
            call.status = call.connection.told or call.status
            seconds, method = perf_counter() - start, scope["method"]
            parts.metrics.request(method, call.route, call.status, seconds)
            if call.status != 200 or call.route not in PROBES:
                parts.log.request(method, call.route, call.status, seconds, call.key, call.user)

    def _problem(self, error: Exception, call: Call) -> Problem:
        """The problem to answer an error with; errors that are our own fault are logged."""
        if isinstance(error, StoreUnavailable):
            self.parts.metrics.store_failures.inc()
        if isinstance(error, TimeoutError) and not call.complete:
            return Problem(408, "the body did not come in time", headers=CLOSE)
        if (problem := problem_of(error, call.several)) is None:
            self.parts.log.error(error, call.route)
            problem = Problem(500, "something went wrong here; the service's own log tells more")
        return problem

    def _admitted(self, call: Call, scope: Scope) -> Operation:
        """The operation of a request, after checking the key, the rate limit and the number of concurrent requests."""
        if (raw := scope.get("raw_path")) is not None:
            scope["path"] = raw.decode("latin-1")  # not decoded: a %2F in an id is not a separator
        path: str = scope["path"]
        self._identify(call, scope, path)
        call.route, methods = self._found(scope, path)
        if (operation := methods.get(scope["method"])) is None:
            raise Problem(405, "this path has no such method", headers={"allow": ", ".join(sorted(methods))})
        if path not in ALWAYS:
            call.counted = True
            if not self._under_way.add(call.caller, 1, MOST):
                raise Problem(503, "too many requests at once; try again", headers=RETRY)
        return operation

    def _identify(self, call: Call, scope: Scope, path: str) -> None:
        """Identify the caller; a `Problem` if they may not ask."""
        headers, parts, needed = call.headers, self.parts, self.parts.settings.needs_keys
        if len(headers) < len(scope["headers"]) and sum(name == b"host" for name, _ in scope["headers"]) > 1:
            raise malformed("there are two Host headers; send one")
        if b"host" not in headers and scope["http_version"] == "1.1":
            raise malformed("there is no Host header; send one")
        if not needed and not LOCAL.fullmatch(headers.get(b"host", b"").decode("latin-1")):
            raise Problem(403, "without keys, only this machine's own names (localhost, 127.0.0.1) are answered")
        token = headers.get(b"x-api-key", b"")
        if not token and (bearer := headers.get(b"authorization", b""))[:7].lower() == b"bearer ":
            token = bearer[7:]  # other schemes, such as Basic, are for proxies
        caller, call.caller = parts.caller(scope["client"][0] if scope.get("client") else "", token)
        if path not in ALWAYS:
            call.pay(1)
        if caller is not None:
            call.key, call.role = caller.name, caller.role
        elif (token or needed) and path not in OPEN and not path.startswith(PAGE):
            if parts.keys is None:
                raise Problem(503, "the service is starting", headers=RETRY)
            unknown, missing = "this key is not known, or was revoked", "a key is needed: Authorization: Bearer wn_..."
            raise Problem(401, unknown if token else missing, headers={"www-authenticate": "Bearer"})

    def _found(self, scope: Scope, path: str) -> tuple[str, dict[str, Operation]]:
        """The template of a path and its methods; the path's parameters are put into the scope."""
        fixed = self._fixed.get(path, {})
        if scope["method"] in fixed:
            return path, fixed
        for pattern, template, methods in self._patterns:
            if match := pattern.match(path):
                scope["path_params"] = match.groupdict()
                return template, fixed | methods  # an item may be called "batch"
        if fixed:
            return path, fixed
        raise Problem(404, "there is no such path")
