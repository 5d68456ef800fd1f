"""What one caller and one request may take, and what is counted where it is too much."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .endpoint import Service, service

if TYPE_CHECKING:
    from what_next.serving.http.callers import Rate

FEEDBACK = {"feedback_id": "f", "recommendation_id": "r", "item_id": "i", "reward": 1}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service(tmp_path_factory.mktemp("limits"), fill=False) as started:
        yield started


# How often


def rate(limit: int, now: list[float]) -> "Rate":
    from what_next.serving.http.callers import Rate

    return Rate(limit, lambda: now[0])


def test_a_batch_counts_as_what_it_holds() -> None:
    now = [100.0]
    limit = rate(10, now)
    assert (limit.take("a"), limit.take("a", 9, 1)) == (0, 0)
    assert limit.take("a") == pytest.approx(0.1)
    now[0] += 0.5
    assert limit.take("a") == 0
    assert limit.take("a", 5, 1) == pytest.approx(0.1)  # nothing of it is taken
    assert limit.take("a", 4, 1) == 0


def test_a_batch_of_more_than_a_second_is_paid_off_afterwards() -> None:
    now = [100.0]
    limit = rate(10, now)
    assert (limit.take("a"), limit.take("a", 49, 1)) == (0, 0)
    assert limit.take("a") == pytest.approx(4.1)
    now[0] += 4.1
    assert limit.take("a") == 0
    assert limit.take("a", 49, 1) == pytest.approx(0.9)
    assert (rate(0, now).take("a"), rate(0, now).take("a", 1000, 1)) == (0, 0)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/recommendations/batch", {"requests": [{}] * 6}),
        ("/v1/events/batch", {"events": [{"event_id": f"e{n}", "user_id": "u", "item_id": "i"} for n in range(6)]}),
        ("/v1/feedback/batch", {"feedback": [FEEDBACK] * 6}),
    ],
)
def test_batches_reach_the_limit_sooner_than_single_requests(tmp_path: Path, path: str, body: Any) -> None:
    with service(tmp_path, fill=False, rate=10) as limited:
        first, second = (limited.ask("POST", path, body) for _ in range(2))
        assert first.status_code in (200, 201)
        assert (second.status_code, second.json()["error"]["code"]) == (429, "too_many_requests")
        if "events" in body:  # what was refused is not kept
            assert limited.store.heads(["u"])["u"].events == 6


@pytest.mark.parametrize("path", ["/v1/items?query=song", "/v1/items/i3/similar", "/v1/users/u1/history?limit=1000"])
def test_what_goes_through_many_items_or_events_costs_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    from what_next.serving.http import operations

    monkeypatch.setattr(operations, "ITEMS_PER_UNIT", 4)  # as if the 80 items were 40,000
    with service(tmp_path, fill=False, rate=10) as limited:
        assert [limited.ask("GET", path).status_code for _ in range(2)] == [200, 429]


@pytest.mark.parametrize("path", ["/openapi.json", "/metrics"])
def test_what_takes_milliseconds_to_answer_costs_more(tmp_path: Path, path: str) -> None:
    with service(tmp_path, fill=False, rate=10) as limited:
        assert [limited.ask("GET", path).status_code for _ in range(2)] == [200, 429]


def test_an_answer_that_the_client_does_not_read_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_: Any = None) -> None:
        await asyncio.Event().wait()

    noted = []
    with service(tmp_path, fill=False, timeout=0.1) as slow:
        monkeypatch.setattr(slow.app.parts.log, "request", lambda *line: noted.append(line[:3]))
        scope = {"type": "http", "method": "GET", "path": "/v1/users", "http_version": "1.1", "query_string": b""}
        asyncio.run(slow.app({**scope, "headers": [(b"host", b"localhost")]}, never, never))
    assert noted == [("GET", "/v1/users", 499)]


# How much


def test_bodies_of_all_requests_share_a_bound(one: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    from what_next.serving.http import callers as limits

    bodies = one.app.parts.bodies
    monkeypatch.setattr(limits, "BODIES", 3000)
    monkeypatch.setattr(bodies, "most", 2000)
    kind = {"content-type": "application/json"}

    async def slowly(go_on: asyncio.Event) -> AsyncIterator[bytes]:
        yield b" " * 1800
        await go_on.wait()
        yield b"{}"

    async def asked() -> list[int]:
        transport, go_on = httpx.ASGITransport(one.app, raise_app_exceptions=False), asyncio.Event()
        async with httpx.AsyncClient(transport=transport, base_url=one.host) as client:
            path = "/v1/recommendations"
            first = asyncio.create_task(client.post(path, content=slowly(go_on), headers=kind))
            while not bodies.shares.held:
                await asyncio.sleep(0)
            second = await client.post(path, content=b" " * 1800 + b"{}", headers=kind)
            small = await client.post(path, content=b"{}", headers=kind)
            go_on.set()
            return [(await first).status_code, second.status_code, small.status_code]

    assert asyncio.run(asked()) == [200, 503, 200]
    assert bodies.shares.held == 0


@pytest.mark.parametrize(("size", "bytes_", "requests"), [(1000, 10_100, 100), (1, 10_100, 10)])
def test_slow_bodies_of_one_caller_leave_room_for_others(
    one: Service, monkeypatch: pytest.MonkeyPatch, size: int, bytes_: int, requests: int
) -> None:
    """However many one sends: half of the room is theirs, and what is more is refused to them alone."""
    import httpx

    from what_next.serving.http import app
    from what_next.serving.http import callers as limits

    monkeypatch.setattr(limits, "BODIES", bytes_)
    monkeypatch.setattr(app, "MOST", requests)
    monkeypatch.setattr(one.app.parts.bodies, "most", 1100)
    go_on = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b" " * size
        await go_on.wait()
        yield b"{}"

    def caller(name: str) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(one.app, client=(name, 1))
        return httpx.AsyncClient(transport=transport, base_url=one.host, headers={"content-type": "application/json"})

    async def asked() -> tuple[list[int], int]:
        path = "/v1/recommendations"
        async with caller("greedy") as greedy, caller("polite") as polite:
            waiting = [asyncio.create_task(greedy.post(path, content=slowly())) for _ in range(12)]
            while sum(one.done() for one in waiting) < 7:
                await asyncio.sleep(0.001)
            other = await polite.post(path, content=b" " * size + b"{}")
            go_on.set()
            return sorted([(await one).status_code for one in waiting]), other.status_code

    assert asyncio.run(asyncio.wait_for(asked(), 20)) == ([200] * 5 + [503] * 7, 200)
    assert one.app._under_way.held == one.app.parts.bodies.shares.held == 0


def test_log_lines_that_nobody_takes_are_counted(one: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    from what_next.serving.http import log

    monkeypatch.setattr(log, "WAITING", 3)
    go_on, lines = threading.Event(), list[str]()
    held = log.Log("none", lambda text: (go_on.wait(20), lines.append(text)))
    monkeypatch.setattr(one.app.parts, "log", held)
    for status in range(200, 210):
        held.request("GET", "/", status, 0.1, None, None)
    assert held.dropped >= 4  # the thread may have taken three of them
    assert f"what_next_log_lines_dropped {held.dropped:.1f}" in one.ask("GET", "/metrics").text
    go_on.set()
    held.close()
    written = "".join(lines)
    assert written.count("\n") == 10 - held.dropped
    assert written.count('"status":200') == 1


def test_the_thread_that_looks_at_the_keys_outlives_a_mistake(
    one: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from what_next.serving.http import callers as keys

    monkeypatch.setattr(keys, "REFRESH", 0.01)
    looks, went_on = list[int](), threading.Event()

    def broken() -> Any:
        looks.append(1)
        if len(looks) > 3:
            went_on.set()
        if len(looks) > 1:
            raise RuntimeError("a row that nobody understands")
        return []

    monkeypatch.setattr(one.store, "keys", broken)
    with caplog.at_level(logging.ERROR, "what_next.serving"):
        ring = keys.KeyRing(one.store)
        assert went_on.wait(20)
        ring.close()
    assert "those known so far stay" in caplog.text
