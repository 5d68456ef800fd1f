"""The parts that requests share (engine, store, limits, log), and how the event loop waits for work in threads."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, ParamSpec, TypeVar

from what_next.errors import StoreError
from what_next.serving.engine import Engine
from what_next.serving.http.callers import Bodies, Caller, KeyRing, Rate
from what_next.serving.http.log import Log
from what_next.serving.http.problems import not_ready
from what_next.serving.metrics import Metrics
from what_next.serving.store import Store, Writer
from what_next.settings import Server
from what_next.worlds import Boredom

P = ParamSpec("P")
T = TypeVar("T")

LOOK = 2.0
"""Seconds that a readiness check waits for the store."""
THREADS = 8
"""Most requests that read the store at the same time."""


@dataclass(eq=False)
class Parts:
    """The parts that requests share.

    Attributes:
        settings: of the service.
        metrics, log: count and log requests; `put` takes the lines of the log, None: standard error.
        engine, store, writer: None while the service starts.
        keys: None while the service starts.
        world: in a demonstration, the simulated world whose items are served; None: users are people.
    """

    settings: Server
    engine: Engine | None = None
    store: Store | None = None
    writer: Writer | None = None
    metrics: Metrics = field(default_factory=Metrics)
    put: Callable[[str], object] | None = None
    keys: KeyRing | None = None
    world: Boredom | None = None

    def __post_init__(self) -> None:
        self.log = Log(self.settings.log_ids, self.put)
        self.rate, self.bodies = Rate(self.settings.rate), Bodies(self.settings.body)
        self.looks, self.threads = ThreadPoolExecutor(1, "ready"), ThreadPoolExecutor(THREADS, "reads")
        self._look: tuple[float, Future[bool]] | None = None  # start and result of the latest check of the store
        if self.store is not None:
            self.keys = KeyRing(self.store, self.metrics.store_failures.inc)
        self._watch()

    @property
    def model(self) -> Engine:
        """The engine; a `Problem` while there is none."""
        if self.engine is None:
            raise not_ready(["model"])
        return self.engine

    @property
    def reads(self) -> Store:
        """The store; a `Problem` while there is none."""
        if self.store is None:
            raise not_ready(["store"])
        return self.store

    def caller(self, address: str, token: bytes) -> tuple[Caller | None, str]:
        """The owner of a key, if known, and the name under which the limits count the caller."""
        found = self.keys.caller(token.decode("latin-1")) if token and self.keys is not None else None
        return found, f"key {found.name}" if found else address

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run blocking work in a thread; cancelling the wait does not stop it."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, lambda: work(*args, **kwargs))

    async def written(self, write: Any) -> Any:
        """The outcome of a write, once it is durable; cancelling the wait does not undo it."""
        if self.writer is None:
            raise not_ready(["store"])
        done: Future[Any] = self.writer.submit(write)
        return await asyncio.shield(asyncio.wrap_future(done))

    async def missing(self) -> list[str]:
        """What is missing until the service can answer; empty: it is ready. Also updates the metric."""
        works, engine = await self.store_works(), self.engine
        missing = ["model"] if engine is None else list(engine.missing())
        if not works:  # the model's thread may hang on the store: the model itself is not missing then
            missing = [*(one for one in missing if one != "model" or engine is None), "store"]
        self.metrics.ready.set(not missing)
        return missing

    async def store_works(self) -> bool:
        """Whether the store can be read and written, which a thread checks within `LOOK` seconds.

        If a write failed before, it is tried again, because a service that is not ready may get no other writes that
        would show its recovery. Concurrent callers share one check, and wait for it no longer than `LOOK` seconds
        after its start.
        """
        store, writer = self.store, self.writer
        if store is None:
            return False

        def works() -> bool:
            try:
                store.ping()
                if writer is not None and writer.failing:
                    store.try_writing([*writer.failing.values()])
                    writer.failing.clear()
            except StoreError:
                return False
            return True

        if self._look is None or self._look[1].done():
            self._look = monotonic(), self.looks.submit(works)
        began, look = self._look
        if (left := began + LOOK - monotonic()) <= 0:  # the check has taken too long already
            return False
        done, _ = await asyncio.wait([asyncio.wrap_future(look)], timeout=left)
        return any(one.result() for one in done)

    def _watch(self) -> None:
        """Register metrics that are read on demand; without an engine, they are 0."""

        def watch(name: str, about: str, read: Callable[[Engine], float]) -> None:
            number = self.metrics.gauge(name, about)
            number.set_function(lambda: 0.0 if self.engine is None else float(read(self.engine)))

        def loading(engine: Engine) -> float:
            version = engine.models.loading
            return monotonic() - version.began if version else 0.0

        waiting = self.metrics.gauge("writer_depth", "Writes that wait for the store")
        waiting.set_function(lambda: float(self.writer.depth if self.writer else 0))
        dropped = self.metrics.gauge("log_lines_dropped", "Log lines dropped because they were not written in time")
        dropped.set_function(lambda: self.log.dropped)
        about = "Whether the deployed version cannot be loaded (1)"
        watch("version_refused", about, lambda engine: engine.model()["refused"] is not None)
        about = "Whether the second model, of server.candidate, cannot be used (1)"
        watch("second_refused", about, lambda engine: engine.unfit() is not None)
        about = "How much more an answer of the experiment's second arm earned than one of the first"
        watch("experiment_difference", about, lambda engine: engine.experiment.number("mean"))
        about = "The lower bound of this difference, at any number of looks; NaN if unknown"
        watch("experiment_difference_low", about, lambda engine: engine.experiment.number("low"))
        about = "The upper bound of this difference, at any number of looks; NaN if unknown"
        watch("experiment_difference_high", about, lambda engine: engine.experiment.number("high"))
        watch("loading_seconds", "For how long a version has been loading; 0: none is", loading)

    def close(self) -> None:
        """End the threads; the caller closes engine, writer and store."""
        if self.keys is not None:
            self.keys.close()
        for threads in (self.threads, self.looks):
            threads.shutdown(wait=False, cancel_futures=True)
        self.log.close()
