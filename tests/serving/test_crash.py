"""`kill -9` under load: what was acknowledged is in the store, once; and the next process serves it."""

import http.client
import random
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from .processes import Forks, ask, free_port, over, until_ready
from .waiting import impressions_of

pytest.importorskip("uvicorn", reason="the extra serve is not installed")

USERS, ITEMS = 8, 80
CLIENTS = 3


@dataclass
class Client:
    """Somebody who sends events and asks for recommendations until the service is gone.

    Attributes:
        sent: ids of all events that were sent. events: of those that were acknowledged, by user.
        shown: ids of the recommendations that came back, by user; `broken`: answers that none should be.
    """

    name: str
    port: int
    seed: int
    sent: set[str] = field(default_factory=set)
    events: dict[str, set[str]] = field(default_factory=dict)
    shown: dict[str, set[str]] = field(default_factory=dict)
    broken: list[Any] = field(default_factory=list)

    def run(self) -> None:
        """Work until the connection breaks."""
        rng = random.Random(self.seed)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            while True:
                self.once(connection, rng)
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()

    def once(self, connection: http.client.HTTPConnection, rng: random.Random) -> None:
        kind = rng.random()
        user = f"u{rng.randrange(USERS)}"
        if kind < 0.3:
            body = {"user_id": user, "k": 5, "explore": {"temperature": 1.0}}
            status, answer = over(connection, "POST", "/v1/recommendations", body)
            if status == 200:
                self.shown.setdefault(user, set()).add(answer["recommendation_id"])
            else:
                self.broken.append((status, answer))
            return
        batch = [self.event(rng) for _ in range(1 if kind < 0.6 else rng.randrange(2, 30))]
        if len(batch) == 1:
            status, answer = over(connection, "POST", "/v1/events", batch[0])
        else:
            status, answer = over(connection, "POST", "/v1/events/batch", {"events": batch})
        if status == 201:
            for event in batch:
                self.events.setdefault(event["user_id"], set()).add(event["event_id"])
        else:
            self.broken.append((status, answer))

    def event(self, rng: random.Random) -> dict[str, str]:
        """A new one; now and then one that was sent before, as a client does that heard no answer."""
        number = rng.randrange(len(self.sent)) if self.sent and rng.random() < 0.2 else len(self.sent)
        self.sent.add(f"{self.name}-{number}")
        return sent(f"{self.name}-{number}", f"u{number % USERS}")


def sent(name: str, user: str) -> dict[str, str]:
    """The event under an id, which is the same whenever it is sent."""
    item = f"i{int(name.rpartition('-')[2]) * 7 % ITEMS}"
    return {"event_id": name, "user_id": user, "item_id": item, "event": "play"}


class Ledger:
    """What all clients of all rounds sent and saw acknowledged."""

    def __init__(self) -> None:
        self.clients: list[Client] = []

    def check(self, store: str) -> None:
        """Reads the store anew, and holds it against what was acknowledged."""
        from what_next.serving.store import Store

        opened = Store.open(store)
        try:
            for user in (f"u{number}" for number in range(USERS)):
                self._of_user(opened, user)
        finally:
            opened.close()

    def _of_user(self, store: Any, user: str) -> None:
        stored = Counter(event.event_id for event in store.events_of(user))
        acknowledged = set().union(*(client.events.get(user, set()) for client in self.clients))
        assert not acknowledged - set(stored), f"events of {user} that were acknowledged are lost"
        assert set(stored.values()) <= {1}, f"events of {user} are there twice"
        assert set(stored) <= set().union(*(client.sent for client in self.clients)), "nobody sent these"
        shown = Counter(one.recommendation_id for one in impressions_of(store, user))
        answered = set().union(*(client.shown.get(user, set()) for client in self.clients))
        assert not answered - set(shown), f"impressions of {user} that were answered are lost"
        assert set(shown.values()) <= {1}, f"impressions of {user} are there twice"

    def proven(self, port: int, latest: int | None = None) -> None:
        """A new process says of every acknowledged event that it has it: sent again, each is a duplicate.

        Args:
            port: of the new process.
            latest: of how many clients, the last ones; None: of all.
        """
        acknowledged = [
            sent(name, user)
            for client in self.clients[-latest if latest else None :]
            for user, names in client.events.items()
            for name in names
        ]
        for start in range(0, len(acknowledged), 1000):
            batch = acknowledged[start : start + 1000]
            status, told = ask(port, "POST", "/v1/events/batch", {"events": batch})
            assert (status, told["accepted"], told["duplicates"]) == (201, 0, len(batch))

    def broken(self) -> list[Any]:
        return [one for client in self.clients for one in client.broken]

    def count(self, name: str) -> int:
        return sum(len(ids) for client in self.clients for ids in getattr(client, name).values())


def rounds(services: Forks, folder: Path, store: str, kills: int, seed: int) -> Ledger:
    """The service is started and killed so many times; the store is read while the next one starts."""
    from .models import served

    rng, ledger = random.Random(seed), Ledger()
    served(folder, import_data=False)
    for place in range(kills + 1):
        port = free_port()
        words = ("serve", folder / "setup.txt", f"server.port={port}", "server.rate=0")
        services.fork(*words, log=folder / "service.log", WHAT_NEXT_STORE=store)
        if place:
            ledger.check(store)
        until_ready(port)
        ledger.proven(port, CLIENTS)
        if place == kills:
            break
        clients = [Client(f"{place}.{number}", port, rng.randrange(2**32)) for number in range(CLIENTS)]
        ledger.clients += clients
        threads = [threading.Thread(target=client.run) for client in clients]
        for thread in threads:
            thread.start()
        time.sleep(rng.uniform(0.05, 0.4))
        services.end(signal.SIGKILL)
        for thread in threads:
            thread.join(30)
    status, model = ask(port, "GET", "/v1/model")
    assert (status, model["items"]) == (200, ITEMS)
    ledger.proven(port)
    services.end(signal.SIGTERM)
    ledger.check(store)
    return ledger


def held(ledger: Ledger, kills: int) -> None:
    """The load was one, and no answer was a fault."""
    assert ledger.count("events") > 20 * kills
    assert ledger.count("shown") > kills
    assert ledger.broken() == []


@pytest.mark.medium
def test_three_kills_lose_nothing_that_was_acknowledged_and_double_nothing(services: Forks, tmp_path: Path) -> None:
    held(rounds(services, tmp_path, f"sqlite:///{tmp_path / 'store.sqlite'}", 3, seed=0), 3)


@pytest.mark.medium
def test_nor_do_kills_of_a_service_on_postgresql(services: Forks, tmp_path: Path, postgres_url: str) -> None:
    held(rounds(services, tmp_path, postgres_url, 2, seed=2), 2)


@pytest.mark.slow
def test_a_hundred_kills_lose_nothing_that_was_acknowledged_and_double_nothing(services: Forks, tmp_path: Path) -> None:
    held(rounds(services, tmp_path, f"sqlite:///{tmp_path / 'store.sqlite'}", 100, seed=1), 100)
