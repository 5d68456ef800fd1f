"""A log that is sorted on the disk comes out as one that is sorted in memory."""

import gzip
import json
import re
import resource
import subprocess
import sys
import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from filelock import FileLock
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

from what_next.cli.data import app
from what_next.data import Dataset, Options, Tables, import_files, mapped, save
from what_next.data.importing import large, remote
from what_next.data.importing.large import import_large
from what_next.data.importing.readers import NOT_UTF_8, open_source
from what_next.errors import DataError, SaveError, without_secrets

ENDINGS = ("events", "items.parquet", "parquet", "rejected.parquet")
ARRAYS = ("items", "offsets", "timestamps", "rewards", "context", "event_codes")


def awkward(rows: int, seed: int = 0) -> pl.DataFrame:
    """Text ids, ties in time, equal rows apart and side by side, rows alike but for a word, and every kind of fault."""
    rng = np.random.default_rng(seed)
    user = np.minimum((30 * rng.pareto(1.0, rows)).astype(int), 200)
    item = rng.integers(0, 40, rows)
    table = pl.DataFrame(
        {
            "user": [f"u{one}" if one % 50 != 7 else " " * (one % 2) for one in user],
            "item": [f"{one:03d}" for one in item],
            "time": [str(1_600_000_000 + one) for one in rng.integers(0, 50, rows)],
            "rating": rng.choice(["1", "2.5", "5", "", "x", "1.0"], rows, p=[0.3, 0.3, 0.3, 0.02, 0.02, 0.06]),
            "action": rng.choice(["play", "skip", "buy, later"], rows),
            "device": [str(one) for one in rng.integers(0, 3, rows)],
            "tempo": [str(one * 7 % 11) for one in item],
        }
    )
    times = table["time"].to_numpy().copy()
    times[rng.integers(0, rows, rows // 100)] = "-5"
    times[rng.integers(0, rows, rows // 100)] = "soon"
    table = table.with_columns(time=pl.Series(times))
    return pl.concat([table, table.sample(fraction=0.2, seed=seed)])


@pytest.mark.parametrize("damaged", ["log", "items"])
@pytest.mark.parametrize("memory", [None, 300 * 2**20])
def test_a_file_that_is_damaged_in_its_middle_is_named(damaged: str, memory: int | None, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    files = {"log": tmp_path / "log.parquet", "items": tmp_path / "items.parquet"}
    pl.DataFrame({"user": rng.permutation(20_000) % 50, "item": rng.permutation(20_000)}).write_parquet(files["log"])
    pl.DataFrame({"item": range(20_000), "tempo": rng.random(20_000)}).write_parquet(files["items"])
    content = bytearray(files[damaged].read_bytes())
    content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
    files[damaged].write_bytes(content)
    read = import_files if memory is None else partial(import_large, to=tmp_path / "x.parquet", memory=memory)
    with pytest.raises(DataError, match=rf"{damaged}\.parquet: cannot be read \(.*\); check that it is whole"):
        read([files["log"]], items=files["items"])


def both(
    folder: Path, files: list[Path], memory: int, items: Path | None = None, **options: object
) -> tuple[Tables, Tables]:
    """Import in memory and in parts; what each told."""
    (folder / "memory").mkdir()
    (folder / "parts").mkdir()
    mine = import_files(files, items, Options(**options))
    save(mine, folder / "memory" / "x.parquet")
    theirs, written = import_large(files, folder / "parts" / "x.parquet", items, Options(**options), memory=memory)
    assert all(path.exists() for path in written)
    assert sorted(one.name for one in (folder / "parts").iterdir()) == sorted(one.name for one in written)
    return mine, theirs


def same(folder: Path, mine: Tables, theirs: Tables, least_parts: int) -> None:
    """Values, ids and order of the log; bytes of the other files; the data set; and what is told."""
    parts = sorted((folder / "parts" / "x.parquet").iterdir())
    assert len(parts) >= least_parts
    assert_frame_equal(pl.read_parquet(folder / "memory" / "x.parquet"), pl.read_parquet(parts), check_exact=True)
    for name in ("x.items.parquet", "x.rejected.parquet"):
        one, other = folder / "memory" / name, folder / "parts" / name
        assert one.exists() == other.exists()
        assert not one.exists() or one.read_bytes() == other.read_bytes()
    for field in ("rows", "columns", "how", "notes", "warnings"):
        assert getattr(mine, field) == getattr(theirs, field)
    assert mine.must_know() == theirs.must_know()
    read, mapped = (Dataset.read(folder / where / "x.parquet") for where in ("memory", "parts"))
    assert isinstance(mapped.items, np.memmap)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(read, name), getattr(mapped, name))
    assert read.user_ids.equals(mapped.user_ids)
    assert read.describe() == mapped.describe()


@pytest.mark.parametrize("gap", [None, timedelta(seconds=9)])
def test_awkward_rows_of_several_files(tmp_path: Path, gap: timedelta | None) -> None:
    table = awkward(2000)
    files = [tmp_path / "a.csv", tmp_path / "b.csv.gz", tmp_path / "c.parquet", tmp_path / "d.jsonl"]
    table[:700].write_csv(files[0])
    files[0].write_text(files[0].read_text() + 'u1,005,1600000001,5,"a\nb",1,35,too,many\n')
    files[1].write_bytes(gzip.compress(table[700:1500].write_csv().encode()))
    table[1500:2000].with_columns(pl.col("time").cast(pl.Int64, strict=False)).write_parquet(files[2])
    table[2000:].write_ndjson(files[3])
    mine, theirs = both(tmp_path, files, 60_000, session_gap=gap)
    assert mine.reasons().keys() >= {
        "no user",
        "not a time",
        "reward not a number",
        "exact duplicate",
        "too many fields",
    }
    assert {"reward", "event", "time"} <= mine.columns.keys()
    assert "device" in mine.log.columns
    assert "tempo" in mine.items.columns
    same(tmp_path, mine, theirs, 8)


def test_rows_of_the_future_are_told_where_they_stand(tmp_path: Path) -> None:
    rows = [f"u{n % 9},i{n % 7},{1_600_000_000 + n}\n" for n in range(300)]
    late = "u1,i1,4200000000\n"  # 2103
    (tmp_path / "a.csv").write_text("user,item,time\n" + "".join(rows[:200]))
    (tmp_path / "b.csv").write_text("user,item,time\n" + "".join([*rows[200:], late, late]))
    mine, theirs = both(tmp_path, [tmp_path / "a.csv", tmp_path / "b.csv"], 20_000)
    assert mine.reasons() == {"exact duplicate": 1}
    (told,) = mine.warnings
    assert "1 row more than a day in the future, up to 2103-02-04 02:40 (line 102 of" in told
    assert told.partition(" (line")[2].partition(")")[0].endswith("b.csv")
    same(tmp_path, mine, theirs, 2)


def test_letters_that_are_not_utf_8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, rows = [tmp_path / "a.csv", tmp_path / "b.csv"], ["user,item", *(f"ü{n % 7},{n}" for n in range(300))]
    files[0].write_bytes("\n".join(rows).encode() + b"\n\xff,1\n")
    files[1].write_bytes("\n".join(rows).encode("cp1252"))
    mine, theirs = both(tmp_path, files, 20_000)
    assert mine.reasons() == {"not UTF-8": 1}
    assert f"{files[1]}: {NOT_UTF_8}" in mine.notes
    same(tmp_path, mine, theirs, 2)
    with monkeypatch.context() as patched:
        patched.setattr(large, "_repeats", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            import_large(files, tmp_path / "x.parquet", memory=20_000)
    again, _ = import_large(files, tmp_path / "x.parquet", memory=20_000)
    assert (again.notes, again.reasons()) == (mine.notes, mine.reasons())


def test_an_item_table_and_columns_without_times(tmp_path: Path) -> None:
    table, items = awkward(500).drop("time"), tmp_path / "items.csv"
    table.write_csv(tmp_path / "a.csv", separator="\t")
    pl.DataFrame({"item": [f"{one:03d}" for one in range(35)], "tempo": range(35)}).write_csv(items)
    mine, theirs = both(tmp_path, [tmp_path / "a.csv"], 30_000, items, time="")
    assert "item not in the item table" in mine.reasons()
    same(tmp_path, mine, theirs, 4)


def test_whole_numbers_as_ids_and_repeats_that_are_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    names = {"user_id": 50, "item_id": 9, "timestamp": 30}
    pl.DataFrame({name: rng.integers(1, most, 900) for name, most in names.items()}).write_parquet(
        tmp_path / "a.parquet"
    )
    mine, theirs = both(tmp_path, [tmp_path / "a.parquet"], 20_000, keep_duplicates=True)
    assert len(mine.log) == 900
    same(tmp_path, mine, theirs, 8)


@pytest.mark.parametrize(
    "text", ["user,item\n1,a\n1,b\n", "user,item,time\n1,a,x\n2,b,y\n", "who,item\n1,a\n2,b\n", "user,item\n"]
)
def test_what_cannot_be_used_is_refused_alike(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError) as mine:
        import_files([tmp_path / "a.csv"])
    with pytest.raises(DataError) as theirs:
        import_large([tmp_path / "a.csv"], tmp_path / "x.parquet", memory=10**6)
    assert str(mine.value) == str(theirs.value)
    assert [one.name for one in tmp_path.iterdir()] == ["a.csv"]


def numbers(folder: Path, rows: int = 900, moments: int = 300) -> Path:
    """A log of whole numbers."""
    rng = np.random.default_rng(2)
    names = {"user_id": 50, "item_id": 9, "timestamp": moments}
    table = pl.DataFrame({name: rng.integers(1, most, rows) for name, most in names.items()})
    table.write_parquet(folder / "log.parquet")
    return folder / "log.parquet"


def test_an_interrupted_import_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, target, sort, sorted_parts = numbers(tmp_path), tmp_path / "x.parquet", large._sorted, []

    def interrupted(part: Path, *arguments: object) -> None:
        if len(sorted_parts) == 3:
            raise KeyboardInterrupt
        sort(part, *arguments)
        sorted_parts.append(part.name)

    monkeypatch.setattr(large, "_sorted", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"same command goes on .* delete .*\.x\.parquet\.import"):
        import_large([log], target, memory=20_000)
    assert not target.exists()
    monkeypatch.setattr(large, "_sorted", lambda *given: [sort(*given), sorted_parts.append(given[0].name)])
    tables, _ = import_large([log], target, memory=10**9)  # it keeps the parts that it began with
    parts = sorted(target.iterdir())
    assert len(sorted_parts) == len(set(sorted_parts)) == len(parts) > 8
    assert_frame_equal(pl.read_parquet(parts), import_files([log]).log, check_exact=True)
    assert len(tables.rejected) == len(import_files([log]).rejected) > 0
    assert sorted(one.name for one in tmp_path.iterdir()) == ["log.parquet", *(f"x.{end}" for end in ENDINGS)]


@pytest.mark.parametrize("name", ["_publish", "_discard"])
def test_what_is_left_of_an_import_that_was_done_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Killed just after the files had their names, or while the folder of the import was deleted."""
    log, target, done = numbers(tmp_path), tmp_path / "x.parquet", getattr(large, name)

    def killed(*given: Path) -> None:
        if name == "_publish":
            done(*given)
        else:
            (given[0] / large.ABOUT).unlink(missing_ok=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(large, name, killed)
        with pytest.raises(KeyboardInterrupt):
            import_large([log], target, memory=20_000)
    numbers(tmp_path, 700)
    import_large([log], target, memory=20_000)
    assert_frame_equal(pl.read_parquet(sorted(target.iterdir())), import_files([log]).log, check_exact=True)


@pytest.mark.parametrize("name", ["items", "offsets", "timestamps"])
def test_arrays_that_do_not_fit_their_log_are_refused(tmp_path: Path, name: str) -> None:
    import_large([numbers(tmp_path)], tmp_path / "x.parquet", memory=10**9)
    array = tmp_path / "x.events" / f"{name}.npy"
    np.save(array, np.load(array)[:-1])
    with pytest.raises(DataError, match=rf"x\.events: cannot be read .*{name}.*import the data again"):
        Dataset.read(tmp_path / "x.parquet")
    array.unlink()
    with pytest.raises(DataError, match=rf"cannot be read .*{name}.*import the data again"):
        Dataset.read(tmp_path / "x.parquet")


def test_another_log_under_the_same_name_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, target = numbers(tmp_path), tmp_path / "x.parquet"
    with monkeypatch.context() as patched:
        patched.setattr(large, "_repeats", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            import_large([log], target, memory=20_000)
    numbers(tmp_path, 500)
    import_large([log], target, memory=20_000)
    assert_frame_equal(pl.read_parquet(sorted(target.iterdir())), import_files([log]).log, check_exact=True)
    import_large([log], target, options=Options(keep_duplicates=True), memory=20_000)  # over what stands there
    assert pl.read_parquet(sorted(target.iterdir())).height == 500


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), pl.exceptions.ComputeError("(os error 28)")])
def test_a_full_disk_is_one_line_and_the_import_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    log, target = numbers(tmp_path), tmp_path / "x.parquet"

    def full(*_: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(mapped, "write", full)
        with pytest.raises(SaveError, match=r"the disk is full .*make room.*goes on here"):
            import_large([log], target, memory=20_000)
    assert not target.exists()
    monkeypatch.setattr(large, "_sorted", None)  # no part is sorted again
    import_large([log], target, memory=20_000)
    assert Dataset.read(target).events == pl.read_parquet(sorted(target.iterdir())).height


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl"])
def test_a_limit_that_is_met_while_text_is_read_is_no_fault_of_the_text(tmp_path: Path, name: str) -> None:
    table, log, target = pl.read_parquet(numbers(tmp_path, 9000)), tmp_path / name, tmp_path / "x.parquet"
    text = table.write_ndjson() if name.endswith("l") else table.write_csv()
    log.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, usual[1]))
    try:
        with pytest.raises(SaveError, match=r"the disk is full .*make room.*goes on here"):
            import_large([log], target, memory=20_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert (tmp_path / ".x.parquet.import" / large.ABOUT).is_file()
    import_large([log], target, memory=10**9)
    assert Dataset.read(target).events


def test_two_imports_do_not_write_to_one_place(tmp_path: Path) -> None:
    with FileLock(tmp_path / ".x.parquet.lock"), pytest.raises(SaveError, match="another import writes there"):
        import_large([numbers(tmp_path)], tmp_path / "x.parquet", memory=20_000)


def test_the_command_sorts_on_the_disk_what_needs_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, report = numbers(tmp_path, 3000, 10**6), {}
    monkeypatch.setattr(large, "CELL", 10_000)  # 90 MB, as the rule then has it
    for name, memory in (("a", "1GiB"), ("b", "64MiB")):
        target = tmp_path / f"{name}.parquet"
        outcome = CliRunner().invoke(app, ["import", str(log), "--to", str(target), "--memory", memory, "--json"])
        assert outcome.exit_code == 0, outcome.output
        report[name] = json.loads(outcome.stdout)
        assert target.is_dir() == (name == "b")
    for key in ("rows_read", "rejected", "columns", "known_by", "notes", "users", "items", "rows", "catalogue"):
        assert report["a"][key] == report["b"][key]


@pytest.mark.parametrize(("memory", "message"), [("much", "expected a size such as"), ("3kB", "is too little")])
def test_the_memory_is_a_size(memory: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        large.memory_of(memory)


def test_packed_text_is_known_by_its_content_and_needs_more_memory_than_its_size(tmp_path: Path) -> None:
    packed, plain = gzip.compress(b"user,item\n" + b"u1,i1\n" * 999), tmp_path / "log.csv"
    plain.write_bytes(b"x" * len(packed))
    for name in ("log.csv.gz", "log.csv.GZ", "log"):
        (tmp_path / name).write_bytes(packed)
        assert large.needed([tmp_path / name]) == large.PACKING * large.needed([plain])


def test_json_lines_that_an_earlier_run_spilled_are_not_unpacked_again(tmp_path: Path) -> None:
    log, spill = tmp_path / "log.jsonl.gz", tmp_path / "raw.parquet"
    log.write_bytes(gzip.compress(b'{"user": "u1", "item": "i1"}\n' * 99))
    for _ in range(2):
        assert len(open_source(log, spill=spill).frame.collect()) == 99
        assert {path.name for path in tmp_path.iterdir()} == {"log.jsonl.gz", "raw.parquet"}


def test_logs_by_url(tmp_path: Path) -> None:
    memory = pytest.importorskip("fsspec").filesystem("memory")
    whole = pl.read_parquet(numbers(tmp_path))
    for place, part in enumerate((whole[:400], whole[400:])):
        part.write_parquet(tmp_path / "part.parquet")
        memory.pipe(f"/bucket/log/{place}.parquet", (tmp_path / "part.parquet").read_bytes())
    urls = ["memory://bucket/log/*.parquet", f"file://{tmp_path}/log.parquet"]
    with remote.fetched(urls, tmp_path / "x.parquet") as paths:
        assert pl.concat(map(pl.read_parquet, paths)).equals(pl.concat([whole, whole]))
    assert not list(tmp_path.glob(".x*"))
    for url in ("memory://bucket/none/*.parquet", "memory://bucket/none.parquet", "nowhere://bucket/x"):
        with pytest.raises(DataError, match=re.escape(url)), remote.fetched([url], tmp_path / "x.parquet"):
            pass


@pytest.mark.parametrize("url", ["memory://anna:secret@host/a.csv", "memory://host/a.csv?sig=secret&more=secret"])
def test_what_a_url_keeps_secret_is_not_told(url: str, tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    for read in (lambda: remote.fetched([url], tmp_path / "x.parquet").__enter__(), lambda: Dataset.read(url)):
        with pytest.raises(DataError, match=r"^\w+://.*\*\*\*") as told:
            read()
        assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("https://anna:secret@host/x?sig=secret: gone", "https://***@host/x?*** gone"),
        ("https://secret@host:443/x: gone; ask a@b", "https://***@host:443/x: gone; ask a@b"),
        ("http://anna:sec ret@host/x", "http://***@host/x"),
        ("postgresql+psycopg://anna:se@c/ret@host/x", "postgresql+psycopg://***@host/x"),
        ("no /anna:secret@host/a.csv", "no /anna:***@host/a.csv"),
        ("no /host/a.csv?X-Sig=secret", "no /host/a.csv?***"),
        ("with url: /a?secret (Caused by x)", "with url: /a?*** (Caused by x)"),
        *((text, text) for text in (
            "abfs://container@account/a.csv", r"C:\Users\a@b.csv", "s3://bucket/part?.csv", "Which one?no",
            "https://host:443/x is away; ask a@b", "at 12:30 mail a@b",
        )),
    ],
)  # fmt: skip
def test_of_a_text_nothing_is_hidden_but_secrets(text: str, told: str) -> None:
    assert without_secrets(text) == told


def test_files_of_one_name_are_copied_apart(tmp_path: Path) -> None:
    memory = pytest.importorskip("fsspec").filesystem("memory")
    days = ("/lake/day=1/part.csv", "/lake/day=2/part.csv", "/lake/day=2/part.csv?signed=" + 300 * "x")
    for place, path in enumerate(days):
        memory.pipe(path, b"user,item\nu,%d\n" % place)

    def read(*urls: str) -> list[str]:
        with remote.fetched(urls, tmp_path / "x.parquet") as paths:
            return [path.read_text()[-2] for path in paths]

    assert read("memory://lake/*/part.csv") == ["0", "1"]
    with pytest.raises(KeyboardInterrupt), remote.fetched([f"memory:/{days[0]}"], tmp_path / "x.parquet"):
        raise KeyboardInterrupt
    assert read(f"memory:/{days[1]}") == ["1"]  # not the copy of the other, which the interruption left
    memory.pipe("/lake/parts/0.parquet", b"1.")
    assert read("memory://lake/parts") == ["1"]
    assert not list(tmp_path.iterdir())


def test_a_folder_is_all_of_its_files_or_refused(tmp_path: Path) -> None:
    memory = pytest.importorskip("fsspec").filesystem("memory")
    names = ["day=1/part.csv.gz", "day=2/part.csv", "2.csv", "_SUCCESS", ".hidden/a.parquet"]
    for name in names:
        (tmp_path / "shop" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "shop" / name).write_text("user,item\n")
        memory.pipe(f"/shop/{name}", b"user,item\n")

    def read(name: str) -> list[str]:
        with remote.fetched([name], tmp_path / "x.parquet") as paths:
            return [path.name for path in paths]

    for where in (str(tmp_path / "shop"), "memory://shop"):
        assert read(where) == ["2.csv", "part.csv.gz", "part.csv"]
    (tmp_path / "shop" / "3.parquet").touch()
    memory.pipe("/shop/3.parquet", b"PAR1")
    for where in (str(tmp_path / "shop"), "memory://shop"):
        with pytest.raises(DataError, match=r"holds files of several kinds \(\.csv, \.parquet\); name those"):
            read(where)


@pytest.mark.parametrize("place", ["{}/events", "memory://events"])
def test_columns_in_the_names_of_folders_are_read(tmp_path: Path, place: str) -> None:
    """As Spark writes them: percent-encoded, and taken out of the files."""
    memory = pytest.importorskip("fsspec").filesystem("memory")
    for day, shop in ((1, "A%2FB"), (2, "C"), (2, "__HIVE_DEFAULT_PARTITION__")):
        to = tmp_path / f"events/run=7/day=2024-01-0{day}/user_id={shop}/part-0.parquet"
        to.parent.mkdir(parents=True)
        pl.DataFrame({"item_id": ["x", "y"], "run": [day, 5]}).write_parquet(to)
        memory.pipe(f"/{to.relative_to(tmp_path)}", to.read_bytes())
    with remote.fetched([place.format(tmp_path)], tmp_path / "x.parquet") as paths:
        tables = import_files(paths, options=Options(time="day"))
    assert tables.log.select("user_id", pl.col("timestamp").dt.day(), "run").rows() == [
        ("A/B", 1, 1.0), ("A/B", 1, 5.0), ("C", 2, 2.0), ("C", 2, 5.0)
    ]  # fmt: skip
    assert tables.reasons() == {"no user": 2}


def test_a_copy_that_was_cut_short_is_no_log_and_a_full_disk_keeps_what_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = pytest.importorskip("fsspec").filesystem("memory")
    memory.pipe("/cut/log.csv", b"user,item\nu,1\n")
    told = memory.info("/cut/log.csv")
    with monkeypatch.context() as patched:
        patched.setattr(type(memory), "info", lambda *_, **__: {**told, "size": 20})
        with pytest.raises(DataError, match="14 of 20 bytes came"), remote.fetched(["memory://cut/log.csv"], tmp_path):
            pass
    with pytest.raises(SaveError), remote.fetched(["memory://cut/log.csv"], tmp_path / "x.parquet") as paths:
        raise SaveError("the disk is full")
    assert paths[0].is_file()


@pytest.mark.slow
def test_a_million_rows_of_an_import_that_is_killed_again_and_again(tmp_path: Path) -> None:
    table = awkward(830_000).with_columns(
        time=pl.Series([str(1_600_000_000 + n * 7919 % 10**6) for n in range(996_000)])
    )
    table.write_csv(tmp_path / "log.csv")
    (tmp_path / "memory").mkdir()
    mine = import_files([tmp_path / "log.csv"])
    save(mine, tmp_path / "memory" / "x.parquet")
    (tmp_path / "parts").mkdir()
    target, log = tmp_path / "parts" / "x.parquet", tmp_path / "log.csv"
    script = f"""
from pathlib import Path
from what_next.data.importing.large import import_large
import_large([Path({str(log)!r})], Path({str(target)!r}), memory=2**26)
"""
    scratch, stages = (
        target.with_name(".x.parquet.import"),
        ["raw-0.parquet", "begun-parts", "sorted-1", "log/00001.parquet"],
    )
    for stage in stages:
        process = subprocess.Popen([sys.executable, "-c", script])
        while process.poll() is None and not (scratch / stage).exists():
            time.sleep(0.002)
        process.kill()
        process.wait()
        assert not target.exists()
    theirs, _ = import_large([log], target, memory=2**26)
    same(tmp_path, mine, theirs, 4)
