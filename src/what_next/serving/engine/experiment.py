"""Experiments: two policies share the users by a hash of their ids, and are compared at any number of looks.

A canary is an experiment, too: of the deployed version and the second one. This file also records the second version's
shadow answers, which no user sees.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from what_next.errors import StoreError, StoreUnavailable
from what_next.metrics.bootstrap import LEVEL
from what_next.off_policy.confidence_sequences import contrast
from what_next.serving import logger
from what_next.serving.bodies import Question
from what_next.serving.engine.answering import Answering, Result
from what_next.serving.engine.live import Live, point
from what_next.serving.engine.models import Models
from what_next.serving.request import Arm, RecommendationResponse, Role
from what_next.serving.store import AddImpression, Store
from what_next.serving.store.rewards import earned
from what_next.settings import Server
from what_next.settings.service import POLICIES

REST = 20
"""The pause between two looks is at least this many times the duration of the last look."""
WAITING = 256
"""Most questions that wait for a shadow answer; further ones are dropped and counted."""
ASSUMES = (
    "the bounds hold at any number of looks, if there are many users, independent of each other, and later rewards of "
    "a user are not systematically opposed to earlier ones"
)


@dataclass(frozen=True)
class Experiment:
    """An experiment or canary that is running.

    Attributes:
        arms: both policies; `share`: of the users whom the second one answers.
        salt: hashed with the ids of users; another salt gives another assignment.
    """

    arms: tuple[str, str]
    share: float
    salt: str

    @property
    def name(self) -> str:
        """The names of both arms, joined by a colon."""
        return ":".join(self.arms)

    @classmethod
    def of(cls, settings: Server, live: Live) -> "Experiment | None":
        """The experiment of the settings, else a canary, else None."""
        if settings.arms is not None:
            return cls(settings.arms, settings.experiment_share, f"{':'.join(settings.arms)}:")
        if live.candidate is None or live.second is None or not live.second.share:
            return None
        arms = live.current.served.version, live.candidate.served.version
        return cls(arms, live.second.share, live.second.salt)

    def arm(self, user: str) -> Arm:
        """The arm of a user: always the same, in every process."""
        return Arm(self.name, self.arms[point(self.salt + user) < self.share], self.share)


def meant(settings: Server, live: Live, request: Question) -> tuple[Question, Role, Arm | None]:
    """The question with the arm's policy, the role of the model that answers it, and the arm.

    Only questions to the trained policy that name a user belong to an experiment, because others cannot be assigned
    consistently; a question may also opt out. If the arm's model is not loaded, the deployed model answers, and the
    decision is logged without an arm.
    """
    role = live.role(request.user_id)
    experiment = Experiment.of(settings, live) if request.experiment else None
    if experiment is None or request.user_id is None or request.policy != "trained":
        return request, role, None
    arm = experiment.arm(request.user_id)
    if settings.arms is None or arm.name == "trained":
        return request, role, arm
    if arm.name in POLICIES:
        return request.model_copy(update={"policy": arm.name}), "current", arm
    return (request, "current", None) if live.candidate is None else (request, "canary", arm)


class Watch:
    """A thread that compares the arms periodically.

    Attributes:
        now: the last comparison, as plain values; None if there is no experiment, or no comparison yet.
    """

    def __init__(self, models: Models) -> None:
        self.models = models
        self.now: dict[str, Any] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="what-next-experiment", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def number(self, name: str) -> float:
        """A bound of the difference, or its mean; NaN if unknown."""
        value = None if (now := self.now) is None else now["difference"][name]  # the thread may replace it
        return float("nan") if value is None else float(value)

    def look(self) -> dict[str, Any] | None:
        """Compare the arms by their answers in the store.

        Raises:
            StoreUnavailable: the store cannot be read now.
        """
        experiment = Experiment.of(self.models.setup.server, self.models.live)
        self.now = None if experiment is None else compared(experiment, self.models.store)
        return self.now

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self.look()
            except StoreError as error:
                logger.warning("the experiment could not be looked at: %s", error)
            except Exception:
                logger.exception("the experiment could not be looked at")
            self._stop.wait(max(self.models.setup.loop.look, REST * (time.monotonic() - began)))


def compared(experiment: Experiment, store: Store) -> dict[str, Any]:
    """The comparison of both arms since the share last changed, as plain values; None for unknown values."""
    first, second = experiment.arms
    users, second_arm, rewards, since = earned(store, experiment.name, second, experiment.share)
    found = contrast(users, second_arm, rewards, LEVEL)
    bounds = {name: getattr(found, name) for name in ("mean", "low", "high")}
    return {
        "name": experiment.name,
        "share": experiment.share,
        "arms": [
            {"name": name, "users": arm.users, "answers": arm.answers, "reward": arm.mean if arm.answers else None}
            for name, arm in ((first, found.theirs), (second, found.ours))
        ],
        "difference": {name: value if abs(value) < float("inf") else None for name, value in bounds.items()},
        "level": LEVEL,
        "verdict": {"better": second, "worse": first, "undecided": None}[found.verdict()],
        "assumes": ASSUMES,
        "since": None if since is None else _moment(datetime.fromtimestamp(since / 1e6, UTC)),
        "time": _moment(datetime.now(UTC)),
    }


def _moment(time: datetime) -> str:
    return time.isoformat(timespec="seconds").replace("+00:00", "Z")


class Shadow:
    """Records the second model's answers in a thread of its own, so that it neither delays nor breaks real answers."""

    def __init__(self, models: Models, submit: "Callable[[AddImpression, float], Future[Any]]") -> None:
        """`submit`: writes an impression, with its question's time of arrival on the monotonic clock."""
        self.models, self.metrics, self.submit = models, models.metrics, submit
        self.answering = Answering(models.setup)
        self._room = threading.BoundedSemaphore(WAITING)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="what-next-shadow")

    def put(self, request: Question, shown: RecommendationResponse) -> None:
        """Queue a question for the second model, if it is to the trained policy; `shown`: the answer the user got."""
        if request.policy != "trained":
            return
        if self._room.acquire(blocking=False):
            self._thread.submit(self._record, request, shown, time.monotonic())
        else:
            self.metrics.shadows.labels("dropped").inc()

    def close(self) -> None:
        """End the thread; waiting questions are dropped."""
        self._thread.shutdown(cancel_futures=True)

    def _record(self, request: Question, shown: RecommendationResponse, asked: float) -> None:
        self._room.release()
        if (active := self.models.live.candidate) is None:
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
