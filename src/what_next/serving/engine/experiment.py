"""Experiments: two policies share the users by a hash of their ids; what each earned is told at any number of looks.

A canary is one, too: of the deployed version and the second one. What the second one answers in the
shadow, which nobody sees, is recorded here, too.
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
from what_next.off_policy.confidence_sequences import Arm as Earned
from what_next.off_policy.confidence_sequences import contrast
from what_next.serving import logger
from what_next.serving.bodies import Question
from what_next.serving.engine.answering import Answering, Result
from what_next.serving.engine.live import Active, Live, point
from what_next.serving.metrics import Metrics
from what_next.serving.request import Arm, RecommendationResponse, Role
from what_next.serving.store import AddImpression, Store
from what_next.serving.store.rewards import earned
from what_next.settings import Server
from what_next.settings.service import POLICIES

REST = 20
"""Between two looks at what was earned it rests at least so many times as long as the last look took."""
WAITING = 256
"""Questions that wait for the second model; what comes while it is full is dropped, and counted."""
ASSUMES = (
    "the bounds hold at any number of looks, if there are many users, independent of each other, and later rewards of "
    "a user are not systematically opposed to earlier ones"
)


@dataclass(frozen=True)
class Experiment:
    """What shares the users now.

    Attributes:
        arms: both policies; `share`: of the users whom the second one answers.
        salt: before the ids of users: another one shares them in another way.
    """

    arms: tuple[str, str]
    share: float
    salt: str

    @property
    def name(self) -> str:
        """Both arms, with a colon between them."""
        return ":".join(self.arms)

    @classmethod
    def of(cls, settings: Server, live: Live) -> "Experiment | None":
        """That of the settings, else a canary, else none."""
        if settings.arms is not None:
            return cls(settings.arms, settings.experiment_share, f"{':'.join(settings.arms)}:")
        if live.candidate is None or live.second is None or not live.second.share:
            return None
        arms = live.current.served.version, live.candidate.served.version
        return cls(arms, live.second.share, live.second.salt)

    def arm(self, user: str) -> Arm:
        """That of a user: always the same one, in every process."""
        return Arm(self.name, self.arms[point(self.salt + user) < self.share], self.share)


def meant(settings: Server, live: Live, request: Question) -> tuple[Question, Role, Arm | None]:
    """What is asked, which of the models answers it, and for which arm.

    Only questions for the trained policy that name a user belong to an experiment: nobody else can be known again; and
    they may ask not to. An arm whose model is not there is none: the deployed model answers, and the log says nothing
    of the experiment.
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
    """A thread that compares the arms every so often.

    Attributes:
        now: what it found last, as plain values; None: there is no experiment, or it was not looked at yet.
    """

    def __init__(self, settings: Server, live: Callable[[], Live], store: Store, every: float) -> None:
        """`every`: seconds between two looks."""
        self.settings, self.live, self.store, self.every = settings, live, store, every
        self.now: dict[str, Any] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="what-next-experiment", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join()

    def number(self, name: str) -> float:
        """A bound of the difference, or its mean; NaN where it is not known."""
        value = None if (now := self.now) is None else now["difference"][name]  # a look may replace it meanwhile
        return float("nan") if value is None else float(value)

    def look(self) -> dict[str, Any] | None:
        """Compares the arms by what the store holds of them.

        Raises:
            StoreUnavailable: the store cannot be read now.
        """
        experiment = Experiment.of(self.settings, self.live())
        self.now = None if experiment is None else compared(experiment, self.store)
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
            self._stop.wait(max(self.every, REST * (time.monotonic() - began)))


def compared(experiment: Experiment, store: Store) -> dict[str, Any]:
    """What both arms earned since the share last changed, as plain values; what is not known is None."""
    first, second = experiment.arms
    users, second_arm, rewards, since = earned(store, experiment.name, second, experiment.share)
    found = contrast(users, second_arm, rewards, LEVEL)
    bounds = {name: getattr(found, name) for name in ("mean", "low", "high")}
    return {
        "name": experiment.name,
        "share": experiment.share,
        "arms": [_told(first, found.theirs), _told(second, found.ours)],
        "difference": {name: value if abs(value) < float("inf") else None for name, value in bounds.items()},
        "level": LEVEL,
        "verdict": {"better": second, "worse": first, "undecided": None}[found.verdict()],
        "assumes": ASSUMES,
        "since": None if since is None else _moment(datetime.fromtimestamp(since / 1e6, UTC)),
        "time": _moment(datetime.now(UTC)),
    }


def _moment(time: datetime) -> str:
    return time.isoformat(timespec="seconds").replace("+00:00", "Z")


def _told(name: str, arm: Earned) -> dict[str, Any]:
    reward = arm.mean if arm.answers else None
    return {"name": name, "users": arm.users, "answers": arm.answers, "reward": reward}


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
