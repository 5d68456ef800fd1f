"""An export that goes on from an earlier one comes to what a whole one comes to, and reads what is new alone."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from what_next.data import Catalogue
from what_next.data.decisions.rule import Rule
from what_next.data.decisions.service_log import EVENT
from what_next.data.files import beside, footer_of
from what_next.errors import DataError, SaveError
from what_next.serving.loop import evidence
from what_next.serving.store import (
    AddEvents,
    AddFeedback,
    AddImpression,
    AddItems,
    CountDeliveries,
    EraseUser,
    EventRow,
    EventsAdded,
    NewItem,
    Store,
    WithdrawItem,
    now,
)
from what_next.serving.store import export as appending
from what_next.serving.store.export import UNTIL, appended, exported, forget_erased

ITEMS = [f"i{number}" for number in range(8)]
CATALOGUE = Catalogue.from_table(
    pl.DataFrame({"item_id": ITEMS, "title": ITEMS, "tempo": np.arange(len(ITEMS), dtype=np.float32)})
)


def go_on(store: Store, path: Path) -> pl.DataFrame:
    """Append, and compare with a whole export."""
    found, whole = appended(store, CATALOGUE, path), exported(store, CATALOGUE)
    found.write(path)
    assert_frame_equal(found.rows.collect(), whole.rows.collect())
    assert_frame_equal(found.items, whole.items)
    assert found.withdrawals == whole.withdrawals
    return found.rows.collect()


class Traffic:
    """People who hear, are shown, and answer; at random, and the same every time."""

    def __init__(self, store: Store) -> None:
        self.store, self.rng, self.count, self.answers = store, np.random.default_rng(0), 0, list[tuple[str, ...]]()

    def number(self) -> int:
        self.count += 1
        return self.count

    def some(self, count: int = 1) -> tuple[str, ...]:
        return tuple(self.rng.choice(ITEMS, count, replace=False).tolist())

    def event(self, answer: tuple[str, ...] | None = None) -> AddEvents:
        number = self.number()
        kind, reward = self.rng.choice(["play", "skip", "look"]), None
        if self.rng.random() < 0.3:
            reward = float(self.rng.integers(3))
        user, item, named = f"u{self.rng.integers(6)}", self.some()[0], None
        if answer is not None:
            named, user, item = answer[0], answer[1] if self.rng.random() < 0.8 else user, answer[2]
        time = int(self.rng.integers(50)) + 100
        return AddEvents((EventRow(f"e{number}", user, item, str(kind), time, reward, None, named),))

    def answer(self) -> AddImpression:
        number, items = self.number(), self.some(2)
        user = f"u{self.rng.integers(6)}" if self.rng.random() < 0.8 else None
        rule = Rule(None, (self.some()[0],), {}) if self.rng.random() < 0.3 else None
        self.answers.append((f"r{number:04d}", user or "u0", items[0]))
        explore = {"masked": 1.0} if rule else {}
        return AddImpression(
            f"r{number:04d}", user, 1000 + number, "v1", "trained", items, (0.5, 0.25), explore=explore, rule=rule
        )

    def feedback(self, answer: tuple[str, ...]) -> AddFeedback:
        number = self.number()
        time = int(self.rng.integers(50)) + 100
        return AddFeedback(f"f{number}", answer[0], answer[2], float(self.rng.integers(5)), time)

    def flow(self, count: int) -> None:
        for _ in range(count):
            drawn = self.rng.random()
            answer = self.answers[self.rng.integers(len(self.answers))] if self.answers else None
            if answer is None or drawn < 0.3:
                write: Any = self.answer()
            elif drawn < 0.6:
                write = self.event(answer if drawn < 0.45 else None)
            else:
                write = self.feedback(answer)
            self.store.commit([write])


@pytest.mark.medium
@pytest.mark.parametrize("again", [0, 5, appending.AGAIN])
def test_it_comes_to_what_a_whole_export_comes_to(
    store: Store, tmp_path: Path, again: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appending, "AGAIN", again)
    path, traffic = tmp_path / "log.parquet", Traffic(store)
    for turn in range(6):
        traffic.flow(40)
        log = go_on(store, path)
        assert len(log) > 20 * (turn + 1)
    store.commit([AddItems((NewItem("new", "New", {"tempo": 3.0}),)), WithdrawItem("i3")])
    store.commit([EraseUser("u1")])
    traffic.flow(20)
    store.commit([AddEvents((EventRow("back", "u1", "i1"),))])  # who was erased comes back, as somebody new
    log = go_on(store, path)
    assert log.filter(EVENT & (pl.col("user_id") == "u1"))["number"].to_list() == [1]
    store.commit([EraseUser("u1"), EraseUser("u2")])
    assert not set(go_on(store, path)["user_id"]) & {"u1", "u2"}
    assert_frame_equal(go_on(store, path), go_on(store, path))  # nothing new


def test_who_was_erased_goes_from_a_file_that_was_exported_before(store: Store, tmp_path: Path) -> None:
    path, traffic = tmp_path / "log.parquet", Traffic(store)
    traffic.flow(100)
    log = go_on(store, path)
    assert not forget_erased(store, path)
    store.commit([EraseUser("u1")])
    assert forget_erased(store, path)
    assert_frame_equal(pl.read_parquet(path), log.filter(pl.col("user_id") != "u1"))
    traffic.flow(40)
    go_on(store, path)  # which brings the new u1
    assert not forget_erased(store, path)
    pl.DataFrame({"user_id": ["u1"]}).write_parquet(path)
    with pytest.raises(DataError, match="earlier version"):
        forget_erased(store, path)


def test_so_does_who_was_erased_when_the_clock_had_gone_back(store: Store, tmp_path: Path) -> None:
    path, first = tmp_path / "log.parquet", evidence.last_erasure(store)
    Traffic(store).flow(100)
    go_on(store, path)
    hour = 3600 * 10**6
    store.clock = lambda: now() - hour
    store.commit([EraseUser("u1")])
    second = evidence.last_erasure(store)
    store.commit([EraseUser("u2")])
    assert first < second < evidence.last_erasure(store)  # by which the loop notices each
    assert forget_erased(store, path)
    assert not set(pl.read_parquet(path)["user_id"]) & {"u1", "u2"}
    store.clock = lambda: now() + 365 * 24 * hour
    store.commit([EraseUser("u3")])
    store.clock = now  # a year is no such error: what comes with a time is not from before then
    store.commit([EraseUser("u4")])
    assert store.commit([AddEvents((EventRow("new", "u4", "i1", time=now() + 1),))]) == [EventsAdded(1, 0)]


def test_late_feedback_and_late_events_change_what_was_exported(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    first = AddImpression("r1", "anna", 10, "v", "trained", ("i1", "i2"), (0.5, 0.5))
    store.commit([AddEvents((EventRow("e1", "anna", "i5", time=1),)), first])
    appended(store, CATALOGUE, path).write(path)
    store.commit([AddFeedback("f1", "r1", "i2", 3.0)])
    store.commit([AddEvents((EventRow("e2", "anna", "i1", "play", time=20, recommendation_id="r1"),))])
    log = go_on(store, path).filter(~EVENT)
    assert dict(log.select("item_id", "reward").iter_rows()) == {"i1": 1.0, "i2": 3.0}


def test_an_answer_that_nobody_saw_after_all_goes(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    store.commit([AddImpression(f"r{one}", "anna", one, "v", "trained", ("i1",), (0.5,)) for one in range(3)])
    appended(store, CATALOGUE, path).write(path)
    store.commit([CountDeliveries(("r1",), -1)])
    assert go_on(store, path)["slate"].to_list() == ["r0", "r2"]


def test_it_reads_what_is_new_alone(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appending, "AGAIN", 0)
    path, traffic = tmp_path / "log.parquet", Traffic(store)
    traffic.flow(400)
    appended(store, CATALOGUE, path).write(path)
    traffic.flow(10)
    read, fetch = [0], store.fetch

    def counted(*args: Any, **values: Any) -> Any:
        rows = fetch(*args, **values)
        read[0] += len(rows)
        return rows

    monkeypatch.setattr(store, "fetch", counted)
    appended(store, CATALOGUE, path)
    assert read[0] < 150  # of about 400 rows; names of users among them
    fresh = read[0]
    exported(store, CATALOGUE)
    assert read[0] - fresh > 300


def test_where_it_cannot_go_on_all_is_read_and_that_is_said(store: Store, tmp_path: Path) -> None:
    path, traffic = tmp_path / "log.parquet", Traffic(store)
    traffic.flow(30)
    exported(store, CATALOGUE).write(path)
    footer = {name: text for name, text in footer_of(path).items() if name != "ARROW:schema"}
    rows = pl.read_parquet(path)
    rows.write_parquet(path, metadata={name: text for name, text in footer.items() if name != UNTIL})
    assert "was written by an earlier version" in appended(store, CATALOGUE, path).notes[0]
    elsewhere = json.dumps({**json.loads(footer[UNTIL]), "answers": 10**6})
    rows.write_parquet(path, metadata=footer | {UNTIL: elsewhere})
    found = appended(store, CATALOGUE, path)
    assert "goes further than the store" in found.notes[0]
    assert_frame_equal(found.rows.collect(), exported(store, CATALOGUE).rows.collect())
    rows.select("item_id").write_parquet(path)
    with pytest.raises(DataError, match="is no exported log of a service, so nothing can be appended"):
        appended(store, CATALOGUE, path)


LATER = {
    "an event": AddEvents((EventRow("lost", "anna", "i2", time=2),)),
    "feedback": AddFeedback("lost", "r1", "i2", 3.0),
}


@pytest.mark.parametrize("since", [LATER[name] for name in LATER], ids=[*LATER])
@pytest.mark.parametrize("grown", [False, True], ids=["at once", "after it has grown again"])
def test_what_a_restored_store_lost_goes_from_the_log_though_no_answer_was_lost(
    place: str, tmp_path: Path, since: AddEvents | AddFeedback, grown: bool
) -> None:
    path, first = tmp_path / "log.parquet", AddImpression("r1", "anna", 10, "v", "trained", ("i1", "i2"), (0.5, 0.5))
    with closing(Store.open(place, clock=lambda: 50)) as store:
        store.commit([AddEvents((EventRow("e1", "anna", "i1", time=1),)), first])
        store.clock = lambda: 60
        store.commit([since])
        appended(store, CATALOGUE, path).write(path)
    with closing(Store.open(tmp_path / "earlier.sqlite", clock=lambda: 50)) as restored:
        restored.commit([AddEvents((EventRow("e1", "anna", "i1", time=1),)), first])
        restored.clock = lambda: 70
        if grown:
            restored.commit([AddEvents((EventRow("new", "anna", "i3", time=3),))])
            restored.commit([AddFeedback("new", "r1", "i1", 1.0)])
        assert "goes further than the store" in appended(restored, CATALOGUE, path).notes[0]
        go_on(restored, path)


def test_an_export_that_did_not_keep_its_last_feedback_is_gone_on_from(store: Store, tmp_path: Path) -> None:
    path, traffic = tmp_path / "log.parquet", Traffic(store)
    traffic.flow(30)
    exported(store, CATALOGUE).write(path)
    footer = {name: text for name, text in footer_of(path).items() if name != "ARROW:schema"}
    until = json.loads(footer[UNTIL])
    assert until.pop("feedback_id")
    pl.read_parquet(path).write_parquet(path, metadata=footer | {UNTIL: json.dumps(until)})
    traffic.flow(30)
    assert not [one for one in appended(store, CATALOGUE, path).notes if "all was read" in one]
    go_on(store, path)


def test_what_is_broken_off_leaves_the_export_as_it_was(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, traffic = tmp_path / "log.parquet", Traffic(store)
    traffic.flow(30)
    appended(store, CATALOGUE, path).write(path)
    before = path.read_bytes(), beside(path, "items").read_bytes()
    traffic.flow(30)
    found = appended(store, CATALOGUE, path)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(SaveError, match="No space left"):
            found.write(path)
    assert (path.read_bytes(), beside(path, "items").read_bytes()) == before
    assert {one.name for one in tmp_path.iterdir() if "log" in one.name} == {"log.parquet", "log.items.parquet"}
    go_on(store, path)
