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
"""Bytes of a request's line and headers, at most."""
SILENCE = 30.0
"""Seconds in which a request's headers must come: of the first one from when the connection is made."""
REST = 10.0
"""Seconds in which the rest of a body must come once its request was answered; nobody reads it."""
LINGER, LINGERING, DROPPED = 2.0, 32, 2**23
"""Seconds for which a connection stays after its last answer where a request is still coming, how many do so at once,
half of them of one address, and bytes of each that are read and dropped."""
UNREAD = 30.0
"""Seconds in which a client must take what it was answered: as long as it does not, the answer is kept in memory."""
AHEAD = 64
"""Requests that wait on one connection behind the one under way, at most: 256 KiB, which may be read at once, hold
thousands of them, and each takes kilobytes."""
SPARE = 64
"""Connections beyond the bound that are still listened to: a load balancer's probe must come through."""
TOO_MANY = Problem(503, "too many connections at once; try again, on one that stays open", headers={**RETRY, **CLOSE})
TOO_LARGE = Problem(431, f"the headers are larger than {HEADERS} bytes", headers=CLOSE)
NO_HTTP = malformed(
    "this is no request of HTTP/1.1; percent-encode the path, and see the headers, and the length or chunks of the body"
)
REFUSALS = 2000
"""Refusals a second, a thirtieth of the processor's time; further ones are held back."""
BURST = 200
"""Refusals that are sent together."""
LOOK = 0.01
"""Seconds between two looks at the refusals that are held."""

SHORT = 4096
"""Bytes of a plain head, at most: a thousand of them are remembered."""
PLAIN = re.compile(rb"POST (/v1/recommendations(?:/batch)?) HTTP/1\.1\r\n(?:[!-9;-~]+: [ -~]*\r\n)+")
LENGTH = re.compile(rb"\ncontent-length: ([0-9]{1,7})\r")
UNUSUAL = re.compile(rb"\n(?:transfer-encoding|expect|upgrade|connection: (?!keep-alive\r)|content-length: (?![0-9]))")
KEY = re.compile(rb"\n(?:x-api-key: |authorization: bearer )([!-~]+)\r", re.IGNORECASE)
UPGRADE = re.compile(rb"(?<=\n)(?=upgrade:)", re.IGNORECASE)


class Plain(NamedTuple):
    """The head of a question for the model as most clients send it: its path, the body's length, and the key."""

    path: str
    length: int
    key: bytes


@lru_cache(maxsize=1024)
def plain(head: bytes) -> Plain | None:
    """What a head tells; None: it holds something unusual. Remembered, since clients send the same one all the time."""
    found, lower = PLAIN.fullmatch(head), head.lower()
    lengths, keys = LENGTH.findall(lower), KEY.findall(head)
    if found is None or len(lengths) != 1 or len(keys) > 1 or UNUSUAL.search(lower):
        return None
    return Plain(found[1].decode(), int(lengths[0]), keys[0] if keys else b"")


def staying(data: bytes) -> bytes:
    """A request without its wish for another protocol, of which the parser would take no body: Java's client asks so
    for HTTP/2 with whatever it sends, and goes on with HTTP/1.1 where that is what it is answered in."""
    if b"pgrade:" not in data:
        return data
    head, end, rest = data.partition(b"\r\n\r\n")
    return UPGRADE.sub(b"x-", head) + end + rest


@lru_cache(maxsize=64)
def refusal(seconds: int) -> bytes:
    """The response to a question that could not be answered in time."""
    return overloaded(float(seconds)).response


class Shedding:
    """Refuses questions that could not be answered in time before they are read.

    Where ten times as much is asked as can be answered, refusing must cost next to nothing. So this is before the
    parser, and without a task or a line in the log for each; whatever is not plain goes the usual way. Callers are
    told apart: one that asks too much does not take the room of the others.

    One turn of the event loop reads from thousands of connections before the first of these requests reaches the
    engine. What was let in during a turn therefore counts along with what the engine already has.

    Refusals beyond `REFUSALS` a second are held back, each in its turn. Who does not wait for Retry-After is slowed
    down by that, and the processor is left to the answers: meanwhile what a client sends stays in the kernel. Each
    connection has one refusal at most, so that none waits longer than it takes to refuse all connections once.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts, self._noted = parts, 0.0
        self._in_turn, self._spare = False, 0.0
        self._let_in = Counter[str]()
        self._waits: dict[tuple[str, bytes], float] = {}
        self._budget, self._since = 0.0, 0.0
        self._held, self._sending = deque[Bounded](), False

    def refuse(self, data: bytes, address: str) -> bytes | None:
        """The response to a whole request, as it came; None: it may be asked."""
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
        """Seconds until a caller may ask; 0: now, and it is let in."""
        engine = self._parts.engine
        assert engine is not None
        caller, let_in = self._parts.caller(address, key)[1], self._let_in
        own = let_in[caller]
        others = min(let_in.total() - own, len(let_in) * (own + 1))  # no more than their shares
        if wait := engine.batcher.full(caller, own + others):
            self._waits[address, key] = wait
        else:
            let_in[caller] += 1
        return wait

    def crowded(self) -> Problem:
        """A connection too much is refused: that is counted, and told."""
        self._parts.metrics.shed("unmatched")
        self._note("there are more connections than server.connections; some are refused with 503")
        return TOO_MANY

    def _note(self, text: str) -> None:
        """Tell the log, once in a second."""
        if (now := monotonic()) > self._noted + 1:
            self._noted = now
            self._parts.log.note(text)

    def refuse_later(self, refused: "Bounded") -> None:
        """Have a refusal sent: at once, or in its turn."""
        self._note("more is asked than can be answered in time; some questions are refused with 503")
        self._held.append(refused)
        if not self._sending:
            self._send_held()

    def _send_held(self) -> None:
        """Sends what the processor is to spare since the last time; clients that are gone cost nothing."""
        self._sending, now = True, monotonic()
        self._budget, self._since = min(self._budget + (now - self._since) * REFUSALS, BURST), now
        while self._held and self._budget >= 1:
            self._budget -= self._held.popleft().send_refusal()
        self._sending = bool(self._held)
        if self._sending:
            asyncio.get_running_loop().call_later(LOOK, self._send_held)

    def _end_turn(self) -> None:
        """What was let in is with the engine when the loop reads again: its tasks run before that."""
        self._in_turn = False
        self._let_in.clear()
        self._waits.clear()


class Together:
    """A transport that sends a response's head along with its body: uvicorn's two writes take the loop longer.

    Where a connection ends while its client still sends, it only says that it has nothing more to say, and is closed
    later: a socket that is closed with unread bytes resets the connection, and the client loses the answer.
    """

    lingering = False

    def __init__(self, transport: asyncio.Transport, lingers: Callable[[], bool]) -> None:
        """`lingers`: asked before the connection is closed, whether that is left to its caller."""
        self._transport, self._head, self._lingers = transport, b"", lingers
        self.get_extra_info = transport.get_extra_info
        self.pause_reading, self.resume_reading = transport.pause_reading, transport.resume_reading
        self.abort = transport.abort

    def write(self, data: bytes) -> None:
        """Send, but for a head: that goes with what follows. (100 Continue is followed by nothing of ours.)"""
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
        """Send what waits, then close: at once, or where the client still sends, at the second call."""
        if self.lingering or not self._lingers():
            self.end()
        else:
            self.flush()
            self._transport.write_eof()
            self.lingering = True

    def end(self) -> None:
        """Send what waits, then close: at once, or where the client does not take it, in time."""
        self.flush()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(UNREAD, self.abort)


class Ahead(FlowControl):
    """Reads nothing while requests that were sent ahead of their turn wait: uvicorn goes on after each answer."""

    def __init__(self, transport: Together, waiting: deque[Any]) -> None:
        super().__init__(transport)  # type: ignore[arg-type]
        self._waiting = waiting

    def resume_reading(self) -> None:
        """Read on, if it is time for that."""
        if not self._waiting:
            super().resume_reading()


class Bounded(HttpToolsProtocol):
    """Closes a connection whose headers do not end, or do not come; the parser itself has no bound.

    A connection that waits for its next request is uvicorn's own business.
    """

    most: int
    """Connections at once."""
    shedding: Shedding
    lingering: Shares
    """Those that are about to be closed, of all addresses."""

    _size = 0  # bytes of the request that is coming, but for those that came with the one before; 0: none is
    _came = 0  # bytes since there was no request coming: the headers have no more
    _heading = True  # and its headers are not all there
    _beside = 0  # bytes since the last ones of its body: of sizes of chunks and what stands behind the last one
    _late: asyncio.TimerHandle | None = None
    _refusal: bytes | None = None  # of a request that was not read; it is not sent yet
    _next = b""  # what came after that
    _running: RequestResponseCycle | None = None  # the request whose response is the next one
    _ended = False  # what comes is not read any more
    _stops = False  # the service does
    _unread: asyncio.TimerHandle | None = None  # while the client does not take what it was answered
    _dropped = 0  # bytes that came while the connection lingers

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        self._together, self._client = Together(transport, self._lingers), Connection()
        super().connection_made(self._together)  # type: ignore[arg-type]
        self.flow = Ahead(self._together, self.pipeline)
        self._over = len(self.connections) > self.most
        if len(self.connections) > self.most + SPARE:
            self._end(self.shedding.crowded())
        self._late = self.loop.call_later(SILENCE, self._silent)

    def data_received(self, data: bytes) -> None:
        """Bytes of a client."""
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
        """The client is slow to take its answer."""
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD, self._together.abort)

    def resume_writing(self) -> None:
        """It has taken most of it, or is gone."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def send_refusal(self) -> bool:
        """Send the refusal of what was not read; the connection goes on. False: there is nobody to tell."""
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
        """The service stops; whoever was refused is told now, and nobody lingers."""
        self._stops = True
        if self._together.lingering:
            self._together.end()
            return
        self.send_refusal()
        super().shutdown()

    def _lingers(self) -> bool:
        """Whether the connection stays for a moment, since its client is still sending a request, and may read the
        answer only after that. It counts among all connections meanwhile."""
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
        """What was waited for is there, or does not matter any more; a connection that lingers ends in time all the
        same."""
        if self._late is not None and not self._together.lingering:
            self._late.cancel()
            self._late = None

    def send_400_response(self, msg: str) -> None:
        """What the parser does not take, in the shape of all errors."""
        self._end(NO_HTTP)

    def _silent(self) -> None:
        """The headers did not come; who sent nothing at all is not told anything."""
        self._end(Problem(408, "the headers did not come in time") if self._size else None)

    def _end(self, problem: Problem | None) -> None:
        """Tell why, and close the connection.

        Where earlier requests wait for their responses, those go out first, and nobody is told: the last one says that
        it is the last.
        """
        if self._ended:
            return
        self._ended = True
        if problem is not None and not self.transport.is_closing() and self._untold():
            self.transport.write(problem.response)
            if not self._heading:  # the request is under way: it ends, and is logged as what was told
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
        """Whether the next response on this connection is that to the request that is coming, and has not begun."""
        if self.cycle is None or self._heading:
            return self.cycle is None or self.cycle.response_complete
        return not self.cycle.response_started and not self.pipeline

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """A request whose turn it is; beyond the bound of connections only probes are answered."""
        self._running = cycle
        if self._over and cycle.scope["path"] not in ALWAYS:
            self.transport.write(self.shedding.crowded().response)
            self.transport.close()
        else:
            super()._start_asgi_task(cycle, app)

    def on_message_begin(self) -> None:
        """The first byte of a request, which may have come with the end of the one before."""
        super().on_message_begin()
        self.scope[CONNECTION] = self._client  # type: ignore[literal-required]
        self._size = self._size or 1

    def on_headers_complete(self) -> None:
        """The body comes next; whoever reads it bounds its size."""
        if self._came > HEADERS and self._head_size() > HEADERS:
            self._end(TOO_LARGE)
            raise ValueError(TOO_LARGE.message)  # the parser stops
        if len(self.pipeline) >= AHEAD:
            raise ValueError("too many requests wait")
        self._wait_no_longer()
        super().on_headers_complete()
        self._heading, self._beside = False, 0  # from here on, what is malformed is the body

    def on_body(self, body: bytes) -> None:
        """Bytes of a body."""
        self._beside = 0
        super().on_body(body)

    def _head_size(self) -> int:
        """Bytes of the line and the headers that were parsed, about."""
        return len(self.url) + sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._size, self._heading = 0, True
        self._wait_no_longer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """A response is whole."""
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
        if self._running is not None:  # uvicorn tells only the request that came last
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)


def protocol(parts: Parts, most: int = 4096) -> type[Bounded]:
    """The protocol of a service that has so many connections at once, at most."""
    return type("Protocol", (Bounded,), {"most": most, "shedding": Shedding(parts), "lingering": Shares()})
