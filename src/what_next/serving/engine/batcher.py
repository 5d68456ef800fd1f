"""Dynamic batching: questions from an event loop go to one worker thread in batches, and answers come back."""

import math
import threading
import time
from collections.abc import Callable, Sequence

from what_next.serving import logger
from what_next.serving.engine.waiting import Turns, Waiting
from what_next.serving.request import Overloaded, Stopping

STUCK = 5.0
"""Seconds after which a batch counts as hung; also how long shutdown waits for each thread."""
WAIT = 0.5
"""Longest wait of a question before its batch starts, as a share of the deadline; the rest is for the batch itself."""
PART = 0.25
"""Target duration of a batch as a share of the deadline, if larger batches would not be more efficient."""
LOOKS = (0.005, 1.0)
"""Shortest and longest interval of the watcher, in seconds."""
MEMORY = 0.9
"""Exponential decay of the weight of earlier batches in the estimate of batch times."""
FIRST = 1e-3
"""Initial estimate of seconds per unit of cost: cautious, so that a start under load does not admit too much."""


class Pace:
    """Estimates the seconds of a batch as a linear function of its cost: `fixed + each * cost`.

    By least squares with exponential decay. The fixed part tells how much larger batches gain; a mean of seconds per
    cost would extrapolate wrongly from batches of one question. Only one thread may call `measured`; any may call
    `batch`.
    """

    def __init__(self) -> None:
        self.fixed, self.each = 0.0, FIRST
        self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)

    def measured(self, cost: float, seconds: float) -> None:
        """Record a batch's cost and duration."""
        new = (1.0, cost, seconds, cost * cost, cost * seconds)
        weight, costs, times, squares, products = (MEMORY * old + one for old, one in zip(self._sums, new, strict=True))
        self._sums = (weight, costs, times, squares, products)
        spread = squares - costs * costs / weight
        each = (products - costs * times / weight) / spread if spread > 1e-6 * squares else times / costs
        # Neither part is negative; if all batches cost about the same, the whole time is attributed to `each`.
        each = min(max(each, 0.0), times / costs)
        self.fixed, self.each = max(times / weight - each * costs / weight, 0.0), each

    def batch(self, cost: float) -> float:
        """Estimated seconds of a batch of this cost."""
        return self.fixed + self.each * cost


class Batcher:
    """One thread answers waiting questions in batches; another gives fallback answers to questions that wait too long.

    A question is only admitted if the estimated pace (`Pace`) lets it be answered in time. Its deadline counts from the
    expected start of its batch, plus the time of the batches of its own request.
    """

    def __init__(
        self, answer: Callable[[list[Waiting]], None], late: Callable[[Waiting], None], *, size: int, deadline: float
    ) -> None:
        """Start both threads.

        `answer` takes (`Waiting.take`) and answers a batch of at most `size` questions, and must not raise; `late`
        answers a question that was not taken in time. A batch may take `deadline` seconds; a question waits for at most
        half as long.
        """
        self._answer, self._late, self.size, self.deadline = answer, late, size, deadline
        self.pace = Pace()
        self._turns = Turns()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._batch: list[Waiting] = []
        self._since, self._ends = math.inf, 0.0  # start and expected end of the current batch
        self._threads = [
            threading.Thread(target=self._work, name="what-next-model", daemon=True),
            threading.Thread(target=self._watch, name="what-next-deadline", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    # Admission

    def put(self, several: Sequence[Waiting], caller: str) -> None:
        """Queue the questions of one request; all are admitted, or none.

        Raises:
            Overloaded: the model would not start on them in time.
            Stopping: the service is stopping.
        """
        cost = sum(one.cost for one in several)
        with self._changed:
            if self._closing.is_set():
                raise Stopping
            wait = self._wait(caller, cost)
            if wait > WAIT * self.deadline:
                raise Overloaded(wait)
            # The estimate may be too low, hence the factor 2; a large request needs several batches.
            late = several[0].arrived + wait + self.deadline + 2 * (cost // self.room) * self.pace.batch(self.room)
            for one in several:
                one.late = late
            self._turns.put(several, caller)
            self._changed.notify()

    @property
    def spare(self) -> float:
        """The cost that still fits into the next batch."""
        return self.room - self._turns.cost

    def full(self, caller: str, before: int = 0) -> float:
        """Seconds until one more question of a caller could be admitted, after `before` others; 0: now.

        It takes no lock, so the result is approximate.
        """
        wait = self._wait(caller, 1.0, before)
        return wait if wait > WAIT * self.deadline else 0.0

    def _wait(self, caller: str, cost: float, before: int = 0) -> float:
        """Estimated seconds until the model starts on a request of this cost."""
        room = self.room
        batches = int((before + self._turns.ahead(caller, min(cost, room))) / room)
        rest = self._ends - time.monotonic()
        return batches * self.pace.batch(room) + max(rest, 0.0)

    @property
    def room(self) -> float:
        """The largest cost of a batch: it takes a quarter of the deadline, or up to half if the fixed part is large.

        At least two questions, so that batches differ and the fixed part can be measured.
        """
        pace = self.pace
        if not pace.each:
            return float(self.size)
        longest = max(PART * self.deadline, min(2 * pace.fixed, self.deadline / 2))
        return max(2.0, min(float(self.size), (longest - pace.fixed) / pace.each))

    @property
    def alive(self) -> bool:
        """Whether the worker runs and does not hang."""
        hangs = time.monotonic() - self._since > STUCK
        return self._threads[0].is_alive() and not hangs and not self._closing.is_set()

    def close(self) -> None:
        """Answer waiting questions and end both threads; unanswered questions get `Stopping`."""
        with self._changed:
            self._closing.set()
            self._changed.notify()
        for thread in self._threads:
            thread.join(STUCK)
        with self._changed:
            left = [*self._batch, *self._turns]
        for waiting in left:
            if waiting.take():
                waiting.settle(Stopping())

    # The worker

    def _work(self) -> None:
        while batch := self._next():
            start, cost = time.monotonic(), sum(one.cost for one in batch)
            try:
                self._answer(batch)
            except Exception:  # the watcher answers them, and the worker goes on
                logger.exception("a batch of %d questions failed", len(batch))
            # Capped, because a hung batch is not typical.
            self.pace.measured(cost, min(time.monotonic() - start, 2 * self.deadline))
            with self._changed:
                self._since, self._ends = math.inf, 0.0

    def _next(self) -> list[Waiting]:
        """Wait for the next batch of questions; empty when the service stops."""
        with self._changed:
            batch: list[Waiting] = []
            while not batch and (self._turns or not self._closing.is_set()):
                if not self._turns:
                    self._changed.wait()
                cost, room = 0.0, self.room
                while self._turns and cost < room and len(batch) < self.size:
                    if (one := self._turns.pop()).open:
                        batch.append(one)
                        cost += one.cost
                if batch:  # empty if all callers hung up
                    self._since = time.monotonic()
                    self._ends = self._since + self.pace.batch(cost)
            self._batch = batch
            return batch

    # The watcher

    def _watch(self) -> None:
        while not self._closing.wait(min(max(self.deadline / 4, LOOKS[0]), LOOKS[1])):
            for one in self._overdue(time.monotonic()):
                try:
                    self._late(one)
                except Exception as error:
                    logger.exception("a late question could not be answered")
                    one.settle(error)

    def _overdue(self, now: float) -> list[Waiting]:
        """Take the overdue questions: those of a late batch, and those waiting behind it."""
        with self._changed:
            hangs = now > self._since + self.deadline
            found = [one for one in self._batch if hangs and one.take()]
            for one in self._turns:
                late = now > one.late or (hangs and now > one.arrived + self.deadline)
                if late and one.open and one.take():
                    self._turns.gone(one)
                    found.append(one)
            return sorted(found, key=lambda one: one.arrived)
