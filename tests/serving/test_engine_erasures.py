"""Whoever is erased leaves nothing behind, whatever is under way at that moment."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from what_next.errors import StoreUnavailable
from what_next.serving.engine.cache import SessionCache
from what_next.serving.store import AddImpression, AddItems, Erased, EraseUser, NewItem

from .engines import Service, in_time, running, spoil
from .models import ATTRIBUTES, served
from .waiting import impressions_of

HISTORY = ("i3", "i14", "i15", "i9", "i26")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running(served(tmp_path, deadline=5000)) as found:
        yield found


def test_erasing_forgets_a_user(service: Service) -> None:
    service.played("anna", *HISTORY)
    service.ask(user="anna")
    sessions = service.engine.models.live.current.sessions
    assert sessions.remembered("anna") is not None
    assert service.engine.erase("anna") == Erased(events=5, impressions=1, feedback=0)
    assert sessions.remembered("anna") is None
    answer = service.ask(user="anna")
    assert (answer.fallback, answer.known_events) == ("unknown_user", 0)
    assert [one.user_id for one in impressions_of(service.store, "anna")] == ["anna"]  # who comes back is somebody new


def nothing_left(service: Service, user: str) -> bool:
    """Whether neither store nor memory knows a user."""
    return (
        not impressions_of(service.store, user)
        and not service.store.events_of(user)
        and service.engine.models.live.current.sessions.remembered(user) is None
    )


def test_a_question_that_came_before_an_erasure_and_is_answered_after_it_names_nobody(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.played("anna", *HISTORY)
    spoil(service, monkeypatch, lambda propose, *args: (service.engine.erase("anna"), propose(*args))[1])
    service.ask(user="anna", history=HISTORY)
    assert nothing_left(service, "anna")
    service.ask(user="ben", history=HISTORY)
    assert impressions_of(service.store, "ben")


def test_a_question_that_comes_while_its_user_is_erased_names_nobody(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.played("anna", *HISTORY)
    committing, go_on = threading.Event(), threading.Event()
    commit = service.store.commit

    def held(writes: Sequence[Any]) -> Any:
        if any(isinstance(write, EraseUser) for write in writes):
            committing.set()
            assert go_on.wait(20)
        return commit(writes)

    monkeypatch.setattr(service.store, "commit", held)
    with ThreadPoolExecutor() as threads:
        erasing = threads.submit(service.engine.erase, "anna")
        assert committing.wait(20)
        asking = threads.submit(service.ask, user="anna")  # its events are still there, and its answer goes by them
        in_time(lambda: service.writer.depth)
        go_on.set()
        assert erasing.result(20).events == 5
        assert asking.result(20).known_events == 5
    assert nothing_left(service, "anna")


@pytest.mark.parametrize("history", [None, HISTORY])
def test_a_question_that_another_process_answers_while_its_user_is_erased_names_nobody(
    service: Service, monkeypatch: pytest.MonkeyPatch, history: tuple[str, ...] | None
) -> None:
    service.played("anna", *HISTORY)
    with running(service.setup) as other:
        spoil(service, monkeypatch, lambda propose, *args: (other.engine.erase("anna"), propose(*args))[1])
        assert service.ask(user="anna", history=history).fallback is None
    assert not impressions_of(service.store, "anna")


def test_an_erasure_waits_for_an_impression_that_is_being_submitted(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.played("anna", *HISTORY)
    submit, erased = service.writer.submit, threading.Event()

    def interrupted(write: Any) -> Any:
        if isinstance(write, AddImpression):
            erasing.append(threads.submit(lambda: (service.engine.erase("anna"), erased.set())))
            erased.wait(0.3)  # the erasure must not get between the question whether it happened, and the writer
        return submit(write)

    monkeypatch.setattr(service.writer, "submit", interrupted)
    erasing: list[Future[Any]] = []
    with ThreadPoolExecutor() as threads:
        service.ask(user="anna")
        erasing[0].result(20)
    assert nothing_left(service, "anna")


def test_an_erasure_that_fails_is_told_and_leaves_the_user_as_before(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("the store is away")

    service.played("anna", *HISTORY)
    with monkeypatch.context() as patch:
        patch.setattr(service.store, "commit", away)
        with pytest.raises(StoreUnavailable):
            service.engine.erase("anna")
    assert service.ask(user="anna").known_events == 5
    assert impressions_of(service.store, "anna")


def test_a_session_that_another_version_takes_over_is_forgotten_too(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.played("anna", *HISTORY)
    service.ask(user="anna")
    adopt, erased = SessionCache.adopt, threading.Event()

    def interrupted(new: SessionCache, old: SessionCache) -> None:
        adopt(new, old)
        erasing.append(threads.submit(lambda: (service.engine.erase("anna"), erased.set())))
        erased.wait(0.3)

    monkeypatch.setattr(SessionCache, "adopt", interrupted)
    erasing: list[Future[Any]] = []
    service.store.commit([AddItems((NewItem("new", "A new one", dict.fromkeys(ATTRIBUTES, 0.5)),))])
    with ThreadPoolExecutor() as threads:
        service.engine.models.grow()
        erasing[0].result(20)
    assert service.engine.served.item("new")
    assert nothing_left(service, "anna")
