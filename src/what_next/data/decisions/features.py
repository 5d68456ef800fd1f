"""Features for reward models of a decision log: item attributes, and the context known before each decision."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float64, Int64

from what_next.data.decisions.log import Items
from what_next.data.files import beside
from what_next.data.importing.attributes import item_table
from what_next.data.importing.columns import ITEM_TABLE_ALIASES, ROW_LABELS, exact, numeric, recognise
from what_next.data.importing.ids import as_ids, check_text
from what_next.data.importing.readers import Source, open_source
from what_next.errors import DataError, as_found

OPEN_BANDIT_ITEMS = "item_context.csv"
KINDS = {"item": "an item id", "user": "a user id", "slate": "a slate id", "time": "a time"}
WORDS = 10
"""Most columns from one text column: its most common words, except the first, which is the reference category."""
WIDTH = 48
"""Most item features; more are reduced to the leading singular vectors."""


def column_of(source: Source, value: pl.Expr, column: str, role: str, wanted: str = "") -> pl.Series:
    """The values of a column, in the order of the file.

    Args:
        value: reads the column; null where a value cannot be used.
        role: the role of the column, and `wanted`: the usable values, for the message.

    Raises:
        DataError: a row has no usable value; the message names the first such row and its value.
    """
    values = source.frame.select(value.alias(column)).collect().to_series()
    if not len(values):
        raise DataError(f"{source.path}: is empty: no rows; expected one row per decision")
    missing = values.is_null()
    if not missing.any():
        return values
    row, count = int(missing.arg_true()[0]), int(missing.sum())
    found = source.frame.select(column).slice(row, 1).collect().item()
    nothing = "Write 0 where nothing was earned, correct" if role == "reward" and found is None else "Correct"
    raise DataError(
        f"{source.path}: the {role} in line {row + source.first_line} (column {column!r}) is {as_found(found)}, not "
        f"{KINDS.get(role, 'a number')}{wanted and ' ' + wanted} ({count:,} of {len(values):,} rows). "
        f"{nothing} the log, or name another column with --{role}"
    )


def item_file(path: Path, given: Path | None, open_bandit: bool) -> Path | None:
    """The table of a log's items: the given one, or the one beside the log."""
    own = path.with_name(OPEN_BANDIT_ITEMS) if open_bandit else beside(path, "items")
    return given or (own if own.is_file() else None)


def read_items(source: Source, column: str, path: Path | None, *, words: bool) -> tuple[Items, pl.Series]:
    """The catalogue, and the logged item ids with the same type.

    Args:
        source: the log; `column`: with its items.
        path: the table of the items; None: the catalogue consists of the logged items.
        words: whether text columns become attributes, too.

    Raises:
        DataError: the table cannot be used, or lacks an item of the log.
    """
    if path is None:
        logged = column_of(source, as_ids([(source.frame, column)])[0], column, "item")
        return Items(logged.unique().sort()), logged
    table = open_source(path)
    names = [name for name in table.frame.collect_schema().names() if name not in ROW_LABELS]
    own = {"item": column} if column in names else {}
    roles = recognise(names, ("item", "titles"), ("item",), own, str(path), ITEM_TABLE_ALIASES)
    mine, theirs = as_ids([(source.frame, column), (table.frame, roles["item"])])
    others = [name for name in names if name not in roles.values()]
    raw = table.frame.select(theirs.alias("item_id"), *(other for other in others if other != "item_id")).collect()
    for wrong, what in (
        (raw["item_id"].is_null(), "has no item id"),
        (~raw["item_id"].is_first_distinct(), "is another row of item {!r}"),
    ):
        if count := int(wrong.sum()):
            row = int(wrong.arg_true()[0])
            told = f"line {row + table.first_line} {what.format(raw['item_id'][row])}"
            raise DataError(f"{path}: {told} ({count:,} such of {len(raw):,} rows); give one row per item")
    logged = column_of(source, mine, column, "item")
    missing = logged.filter(~logged.is_in(raw["item_id"].implode()))
    if len(missing):
        raise DataError(
            f"{source.path}: item {missing[0]!r} is not in {path}, the table of what could have been chosen; add it "
            "there, or name another table with --items"
        )
    attributes, _ = item_table(raw, None, others if words else None, (), "median", str(path))
    return Items(attributes["item_id"], _vectors(attributes)), logged


def propensity_of_items(source: Source, names: Sequence[str], given: str | None) -> Source:
    """An imported log; if it has no propensities, those in its item table are added to it.

    The import moves columns that are constant for each item there, such as the propensities of a context-free policy.

    Args:
        names: recognised names of the propensity column; `given`: the user's own choice.
    """
    path, columns = beside(source.path, "items"), source.frame.collect_schema().names()
    if not path.is_file() or "item_id" not in columns or _named(columns, names, given):
        return source
    table = open_source(path).frame
    found = _named([name for name in table.collect_schema().names() if name not in columns], names, given)
    if found is None:
        return source
    joined = source.frame.join(table.select("item_id", found), on="item_id", how="left", maintain_order="left")
    return Source(joined, source.path, source.first_line)


def _named(columns: Sequence[str], names: Sequence[str], given: str | None) -> str | None:
    """The given column, or one with a recognised name."""
    if given is not None:
        return given if given in columns else None
    return recognise(columns, ("propensity",), (), {}, "", {"propensity": names}).get("propensity")


def contexts_of(
    rows: int,
    columns: Sequence[pl.Series],
    places: Int64[np.ndarray, "rows"] | None,
    past: dict[str, Float64[np.ndarray, "rows"]],
    where: str,
) -> tuple[Float64[np.ndarray, "rows context"], tuple[str, ...]]:
    """The context of each decision, each column with mean 0 and standard deviation 1; and the columns' names.

    Args:
        columns: of the log: numbers stay numbers, text becomes 0/1 columns (see `WORDS`).
        places: slots, as categories.
        past: features of the user's own earlier rows (`past_of`), by name.
        where: the file, for messages.

    Raises:
        DataError: a number is missing, or a column holds neither numbers nor words.
    """
    found: dict[str, np.ndarray] = {}
    for column in columns:
        frame, name = pl.LazyFrame([column]), column.name
        numbers = numeric(frame, [name])
        if name not in numbers:
            if column.dtype.is_nested():
                kind = column.dtype
                raise DataError(f"{where}: column {name!r} cannot be context: it holds {kind}, not numbers or words")
            check_text(frame, name, where)
            found |= _words(column)
            continue
        values = pl.DataFrame([column]).select(numbers[name]).to_series()
        if not values.is_finite().fill_null(False).all():
            raise DataError(f"{where}: context column {name!r} is not a number in every row; correct the log")
        found[name] = values.to_numpy()
    if places is not None:
        found |= _words(pl.Series("slot", places))
    return _standardised(found | past, rows)


def past_of(
    users: Int64[np.ndarray, "rows"], moments: Int64[np.ndarray, "rows"], rewards: Float64[np.ndarray, "rows"]
) -> dict[str, Float64[np.ndarray, "rows"]]:
    """Features of the user's own earlier rows: the logarithm of their number plus one, and their mean reward (or 0).

    Args:
        users: of each row, ascending; each user's rows in order of time.
        moments: for each row, the first row that was decided at the same time, see `moments_of`.
    """
    starts, running = np.searchsorted(users, users), np.cumsum(rewards) - rewards
    before = moments - starts
    earned = np.where(before > 0, (running[moments] - running[starts]) / np.maximum(before, 1), 0.0)
    return {"earlier rows": np.log1p(before), "earlier reward": earned}


def context_columns(
    source: Source, names: Sequence[str], order: Int64[np.ndarray, "rows"], roles: Mapping[str, str]
) -> list[pl.Series]:
    """Some columns of the log, in the order given.

    Raises:
        DataError: a column does not exist, or already has one of the log's roles (`roles`: columns by role).
    """
    columns, taken = source.frame.collect_schema().names(), {column: role for role, column in roles.items()}
    chosen = list(dict.fromkeys(exact(columns, name, "--context", str(source.path)) for name in names))
    for name in chosen:
        if name in taken:
            raise DataError(
                f"{source.path}: column {name!r} is the {taken[name]}, and no context; name with --context columns "
                "that were known before the decision and play no other role"
            )
    return [one.gather(order) for one in source.frame.select(chosen).collect().iter_columns()]


def _words(column: pl.Series) -> dict[str, Float64[np.ndarray, "rows"]]:
    """A 0/1 column for each of the most common words but the first; ties in alphabetical order."""
    text = column.cast(pl.String).fill_null("").alias("word")
    counts = text.value_counts().sort(["count", "word"], descending=[True, False])
    words = counts["word"][1 : WORDS + 1]
    return {f"{column.name}={word}": (text == word).cast(pl.Float64).to_numpy() for word in words}


def _standardised(
    columns: Mapping[str, Float64[np.ndarray, "rows"]], rows: int
) -> tuple[Float64[np.ndarray, "rows columns"], tuple[str, ...]]:
    """The columns that are not constant, each with mean 0 and standard deviation 1; and their names."""
    scaled = {name: (values - values.mean()) / values.std() for name, values in columns.items() if np.ptp(values) > 0}
    return np.stack(list(scaled.values()), -1) if scaled else np.zeros((rows, 0)), tuple(scaled)


def _vectors(table: pl.DataFrame) -> Float64[np.ndarray, "items width"] | None:
    """The standardised attributes in at most `WIDTH` columns; None without attributes."""
    attributes = table.drop("item_id", "title")
    columns = {one.name: one.to_numpy().astype(np.float64) for one in attributes.iter_columns()}
    vectors, names = _standardised(columns, len(table))
    if len(names) <= WIDTH:
        return vectors if names else None
    left, sizes, _ = np.linalg.svd(vectors, full_matrices=False)
    narrow = left[:, :WIDTH] * sizes[:WIDTH]
    return np.asarray(narrow / narrow.std())
