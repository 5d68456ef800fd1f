"""What may be written into the store, and what comes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from what_next.errors import StoreError, WhatNextError

DeploymentKind = Literal["first", "promoted", "rolled back"]


@dataclass(frozen=True)
class EventRow:
    """Something that a person did with an item.

    Attributes:
        event_id: distinct over all users; the same event sent again changes nothing, another one under the id of a
            first is refused (`Conflict`).
        user_id, item_id: external ids, as text; a user's is not blank.
        kind: play, skip, purchase, rating, ...
        time: microseconds since 1970 UTC, at most a day ahead of the store's clock; None: now, but not before the
            latest event of the user.
        reward: in the log's own unit.
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


@dataclass(frozen=True)
class AddEvents:
    """Events, of one person or several, in the order of arrival: all or none. Comes to `EventsAdded`, or `Conflict`.

    Those from before the erasure of their user are passed over.
    """

    events: tuple[EventRow, ...]


@dataclass(frozen=True)
class EventsAdded:
    """What came of events.

    Attributes:
        accepted, duplicates: how many are new, and how many were there before, the same.
        unmatched: ids of those that name an answer which is not known, did not show the item, or was for another user;
            they are kept as events, and are no feedback.
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
        shown: whether anybody saw it, as far as is known.
    """

    key: str
    request: str
    recommendation_id: str
    body: str
    shown: bool = True


@dataclass(frozen=True)
class AddImpression:
    """What one question was answered; comes to None. A second one with the same id changes nothing.

    Comes to `Withdrawn` where an item was withdrawn meanwhile, and to `AnsweredBefore` where its `response` has the key
    of another: then it must not be shown.

    Attributes:
        recommendation_id: names it, for feedback.
        user_id: whom it was for; None where nobody was named.
        key: of that user, as the answer knew it (`Head.key`). Where the user has another one by now, or none, since
            somebody had them erased meanwhile, the impression is kept without user and history. None: not checked.
        time: microseconds since 1970 UTC.
        version: of the model; `policy`: who answered; `fallback`: why it was the safe policy, if it was.
        explore: how it was drawn (temperature, epsilon, seed); numbers and texts by name.
        history: the item ids that the question gave; None where it gave none.
        known: number of the last event of the user that the answer knew; 0: none.
        items: the item ids, best first; `propensities`: the chance of each, given those before it; None where unknown.
        candidates: hash of what could have been chosen.
        shown: False for an answer that nobody saw, as in shadow mode.
        withdrawn: number of the last change of the withdrawn items that the answer knew; 0: none.
        response: the answer, where it is to be given again; it is kept a while.
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
    candidates: str = ""
    shown: bool = True
    withdrawn: int = 0
    response: KeptResponse | None = None


@dataclass(frozen=True)
class MarkShown:
    """Whether anybody saw some answers: whoever asked may have hung up, and may ask again. Comes to None."""

    recommendation_ids: tuple[str, ...]
    shown: bool


@dataclass(frozen=True)
class FeedbackRow:
    """What an item of an answer brought.

    Attributes:
        feedback_id: distinct; the same row sent again changes nothing, another one under its id is refused.
        recommendation_id, item_id: what was shown.
        reward: in the log's own unit.
        time: microseconds since 1970 UTC, at most a day ahead of the store's clock; None: now, but not before the
            latest feedback to the same answer.
    """

    feedback_id: str
    recommendation_id: str
    item_id: str
    reward: float
    time: int | None = None


@dataclass(frozen=True)
class AddFeedback:
    """Feedback, all of it or none; comes to `FeedbackAdded`, or to `UnknownRecommendation`, `NotShown` or `Conflict`.

    An item's reward is that of its feedback with the latest time, and among equal ones of the largest number, which is
    the order of the commits whatever the clock says: what is older and comes late replaces nothing.
    """

    rows: tuple[FeedbackRow, ...]


@dataclass(frozen=True)
class FeedbackAdded:
    """How many of the rows are new, and how many were there before, the same."""

    accepted: int
    duplicates: int


@dataclass(frozen=True)
class ItemRow:
    """An item that the catalogue did not hold, or not so.

    Attributes:
        item_id: external id, as text; `title`: what people call it.
        attributes: by name, in their own units.
    """

    item_id: str
    title: str
    attributes: Mapping[str, float]


@dataclass(frozen=True)
class AddItems:
    """Items, the last one of each id counts; comes to `ItemsAdded`. Those that were withdrawn are back."""

    items: tuple[ItemRow, ...]


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
        version: its name; `kind`: how it came.
        note: what else to remember (metrics, the gate's figures); anything that JSON holds.
    """

    version: str
    kind: DeploymentKind
    note: Mapping[str, object] = field(default_factory=dict)


Write = AddEvents | AddImpression | MarkShown | AddFeedback | AddItems | WithdrawItem | EraseUser | Deploy
Outcome = EventsAdded | FeedbackAdded | ItemsAdded | Erased | bool | int | None


class Unfit(StoreError):
    """A write that no store takes, whichever database it is in.

    Attributes:
        place: which of the rows of the write, from 0.
        field: of the row, as it is called there; `reason`: what is wrong with it.
    """

    def __init__(self, place: int, field: str, reason: str) -> None:
        super().__init__(f"row {place + 1}: {field} {reason}; mend it and send it again")
        self.place, self.field, self.reason = place, field, reason


class UnknownRecommendation(WhatNextError):
    """Feedback to a recommendation that the store does not hold, or that was never shown."""

    def __init__(self, recommendation_id: str) -> None:
        super().__init__(
            f"recommendation {recommendation_id!r} is not known; give the recommendation_id of an answer (those of a "
            "user who was erased are gone)"
        )
        self.recommendation_id = recommendation_id


class NotShown(WhatNextError):
    """Feedback to an item that its recommendation did not hold."""

    def __init__(self, recommendation_id: str, item_id: str) -> None:
        super().__init__(
            f"item {item_id!r} was not shown in recommendation {recommendation_id!r}; give one of its items"
        )
        self.recommendation_id, self.item_id = recommendation_id, item_id


class Conflict(WhatNextError):
    """An event, or feedback, under the id of another one, which is in the store already and stays as it is.

    Attributes:
        place: which of the rows of the write, from 0.
        field: the name of its id; `reason`: what is wrong with it.
    """

    def __init__(self, place: int, field: str) -> None:
        self.place, self.field = place, field
        self.reason = "is that of another one, with other content, which stays; send this one under an id of its own"
        super().__init__(f"row {place + 1}: {field} {self.reason}")


class Withdrawn(WhatNextError):
    """An answer holds an item that was withdrawn while it was made: it must not be shown; ask again."""

    def __init__(self) -> None:
        super().__init__("an item of this answer was withdrawn meanwhile; ask again")


class AnsweredBefore(WhatNextError):
    """A request with this key was answered before; that answer holds."""
