"""What clients send, and how it becomes what the other parts take."""

from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from what_next.serving.http.fields import LONGEST, Body, Id, Number, Numbers, Reward, Text, Time, Word, by_name
from what_next.serving.request import RecommendationRequest
from what_next.serving.store.records import EventRow, FeedbackRow, ItemRow
from what_next.settings import HISTORY, LEAST_TEMPERATURE

SLOTS, MASKED, RANGES, BATCH, EVENTS = 200, 10_000, 32, 100, 1000
"""Most items of an answer, ids of a list of allowed or blocked items, ranges, and sizes of batches."""


class Range(Body):
    """The least and the largest value of an attribute, in its own units; without one, there is no bound."""

    min: Number | None = None
    max: Number | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends."""
        return -float("inf") if self.min is None else self.min, float("inf") if self.max is None else self.max


def _one_of(schema: dict[str, Any]) -> None:
    """A draw is told by one of the two fields, and neither is null."""
    for name in ("temperature", "epsilon"):
        first = schema["properties"][name].pop("anyOf")[0]
        schema["properties"][name] = {**first, **schema["properties"][name]}
        schema["properties"][name].pop("default")
    schema["properties"]["temperature"]["not"] = {"exclusiveMinimum": 0, "exclusiveMaximum": LEAST_TEMPERATURE}
    schema["oneOf"] = [{"required": ["temperature"]}, {"required": ["epsilon"]}]


class Explore(Body):
    """How items are drawn: by a softmax of this temperature (0: the best), or the best and at times a random one."""

    model_config = ConfigDict(json_schema_extra=_one_of)

    temperature: Annotated[float, Field(ge=0, le=1e3, allow_inf_nan=False)] | None = Field(
        default=None, description="0 takes the best, as the setting server.temperature does; or at least 0.001"
    )
    epsilon: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _one(self) -> "Explore":
        if len(self.model_fields_set) != 1 or self.temperature is self.epsilon:
            raise ValueError("must hold a number for one of temperature and epsilon")
        if 0 < (self.temperature or 0) < LEAST_TEMPERATURE:
            raise ValueError(f"temperature must be 0, which takes the best, or at least {LEAST_TEMPERATURE:g}")
        return self


_END = {"anyOf": [{"type": "number", "minimum": -LONGEST, "maximum": LONGEST}, {"type": "null"}]}
_RANGES = by_name(
    {"type": "object", "properties": {"min": _END, "max": _END}, "additionalProperties": False, "title": "Range"},
    RANGES,
)


class Question(Body):
    """One question for recommendations: to a user, after a history, or both."""

    user_id: Id | None = Field(default=None, description="whose events the store knows")
    history: Annotated[list[Id], Field(max_length=HISTORY, fail_fast=True)] | None = Field(
        default=None, description="item ids, oldest first; goes before what the store knows of the user"
    )
    k: int = Field(default=10, ge=1, le=SLOTS, description="number of items")
    exclude_seen: bool = Field(default=True, description="whether items of the history are left out")
    allowed: Annotated[list[Id], Field(max_length=MASKED, fail_fast=True)] | None = Field(
        default=None, description="the only items that may be recommended; unknown ids are passed over"
    )
    blocked: Annotated[list[Id], Field(max_length=MASKED, fail_fast=True)] | None = Field(
        default=None, description="items that may not; unknown ids are passed over"
    )
    ranges: Annotated[dict[Word, Range], Field(max_length=RANGES), _RANGES] | None = Field(
        default=None, description="bounds of attributes, by name"
    )
    explore: Explore | None = Field(default=None, description="how items are drawn; null: as the service's setup says")
    seed: int | None = Field(default=None, ge=0, lt=2**63, description="of the draw; null: a new one")
    policy: Literal["trained", "popular", "random"] = Field(default="trained", description="who answers")
    context: Numbers | None = Field(default=None, description="numbers about the situation")
    explain: bool = Field(default=False, description="whether to tell reasons")

    @property
    def units(self) -> int | float:
        """See `Body.units`."""
        return self.ask.cost

    @cached_property
    def ask(self) -> RecommendationRequest:
        """As the engine takes it."""
        draw = self.explore
        return RecommendationRequest(
            user=self.user_id,
            history=None if self.history is None else tuple(self.history),
            k=self.k,
            exclude_seen=self.exclude_seen,
            allowed=None if self.allowed is None else tuple(self.allowed),
            blocked=tuple(self.blocked or ()),
            ranges={name: one.ends for name, one in self.ranges.items()} if self.ranges else None,
            temperature=draw.temperature if draw else None,
            epsilon=draw.epsilon if draw else None,
            seed=self.seed,
            policy=self.policy,
            context=self.context,
            explain=self.explain,
        )


class Questions(Body):
    """Several questions at once."""

    requests: Annotated[list[Question], Field(min_length=1, max_length=BATCH)]

    @property
    def units(self) -> int | float:
        """See `Body.units`."""
        return sum(one.units for one in self.requests)


class Event(Body):
    """Something that a user did."""

    event_id: Id = Field(
        description="of the client's making; the same event sent again changes nothing, another one under its id is 409"
    )
    user_id: Id
    item_id: Id
    event: Word = Field(default="play", description="play, skip, purchase, rating, or a word of the log's own")
    timestamp: Time | None = Field(default=None, description="when; null: now")
    reward: Reward | None = Field(default=None, description="what it was worth, such as a rating")
    context: Numbers | None = Field(default=None, description="numbers about the situation")
    recommendation_id: Id | None = Field(
        default=None,
        description="the recommendation that led to it: one that showed the item, to this user or to nobody by name",
    )

    @property
    def row(self) -> EventRow:
        """As the store takes it."""
        return EventRow(
            event_id=self.event_id,
            user_id=self.user_id,
            item_id=self.item_id,
            kind=self.event,
            time=self.timestamp,
            reward=self.reward,
            context=dict(self.context) if self.context else None,
            recommendation_id=self.recommendation_id,
        )


class Events(Body):
    """Several events at once; either all are kept or none."""

    events: Annotated[list[Event], Field(min_length=1, max_length=EVENTS)]

    @property
    def units(self) -> int | float:
        """See `Body.units`."""
        return len(self.events)


class Feedback(Body):
    """What an item of a recommendation turned out to be worth."""

    feedback_id: Id = Field(description="of the client's making; as `event_id`")
    recommendation_id: Id
    item_id: Id
    reward: Reward
    timestamp: Time | None = Field(default=None, description="when; null: now. The latest counts, however late it came")

    @property
    def row(self) -> FeedbackRow:
        """As the store takes it."""
        return FeedbackRow(
            feedback_id=self.feedback_id,
            recommendation_id=self.recommendation_id,
            item_id=self.item_id,
            reward=self.reward,
            time=self.timestamp,
        )


class Feedbacks(Body):
    """Feedback on several items at once; each stands for itself."""

    feedback: Annotated[list[Feedback], Field(min_length=1, max_length=EVENTS)]

    @property
    def units(self) -> int | float:
        """See `Body.units`."""
        return len(self.feedback)


class Item(Body):
    """A new item, or what is now true of one that the catalogue holds, of the training or added."""

    item_id: Id
    title: Text
    attributes: Numbers = Field(description="a number for each attribute of the catalogue")

    @property
    def row(self) -> ItemRow:
        """As the store takes it."""
        return ItemRow(item_id=self.item_id, title=self.title, attributes=dict(self.attributes))


class Items(Body):
    """Several items at once; either all are kept or none."""

    items: Annotated[list[Item], Field(min_length=1, max_length=EVENTS)]

    @property
    def units(self) -> int:
        """See `Body.units`."""
        return len(self.items)
