"""A load generator on loopback: persistent connections, one request at a time on each (no pipelining).

It reads only the status and length of an answer. `closed` keeps every connection busy (saturation). `opened` sends at
times that were drawn before, independent of the answers; latency is counted from the drawn time.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import uvloop

Make = Callable[[], bytes]
"""Returns the next request."""
Clock = Callable[[], float]
"""Returns the processor seconds of a service."""


def request(method: str, path: str, body: bytes = b"", key: str | None = None) -> bytes:
    """A complete HTTP/1.1 request."""
    head = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1"]
    if key:
        head.append(f"authorization: Bearer {key}")
    if body:
        head += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join([*head, "", ""]).encode() + body


@dataclass
class Told:
    """The result of a load.

    Attributes:
        latencies: seconds of each answer, in order. refused: number of answers with a status other than 200 and 201.
        seconds: until the last answer that is not a refusal; busy: the share of it in which the client computed.
        spent: seconds on `clock` from the first request to the last answer.
        first: the beginning of the first refusal.
        fallbacks: answers without `"fallback":null`: of the fallback policy, or without a recommendation.
        replaced: answers of the fallback policy, counting each request of a batch.
        answered: seconds of each answer that is not a refusal. statuses: the number of answers with each status.
        unsent: requests that were due while every connection waited for an answer.
    """

    latencies: list[float] = field(default_factory=list)
    refused: int = 0
    seconds: float = 0.0
    busy: float = 0.0
    spent: float = 0.0
    first: str = ""
    fallbacks: int = 0
    replaced: int = 0
    answered: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    unsent: int = 0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return (len(self.latencies) - self.refused) / self.seconds

    def quantile(self, share: float) -> float:
        """Milliseconds."""
        return 1000 * float(np.quantile(self.latencies, share))


SETTLED = 1.0
"""Seconds until new connections are used: an event loop accepts one in each of its turns, which are long under load."""
CONNECTIONS = 4000
"""Connections of an open loop, at most: a little less than the service takes."""
BURST = 16
"""Requests that are sent before answers are read, if more are due than can be sent."""


class Connection(asyncio.Protocol):
    """One connection: `done` is called with whether the request succeeded, and the head of the answer."""

    def __init__(self, done: Callable[["Connection", bool, bytes], None]) -> None:
        self.done, self.buffer, self.since, self.asked = done, b"", 0.0, False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def send(self, content: bytes, since: float) -> None:
        self.since, self.asked = since, True
        self.transport.write(content)

    def data_received(self, data: bytes) -> None:
        self.buffer = self.buffer + data if self.buffer else data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end].lower()
        place = head.find(b"content-length:")
        length = int(head[place + 15 : head.find(b"\r", place) if head.find(b"\r", place) > 0 else None])
        if len(self.buffer) < end + 4 + length:
            return
        answer, self.buffer = self.buffer, b""
        self.done(self, answer[9:11] == b"20", answer)

    def connection_lost(self, error: Exception | None) -> None:
        self.done(self, False, b"connection lost")


class _Load:
    def __init__(self, port: int, make: Make, clock: Clock | None = None) -> None:
        self.port, self.make, self.told = port, make, Told()
        self.clock: Clock = clock or (lambda: 0.0)
        self.closing, self.began, self.last = False, 0.0, 0.0

    def begin(self) -> None:
        self.began, self.told.spent = time.perf_counter(), -self.clock()

    async def connect(self, done: Callable[[Connection, bool, bytes], None]) -> Connection:
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(lambda: Connection(done), "127.0.0.1", self.port)
        return protocol

    def count(self, connection: Connection, good: bool, answer: bytes) -> None:
        now = time.perf_counter()
        seconds = now - connection.since
        self.told.latencies.append(seconds)
        self.told.statuses[answer[9:12].decode() if answer.startswith(b"HTTP") else "lost"] += 1
        if good:
            self.last = now
            self.told.answered.append(seconds)
        else:
            self.told.refused += 1
            self.told.first = self.told.first or answer[:300].decode(errors="replace")
        self.told.fallbacks += b'"fallback":null' not in answer
        self.told.replaced += answer.count(b'"fallback":"')

    async def closed(self, connections: int, seconds: float, count: int) -> None:
        waiting, end, sent = asyncio.Event(), 0.0, 0

        def again(connection: Connection, good: bool, answer: bytes) -> None:
            nonlocal sent
            if self.closing:
                return
            self.count(connection, good, answer)
            now = time.perf_counter()
            if now >= end or (count and sent >= count) or answer == b"connection lost":
                open_connections.discard(connection)
                if not open_connections:
                    waiting.set()
                return
            sent += 1
            connection.send(self.make(), now)

        open_connections = {await self.connect(again) for _ in range(connections)}
        every = list(open_connections)
        await asyncio.sleep(SETTLED)
        self.begin()
        end = self.began + seconds
        for connection in every:
            sent += 1
            connection.send(self.make(), time.perf_counter())
        await waiting.wait()
        self.end(every)

    async def opened(self, due: Sequence[float], connections: int) -> None:
        idle: list[Connection] = []
        every: set[Connection] = set()
        under_way = 0

        def back(connection: Connection, good: bool, answer: bytes) -> None:
            nonlocal under_way
            lost = answer == b"connection lost"
            if lost:
                every.discard(connection)
            if self.closing or not connection.asked:  # closed without an open request
                return
            self.count(connection, good, answer)
            under_way -= 1
            connection.asked = False
            if not lost:
                idle.append(connection)

        async def first(since: float) -> None:
            connection = await self.connect(back)
            every.add(connection)
            connection.send(self.make(), since)

        connecting: set[asyncio.Task[None]] = set()
        idle += [await self.connect(back) for _ in range(connections)]
        every.update(idle)
        await asyncio.sleep(SETTLED)
        self.begin()
        start = self.began
        # A timer is too coarse for milliseconds: the last ones are spent in a busy loop, unless many are due in each.
        coarse = 0.0 if len(due) > 1000 * due[-1] else 0.003
        for place, after in enumerate(due):
            if place % BURST == 0:
                await asyncio.sleep(0)
            while (left := start + after - time.perf_counter()) > 0:
                await asyncio.sleep(max(left - coarse, 0))
            while idle and idle[-1].transport.is_closing():
                idle.pop()
            if not idle and len(every) + len(connecting) >= CONNECTIONS:
                self.told.unsent += 1
                continue
            under_way += 1
            if idle:
                idle.pop().send(self.make(), start + after)
            else:
                connecting.add(task := asyncio.create_task(first(start + after)))
                task.add_done_callback(connecting.discard)
        while under_way:
            await asyncio.sleep(0.001)
        self.end(every)

    def end(self, connections: Iterable[Connection]) -> None:
        self.closing = True
        self.told.spent += self.clock()
        for connection in list(connections):
            connection.transport.close()


def closed(
    port: int, make: Make, *, connections: int, seconds: float = 1e9, count: int = 0, clock: Clock | None = None
) -> Told:
    """A closed loop: each connection sends its next request when the last one is answered."""
    load = _Load(port, make, clock)
    return _run(load, load.closed(connections, seconds, count))


def opened(
    port: int,
    make: Make,
    *,
    rate: float,
    seconds: float,
    seed: int = 0,
    connections: int = 8,
    clock: Clock | None = None,
) -> Told:
    """An open loop: requests at times of a Poisson process of `rate` a second, on connections opened before."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, max(1, round(rate * seconds)))
    load = _Load(port, make, clock)
    return _run(load, load.opened(np.cumsum(gaps).tolist(), connections))


def _run(load: _Load, work: object) -> Told:
    start, busy = time.perf_counter(), time.process_time()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)  # type: ignore[arg-type]
    end = time.perf_counter()
    load.told.seconds = (load.last or end) - load.began
    load.told.busy = (time.process_time() - busy) / (end - start)
    return load.told
