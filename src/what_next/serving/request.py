"""Types between the endpoint and the engine, besides the question (`bodies.Question`): answers and errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import orjson

from what_next.errors import WhatNextError

EVENTS_PER_UNIT = 50
"""Reading this many events of a history costs about as much as a question of a user who is in memory."""
PolicyName = Literal["trained", "popular", "random"]
Role = Literal["current", "canary"]
Fallback = Literal["deadline", "error", "alarm", "unknown_user"]


class IdempotencyKey(NamedTuple):
    """Hashes of a caller's idempotency key, and of the request that came with it."""

    key: str
    request: str


class Arm(NamedTuple):
    """The arm of an experiment that a question belongs to: names of the experiment and of the policy that answers, and
    the share of the users that the second arm answers."""

    experiment: str
    name: str
    share: float


@dataclass(frozen=True)
class SimilarItem:
    """An item and its similarity to another: the cosine of their vectors."""

    item_id: str
    title: str
    similarity: float


@dataclass(frozen=True)
class Reason:
    """Why an item was recommended.

    Attributes:
        nearest: the most similar item of the history; None without a history.
        attributes: in their own units.
        critic: the critic's value of the item; None without a critic.
    """

    nearest: SimilarItem | None
    attributes: Mapping[str, float]
    critic: float | None


class RecommendationResponse(NamedTuple):
    """The answer to one question; `http.replies.Recommendations` documents its fields.

    `ids`, `titles`, `scores`, `propensities` and `reasons` have one entry per item, best first.
    """

    recommendation_id: str
    user: str | None
    ids: tuple[str, ...]
    titles: Sequence[str]
    scores: Sequence[float | None]
    propensities: tuple[float, ...]
    reasons: Sequence[Reason | None]
    version: str
    role: Role
    policy: PolicyName
    fallback: Fallback | None
    unknown: tuple[str, ...] = ()
    known_events: int = 0
    spread: float | None = None

    @property
    def content(self) -> dict[str, Any]:
        """The answer as clients read it."""
        columns = zip(self.ids, self.titles, self.scores, self.propensities, self.reasons, strict=True)
        return {
            "recommendation_id": self.recommendation_id,
            "user_id": self.user,
            "items": [
                {"item_id": item, "title": title, "score": score, "propensity": propensity, "reason": reason}
                for item, title, score, propensity, reason in columns
            ],
            "model": {"version": self.version, "role": self.role},
            "policy": self.policy,
            "fallback": self.fallback,
            "unknown": self.unknown,
            "known_events": self.known_events,
            "spread": self.spread,
        }

    @property
    def json(self) -> bytes:
        """The answer as JSON, which a repeated request with the same idempotency key gets byte for byte."""
        return orjson.dumps(self.content, option=orjson.OPT_SERIALIZE_NUMPY)


class Refused(WhatNextError):
    """An invalid question.

    Attributes:
        field: of the question; `reason`: what is wrong with it, and what is allowed.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field, self.reason = field, reason


class Overloaded(WhatNextError):
    """There are more questions than can be answered in time.

    Attributes:
        seconds: until there may be room.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__("more is asked than can be answered in time; ask again later")
        self.seconds = seconds


class Stopping(WhatNextError):
    """The service is stopping and takes no further questions."""

    def __init__(self) -> None:
        super().__init__("the service is stopping; ask again in a moment")
