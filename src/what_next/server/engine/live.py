"""What answers now: the deployed version, the second one, and their change while requests are under way."""

import hashlib
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from what_next.errors import ModelError, StoreError, WhatNextError
from what_next.server.engine.active import Active, Counted
from what_next.server.engine.observer import Observer
from what_next.server.engine.popular import Popular
from what_next.server.engine.served import Served
from what_next.server.engine.versions import check, keep, line, versions_folder
from what_next.server.engine.withdrawals import Withdrawals
from what_next.server.store import Deploy, Deployment, Episode, Store, StoredItem
from what_next.settings import Setup

logger = logging.getLogger("what_next.server")

EVERY_ITEM = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Live:
    """What a batch of questions is answered by; it holds on to it until its end, whatever is deployed meanwhile.

    Attributes:
        deployment: how the current version came; `current`: that version.
        candidate: the second one, for canary or shadow.
        refused: the version that could not be loaded, and why; None: there is none.
    """

    deployment: Deployment
    current: Active
    candidate: Active | None
    refused: tuple[str, str] | None = None

    def of(self, user: str | None, share: float) -> tuple[Active, Literal["current", "canary"]]:
        """Who answers a user: the second version for a share of them, always the same ones."""
        if self.candidate is None or user is None or not share or _point(user) >= share:
            return self.current, "current"
        return self.candidate, "canary"


def _point(user: str) -> float:
    """Where a user stands between 0 and 1."""
    return int.from_bytes(hashlib.blake2b(user.encode(), digest_size=8).digest(), "big") / 2**64


def check_models(setup: Setup, store: Store) -> None:
    """Raises a `ModelError` where a model cannot be deployed that the engine of a setup would begin with."""
    first = None if store.deployments() else setup.model_agent_path
    for agent in (first, setup.server.candidate):
        if agent is not None:
            check(agent)


class Models:
    """Keeps `live` as the store says: deployments and new items, also those that other processes made.

    Attributes:
        live: replaced as a whole; readers take it once for each batch.
        counted: whether the popular items are known.
    """

    live: Live
    counted = False

    def __init__(self, setup: Setup, store: Store, observer: Observer) -> None:
        """Loads the current version; the first time, that of the setup is deployed.

        Raises:
            ModelError: no deployed version can be loaded, or the second one cannot.
        """
        self.setup, self.store, self.observer = setup, store, observer
        self.folder = versions_folder(setup)
        self._changing, self._swapping = threading.Lock(), threading.Lock()
        self._items: dict[str, StoredItem] = {}
        self._last_item = 0
        self._counted: Counted = []
        self.withdrawals = Withdrawals(store)
        self.withdrawals.look()
        self._note_items()
        self._seen, self.live = self._opened()

    # Opening

    def _opened(self) -> tuple[int, Live]:
        deployments = self.store.deployments()
        if not deployments:
            version = keep(self.folder, self.setup.model_agent_path)
            outcome = self.store.commit([Deploy(version, "first", {"agent": self.setup.model_agent_path.name})])[0]
            if isinstance(outcome, Exception):
                raise outcome
            deployments = self.store.deployments()
        candidate = None
        if self.setup.server.candidate is not None:
            candidate = self._load(keep(self.folder, self.setup.server.candidate))
        refused: tuple[str, str] | None = None
        for version in reversed(line(deployments)):
            try:
                current = self._load(version)
            except WhatNextError as error:
                refused = refused or (version, str(error))
                logger.error("version %s was refused: %s", version, error)
                continue
            newest = [one for one in deployments if one.version == version][-1]
            return deployments[-1].number, Live(newest, current, candidate, refused)
        assert refused is not None
        raise ModelError(f"no deployed version can be loaded; the current one, {refused[0]}: {refused[1]}")

    def _load(self, version: str) -> Active:
        """A version with all items of the store, warmed up.

        Raises:
            ModelError: a file is missing or damaged, or the model does not answer.
        """
        try:
            served = Served.load(self.folder, version).grown(list(self._items.values()))
            if self.setup.server.search == "approximate":
                served = served.indexed()
            return self._active(served.warm())
        except WhatNextError:
            raise
        except Exception as error:
            raise ModelError(f"{version}: does not answer ({type(error).__name__}: {error}); train again") from error

    def _active(self, served: Served) -> Active:
        size = self.setup.server.sessions
        return Active(served, self.store, size, self.observer, self._counted, self.withdrawals)

    # What changes

    def look(self) -> None:
        """Takes up a new deployment, and items that are new or withdrawn, where there are any.

        Raises:
            StoreUnavailable: the store cannot be read now.
        """
        self.grow()
        self.withdrawals.look()
        deployments = self.store.deployments()
        if deployments and deployments[-1].number != self._seen:
            self._deploy(deployments[-1])
            self._seen = deployments[-1].number

    def _deploy(self, newest: Deployment) -> None:
        """Load a version, which may take a while, then put it in its place."""
        if newest.version == self.live.current.served.version:
            with self._changing:
                self.live = replace(self.live, deployment=newest, refused=None)
            return
        last = self._last_item
        try:
            current = self._load(newest.version)
        except WhatNextError as error:
            logger.error("version %s was refused, %s goes on: %s", newest.version, self.live.deployment.version, error)
            with self._changing:
                self.live = replace(self.live, refused=(newest.version, str(error)))
            return
        with self._changing:
            if missed := [item for item in self._items.values() if item.number > last]:
                current = self._active(current.served.grown(missed).warm())
            self.live = replace(self.live, deployment=newest, current=current, refused=None)
        self.observer.swapped(newest.version)
        logger.info("version %s answers from now on", newest.version)

    def grow(self) -> None:
        """Takes up new items of the store: they can be recommended in the next answer.

        Raises:
            StoreUnavailable: the store cannot be read now.
        """
        with self._changing:
            last, live = self._last_item, self.live
            if not (new := self._note_items()):
                return
            try:
                current = self._active(live.current.served.grown(new).warm())
                candidate = live.candidate and self._active(live.candidate.served.grown(new).warm())
            except BaseException:
                self._last_item = last  # they are tried anew
                raise
            self._take_over(replace(live, current=current, candidate=candidate), new)

    def _take_over(self, live: Live, items: Sequence[StoredItem] = ()) -> None:
        """The same versions, with further items or another index, and with their sessions, where they hold on.

        Under the lock, so that no user is forgotten by the old ones alone.
        """
        with self._swapping:
            for old, new in ((self.live.current, live.current), (self.live.candidate, live.candidate)):
                if old is None or new is None or new is old:
                    continue
                if all(item.item_id not in old.served.places for item in items):
                    new.sessions.adopt(old.sessions)
            self.live = live

    def forget(self, user_id: str) -> None:
        """Let go of a user's session."""
        with self._swapping:
            for active in (self.live.current, self.live.candidate):
                if active is not None:
                    active.sessions.drop(user_id)

    def _note_items(self) -> Sequence[StoredItem]:
        """The items that came since the last look."""
        new = self.store.items_after(self._last_item)
        for item in new:
            self._items[item.item_id] = item
            self._last_item = max(self._last_item, item.number)
        return new

    def count(self) -> None:
        """Counts popular items anew.

        Raises:
            StoreUnavailable: the store cannot be read now.
        """
        self._counted = self.store.popular(EVERY_ITEM)
        with self._changing:
            for active in (self.live.current, self.live.candidate):
                if active is not None:
                    active.popular = Popular.of(self._counted, active.served.places)
        self.counted = True

    def refresh_index(self) -> None:
        """Builds the index of approximate search anew where more items came since than a search finds."""
        for role in ("current", "candidate"):
            old: Active | None = getattr(self.live, role)
            if old is None or old.served.later <= self.setup.server.candidates:
                continue
            new = self._active(old.served.indexed().warm())
            with self._changing:
                if getattr(self.live, role) is old:
                    changes: dict[str, Any] = {role: new}
                    self._take_over(replace(self.live, **changes))


class Poller:
    """A thread that looks every so often; what it cannot do now is done the next time."""

    def __init__(self, models: Models, every: float = 1.0) -> None:
        self.models, self.every = models, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="what-next-poller", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        left, told, episode = 0.0, "", Episode("reading the store")
        while not self._stop.is_set():
            try:
                self.models.look()
                if left <= 0:
                    self.models.count()
                    self.models.refresh_index()
                    left = self.models.setup.server.popular_every
                told = ""
                episode.worked()
            except StoreError as error:
                episode.failed(error)
            except Exception as error:
                told = self._tell(error, told)
            self._stop.wait(self.every)
            left -= self.every

    def _tell(self, error: Exception, told: str) -> str:
        """Log a failure once, however often it comes again; returns what has to be remembered for that."""
        failure = f"{type(error).__name__}: {error}"
        if failure != told:
            logger.exception("looking for new versions and items failed; what is deployed goes on")
        return failure
