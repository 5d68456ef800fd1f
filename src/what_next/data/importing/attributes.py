"""The item table: ids, titles, and attributes as finite numbers."""

from collections.abc import Sequence
from typing import Any, Literal

import polars as pl

from what_next.data.importing.columns import TEXT, exact, numeric
from what_next.errors import DataError, some

WORD_LIMIT = 200
"""Most distinct words of a text column that are turned into 0/1 attributes: those that the most items have."""

MARKS = ("|", ";", ",")
"""What stands between the words of a text, the surest first; else white space."""

NOISE = 1e-6
"""Values of one item that differ by less than this part of the column's range are one value."""

Fill = Literal["median"]


def item_table(
    raw: pl.DataFrame, titles: str | None, attributes: Sequence[str] | None, fill: Fill | None, where: str
) -> tuple[pl.DataFrame, list[str]]:
    """Columns `item_id`, `title` and one Float32 column per attribute, out of a raw table with an `item_id`.

    Args:
        raw: one row per item; `item_id` is canonical, the other columns are as they stand in the file.
        titles: the column with titles, if any.
        attributes: the columns to take; None takes those with numbers, and lists of words.
        fill: "median" replaces missing values; None refuses them.
        where: the file, for messages.

    Returns:
        The table, and what people should be told about it.

    Raises:
        DataError: a column is not there or cannot be an attribute, or a value is missing or infinite.
    """
    others = [name for name in raw.columns if name not in ("item_id", titles)]
    found = numeric(raw.lazy(), others)
    numbers = raw.lazy().select(number.alias(name) for name, number in found.items()).collect()
    notes = []
    if attributes is None:
        words = [name for name, kind in raw.schema.items() if name in others and kind == pl.List(pl.String)]
        alike = [one.name for one in numbers if one.null_count() == 0 and one.min() == one.max()]
        chosen = [name for name in others if name in words or (name in found and name not in alike)]
        if alike:
            notes.append(f"item columns left out, since all items have one value: {some(alike)}")
        if left := [name for name in others if name not in (*found, *words)]:
            notes.append(
                f"item columns left out, since they are not numbers: {some(left)}; a column of words becomes an "
                "attribute for each word where --attributes names it"
            )
    else:
        chosen = [exact(raw.columns, name, "--attributes", where) for name in attributes]
        if chosen and (left := [name for name in others if name not in chosen]):
            notes.append(f"item columns left out, since --attributes names others: {some(left)}")
    columns: list[pl.Series] = []
    for name in dict.fromkeys(chosen):
        if name in found:
            made, told = _complete(numbers[name], raw["item_id"], fill, where)
        else:
            made, told = _word_columns(raw[name], name, [*others, *(one.name for one in columns)], where)
        columns += made
        notes += told
    return raw.select("item_id", title=_title(raw, titles)).with_columns(columns), notes


def _title(raw: pl.DataFrame, titles: str | None) -> pl.Expr:
    """The text of a column; the id where that is blank, or where there is no such column."""
    item = pl.col("item_id").cast(pl.String)
    if not titles:
        return item
    column = pl.col(titles)
    text = column.list.join(" ") if isinstance(raw[titles].dtype, pl.List) else column.cast(pl.String)
    stripped = text.str.strip_chars()
    return pl.when(stripped != "").then(stripped).otherwise(item)


def _complete(column: pl.Series, ids: pl.Series, fill: Fill | None, where: str) -> tuple[list[pl.Series], list[str]]:
    """The attribute as finite Float32, with a note when values were filled in."""
    notes, name, missing = [], column.name, column.null_count()
    if missing and fill == "median" and missing < len(column):
        median: Any = column.median()
        column = column.fill_null(median)
        notes.append(f"attribute {name}: {missing} missing {'value' if missing == 1 else 'values'} set to {median:g}")
    elif missing:
        raise DataError(
            f"{where}: item {ids.filter(column.is_null())[0]!r} has no number for attribute {name!r} ({missing} of "
            f"{len(column)} items lack one); correct the data, leave the attribute out (--attributes), or fill in with "
            "--fill median"
        )
    exact_enough = column.cast(pl.Float32)
    if len(wrong := (~exact_enough.is_finite()).arg_true()):
        item, value = ids[wrong[0]], column[wrong[0]]
        raise DataError(f"{where}: item {item!r} has {value:g} for attribute {name!r}; expected at most 3.4e38")
    return [exact_enough], notes


def _word_columns(column: pl.Series, name: str, taken: Sequence[str], where: str) -> tuple[list[pl.Series], list[str]]:
    """One 0/1 column per distinct word, in alphabetical order; `name:word` where the word is a column already.

    Of more than `WORD_LIMIT` words those that the most items have are kept, which the second value then tells.
    """
    words = _words(column, name, where)
    counts = words.list.unique().explode().drop_nulls().value_counts(name="items")
    if not len(counts):
        raise DataError(f"{where}: column {name!r} cannot be an attribute: it holds no word; leave it out")
    ranked = counts.sort("items", name, descending=[True, False])
    kept, dropped = ranked[:WORD_LIMIT], ranked[WORD_LIMIT:]
    notes = []
    if len(dropped):
        notes.append(
            f"attribute {name}: {len(ranked):,} different words; the {WORD_LIMIT} that the most items have are kept, "
            f"{len(dropped):,} are dropped, which at most {dropped['items'][0]:,} of {len(column):,} items have each"
        )
    found = [
        words.list.contains(word).fill_null(False).cast(pl.Float32).alias(f"{name}:{word}" if word in taken else word)
        for word in sorted(kept[name].to_list())
    ]
    return found, notes


def _words(column: pl.Series, name: str, where: str) -> pl.Series:
    if column.dtype == pl.List(pl.String):
        words = column
    elif isinstance(column.dtype, TEXT):
        text = column.cast(pl.String)
        words = text.str.split(_mark(text))
    else:
        raise DataError(
            f"{where}: column {name!r} cannot be an attribute: it holds {column.dtype}, not numbers or words"
        )
    stripped = words.list.eval(pl.element().str.strip_chars())
    return stripped.list.eval(pl.element().filter(pl.element() != ""))


def _mark(text: pl.Series) -> str:
    """What stands between the words: the first mark that stands in a tenth of the texts that hold any, or a space."""
    holding = {mark: text.str.contains(mark, literal=True).fill_null(False) for mark in (*MARKS, " ")}
    several = int(pl.DataFrame(holding).select(pl.any_horizontal(pl.all()).sum()).item())
    return next((mark for mark in MARKS if holding[mark].any() and holding[mark].sum() >= several / 10), " ")


def varying(log: pl.LazyFrame, numbers: Sequence[str], texts: Sequence[str] = ()) -> dict[str, object]:
    """Those columns of a log that do not belong to the item, each with an item on which it varies.

    Values that are missing or infinite are overlooked, and differences below `NOISE` of the column's range.
    """
    columns = [*numbers, *texts]
    if not columns:
        return {}
    log = log.with_columns(pl.when(pl.col(name).is_finite()).then(pl.col(name)).alias(name) for name in numbers)
    low = {name: pl.col(f"{name}\0low") for name in columns}
    high = {name: pl.col(f"{name}\0high") for name in columns}
    least = (pl.col(name).min().name.suffix("\0low") for name in columns)
    most = (pl.col(name).max().name.suffix("\0high") for name in columns)
    extremes = log.group_by("item_id").agg(*least, *most).collect(engine="streaming")
    width = {name: high[name].max() - low[name].min() for name in numbers}
    apart = extremes.select(
        "item_id",
        *((high[name] - low[name] > NOISE * width[name]).alias(name) for name in numbers),
        *((high[name] != low[name]).alias(name) for name in texts),
    )
    first = apart.sort("item_id").select(pl.col("item_id").filter(pl.col(name)).first().alias(name) for name in columns)
    return {name: item for name, item in first.row(0, named=True).items() if item is not None}


def first_values(log: pl.LazyFrame, columns: Sequence[str]) -> pl.DataFrame:
    """One row per item, ordered by id: its first value in each column that is not missing."""
    schema = log.collect_schema()
    known = {name: pl.col(name).fill_nan(None) if schema[name].is_float() else pl.col(name) for name in columns}
    firsts = log.group_by("item_id", maintain_order=True).agg(
        value.drop_nulls().first().alias(name) for name, value in known.items()
    )
    return firsts.sort("item_id").collect()
