"""What every request passes: who asks, how much, how often; and what every answer leaves in log and metrics.

One layer of plain ASGI does all of it in one pass. It answers requests with a body by itself, since these are most of
the traffic, and the layers of the framework would cost several times what they do; the rest goes on to the router.
"""

import asyncio
import hashlib
import re
from collections.abc import Mapping
from time import monotonic, perf_counter
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from what_next.errors import StoreUnavailable
from what_next.serving.http import parts
from what_next.serving.http.fields import Body
from what_next.serving.http.keys import ROLES, Caller
from what_next.serving.http.limits import Rate, Timeouts, is_local
from what_next.serving.http.parts import Line, Parts
from what_next.serving.http.posts import HEADER, IDEMPOTENCY_KEY, Asking, Post, Sent
from what_next.serving.http.problems import (
    RETRY,
    Problem,
    internal,
    invalid,
    malformed,
    overloaded,
    problem_of,
)

MOST = 2048
"""Requests under way at once; more are asked to come again."""

BYTES = 4096
"""Bytes of a body that the rate counts as much as one question: so long it takes to read them at worst."""

LARGE = 2**16
"""Bytes from which on bodies are read one after another, with pauses in which the others are answered."""

BODIES = 2**26
"""Bytes of the bodies of all requests under way together, or one whole body where that may be larger."""

OPEN = frozenset({"/", "/health", "/ready", "/openapi.json"})
"""What needs no key, besides the files of the page."""

ALWAYS = frozenset({"/health", "/ready"})
"""What is answered however much is asked: who is not told that the service lives takes it away."""

PROBES = ALWAYS | {"/metrics"}
"""What machines ask every few seconds: worth a line in the log only where it fails."""

PLAIN_REQUEST = re.compile(rb"POST (/v1/recommendations(?:/batch)?) HTTP/1\.1\r\n(?:[!-9;-~]+: [ -~]*\r\n)+\r\n")
LENGTH = re.compile(rb"\ncontent-length: ([0-9]{1,7})\r")
UNUSUAL = re.compile(rb"\n(?:transfer-encoding|expect|upgrade|connection: (?!keep-alive\r)|content-length: (?![0-9]))")
KEY = re.compile(rb"\n(?:x-api-key: |authorization: bearer )([!-~]+)\r", re.IGNORECASE)
"""A question for the model as most clients send it, what it may hold, and its key."""

_BODY = overloaded(0.0).body
SHED = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncache-control: no-store\r\n"
    b"x-content-type-options: nosniff\r\nretry-after: %%d\r\ncontent-length: %d\r\n\r\n" % len(_BODY)
) + _BODY

PAGE = "/page/"
PLAIN = (
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
)
ANYBODY = Caller(None, len(ROLES) - 1)
"""Where no keys are needed, everybody may do everything."""


class Gone(Exception):
    """The client has hung up."""


class Turn:
    """One request on its way."""

    __slots__ = (
        "asking", "caller", "held", "key", "length", "line", "once", "reading", "route", "scope", "send", "status",
        "user",
    )  # fmt: skip

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope, self.send = scope, send
        self.route, self.status, self.length, self.held, self.reading = "", 0, 0, 0, False
        self.caller = ""
        self.key: str | None = None
        self.user: str | None = None
        self.once: bytes | None = None
        self.asking: Asking | None = None
        self.line: Line | None = scope.get("what_next.line")

    async def answer(self, status: int, body: bytes, extra: Mapping[str, str] | None = None) -> None:
        """Sends JSON."""
        self.status = status
        headers = [*PLAIN, (b"content-length", b"%d" % len(body))]
        if extra:
            headers += [(name.encode(), value.encode()) for name, value in extra.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    async def pass_on(self, message: Message) -> None:
        """Sends what the router answers."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            held = {name for name, _ in message["headers"]}
            message["headers"] = [*message["headers"], *(one for one in PLAIN[1:] if one[0] not in held)]
        await self.send(message)


class Gate:
    """The one layer around the router."""

    def __init__(self, app: ASGIApp, parts: Parts, posts: Mapping[str, Post]) -> None:
        self.app, self.parts, self.posts = app, parts, posts
        settings = parts.settings
        self._needs_keys, self._most = settings.needs_keys, settings.body
        self._over = (
            f"the rate limit of {settings.rate:,} requests a second for each key, or address without a key, is used up "
            "(server.rate, counted by cost: items, history, reasons, bytes); wait as Retry-After says"
        )
        self._rate, self._timeouts = Rate(settings.rate), Timeouts(settings.timeout)
        self._under_way = self._held = 0
        self._reading, self._read_on = asyncio.Lock(), 0.0
        self._noted = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, the start and end of the service, or a web socket, of which there are none."""
        if scope["type"] == "http":
            await self._request(Turn(scope, send), receive)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self.app(scope, receive, send)

    async def _request(self, turn: Turn, receive: Receive) -> None:
        start = perf_counter()
        self._under_way += 1
        try:
            with self._timeouts:
                await self._answer(turn, receive)
        except Gone:
            turn.status = 499
        except Exception as error:
            await self._refuse(turn, error)
        finally:
            if turn.asking is not None and turn.asking.shown and turn.status != 200:
                self.parts.model.unseen(turn.asking.shown)
            self._under_way -= 1
            self._held -= turn.held
            seconds, method = perf_counter() - start, turn.scope["method"]
            route = turn.route or _route(turn)
            self.parts.metrics.request(method, route, turn.status, seconds)
            if turn.status != 200 or route not in PROBES:
                self.parts.log.request(method, route, turn.status, seconds, turn.key, _user(turn))

    async def _answer(self, turn: Turn, receive: Receive) -> None:
        scope = turn.scope
        if self._under_way > MOST and scope["path"] not in ALWAYS:
            raise Problem(503, "too many requests at once; try again", headers=RETRY)
        post = self.posts.get(scope["path"]) if scope["method"] == "POST" else None
        if post is not None:
            turn.route = post.path
        elif (raw := scope.get("raw_path")) is not None:
            scope["path"] = raw.decode("latin-1")  # an id may hold a %2F: the router must not take it for a slash
        self._admit(turn, post)
        if post is None:
            await self.app(scope, receive, turn.pass_on)
            return
        content = await self._body(turn, receive)
        body = await self._read(turn, post, content)
        paid = 1 + (len(content) / BYTES if len(content) > BYTES else 0)
        if self.parts.settings.rate and (units := body.units) > paid:
            self._charge(self._rate.more(turn.caller, units - paid, paid))
        parts.caller.set(turn.caller)
        sent = await (self._shown(turn, post, body) if post.asks else post.answer(self.parts, body))
        turn.user = sent.user
        await turn.answer(sent.status, sent.body)

    async def _shown(self, turn: Turn, post: Post, body: Body) -> Sent:
        """Recommendations, for as long as the client is there; `Gone` where it is not."""
        line = turn.line or Line()
        turn.asking = Asking(turn.key or "", _idempotency_key(turn.once))
        if turn.asking.key is not None:
            turn.asking.request = hashlib.blake2b(body.model_dump_json().encode(), digest_size=16).hexdigest()
        line.task = asyncio.current_task()
        try:
            sent = await post.answer(self.parts, body, turn.asking)
        except asyncio.CancelledError:
            if not line.gone or line.task is None:
                raise
            line.task.uncancel()
            raise Gone from None
        finally:
            line.task = None
        if line.gone:
            raise Gone
        return sent

    def shed(self, data: bytes, address: str) -> bytes | None:
        """The response to a whole request, as it came, that could not be answered in time; None: it may be asked.

        Where ten times as much is asked as can be answered, refusing must cost next to nothing. So this is before the
        parser, and without a task or a line in the log for each; whatever is not plain goes the usual way. Callers are
        told apart: one that asks too much does not take the room of the others.
        """
        engine = self.parts.engine
        if engine is None or not engine.busy or (plain := PLAIN_REQUEST.match(data)) is None:
            return None
        head, path, lower = data[: plain.end()], plain[1].decode(), data[: plain.end()].lower()
        lengths = LENGTH.findall(lower)
        keys = KEY.findall(head)
        if len(lengths) != 1 or int(lengths[0]) != len(data) - len(head) or UNUSUAL.search(lower) or len(keys) > 1:
            return None
        if not (wait := engine.full(self._caller(address, keys[0] if keys else b"")[1])):
            return None
        self.parts.metrics.shed[path] += 1
        if (now := monotonic()) > self._noted + 1:
            self._noted = now
            self.parts.log.note("more is asked than can be answered in time; some questions are refused with 503")
        return SHED % (int(wait) + 1)

    def _caller(self, address: str, token: bytes) -> tuple[Caller | None, str]:
        """Whose key it is, and what the caller is counted under."""
        keys = self.parts.keys
        caller = keys.caller(token.decode("latin-1")) if token and keys is not None else None
        return caller, f"key {caller.name}" if caller else address

    def _admit(self, turn: Turn, post: Post | None) -> None:
        """Raises a `Problem` where the request goes no further."""
        scope, token, host, kind = turn.scope, b"", b"", b""
        for name, value in scope["headers"]:
            if name == b"x-api-key":
                token = value
            elif name == b"authorization":  # of another kind, it is a proxy's own business
                token = token or (value[7:] if value[:7].lower() == b"bearer " else b"")
            elif name == b"host":
                if host:
                    raise malformed("there are two Host headers; send one")
                host = value
            elif name == b"content-type":
                kind = value
            elif name == b"content-length":
                turn.length = int(value[:19]) if value.isdigit() else 0
            elif name == b"idempotency-key":
                turn.once = value
        self._know(turn, token, host, post)
        if post is not None:
            if kind.partition(b";")[0].strip().lower() != b"application/json":
                raise Problem(415, "the body must be JSON; send the header Content-Type: application/json")
            if turn.length > self._most:
                raise self._too_large()

    def _know(self, turn: Turn, token: bytes, host: bytes, post: Post | None) -> None:
        """Who asks, and whether they may."""
        scope = turn.scope
        if not self._needs_keys and not is_local(host.decode("latin-1")):
            raise Problem(403, "without keys, only this machine's own names (localhost, 127.0.0.1) are answered")
        caller, turn.caller = self._caller(scope["client"][0] if scope.get("client") else "", token)
        turn.key = caller.name if caller else None
        path = scope["path"]
        if path not in ALWAYS:
            self._charge(self._rate.wait(turn.caller))
        if path in OPEN or path.startswith(PAGE):
            return
        if caller is None:
            if token or self._needs_keys:
                raise _unknown(bool(token), self.parts.keys is None)
            caller = ANYBODY
        role = post.role if post else (2 if scope["method"] == "DELETE" else 0)
        if caller.role < role:
            raise Problem(403, f"this key has the role {ROLES[caller.role]}, and this request needs {ROLES[role]}")

    async def _read(self, turn: Turn, post: Post, content: bytes) -> Body:
        """What a body says; a long one is paid for, and waits for its turn, before it is looked at."""
        if len(content) > BYTES:
            self._charge(self._rate.more(turn.caller, len(content) / BYTES))
        if len(content) < LARGE:
            return post.body.model_validate_json(content)
        async with self._reading:
            await asyncio.sleep(max(self._read_on - perf_counter(), 0))
            start = perf_counter()
            try:
                return post.body.model_validate_json(content)
            finally:
                end = perf_counter()
                self._read_on = end + (end - start)

    async def _body(self, turn: Turn, receive: Receive) -> bytes:
        """The body, of the permitted size; counted as it comes, since its length may not have been told."""
        chunks, size = list[bytes](), 0
        turn.reading = True
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Gone
            chunk: bytes = message.get("body", b"")
            chunks.append(chunk)
            size += len(chunk)
            if size > self._most:
                raise self._too_large()
            self._hold(turn, len(chunk))
            if not message.get("more_body"):
                turn.reading = False
                return chunk if len(chunks) == 1 else b"".join(chunks)

    def _hold(self, turn: Turn, more: int) -> None:
        """Counts bytes that are in memory until the request ends."""
        turn.held += more
        self._held += more
        if self._held > max(BODIES, self._most):
            raise Problem(503, "too much is being sent at once; try again", headers={**RETRY, "connection": "close"})

    def _charge(self, wait: float) -> None:
        """Raises a `Problem` where a caller has to wait."""
        if wait:
            raise Problem(429, self._over, headers={"retry-after": str(int(wait) + 1)})

    async def _refuse(self, turn: Turn, error: Exception) -> None:
        """Tells the client why, and the log what was our own fault."""
        problem = problem_of(error)
        if isinstance(error, StoreUnavailable):
            self.parts.metrics.store_failed()
        if turn.reading and isinstance(error, TimeoutError):
            problem = Problem(408, "the body did not come in time", headers={"connection": "close"})
        if problem is None:
            self.parts.log.error(error, turn.route or _route(turn))
            problem = internal()
        if not turn.status:
            await turn.answer(problem.status, problem.body, problem.headers)

    def _too_large(self) -> Problem:
        return Problem(413, f"the body is larger than {self._most:,} bytes", headers={"connection": "close"})


def _idempotency_key(value: bytes | None) -> str | None:
    """The key of a header, which the standard to come puts in quotation marks; a `Problem` where it is none."""
    if value is None:
        return None
    if (found := re.fullmatch(IDEMPOTENCY_KEY, value.decode("latin-1"))) is None:
        raise invalid([(HEADER, "must hold 1 to 255 printable characters of ASCII, none of them a space or a quote")])
    return found[0].strip('"')


def _unknown(given: bool, starting: bool) -> Problem:
    """Nobody knows this key, or there is none."""
    if starting:
        return Problem(503, "the service is starting", headers=RETRY)
    told = "this key is not known, or was revoked" if given else "a key is needed: Authorization: Bearer wn_..."
    return Problem(401, told, headers={"www-authenticate": "Bearer"})


def _route(turn: Turn) -> str:
    """The template of a path. What matches none may hold anything, and is not told."""
    return str(getattr(turn.scope.get("route"), "path", "unmatched"))


def _user(turn: Turn) -> str | None:
    """Whom a request was about."""
    named = turn.scope.get("path_params", {}).get("user_id")
    return unquote(named) if named else turn.user
