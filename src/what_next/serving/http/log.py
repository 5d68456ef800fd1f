"""The service's log: a line of JSON for each request, without anything that names a person."""

import hashlib
import logging
import os
import secrets
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Literal

import orjson

SALT = "WHAT_NEXT_LOG_SALT"
"""The environment variable with a secret text: with it, a user's hash is the same after a restart and elsewhere."""
WAITING = 50_000
"""Lines that are kept where nobody takes them; further ones are counted and go."""
PAUSE = 0.1
"""Seconds between two writes."""


class Log(logging.Handler):
    """Lines for the standard error, written by a thread of their own: a slow reader holds up no request.

    It is a handler of `logging`, so that what other parts tell by their loggers becomes a line, too. `dropped` counts
    the lines that nobody took in time.
    """

    def __init__(self, ids: Literal["none", "hashed"] = "none", put: Callable[[str], object] | None = None) -> None:
        """Starts the thread; `put` takes the lines; None: the standard error does."""
        super().__init__()
        self._put, self._lines = put or sys.stderr.write, deque[str]()
        self._salt = (os.environ.get(SALT) or secrets.token_hex(16)).encode() if ids == "hashed" else None
        self.dropped = 0
        self._before: list[tuple[logging.Logger, list[logging.Handler], bool, int]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def request(self, method: str, route: str, status: int, seconds: float, key: str | None, user: str | None) -> None:
        """A request was answered; `route` is the template, never the path itself, which may hold ids."""
        line = {"method": method, "route": route, "status": status, "ms": round(seconds * 1e3, 3), "key": key}
        if self._salt is not None and user is not None:
            line["user"] = hashlib.blake2b(user.encode(), key=self._salt[:64], digest_size=8).hexdigest()
        self._take(line)

    def error(self, error: BaseException, route: str) -> None:
        """Our own fault; see `places`."""
        self._take({"error": type(error).__name__, "route": route, "at": places(error)})

    def note(self, text: str) -> None:
        """What people are told; it names nobody."""
        self._take({"level": "warning", "note": text})

    def emit(self, record: logging.LogRecord) -> None:
        """What a part of the service tells by way of `logging`."""
        line: dict[str, object] = {"level": record.levelname.lower(), "note": record.getMessage()}
        if record.exc_info and record.exc_info[1] is not None:
            line |= {"error": type(record.exc_info[1]).__name__, "at": places(record.exc_info[1])}
        self._take(line)

    def handle_loggers(self, *names: str) -> None:
        """Takes what these loggers are told, until the end."""
        for name in names:
            logger = logging.getLogger(name)
            self._before.append((logger, logger.handlers, logger.propagate, logger.level))
            logger.handlers, logger.propagate = [self], False
            logger.setLevel(logging.INFO if name == "what_next.serving" else logging.WARNING)

    def close(self) -> None:
        """Writes what is left, and leaves the loggers as they were."""
        for logger, handlers, propagate, level in self._before:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        self._before.clear()
        self._stop.set()
        self._thread.join()
        super().close()

    def _take(self, line: Mapping[str, object]) -> None:
        if len(self._lines) < WAITING:
            options = orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE
            self._lines.append(orjson.dumps({"time": datetime.now(UTC), **line}, option=options).decode())
        else:
            self.dropped += 1

    def _run(self) -> None:
        """Writes all lines that wait at once, every now and then: waking for each would cost the event loop more."""
        while not self._stop.wait(PAUSE):
            self._write()
        self._write()

    def _write(self) -> None:
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        if lines:
            with suppress(OSError, ValueError):  # a log that cannot be written is no reason to stop answering
                self._put("".join(lines))


def places(error: BaseException) -> list[str]:
    """The places in the code that led to an error; its message stays away, since it may hold ids."""
    return [f"{one.filename}:{one.lineno} {one.name}" for one in traceback.extract_tb(error.__traceback__)][-12:]
