"""`what-next data`: reports for people and for machines."""

import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from what_next.cli.data import app
from what_next.errors import DataError


def run(*arguments: object):
    outcome = CliRunner().invoke(app, [str(one) for one in arguments])
    if outcome.exception and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    assert outcome.exit_code == 0, outcome.output
    return outcome


@pytest.fixture
def log(file) -> Path:
    return file("log.csv", "who,what,when,stars,tempo\n1,a,5,3,90\n2,b,6,4,100\n1,b,7,x,100\n2,a,2020,4,90\n")


NAMED = ("--user", "who", "--item", "what", "--time", "when")


def test_import_and_describe_speak_json(log: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "x.parquet"
    report = json.loads(run("import", log, "--to", target, *NAMED, "--json").stdout)
    assert report["rejected"] == {"reward not a number": 1}
    assert (report["users"], report["items"], report["rows"], report["rows_read"]) == (2, 2, 3, 4)
    assert report["attributes"] == ["tempo"]
    assert report["data"] == str(target)
    assert {Path(one).name for one in report["files"]} == {"x.parquet", "x.items.parquet", "x.rejected.parquet"}
    facts = json.loads(run("describe", target, "--json").stdout)
    assert facts["rows"] == 3
    assert facts["attributes"]["tempo"]["mean"] == 95


def test_import_and_describe_speak_to_people(log: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.parquet"
    said = run("import", log, "--to", target, *NAMED).stdout
    assert "1 row rejected: reward not a number" in said
    assert "user: who" in said
    assert "tempo" in run("describe", target).stdout


def test_the_kinds_of_events_are_told(file, tmp_path: Path) -> None:
    log, target = file("log.csv", "user,item,kind\n1,a,play\n1,b,skip\n2,a,play\n"), tmp_path / "x.parquet"
    run("import", log, "--to", target, "--event", "kind")
    assert json.loads(run("describe", target, "--json").stdout)["events"] == {"play": 2, "skip": 1}
    assert "play: 2, skip: 1" in run("describe", target).stdout


def test_names_are_neither_markup_nor_emoji_codes(file, tmp_path: Path) -> None:
    log = file("log.csv", "user,item,kind,[/c]\n1,a,[/x],1\n1,b,:b:,2\n2,a,[x],3\n")
    target = tmp_path / "[x]:a:.parquet"
    items = file("items.csv", "item,[/a],:smile:\na,1,2\nb,2,1\n")
    told = run("import", log, "--to", target, "--event", "kind", "--context", "[/c]", "--items", items).stdout
    assert ":smile:" in told
    assert "[x]:a:.parquet" in told
    shown = run("describe", target).stdout
    for name in ("[x]:a:", "[/x]: 1", ":b:: 1", "[x]: 1", "[/c]", "[/a]", ":smile:"):
        assert name in shown


def test_options_reach_the_importer(file, tmp_path: Path) -> None:
    log = file("log.csv", "user,item,time\n1,a,0\n1,b,0\n1,a,0\n1,c,7200\n2,a,0\n")
    items = file("items.csv", "item,name,genres,tempo\na,A,x y,1\nb,B,y,\nc,C,x,3\n")
    target = tmp_path / "x.parquet"
    run(
        "import", log, "--to", target, "--items", items, "--attributes", "genres, tempo", "--titles", "name",
        "--fill", "median", "--session-gap", "1h", "--keep-duplicates", "--json",
    )  # fmt: skip
    assert pl.read_parquet(target)["user_id"].to_list() == ["1:1", "1:1", "1:1", "1:2", "2:1"]
    assert pl.read_parquet(tmp_path / "x.items.parquet").columns == ["item_id", "title", "x", "y", "tempo"]


@pytest.mark.parametrize(("gap", "minutes"), [("90s", 1.5), ("30m", 30), ("1.5h", 90), ("1d", 1440)])
def test_gaps_have_units(gap: str, minutes: float) -> None:
    from what_next.data.importing.tables import duration

    assert duration(gap).total_seconds() == 60 * minutes


def test_mistakes_are_told_in_one_message(file, log: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must end in \.parquet"):
        run("import", log, "--to", tmp_path / "x.csv")
    for gap in ("soon", "99999999999d", "0.0000001s"):
        with pytest.raises(DataError, match="expected a number and s, m, h or d"):
            run("import", log, "--to", tmp_path / "x.parquet", "--session-gap", gap)
    with pytest.raises(DataError, match="expected one of ml-100k, ml-1m, ml-latest-small, lastfm-2k"):
        run("get", "ml-9z")
    with pytest.raises(DataError, match="no such file"):
        run("describe", tmp_path / "nothing.parquet")
    assert not list(tmp_path.glob("*.parquet"))


def test_the_list_of_known_sets_shows_licence_and_citation() -> None:
    said = run("get").stdout
    for name in ("ml-100k", "ml-1m", "ml-latest-small", "lastfm-2k", "non-commercial", "Harper"):
        assert name in said
