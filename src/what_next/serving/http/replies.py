"""The schema of the service's answers. They are built without these models; tests check them against the models."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from what_next.serving.loop.journal import LoopLine, LoopRound
from what_next.serving.request import Fallback, PolicyName, Reason, Role, SimilarItem
from what_next.serving.store.records import DeploymentKind


class Reply(BaseModel):
    """The schema of an answer, for documentation and tests."""

    model_config = ConfigDict(extra="forbid")


class FieldError(Reply):
    """An invalid field."""

    field: str
    reason: str


class ErrorDetail(Reply):
    """Why a request was not answered."""

    code: str
    message: str
    fields: list[FieldError]


class Error(Reply):
    """An error response."""

    error: ErrorDetail


class Recommended(Reply):
    """An item of an answer."""

    item_id: str
    title: str
    score: float | None = Field(description="what it was ranked by; null if the policy has no scores")
    propensity: float = Field(ge=0, le=1, description="chance of this choice, given the choices before it")
    reason: Reason | None


class ModelName(Reply):
    """Which model answered."""

    version: str
    role: Role


class Recommendations(Reply):
    """An answer."""

    recommendation_id: str = Field(description="for feedback")
    user_id: str | None
    items: list[Recommended] = Field(description="best first; fewer than k if no more are permitted")
    model: ModelName
    policy: PolicyName
    fallback: Fallback | None = Field(description="why popular items are the answer; null if they are not a fallback")
    unknown: list[str] = Field(description="ids of the given history that are not in the catalogue")
    known_events: int = Field(ge=0, description="number of stored events of the user that the answer knew")
    spread: float | None = Field(
        description="of the last 20 events, in the catalogue's standard deviations; null below 3, or without attributes"
    )


class RecommendationsBatch(Reply):
    """An answer, or an error, for each question, in their order."""

    answers: list[Recommendations | Error]


class EventsKept(Reply):
    """The outcome of sent events."""

    accepted: int = Field(ge=0, description="number of new events, now durable")
    duplicates: int = Field(ge=0, description="number of events that were stored before; they change nothing")
    unknown_items: list[str] = Field(description="items that are not in the catalogue; their events are kept, too")
    unmatched: list[str] = Field(
        description="event_ids whose recommendation_id is unknown, did not show the item, or was for another user; or "
        "that have one, a kind of your own and no reward. These events are kept, but do not count as feedback"
    )
    erased: list[str] = Field(description="event_ids from before their user was erased; these are not kept")


class FeedbackKept(Reply):
    """The outcome of sent feedback."""

    accepted: int = Field(ge=0)
    duplicates: int = Field(ge=0, description="feedback that was stored before; it changes nothing")


class RefusedFeedback(Reply):
    """Feedback of a batch that was not kept."""

    index: int = Field(ge=0, description="its index in the batch, from 0")
    code: Literal["not_found", "invalid", "conflict"]
    message: str


class FeedbackBatchKept(FeedbackKept):
    """The outcome of a batch of feedback; refused feedback may be corrected and sent again."""

    refused: list[RefusedFeedback]


class ItemReply(Reply):
    """An item of the catalogue."""

    item_id: str
    title: str
    attributes: dict[str, float]
    tags: dict[str, list[str]]


class FoundItems(Reply):
    """Items that match the query."""

    items: list[ItemReply]


class SimilarItems(Reply):
    """The most similar items, best first."""

    items: list[SimilarItem]


class ItemsKept(Reply):
    """The items can be recommended from now on."""

    accepted: int = Field(description="number of different items")
    replaced: int = Field(description="how many of them were in the catalogue before, from training or added")


class ItemWithdrawn(Reply):
    """The item is not recommended any more."""

    withdrawn: int = Field(description="1; 0 if it was withdrawn before")


class Users(Reply):
    """Ids of users with events."""

    users: list[str]


class PastEvent(Reply):
    """An event as the store holds it; the timestamp in microseconds since 1970 (UTC)."""

    event_id: str
    item_id: str
    title: str | None = Field(description="null if the item is not in the catalogue")
    event: str
    timestamp: int
    reward: float | None


class Topic(Reply):
    """A user's boredom with a topic."""

    topic: str
    plays: int = Field(ge=0, description="number of remembered plays")
    rest: int = Field(ge=0, description="number of further songs for which the topic is boring; 0: it is not")


class Boredom(Reply):
    """A user's boredom by topic, by the rules of the simulated world."""

    threshold: int = Field(gt=0, description="number of remembered plays from which on a topic is boring")
    topics: list[Topic]


class History(Reply):
    """A user's events, newest first."""

    user_id: str
    events: list[PastEvent]
    total: int = Field(ge=0, description="number of all events of the user")
    spread: list[float | None] = Field(
        description="spread after each of the last 20 events, oldest first; null below 3 events or without attributes"
    )
    boredom: Boredom | None = Field(description="in what-next demo, whose listeners are simulated; null elsewhere")


class Erased(Reply):
    """How many rows of the user were erased."""

    events: int
    impressions: int
    feedback: int


class Deployed(Reply):
    """The deployment of the version."""

    number: int
    kind: DeploymentKind
    time: str


class Second(Reply):
    """A second model beside the deployed one."""

    version: str
    share: float | None = Field(default=None, description="share of the users that it answers")


class RefusedVersion(Reply):
    """A version that cannot be loaded; the previous one goes on answering."""

    version: str
    reason: str


class Model(Reply):
    """The deployed model."""

    version: str
    run: str = Field(description="of the training that made it")
    algorithm: str
    encoder: str
    trained_on: int = Field(description="number of training histories")
    items: int
    left_out: int = Field(description="number of added items that do not fit its catalogue: they have other attributes")
    withdrawn: int = Field(description="number of its items that are withdrawn")
    attributes: list[str]
    tags: list[str] = Field(description="their kinds, such as artist")
    metrics: dict[str, Any] | None
    search: Literal["exact", "approximate"]
    critic: bool = Field(description="whether it has a critic, which values items")
    deployed: Deployed
    canary: Second | None
    shadow: Second | None
    unfit: RefusedVersion | None = Field(
        description="the second model, by its file, if it cannot be loaded or has another catalogue"
    )
    refused: RefusedVersion | None


class ArmEarned(Reply):
    """An arm of an experiment."""

    name: str = Field(description="a policy, or the version of a model")
    users: int = Field(ge=0)
    answers: int = Field(ge=0)
    reward: float | None = Field(description="mean reward of an answer; null: there was no answer")


class Difference(Reply):
    """How much more an answer of the second arm earned; null: too few users."""

    mean: float | None
    low: float | None
    high: float | None


class Experiment(Reply):
    """Two policies that share the users."""

    name: str
    share: float = Field(gt=0, le=1, description="share of the users that the second arm answers")
    arms: list[ArmEarned] = Field(min_length=2, max_length=2)
    difference: Difference = Field(description="second arm minus first; its bounds hold at any number of looks")
    level: float = Field(description="of the bounds, in percent")
    verdict: str | None = Field(description="the better arm; null: undecided")
    assumes: str = Field(description="the assumptions behind the bounds")
    since: str | None = Field(
        description="time of the first answer that counts: the first at the current share; null: there is none"
    )
    time: str = Field(description="time of the comparison")


class Experiments(Reply):
    """The experiment, or the canary."""

    experiment: Experiment | None = Field(description="null: there is none, or no comparison yet")


class LoopStatus(Reply):
    """What the loop did and measured; empty lists if there is no loop on this store."""

    rounds: list[LoopRound] = Field(description="the latest ones, newest first")
    numbers: dict[str, float]
    lines: list[LoopLine] = Field(description="the latest 50, newest first")


class Health(Reply):
    """The process is alive."""

    status: Literal["ok"]


class Ready(Reply):
    """Model, store and popular items are ready."""

    ready: Literal[True]
