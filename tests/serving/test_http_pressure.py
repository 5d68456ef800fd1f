"""What is asked too much, too large or not as HTTP has it, and what is answered all the same."""

import asyncio
import json
import shutil
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from what_next.errors import StoreUnavailable
from what_next.serving.http.parts import Parts
from what_next.serving.http.protocol import Shedding, plain
from what_next.serving.http.run import Opening

from .endpoint import Service, service
from .engines import in_time
from .test_http_connections import HEAD, listening

PLAIN = (
    b"POST /v1/recommendations HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 2\r\n"
)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service(tmp_path_factory.mktemp("pressure"), fill=False) as started:
        yield started


async def sent(address: tuple[str, int], content: bytes) -> bytes:
    """What comes back until the connection is closed, or nothing more comes."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(content)
    try:
        return await asyncio.wait_for(reader.read(), 1.0)
    finally:
        writer.close()


def error_of(answer: bytes) -> tuple[int, str]:
    """Status and code of an answer, which has the shape of all errors."""
    head, _, body = answer.partition(b"\r\n\r\n")
    told = json.loads(body)
    assert set(told) == {"error"}
    assert set(told["error"]) == {"code", "message", "fields"}
    assert b"content-type: application/json" in head
    return int(head[9:12]), told["error"]["code"]


# What is never limited


def test_probes_are_never_limited(tmp_path: Path) -> None:
    with service(tmp_path, fill=False, rate=1) as limited:
        for _ in range(5):
            for path in ("/health", "/ready"):
                assert limited.ask("GET", path).status_code == 200
        assert limited.ask("GET", "/v1/model").status_code == 200
        assert limited.ask("GET", "/v1/model").status_code == 429
        assert limited.ask("GET", "/ready").status_code == 200


def test_probes_are_answered_while_too_many_requests_are_under_way(
    one: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    from what_next.serving.http import app

    monkeypatch.setattr(app, "MOST", 0)
    assert one.ask("GET", "/health").status_code == 200
    assert one.ask("GET", "/v1/model").status_code == 503


# Ready, and not


def test_a_service_whose_disk_is_full_is_not_ready(one: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", ("total", "used", "free"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**40, 2**40 - 2**20, 2**20))
    answer = one.ask("GET", "/ready")
    assert (answer.status_code, "store" in answer.json()["error"]["message"]) == (503, True)


def test_a_service_whose_store_takes_no_writes_is_not_ready_until_it_does(
    one: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise StoreUnavailable("store.sqlite: cannot be used now (database or disk is full); try again")

    with monkeypatch.context() as patch:
        patch.setattr(one.store, "commit", full)
        patch.setattr(one.store, "try_writing", full)
        assert one.ask("POST", "/v1/events", {"event_id": "e", "user_id": "u", "item_id": "i1"}).status_code == 503
        in_time(lambda: one.writer.failing)
        assert one.ask("GET", "/ready").status_code == 503
        assert "what_next_ready 0.0" in one.ask("GET", "/metrics").text
    assert "what_next_ready 1.0" in one.ask("GET", "/metrics").text  # though nobody wrote anything since
    assert one.ask("GET", "/ready").status_code == 200
    assert not one.writer.failing


def test_a_model_that_waits_for_the_store_is_not_missing(one: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise StoreUnavailable("no answer")

    monkeypatch.setattr(one.engine, "missing", lambda: ["model"])
    assert one.ask("GET", "/ready").json()["error"]["message"].endswith("missing: model")
    monkeypatch.setattr(one.store, "ping", away)
    assert one.ask("GET", "/ready").json()["error"]["message"].endswith("missing: store")


@pytest.mark.medium
def test_a_service_that_may_not_keep_its_answers_is_not_ready_until_it_may(
    tmp_path: Path,
    limited: tuple[str, Callable[[str], object]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url, sql = limited
    monkeypatch.setenv("WHAT_NEXT_STORE", url)
    with service(tmp_path, fill=False, import_data=False) as locked:
        sql("REVOKE INSERT ON impressions")
        assert locked.ask("POST", "/v1/recommendations", {}).status_code == 503
        for _ in range(2):
            assert locked.ask("GET", "/ready").status_code == 503
        sql("GRANT INSERT ON impressions")
        assert locked.ask("GET", "/ready").status_code == 200
        sql("REVOKE SELECT ON users")
        assert locked.ask("GET", "/ready").status_code == 503
        in_time(lambda: "reading the store fails" in caplog.text)
        sql("GRANT SELECT ON users")
        sql("REVOKE INSERT ON meta")
        starting = Parts(locked.setup.server)
        with pytest.raises(StoreUnavailable, match="permission denied"):
            Opening(locked.setup, starting, print, print)._try()
        starting.reads.close()
        starting.close()


def test_a_service_whose_store_was_taken_away_is_not_ready(tmp_path: Path) -> None:
    with service(tmp_path, fill=False) as lost:
        assert lost.ask("GET", "/ready").status_code == 200
        place = Path(lost.store.backend.where)
        place.rename(tmp_path / "elsewhere")
        assert lost.ask("GET", "/ready").status_code == 503
        (tmp_path / "elsewhere").rename(place)
        assert lost.ask("GET", "/ready").status_code == 200


def test_a_load_balancer_waits_only_once_for_a_store_that_does_not_answer(
    one: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    from what_next.serving.http import parts

    monkeypatch.setattr(parts, "LOOK", 0.2)
    answers = Event()
    with monkeypatch.context() as patch:
        patch.setattr(one.store, "ping", lambda: answers.wait(10))
        assert one.ask("GET", "/ready").status_code == 503
        began = time.monotonic()
        assert one.ask("GET", "/ready").status_code == 503
        assert time.monotonic() - began < 0.2
        for _ in range(9):
            one.ask("GET", "/ready")
        assert len(one.app.parts._look[1]._done_callbacks) == 1  # who comes late leaves nothing there
        answers.set()
        in_time(lambda: one.ask("GET", "/ready").status_code == 200)


def test_a_crowd_that_asks_whether_the_service_is_ready_shares_one_look(
    one: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    import httpx

    from what_next.serving.http import parts

    looks = list[int]()
    monkeypatch.setattr(parts, "LOOK", 1.0)
    monkeypatch.setattr(one.store, "ping", lambda: (looks.append(1), time.sleep(0.1)))

    async def asked() -> set[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(one.app), base_url=one.host) as client:
            return {answer.status_code for answer in await asyncio.gather(*(client.get("/ready") for _ in range(40)))}

    assert asyncio.run(asked()) == {200}
    assert len(looks) < 5  # one, if all ask within 0.1 s


# What is paid for by its cost


@pytest.mark.parametrize(
    ("body", "cost"),
    [
        ({}, 1),
        ({"k": 10, "history": ["i1"]}, 1.02),
        ({"k": 200}, 4.8),  # 190 items beyond ten
        ({"k": 110, "explain": True}, 5.2),  # each item counts twice
        ({"history": ["i1"] * 1000}, 21),
        ({"blocked": ["i1"] * 10_000}, 6),
    ],
)
def test_a_question_costs_by_what_it_asks_for(body: dict[str, Any], cost: float) -> None:
    from what_next.serving.bodies import Question, Questions

    assert Question.model_validate_json(json.dumps(body)).units == pytest.approx(cost)
    assert Questions.model_validate_json(json.dumps({"requests": [body] * 3})).units == pytest.approx(3 * cost)


def test_a_large_question_is_paid_for_as_several(tmp_path: Path) -> None:
    with service(tmp_path, fill=False, rate=50) as limited:
        large = {"requests": [{"k": 200}] * 10}  # 48
        assert limited.ask("POST", "/v1/recommendations/batch", large).status_code == 200
        assert limited.ask("POST", "/v1/recommendations/batch", large).status_code == 429


def test_bytes_are_paid_for_before_they_are_read(tmp_path: Path) -> None:
    """Half a megabyte costs 128, also where it is no JSON."""
    with service(tmp_path, fill=False, rate=150) as limited:
        body = b"[" * 2**19
        headers = {"content-type": "application/json"}
        first, second = (limited.ask("POST", "/v1/events", content=body, headers=headers) for _ in range(2))
        assert (first.status_code, second.status_code) == (400, 429)


@pytest.mark.parametrize(
    "body",
    [
        b'{"requests":[' + b",".join([b'{"allowed":[' + b",".join([b"1"] * 5000) + b"]}"] * 100) + b"]}",
        b"{" + b",".join(b'"a%d":1' % place for place in range(90_000)) + b"}",
    ],
    ids=["no ids", "no fields"],
)
def test_a_megabyte_of_mistakes_is_not_put_into_words(one: Service, body: bytes) -> None:
    """Half a million mistakes took three seconds, in which nobody else was answered."""
    answer = one.ask("POST", "/v1/recommendations/batch", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid")
    assert len(answer.content) < 10_000


def test_mistakes_beyond_a_thousand_are_counted_alone(one: Service) -> None:
    body = {f"field{place}": 1 for place in range(1001)}
    answer = one.ask("POST", "/v1/recommendations", body).json()["error"]
    assert (answer["fields"], answer["message"].startswith("the body has 1,001 mistakes")) == ([], True)


def test_large_bodies_are_read_one_after_another_with_pauses(one: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one is looked at for 50 ms, four times, others come through in between."""
    from what_next.serving.bodies import Question

    spans = list[tuple[float, float]]()

    def slowly(kind: Any, content: bytes) -> Question:
        start = time.monotonic()
        time.sleep(0.05)
        spans.append((start, time.monotonic()))
        return Question()

    monkeypatch.setattr(Question, "model_validate_json", classmethod(slowly))

    async def four() -> None:
        import httpx

        transport = httpx.ASGITransport(one.app)
        async with httpx.AsyncClient(transport=transport, base_url=one.host) as client:
            headers = {"content-type": "application/json"}
            await asyncio.gather(
                *(client.post("/v1/recommendations", content=b" " * 2**17, headers=headers) for _ in range(4))
            )

    asyncio.run(four())
    assert len(spans) == 4
    assert all(after[0] - before[1] > 0.04 for before, after in pairwise(spans))


# More than the model can answer


class Busy:
    """An engine that lets in nobody but one caller, and of that one so many in a turn of the loop."""

    def __init__(self, free: str = "nobody", most: float = 1e9, spare: float = 0.0) -> None:
        self.free, self.most, self.spare = free, most, spare
        self.batcher = self

    def full(self, caller: str, before: int) -> float:
        return 0.0 if caller == self.free and before < self.most else 2.5


def test_what_could_not_be_answered_in_time_is_503_and_when_to_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from what_next.serving.request import Overloaded

    with service(tmp_path, fill=False) as full:

        def refuse(*_: Any) -> None:
            raise Overloaded(2.5)

        monkeypatch.setattr(full.engine.batcher, "put", refuse)
        for path, body in (("/v1/recommendations", {}), ("/v1/recommendations/batch", {"requests": [{}, {}]})):
            answer = full.ask("POST", path, body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
            assert answer.headers["retry-after"] == "3"


def test_a_question_too_much_is_refused_before_it_is_read_and_its_connection_stays(
    one: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one.app.parts, "engine", Busy())

    async def asked() -> list[bytes]:
        async with listening(one) as address:
            reader, writer = await asyncio.open_connection(*address)
            found = []
            for content, end in (  # the second is no JSON: nobody looks
                (PLAIN + b"\r\n{}", b"[]}}"),
                (PLAIN + b"\r\n{,", b"[]}}"),
                (HEAD + b"\r\n", b'"ok"}'),
            ):
                writer.write(content)
                found.append(await reader.readuntil(end))
            writer.close()
            return found

    first, second, third = asyncio.run(asked())
    assert first == second
    assert (error_of(first), b"retry-after: 3\r\n" in first) == ((503, "unavailable"), True)
    assert third.startswith(b"HTTP/1.1 200 ")
    monkeypatch.undo()
    text = one.app.parts.metrics.text().decode()
    assert 'what_next_requests_total{method="POST",route="/v1/recommendations",status="503"} 2.0' in text


def refusals(parts: Parts, *requests: tuple[bytes, str]) -> list[bytes | None]:
    """What comes of requests, of which one turn of the loop reads the bytes and the address."""

    async def read() -> list[bytes | None]:
        refuse = Shedding(parts).refuse
        return [refuse(*one) for one in requests]

    return asyncio.run(read())


def test_each_caller_is_refused_by_itself(one: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    from what_next.serving.http.callers import Caller, digest_of

    class Keys:
        def caller(self, key: str) -> Caller | None:
            return {digest_of("wn_shop"): Caller("shop", 0)}.get(digest_of(key))

    parts = one.app.parts
    monkeypatch.setattr(parts, "engine", Busy(free="key shop"))
    monkeypatch.setattr(parts, "keys", Keys())
    found = refusals(
        parts,
        (PLAIN + b"\r\n{}", "10.0.0.1"),
        (PLAIN + b"Authorization: Bearer wn_shop\r\n\r\n{}", "10.0.0.1"),
        (PLAIN + b"X-API-Key: wn_shop\r\n\r\n{}", "10.0.0.1"),
        (PLAIN + b"X-API-Key: wn_shop\r\nAuthorization: Bearer wn_other\r\n\r\n{}", "10.0.0.1"),
        (PLAIN + b"X-API-Key: wn_other\r\n\r\n{}", "10.0.0.1"),
    )
    assert (found[0] or b"").startswith(b"HTTP/1.1 503 ")
    assert [one is None for one in found] == [False, True, True, True, False]
    monkeypatch.setattr(parts, "engine", Busy(free="10.0.0.2"))
    assert refusals(parts, (PLAIN + b"\r\n{}", "10.0.0.2")) == [None]


def test_a_long_head_goes_the_usual_way_and_is_not_remembered(one: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one.app.parts, "engine", Busy())
    heads = [PLAIN + b"x-%d: " % number + b"a" * 5000 + b"\r\n\r\n{}" for number in range(3)]
    plain.cache_clear()
    assert refusals(one.app.parts, *[(head, "10.0.0.1") for head in heads]) == [None] * 3
    assert plain.cache_info().currsize == 0


def test_what_one_turn_lets_in_counts_before_the_engine_has_it(one: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two go with the next batch, three more may be asked; the other caller has a share of its own."""
    monkeypatch.setattr(one.app.parts, "engine", Busy(free="10.0.0.1", most=3, spare=2))
    found = refusals(one.app.parts, *[(PLAIN + b"\r\n{}", "10.0.0.1")] * 8, (PLAIN + b"\r\n{}", "10.0.0.2"))
    assert [one is None for one in found] == [True] * 5 + [False] * 4
    monkeypatch.setattr(one.app.parts, "engine", Busy(free="10.0.0.1", most=3))
    turns = asyncio.run(in_turns(one.app.parts, 2, 4))
    assert [one is None for one in turns] == [True, True, True, False] * 2


async def in_turns(parts: Parts, turns: int, each: int) -> list[bytes | None]:
    refuse, found = Shedding(parts).refuse, list[bytes | None]()
    for _ in range(turns):
        found += [refuse(PLAIN + b"\r\n{}", "10.0.0.1") for _ in range(each)]
        await asyncio.sleep(0)
    return found


def test_more_refusals_than_the_processor_is_to_spare_are_sent_in_turn(
    one: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten a second, asked 0.02 s apart and told 0.1 s apart; whoever sends more before that has to wait."""
    from what_next.serving.http import protocol

    monkeypatch.setattr(protocol, "REFUSALS", 10)
    monkeypatch.setattr(protocol, "BURST", 1)
    monkeypatch.setattr(one.app.parts, "engine", Busy())
    seconds = list[float]()

    async def ask(address: tuple[str, int], place: int) -> bytes:
        reader, writer = await asyncio.open_connection(*address)
        await asyncio.sleep(0.02 * place)
        start = time.monotonic()
        writer.write(PLAIN + b"\r\n{}")
        await asyncio.sleep(0.01)
        writer.write(HEAD + b"\r\n")
        refusal = await reader.readuntil(b"[]}}")
        seconds.append(time.monotonic() - start)
        assert (await reader.readuntil(b'"ok"}')).startswith(b"HTTP/1.1 200 ")
        writer.close()
        return refusal

    async def asked() -> list[bytes]:
        async with listening(one) as address:
            return await asyncio.gather(*(ask(address, place) for place in range(4)))

    assert [error_of(refusal)[0] for refusal in asyncio.run(asked())] == [503] * 4
    assert all(0.08 * place - 0.01 < one < 0.08 * place + 2 for place, one in enumerate(seconds))


def test_who_hung_up_before_being_refused_takes_nobodys_turn(one: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten a second: nine that wait would take most of a second, if they were still there."""
    from what_next.serving.http import protocol

    monkeypatch.setattr(protocol, "REFUSALS", 10)
    monkeypatch.setattr(protocol, "BURST", 1)
    monkeypatch.setattr(one.app.parts, "engine", Busy())

    async def asked() -> float:
        async with listening(one) as address:
            writers = [(await asyncio.open_connection(*address))[1] for _ in range(10)]
            for writer in writers:
                writer.write(PLAIN + b"\r\n{}")
            await asyncio.sleep(0.05)
            for writer in writers:
                writer.close()
                await writer.wait_closed()
            reader, writer = await asyncio.open_connection(*address)
            start = time.monotonic()
            writer.write(PLAIN + b"\r\n{}")
            await reader.readuntil(b"[]}}")
            writer.close()
            return time.monotonic() - start

    assert asyncio.run(asked()) < 0.5


@pytest.mark.parametrize(
    "odd",
    [
        PLAIN + b"\r\n{",  # the body is not all there
        PLAIN + b"\r\n{}GET",  # or another request comes with it
        PLAIN + b"transfer-encoding: chunked\r\n\r\n{}",
        PLAIN + b"content-length: 2\r\n\r\n{}",
        PLAIN + b"expect: 100-continue\r\n\r\n{}",
        PLAIN + b"connection: close\r\n\r\n{}",
        PLAIN.replace(b"POST", b"PUT") + b"\r\n{}",
        PLAIN.replace(b"/v1/recommendations", b"/v1/events") + b"\r\n{}",
        PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n{}",
    ],
)
def test_what_is_not_plain_goes_the_usual_way(one: Service, monkeypatch: pytest.MonkeyPatch, odd: bytes) -> None:
    monkeypatch.setattr(one.app.parts, "engine", Busy())
    plain, other = refusals(one.app.parts, (PLAIN + b"\r\n{}", ""), (odd, ""))
    assert plain is not None
    assert other is None


@pytest.mark.medium
def test_large_batches_under_one_key_do_not_turn_the_answers_of_another_into_fallbacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four connections keep a second of work waiting; who asks for ten items meanwhile waits for a batch of it."""
    import httpx

    from what_next.serving.http.callers import digest_of

    async def asked(address: tuple[str, int]) -> tuple[list[httpx.Response], int]:
        heavy, light = ({"authorization": f"Bearer wn_{name}"} for name in ("heavy", "light"))
        large, answered = {"requests": [{"user_id": f"u{place}", "k": 200} for place in range(50)]}, list[int]()
        limits = httpx.Limits(max_connections=4)
        base = f"http://localhost:{address[1]}"
        async with (
            httpx.AsyncClient(base_url=base, headers=heavy, limits=limits, timeout=60) as crowd,
            httpx.AsyncClient(base_url=base, headers=light, timeout=60) as other,
        ):

            async def again_and_again() -> None:
                while True:
                    told = await crowd.post("/v1/recommendations/batch", json=large)
                    answered.append(told.status_code)
                    await asyncio.sleep(0.02 if told.status_code == 200 else 0.1)

            loops = [asyncio.create_task(again_and_again()) for _ in range(4)]
            await asyncio.sleep(0.5)
            found = []
            for place in range(12):
                found.append(await other.post("/v1/recommendations", json={"user_id": f"u{place}"}))
                await asyncio.sleep(0.05)
            for one in loops:
                one.cancel()
            return found, answered.count(200)

    async def all_of_it() -> tuple[list[httpx.Response], int]:
        async with listening(one) as address:
            return await asked(address)

    with service(tmp_path, keys="yes", rate=0, deadline=1000) as one:
        for name in ("heavy", "light"):
            one.store.add_key(name, "read", digest_of(f"wn_{name}"))
        one.app.parts.keys.refresh()
        answering = one.engine._answering
        answer = answering.answer

        def slowly(active: Any, requests: Any, role: str) -> Any:
            time.sleep(0.005 * len(requests))
            return answer(active, requests, role)

        monkeypatch.setattr(answering, "answer", slowly)
        found, served = asyncio.run(all_of_it())
    assert [told.status_code for told in found] == [200] * 12
    assert [told.json()["fallback"] for told in found] == [None] * 12
    assert served > 0


# HTTP itself


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"hello\r\n\r\n", (400, "bad_request")),
        (b"GET /health HTTP/1.1\r\nhost localhost\r\n\r\n", (400, "bad_request")),
        ("GET /é HTTP/1.1\r\nhost: localhost\r\n\r\n".encode(), (400, "bad_request")),
        (b"POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n", (400, "bad_request")),
        (b"GET /v1/model HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n\r\n", (400, "bad_request")),
        (b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 70_000, (431, "too_large")),
        (b"GET /health HTTP/1.1\r\nhost: loc", (408, "slow_request")),
    ],
    ids=["no request", "no header", "no path", "no length", "two hosts", "too long", "too slow"],
)
def test_every_error_has_one_shape_those_of_http_itself_too(
    one: Service, monkeypatch: pytest.MonkeyPatch, content: bytes, expected: tuple[int, str]
) -> None:
    from what_next.serving.http import protocol

    monkeypatch.setattr(protocol, "SILENCE", 0.2)

    async def asked() -> bytes:
        async with listening(one) as address:
            return await sent(address, content)

    assert error_of(asyncio.run(asked())) == expected


CHUNKED = b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "chunk", [b"ZZ\r\n{}\r\n", b"-1\r\n{}\r\n", b"F" * 18 + b"\r\n{}\r\n", b"5\r\n{}\r\n0\r\n\r\n"]
)
@pytest.mark.parametrize("path", [b"/v1/recommendations", b"/v1/feedback", b"/ready"])
@pytest.mark.parametrize("pause", [0.0, 0.1])
def test_a_malformed_chunk_is_told_and_logged_as_the_clients_mistake(
    one: Service, monkeypatch: pytest.MonkeyPatch, path: bytes, chunk: bytes, pause: float
) -> None:
    logged = list[tuple[str, int]]()
    monkeypatch.setattr(one.app.parts.log, "request", lambda *line: logged.append((line[1], line[2])))

    async def asked() -> bytes:
        async with listening(one) as address:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(HEAD + b"\r\n")
            await reader.readuntil(b'"ok"}')
            writer.write(CHUNKED % path)
            await asyncio.sleep(pause if path != b"/ready" else 0)  # that has its answer without a body
            writer.write(chunk)
            try:
                return await asyncio.wait_for(reader.read(), 10)
            finally:
                writer.close()

    assert error_of(asyncio.run(asked())) == (400, "bad_request")
    assert logged == [(path.decode(), 400)]


@pytest.mark.parametrize("start", [b"2\r\n{}\r\n0\r\nx: ", b"2;x="], ids=["trailer", "extension"])
def test_what_stands_beside_a_body_is_bounded_like_headers(one: Service, start: bytes) -> None:
    """The parser keeps a trailer, however long it is."""

    async def asked() -> bytes:
        async with listening(one) as address:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(CHUNKED % b"/v1/feedback" + start)
            for _ in range(5):
                await asyncio.sleep(0.05)
                writer.write(b"x" * 14_000)
            return await asyncio.wait_for(reader.read(), 5)

    assert error_of(asyncio.run(asked())) == (431, "too_large")


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (CHUNKED.replace(b"json", b"text") % b"/v1/feedback", b"415"),  # its answer is there before the chunk
        (b"GET /v1/model HTTP/1.1\r\nhost: localhost\r\n\r\n" + CHUNKED % b"/v1/feedback", b"200"),
    ],
    ids=["answered", "pipelined"],
)
def test_a_malformed_chunk_is_not_told_in_the_place_of_another_answer(
    one: Service, content: bytes, status: bytes
) -> None:
    async def asked() -> bytes:
        async with listening(one) as address:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(content)
            first = await asyncio.wait_for(reader.read(4), 10) + await asyncio.wait_for(reader.readuntil(b"}"), 10)
            writer.write(b"ZZ\r\n")
            return first + await asyncio.wait_for(reader.read(), 10)

    answer = asyncio.run(asked())
    assert answer[9:12] == status
    assert answer.count(b"HTTP/1.1 ") == (1 if status == b"415" else 2)


GET = b"GET /v1/model HTTP/1.1\r\nhost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    ("content", "statuses"),
    [
        (PLAIN + b"\r\n{}}", [200]),
        (GET + b"hello", [200]),
        (GET + GET + b"hello\r\n\r\n" + GET, [200, 200]),
        (GET + CHUNKED % b"/v1/feedback" + b"ZZ\r\n" + b"x" * 100_000, [200]),
        (GET + GET + CHUNKED % b"/v1/feedback" + b"ZZ\r\n", [200, 200]),
        (GET + HEAD + b"x: " + b"x" * 70_000 + b"\r\n\r\n", [200]),
        (GET * 3 + PLAIN + b"\r\n{}" + GET, [200, 200, 200]),
    ],
    ids=["length", "no request", "in between", "chunk", "second chunk", "too long", "too many"],
)
def test_what_cannot_be_taken_does_not_lose_the_answers_to_what_came_before(
    one: Service, monkeypatch: pytest.MonkeyPatch, content: bytes, statuses: list[int]
) -> None:
    from what_next.serving.http import protocol

    monkeypatch.setattr(protocol, "AHEAD", 2)

    async def asked() -> bytes:
        async with listening(one) as address:
            return await sent(address, content)

    answers = asyncio.run(asked()).split(b"HTTP/1.1 ")[1:]
    assert [int(answer[:3]) for answer in answers] == statuses
    assert [b"connection: close" in answer for answer in answers] == [False] * (len(statuses) - 1) + [True]


def test_nothing_is_read_while_requests_wait_that_were_sent_ahead(one: Service) -> None:
    import uvicorn

    from what_next.serving.http.protocol import protocol

    async def asked() -> Wire:
        config, wire = uvicorn.Config(one.app, lifespan="off", log_config=None), Wire()
        speaker = protocol(one.app.parts)(config, uvicorn.server.ServerState(), {})
        speaker.connection_made(wire)
        speaker.data_received((PLAIN + b"\r\n{}") * 4)
        while wire.written.count(b"HTTP/1.1 200") < 4:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        speaker.data_received((PLAIN + b"\r\n{}") * 4)
        speaker.connection_lost(None)
        waiting.append(len(speaker.pipeline))
        return wire

    waiting = list[int]()
    wire = asyncio.run(asked())
    assert wire.read[:4] == [False, False, False, True]  # at each answer; nobody waits behind the last one
    assert waiting == [0]  # nor does anybody once the client is gone


class Wire(asyncio.Transport):
    """A transport that keeps what is written, and whether it is read from then; a test decides what comes at once."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.closed = b"", False
        self.reading, self.read = True, list[bool]()

    def write(self, data: Any) -> None:
        assert not self.closed
        self.read.append(self.reading)
        self.written += data

    def close(self) -> None:
        self.closed = True

    write_eof = close

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


@pytest.mark.parametrize(("size", "status"), [(60_000, 200), (70_000, 431), (200_000, 431)])
@pytest.mark.parametrize("before", [False, True], ids=["first", "after another"])
def test_headers_that_come_in_one_read_have_the_same_bound(one: Service, size: int, status: int, before: bool) -> None:
    """What is read at once may be 256 KiB."""
    import uvicorn

    from what_next.serving.http.protocol import protocol

    async def asked() -> tuple[bytes, bool]:
        config, wire = uvicorn.Config(one.app, lifespan="off", log_config=None), Wire()
        speaker = protocol(one.app.parts)(config, uvicorn.server.ServerState(), {})
        speaker.connection_made(wire)
        rest = b"x: " + b"x" * size + b"\r\n\r\n"
        if before:  # its body ends where the next head begins
            body = b"content-length: 100000\r\n\r\n" + b" " * 99_998
            speaker.data_received(PLAIN.replace(b"content-length: 2\r\n", body))
            await asyncio.sleep(0)
            speaker.data_received(b"{}" + HEAD)
            while not wire.written:
                await asyncio.sleep(0.01)
            wire.written = b""
            speaker.data_received(rest)
        else:
            speaker.data_received(HEAD + rest)
        while not wire.written:
            await asyncio.sleep(0.01)
        return wire.written, wire.closed

    answer, closed = asyncio.run(asked())
    assert (int(answer[9:12]), closed) == (status, status == 431)
    if closed:
        assert error_of(answer) == (431, "too_large")


def test_connections_are_bounded_and_it_is_told_but_not_to_probes(
    one: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    from what_next.serving.http import protocol

    monkeypatch.setattr(protocol, "SPARE", 2)
    model = b"GET /v1/model HTTP/1.1\r\nhost: localhost\r\n\r\n"

    async def asked() -> tuple[bytes, bytes, bytes]:
        async with listening(one, most=2) as address:
            held = [await asyncio.open_connection(*address) for _ in range(2)]
            await asyncio.sleep(0.05)
            refused = await sent(address, model)
            reader, writer = await asyncio.open_connection(*address)
            writer.write(HEAD + b"\r\n")
            probe = await reader.readuntil(b'"ok"}')
            held += [(reader, writer), await asyncio.open_connection(*address)]
            await asyncio.sleep(0.05)
            turned_away = await sent(address, b"")
            for _, writer in held:
                writer.close()
            return refused, probe, turned_away

    refused, probe, turned_away = asyncio.run(asked())
    assert error_of(refused) == (503, "unavailable")
    assert error_of(turned_away) == (503, "unavailable")
    assert probe.startswith(b"HTTP/1.1 200 ")
    counted = 'what_next_requests_total{method="POST",route="unmatched",status="503"} 2.0'
    assert counted in one.ask("GET", "/metrics").text
