"""The columns of a log that have no role: attributes of the item, context of the event, or nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from what_next.data.importing.attributes import varying
from what_next.data.importing.columns import ROW_LABELS, exact, numeric
from what_next.data.importing.raw_log import RawLog
from what_next.errors import DataError, some


@dataclass(frozen=True)
class Extras:
    """What the columns without a role are for.

    Attributes:
        attributes: columns of a wide log that describe the item.
        context: columns that describe the event, as Float32 expressions.
        notes: what was left out.
    """

    attributes: list[str]
    context: dict[str, pl.Expr]
    notes: list[str]

    @classmethod
    def sort_out(cls, log: RawLog, kept: pl.LazyFrame, item_id: pl.Expr, has_table: bool) -> "Extras":
        """Numbers that are constant for each item describe the item, those that vary describe the event."""
        own = ("user_id", "item_id", "timestamp", "reward", "title", *(["event"] if "event" in log.columns else []))
        taken = [*log.columns.values(), *ROW_LABELS, *own]
        others = [name for name in log.names if name not in taken]
        numbers = numeric(kept, others)
        wanted = log.options.attributes
        named = [] if wanted is None or has_table else [exact(log.names, n, "--attributes", log.where) for n in wanted]
        text = {name: pl.col(name).cast(pl.String) for name in named if name not in numbers}
        moving = varying(kept.select(item_id.alias("item_id"), **numbers, **text), list(numbers), list(text))
        for name in named:
            if name in moving:
                raise DataError(
                    f"{log.where}: column {name!r} is no attribute of the item: it varies for item {moving[name]!r}; "
                    "leave it out of --attributes, or give an item table with --items"
                )
        odd = log.roles.odd
        plain = {name: number for name, number in numbers.items() if name not in odd}
        attributes = named if wanted is not None else ([] if has_table else _telling(kept, plain, moving))
        context, notes = _context(log, kept, {name: plain[name] for name in plain if name in moving}, numbers)
        left = [name for name in others if name not in attributes and name not in context and name not in odd]
        if left:
            notes.append(f"log columns left out: {some(left)}")
        return cls(attributes, context, notes)


def _telling(kept: pl.LazyFrame, numbers: Mapping[str, pl.Expr], moving: Mapping[str, object]) -> list[str]:
    """Columns that are constant for each item, but not for all items: the latter tell nothing apart."""
    steady = {name: number for name, number in numbers.items() if name not in moving}
    if not steady:
        return []
    differs = kept.select((number.min() < number.max()).alias(name) for name, number in steady.items())
    return [name for name, yes in differs.collect(engine="streaming").row(0, named=True).items() if yes]


def _context(
    log: RawLog, kept: pl.LazyFrame, moving: dict[str, pl.Expr], numbers: dict[str, pl.Expr]
) -> tuple[dict[str, pl.Expr], list[str]]:
    """Named context columns must be complete; recognised ones that are not are left out, and said so."""
    wanted = log.options.context
    names = list(moving) if wanted is None else [exact(log.names, name, "--context", log.where) for name in wanted]
    for name in names:
        if name not in numbers:
            raise DataError(f"{log.where}: column {name!r} cannot be context: it does not hold numbers")
    if not names:
        return {}, []
    gaps = kept.select((~numbers[name].is_finite().fill_null(False)).sum().alias(name) for name in names)
    missing = {name: count for name, count in gaps.collect(engine="streaming").row(0, named=True).items() if count}
    for name, count in missing.items():
        if wanted is not None:
            raise DataError(f"{log.where}: context column {name!r} is not a number in {count:,} rows; correct them")
    notes = [f"column {name} is no context: not a number in {count:,} rows" for name, count in missing.items()]
    return {name: numbers[name].cast(pl.Float32) for name in names if name not in missing}, notes
