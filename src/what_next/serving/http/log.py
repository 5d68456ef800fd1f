"""The service's log: a line of JSON for each request, without personal data."""

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
"""Environment variable with a secret salt, which makes a user's hash the same across restarts and processes."""
WAITING = 50_000
"""Most lines that wait to be written; further ones are dropped and counted."""
PAUSE = 0.1
"""Seconds between two writes."""


class Log(logging.Handler):
    """Writes lines to standard error in a thread of its own, so that a slow reader does not delay requests.

    It is a handler of `logging`, so that messages of other loggers become lines, too. `dropped` counts the lines that
    did not fit into the queue.
    """

    def __init__(self, ids: Literal["none", "hashed"] = "none", put: Callable[[str], object] | None = None) -> None:
        """Start the thread; `put` takes the lines; None: standard error."""
        super().__init__()
        self._put, self._lines = put or sys.stderr.write, deque[str]()
        self._salt = (os.environ.get(SALT) or secrets.token_hex(16)).encode() if ids == "hashed" else None
        self.dropped = 0
        self._before: list[tuple[logging.Logger, list[logging.Handler], bool, int]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def request(self, method: str, route: str, status: int, seconds: float, key: str | None, user: str | None) -> None:
        """Log an answered request; `route` is the template, not the path, which may hold ids."""
        line = {"method": method, "route": route, "status": status, "ms": round(seconds * 1e3, 3), "key": key}
        if self._salt is not None and user is not None:
            line["user"] = hashlib.blake2b(user.encode(), key=self._salt[:64], digest_size=8).hexdigest()
        self._take(line)

    def error(self, error: BaseException, route: str) -> None:
        """Log an internal error without its message; see `places`."""
        self._take({"error": type(error).__name__, "route": route, "at": places(error)})

    def note(self, text: str) -> None:
        """Log a message for the operator; it must not hold personal data."""
        self._take({"level": "warning", "note": text})

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record of `logging`."""
        line: dict[str, object] = {"level": record.levelname.lower(), "note": record.getMessage()}
        if record.exc_info and record.exc_info[1] is not None:
            line |= {"error": type(record.exc_info[1]).__name__, "at": places(record.exc_info[1])}
        self._take(line)

    def handle_loggers(self, *names: str) -> None:
        """Redirect these loggers to this handler until `close`."""
        for name in names:
            logger = logging.getLogger(name)
            self._before.append((logger, logger.handlers, logger.propagate, logger.level))
            logger.handlers, logger.propagate = [self], False
            logger.setLevel(logging.INFO if name == "what_next.serving" else logging.WARNING)

    def close(self) -> None:
        """Write the remaining lines, and restore the loggers."""
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
        """Write all waiting lines every `PAUSE` seconds: waking for each would cost the event loop more."""
        while not self._stop.wait(PAUSE):
            self._write()
        self._write()

    def _write(self) -> None:
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        if lines:
            with suppress(OSError, ValueError):  # the service goes on without a log
                self._put("".join(lines))


def places(error: BaseException) -> list[str]:
    """The code locations of an error's traceback, without its message, which may hold ids."""
    return [f"{one.filename}:{one.lineno} {one.name}" for one in traceback.extract_tb(error.__traceback__)][-12:]
