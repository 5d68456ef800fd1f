"""Answers of a second model that nobody sees: computed after the answer was given, and recorded."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from what_next.errors import StoreUnavailable
from what_next.serving.bodies import Question
from what_next.serving.engine.answering import Answering, Result
from what_next.serving.engine.live import Active
from what_next.serving.metrics import Metrics
from what_next.serving.request import RecommendationResponse
from what_next.serving.store import AddImpression

logger = logging.getLogger("what_next.serving")

WAITING = 256
"""Questions that wait for the second model; what comes while it is full is dropped, and counted."""


class Shadow:
    """A thread of its own: it delays no answer, and whatever goes wrong in it breaks none."""

    def __init__(
        self,
        answering: Answering,
        candidate: Callable[[], Active | None],
        submit: "Callable[[AddImpression, float], Future[Any]]",
        metrics: Metrics,
    ) -> None:
        """Starts the thread, whose own `answering` is; `candidate` is the second model now. `submit` has an impression
        written, and takes when the question came, on the monotonic clock.
        """
        self.answering, self.candidate, self.submit, self.metrics = answering, candidate, submit, metrics
        self._room = threading.BoundedSemaphore(WAITING)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="what-next-shadow")

    def put(self, request: Question, shown: RecommendationResponse) -> None:
        """Have a question to the trained model answered, some time; `shown` is what was answered to it."""
        if request.policy != "trained":
            return
        if self._room.acquire(blocking=False):
            self._thread.submit(self._record, request, shown, time.monotonic())
        else:
            self.metrics.shadows.labels("dropped").inc()

    def close(self) -> None:
        """Ends the thread; what waits is dropped."""
        self._thread.shutdown(cancel_futures=True)

    def _record(self, request: Question, shown: RecommendationResponse, asked: float) -> None:
        self._room.release()
        active = self.candidate()
        if active is None:
            return
        try:
            found = self.answering.answer(active, [request], "shadow")[0]
            if not isinstance(found, Result) or found.answer.fallback in ("error", "alarm"):
                self.metrics.shadows.labels("failed").inc()
                return
            if shown.ids and shown.fallback is None and found.answer.fallback is None:
                self.metrics.overlap.observe(len({*shown.ids} & {*found.answer.ids}) / len(shown.ids))
            written = self.submit(replace(found.impression, shown=False), asked)
            written.add_done_callback(self._written)
        except Exception as error:
            self.metrics.shadows.labels("failed").inc()
            if not isinstance(error, StoreUnavailable):
                logger.exception("the second model's answer could not be recorded")

    def _written(self, written: "Future[Any]") -> None:
        self.metrics.shadows.labels("recorded" if written.exception() is None else "failed").inc()
