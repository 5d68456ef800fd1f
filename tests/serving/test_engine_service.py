"""Answers while things go wrong, or come at once: the safe policy, batches, two engines, an engine that hangs."""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from what_next.errors import StoreUnavailable
from what_next.serving.engine import batcher
from what_next.serving.request import Stopping
from what_next.serving.store import Store

from .engines import Counts, Service, asking, ids, in_time, running, spoil
from .models import served
from .waiting import impressions_of

HISTORY = ("i3", "i14", "i15", "i9", "i26")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running(served(tmp_path, deadline=5000), Counts()) as found:
        yield found


# The safe policy


def test_a_model_that_fails_is_answered_for(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service.played("anna", *HISTORY)

    def fail(*_: Any) -> None:
        raise RuntimeError("the secret of the model")

    spoil(service, monkeypatch, fail)
    answer = service.ask(user="anna", k=3, blocked=("i0",))
    assert (answer.policy, answer.fallback, ids(answer)) == ("popular", "error", ["i1", "i2", "i4"])
    assert answer.propensities == (1, 1, 1)
    assert impressions_of(service.store, "anna")[0].fallback == "error"
    assert service.engine.metrics.answers == [("popular", "error")]  # type: ignore[attr-defined]
    assert "the secret of the model" in caplog.text


def test_one_question_that_fails_spoils_no_other(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_for_two(propose: Any, sessions: Sequence[Any], context: Any) -> Any:
        if any(len(session) == 2 for session in sessions):
            raise RuntimeError("two events are too much")
        return propose(sessions, context)

    spoil(service, monkeypatch, fail_for_two)
    asks = [asking(history=HISTORY[:length]) for length in (1, 2, 3, 4, 2, 5)]
    found = [answer.fallback for answer in service.ask_all(asks)]
    assert found == [None, "error", None, None, "error", None]


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_number_that_is_not_finite_raises_an_alarm(
    service: Service, monkeypatch: pytest.MonkeyPatch, number: float
) -> None:
    def ill(propose: Any, sessions: Sequence[Any], context: Any) -> Any:
        proposal = propose(sessions, context)
        points = proposal.points.copy()
        points[[len(session) == 2 for session in sessions]] = number
        return replace(proposal, points=points)

    spoil(service, monkeypatch, ill)
    asks = [asking(history=HISTORY[:length]) for length in (1, 2, 3)]
    assert [answer.fallback for answer in service.ask_all(asks)] == [None, "alarm", None]


def test_scores_that_overflow_raise_an_alarm(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def huge(propose: Any, sessions: Sequence[Any], context: Any) -> Any:
        proposal = propose(sessions, context)
        return replace(proposal, points=np.full_like(proposal.points, 3e38))

    spoil(service, monkeypatch, huge)
    assert service.ask(history=HISTORY).fallback == "alarm"


def test_a_model_that_is_late_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(served(tmp_path, deadline=50)) as service:
        service.played("anna", "i0", "i1")
        go_on = threading.Event()
        spoil(service, monkeypatch, lambda propose, *args: (go_on.wait(20), propose(*args))[1])
        start = time.monotonic()
        answer = service.ask(user="anna", k=2)
        assert 0.05 <= time.monotonic() - start < 5
        assert (answer.policy, answer.fallback, ids(answer)) == ("popular", "deadline", ["i2", "i3"])
        go_on.set()
        in_time(lambda: service.ask(user="anna", policy="random").fallback is None)
        told = [one.fallback for one in impressions_of(service.store, "anna") if one.policy != "random"]
        assert told == ["deadline"]  # the late answer was thrown away


def test_a_store_that_is_away_is_no_fallback(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(service.store, "heads", away)
        with pytest.raises(StoreUnavailable):
            service.ask(user="anna")
    with monkeypatch.context() as patch:
        patch.setattr(service.store, "commit", away)
        with pytest.raises(StoreUnavailable):
            service.ask(history=HISTORY)
    assert service.ask(history=HISTORY).fallback is None


# Together


def test_who_asks_together_is_answered_together(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = [ids(service.ask(history=HISTORY[:length], k=5)) for length in range(1, 6)]
    held, go_on = threading.Event(), threading.Event()

    def wait(propose: Any, *args: Any) -> Any:
        held.set()
        go_on.wait(10)
        return propose(*args)

    spoil(service, monkeypatch, wait)

    async def together() -> list[Any]:
        first = asyncio.create_task(service.answer(asking(history=HISTORY)))
        await asyncio.to_thread(held.wait, 10)
        rest = [asyncio.create_task(service.answer(asking(history=HISTORY[:length], k=5))) for length in range(1, 6)]
        await asyncio.sleep(0.05)
        go_on.set()
        return [await one for one in (first, *rest)]

    answers = asyncio.run(together())
    assert [ids(answer) for answer in answers[1:]] == alone
    assert service.engine.metrics.batches[-1] == 5  # type: ignore[attr-defined]


def test_an_event_through_one_engine_changes_the_next_answer_of_another(service: Service) -> None:
    with running(service.setup) as other:
        service.played("anna", *HISTORY[:3])
        before = ids(other.ask(user="anna", k=5))
        assert before == ids(service.ask(user="anna", k=5))
        service.played("anna", before[0])
        after = other.ask(user="anna", k=5)
        assert after.known_events == 4
        assert before[0] not in ids(after)
        assert ids(after) == ids(service.ask(history=(*HISTORY[:3], before[0]), k=5))


# Ready, and not


def test_an_engine_is_ready_when_popular_items_are_counted(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    count, go_on = Store.event_counts, threading.Event()
    monkeypatch.setattr(Store, "event_counts", lambda store: (go_on.wait(20), count(store))[1])
    with running(service.setup) as other:
        assert list(other.engine.missing()) == ["popular items"]
        go_on.set()
        in_time(lambda: not other.engine.missing())


def test_an_engine_whose_model_hangs_is_not_ready(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher, "STUCK", 0.05)
    in_time(lambda: not service.engine.missing())
    held, go_on = threading.Event(), threading.Event()
    spoil(service, monkeypatch, lambda propose, *args: (held.set(), go_on.wait(20), propose(*args))[2])
    with ThreadPoolExecutor() as threads:
        asking = threads.submit(service.ask, history=HISTORY)
        assert held.wait(20)
        in_time(lambda: list(service.engine.missing()) == ["model"])
        go_on.set()
        assert asking.result(20).fallback is None
    in_time(lambda: not service.engine.missing())


def test_who_asks_a_service_that_stops_is_told(service: Service) -> None:
    in_time(lambda: not service.engine.missing())
    service.engine.close()
    assert list(service.engine.missing()) == ["model"]
    with pytest.raises(Stopping):
        service.ask(history=HISTORY)


def test_an_engine_that_is_closed_waits_for_no_model_that_hangs(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One question is with the model, another waits behind it: that one is told."""
    monkeypatch.setattr(batcher, "STUCK", 0.05)
    held, go_on = threading.Event(), threading.Event()
    spoil(service, monkeypatch, lambda propose, *args: (held.set(), go_on.wait(20), propose(*args))[2])
    with ThreadPoolExecutor() as threads:
        first = threads.submit(service.ask, history=HISTORY)
        assert held.wait(20)
        second = threads.submit(service.ask, history=HISTORY)
        in_time(lambda: bool(service.engine.batcher._turns))
        service.engine.close()
        for asked in (first, second):
            with pytest.raises(Stopping):
                asked.result(20)
        go_on.set()
