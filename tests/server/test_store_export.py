"""The log as a data set: what is in it, and that the other commands read it as it is."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import typer

from what_next.cli import estimate, evaluate, log, model
from what_next.cli.guard import guarded
from what_next.data import Catalogue, Dataset
from what_next.data.decision_reader import read_log
from what_next.errors import StoreError
from what_next.server.store import (
    AddEvents,
    AddFeedback,
    AddImpression,
    AddItems,
    EraseUser,
    EventRow,
    FeedbackRow,
    ItemRow,
    Store,
    export,
    store_of,
)

from ..conftest import SetupOf

ITEMS = [f"i{number}" for number in range(8)]


def catalogue(attributes: bool = True, ids: list[Any] = ITEMS) -> Catalogue:
    table = {"item_id": ids, "title": [f"Song {one}" for one in ids]}
    if attributes:
        table |= {"tempo": np.arange(len(ids), dtype=np.float32)}
    return Catalogue.from_table(pl.DataFrame(table))


def shown(name: str, user: str | None, items: tuple[str, ...], time: int, **more: Any) -> AddImpression:
    chances = more.pop("propensities", (0.5,) * len(items))
    return AddImpression(name, user, time, "v1", "trained", items, chances, **more)


@pytest.fixture
def served(store: Store) -> Iterator[Store]:
    """Two people, three answers, and feedback of all kinds."""
    store.commit(
        [
            AddEvents((EventRow("e1", "anna", "i1", time=5), EventRow("e2", "bert", "i2", time=5))),
            shown("r1", "anna", ("i1", "i2", "i3"), 10, propensities=(0.5, 0.25, 1.0)),
            shown("r2", "bert", ("i4", "i5"), 20),
            shown("r0", "anna", ("i6",), 30),
            shown("shadow", "anna", ("i7",), 11, shown=False),
            shown("unknown", "anna", ("i7", "i6"), 12, propensities=(0.5, None)),
            shown("nothing", "anna", (), 13),
        ]
    )
    yield store
    store.close()


def rewards(store: Store) -> dict[tuple[str, str], float]:
    found = export.decisions(store, catalogue()).log
    return {(slate, item): reward for slate, item, reward in found.select("slate", "item_id", "reward").iter_rows()}


def test_each_item_of_an_answer_is_a_row_with_its_chance_and_place(served: Store) -> None:
    tables = export.decisions(served, catalogue())
    assert tables.log.drop("timestamp", "version", "policy").rows() == [
        ("anna", "i1", 0.0, 0.5, 1, "r1"),
        ("anna", "i2", 0.0, 0.25, 2, "r1"),
        ("anna", "i3", 0.0, 1.0, 3, "r1"),
        ("anna", "i6", 0.0, 0.5, 1, "r0"),
        ("bert", "i4", 0.0, 0.5, 1, "r2"),
        ("bert", "i5", 0.0, 0.5, 2, "r2"),
    ]
    assert tables.log["timestamp"].dt.epoch("us").to_list() == [10, 10, 10, 30, 20, 20]
    assert tables.notes == ["2 answers left out: without items, or without the chances of all their items"]


def test_answers_of_a_shadow_model_are_there_where_all_are_asked_for(served: Store) -> None:
    log = export.decisions(served, catalogue(), shown=False).log
    assert log.filter(~pl.col("shown"))["slate"].to_list() == ["shadow"]
    assert len(log) == 7


def test_the_latest_feedback_counts_whenever_it_comes(served: Store) -> None:
    def feedback(name: str, reward: float, time: int | None, answer: str = "r1", item: str = "i1") -> None:
        (outcome,) = served.commit([AddFeedback((FeedbackRow(name, answer, item, reward, time),))])
        assert not isinstance(outcome, Exception)

    feedback("f1", 0.5, 100)
    feedback("f2", 0.75, 90)  # older, and late
    assert rewards(served)["r1", "i1"] == 0.5
    feedback("f3", 0.25, 100)  # as old, and later to arrive
    feedback("f1", 9.0, 200)  # a repeated id
    assert rewards(served)["r1", "i1"] == 0.25
    feedback("f4", 2.0, None)
    assert rewards(served)["r1", "i1"] == 2.0
    feedback("f5", 1.0, 1, "r2", "i5")
    assert {key: value for key, value in rewards(served).items() if value} == {("r1", "i1"): 2.0, ("r2", "i5"): 1.0}


@pytest.mark.parametrize(
    ("kind", "reward", "wanted"),
    [("play", None, 1.0), ("purchase", None, 1.0), ("skip", None, 0.0), ("look", None, 7.0), ("skip", 0.5, 0.5)],
)
def test_an_event_that_names_its_answer_is_feedback(
    served: Store, kind: str, reward: float | None, wanted: float
) -> None:
    served.commit([AddFeedback((FeedbackRow("f1", "r1", "i1", 7.0, time=50),))])
    row = EventRow("e9", "anna", "i1", kind, time=60, reward=reward, recommendation_id="r1")
    other = EventRow("e8", "anna", "i7", kind, time=60, reward=reward, recommendation_id="r1")  # was not shown
    served.commit([AddEvents((row, other, EventRow("e7", "anna", "i1", time=70, recommendation_id="else")))])
    assert rewards(served)["r1", "i1"] == wanted
    assert len(rewards(served)) == 6


def test_who_gave_no_name_is_a_user_of_their_own(served: Store) -> None:
    served.commit([shown("r8", None, ("i1",), 40), shown("r9", None, ("i1",), 41)])
    users = export.decisions(served, catalogue()).log["user_id"].unique(maintain_order=True).to_list()
    assert users == ["anna", "anonymous:r8", "anonymous:r9", "bert"]


def test_ids_that_are_whole_numbers_are_numbers_as_an_import_has_them(store: Store) -> None:
    store.commit([shown(f"r{user}", user, ("2", "10"), 10) for user in ("9", "10")])
    tables = export.decisions(store, catalogue(ids=[2, 10]))
    assert tables.log.select("user_id", "item_id").rows() == [(9, 2), (9, 10), (10, 2), (10, 10)]
    assert tables.items["item_id"].to_list() == [2, 10]


def test_items_of_the_store_go_before_the_catalogue(served: Store) -> None:
    served.commit(
        [AddItems((ItemRow("i1", "New", {"tempo": 9.0}), ItemRow("x", "X", {}))), shown("r9", "bert", ("x",), 9)]
    )
    tables = export.decisions(served, catalogue())
    found = {row[0]: row[1:] for row in tables.items.rows()}
    assert found["i1"] == ("New", 9.0)
    assert found["x"] == ("X", 4.5)  # the median of 0 2 3 4 5 6 7 9
    assert "x" in tables.log["item_id"].to_list()
    assert "1 missing attributes of added items set to the median" in tables.notes


def test_events_are_histories_by_user_and_time(served: Store) -> None:
    served.commit([AddEvents((EventRow("e3", "anna", "i3", "skip", time=1), EventRow("e4", "anna", "gone", time=2)))])
    tables = export.events(served, catalogue())
    assert tables.log.columns == ["user_id", "item_id", "timestamp", "event"]
    assert tables.log.select("user_id", "item_id", "event").rows() == [
        ("anna", "i3", "skip"),
        ("anna", "i1", "play"),
        ("bert", "i2", "play"),
    ]
    assert tables.notes == ["1 rows left out: item not in the item table"]
    plain = export.events(served, catalogue(attributes=False))
    assert (len(plain.log), "gone" in plain.items["item_id"].to_list()) == (4, True)


def test_rewards_and_contexts_of_events_are_kept_where_all_can_have_them(served: Store) -> None:
    served.commit([EraseUser("anna"), EraseUser("bert")])
    rows = (
        EventRow("a", "anna", "i1", "rating", 1, 0.25, {"hour": 3.0, "day": 1.0}),
        EventRow("b", "anna", "i2", "play", 2, None, {"hour": 4.0}),
        EventRow("c", "bert", "i2", "skip", 3, None, {"hour": 5.0, "day": 2.0}),
    )
    served.commit([AddEvents(rows)])
    tables = export.events(served, catalogue())
    assert tables.log.columns == ["user_id", "item_id", "timestamp", "reward", "event", "hour"]
    assert tables.log.select("reward", "hour").rows() == [(0.25, 3.0), (1.0, 4.0), (0.0, 5.0)]
    assert tables.notes == ["context day left out: 1 events lack it"]


def test_an_empty_store_is_told(store: Store) -> None:
    for export_of in (export.decisions, export.events):
        with pytest.raises(StoreError, match="holds no"):
            export_of(store, catalogue())


def test_what_tells_of_decisions_is_no_context_of_a_network(served: Store, tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    export.write(export.decisions(served, catalogue()), path)
    dataset = Dataset.read(path)
    assert (dataset.events, dataset.users, dataset.context_names) == (6, 2, ())
    assert dataset.rewards is not None
    decided = read_log(path)
    assert decided.propensities is not None
    assert decided.propensities.tolist() == [0.5, 0.25, 1.0, 0.5, 0.5, 0.5]
    assert decided.places is not None
    assert decided.places.tolist() == [0, 1, 2, 0, 0, 1]
    assert decided.slates is not None
    assert decided.slates.tolist() == [0, 0, 0, 1, 2, 2]


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command as the command line does."""

    def ran(*words: str | Path) -> Ran:
        app = typer.Typer(pretty_exceptions_enable=False)
        app.add_typer(log.app, name="log")
        model.register(app)
        app.command("evaluate")(evaluate.evaluate)
        app.command("gate")(estimate.gate)

        @guarded
        def main() -> int:
            code = app(list(map(str, words)), standalone_mode=False)
            return code if isinstance(code, int) else 0

        return Ran(main(), *capsys.readouterr())

    return ran


@pytest.fixture
def setup_file(tmp_path: Path, log_file: Path) -> Path:
    """A setup of the listening data, whose store holds 300 answers with feedback."""
    path = tmp_path / "setup.txt"
    path.write_text(
        f"train, yes, model, lstm, data, {log_file}, epochs, 64, batch_size, 16, window, 20, dim, 8, threads, 1\n"
        "model_agent_path, models/agent.safetensors, model_critic_path, models/critic.safetensors\n"
    )
    rng, store = np.random.default_rng(0), Store.open(tmp_path / "models" / "agent.store.sqlite")
    writes: list[Any] = []
    for number in range(300):
        item, other = (f"i{one}" for one in rng.choice(80, 2, replace=False))
        writes.append(shown(f"r{number}", f"u{number % 60}", (item, other), number, propensities=(1 / 80, 1 / 80)))
        writes.append(AddFeedback((FeedbackRow(f"f{number}", f"r{number}", item, float(number % 2)),)))
    store.commit([AddEvents((EventRow("e1", "u1", "i1"), EventRow("e2", "u2", "i2"))), *writes])
    store.close()
    return path


def test_the_exported_log_is_read_by_the_other_commands_as_it_is(run: Run, setup_file: Path, tmp_path: Path) -> None:
    to = tmp_path / "log.parquet"
    ran = run("log", "export", setup_file, "--to", to, "--json")
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)
    assert (told["rows"], told["users"], told["items"]) == (600, 60, 80)
    for command in ("train", "evaluate"):
        ran = run(command, setup_file, f"data={to}", "--json")
        assert ran.code == 0, ran.err
    ran = run("gate", "uniform", "propensity", "--log", to, "--json")
    assert ran.code == 3, ran.err
    apart = json.loads(ran.out)["difference"]
    assert apart["low"] <= 0 <= apart["high"]  # the log was drawn so
    # After training, the agent's own catalogue is the item table.
    assert run("log", "export", setup_file, "--to", to, "--rows", "events").code == 0
    assert Dataset.read(to).events == 2


def test_a_store_that_is_not_there_is_no_store(run: Run, setup_file: Path, tmp_path: Path) -> None:
    ran = run("log", "export", setup_file, "server.store=nowhere.sqlite", "--to", tmp_path / "log.parquet")
    assert ran.code == 2
    assert "no such store" in ran.err
    assert not list(tmp_path.rglob("nowhere*"))
    assert run("log", "export", setup_file, "--to", tmp_path / "log.csv").code == 2


def test_the_store_is_beside_the_agent_unless_said_otherwise(
    tmp_path: Path, setup_of: SetupOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WHAT_NEXT_STORE", raising=False)
    setup = setup_of(tmp_path)
    assert store_of(setup) == tmp_path / "agent.store.sqlite"
    elsewhere = setup.model_copy(update={"server": setup.server.model_copy(update={"store": tmp_path / "s.sqlite"})})
    assert store_of(elsewhere) == tmp_path / "s.sqlite"
    monkeypatch.setenv("WHAT_NEXT_STORE", "postgresql://localhost/wn")
    assert store_of(elsewhere) == "postgresql://localhost/wn"
