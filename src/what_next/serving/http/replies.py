"""What the service answers, as the schema tells it: the answers are built as they are, and tests hold them to this."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from what_next.serving.loop.journal import LoopLine, LoopRound
from what_next.serving.request import Fallback, PolicyName, Reason, Role, SimilarItem
from what_next.serving.store.records import DeploymentKind


class Reply(BaseModel):
    """What the service answers: it documents, and the tests hold the answers against it."""

    model_config = ConfigDict(extra="forbid")


class FieldError(Reply):
    """A field that is not as it must be."""

    field: str
    reason: str


class ErrorDetail(Reply):
    """Why a request was not answered."""

    code: str
    message: str
    fields: list[FieldError]


class Error(Reply):
    """What is answered instead."""

    error: ErrorDetail


class Recommended(Reply):
    """An item of an answer."""

    item_id: str
    title: str
    score: float | None = Field(description="what it was ranked by; null where the policy has no scores")
    propensity: float = Field(ge=0, le=1, description="chance of this choice, given those before it")
    reason: Reason | None


class ModelName(Reply):
    """Which model answered."""

    version: str
    role: Role


class Recommendations(Reply):
    """An answer."""

    recommendation_id: str = Field(description="for feedback")
    user_id: str | None
    items: list[Recommended] = Field(description="best first; fewer than k where no more are permitted")
    model: ModelName
    policy: PolicyName
    fallback: Fallback | None = Field(description="why popular items were the answer; null where they were not")
    unknown: list[str] = Field(description="ids of the given history that the catalogue does not hold")
    known_events: int = Field(ge=0, description="number of stored events of the user that the answer knew")
    spread: float | None = Field(
        description="of the last 20 events, in the catalogue's standard deviations; null below 3, or without attributes"
    )


class RecommendationsBatch(Reply):
    """An answer, or an error, for each question, in their order."""

    answers: list[Recommendations | Error]


class EventsKept(Reply):
    """What came of events."""

    accepted: int = Field(ge=0, description="new ones, now durable")
    duplicates: int = Field(ge=0, description="that were there before; they change nothing")
    unknown_items: list[str] = Field(description="items that the catalogue does not hold; their events are kept too")
    unmatched: list[str] = Field(
        description="event_ids whose recommendation_id is not known, did not show the item, or was for another user, "
        "or that have one, a kind of your own and no reward; these events are kept too, and are no feedback"
    )
    erased: list[str] = Field(description="event_ids from before their user was erased; these are not kept")


class FeedbackKept(Reply):
    """What came of feedback."""

    accepted: int = Field(ge=0)
    duplicates: int = Field(ge=0, description="that was there before; it changes nothing")


class RefusedFeedback(Reply):
    """Feedback of a batch that was not kept."""

    index: int = Field(ge=0, description="its place in the batch, from 0")
    code: Literal["not_found", "invalid", "conflict"]
    message: str


class FeedbackBatchKept(FeedbackKept):
    """What came of each; what was refused may be mended and sent again."""

    refused: list[RefusedFeedback]


class ItemReply(Reply):
    """An item of the catalogue."""

    item_id: str
    title: str
    attributes: dict[str, float]
    tags: dict[str, list[str]]


class FoundItems(Reply):
    """Items that were found."""

    items: list[ItemReply]


class SimilarItems(Reply):
    """The items most like one, best first."""

    items: list[SimilarItem]


class ItemsKept(Reply):
    """The items can be recommended from now on."""

    accepted: int = Field(description="how many different ones")
    replaced: int = Field(description="of them, those whose id the catalogue held before, of the training or added")


class ItemWithdrawn(Reply):
    """The item is recommended no longer."""

    withdrawn: int = Field(description="1; 0 where it was withdrawn before")


class Users(Reply):
    """Ids of users that have events."""

    users: list[str]


class PastEvent(Reply):
    """An event as the store holds it; the timestamp in microseconds since 1970 (UTC)."""

    event_id: str
    item_id: str
    title: str | None = Field(description="null where the catalogue does not hold the item")
    event: str
    timestamp: int
    reward: float | None


class Topic(Reply):
    """How much of a topic somebody has had."""

    topic: str
    plays: int = Field(ge=0, description="that are remembered")
    rest: int = Field(ge=0, description="songs for which it bores yet; 0: it does not")


class Boredom(Reply):
    """What bores, by the law of the world that is served."""

    threshold: int = Field(gt=0, description="remembered plays of a topic that bore")
    topics: list[Topic]


class History(Reply):
    """A user's events, newest first."""

    user_id: str
    events: list[PastEvent]
    total: int = Field(ge=0, description="how many there are in all")
    spread: list[float | None] = Field(
        description="spread after each of the last 20 events, oldest first; null below 3 events or without attributes"
    )
    boredom: Boredom | None = Field(description="in what-next demo, whose listeners are simulated; null elsewhere")


class Erased(Reply):
    """How much of the user there was."""

    events: int
    impressions: int
    feedback: int


class Deployed(Reply):
    """How the version came."""

    number: int
    kind: DeploymentKind
    time: str


class Second(Reply):
    """A second model beside the one that answers."""

    version: str
    share: float | None = Field(default=None, description="of the users that it answers")


class RefusedVersion(Reply):
    """A deployed version that cannot be loaded; the one before goes on."""

    version: str
    reason: str


class Model(Reply):
    """What answers."""

    version: str
    run: str = Field(description="of the training that made it")
    algorithm: str
    encoder: str
    trained_on: int = Field(description="histories that it was trained on")
    items: int
    left_out: int = Field(description="items that were added, and that it cannot take: they have other attributes")
    withdrawn: int = Field(description="items that it knows, and does not recommend")
    attributes: list[str]
    tags: list[str] = Field(description="their kinds, such as artist")
    metrics: dict[str, Any] | None
    search: Literal["exact", "approximate"]
    critic: bool = Field(description="whether it tells what an item is worth")
    deployed: Deployed
    canary: Second | None
    shadow: Second | None
    unfit: RefusedVersion | None = Field(
        description="the second model, by its file, where it cannot be loaded, or is of other items"
    )
    refused: RefusedVersion | None


class ArmEarned(Reply):
    """What an arm earned."""

    name: str = Field(description="a policy, or the version of a model")
    users: int = Field(ge=0)
    answers: int = Field(ge=0)
    reward: float | None = Field(description="of an answer, on average; null: there was none")


class Difference(Reply):
    """How much more an answer of the second arm earned; null: too few users to say."""

    mean: float | None
    low: float | None
    high: float | None


class Experiment(Reply):
    """Two policies that share the users."""

    name: str
    share: float = Field(gt=0, le=1, description="of the users whom the second one answers")
    arms: list[ArmEarned] = Field(min_length=2, max_length=2)
    difference: Difference = Field(description="the second arm less the first; its bounds hold at any number of looks")
    level: float = Field(description="of the bounds, in percent")
    verdict: str | None = Field(description="the arm that is better; null: undecided as yet")
    assumes: str = Field(description="what the bounds rest on")
    since: str | None = Field(
        description="when the first answer that counts was given: the first at this share; null: there is none"
    )
    time: str = Field(description="when it was looked at")


class Experiments(Reply):
    """The experiment, or the canary."""

    experiment: Experiment | None = Field(description="null: there is none, or it was not looked at yet")


class LoopStatus(Reply):
    """What the loop did and measured; empty lists where none works on this store."""

    rounds: list[LoopRound] = Field(description="the latest ones, newest first")
    numbers: dict[str, float]
    lines: list[LoopLine] = Field(description="the latest 50, newest first")


class Health(Reply):
    """The process lives."""

    status: Literal["ok"]


class Ready(Reply):
    """Model, store and popular items are there."""

    ready: Literal[True]
