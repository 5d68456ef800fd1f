"""Who asks, by API keys that are kept as hashes; and what one may ask for: how often, how much, and from where."""

import asyncio
import hashlib
import re
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Event, Thread
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Literal

from cachetools import LRUCache
from starlette.types import Receive

from what_next.errors import StoreError
from what_next.serving import logger
from what_next.serving.bodies import B, read
from what_next.serving.http.problems import CLOSE, RETRY, Problem
from what_next.serving.store import Store

if TYPE_CHECKING:
    from what_next.serving.http.routes import Call

Role = Literal["read", "write", "admin"]
ROLES: tuple[Role, ...] = ("read", "write", "admin")
"""Each may do what those before it may."""
READ, WRITE, ADMIN = range(3)
"""Their places."""
REFRESH = 2.0
"""Seconds between two looks at the keys of the store: a revoked key is of no use after that."""

KEPT = 10_000
"""Callers whose rate is remembered: the latest that asked."""
LARGE = 2**16
"""Bytes from which on bodies are looked at one after another, with pauses in which the others are answered."""
BODIES = 2**26
"""Bytes of the bodies of all requests under way together, or two whole bodies where those may be larger."""
LOCAL = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]+)?", re.IGNORECASE | re.ASCII)
"""Host headers that name this machine, perhaps with a port: a page of another site that leads its own name here does
not have them."""


def new_key() -> str:
    """A key of 256 random bits, as text."""
    return "wn_" + secrets.token_urlsafe(32)


def digest_of(key: str) -> str:
    """What the store keeps of a key. A key is random and long, so that a plain hash cannot be tried backwards."""
    return hashlib.sha256(key.encode()).hexdigest()


@dataclass(frozen=True)
class Caller:
    """Who asks: `name` is that of the key; `role` is a place in `ROLES`."""

    name: str
    role: int


class KeyRing:
    """The keys of a store, by their hashes; a thread looks for new and revoked ones.

    A digest is looked up in a dictionary: the time that this takes tells nothing of a key, only of its hash.
    """

    def __init__(self, store: Store, on_failure: Callable[[], None] = lambda: None) -> None:
        """Reads the keys; `on_failure` is called whenever the store could not be read (the keys known so far stay)."""
        self._store, self._on_failure = store, on_failure
        self._callers: Mapping[str, Caller] = {}
        self._closed = Event()
        self.refresh()
        self._thread = Thread(target=self._watch, name="keys", daemon=True)
        self._thread.start()

    def caller(self, key: str) -> Caller | None:
        """Who holds a key; None: nobody."""
        return self._callers.get(digest_of(key))

    def __len__(self) -> int:
        return len(self._callers)

    def refresh(self) -> None:
        """Reads the keys of the store."""
        kept = self._store.keys()
        valid = [one for one in kept if one.revoked is None and one.role in ROLES]
        self._callers = {one.digest: Caller(one.name, ROLES.index(one.role)) for one in valid}

    def close(self) -> None:
        """Ends the thread."""
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._closed.wait(REFRESH):
            try:
                self.refresh()
            except StoreError:
                self._on_failure()
            except Exception:  # without this thread, no key would be revoked any more
                logger.exception("the keys could not be read; those known so far stay")


class Rate:
    """At most `rate` units of cost a second for each caller, with bursts of as many: a token bucket.

    The bucket is kept as the time at which it is full again (the generic cell rate algorithm of ATM), so that it is
    one number for each caller. The clock is monotonic: setting the machine's time changes nothing.
    """

    def __init__(self, rate: int, clock: Callable[[], float] = monotonic) -> None:
        self._rate, self._clock = rate, clock
        self._full: LRUCache[str, float] = LRUCache(KEPT)

    def take(self, caller: str, cost: int | float = 1, paid: int | float = 0) -> float:
        """Takes a cost, besides what is `paid` for the same request already: 0, or the seconds until there is room.

        More than a second's worth comes through where nothing else is under way, and is then waited for.
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

    def charge(self, caller: str, cost: int | float = 1, paid: int | float = 0) -> None:
        """The same; raises a `Problem` where the caller has to wait."""
        if wait := self.take(caller, cost, paid):
            message = (
                f"the rate limit of {self._rate:,} requests a second for each key, or address without a key, is used "
                "up (server.rate, counted by cost: items, history, reasons, bytes); wait as Retry-After says"
            )
            raise Problem(429, message, headers={"retry-after": str(int(wait) + 1)})


class ClientGone(Exception):
    """The client has hung up."""


class Shares:
    """What callers hold of something that all share: each no more than all leave free.

    So one caller alone gets half, two get a third each, and there is room for the next one, whoever fills it: the
    dynamic threshold of Choudhury and Hahne (1998), with alpha 1.
    """

    def __init__(self) -> None:
        self.held, self._of = 0, Counter[str]()

    def add(self, caller: str, amount: int, most: int = 0) -> bool:
        """Counts more, or less; whether the caller then holds no more than is left of `most`."""
        self.held += amount
        self._of[caller] += amount
        own = self._of[caller] or self._of.pop(caller)
        return own <= most - self.held


class Bodies:
    """Reads bodies: each up to a size, all under way together up to a size, and large ones one after another."""

    def __init__(self, most: int) -> None:
        self.most, self.shares = most, Shares()
        self._looking, self._next = asyncio.Lock(), 0.0

    async def read(self, receive: Receive, declared: int, to: "Call") -> bytes:
        """The bytes, counted as they come; `declared` is the Content-Length, 0 where there is none."""
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
        """What a body says; a large one waits for its turn, and for as long as the one before took."""
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
