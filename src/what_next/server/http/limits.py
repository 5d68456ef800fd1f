"""What one caller may ask for: how often, and from where."""

from collections.abc import Callable
from time import monotonic

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
        if not self._rate:
            return 0.0
        now, step = self._clock(), 1.0 / self._rate
        full = max(self._full.get(caller, 0.0), now) + step
        if full > now + 1.0 + step * 1e-6:
            return full - now - 1.0
        if len(self._full) >= KEPT and caller not in self._full:
            self._forget(now)
        self._full[caller] = full
        return 0.0

    def _forget(self, now: float) -> None:
        """Callers whose buckets are full are as good as new; where all are busy, everybody starts anew."""
        self._full = {caller: full for caller, full in self._full.items() if full > now}
        if len(self._full) >= KEPT:
            self._full.clear()


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
