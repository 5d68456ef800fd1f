"""An exported log that somebody changed: one clear message, whoever reads it."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from what_next.cli.app import main
from what_next.data import Catalogue, Dataset
from what_next.data.decisions.reader import read_log
from what_next.data.decisions.service_log import ADDED, EVENT, WITHDRAWALS
from what_next.data.importing.tables import save
from what_next.errors import DataError

ITEMS = [f"i{place}" for place in range(6)]
FOOTER = {ADDED: "0", WITHDRAWALS: "[]"}


def log() -> pl.DataFrame:
    """Two people with four events each, and two answers of two items to each."""
    events = [
        {"user_id": user, "item_id": f"i{place}", "timestamp": place, "reward": 1.0, "event": "play",
         "number": place + 1, "context": '{"hour":3.0}'}
        for user in ("anna", "bert") for place in range(4)
    ]  # fmt: skip
    decisions = [
        {"user_id": user, "item_id": f"i{2 * answer + place}", "timestamp": 10 + answer, "reward": 0.5,
         "propensity": 0.5, "position": place + 1, "slate": f"{user}{answer}", "version": "v", "policy": "trained",
         "known": 3, "history": '["i1"]' if answer else None, "seen": True, "masked": False, "withdrawn": 0,
         "permitted": None, "experiment": None, "arm": None, "context": None}
        for user in ("anna", "bert") for answer in range(2) for place in range(2)
    ]  # fmt: skip
    made = pl.DataFrame([*events, *decisions], infer_schema_length=None)
    kinds = {"timestamp": pl.Datetime("us", "UTC"), "event": pl.Enum(["play"]), "reward": pl.Float32}
    return made.cast(kinds)  # type: ignore[arg-type]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    from what_next.data.files import FORMATS, beside

    def written(rows: pl.DataFrame, **footer: str) -> Path:
        path = tmp_path / "log.parquet"
        items = pl.DataFrame({"item_id": ITEMS, "title": ITEMS})
        told = {"what_next.format": FORMATS[2], "what_next.catalogue": Catalogue.from_table(items).hash()}
        rows.write_parquet(path, metadata={**FOOTER, **told, **footer})
        items.write_parquet(beside(path, "items"))
        return path

    return written


def test_a_log_as_it_was_exported_is_read(write: Callable[..., Path]) -> None:
    path = write(log())
    assert len(read_log(path)) == 8
    assert Dataset.read(path).events == 8


def spoilt(column: str, value: Any) -> pl.DataFrame:
    return log().with_columns(pl.when(~EVENT if column != "number" else EVENT).then(pl.lit(value)).otherwise(
        pl.col(column)).alias(column))  # fmt: skip


DEEP = "[" * 100_000 + "]" * 100_000
BAD: list[tuple[str, Any]] = [
    ("history", "no json"), ("history", '{"a": 1}'), ("history", "[1, 2]"), ("history", '["i1", null]'),
    ("history", "null"), ("history", DEEP), ("context", "[1]"), ("context", '{"hour": "three"}'),
    ("context", '{"hour": NaN}'), ("context", '{"hour": true}'), ("context", '{"hour": 1e999}'), ("context", "{"),
    ("context", DEEP), ("known", -1), ("known", None), ("slate", None), ("position", None), ("seen", None),
    ("masked", None), ("number", None), ("withdrawn", -5),
]  # fmt: skip


@pytest.mark.parametrize(("column", "value"), BAD, ids=[f"{name} {str(value)[:12]}" for name, value in BAD])
def test_a_value_that_is_none_is_told_with_its_row(write: Callable[..., Path], column: str, value: Any) -> None:
    path = write(spoilt(column, value))
    row = 1 if column == "number" else 9
    for read in (read_log, Dataset.read):
        with pytest.raises(
            DataError, match=rf"log\.parquet: row {row} \(column '{column}'\) is .* \(8 of 16 rows\)"
        ) as told:
            read(path)
        assert len(str(told.value)) < 500


@pytest.mark.parametrize("column", ["history", "context", "known", "slate", "number", "event", "item_id", "propensity"])
def test_a_column_of_another_type_or_none_at_all_is_told(write: Callable[..., Path], column: str) -> None:
    for rows in (log().drop(column), log().with_columns(pl.lit([[1.5]]).alias(column))):
        path = write(rows)
        for read in (read_log, Dataset.read):
            with pytest.raises(DataError, match=rf"column '{column}' (is missing|holds List)"):
                read(path)


@pytest.mark.parametrize("footer", [{ADDED: "many"}, {WITHDRAWALS: "{"}, {WITHDRAWALS: '[["1", "i1", true]]'}])
def test_a_footer_that_is_damaged_is_told(write: Callable[..., Path], footer: dict[str, str]) -> None:
    with pytest.raises(DataError, match="its footer is damaged"):
        read_log(write(log(), **footer))


def test_an_item_table_that_is_none_is_told(write: Callable[..., Path]) -> None:
    path = write(log())
    items = path.with_name("log.items.parquet")
    pl.DataFrame({"item_id": ITEMS}).write_parquet(items)
    with pytest.raises(DataError, match="has no columns item_id and title"):
        Dataset.read(path)
    items.write_bytes(b"no table")
    with pytest.raises(DataError, match="or its item table: cannot be read"):
        read_log(path)


def test_the_command_line_tells_it_in_one_message(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(spoilt("history", json.dumps({"i1": 1})))
    for words in (("estimate", "--log", path, "--policy", "uniform"), ("train", path.with_name("setup.txt"))):
        path.with_name("setup.txt").write_text(
            f"train, yes\ndata, {path}\nalgorithm, next_item\nmodel_agent_path, a.safetensors\n"
        )
        monkeypatch.setattr(sys, "argv", ["what-next", *map(str, words)])
        assert main() == 2
        told = capsys.readouterr().err
        assert "Traceback" not in told
        assert "column 'history'" in told.replace("\n", " ")


def test_a_log_that_is_replaced_while_it_is_read_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Dataset.from_frame(pl.DataFrame({"user_id": ["u", "v"], "item_id": ["a", "b"], "energy": [1, 2]}))
    save(whole.to_tables(), tmp_path / "log.parquet")

    def replaced(*_: object, **__: object) -> None:
        raise pl.exceptions.PanicException("assertion failed: range.end as u64 <= self.size")

    monkeypatch.setattr(pl, "read_parquet", replaced)
    with pytest.raises(DataError, match=r"log\.parquet: .* was changed while it was read: try again"):
        Dataset.read(tmp_path / "log.parquet")
