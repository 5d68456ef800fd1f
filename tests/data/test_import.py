"""Importing: rows are checked, rejected with a reason, sorted, and split into log and item table."""

import gzip
import os
import random
import re
import resource
import signal
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from what_next.data import Dataset, Options, import_files, save
from what_next.data.files import check_paths, write_files
from what_next.data.importing.large import import_large
from what_next.errors import DataError, SaveError


def pairs(tables) -> list[tuple[object, object]]:
    return tables.log.select("user_id", "item_id").rows()


def test_every_bad_row_is_counted_by_reason_and_kept_with_its_line(file, tmp_path: Path) -> None:
    rows = [
        "u1,a,5,1",
        ",a,6,1",
        "u1,,7,1",
        "u1,b,soon,1",
        "u1,b,8,good",
        "u2,b,9,2",
        "u2,b,9,2",
        "u2,c,10,3",
        "u3,c,1,1",
    ]
    rows += [f"u4,a,{time},1" for time in range(20, 30)]
    tables = import_files([file("log.csv", "user,item,time,rating\n" + "\n".join(rows))])
    assert tables.reasons() == {
        "no user": 1, "no item": 1, "not a time": 1, "reward not a number": 1, "exact duplicate": 1
    }  # fmt: skip
    assert tables.rejected["line"].to_list() == [3, 4, 5, 6, 8]
    assert tables.rejected.row(2, named=True) == {
        "line": 5, "reason": "not a time", "user": "u1", "item": "b", "time": "soon", "rating": "1"
    }  # fmt: skip
    assert len(tables.log) + len(tables.rejected) == tables.rows == 19
    save(tables, tmp_path / "data" / "log.parquet")
    assert pl.read_parquet(tmp_path / "data" / "log.rejected.parquet").equals(tables.rejected)


def test_rewards_that_are_too_large_are_told_from_what_is_no_number(file) -> None:
    rows = "1,a,1e30\n2,b,-1e30\n1,b,3e38\n2,a,-1e39\n3,a,x\n1,c,2\n2,c,3\n"
    tables = import_files([file("log.csv", "user,item,rating\n" + rows)])
    assert tables.reasons() == {"reward too large": 2, "reward not a number": 1}
    assert tables.rejected["line"].to_list() == [4, 5, 6]
    assert np.isfinite(tables.log["reward"].sum())


def test_of_several_files_it_is_told_which_rows_were_rejected_where(file) -> None:
    fine = file("fine.csv", "user,item,time\n" + "".join(f"u{n % 3},i{n},170000000{n}\n" for n in range(9)))
    micro = file("micro.csv", "user,item,time\n" + "".join(f"u{n % 3},i{n},170000000{n}000000\n" for n in range(3)))
    odd = file("odd.csv", "user,item,time\nu1,i1,soon\nu2,i1,1700000000\n")
    tables = import_files([fine, micro, odd])
    [warning] = [one for one in tables.warnings if "can be used" in one]
    assert warning.startswith(f"no row of {micro} (time in another unit) can be used; ")
    lines = tables.told(Dataset.from_tables(tables, "log"))
    assert f"3 rows rejected: time in another unit (3 in {micro}, from line 2 on)" in lines
    assert f"1 row rejected: not a time (1 in {odd}, from line 2 on)" in lines


@pytest.mark.parametrize("rows", [8, 9])
def test_a_tenth_of_the_rows_rejected_is_a_warning(file, rows: int) -> None:
    tables = import_files([file("log.csv", "user,item\n,a\n" + "".join(f"{n},{n}\n" for n in range(rows + 1)))])
    lost = [f"1 of {rows + 2} rows rejected (no user: 1)"] if rows == 8 else []
    assert [one for one in tables.warnings if "rejected" in one] == lost
    assert sum("rejected" in one for one in tables.must_know()) == 1


def test_more_than_half_rejected_is_an_error_and_half_is_not(file) -> None:
    log = "user,item,time\n1,a,1\n2,b,2\n1,b,x\n2,a,x\n"
    assert len(import_files([file("half.csv", log)]).log) == 2
    with pytest.raises(DataError, match=r"3 of 5 rows cannot be used \(not a time: 3\), more than half.*line 4"):
        import_files([file("most.csv", log + "3,a,x\n")])


def test_of_times_of_day_the_column_with_dates_is_named(file) -> None:
    log = file("log.csv", "user,item,date,time\n1,a,2015-01-01,11:38:36\n2,b,2015-01-02,11:57:40\n")
    with pytest.raises(DataError, match="--time-format says what the times are, and column 'date' looks like times"):
        import_files([log])


def test_the_first_of_most_rows_is_told_in_words(tmp_path: Path) -> None:
    path, moment = tmp_path / "log.parquet", [datetime(2020, 1, 2, 3, 4)] * 2
    pl.DataFrame({"user": ["a", "b"], "item": ["x", "y"], "time": moment, "reward": [None, None]}).write_parquet(path)
    with pytest.raises(DataError, match=r"line 1: reason 'r.*', user 'a', .* time 2020-01-02T03:04:00, reward empty;"):
        import_files([path], options=Options(reward="reward"))


def test_ties_in_time_keep_file_order_and_duplicates_are_found_between_others(file) -> None:
    log = "user,item,time\n1,c,5\n1,a,5\n1,c,5\n1,b,5\n2,a,5\n2,b,1\n1,c,6\n1,a,5\n"
    tables = import_files([file("log.csv", log)])
    assert pairs(tables) == [(1, "c"), (1, "a"), (1, "b"), (1, "c"), (2, "b"), (2, "a")]
    assert tables.rejected["line"].to_list() == [4, 9]
    kept = import_files([file("log.csv", log)], options=Options(keep_duplicates=True))
    assert pairs(kept)[:5] == [(1, "c"), (1, "a"), (1, "c"), (1, "b"), (1, "a")]


def test_rows_that_differ_in_a_column_that_is_not_kept_are_no_duplicates(file) -> None:
    tables = import_files([file("log.csv", "user,item,time,page\n1,a,1,x\n1,a,1,y\n2,b,1,x\n")])
    assert len(tables.log) == 3


def test_without_times_nothing_is_a_duplicate_and_file_order_is_the_order(file) -> None:
    log = file("log.csv", "user,item\n2,a\n1,b\n1,a\n1,b\n")
    tables = import_files([log])
    assert pairs(tables) == [(1, "b"), (1, "a"), (1, "b"), (2, "a")]
    told = "1 row equal to an earlier one in every column: kept, since the log has no times"
    assert told in tables.notes
    assert not import_files([log], options=Options(keep_duplicates=True)).notes


events = st.lists(
    st.tuples(st.integers(1, 3), st.sampled_from("ab"), st.sampled_from([0, 1, 10**6]), st.integers(0, 1)),
    min_size=1,
    max_size=30,
)


@pytest.mark.medium
@given(events)
def test_sorting_and_duplicates_agree_with_the_obvious_loop(rows: list[tuple[int, str, int, int]]) -> None:
    # Two users and two items that no drawn row can hide, so that the log is always usable; and a majority kept.
    rows = [*rows, *((90 + n, "ab"[n % 2], n, 0) for n in range(40))]
    seen, expected = set(), []
    for row in rows:
        if row not in seen:
            expected.append(row)
        seen.add(row)
    expected.sort(key=lambda row: (row[0], row[2]))
    frame = pl.DataFrame(rows, schema=["user", "item", "time", "page"], orient="row")
    dataset = Dataset.from_frame(frame, context=[])
    items = dataset.catalogue.ids.gather(dataset.items).to_list()
    owners = [user for user, count in zip(dataset.user_ids, dataset.lengths, strict=True) for _ in range(count)]
    times = [time // 10**6 for time in dataset.timestamps.tolist()]
    assert list(zip(owners, items, times, strict=True)) == [row[:3] for row in expected]


def test_users_sort_as_numbers_when_all_are_whole_and_as_text_otherwise(file) -> None:
    assert [user for user, _ in pairs(import_files([file("a.csv", "user,item\n10,a\n9,b\n")]))] == [9, 10]
    assert [user for user, _ in pairs(import_files([file("b.csv", "user,item\n10,a\n9,b\n09,b\n")]))] == [
        "09",
        "10",
        "9",
    ]


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("1396437466", 1396437466_000000),
        ("1396437466.94", 1396437466_940000),
        ("1396437466.123456", 1396437466_123456),
        ("1396437466123", 1396437466_123000),
        ("1396437466123456", 1396437466_123456),
        ("1396437466123461999", 1396437466_123461),
        ("2014-04-02", 1396396800_000000),
        ("2014-04-02 11:17", 1396437420_000000),
        ("2014-04-02T11:17:46Z", 1396437466_000000),
        ("2014-04-02 11:17:46.123456", 1396437466_123456),
        ("2014-04-02T13:17:46+02:00", 1396437466_000000),
    ],
)
def test_times_are_recognised(file, text: str, microseconds: int) -> None:
    log = import_files([file("log.csv", f"user,item,time\n1,a,{text}\n2,b,{text}\n")]).log
    assert log["timestamp"].dt.epoch("us").to_list() == [microseconds] * 2


def test_sessions_are_cut_at_pauses_longer_than_the_gap(file) -> None:
    log = "user,item,time\n7,a,0\n7,b,1800\n7,c,3601\n8,a,0\n"
    tables = import_files([file("log.csv", log)], options=Options(session_gap=timedelta(minutes=30)))
    assert pairs(tables) == [("7:1", "a"), ("7:1", "b"), ("7:2", "c"), ("8:1", "a")]
    assert "each session is a user, such as '7:1'" in tables.notes
    with pytest.raises(DataError, match="sessions need times"):
        import_files([file("log.csv", "user,item\n1,a\n2,b\n")], options=Options(session_gap=timedelta(minutes=30)))


def test_a_wide_log_is_split_into_log_and_item_table(file) -> None:
    log = "user,item,title,tempo,hour\n1,a,Alpha,90,7\n1,b,Beta,120,8\n2,a,Alpha,90,9\n"
    tables = import_files([file("log.csv", log)])
    assert tables.items.rows() == [("a", "Alpha", 90.0), ("b", "Beta", 120.0)]
    assert tables.log.columns == ["user_id", "item_id", "hour"]
    with pytest.raises(DataError, match="'hour' is no attribute of the item: it varies for item 'a'"):
        import_files([file("log.csv", log)], options=Options(attributes=["hour"]))


def test_an_item_table_comes_first_and_keeps_its_order_and_its_unheard_items(file) -> None:
    log = file("log.csv", "user,item,time\n1,c,1\n1,a,2\n2,x,3\n2,a,4\n")
    items = file("items.csv", "id,name,tempo\nc,Gamma,1\na,Alpha,2\nb,Beta,3\n")
    tables = import_files([log], items)
    assert tables.items["item_id"].to_list() == ["c", "a", "b"]
    assert tables.reasons() == {"item not in the item table": 1}
    titles_only = import_files([log], file("titles.csv", "id,name\nc,Gamma\na,Alpha\n"))
    assert titles_only.items.rows() == [("c", "Gamma"), ("a", "Alpha"), ("x", "x")]
    assert len(titles_only.log) == 4


def test_recbole_files_bring_their_items_along(file) -> None:
    log = file("x.inter", "user_id:token\titem_id:token\ttimestamp:float\n1\t10\t1\n2\t11\t2\n")
    file(
        "x.item",
        "item_id:token\tmovie_title:token_seq\tclass:token_seq\n10\tToy Story\tComedy Drama\n11\tHeat\tDrama\n",
    )
    tables = import_files([log])
    assert tables.items.columns == ["item_id", "title", "Comedy", "Drama"]
    assert tables.items.rows() == [(10, "Toy Story", 1.0, 1.0), (11, "Heat", 0.0, 1.0)]
    assert tables.notes == ["items: x.item (beside x.inter)"]
    part = log.rename(log.with_name("x.train.inter"))
    assert import_files([part]).notes == ["items: x.item (beside x.train.inter)"]


def test_sequences_of_numbers_in_recbole_files_are_numbers(file) -> None:
    log = file("x.inter", "user_id:token\titem_id:token\n1\t10\n2\t11\n")
    file("x.item", "item_id:token\tvec:float_seq\todd:float_seq\n10\t1 2.5\t1 2\n11\t3 4\t5\n12\t\t\n")
    tables = import_files([log], options=Options(fill="median"))
    assert tables.items.drop("title").rows() == [(10, 1.0, 2.5), (11, 3.0, 4.0), (12, 2.0, 3.25)]
    assert tables.items.columns[2:] == ["vec_0", "vec_1"]
    assert any("since they are not numbers: odd;" in note for note in tables.notes)
    file("x.item", "item_id:token\tvec:float_seq\tvec_0:float\n10\t1 2.5\t7\n11\t3 4\t8\n")
    tables = import_files([log])
    assert tables.items.drop("title").rows() == [(10, 7.0), (11, 8.0)]


def test_words_become_attributes_only_when_asked_and_only_few(file) -> None:
    log = file("log.csv", "user,item\n1,a\n2,b\n")
    items = file("items.csv", "item,title,genres,tempo\na,A,Drama|Comedy,1\nb,B,Drama,2\n")
    assert import_files([log], items).items.columns == ["item_id", "title", "tempo"]
    asked = import_files([log], items, Options(attributes=["genres", "tempo"])).items
    assert asked.columns == ["item_id", "title", "Comedy", "Drama", "tempo"]
    assert asked.rows() == [("a", "A", 1.0, 1.0, 1.0), ("b", "B", 0.0, 1.0, 2.0)]


def test_of_more_than_200_words_those_of_most_items_are_kept_and_the_others_counted(file) -> None:
    log = file("log.csv", "user,item\n1,a\n2,b\n")
    many = file("many.csv", "item,plot\na," + " ".join(f"w{n:03}" for n in range(205)) + "\nb,w203 w204 w204\n")
    tables = import_files([log], many, Options(attributes=["plot"]))
    # Both items have w203 and w204; of the others, which one has each, the first 198 by the alphabet.
    assert tables.items.columns[2:] == [*(f"w{n:03}" for n in range(198)), "w203", "w204"]
    assert tables.notes == [
        "attribute plot: 205 different words; the 200 that the most items have are kept, 5 are dropped, which at most "
        "1 of 2 items have each"
    ]


@pytest.mark.parametrize("mark", ["|", ",", ";", "; ", " | "])
def test_words_are_split_by_the_mark_between_them(file, mark: str) -> None:
    log = file("log.csv", "user,item\n1,a\n2,b\n")
    items = file("items.csv", f'item,genres\na,"Science Fiction{mark}Drama"\nb,Drama\n')
    tables = import_files([log], items, Options(attributes=["genres"]))
    assert tables.items.rows() == [("a", "a", 1.0, 1.0), ("b", "b", 1.0, 0.0)]
    assert tables.items.columns[2:] == ["Drama", "Science Fiction"]


def test_a_stray_comma_does_not_turn_words_between_spaces_into_phrases(file) -> None:
    log = file("log.csv", "user,item\n1,0\n2,1\n")
    rows = "".join(f'{n},"{"slow, sad" if n == 3 else "slow sad"}"\n' for n in range(20))
    items = import_files([log], file("items.csv", "item,mood\n" + rows), Options(attributes=["mood"])).items
    assert items.columns[2:] == ["sad", "slow", "slow,"]


@pytest.mark.parametrize(("value", "message"), [("", "no number"), ("nan", "no number"), ("inf", "has inf")])
def test_missing_and_infinite_attributes_are_refused_by_item_and_name(file, value: str, message: str) -> None:
    log = file("log.csv", "user,item\n1,a\n2,b\n2,c\n")
    items = file("items.csv", f"item,tempo\na,1\nb,{value}\nc,5\n")
    with pytest.raises(DataError, match=f"item 'b' {message}.*'tempo'|item 'b' has {message}.*'tempo'"):
        import_files([log], items)
    if value != "inf":
        filled = import_files([log], items, Options(fill="median"))
        assert filled.items["tempo"].to_list() == [1.0, 3.0, 5.0]
        assert filled.notes == ["attribute tempo: 1 missing value set to 3"]


def test_one_item_twice_with_different_values_is_refused(file) -> None:
    log = file("log.csv", "user,item\n1,a\n2,b\n")
    with pytest.raises(DataError, match="item 'a' has several rows"):
        import_files([log], file("items.csv", "item,tempo\na,1\na,2\nb,3\n"))


def test_a_column_of_few_words_that_may_be_the_kinds_of_events_is_named(file) -> None:
    rows = [
        f"u{n % 3},i{n % 4},2025-01-{n + 1:02},{'solved' if n % 5 else 'failed'},{'se' if n % 3 else 'no'},w{n}\n"
        for n in range(24)
    ]
    log = file("a.csv", "user,item,time,outcome,land,remark\n" + "".join(rows))
    (note,) = [note for note in import_files([log]).notes if "--event" in note]
    assert note.startswith("column outcome may be the kinds of events: it holds 2 different words; if so, name it with")
    for said in ("outcome", ""):
        assert not any("--event" in note for note in import_files([log], options=Options(event=said)).notes)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("user,item\n", "is empty: no rows"),
        ("user,item\n1,a\n1,b\n", "belong to one user"),
        ("user,item\n1,a\n2,a\n", "belong to one item"),
        ("user,thing\n1,a\n2,b\n", "no column for the item; found 'user', 'thing'; name it with --item"),
        (
            "who,what\n1,a\n2,b\n",
            "no column for the user, and none for the item; found 'who', 'what'; name them with --user and --item",
        ),
        ("user,item\n1,a,7\n2,b,8\n3,c\n", r"2 of 3 rows cannot be used \(too many fields: 2\)"),
        ("\n \n", "empty but for white space"),
        (
            ",".join(f"c{n}" for n in range(50_000)) + "\n1\n",
            "'c11' and 49,988 more; name them with --user and --item",
        ),
    ],
)
def test_useless_files_are_refused(file, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        import_files([file("log.csv", text)])


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.csv: no such file"):
        import_files([tmp_path / "nowhere.csv"])


@pytest.mark.parametrize("separator", [",", "\t", ";", "|", "::"])
@pytest.mark.parametrize("packed", [False, True])
def test_text_formats_read_alike(tmp_path: Path, separator: str, packed: bool) -> None:
    text = "user,item,time\n1,é,5\n2,b,6\n".replace(",", separator).encode()
    path = tmp_path / ("log.txt.gz" if packed else "log.txt")
    path.write_bytes(gzip.compress(text) if packed else text)
    assert pairs(import_files([path])) == [(1, "é"), (2, "b")]


def test_spaces_after_the_commas_are_no_part_of_ids_and_names(file) -> None:
    log = "user_id, item_id , timestamp\n" + "".join(f"u{n % 2}, i{n} ,{n + 1600000000}\n" for n in range(4))
    items = "item_id, title, year\n" + "".join(f"i{n}, Song {n} ,{1990 + n}\n" for n in range(4))
    tables = import_files([file("log.csv", log)], file("items.csv", items), Options(item="item_id"))
    assert tables.items["item_id"].to_list() == ["i0", "i1", "i2", "i3"]
    assert tables.items["title"].to_list() == ["Song 0", "Song 1", "Song 2", "Song 3"]
    assert len(tables.log) == 4


def test_latin_1_files_are_read(file) -> None:
    tables = import_files([file("log.csv", "user,item\n1,é\n2,b\n", "latin-1")])
    assert pairs(tables) == [(1, "é"), (2, "b")]


def test_several_files_are_one_log_and_rejected_rows_name_their_file(file) -> None:
    first, second = file("a.csv", "user,item,time\n1,a,2\n2,b,1\n"), file("b.csv", "user,item,time\n1,c,1\n,c,1\n")
    tables = import_files([first, second])
    assert pairs(tables) == [(1, "c"), (1, "a"), (2, "b")]
    assert tables.rejected.select("line", "file").rows() == [(3, str(second))]


def test_an_import_that_fails_to_write_leaves_the_old_files_alone(file, tmp_path: Path) -> None:
    tables = import_files([file("log.csv", "user,item\n1,a\n2,b\n")])
    path = tmp_path / "data" / "x.parquet"
    save(tables, path)
    before = {one: one.read_bytes() for one in path.parent.iterdir()}
    (path.parent / "y.items.parquet").mkdir()
    with pytest.raises(SaveError, match="cannot be written"):
        save(tables, path.parent / "y.parquet")
    with pytest.raises(SaveError, match="cannot be written"):
        save(tables, path / "below" / "a" / "file.parquet")
    (path.parent / "y.items.parquet").rmdir()
    assert {one: one.read_bytes() for one in path.parent.iterdir()} == before


def test_what_a_killed_process_left_behind_is_gone_a_day_later_and_nothing_else(tmp_path: Path) -> None:
    """What was being written may hold histories of people who are to be erased."""

    def killed(content: BinaryIO) -> None:
        os._exit(9)

    for _ in range(2):
        if (child := os.fork()) == 0:
            write_files({tmp_path / "log.parquet": killed})
        os.waitpid(child, 0)
    old, young = tmp_path.glob(".log.parquet.*")
    others = [tmp_path / name for name in ("old.aside", ".log.parquet.original")]
    for path in (old, *others):
        path.touch()
        os.utime(path, (0, 0))
    (folder := tmp_path / ".version.aside").mkdir()
    (folder / "agent.safetensors").touch()
    os.utime(folder, (0, 0))
    write_files({tmp_path / "x": b""})
    assert set(tmp_path.iterdir()) == {tmp_path / "x", young, *others}


def test_a_device_or_a_pipe_is_refused_and_stays(file, tmp_path: Path) -> None:
    log = file("log.csv", "user,item\n1,a\n2,b\n")
    os.mkfifo(pipe := tmp_path / "pipe.parquet")
    (link := tmp_path / "link.parquet").symlink_to(pipe)
    for path in (pipe, link):
        with pytest.raises(SaveError, match="is a device or a pipe; name a file"):
            check_paths([path])
        with pytest.raises(SaveError, match="is a device or a pipe; name a file"):
            write_files({path: b"1"})
        with pytest.raises(SaveError, match="is a device or a pipe; name a file"):
            import_large([log], path, memory=2**30)
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert set(tmp_path.iterdir()) == {log, pipe, link}


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    (folder := tmp_path / "folder").mkdir()
    (target := folder / "report.html").write_bytes(b"old")
    (to_file := tmp_path / "link.html").symlink_to(target)
    (to_nothing := tmp_path / "new.html").symlink_to(tmp_path / "made" / "new.html")
    (to_folder := tmp_path / "models").symlink_to(folder)
    write_files({to_file: b"1", to_nothing: b"2", to_folder / "agent": b"3"})
    assert [one.read_bytes() for one in (target, tmp_path / "made" / "new.html", folder / "agent")] == [
        b"1",
        b"2",
        b"3",
    ]
    assert all(one.is_symlink() for one in (to_file, to_nothing, to_folder))
    assert set(folder.iterdir()) == {target, folder / "agent"}


def test_a_file_that_is_written_again_keeps_its_rights(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    for private, before, after in ((False, 0o640, 0o640), (False, 0o600, 0o600), (True, 0o644, 0o600)):
        path.touch()
        path.chmod(before)
        write_files({path: b"1"}, private=private)
        assert path.stat().st_mode & 0o777 == after


def test_a_full_disk_leaves_the_old_files_alone(file, tmp_path: Path) -> None:
    path = tmp_path / "data" / "x.parquet"
    save(import_files([file("log.csv", "user,item\n1,a\n2,b\n")]), path)
    before = {one: one.read_bytes() for one in path.parent.iterdir()}
    large = import_files([file("large.csv", "user,item\n" + "".join(f"{n},{n * 7919}\n" for n in range(50_000)))])
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(SaveError, match=r"cannot be written \(.* is the disk full\?\)"):
            save(large, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert {one: one.read_bytes() for one in path.parent.iterdir()} == before


def test_old_rejections_do_not_outlive_a_clean_import(file, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    save(import_files([file("a.csv", "user,item\n1,a\n2,b\n,b\n")]), path)
    assert (tmp_path / "x.rejected.parquet").exists()
    save(import_files([file("a.csv", "user,item\n1,a\n2,b\n")]), path)
    assert not (tmp_path / "x.rejected.parquet").exists()


def test_playlists_without_times(shared_data: Path) -> None:
    features = "danceability energy key loudness mode speechiness acousticness instrumentalness liveness valence tempo"
    options = Options("playlist_id", "track_id", titles="track_name", attributes=[*features.split(), "duration_ms"])
    tables = import_files([shared_data / "spotify-playlists" / "spotify_songs.csv.gz"], options=options)
    dataset = Dataset.from_tables(tables, "playlists")
    assert (dataset.users, len(dataset.catalogue), dataset.events) == (471, 28_356, 32_833)
    assert dataset.catalogue.attributes.shape == (28_356, 12)
    assert dataset.timestamps is None
    assert not len(tables.rejected)


def test_clicks_with_fractions_of_a_second(shared_data: Path) -> None:
    tables = import_files([shared_data / "yoochoose-100k" / "yoochoose-clicks-100k_train_full.txt"])
    assert tables.rows == 70_278
    assert tables.reasons() == {"exact duplicate": 1}
    assert (tables.log["timestamp"].dt.epoch("us") % 10**6 != 0).any()


class TestIdsThatDiffer:
    LOG = "user,item,time\n" + "".join(f"{n % 4},{n % 5 + 10},{10**9 + n}\n" for n in range(20))
    ZEROS = r"'10' of the log is '0010' there: pandas and spreadsheets drop leading zeros.*dtype=str"

    def test_of_an_item_table_with_attributes_they_are_shown_where_most_rows_are_refused(self, file) -> None:
        prices = file("prices.csv", "id,price\n" + "".join(f"00{n + 10},{n}\n" for n in range(5)))
        with pytest.raises(DataError, match=self.ZEROS):
            import_files([file("log.csv", self.LOG)], prices)
        others = file("others.csv", "id,price\n" + "".join(f"p{n + 10},{n}\n" for n in range(5)))
        with pytest.raises(DataError, match="the log has items such as '10', the item table 'p10'"):
            import_files([file("log.csv", self.LOG)], others)

    def test_of_an_item_table_without_attributes_they_are_told(self, file) -> None:
        """It was taken in silence: every item of the log stood twice in the catalogue, once without its title."""
        names = file("names.csv", "id,name\n" + "".join(f"00{n + 10},Product {n}\n" for n in range(5)))
        (told,) = import_files([file("log.csv", self.LOG)], names).warnings
        assert told.startswith(
            "5 of the log's 5 items are not in the item table, so they have neither title nor tags; "
        )
        assert re.search(self.ZEROS, told)

    def test_few_of_them_are_a_note(self, file) -> None:
        log = "user,item,time\n" + "".join(f"{n % 4},{n % 20},{10**9 + n}\n" for n in range(80))
        names = file("names.csv", "id,name\n" + "".join(f"{n},Product {n}\n" for n in range(19)))
        tables = import_files([file("log.csv", log)], names)
        assert not tables.warnings
        assert any(note.startswith("1 of the log's 20 items are not in the item table") for note in tables.notes)


def test_orders_of_several_products_are_told_that_their_order_is_that_of_the_file(file) -> None:
    """The last line of an order was judged after all others of it, and nothing said so."""
    rng = random.Random(0)
    rows = [(user, order, item) for user in range(4) for order in range(5) for item in rng.sample(range(30), 8)]
    log = file("log.csv", "user,item,time,o\n" + "".join(f"{u},{i},{1000 * u + o},{u}-{o}\n" for u, o, i in rows))
    told = [one for one in import_files([log]).warnings if "the time of the row before" in one]
    assert len(told) == 1
    assert "90% of a user's rows" in told[0]
    assert "'orders of several products' in docs/quickstart.md" in told[0]
    assert "| orders of several products at one time" in Path("docs/quickstart.md").read_text()
    by_order = import_files([log], options=Options(user="o", time="time")).warnings
    assert not any("the time of the row before" in one for one in by_order)


def test_words_in_the_place_of_rewards_may_be_the_kinds_of_events(file) -> None:
    passed = "user,item,time,result\n" + "".join(f"{n % 4},{n % 5},{10**9 + n},passed\n" for n in range(20))
    with pytest.raises(
        DataError, match=r"plain numbers.*kinds of events, name the column with --event.*reward\.logged"
    ):
        import_files([file("log.csv", passed)], options=Options(reward="result"))
    coins = passed.replace("passed", "12 coins")
    with pytest.raises(DataError, match=r"write rewards as plain numbers, such as 12\.5$"):
        import_files([file("coins.csv", coins)], options=Options(reward="result"))


def test_lists_in_the_place_of_rewards_are_refused_in_words(file) -> None:
    lists = "".join(f'{{"user": "u{n % 4}", "item": "i{n % 5}", "rating": [{n}]}}\n' for n in range(20))
    with pytest.raises(DataError, match=r"write rewards as plain numbers, such as 12\.5$"):
        import_files([file("log.jsonl", lists)])


def test_the_columns_of_a_school_are_recognised(file) -> None:
    text = "pupil,exercise,time,grade\n" + "".join(f"{n % 4},{n % 5},{10**9 + n},.{n % 9}\n" for n in range(20))
    tables = import_files([file("log.csv", text)])
    assert tables.columns == {"user": "pupil", "item": "exercise", "time": "time", "reward": "grade"}


def _log(ids: list[tuple[str, str]], head: str = "user,item") -> str:
    return "\n".join([head, *(f"{user},{item}" for user, item in ids)]) + "\n"


@pytest.mark.parametrize("other", ["ANN", "a nn", "\u200bann", "\ufeffann", "\uff41\uff4e\uff4e"])
def test_ids_that_are_probably_the_same_are_kept_apart_and_told(file, other: str) -> None:
    ann = "a  nn" if " " in other else "ann"
    tables = import_files([file("log.csv", _log([(ann, "x"), (other, "y"), ("bob", "x"), ("bob", "y")]))])
    assert tables.log["user_id"].n_unique() == 3
    (told,) = (one for one in tables.warnings if "user id" in one)
    assert told.partition(": ")[2].startswith("2 user ids differ from another only by case")
    for part in (ascii(ann), ascii(other), "write them in one way"):
        assert part in told


def test_letters_in_two_forms_of_unicode_are_told_of_items_too_and_beyond_memory(file, tmp_path: Path) -> None:
    log = file("log.csv", _log([("1", "über"), ("2", "u\u0308ber"), ("1", "z"), ("2", "z")]))
    for tables in (import_files([log]), import_large([log], tmp_path / "to.parquet", memory=10_000_000)[0]):
        assert sum("2 item ids differ" in one for one in tables.warnings) == 1
    numbers = import_files([file("numbers.csv", _log([("1", "7"), ("2", "8"), ("1", "8")]))])
    assert not any("differ" in one for one in numbers.warnings)


def test_a_log_that_holds_itself_twice_is_refused_with_the_option_that_keeps_both(file) -> None:
    rows = "".join(f"u{n},i{n},{1_700_000_000 + n}\n" for n in range(20))
    log = file("log.csv", 2 * ("user,item,time\n" + rows))
    with pytest.raises(DataError, match=r"the same rows twice: .* --keep-duplicates$"):
        import_files([log])


def test_an_item_table_of_other_ids_is_named_as_the_cause(file) -> None:
    log, items = file("log.csv", _log([("1", "a"), ("2", "b")])), file("items.csv", "item,price\nq,1\nr,2\n")
    told = r"the ids of the item table are not those of column 'item'.*or leave it out; the log has items such as 'a'"
    with pytest.raises(DataError, match=rf"{told}, the item table 'q'$"):
        import_files([log], items)


def test_items_with_contradicting_rows_are_counted_with_the_columns_that_differ(file) -> None:
    log = file("log.csv", _log([("1", "a"), ("2", "b")]))
    items = file("items.csv", "item,title,price\na,A,1\na,A,2\nb,B,1\nb,C,1\n")
    with pytest.raises(DataError, match=r"item 'a' \(and 1 other item, such as b\) has several .*, in price; keep"):
        import_files([log], items)


def test_marks_between_thousands_are_told_and_are_no_kinds_of_events(file) -> None:
    amounts = ["1,250.00", "3,100.50", "1,250.00", "2,000.00"]
    rows = "".join(f'{n % 2},{n % 3},"{amount}"\n' for n, amount in enumerate(amounts))
    notes = import_files([file("log.csv", "user,item,amount\n" + rows)]).notes
    assert any("amount is left out: '1,250.00' is no plain number" in note for note in notes)
    assert not any("kinds of events" in note for note in notes)


@pytest.mark.parametrize("mark", [".", ","])
def test_numbers_that_may_be_thousands_are_told(file, mark: str) -> None:
    rows = [f"{n % 2};{n % 3};{n + 1}{mark}{n}50" for n in range(6)]
    tables = import_files([file("log.csv", "user;item;rating\n" + "\n".join(rows))])
    assert tables.log["reward"].max() == pytest.approx(6.55)
    assert any(f"column rating has three digits after its mark, such as 1{mark}050" in one for one in tables.notes)
    rows[0] = f"0;0;0{mark}5"
    others = import_files([file("other.csv", "user;item;rating\n" + "\n".join(rows))])
    assert not any("three digits" in one for one in others.notes)


def test_a_column_of_lists_as_ids_is_told_to_be_written_in_rows(tmp_path: Path) -> None:
    pl.DataFrame({"user": [1, 2], "basket": [["a", "b"], ["b"]]}).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match="cannot be an id; write a row for each element, or name another column"):
        import_files([tmp_path / "log.parquet"], options=Options(item="basket"))
