"""The versions that answer now, the deployed one and an optional second one, with their sessions and item counts."""

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from cachetools import LRUCache, cachedmethod
from jaxtyping import Int32

from what_next.baselines.rules import Popular, RandomItem
from what_next.data.decisions.rule import Rule
from what_next.errors import ModelError, some
from what_next.policy import refuse_acting
from what_next.serving.bodies import Question
from what_next.serving.engine.cache import SessionCache
from what_next.serving.engine.served import Served
from what_next.serving.engine.versions import check, folder_of, versions_folder
from what_next.serving.metrics import Metrics
from what_next.serving.request import Refused, Role
from what_next.serving.store import Deployment, Second, Store
from what_next.settings import Setup
from what_next.training.artefacts import read_manifest
from what_next.types import ItemSet

Ids = tuple[str, ...]
KEPT = 64
"""Most cached masks: a page repeats the same mask in many requests."""


class Withdrawals:
    """The withdrawn items according to the store; thread-safe.

    Attributes:
        now: the number of the latest change (0 before the first) and the ids; replaced as a whole.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.now: tuple[int, frozenset[str]] = (0, frozenset())
        self._lock = threading.Lock()

    def look(self) -> None:
        """Read new withdrawals and re-additions, by this or another process, from the store.

        Raises:
            StoreUnavailable: the store cannot be read now.
        """
        with self._lock:
            number, before = self.now
            if changes := self.store.withdrawals_after(number):
                ids = set(before)
                for change in changes:
                    (ids.add if change.withdrawn else ids.discard)(change.item_id)
                self.now = changes[-1].number, frozenset(ids)


@dataclass(frozen=True, eq=False)
class Mask(ItemSet):
    """The permitted items; `rule` defines them for any catalogue."""

    rule: Rule


class Active:
    """A version that answers for one role. Only `popular` is replaced, and the withdrawn items change.

    Attributes:
        served: the version.
        sessions: of users, for this version's model.
        popular: the popularity policy on its catalogue.
    """

    def __init__(
        self,
        served: Served,
        store: Store,
        size: int,
        metrics: Metrics,
        counted: Mapping[str, int],
        withdrawals: Withdrawals,
    ) -> None:
        self.served, self._withdrawals = served, withdrawals
        self._out: tuple[object, Int32[np.ndarray, withdrawn]] = (None, np.zeros(0, np.int32))
        self.sessions = SessionCache(served, store, size, metrics)
        self.anything = RandomItem(len(served.ids))
        self._masks: LRUCache[object, Mask] = LRUCache(KEPT)
        self._lock = threading.Lock()
        self.count(counted)

    def count(self, counted: Mapping[str, int]) -> None:
        """Set the number of events of each item; items outside the catalogue are ignored."""
        counts = np.zeros(len(self.served.ids), np.int64)
        for name, count in counted.items():
            if (place := self.served.places.get(name)) is not None:
                counts[place] = count
        self.popular = Popular(counts)

    @property
    def withdrawn(self) -> tuple[int, Int32[np.ndarray, "withdrawn"]]:
        """The number of the latest change of the withdrawn items, and the positions of these items."""
        known, places = self._out
        if (now := self._withdrawals.now) is not known:
            self._out = now, (places := np.sort(self.served.known(now[1])))
        return now[0], places

    def mask(self, request: Question) -> Mask | None:
        """The items that a question permits; None: all.

        Unknown ids are ignored; bounds of ranges are inclusive and in the attributes' own units; an item must have one
        of the given tags of each kind.

        Raises:
            Refused: an attribute or a kind of tags is unknown, a range is empty, or no item is left.
        """
        if request.allowed is None and not (request.blocked or request.ranges or request.tags):
            return None
        ranges = [(name, one.ends) for name, one in sorted((request.ranges or {}).items())]
        tags = [(kind, tuple(words)) for kind, words in sorted((request.tags or {}).items())]
        return self._mask(request.allowed, request.blocked or (), tuple(ranges), tuple(tags))

    @cachedmethod(lambda self: self._masks, lock=lambda self: self._lock)
    def _mask(
        self,
        allowed: Ids | None,
        blocked: Ids,
        ranges: tuple[tuple[str, tuple[float, float]], ...],
        tags: tuple[tuple[str, Ids], ...],
    ) -> Mask:
        names, kinds = self.served.catalogue.names, self.served.catalogue.kinds
        for name, (low, high) in ranges:
            if name not in names:
                raise Refused("ranges", f"{name!r} is no attribute; there are {some(names) or 'none'}")
            if low > high:
                raise Refused("ranges", f"of {name!r}, min is {low:g} and above max, which is {high:g}; swap them")
        for kind, _ in tags:
            if kind not in kinds:
                raise Refused("tags", f"{kind!r} is no kind of tags; there are {some(kinds) or 'none'}")
        rule = Rule(allowed, blocked, dict(ranges), dict(tags))
        permitted = rule.mask(self.served.catalogue)
        if not permitted.any():
            raise self._nothing_left(rule)
        return Mask(permitted, rule)

    def _nothing_left(self, rule: Rule) -> Refused:
        """The refusal that names the field because of which no item is left."""
        catalogue = self.served.catalogue
        if rule.allowed == ():
            return Refused("allowed", "is empty, so that no item may be recommended; name ids, or leave it out")
        if rule.allowed is not None and not len(catalogue.held(rule.allowed)):
            return Refused("allowed", f"none of these {len(rule.allowed):,} ids is in the catalogue; name others")
        if not replace(rule, blocked=(), tags={}).mask(catalogue).any():
            return Refused("ranges", "no item that is allowed lies within them; widen them")
        if not replace(rule, blocked=()).mask(catalogue).any():
            return Refused("tags", "no item that is allowed has one of each kind; name others")
        return Refused("blocked", "no item is left that is not blocked; block fewer")


@dataclass(frozen=True, eq=False)
class Live:
    """An immutable snapshot of the versions; a batch uses the same one until its end, whatever is deployed meanwhile.

    Attributes:
        deployment: the deployment of the current version; `current`: that version.
        candidate: the second version, for canary or shadow; `second`: how it is used.
        refused: a deployed version that could not be loaded, and why; None: there is none.
        unfit: the second version (or its file) if it could not be loaded or has another catalogue, and why; None: it is
            fit, or there is none.
    """

    deployment: Deployment
    current: Active
    candidate: Active | None
    refused: tuple[str, str] | None = None
    unfit: tuple[str, str] | None = None
    second: Second | None = None

    def role(self, user: str | None) -> Role:
        """Which version answers a user: the second one for a fixed share of the users."""
        second = self.second
        if self.candidate is None or second is None or user is None or point(second.salt + user) >= second.share:
            return "current"
        return "canary"

    def of(self, role: Role) -> Active:
        """The version that answers for a role."""
        return self.current if role == "current" or self.candidate is None else self.candidate

    @property
    def shadow(self) -> bool:
        """Whether the second version gets the current one's questions, too, without users seeing its answers."""
        return self.candidate is not None and self.second is not None and self.second.shadow

    def describe(self, setup: Setup) -> dict[str, Any]:
        """The deployed version, its training, and the second version, as plain values."""
        served, settings, candidate = self.current.served, setup.server, self.candidate
        manifest = served.manifest
        second = None if candidate is None else candidate.served.version
        share = self.second.share if self.second else 0.0
        return {
            "version": served.version,
            "run": manifest.run,
            "algorithm": manifest.setup["algorithm"]["name"],
            "encoder": manifest.setup["model"],
            "trained_on": manifest.histories,
            "items": len(served.ids),
            "left_out": len(served.left_out),
            "withdrawn": len(self.current.withdrawn[1]),
            "attributes": list(served.catalogue.names),
            "tags": served.catalogue.kinds,
            "metrics": manifest.metrics,
            "search": settings.search,
            "critic": served.policy.agent.setup.model_critic_path is not None,
            "deployed": {
                "number": self.deployment.number,
                "kind": self.deployment.kind,
                "time": datetime.fromtimestamp(self.deployment.time / 1e6, UTC).isoformat().replace("+00:00", "Z"),
            },
            "canary": {"version": second, "share": share} if second and share else None,
            "shadow": {"version": second} if self.shadow else None,
            "unfit": None if self.unfit is None else {"version": self.unfit[0], "reason": self.unfit[1]},
            "refused": None if self.refused is None else {"version": self.refused[0], "reason": self.refused[1]},
        }


def point(user: str) -> float:
    """A hash of a text to a number in [0, 1), for example of a user's id."""
    return int.from_bytes(hashlib.blake2b(user.encode(), digest_size=8).digest(), "big") / 2**64


def check_models(setup: Setup, store: Store | None) -> None:
    """Raise a `ModelError` if the engine of a setup cannot start: its model is invalid, or the second one is missing.

    `store`: None if there is none yet.
    """
    if store is None or not store.deployments():
        check(setup.model_agent_path)
        made = read_manifest(setup.model_agent_path, "agent").made_by(type(setup.algorithm))
        refuse_acting(made.model_copy(update={"model_agent_path": setup.model_agent_path}))
    check_second(setup)


def check_second(setup: Setup) -> None:
    """Raise a `ModelError` if the second model that a setup names is missing."""
    agent, tried = setup.server.candidate, setup.server.tried
    if agent is not None and not agent.is_file():
        raise ModelError(f"{agent}: no such model file, and server.candidate names it; train it, or leave that out")
    if tried is not None and not folder_of(folder := versions_folder(setup), tried).is_dir():
        raise ModelError(
            f"{tried}: no such version in {folder}, and server.experiment names it; name one that was deployed "
            "(GET /v1/model tells the current one's), or trained, popular, random or candidate"
        )
