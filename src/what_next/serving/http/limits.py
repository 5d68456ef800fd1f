"""What one caller may ask for: how often, for how long, and from where."""

import asyncio
from collections.abc import Callable
from time import monotonic
from types import TracebackType

KEPT = 10_000
"""Callers that are remembered before those that have not been seen for a second are forgotten."""

LOCAL = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""Names by which this machine calls itself."""


class Rate:
    """At most `rate` requests a second of each caller, with bursts of as many: a token bucket.

    The bucket is kept as the time at which it is full again (the generic cell rate algorithm of ATM), so that it is
    one number for each caller. The clock is monotonic: setting the machine's time changes nothing.
    """

    def __init__(self, rate: int, clock: Callable[[], float] = monotonic) -> None:
        self._rate, self._clock = rate, clock
        self._full: dict[str, float] = {}

    def wait(self, caller: str) -> float:
        """Takes one request of a caller: 0, or the seconds until there would be room for it."""
        return self._take(caller, 1, 1) if self._rate else 0.0

    def more(self, caller: str, count: int | float, paid: int | float = 1) -> float:
        """Takes what a request costs besides what is `paid` for it already; the same is told.

        More than a second's worth comes through where nothing else is under way, and is then waited for.
        """
        return self._take(caller, count, min(count, max(self._rate - paid, 0))) if self._rate else 0.0

    def _take(self, caller: str, count: int | float, room: int | float) -> float:
        """Takes so many where there is room for so many."""
        now, step = self._clock(), 1.0 / self._rate
        full = max(self._full.get(caller, 0.0), now)
        if full + room * step > now + 1.0 + step * 1e-6:
            return full + room * step - now - 1.0
        if len(self._full) >= KEPT and caller not in self._full:
            self._forget(now)
        self._full[caller] = full + count * step
        return 0.0

    def _forget(self, now: float) -> None:
        """Callers whose buckets are full are as good as new; where all are busy, everybody starts anew."""
        self._full = {caller: full for caller, full in self._full.items() if full > now}
        if len(self._full) >= KEPT:
            self._full.clear()


class Timeouts:
    """Ends requests that take too long: `with timeouts: ...` raises a `TimeoutError` within, as `asyncio.timeout` does.

    All have the same time, so that one timer, that of the oldest, serves all of them: one for each takes microseconds
    to set and to cancel.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: dict[asyncio.Task[object], float] = {}
        self._late: set[asyncio.Task[object]] = set()
        self._timed: asyncio.AbstractEventLoop | None = None  # where a timer runs

    def __enter__(self) -> None:
        """A request begins."""
        task = asyncio.current_task()
        assert task is not None
        self._since[task] = monotonic()
        loop = task.get_loop()
        if self._timed is not loop:
            self._timed = loop
            loop.call_later(self._seconds, self._look, loop)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """It ends, in time or not."""
        task = asyncio.current_task()
        assert task is not None
        del self._since[task]
        if task in self._late:
            self._late.remove(task)
            if task.uncancel() == 0 and kind is asyncio.CancelledError:
                raise TimeoutError from error

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """The oldest are late; the next one will be."""
        now = monotonic()
        late = [task for task, since in self._since.items() if since + self._seconds <= now + 1e-3]
        for task in late:
            if task not in self._late:
                self._late.add(task)
                task.cancel()
        left = [since for task, since in self._since.items() if task not in self._late]
        if left:
            loop.call_later(left[0] + self._seconds - now, self._look, loop)
        else:
            self._timed = None


def is_local(host: str) -> bool:
    """Whether a Host header names this machine: a page of another site that leads its own name here does not."""
    name = host.lower()
    if name.startswith("["):
        end = name.find("]") + 1
        name, rest = name[:end], name[end:]
    else:
        name, colon, port = name.partition(":")
        rest = colon + port
    return name in LOCAL and (not rest or (rest[0] == ":" and rest[1:].isascii() and rest[1:].isdigit()))
