"""The service's log of requests: a line of JSON each, without anything that names a person."""

import hashlib
import logging
import os
import secrets
import sys
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from threading import Event, Thread
from typing import Any, Literal

import orjson

SALT = "WHAT_NEXT_LOG_SALT"
"""The environment variable with a secret text: with it, a user's hash is the same after a restart and elsewhere."""

WAITING = 50_000
"""Lines that are kept where nobody takes them; the oldest go first, and are counted."""

PAUSE = 0.1
"""Seconds between two writes."""


class Log:
    """Lines for the standard error, written by a thread of their own: a slow reader holds up no request."""

    def __init__(self, ids: Literal["none", "hashed"] = "none", put: Callable[[str], object] | None = None) -> None:
        """Starts the thread; `put` takes the lines; None: the standard error does. `dropped` counts those that went."""
        self._given = put
        self._salt = (os.environ.get(SALT) or secrets.token_hex(16)).encode() if ids == "hashed" else None
        self._lines: deque[bytes] = deque(maxlen=WAITING)
        self.dropped = 0
        self._before: list[tuple[logging.Logger, list[logging.Handler], bool, int]] = []
        self._closed = Event()
        self._thread = Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def request(self, method: str, route: str, status: int, seconds: float, key: str | None, user: str | None) -> None:
        """A request was answered; `route` is the template, never the path itself, which may hold ids."""
        line: dict[str, Any] = {
            "time": datetime.now(UTC),
            "method": method,
            "route": route,
            "status": status,
            "ms": round(seconds * 1e3, 3),
            "key": key,
        }
        if self._salt is not None and user is not None:
            line["user"] = hashlib.blake2b(user.encode(), key=self._salt[:64], digest_size=8).hexdigest()
        self._add(line)

    def _add(self, line: dict[str, Any]) -> None:
        self.dropped += len(self._lines) == WAITING
        self._lines.append(orjson.dumps(line, option=orjson.OPT_UTC_Z))

    def _put_line(self, line: dict[str, Any]) -> None:
        self._add({"time": datetime.now(UTC), **line})

    def error(self, error: BaseException, route: str) -> None:
        """Our own fault; see `places`."""
        self._put_line({"error": type(error).__name__, "route": route, "at": places(error)})

    def note(self, text: str) -> None:
        """What people are told; it names nobody."""
        self._put_line({"level": "warning", "note": text})

    def record(self, record: logging.LogRecord) -> None:
        """What a part of the service tells by way of `logging`."""
        line: dict[str, Any] = {"level": record.levelname.lower(), "note": record.getMessage()}
        if record.exc_info and record.exc_info[1] is not None:
            line |= {"error": type(record.exc_info[1]).__name__, "at": places(record.exc_info[1])}
        self._put_line(line)

    def handle(self, *names: str) -> None:
        """Takes what these loggers are told, until the end."""
        for name in names:
            logger = logging.getLogger(name)
            self._before.append((logger, logger.handlers, logger.propagate, logger.level))
            logger.handlers, logger.propagate = [_Handler(self)], False
            logger.setLevel(logging.INFO if name == "what_next.serving" else logging.WARNING)

    def close(self) -> None:
        """Writes what is left, and leaves the loggers as they were."""
        for logger, handlers, propagate, level in self._before:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        self._before.clear()
        self._closed.set()
        self._thread.join()

    def _write(self) -> None:
        closed = False
        while not closed:
            closed = self._closed.wait(PAUSE)
            lines = []
            while self._lines:
                lines.append(self._lines.popleft())
            if lines:
                self._put(b"\n".join(lines).decode() + "\n")

    def _put(self, text: str) -> None:
        """A log that cannot be written is no reason to stop answering."""
        put = self._given or sys.stderr.write
        with suppress(OSError, ValueError):
            put(text)


class _Handler(logging.Handler):
    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.record(record)


def places(error: BaseException) -> list[str]:
    """The places in the code that led to an error; its message stays away, since it may hold ids."""
    return [f"{one.filename}:{one.lineno} {one.name}" for one in traceback.extract_tb(error.__traceback__)][-12:]
