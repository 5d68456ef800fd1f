"""What may be written into the store, what comes of it, and what is read from it.

Ids are external ones, as text. Times are microseconds since 1970 UTC. Rewards are in the log's own unit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from what_next.data.decisions.rule import Rule
from what_next.errors import StoreError, WhatNextError
from what_next.inference.extend import NewItem

AHEAD = 24 * 3600 * 1_000_000
"""Microseconds that a client's time may be ahead of the store's clock. One of next year would stay the latest of its
user for a year: all that really follows would count as older."""
DeploymentKind = Literal["first", "promoted", "rolled back"]


# Written


EARNED = {"play": 1.0, "purchase": 1.0, "skip": 0.0}
"""The reward of an event that has none, by its kind; of other kinds nobody knows it."""


@dataclass(frozen=True)
class EventRow:
    """Something that a person did with an item.

    Attributes:
        event_id: distinct over all users; the same event sent again changes nothing, another one under the id of a
            first is refused (`Conflict`).
        user_id, item_id: a user's is not blank.
        kind: play, skip, purchase, rating, ...
        time: at most a day ahead of the store's clock; None: now, but not before the latest event of the user.
        context: finite numbers about the event, by name, which may be any.
        recommendation_id: the answer that it follows. Such an event is feedback, too: see `rewards_of`.
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
        """As feedback: its reward, or that of its kind; None where neither tells."""
        return EARNED.get(self.kind) if self.reward is None else self.reward


@dataclass(frozen=True)
class AddEvents:
    """Events, of one person or several, in the order of arrival: all or none. Comes to `EventsAdded`, or `Conflict`.

    Those from before the erasure of their user are passed over.
    """

    rows: tuple[EventRow, ...]


@dataclass(frozen=True)
class EventsAdded:
    """What came of events.

    Attributes:
        accepted, duplicates: how many are new, and how many were there before, the same.
        unmatched: ids of those that name an answer which is not known, did not show the item, or was for another user;
            and of those that name one and have neither a reward nor one by their kind (`EARNED`). They are kept as
            events, and are no feedback.
        erased: ids of those from before their user was erased; they are not kept.
    """

    accepted: int
    duplicates: int
    unmatched: tuple[str, ...] = ()
    erased: tuple[str, ...] = ()


@dataclass(frozen=True)
class KeptResponse:
    """An answer that is given again to the same request with the same key.

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
    """What one question was answered; comes to None. A second one with the same id changes nothing.

    Comes to `Withdrawn` where an item was withdrawn meanwhile, and to `AnsweredBefore` where its `response` has the key
    of another: then it must not be shown.

    Attributes:
        user_id: whom it was for; None where nobody was named.
        version: of the model; `policy`: who answered; `fallback`: why it was the safe policy, if it was.
        items: best first; `propensities`: the chance of each, given those before it; None where unknown.
        explore: how it was drawn (temperature, epsilon, seed); numbers and texts by name.
        history: the item ids that the question gave; None where it gave none.
        key: of the user, as the answer knew it (`Head.key`). Where the user has another one by now, or none, since
            somebody had them erased meanwhile, the impression is kept without user and history. None: not checked.
        known: number of the last event of the user that the answer knew; 0: none.
        shown: False for an answer that nobody saw, as in shadow mode.
        withdrawn: number of the last change of the withdrawn items that the answer knew; 0: none.
        response: the answer, where it is to be given again; it is kept a while.
        rule: which items the question permitted; None: all of them.
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
    """Some answers went to one more client (`by` is 1), or not to one after all: it had hung up (-1). Comes to None.

    An answer is shown while more clients than none have it. A count, since two processes may write in any order.
    """

    recommendation_ids: tuple[str, ...]
    by: int


@dataclass(frozen=True)
class AddFeedback:
    """What an item of an answer brought. It is numbered in the order of the commits; see `rewards_of`.

    Comes to whether it is new, and was not there before, the same; or to `UnknownRecommendation`, `NotShown` or
    `Conflict`.

    Attributes:
        feedback_id: distinct; the same feedback sent again changes nothing, another one under its id is refused.
        recommendation_id, item_id: what was shown.
        time: at most a day ahead of the store's clock; None: now, but not before the latest feedback to this answer.
    """

    feedback_id: str
    recommendation_id: str
    item_id: str
    reward: float
    time: int | None = None


@dataclass(frozen=True)
class AddItems:
    """Items, the last one of each id counts; comes to `ItemsAdded`. Those that were withdrawn are back."""

    rows: tuple[NewItem, ...]


@dataclass(frozen=True)
class ItemsAdded:
    """How many items were taken, and how many of these the store had already and holds anew."""

    accepted: int
    replaced: int


@dataclass(frozen=True)
class WithdrawItem:
    """An item that no answer holds from then on, until it is put again; comes to whether it was not withdrawn yet."""

    item_id: str


@dataclass(frozen=True)
class EraseUser:
    """Everything of a person goes: events, impressions, feedback, the id itself; comes to `Erased`.

    A keyed hash of the id stays with the moment, so that an event from before it does not bring the person back.
    """

    user_id: str


@dataclass(frozen=True)
class Erased:
    """How much of the person there was."""

    events: int
    impressions: int
    feedback: int


@dataclass(frozen=True)
class Deploy:
    """A version of the model that answers from now on; comes to its number: 1, 2, 3, ...

    A version that answers already is not deployed a second time: it keeps its number, kind and note.

    Attributes:
        kind: how it came; `note`: what else to remember (metrics, the gate's figures), as JSON holds it.
    """

    version: str
    kind: DeploymentKind
    note: Mapping[str, object] = field(default_factory=dict)


Write = AddEvents | AddImpression | CountDeliveries | AddFeedback | AddItems | WithdrawItem | EraseUser | Deploy
Outcome = EventsAdded | ItemsAdded | Erased | bool | int | None
Results = list[Outcome | Exception]


# Refused


class InvalidWrite(StoreError):
    """A write that no store takes.

    Attributes:
        place: which of the rows of the write, from 0.
        field: of the row, as clients call it; `reason`: what is wrong with it.
    """

    def __init__(self, place: int, field: str, reason: str) -> None:
        super().__init__(f"row {place + 1}: {field} {reason}; mend it and send it again")
        self.place, self.field, self.reason = place, field, reason


class UnknownRecommendation(InvalidWrite):
    """Feedback to a recommendation that the store does not hold, or that was never shown."""

    def __init__(self) -> None:
        name = "recommendation_id"
        reason = f"there is no such recommendation; give the {name} of an answer (those of erased users are gone)"
        super().__init__(0, name, reason)


class NotShown(InvalidWrite):
    """Feedback to an item that its recommendation did not hold."""

    def __init__(self) -> None:
        super().__init__(0, "item_id", "this recommendation did not show it; give one of its items")


class Conflict(InvalidWrite):
    """An event, or feedback, under the id of another one, which is in the store already and stays as it is."""

    def __init__(self, place: int, field: str) -> None:
        reason = "is that of another one, with other content, which stays; send this one under an id of its own"
        super().__init__(place, field, reason)


class Withdrawn(WhatNextError):
    """An answer holds an item that was withdrawn while it was made: it must not be shown; ask again."""


class AnsweredBefore(WhatNextError):
    """A request with this key was answered before; that answer holds."""


def invalid(write: Write, now: int) -> InvalidWrite | None:
    """Why a write cannot be stored, by the store's clock `now`; whatever else its rows hold was checked as it came."""
    timed: Sequence[EventRow | AddFeedback] = (
        write.rows if isinstance(write, AddEvents) else (write,) if isinstance(write, AddFeedback) else ()
    )
    for place, row in enumerate(timed):
        if row.time is not None and row.time > now + AHEAD:
            return InvalidWrite(place, "timestamp", "is more than a day ahead of the clock here")
    return None


# Read


@dataclass(frozen=True, slots=True)
class Head:
    """Where a user's events end: two heads are equal just where nothing was added or erased between them.

    Attributes:
        key: of the user; a user who comes back after an erasure has a new one, and none is used twice.
        last: the number of the last event; holes are allowed, so it may exceed `events`, how many there are.
    """

    key: int
    last: int
    events: int


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An `EventRow` as the store holds it; the time is always known.

    `number` is 1, 2, 3, ... in the order of arrival, per user; whoever saw a number saw all below it.
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
    """An item that was added; it gets a new, larger `number` whenever it is replaced."""

    number: int = 0


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A change of the withdrawn items: 1, 2, 3, ...; `withdrawn` is False where the item was put again."""

    number: int
    item_id: str
    withdrawn: bool


@dataclass(frozen=True, slots=True)
class Deployment:
    """A version of the model that answered from `time` on."""

    number: int
    version: str
    kind: DeploymentKind
    time: int
    note: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Second:
    """A version beside the current one.

    Attributes:
        version: which; it lies in the folder of deployed models.
        share: of the users whom it answers, as a canary.
        shadow: whether it is asked, unseen, what the current one answers.
        salt: another one picks other users.
    """

    version: str
    share: float = 0.0
    shadow: bool = False
    salt: str = ""


@dataclass(frozen=True, slots=True)
class Key:
    """An API key: its digest, never itself."""

    name: str
    role: str
    digest: str
    created: int
    revoked: int | None
