"""What clients send, with the bounds of every value, and how it becomes what the other parts take.

The models check what comes and make the schema: a bound stands here alone.
"""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from json import JSONDecoder
from typing import Annotated, Any, ClassVar, TypeVar
from urllib.parse import unquote

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from what_next.inference.extend import NewItem
from what_next.serving.request import EVENTS_PER_UNIT, PolicyName, Refused
from what_next.serving.store.records import AddFeedback, EventRow
from what_next.settings import HISTORY, LEAST_TEMPERATURE

SLOTS, MASKED, RANGES, BATCH, EVENTS = 200, 10_000, 32, 100, 1000
"""Most items of an answer, ids of a list of allowed or blocked items, ranges, and sizes of batches."""
LONGEST, FARTHEST = 2**31 * 1.0, 2**63 * 1.0
"""No number about a situation, and no attribute, which may be a time in nanoseconds, is larger."""
ATTRIBUTES = 1000
"""Most attributes of an item: a catalogue has one for each of many words."""
TAGS = 100
"""Most kinds of tags of an item, and words of each."""
END = 7_258_118_400_000_000
"""The year 2200, in microseconds: times are below it."""
COARSE = 100_000_000_000_000
"""Numbers below it (March 1973 in microseconds) are times in seconds or milliseconds that were sent by mistake."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def microseconds(value: Any) -> int:
    """A time as microseconds since 1970, UTC, from the same or from ISO 8601 with its zone."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < END and value == int(value):
        if value < COARSE:
            raise ValueError(
                "looks like seconds (or milliseconds); send microseconds since 1970, or ISO 8601 with its zone"
            )
        return int(value)
    if isinstance(value, str) and (found := _instant(value)) is not None and 0 <= found < END:
        return found
    raise ValueError(
        "must be a time from 1970 up to 2200, as ISO 8601 with its zone, such as 2026-11-25T10:00:00Z, or in whole "
        "microseconds since 1970"
    )


def _instant(text: str) -> int | None:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if time.tzinfo is None else (time - EPOCH) // timedelta(microseconds=1)


def _decoded(value: Any) -> Any:
    """A part of a path, which comes as it was sent, since an id may hold a slash."""
    try:
        return unquote(value, errors="strict") if isinstance(value, str) else value
    except UnicodeDecodeError:
        raise ValueError("must be UTF-8") from None


_ANY = r"[^\x00-\x1f\x7f-\x9f]*"
SEEN = rf"^{_ANY}[^\s\x00-\x1f\x7f-\x9f]{_ANY}$"
"""No control characters, and something besides white space."""
LONGEST_ID = 256
Id = Annotated[str, Field(min_length=1, max_length=LONGEST_ID, pattern=SEEN)]
"""Names a user, an item, an event, a recommendation or an attribute."""
STEPS = (".", "..")
"""No usual client can ask for the path of what is called so: it takes them for steps, and for no names."""


def _no_step(value: str) -> str:
    if value in STEPS:
        raise ValueError("is a step in a path; give another id")
    return value


NameInPaths = Annotated[Id, Field(json_schema_extra={"not": {"enum": [*STEPS]}}), AfterValidator(_no_step)]
"""Names a user or an item, which is to be read and erased by its path."""
Word = Annotated[str, Field(min_length=1, max_length=64, pattern=SEEN)]
"""Names a number of the context, or a kind of event."""
Text = Annotated[str, Field(min_length=1, max_length=1024, pattern=SEEN)]
"""A title."""

IdInPath = Annotated[Id, BeforeValidator(_decoded)]
Number = Annotated[float, Field(ge=-LONGEST, le=LONGEST, allow_inf_nan=False)]
"""Finite, and of a size that every part computes with."""
Value = Annotated[float, Field(ge=-FARTHEST, le=FARTHEST, allow_inf_nan=False)]
"""Of an attribute."""
Reward = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
"""What something was worth."""
Time = Annotated[
    int,
    BeforeValidator(microseconds),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": COARSE, "exclusiveMaximum": END},
                {"type": "string", "format": "date-time"},
            ],
            "description": "ISO 8601 with its zone, or whole microseconds since 1970 (UTC) from March 1973 on",
        }
    ),
]


def _by_name(schema: dict[str, Any]) -> None:
    """Values by name: pydantic's own schema lets any value stand under a name that does not match the pattern."""
    ((pattern, values),) = schema.pop("patternProperties").items()
    schema["propertyNames"]["pattern"] = pattern
    schema["additionalProperties"] = values


Numbers = Annotated[dict[Word, Number], Field(max_length=64, json_schema_extra=_by_name)]
"""Numbers by name."""
Attributes = Annotated[dict[Id, Value], Field(max_length=ATTRIBUTES, json_schema_extra=_by_name)]
"""Attributes by name."""
Words = Annotated[
    list[Id],
    Field(min_length=1, max_length=TAGS),
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value, json_schema_input_type=Id | list[Id]),
]
"""One of them, or several."""
Tags = Annotated[dict[Id, Words], Field(max_length=TAGS, json_schema_extra=_by_name)]
"""Words by what they are."""
Ids = Annotated[tuple[Id, ...], Field(max_length=MASKED, fail_fast=True)]
"""Items that a question permits, or does not."""


def _once(pairs: list[tuple[str, Any]]) -> None:
    """Refuses an object of JSON in which a key stands twice."""
    if len(dict(pairs)) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise Refused(twice[:LONGEST_ID], "is given twice in one object; give it once")


KEYS = JSONDecoder(object_pairs_hook=_once, parse_int=len, parse_float=len)
"""Looks at nothing but keys. The parsers of pydantic and orjson take the last value of a key without a word; to read a
question once more for this takes 2 us of the 350 that its answer takes."""


class Body(BaseModel):
    """What a client sends: strict in its types, nothing beyond the fields, and no field twice."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    examples: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Examples for the schema, by name."""

    @property
    def units(self) -> int | float:
        """What the limit of the rate counts it as."""
        return 1


B = TypeVar("B", bound=Body)


def read(kind: type[B], content: bytes) -> B:
    """What a body says.

    Raises:
        ValidationError: it is no JSON, or not as the fields must be.
        Refused: a key stands twice in an object.
    """
    body = kind.model_validate_json(content)
    KEYS.decode(content.decode())
    return body


class Batch(Body):
    """Several bodies in a list, which is the only field."""

    @property
    def units(self) -> int | float:
        """Those of all together."""
        units: int | float = sum(one.units for _, several in self for one in several)
        return units


class Range(Body):
    """The least and the largest value of an attribute, in its own units; without one, there is no bound."""

    min: Value | None = None
    max: Value | None = None

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


QUESTION = {"user_id": "u1", "k": 10}
EVENT = {"event_id": "web-7f3a91", "user_id": "u1", "item_id": "i1", "timestamp": "2026-11-25T10:00:00Z"}
FEEDBACK = {"feedback_id": "web-7f3a92", "recommendation_id": "0199a1b2c3d4", "item_id": "i1", "reward": 1.0}
SONG = {"item_id": "i1001", "title": "So What", "attributes": {"energy": 0.3, "tempo": 136.0}}
TAGGED = {"item_id": "i1003", "title": "Blue Train", "tags": {"artist": "John Coltrane", "genre": ["jazz", "bop"]}}


class Question(Body):
    """One question for recommendations: to a user, after a history, or both."""

    examples = {
        "user": QUESTION,
        "history": {"history": ["i1", "i2"], "k": 5, "explain": True},
        "masked": {"user_id": "u1", "blocked": ["i9"], "ranges": {"year": {"min": 1990, "max": 2000}}},
        "drawn": {"user_id": "u1", "explore": {"temperature": 0.5}, "seed": 7},
    }

    user_id: NameInPaths | None = Field(default=None, description="whose events the store knows")
    history: Annotated[tuple[Id, ...], Field(max_length=HISTORY, fail_fast=True)] | None = Field(
        default=None, description="item ids, oldest first, or none; goes before what the store knows of the user"
    )
    k: int = Field(default=10, ge=1, le=SLOTS, description="number of items")
    exclude_seen: bool | None = Field(
        default=None, description="whether items of the history are left out; null: unless evaluation.seen is yes"
    )
    allowed: Ids | None = Field(
        default=None, description="the only items that may be recommended; unknown ids are passed over"
    )
    blocked: Ids | None = Field(default=None, description="items that may not; unknown ids are passed over")
    ranges: Annotated[dict[Id, Range], Field(max_length=RANGES, json_schema_extra=_by_name)] | None = Field(
        default=None, description="bounds of attributes, by name"
    )
    tags: Tags | None = Field(
        default=None, description="of each of these kinds of tags an item must have one; null: it need not"
    )
    explore: Explore | None = Field(
        default=None, description="how items are drawn; null: as the service's setup says, and the best of popular ones"
    )
    seed: int | None = Field(default=None, ge=0, lt=2**63, description="of the draw; null: a new one")
    policy: PolicyName = Field(default="trained", description="who answers")
    experiment: bool = Field(default=True, description="whether a running experiment may say who answers instead")
    context: Numbers | None = Field(default=None, description="numbers about the situation")
    explain: bool = Field(default=False, description="whether to tell reasons")

    @property
    def units(self) -> int | float:
        """How much work it is, about: 1 for ten items to a user who is in memory, without reasons and bounds."""
        history, allowed, blocked = self.history, self.allowed, self.blocked
        if self.k <= 10 and not (self.explain or history or allowed or blocked):
            return 1.0  # nearly all
        listed = sum(len(ids) for ids in (allowed, blocked) if ids)
        items = self.k * (2 if self.explain else 1)
        return 1.0 + max(items - 10, 0) / 50 + (len(history) / EVENTS_PER_UNIT if history else 0) + listed / 2000


class Questions(Batch):
    """Several questions at once."""

    examples = {"two": {"requests": [QUESTION, {"history": ["i1"], "policy": "popular"}]}}

    requests: Annotated[list[Question], Field(min_length=1, max_length=BATCH)]


class Event(Body):
    """Something that a user did."""

    examples = {"play": EVENT}

    event_id: Id = Field(
        description="of the client's making; the same event sent again changes nothing, another one under its id is 409"
    )
    user_id: NameInPaths
    item_id: NameInPaths
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
            self.event_id, self.user_id, self.item_id, self.event, self.timestamp, self.reward, self.context or None,
            self.recommendation_id,
        )  # fmt: skip


class Events(Batch):
    """Several events at once; either all are kept or none."""

    examples = {"two": {"events": [EVENT, {**EVENT, "event_id": "web-7f3a93", "event": "skip"}]}}

    events: Annotated[list[Event], Field(min_length=1, max_length=EVENTS)]


class Feedback(Body):
    """What an item of a recommendation turned out to be worth."""

    examples = {"liked": FEEDBACK}

    feedback_id: Id = Field(description="of the client's making; as `event_id`")
    recommendation_id: Id
    item_id: Id
    reward: Reward
    timestamp: Time | None = Field(default=None, description="when; null: now. The latest counts, however late it came")

    @property
    def row(self) -> AddFeedback:
        """As the store takes it."""
        return AddFeedback(self.feedback_id, self.recommendation_id, self.item_id, self.reward, self.timestamp)


class Feedbacks(Batch):
    """Feedback on several items at once; each stands for itself."""

    examples = {"one": {"feedback": [FEEDBACK]}}

    feedback: Annotated[list[Feedback], Field(min_length=1, max_length=EVENTS)]


class Item(Body):
    """A new item, or what is now true of one that the catalogue holds, of the training or added."""

    examples = {"song": SONG, "tagged": TAGGED}

    item_id: NameInPaths
    title: Text
    attributes: Attributes = Field(default={}, description="a number for each attribute of the catalogue")
    tags: Tags | None = Field(
        default=None,
        description="words that other items may share, by kinds that the catalogue has; null: those that it had",
    )

    @property
    def row(self) -> NewItem:
        """As the store takes it."""
        tags = self.tags and {kind: [word.strip() for word in words] for kind, words in self.tags.items()}
        return NewItem(self.item_id, self.title, self.attributes, tags)


class Items(Batch):
    """Several items at once; either all are kept or none."""

    examples = {"two": {"items": [SONG, {**SONG, "item_id": "i1002", "title": "Blue in Green"}]}}

    items: Annotated[list[Item], Field(min_length=1, max_length=EVENTS)]
