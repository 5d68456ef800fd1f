"""What the endpoint does not take, and what it says then."""

import contextlib
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from what_next.errors import StoreUnavailable

from .endpoint import Service, service
from .engines import in_time


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service(tmp_path_factory.mktemp("refusals"), fill=False, body=20_000) as started:
        yield started


def away(*_: Any) -> Any:
    raise StoreUnavailable("the database of /some/secret/path is away")


@contextlib.contextmanager
def store_away(one: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        for name in ("commit", "heads", "events_of", "users", "ping", "items_after"):
            patch.setattr(one.store, name, away)
        yield


EVENT = {"event_id": "e", "user_id": "u", "item_id": "i1"}
FEEDBACK = {"feedback_id": "f", "recommendation_id": "r", "item_id": "i1", "reward": 1.0}
RECOMMEND, EVENTS = "/v1/recommendations", "/v1/events"
FUTURE = 7_258_118_399_000_000
"""A time before the year 2200."""


def test_what_may_be_empty_is_not_said_to_be_blank(one: Service) -> None:
    answer = one.ask("GET", "/v1/users?query=%00")
    assert (answer.status_code, answer.json()["error"]["message"]) == (422, "query: must hold no control characters")
    assert one.ask("GET", "/v1/users?query=").status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "field", "reason"),
    [
        (RECOMMEND, {"k": 0}, "k", "greater than or equal to 1"),
        (RECOMMEND, {"k": 201}, "k", "less than or equal to 200"),
        (RECOMMEND, {"k": "10"}, "k", "valid integer"),
        (RECOMMEND, {"user": "u1"}, "user", "there is no such field"),
        (RECOMMEND, {"user_id": ""}, "user_id", "at least 1 character"),
        (RECOMMEND, {"user_id": "u" * 257}, "user_id", "at most 256 characters"),
        (RECOMMEND, {"user_id": "a\u0000b"}, "user_id", "no control characters"),
        (RECOMMEND, {"user_id": " \u2003 "}, "user_id", "not be blank"),
        (EVENTS, EVENT | {"user_id": " "}, "user_id", "not be blank"),
        (EVENTS, EVENT | {"user_id": ".."}, "user_id", "is a step in a path; give another id"),
        (EVENTS, EVENT | {"item_id": "."}, "item_id", "is a step in a path; give another id"),
        ("/v1/items", {"item_id": "..", "title": "x", "attributes": {}}, "item_id", "is a step in a path"),
        (RECOMMEND, {"user_id": "."}, "user_id", "is a step in a path"),
        (EVENTS, EVENT | {"timestamp": "2199-12-31T00:00:00Z"}, "timestamp", "a day ahead"),
        (f"{EVENTS}/batch", {"events": [EVENT, EVENT | {"timestamp": FUTURE}]}, "events.1.timestamp", "a day ahead"),
        (RECOMMEND, {"history": ["i1", "a\nb"]}, "history.1", "no control characters"),
        (RECOMMEND, {"history": ["i1"] * 1001}, "history", "list should have at most 1000 items"),
        (RECOMMEND, {"exclude_seen": "yes"}, "exclude_seen", "valid boolean"),
        (RECOMMEND, {"explore": {"temperature": 1.0, "epsilon": 0.1}}, "explore", "one of temperature and epsilon"),
        (RECOMMEND, {"explore": {}}, "explore", "one of temperature and epsilon"),
        (
            RECOMMEND,
            {"explore": {"temperature": 1e-4}},
            "explore",
            "must be 0, which takes the best, or at least 0.001",
        ),
        (RECOMMEND, {"explore": {"temperature": -1.0}}, "explore.temperature", "greater than or equal to 0"),
        (RECOMMEND, {"explore": {"epsilon": 1.5}}, "explore.epsilon", "less than or equal to 1"),
        (RECOMMEND, {"seed": -1}, "seed", "greater than or equal to 0"),
        (RECOMMEND, {"seed": 2**63}, "seed", "less than 9223372036854775808"),
        (RECOMMEND, {"policy": "best"}, "policy", "'trained', 'popular' or 'random'"),
        (RECOMMEND, {"ranges": {"year": {"min": "old"}}}, "ranges.year.min", "valid number"),
        (RECOMMEND, {"ranges": {"no such": {"min": 1}}}, "ranges", "no such"),
        (RECOMMEND, {"ranges": {"tempo": {"min": 2, "max": 1}}}, "ranges", "of 'tempo', min is 2 and above max"),
        (RECOMMEND, {"allowed": []}, "allowed", "is empty"),
        ("/v1/recommendations/batch", {"requests": []}, "requests", "at least 1 item"),
        (EVENTS, {}, "event_id", "required"),
        (EVENTS, EVENT | {"timestamp": "2026-11-25T10:00:00"}, "timestamp", "ISO 8601 with its zone"),
        (EVENTS, EVENT | {"timestamp": "2026-02-30T10:00:00Z"}, "timestamp", "ISO 8601 with its zone"),
        (EVENTS, EVENT | {"timestamp": "1969-12-31T23:59:59Z"}, "timestamp", "from 1970 up to 2200"),
        (EVENTS, EVENT | {"timestamp": -1}, "timestamp", "from 1970 up to 2200"),
        (EVENTS, EVENT | {"timestamp": 7_258_118_400_000_000}, "timestamp", "from 1970 up to 2200"),
        (EVENTS, EVENT | {"timestamp": 1.5}, "timestamp", "whole microseconds"),
        (EVENTS, EVENT | {"timestamp": 1_764_064_800}, "timestamp", "looks like seconds (or milliseconds)"),
        (EVENTS, EVENT | {"timestamp": 1_764_064_800_000}, "timestamp", "looks like seconds (or milliseconds)"),
        (EVENTS, EVENT | {"timestamp": 99_999_999_999_999}, "timestamp", "send microseconds since 1970, or ISO 8601"),
        (EVENTS, EVENT | {"timestamp": True}, "timestamp", "whole microseconds"),
        (EVENTS, EVENT | {"reward": 1e9}, "reward", "less than or equal to 1000000"),
        (EVENTS, EVENT | {"context": {"hour": "late"}}, "context.hour", "valid number"),
        ("/v1/events/batch", {"events": [EVENT, EVENT | {"item_id": 7}]}, "events.1.item_id", "valid string"),
        ("/v1/feedback", {**FEEDBACK, "reward": None}, "reward", "valid number"),
        ("/v1/items", {"item_id": "x", "title": "", "attributes": {}}, "title", "at least 1 character"),
    ],
)
def test_a_body_that_does_not_fit_is_told_field_and_reason(
    one: Service, path: str, body: object, field: str, reason: str
) -> None:
    answer = one.ask("POST", path, body)
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert error["code"] == "invalid"
    told = {each["field"]: each["reason"] for each in error["fields"]}
    assert reason in told[field]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 5000, b'{"user_id": "\\ud800"}', b'{"k": NaN'])
def test_what_is_no_json_is_400(one: Service, body: bytes) -> None:
    answer = one.ask("POST", RECOMMEND, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "bad_json"


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (RECOMMEND, '{"user_id": "u1", "k": 5, "k": 10}', "k"),
        (RECOMMEND, '{"k": "x", "user_id": "u1", "\\u006b": 10}', "k"),
        (RECOMMEND, '{"ranges": {"tempo": {"min": 1, "min": 2}}}', "min"),
        (EVENTS, '{"event_id": "e", "user_id": "twice", "item_id": "i1", "user_id": "u"}', "user_id"),
        (
            f"{EVENTS}/batch",
            '{"events": [{"event_id": "e", "event_id": "e", "user_id": "u", "item_id": "i"}]}',
            "event_id",
        ),
    ],
)
def test_a_key_that_stands_twice_is_refused_by_its_name(one: Service, path: str, body: str, field: str) -> None:
    answer = one.ask("POST", path, content=body.encode(), headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert error["fields"] == [{"field": field, "reason": "is given twice in one object; give it once"}]
    assert error["code"] == "invalid"
    assert one.get("/v1/users/u/history")["total"] == 0


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"1e999"])
def test_a_number_that_is_none_is_refused(one: Service, number: bytes) -> None:
    body = b'{"event_id": "e", "user_id": "u", "item_id": "i", "reward": ' + number + b"}"
    answer = one.ask("POST", EVENTS, content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert one.get("/v1/users/u/history")["total"] == 0


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
def test_a_body_that_is_not_told_to_be_json_is_415_so_that_no_form_of_another_site_gets_in(
    one: Service, kind: str | None
) -> None:
    answer = one.ask("POST", RECOMMEND, content=b"{}", headers={"content-type": kind} if kind else {})
    assert answer.status_code == 415
    assert (
        one.ask("POST", RECOMMEND, content=b"{}", headers={"content-type": "Application/JSON; x=y"}).status_code == 200
    )


def test_a_body_that_is_packed_is_415_and_told_so(one: Service) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    answer = one.ask("POST", RECOMMEND, content=gzip.compress(b"{}"), headers=headers)
    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "identity")
    assert "without Content-Encoding" in answer.json()["error"]["message"]
    headers["content-encoding"] = "identity"
    assert one.ask("POST", RECOMMEND, content=b"{}", headers=headers).status_code == 200


def test_a_body_that_is_too_large_is_413_also_when_its_length_is_not_told(one: Service) -> None:
    large = b'{"user_id": "' + b"u" * 20_000 + b'"}'
    kind = {"content-type": "application/json"}
    assert one.ask("POST", RECOMMEND, content=large, headers=kind).status_code == 413

    async def parts() -> Any:
        for start in range(0, len(large), 1000):
            yield large[start : start + 1000]

    assert one.ask("POST", RECOMMEND, content=parts(), headers=kind).status_code == 413
    fits = b'{"user_id": "u"' + b" " * (20_000 - 16) + b"}"
    assert one.ask("POST", RECOMMEND, content=fits, headers=kind).status_code == 200


@pytest.mark.parametrize(
    ("query", "field"), [("limit=0", "limit"), ("limit=ten", "limit"), ("limits=5", "limits"), ("query=%00", "query")]
)
def test_a_query_that_does_not_fit_is_told_its_field(one: Service, query: str, field: str) -> None:
    answer = one.ask("GET", f"/v1/items?{query}")
    assert answer.status_code == 422
    assert answer.json()["error"]["fields"][0]["field"] == field


def test_a_method_that_a_path_does_not_have_is_405_and_told_which_it_has(one: Service) -> None:
    answer = one.ask("PUT", "/v1/items")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")
    assert one.ask("GET", RECOMMEND).headers["allow"] == "POST"
    assert answer.json()["error"]["code"] == "method_not_allowed"


def test_feedback_to_what_was_never_shown_is_refused(one: Service) -> None:
    assert one.ask("POST", "/v1/feedback", FEEDBACK).status_code == 404
    shown = one.recommend(user_id="u1", k=1)
    wrong = FEEDBACK | {"recommendation_id": shown["recommendation_id"], "item_id": "no such"}
    answer = one.ask("POST", "/v1/feedback", wrong)
    assert (answer.status_code, answer.json()["error"]["fields"][0]["field"]) == (422, "item_id")
    right = wrong | {"item_id": shown["items"][0]["item_id"], "feedback_id": "f2"}
    early = right | {"feedback_id": "f3", "timestamp": FUTURE}
    told = one.post("/v1/feedback/batch", {"feedback": [FEEDBACK, right, wrong, right, early]})
    assert (told["accepted"], told["duplicates"]) == (1, 1)
    refused = [(each["index"], each["code"]) for each in told["refused"]]
    assert refused == [(0, "not_found"), (2, "invalid"), (4, "invalid")]
    assert told["refused"][2]["message"] == "timestamp: is more than a day ahead of the clock here"
    assert one.ask("POST", "/v1/feedback", early).json()["error"]["fields"][0]["field"] == "timestamp"


def test_a_store_that_is_away_is_503_and_all_goes_on_when_it_is_back(
    one: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = EVENT | {"event_id": "e-away", "user_id": "patient"}
    assert one.get("/ready") == {"ready": True}
    with store_away(one, monkeypatch):
        for method, path, body in (
            ("POST", EVENTS, event),
            ("POST", RECOMMEND, {"user_id": "patient"}),
            ("POST", "/v1/feedback", FEEDBACK),
            ("GET", "/v1/users/patient/history", None),
            ("GET", "/v1/users", None),
            ("DELETE", "/v1/users/patient", None),
            ("GET", "/ready", None),
        ):
            answer = one.ask(method, path, body)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1"), path
            assert "secret" not in answer.text
        assert "store" in one.ask("GET", "/ready").json()["error"]["message"]
        assert one.get("/health") == {"status": "ok"}
    assert one.get("/ready") == {"ready": True}
    assert one.post(EVENTS, event)["accepted"] == 1


def test_an_item_that_is_kept_is_acknowledged_though_the_engine_cannot_take_it_up_yet(
    one: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = {"item_id": "late", "title": "Late", "attributes": one.get("/v1/items/i1")["attributes"]}
    with monkeypatch.context() as patch:
        patch.setattr(one.store, "items_after", away)
        assert one.post("/v1/items", item) == {"accepted": 1, "replaced": 0}
    in_time(lambda: one.engine.served.item("late"))


def test_our_own_fault_is_500_without_a_word_of_it(
    one: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("the secret of u1")

    monkeypatch.setattr(one.engine, "recommend_all", broken)
    monkeypatch.setattr(type(one.engine.served), "search", broken)
    for answer in (one.ask("POST", RECOMMEND, {}), one.ask("GET", "/v1/items")):
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "internal"
        assert not any(word in answer.text for word in ("secret", "RuntimeError", "Traceback", ".py"))


def test_an_answer_that_takes_too_long_is_504(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    held = threading.Event()
    with service(tmp_path, fill=False, timeout=0.2) as slow:
        monkeypatch.setattr(type(slow.engine.served), "search", lambda *_: held.wait(5) or [])
        answer = slow.ask("GET", "/v1/items")
        held.set()
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")


def test_a_body_that_does_not_come_is_408(tmp_path: Path) -> None:
    import asyncio

    async def slowly() -> Any:
        yield b'{"user_id":'
        await asyncio.sleep(0.5)
        yield b'"u"}'

    with service(tmp_path, fill=False, timeout=0.2) as one:
        answer = one.ask("POST", RECOMMEND, content=slowly(), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (408, "slow_request")


def test_while_the_service_starts_everything_but_its_health_is_503(one: Service) -> None:
    from what_next.serving.http.app import Application
    from what_next.serving.http.parts import Parts

    starting = Service(one.setup, Application(Parts(one.setup.server)), one.engine, one.store, one.writer)
    assert starting.get("/health") == {"status": "ok"}
    for method, path, body in (("GET", "/ready", None), ("POST", RECOMMEND, {}), ("GET", "/v1/users", None)):
        answer = starting.ask(method, path, body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    starting.app.parts.close()
