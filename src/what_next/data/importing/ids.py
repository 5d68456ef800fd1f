"""External ids: integers stay integers, everything else is text; and the conversion of ids to indices."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int32

from what_next.data.importing.columns import TEXT
from what_next.errors import CatalogueError, DataError, counted

CANONICAL_INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"
"""Integers that are written back unchanged; `007` is not, so it stays text."""

WHOLE = r"^(0|-?[1-9][0-9]{0,17})(\.0)?$"
"""An integer, or one as pandas writes it in a column with gaps: `12.0`."""

MISSING = (
    "nan", "NaN", "NAN", "null", "Null", "NULL", "none", "None", "NONE", "NA", "N/A", "n/a", "<NA>", "\\N", "undefined",
)  # fmt: skip
"""Words that programs write for a missing value; they are not ids."""

EXACT = 2.0**53
"""Up to here floats represent every integer."""

LOOKUP_TABLE_LIMIT = 1 << 28
"""Largest span of integer ids that gets a direct lookup table (1 GiB of int32)."""


def as_ids(
    pairs: Sequence[tuple[pl.LazyFrame, str]], missing: Sequence[str] = MISSING, where: str = "the log"
) -> list[pl.Expr]:
    """Expressions that read one kind of id (users, or items) from one or more columns.

    All columns become Int64 if every one of them holds only integers, otherwise all become String, so that the ids of a
    log and of its item table can be compared. Blank text, null, NaN and words for a missing value become null.

    Args:
        pairs: each frame with the name of its id column.
        missing: words for a missing id.
        where: the file, for messages.

    Raises:
        DataError: a column holds lists or another unsupported type.
    """
    for frame, column in pairs:
        kind = frame.collect_schema()[column]
        if kind.is_nested() or kind in (pl.Object, pl.Duration) or isinstance(kind, pl.BaseExtension):
            rows = "write a row for each element, or " if isinstance(kind, pl.List | pl.Array) else ""
            raise DataError(
                f"{where}: column {column!r} holds {kind}, which cannot be an id; {rows}name another column"
            )
        check_text(frame, column, where)
    whole = all(_whole(frame, column, missing) for frame, column in pairs)
    return [_integer(frame, column, missing) if whole else _text(frame, column, missing) for frame, column in pairs]


def check_text(frame: pl.LazyFrame, column: str, where: str) -> None:
    """Raises a `DataError` where a column of bytes holds such as are no text: UUIDs and hashes, as a rule."""
    if frame.collect_schema()[column] != pl.Binary:
        return
    try:
        frame.select(pl.col(column).cast(pl.String).str.len_bytes().max()).collect(engine="streaming")
    except pl.exceptions.ComputeError:
        raise DataError(
            f"{where}: column {column!r} holds bytes that are no text in UTF-8; write them as text, such as hexadecimal"
        ) from None


def _whole(frame: pl.LazyFrame, column: str, missing: Sequence[str]) -> bool:
    dtype = frame.collect_schema()[column]
    if dtype.is_integer():
        return dtype not in (pl.UInt64, pl.Int128, pl.UInt128) or not _any(
            frame, pl.col(column).cast(pl.Int64, strict=False).is_null() & pl.col(column).is_not_null()
        )
    if dtype.is_float():
        value = pl.col(column).fill_nan(None)
        return not _any(frame, (value != value.round(0)) | (value.abs() > EXACT))
    if isinstance(dtype, TEXT):
        return not _any(frame, ~_trimmed(column, missing).str.contains(WHOLE))
    return False


def _any(frame: pl.LazyFrame, condition: pl.Expr) -> bool:
    return bool(frame.select(condition.any()).collect(engine="streaming").item())


def _trimmed(column: str, missing: Sequence[str]) -> pl.Expr:
    text = pl.col(column).cast(pl.String)
    return pl.when(~text.str.strip_chars().is_in(["", *missing])).then(text)


def _integer(frame: pl.LazyFrame, column: str, missing: Sequence[str]) -> pl.Expr:
    dtype = frame.collect_schema()[column]
    if dtype.is_integer():
        return pl.col(column).cast(pl.Int64)
    if dtype.is_float():
        return pl.col(column).fill_nan(None).cast(pl.Int64, strict=False)
    return _trimmed(column, missing).str.strip_suffix(".0").cast(pl.Int64, strict=False)


def _text(frame: pl.LazyFrame, column: str, missing: Sequence[str]) -> pl.Expr:
    if frame.collect_schema()[column].is_float():
        value = pl.col(column).fill_nan(None)
        whole = value == value.round(0)
        return pl.when(whole).then(value.cast(pl.Int64, strict=False).cast(pl.String)).otherwise(value.cast(pl.String))
    return _trimmed(column, missing)


def told_alike(ids: pl.Series, what: str) -> str | None:
    """A warning about ids that are probably written in several ways; None if there are none.

    They differ only by case, by white space, by Unicode's form of the same letters, or by characters that nobody sees.

    Args:
        ids: distinct ids.
        what: whose they are, `user` or `item`.
    """
    if ids.dtype != pl.String:
        return None
    plain = ids.str.normalize("NFKC").str.replace_all(r"\p{Cf}", "").str.replace_all(r"\s+", " ")
    folded = pl.DataFrame({"id": ids, "folded": plain.str.strip_chars().str.to_lowercase()})
    same = folded.filter(folded["folded"].is_duplicated())
    if not len(same):
        return None
    first = same.sort("folded", "id").head(2)["id"]
    return (
        f"{counted(len(same), f'{what} id')} differ from another only by case, white space or Unicode's form, such as "
        f"{first[0]!a} and {first[1]!a}; they count as different {what}s: if they are the same, write them "
        "in one way, and import again"
    )


def as_text(one: object) -> str:
    """A given id as text for comparisons; a float without a fraction becomes the integer that was imported."""
    return str(int(one)) if isinstance(one, float | np.floating) and one.is_integer() else str(one)


def several(ids: Any) -> list[str]:
    """Given ids (a list, a series, an array) as texts.

    Raises:
        CatalogueError: it is a single id; or a frame, a mapping, or a nested list, whose columns, keys or parts are not
            ids.
    """
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable) or getattr(ids, "ndim", 1) == 0:
        raise CatalogueError(f"{ids!r:.200} is found where several ids are expected; give a list of item ids")
    if getattr(ids, "ndim", 0) == 1 and hasattr(ids, "tolist"):
        ids = ids.tolist()  # also for a tensor, whose elements are tensors
    flat = not isinstance(ids, Mapping) and getattr(ids, "ndim", 1) == 1
    found = list(ids) if flat else []
    if not flat or any(isinstance(one, Iterable) and not isinstance(one, str | bytes) for one in found):
        raise CatalogueError(
            f"{type(ids).__name__} of several columns or parts is found where ids are expected; give one list of item "
            "ids, or one column of the frame"
        )
    return [as_text(one) for one in found]


def positions(values: pl.Series, ids: pl.Series) -> Int32[np.ndarray, "events"]:
    """The index of each value in `ids` (distinct, same type, any order); -1 if it is not there.

    Integer ids within a moderate span use a lookup table, others a hash table.
    """
    if ids.dtype == pl.String:
        return values.cast(pl.Enum(ids), strict=False).to_physical().cast(pl.Int32).fill_null(-1).to_numpy()
    keys, wanted = ids.to_numpy(), values.to_numpy()
    if not len(keys):
        return np.full(len(wanted), -1, np.int32)
    low, high = int(keys.min()), int(keys.max())
    if high - low >= LOOKUP_TABLE_LIMIT:
        return values.replace_strict(
            ids, pl.int_range(len(ids), eager=True), default=-1, return_dtype=pl.Int32
        ).to_numpy()
    table = np.full(high - low + 2, -1, np.int32)
    table[keys - low] = np.arange(len(keys), dtype=np.int32)
    inside = (wanted >= low) & (wanted <= high)
    # Values outside the span use the last cell, which holds -1.
    return table[np.where(inside, wanted - low, high - low + 1)]
