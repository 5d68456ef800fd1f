"""The service for tests: the real engine and store behind the endpoint, asked without a socket."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from .models import data_of, served

if TYPE_CHECKING:
    from what_next import Setup
    from what_next.serving.engine import Engine
    from what_next.serving.store import Store, Writer


@dataclass
class Service:
    """One process of the service, as its clients see it, and what stands behind it.

    Attributes:
        key: is sent along where there is one.
    """

    setup: "Setup"
    app: Any
    engine: "Engine"
    store: "Store"
    writer: "Writer"
    key: str | None = None
    host: str = "http://localhost"
    headers: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, path: str, json: object = None, **more: Any) -> httpx.Response:
        """One request and its answer."""
        headers = self.headers | ({"authorization": f"Bearer {self.key}"} if self.key else {})
        headers |= more.pop("headers", {})

        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url=self.host) as client:
                return await client.request(method, path, json=json, headers=headers, **more)

        return asyncio.run(asked())

    def get(self, path: str, **more: Any) -> Any:
        """What a request that succeeds answers."""
        answer = self.ask("GET", path, **more)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, json: object, **more: Any) -> Any:
        """The same, with a body."""
        answer = self.ask("POST", path, json, **more)
        assert answer.status_code in (200, 201), answer.text
        return answer.json()

    def play(self, event_id: str, user: str = "new", item: str = "i1", **more: Any) -> Any:
        """Somebody plays something."""
        return self.post("/v1/events", {"event_id": event_id, "user_id": user, "item_id": item, **more})

    def recommend(self, **question: Any) -> Any:
        """Recommendations."""
        return self.post("/v1/recommendations", question)


@contextlib.contextmanager
def service(folder: Path, fill: bool = True, **server: Any) -> Iterator[Service]:
    """A trained model behind the endpoint, and a store with the histories that it was trained on."""
    with process(served(folder, **{"deadline": 5000, **server}), fill) as one:
        yield one


@contextlib.contextmanager
def process(setup: "Setup", fill: bool = False) -> Iterator[Service]:
    """A process of the service; several may be on one setup, and so on one store."""
    from what_next.serving.engine import Engine
    from what_next.serving.http.app import Application
    from what_next.serving.http.parts import Parts
    from what_next.serving.metrics import Metrics
    from what_next.serving.store import Store, Writer, store_of

    from .engines import in_time

    store = Store.open(store_of(setup))
    if fill:
        store.load_histories(data_of(setup))
    writer, metrics = Writer(store), Metrics()
    engine = Engine(setup, store, writer, metrics)
    app = Application(Parts(setup.server, engine, store, writer, metrics))
    try:
        in_time(lambda: not engine.missing())
        yield Service(setup, app, engine, store, writer)
    finally:
        engine.close()
        writer.close()
        app.parts.close()
        store.close()
