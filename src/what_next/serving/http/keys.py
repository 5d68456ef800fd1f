"""API keys: made once, kept as hashes, looked up without asking the store each time."""

import hashlib
import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Event, Thread
from typing import Literal

from what_next.errors import StoreError
from what_next.serving.store import Store

logger = logging.getLogger("what_next.serving")

Role = Literal["read", "write", "admin"]
ROLES: tuple[Role, ...] = ("read", "write", "admin")
"""Each may do what those before it may."""
READ, WRITE, ADMIN = range(3)
"""Their places."""
REFRESH = 2.0
"""Seconds between two looks at the keys of the store: a revoked key is of no use after that."""


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
