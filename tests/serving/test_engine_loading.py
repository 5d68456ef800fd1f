"""A version on its way into memory: one that hangs, one that was damaged, and a second one that cannot be used."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from what_next.errors import ModelError
from what_next.serving.engine import Engine, models
from what_next.serving.engine.served import Served
from what_next.serving.engine.versions import folder_of, keep, versions_folder
from what_next.serving.metrics import Metrics
from what_next.serving.request import Stopping
from what_next.serving.store import AddItems, Deploy, NewItem, Second, Store, Writer
from what_next.settings import Setup

from .engines import in_time, running
from .models import ATTRIBUTES, served

HISTORY = ("i3", "i14", "i15")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "SLICE", 0.02)


@pytest.fixture
def hangs(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Versions in this set hang while they are loaded, until the test ends."""
    names, end, load = set[str](), threading.Event(), Served.load

    def slow(folder: Path, version: str) -> Served:
        if version in names or "all" in names:
            end.wait(30)
        return load(folder, version)

    monkeypatch.setattr(Served, "load", slow)
    yield names
    end.set()


def second_of(setup: Setup, tmp_path: Path) -> str:
    """Another model, kept as a version."""
    (tmp_path / "second").mkdir()
    return keep(versions_folder(setup), served(tmp_path / "second", "dqn").model_agent_path)


def lines(metrics: Metrics, name: str) -> dict[str, float]:
    text = metrics.text().decode().splitlines()
    found = (line.rpartition(" ") for line in text if line.startswith(name))
    return {label: float(value) for label, _, value in found}


@pytest.mark.medium
def test_a_version_that_hangs_while_it_is_loaded_can_be_rolled_back(tmp_path: Path, hangs: set[str]) -> None:
    """The one before answers all the while, and new items are taken up."""
    with running(served(tmp_path, loading=60)) as service:
        first, second = service.ask(history=HISTORY).version, second_of(service.setup, tmp_path)
        hangs.add(second)
        service.store.commit([Deploy(second, "promoted", {})])
        in_time(lambda: service.engine.models.loading)
        looks = service.engine.models._seen
        assert service.ask(history=HISTORY).version == first
        service.store.commit([Deploy(first, "rolled back", {})])
        in_time(lambda: service.engine.models._seen > looks)
        assert service.engine.models.loading is None
        assert service.engine.model()["deployed"]["kind"] == "rolled back"
        assert service.engine.model()["refused"] is None


class Eager:
    """A lock; as soon as it is given back after a loading, somebody adds an item."""

    def __init__(self, kept: models.Models) -> None:
        self.kept, self.lock, self.loaded = kept, threading.Lock(), False

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()
        if self.loaded:
            self.loaded = False
            self.kept.store.commit([AddItems((NewItem("new", "New", dict.fromkeys(ATTRIBUTES, 0.5)),))])
            self.kept.grow()


def test_an_item_that_comes_while_a_second_version_is_put_beside_is_known_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(served(tmp_path)) as service:
        kept, second = service.engine.models, second_of(service.setup, tmp_path)
        lock, ended = Eager(kept), kept._ended

        def loaded(loading: models.Loading) -> Any:
            lock.loaded = True
            return ended(loading)

        monkeypatch.setattr(kept, "_ended", loaded)
        kept._changing = lock  # type: ignore[assignment]
        service.store.put_second(Second(second, share=0.5))
        in_time(lambda: kept.live.candidate)
        in_time(lambda: "new" in kept.live.current.served.places)
        assert "new" in kept.live.candidate.served.places  # type: ignore[union-attr]


@pytest.mark.medium
def test_a_second_version_that_is_withdrawn_while_it_is_loaded_is_forgotten(tmp_path: Path, hangs: set[str]) -> None:
    """Named again, it would be judged by the time since it was named first, and refused at once."""
    with running(served(tmp_path, loading=60)) as service:
        kept, second = service.engine.models, second_of(service.setup, tmp_path)
        hangs.add(second)
        service.store.put_second(Second(second, share=0.5))
        in_time(lambda: kept._second)
        service.store.put_second(None)
        in_time(lambda: kept._second is None)
        assert kept.live.second is None


@pytest.mark.medium
def test_a_version_that_takes_too_long_is_refused_told_and_counted(
    tmp_path: Path, hangs: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Metrics()
    with running(served(tmp_path, loading=1), metrics) as service:  # a busy machine takes its time for the first
        first, second = service.ask(history=HISTORY).version, second_of(service.setup, tmp_path)
        hangs.add(second)
        service.store.commit([Deploy(second, "promoted", {})])
        in_time(lambda: service.engine.model()["refused"])
        assert service.engine.model()["refused"]["version"] == second
        assert "was not loaded within 1 s" in service.engine.model()["refused"]["reason"]
        assert service.ask(history=HISTORY).version == first
    assert [one.levelname for one in caplog.records if second in one.getMessage()] == ["ERROR"]
    counted = lines(metrics, "what_next_loads_total")
    assert (counted['what_next_loads_total{what="loaded"}'], counted['what_next_loads_total{what="late"}']) == (1, 1)


def test_a_service_whose_model_hangs_at_the_start_can_be_ended(tmp_path: Path, hangs: set[str]) -> None:
    setup = served(tmp_path, loading=60)
    store = Store.open(tmp_path / "store.sqlite")
    writer, stop, outcome = Writer(store), threading.Event(), list[BaseException]()
    hangs.add("all")

    def begin() -> None:
        try:
            Engine(setup, store, writer, stop=stop)
        except BaseException as error:
            outcome.append(error)

    opening = threading.Thread(target=begin)
    opening.start()
    time.sleep(0.1)
    stop.set()
    opening.join(5)
    assert not opening.is_alive()
    assert isinstance(outcome[0], Stopping)
    writer.close()
    store.close()


def test_at_the_start_the_version_before_answers_for_one_that_hangs(tmp_path: Path, hangs: set[str]) -> None:
    setup = served(tmp_path, loading=0.5)
    with running(setup) as service:
        first, second = service.ask(history=HISTORY).version, second_of(setup, tmp_path)
    hangs.add(second)
    store = Store.open(service.path)
    store.commit([Deploy(second, "promoted", {})])
    store.close()
    with running(setup) as service:
        assert service.ask(history=HISTORY).version == first
        assert service.engine.model()["refused"]["version"] == second


@pytest.mark.parametrize("file", ["agent.safetensors", "agent.catalogue.parquet", "critic.safetensors"])
def test_a_flipped_bit_of_a_deployed_version_is_noticed(tmp_path: Path, file: str) -> None:
    """In the last byte, which is a weight, or a number of the table's foot: the file can be read all the same."""
    setup = served(tmp_path, "dqn")
    version = keep(versions_folder(setup), setup.model_agent_path)
    path = folder_of(versions_folder(setup), version) / file
    assert Served.load(versions_folder(setup), version).version == version
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ModelError, match="its files are not those that were deployed"):
        Served.load(versions_folder(setup), version)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not tell what is mapped")
def test_what_answers_reads_no_file_any_more(tmp_path: Path) -> None:
    """A mapped file that is cut short ends the process, and one that is written over changes what answers."""
    with running(served(tmp_path, "dqn")) as service:
        service.ask(history=HISTORY, explain=True)
        assert str(versions_folder(service.setup)) not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(b"nothing"), lambda path: os.truncate(path, 2000)])
def test_a_damaged_second_model_does_not_keep_the_sound_one_from_starting(
    tmp_path: Path, spoil: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "second").mkdir()
    second = served(tmp_path / "second").model_agent_path
    spoil(second)
    with running(served(tmp_path, candidate=second, canary=1.0, deadline=5000)) as service:
        service.played("anna", *HISTORY)
        answer = service.ask(user="anna")
        assert (answer.role, answer.fallback) == ("current", None)
        assert service.engine.model()["unfit"]["version"] == "agent.safetensors"
        assert "the second model cannot be used" in (service.engine.unfit() or "")
    assert sum("the second model was refused" in one.getMessage() for one in caplog.records) == 1


def test_a_second_model_that_hangs_does_not_either(tmp_path: Path, hangs: set[str]) -> None:
    (tmp_path / "second").mkdir()
    second = served(tmp_path / "second", "dqn")
    setup = served(tmp_path, candidate=second.model_agent_path, canary=1.0, loading=0.5)
    hangs.add(keep(versions_folder(setup), second.model_agent_path))
    with running(setup) as service:
        assert service.ask(history=HISTORY).role == "current"
