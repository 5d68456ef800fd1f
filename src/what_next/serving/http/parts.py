"""What every request may need, and how the event loop waits for what is done elsewhere."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, ParamSpec, TypeVar

from what_next.errors import StoreError
from what_next.serving.engine import Engine
from what_next.serving.http.keys import KeyRing
from what_next.serving.http.log import Log
from what_next.serving.http.metrics import Metrics
from what_next.serving.http.problems import not_ready
from what_next.serving.store import Store, Writer
from what_next.settings import Server

caller: ContextVar[str] = ContextVar("caller", default="")
"""Who asks, in the task of a request: what can be answered is shared among callers."""
P = ParamSpec("P")
T = TypeVar("T")

LOOK = 2.0
"""Seconds that whoever asks whether the service is ready waits for the store."""
THREADS = 8
"""Requests that read the store at the same time, at most."""


class Line:
    """Whether a client is still there; `task` is of the request that is of no use without it."""

    gone = False
    task: asyncio.Task[Any] | None = None

    def lost(self) -> None:
        """The client hung up."""
        self.gone = True
        if self.task is not None:
            self.task.cancel()


@dataclass(eq=False)
class Parts:
    """What every request may need.

    Attributes:
        settings: of the service.
        metrics, log: where requests are counted and told.
        engine, store, writer: None while the service starts.
        keys: None where none are needed, or while the service starts.
    """

    settings: Server
    metrics: Metrics
    log: Log
    engine: Engine | None = None
    store: Store | None = None
    writer: Writer | None = None
    keys: KeyRing | None = None
    looks: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "ready"))
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(THREADS, "reads"))

    @property
    def model(self) -> Engine:
        """The engine; a `Problem` while it is not there."""
        if self.engine is None:
            raise not_ready(["model"])
        return self.engine

    @property
    def reads(self) -> Store:
        """The store; a `Problem` while it is not there."""
        if self.store is None:
            raise not_ready(["store"])
        return self.store

    @property
    def writes(self) -> Writer:
        """The writer; a `Problem` while it is not there."""
        if self.writer is None:
            raise not_ready(["store"])
        return self.writer

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Does in a thread what would hold up the event loop; whoever waits may leave before it is done."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, lambda: work(*args, **kwargs))

    async def store_works(self) -> bool:
        """Whether the store can be read and written; asked of a thread of its own, and not waited for longer than that.

        Where writing failed, it is tried once more: whoever is asked for nothing would else never be ready again.
        """
        store, writer = self.store, self.writer
        if store is None:
            return False

        def tried() -> None:
            store.ping()
            if writer is not None and writer.failing:
                store.try_writing()
                writer.failing = False

        looking = asyncio.get_running_loop().run_in_executor(self.looks, tried)
        try:
            await asyncio.wait_for(looking, LOOK)
        except (StoreError, TimeoutError):
            return False
        return True

    def watch(self) -> None:
        """Lets the metrics read what changes by itself."""
        self.metrics.watch("writer_depth", "Writes that wait for the store", self._depth)
        self.metrics.watch("ready", "Whether the model answers (1) or not (0)", self._ready)
        self.metrics.watch("version_refused", "Whether the deployed version cannot be loaded (1)", self._refused)
        told = "Whether the second model, of server.candidate, cannot be loaded (1)"
        self.metrics.watch("second_refused", told, self._unfit)
        self.metrics.watch("loading_seconds", "For how long a version is being loaded; 0: none is", self._loading)
        self.metrics.watch("log_lines_dropped", "Log lines that nobody took in time", lambda: self.log.dropped)
        self.metrics.watch_model(lambda: self.engine.model() if self.engine else None)

    def close(self) -> None:
        """Ends the threads; engine, writer and store are closed by whoever opened them."""
        if self.keys is not None:
            self.keys.close()
        for threads in (self.threads, self.looks):
            threads.shutdown(wait=False, cancel_futures=True)
        self.log.close()

    def _depth(self) -> float:
        return float(self.writer.depth) if self.writer else 0.0

    def _refused(self) -> float:
        return float(self.engine is not None and self.engine.model()["refused"] is not None)

    def _unfit(self) -> float:
        return float(self.engine is not None and self.engine.unfit() is not None)

    def _loading(self) -> float:
        loading = self.engine.models.loading if self.engine else None
        return monotonic() - loading.began if loading else 0.0

    def _ready(self) -> float:
        return float(self.engine is not None and self.engine.ready)


async def durable(written: Future[Any]) -> Any:
    """What came of a write, once it is durable. Whoever stops waiting does not take it back."""
    loop = asyncio.get_running_loop()
    waiting: asyncio.Future[Any] = loop.create_future()
    written.add_done_callback(lambda done: loop.call_soon_threadsafe(_settle, waiting, done))
    return await waiting


def _settle(waiting: asyncio.Future[Any], done: Future[Any]) -> None:
    if waiting.done():
        return
    if (error := done.exception()) is not None:
        waiting.set_exception(error)
    else:
        waiting.set_result(done.result())
