"""Questions from an event loop to one worker thread, in batches that form by themselves, and answers back."""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

from what_next.server.asks import Answer, Ask, Stopping

logger = logging.getLogger("what_next.server")

LOOK = 1.0
"""Seconds after which the watcher looks at what waits, at least."""
STUCK = 5.0
"""Seconds after which a batch hangs rather than takes its time; nor is it waited for longer when the service ends."""
LONGEST = 10_000
"""Questions in the worker's queue, at most: what comes while it hangs is answered by the watcher alone."""


class Waiting:
    """A question that waits for its answer.

    Attributes:
        ask: the question; `arrived`: when, on the monotonic clock.
        future, loop: whoever awaits the answer, and where.
    """

    __slots__ = ("_turns", "arrived", "ask", "future", "loop")

    def __init__(self, ask: Ask, loop: asyncio.AbstractEventLoop) -> None:
        self.ask, self.loop = ask, loop
        self.arrived = time.monotonic()
        self.future: asyncio.Future[Answer] = loop.create_future()
        self._turns = [None]

    def take(self) -> bool:
        """Whether the caller is the first to take it, and so the one to answer it. Safe between threads."""
        try:
            self._turns.pop()
        except IndexError:
            return False
        return True

    @property
    def open(self) -> bool:
        """Whether nobody took it yet, and somebody still wants it."""
        return bool(self._turns) and not self.future.cancelled()

    def fail(self, error: Exception) -> None:
        """Tell whoever awaits it; safe between threads."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self.loop.call_soon_threadsafe(self._failed, error)

    def _failed(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Deliveries:
    """Answers from any thread to their event loops: many of them wake a loop once.

    `lost` is called with an answer that nobody waits for any more.
    """

    def __init__(self, lost: Callable[[Answer], None]) -> None:
        self._lost = lost
        self._ready: dict[asyncio.AbstractEventLoop, deque[tuple[Waiting, Answer | BaseException]]] = {}
        self._lock = threading.Lock()

    def give(self, waiting: Waiting, answer: Answer | BaseException) -> None:
        """Set a question's answer, or the error that its caller gets."""
        with self._lock:
            ready = self._ready.get(waiting.loop)
            if ready is not None:
                ready.append((waiting, answer))
                return
            self._ready[waiting.loop] = deque([(waiting, answer)])
        try:
            waiting.loop.call_soon_threadsafe(self._deliver, waiting.loop)
        except RuntimeError:  # the loop is closed: nobody waits any more
            with self._lock:
                lost = self._ready.pop(waiting.loop, ())
            for _, one in lost:
                if isinstance(one, Answer):
                    self._lost(one)

    def _deliver(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            ready = self._ready.pop(loop)
        for waiting, answer in ready:
            if waiting.future.done():
                if isinstance(answer, Answer):
                    self._lost(answer)
            elif isinstance(answer, BaseException):
                waiting.future.set_exception(answer)
            else:
                waiting.future.set_result(answer)


class Batcher:
    """One thread that answers whatever waits, together; another one that sees to what waits too long."""

    def __init__(
        self,
        answer: Callable[[list[Waiting]], None],
        late: Callable[[Waiting], None],
        *,
        size: int,
        deadline: float,
    ) -> None:
        """Starts both threads.

        Args:
            answer: takes (`Waiting.take`) and answers a batch; it raises nothing.
            late: answers a question that nobody took in time, and that is taken for it.
            size: questions in a batch, at most.
            deadline: seconds after which a question is late.
        """
        self._answer, self._late, self.size, self.deadline = answer, late, size, deadline
        self._queue: SimpleQueue[Waiting | None] = SimpleQueue()
        self._pending: deque[Waiting] = deque()
        self._closing, self._putting = threading.Event(), threading.Lock()
        self._since: float | None = None  # when the batch at work began
        self._threads = [
            threading.Thread(target=self._work, name="what-next-model", daemon=True),
            threading.Thread(target=self._watch, name="what-next-deadline", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def put(self, waiting: Waiting) -> None:
        """A further question.

        Raises:
            Stopping: the service is.
        """
        with self._putting:  # nothing comes behind the mark that ends the worker
            if self._closing.is_set():
                raise Stopping
            self._pending.append(waiting)
            if self._queue.qsize() < LONGEST:
                self._queue.put(waiting)

    @property
    def alive(self) -> bool:
        """Whether the worker is there, and does not hang."""
        since = self._since
        hangs = since is not None and time.monotonic() - since > STUCK
        return self._threads[0].is_alive() and not hangs and not self._closing.is_set()

    def close(self) -> None:
        """Answer what waits, and end both threads; who cannot be answered is told that the service stops."""
        with self._putting:
            self._closing.set()
            self._queue.put(None)
        for thread in self._threads:
            thread.join(STUCK)
        for waiting in self._pending:
            if waiting.take():
                waiting.fail(Stopping())

    def _work(self) -> None:
        while True:
            first = self._queue.get()
            batch = [first]
            while len(batch) < self.size:
                try:
                    batch.append(self._queue.get_nowait())
                except Empty:
                    break
            asked = [one for one in batch if one is not None and one.open]
            self._since = time.monotonic()
            try:
                if asked:
                    self._answer(asked)
            except Exception:  # the watcher answers them, and others still come
                logger.exception("a batch of %d questions failed", len(asked))
            self._since = None
            if None in batch:
                return

    def _watch(self) -> None:
        """All have the same deadline, so the first that came is the first that is late."""
        pending = self._pending
        while not self._closing.is_set():
            while pending and not pending[0].open:
                pending.popleft()
            wait = self.deadline
            if pending:
                wait = pending[0].arrived + self.deadline - time.monotonic()
            if wait > 0:
                self._closing.wait(min(wait, LOOK))
            elif (one := pending.popleft()).take():
                try:
                    self._late(one)
                except Exception as error:
                    logger.exception("a late question could not be answered")
                    one.fail(error)
