"""The item table: ids, titles, attributes as finite numbers, and words that items share."""

from collections.abc import Collection, Iterable, Sequence
from itertools import count
from typing import Any, Literal

import numpy as np
import polars as pl

from what_next.data.importing.columns import TEXT, exact, numeric, told_unread, unread
from what_next.data.importing.ids import EXACT, MISSING, check_text
from what_next.data.importing.times import like_times
from what_next.errors import DataError, counted, some

WORD_LIMIT = 200
"""Most distinct words of a text column that become 0/1 attributes: the words that the most items have."""

WORDS = pl.List(pl.String)
"""The type of columns that hold several words for each item."""

SHARED = 0.1
"""Share of the items that must share a word with another item for a text column to become tags."""

DIFFERING = 5.0
"""A column of a log describes the item if at least this many items would be expected to have several values, did it
belong to the users or their sessions: then it is no chance (below 1 %) that none has."""

MARKS = ("|", ";", ",")
"""Separators of words in a text, the safest first; else white space."""
SURE_MARKS = MARKS[:2]
"""Separators that never occur in names; a comma does, in "Tyler, The Creator"."""

NOISE = 1e-6
"""Values of one item that differ by less than this share of the column's range count as equal."""

Fill = Literal["median"]


def item_table(
    raw: pl.DataFrame,
    titles: str | None,
    attributes: Sequence[str] | None,
    tags: Sequence[str],
    fill: Fill | None,
    where: str,
) -> tuple[pl.DataFrame, list[str]]:
    """Columns `item_id`, `title`, one Float32 column per attribute, and one of tags (lists of words, as in `Catalogue`)
    if there are any, from a raw table with an `item_id`.

    Args:
        raw: one row per item; `item_id` is canonical, the other columns are as in the file.
        titles: the column with titles, if any.
        attributes: the columns to take; None: numeric columns except ids, and lists of words.
        tags: the columns whose words become tags (`tag_columns`).
        fill: "median" replaces missing values; None refuses them.
        where: the file, for messages.

    Returns:
        The table, and notes for the user.

    Raises:
        DataError: a column does not exist or cannot be an attribute, or a value is missing or infinite.
    """
    others = [name for name in raw.columns if name not in ("item_id", titles)]
    found = numeric(raw.lazy(), others)
    numbers = raw.lazy().select(number.alias(name) for name, number in found.items()).collect()
    if attributes is None:
        chosen, notes = _recognised(raw, others, numbers, tags)
    else:
        chosen = [exact(raw.columns, name, "--attributes", where) for name in attributes]
        left = [name for name in others if name not in (*chosen, *tags)] if chosen else []
        notes = [f"item columns left out, since --attributes names others: {some(left)}"] if left else []
    columns: list[pl.Series] = []
    for name in dict.fromkeys(chosen):
        taken = ["item_id", "title", *(one for one in others if one != name), *(one.name for one in columns)]
        if name in found:
            made, told = _complete(numbers[name].alias(_unused(name, taken)), raw["item_id"], fill, where)
        else:
            made, told = _word_columns(raw[name], name, [*taken, name], where)
        columns += made
        notes += told
    if tags:
        columns.append(_tags(raw, tags).alias(_unused("tags", [one.name for one in columns])))
    return raw.select("item_id", title=_title(raw, titles, where)).with_columns(columns), notes


def _recognised(
    raw: pl.DataFrame, others: Sequence[str], numbers: pl.DataFrame, tags: Sequence[str]
) -> tuple[list[str], list[str]]:
    """The columns that become attributes by default, and notes about those that do not."""
    words = [name for name in others if raw.schema[name] == WORDS]
    alike = [one.name for one in numbers if one.null_count() == 0 and one.min() == one.max()]
    telling = [name for name in numbers.columns if name not in (*alike, *tags)]
    notes = [f"item columns left out, since all items have one value: {some(alike)}"] if alike else []
    written = unread(raw.lazy(), [name for name in others if name not in (*numbers.columns, *words, *tags)])
    notes += told_unread(written)
    if left := [name for name in others if name not in (*numbers.columns, *words, *tags, *written)]:
        notes.append(
            f"item columns left out, since they are not numbers: {some(left)}; a column of words becomes an attribute "
            "for each word where --attributes names it, and tags where many items share one, or --tags names it"
            + ("; a date becomes an attribute as a number, such as days" if like_times(raw.lazy(), left) else "")
        )
    return [name for name in others if name in words or name in telling], notes


def tag_columns(raw: pl.DataFrame, columns: Sequence[str], wanted: Sequence[str] | None, where: str) -> list[str]:
    """The columns whose words become tags: the `wanted` ones, or by default those in which enough items share a word.

    Raises:
        DataError: a wanted column does not exist, or holds neither words nor integers.
    """
    if wanted is None:
        written = unread(raw.lazy(), columns)
        free = [name for name in of_words(raw.lazy(), columns) if name not in written]
        return [name for name in free if _shared(_whole_words(raw[name]))]
    return named_tags(raw.lazy(), wanted, where)


def named_tags(frame: pl.LazyFrame, wanted: Sequence[str], where: str) -> list[str]:
    """The columns named for tags; see `tag_columns`."""
    schema = frame.collect_schema()
    names = list(dict.fromkeys(exact(schema.names(), name, "--tags", where) for name in wanted))
    if wrong := sorted(set(names).difference(of_words(frame, names)), key=names.index):
        raise DataError(f"{where}: column {wrong[0]!r} cannot be tags: it holds {schema[wrong[0]]}, not words or ids")
    return names


def of_words(frame: pl.LazyFrame, columns: Iterable[str]) -> list[str]:
    """The columns that hold words or ids: integers, including floats that pandas makes of integers with gaps."""
    kinds = {name: kind for name, kind in frame.collect_schema().items() if name in columns}
    gaps = {name: pl.col(name).fill_nan(None) for name, kind in kinds.items() if kind.is_float()}
    tests = [((one == one.round()) & (one.abs() <= EXACT)).all().alias(name) for name, one in gaps.items()]
    whole = frame.select(tests).collect(engine="streaming").row(0, named=True) if tests else {}
    found = {n for n, kind in kinds.items() if isinstance(kind, TEXT) or kind.is_integer() or kind == WORDS}
    return [name for name in columns if name in found or whole.get(name)]


def word_text(name: str, kind: Any) -> pl.Expr:
    """A column of words or ids (`of_words`) as text; null for a missing value."""
    if kind == WORDS:
        return pl.col(name).list.join("\0")
    number = pl.col(name).fill_nan(None).cast(pl.Int64, strict=False) if kind.is_float() else pl.col(name)
    return number.cast(pl.String)


def _shared(words: pl.Series) -> bool:
    """Whether enough items share a word with other items, while not all items share it."""
    each = pl.DataFrame({"word": words.list.unique()}).with_row_index("item").explode("word").drop_nulls()
    telling = each.group_by("word").len().filter(pl.col("len").is_between(2, len(words) - 1))
    return each.join(telling, on="word", how="semi")["item"].n_unique() >= max(2, SHARED * len(words))


def _tags(raw: pl.DataFrame, names: Sequence[str]) -> pl.Series:
    """The words of each item from some columns, such as "artist: Queen"; colons with a space and NULs are removed from
    the column's name."""
    kinds = [name.replace(": ", ":") for name in names]
    found = [
        _whole_words(raw[name]).list.eval((f"{kind}: " + pl.element()).str.replace_all("\0", " ", literal=True))
        for name, kind in zip(names, kinds, strict=True)
    ]
    each = pl.DataFrame([one.fill_null([]) for one in found])
    return each.select(pl.concat_list(pl.all()).list.unique(maintain_order=True)).to_series()


def _whole_words(column: pl.Series) -> pl.Series:
    """Lists unchanged; texts split at | or ; if a tenth of them contain it, else the whole text as one word.

    Words for a missing value are dropped.
    """
    if column.dtype != WORDS:
        text = column.to_frame().select(word_text(column.name, column.dtype)).to_series()
        holding = {one: int(text.str.contains(one, literal=True).sum()) for one in SURE_MARKS}
        mark = next((one for one, count in holding.items() if count >= SHARED * len(text)), "\0")
        column = text.str.split(mark)
    return _stripped(column, MISSING)


def _unused(name: str, taken: Collection[str]) -> str:
    """The name, with a number appended if it is taken."""
    return next(one for number in count(1) if (one := f"{name} {number}" if number > 1 else name) not in taken)


def _title(raw: pl.DataFrame, titles: str | None, where: str) -> pl.Expr:
    """The text of a column; the id where it is blank, or without such a column."""
    item = pl.col("item_id").cast(pl.String)
    if not titles:
        return item
    column, kind = pl.col(titles), raw.schema[titles]
    if (kind.is_nested() and kind != WORDS) or kind in (pl.Object, pl.Duration):
        raise DataError(f"{where}: column {titles!r} cannot be the titles: it holds {kind}; name another with --titles")
    check_text(raw.lazy(), titles, where)
    text = column.list.join(" ") if kind == WORDS else column.cast(pl.String)
    stripped = text.str.strip_chars()
    return pl.when(stripped != "").then(stripped).otherwise(item)


def _complete(column: pl.Series, ids: pl.Series, fill: Fill | None, where: str) -> tuple[list[pl.Series], list[str]]:
    """The attribute as finite Float32, with a note if values were filled in."""
    notes, name, missing = [], column.name, column.null_count()
    if missing and fill == "median" and missing < len(column):
        median: Any = column.median()
        column = column.fill_null(median)
        notes.append(f"attribute {name}: {counted(missing, 'missing value')} set to {median:g}")
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
    """One 0/1 column per distinct word, in alphabetical order; `name:word` if the word already is a column's name.

    Above `WORD_LIMIT` words, those that the most items have are kept, and the second value is a note about it.
    """
    words = _words(column, name, where)
    counts = words.list.unique().explode().drop_nulls().alias("word").value_counts(name="items")
    if not len(counts):
        raise DataError(f"{where}: column {name!r} cannot be an attribute: it holds no word; leave it out")
    ranked = counts.sort("items", "word", descending=[True, False])
    kept, dropped = ranked[:WORD_LIMIT], ranked[WORD_LIMIT:]
    notes = []
    if len(dropped):
        notes.append(
            f"attribute {name}: {len(ranked):,} different words; the {WORD_LIMIT} that the most items have are kept, "
            f"{len(dropped):,} are dropped, which at most {dropped['items'][0]:,} of {len(column):,} items have each"
        )
    found = [
        words.list.contains(word).fill_null(False).cast(pl.Float32).alias(f"{name}:{word}" if word in taken else word)
        for word in sorted(kept["word"].to_list())
    ]
    return found, notes


def _words(column: pl.Series, name: str, where: str) -> pl.Series:
    check_describes(name, column.dtype, False, where)
    if column.dtype == WORDS:
        return _stripped(column)
    text = column.cast(pl.String)
    return _stripped(text.str.split(_mark(text)))


def check_describes(name: str, kind: Any, number: bool, where: str) -> None:
    """Raises a `DataError` where a column that is no `number` holds no words, so that it cannot be an attribute."""
    if number or kind == WORDS or isinstance(kind, TEXT):
        return
    raise DataError(
        f"{where}: column {name!r} cannot be an attribute: it holds {kind}, not numbers or words"
        + ("; write it as a number, such as days or seconds" if kind.is_temporal() else "")
    )


def _stripped(words: pl.Series, missing: Sequence[str] = ()) -> pl.Series:
    """Lists of words, stripped of white space, without empty words and words for a missing value."""
    word = pl.element().str.strip_chars()
    return words.list.eval(word.filter(~word.is_in(["", *missing])))


def _mark(text: pl.Series) -> str:
    """The separator of words: the first mark in a tenth of the texts with any mark, or a space."""
    holding = {mark: text.str.contains(mark, literal=True).fill_null(False) for mark in (*MARKS, " ")}
    several = int(pl.DataFrame(holding).select(pl.any_horizontal(pl.all()).sum()).item())
    return next((mark for mark in MARKS if holding[mark].any() and holding[mark].sum() >= several / 10), " ")


def varying(log: pl.LazyFrame, numbers: Sequence[str], texts: Sequence[str] = ()) -> dict[str, object]:
    """The columns of a log that vary within an item, each with an example of such an item.

    Missing and infinite values are ignored, as are differences below `NOISE` of the column's range.
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


def describing(
    log: pl.LazyFrame, columns: Collection[str], owner: str = "item_id", other: str = "user_id"
) -> list[str]:
    """The columns that describe the item (or the user): that they never vary within one is no chance (`DIFFERING`).

    Only items that several users had with a value are evidence. With few of them, the column may as well describe a
    user or a session; as an attribute it would then reveal who had the item. Likewise for users.

    Args:
        log: has the columns `user_id` and `item_id`, too.
        columns: of texts or numbers, constant within each `owner`.
        owner: what they may describe: `item_id` or `user_id`.
        other: the other one of the two; only owners whose rows have several of these are evidence.
    """
    one = pl.col(other).hash()
    log = log.with_columns(pl.when(pl.col(name).is_not_null()).then(one).alias(f"{name}\0one") for name in columns)
    others = {name: pl.col(f"{name}\0one") for name in columns}
    several = [(one.min() != one.max()).alias(f"{name}\0several") for name, one in others.items()]
    owners = log.group_by(owner).agg(*(pl.col(name).max() for name in columns), *several)
    found = owners.collect(engine="streaming")
    telling = []
    for name in columns:
        counts = found.filter(pl.col(f"{name}\0several")).group_by(name).len("\0owners")["\0owners"].to_numpy()
        alike = (counts.astype(np.float64) ** 2).sum() / max(counts.sum(), 1)  # chance that two random values are equal
        if counts.sum() - alike >= DIFFERING:
            telling.append(name)
    return telling


def first_values(log: pl.LazyFrame, columns: Sequence[str]) -> pl.DataFrame:
    """One row per item, ordered by id: its first non-missing value in each column."""
    schema = log.collect_schema()
    known = {name: pl.col(name).fill_nan(None) if schema[name].is_float() else pl.col(name) for name in columns}
    firsts = log.group_by("item_id", maintain_order=True).agg(
        value.drop_nulls().first().alias(name) for name, value in known.items()
    )
    return firsts.sort("item_id").collect()
