"""The kinds of values that requests hold, with their bounds, as pydantic types that also document themselves."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

LONGEST = 2**31 * 1.0
"""No number about a situation or an attribute is larger."""

END = 7_258_118_400_000_000
"""The year 2200, in microseconds: times are below it."""

COARSE = 100_000_000_000_000
"""Numbers below it (March 1973 in microseconds) are times in seconds or milliseconds that were sent by mistake."""

_DAYS = "(?:" + "|".join(
    (
        "(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])",
        "(?:0[13-9]|1[0-2])-(?:29|30)",
        "(?:0[13578]|1[02])-31",
    )
) + ")"  # fmt: skip
_LEAP = "(?:19(?:7[26]|8[048]|9[26])|20(?:[02468][048]|[13579][26])|21(?:0[48]|[2468][048]|[13579][26]))-02-29"
_DATE = f"(?:(?:19[7-9][0-9]|20[0-9]{{2}}|21[0-9]{{2}})-{_DAYS}|{_LEAP})"
_CLOCK = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
ISO = rf"^{_DATE}T{_CLOCK}:[0-5][0-9](?:\.[0-9]{{1,6}})?(?:Z|[+-]{_CLOCK})$"
"""A time of RFC 3339 from 1970 up to 2200; exact, so that the schema promises only what is taken."""

_ISO = re.compile(ISO.removesuffix("$") + r"\Z")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def microseconds(value: Any) -> int:
    """A time as microseconds since 1970, UTC, from the same or from ISO 8601 with its zone."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < END and value == int(value):
        if value < COARSE:
            raise ValueError(
                "looks like seconds (or milliseconds); send microseconds since 1970, or ISO 8601 with its zone"
            )
        return int(value)
    if isinstance(value, str) and _ISO.match(value):
        past = datetime.fromisoformat(value) - _EPOCH
        return (past.days * 86_400 + past.seconds) * 1_000_000 + past.microseconds
    raise ValueError(
        "must be a time from 1970 up to 2200, as ISO 8601 with its zone, such as 2026-11-25T10:00:00Z, or in whole "
        "microseconds since 1970"
    )


_ANY = r"[^\x00-\x1f\x7f-\x9f]*"
SEEN = rf"^{_ANY}[^\s\x00-\x1f\x7f-\x9f]{_ANY}$"
"""No control characters, and something besides white space."""

Id = Annotated[str, Field(min_length=1, max_length=256, pattern=SEEN)]
"""Names a user, an item, an event or a recommendation."""

Word = Annotated[str, Field(min_length=1, max_length=64, pattern=SEEN)]
"""Names an attribute, a number of the context, or a kind of event."""

Text = Annotated[str, Field(min_length=1, max_length=1024, pattern=SEEN)]
"""A title."""

Number = Annotated[float, Field(ge=-LONGEST, le=LONGEST, allow_inf_nan=False)]
"""Finite, and of a size that every part computes with."""

Reward = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
"""What something was worth."""

Time = Annotated[
    int,
    BeforeValidator(microseconds),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": COARSE, "exclusiveMaximum": END},
                {"type": "string", "pattern": ISO, "minLength": 20, "maxLength": 32},
            ],
            "description": "ISO 8601 with its zone, or whole microseconds since 1970 (UTC) from March 1973 on",
        }
    ),
]


def by_name(values: dict[str, Any], most: int) -> WithJsonSchema:
    """The schema of values by name, which tells the names' bounds, too."""
    names = {"minLength": 1, "maxLength": 64, "pattern": SEEN}
    return WithJsonSchema(
        {"type": "object", "propertyNames": names, "additionalProperties": values, "maxProperties": most}
    )


Numbers = Annotated[
    dict[Word, Number],
    Field(max_length=64),
    by_name({"type": "number", "minimum": -LONGEST, "maximum": LONGEST}, 64),
]
"""Numbers by name."""


class Body(BaseModel):
    """What a client sends: strict in its types, and nothing beyond the fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @property
    def units(self) -> int | float:
        """What the limit of the rate counts it as: the events in it, or the cost of its questions (`Ask.cost`)."""
        return 1


class Reply(BaseModel):
    """What the service answers: it documents, and the tests hold the answers against it."""

    model_config = ConfigDict(extra="forbid")
