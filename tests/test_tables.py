"""The tables of docs/results.md: which cells are due, and that every number says what it was measured on."""

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import tables

    known = {"whatnext": None, "next_item": None, "good": None, "better": None, "worse": None, "worst": None}
    monkeypatch.setattr(tables, "ALGORITHMS", known)
    yield tables
    for name in ("tables", "tables_page", "sets"):
        sys.modules.pop(name, None)


def told(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01, "n": 943}


def cell(ndcg: float, **more: Any) -> dict[str, Any]:
    about = {
        "data": "ml-100k",
        "split": {"kind": "leave_last_out", "hash": "0123456789abcdef"},
        "targets": {"users": 943, "held": 0},
    }
    measured = {"seeds": [0, 1], "limit": 120.0, "threads": 1, "torch": "2.13.0", "device": "cpu", "tuned": None}
    runs = [{"seconds": 100.0, "passes": 20.0}, {"seconds": 120.0, "passes": 22.0}]
    return {**about, **measured, "runs": runs, "metrics": {"ndcg@10": told(ndcg)}, **more}


def filled(tables: Any) -> dict[str, dict[str, Any]]:
    first = {"whatnext": 0.9, "next_item": 0.9, "good": 0.3, "better": 0.5, "worse": 0.2, "worst": 0.1}
    second = first | {"worse": 0.45}  # on average better than good
    return {name: {row: cell(one) for row, one in some.items()} for name, some in zip(
        tables.MAIN, (first, second), strict=True)}  # fmt: skip


def wanted(tables: Any, **changes: Any) -> Namespace:
    rows = [*tables.ALGORITHMS, *tables.RULES]
    return Namespace(**{"sets": [*tables.MAIN, *tables.MORE], "algorithms": rows, **changes})


def test_every_algorithm_is_due_on_three_sets_and_two_alone_on_the_others_at_first(tables: Any) -> None:
    due = list(tables.plan({}, wanted(tables)))
    assert len(due) == 3 * (6 + 7) + 3 * (2 + 7) + 1
    assert [name for name, row in due if row == "content"] == ["spotify-playlists"]  # whose items have tags
    assert ("ml-1m-part", "good") not in due


def test_a_second_training_has_rows_where_validation_holds_many_events(tables: Any) -> None:
    due = [row for row in tables.plan({}, wanted(tables, algorithms=tables.every_row())) if row[1].endswith("-refit")]
    assert {name for name, _ in due} == {"amazon-beauty-s3rec", "yoochoose-100k"}
    assert len(due) == 2 * len(tables.AGAIN)


def test_the_best_three_of_the_others_follow_where_the_main_sets_are_full(tables: Any) -> None:
    cells = filled(tables)
    assert tables.best(cells) == ["better", "worse", "good"]
    assert ("ml-1m-part", "better") in list(tables.plan(cells, wanted(tables)))
    assert list(tables.plan(cells, wanted(tables, sets=["ml-1m-part"], algorithms=["good"]))) == [
        ("ml-1m-part", "good")
    ]
    cells["lastfm-s3rec"]["better"] = {"failed": "the loss is nan"}
    assert tables.best(cells) == ["worse", "good", "worst"]
    del cells["lastfm-s3rec"]["worst"]
    assert tables.best(cells) == []


def test_a_number_says_what_it_was_measured_on_and_a_gap_that_it_was_not(tables: Any) -> None:
    cells = {"ml-100k": {"good": cell(0.1), "better": cell(0.2), "random": cell(0.0, runs=None)}}
    del cells["ml-100k"]["random"]["runs"]
    cells["ml-100k"]["worse"] = cell(0.3, limit=60.0, tuned={"dropout": 0.1})
    text = tables.page(cells, {}, [*tables.ALGORITHMS, *tables.RULES], ["ml-100k", "ml-1m-part"])
    lines = text.splitlines()
    assert "| `good` |  | 0.1000 [0.0900, 0.1100] |  |  |  | 110 s, 21.0 passes | a |" in lines
    assert any(line.startswith("| `better` |") and line.endswith("| a |") for line in lines)
    assert any(line.startswith("| `worse` |") and line.endswith("| b |") for line in lines)
    assert (
        "- a: ml-100k, 943 users, split leave_last_out 0123456789abcdef; seeds 0, 1; at most 120 s of training each; "
        "1 thread of the CPU; torch 2.13.0; settings as they come"
    ) in lines
    assert any(line.startswith("- b: ") and line.endswith("60 s of training each; 1 thread of the CPU; torch 2.13.0; "
                                                          "tuned") for line in lines)  # fmt: skip
    assert "- c: ml-100k, 943 users, split leave_last_out 0123456789abcdef" in lines
    assert not any(line.startswith("| `whatnext` |") for line in lines)
    gaps = [line for line in lines if line.startswith("Not measured here: ")]
    assert len(gaps) == 2
    assert all("`whatnext`" in line for line in gaps)
    assert "`good`" not in gaps[0]
    rows = [line for line in lines if line.startswith("|")]
    assert {row.count("|") for row in rows} == {9}


def test_a_training_that_failed_is_told(tables: Any) -> None:
    failed = {key: value for key, value in cell(0).items() if key in ("data", "split", "targets")}
    text = tables.page(
        {"ml-100k": {"good": {**failed, "failed": "the loss 'critic' is nan"}}}, {}, ["good"], ["ml-100k"]
    )
    assert "| `good` | failed: the loss 'critic' is nan |  |  |  |  |  | a |" in text


def test_tuned_settings_are_told_with_what_they_changed(tables: Any) -> None:
    one = {"settings": {"dropout": 0.12345, "batch_size": 64}, "monitor": "ndcg@10", "score": 0.2, "untuned": 0.1}
    tuned = {"good": {**one, "data": "ml-100k", "trials": 6, "seconds": 60.0}}
    text = tables.page({}, tuned, ["good"], [])
    assert (
        "| `good` | dropout 0.1235, batch_size 64 | ndcg@10 | 0.2000 | 0.1000 | 6 of at most 60 s on ml-100k |" in text
    )
