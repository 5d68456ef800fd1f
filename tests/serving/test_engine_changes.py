"""What changes while questions are answered: items, versions, and a second model beside the first."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from what_next.errors import StoreUnavailable
from what_next.serving.engine import models
from what_next.serving.engine.live import point
from what_next.serving.engine.served import Served
from what_next.serving.engine.versions import keep, versions_folder
from what_next.serving.store import AddItems, Deploy, NewItem, Second
from what_next.settings import Setup

from .engines import Counts, Service, asking, ids, in_time, running
from .models import ATTRIBUTES, served
from .waiting import impressions_of

HISTORY = ("i3", "i14", "i15", "i9", "i26")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running(served(tmp_path, deadline=5000), Counts()) as found:
        yield found


def test_a_new_item_can_be_recommended_in_the_very_next_answer(service: Service) -> None:
    service.played("anna", "new", *HISTORY)
    assert "new" not in service.engine.served.places
    attributes = dict.fromkeys(ATTRIBUTES, 0.5)
    service.store.commit([AddItems((NewItem("new", "A new one", attributes),))])
    service.engine.models.grow()
    assert ids(service.ask(history=HISTORY, allowed=("new",))) == ["new"]
    assert len(service.ask(history=HISTORY, k=100, exclude_seen=False).ids) == 81
    assert ids(service.ask(user="anna", allowed=("new", "i0"))) == ["i0"]  # its event counts by now
    found = service.engine.served.item("new")
    assert found is not None
    assert (found.title, found.attributes) == ("A new one", attributes)
    assert service.engine.model()["items"] == 81


def test_sessions_outlive_new_items_but_not_changed_ones(service: Service) -> None:
    service.played("anna", *HISTORY)
    service.played("ben", *HISTORY, "new")
    for user in ("anna", "ben"):
        service.ask(user=user)
    attributes = dict.fromkeys(ATTRIBUTES, 0.5)
    for item, kept in (("new", True), ("i3", False)):
        service.store.commit([AddItems((NewItem(item, "Another title", attributes),))])
        service.engine.models.grow()
        assert (service.engine.models.live.current.sessions.remembered("anna") is not None) is kept
        assert service.engine.models.live.current.sessions.remembered("ben") is None
        for user, history in (("anna", HISTORY), ("ben", (*HISTORY, "new"))):
            assert ids(service.ask(user=user)) == ids(service.ask(history=history))


def test_new_items_of_another_process_are_taken_up(service: Service) -> None:
    service.store.commit([AddItems((NewItem("new", "A new one", dict.fromkeys(ATTRIBUTES, 0.5)),))])
    in_time(lambda: service.engine.served.item("new"))
    with running(service.setup) as other:
        assert other.engine.served.item("new") is not None


def test_an_item_that_fits_no_catalogue_keeps_none_from_being_taken_up(service: Service) -> None:
    rows = (NewItem("odd", "Odd", {"colour": 1.0}), NewItem("new", "New", dict.fromkeys(ATTRIBUTES, 0.5)))
    service.store.commit([AddItems(rows)])
    service.engine.models.grow()
    assert (service.engine.served.item("odd"), service.engine.served.item("new") is None) == (None, False)


def test_items_that_a_version_cannot_take_are_told_once_by_their_number(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    odd = tuple(NewItem(f"odd {number}", "Odd", {"colour": 1.0}) for number in range(3))
    service.store.commit([AddItems((*odd, NewItem("new", "New", dict.fromkeys(ATTRIBUTES, 0.5))))])
    in_time(lambda: service.engine.served.item("new"))
    assert service.engine.model()["left_out"] == 3
    (line,) = [one.getMessage() for one in caplog.records]
    assert "cannot recommend 3 items that were added" in line
    with running(service.setup) as other:  # as does a version that takes over
        assert other.engine.model()["left_out"] == 3
    assert len(caplog.records) == 2
    mended = NewItem("odd 1", "No longer", dict.fromkeys(ATTRIBUTES, 0.5))
    service.store.commit([AddItems((odd[0], mended))])
    in_time(lambda: service.engine.served.item("odd 1"))
    assert service.engine.model()["left_out"] == 2


def deploy(service: Service, other: Setup) -> str:
    version = keep(versions_folder(service.setup), other.model_agent_path)
    service.store.commit([Deploy(version, "promoted", {})])
    return version


def another(folder: Path, algorithm: str = "dqn") -> Setup:
    folder.mkdir()
    return served(folder, algorithm)


def test_a_new_version_takes_over_and_drops_no_question(service: Service, tmp_path: Path) -> None:
    service.played("anna", *HISTORY)
    first = service.ask(user="anna").version
    second = deploy(service, another(tmp_path / "second"))

    async def go_on() -> Counter[str]:
        versions: Counter[str] = Counter()

        async def client() -> None:
            while versions[second] < 50:
                answer = await service.answer(asking(user="anna", k=3))
                assert answer.fallback is None
                versions[answer.version] += 1

        await asyncio.wait_for(asyncio.gather(*(client() for _ in range(8))), 60)
        return versions

    versions = asyncio.run(go_on())
    assert set(versions) <= {first, second}
    assert "what_next_versions_total 1.0" in service.engine.metrics.text().decode()
    assert service.engine.model()["version"] == second
    assert service.engine.model()["deployed"]["kind"] == "promoted"


@pytest.mark.medium
def test_a_version_that_cannot_be_loaded_is_refused_and_told_once(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = service.ask(history=HISTORY).version
    version = keep(versions_folder(service.setup), another(tmp_path / "second").model_agent_path)
    (versions_folder(service.setup) / version / "agent.safetensors").write_bytes(b"nothing")
    service.store.commit([Deploy(version, "promoted", {})])
    in_time(lambda: service.engine.model()["refused"])
    assert service.engine.model()["refused"]["version"] == version
    with monkeypatch.context() as patch:
        patch.setattr(Served, "load", None)  # it is not tried again and again
        looks, look = list[int](), service.engine.models.look
        patch.setattr(service.engine.models, "look", lambda: (look(), looks.append(1)))
        in_time(lambda: len(looks) > 1)
    assert [one.levelname for one in caplog.records if version in one.getMessage()] == ["ERROR"]
    assert service.ask(history=HISTORY).version == first
    with running(service.setup) as other:  # the next process begins with what can be loaded
        assert other.ask(history=HISTORY).version == first


def test_a_failure_that_comes_again_and_again_is_told_once(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looks = list[int]()

    def broken() -> None:
        looks.append(1)
        raise RuntimeError("no item of the kind")

    monkeypatch.setattr(service.engine.models, "look", broken)
    monkeypatch.setattr(models, "LOOK", 0.001)
    in_time(lambda: len(looks) > 3)
    assert [one.levelname for one in caplog.records] == ["ERROR"]


def test_a_store_that_cannot_be_read_is_told_once_with_the_reason_and_once_when_it_is_back(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "what_next.serving")
    looks = list[int]()

    def away() -> None:
        looks.append(1)
        raise StoreUnavailable(f"store.sqlite: cannot be used now (reason {len(looks)}); try again")

    monkeypatch.setattr(models, "LOOK", 0.001)
    with monkeypatch.context() as patch:
        patch.setattr(service.store, "deployments", away)
        in_time(lambda: len(looks) > 3)
    in_time(lambda: len(caplog.records) > 1)
    assert [one.getMessage() for one in caplog.records] == [
        "reading the store fails: store.sqlite: cannot be used now (reason 1); try again",
        "reading the store works again",
    ]


# Two models


def test_a_share_of_the_users_is_answered_by_the_second_model(tmp_path: Path) -> None:
    second = another(tmp_path / "second")
    folder = tmp_path / "first"
    folder.mkdir()
    counts = Counts()
    with running(served(folder, candidate=second.model_agent_path, canary=0.4), counts) as service:
        service.played("nobody", "i1")
        for place in range(60):
            answer = service.ask(user=f"user {place}", history=HISTORY, k=3)
            assert answer.role == ("canary" if point(f"user {place}") < 0.4 else "current")
            assert counts.roles[-1] == answer.role
            assert (answer.version == service.engine.model()["version"]) == (answer.role == "current")
        assert service.ask(history=HISTORY).role == "current"
        assert service.engine.model()["canary"]["share"] == 0.4
    shares = [point(f"user {place}") < 0.4 for place in range(2000)]
    assert np.mean(shares) == pytest.approx(0.4, abs=0.05)


def test_the_answers_of_a_shadow_are_recorded_and_not_shown(tmp_path: Path) -> None:
    second, counts = another(tmp_path / "second"), Counts()
    folder = tmp_path / "first"
    folder.mkdir()
    with running(served(folder, candidate=second.model_agent_path, shadow=True), counts) as service:
        service.played("anna", *HISTORY)
        shown = service.ask(user="anna", k=3)
        service.ask(history=HISTORY, policy="popular")  # which tells nothing of the second model
        in_time(lambda: counts.shadows == ["recorded"])
        impressions = impressions_of(service.store, "anna")
        assert counts.overlap == [len({*impressions[1].items} & {*shown.ids}) / 3]
        assert [one.shown for one in impressions] == [True, False]
        assert impressions[0].version == shown.version
        assert impressions[1].version == service.engine.model()["shadow"]["version"] != shown.version


def test_a_shadow_that_fails_breaks_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second, counts = another(tmp_path / "second"), Counts()
    folder = tmp_path / "first"
    folder.mkdir()
    with running(served(folder, candidate=second.model_agent_path, shadow=True), counts) as service:
        candidate = service.engine.models.live.candidate
        assert candidate is not None
        monkeypatch.setattr(candidate.served.sessions, "states", lambda *_: 1 / 0)
        assert service.ask(user="anna", history=HISTORY).fallback is None
        in_time(lambda: counts.shadows == ["failed"])
        assert [one.shown for one in impressions_of(service.store, "anna")] == [True]


@pytest.mark.medium
def test_the_store_names_a_second_version_while_the_service_runs(tmp_path: Path) -> None:
    second, counts = another(tmp_path / "second"), Counts()
    folder = tmp_path / "first"
    folder.mkdir()
    with running(served(folder), counts) as service:
        models = service.engine.models
        version = keep(models.folder, second.model_agent_path)
        service.store.put_second(Second(version, shadow=True))
        in_time(lambda: models.live.shadow)
        shown = service.ask(user="anna", history=HISTORY)
        assert (shown.role, shown.version == version) == ("current", False)
        in_time(lambda: counts.shadows == ["recorded"])
        active = models.live.candidate
        service.store.put_second(Second(version, share=0.5))
        in_time(lambda: not models.live.shadow)
        assert models.live.candidate is active  # it is not loaded a second time
        people = [f"p{one}" for one in range(200)]
        canary = {user for user in people if models.live.role(user) == "canary"}
        assert 60 < len(canary) < 140
        assert service.ask(user=min(canary), history=HISTORY).version == version
        assert service.engine.model()["canary"] == {"version": version, "share": 0.5}
        service.store.put_second(Second(version, share=0.5, salt="2"))
        in_time(lambda: {user for user in people if models.live.role(user) == "canary"} != canary)
        service.store.put_second(None)
        in_time(lambda: models.live.candidate is None)
        assert service.ask(user=min(canary), history=HISTORY).role == "current"


@pytest.mark.medium
@pytest.mark.parametrize("others", [72, 73])
def test_a_version_of_another_catalogue_answers_nobody_beside_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, others: int
) -> None:
    second, load = another(tmp_path / "second").model_agent_path, Served.load
    folder = tmp_path / "first"
    folder.mkdir()
    setup = served(folder)
    version = keep(versions_folder(setup), second)

    def loaded(versions: Path, name: str) -> Served:
        found = load(versions, name)
        if name == version:
            found.__dict__["ids"] = [f"film {one}" if place < others else one for place, one in enumerate(found.ids)]
        return found

    monkeypatch.setattr(Served, "load", loaded)
    beside = ["train=no", f"server.candidate={second}", "server.canary=0.9"]
    with running(Setup.read(folder / "setup.txt", beside)) as service:
        assert (service.engine.models.live.candidate is None) == (others == 73)
        assert ("of its 80 items, 7 are served here" in (service.engine.unfit() or "")) == (others == 73)
    with running(setup) as service:
        models = service.engine.models
        service.store.put_second(Second(version, share=0.9))
        in_time(lambda: models.live.second is not None)
        assert (models.live.candidate is None) == (models.live.unfit is not None) == (others == 73)
        caplog.clear()
        service.store.commit([Deploy(version, "promoted", {})])  # by force: it is told, and done
        in_time(lambda: models.live.current.served.version == version)
        told = [one.getMessage() for one in caplog.records if "another catalogue" in one.getMessage()]
        assert len(told) == (others == 73)


@pytest.mark.medium
def test_a_second_version_that_cannot_be_loaded_answers_nobody(tmp_path: Path) -> None:
    with running(served(tmp_path)) as service:
        models = service.engine.models
        service.store.put_second(Second("gone-1-00000000", share=1.0))
        in_time(lambda: models.live.unfit is not None)
        assert service.ask(user="anna", history=HISTORY).role == "current"
        service.store.put_second(None)
        in_time(lambda: models.live.unfit is None)
