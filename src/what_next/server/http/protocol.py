"""HTTP/1.1 as uvicorn speaks it, with bounds on what comes before a request's body."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADERS = 65_536
"""Bytes of a request's line and headers, at most."""

SILENCE = 30.0
"""Seconds in which a new connection must send all headers of its first request."""

_BODY = b'{"error":{"code":"too_large","message":"the headers are larger than %d bytes","fields":[]}}' % HEADERS
TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)


class Bounded(HttpToolsProtocol):
    """Closes a connection whose headers do not end, or do not come; the parser itself has no bound."""

    _size = 0
    _heading = True
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        super().connection_made(transport)
        self._late = self.loop.call_later(SILENCE, transport.close)

    def data_received(self, data: bytes) -> None:
        """Bytes of a client."""
        self._size += len(data)
        super().data_received(data)
        if self._heading and self._size > HEADERS and not self.transport.is_closing():
            self.transport.write(TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._heading = True

    def on_headers_complete(self) -> None:
        """The body comes next; its size is the gate's business."""
        self._heading = False
        if self._late is not None:
            self._late.cancel()
            self._late = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._size = 0
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> Any:
        """The client is gone."""
        if self._late is not None:
            self._late.cancel()
        super().connection_lost(exc)
