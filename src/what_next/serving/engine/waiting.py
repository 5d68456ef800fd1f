"""Questions that wait for the model, of several callers: whose turn it is, and what is more than can be answered."""

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
        once: where its answer is kept, to be given again; None: nowhere.
        late: when it is answered by popular items, at the latest, while the model works on other questions.
        future, loop: whoever awaits the answer or the error, and where.
        lost: is called with an answer that nobody waits for any more.
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
        """Whether the caller is the first to take it, and so the one to answer it. Safe between threads."""
        return self._taken.acquire(blocking=False)

    @property
    def open(self) -> bool:
        """Whether nobody took it yet, and somebody still wants it."""
        return not self._taken.locked() and not self.future.cancelled()

    def settle(self, outcome: Outcome) -> None:
        """Give whoever awaits it the answer, or the error; safe between threads."""
        try:
            self.loop.call_soon_threadsafe(self._settle, outcome)
        except RuntimeError:  # the loop is closed: nobody waits any more
            self._lose(outcome)

    def give_up(self) -> None:
        """Nobody awaits it any more; an answer that came just then is lost."""
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
    """What one caller has waiting.

    Attributes:
        cost: of all of it; `requests`: how many requests it is from, about.
        now: the virtual time of its own turns.
    """

    queue: list[tuple[float, int, bool, Waiting]] = field(default_factory=list)
    cost: float = 0.0
    requests: int = 0
    now: float = 0.0


class Turns:
    """A queue by start-time fair queueing (Goyal et al. 1996): callers share what is answered, by cost.

    Among the requests of one caller the same holds, so that a batch of a hundred questions does not keep a single one
    waiting until its end. Whoever uses it holds a lock.
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
        """All that wait, and those that are gone and were not popped yet; in no order."""
        return (entry[-1] for caller in self._callers.values() for entry in caller.queue)

    def put(self, several: Sequence[Waiting], caller: str) -> None:
        """The questions of one request."""
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
        """The question whose turn it is; there must be one. It may have been taken (see `gone`) or given up."""
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
        """It does not wait any more, and counts no longer; a second time this changes nothing."""
        if one.owner is not None:
            one.owner.cost -= one.cost
            self.cost -= one.cost
            one.owner = None

    def ahead(self, caller: str, cost: float) -> float:
        """About the cost of what is answered before the last question of a further request of a caller."""
        found = self._callers.get(caller)
        own = 0.0
        if found is not None:  # each of its other requests has a question before the first one, or as much as all
            own = min(found.cost, found.requests * max(cost, found.cost / len(found.queue)))
        others = self.cost - (0.0 if found is None else found.cost)
        sharing = len(self._callers) - (found is not None)
        return own + min(others, sharing * (own + max(cost, self.cost / max(self.count, 1))))
