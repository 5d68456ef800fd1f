"""An engine with its store, as the tests of the engine drive it."""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from what_next.serving.bodies import Question
from what_next.serving.engine import Engine
from what_next.serving.metrics import Metrics
from what_next.serving.request import Reason, RecommendationResponse
from what_next.serving.store import AddEvents, EventRow, Store, Writer
from what_next.settings import Setup

_numbers = count()


class Noted(list[Any]):
    """Stands in for a counter or a histogram, and keeps what it was told."""

    def labels(self, what: str) -> "Noted":
        self.append(what)
        return self

    def observe(self, value: float) -> None:
        self.append(value)

    def inc(self) -> None:
        """Noted by its label already."""


class Counts(Metrics):
    def __init__(self) -> None:
        super().__init__()
        self.answers, self.roles = list[tuple[str, str | None]](), list[str]()
        self.batches, self.shadows, self.overlap = Noted(), Noted(), Noted()  # type: ignore[assignment]

    def answered(self, role: str, policy: str, fallback: str | None, seconds: float) -> None:
        assert seconds > 0
        self.answers.append((policy, fallback))
        self.roles.append(role)


def asking(user: str | None = None, **values: Any) -> Question:
    """A question, as HTTP brings it; `temperature`, `epsilon` and pairs for `ranges` in place of objects."""
    if draw := {name: values.pop(name) for name in ("temperature", "epsilon") if name in values}:
        values["explore"] = draw
    if "ranges" in values:
        values["ranges"] = {name: {"min": low, "max": high} for name, (low, high) in values["ranges"].items()}
    return Question.model_validate({"user_id": user, **values}, strict=False)


class Service:
    """An engine, its writer and its store, open; several may share a store."""

    def __init__(self, setup: Setup, metrics: Metrics | None = None) -> None:
        self.setup = setup
        self.store = Store.open(self.path)
        self.writer = Writer(self.store)
        self.engine = Engine(setup, self.store, self.writer, metrics)

    @property
    def path(self) -> Path:
        return self.setup.model_agent_path.with_suffix(".store.sqlite")

    def ask(self, **values: Any) -> RecommendationResponse:
        return asyncio.run(self.answer(asking(**values)))

    async def answer(self, question: Question) -> RecommendationResponse:
        (outcome,) = await self.engine.recommend_all([(question, None)])
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def ask_all(self, asks: Sequence[Question]) -> list[RecommendationResponse]:
        """At the same time."""

        async def together() -> list[RecommendationResponse]:
            return await asyncio.gather(*(self.answer(one) for one in asks))

        return asyncio.run(together())

    def played(self, user: str, *items: str, start: int = 1_000_000) -> None:
        """Events one millisecond apart, after one another and after those of earlier calls with the same start."""
        self.all_played({user: items}, start)

    def all_played(self, heard: Mapping[str, Sequence[str]], start: int = 1_000_000) -> None:
        """The same of many users, at once."""
        events = []
        for user, items in heard.items():
            first = start + len(self.store.events_of(user)) * 1000
            rows = (
                EventRow(f"event-{next(_numbers)}", user, item, time=first + place * 1000)
                for place, item in enumerate(items)
            )
            events.append(AddEvents(tuple(rows)))
        self.store.commit(events)

    def close(self) -> None:
        self.engine.close()
        self.writer.close()
        self.store.close()


@contextmanager
def running(setup: Setup, metrics: Metrics | None = None) -> Iterator[Service]:
    service = Service(setup, metrics)
    try:
        yield service
    finally:
        service.close()


def in_time(true: Any) -> None:
    """Waits for what another thread does."""
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


class Item(NamedTuple):
    item_id: str
    title: str
    score: float | None
    propensity: float
    reason: Reason | None


def items(answer: RecommendationResponse) -> list[Item]:
    """One by one, as clients read them."""
    return [Item(**one) for one in answer.content["items"]]


def ids(answer: RecommendationResponse) -> list[str]:
    return list(answer.ids)


def spoil(service: Service, monkeypatch: pytest.MonkeyPatch, propose: Any) -> None:
    """Have the model propose otherwise."""
    sessions = service.engine.models.live.current.served.sessions
    before = sessions.states
    monkeypatch.setattr(sessions, "states", lambda *args: propose(before, *args))
