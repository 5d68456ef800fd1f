"""Connections over real sockets: what ends them, and how what is answered comes."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace

import pytest

from .endpoint import Service, service

HEAD = b"GET /health HTTP/1.1\r\nhost: localhost\r\n"


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service(tmp_path_factory.mktemp("connections"), fill=False) as started:
        yield started


@contextlib.asynccontextmanager
async def listening(one: Service, most: int = 4096) -> AsyncIterator[tuple[str, int]]:
    import uvicorn

    from what_next.serving.http.protocol import protocol

    config = uvicorn.Config(
        one.app, http=protocol(one.app.parts, most), port=0, lifespan="off", log_config=None, timeout_keep_alive=75
    )
    server, bound = uvicorn.Server(config), config.bind_socket()
    running = asyncio.create_task(server.serve(sockets=[bound]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield bound.getsockname()
    finally:
        server.should_exit = True
        await running


@pytest.mark.parametrize("sent", [b"", b"GET /hea", HEAD])
@pytest.mark.parametrize("before", [0, 1, 2])
def test_headers_that_do_not_come_end_a_connection_whichever_request_it_is(
    one: Service, monkeypatch: pytest.MonkeyPatch, before: int, sent: bytes
) -> None:
    from what_next.serving.http import protocol

    monkeypatch.setattr(protocol, "SILENCE", 0.2)

    async def asked() -> bytes:
        async with listening(one) as address:
            reader, writer = await asyncio.open_connection(*address)
            for place in range(before):
                # The next request begins with the end of the one before.
                writer.write(HEAD + b"\r\n" + (sent if place == before - 1 else b""))
                await reader.readuntil(b'"ok"}')
            if not before:
                writer.write(sent)
            if before and not sent:
                await asyncio.sleep(0.4)  # between requests, a connection may be silent
                writer.write(HEAD + b"\r\n")
                await reader.readuntil(b'"ok"}')
                writer.write(b"\r\n")
            return await asyncio.wait_for(reader.read(), 10)

    answer = asyncio.run(asked())
    if before or sent:
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"code":"slow_request"' in answer
    else:
        assert answer == b""  # who asked nothing is told nothing


@pytest.mark.parametrize("ends", [False, True])
def test_a_body_that_goes_on_after_its_answer_ends_the_connection(
    one: Service, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    from what_next.serving.http import protocol

    monkeypatch.setattr(protocol, "REST", 0.2)

    async def asked() -> tuple[bytes, bytes]:
        async with listening(one) as address:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"POST /v1/events HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n1\r\n \r\n")
            refused = await reader.readuntil(b'"fields":[]}}')
            if ends:
                writer.write(b"0\r\n\r\n")
                await asyncio.sleep(0.4)
                writer.write(HEAD + b"connection: close\r\n\r\n")
            try:
                while not (ends or reader.at_eof()):
                    writer.write(b"1\r\n \r\n")
                    await asyncio.sleep(0.05)
                return refused, await asyncio.wait_for(reader.read(), 10)
            except ConnectionError:
                return refused, b""

    refused, then = asyncio.run(asked())
    assert refused.startswith(b"HTTP/1.1 415 ")
    assert then.startswith(b"HTTP/1.1 200 ") if ends else then == b""


def test_who_reads_only_after_a_body_that_is_too_large_was_sent_gets_the_answer(one: Service) -> None:
    head, size = b"POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n", 4_000_000

    def asked(address: tuple[str, int]) -> bytes:
        with socket.create_connection(address, timeout=10) as client:
            client.sendall(head + b"content-length: %d\r\n\r\n" % size + b" " * size)
            return b"".join(iter(lambda: client.recv(2**16), b""))

    async def asking() -> list[bytes]:
        async with listening(one) as address:
            return [await asyncio.to_thread(asked, address) for _ in range(5)]

    for answer in asyncio.run(asking()):
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b'"code":"too_large"' in answer


def test_who_is_one_too_many_is_gone_in_time_whatever_comes_with_the_request(
    one: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    from what_next.serving.http import protocol

    monkeypatch.setattr(protocol, "LINGER", 0.3)

    async def asked() -> None:
        async with listening(one, most=0) as address:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"GET /v1/model HTTP/1.1\r\nhost: localhost\r\n\r\n" * 2)
            assert (await reader.readline()).startswith(b"HTTP/1.1 503")
            while not writer.transport.is_closing():
                await asyncio.sleep(0.05)
                try:
                    writer.write(b"x")  # the system tells that the other side is closed
                    await writer.drain()
                except ConnectionError:
                    return

    asyncio.run(asyncio.wait_for(asked(), 20))


def test_connections_that_linger_are_few_and_do_not_hold_up_the_end(
    one: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    from what_next.serving.http import protocol

    monkeypatch.setattr(protocol, "LINGER", 60.0)
    monkeypatch.setattr(protocol, "LINGERING", 6)
    head = b"POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"

    async def asked() -> int:
        async with listening(one) as address:
            opened = [await asyncio.open_connection(*address) for _ in range(5)]
            for reader, writer in opened:
                writer.write(head + b"content-length: 9999999\r\n\r\n")
                assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 413 ")
            for _ in range(20):
                await asyncio.sleep(0.02)
                for _, writer in opened:
                    writer.write(b" ")
            lost = sum(writer.transport.is_closing() for _, writer in opened)
            stopping = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - stopping < 5
        return lost

    assert asyncio.run(asked()) == 2  # half of them may be of one address


@pytest.mark.parametrize("closes", [b"", b"connection: close\r\n"])
def test_who_does_not_take_an_answer_is_gone_in_time(
    one: Service, monkeypatch: pytest.MonkeyPatch, closes: bytes
) -> None:
    from what_next.serving.http import protocol, routes

    monkeypatch.setattr(protocol, "UNREAD", 0.3)
    json = SimpleNamespace(dumps=lambda *_, **__: b" " * 2**25, OPT_SERIALIZE_NUMPY=0)  # more than the system holds
    monkeypatch.setattr(routes, "orjson", json)
    if closes:  # it ends with what is left of an answer: less than makes the protocol wait
        monkeypatch.setattr(protocol.Bounded, "pause_writing", lambda _: None)

    async def asked() -> bytes:
        async with listening(one) as address:
            reader, writer = await asyncio.open_connection(*address, limit=1024)
            writer.write(b"GET /v1/model HTTP/1.1\r\nhost: localhost\r\n" + closes + b"\r\n")
            await asyncio.sleep(1)
            return await asyncio.wait_for(reader.read(), 10)

    assert b"200 OK" in (answer := asyncio.run(asked()))
    assert len(answer) < 2**25


def test_who_is_gone_while_further_requests_wait_is_no_fault_of_ours(
    one: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    import uvicorn
    from uvicorn.server import ServerState

    from what_next.serving.http.protocol import protocol

    class Lost(asyncio.Transport):
        """A transport that takes nothing once its client is gone, as uvloop's."""

        gone = False

        def write(self, data: object) -> None:
            if self.gone:
                raise RuntimeError("the handle is closed")

        def is_closing(self) -> bool:
            return self.gone

        def get_write_buffer_size(self) -> int:
            return 0

        def pause_reading(self) -> None:
            """Nothing."""

        resume_reading = close = abort = pause_reading

    errors: list[Exception] = []
    monkeypatch.setattr(one.app.parts.log, "error", lambda error, route: errors.append(error))

    async def asked() -> None:
        config = uvicorn.Config(one.app, lifespan="off", log_config=None)
        config.load()
        client, transport = protocol(one.app.parts)(config, ServerState(), {}), Lost()
        client.connection_made(transport)
        client.pause_writing()  # the client takes nothing
        client.data_received((HEAD + b"\r\n") * 3)
        await asyncio.sleep(0.1)
        transport.gone = True
        client.connection_lost(None)
        await asyncio.sleep(0.1)

    asyncio.run(asked())
    assert errors == []


@pytest.mark.parametrize("hosts", [0, 2])
def test_a_request_names_one_host(one: Service, hosts: int) -> None:
    async def asked() -> bytes:
        async with listening(one) as address:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"GET /health HTTP/1.1\r\n" + hosts * b"host: localhost\r\n" + b"\r\n")
            return await asyncio.wait_for(reader.read(), 10)

    answer = asyncio.run(asked())
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"bad_request"' in answer


@pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/openapi.json", "/ready", "/v1/items/i1", "/v1/model"])
def test_head_tells_as_get_does_without_a_body(one: Service, path: str) -> None:
    async def asked() -> bytes:
        async with listening(one) as address:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"HEAD %s HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n" % path.encode())
            return await asyncio.wait_for(reader.read(), 10)

    head, _, body = asyncio.run(asked()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert body == b""
    assert one.ask("HEAD", "/v1/events").status_code == 405


def test_who_waits_for_the_permission_to_send_a_body_gets_it(one: Service) -> None:
    async def asked() -> bytes:
        async with listening(one) as address:
            reader, writer = await asyncio.open_connection(*address)
            head = b"POST /v1/recommendations HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            writer.write(head + b"content-length: 2\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n")
            permission = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            assert permission.startswith(b"HTTP/1.1 100 ")
            writer.write(b"{}")
            return await asyncio.wait_for(reader.read(), 10)

    assert asyncio.run(asked()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("name", [b"Upgrade", b"upgrade"])
def test_who_would_rather_speak_http_2_is_answered_in_http_1(one: Service, name: bytes) -> None:
    """As Java's client asks with every first request on a connection, whatever its method."""

    async def asked() -> tuple[bytes, bytes]:
        async with listening(one) as address:
            reader, writer = await asyncio.open_connection(*address)
            head = b"POST /v1/recommendations HTTP/1.1\r\nconnection: Upgrade, HTTP2-Settings\r\nhost: localhost\r\n"
            head += b"HTTP2-Settings: AAEAAEAA\r\n%s: h2c\r\ncontent-type: application/json\r\n" % name
            writer.write(head + b'content-length: 13\r\n\r\n{"user_id":1}')
            refused = await asyncio.wait_for(reader.readuntil(b"}]}}"), 10)
            writer.write(HEAD + b"connection: close\r\n\r\n")
            return refused, await asyncio.wait_for(reader.read(), 10)

    refused, then = asyncio.run(asked())
    assert b"user_id: input should be a valid string" in refused  # the body was read
    assert then.endswith(b'{"status":"ok"}')


def test_a_head_goes_with_its_body_and_never_stays_behind() -> None:
    from what_next.serving.http.protocol import Together

    class Transport(asyncio.Transport):
        def __init__(self) -> None:
            super().__init__()
            self.sent = list[bytes]()

        def write(self, data: bytes) -> None:
            self.sent.append(data)

        def close(self) -> None:
            self.sent.append(b"closed")

        def get_write_buffer_size(self) -> int:
            return 0

    def sent(*parts: bytes) -> list[bytes]:
        transport = Transport()
        together = Together(transport, lambda: False)
        for part in parts:
            together.write(part)
        together.flush()
        together.close()
        assert transport.sent.pop() == b"closed"
        return transport.sent

    head = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"
    assert sent(head, b"{}", head, b"[]") == [head + b"{}", head + b"[]"]
    assert sent(head, b"{", b"}") == [head + b"{", b"}"]
    assert sent(head) == [head]
    assert sent(head, head) == [head + head]
    assert sent(b"HTTP/1.1 100 Continue\r\n\r\n", head, b"{}") == [b"HTTP/1.1 100 Continue\r\n\r\n", head + b"{}"]
