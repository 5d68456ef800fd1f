"""Answers that are given once: again to the same key, and recorded as shown where somebody saw them."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from what_next.serving.bodies import Question
from what_next.serving.http.recommendations import _once
from what_next.serving.http.routes import Call
from what_next.serving.store.tables import idempotency_keys

from .endpoint import Service, process, service
from .engines import in_time
from .test_http_connections import listening
from .waiting import impressions_of, rows

ASKED = {"user_id": "u1", "k": 3, "explore": {"temperature": 1.0}}
PATH = "/v1/recommendations"


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Service]:
    with service(tmp_path, rate=0, deadline=60_000) as started:
        yield started


def keyed(one: Service, key: str, body: object = ASKED, path: str = PATH) -> httpx.Response:
    return one.ask("POST", path, body, headers={"Idempotency-Key": key})


def answers(one: Service) -> list[str]:
    return [told.recommendation_id for told in impressions_of(one.store, "u1") if told.shown]


def test_the_same_request_with_the_same_key_gets_the_first_answer_in_every_process(one: Service) -> None:
    first = keyed(one, "key-1").json()
    one.play("e1", "u1", first["items"][0]["item_id"])
    with process(one.setup) as other:
        again = [keyed(one, "key-1").json(), keyed(other, '"key-1"').json(), keyed(other, "key-1").json()]
        assert again == [first] * 3
        assert answers(one) == [first["recommendation_id"]]
        assert keyed(one, "key-2").json()["recommendation_id"] != first["recommendation_id"]
    feedback = {"feedback_id": "f", "recommendation_id": first["recommendation_id"]}
    assert one.post("/v1/feedback", {**feedback, "item_id": first["items"][0]["item_id"], "reward": 1})["accepted"] == 1


def test_another_request_with_the_same_key_is_refused(one: Service) -> None:
    keyed(one, "key-1")
    refused = keyed(one, "key-1", {**ASKED, "k": 4})
    assert (refused.status_code, refused.json()["error"]["fields"][0]["field"]) == (422, "Idempotency-Key")
    spaced = one.ask("POST", PATH, content=json.dumps(ASKED, indent=3), headers={
        "Idempotency-Key": "key-1", "content-type": "application/json"
    })  # fmt: skip
    assert spaced.status_code == 200, "it is the same request, written otherwise"
    for key in ("", '""', "x" * 256, "a\tb"):
        assert keyed(one, key).status_code == 422


def test_what_a_later_version_adds_makes_no_other_request_of_the_same() -> None:
    class Later(Question):
        more: bool = False

    call = object.__new__(Call)
    call.headers, call.key = {b"idempotency-key": b"key-1"}, None
    assert _once(call, Question.model_validate(ASKED), 1) == _once(call, Later.model_validate(ASKED), 1)


def test_a_request_that_an_earlier_version_answered_gets_that_answer(one: Service) -> None:
    first = keyed(one, "key-1").json()
    former = "017c4ecebdd9a04e22051316e2f840ef"  # of ASKED, as that version made it
    with one.store.backend.engine.begin() as connection:
        connection.execute(update(idempotency_keys).values(request=former))
    assert keyed(one, "key-1").json() == first
    assert keyed(one, "key-1", {**ASKED, "k": 4}).status_code == 422


def test_requests_with_one_key_at_the_same_moment_get_one_answer(one: Service) -> None:
    with process(one.setup) as other, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda place: keyed((one, other)[place % 2], "key-1").json(), range(16)))
    assert len({told["recommendation_id"] for told in found}) == 1
    assert found == [found[0]] * 16
    assert len(answers(one)) == 1


def test_each_question_of_a_batch_is_answered_once(one: Service) -> None:
    batch = {"requests": [ASKED, {**ASKED, "ranges": {"no such": {"min": 0}}}, {**ASKED, "user_id": "u2"}]}
    first = keyed(one, "key-1", batch, PATH + "/batch").json()["answers"]
    assert ["error" in told for told in first] == [False, True, False]
    assert keyed(one, "key-1", batch, PATH + "/batch").json()["answers"] == first
    assert keyed(one, "key-1", {"requests": batch["requests"][:1]}, PATH + "/batch").status_code == 422
    assert len(answers(one)) == 1


def test_callers_with_other_keys_of_the_service_have_keys_of_their_own(tmp_path: Path) -> None:
    from what_next.serving.http.callers import digest_of

    with service(tmp_path, keys="yes", deadline=60_000) as one:
        found = []
        for name in ("shop", "app"):
            one.store.add_key(name, "read", digest_of(f"wn_{name}"))
            one.app.parts.keys.refresh()
            one.key = f"wn_{name}"
            found.append(keyed(one, "key-1").json()["recommendation_id"])
        assert found[0] != found[1]


def test_an_erased_user_is_in_no_answer_that_is_kept(one: Service) -> None:
    first = keyed(one, "key-1").json()
    one.ask("DELETE", "/v1/users/u1")
    assert rows(one.store, "SELECT * FROM idempotency_keys") == []
    again = keyed(one, "key-1").json()
    assert again["recommendation_id"] != first["recommendation_id"]
    assert again["known_events"] == 0


def request(body: object, path: str = PATH, key: str = "") -> bytes:
    content = json.dumps(body).encode()
    head = [f"POST {path} HTTP/1.1", "host: localhost", "content-type: application/json"]
    head += [f"idempotency-key: {key}"] if key else []
    return "\r\n".join([*head, f"content-length: {len(content)}", "", ""]).encode() + content


def slow(one: Service, monkeypatch: pytest.MonkeyPatch, seconds: float = 0.3) -> None:
    """Let each transaction take a while: answers wait for it."""
    commit = one.store.commit

    def late(writes: Any) -> Any:
        outcomes = commit(writes)
        time.sleep(seconds)
        return outcomes

    monkeypatch.setattr(one.store, "commit", late)


@pytest.mark.medium
@pytest.mark.parametrize("path", [PATH, PATH + "/batch"])
def test_what_a_client_that_hung_up_never_saw_is_not_shown(
    one: Service, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    slow(one, monkeypatch)
    body = ASKED if path == PATH else {"requests": [ASKED, ASKED]}

    async def hung_up() -> None:
        async with listening(one) as address:
            for wait in (0.1, 0.2, 0.6):  # while it is written; the last one stays
                reader, writer = await asyncio.open_connection(*address)
                writer.write(request(body, path))
                await asyncio.sleep(wait)
                if wait > 0.5:
                    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
                writer.close()
            await asyncio.sleep(1)

    asyncio.run(hung_up())
    each = 1 if path == PATH else 2
    in_time(lambda: len(impressions_of(one.store, "u1")) == 3 * each and len(answers(one)) == each)
    assert answers(one) == [told.recommendation_id for told in impressions_of(one.store, "u1")][-each:]


def test_who_hung_up_and_asks_again_with_the_key_sees_that_answer(
    one: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(one, monkeypatch)

    async def hung_up() -> None:
        async with listening(one) as address:
            _, writer = await asyncio.open_connection(*address)
            writer.write(request(ASKED, key="key-1"))
            await asyncio.sleep(0.2)
            writer.close()
            await asyncio.sleep(0.5)

    asyncio.run(hung_up())
    in_time(lambda: [told.shown for told in impressions_of(one.store, "u1")] == [False])
    again = keyed(one, "key-1").json()
    assert answers(one) == [again["recommendation_id"]]


def test_who_asks_again_before_it_is_noted_that_the_first_client_hung_up_sees_that_answer(one: Service) -> None:
    first = keyed(one, "key-1").json()  # as it is sent to a client that is gone
    again = keyed(one, "key-1").json()
    one.app.parts.model.unseen([first["recommendation_id"]])
    one.play("e1", "u1", first["items"][0]["item_id"])  # written after it
    assert again == first
    assert answers(one) == [first["recommendation_id"]]


def test_who_asks_again_and_hangs_up_takes_nothing_from_who_has_the_answers(
    one: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = {"requests": [ASKED, ASKED]}
    told = keyed(one, "key-1", batch, PATH + "/batch").json()["answers"]
    commit, counted, gone = one.store.commit, threading.Event(), threading.Event()

    def late(writes: Any) -> Any:
        outcomes = commit(writes)
        counted.set()
        assert gone.wait(10)
        return outcomes

    async def hung_up() -> None:
        async with listening(one) as address:
            _, writer = await asyncio.open_connection(*address)
            writer.write(request(batch, PATH + "/batch", "key-1"))
            await asyncio.to_thread(counted.wait, 10)
            writer.close()
            while not one.app.parts.writer.depth:  # what takes the count back
                await asyncio.sleep(0.01)
            gone.set()

    monkeypatch.setattr(one.store, "commit", late)
    asyncio.run(asyncio.wait_for(hung_up(), 20))
    in_time(lambda: rows(one.store, "SELECT DISTINCT deliveries FROM impressions") == [(1,)])
    assert sorted(answers(one)) == sorted(each["recommendation_id"] for each in told)


@pytest.mark.medium
def test_what_came_too_late_for_its_request_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with service(tmp_path, timeout=1, deadline=60_000) as one:
        slow(one, monkeypatch, 1.6)
        late = one.ask("POST", PATH, ASKED)
        assert late.status_code == 504
        in_time(lambda: [told.shown for told in impressions_of(one.store, "u1")] == [False])


def test_where_one_question_of_a_batch_cannot_be_stored_the_others_are_not_shown(
    one: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    from what_next.errors import StoreUnavailable

    commit = one.store.commit

    def partly(writes: Any) -> Any:
        return [
            StoreUnavailable("full") if getattr(write, "user_id", "") == "u2" else commit([write])[0]
            for write in writes
        ]

    monkeypatch.setattr(one.store, "commit", partly)
    batch = {"requests": [ASKED, {**ASKED, "user_id": "u2"}, ASKED]}
    assert one.ask("POST", PATH + "/batch", batch).status_code == 503
    in_time(lambda: [told.shown for told in impressions_of(one.store, "u1")] == [False, False])
