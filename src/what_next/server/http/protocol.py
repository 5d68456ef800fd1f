"""HTTP/1.1 as uvicorn speaks it, with bounds on what comes before a request's body."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADERS = 65_536
"""Bytes of a request's line and headers, at most."""

SILENCE = 30.0
"""Seconds in which a request's headers must come: of the first one from when the connection is made."""

_BODY = b'{"error":{"code":"too_large","message":"the headers are larger than %d bytes","fields":[]}}' % HEADERS
TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)


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


class Line:
    """Whether a client is still there; `task` is of the request that is of no use without it."""

    gone = False
    task: asyncio.Task[Any] | None = None

    def lost(self) -> None:
        """The client hung up."""
        self.gone = True
        if self.task is not None:
            self.task.cancel()


class Bounded(HttpToolsProtocol):
    """Closes a connection whose headers do not end, or do not come; the parser itself has no bound.

    A connection that waits for its next request is uvicorn's own business.
    """

    _size = 0  # bytes of the request that is coming; 0: none is
    _heading = True  # and its headers are not all there
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        self._together, self._line = Together(transport), Line()
        super().connection_made(self._together)  # type: ignore[arg-type]
        self._late = self.loop.call_later(SILENCE, transport.close)

    def data_received(self, data: bytes) -> None:
        """Bytes of a client."""
        self._size += len(data)
        super().data_received(data)
        if not (self._heading and self._size) or self.transport.is_closing():
            return
        if self._size > HEADERS:
            self.transport.write(TOO_LARGE)
            self.transport.close()
        elif self._late is None:
            self._late = self.loop.call_later(SILENCE, self.transport.close)

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
