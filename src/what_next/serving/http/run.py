"""From a setup to a service that listens, and back to rest."""

import asyncio
import gc
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Sized
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import uvicorn

from what_next import __version__
from what_next.data import Dataset
from what_next.errors import DataError, SetupError, StoreUnavailable
from what_next.serving.bodies import LONGEST_ID, SEEN, STEPS
from what_next.serving.engine import Engine, check_models
from what_next.serving.http.app import Application
from what_next.serving.http.callers import KeyRing
from what_next.serving.http.parts import Parts
from what_next.serving.http.protocol import protocol
from what_next.serving.request import Stopping
from what_next.serving.store import Store, Writer, store_of
from what_next.settings import Setup
from what_next.worlds import Boredom

GRACE = 15
"""Seconds that requests under way have to end, once the service was asked to stop."""

IDLE = 75
"""Seconds after which a connection without requests is closed."""

AGAIN = 1.0
"""Seconds until a store that is away at the start is tried again."""

LISTENERS = 16
"""Times that the socket is listened on: the loop accepts one connection for each in a turn, and a crowd must get in."""

FILES = 256
"""Files besides those of the connections: store, log, model, and whoever is told that there are too many."""

YOUNG = 50_000
"""Objects after which the collector looks for circles. Hardly any are made here, while each batch makes thousands of
objects, which Python's 700 would have it look through again and again."""

Progress = Callable[[int, int], None]
Notify = Callable[[str], None]


def listen(setup: Setup) -> socket.socket:
    """The socket of a setup's address, bound already, so that a port in use is told at once.

    Raises:
        SetupError: the address cannot be listened on.
    """
    host, port = setup.server.host, setup.server.port
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(2048)  # whoever comes while the service starts waits for its answer
    except OSError as error:
        raise SetupError(
            f"{host}:{port}: cannot be listened on ({error.strerror or error}); stop what listens there, or choose "
            "another server.port, or 0 for a free one"
        ) from None
    return bound


def unnameable(ids: pl.Series, kind: str = "items") -> str | None:
    """What people are told where some items or users (`kind`) have ids that no request holds; None: none has."""
    texts = ids.cast(pl.String)  # they may be numbers, as those of the demonstration
    odd = texts.filter((texts.str.len_chars() > LONGEST_ID) | ~texts.str.contains(SEEN) | texts.is_in(STEPS))
    if odd.is_empty():
        return None
    so = {"items": "they are shown, and no event can name them", "users": "nobody can ask for them"}[kind]
    return (
        f"{len(odd):,} {kind} have ids that no request may hold (above {LONGEST_ID} characters, with control "
        f"characters, or . or ..), such as {odd[0][:40]!r}: {so}; rename them in the data"
    )


@dataclass(eq=False)
class Opening:
    """Opens what answers, in a thread of its own, while the service already tells that it starts.

    Attributes:
        setup: says what; `parts`: where it is put.
        progress: is called with the number of stored events, and of all, while an empty store is filled.
        notify: takes a message for people.
    """

    setup: Setup
    parts: Parts
    progress: Progress
    notify: Notify

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name="opening", daemon=True)

    def stop(self) -> None:
        """Breaks off; what was stored stays, and the next start goes on from there."""
        self._stop.set()
        self.thread.join(GRACE)  # not for ever: what hangs on a disk ends with the process

    def _run(self) -> None:
        reported = False
        try:
            while self.parts.engine is None and not self._stop.is_set():
                try:
                    self._try()
                except StoreUnavailable as error:
                    if not reported:
                        self.notify(f"{str(error).removesuffix('; try again')}; it is tried again every second")
                    reported = True
                    self._stop.wait(AGAIN)
        except Stopping:
            pass
        except BaseException as error:
            self.error = error

    def _try(self) -> None:
        parts, setup = self.parts, self.setup
        dataset = None
        if parts.store is None:
            place = store_of(setup)
            if isinstance(place, Path) and not place.exists():  # what is refused leaves no store behind
                self._check_keys(())
                dataset = self._dataset(None)
            parts.store = Store.open(place)
        if parts.keys is None:
            parts.keys = KeyRing(parts.store, parts.metrics.store_failures.inc)
        self._check_keys(parts.keys)
        if not parts.store.loaded and (dataset := dataset or self._dataset(parts.store)) is not None:
            parts.store.load_histories(dataset, self._progress)
            self._tell(unnameable(dataset.user_ids, "users"))
        if parts.writer is None:
            parts.store.try_writing()  # whoever may only read is told at once, and not with the first request
            parts.writer = Writer(parts.store)
        parts.engine = Engine(setup, parts.store, parts.writer, parts.metrics, self._stop)
        ids = parts.engine.models.live.current.served.catalogue.ids
        self._tell(parts.engine.undeployed(), parts.engine.unfit(), unnameable(ids))

    def _tell(self, *messages: str | None) -> None:
        for message in messages:
            if message is not None:
                self.notify(message)

    def _check_keys(self, keys: Sized) -> None:
        if self.setup.server.needs_keys and not keys:
            raise SetupError(
                f"server.host is {self.setup.server.host}, and the store has no API key: without one, nobody may ask. "
                "Make one with `what-next key add SETUP --name NAME --role admin`, or listen on 127.0.0.1"
            )

    def _dataset(self, store: Store | None) -> Dataset | None:
        """What an empty store is filled with; None: nothing. Filling takes minutes, so models are checked before."""
        check_models(self.setup, store)
        try:
            return Dataset.read(self.setup.data) if self.setup.server.import_data else None
        except DataError as error:
            raise SetupError(f"{error}; to start with an empty store, set server.import_data to no") from error

    def _progress(self, done: int, total: int) -> None:
        if self._stop.is_set():
            raise Stopping
        self.progress(done, total)


def connections(wanted: int) -> int:
    """As many connections as are wanted, and as the system has files for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted + FILES and soft != resource.RLIM_INFINITY:
        soft = wanted + FILES if hard == resource.RLIM_INFINITY else min(wanted + FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        wanted = min(wanted, max(soft - FILES, 1))
    return wanted


class _Server(uvicorn.Server):
    """Uvicorn's, without its way with signals: it would raise them again, before the store is closed."""

    def capture_signals(self) -> Any:
        return nullcontext()


def serve(
    setup: Setup,
    ready: Callable[[dict[str, Any]], None],
    progress: Progress,
    notify: Notify,
    world: Boredom | None = None,
    log: Notify | None = None,
) -> None:
    """Answers requests until SIGTERM, SIGINT or SIGHUP; requests under way are answered, and everything is closed.

    Args:
        setup: what and where.
        ready: is called once when the service can answer, with its address, version and store.
        progress: see `Opening`; `notify`: likewise.
        world: the simulated one whose items are served; None: users are people.
        log: takes the lines of the log; None: the standard error does.

    Raises:
        SetupError: the address is taken, or a key is missing.
        WhatNextError: model, data or store cannot be used.
    """
    start = time.monotonic()
    with listen(setup) as bound:
        parts = Parts(setup.server, world=world, put=log)
        opening = Opening(setup, parts, progress, notify)
        opening.thread.start()
        try:
            uvicorn_loop(Application(parts), bound, opening, lambda: ready(_facts(setup, parts, bound, start)))
        finally:
            opening.stop()
            for one in (parts.engine, parts.writer, parts, parts.store):  # who asks before who writes, and what to
                if one is not None:
                    one.close()
    if opening.error is not None:
        raise opening.error


def uvicorn_loop(app: Application, bound: socket.socket, opening: Opening, ready: Callable[[], None]) -> None:
    """Runs the event loop until a signal comes, or opening fails."""
    app.parts.log.handle_loggers("uvicorn", "what_next.serving")
    config = uvicorn.Config(
        app,
        http=protocol(app.parts, connections(app.parts.settings.connections)),
        loop="uvloop",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # a caller without a key may not choose its address
        timeout_keep_alive=IDLE,
        timeout_graceful_shutdown=GRACE,
    )
    server = _Server(config)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        hangs_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN  # as nohup has it
        for number in (signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if hangs_up else [])):
            loop.add_signal_handler(number, server.handle_exit, number, None)
        watching = loop.create_task(_watch(opening, server, ready))
        await server.serve(sockets=[bound, *(bound.dup() for _ in range(LISTENERS - 1))])
        watching.cancel()

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(run())


async def _watch(opening: Opening, server: uvicorn.Server, ready: Callable[[], None]) -> None:
    """Waits until everything is open, and the engine misses nothing more."""
    while opening.thread.is_alive() or not server.started:
        await asyncio.sleep(0.005)
    if opening.error is not None:
        server.should_exit = True
        return
    while (engine := opening.parts.engine) is None or engine.missing():
        await asyncio.sleep(0.005)
    gc.collect()
    gc.freeze()  # what is there now stays until the end: the collector need not look at it again
    gc.set_threshold(YOUNG)
    ready()


def _facts(setup: Setup, parts: Parts, bound: socket.socket, start: float) -> dict[str, Any]:
    engine, store = parts.engine, parts.store
    assert engine is not None
    assert store is not None
    model, (host, port, *_) = engine.model(), bound.getsockname()
    return {
        "address": f"http://{f'[{host}]' if ':' in host else host}:{port}",
        "version": model["version"],
        "items": model["items"],
        "store": store.backend.where,
        "keys": setup.server.needs_keys,
        "package": __version__,
        "seconds": round(time.monotonic() - start, 3),
    }
