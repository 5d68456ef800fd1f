"""What passes between the endpoint and the engine: a question, and its answer."""

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from what_next.errors import WhatNextError

EVENTS_PER_UNIT = 50
"""Events of a history that cost about as much as a question to a user who is in memory."""
PolicyName = Literal["trained", "popular", "random"]
Fallback = Literal["deadline", "error", "alarm", "unknown_user"]


class IdempotencyKey(NamedTuple):
    """What a request is to be answered once for: hashes of the caller's key, and of the request."""

    key: str
    request: str


class Arm(NamedTuple):
    """Which part of an experiment a question belongs to: names of the experiment and of the policy that answers."""

    experiment: str
    name: str


class RecommendationRequest(NamedTuple):
    """One question for recommendations, checked already. (A tuple is made in a third of the time of a dataclass.)

    What its fields mean is told by `http.bodies.Question`; besides:

    Attributes:
        ranges: for attributes by name, the least and the largest value.
        temperature, epsilon: of the draw; both None: the setup's.
        once: where the answer is to be kept, and given again.
        arm: of the experiment that shares the users; None: it belongs to none.
    """

    user: str | None = None
    history: tuple[str, ...] | None = None
    k: int = 10
    exclude_seen: bool = True
    allowed: tuple[str, ...] | None = None
    blocked: tuple[str, ...] = ()
    ranges: Mapping[str, tuple[float, float]] | None = None
    temperature: float | None = None
    epsilon: float | None = None
    seed: int | None = None
    policy: PolicyName = "trained"
    experiment: bool = True
    context: Mapping[str, float] | None = None
    explain: bool = False
    once: IdempotencyKey | None = None
    arm: Arm | None = None

    @property
    def cost(self) -> float:
        """How much work it is, about: 1 for ten items to a user who is in memory, without reasons and bounds."""
        return cost_of(self.k, self.explain, self.history, self.allowed, self.blocked)


def cost_of(
    k: int, explain: bool, history: Sized | None = None, allowed: Sized | None = None, blocked: Sized | None = None
) -> float:
    """The cost of a request."""
    if k <= 10 and not (explain or history or allowed or blocked):
        return 1.0  # nearly all
    listed = sum(len(ids) for ids in (allowed, blocked) if ids)
    items = k * (2 if explain else 1)
    return 1.0 + max(items - 10, 0) / 50 + (len(history) / EVENTS_PER_UNIT if history else 0) + listed / 2000


@dataclass(frozen=True)
class SimilarItem:
    """An item and its likeness to another: the cosine of their vectors."""

    item_id: str
    title: str
    similarity: float


@dataclass(frozen=True)
class Reason:
    """Why an item was recommended.

    Attributes:
        nearest: of the history; None without one.
        attributes: in their own units.
        critic: what the critic expects of it; None without a critic.
    """

    nearest: SimilarItem | None
    attributes: Mapping[str, float]
    critic: float | None


class RecommendationResponse(NamedTuple):
    """What one question is answered; `http.replies.Recommendations` tells what its fields mean.

    `ids`, `titles`, `scores`, `propensities` and `reasons` have one for each item, best first.
    """

    recommendation_id: str
    user: str | None
    ids: tuple[str, ...]
    titles: Sequence[str]
    scores: Sequence[float | None]
    propensities: tuple[float, ...]
    reasons: Sequence[Reason | None]
    version: str
    role: Literal["current", "canary"]
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


class Refused(WhatNextError):
    """A question that cannot be answered as it was put.

    Attributes:
        field: of the question; `reason`: what is wrong with it, and what is allowed.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field, self.reason = field, reason


class Overloaded(WhatNextError):
    """More is asked than can be answered in time.

    Attributes:
        seconds: after which there may be room.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__("more is asked than can be answered in time; ask again later")
        self.seconds = seconds


class Stopping(WhatNextError):
    """The service is being ended: it takes no further questions."""

    def __init__(self) -> None:
        super().__init__("the service is stopping; ask again in a moment")
