"""The import says which role each column got and how it knew, and names what looks like times or ids and got none."""

import datetime
import json
import logging
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from what_next.cli.data import app
from what_next.data import Dataset, Options, import_files
from what_next.errors import DataError

MONDAY = 1_700_000_000
"""2023-11-14T22:13:20Z."""


def rows(pattern: str, count: int = 40) -> str:
    """Lines for five users and eight items, an hour apart."""
    values = (
        {
            "user": f"u{n % 5}",
            "item": f"i{n % 8}",
            "time": MONDAY + 3600 * n,
            "stars": n % 5 + 1,
            "n": n,
            "day": n % 28 + 1,
        }
        for n in range(count)
    )
    return "".join(pattern.format(**one) + "\n" for one in values)


def said(path: Path, *options: str) -> str:
    outcome = CliRunner().invoke(app, ["import", str(path), "--to", str(path.with_name("x.parquet")), *options])
    if outcome.exception and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    return outcome.stdout


class TestWithoutHeader:
    @pytest.mark.parametrize(
        "first", ["{user},{item},{time},{stars}", "{n},{n},{time},{stars}", "{user},{item},2024-01-05"]
    )
    def test_values_in_the_first_line_are_refused_and_the_ways_out_named(self, file, first: str) -> None:
        with pytest.raises(DataError, match=r"seems to have no header.*--columns user,item,time,rating.*--no-header"):
            import_files([file("log.csv", rows(first))])

    def test_the_columns_can_be_named(self, file) -> None:
        log = file("log.csv", rows("{stars};{time};{user};{item}"))
        tables = import_files([log], options=Options(names=["rating", "time", "user", "item"]))
        assert tables.columns == {"user": "user", "item": "item", "time": "time", "reward": "rating"}
        assert (tables.rows, tables.log["reward"][0]) == (40, 1.0)
        with pytest.raises(DataError, match=r"--columns has 2 names \(user, item\), and the first line 4 fields"):
            import_files([log], options=Options(names=["user", "item"]))

    @pytest.mark.parametrize(
        ("pattern", "roles"),
        [
            ("{user},{item},{time},{stars}", {"user": 1, "item": 2, "time": 3, "reward": 4}),
            ("{time},{user},{item},{stars}", {"user": 2, "item": 3, "time": 1, "reward": 4}),
            ("{user},{item}", {"user": 1, "item": 2}),
        ],
    )
    def test_or_told_by_place_and_values(self, file, pattern: str, roles: dict[str, int]) -> None:
        tables = import_files([file("log.csv", rows(pattern))], options=Options(header=False))
        assert tables.columns == {role: f"column_{place}" for role, place in roles.items()}
        assert tables.how["user"] == tables.how["item"] == "by its place"
        assert tables.how.get("reward", "by its values") == "by its values"
        assert tables.rows == 40
        if "time" in roles:
            assert tables.log["timestamp"].min() == datetime.datetime.fromtimestamp(MONDAY, datetime.UTC)

    def test_a_column_of_one_value_is_no_reward_by_its_values(self, file) -> None:
        log = file("log.csv", rows("{user},{item},{time},0,{stars}"))
        assert import_files([log], options=Options(header=False)).columns["reward"] == "column_5"
        log = file("log.csv", rows("{user},{item},{time},0"))
        assert "reward" not in import_files([log], options=Options(header=False)).columns

    def test_names_that_are_numbers_are_names_where_one_of_them_is_known_or_it_is_said(self, file) -> None:
        log = file("log.csv", "user,item,2019,2020\n" + rows("{user},{item},{n},{stars}"))
        assert Dataset.from_tables(import_files([log]), "x").context_names == ("2019", "2020")
        pandas = file("p.csv", ",0,1,2\n" + rows("{n},{user},{item},{time}"))
        tables = import_files([pandas], options=Options(user="0", item="1"))
        assert (tables.columns["time"], tables.how["time"]) == ("2", "by its values, Unix seconds")

    def test_movielens_own_separator_tells_its_layout(self, file) -> None:
        tables = import_files([file("ratings.dat", rows("{n}::{n}::{stars}::{time}"))])
        assert tables.columns == {"user": "user_id", "item": "item_id", "time": "timestamp", "reward": "rating"}
        assert tables.how["user"] == "by the layout of MovieLens' files"


class TestRoles:
    def test_are_told_with_how_they_are_known(self, file) -> None:
        log = file("log.csv", "who,product,Moment,stars\n" + rows("{user},{item},{time},{stars}"))
        told = said(log, "--user", "who")
        assert "user: who (by --user)" in told
        assert "item: product (by its name)" in told
        assert "time: Moment (by its values, Unix seconds: 2023-11-14T22:13:20Z to 2023-11-16T13:13:20Z)" in told
        assert json.loads(said(log, "--user", "who", "--json"))["known_by"]["reward"] == "by its name"

    @pytest.mark.parametrize("moment", ["{time}", "{time}000", "{time}.5", "2024-01-{day:02} 10:00", "{day}/12/2024"])
    def test_times_are_known_by_their_values_and_never_become_context(self, file, moment: str) -> None:
        log = file("log.csv", "Customer,Product,Stars,Moment\n" + rows("{user},{item},{stars}," + moment))
        tables = import_files([log])
        assert tables.columns["time"] == "Moment"
        assert tables.log.columns == ["user_id", "item_id", "timestamp", "reward"]
        assert not tables.warnings

    def test_times_that_cannot_be_told_apart_are_named(self, file) -> None:
        log = file("log.csv", "user,item,seen,bought\n" + rows("{user},{item},{time},{time}"))
        tables = import_files([log])
        assert [warning.split(": ", 1)[1].split(", so")[0] for warning in tables.warnings] == [
            "column 'seen' looks like times and got no role",
            "column 'bought' looks like times and got no role",
            "no column holds times",
        ]
        assert tables.log.columns == ["user_id", "item_id"]
        assert not import_files([log], options=Options(time="", context=["seen", "bought"])).warnings

    def test_a_date_of_the_user_or_of_the_item_is_no_time_of_events(self, file) -> None:
        log = file("log.csv", "user,item,born,out\n" + rows("{user},{item},199X-01-01,200Y-01-01"))
        text = log.read_text().splitlines()
        text[1:] = [line.replace("X", line[1]).replace("Y", line[4]) for line in text[1:]]
        log.write_text("\n".join(text))
        tables = import_files([log])
        assert "time" not in tables.columns
        assert [warning.split("'")[1] for warning in tables.warnings[:2]] == ["born", "out"]

    @pytest.mark.parametrize(("title", "several"), [("Fun, says {user}", True), ("The {item}", False)])
    def test_headlines_of_reviews_are_no_titles_of_items(self, file, title: str, several: bool) -> None:
        log = file("log.csv", "user,item,title\n" + rows(f'{{user}},{{item}},"{title}"'))
        tables = import_files([log])
        assert ("titles" not in tables.columns) == several
        assert ("column 'title' holds no titles of items, since 100% of" in tables.warnings[0]) == several
        assert import_files([log], options=Options(titles="title")).columns["titles"] == "title"

    @pytest.mark.parametrize("name", ["session_id", "orderId", "zip code"])
    def test_ids_without_a_role_are_named_and_left_out(self, file, name: str) -> None:
        log = file("log.csv", f"user,item,time,{name},hour\n" + rows("{user},{item},{time},{n},{n}"))
        tables = import_files([log])
        assert tables.log.columns[3:] == ["hour"]
        (warning,) = tables.warnings
        assert f"column {name!r} looks like ids and got no role, so it is left out; name it with --user" in warning
        items = file("items.csv", f"item,{name},tempo\n" + "".join(f"i{n},{n},{n}\n" for n in range(8)))
        with_items = import_files([log], items)
        assert with_items.items.columns[2:] == ["tempo"]
        assert len(with_items.warnings) == 2

    def test_a_code_with_zeros_in_front_is_an_id(self, file) -> None:
        log = file("log.csv", "user,item,time,shop\n" + rows("{user},{item},{time},00{n}"))
        assert "'shop' looks like ids" in import_files([log]).warnings[0]

    def test_no_time_at_all_is_said_unless_that_is_known(self, file) -> None:
        log = file("log.csv", "user,item\n" + rows("{user},{item}"))
        assert "warning: " in said(log)
        assert "no column holds times, so the order of the rows is taken as the order of events" in said(log)
        assert "warning: " not in said(log, "--time", "")

    def test_times_that_are_all_the_same_order_nothing(self, file) -> None:
        log = file("log.csv", "user,item,time\n" + rows("{user},{item},1700000000"))
        assert "all events have the same time, so the order of the rows is taken as the order of events" in said(log)
        differ = file("log.csv", "user,item,time\n" + rows("{user},{item},{time}"))
        assert "all events have the same time" not in said(differ)

    def test_a_file_that_is_read_without_an_import_warns_too(self, file, caplog) -> None:
        with caplog.at_level(logging.WARNING):
            Dataset.read(file("log.csv", "user,item\n,a\n" + rows("{user},{item}")))
        assert "no column holds times" in caplog.text
        assert "1 of 41 rows rejected (no user: 1)" in caplog.text

    def test_a_column_that_stands_twice_is_told(self, file) -> None:
        tables = import_files([file("log.csv", "user,item,item,time\n" + rows("{user},{item},x,{time}"))])
        assert "column 'item' stands in the header more than once; a later one is called 'item_2'" in tables.notes[0]
        assert tables.log["item_id"].unique().sort().to_list() == [f"i{n}" for n in range(8)]


class TestIds:
    @pytest.mark.parametrize("word", ["NaN", "NULL", "None", "nan", "NA", "\\N"])
    def test_words_for_nothing_are_set_apart_counted_and_shown(self, file, word: str) -> None:
        log = file(
            "log.csv", f"user,item,time\n{word},i1,{MONDAY}\nu1,{word},{MONDAY}\n" + rows("{user},{item},{time}")
        )
        tables = import_files([log])
        assert tables.reasons() == {"no user": 1, "no item": 1}
        assert f"no user: {word!r} in 1 row" in tables.notes[0]
        assert tables.rejected["user"].to_list() == [word, "u1"]
        kept = import_files([log], options=Options(missing=()))
        assert (len(kept.log), len(kept.rejected)) == (42, 0)

    def test_they_do_not_turn_whole_numbers_into_text(self, file) -> None:
        log = file("log.csv", "user,item,time\n1,7,1\n2,8,2\nNULL,7,3\n1,8,4\n")
        assert import_files([log]).log["user_id"].to_list() == [1, 1, 2]

    def test_whole_numbers_as_pandas_writes_them_beside_gaps_are_whole(self, file) -> None:
        log = file("log.csv", "user,item,time\n1.0,007,1\n2.0,7,2\n")
        assert import_files([log]).log.select("user_id", "item_id").rows() == [(1, "007"), (2, "7")]

    def test_huge_numbers_and_signs_stay_as_they_are(self, file) -> None:
        log = file("log.csv", f"user,item,time\n{10**25},🎵,1\n{10**25 + 1},é,2\n")
        assert import_files([log]).log.select("user_id", "item_id").rows() == [
            (str(10**25), "🎵"),
            (str(10**25 + 1), "é"),
        ]
        big = pl.DataFrame({"user": [10**25, 1], "item": [1, 2]}, schema={"user": pl.Int128, "item": pl.Int64})
        assert Dataset.from_frame(big).user_ids.to_list() == ["1", str(10**25)]


class TestOrder:
    """Rows that only the item ids put in order tell nothing of what people do next."""

    def log(self, file, *, times: bool = False, swapped: int = 0) -> Path:
        """Four users with ten events each, by item; `swapped` pairs of each are not."""
        lines = []
        for user in range(4):
            items = [item for item in range(11) if item != user]
            for place in range(swapped):
                items[2 * place : 2 * place + 2] = items[2 * place : 2 * place + 2][::-1]
            lines += [f"u{user},{item}" + (f",{1700000000 + user}" if times else "") for item in items]
        return file("log.csv", "user,item" + (",time" if times else "") + "\n" + "\n".join(lines) + "\n")

    @pytest.mark.parametrize("times", [False, True])
    def test_of_items_is_told_once_also_among_rows_of_one_time(self, file, times: bool) -> None:
        (warning,) = import_files([self.log(file, times=times)]).warnings
        assert "stand in the order of the item ids, so the next item follows from the file's order" in warning
        assert "shuffle the rows" in warning
        assert import_files([self.log(file, times=times)], options=Options(time=None if times else "")).warnings

    def test_of_people_is_not(self, file) -> None:
        assert not import_files([self.log(file, swapped=1)], options=Options(time="")).warnings
        assert not import_files([self.log(file, times=True, swapped=1)]).warnings


def test_a_log_of_news_is_recognised_with_its_headlines(file) -> None:
    log = file("clicks.csv", "time,session,article\n" + rows("{time},{user},{item}"))
    articles = file(
        "articles.csv", "article,headline,section\n" + "".join(f"i{n},Part {n},s{n % 2}\n" for n in range(8))
    )
    tables = import_files([log], articles)
    assert tables.columns == {"user": "session", "item": "article", "time": "time"}
    assert tables.items is not None
    assert tables.items.filter(pl.col("item_id") == "i3")["title"].to_list() == ["Part 3"]


def test_episodes_are_items_by_their_ids_alone(file) -> None:
    log = file("plays.csv", "listener_id,show_id,episode_id,time\n" + rows("{user},s1,{item},{time}"))
    assert import_files([log]).columns["item"] == "episode_id"
    with pytest.raises(DataError, match="no column for the item"):  # it may count the episodes of a show
        import_files([file("seen.csv", "viewer,series,episode,time\n" + rows("{user},{item},{stars},{time}"))])


@pytest.mark.parametrize("kind", [pl.Int8, pl.Int16, pl.Int32, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64, pl.Int64])
def test_whole_numbers_of_any_width_are_read(tmp_path: Path, kind: type[pl.DataType]) -> None:
    path = tmp_path / "log.parquet"
    events = {
        "user": [1, 1, 2, 2, 3, 3],
        "item": [5, 6, 6, 5, 5, 6],
        "time": [1, 2, 3, 4, 5, 6],
        "till": [1, 2, 3, 2, 1, 3],
    }
    pl.DataFrame(events, schema_overrides=dict.fromkeys(("user", "item", "till"), kind)).write_parquet(path)
    tables = import_files([path])
    assert tables.log["till"].to_list() == [1, 2, 3, 2, 1, 3]


class TestNumbersInAnotherForm:
    """Lengths and amounts with a currency are no words that items share, and it is told how to write them."""

    @pytest.mark.parametrize(
        "values", [["1:02:33", "45:10"], ["12,50 €", "3,00 €"], ["€12.50", "€3.00"], ["9 %", "5 %"]]
    )
    def test_are_no_tags_of_an_item_table(self, file, values: list[str]) -> None:
        log = file("log.csv", "user,item,time\n" + rows("{user},{item},{time}"))
        table = "item;show;size\n" + "".join(f'i{n};s{n % 2};"{values[n % 2]}"\n' for n in range(8))
        tables = import_files([log], file("items.csv", table))
        assert tables.log.height
        assert tables.items["tags"].explode().str.starts_with("show: ").all()
        assert any(f"column size is left out: {values[0]!r} is no plain number" in note for note in tables.notes)

    def test_are_no_tags_of_the_items_of_a_log(self, file) -> None:
        body = "".join(f'{u},i{i},{u * 9 + i},s{i % 2},"{i % 2 + 1},50 €"\n' for u in range(9) for i in range(16))
        tables = import_files([file("log.csv", "user,item,time,kind,price\n" + body)])
        assert tables.items["tags"].explode().str.starts_with("kind: ").all()
        assert any("column price is left out: '1,50 €' is no plain number" in note for note in tables.notes)

    def test_may_be_named_as_tags(self, file) -> None:
        log = file("log.csv", "user,item,time\n" + rows("{user},{item},{time}"))
        items = file("items.csv", "item,slot\n" + "".join(f"i{n},{n % 2 + 7}:30\n" for n in range(8)))
        assert import_files([log], items, Options(tags=["slot"])).items["tags"][1].to_list() == ["slot: 8:30"]

    def test_rewards_are_told_how_to_be_written(self, file) -> None:
        log = file("log.csv", "user;item;time;rating\n" + rows("{user};{item};{time};4,50 €"))
        with pytest.raises(DataError, match=r"write rewards as plain numbers, such as 12\.5"):
            import_files([log])

    def test_a_date_that_is_named_as_an_attribute_is_told_how_to_be_written(self, file, tmp_path: Path) -> None:
        log = file("log.csv", "user,item,time\n" + rows("{user},{item},{time}"))
        items = tmp_path / "items.parquet"
        released = [datetime.date(2026, 1, 1 + n) for n in range(8)]
        pl.DataFrame({"item": [f"i{n}" for n in range(8)], "released": released}).write_parquet(items)
        assert any("a date becomes an attribute as a number" in note for note in import_files([log], items).notes)
        with pytest.raises(DataError, match="it holds Date, not numbers or words; write it as a number, such as days"):
            import_files([log], items, Options(attributes=["released"]))


def test_rows_in_which_something_was_taken_back_are_warned_of(file) -> None:
    body = "".join(f"{n % 5},i{n % 7},{MONDAY + n * n},{-1 if n % 10 == 0 else 2}\n" for n in range(40))
    (warning,) = import_files([file("log.csv", "user,item,time,Quantity\n" + body)]).warnings
    assert "column 'Quantity' is below 0 in 4 rows, which are events like all others" in warning
    kept = body.replace(",-1", ",1")
    assert not import_files([file("kept.csv", "user,item,time,quantity\n" + kept)]).warnings
    assert not import_files([file("other.csv", "user,item,time,warmth\n" + body)]).warnings


class TestOddTypes:
    """What Parquet and frames may hold beside text and numbers is read where it means one thing, and else refused."""

    @pytest.fixture
    def odd(self, tmp_path: Path):
        def write(values: list[object], **kind: pl.DataType) -> Path:
            path = tmp_path / "odd.parquet"
            frame = pl.DataFrame({"user": [n % 5 for n in range(40)], "item": [n % 8 for n in range(40)]})
            one = pl.Series("odd", [values[n % 8] for n in range(40)], **kind)
            frame.with_columns(one, time=MONDAY + pl.int_range(40) * 3600).write_parquet(path)
            return path

        return write

    def test_durations_are_seconds(self, odd) -> None:
        lengths = [datetime.timedelta(minutes=1, seconds=n) for n in range(8)]
        assert import_files([odd(lengths)]).items["odd"].to_list() == [60.0 + n for n in range(8)]

    @pytest.mark.parametrize(
        ("values", "role", "message"),
        [
            ([b"\xff\xfe"], "item", "column 'odd' holds bytes that are no text in UTF-8; write them as text"),
            ([b"\xff\xfe"], "titles", "column 'odd' holds bytes that are no text in UTF-8; write them as text"),
            ([b"\xff\xfe"], "attributes", "column 'odd' cannot be an attribute: it holds Binary"),
            (
                [[1, 2]],
                "attributes",
                r"column 'odd' cannot be an attribute: it holds List\(Int64\), not numbers or words",
            ),
            (
                [[1, 2]],
                "titles",
                r"column 'odd' cannot be the titles: it holds List\(Int64\); name another with --titles",
            ),
            (
                [datetime.timedelta(1)],
                "user",
                "column 'odd' holds Duration.* which cannot be an id; name another column",
            ),
        ],
    )
    def test_what_a_role_cannot_be_is_refused(self, odd, values: list[object], role: str, message: str) -> None:
        named = {role: ["odd"] if role == "attributes" else "odd"}
        with pytest.raises(DataError, match=message):
            import_files([odd(values * 8)], options=Options(**named))


@pytest.mark.parametrize(("clicked", "told"), [(1, True), (3, False)])
def test_a_log_of_all_that_was_shown_is_told(file, clicked: int, told: bool) -> None:
    lines = "".join(f"u{n % 2},i{n % 5},{n},{int(n < clicked)}\n" for n in range(10))
    warnings = import_files(
        [file("log.csv", "user,item,time,click\n" + lines)], options=Options(reward="click")
    ).warnings
    assert any("90% of the rewards in 'click' are 0, and none is below" in one for one in warnings) == told
