"""More than can be answered: how much is let in, whose turn it is, when a question is late, and what that costs."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from what_next.serving.engine import Engine
from what_next.serving.engine.batcher import Batcher, Pace
from what_next.serving.engine.waiting import Turns, Waiting
from what_next.serving.request import Overloaded

from .engines import asking, ids, in_time, running, spoil
from .models import served
from .waiting import impressions_of

HISTORY = ("i3", "i14", "i15", "i9", "i26")


def questions(loop: asyncio.AbstractEventLoop, count: int, cost: float = 1.0, name: str = "") -> list[Waiting]:
    made = [Waiting(asking(user=f"{name}{place}"), loop) for place in range(count)]
    for one in made:
        one.cost = cost
    return made


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


# How long it takes


def test_the_pace_is_the_line_through_what_was_measured() -> None:
    """10 ms for any batch, and 2 ms for each unit of cost."""
    pace = Pace()
    for cost in (1.0, 4.0, 2.0, 8.0):
        pace.measured(cost, 0.010 + 0.002 * cost)
    assert (pace.fixed, pace.each) == (pytest.approx(0.010), pytest.approx(0.002))
    assert pace.batch(64.0) == pytest.approx(0.138)


def test_batches_of_one_cost_alone_lay_all_of_it_on_the_cost() -> None:
    pace = Pace()
    for _ in range(3):
        pace.measured(4.0, 0.020)
    assert (pace.fixed, pace.each) == (pytest.approx(0), pytest.approx(0.005))


def test_a_model_that_got_slower_is_noticed() -> None:
    pace = Pace()
    for seconds in (0.01, 0.1):
        for place in range(60):
            pace.measured(1.0 + place % 3, seconds * (1 + place % 3))
    assert pace.each == pytest.approx(0.1, rel=0.05)


# Whose turn it is


def order(turns: Turns, count: int) -> list[str]:
    return [str(turns.pop().request.user_id) for _ in range(count)]


def test_callers_take_turns_by_cost(loop: asyncio.AbstractEventLoop) -> None:
    """One whose questions cost twice as much is answered half as many of them."""
    turns = Turns()
    turns.put(questions(loop, 50, 2.0, "a"), "a")
    for place in range(10):
        turns.put(questions(loop, 1, 1.0, f"b{place}-"), "b")
    first = order(turns, 9)
    assert [sum(name.startswith(who) for name in first) for who in "ab"] == [3, 6]
    assert turns.cost == 47 * 2 + 4


def test_a_large_request_does_not_keep_a_small_one_of_the_same_caller_waiting(loop: asyncio.AbstractEventLoop) -> None:
    turns = Turns()
    for name in "wxyz":
        turns.put(questions(loop, 50, 4.8, name), "shop")
    turns.put(questions(loop, 1, 1.0, "small"), "shop")
    assert "small0" in order(turns, 5)
    assert turns.ahead("shop", 1.0) < 25 < 500 < turns.ahead("shop", 240.0)


def test_what_another_caller_piled_up_is_not_before_a_question(loop: asyncio.AbstractEventLoop) -> None:
    turns = Turns()
    for name in "wxyz":
        turns.put(questions(loop, 50, 4.8, name), "hog")
    assert (turns.ahead("hog", 240.0), turns.ahead("other", 1.0)) == (pytest.approx(960), pytest.approx(4.8))
    turns.put(questions(loop, 1, 1.0, "small"), "other")
    assert "small0" in order(turns, 2)


def test_what_costs_little_still_waits_for_what_came_before(loop: asyncio.AbstractEventLoop) -> None:
    turns = Turns()
    for place in range(20):
        turns.put(questions(loop, 1, 3.0, f"{place}-"), "shop")
    assert turns.ahead("shop", 1.0) == 60


def test_who_gave_up_counts_no_longer(loop: asyncio.AbstractEventLoop) -> None:
    turns, several = Turns(), questions(loop, 3)
    turns.put(several, "a")
    for _ in range(2):
        turns.gone(several[1])
    assert turns.cost == 2
    assert order(turns, 3) == ["0", "1", "2"]
    assert (turns.cost, bool(turns)) == (0, False)


# What is let in


@dataclass
class Worker:
    """Answers nothing until it is let go."""

    batcher: Batcher
    began: threading.Event
    go_on: threading.Event
    batches: list[list[Waiting]] = field(default_factory=list)
    late: list[Waiting] = field(default_factory=list)


@contextmanager
def worker(deadline: float, size: int = 64) -> Iterator[Worker]:
    began, go_on = threading.Event(), threading.Event()

    def answer(batch: list[Waiting]) -> None:
        began.set()
        go_on.wait(20)
        made.batches.append([one for one in batch if one.take()])

    made = Worker(Batcher(answer, lambda one: made.late.append(one), size=size, deadline=deadline), began, go_on)
    try:
        yield made
    finally:
        go_on.set()
        made.batcher.close()


def let_in(batcher: Batcher, loop: asyncio.AbstractEventLoop, caller: str) -> int:
    """How many single questions of a caller are let in before one is not."""
    count = 0
    with suppress(Overloaded):
        while True:
            batcher.put(questions(loop, 1), caller)
            count += 1
    return count


def test_who_hung_up_leaves_the_worker_idle_and_not_at_work(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is at one batch for too long is not ready, and who asks for that would never ask it anything."""
    monkeypatch.setattr("what_next.serving.engine.batcher.STUCK", 0.2)
    with worker(deadline=8.0, size=100) as made:
        made.batcher.put(questions(loop, 1), "a")
        assert made.began.wait(10)
        gone = questions(loop, 1)
        made.batcher.put(gone, "b")
        assert gone[0].take()
        made.go_on.set()
        in_time(lambda: not made.batcher._turns)
        time.sleep(0.4)
        assert made.batcher.alive


def test_no_more_is_let_in_than_can_be_begun_with_in_half_of_the_deadline(loop: asyncio.AbstractEventLoop) -> None:
    """20 ms a question, 8 s: a batch takes a quarter of that, 100 questions; the fourth would begin after 4 s."""
    with worker(deadline=8.0, size=100) as made:
        made.batcher.put(questions(loop, 1), "a")
        assert made.began.wait(10)
        made.batcher.pace.fixed, made.batcher.pace.each, made.batcher._ends = 0.0, 0.02, 0.0
        assert made.batcher.full("a", 299) == 0
        assert made.batcher.full("a", 300) > 4
        assert let_in(made.batcher, loop, "a") == 300
        assert made.batcher.full("a") > 4
        # What a waits for is not before b, who shares with it: half of that.
        assert made.batcher.full("b") == 0
        assert let_in(made.batcher, loop, "b") == 150


def test_a_large_request_is_let_in_where_nothing_waits(loop: asyncio.AbstractEventLoop) -> None:
    with worker(deadline=1.0) as made:
        made.batcher.pace.each = 1.0
        made.batcher.put(questions(loop, 100), "a")
        assert made.began.wait(10)


def test_a_batch_is_no_larger_than_what_takes_a_part_of_the_deadline(loop: asyncio.AbstractEventLoop) -> None:
    """10 ms a question, and 400 ms of the deadline: ten of them."""
    with worker(deadline=0.4) as made:
        made.batcher.pace.each = 0.01
        made.go_on.set()
        made.batcher.put(questions(loop, 10), "a")
        in_time(lambda: made.batches)
        assert len(made.batches[0]) == 10
        assert made.batcher.room <= 64


# When a question is late


@pytest.mark.medium
def test_the_deadline_counts_from_when_the_model_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pass takes six tenths of the deadline: the second question waits for the first, and is answered too."""
    with running(served(tmp_path, deadline=1000, batch=1)) as service:
        service.ask(history=HISTORY)
        spoil(service, monkeypatch, lambda propose, *args: (time.sleep(0.6), propose(*args))[1])
        start = time.monotonic()
        found = service.ask_all([asking(history=HISTORY)] * 2)
        assert [answer.fallback for answer in found] == [None, None]
        assert time.monotonic() - start > 1.1


def test_a_late_answer_asks_the_store_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is in memory gets nothing that was heard; who is not is noted without a name, since nobody looked."""
    with running(served(tmp_path, deadline=100, batch=1)) as service:
        service.played("anna", "i0", "i1")
        service.played("ben", "i0", "i1")
        service.ask(user="anna")
        held, go_on, queries = threading.Event(), threading.Event(), list[str]()
        spoil(service, monkeypatch, lambda propose, *args: (held.set(), go_on.wait(20), propose(*args))[2])
        with ThreadPoolExecutor() as threads:
            first = threads.submit(service.ask, history=HISTORY, k=2)
            assert held.wait(20)
            service.engine.batcher.pace.fixed, service.engine.batcher.pace.each = 0.0, 1e-3
            service.engine.batcher._ends = 0.0  # nothing is expected of this machine's speed
            fetch = service.store.fetch
            monkeypatch.setattr(
                service.store, "fetch", lambda *of, **values: (queries.append(str(of[0])), fetch(*of, **values))[1]
            )
            found = service.ask_all([asking(user="anna", k=2), asking(user="ben", k=2)])
            assert [one for one in queries if "users" in one or '"user"' in one] == []
            go_on.set()
            assert first.result(20).fallback == "deadline"
        assert [(answer.fallback, ids(answer)) for answer in found] == [
            ("deadline", ["i2", "i3"]),
            ("deadline", ["i0", "i1"]),
        ]
        assert [one.fallback for one in impressions_of(service.store, "anna")] == [None, "deadline"]
        assert impressions_of(service.store, "ben") == []


# All of it together


@pytest.mark.medium
def test_ten_times_too_much_is_refused_early_and_the_rest_is_answered_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that answers at most 40 questions a second, one at a time, and is asked 400."""
    deadline, starts = 1.0, list[float]()

    def slow(propose: Any, *args: Any) -> Any:
        starts.append(time.monotonic())
        time.sleep(0.025)
        return propose(*args)

    async def ask(engine: Engine, after: float) -> tuple[float, str]:
        await asyncio.sleep(after)
        start = time.monotonic()
        try:
            (answer,) = await engine.recommend_all([(asking(history=HISTORY), None)])
            if isinstance(answer, BaseException):
                raise answer
            what = answer.fallback or "answered"
        except Overloaded:
            what = "refused"
        return time.monotonic() - start, what

    async def crowd(engine: Engine) -> list[tuple[float, str]]:
        return await asyncio.gather(*(ask(engine, place / 400) for place in range(800)))

    with running(served(tmp_path, deadline=1000 * deadline, batch=1)) as service:
        service.ask(history=HISTORY)
        spoil(service, monkeypatch, slow)
        for _ in range(10):  # the pace of the slow model is known before the crowd comes
            service.ask(history=HISTORY)
        starts.clear()
        found = asyncio.run(crowd(service.engine))
    waited = {what: sorted(one for one, told in found if told == what) for what in {told for _, told in found}}
    assert set(waited) <= {"answered", "refused", "deadline"}
    assert len(waited.get("deadline", [])) <= 0.05 * len(waited["answered"])
    assert waited["answered"][int(0.99 * len(waited["answered"]))] < 2 * deadline
    assert len(waited["refused"]) > 400
    assert waited["refused"][len(waited["refused"]) // 2] < 0.1
    # Not too much is refused: there is always a next question. A count and a median, since a busy machine may stand
    # still once.
    assert len(waited["answered"]) > 0.4 * 2 / 0.025
    assert median(after - before for before, after in pairwise(starts)) < 0.025 / 0.4
