"""Who may ask, how often, and what the log tells of them."""

import json
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .endpoint import Service, service

if TYPE_CHECKING:
    from what_next.serving.http.callers import Rate

EVENT = {"event_id": "e-secret", "user_id": "user-secret", "item_id": "item-secret"}
FEEDBACK = {"feedback_id": "f", "recommendation_id": "r", "item_id": "i", "reward": 1.0}


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that needs keys, with one of each role, called as the role."""
    from what_next.serving.http.callers import digest_of

    with service(tmp_path_factory.mktemp("locked"), fill=False, keys="yes", rate=0) as started:
        for role in ("read", "write", "admin"):
            started.store.add_key(role, role, digest_of(f"wn_{role}"))
        started.app.parts.keys.refresh()
        started.host = "http://shop.example"
        yield started


def asked(one: Service, key: str | None, method: str, path: str, body: object = None) -> int:
    one.key = key
    try:
        return one.ask(method, path, body).status_code
    finally:
        one.key = None


REQUESTS: list[tuple[str, str, Any, int]] = [
    ("GET", "/v1/users", None, 0),
    ("GET", "/v1/items/no", None, 0),
    ("GET", "/v1/model", None, 0),
    ("GET", "/metrics", None, 0),
    ("GET", "/no/such/path", None, 0),
    ("POST", "/v1/recommendations", {}, 0),
    ("POST", "/v1/recommendations/batch", {"requests": [{}]}, 0),
    ("POST", "/v1/events", EVENT, 1),
    ("POST", "/v1/events/batch", {"events": [EVENT]}, 1),
    ("POST", "/v1/feedback", FEEDBACK, 1),
    ("POST", "/v1/feedback/batch", {"feedback": [FEEDBACK]}, 1),
    ("POST", "/v1/items", {"item_id": "x", "title": "x", "attributes": {}}, 2),
    ("POST", "/v1/items/batch", {"items": [{"item_id": "x", "title": "x", "attributes": {}}]}, 2),
    ("DELETE", "/v1/items/no", None, 2),
    ("DELETE", "/v1/users/nobody", None, 2),
]


@pytest.mark.parametrize(("method", "path", "body", "needs"), REQUESTS)
def test_each_request_needs_its_role(locked: Service, method: str, path: str, body: object, needs: int) -> None:
    assert asked(locked, None, method, path, body) == 401
    assert asked(locked, "wn_nobody's", method, path, body) == 401
    for place, role in enumerate(("read", "write", "admin")):
        status = asked(locked, f"wn_{role}", method, path, body)
        assert (status == 403) == (place < needs)
        assert status not in (401, 500)


@pytest.mark.parametrize("path", ["/health", "/ready", "/", "/page/page.js", "/openapi.json"])
def test_what_tells_the_state_the_page_and_the_schema_need_no_key(locked: Service, path: str) -> None:
    assert asked(locked, None, "GET", path) == 200


def test_a_key_is_taken_from_either_header(locked: Service) -> None:
    assert locked.ask("GET", "/v1/users", headers={"x-api-key": "wn_read"}).status_code == 200
    assert locked.ask("GET", "/v1/users", headers={"authorization": "bearer wn_read"}).status_code == 200
    # A proxy's own Authorization is none of ours; where both headers hold a key, it is X-API-Key's.
    both = {"authorization": "Basic dXNlcjpwYXNz", "x-api-key": "wn_read"}
    for headers in (both, dict(reversed(both.items())), both | {"authorization": "Bearer wn_nobody's"}):
        assert locked.ask("GET", "/v1/users", headers=headers).status_code == 200
    assert locked.ask("GET", "/v1/users", headers={"authorization": both["authorization"]}).status_code == 401
    refused = locked.ask("GET", "/v1/users", headers={"x-api-key": "wn_rea"})
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.json()["error"]["code"] == "no_key"


@pytest.mark.medium
def test_a_revoked_key_is_of_no_use_within_five_seconds(locked: Service) -> None:
    from what_next.serving.http.callers import digest_of

    locked.store.add_key("short", "read", digest_of("wn_short"))
    until = time.monotonic() + 5
    while asked(locked, "wn_short", "GET", "/v1/users") != 200:
        assert time.monotonic() < until
        time.sleep(0.05)
    locked.store.revoke_key("short")
    until = time.monotonic() + 5
    while asked(locked, "wn_short", "GET", "/v1/users") != 401:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_keys_are_long_differ_and_are_kept_as_hashes(locked: Service) -> None:
    from what_next.serving.http.callers import digest_of, new_key

    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("wn_") and len(key) == 46 for key in keys)
    kept = locked.store.keys()
    assert {one.digest for one in kept} >= {digest_of("wn_read"), digest_of("wn_admin")}
    assert not any("wn_" in one.digest for one in kept)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LOCALHOST:8000", 200), ("127.0.0.1:1", 200), ("[::1]", 200), ("[::1]:8000", 200),
        ("evil.example", 403), ("localhost.evil.example", 403), ("127.0.0.1.evil.example:8000", 403),
        ("127.0.0.1:80@evil.example", 403), ("[::1].evil.example", 403), ("", 403),
    ],
)  # fmt: skip
def test_without_keys_only_this_machines_own_names_are_answered(host: str, status: int) -> None:
    from what_next.serving.http.callers import LOCAL

    assert (LOCAL.fullmatch(host) is not None) == (status == 200)


def test_a_page_of_another_site_that_leads_its_name_here_is_refused(tmp_path: Path) -> None:
    with service(tmp_path, fill=False) as one:
        assert one.ask("GET", "/v1/users", headers={"host": "evil.example"}).status_code == 403
        answer = one.ask("GET", "/v1/users", headers={"origin": "http://evil.example"})
        assert not [name for name in answer.headers if name.startswith("access-control")]


def rate(limit: int, now: list[float]) -> "Rate":
    from what_next.serving.http.callers import Rate

    return Rate(limit, lambda: now[0])


def test_a_caller_has_so_many_requests_a_second_and_others_have_theirs() -> None:
    now = [100.0]
    limit = rate(4, now)
    assert [limit.take("a") for _ in range(4)] == [0, 0, 0, 0]
    assert limit.take("a") == pytest.approx(0.25)
    assert limit.take("b") == 0
    now[0] += 0.25
    assert limit.take("a") == 0
    assert limit.take("a") == pytest.approx(0.25)
    now[0] += 1000
    assert [limit.take("a") for _ in range(5)] == [0, 0, 0, 0, pytest.approx(0.25)]


def test_callers_that_have_gone_are_forgotten() -> None:
    now = [0.0]
    limit = rate(1, now)
    for number in range(30_000):
        now[0] += 0.01
        limit.take(str(number))
    assert len(limit._full) <= 10_001


def test_too_many_requests_are_429_and_told_when_to_come_again(tmp_path: Path) -> None:
    with service(tmp_path, fill=False, rate=3) as one:
        answers = [one.ask("GET", "/v1/model") for _ in range(20)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert [answer.status_code for answer in answers[:3]] == [200, 200, 200]
    assert refused
    assert refused[0].headers["retry-after"] == "1"
    assert refused[0].json()["error"]["code"] == "too_many_requests"
    told = refused[0].json()["error"]["message"]
    assert "rate limit of 3 requests a second" in told
    assert "server.rate" in told


@pytest.mark.parametrize("ids", ["none", "hashed"])
def test_no_log_line_holds_a_persons_id_an_items_or_a_key(tmp_path: Path, ids: str) -> None:
    from what_next.serving.http.callers import digest_of
    from what_next.serving.http.log import Log

    lines = StringIO()
    with service(tmp_path, fill=False, keys="yes", log_ids=ids) as one:
        one.store.add_key("shop", "admin", digest_of("wn_secret"))
        parts = one.app.parts
        parts.keys.refresh()
        one.key = "wn_secret"
        parts.log.close()
        parts.log = Log(one.setup.server.log_ids, lines.write)
        one.post("/v1/events", EVENT)
        one.recommend(user_id="user-secret")
        one.recommend(user_id="another-secret")
        one.get("/v1/users/user-secret/history")
        one.ask("GET", "/v1/items/item-secret")
        one.ask("GET", "/secret/path?secret=1")
        one.ask("DELETE", "/v1/users/user-secret")
        for path in ("/health", "/ready", "/metrics"):  # no lines: they are asked every few seconds
            assert one.ask("GET", path).status_code == 200
        one.key = "wn_secret_wrong"
        one.ask("GET", "/metrics")
        one.ask("GET", "/v1/users/user-secret/history")
        parts.log.close()
    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert "secret" not in lines.getvalue()
    assert [line["status"] for line in told] == [201, 200, 200, 200, 404, 404, 200, 401, 401]
    assert [line["key"] for line in told] == ["shop"] * 7 + [None] * 2
    assert told[3]["route"] == "/v1/users/{user_id}/history"
    assert told[5]["route"] == "unmatched"
    assert all(line["ms"] > 0 for line in told)
    named = [line.get("user") for line in told]
    if ids == "none":
        assert named == [None] * 9
    else:
        assert named[0] == named[1] == named[3] == named[6] is not None
        assert named[2] not in (None, named[0])
