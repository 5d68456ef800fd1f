"""Answers one batch of questions: sessions, one pass of the model, a slate for each, popular items as fallback."""

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from cachetools import TTLCache
from jaxtyping import Int32

from what_next.errors import NotFinite, StoreUnavailable, some
from what_next.inference.session import Event, Session
from what_next.serving import logger
from what_next.serving.bodies import Question
from what_next.serving.engine.cache import Entry
from what_next.serving.engine.live import Active, Mask
from what_next.serving.engine.served import reasons, spread
from what_next.serving.request import Fallback, PolicyName, RecommendationResponse, Refused
from what_next.serving.store import AddImpression
from what_next.settings import Setup
from what_next.types import EpsilonGreedy, Greedy, History, Permitted, Policy, Request, Sampler, Slate, Softmax

MINUTE = 60.0
IDS = 256
"""Random parts of recommendation ids that are drawn at once."""
NOBODY = np.zeros(0, np.int32)


@dataclass(eq=False, slots=True)
class Job:
    """One question while it is answered.

    Attributes:
        request: the question; `role`: the model's role; `unseen`: whether seen items are left out.
        withdrawn: number of the latest change of the withdrawn items, and their positions.
        mask: the permitted items; None: all.
        entry: the cached state of the user, unless the question has a history; `key`: of the user in the store.
        session: the model's input: of the user, or of the given history.
        seen: the session's items; `unknown`: ids of the given history that the catalogue does not hold.
        fallback: why popular items are the answer; None: they are not a fallback.
        slate: the chosen items.
    """

    request: Question
    role: str
    unseen: bool
    withdrawn: tuple[int, Int32[np.ndarray, "withdrawn"]]
    mask: Mask | None = None
    entry: Entry | None = None
    key: int | None = None
    session: Session | None = None
    seen: Int32[np.ndarray, "heard"] = field(default_factory=lambda: NOBODY)
    unknown: tuple[str, ...] = ()
    fallback: Fallback | None = None
    slate: Slate | None = None

    @property
    def policy(self) -> PolicyName:
        """The policy that answers."""
        return "popular" if self.fallback else self.request.policy

    @property
    def excluded(self) -> Int32[np.ndarray, "excluded"]:
        """Items that must not be in the answer."""
        seen, withdrawn = self.seen if self.unseen else NOBODY, self.withdrawn[1]
        return np.concatenate([seen, withdrawn]) if len(withdrawn) else seen


class Result(NamedTuple):
    """An answer, and the impression that must be durable before the answer is sent."""

    answer: RecommendationResponse
    impression: AddImpression


Outcome = Result | BaseException


class Answering:
    """Turns questions into results. Each thread needs its own object, because the random generator is not shared."""

    def __init__(self, setup: Setup) -> None:
        self.settings, self.seen, self.rng = setup.server, setup.evaluation.seen, np.random.default_rng()
        self._reported: TTLCache[str, bool] = TTLCache(100, MINUTE)
        self._digits: list[str] = []

    def answer(self, active: Active, requests: Sequence[Question], role: str) -> list[Outcome]:
        """A result for each question, or the error for its caller: `Refused` or `StoreUnavailable`.

        Any other error is logged and answered with popular items. If a batch fails, its questions are tried one by one,
        so that only the failing question falls back.
        """
        try:
            with active.served.lock:
                return self._together(active, requests, role)
        except StoreUnavailable as error:
            return [error for _ in requests]
        except Exception as error:
            if len(requests) > 1:
                return [one for request in requests for one in self.answer(active, [request], role)]
            self._report(active.served.version, error)
        return [self.safe(active, requests[0], role, "error")]

    def safe(self, active: Active, request: Question, role: str, fallback: Fallback) -> Outcome:
        """A fallback answer: permitted popular items, without those in the user's cached history.

        It uses neither the model nor the store, so it is fast.
        """
        try:
            entry = None if request.user_id is None else active.sessions.remembered(request.user_id)
            job = self._job(active, request, role, entry)
            job.key, job.fallback = None if entry is None else entry.key, fallback
            self._simple(active, [job])
            answer, impression = self._result(active, job)
            if entry is None and request.user_id is not None:
                # The store was not asked whether another process erased this user meanwhile.
                impression = replace(impression, user_id=None, history=None)
            return Result(answer, impression)
        except Exception as error:
            if not isinstance(error, Refused | StoreUnavailable):
                logger.exception("popular items could not be given either")
            return error

    def _report(self, version: str, error: Exception) -> None:
        """Log a failure of the model with its traceback, once a minute for each kind of error."""
        kind = f"{version} {type(error).__name__}"
        if kind not in self._reported:
            self._reported[kind] = True
            logger.error("the model %s failed (%s); popular items are the answer", version, error, exc_info=error)

    # Together

    def _together(self, active: Active, requests: Sequence[Question], role: str) -> list[Outcome]:
        users = [request.user_id for request in requests if request.user_id is not None and request.history is None]
        entries = active.sessions.of(users) if users else {}
        others = [one.user_id for one in requests if one.user_id is not None and one.history is not None]
        heads = active.sessions.store.heads(others) if others else {}
        jobs: list[Job | Refused] = []
        for request in requests:
            user = request.user_id or ""
            try:
                job = self._job(active, request, role, entries.get(user))
                if request.context:
                    self._check_context(active, request.context)
            except Refused as error:
                jobs.append(error)
                continue
            if job.entry is not None:
                job.session = job.entry.session
            elif user in heads:
                job.key = heads[user].key
            job.fallback = "unknown_user" if request.policy == "trained" and not len(job.seen) else None
            jobs.append(job)
        given = [one for one in jobs if isinstance(one, Job) and one.request.history and len(one.seen)]
        played = [[Event(int(item)) for item in job.seen] for job in given]
        replayed = active.served.sessions.replays(played) if played else []
        for job, session in zip(given, replayed, strict=True):
            job.session = session
        there = [job for job in jobs if isinstance(job, Job)]
        self._modelled(active, [job for job in there if job.policy == "trained"])
        self._simple(active, [job for job in there if job.slate is None])
        return [one if isinstance(one, Refused) else self._result(active, one) for one in jobs]

    def _modelled(self, active: Active, jobs: Sequence[Job]) -> None:
        """Fill the slates by the model; a job whose scores are not finite gets a fallback and no slate yet."""
        if not jobs:
            return
        served = active.served
        context = [job.request.context or {} for job in jobs] if any(job.request.context for job in jobs) else None
        states = served.sessions.states([job.session for job in jobs if job.session is not None], context)
        try:
            self._choose(served.policy, states, jobs)
        except NotFinite as error:
            for row in error.rows:
                jobs[row].fallback = "alarm"
            self._report(served.version, error)
            self._modelled(active, [job for job in jobs if not job.fallback])

    def _simple(self, active: Active, jobs: Sequence[Job]) -> None:
        """Fill the slates by the policies `random` and `popular`; the latter also for fallbacks."""
        for name, policy in (("random", active.anything), ("popular", active.popular)):
            if asked := [job for job in jobs if job.policy == name]:
                self._choose(policy, History.of([()] * len(asked)), asked)  # neither reads a history

    def _choose(self, policy: Policy, states: Any, jobs: Sequence[Job]) -> None:
        """Fill the slate of each job by a policy."""
        sets = tuple(job.mask for job in jobs)
        excluded = [job.excluded for job in jobs]
        width = max(map(len, excluded))
        without = np.full((len(jobs), width), -1, np.int32)
        for row, items in enumerate(excluded):
            without[row, : len(items)] = items
        permitted = Permitted(sets if any(sets) else (), without if width else None)
        request = Request([job.request.k for job in jobs], [self._sampler(job) for job in jobs], permitted)
        rngs = [self.rng if job.request.seed is None else np.random.default_rng(job.request.seed) for job in jobs]
        for job, slate in zip(jobs, policy.act(states, request, rngs).each(), strict=True):
            job.slate = slate

    def _sampler(self, job: Job) -> Sampler:
        """The sampler of a job: from its question, else from the settings; a fallback is greedy.

        `popular` is greedy, too, unless the question says otherwise: the settings are for the model's exploration.
        """
        asked = job.request.explore
        if job.fallback or (job.policy == "popular" and asked is None):
            return Greedy()
        if job.policy == "random":
            return Softmax()
        draw = self.settings if asked is None else asked
        if draw.temperature:
            return Softmax(draw.temperature)
        return EpsilonGreedy(draw.epsilon) if draw.epsilon else Greedy()

    def _job(self, active: Active, request: Question, role: str, entry: Entry | None) -> Job:
        """The initial job of a question; `entry` is its user's, and is ignored if the question has a history."""
        unseen = not self.seen if request.exclude_seen is None else request.exclude_seen
        job = Job(request, role, unseen, active.withdrawn, active.mask(request))
        if request.history is not None:
            job.seen = active.served.known(request.history)
            job.unknown = tuple(one for one in request.history if one not in active.served.places)
        elif entry is not None:
            job.entry, job.key, job.seen = entry, entry.key, entry.session.items
        return job

    def _check_context(self, active: Active, context: Mapping[str, float]) -> None:
        names = active.served.policy.agent.space.context_names
        for name in context:
            if name not in names:
                raise Refused("context", f"{name!r} is not known to the model; it reads {some(names) or 'none'}")

    # One by one

    def _result(self, active: Active, job: Job) -> Result:
        served, request, slate, entry = active.served, job.request, job.slate, job.entry
        assert slate is not None
        assert slate.propensities is not None
        items, now = slate.items.tolist(), time.time_ns()
        answer = RecommendationResponse(
            recommendation_id=f"{now // 1_000_000:012x}{self._random()}",  # sortable by time, as a version 7 UUID
            user=request.user_id,
            ids=tuple([served.ids[item] for item in items]),
            titles=[served.titles[item] for item in items],
            scores=self._scores(active, job, slate),
            propensities=tuple(slate.propensities.tolist()),
            reasons=reasons(served, job.session, slate.items) if request.explain else [None] * len(items),
            version=served.version,
            role="canary" if job.role == "canary" else "current",
            policy=job.policy,
            fallback=job.fallback,
            unknown=job.unknown,
            known_events=0 if entry is None else entry.events,
            spread=spread(served, job.seen) if entry is None else entry.spread_in(served),
        )
        return Result(answer, self._impression(job, answer, now))

    def _impression(self, job: Job, answer: RecommendationResponse, now: int) -> AddImpression:
        """The impression of an answer, which must be durable before the answer is sent."""
        return AddImpression(
            recommendation_id=answer.recommendation_id,
            user_id=answer.user,
            key=job.key,
            time=now // 1000,
            version=answer.version,
            policy=answer.policy,
            items=answer.ids,
            propensities=answer.propensities,
            fallback=job.fallback,
            explore=self._explored(job),
            history=job.request.history,
            known=0 if job.entry is None else job.entry.last,
            withdrawn=job.withdrawn[0],
            rule=None if job.mask is None else job.mask.rule,
        )

    def _scores(self, active: Active, job: Job, slate: Slate) -> list[float | None]:
        """The scores of an answer's items; for popular items, their numbers of events."""
        if job.policy == "popular":
            return [float(count) for count in active.popular.counts[slate.items]]
        if job.policy == "random" or slate.scores is None:
            return [None] * len(slate.items)
        scores: list[float | None] = slate.scores.tolist()
        return scores

    def _random(self) -> str:
        """20 random hexadecimal digits; drawn in bulk, because each system call may switch to another thread."""
        if not self._digits:
            digits = secrets.token_hex(10 * IDS)
            self._digits = [digits[start : start + 20] for start in range(0, len(digits), 20)]
        return self._digits.pop()

    def _explored(self, job: Job) -> dict[str, float | str | None]:
        """How the items were drawn, for the log: context, masks and the sampler's parameters."""
        request = job.request
        found: dict[str, float | str | None] = {
            f"context.{name}": value for name, value in (request.context or {}).items()
        }
        if job.mask is not None:
            found["masked"] = 1.0
        if not job.unseen:
            found["seen"] = 1.0
        if job.fallback or request.policy == "random":
            return found
        if drawn := vars(self._sampler(job)):  # temperature or epsilon; empty if greedy
            found |= drawn
            if request.seed is not None:
                found["seed"] = str(request.seed)  # JSON numbers may lose digits
        return found
