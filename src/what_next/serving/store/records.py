"""Writes to the store, their outcomes and refusals, and the records that are read from it.

Ids are external ones, as text. Times are microseconds since 1970 UTC. Rewards are in the log's own unit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from what_next.data.decisions.rule import Rule
from what_next.errors import StoreError, WhatNextError
from what_next.inference.extend import NewItem

AHEAD = 24 * 3600 * 1_000_000
"""Microseconds that a client's time may be ahead of the store's clock. An event dated next year would remain its user's
latest for a year, and all real later events would count as older."""
DeploymentKind = Literal["first", "promoted", "rolled back"]


# Written


EARNED = {"play": 1.0, "purchase": 1.0, "skip": 0.0}
"""The reward, as feedback, of an event without its own, by kind; for other kinds it is unknown."""


@dataclass(frozen=True)
class EventRow:
    """An event of a user with an item.

    Attributes:
        event_id: unique over all users; the same event sent again changes nothing, a different one under a known id is
            refused (`Conflict`).
        user_id, item_id: ids; the user's must not be blank.
        kind: play, skip, purchase, rating, ...
        time: at most a day ahead of the store's clock; None: now, but not before the latest event of the user.
        context: finite numbers about the event, by any names.
        recommendation_id: the answer that led to it. Such an event is also feedback: see `rewards_of`.
    """

    event_id: str
    user_id: str
    item_id: str
    kind: str = "play"
    time: int | None = None
    reward: float | None = None
    context: Mapping[str, float] | None = None
    recommendation_id: str | None = None

    @property
    def worth(self) -> float | None:
        """Its reward as feedback: its own, else that of its kind; None if both are unknown."""
        return EARNED.get(self.kind) if self.reward is None else self.reward


@dataclass(frozen=True)
class AddEvents:
    """Add events of any users, in the order of arrival: all or none. The outcome is `EventsAdded` or `Conflict`.

    Events from before the erasure of their user are skipped.
    """

    rows: tuple[EventRow, ...]


@dataclass(frozen=True)
class EventsAdded:
    """The outcome of `AddEvents`.

    Attributes:
        accepted, duplicates: the numbers of new events, and of events that were stored before.
        unmatched: ids of events that name an answer but do not count as feedback: the answer is unknown, did not show
            the item, or was for another user; or the event has no reward (`worth`). They are stored as events.
        erased: ids of events from before their user was erased; they are not stored.
    """

    accepted: int
    duplicates: int
    unmatched: tuple[str, ...] = ()
    erased: tuple[str, ...] = ()


@dataclass(frozen=True)
class KeptResponse:
    """A stored answer, for repetitions of the same request with the same idempotency key.

    Attributes:
        key, request: hashes of the caller's key and of the request.
        recommendation_id: of the answer; `body`: the answer in JSON.
    """

    key: str
    request: str
    recommendation_id: str
    body: str


@dataclass(frozen=True)
class AddImpression:
    """Add the impression of an answer; the outcome is None. A second one with the same id changes nothing.

    The outcome is `Withdrawn` if one of its items was withdrawn meanwhile, and `AnsweredBefore` if another answer has
    the key of its `response`: then the answer must not be shown.

    Attributes:
        user_id: the user it was for; None for an unnamed one.
        version: of the model; `policy`: that answered; `fallback`: why popular items were the answer, if they were.
        items: best first; `propensities`: the chance of each, given those before it; None if unknown.
        explore: how the items were drawn (temperature, epsilon, seed); numbers and texts by name.
        history: the item ids in the question; None if it had none.
        key: of the user when the answer was made (`Head.key`). If the user has another key by now, or none, because of
            an erasure, the impression is stored without user and history. None: not checked.
        known: number of the user's last event that the answer knew; 0: none.
        shown: False for an answer that nobody saw, as in shadow mode.
        withdrawn: number of the last change of the withdrawn items that the answer knew; 0: none.
        response: the answer, to be repeated under its idempotency key for a while.
        rule: which items the question permitted; None: all.
    """

    recommendation_id: str
    user_id: str | None
    time: int
    version: str
    policy: str
    items: tuple[str, ...]
    propensities: tuple[float | None, ...]
    fallback: str | None = None
    explore: Mapping[str, float | str | None] = field(default_factory=dict)
    history: tuple[str, ...] | None = None
    key: int | None = None
    known: int = 0
    shown: bool = True
    withdrawn: int = 0
    response: KeptResponse | None = None
    rule: Rule | None = None


@dataclass(frozen=True)
class CountDeliveries:
    """Count one more client that got some answers (`by` is 1), or one less because it hung up (-1); outcome: None.

    An answer counts as shown while at least one client has it. A count, not a flag, because two processes may write in
    any order.
    """

    recommendation_ids: tuple[str, ...]
    by: int


@dataclass(frozen=True)
class AddFeedback:
    """Add the reward of an item of an answer; feedback is numbered in the order of the commits, see `rewards_of`.

    The outcome is True if it is new and False if the same was stored before; or `UnknownRecommendation`, `NotShown` or
    `Conflict`.

    Attributes:
        feedback_id: unique; the same feedback sent again changes nothing, different feedback under its id is refused.
        recommendation_id, item_id: the answer, and the item that it showed.
        time: at most a day ahead of the store's clock; None: now, but not before the latest feedback to this answer.
    """

    feedback_id: str
    recommendation_id: str
    item_id: str
    reward: float
    time: int | None = None


@dataclass(frozen=True)
class AddItems:
    """Add or replace items; the last one of each id counts. The outcome is `ItemsAdded`. Ends their withdrawal."""

    rows: tuple[NewItem, ...]


@dataclass(frozen=True)
class ItemsAdded:
    """The number of items that were stored, and how many of these replaced items of the store."""

    accepted: int
    replaced: int


@dataclass(frozen=True)
class WithdrawItem:
    """Exclude an item from all answers until it is added again. The outcome is whether it was not withdrawn before."""

    item_id: str


@dataclass(frozen=True)
class EraseUser:
    """Delete everything of a user: events, impressions, feedback, the id itself. The outcome is `Erased`.

    A keyed hash of the id is kept with the time, so that a late event from before it does not bring the user back.
    """

    user_id: str


@dataclass(frozen=True)
class Erased:
    """The numbers of deleted rows."""

    events: int
    impressions: int
    feedback: int


@dataclass(frozen=True)
class Deploy:
    """Deploy a version of the model; the outcome is the number of the deployment: 1, 2, 3, ...

    The current version is not deployed a second time: it keeps its number, kind and note.

    Attributes:
        kind: of the deployment; `note`: further facts (metrics, the gate's results), as JSON values.
    """

    version: str
    kind: DeploymentKind
    note: Mapping[str, object] = field(default_factory=dict)


Write = AddEvents | AddImpression | CountDeliveries | AddFeedback | AddItems | WithdrawItem | EraseUser | Deploy
Outcome = EventsAdded | ItemsAdded | Erased | bool | int | None
Results = list[Outcome | Exception]


# Refusals


class InvalidWrite(StoreError):
    """An invalid write.

    Attributes:
        place: index of the row in the write, from 0.
        field: of the row, by its name in requests; `reason`: what is wrong with it.
    """

    def __init__(self, place: int, field: str, reason: str) -> None:
        super().__init__(f"row {place + 1}: {field} {reason}; mend it and send it again")
        self.place, self.field, self.reason = place, field, reason


class UnknownRecommendation(InvalidWrite):
    """Feedback to a recommendation that is not in the store, or was never shown."""

    def __init__(self) -> None:
        name = "recommendation_id"
        reason = f"there is no such recommendation; give the {name} of an answer (those of erased users are gone)"
        super().__init__(0, name, reason)


class NotShown(InvalidWrite):
    """Feedback to an item that was not in its recommendation."""

    def __init__(self) -> None:
        super().__init__(0, "item_id", "this recommendation did not show it; give one of its items")


class Conflict(InvalidWrite):
    """An event or feedback under the id of a different, stored one, which is not changed."""

    def __init__(self, place: int, field: str) -> None:
        reason = "is that of another one, with other content, which stays; send this one under an id of its own"
        super().__init__(place, field, reason)


class Withdrawn(WhatNextError):
    """An item of an answer was withdrawn while the answer was made: it must not be shown; ask again."""


class AnsweredBefore(WhatNextError):
    """A request with this idempotency key was answered before; that answer is valid."""


def invalid(write: Write, now: int) -> InvalidWrite | None:
    """Why a write cannot be stored, by the store's clock `now`; everything else was checked with the request."""
    timed: Sequence[EventRow | AddFeedback] = (
        write.rows if isinstance(write, AddEvents) else (write,) if isinstance(write, AddFeedback) else ()
    )
    for place, row in enumerate(timed):
        if row.time is not None and row.time > now + AHEAD:
            return InvalidWrite(place, "timestamp", "is more than a day ahead of the clock here")
    return None


# Reads


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a user's events: two heads are equal if and only if nothing was added or erased in between.

    Attributes:
        key: of the user; a user who comes back after an erasure gets a new one, and keys are never reused.
        last: the number of the last event; numbers may have gaps, so it may exceed `events`, the number of events.
    """

    key: int
    last: int
    events: int


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An `EventRow` in the store; its time is always known.

    `number` is 1, 2, 3, ... in the order of arrival, per user; a reader who sees a number sees all lower ones.
    """

    number: int
    event_id: str
    item_id: str
    kind: str
    time: int
    reward: float | None
    context: dict[str, float] | None
    recommendation_id: str | None


@dataclass(frozen=True)
class StoredItem(NewItem):
    """An added item; it gets a new, larger `number` whenever it is replaced."""

    number: int = 0


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A change of the withdrawn items, numbered 1, 2, 3, ...; `withdrawn` is False if the item was added again."""

    number: int
    item_id: str
    withdrawn: bool


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment: the version answers from `time` on."""

    number: int
    version: str
    kind: DeploymentKind
    time: int
    note: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Second:
    """A second version beside the current one.

    Attributes:
        version: its name in the folder of deployed models.
        share: of the users that it answers, as a canary.
        shadow: whether it gets the current one's questions, too, without users seeing its answers.
        salt: another salt selects other users.
    """

    version: str
    share: float = 0.0
    shadow: bool = False
    salt: str = ""


@dataclass(frozen=True, slots=True)
class Key:
    """An API key; only its hash is stored."""

    name: str
    role: str
    digest: str
    created: int
    revoked: int | None
