"""Time columns of any kind, read as microseconds since 1970 UTC."""

import polars as pl

SAMPLE = 100_000
"""Values whose median decides the unit of a numeric time column."""

ISO_FORMATS = ("%+", "%Y-%m-%d %H:%M%#z", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
"""With a zone to the second and to the minute, the same without one (read as UTC), and the day alone."""

FIRST, LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
"""Years 1 and 9999 in microseconds: what lies outside is not a date."""


def as_microseconds(frame: pl.LazyFrame, column: str) -> pl.Expr:
    """An expression that reads the column as Int64 microseconds since 1970 UTC; null where it is not a time.

    Numbers are Unix times. Their unit follows from the size of the median of the first 100,000: below 1e11 seconds
    (until the year 5138), below 1e14 milliseconds, below 1e17 microseconds, else nanoseconds. Fractions are kept to
    the microsecond. Text is either such numbers or ISO 8601 dates and times. Times without a zone are UTC.
    """
    dtype = frame.collect_schema()[column]
    if dtype.is_temporal() and not isinstance(dtype, pl.Duration | pl.Time):
        if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
            return _within(pl.col(column).dt.convert_time_zone("UTC").dt.epoch("us"))
        return _within(pl.col(column).cast(pl.Datetime("us")).dt.epoch("us"))
    if dtype.is_integer():
        return _within(_scaled(pl.col(column).cast(pl.Int64, strict=False), _unit(frame, pl.col(column))))
    if dtype.is_float():
        return _within(_scaled(_finite(pl.col(column)), _unit(frame, _finite(pl.col(column)))))
    if isinstance(dtype, pl.String | pl.Categorical | pl.Enum):
        return _within(_from_text(frame, pl.col(column).cast(pl.String).str.strip_chars()))
    return pl.lit(None, dtype=pl.Int64)


def _from_text(frame: pl.LazyFrame, text: pl.Expr) -> pl.Expr:
    number = _finite(text.cast(pl.Float64, strict=False))
    unit = _unit(frame, number)
    if unit is None:
        spaced = text.str.replace(r"^(\d{4}-\d{2}-\d{2})[Tt]", "$1 ")
        dates = [spaced.str.to_datetime(form, strict=False, time_unit="us") for form in ISO_FORMATS]
        return pl.coalesce(date.dt.epoch("us") for date in dates)
    # Nanoseconds need more digits than a float has, so whole numbers are read as such.
    return pl.coalesce(_scaled(text.cast(pl.Int64, strict=False), unit), _scaled(number, unit))


def _unit(frame: pl.LazyFrame, number: pl.Expr) -> int | None:
    """Units per second of a numeric column; None where nothing is a number."""
    median = frame.select(number.drop_nulls().head(SAMPLE).cast(pl.Float64).abs().median()).collect().item()
    if median is None:
        return None
    return next((unit for limit, unit in ((1e11, 1), (1e14, 10**3), (1e17, 10**6)) if median < limit), 10**9)


def _scaled(number: pl.Expr, unit: int | None) -> pl.Expr:
    """Microseconds out of `number` counted in units per second; floats are rounded."""
    per_second = unit or 1
    if per_second > 10**6:
        return (number // (per_second // 10**6)).cast(pl.Int64, strict=False)
    factor = 10**6 // per_second
    # A whole number too large for the product would wrap around silently.
    kept = pl.when(number.abs() <= LAST // factor).then(number)
    return (kept * factor).round(0).cast(pl.Int64, strict=False)


def _finite(number: pl.Expr) -> pl.Expr:
    return pl.when(number.is_finite()).then(number)


def _within(microseconds: pl.Expr) -> pl.Expr:
    return pl.when(microseconds.is_between(FIRST, LAST)).then(microseconds)
