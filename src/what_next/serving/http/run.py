"""Starting and stopping the service of a setup."""

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
from what_next.serving.engine.versions import check_emptied
from what_next.serving.http.app import Application
from what_next.serving.http.callers import KeyRing
from what_next.serving.http.parts import Parts
from what_next.serving.http.protocol import protocol
from what_next.serving.request import Stopping
from what_next.serving.store import Store, Writer, store_of
from what_next.settings import Setup
from what_next.worlds import Boredom

GRACE = 15
"""Seconds that running requests have to finish when the service stops."""

IDLE = 75
"""Seconds after which a connection without requests is closed."""

AGAIN = 1.0
"""Seconds between two attempts at a store that is unavailable at the start."""

LISTENERS = 16
"""Copies of the listening socket: the event loop accepts one connection per socket and turn, too slow for a crowd."""

FILES = 256
"""File descriptors besides those of the connections: for store, log, model, and connections that are refused."""

YOUNG = 50_000
"""Threshold of the garbage collector. The service makes hardly any reference cycles, but each batch makes thousands of
objects, which with Python's default of 700 would be scanned again and again."""

Progress = Callable[[int, int], None]
Notify = Callable[[str], None]


def listen(setup: Setup) -> socket.socket:
    """The socket of a setup's address, bound at once, so that a port in use is reported early.

    Raises:
        SetupError: the address cannot be listened on.
    """
    host, port = setup.server.host, setup.server.port
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(2048)  # connections during the start wait
    except OSError as error:
        raise SetupError(
            f"{host}:{port}: cannot be listened on ({error.strerror or error}); stop what listens there, or choose "
            "another server.port, or 0 for a free one"
        ) from None
    return bound


def unnameable(ids: pl.Series, kind: str = "items") -> str | None:
    """A message if some items or users (`kind`) have ids that requests cannot hold; None if there are none."""
    texts = ids.cast(pl.String)  # they may be numbers
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
    """Opens store and engine in a thread of its own, while the service already answers probes.

    Attributes:
        setup: of the service; `parts`: receive store, keys, writer and engine.
        progress: called with the numbers of stored and of all events while an empty store is filled.
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
        """Abort; stored events stay, and the next start continues from there."""
        self._stop.set()
        self.thread.join(GRACE)  # a hanging disk must not block the exit

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
            check_emptied(setup)
            place = store_of(setup)
            if isinstance(place, Path) and not place.exists():  # checks first, so that a refusal leaves no empty store
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
            parts.store.try_writing()  # report a read-only database now, not at the first request
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
        """The data for an empty store; None: no import. The models are checked first, because filling takes minutes."""
        check_models(self.setup, store)
        try:
            return Dataset.read(self.setup.data_path) if self.setup.server.import_data else None
        except DataError as error:
            raise SetupError(f"{error}; to start with an empty store, set server.import_data to no") from error

    def _progress(self, done: int, total: int) -> None:
        if self._stop.is_set():
            raise Stopping
        self.progress(done, total)


def connections(wanted: int) -> int:
    """Raise the limit of open files for the wanted number of connections; returns how many are possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted + FILES and soft != resource.RLIM_INFINITY:
        soft = wanted + FILES if hard == resource.RLIM_INFINITY else min(wanted + FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        wanted = min(wanted, max(soft - FILES, 1))
    return wanted


class _Server(uvicorn.Server):
    """Uvicorn's server without its signal handling, which would raise signals again before the store is closed."""

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
    """Answer requests until SIGTERM, SIGINT or SIGHUP; then finish the running requests and close everything.

    Args:
        setup: of the service.
        ready: called once when the service can answer, with its address, version and store.
        progress: see `Opening`; `notify`: likewise.
        world: the simulated world whose items are served; None: users are people.
        log: takes the lines of the log; None: standard error.

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
            for one in (parts.engine, parts.writer, parts, parts.store):  # engine before writer before store
                if one is not None:
                    one.close()
    if opening.error is not None:
        raise opening.error


def uvicorn_loop(app: Application, bound: socket.socket, opening: Opening, ready: Callable[[], None]) -> None:
    """Run the event loop until a signal comes or opening fails."""
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
        proxy_headers=False,  # a caller without a key must not choose its address
        timeout_keep_alive=IDLE,
        timeout_graceful_shutdown=GRACE,
    )
    server = _Server(config)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        hangs_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN  # nohup ignores it
        for number in (signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if hangs_up else [])):
            loop.add_signal_handler(number, server.handle_exit, number, None)
        watching = loop.create_task(_watch(opening, server, ready))
        await server.serve(sockets=[bound, *(bound.dup() for _ in range(LISTENERS - 1))])
        watching.cancel()

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(run())


async def _watch(opening: Opening, server: uvicorn.Server, ready: Callable[[], None]) -> None:
    """Wait until everything is open and the engine is ready."""
    while opening.thread.is_alive() or not server.started:
        await asyncio.sleep(0.005)
    if opening.error is not None:
        server.should_exit = True
        return
    while (engine := opening.parts.engine) is None or engine.missing():
        await asyncio.sleep(0.005)
    gc.collect()
    gc.freeze()  # long-lived objects need no further collection
    gc.set_threshold(YOUNG)
    ready()


def _facts(setup: Setup, parts: Parts, bound: socket.socket, start: float) -> dict[str, Any]:
    model, (host, port, *_) = parts.model.model(), bound.getsockname()
    return {
        "address": f"http://{f'[{host}]' if ':' in host else host}:{port}",
        "version": model["version"],
        "items": model["items"],
        "store": parts.reads.backend.where,
        "keys": setup.server.needs_keys,
        "package": __version__,
        "seconds": round(time.monotonic() - start, 3),
    }
