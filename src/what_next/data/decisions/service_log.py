"""The exported log of a service: one file with the users' events and the service's decisions.

Both kinds of rows have `user_id`, `item_id`, `timestamp`, `reward` and `context` (numbers by name, as JSON). Rows of
events have `event` and `number`, those of decisions the columns of `DECISION`; a row without a propensity is an event.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import FiniteFloat, TypeAdapter, ValidationError

from what_next.data.decisions.rule import Rule
from what_next.data.files import FORMATS, beside, footer_of, steady
from what_next.data.importing.readers import Source
from what_next.errors import DataError, as_found

EVENT = pl.col("propensity").is_null()
"""Selects the rows that are events."""

DECISION = {
    "propensity": pl.Float64, "position": pl.Int32, "slate": pl.String, "version": pl.String, "policy": pl.String,
    "known": pl.Int64, "history": pl.String, "seen": pl.Boolean, "masked": pl.Boolean, "withdrawn": pl.Int64,
    "permitted": pl.String, "experiment": pl.String, "arm": pl.String,
}  # fmt: skip
"""The columns of a decision.

`propensity` is the probability of the item, given the items of a smaller `position` (from 1) in the same `slate` (the
id of the recommendation); `version` of the model and `policy` identify the policy; `known` is the largest `number` of
an event of the user that the decision knew, 0 for none; `history` is the list of item ids that the request gave
instead, as JSON; `seen`: whether items of the history could be shown again; `masked`: whether the request permitted
only some items; `withdrawn` is the number of the last of the `WITHDRAWALS` that the decision knew, 0 for none;
`permitted` is the rule of a masked request (`Rule.text`), null if unknown; `experiment` and `arm` identify the
experiment, and which of its two policies made the decision, null outside of experiments.
"""

ADDED = "what_next.added"
"""Key in the footer: how many items at the end of the item table were added or changed while the service ran."""

WITHDRAWALS = "what_next.withdrawals"
"""Key in the footer: JSON with every withdrawal or return of an item: its number, the item's id, and whether the item
was withdrawn or put back."""

PLAYED = ("play", "purchase")
"""If only some events have a reward, other events earn 1 if they are of these kinds, else 0."""

OWN = ("user_id", "item_id", "timestamp", "reward", "event")
"""Columns of a log, whose names a number of the context must not have."""

AGAIN = "the file is not as it was exported; export it again"
"""End of the messages about a log that was changed."""


def is_service_log(path: Path) -> bool:
    """Whether a file is an exported log of a service; a `DataError` if its format is newer."""
    return footer_of(path).get("what_next.format") == FORMATS[2]


def rows_of(path: Path) -> pl.DataFrame:
    """All rows of an exported log.

    Raises:
        DataError: the file was changed: a column is missing or of another type, or holds a wrong value.
    """
    with readable_export(path):
        return scan_of(path).collect()


def scan_of(path: Path) -> pl.LazyFrame:
    """The rows of an exported log, lazily, after a check of its columns and values; raises what `rows_of` raises."""
    footer = footer_of(path)
    if not footer.get(ADDED, "0").isdecimal() or not _fits(footer.get(WITHDRAWALS, "[]"), CHANGES):
        raise DataError(f"{path}: its footer is damaged ({ADDED} or {WITHDRAWALS}); {AGAIN}")
    with readable_export(path):
        rows = pl.scan_parquet(path, glob=False)
        schema = rows.collect_schema()
        items = pl.scan_parquet(beside(path, "items"), glob=False).collect_schema()
        if not items.keys() >= {"item_id", "title"}:
            raise DataError(f"{beside(path, 'items')}: has no columns item_id and title; {AGAIN}")
        for name, (fits, wanted) in FORM.items():
            if (dtype := schema.get(name)) is None or not (fits(dtype) or dtype == pl.Null):
                found = "is missing" if dtype is None else f"holds {dtype}"
                raise DataError(f"{path}: column {name!r} {found} instead of {wanted}; {AGAIN}")
        _check(path, rows)
    return rows


def _check(path: Path, rows: pl.LazyFrame) -> None:
    """Raises a `DataError` where a row holds a wrong value."""
    texts = {name: rows.select(pl.col(name).unique()).collect(engine="streaming")[name].drop_nulls() for name in JSON}
    unfit = {name: [text for text in some if not _fits(text, JSON[name])] for name, some in texts.items()}
    wrong = {
        **{name: pl.col(name).is_null() for name in ("user_id", "item_id", "timestamp")},
        **{name: EVENT & pl.col(name).is_null() for name in ("event", "number")},
        **{name: ~EVENT & pl.col(name).is_null() for name in ("slate", "position", "seen", "masked")},
        **{name: ~EVENT & ~(pl.col(name) >= 0).fill_null(False) for name in ("known", "withdrawn")},
        **{name: pl.col(name).is_in(some) for name, some in unfit.items() if some},
    }
    sums = (test.fill_null(False).sum().alias(name) for name, test in wrong.items())
    counts = rows.select(pl.len(), *sums).collect(engine="streaming").row(0, named=True)
    for name, test in wrong.items():
        if counts[name]:
            first = rows.with_row_index("place", 1).filter(test).select("place", name).head(1)
            place, value = first.collect(engine="streaming").row(0)
            wrong_row = f"row {place} (column {name!r}) is {as_found(value)[:80]}, not {FORM[name][1]}"
            raise DataError(f"{path}: {wrong_row} ({counts[name]:,} of {counts['len']:,} rows); {AGAIN}")


@contextmanager
def readable_export(path: Path) -> Iterator[None]:
    """Turns errors while reading an exported log, or its item table, into a `DataError`."""
    try:
        with steady():
            yield
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}, or its item table: cannot be read ({error}); {AGAIN}") from None


def _fits(text: str, kind: Any) -> bool:
    """Whether a text is JSON of this type."""
    try:
        kind.validate_json(text, strict=True)
    except ValidationError:
        return False
    return True


FORM: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("user_id", "item_id"), (lambda one: one == pl.String or one.is_integer(), "an id")),
    "timestamp": (lambda one: one == pl.Datetime, "a time"),
    "event": (lambda one: isinstance(one, pl.Enum), "a kind of event"),
    **dict.fromkeys(("reward", "propensity"), (lambda one: one.is_numeric(), "a number")),
    **dict.fromkeys(
        ("number", "position", "known", "withdrawn"), (lambda one: one.is_integer(), "a whole number from 0 on")
    ),
    **dict.fromkeys(("slate", "version", "policy", "experiment", "arm"), (lambda one: one == pl.String, "a text")),
    **dict.fromkeys(("seen", "masked"), (lambda one: one == pl.Boolean, "true or false")),
    "history": (lambda one: one == pl.String, "a list of item ids as JSON"),
    "context": (lambda one: one == pl.String, "numbers by name as JSON"),
    "permitted": (lambda one: one == pl.String, "a rule of allowed, blocked, ranges and tags as JSON"),
}
"""For each column of an exported log a check of its type, and a description of its values."""

JSON: dict[str, TypeAdapter[Any]] = {
    "history": TypeAdapter(list[str]), "context": TypeAdapter(dict[str, FiniteFloat]), "permitted": TypeAdapter(Rule),
}  # fmt: skip
"""Columns with JSON texts, and the types of their content."""
CHANGES: TypeAdapter[Any] = TypeAdapter(list[tuple[int, str, bool]])
"""The type of the `WITHDRAWALS`."""


def events_of(path: Path) -> pl.DataFrame:
    """The events as a clean log (see `Tables.log`), for training and evaluation.

    If only some events have a reward, the others get 1 for a play or a purchase, and 0 otherwise. A number of the
    context is read if every event has it.

    Raises:
        DataError: there are none, or the file is not as it was exported.
    """
    found = rows_of(path).filter(EVENT).select(*OWN, "context")
    if not len(found):
        raise DataError(f"{path}: holds decisions alone, and no events to learn from; send events, then export again")
    context, _ = context_of(found["context"])
    if found["reward"].null_count() == len(found):
        return found.drop("reward", "context").hstack(context)
    played = pl.col("event").cast(pl.String).is_in(PLAYED).cast(pl.Float32)
    return found.drop("context").with_columns(pl.coalesce("reward", played)).hstack(context)


def decisions_in(source: Source, propensities: bool) -> tuple[Source, tuple[str, ...]]:
    """The decisions that off-policy estimators can use, and what is left out, in words.

    Decisions under a mask are left out if the log does not contain the mask, because another policy's probabilities
    depend on it. If propensities are needed, decisions with propensity 1 for every item are left out as well, because
    they say nothing about other choices.

    Raises:
        DataError: there are none, the item table is missing, or the file is not as it was exported.
    """
    items = beside(source.path, "items")
    if not items.is_file():
        raise DataError(f"{items}: no such file; it belongs to {source.path}, export the log again")
    certain = (pl.col("propensity") == 1).all().over("slate") if propensities else pl.lit(False)
    rows = rows_of(source.path).filter(~EVENT).with_columns(certain.alias("certain"))
    answers = rows.unique("slate")
    masked = answers["masked"] & answers["permitted"].is_null()
    sure = answers["certain"] & ~masked
    reasons = {
        "allowed, blocked, ranges or tags permitted some items only, and an earlier version did not keep which": masked,
        "given without exploration (server.temperature and server.epsilon were 0, or popular items were "
        "the answer), which shows nothing of other choices": sure,
    }
    notes = tuple(f"{one.sum():,} answers left out: {reason}" for reason, one in reasons.items() if one.any())
    told = ~pl.col("masked") | pl.col("permitted").is_not_null()
    kept = rows.filter(told & ~pl.col("certain")).drop("certain")
    if not len(kept):
        raise DataError(
            f"{source.path}: has no decisions that can be weighed ({'; '.join(notes) or 'there are none'}); serve with "
            "server.temperature or server.epsilon above 0 for a while, then export again"
        )
    return Source(kept.lazy(), source.path), notes


def context_of(texts: pl.Series) -> tuple[pl.DataFrame, list[str]]:
    """The numbers that all contexts have; and what is left out, in words.

    Args:
        texts: numbers by name, as JSON; null for no context.
    """
    if not len(texts) or texts[0] is None:
        return pl.DataFrame(), []
    names = list(json.loads(texts[0]))
    notes = [f"context {name} left out: the log has a column of that name" for name in names if name in OWN]
    found = numbers_in(texts, [name for name in names if name not in OWN])
    gaps = {one.name: one.null_count() for one in found.iter_columns() if one.null_count()}
    notes += [f"context {name} left out: {count:,} events lack it" for name, count in gaps.items()]
    return found.drop(list(gaps)), notes


def numbers_in(texts: pl.Series, names: Sequence[str]) -> pl.DataFrame:
    """A column for each number in JSON texts; null where a text does not have it."""
    if not names:
        return pl.DataFrame()
    return texts.str.json_decode(pl.Struct(dict.fromkeys(names, pl.Float32))).struct.unnest()
