"""The loop on a ring of items: people are glad of the item that comes next, and the first model knows nothing of it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from errno import ENOSPC
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from what_next.agent import Agent
from what_next.cli import loop as commands
from what_next.cli.output import guarded
from what_next.data import Options, import_files, save
from what_next.environment import Environment
from what_next.errors import MissingExtraError, ModelError, SaveError, SetupError, StoreError, StoreUnavailable
from what_next.off_policy import LogSettings
from what_next.off_policy.confidence_sequences import Arm, Contrast, normal_mixture
from what_next.serving.engine.versions import versions_folder
from what_next.serving.loop import candidate, evidence
from what_next.serving.loop.evidence import Mean
from what_next.serving.loop.journal import Journal, NotAlone, alone, journal_path, status_of
from what_next.serving.loop.loop import Loop
from what_next.serving.metrics import Metrics
from what_next.serving.store import (
    AddEvents,
    AddFeedback,
    AddImpression,
    Deploy,
    EraseUser,
    EventRow,
    Store,
)
from what_next.settings import Setup
from what_next.state import State

from .engines import Service, asking, ids, in_time, running
from .postgres import Postgres
from .processes import environment

ITEMS, PEOPLE = 8, 200
DAY = 86_400 * 10**6
_numbers = count()


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that has seen 32 histories of people who go anywhere."""
    folder, rng = tmp_path_factory.mktemp("ring"), np.random.default_rng(0)
    anywhere = {
        "user_id": np.repeat(np.arange(60), 8),
        "item_id": rng.integers(ITEMS, size=480),
        "timestamp": range(480),
    }
    pl.DataFrame(anywhere).write_csv(folder / "ring.csv")
    save(import_files([folder / "ring.csv"], None, Options()), folder / "ring.parquet")
    values = {
        "train": "yes", "data": "ring.parquet", "algorithm": "next_item", "inputs.items": "learned", "dim": 16,
        "skip": "no", "passes": 20, "batch_size": 32, "learning_rate": 0.01, "threads": 1, "seed": 1, "device": "cpu",
        "model_agent_path": "agent.safetensors", "server.temperature": 1, "server.deadline": 60_000,
        "evaluation.seen": "yes",
        "loop.every": 86_400, "loop.shadow": 20, "loop.canary": 0.5, "loop.answers": 600, "loop.fresh": 1,
        "loop.drift": 0,
    }  # fmt: skip
    (folder / "setup.txt").write_text("".join(f"{key}, {value}\n" for key, value in values.items()))
    setup = Setup.read(folder / "setup.txt", ["epochs=32", "passes=none"])
    state = State.from_setup(setup)
    Environment(Agent(setup, state.space), state, setup).train_agent()
    return folder


@pytest.fixture
def path(untrained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(untrained, tmp_path / "shop")) / "setup.txt"


class Clock:
    """Days that pass when a test says so."""

    def __init__(self) -> None:
        self.time = 20_000 * DAY

    def __call__(self) -> int:
        return self.time

    def pass_by(self, days: float = 1.0) -> None:
        self.time += round(days * DAY)


class Shop:
    """A service with people, and its loop."""

    def __init__(self, path: Path, service: Service, *words: str) -> None:
        self.setup = Setup.read(path, ["train=no", *words])
        self.service, self.clock, self.rng = service, Clock(), np.random.default_rng(0)
        self.journal = Journal.open(journal_path(self.setup), clock=self.clock)
        self.loop = Loop(self.setup, service.store, self.journal)

    def walk(self, rounds: int = 1, glad: float = 1.0) -> None:
        """People go round the ring, and are glad of the item that comes next, in whichever slot it stands."""
        for _ in range(rounds):
            places = self.rng.integers(ITEMS, size=PEOPLE)
            heard = {f"p{one}": (str(place), str((place + 1) % ITEMS)) for one, place in enumerate(places)}
            self.service.all_played(heard)
            asks = [asking(user=f"p{one}", k=2, exclude_seen=False, seed=next(_numbers)) for one in range(PEOPLE)]
            told = [
                AddFeedback(f"{answer.recommendation_id}{item}", answer.recommendation_id, item, glad)
                for place, answer in zip(places, self.service.ask_all(asks), strict=True)
                for item in ids(answer)
                if item == str((place + 2) % ITEMS)
            ]
            self.service.store.commit(told)

    def beside(self) -> None:
        """Wait until the service has taken up what the store names."""
        wanted = self.service.store.second()
        in_time(lambda: self.service.engine.models.live.second == wanted)

    def told(self) -> list[str]:
        return [f"{one.step}: {one.told}" for one in reversed(self.journal.lines(1000))]

    def steps(self) -> list[str]:
        return [one.step for one in reversed(self.journal.lines(1000))]

    @property
    def versions(self) -> list[str]:
        return [one.version for one in self.service.store.deployments()]

    def until(self, step: str | None, most: int = 12) -> None:
        """Live on until the round has come to a step."""
        for _ in range(most):
            self.loop.run()
            if self.journal.rounds(1)[0].step == step:
                return
            self.beside()
            self.walk()
        raise AssertionError("\n".join(self.told()))


@pytest.fixture
def shop(path: Path) -> Iterator[Shop]:
    with running(Setup.read(path, ["train=no"])) as service:
        yield Shop(path, service)


@pytest.mark.medium
def test_the_loop_learns_what_people_like_and_deploys_it(shop: Shop) -> None:
    shop.loop.run()
    shop.loop.run()
    assert len(shop.told()) <= 1  # it does not say again and again that it waits
    shop.walk(2)
    shop.loop.run()  # its day has not come
    assert shop.journal.rounds(1) == []
    assert "waits until 2024-10-05 00:00 UTC (loop.every), or for 100,000 new events" in shop.told()[-1]
    shop.clock.pass_by()
    shop.until("canary")
    answers = shop.journal.numbers()["answers"]
    shop.walk()
    shop.loop.look()  # numbers do not stand still in a round
    numbers, happened = shop.journal.numbers(), evidence.happened(shop.service.store)
    assert numbers["unlearned"] == happened - numbers["exported"]
    assert numbers["answers"] > answers
    shop.until("watch")
    assert len(shop.versions) == 2
    steps = [one for one in shop.steps() if one != "wait"]
    assert steps == ["begin", "export", "train", "judge", "shadow", "shadow", "canary", "canary", "promote", "watch"]
    assert shop.service.store.deployments()[-1].kind == "promoted"
    second = shop.service.store.second()
    assert second is not None
    assert second.version == shop.versions[0]  # the old one stays for some, to compare
    shop.until(None, 20)
    assert shop.journal.rounds(1)[0].outcome == "promoted"
    assert shop.service.store.second() is None
    assert len(shop.versions) == 2
    shop.loop.run()
    numbers = shop.journal.numbers()
    assert numbers["reward"] > 0.5
    assert numbers["unlearned"] == evidence.happened(shop.service.store) - numbers["exported"]


def test_no_exploration_is_refused_in_one_line(shop: Shop) -> None:
    shop.walk()
    shop.service.store.backend.engine.dispose()
    with shop.service.store.backend.engine.begin() as connection:  # as a service without chance would have logged it
        connection.exec_driver_sql("UPDATE impressions SET propensities = '[1.0,1.0]'")
    shop.clock.pass_by()
    shop.loop.run()
    shop.clock.pass_by()
    shop.loop.run()
    assert shop.journal.rounds(1)[0].outcome == "refused"
    (told,) = [one for one in shop.told() if "no exploration" in one]
    assert "set server.temperature or server.epsilon" in told
    assert shop.service.ask(user="p1").fallback is None


def test_a_store_without_feedback_is_waited_out(shop: Shop) -> None:
    for _ in range(3):
        shop.clock.pass_by(10)
        shop.loop.run()
    assert shop.steps() == ["wait"] or shop.journal.rounds(1)[0].outcome in ("failed", "refused")


def test_two_loops_on_one_store_are_one_too_many(shop: Shop) -> None:
    store = shop.service.store
    with alone(store, shop.journal):
        other = Journal.open(journal_path(shop.setup))
        with pytest.raises(StoreError, match="another loop works on this store"), alone(store, other):
            pass
        other.close()
    with alone(store, shop.journal):
        pass


def test_two_machines_on_one_postgresql_are_one_too_many(
    postgres_server: Postgres, postgres_url: str, tmp_path: Path
) -> None:
    stores = [Store.open(postgres_url) for _ in range(2)]
    journals = [Journal.open(tmp_path / name / "journal.sqlite") for name in ("one", "two")]
    with alone(stores[0], journals[0]), pytest.raises(StoreError, match="another loop"), alone(stores[1], journals[1]):
        pass
    with alone(stores[0], journals[0]) as make_sure:
        postgres_server.stop()
        with pytest.raises(StoreUnavailable):
            make_sure()
        postgres_server.start()
        make_sure()  # takes the place again, which the server has forgotten
        with pytest.raises(StoreError, match="another loop"), alone(stores[1], journals[1]):
            pass
        postgres_server.stop()
        postgres_server.start()
        with alone(stores[1], journals[1]), pytest.raises(NotAlone, match="another loop"):
            make_sure()
    with alone(stores[1], journals[1]):
        pass
    for store in stores:
        store.close()
    for journal in journals:
        journal.close()


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("server.candidate=agent.safetensors", r"server\.candidate is set"),
        ("server.experiment=trained:old-32-0123abcd", r"server\.experiment names the version old-32-0123abcd"),
    ],
)
def test_a_second_model_of_the_setup_is_refused(shop: Shop, path: Path, word: str, told: str) -> None:
    with pytest.raises(SetupError, match=told):
        Loop(Setup.read(path, ["train=no", word]), shop.service.store, shop.journal)


def test_an_experiment_without_a_model_of_its_own_goes_with_the_loop(shop: Shop, path: Path) -> None:
    Loop(Setup.read(path, ["train=no", "server.experiment=trained:popular"]), shop.service.store, shop.journal)


def test_an_alarm_without_river_is_refused_at_once(shop: Shop, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "river.drift", None)
    with pytest.raises(MissingExtraError, match=r"what-next-rl\[loop\]"):
        Loop(Setup.read(path, ["train=no", "loop.drift=0.002"]), shop.service.store, shop.journal)


@pytest.mark.medium
def test_a_full_disk_is_told_and_the_service_answers_on(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.walk(2)
    shop.loop.run()
    shop.clock.pass_by()
    shop.loop.look()
    shop.loop.look()  # the log is exported

    def full(*_: Any) -> None:
        raise OSError(ENOSPC, os.strerror(ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("what_next.data.files._written_beside", full)
        for _ in range(3):
            with pytest.raises(SaveError, match="No space left"):
                shop.loop.run()
        assert shop.service.ask(user="p1").fallback is None
        shop.loop.run()
    assert shop.journal.rounds(1)[0].outcome == "failed"
    assert shop.told()[-2].startswith("train: given up after 3 tries")
    assert shop.told()[-1].endswith("since the last round was given up")
    shop.loop.run()
    assert len(shop.journal.rounds(9)) == 1  # it pauses
    shop.clock.pass_by()
    shop.until("shadow")  # nothing was lost: the same feedback is learned from
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(SaveError, match="its disk is full"):
        candidate.check_room(shop.loop.folder, versions_folder(shop.setup) / shop.versions[0])


@pytest.mark.medium
def test_a_clock_that_goes_back_makes_waits_begin_anew(shop: Shop) -> None:
    shop.walk(2)
    shop.clock.pass_by(0.5)
    shop.loop.run()
    shop.clock.pass_by(-10)
    shop.loop.run()
    assert shop.steps().count("clock") == 1
    shop.clock.pass_by(0.9)
    shop.loop.run()
    assert shop.journal.rounds(1) == []
    shop.clock.pass_by(0.2)
    shop.loop.run()
    assert len(shop.journal.rounds(9)) == 1  # not after ten days more


@pytest.mark.medium
def test_a_candidate_of_another_catalogue_is_refused(
    shop: Shop, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    log = {"user_id": np.repeat(np.arange(40), 6), "item_id": np.tile(np.arange(100, 106), 40), "timestamp": range(240)}
    pl.DataFrame(log).write_csv(other / "raw.csv")
    save(import_files([other / "raw.csv"], None, Options()), other / "log.parquet")
    setup = Setup.read(path, [f"data={other}/log.parquet", f"model_agent_path={other}/agent.safetensors", "passes=1"])
    state = State.from_setup(setup)
    Environment(Agent(setup, state.space), state, setup).train_agent()
    with pytest.raises(ModelError, match=r"of another catalogue: it lacks 0, 1"):
        candidate.check_catalogue(other / "agent.safetensors", path.with_name("agent.safetensors"))
    candidate.check_catalogue(path.with_name("agent.safetensors"), path.with_name("agent.safetensors"))

    def trained(setup: Setup, _: Path | None) -> SimpleNamespace:
        for file in other.glob("agent.*"):
            shutil.copy(file, setup.model_agent_path.parent)
        return SimpleNamespace(histories=1, seconds=1.0, interrupted=False)

    monkeypatch.setattr(candidate, "train", trained)
    shop.walk(2)
    shop.loop.run()
    shop.clock.pass_by()
    for _ in range(3):
        with pytest.raises(ModelError, match="of another catalogue"):
            shop.loop.run()
    assert shop.told()[-1].startswith("train: given up after 3 tries")
    assert len(shop.versions) == 1
    assert shop.service.ask(user="p1").fallback is None


def test_those_who_are_held_out_are_the_same_people_and_no_model_learns_of_them(path: Path, tmp_path: Path) -> None:
    setup, store = Setup.read(path, ["train=no", "loop.held_out=0.3"]), Store.open(tmp_path / "store.sqlite")
    before, names = set[str](), ("learned", "judging")
    for people in (range(100), range(100, 150)):  # the log grows
        rows = [EventRow(f"e{one}-{item}", f"p{one}", str(item)) for one in people for item in range(3)]
        store.commit([AddEvents(tuple(rows))])
        counts = candidate.export(setup, store, path.with_name("agent.safetensors"), tmp_path / "loop" / "1")
        parts = [pl.read_parquet(tmp_path / "loop" / "1" / f"{name}.parquet")["user_id"].unique() for name in names]
        learned, judging = (set(part.cast(pl.String)) for part in parts)
        assert not learned & judging
        assert learned | judging == {f"p{one}" for one in range(people.stop)}
        assert before == {one for one in judging if int(one[1:]) < people.start}
        assert counts["judging_events"] == 3 * len(judging)
        before = judging
    assert 0.2 < len(before) / 150 < 0.4
    assert candidate.settings_of(setup, tmp_path, 1, True).data == tmp_path / candidate.LEARNED
    store.close()


def test_the_log_of_those_held_out_judges(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def gate(settings: LogSettings, *policies: str, **more: Any) -> dict[str, Any]:
        asked.append((settings.path, settings.top, more["estimator"], more["looks"], policies))
        return {"promote": False, "why": "it earns less", "difference": {"mean": -2.0, "low": -3.0, "high": -1.0}}

    monkeypatch.setattr(candidate, "gate", gate)
    monkeypatch.setattr(candidate, "served", lambda name, *_: name)
    monkeypatch.setattr(candidate, "foreseen", lambda _, log, agents: {one: 0.5 for one in agents if log.name})
    bare = Bare(path, tmp_path, "judge")
    bare.loop.setup = Setup.read(path, ["train=no", "loop.top=3", "loop.estimator=item_snips"])
    bare.loop.look()
    judging = tmp_path / "loop" / "1" / candidate.JUDGING
    assert asked == [(judging, 3, "item_snips", "any", ("new", "old"))]
    assert bare.now == (None, "refused", "old")
    told = bare.journal.lines(1)[0].told
    assert "of those held out says worse: it earns less; NDCG@10 of their last event: candidate 0.500" in told
    assert candidate.brief("the evidence is refused: new: 3 units; too few") == (
        "new: 3 units; more: what-next loop status SETUP --json"
    )


@pytest.mark.parametrize("users", [39, 51])
def test_too_few_held_out_users_are_counted_and_the_setting_is_named(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, users: int
) -> None:
    why = "the evidence is refused: new: the effective sample size is 20; too few"
    found = {"promote": False, "why": why, "difference": {"mean": None, "low": None, "high": None}}
    monkeypatch.setattr(candidate, "gate", lambda *_, **more: found | {"log": {"units": users}})
    monkeypatch.setattr(candidate, "served", lambda name, *_: name)
    monkeypatch.setattr(candidate, "foreseen", lambda *_: {})
    bare = Bare(path, tmp_path, "judge")
    bare.loop.look()
    told = bare.journal.lines(1)[0].told
    few = (
        "39 of the held-out users have decisions that can judge, and more than 50 are needed: raise loop.held_out (now "
        "0.2 of all users), or wait for more users; more:"
    )
    assert (few in told) == (users == 39), told


def test_an_estimator_that_there_is_not_is_refused_before_anything_is_trained(path: Path, tmp_path: Path) -> None:
    bare = Bare(path, tmp_path, "judge")
    setup = Setup.read(path, ["train=no", "loop.estimator=cascade_snip"])
    with pytest.raises(SetupError, match=r"loop\.estimator is 'cascade_snip'; allowed: .*cascade_snips.*, or none"):
        Loop(setup, bare.loop.store, bare.journal)


@pytest.mark.medium
@pytest.mark.parametrize("step", ["canary", "promote"])
def test_what_was_deployed_by_hand_meanwhile_stays(step: str, shop: Shop) -> None:
    shop.walk(2)
    shop.loop.run()
    shop.clock.pass_by()
    shop.until("canary")
    current = shop.journal.rounds(1)[0]
    shop.service.store.commit([Deploy("by-hand-1-00000000", "promoted", {})])
    if step == "promote":
        shop.journal.note(current, {"live": "it is better"}, "it is better", step="promote", outcome=None)
    shop.loop.look()
    assert "by-hand-1-00000000 was deployed meanwhile" in shop.told()[-1]
    assert shop.versions[-1] == "by-hand-1-00000000"
    assert shop.service.store.second() is None


def test_old_versions_go_and_the_deployed_line_stays(shop: Shop) -> None:
    folder = versions_folder(shop.setup)
    first = shop.versions[0]
    for name in ("a", "b", "c", "d", "e", "f"):
        (folder / name).mkdir()
        shop.service.store.commit([Deploy(name, "promoted", {})])
    (folder / "of-somebody").mkdir()
    assert shop.loop._prune() == 2
    assert {one.name for one in folder.iterdir()} == {"b", "c", "d", "e", "f", "of-somebody"} - {first}


def test_other_networks_are_trained_from_nothing(path: Path) -> None:
    with running(Setup.read(path, ["train=no"])) as service:
        shop = Shop(path, service, "dim=8", "loop.fresh=0", "passes=2")
        shop.walk(2)
        shop.loop.run()
        shop.clock.pass_by()
        shop.loop.run()
        (told,) = [one for one in shop.told() if one.startswith("train")]
        assert "from nothing (" in told
        assert shop.journal.rounds(1)[0].step == "shadow"


def test_erased_users_do_not_make_the_loop_wait_for_ever(shop: Shop) -> None:
    shop.walk()
    shop.journal.measure(exported=10**6)
    shop.loop.look()
    assert shop.loop._new() == 0
    shop.walk()
    assert shop.loop._new() > 2 * PEOPLE - 1
    assert "store" not in shop.steps()


def test_erased_users_go_from_the_files_of_a_round_and_a_training_begins_again(shop: Shop) -> None:
    shop.walk(2)
    shop.loop.run()
    shop.clock.pass_by()
    shop.loop.look()
    shop.loop.look()  # the log is exported
    shop.service.store.commit([EraseUser(f"p{one}") for one in range(9)])
    resume = shop.loop.folder / "1" / "agent.resume.safetensors"
    resume.touch()
    shop.loop.steps["train"] = lambda _: None
    shop.loop.look()
    assert not resume.exists()
    logs = [pl.read_parquet(one) for one in shop.loop.folder.rglob("*.parquet") if "items" not in one.name]
    assert len(logs) == 3
    assert {user for log in logs for user in log["user_id"]} == {f"p{one}" for one in range(9, PEOPLE)}
    (shop.loop.folder / "log.parquet").write_text("damaged")
    candidate.forget(shop.service.store, shop.loop.folder)
    assert not (shop.loop.folder / "log.parquet").exists()


# What decides


class Bare:
    """A loop whose round stands at some step; what live answers earned is what a test says."""

    def __init__(self, path: Path, folder: Path, step: str, **facts: Any) -> None:
        self.store, self.clock = Store.open(folder / "store.sqlite"), Clock()
        words = [f"server.store={folder}/store.sqlite", "loop.ceiling=50", "loop.answers=1000", "loop.canary=0.2"]
        self.journal = Journal.open(folder / "loop" / "journal.sqlite", clock=self.clock)
        self.loop = Loop(Setup.read(path, ["train=no", *words]), self.store, self.journal)
        self.deploy("old", "first")
        known = {"current": "old", "version": "new", "verdict": "undecided", "judged": {"why": "-"}, "exported_at": 7}
        self.journal.begin({**known, **facts}, step, "begins")

    def deploy(self, version: str, kind: Any) -> None:
        self.store.commit([Deploy(version, kind, {})])

    def look(self, monkeypatch: pytest.MonkeyPatch, low: float, high: float, answers: int = 100) -> None:
        arms = Arm(60, answers, (low + high) / 2), Arm(60, answers, 0.0)
        monkeypatch.setattr(evidence, "between", lambda *_: Contrast(*arms, (low + high) / 2, low, high))
        self.loop.look()

    @property
    def now(self) -> tuple[str | None, str | None, str]:
        """The step that comes next, the outcome, and which version answers."""
        latest = self.journal.rounds(1)[0]
        return latest.step, latest.outcome, self.store.deployments()[-1].version


@pytest.mark.parametrize(
    ("low", "high", "answers", "verdict", "now"),
    [
        (0.1, 0.3, 100, "undecided", ("promote", None, "old")),  # better beyond doubt
        (-0.3, -0.1, 100, "better", (None, "refused", "old")),  # worse beyond doubt, whatever the log said
        (-0.2, 0.3, 100, "better", ("canary", None, "old")),  # nobody knows yet
        (-0.2, 0.3, 1000, "better", ("promote", None, "old")),  # the log decides
        (-0.3, 0.2, 1000, "better", (None, "refused", "old")),  # the log said so, and it does not look like it
        (-0.2, 0.3, 1000, "undecided", (None, "refused", "old")),  # nothing shows it
        (-0.3, 0.1, 600, "undecided", (None, "refused", "old")),  # .1 less in 600 answers: above the ceiling of 50
        (-0.3, 0.1, 400, "undecided", ("canary", None, "old")),
    ],
)
def test_a_canary_decides(
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    low: float,
    high: float,
    answers: int,
    verdict: str,
    now: Any,
) -> None:
    bare = Bare(path, tmp_path, "canary", verdict=verdict)
    bare.look(monkeypatch, low, high, answers)
    assert bare.now == now
    second = bare.store.second()
    assert (second is None) == (now[1] == "refused")
    if second is not None:
        assert (second.version, second.share) == ("new", 0.2)


def test_a_canary_of_another_share_counts_anew(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = Bare(path, tmp_path, "canary")
    for share, given in ((0.2, 0), (0.2, 0), (0.4, 10)):  # the same share again: nothing begins anew
        loop = bare.loop.setup.loop.model_copy(update={"canary": share})
        bare.loop.setup = bare.loop.setup.model_copy(update={"loop": loop})
        bare.look(monkeypatch, -0.2, 0.3)
        assert bare.journal.rounds(1)[0].facts["canary_since"] == given
        answered(bare.store, 5)


def test_a_canary_ends_with_patience(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = Bare(path, tmp_path, "canary")
    bare.look(monkeypatch, -1.0, 1.1)
    bare.clock.pass_by(7.1)
    bare.look(monkeypatch, -1.0, 1.1)
    assert bare.now == (None, "refused", "old")


def answered(store: Store, count: int, user: str = "anna") -> None:
    """Answers that were given to somebody."""
    names = (f"{user}{next(_numbers)}" for _ in range(count))
    store.commit([AddImpression(name, user, 5, "old", "trained", ("1", "2"), (0.5, 0.5)) for name in names])


@pytest.mark.parametrize("step", ["shadow", "canary", "watch"])
def test_where_an_earlier_store_is_restored_a_step_counts_anew(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    bare, earlier = Bare(path, tmp_path, step, until={"exported": 40, "last": 20}), Store.open(tmp_path / "e.sqlite")
    monkeypatch.setattr(bare.loop, "_due", lambda: None)
    for store, answers in ((bare.store, 30), (earlier, 3)):
        answered(store, answers)
        store.commit([Deploy("new", "promoted", {})] if step == "watch" else [])
    bare.look(monkeypatch, -0.2, 0.3)
    assert bare.journal.rounds(1)[0].facts[f"{step}_since"] == 30
    bare.journal.measure(exported=40, last=20, since=10)
    bare.clock.pass_by(5)
    bare.loop.store = bare.store = earlier
    for _ in range(2):
        bare.look(monkeypatch, -0.2, 0.3)
    facts = bare.journal.rounds(1)[0].facts
    assert (facts[f"{step}_since"], facts[f"{step}_began"]) == (3, bare.clock())
    assert facts["until"] == {"exported": 0, "last": 3}
    numbers = bare.journal.numbers()
    assert (numbers["exported"], numbers["last"], numbers["since"]) == (0, 3, 3)
    (told,) = [one.told for one in bare.journal.lines(99) if one.step == "store"]
    assert "its answers ended at number 3, and 30 was known" in told
    bare.clock.pass_by(5)  # ten days after the first answer, and a step's patience is seven
    bare.look(monkeypatch, -0.2, 0.3)
    assert bare.journal.rounds(1)[0].step == step


def test_erased_users_do_not_make_a_step_count_anew(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = Bare(path, tmp_path, "canary")
    for user in ("anna", "bert"):
        answered(bare.store, 5, user)
    bare.look(monkeypatch, -0.2, 0.3)
    before = bare.journal.rounds(1)[0].facts
    bare.clock.pass_by()
    bare.store.commit([EraseUser("bert")])
    assert evidence.last_answer(bare.store) == 5
    bare.look(monkeypatch, -0.2, 0.3)
    assert bare.journal.rounds(1)[0].facts == before
    assert not [one for one in bare.journal.lines(99) if one.step == "store"]


def test_the_highest_number_of_an_answer_outlives_it(store: Store) -> None:
    assert evidence.highest_number(store) == 0
    answered(store, 3)
    store.commit([EraseUser("anna")])
    assert (evidence.highest_number(store), evidence.last_answer(store)) == (3, 0)


def test_a_watch_ends_where_the_store_is_a_new_one(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = Bare(path, tmp_path, "watch", watch_since=0, watch_began=0)
    bare.loop.store = Store.open(tmp_path / "new.sqlite")
    bare.look(monkeypatch, -0.2, 0.3)
    assert bare.now[:2] == (None, "promoted")
    assert "the watch ends: nothing is deployed in this store" in bare.journal.lines(1)[0].told
    bare.look(monkeypatch, -0.2, 0.3)
    assert bare.journal.lines(1)[0].told.startswith("waits for a first answer")


def test_what_turns_out_worse_is_rolled_back(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = Bare(path, tmp_path, "watch")
    bare.deploy("new", "promoted")
    monkeypatch.setattr(bare.loop, "_due", lambda: None)
    bare.look(monkeypatch, -0.3, 0.1)
    assert bare.now == ("watch", None, "new")
    second = bare.store.second()
    assert second is not None
    assert second.version == "old"
    bare.look(monkeypatch, -0.3, -0.1)
    assert bare.now == (None, "rolled back", "old")
    assert bare.store.deployments()[-1].kind == "rolled back"
    assert bare.store.second() is None
    assert bare.journal.numbers()["learned_until"] == bare.store.deployments()[0].time


def interrupted(store: Store) -> int:
    raise KeyboardInterrupt


def test_a_loop_that_is_killed_as_it_rolls_back_tells_so_all_the_same(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = Bare(path, tmp_path, "watch", watch_since=0, watch_began=0)
    bare.deploy("new", "promoted")
    monkeypatch.setattr(bare.loop, "_due", lambda: None)
    with monkeypatch.context() as killed:
        killed.setattr(evidence, "last_answer", interrupted)  # it is asked between the deployment and the journal
        with pytest.raises(KeyboardInterrupt):
            bare.look(monkeypatch, -0.3, -0.1)
    assert bare.now == ("watch", None, "old")
    bare.look(monkeypatch, -0.3, 0.1)
    assert bare.now == (None, "rolled back", "old")
    assert "rolled back from new to old" in bare.journal.lines(1)[0].told
    assert bare.journal.numbers()["learned_until"] == bare.store.deployments()[0].time


@pytest.mark.parametrize("due", [None, "as every day"])
def test_a_loop_that_was_killed_as_it_rolled_back_tells_so_before_the_next_round(
    due: str | None, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = Bare(path, tmp_path, "watch", watch_since=0, watch_began=0)
    bare.deploy("new", "promoted")
    bare.store.commit([Deploy("old", "rolled back", {"round": 1, "why": "-"})])
    monkeypatch.setattr(bare.loop, "_due", lambda: due)
    bare.look(monkeypatch, -0.3, 0.1)
    assert bare.now == (None, "rolled back", "old")


def test_what_was_rolled_back_by_hand_is_not_promoted_again(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop was killed after the deployment, before its journal noted it."""
    bare = Bare(path, tmp_path, "promote")
    with monkeypatch.context() as killed:
        killed.setattr(evidence, "last_answer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bare.loop.look()
    assert bare.now == ("promote", None, "new")
    bare.deploy("old", "rolled back")
    bare.look(monkeypatch, -0.3, 0.1)
    assert bare.now == (None, "promoted", "old")
    assert bare.journal.lines(1)[0].told == "new was promoted, and old was deployed since"


def test_a_watch_that_is_given_up_says_who_goes_on(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = Bare(path, tmp_path, "watch", tries=2)
    bare.deploy("new", "promoted")
    monkeypatch.setattr(bare.loop, "_due", lambda: None)
    monkeypatch.setattr(evidence, "between", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bare.loop.look()
    assert "given up after 3 tries, new goes on" in bare.journal.lines(1)[0].told


def test_a_round_that_has_begun_is_the_last_one_whenever_the_loop_is_killed(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next one began at once, in the place of the watch."""
    shop.walk()
    shop.loop.run()
    shop.clock.pass_by()
    begin = Journal.begin

    def killed(*given: Any) -> None:
        begin(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "begin", killed)
    with pytest.raises(KeyboardInterrupt):
        shop.loop.look()
    assert shop.journal.numbers()["began"] == shop.clock() == shop.journal.rounds(1)[0].began


def test_what_is_not_worse_stays(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = Bare(path, tmp_path, "watch")
    bare.deploy("new", "promoted")
    monkeypatch.setattr(bare.loop, "_due", lambda: None)
    bare.look(monkeypatch, -0.3, 0.1, answers=1000)
    assert bare.now == (None, "promoted", "new")


@pytest.mark.parametrize(("shadow", "shown", "outcome"), [(0, 250, "refused"), (0, 150, None), (5, 150, None)])
def test_a_shadow_that_does_not_answer_is_refused(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shadow: int, shown: int, outcome: str | None
) -> None:
    bare = Bare(path, tmp_path, "shadow")
    bare.loop.look()
    monkeypatch.setattr(evidence, "unseen", lambda *_: shadow)
    monkeypatch.setattr(evidence, "last_answer", lambda _: shadow + shown)
    bare.loop.look()
    assert bare.now == (None if outcome else "shadow", outcome, "old")


# What live answers tell


def test_users_are_the_units_of_what_answers_earned() -> None:
    # Two users with two answers each, 0 0 and 1 1: the mean is .5, its error that of two numbers 0 and 1.
    found = pl.DataFrame({"user_id": ["a", "a", "b", "b"], "reward": [0.0, 0.0, 1.0, 1.0]})
    mean = Mean.of(found)
    assert (mean.value, mean.users, mean.answers) == (0.5, 2, 4)
    assert mean.low == -np.inf  # of so few
    many = pl.concat(found.with_columns(pl.col("user_id") + str(copy)) for copy in range(50))
    mean, error = Mean.of(many), np.std([0.0, 1.0] * 50, ddof=1) / np.sqrt(100)
    assert (mean.value, mean.users, mean.answers) == (0.5, 100, 200)
    assert mean.high - mean.value == pytest.approx(normal_mixture(error, 0.05))  # a tenth of the mean size is expected
    assert mean.value - mean.low == pytest.approx(mean.high - mean.value)


def test_versions_are_compared_by_their_users() -> None:
    rng = np.random.default_rng(0)
    rows = {"old": rng.exponential(1.0, 400), "new": rng.exponential(0.5, 400)}
    found = pl.concat(
        pl.DataFrame({"user_id": [f"{name}{user}" for user in range(400)], "version": name, "reward": rewards})
        for name, rewards in {**rows, "another": rows["old"] * 100}.items()
    )
    apart = evidence.between(found, "new", "old")
    assert apart.mean == pytest.approx(rows["new"].mean() - rows["old"].mean())
    assert apart.verdict() == "worse"
    assert evidence.between(found, "old", "new").verdict() == "better"


def test_adwin_notices_a_fall_and_keeps_still_without_one() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.random(4000) < 0.5, rng.random(2000) < 0.3
    found = evidence.change(np.concatenate([before, after]).astype(float).tolist(), 0.002)
    assert found is not None
    assert 4000 < found[0] < 5000
    assert found[1] > found[2]
    assert evidence.change((rng.random(4000) < 0.5).astype(float).tolist(), 1e-4) is None


@pytest.mark.parametrize(("unit", "least"), [(1.0, 0.0), (0.01, 0.0), (1000.0, 0.0), (1.0, -0.5)])
def test_drift_has_no_unit(unit: float, least: float) -> None:
    rng = np.random.default_rng(0)
    falls = unit * (least + (rng.random(8000) < np.where(np.arange(8000) < 4000, 0.6, 0.3)))
    found = evidence.change(falls.tolist(), 0.002)
    assert found is not None
    assert 4000 < found[0] < 5000
    assert found[1] == pytest.approx(unit * (least + 0.6), abs=0.05 * unit)


def test_dear_sales_are_no_drift() -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        sales = (rng.random(10_000) < 0.02) * rng.lognormal(3, 2, 10_000)
        assert evidence.change(sales.tolist(), 0.002) is None


@pytest.mark.medium
def test_an_alarm_begins_a_round_before_its_time(path: Path) -> None:
    with running(Setup.read(path, ["train=no"])) as service:
        shop = Shop(path, service, "loop.drift=0.002", "loop.fresh=0")
        shop.walk(4)
        shop.loop.run()
        assert shop.journal.rounds(1) == []
        shop.walk(6, glad=0.0)
        shop.loop.look()
        shop.loop.look()
        assert shop.journal.rounds(1)[0].facts["why"].startswith("drift: the reward went from 0."), shop.told()


# Killed at every step

KILLED = """
import os, signal, sys
import torch._dynamo
from what_next.environment import Environment
from what_next.serving.loop.journal import Journal, alone, journal_path
from what_next.serving.loop.loop import Loop
from what_next.serving.store import Store, store_of
from what_next.settings import Setup

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def look(how, path, clock):
    setup = Setup.read(path, ["train=no"])
    journal = Journal.open(journal_path(setup), clock=lambda: clock)
    store = Store.open(store_of(setup))
    place = alone(store, journal)
    loop = Loop(setup, store, journal, place.__enter__())
    if how == "kill":
        note, Journal.begin = Journal.note, die  # all is done, and nothing noted yet
        Journal.note = lambda self, *facts, **changed: die() if changed else note(self, *facts)
    elif how == "break":
        before, cycles = Environment._cycle, []
        def cycle(self):
            cycles.append(0)
            return die() if len(cycles) > 30 else before(self)
        Environment._cycle = cycle
    os._exit(3 if loop.look() else 4)

for line in sys.stdin:  # a process that has imported everything forks one for each look
    how, path, clock = line.split()
    child = os.fork()
    if child == 0:
        look(how, path, int(clock))
    status = os.waitpid(child, 0)[1]
    print({3: "went", 4: "waits"}.get(os.waitstatus_to_exitcode(status), "killed"), flush=True)
"""


@pytest.mark.medium
def test_whoever_is_killed_at_any_step_goes_on(shop: Shop, path: Path) -> None:
    words = [sys.executable, "-c", KILLED]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment(), text=True
    ) as process:

        def look(how: str) -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{how} {path} {shop.clock()}\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        shop.walk(2)
        assert look("go") == "waits"
        shop.clock.pass_by()
        killed = list[str]()
        for _ in range(40):
            latest = shop.journal.rounds(1)
            step = latest[0].step if latest else "begin"
            if step is None:
                break
            if step == "train" and "broken" not in killed:
                assert look("break") == "killed"  # in the middle of training
                killed.append("broken")
            told = look("kill")
            if told == "killed":
                killed.append(step)
                told = look("go")
            if told == "waits":
                shop.beside()
                shop.walk()
        assert process.stdin is not None
        process.stdin.close()
    assert killed == ["begin", "export", "broken", "train", "judge", "shadow", "canary", "promote", "watch"]
    steps = [one for one in shop.steps() if one != "wait"]
    assert steps == [
        "begin",
        "export",
        "train",
        "judge",
        "shadow",
        "shadow",
        "canary",
        "canary",
        "promote",
        "watch",
        "watch",
    ]
    assert len(shop.versions) == 2
    (told,) = [one for one in shop.told() if one.startswith("train")]
    users = shop.journal.rounds(1)[0].facts["learned_users"]
    assert 0 < int(shop.versions[-1].split("-")[1]) <= 20 * users  # its passes, and no more
    logged = (path.parent / "loop" / "1" / "agent.jsonl").read_text().splitlines()
    assert len({json.loads(one)["histories"] for one in logged if "histories" in one}) == len(logged)


# What is told


@pytest.mark.medium
def test_the_time_line_is_told_by_the_command_the_service_and_its_metrics(
    shop: Shop, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(shop.setup)["lines"] == []
    with pytest.raises(StoreError, match="there is no journal"):
        commands.loop(["status", str(path.with_name("setup.txt")), "server.store=nowhere/s.sqlite"])
    shop.walk(2)
    shop.loop.run()
    shop.clock.pass_by()
    shop.loop.run()
    capsys.readouterr()
    assert commands.loop(["status", str(path)]) == 0
    told = capsys.readouterr().out
    assert "events and feedback are new" in told
    assert "round 1: shadow" in told
    shop.loop.journal.tell("wait", "[/x] :a:")
    assert commands.loop(["status", str(path)]) == 0
    assert "[/x] :a:" in capsys.readouterr().out
    assert commands.loop(["status", str(path)], as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["rounds"][0]["step"] == "shadow"
    metrics = Metrics()
    assert b"what_next_loop" not in metrics.text()
    metrics.loop(status_of(shop.setup)["numbers"])
    assert b"what_next_loop_unlearned" in metrics.text()
    assert b"what_next_loop_age_seconds" in metrics.text()


def test_a_journal_that_found_no_room_is_none_yet(path: Path) -> None:
    setup = Setup.read(path, ["train=no"])
    journal_path(setup).parent.mkdir()
    journal_path(setup).touch()
    assert status_of(setup) == {"rounds": [], "numbers": {}, "lines": []}


def test_a_damaged_journal_is_told_to_be_moved_aside(path: Path) -> None:
    setup = Setup.read(path, ["train=no"])
    journal_path(setup).parent.mkdir()
    journal_path(setup).write_text("this is a text, not a database; " * 100)
    with pytest.raises(StoreError, match="not a database; move it aside, and the loop begins a new one"):
        status_of(setup)


@pytest.mark.medium
def test_once_does_what_can_be_done_and_says_so(
    shop: Shop, path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stood_back = list[int]()
    monkeypatch.setattr(os, "nice", stood_back.append)
    shop.walk(2)
    for _ in range(2):
        assert commands.loop([str(path), "loop.nice=0"], once=True) == 0
        assert "wait: waits until " in capsys.readouterr().err
    stood_back.clear()
    words = [str(path), "loop.feedback=1", "loop.nice=7"]
    assert commands.loop(words, once=True) == 0
    told = capsys.readouterr().err
    assert "round 1, begin: begins: " in told
    assert "round 1, train: trained " in told
    assert shop.service.store.second() is not None
    assert stood_back == [7]
    assert commands.loop(words, once=True) == 0
    with alone(shop.service.store, shop.journal):
        code = guarded(lambda: commands.loop(words, once=True))()
    assert code == 2
    assert "another loop works on this store" in capsys.readouterr().err
    for wrong in (["status"], ["status", str(path)]):
        with pytest.raises(SetupError, match="loop status"):
            commands.loop(wrong, once=True)


@pytest.mark.slow
def test_a_candidate_of_shuffled_rewards_is_never_promoted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries, export = 20, candidate.export

    def shuffled(*args: Any) -> dict[str, int]:
        counts, log = export(*args), args[-1] / candidate.LEARNED
        rows = pl.read_parquet(log)
        events, decisions = rows.filter(pl.col("propensity").is_null()), rows.filter(pl.col("propensity").is_not_null())
        events = events.with_columns(pl.col("item_id").shuffle(seed=0), pl.col("reward").shuffle(seed=0))
        decisions = decisions.with_columns(pl.col("reward").shuffle(seed=0))
        footer = pl.read_parquet_metadata(log)
        pl.concat([events, decisions]).write_parquet(
            log, metadata={k: v for k, v in footer.items() if "arrow" not in k}
        )
        return counts

    with running(Setup.read(path, ["train=no"])) as service:
        shop = Shop(path, service)
        shop.walk(2)
        shop.loop.run()
        shop.clock.pass_by()
        shop.until("watch")
        good = shop.versions[-1]
        monkeypatch.setattr(candidate, "export", shuffled)
        words = ["train=no", "loop.shadow=0", "loop.answers=250", "passes=4"]
        shop.loop = Loop(Setup.read(path, words), service.store, shop.journal)
        for _ in range(tries):
            shop.clock.pass_by()
            shop.walk()
            shop.loop.run()
            shop.until(None)
        rounds = shop.journal.rounds(tries)
        assert [one.outcome for one in rounds] == ["refused"] * tries
        assert shop.versions[-1] == good


def test_beside_the_service_it_goes_on_after_a_failure(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bare, turns, waited = Bare(path, tmp_path, "canary"), iter(range(3)), list[float]()

    def run() -> None:
        if next(turns) == 0:
            raise StoreError("the store is away; try again")
        bare.journal.tell("wait", "there is nothing to do")

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) >= 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(bare.loop, "run", run)
    monkeypatch.setattr("what_next.cli.loop.time.sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        commands._go_on(bare.loop, 60.0)
    assert waited == [60.0, 60.0]
    told = capsys.readouterr().err
    assert "what-next: the store is away; try again" in told
    assert told.count("wait: there is nothing to do") == 1

    def another() -> None:
        raise NotAlone("another loop works on this store")

    monkeypatch.setattr(bare.loop, "make_sure", another)
    monkeypatch.setattr("what_next.cli.loop.time.sleep", lambda _: pytest.fail("it goes on"))
    monkeypatch.setattr(bare.loop, "run", bare.loop.look)
    with pytest.raises(NotAlone):
        commands._go_on(bare.loop, 60.0)


def test_a_store_that_is_away_at_the_start_is_waited_for_unless_it_runs_once(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def sleep(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("WHAT_NEXT_STORE", "postgresql://anna:secret@127.0.0.1:1/db")
    monkeypatch.setattr("what_next.cli.loop.time.sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        commands.loop([str(path)])
    assert "it is tried again in 60 s" in capsys.readouterr().err
    with pytest.raises(StoreUnavailable):
        commands.loop([str(path)], once=True)
