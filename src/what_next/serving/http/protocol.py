"""HTTP/1.1 as uvicorn speaks it, with bounds on what comes before a request is read."""

import asyncio
import re
from collections import Counter, deque
from collections.abc import Callable
from functools import lru_cache
from time import monotonic
from typing import Any, NamedTuple

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from what_next.serving.http.callers import Shares
from what_next.serving.http.parts import Parts
from what_next.serving.http.problems import CLOSE, RETRY, Problem, malformed, overloaded
from what_next.serving.http.routes import ALWAYS, CONNECTION, Connection

HEADERS = 65_536
"""Most bytes of a request's line and headers."""
SILENCE = 30.0
"""Seconds in which a request's headers must arrive; for the first request, from when the connection is made."""
REST = 10.0
"""Seconds in which the rest of a body must arrive after its request was answered; it is discarded."""
LINGER, LINGERING, DROPPED = 2.0, 32, 2**23
"""If a request is still arriving when its connection is to be closed, the connection lingers: for so many seconds, for
at most so many connections (half of them from one address), reading and dropping at most so many bytes of each."""
UNREAD = 30.0
"""Seconds in which a client must read its answer, which is kept in memory until then."""
AHEAD = 64
"""Most pipelined requests that wait on a connection: a single read of 256 KiB may hold thousands of them, and each
takes kilobytes of memory."""
SPARE = 64
"""Connections beyond the bound that are still read, so that a load balancer's probes are answered."""
TOO_MANY = Problem(503, "too many connections at once; try again, on one that stays open", headers={**RETRY, **CLOSE})
TOO_LARGE = Problem(431, f"the headers are larger than {HEADERS} bytes", headers=CLOSE)
NO_HTTP = malformed(
    "this is no request of HTTP/1.1; percent-encode the path, and see the headers, and the length or chunks of the body"
)
REFUSALS = 2000
"""Most refusals a second, which take a thirtieth of the processor's time; further ones are delayed."""
BURST = 200
"""Most refusals that are sent together."""
LOOK = 0.01
"""Seconds between two rounds of sending delayed refusals."""

SHORT = 4096
"""Most bytes of a plain head; a thousand heads are cached."""
PLAIN = re.compile(rb"POST (/v1/recommendations(?:/batch)?) HTTP/1\.1\r\n(?:[!-9;-~]+: [ -~]*\r\n)+")
LENGTH = re.compile(rb"\ncontent-length: ([0-9]{1,7})\r")
UNUSUAL = re.compile(rb"\n(?:transfer-encoding|expect|upgrade|connection: (?!keep-alive\r)|content-length: (?![0-9]))")
KEY = re.compile(rb"\n(?:x-api-key: |authorization: bearer )([!-~]+)\r", re.IGNORECASE)
UPGRADE = re.compile(rb"(?<=\n)(?=upgrade:)", re.IGNORECASE)


class Plain(NamedTuple):
    """The head of an ordinary request for recommendations: its path, the body's length, and the key."""

    path: str
    length: int
    key: bytes


@lru_cache(maxsize=1024)
def plain(head: bytes) -> Plain | None:
    """Parse a head; None if it is not plain. Cached, because clients send the same head all the time."""
    found, lower = PLAIN.fullmatch(head), head.lower()
    lengths, keys = LENGTH.findall(lower), KEY.findall(head)
    if found is None or len(lengths) != 1 or len(keys) > 1 or UNUSUAL.search(lower):
        return None
    return Plain(found[1].decode(), int(lengths[0]), keys[0] if keys else b"")


def staying(data: bytes) -> bytes:
    """A request without its Upgrade header, with which the parser would not read the body. Java's client asks for
    HTTP/2 in this way with every request, and accepts an answer in HTTP/1.1."""
    if b"pgrade:" not in data:
        return data
    head, end, rest = data.partition(b"\r\n\r\n")
    return UPGRADE.sub(b"x-", head) + end + rest


@lru_cache(maxsize=64)
def refusal(seconds: int) -> bytes:
    """The response to a question that would not be answered in time."""
    return overloaded(float(seconds)).response


class Shedding:
    """Load shedding: refuses questions that would not be answered in time, before they are parsed.

    At ten times the load that can be answered, a refusal must cost almost nothing. So it is made before the parser, and
    without a task or a line in the log; requests that are not plain take the usual way. Callers are distinguished, so
    that one who asks too much does not take the capacity of others.

    One turn of the event loop may read from thousands of connections before the first of these requests reaches the
    engine. So questions admitted in this turn are added to those that the engine already has.

    Refusals beyond `REFUSALS` a second are delayed, in order. This slows down clients that ignore Retry-After, whose
    further requests stay in the kernel meanwhile, and leaves the processor to the answers. A connection has at most one
    pending refusal, so that none waits longer than it takes to refuse all connections once.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts, self._noted = parts, 0.0
        self._in_turn, self._spare = False, 0.0
        self._let_in = Counter[str]()
        self._waits: dict[tuple[str, bytes], float] = {}
        self._budget, self._since = 0.0, 0.0
        self._held, self._sending = deque[Bounded](), False

    def refuse(self, data: bytes, address: str) -> bytes | None:
        """The refusal of a raw request; None if it is admitted or is not plain."""
        if (engine := self._parts.engine) is None:
            return None
        if not self._in_turn:
            self._in_turn, self._spare = True, engine.batcher.spare
            asyncio.get_running_loop().call_soon(self._end_turn)
        if self._spare > 0:
            self._spare -= 1
            return None
        if (end := data.find(b"\r\n\r\n", 0, SHORT) + 2) < 2:
            return None
        head = plain(data[:end])
        if head is None or head.length != len(data) - end - 2:
            return None
        if not (wait := self._waits.get((address, head.key)) or self._wait(address, head.key)):
            return None
        self._parts.metrics.shed(head.path)
        return refusal(int(wait))

    def _wait(self, address: str, key: bytes) -> float:
        """Seconds until a caller may ask; 0: the question is admitted."""
        engine = self._parts.engine
        assert engine is not None
        caller, let_in = self._parts.caller(address, key)[1], self._let_in
        own = let_in[caller]
        others = min(let_in.total() - own, len(let_in) * (own + 1))  # at most their shares
        if wait := engine.batcher.full(caller, own + others):
            self._waits[address, key] = wait
        else:
            let_in[caller] += 1
        return wait

    def crowded(self) -> Problem:
        """The refusal of a surplus connection, which is counted and logged."""
        self._parts.metrics.shed("unmatched")
        self._note("there are more connections than server.connections; some are refused with 503")
        return TOO_MANY

    def _note(self, text: str) -> None:
        """Log a message, at most one a second."""
        if (now := monotonic()) > self._noted + 1:
            self._noted = now
            self._parts.log.note(text)

    def refuse_later(self, refused: "Bounded") -> None:
        """Send a refusal at once, or when its turn comes."""
        self._note("more is asked than can be answered in time; some questions are refused with 503")
        self._held.append(refused)
        if not self._sending:
            self._send_held()

    def _send_held(self) -> None:
        """Send as many refusals as the rate allows since the last time; disconnected clients do not count."""
        self._sending, now = True, monotonic()
        self._budget, self._since = min(self._budget + (now - self._since) * REFUSALS, BURST), now
        while self._held and self._budget >= 1:
            self._budget -= self._held.popleft().send_refusal()
        self._sending = bool(self._held)
        if self._sending:
            asyncio.get_running_loop().call_later(LOOK, self._send_held)

    def _end_turn(self) -> None:
        """Reset the counts: the tasks of admitted questions reach the engine before the loop reads again."""
        self._in_turn = False
        self._let_in.clear()
        self._waits.clear()


class Together:
    """A transport that sends a response's head together with its body, which is faster than uvicorn's two writes.

    If a connection is closed while its client is still sending, it first sends only an EOF and lingers: closing a
    socket with unread bytes would reset the connection, and the client would lose the answer.
    """

    lingering = False

    def __init__(self, transport: asyncio.Transport, lingers: Callable[[], bool]) -> None:
        """`lingers`: called before the connection is closed; if true, the owner calls `close` or `end` later."""
        self._transport, self._head, self._lingers = transport, b"", lingers
        self.get_extra_info = transport.get_extra_info
        self.pause_reading, self.resume_reading = transport.pause_reading, transport.resume_reading
        self.abort = transport.abort

    def write(self, data: bytes) -> None:
        """Send data; a head is kept until the next write. (100 Continue is sent at once, because nothing follows.)"""
        if not self._head and data.startswith(b"HTTP/") and data.endswith(b"\r\n\r\n") and data[9:12] != b"100":
            self._head = data
            return
        head, self._head = self._head, b""
        self._transport.write(head + data if head else data)

    def flush(self) -> None:
        """Send a head that has no body."""
        if self._head:
            self.write(b"")

    def is_closing(self) -> bool:
        """Whether nothing more can be sent."""
        return self.lingering or self._transport.is_closing()

    def close(self) -> None:
        """Send pending data and close; if the client is still sending, only the second call closes."""
        if self.lingering or not self._lingers():
            self.end()
        else:
            self.flush()
            self._transport.write_eof()
            self.lingering = True

    def end(self) -> None:
        """Send pending data and close; if the client does not read it, abort after `UNREAD` seconds."""
        self.flush()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(UNREAD, self.abort)


class Ahead(FlowControl):
    """Does not resume reading while pipelined requests wait; uvicorn would resume after each answer."""

    def __init__(self, transport: Together, waiting: deque[Any]) -> None:
        super().__init__(transport)  # type: ignore[arg-type]
        self._waiting = waiting

    def resume_reading(self) -> None:
        """Resume reading, unless pipelined requests wait."""
        if not self._waiting:
            super().resume_reading()


class Bounded(HttpToolsProtocol):
    """Bounds the size and duration of headers, which the parser does not do.

    The timeout between two requests is uvicorn's own.
    """

    most: int
    """Most connections at once."""
    shedding: Shedding
    lingering: Shares
    """Counts lingering connections by address."""

    _size = 0  # bytes of the arriving request, without those that came with the one before; 0: none is arriving
    _came = 0  # bytes since no request was arriving: an upper bound for the headers
    _heading = True  # the headers are not complete yet
    _beside = 0  # bytes since the last of the body: sizes of chunks and trailers
    _late: asyncio.TimerHandle | None = None
    _refusal: bytes | None = None  # pending refusal of a request that was not parsed
    _next = b""  # bytes that came after that request
    _running: RequestResponseCycle | None = None  # the request whose response is the next one
    _ended = False  # nothing more is read
    _stops = False  # the service is stopping
    _unread: asyncio.TimerHandle | None = None  # runs while the client does not read its answer
    _dropped = 0  # bytes that came while lingering

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connected."""
        self._together, self._client = Together(transport, self._lingers), Connection()
        super().connection_made(self._together)  # type: ignore[arg-type]
        self.flow = Ahead(self._together, self.pipeline)
        self._over = len(self.connections) > self.most
        if len(self.connections) > self.most + SPARE:
            self._end(self.shedding.crowded())
        self._late = self.loop.call_later(SILENCE, self._silent)

    def data_received(self, data: bytes) -> None:
        """Bytes arrived."""
        if self._together.lingering:
            self._dropped += len(data)
            if self._dropped > DROPPED:
                self._together.end()
        if self._ended or self._together.lingering:
            return
        if self._refusal is not None:
            self._next += data
            self.flow.pause_reading()
            return
        if not self._size and (self.cycle is None or self.cycle.response_complete) and not self._over:
            self._refusal = self.shedding.refuse(data, self._address)
            if self._refusal is not None:
                self._wait_no_longer()
                self._unset_keepalive_if_required()
                self.shedding.refuse_later(self)
                return
        self._came = len(data) + (self._came if self._size else 0)
        data, self._size = data if self._size else staying(data), self._size + len(data)
        self._beside += len(data)
        super().data_received(data)
        if not self._size or self.transport.is_closing():
            return
        if (self._size if self._heading else self._beside) > HEADERS:
            self._end(TOO_LARGE)
        elif self._heading and self._late is None:
            self._late = self.loop.call_later(SILENCE, self._silent)

    def pause_writing(self) -> None:
        """The client is slow to read its answer."""
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD, self._together.abort)

    def resume_writing(self) -> None:
        """The client has read most of it, or is gone."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def send_refusal(self) -> bool:
        """Send the pending refusal; the connection stays open. False if there is none, or the client is gone."""
        refusal, self._refusal = self._refusal, None
        if refusal is None or self.transport.is_closing():
            return False
        self.transport.write(refusal)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        if self._next:
            data, self._next = self._next, b""
            self.flow.resume_reading()
            self.data_received(data)
        return True

    def shutdown(self) -> None:
        """The service stops: send the pending refusal, and do not linger."""
        self._stops = True
        if self._together.lingering:
            self._together.end()
            return
        self.send_refusal()
        super().shutdown()

    def _lingers(self) -> bool:
        """Whether the connection must linger, because its client is still sending a request and may read the answer
        only after that. It counts as a connection meanwhile."""
        if self._stops or not self._size or self.transport.is_closing():
            return False
        if not self.lingering.add(address := self._address, 1, LINGERING):
            self.lingering.add(address, -1)
            return False
        self._wait_no_longer()
        self._late = self.loop.call_later(LINGER, self._together.end)
        self.pipeline.clear()
        self.flow.resume_reading()
        return True

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else ""

    def _wait_no_longer(self) -> None:
        """Cancel the timer, except that of a lingering connection."""
        if self._late is not None and not self._together.lingering:
            self._late.cancel()
            self._late = None

    def send_400_response(self, msg: str) -> None:
        """The parser's error, in the shape of all errors."""
        self._end(NO_HTTP)

    def _silent(self) -> None:
        """The headers did not arrive in time; a client that sent nothing gets no response."""
        self._end(Problem(408, "the headers did not come in time") if self._size else None)

    def _end(self, problem: Problem | None) -> None:
        """Send a problem, if any, and close the connection.

        If earlier requests still wait for their responses, these are sent first and the problem is dropped; the last
        response then closes the connection.
        """
        if self._ended:
            return
        self._ended = True
        if problem is not None and not self.transport.is_closing() and self._untold():
            self.transport.write(problem.response)
            if not self._heading:  # end the running request, and log it with this status
                self._client.told = problem.status
                self.cycle.disconnected = True
                self.cycle.message_event.set()
        elif self._running is not None and not self._running.response_complete:
            if self.pipeline and not self._heading:
                self.pipeline.popleft()  # the rest of its body is lost
            last = self.pipeline[0][0] if self.pipeline else self._running
            last.keep_alive = False
            return
        self.transport.close()

    def _untold(self) -> bool:
        """Whether the next response is that of the arriving request, and has not started."""
        if self.cycle is None or self._heading:
            return self.cycle is None or self.cycle.response_complete
        return not self.cycle.response_started and not self.pipeline

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Start the next request; on a connection beyond the bound only probes are answered."""
        self._running = cycle
        if self._over and cycle.scope["path"] not in ALWAYS:
            self.transport.write(self.shedding.crowded().response)
            self.transport.close()
        else:
            super()._start_asgi_task(cycle, app)

    def on_message_begin(self) -> None:
        """A request begins; its first bytes may have come with the end of the one before."""
        super().on_message_begin()
        self.scope[CONNECTION] = self._client  # type: ignore[literal-required]
        self._size = self._size or 1

    def on_headers_complete(self) -> None:
        """The headers are complete; the size of the body is bounded by its reader."""
        if self._came > HEADERS and self._head_size() > HEADERS:
            self._end(TOO_LARGE)
            raise ValueError(TOO_LARGE.message)  # the parser stops
        if len(self.pipeline) >= AHEAD:
            raise ValueError("too many requests wait")
        self._wait_no_longer()
        super().on_headers_complete()
        self._heading, self._beside = False, 0  # from here on, errors are in the body

    def on_body(self, body: bytes) -> None:
        """Bytes of a body arrived."""
        self._beside = 0
        super().on_body(body)

    def _head_size(self) -> int:
        """The approximate size of the request's line and headers, in bytes."""
        return len(self.url) + sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers)

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._size, self._heading = 0, True
        self._wait_no_longer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """A response is complete."""
        self._together.flush()
        super().on_response_complete()
        if self._size and not self._heading and self._late is None and self.cycle and self.cycle.response_complete:
            self._late = self.loop.call_later(REST, self._together.end)

    def connection_lost(self, exc: Exception | None) -> Any:
        """The client is gone."""
        self._wait_no_longer()
        self.resume_writing()
        if self._together.lingering:
            self.lingering.add(self._address, -1)
        self._client.lost()
        self.pipeline.clear()
        if self._running is not None:  # uvicorn only notifies the latest request
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)


def protocol(parts: Parts, most: int = 4096) -> type[Bounded]:
    """The protocol class of a service with at most `most` connections."""
    return type("Protocol", (Bounded,), {"most": most, "shedding": Shedding(parts), "lingering": Shares()})
