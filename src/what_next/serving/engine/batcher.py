"""Questions from an event loop to one worker thread, in batches that form by themselves, and answers back."""

import math
import threading
import time
from collections.abc import Callable, Sequence

from what_next.serving import logger
from what_next.serving.engine.waiting import Turns, Waiting
from what_next.serving.request import Overloaded, Stopping

STUCK = 5.0
"""Seconds after which a batch hangs rather than takes its time; nor is it waited for longer when the service ends."""
WAIT = 0.5
"""Share of the deadline that a question waits, at most: the rest is for its batch, and for what was not foreseen."""
PART = 0.25
"""Share of the deadline that one batch takes, about, where more of them would not be quicker together."""
LOOKS = (0.005, 1.0)
"""Seconds between two looks of the watcher, at least and at most."""
MEMORY = 0.9
"""What an earlier batch weighs beside the next one, where their times are learned."""
FIRST = 1e-3
"""Seconds of one unit of cost, before anything was measured: so that a start under load does not take in too much."""


class Pace:
    """Seconds of a batch as a straight line over its cost: `fixed + each * cost`.

    By least squares with exponentially falling weights. What a batch takes whatever is in it (`fixed`) tells how much
    is gained by answering more together; a mean of seconds by cost would take a batch of one for the measure of all.
    One thread measures; any may ask.
    """

    def __init__(self) -> None:
        self.fixed, self.each = 0.0, FIRST
        self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)

    def measured(self, cost: float, seconds: float) -> None:
        """A batch of this cost took so long."""
        new = (1.0, cost, seconds, cost * cost, cost * seconds)
        weight, costs, times, squares, products = (MEMORY * old + one for old, one in zip(self._sums, new, strict=True))
        self._sums = (weight, costs, times, squares, products)
        spread = squares - costs * costs / weight
        each = (products - costs * times / weight) / spread if spread > 1e-6 * squares else times / costs
        # Neither part is below 0; where all batches cost about the same, all is laid on the cost.
        each = min(max(each, 0.0), times / costs)
        self.fixed, self.each = max(times / weight - each * costs / weight, 0.0), each

    def batch(self, cost: float) -> float:
        """Seconds of one batch of this cost."""
        return self.fixed + self.each * cost


class Batcher:
    """One thread that answers whatever waits, together; another one that sees to what waits too long.

    Only what can be answered within the deadline is let in, by the pace that was measured (`Pace`). The deadline of a
    question counts from when the model begins with its batch, and is longer by what a batch of that cost takes.
    """

    def __init__(
        self, answer: Callable[[list[Waiting]], None], late: Callable[[Waiting], None], *, size: int, deadline: float
    ) -> None:
        """Starts both threads.

        `answer` takes (`Waiting.take`) and answers a batch of `size` questions at most, and raises nothing; `late`
        answers a question that nobody took in time. A batch may take `deadline` seconds; a question waits for half as
        long at most.
        """
        self._answer, self._late, self.size, self.deadline = answer, late, size, deadline
        self.pace = Pace()
        self._turns = Turns()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._batch: list[Waiting] = []
        self._since, self._ends = math.inf, 0.0  # when the batch at work began, and when it is expected to end
        self._threads = [
            threading.Thread(target=self._work, name="what-next-model", daemon=True),
            threading.Thread(target=self._watch, name="what-next-deadline", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    # Letting in

    def put(self, several: Sequence[Waiting], caller: str) -> None:
        """The questions of one request; all are let in, or none.

        Raises:
            Overloaded: the model would not begin with them in time.
            Stopping: the service is.
        """
        cost = sum(one.cost for one in several)
        with self._changed:
            if self._closing.is_set():
                raise Stopping
            wait = self._wait(caller, cost)
            if wait > WAIT * self.deadline:
                raise Overloaded(wait)
            # What was taken for it may be too little; a large request is not through with its first batch.
            late = several[0].arrived + wait + self.deadline + 2 * (cost // self.room) * self.pace.batch(self.room)
            for one in several:
                one.late = late
            self._turns.put(several, caller)
            self._changed.notify()

    @property
    def spare(self) -> float:
        """The cost of what still goes with the next batch."""
        return self.room - self._turns.cost

    def full(self, caller: str, before: int = 0) -> float:
        """Seconds until a further question of a caller might be let in, after so many others; 0: now.

        Takes no lock, and may be a bit off.
        """
        wait = self._wait(caller, 1.0, before)
        return wait if wait > WAIT * self.deadline else 0.0

    def _wait(self, caller: str, cost: float, before: int = 0) -> float:
        """Seconds until the model begins with the first questions of a request of this cost."""
        room = self.room
        batches = int((before + self._turns.ahead(caller, min(cost, room))) / room)
        rest = self._ends - time.monotonic()
        return batches * self.pace.batch(room) + max(rest, 0.0)

    @property
    def room(self) -> float:
        """The cost of a batch, at most: a part of the deadline, or up to half of it where much is gained by that.

        Two questions always, so that it is seen whether they are quicker together.
        """
        pace = self.pace
        if not pace.each:
            return float(self.size)
        longest = max(PART * self.deadline, min(2 * pace.fixed, self.deadline / 2))
        return max(2.0, min(float(self.size), (longest - pace.fixed) / pace.each))

    @property
    def alive(self) -> bool:
        """Whether the worker is there, and does not hang."""
        hangs = time.monotonic() - self._since > STUCK
        return self._threads[0].is_alive() and not hangs and not self._closing.is_set()

    def close(self) -> None:
        """Answer what waits, and end both threads; who cannot be answered is told that the service stops."""
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
            except Exception:  # the watcher answers them, and others still come
                logger.exception("a batch of %d questions failed", len(batch))
            # One that hung tells nothing of the others.
            self.pace.measured(cost, min(time.monotonic() - start, 2 * self.deadline))
            with self._changed:
                self._since, self._ends = math.inf, 0.0

    def _next(self) -> list[Waiting]:
        """The questions whose turn it is, as many as go together; none when the service is to end."""
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
                if batch:  # who hung up left nothing to do
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
        """Takes the questions whose time is over: those of a batch that is late, and those that it kept waiting."""
        with self._changed:
            hangs = now > self._since + self.deadline
            found = [one for one in self._batch if hangs and one.take()]
            for one in self._turns:
                late = now > one.late or (hangs and now > one.arrived + self.deadline)
                if late and one.open and one.take():
                    self._turns.gone(one)
                    found.append(one)
            return sorted(found, key=lambda one: one.arrived)
