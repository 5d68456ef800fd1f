"""Callers and their limits: API keys (stored as hashes), rate limits, and sizes of bodies."""

import asyncio
import hashlib
import re
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Event, Thread
from time import monotonic, perf_counter
from typing import TYPE_CHECKING

from cachetools import LRUCache
from starlette.types import Receive

from what_next.errors import StoreError
from what_next.serving import logger
from what_next.serving.bodies import B, read
from what_next.serving.http.problems import CLOSE, RETRY, Problem
from what_next.serving.store import Store

if TYPE_CHECKING:
    from what_next.serving.http.routes import Call

ROLES = ("read", "write", "admin")
"""Each role includes the rights of those before it."""
READ, WRITE, ADMIN = range(3)
"""Their indices in `ROLES`."""
REFRESH = 2.0
"""Seconds between two reads of the store's keys: a revoked key stops working within this time."""

KEPT = 10_000
"""Callers whose rate is remembered: the most recent ones."""
LARGE = 2**16
"""Bodies of at least this many bytes are parsed one at a time, with pauses in which other requests are answered."""
BODIES = 2**26
"""Most bytes of all bodies in memory together, or twice the largest body if that is more."""
LOCAL = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?", re.IGNORECASE | re.ASCII)
"""Host headers that name this machine, with or without a port. This stops DNS rebinding: a web page whose own name was
pointed at this machine sends another Host."""


def new_key() -> str:
    """A key of 256 random bits, as text."""
    return "wn_" + secrets.token_urlsafe(32)


def digest_of(key: str) -> str:
    """The hash of a key that the store keeps. Keys are long and random, so an unsalted hash cannot be reversed."""
    return hashlib.sha256(key.encode()).hexdigest()


@dataclass(frozen=True)
class Caller:
    """A caller with a key: `name` of the key; `role` as an index in `ROLES`."""

    name: str
    role: int


class KeyRing:
    """The valid keys of a store, by hash; a thread keeps them up to date.

    A lookup in a dictionary is safe against timing attacks, because its time depends on the hash of the key only.
    """

    def __init__(self, store: Store, on_failure: Callable[[], None] = lambda: None) -> None:
        """Read the keys; `on_failure` is called whenever the store cannot be read later (the known keys stay valid)."""
        self._store, self._on_failure = store, on_failure
        self._callers: Mapping[str, Caller] = {}
        self._closed = Event()
        self.refresh()
        self._thread = Thread(target=self._watch, name="keys", daemon=True)
        self._thread.start()

    def caller(self, key: str) -> Caller | None:
        """The caller with a key; None if the key is unknown."""
        return self._callers.get(digest_of(key))

    def __len__(self) -> int:
        return len(self._callers)

    def refresh(self) -> None:
        """Read the keys of the store."""
        kept = self._store.keys()
        valid = [one for one in kept if one.revoked is None and one.role in ROLES]
        self._callers = {one.digest: Caller(one.name, ROLES.index(one.role)) for one in valid}

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._closed.wait(REFRESH):
            try:
                self.refresh()
            except StoreError:
                self._on_failure()
            except Exception:  # the thread must go on, else revocations have no effect
                logger.exception("the keys could not be read; those known so far stay")


class Rate:
    """A token bucket per caller: `rate` units of cost a second, with bursts of the same size.

    A bucket is stored as the time at which it will be full again (the generic cell rate algorithm of ATM): one number
    per caller. The clock is monotonic, so that changes of the system time have no effect.
    """

    def __init__(self, rate: int, clock: Callable[[], float] = monotonic) -> None:
        self._rate, self._clock = rate, clock
        self._full: LRUCache[str, float] = LRUCache(KEPT)

    def take(self, caller: str, cost: int | float = 1, paid: int | float = 0) -> float:
        """Charge a cost, besides the `paid` part of the same request; returns 0, or the seconds to wait for room.

        A request that costs more than a second's worth is admitted if the bucket is full, and delays later ones.
        """
        if not self._rate:
            return 0.0
        now, step = self._clock(), 1.0 / self._rate
        room = min(cost, max(self._rate - paid, 0))
        full = max(self._full.get(caller, 0.0), now)
        if full + room * step > now + 1.0 + step * 1e-6:
            return full + room * step - now - 1.0
        self._full[caller] = full + cost * step
        return 0.0


class ClientGone(Exception):
    """The client has hung up."""


class Shares:
    """Shares of a common resource: a caller may hold at most as much as is free.

    So a single caller gets half, two get a third each, and some room is always left for another one: the dynamic
    threshold of Choudhury and Hahne (1998), with alpha 1.
    """

    def __init__(self) -> None:
        self.held, self._of = 0, Counter[str]()

    def add(self, caller: str, amount: int, most: int = 0) -> bool:
        """Add an amount (or subtract it); whether the caller then holds no more than what is free of `most`."""
        self.held += amount
        self._of[caller] += amount
        own = self._of[caller] or self._of.pop(caller)
        return own <= most - self.held


class Bodies:
    """Reads bodies, with limits for each and for all together; large ones are parsed one at a time."""

    def __init__(self, most: int) -> None:
        self.most, self.shares = most, Shares()
        self._looking, self._next = asyncio.Lock(), 0.0

    async def read(self, receive: Receive, declared: int, to: "Call") -> bytes:
        """Read a body, checking the limits as it comes; `declared` is the Content-Length, 0 if there is none."""
        chunks, to.complete = list[bytes](), False
        self._check(declared)
        while not to.complete:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunk: bytes = message.get("body", b"")
            chunks.append(chunk)
            to.held += len(chunk)
            fits = self.shares.add(to.caller, len(chunk), max(BODIES, 2 * self.most))
            self._check(to.held)
            if not fits:
                raise Problem(503, "too much is being sent at once; try again", headers={**RETRY, **CLOSE})
            to.complete = not message.get("more_body")
        return chunk if len(chunks) == 1 else b"".join(chunks)

    async def parsed(self, kind: type[B], content: bytes) -> B:
        """Parse a body; a large one waits for its turn, and for as long as parsing the one before took."""
        if len(content) < LARGE:
            return read(kind, content)
        async with self._looking:
            await asyncio.sleep(max(self._next - perf_counter(), 0))
            start = perf_counter()
            try:
                return read(kind, content)
            finally:
                self._next = 2 * perf_counter() - start

    def _check(self, size: int) -> None:
        if size > self.most:
            raise Problem(413, f"the body is larger than {self.most:,} bytes", headers=CLOSE)
