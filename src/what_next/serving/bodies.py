"""Request bodies, with the bounds of every value, and their conversion for the engine and the store.

The models both validate requests and generate the schema, so each bound is stated once, here.
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
"""Most items of an answer, ids in `allowed` or `blocked`, ranges, and requests and events of a batch."""
LONGEST, FARTHEST = 2**31 * 1.0, 2**63 * 1.0
"""Largest number in a context, and largest attribute, which may be a time in nanoseconds."""
ATTRIBUTES = 1000
"""Most attributes of an item: a catalogue may have one for each of many words."""
TAGS = 100
"""Most kinds of tags of an item, and most words of a kind."""
END = 7_258_118_400_000_000
"""The year 2200, in microseconds: times must be below it."""
COARSE = 100_000_000_000_000
"""Numbers below this (March 1973 in microseconds) are refused as times in seconds or milliseconds sent by mistake."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def microseconds(value: Any) -> int:
    """A time in microseconds since 1970 (UTC), from such a number or from ISO 8601 with its zone."""
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
    """A percent-decoded part of a path; the router does not decode paths, because an id may hold a slash."""
    try:
        return unquote(value, errors="strict") if isinstance(value, str) else value
    except UnicodeDecodeError:
        raise ValueError("must be UTF-8") from None


_ANY = r"[^\x00-\x1f\x7f-\x9f]*"
SEEN = rf"^{_ANY}[^\s\x00-\x1f\x7f-\x9f]{_ANY}$"
"""Pattern: no control characters, and not only white space."""
LONGEST_ID = 256
Id = Annotated[str, Field(min_length=1, max_length=LONGEST_ID, pattern=SEEN)]
"""Id of a user, an item, an event or a recommendation; or name of an attribute."""
STEPS = (".", "..")
"""Refused as ids in paths, because HTTP clients resolve them as relative path segments."""


def _no_step(value: str) -> str:
    if value in STEPS:
        raise ValueError("is a step in a path; give another id")
    return value


NameInPaths = Annotated[Id, Field(json_schema_extra={"not": {"enum": [*STEPS]}}), AfterValidator(_no_step)]
"""Id of a user or an item, which must work as a part of a path."""
Word = Annotated[str, Field(min_length=1, max_length=64, pattern=SEEN)]
"""Name of a number of the context, or kind of an event."""
Text = Annotated[str, Field(min_length=1, max_length=1024, pattern=SEEN)]
"""A title."""

IdInPath = Annotated[Id, BeforeValidator(_decoded)]
Number = Annotated[float, Field(ge=-LONGEST, le=LONGEST, allow_inf_nan=False)]
"""A finite number of the context."""
Value = Annotated[float, Field(ge=-FARTHEST, le=FARTHEST, allow_inf_nan=False)]
"""Value of an attribute."""
Reward = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
"""A reward."""
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
    """Schema of values by name: pydantic's own schema allows any value under a name that does not match the pattern."""
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
    AfterValidator(lambda words: [word.strip() for word in words]),
]
"""One word, or several, without white space around them."""
Tags = Annotated[dict[Id, Words], Field(max_length=TAGS, json_schema_extra=_by_name)]
"""Words by kind."""
Ids = Annotated[tuple[Id, ...], Field(max_length=MASKED, fail_fast=True)]
"""Ids of allowed or blocked items."""


def _once(pairs: list[tuple[str, Any]]) -> None:
    """Refuse a JSON object with a duplicate key."""
    if len(dict(pairs)) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise Refused(twice[:LONGEST_ID], "is given twice in one object; give it once")


KEYS = JSONDecoder(object_pairs_hook=_once, parse_int=len, parse_float=len)
"""Only checks for duplicate keys, of which the parsers of pydantic and orjson silently take the last. The second pass
takes 2 of the 350 us of an answer."""


class Body(BaseModel):
    """A request body: strict types, no unknown fields, and no duplicate fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    examples: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Examples for the schema, by name."""

    @property
    def units(self) -> float:
        """The cost of the body for the rate limit."""
        return 1.0


B = TypeVar("B", bound=Body)


def read(kind: type[B], content: bytes) -> B:
    """Parse and validate a body.

    Raises:
        ValidationError: the body is not JSON, or a field is invalid.
        Refused: an object has a duplicate key.
    """
    body = kind.model_validate_json(content)
    KEYS.decode(content.decode())
    return body


class Batch(Body):
    """A list of bodies, which is the only field."""

    @property
    def units(self) -> float:
        """The sum of the costs."""
        return float(sum(one.units for _, several in self for one in several))


class Range(Body):
    """The smallest and the largest value of an attribute, in its own units; a missing one means no bound."""

    min: Value | None = None
    max: Value | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends."""
        return -float("inf") if self.min is None else self.min, float("inf") if self.max is None else self.max


def _one_of(schema: dict[str, Any]) -> None:
    """Schema of `Explore`: exactly one of the two fields, and not null."""
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
    """One question for recommendations: for a user, after a history, or both."""

    examples = {
        "user": QUESTION,
        "history": {"history": ["i1", "i2"], "k": 5, "explain": True},
        "masked": {"user_id": "u1", "blocked": ["i9"], "ranges": {"year": {"min": 1990, "max": 2000}}},
        "drawn": {"user_id": "u1", "explore": {"temperature": 0.5}, "seed": 7},
    }

    user_id: NameInPaths | None = Field(default=None, description="whose events the store knows")
    history: Annotated[tuple[Id, ...], Field(max_length=HISTORY, fail_fast=True)] | None = Field(
        default=None, description="item ids, oldest first, or an empty list; replaces the user's history in the store"
    )
    k: int = Field(default=10, ge=1, le=SLOTS, description="number of items")
    exclude_seen: bool | None = Field(
        default=None, description="whether items of the history are left out; null: unless evaluation.seen is yes"
    )
    allowed: Ids | None = Field(
        default=None, description="the only items that may be recommended; unknown ids are ignored"
    )
    blocked: Ids | None = Field(default=None, description="items that must not be recommended; unknown ids are ignored")
    ranges: Annotated[dict[Id, Range], Field(max_length=RANGES, json_schema_extra=_by_name)] | None = Field(
        default=None, description="bounds of attributes, by name"
    )
    tags: Tags | None = Field(
        default=None, description="an item must have one of the given tags of each kind; null: no condition"
    )
    explore: Explore | None = Field(
        default=None, description="how items are drawn; null: as the setup says, and never for popular items"
    )
    seed: int | None = Field(default=None, ge=0, lt=2**63, description="seed of the draw; null: random")
    policy: PolicyName = Field(default="trained", description="the policy that answers")
    experiment: bool = Field(default=True, description="whether a running experiment may choose the policy instead")
    context: Numbers | None = Field(default=None, description="numbers about the situation")
    explain: bool = Field(default=False, description="whether to give reasons")

    @property
    def units(self) -> float:
        """Approximate work, in units of a plain question: ten items for a user in memory, no reasons, no masks."""
        items = self.k * (2 if self.explain else 1)
        listed = len(self.allowed or ()) + len(self.blocked or ())
        return 1.0 + max(items - 10, 0) / 50 + len(self.history or ()) / EVENTS_PER_UNIT + listed / 2000


class Questions(Batch):
    """Several questions at once."""

    examples = {"two": {"requests": [QUESTION, {"history": ["i1"], "policy": "popular"}]}}

    requests: Annotated[list[Question], Field(min_length=1, max_length=BATCH)]


class Event(Body):
    """Something that a user did."""

    examples = {"play": EVENT}

    event_id: Id = Field(
        description="chosen by the client; the same event sent again changes nothing, another one under its id is 409"
    )
    user_id: NameInPaths
    item_id: NameInPaths
    event: Word = Field(default="play", description="play, skip, purchase, rating, or a word of the log's own")
    timestamp: Time | None = Field(default=None, description="null: now")
    reward: Reward | None = Field(default=None, description="the reward, such as a rating")
    context: Numbers | None = Field(default=None, description="numbers about the situation")
    recommendation_id: Id | None = Field(
        default=None,
        description="the recommendation that led to it, which showed the item to this user or to an unnamed one",
    )

    @property
    def row(self) -> EventRow:
        """The same in the form that the store takes."""
        return EventRow(
            self.event_id, self.user_id, self.item_id, self.event, self.timestamp, self.reward, self.context or None,
            self.recommendation_id,
        )  # fmt: skip


class Events(Batch):
    """Several events at once; either all are kept or none."""

    examples = {"two": {"events": [EVENT, {**EVENT, "event_id": "web-7f3a93", "event": "skip"}]}}

    events: Annotated[list[Event], Field(min_length=1, max_length=EVENTS)]


class Feedback(Body):
    """The reward of an item of a recommendation."""

    examples = {"liked": FEEDBACK}

    feedback_id: Id = Field(description="chosen by the client; as `event_id`")
    recommendation_id: Id
    item_id: Id
    reward: Reward
    timestamp: Time | None = Field(default=None, description="null: now. The feedback with the latest time counts")

    @property
    def row(self) -> AddFeedback:
        """The same in the form that the store takes."""
        return AddFeedback(self.feedback_id, self.recommendation_id, self.item_id, self.reward, self.timestamp)


class Feedbacks(Batch):
    """Feedback on several items at once; each is kept or refused on its own."""

    examples = {"one": {"feedback": [FEEDBACK]}}

    feedback: Annotated[list[Feedback], Field(min_length=1, max_length=EVENTS)]


class Item(Body):
    """A new item, or the new data of an item in the catalogue, from training or added."""

    examples = {"song": SONG, "tagged": TAGGED}

    item_id: NameInPaths
    title: Text
    attributes: Attributes = Field(default={}, description="a number for each attribute of the catalogue")
    tags: Tags | None = Field(
        default=None,
        description="words that other items may share, by kinds that the catalogue has; null: keep the item's tags",
    )

    @property
    def row(self) -> NewItem:
        """The same in the form that the store takes."""
        return NewItem(self.item_id, self.title, self.attributes, self.tags)


class Items(Batch):
    """Several items at once; either all are kept or none."""

    examples = {"two": {"items": [SONG, {**SONG, "item_id": "i1002", "title": "Blue in Green"}]}}

    items: Annotated[list[Item], Field(min_length=1, max_length=EVENTS)]
