"""Files of every kind are read, or named as what they are."""

import bz2
import codecs
import gzip
import io
import json
import lzma
import math
import zipfile
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from what_next.data import Dataset, Options, import_files
from what_next.data.importing.large import import_large
from what_next.data.importing.readers import NOT_UTF_8
from what_next.errors import DataError

CSV = "user,item,time\n1,é,5\n2,b,6\n1,c,7\n"
LOG = [(1, "é"), (1, "c"), (2, "b")]
EVENTS = [{"user": 1, "item": "é", "time": 5}, {"user": 2, "item": "b", "time": 6}, {"user": 1, "item": "c", "time": 7}]
LINES = "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in EVENTS)


def zipped(content: bytes) -> bytes:
    with zipfile.ZipFile(archive := io.BytesIO(), "w") as bundle:
        bundle.writestr("plays", content)
    return archive.getvalue()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zip": zipped,
    ".zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
}


def pairs(tables) -> list[tuple[object, object]]:
    return tables.log.select("user_id", "item_id").rows()


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", CSV),
        ("a.jsonl", LINES),
        ("a.json", json.dumps(EVENTS, indent=1)),
    ],
    ids=["csv", "lines", "array"],
)
def test_text_is_read_in_every_packing(tmp_path: Path, packing: str, name: str, text: str) -> None:
    path = tmp_path / (name + packing)
    path.write_bytes(PACKERS[packing](text.encode()))
    assert pairs(import_files([path])) == LOG
    assert Dataset.read(path).events == 3
    # What it is called does not count.
    assert pairs(import_files([path.rename(tmp_path / "plays.csv")])) == LOG


@pytest.mark.parametrize("packing", [".gz", ".bz2", ".xz", ".zst", ".zip"])
@pytest.mark.parametrize("text", [CSV, LINES], ids=["csv", "lines"])
def test_a_packed_file_that_was_cut_off_is_refused(tmp_path: Path, packing: str, text: str) -> None:
    path = tmp_path / ("a.csv" + packing)
    path.write_bytes(PACKERS[packing](text.encode() * 300)[:-30])
    with pytest.raises(DataError, match=r"a\.csv\..*(cannot be read|cannot be opened)"):
        import_files([path])


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\x04\x22\x4d\x18rest", "compressed with LZ4, which is not read; decompress it first"),
        (b"7z\xbc\xaf\x27\x1crest", "a 7-Zip archive"),
        (b"SQLite format 3\0rest", "an SQLite database"),
        (b"\xd0\xcf\x11\xe0rest", "an old Excel workbook"),
        (b"\n <!DOCTYPE html><html>", "an HTML page"),
        (b"\x00\x01\x02\x03", "is not a text file"),
        (b'{"rows": [1, 2]}', "no column for the user, and none for the item; found 'rows'"),
        (b"[1, 2]", "neither lines with an object each nor one array of objects"),
        (b'{"user": 1}\nno\nno\nno\n', "most of its lines are no JSON objects"),
    ],
)
def test_what_is_not_read_is_named(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=what):
        import_files([path])


def test_archives_and_workbooks_are_named(tmp_path: Path) -> None:
    for name, members, what in (
        ("a.zip", ("a.csv", "b.csv"), r"zip archive of 2 files \(a\.csv, b\.csv\)"),
        ("a.xlsx", ("[Content_Types].xml", "xl/workbook.xml"), "is an Excel workbook"),
    ):
        with zipfile.ZipFile(tmp_path / name, "w") as bundle:
            for member in members:
                bundle.writestr(member, "x")
        with pytest.raises(DataError, match=what):
            import_files([tmp_path / name])


def test_a_folder_is_named_with_what_lies_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file) -> None:
    log = file("plays.csv", CSV)
    monkeypatch.chdir(tmp_path)
    for use in (
        lambda: import_files([Path()]),
        lambda: import_files([log], Path()),
        lambda: Dataset.read("."),
        lambda: Dataset.read("/"),
    ):
        with pytest.raises(DataError, match=r"is a folder; give the path of a data file"):
            use()
    with pytest.raises(DataError, match="is a URL, which what-next data import alone reads"):
        Dataset.read("s3://bucket/log.parquet")
    with pytest.raises(DataError, match=r"it holds plays\.csv"):
        Dataset.read(tmp_path)


def test_a_line_that_is_no_json_object_is_set_apart_with_its_number(file) -> None:
    tables = import_files([file("a.jsonl", LINES + '{"user": 1, "it\n')])
    assert pairs(tables) == LOG
    assert tables.reasons() == {"not a JSON object": 1}
    assert tables.rejected.select("line", "not a JSON object").rows() == [(4, '{"user": 1, "it')]


@pytest.mark.parametrize("array", [False, True])
def test_nan_in_json_is_nothing(file, array: bool) -> None:
    lines = [json.dumps({"user": one, "item": f"NaN {one}", "reward": one or math.nan}) for one in range(5)]
    tables = import_files([file("a.json", f"[{','.join(lines)}]" if array else "\n".join(lines))])
    assert tables.log["item_id"].to_list() == [f"NaN {one}" for one in range(1, 5)]
    assert tables.reasons() == {"reward not a number": 1}


@pytest.mark.parametrize("separator", [",", "\t", "::"])
def test_a_row_with_too_many_fields_is_set_apart_with_its_line(file, separator: str) -> None:
    text = CSV + "2,c,8,more,and more\n2,d,9\n"
    tables = import_files([file("a.csv", text.replace(",", separator))])
    assert pairs(tables) == [*LOG, (2, "d")]
    assert tables.reasons() == {"too many fields": 1}
    assert tables.rejected.rows() == [(5, "too many fields", "2", "c", "8", "more")]
    # A separator at the end of the line is no field.
    assert len(import_files([file("b.csv", CSV.replace("\n", ",\n"))]).log) == 3


def test_rows_with_too_many_fields_in_an_item_table_are_left_out_and_told(file) -> None:
    items = file("items.csv", "item,tempo\né,1\nb,2\nc,3\nd,4,5\n")
    tables = import_files([file("a.csv", CSV)], items)
    assert tables.items["item_id"].to_list() == ["é", "b", "c"]
    assert "1 row left out, too many fields: line 5" in tables.warnings[0]


def test_lines_are_counted_within_quotes(file) -> None:
    text = 'user,item,title,time\n1,a,"one\ntwo",5\n2,b,"x ""y""\n\nz",6\n,c,w,7\n2,a,t,8\n'
    tables = import_files([file("a.csv", text)])
    assert text.splitlines().index(",c,w,7") + 1 == 7
    assert tables.rejected["line"].to_list() == [7]


@pytest.mark.parametrize(
    "text",
    ["\n\n" + CSV, "sep=,\n" + CSV, CSV.replace("\n", "\r\n"), CSV.replace("\n", "\r"), "\ufeff" + CSV],
    ids=["blank lines", "sep", "CRLF", "CR", "BOM"],
)
def test_what_stands_above_and_what_ends_lines_does_not_matter(file, text: str) -> None:
    assert pairs(import_files([file("a[1].csv", text)])) == LOG


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "utf-8-sig"])
def test_encodings(file, encoding: str) -> None:
    assert pairs(import_files([file("a.csv", CSV, encoding)])) == LOG


@pytest.mark.parametrize(
    ("name", "text", "bad"),
    [
        ("a.csv", CSV, "3,\udcff,8\n"),
        ("a.csv", CSV, '3,"\udcff",8,9\n'),
        ("a.dat", CSV.replace(",", "::"), "3::\udcff::8\n"),
        ("a.inter", "user:token\titem:token\ttime:float\n1\té\t5\n2\tb\t6\n1\tc\t7\n", "3\t\udcff\t8\n"),
        ("a.jsonl", LINES, '{"user": 3, "item": "\udcff", "time": 8}\n'),
    ],
)
def test_a_row_that_is_not_utf_8_is_rejected_and_the_others_keep_their_letters(
    tmp_path: Path, name: str, text: str, bad: str
) -> None:
    path = tmp_path / name
    path.write_bytes((text + bad).encode(errors="surrogateescape"))
    tables = import_files([path])
    assert pairs(tables) == LOG
    assert tables.rejected.select("line", "reason").rows() == [(text.count("\n") + 1, "not UTF-8")]
    assert not tables.notes


def test_a_file_in_windows_1252_is_told_though_a_letter_looks_like_utf_8(file) -> None:
    rows = [f"{n % 2},Größe {n}{' „Spaß“' * (n == 4)}\n" for n in range(9)]
    log = file("a.csv", "".join(["user,item\n", *rows]), "cp1252")
    tables = import_files([log])
    assert tables.log["item_id"].str.starts_with("Größe ").all()
    assert tables.notes == [f"{log}: {NOT_UTF_8}"]


@pytest.mark.parametrize(
    ("encoding", "items"),
    [
        ("cp1252", "NESCAFÉ® Gold,crème brûlée,pâté"),
        ("cp1251", "Пётр Первый,Ёлки,Сталкер"),
        ("shift_jis", "となりのトトロ,千と千尋の神隠し,羅生門"),
        ("euc_jp", "となりのトトロ,千と千尋の神隠し,ゴジラ"),
        ("euc_kr", "기생충,올드보이,곡성"),
        ("tis_620", "สวัสดี,กรุงเทพ"),
    ],
)
@pytest.mark.parametrize("row", ["{},{}\n", '{{"user": {}, "item": "{}"}}\n'])
def test_no_row_of_a_text_in_another_encoding_is_rejected(file, encoding: str, items: str, row: str) -> None:
    rows = [row.format(n, item) for n in range(9) for item in items.split(",")]
    log = file("a.csv", "user,item\n" * row.startswith("{}") + "".join(rows), encoding)
    tables = import_files([log])
    assert (len(tables.log), tables.notes) == (len(rows), [f"{log}: {NOT_UTF_8}"])


@pytest.mark.parametrize("end", ["\n", "\r"])
def test_of_a_text_of_two_encodings_the_half_that_is_not_utf_8_is_rejected(tmp_path: Path, end: str) -> None:
    log = tmp_path / "a.csv"
    halves = [f"{end.join(f'{n},ü{n}' for n in numbers)}{end}" for numbers in (range(4), range(4, 8))]
    log.write_bytes(f"user,item{end}{halves[0]}".encode() + halves[1].encode("cp1252"))
    tables = import_files([log])
    assert tables.rejected["line"].to_list() == [6, 7, 8, 9]
    assert tables.lost == "4 of 8 rows rejected (not UTF-8: 4; save it as UTF-8)"


def test_names_and_ids_of_a_spreadsheet_on_windows_keep_their_letters(file) -> None:
    log = file("a.csv", "Kunde;Größe;Preis €\r\nJörg;„M“;3,5\r\nZoë;L;4\r\n", "cp1252")
    tables = import_files([log], options=Options(user="Kunde", item="Größe", reward="Preis €", time=""))
    assert pairs(tables) == [("Jörg", "„M“"), ("Zoë", "L")]


def test_a_mark_of_utf_8_before_text_in_windows_1252_is_no_part_of_the_first_name(file) -> None:
    for text in ("Käufer;item\r\nJörg;M\r\nZoë;L\r\n", "Käufer,item\nJörg,M\nZoë,L\n"):
        log = file("a.csv", "\ufeff" + text)
        log.write_bytes(codecs.BOM_UTF8 + text.encode("cp1252"))
        tables = import_files([log], options=Options(user="Käufer", time=""))
        assert pairs(tables) == [("Jörg", "M"), ("Zoë", "L")]


def test_objects_within_objects_are_columns_of_their_own(file) -> None:
    events = [{"who": {"id": n // 2}, "product": {"sku": sku, "data": {"price": n}}} for n, sku in enumerate("aab")]
    log = file("a.jsonl", "".join(json.dumps(event) + "\n" for event in [*events, {"who": None}]))
    tables = import_files([log], options=Options(user="who.id", item="product.sku", time="", keep_duplicates=True))
    assert pairs(tables) == [(0, "a"), (0, "a"), (1, "b")]
    assert tables.rejected.height == 1
    assert "product.data.price" in tables.log.columns


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "utf-8-sig"])
def test_encodings_of_packed_text(tmp_path: Path, encoding: str) -> None:
    packed = tmp_path / "a.csv.gz"
    packed.write_bytes(gzip.compress("user,item,time\n1,é,5\n2,b,6\n1,b,7\n".encode(encoding)))
    tables = import_files([packed])
    assert sorted(tables.log["item_id"].unique().to_list()) == ["b", "é"]
    assert any("is not UTF-8" in note for note in tables.notes) == (encoding == "latin-1")


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "utf-8-sig"])
@pytest.mark.parametrize("rating", ["3.5", "NaN"])
def test_encodings_of_an_array_of_json(file, encoding: str, rating: str) -> None:
    rows = [f'{{"user": {n // 2}, "item": "{item}", "rating": {rating}}}' for n, item in enumerate("aéb")]
    tables = import_files([file("a.json", f"[{', '.join(rows)}]", encoding)], options=Options(time="", reward=""))
    assert pairs(tables) == [(0, "a"), (0, "é"), (1, "b")]
    assert any("is not UTF-8" in note for note in tables.notes) == (encoding == "latin-1")


@pytest.mark.parametrize("end", [b'\xff"}]', b"", b'", "rating": NaN', b'\xff", "rating": NaN}]'])
def test_a_damaged_array_of_json_is_not_read_as_if_it_were_whole(file, end: bytes) -> None:
    text, log = '[{"user": 1, "item": "é"}, {"user": 2, "item": "ü"}, {"user": 3, "item": "', file("a.json", "")
    log.write_bytes(text.encode() + end)
    with pytest.raises(DataError, match="check that it is whole"):
        import_files([log])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_mark_of_lost_letters_is_a_letter_where_the_text_holds_it(file, encoding: str) -> None:
    lines = '{"user": 1, "item": "a", "time": 7}\n{"user": 3, "item": "\ufffd", "time": 8}\noops\n'
    log = file("a.jsonl", lines, encoding)
    assert import_files([log]).reasons() == {"not a JSON object": 1}


def test_decimal_commas_of_files_with_semicolons(file) -> None:
    log = file("a.csv", "user;item;rating;note\n1;a;3,5;1,2,3\n2;b;4;x\n")
    tables = import_files([log], options=Options(time=""))
    assert tables.log["reward"].to_list() == [3.5, 4.0]
    assert any("decimal commas read as points in rating" in note for note in tables.notes)


def test_points_between_thousands_go_with_a_decimal_comma(file) -> None:
    text = "user;item;price\n1;a;1.234,50\n2;b;12,5\n1;b;1.000.000,25\n2;a;7\n"
    tables = import_files([file("log.csv", text)], options=Options(reward="price"))
    assert tables.log["reward"].to_list() == [1234.5, 1_000_000.25, 12.5, 7]


@pytest.mark.parametrize("large", [False, True])
def test_a_column_may_be_called_as_python_calls_an_argument(file, tmp_path: Path, large: bool) -> None:
    log = file("log.csv", "user;item;self\n1;a;0,5\n2;b;1,5\n1;b;2,5\n2;a;0,5\n")
    items = file("items.csv", "item,self\na,1\nb,2\n")
    if large:
        import_large([log], tmp_path / "parts" / "x.parquet", items, memory=10_000)
        dataset = Dataset.read(tmp_path / "parts" / "x.parquet")
    else:
        dataset = Dataset.from_tables(import_files([log], items), "x")
    assert dataset.context[:, 0].tolist() == [0.5, 2.5, 1.5, 0.5]
    assert dataset.catalogue.attributes[:, 0].tolist() == [1, 2]


def test_rewards_may_be_true_and_false(file) -> None:
    tables = import_files([file("log.csv", "user,item,clicked\n1,a,True\n2,b,false\n1,b,1\n2,a,FALSE\n")])
    assert tables.log["reward"].to_list() == [1, 1, 0, 0]


def test_an_archive_of_a_mac_holds_one_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "log.zip", "w") as bundle:
        bundle.writestr("log.csv", CSV)
        bundle.writestr("__MACOSX/._log.csv", b"\0\5")
    assert len(import_files([tmp_path / "log.zip"]).log) == 3


def test_structs_of_parquet_are_columns_and_lists_no_ids(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pl.DataFrame({"user": [1, 2], "product": [{"sku": "a"}, {"sku": "b"}], "tags": [["x"], ["y"]]}).write_parquet(path)
    assert import_files([path], options=Options(item="product.sku")).log["item_id"].to_list() == ["a", "b"]
    with pytest.raises(DataError, match=r"log\.parquet: column 'tags' holds List\(String\), which cannot be an id"):
        import_files([path], options=Options(item="tags"))


def test_a_list_of_objects_within_one_object_is_named(file) -> None:
    with pytest.raises(DataError, match="'events' holds lists of objects: write those alone"):
        import_files([file("log.json", json.dumps({"events": EVENTS}))])


def test_a_matrix_is_named(file) -> None:
    rows = (" ".join(str((row * column) % 6) for column in range(60)) for row in range(4))
    with pytest.raises(DataError, match=r"looks like a matrix of users by items \(60 numbers.*write user,item,rating"):
        import_files([file("ratings.ascii", "\n".join(rows))])


def test_an_attribute_with_one_value_is_left_out_unless_it_is_named(file) -> None:
    log, items = file("log.csv", CSV), file("items.csv", "item,same,tempo\né,1,5\nb,1,6\nc,1,7\n")
    tables = import_files([log], items)
    assert tables.items.columns == ["item_id", "title", "tempo"]
    assert "item columns left out, since all items have one value: same" in tables.notes
    assert import_files([log], items, Options(attributes=["same"])).items.columns[2:] == ["same"]


def test_item_columns_that_attributes_does_not_name_are_told(file) -> None:
    log, items = file("log.csv", CSV), file("items.csv", "item,title,genre,tempo\né,x,a|b,5\nb,y,a,6\nc,z,b,7\n")
    tables = import_files([log], items, Options(attributes=["genre"]))
    assert tables.items.columns[2:] == ["a", "b"]
    assert "item columns left out, since --attributes names others: tempo" in tables.notes
    for chosen in (["genre", "tempo"], []):
        assert not any("left out" in note for note in import_files([log], items, Options(attributes=chosen)).notes)


@pytest.mark.parametrize("write", [pl.DataFrame.write_ipc, pl.DataFrame.write_ipc_stream])
def test_arrow_files_and_streams_are_read(tmp_path: Path, write: Callable[..., object]) -> None:
    write(pl.DataFrame({"user": [1, 2], "item": ["a", "b"]}), tmp_path / "a.arrow")
    assert pairs(import_files([tmp_path / "a.arrow"])) == [(1, "a"), (2, "b")]


def test_a_quote_that_is_not_closed_is_named(file) -> None:
    with pytest.raises(DataError, match="a quote is opened and not closed, at '\"t,7"):
        import_files([file("a.csv", 'user,item,title,time\n1,a,x,5\n2,b,y,6\n1,b,"t,7\n2,a,z,8\n')])
