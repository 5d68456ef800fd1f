"""The engine of the service: answers questions while models, items and histories change."""

import asyncio
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import partial
from operator import itemgetter
from typing import Any, get_args

import torch
from cachetools import TTLCache

from what_next.errors import CatalogueError, StoreError, StoreUnavailable, some
from what_next.inference.extend import NewItem, problems
from what_next.serving import logger
from what_next.serving.bodies import Question
from what_next.serving.engine.answering import Answering, Outcome, Result
from what_next.serving.engine.batcher import Batcher
from what_next.serving.engine.experiment import Shadow, Watch, meant
from what_next.serving.engine.models import Models, Poller
from what_next.serving.engine.served import Served
from what_next.serving.engine.versions import undeployed
from what_next.serving.engine.waiting import Waiting
from what_next.serving.metrics import Metrics
from what_next.serving.request import (
    EVENTS_PER_UNIT,
    Arm,
    IdempotencyKey,
    Overloaded,
    RecommendationResponse,
    Role,
    Stopping,
)
from what_next.serving.store import Store, Writer, records
from what_next.settings import Setup

SWITCH = 0.001
"""Python's thread switch interval in seconds: the longest that the event loop waits for the model's thread."""
TYPICAL_HISTORY = 100
"""Assumed number of events of a user who is not in memory."""
ERASED, REMEMBERED = 10_000, 600.0
"""Most erased users to remember, and for how many seconds: longer than any of their questions can take."""
Asked = tuple[Question, IdempotencyKey | None]


class Engine:
    """Answers questions by the deployed model, which runs in its own thread so that the event loop is not blocked."""

    def __init__(
        self,
        setup: Setup,
        store: Store,
        writer: Writer,
        metrics: Metrics | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """Load the current version of the store; if there is none yet, the setup's own model is deployed.

        The caller closes `store` and `writer` after the engine. Setting `stop` aborts the loading.

        Raises:
            ModelError: no deployed model can be loaded, or the second one that the setup names is missing.
            Stopping: `stop` was set.
            StoreUnavailable: the store cannot be used now.
        """
        torch.set_num_threads(setup.threads or 1)
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH))
        settings, metrics = setup.server, metrics or Metrics()
        self.setup, self.writer, self.metrics = setup, writer, metrics
        self.models = Models(setup, store, metrics, stop)
        self._going: Counter[str] = Counter()
        self._gone: TTLCache[str, float] = TTLCache(ERASED, REMEMBERED)
        self._submitting = threading.Lock()
        # Whether another process withdrew an item of an answer. The writer finds this out with the impression, else the
        # poller does; asking the store before each batch would cost more than the rest of the batch.
        self._behind = False
        self._answering, self._safe = Answering(setup), Answering(setup)
        self._shadow = Shadow(self.models, self._submit)
        self.batcher = Batcher(self._answer, self._late, size=settings.batch, deadline=settings.deadline / 1000)
        self._poller = Poller(self.models)
        self.experiment = Watch(self.models)

    def close(self) -> None:
        """Answer waiting questions, and end all threads."""
        self._poller.close()
        self.experiment.close()
        self.batcher.close()
        self._shadow.close()

    # Answering

    async def recommend_all(
        self, requests: Sequence[Asked], caller: str = ""
    ) -> list[RecommendationResponse | BaseException]:
        """The answers to the questions of one request, admitted together, once their impressions are durable.

        Capacity is shared among callers. In place of an answer there may be an error: `Refused` (the question is
        invalid), `AnsweredBefore` (its idempotency key has an answer already), `Withdrawn` (an item was withdrawn
        meanwhile, twice in a row), `StoreUnavailable` or `Stopping`.

        Raises:
            Overloaded: the questions could not be answered in time.
            Stopping: the engine is being closed.
        """
        found = await self._outcomes(requests, caller)
        if again := [place for place, outcome in enumerate(found) if isinstance(outcome, records.Withdrawn)]:
            try:
                others = await self._outcomes([requests[place] for place in again], caller)
            except (Overloaded, Stopping) as error:
                others = [error for _ in again]
            except asyncio.CancelledError:  # the request's other answers are lost, too
                self.unseen([one.recommendation_id for one in found if isinstance(one, RecommendationResponse)])
                raise
            for place, outcome in zip(again, others, strict=True):
                found[place] = outcome
        return found

    async def _outcomes(self, requests: Sequence[Asked], caller: str) -> list[RecommendationResponse | BaseException]:
        """Answers and errors, once all are there; answers that come after the client hung up are noted as unseen."""
        loop = asyncio.get_running_loop()
        waiting = [self._waiting(question, once, loop) for question, once in requests]
        if waiting:
            self.batcher.put(waiting, caller)
        try:
            return [await one.future for one in waiting]
        except asyncio.CancelledError:
            for one in waiting:
                one.give_up()
            raise

    def unseen(self, recommendation_ids: Sequence[str]) -> None:
        """Note that answers did not reach a client; an answer that reached none does not count as a decision."""
        try:
            self.writer.submit(records.CountDeliveries(tuple(recommendation_ids), -1))
        except StoreUnavailable as error:
            logger.warning("answers that nobody saw stand in the log as shown: %s", error)

    def _waiting(self, request: Question, once: IdempotencyKey | None, loop: asyncio.AbstractEventLoop) -> Waiting:
        """A waiting question; if the model rereads the history each time, its length adds to the cost."""
        made = Waiting(request, loop, lambda lost: self.unseen([lost.recommendation_id]), once)
        current = self.models.live.current
        if current.served.sessions.rereads and request.user_id is not None and request.history is None:
            entry = current.sessions.remembered(request.user_id)
            made.cost += (TYPICAL_HISTORY if entry is None else len(entry.session.numbers)) / EVENTS_PER_UNIT
        return made

    def _answer(self, batch: list[Waiting]) -> None:
        """Answer a batch, in the worker's thread; errors become outcomes."""
        self.metrics.batches.observe(len(batch))
        if self._behind:
            self._behind = False  # first: a change during the look must cause another look
            try:
                self.models.withdrawals.look()
            except StoreError:
                self._behind = True
        live = self.models.live
        asked = [meant(self.setup.server, live, one.request) for one in batch]
        for role in get_args(Role):
            wanted = [
                (one, request, arm) for one, (request, whose, arm) in zip(batch, asked, strict=True) if whose == role
            ]
            if not wanted:
                continue
            outcomes = self._answering.answer(live.of(role), [request for _, request, _ in wanted], role)
            for (waiting, request, arm), outcome in zip(wanted, outcomes, strict=True):
                if waiting.take():
                    self._finish(waiting, outcome, arm)
                    if live.shadow and role == "current" and isinstance(outcome, Result):
                        self._shadow.put(request, outcome.answer)

    def _late(self, waiting: Waiting) -> None:
        """Answer an overdue question without the model, in the watcher's thread; the model's answer is discarded."""
        live = self.models.live
        request, role, arm = meant(self.setup.server, live, waiting.request)
        self._finish(waiting, self._safe.safe(live.of(role), request, role, "deadline"), arm)

    def _finish(self, waiting: Waiting, outcome: Outcome, arm: Arm | None) -> None:
        """Write the impression, with the arm of an experiment; the answer is sent when the impression is durable."""
        if not isinstance(outcome, Result):
            waiting.settle(outcome)
            return
        answer, impression = outcome
        if arm is not None:
            explore = {**impression.explore, "experiment": arm.experiment, "arm": arm.name, "share": arm.share}
            impression = replace(impression, explore=explore)
        if waiting.once is not None and impression.user_id == answer.user:
            response = records.KeptResponse(*waiting.once, answer.recommendation_id, answer.json.decode())
            impression = replace(impression, response=response)
        try:
            written = self._submit(impression, waiting.arrived)
        except StoreUnavailable as error:
            waiting.settle(error)
            return
        written.add_done_callback(partial(self._durable, waiting, answer))

    def _durable(self, waiting: Waiting, answer: RecommendationResponse, written: "Future[Any]") -> None:
        error = written.exception()
        try:
            if error is None:
                seconds = time.monotonic() - waiting.arrived
                self.metrics.answered(answer.role, answer.policy, answer.fallback, seconds)
            elif isinstance(error, records.Withdrawn):
                self._behind = True
        finally:
            waiting.settle(answer if error is None else error)

    def _submit(self, impression: records.AddImpression, arrived: float) -> "Future[Any]":
        """Write an impression, without the user if the user was erased since the question arrived.

        The lock makes sure that an impression with a user's id is queued before that user's erasure.
        """
        user = impression.user_id
        with self._submitting:
            if user is not None and (user in self._going or self._gone.get(user, -math.inf) >= arrived):
                impression = replace(impression, user_id=None, key=None, history=None, response=None)
            return self.writer.submit(impression)

    # Changes

    def erase(self, user_id: str) -> records.Erased:
        """Erase a user from the store and from memory; blocks until that is durable.

        Impressions of questions that are being answered meanwhile are recorded without the user.

        Raises:
            StoreUnavailable: the store cannot be used now, and still holds the user.
        """
        with self._submitting:
            self._going[user_id] += 1
        try:
            self.models.forget(user_id)
            erased: records.Erased = self.writer.submit(records.EraseUser(user_id)).result()
            return erased
        finally:
            with self._submitting:
                self._gone[user_id] = time.monotonic()
                self._going -= Counter((user_id,))  # keeps no zeros
            # The user may have been read back into memory just before the commit.
            self.models.forget(user_id)

    def withdraw(self, item_id: str) -> bool:
        """Exclude an item from all answers, in every process on the store, until it is added again; blocks until that
        is durable. Returns whether the item was not withdrawn before.

        Raises:
            CatalogueError: neither the catalogue nor the store holds it.
            StoreUnavailable: the store cannot be used now.
        """
        if not self.held([item_id]):
            self.models.grow()  # another process may have just added it
        if not self.held([item_id]):
            raise CatalogueError(f"item {item_id!r} is not in the catalogue")
        changed: bool = self.writer.submit(records.WithdrawItem(item_id)).result()
        self.models.withdrawals.look()
        return changed

    def check_items(self, items: Sequence[NewItem]) -> None:
        """Raise an `InvalidWrite` if an item cannot be put into the catalogue."""
        served, kinds = self.served, self.served.catalogue.kinds
        wrong = [
            (place, "tags", f"{some(unknown)}: not known; an item has {some(kinds) or 'none'}")
            for place, item in enumerate(items)
            if (unknown := [repr(kind) for kind in item.tags or () if kind not in kinds])
        ]
        wrong += problems(served.policy.agent.space, items, served.own)
        if wrong:
            raise records.InvalidWrite(*min(wrong, key=itemgetter(0, 1)))  # the first wrong item

    def held(self, item_ids: Sequence[str]) -> int:
        """How many of the ids are in the catalogue, or in the store although the catalogue cannot take them."""
        served = self.served
        return sum(one in served.places or one in served.left_out for one in set(item_ids))

    # Reports

    @property
    def served(self) -> Served:
        """The deployed version."""
        return self.models.live.current.served

    def missing(self) -> Sequence[str]:
        """What is missing until the engine is ready; empty: it is."""
        found = [] if self.batcher.alive else ["model"]
        return found if self.models.counted else [*found, "popular items"]

    def model(self) -> dict[str, Any]:
        """The models in use, as plain values."""
        return self.models.live.describe(self.setup)

    def undeployed(self) -> str | None:
        """A message if the setup's model is not the deployed one; None if it is."""
        live = self.models.live
        answers = live.current.served.version
        deployed = live.refused[0] if live.refused else answers
        deployments = list[records.Deployment]()
        with suppress(StoreError):  # the message matters less than the start
            deployments = self.models.store.deployments()
        return undeployed(self.setup.model_agent_path, deployed, answers, deployments)

    def unfit(self) -> str | None:
        """A message if the second model cannot be used; None if it can, or there is none."""
        found = self.models.live.unfit
        return found and f"the second model cannot be used ({found[1]}); all are answered by the first"
