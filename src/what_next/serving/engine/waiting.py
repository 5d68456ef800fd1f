"""The queue of questions that wait for the model, shared fairly among callers."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

from what_next.serving.bodies import Question
from what_next.serving.request import IdempotencyKey, RecommendationResponse

Lost = Callable[[RecommendationResponse], None]
Outcome = RecommendationResponse | BaseException


class Waiting:
    """A question that waits for its answer.

    Attributes:
        request: the question; `cost`: see `Question.units`; `arrived`: when, on the monotonic clock.
        once: the idempotency key under which the answer is stored; None: it is not.
        late: when popular items become the answer, if the model has not started on the question by then.
        future, loop: the future of the answer or error, and its event loop.
        lost: called with an answer that nobody waits for any more.
    """

    __slots__ = ("_taken", "arrived", "cost", "future", "late", "loop", "lost", "once", "owner", "request")

    def __init__(
        self,
        request: Question,
        loop: asyncio.AbstractEventLoop,
        lost: Lost | None = None,
        once: IdempotencyKey | None = None,
    ) -> None:
        self.request, self.loop, self.cost, self.lost, self.once = request, loop, request.units, lost, once
        self.arrived = self.late = time.monotonic()
        self.future: asyncio.Future[Outcome] = loop.create_future()
        self.owner: CallerQueue | None = None
        self._taken = threading.Lock()

    def take(self) -> bool:
        """True for the first thread that calls this, which must then answer the question. Thread-safe."""
        return self._taken.acquire(blocking=False)

    @property
    def open(self) -> bool:
        """Whether it is neither taken nor cancelled."""
        return not self._taken.locked() and not self.future.cancelled()

    def settle(self, outcome: Outcome) -> None:
        """Resolve the future with the answer or error. Thread-safe."""
        try:
            self.loop.call_soon_threadsafe(self._settle, outcome)
        except RuntimeError:  # the loop is closed
            self._lose(outcome)

    def give_up(self) -> None:
        """Cancel the question; an answer that has already come is lost."""
        if not self.future.cancel() and not self.future.cancelled():
            self._lose(self.future.result())

    def _settle(self, outcome: Outcome) -> None:
        if self.future.done():
            self._lose(outcome)
        else:
            self.future.set_result(outcome)

    def _lose(self, outcome: Outcome) -> None:
        if self.lost is not None and isinstance(outcome, RecommendationResponse):
            self.lost(outcome)


@dataclass(eq=False, slots=True)
class CallerQueue:
    """The waiting questions of one caller.

    Attributes:
        cost: of all questions; `requests`: the approximate number of requests that they belong to.
        now: the virtual time of this queue.
    """

    queue: list[tuple[float, int, bool, Waiting]] = field(default_factory=list)
    cost: float = 0.0
    requests: int = 0
    now: float = 0.0


class Turns:
    """Start-time fair queueing (Goyal et al. 1996): callers share the capacity by cost.

    The requests of one caller share its part in the same way, so that a single question does not wait for the end of a
    batch of a hundred. Not thread-safe: the user must hold a lock.
    """

    def __init__(self) -> None:
        self.cost, self.count = 0.0, 0
        self._callers: dict[str, CallerQueue] = {}
        self._turns: list[tuple[float, int, str]] = []
        self._now = 0.0
        self._number = count()

    def __bool__(self) -> bool:
        return bool(self._turns)

    def __iter__(self) -> Iterator[Waiting]:
        """All queued questions in no particular order, including taken ones that were not popped yet."""
        return (entry[-1] for caller in self._callers.values() for entry in caller.queue)

    def put(self, several: Sequence[Waiting], caller: str) -> None:
        """Queue the questions of one request."""
        found = self._callers.get(caller)
        if found is None:
            found = self._callers[caller] = CallerQueue()
            heappush(self._turns, (self._now, next(self._number), caller))
        turn, last = found.now, several[-1]
        for one in several:
            one.owner = found
            heappush(found.queue, (turn, next(self._number), one is last, one))
            turn += one.cost
            found.cost += one.cost
            self.cost += one.cost
        self.count += len(several)
        found.requests += 1

    def pop(self) -> Waiting:
        """Remove and return the next question; there must be one. It may be taken (see `gone`) or cancelled already."""
        self._now, _, name = heappop(self._turns)
        caller = self._callers[name]
        caller.now, _, is_last, one = heappop(caller.queue)
        caller.requests -= is_last
        self.count -= 1
        self.gone(one)
        if caller.queue:
            heappush(self._turns, (self._now + one.cost, next(self._number), name))
        else:
            del self._callers[name]
        return one

    def gone(self, one: Waiting) -> None:
        """Stop counting a question's cost; a second call has no effect."""
        if one.owner is not None:
            one.owner.cost -= one.cost
            self.cost -= one.cost
            one.owner = None

    def ahead(self, caller: str, cost: float) -> float:
        """The approximate cost of the questions that would be answered before a further request of a caller is done."""
        found = self._callers.get(caller)
        own = 0.0
        if found is not None:  # each of its requests gets a turn before it, at most all that it has queued
            own = min(found.cost, found.requests * max(cost, found.cost / len(found.queue)))
        others = self.cost - (0.0 if found is None else found.cost)
        sharing = len(self._callers) - (found is not None)
        return own + min(others, sharing * (own + max(cost, self.cost / max(self.count, 1))))
