"""Answers of a second model that nobody sees: computed after the answer was given, and recorded."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from queue import Empty, Full, Queue
from typing import Any

from what_next.errors import StoreUnavailable
from what_next.serving.engine.active import Active
from what_next.serving.engine.answering import Answering, Result
from what_next.serving.engine.observer import Observer
from what_next.serving.request import RecommendationRequest, RecommendationResponse
from what_next.serving.store import AddImpression

logger = logging.getLogger("what_next.serving")

WAITING = 256
"""Questions that wait for the second model; what comes while it is full is dropped, and counted."""

Submit = Callable[[AddImpression, float], "Future[Any]"]


class Shadow:
    """A thread of its own: it delays no answer, and whatever goes wrong in it breaks none."""

    def __init__(
        self,
        answering: Answering,
        candidate: Callable[[], Active | None],
        submit: Submit,
        observer: Observer,
    ) -> None:
        """Starts the thread.

        Args:
            answering: of this thread alone.
            candidate: the second model now.
            submit: has an impression written; also takes when the question came, on the monotonic clock.
            observer: counts what becomes of them.
        """
        self.answering, self.candidate, self.submit, self.observer = answering, candidate, submit, observer
        self._queue: Queue[tuple[RecommendationRequest, RecommendationResponse, float] | None] = Queue(WAITING)
        self._thread = threading.Thread(target=self._run, name="what-next-shadow", daemon=True)
        self._thread.start()

    def put(self, ask: RecommendationRequest, shown: RecommendationResponse) -> None:
        """Have a question to the trained model answered, some time; `shown` is what was answered to it."""
        if ask.policy != "trained":
            return
        try:
            self._queue.put_nowait((ask, shown, time.monotonic()))
        except Full:
            self.observer.shadow("dropped")

    def close(self) -> None:
        """Ends the thread; what waits is dropped."""
        while True:
            try:
                self._queue.put_nowait(None)
                break
            except Full:
                try:
                    self._queue.get_nowait()
                except Empty:
                    continue
        self._thread.join()

    def _run(self) -> None:
        while (waiting := self._queue.get()) is not None:
            try:
                self._record(*waiting)
            except StoreUnavailable:
                self.observer.shadow("failed")
            except Exception:
                self.observer.shadow("failed")
                logger.exception("the second model's answer could not be recorded")

    def _record(self, ask: RecommendationRequest, shown: RecommendationResponse, asked: float) -> None:
        active = self.candidate()
        if active is None:
            return
        found = self.answering.answer(active, [ask], "shadow")[0]
        if not isinstance(found, Result) or found.answer.fallback in ("error", "alarm"):
            self.observer.shadow("failed")
            return
        if shown.ids and shown.fallback is None and found.answer.fallback is None:
            self.observer.overlap(len({*shown.ids} & {*found.answer.ids}) / len(shown.ids))
        written = self.submit(replace(found.impression, shown=False, response=None), asked)
        written.add_done_callback(self._written)

    def _written(self, written: "Future[Any]") -> None:
        self.observer.shadow("recorded" if written.exception() is None else "failed")
