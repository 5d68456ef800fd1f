"""The kind of each event (play, skip, purchase, ...) is kept as words."""

from pathlib import Path

import polars as pl
import pytest

from what_next.data import Dataset, Options, import_files, save
from what_next.errors import DataError

LOG = "user,item,time,action\n1,a,3, play\n1,b,1,skip\n1,c,2,play\n2,a,5,Add to cart\n2,b,6,\n"


def test_words_are_kept_in_the_order_of_events_and_survive_the_file(file, tmp_path: Path) -> None:
    tables = import_files([file("log.csv", LOG)])
    assert tables.columns["event"] == "action"
    assert tables.log["event"].to_list() == ["skip", "play", "play", "Add to cart"]
    save(tables, tmp_path / "x.parquet")
    for dataset in (Dataset.from_tables(tables, "x"), Dataset.read(tmp_path / "x.parquet")):
        assert dataset.event_words == ("Add to cart", "play", "skip")
        assert dataset.event_codes.tolist() == [2, 1, 1, 0]
        assert dataset.context_names == ()
        assert dataset.describe()["events"] == {"Add to cart": 1, "play": 2, "skip": 1}


def test_a_row_without_a_word_is_rejected(file) -> None:
    assert import_files([file("log.csv", LOG)]).reasons() == {"no event word": 1}


def test_whole_numbers_are_words_too_and_any_column_may_be_named(file) -> None:
    log = file("log.csv", "user,item,kind,event\n1,a,1,0.5\n1,b,2,1.5\n2,a,1,2.5\n")
    dataset = Dataset.from_tables(import_files([log], options=Options(event="kind")), "x")
    assert (dataset.event_words, dataset.event_codes.tolist()) == (("1", "2"), [0, 1, 0])


def test_without_such_a_column_there_are_none(file) -> None:
    dataset = Dataset.from_tables(import_files([file("log.csv", "user,item\n1,a\n2,b\n")]), "x")
    assert (dataset.event_codes, dataset.event_words, dataset.describe()["events"]) == (None, (), None)


def test_a_column_of_many_words_is_no_event_by_its_name_and_refused_when_named(file) -> None:
    rows = "".join(f"1,a,{number}\n2,b,{number + 1000}\n" for number in range(150))
    log = file("log.csv", "user,item,event\n" + rows)
    tables = import_files([log])
    assert "event" not in tables.columns
    assert Dataset.from_tables(tables, "x").context_names == ("event",)
    with pytest.raises(DataError, match=r"'event' cannot be the event: it holds 300 different words, and at most 200"):
        import_files([log], options=Options(event="event"))
    nested = pl.DataFrame({"user": [1, 2], "item": [1, 2], "event": [["a"], ["b"]]})
    assert Dataset.from_frame(nested).event_words == ()
    with pytest.raises(DataError, match="it holds lists"):
        Dataset.from_frame(nested, event="event")


def test_only_files_with_words_have_the_newer_format(file, tmp_path: Path) -> None:
    for text, version in ((LOG, "2"), ("user,item\n1,a\n2,b\n", "1")):
        save(import_files([file("log.csv", text)]), tmp_path / "x.parquet")
        assert pl.read_parquet_metadata(tmp_path / "x.parquet")["what_next.format"] == version
