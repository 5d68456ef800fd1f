"""Which column of a log plays which role, how that is known, and which columns ought to have one."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from what_next.data.importing.columns import ROW_LABELS, exact, numeric, recognise
from what_next.data.importing.readers import Source
from what_next.data.importing.times import like_times
from what_next.data.tables import Options
from what_next.errors import MOST_NAMES

ROLES = ("user", "item", "time", "reward", "event", "titles")
ID_NAME = r"(?:^|[\s_.-])(?:id|uid|iid|uuid|guid|asin|isbn|ean|upc|sku|user|item|code)$|[a-z]I[dD]$"
"""How the names of ids end."""
EXACT_IN_FLOATS = 2**24
"""Whole numbers up to here are exact in 32 bits; most of a column above it are hardly a quantity."""


@dataclass(frozen=True)
class Assigned:
    """The columns by role.

    Attributes:
        columns: the column of each role that has one.
        how: for each of them, how that is known.
        odd: columns without a role that look like times or ids, so that they are neither attribute nor context.
        warnings: what to say of them, and where no column holds times.
    """

    columns: dict[str, str]
    how: dict[str, str]
    odd: frozenset[str]
    warnings: list[str]


def assign(
    raw: pl.LazyFrame,
    names: Sequence[str],
    sources: Sequence[Source],
    given: Mapping[str, str | None],
    options: Options,
    where: str,
) -> Assigned:
    """Tell the roles: by the user's options, else by names; times by their values, too, where no name tells.

    Args:
        raw: the log.
        names: its columns.
        sources: the files that it comes from.
        given: the columns that the user named, by role.
        options: what else the user said.
        where: the files, for messages.

    Raises:
        DataError: see `recognise`.
    """
    guessed, named = dict[str, str](), {source.named for source in sources}
    if named == {"nobody"}:
        guessed = _by_place(raw, names, given, where)
    hint = "; if the first line holds no names, see --no-header and --columns" if options.header is None else ""
    columns = recognise(names, ROLES, ("user", "item"), {**given, **guessed}, where, hint=hint)
    by_name = "by the layout of MovieLens' files" if named == {"layout"} else "by its name"
    how = {role: f"by --{role}" if given.get(role) else by_name for role in columns}
    how |= {role: "by its place" if role in ("user", "item") else "by its values" for role in guessed}
    said = {*columns.values(), *(options.attributes or ()), *(options.context or ()), *ROW_LABELS}
    free = [name for name in names if name not in said]
    times = like_times(raw, free)
    if "time" not in columns and given.get("time") is None:
        moving = _moving(raw, times, (columns["user"], columns["item"]))
        if len(moving) == 1:
            columns["time"], how["time"] = moving[0], "by its values"
            times.remove(moving[0])
    ids = like_ids(raw, [name for name in free if name not in times and name not in columns.values()])
    warnings = odd_columns(times, ids, where)
    if "time" not in columns and given.get("time") is None:
        warnings.append(
            f"{where}: no column holds times, so the order of the rows is taken as the order of events; name one with "
            "--time, or say --time '' if there is none"
        )
    return Assigned(columns, how, frozenset([*times, *ids]), warnings)


def _by_place(raw: pl.LazyFrame, names: Sequence[str], given: Mapping[str, str | None], where: str) -> dict[str, str]:
    """Roles of columns without names: first the user, then the item, as logs have it; the others by their values."""
    said = [exact(names, wanted, f"--{role}", where) for role, wanted in given.items() if wanted]
    free = [name for name in names if name not in said]
    times = like_times(raw, free)
    others = [name for name in free if name not in times]
    found = {role: others.pop(0) for role in ("user", "item") if not given.get(role) and others}
    numbers = list(numeric(raw, others))
    if given.get("time") is None and len(times) == 1:
        found["time"] = times[0]
    if given.get("reward") is None and len(numbers) == 1:
        found["reward"] = numbers[0]
    return found


def _moving(raw: pl.LazyFrame, times: Sequence[str], owners: Sequence[str]) -> list[str]:
    """Those columns that vary within a user, and within an item: a date of birth or of release is no time of events."""
    for owner in owners:
        if times:
            varies = [(pl.col(name).min() != pl.col(name).max()).alias(name) for name in times if name != owner]
            found = raw.group_by(owner).agg(varies).select(pl.col(times).any()).collect(engine="streaming")
            times = [name for name in times if found[name].item()]
    return list(times)


def like_ids(raw: pl.LazyFrame, columns: Collection[str]) -> list[str]:
    """Those columns that are called like ids, or hold codes with zeros in front, or too large numbers."""
    head = raw.select(columns).head(1000).collect() if columns else pl.DataFrame()
    return [name for name in columns if re.search(ID_NAME, name) or _codes(head[name].drop_nulls())]


def _codes(values: pl.Series) -> bool:
    if values.dtype == pl.String:
        if values.str.contains(r"^0\d+$").any() and values.str.contains(r"^\d+$").all():
            return True
        values = values.cast(pl.Int64, strict=False)
    return bool(len(values)) and values.dtype.is_integer() and (values > EXACT_IN_FLOATS).sum() >= 0.9 * len(values)


def odd_columns(times: Sequence[str], ids: Sequence[str], where: str) -> list[str]:
    """What to say of columns that look like times or ids, and have no role."""
    return [
        f"{where}: column {name!r} looks like {what} and got no role, so it is left out; name it with {roles}, or with "
        "--context or --attributes where it describes the event or the item"
        for what, found, roles in (("times", times, "--time"), ("ids", ids, "--user or --item"))
        for name in found[:MOST_NAMES]
    ]
