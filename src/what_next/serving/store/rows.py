"""What is read from the store."""

from collections.abc import Mapping
from dataclasses import dataclass

from what_next.serving.store.writes import DeploymentKind


@dataclass(frozen=True, slots=True)
class Head:
    """Where a user's events end: two heads are equal just where nothing was added or erased between them.

    Attributes:
        key: of the user; a user who comes back after an erasure has a new one, and none is used twice.
        last: the number of the last event; holes are allowed, so it may exceed `events`.
        events: how many there are.
    """

    key: int
    last: int
    events: int


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as the store holds it.

    Attributes:
        number: 1, 2, 3, ... in the order of arrival, per user; whoever saw a number saw all below it.
        event_id, item_id, kind, time, reward, context, recommendation_id: as in `EventRow`; the time is always known.
    """

    number: int
    event_id: str
    item_id: str
    kind: str
    time: int
    reward: float | None
    context: dict[str, float] | None
    recommendation_id: str | None


@dataclass(frozen=True, slots=True)
class StoredImpression:
    """An answer as the store holds it: as `AddImpression`, with its `number` in the order of arrival."""

    number: int
    recommendation_id: str
    user_id: str | None
    time: int
    version: str
    policy: str
    fallback: str | None
    explore: dict[str, float | str | None]
    history: tuple[str, ...] | None
    known: int
    items: tuple[str, ...]
    propensities: tuple[float | None, ...]
    candidates: str
    shown: bool


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An item that was added; it gets a new, larger number whenever it is replaced."""

    number: int
    item_id: str
    title: str
    attributes: dict[str, float]


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A change of the withdrawn items: 1, 2, 3, ...; `withdrawn` is False where the item was put again."""

    number: int
    item_id: str
    withdrawn: bool


@dataclass(frozen=True, slots=True)
class Deployment:
    """A version of the model that answered from `time` (microseconds since 1970 UTC) on."""

    number: int
    version: str
    kind: DeploymentKind
    time: int
    note: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Key:
    """An API key: its digest, never itself. `created` and `revoked` are microseconds since 1970 UTC."""

    name: str
    role: str
    digest: str
    created: int
    revoked: int | None
