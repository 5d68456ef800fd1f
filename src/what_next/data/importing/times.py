"""Time columns of any kind, read as microseconds since 1970 UTC; ambiguous values are refused."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import polars as pl
from jaxtyping import Float64

from what_next.data.importing.columns import TEXT
from what_next.errors import DataError

SAMPLE = 100_000
"""Number of values that decide how a column is read."""

ISO_FORMATS = ("%+", "%Y-%m-%d %H:%M%#z", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
"""With a zone (to the second, to the minute), the same without one (read as UTC), and only the day."""
TWELVE_HOURS = ("%Y-%m-%d %I:%M %p", "%Y-%m-%d %I:%M:%S %p")

FIRST, LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
"""Years 1 and 9999 in microseconds: values outside are not dates."""

UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
"""Units of Unix time, and how many of each make a second."""
SPOKEN = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
EARLIEST, LATEST = 10**8, 10**11
"""March 1973 and the year 5138 in Unix seconds. Between them a Unix time determines its unit, because a thousandfold
value belongs to the next unit."""

SERIALS = (25_569, 73_050)
"""1970 and 2099 as day numbers of spreadsheets (1 is 1900-01-01, and 60 a nonexistent day)."""
DAY = 86_400

ORDERS = {"dmy": "day, month, year", "mdy": "month, day, year", "ymd": "year, month, day"}
LIKE_A_DATE = r"^\d{1,4}[./-]\d{1,2}[./-]\d{1,4}(?:$|[ T,])"
_DATE = r"^(\d{1,4})[./-](\d{1,2})[./-](\d{1,4})(?:,?[ Tt]+(.*))?$"
_SHORT_START = r"^\d{1,2}[./-]\d{1,2}[./-]\d"
SHORT_ZONE = r"(:\d\d(?:\.\d+)?[+-]\d\d)$"
"""The end of a time whose zone has only hours, as PostgreSQL writes it."""

_ELSEWHERE = " (an option of what-next data import)"

FORMS = (
    "s, ms, us or ns (Unix time), excel (days of a spreadsheet), dmy (European dates), mdy (US dates), ymd, or a "
    "pattern such as %d.%m.%Y %H:%M"
)
"""The possible values of `--time-format`."""

NEGATIVE, OTHER_UNIT = "zero or negative time", "time in another unit"


@dataclass(frozen=True)
class Times:
    """How a column is read.

    Attributes:
        value: Int64 microseconds since 1970 UTC; null where it is not a time.
        kind: the kind of the values, in words.
        guessed: whether they are numbers that were assumed to be Unix times.
        faults: for each reason why a number is not a time, an expression that is true for such values.
    """

    value: pl.Expr
    kind: str
    guessed: bool = False
    faults: dict[str, pl.Expr] = field(default_factory=dict)


def read_times(frame: pl.LazyFrame, column: str, form: str | None = None, where: str = "the log") -> Times:
    """How to read a column of times.

    Numbers are Unix times. Their unit follows from the median of the first 100,000 non-zero values: below 1e11 seconds
    (until the year 5138), below 1e14 milliseconds, below 1e17 microseconds, else nanoseconds; numbers in another unit
    are rejected. Fractions are kept to the microsecond. Text is either such numbers, or ISO 8601 dates and times, or
    dates with the day or the month first if the values determine which. Times without a zone are UTC.

    Args:
        form: the user's format, see `FORMS`; None: determined from the values.
        where: the file, for messages.

    Raises:
        DataError: `form` is unknown; or without it, the values are ambiguous.
    """
    check_form(form)
    dtype = frame.collect_schema()[column]
    if dtype.is_temporal() and not isinstance(dtype, pl.Duration | pl.Time):
        zoned, date = isinstance(dtype, pl.Datetime) and dtype.time_zone is not None, pl.col(column)
        utc = date.dt.convert_time_zone("UTC") if zoned else date.cast(pl.Datetime("us"))
        return Times(_within(utc.dt.epoch("us")), "dates")
    if dtype.is_numeric():
        number = pl.col(column) if dtype.is_integer() else _finite(pl.col(column).cast(pl.Float64))
        if form and (form in ORDERS or "%" in form):
            text = (number if dtype.is_integer() else number.cast(pl.Int64, strict=False)).cast(pl.String)
            return _patterned(frame, text, form)
        whole = [pl.col(column).cast(pl.Int64, strict=False)] if dtype.is_integer() else []
        return _numbers(frame, number, whole or [number], form, f"{where}: column {column!r}")
    if isinstance(dtype, TEXT):
        return _from_text(frame, pl.col(column).cast(pl.String).str.strip_chars(), form, f"{where}: column {column!r}")
    return Times(pl.lit(None, dtype=pl.Int64), "none")


def check_form(form: str | None) -> None:
    """Raises a `DataError` where `--time-format` is unknown, or has no year."""
    if form is None or form in UNITS or form == "excel" or form in ORDERS:
        return
    if "%" not in form:
        raise DataError(f"--time-format {form!r}: expected {FORMS}")
    try:
        read = pl.Series([datetime.now(UTC)]).dt.strftime(form).str.to_datetime(form, strict=False)[0]
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"--time-format {form!r}: is no pattern of dates ({reason}); expected {FORMS}") from error
    if read is not None and read.year <= 1:
        raise DataError(
            f"--time-format {form!r}: tells no year, so that all would be of the year 1; name a column with dates "
            "(--time), or write date and time into one"
        )


def like_times(frame: pl.LazyFrame, columns: list[str]) -> list[str]:
    """The columns that look like times in nine of ten of the first values: dates, or Unix times of 1990 to 2035."""
    head = frame.select(columns).head(1000).collect() if columns else pl.DataFrame()
    return [name for name in columns if _like_times(head[name].drop_nulls())]


def _like_times(values: pl.Series) -> bool:
    if not len(values) or values.dtype == pl.Date or isinstance(values.dtype, pl.Datetime):
        return bool(len(values))
    if values.dtype.is_numeric():
        number = values.cast(pl.Float64, strict=False)
    elif values.dtype == pl.String:
        text = values.str.strip_chars()
        if text.str.contains(LIKE_A_DATE).sum() >= 0.9 * len(text):
            return True
        number = text.cast(pl.Float64, strict=False)
    else:
        return False
    shares = [number.is_between(631_152_000 * unit, 2_051_222_400 * unit).sum() for unit in UNITS.values()]
    return max(shares) >= 0.9 * len(values)


def _from_text(frame: pl.LazyFrame, text: pl.Expr, form: str | None, where: str) -> Times:
    if form and (form in ORDERS or "%" in form):
        return _patterned(frame, text, form)
    number = _finite(text.cast(pl.Float64, strict=False))
    filled = text.filter(text != "").head(SAMPLE)
    numbers, dates, short, slashed, hours = frame.select(
        filled.cast(pl.Float64, strict=False).is_not_null().mean().alias("numbers"),
        filled.str.contains(LIKE_A_DATE).mean().alias("dates"),
        filled.str.contains(_SHORT_START).mean().alias("short"),
        filled.str.contains(r"^\d{4}/").any().alias("slashed"),
        filled.str.contains(SHORT_ZONE).any().alias("hours"),
    ).collect().row(0)  # fmt: skip
    if form or (numbers and numbers >= dates):
        # Nanoseconds need more digits than a float has, so integers are parsed as integers.
        return _numbers(frame, number, [text.cast(pl.Int64, strict=False), number], form, where)
    if (short or 0) >= 0.5:
        return _patterned(frame, text, _order(frame, text, where))
    text = text.str.replace_all("/", "-", literal=True) if slashed else text
    text = text.str.replace(SHORT_ZONE, "${1}:00") if hours else text
    return Times(_iso(text, ISO_FORMATS), "dates")


def _iso(text: pl.Expr, formats: tuple[str, ...], *before: Callable[[pl.Expr], pl.Expr]) -> pl.Expr:
    """Microseconds of ISO dates; `before`: steps that make such a date of the text."""

    def spaced(text: pl.Expr) -> pl.Expr:
        return text.str.replace(r"^(\d{4}-\d{1,2}-\d{1,2})[Tt]", "$1 ")

    def parsed(text: pl.Expr) -> pl.Expr:
        dates = [text.str.to_datetime(form, strict=False, time_unit="us") for form in formats]
        return pl.coalesce(date.dt.epoch("us") for date in dates)

    return _stepwise(text, *before, spaced, parsed, _within)


def _stepwise(text: pl.Expr, *steps: Callable[[pl.Expr], pl.Expr]) -> pl.Expr:
    """Each step's expression of the values of the step before.

    In one large expression Polars computes a part anew wherever it occurs, here some twenty times.
    """

    def run(values: pl.Series) -> pl.Series:
        for step in steps:
            values = values.alias("value").to_frame().select(step(pl.col("value"))).to_series()
        return values

    return text.map_batches(run, return_dtype=pl.Int64, is_elementwise=True)


def _patterned(frame: pl.LazyFrame, text: pl.Expr, form: str) -> Times:
    """Dates in a given order of day, month and year, or by a pattern."""
    if form not in ORDERS:
        parsed = text.str.to_datetime(form, strict=False, time_unit="us")
        return Times(_within(parsed.dt.epoch("us")), f"dates as {form}")

    def taken(text: pl.Expr) -> pl.Expr:
        return text.str.extract_groups(_DATE)

    def written(groups: pl.Expr) -> pl.Expr:
        part = {letter: groups.struct.field(str(form.index(letter) + 1)) for letter in "dmy"}
        clock = groups.struct.field("4")
        # As in POSIX, two-digit years from 69 to 99 are of the last century.
        century = pl.when(part["y"] < "69").then(pl.lit("20")).otherwise(pl.lit("19"))
        year = pl.when(part["y"].str.len_chars() == 2).then(century + part["y"]).otherwise(part["y"])
        day = pl.concat_str(year, pl.lit("-"), part["m"], pl.lit("-"), part["d"])
        return pl.when(clock.is_null() | (clock == "")).then(day).otherwise(day + " " + clock)

    return Times(_iso(text, ISO_FORMATS + TWELVE_HOURS, taken, written), f"dates as {ORDERS[form]}")


def _order(frame: pl.LazyFrame, text: pl.Expr, where: str) -> str:
    """Whether the day or the month comes first, if the values determine it: a number above 12 cannot be a month."""
    first, second, third = (text.str.extract(_DATE, place) for place in (1, 2, 3))
    tall = [(part.cast(pl.Int32, strict=False) > 12).sum() for part in (first, second)]
    days, months, short, example = frame.select(
        tall[0].alias("days"), tall[1].alias("months"),
        ((first.str.len_chars() < 3) & (third.str.len_chars() < 3)).sum().alias("short"),
        text.filter(text.str.contains(_DATE)).first().alias("example"),
    ).collect().row(0)  # fmt: skip
    if not short and bool(days) != bool(months):
        return "dmy" if days else "mdy"
    why = (
        f"{short:,} of them have a year of two digits" if short
        else f"in {days:,} the first number is above 12, in {months:,} the second" if days
        else "no number above 12 tells day from month"
    )  # fmt: skip
    if days and months and not short:
        raise DataError(
            f"{where} holds dates in several forms, such as {example!r}: {why}, so neither is always the month; write "
            "all in one form, such as 2024-12-31; or say what most of them are, and the others are rejected: "
            "--time-format dmy (European) or mdy (US), or ymd" + _ELSEWHERE
        )
    raise DataError(
        f"{where} holds dates such as {example!r}, and {why}; say what comes first: --time-format dmy "
        "(European) or mdy (US), or ymd" + _ELSEWHERE
    )


def _numbers(frame: pl.LazyFrame, number: pl.Expr, readings: list[pl.Expr], form: str | None, where: str) -> Times:
    """Unix times, or day numbers of a spreadsheet; `readings`: the same numbers, the most exact first."""
    if form == "excel":
        milliseconds = ((number - SERIALS[0]) * (DAY * 1000)).round(0)
        return Times(_within((milliseconds * 1000).cast(pl.Int64, strict=False)), "days of a spreadsheet")
    if form is not None:
        scaled = pl.coalesce(_scaled(one, UNITS[form]) for one in readings)
        return Times(_within(scaled), f"Unix {SPOKEN[form]}")
    # A generator of expressions of one column: only the sample is read here.
    # Zeros do not determine a unit: they may be events numbered from 0, or missing times.
    told = number.filter(number != 0).head(SAMPLE).cast(pl.Float64).alias("x")
    sample = frame.select(told).collect()["x"].to_numpy()
    if not len(sample):
        return Times(pl.lit(None, dtype=pl.Int64), "none", faults={NEGATIVE: number == 0})
    _refuse_lookalikes(sample[:: 1 + len(sample) // 1000], where)
    median = float(np.median(np.abs(sample)))
    unit = next((name for name, each in UNITS.items() if median < LATEST * each), "ns")
    each = UNITS[unit]
    real = median >= EARLIEST * each
    least, low, high = int(real), EARLIEST * real, LATEST
    microseconds = pl.coalesce(_scaled(one, each) for one in readings)
    # The limits are compared in microseconds, which are needed anyway, so that the text is parsed once.
    value = pl.when(microseconds.is_between(low * 10**6, high * 10**6, closed="left")).then(microseconds)
    faults = {
        NEGATIVE: number < least,
        OTHER_UNIT: (number >= least) & ~number.is_between(low * each, high * each, closed="left"),
    }
    return Times(value, f"Unix {SPOKEN[unit]}", True, faults)


def _refuse_lookalikes(sample: Float64[np.ndarray, "values"], where: str) -> None:
    """Raises a `DataError` if most numbers look like times in another notation than Unix time."""
    low, high = np.quantile(sample, (0.1, 0.9))
    found = f"{where} holds numbers from {sample.min():.10g} to {sample.max():.14g}, which look like"
    unless = ", or --time-format s if they are Unix times" + _ELSEWHERE
    if SERIALS[0] <= low <= high <= SERIALS[1]:
        raise DataError(f"{found} days of a spreadsheet (Excel's serial dates); give --time-format excel{unless}")
    for digits, pattern in ((1, "%Y%m%d"), (10**4, "%Y%m%d%H%M"), (10**6, "%Y%m%d%H%M%S")):
        year, month, day = (sample // digits // 10**4, sample // digits // 100 % 100, sample // digits % 100)
        fits = (year >= 1970) & (year < 2100) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)
        if np.mean(fits & (sample % 1 == 0)) >= 0.9:
            raise DataError(f"{found} dates written as numbers; give --time-format {pattern}{unless}")


def _scaled(number: pl.Expr, unit: int) -> pl.Expr:
    """Microseconds from `number`, counted in units per second; floats are rounded."""
    if unit > 10**6:
        return (number // (unit // 10**6)).cast(pl.Int64, strict=False)
    factor = 10**6 // unit
    # An integer product that is too large would wrap around silently.
    kept = pl.when(number.abs() <= LAST // factor).then(number)
    return (kept * factor).round(0).cast(pl.Int64, strict=False)


def _finite(number: pl.Expr) -> pl.Expr:
    return pl.when(number.is_finite()).then(number)


def _within(microseconds: pl.Expr) -> pl.Expr:
    return pl.when(microseconds.is_between(FIRST, LAST)).then(microseconds)
