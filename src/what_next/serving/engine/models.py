"""The versions in memory: loads and replaces them as the store says."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace

from what_next.errors import ModelError, StoreError, WhatNextError
from what_next.serving import logger
from what_next.serving.engine.live import Active, Live, Withdrawals, check_second
from what_next.serving.engine.served import Served
from what_next.serving.engine.versions import keep, line, versions_folder
from what_next.serving.metrics import Metrics
from what_next.serving.request import Stopping
from what_next.serving.store import Deploy, Deployment, Outage, Second, Store, StoredItem
from what_next.settings import Setup

SLICE = 1.0
"""Seconds to wait for a version that is being loaded before checking other things."""
LONG = 10.0
"""Seconds of loading after which a warning is logged."""
LOOK = 1.0
"""Seconds between two looks at the store."""
SHARED = 0.1
"""Smallest share of common items for two versions to count as having the same catalogue: items come and go."""


class Loading:
    """A version that is being loaded in a thread of its own, which is abandoned if it hangs.

    Attributes:
        version: its name; `began`: when loading started, on the monotonic clock.
        items: number of the last item of the store that it is loaded with.
    """

    def __init__(self, version: str, items: int, seconds: float, load: Callable[[], Active]) -> None:
        """Start the thread; `load` may take `seconds`."""
        self.version, self.items, self.limit, self.began = version, items, seconds, time.monotonic()
        self._found: Future[Active] = Future()
        threading.Thread(target=self._run, args=(load,), name="what-next-loading", daemon=True).start()

    def over(self, seconds: float) -> bool:
        """Wait for at most `seconds`; whether loading has finished, failed or run out of time by then."""
        left = self.began + self.limit - time.monotonic()
        wait([self._found], max(min(seconds, left), 0))
        return self._found.done() or left <= seconds

    @property
    def late(self) -> bool:
        """Whether it is not finished: once `over`, that it ran out of time."""
        return not self._found.done()

    def result(self) -> Active:
        """The loaded version; call it once `over` is true.

        Raises:
            ModelError: a file is missing or damaged, the model does not answer, or loading took too long.
        """
        if self.late:
            raise ModelError(
                f"{self.version}: was not loaded within {self.limit:g} s; look at the disk that holds it, or allow "
                "more with server.loading"
            )
        return self._found.result()

    def _run(self, load: Callable[[], Active]) -> None:
        try:
            self._found.set_result(load())
        except WhatNextError as error:
            self._found.set_exception(error if isinstance(error, ModelError) else ModelError(str(error)))
        except BaseException as error:
            failed = ModelError(f"{self.version}: does not answer ({type(error).__name__}: {error}); train again")
            failed.__cause__ = error
            self._found.set_exception(failed)


class Models:
    """Keeps `live` up to date with the store's deployments and items, also those of other processes.

    Attributes:
        live: replaced as a whole; readers take it once for each batch.
        counted: whether the popular items are known.
    """

    live: Live
    counted = False

    def __init__(self, setup: Setup, store: Store, metrics: Metrics, stop: threading.Event | None = None) -> None:
        """Load the current version; if there is none yet, the setup's model is deployed. Setting `stop` aborts.

        Raises:
            ModelError: no deployed version can be loaded, or the second one is missing.
            Stopping: `stop` was set.
        """
        self.stop = stop or threading.Event()
        self.setup, self.store, self.metrics = setup, store, metrics
        self.folder = versions_folder(setup)
        self._changing, self._swapping = threading.Lock(), threading.Lock()
        self.loading: Loading | None = None
        self._second: Loading | None = None
        self._beside: Second | None = None  # the store's second version that was last handled
        self._items: dict[str, StoredItem] = {}
        self._last_item = 0
        self._counted: Mapping[str, int] = {}
        self.withdrawals = Withdrawals(store)
        self.withdrawals.look()
        self._note(store.items_after(0))
        self._seen, self.live = self._opened()

    # Opening

    def _opened(self) -> tuple[int, Live]:
        deployments = self.store.deployments()
        if not deployments:
            version = keep(self.folder, self.setup.model_agent_path)
            self.store.put(Deploy(version, "first", {"agent": self.setup.model_agent_path.name}))
            deployments = self.store.deployments()
        refused: tuple[str, str] | None = None
        for version in reversed(line(deployments)):
            try:
                current = self._loaded(version)
            except ModelError as error:
                refused = refused or (version, str(error))
                logger.error("version %s was refused: %s", version, error)
                continue
            newest = [one for one in deployments if one.version == version][-1]
            return deployments[-1].number, self._with_second(Live(newest, current, None, refused))
        assert refused is not None
        raise ModelError(f"no deployed version can be loaded; the current one, {refused[0]}: {refused[1]}")

    def _with_second(self, live: Live) -> Live:
        """`live` with the second model of the setup, or with the reason why it is unfit: the first answers all then."""
        server = self.setup.server
        if (agent := server.candidate) is None and server.tried is None:
            return live  # the store may name one, which `look` loads
        check_second(self.setup)
        try:
            version = keep(self.folder, agent) if agent is not None else server.tried or ""
            second = Second(version, server.canary, server.shadow)
            return replace(live, candidate=_fitting(self._loaded(second.version), live.current), second=second)
        except Stopping:
            raise
        except WhatNextError as error:
            logger.error("the second model was refused, all are answered by the first: %s", error)
            return replace(live, unfit=(agent.name if agent else str(server.tried), str(error)))

    def _loaded(self, version: str) -> Active:
        """Load a version and wait for it.

        Raises:
            ModelError: see `Loading.result`.
            Stopping: `stop` was set.
        """
        self.loading = loading = self._begun(version)
        warned = False
        while not loading.over(SLICE):
            if self.stop.is_set():
                raise Stopping
            if not warned and time.monotonic() > loading.began + LONG:
                logger.warning("version %s is still being loaded, after %g s", version, LONG)
                warned = True
        self.loading = None
        return self._ended(loading)

    def _begun(self, version: str, before: Loading | None = None) -> Loading:
        """Start to load a version with all items of the store; returns `before` if that loads the same version."""
        if before is not None and before.version == version:
            return before
        with self._changing:
            items, last = list(self._items.values()), self._last_item

        def load() -> Active:
            served, server = Served.load(self.folder, version), self.setup.server
            if server.search == "approximate":  # before items are added: the index is of the version
                served = replace(served, policy=served.policy.indexed(server.candidates))
            return self._active(served.extended(items))

        return Loading(version, last, self.setup.server.loading, load)

    def _ended(self, loading: Loading) -> Active:
        """The loaded version, with items that were added meanwhile; no more may be added until it is in its place."""
        try:
            found = loading.result()
        except ModelError:
            self.metrics.loads.labels("late" if loading.late else "failed").inc()
            raise
        self.metrics.loads.labels("loaded").inc()
        missed = [item for item in self._items.values() if item.number > loading.items]
        return self._active(found.served.extended(missed)) if missed else found

    def _active(self, served: Served) -> Active:
        size = self.setup.server.sessions
        return Active(served.warm(), self.store, size, self.metrics, self._counted, self.withdrawals)

    # Changes

    def look(self) -> None:
        """Apply the store's new deployments, new items and withdrawals; for one thread alone (`Poller`).

        Raises:
            StoreUnavailable: the store cannot be read now.
        """
        self.grow()
        deployments = self.store.deployments()
        if deployments and deployments[-1].number != self._seen and self._deploy(deployments[-1]):
            self._seen = deployments[-1].number
        if self.setup.server.candidate is not None or self.setup.server.tried is not None:
            return
        if (wanted := self.store.second()) == self._beside:
            self._second = None  # what was being loaded is no longer wanted
        elif self._put_beside(wanted):
            self._beside = wanted

    def _deploy(self, newest: Deployment) -> bool:
        """Switch to a deployed version; False if it is still being loaded, and the next look must call this again."""
        if newest.version == self.live.current.served.version:
            self.loading = None
            with self._changing:
                self.live = replace(self.live, deployment=newest, refused=None)
            return True
        self.loading = loading = self._begun(newest.version, self.loading)
        if not loading.over(SLICE):
            return False
        self.loading = None
        with self._changing:
            try:
                current = self._ended(loading)
            except ModelError as error:
                going = self.live.deployment.version
                logger.error("version %s was refused, %s goes on: %s", newest.version, going, error)
                self.live = replace(self.live, refused=(newest.version, str(error)))
                return True
            if other := _other_catalogue(current.served, self.live.current.served):
                logger.warning("%s", other)
            self.live = replace(self.live, deployment=newest, current=current, refused=None)
        self.metrics.versions.inc()
        logger.info("version %s answers from now on", newest.version)
        return True

    def _put_beside(self, wanted: Second | None) -> bool:
        """Set or remove the second version as the store says; False if it is still being loaded."""
        loading, there = None, self.live.candidate
        if wanted is not None and (there is None or there.served.version != wanted.version):
            self._second = loading = self._begun(wanted.version, self._second)
            if not loading.over(SLICE):
                return False
        self._second = None
        with self._changing:
            candidate, unfit = None if wanted is None else self.live.candidate, None
            if loading is not None:
                try:
                    candidate = _fitting(self._ended(loading), self.live.current)
                except ModelError as error:
                    logger.error("the second version was refused, all are answered by the first: %s", error)
                    candidate, unfit = None, (loading.version, str(error))
            self.live = replace(self.live, candidate=candidate, second=wanted, unfit=unfit)
        return True

    def grow(self) -> None:
        """Apply the store's new items, which can be recommended from the next answer on, and withdrawals.

        Raises:
            StoreUnavailable: the store cannot be read now.
        """
        with self._changing:
            if new := self.store.items_after(self._last_item):
                self._add(new)
        self.withdrawals.look()

    def _add(self, new: Sequence[StoredItem]) -> None:
        live = self.live
        current = self._active(live.current.served.extended(new))
        candidate = live.candidate and self._active(live.candidate.served.extended(new))
        self._note(new)  # only now, so that a failure is tried again
        with self._swapping:  # so that `forget` does not only reach the old sessions
            for old, grown in ((live.current, current), (live.candidate, candidate)):
                if old and grown and all(item.item_id not in old.served.places for item in new):
                    grown.sessions.adopt(old.sessions)
            self.live = replace(live, current=current, candidate=candidate)

    def forget(self, user_id: str) -> None:
        """Drop a user's sessions."""
        with self._swapping:
            for active in (self.live.current, self.live.candidate):
                if active is not None:
                    active.sessions.drop(user_id)

    def _note(self, new: Sequence[StoredItem]) -> None:
        """Remember items of the store, which come in the order of their numbers."""
        for item in new:
            self._items[item.item_id], self._last_item = item, item.number

    def count(self) -> None:
        """Update the counts of popular items.

        Raises:
            StoreUnavailable: the store cannot be read now.
        """
        self._counted = self.store.event_counts()
        with self._changing:
            for active in (self.live.current, self.live.candidate):
                if active is not None:
                    active.count(self._counted)
        self.counted = True


def _other_catalogue(version: Served, current: Served) -> str | None:
    """A message if a version's catalogue is not that of the current one; None if it is.

    The common items are compared with the smaller catalogue, so that a model of only the newest items, or of many more
    items, is accepted. Items that were added after training are in both, so only the version's own are compared.
    """
    common, least = len(current.known(version.ids[: version.own])), min(version.own, current.own)
    if common >= SHARED * least:
        return None
    return f"{version.version}: has another catalogue: of its {version.own:,} items, {common:,} are served here"


def _fitting(second: Active, current: Active) -> Active:
    """The second version; a `ModelError` if its catalogue is not the current one."""
    if other := _other_catalogue(second.served, current.served):
        raise ModelError(f"{other}; name a model that was trained on the data of this service")
    return second


class Poller:
    """A thread that calls `Models.look` periodically; after a failure it tries again the next time."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="what-next-poller", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        left, reported, outage = 0.0, "", Outage("reading the store")
        while not self._stop.is_set():
            try:
                self.models.store.try_reading()
                self.models.look()
                if left <= 0:
                    self.models.count()
                    left = self.models.setup.server.popular_every
                reported = ""
                outage.worked()
            except StoreError as error:
                outage.failed(error)
            except Exception as error:
                failure = f"{type(error).__name__}: {error}"
                if failure != reported:  # logged once, not at each repetition
                    logger.exception("looking for new versions and items failed; what is deployed goes on")
                reported = failure
            self._stop.wait(LOOK)
            left -= LOOK
