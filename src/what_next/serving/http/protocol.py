"""HTTP/1.1 as uvicorn speaks it, with bounds on what comes before a request's body."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from what_next.serving.http.gate import ALWAYS, Gate
from what_next.serving.http.parts import Line
from what_next.serving.http.problems import RETRY, Problem, malformed

HEADERS = 65_536
"""Bytes of a request's line and headers, at most."""

SILENCE = 30.0
"""Seconds in which a request's headers must come: of the first one from when the connection is made."""

SPARE = 64
"""Connections beyond the bound that are still listened to: a load balancer's probe must come through."""

TOO_MANY = Problem(503, "too many connections at once; try again, on one that stays open", headers=RETRY)


class Together:
    """A transport that sends a response's head along with its body: one call of the system where uvicorn makes two."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport, self._head = transport, b""
        self.is_closing, self.get_extra_info = transport.is_closing, transport.get_extra_info
        self.pause_reading, self.resume_reading = transport.pause_reading, transport.resume_reading

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

    def close(self) -> None:
        """Send what waits, then close."""
        self.flush()
        self._transport.close()


class Bounded(HttpToolsProtocol):
    """Closes a connection whose headers do not end, or do not come; the parser itself has no bound.

    A connection that waits for its next request is uvicorn's own business.
    """

    most = 4096
    """Connections at once; see `server.connections`."""

    _size = 0  # bytes of the request that is coming; 0: none is
    _heading = True  # and its headers are not all there
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        self._together, self._line = Together(transport), Line()
        super().connection_made(self._together)  # type: ignore[arg-type]
        self._gate: Gate | None = getattr(self.config.app, "gate", None)
        self._over = len(self.connections) > self.most
        if len(self.connections) > self.most + SPARE:
            self._end(TOO_MANY)
        self._late = self.loop.call_later(SILENCE, self._silent)

    def data_received(self, data: bytes) -> None:
        """Bytes of a client."""
        if not self._size and (self.cycle is None or self.cycle.response_complete) and not self._over and self._gate:
            refusal = self._gate.shed(data, self.client[0] if self.client else "")
            if refusal is not None:
                self._unset_keepalive_if_required()
                self.transport.write(refusal)
                self.on_response_complete()
                return
        self._size += len(data)
        super().data_received(data)
        if not (self._heading and self._size) or self.transport.is_closing():
            return
        if self._size > HEADERS:
            self._end(Problem(431, f"the headers are larger than {HEADERS} bytes"))
        elif self._late is None:
            self._late = self.loop.call_later(SILENCE, self._silent)

    def send_400_response(self, msg: str) -> None:
        """What the parser does not take, in the shape of all errors."""
        self._end(malformed("this is no request of HTTP/1.1; see the headers and the length of the body"))

    def _silent(self) -> None:
        """The headers did not come; who sent nothing at all is not told anything."""
        self._end(Problem(408, "the headers did not come in time") if self._size else None)

    def _end(self, problem: Problem | None) -> None:
        """Tell why, unless an earlier request is still to be answered on this connection, and close it."""
        if problem is not None and (self.cycle is None or self.cycle.response_complete):
            self.transport.write(problem.response)
        self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """A request whose turn it is; beyond the bound of connections only probes are answered."""
        if self._over and cycle.scope["path"] not in ALWAYS:
            self.transport.write(TOO_MANY.response)
            self.transport.close()
        else:
            super()._start_asgi_task(cycle, app)

    def on_message_begin(self) -> None:
        """The first byte of a request, which may have come with the end of the one before."""
        super().on_message_begin()
        self.scope["what_next.line"] = self._line  # type: ignore[typeddict-unknown-key]
        self._size = self._size or 1

    def on_headers_complete(self) -> None:
        """The body comes next; its size is the gate's business."""
        self._heading = False
        if self._late is not None:
            self._late.cancel()
            self._late = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._size, self._heading = 0, True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """A response is whole."""
        self._together.flush()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> Any:
        """The client is gone."""
        if self._late is not None:
            self._late.cancel()
        self._line.lost()
        super().connection_lost(exc)
