"""The log as a data set: what is in it, and who reads what."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from what_next.data import Catalogue, Dataset, import_files
from what_next.data.decisions.reader import read_log
from what_next.data.decisions.service_log import EVENT
from what_next.data.files import footer_of
from what_next.errors import DataError
from what_next.serving.store import (
    AddEvents,
    AddFeedback,
    AddImpression,
    AddItems,
    CountDeliveries,
    EraseUser,
    EventRow,
    NewItem,
    Store,
    WithdrawItem,
    now,
)
from what_next.serving.store.export import appended, exported
from what_next.serving.store.rewards import naming_events, rewards_of

from .waiting import impressions_of

ITEMS = [f"i{number}" for number in range(8)]
EXPLORED = {"epsilon": 0.5, "masked": 1.0, "seen": 1.0}


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
            shown("r1", "anna", ("i1", "i2", "i3"), 10, propensities=(0.5, 0.25, 1.0), known=1),
            shown("r2", "bert", ("i4", "i5"), 20),
            shown("r0", "anna", ("i6",), 30, history=("i5", "gone"), explore={**EXPLORED, "context.kind": 2.0}),
            shown("shadow", "anna", ("i7",), 11, shown=False),
            shown("unknown", "anna", ("i7", "i6"), 12, propensities=(0.5, None)),
            shown("nothing", "anna", (), 13),
        ]
    )
    yield store
    store.close()


def rewards(store: Store) -> dict[tuple[str, str], float]:
    found = decided(store).select("slate", "item_id", "reward")
    return {(slate, item): reward for slate, item, reward in found.iter_rows()}


def decided(store: Store) -> pl.DataFrame:
    return exported(store, catalogue()).rows.collect().filter(~EVENT)


def happened(store: Store) -> pl.DataFrame:
    return exported(store, catalogue()).rows.collect().filter(EVENT)


def test_each_item_of_an_answer_is_a_row_with_its_chance_and_place(served: Store) -> None:
    found = exported(served, catalogue())
    log = found.rows.collect().filter(~EVENT)
    columns = ("user_id", "item_id", "reward", "propensity", "position", "slate", "known", "history", "seen", "masked")
    assert log.select(columns).rows() == [
        ("anna", "i1", 0.0, 0.5, 1, "r1", 1, None, False, False),
        ("anna", "i2", 0.0, 0.25, 2, "r1", 1, None, False, False),
        ("anna", "i3", 0.0, 1.0, 3, "r1", 1, None, False, False),
        ("anna", "i6", 0.0, 0.5, 1, "r0", 0, '["i5","gone"]', True, True),
        ("bert", "i4", 0.0, 0.5, 1, "r2", 0, None, False, False),
        ("bert", "i5", 0.0, 0.5, 2, "r2", 0, None, False, False),
    ]
    assert log["timestamp"].dt.epoch("us").to_list() == [10, 10, 10, 30, 20, 20]
    assert log["context"].to_list() == [None, None, None, '{"kind":2.0}', None, None]
    assert log.select("event", "number").null_count().row(0) == (6, 6)
    assert found.notes == ["2 answers left out: without items, or without the chances of all their items"]
    assert (found.events, found.decisions) == (2, 6)


def test_an_answer_is_one_row_until_the_file_is_written(
    served: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = exported(served, catalogue())
    log = found.rows.collect()
    assert (len(found.decided), found.decisions) == (3, 6)
    monkeypatch.setattr(pl.LazyFrame, "collect", lambda *_, **__: pytest.fail("all rows are held at once"))
    found.write(tmp_path / "log.parquet")
    monkeypatch.undo()
    assert_frame_equal(pl.read_parquet(tmp_path / "log.parquet"), log)


def test_what_was_withdrawn_is_told_with_the_log_and_what_nobody_saw_is_no_decision(
    served: Store, tmp_path: Path
) -> None:
    served.commit([WithdrawItem("i7"), WithdrawItem("i6")])
    late = [shown("r3", "anna", ("i1",), 40, withdrawn=2), shown("r4", "anna", ("i1",), 41, withdrawn=2)]
    served.commit([*late, CountDeliveries(("r4",), -1)])
    served.commit([AddItems((NewItem("i6", "Song i6", {"tempo": 6.0}),))])
    found = exported(served, catalogue())
    decisions = found.rows.collect().filter(~EVENT).select("slate", "withdrawn").unique("slate", maintain_order=True)
    assert dict(decisions.iter_rows()) == {"r1": 0, "r0": 0, "r2": 0, "r3": 2}
    found.write(tmp_path / "log.parquet")
    changes = json.loads(footer_of(tmp_path / "log.parquet")["what_next.withdrawals"])
    assert changes == [[1, "i7", True], [2, "i6", True], [3, "i6", False]]


def test_an_answer_is_there_whole_or_not_at_all(served: Store) -> None:
    served.commit([shown("r3", "anna", ("i1", "gone"), 40)])
    found = exported(served, catalogue())
    assert "r3" not in found.rows.collect()["slate"].to_list()
    assert "1 answers left out: an item of theirs is not in the item table" in found.notes


def test_the_latest_feedback_counts_whenever_it_comes(served: Store) -> None:
    def feedback(name: str, reward: float, time: int | None, answer: str = "r1", item: str = "i1") -> None:
        (outcome,) = served.commit([AddFeedback(name, answer, item, reward, time)])
        assert not isinstance(outcome, Exception)

    feedback("f1", 0.5, 100)
    feedback("f2", 0.75, 90)  # older, and late
    assert rewards(served)["r1", "i1"] == 0.5
    served.clock = lambda: 1  # the clock jumped back
    feedback("f3", 0.25, 100)  # as old, and later to arrive
    feedback("f1", 0.5, 100)  # sent again
    assert rewards(served)["r1", "i1"] == 0.25
    served.clock = now
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
    served.commit([AddFeedback("f1", "r1", "i1", 7.0, time=50)])
    row = EventRow("e9", "anna", "i1", kind, time=60, reward=reward, recommendation_id="r1")
    other = EventRow("e8", "anna", "i7", kind, time=60, reward=reward, recommendation_id="r1")  # was not shown
    served.commit([AddEvents((row, other, EventRow("e7", "anna", "i1", time=70, recommendation_id="else")))])
    assert rewards(served)["r1", "i1"] == wanted
    assert len(rewards(served)) == 6


def test_an_event_is_feedback_to_what_its_user_was_shown_and_to_nothing_else(served: Store) -> None:
    played = {"kind": "play", "time": 60}
    rows = (
        EventRow("x1", "bert", "i1", recommendation_id="r1", **played),  # was shown to anna
        EventRow("x2", "bert", "i1", recommendation_id="r2", **played),  # shows other items
        EventRow("x3", "bert", "i4", recommendation_id="r2", **played),
        EventRow("x4", "carl", "i7", recommendation_id="r9", **played),  # was shown to nobody by name
    )
    served.commit([shown("r9", None, ("i7", "i6"), 40), AddEvents(rows)])
    found = exported(served, catalogue())
    assert {key for key, reward in rewards(served).items() if reward} == {("r2", "i4"), ("r9", "i7")}
    assert "2 events are no feedback: the answer that they name did not show their item to their user" in found.notes
    assert found.events == 2 + len(rows)


def test_events_whose_worth_nothing_tells_are_counted_in_a_note(served: Store) -> None:
    rows = (
        EventRow("x1", "anna", "i1", "apply", 60, recommendation_id="r1"),
        EventRow("x2", "anna", "i2", "view", 61, recommendation_id="r1"),
        EventRow("x3", "anna", "i2", "apply", 62, 5.0, recommendation_id="r1"),
        EventRow("x4", "anna", "i3", "look", 63),
    )
    served.commit([AddEvents(rows)])
    (note,) = [note for note in exported(served, catalogue()).notes if "reward" in note]
    assert note.startswith("2 events that name an answer are no feedback: of kind apply, view, and without a reward")
    assert rewards(served)["r1", "i2"] == 5.0


def test_of_events_at_one_time_the_last_one_counts_whatever_the_clock_said(served: Store) -> None:
    for place, reward in enumerate((0.25, 0.5, 0.75)):
        served.clock = lambda place=place: 100 - place  # type: ignore[misc]
        row = EventRow(f"x{place}", "anna", "i1", "rating", 50, reward, recommendation_id="r1")
        served.commit([AddEvents((row,))])
    assert rewards(served)["r1", "i1"] == 0.75


def test_rewards_are_those_of_the_answers_that_are_asked_about(served: Store) -> None:
    rows = [AddFeedback(f"f{name}", name, item, 1.0) for name, item in (("r1", "i1"), ("r2", "i4"), ("r0", "i6"))]
    served.commit([*rows, AddEvents((EventRow("e5", "bert", "i5", recommendation_id="r2"),))])
    numbers = {one.recommendation_id: one.number for one in impressions_of(served, "bert")}
    answers = pl.DataFrame({"number": [numbers["r2"]], "slate": "r2", "user_id": "bert", "item_id": [["i4", "i5"]]})
    assert sorted(rewards_of(served, answers, naming_events(served, answers["slate"], 0))[0]["item_id"]) == ["i4", "i5"]
    assert not len(rewards_of(served, answers.clear(), naming_events(served, answers["slate"].clear(), 0))[0])


def test_who_gave_no_name_is_a_user_of_their_own(served: Store) -> None:
    served.commit([shown("r8", None, ("i1",), 40), shown("r9", None, ("i1",), 41)])
    users = decided(served)["user_id"].unique(maintain_order=True).to_list()
    assert users == ["anna", "anonymous:r8", "anonymous:r9", "bert"]
    found = exported(served, catalogue())
    assert (found.anonymous, len(found.users)) == (2, 4)


def test_ids_that_are_whole_numbers_are_numbers_as_an_import_has_them(store: Store) -> None:
    store.commit([shown(f"r{user}", user, ("2", "10"), 10) for user in ("9", "10")])
    tables = exported(store, catalogue(ids=[2, 10]))
    assert tables.rows.collect().select("user_id", "item_id").rows() == [(9, 2), (9, 10), (10, 2), (10, 10)]
    assert tables.anonymous == 0
    assert tables.items["item_id"].to_list() == [2, 10]


def test_words_for_nothing_are_ids_like_others(store: Store, tmp_path: Path) -> None:
    """A client that names the user `undefined`, or an item `null`, must not keep all others from being exported."""
    names = ("null", "None", "undefined", "1")
    store.commit([AddEvents(tuple(EventRow(f"e{name}", name, name, time=5) for name in names))])
    path = tmp_path / "log.parquet"
    for export in (exported, lambda store, catalogue: appended(store, catalogue, path)):
        found = export(store, catalogue(False, ["1"]))
        assert set(found.rows.collect()["user_id"]) == set(found.rows.collect()["item_id"]) == set(names)
        found.write(path)
    assert Dataset.read(path).user_ids.sort().to_list() == sorted(names)


def test_items_of_the_store_go_before_the_catalogue(served: Store) -> None:
    served.commit(
        [AddItems((NewItem("i1", "New", {"tempo": 9.0}), NewItem("x", "X", {}))), shown("r9", "bert", ("x",), 9)]
    )
    tables = exported(served, catalogue())
    assert tables.items["item_id"].to_list()[-2:] == ["i1", "x"]
    assert tables.added == 2
    found = {row[0]: row[1:] for row in tables.items.rows()}
    assert found["i1"] == ("New", 9.0)
    assert found["x"] == ("X", 4.5)  # the median of 0 2 3 4 5 6 7 9
    assert "x" in tables.rows.collect()["item_id"].to_list()
    assert "1 missing attributes of added items set to the median" in tables.notes


def test_tags_of_the_stores_items_go_before_those_of_the_catalogue(served: Store) -> None:
    table = catalogue().to_table().with_columns(pl.Series("tags", [["artist: Queen"]] * len(ITEMS)))
    rows = (
        NewItem("i1", "", {"tempo": 1.0}),
        NewItem("i2", "", {"tempo": 1.0}, {}),
        NewItem("i3", "", {"tempo": 1.0}, {"artist": ["Abba"]}),
        NewItem("x", "", {"tempo": 1.0}, {"artist": ["Abba", "Queen"], "genre": ["pop"]}),
        NewItem("y", "", {"tempo": 1.0}),
    )
    served.commit([AddItems(rows)])
    for first in (Catalogue.from_table(table), Catalogue.from_table(table.drop("tempo"))):
        items = exported(served, first).items
        found = dict(zip(items["item_id"], items["tags"].to_list(), strict=True))
        assert (found["i1"], found["i2"], found["i3"]) == (["artist: Queen"], [], ["artist: Abba"])
        assert (found["x"], found["y"]) == (["artist: Abba", "artist: Queen", "genre: pop"], None)
    assert "tags" not in exported(served, catalogue()).items.columns


def test_events_are_histories_by_user_and_time(served: Store) -> None:
    served.commit([AddEvents((EventRow("e3", "anna", "i3", "skip", time=1), EventRow("e4", "anna", "gone", time=2)))])
    found = exported(served, catalogue())
    assert found.rows.collect().filter(EVENT).select("user_id", "item_id", "event", "number").rows() == [
        ("anna", "i3", "skip", 2),
        ("anna", "i1", "play", 1),
        ("bert", "i2", "play", 1),
    ]
    assert "1 events left out: item not in the item table" in found.notes
    plain = exported(served, catalogue(attributes=False))
    assert (plain.events, "gone" in plain.items["item_id"].to_list()) == (4, True)


def test_rewards_and_contexts_of_events_are_read_where_all_can_have_them(served: Store, tmp_path: Path) -> None:
    served.clock = lambda: 0  # before all events
    served.commit([EraseUser("anna"), EraseUser("bert")])
    names = ("time", "kind", "number", "user", "context", "slate", "known", "timestamp")  # words of the log's own
    odd = dict.fromkeys(names, 0.5)
    rows = (
        EventRow("a", "anna", "i1", "rating", 1, 0.25, {"hour": 3.0, "day": 1.0, **odd}),
        EventRow("b", "anna", "i2", "play", 2, None, {"hour": 4.0, **odd}),
        EventRow("c", "bert", "i2", "skip", 3, None, {"hour": 5.0, "day": 2.0, **odd}),
    )
    served.commit([AddEvents(rows)])
    found = exported(served, catalogue())
    assert found.rows.collect()["reward"].to_list() == [0.25, None, None]
    assert found.notes == [
        "context timestamp left out: the log has a column of that name",
        "context day left out: 1 events lack it",
    ]
    found.write(tmp_path / "log.parquet")
    data = Dataset.read(tmp_path / "log.parquet")
    assert data.rewards is not None
    assert data.rewards.tolist() == [0.25, 1.0, 0.0]
    assert data.context_names == ("hour", "time", "kind", "number", "user", "context", "slate", "known")
    assert data.context[:, :2].tolist() == [[3.0, 0.5], [4.0, 0.5], [5.0, 0.5]]


def test_an_empty_store_is_told(store: Store) -> None:
    with pytest.raises(DataError, match="holds no"):
        exported(store, catalogue())


def test_events_are_for_training_and_decisions_for_judging(served: Store, tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    exported(served, catalogue()).write(path)
    dataset = Dataset.read(path)
    assert (dataset.events, dataset.users, dataset.context_names, dataset.rewards) == (2, 2, (), None)
    assert dataset.event_words == ("play",)
    decided = read_log(path)
    assert decided.kind == "service"
    assert decided.propensities is not None
    assert decided.propensities.tolist() == [0.5, 0.25, 1.0, 0.5, 0.5]
    assert decided.places is not None
    assert decided.places.tolist() == [0, 1, 2, 0, 1]
    assert decided.slates is not None
    assert decided.slates.tolist() == [0, 0, 0, 1, 1]
    assert decided.notes == (
        "1 answers left out: allowed, blocked, ranges or tags permitted some items only, and an "
        "earlier version did not keep which",
    )


def test_who_is_erased_while_the_log_is_read_is_not_in_it(served: Store) -> None:
    served.commit([shown("r9", None, ("i1",), 40)])

    def progress(table: str, done: int, total: int) -> None:
        if table == "events":
            served.commit([EraseUser("anna")])

    found = exported(served, catalogue(), progress=progress)
    assert found.rows.collect()["user_id"].unique(maintain_order=True).to_list() == ["bert", "anonymous:r9"]


def test_without_its_item_table_it_is_not_read(served: Store, tmp_path: Path) -> None:
    exported(served, catalogue()).write(tmp_path / "log.parquet")
    (tmp_path / "log.items.parquet").unlink()
    for read in (Dataset.read, read_log):
        with pytest.raises(DataError, match=r"log\.items\.parquet: no such file"):
            read(tmp_path / "log.parquet")


def test_it_is_not_imported_as_if_decisions_were_events(served: Store, tmp_path: Path) -> None:
    exported(served, catalogue()).write(tmp_path / "log.parquet")
    with pytest.raises(DataError, match="is read as it is"):
        import_files([tmp_path / "log.parquet"])


def test_one_kind_of_rows_alone_is_told_to_who_wants_the_other(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    store.commit([AddEvents((EventRow("e1", "anna", "i1"),))])
    exported(store, catalogue()).write(path)
    assert Dataset.read(path).events == 1
    with pytest.raises(DataError, match="no decisions that can be weighed"):
        read_log(path)
    store.commit([EraseUser("anna"), shown("r1", "bert", ("i1", "i2"), 1)])
    exported(store, catalogue()).write(path)
    assert len(read_log(path)) == 2
    with pytest.raises(DataError, match="decisions alone, and no events to learn from"):
        Dataset.read(path)
