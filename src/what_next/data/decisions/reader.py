"""Reads decision logs: the Open Bandit files, imported logs, exported logs, and tables with an item and a reward."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float64, Int64

from what_next.data.decisions.features import (
    column_of,
    context_columns,
    contexts_of,
    item_file,
    past_of,
    propensity_of_items,
    read_items,
)
from what_next.data.decisions.log import DecisionLog, Kind, Roles, moments_of
from what_next.data.decisions.service_log import decisions_in, is_service_log
from what_next.data.importing.columns import ALIASES, as_number, as_reward, exact, recognise
from what_next.data.importing.ids import as_ids, positions
from what_next.data.importing.readers import Source, open_source
from what_next.data.importing.times import read_times
from what_next.errors import DataError, some

Rows = Int64[np.ndarray, "rows"]

NAMES: Mapping[str, Sequence[str]] = {
    **ALIASES,
    "propensity": (
        "propensity", "propensity_score", "pscore", "propensities", "action_prob", "action_probability",
        "logging_probability", "probability", "prob",
    ),
    "position": ("position", "slot", "rank", "place"),
    "slate": ("slate_id", "slate", "impression_id", "impression", "request_id", "list_id"),
}  # fmt: skip
"""Recognised column names, as in `columns.ALIASES`."""

ROUNDING = 1e-6
"""How far a probability of 1 may be above it: several roundings of single precision."""
OPEN_BANDIT = {"item_id", "position", "click", "propensity_score"}
"""Columns that identify the Open Bandit files (Saito et al. 2020, arXiv 2008.07146)."""

PLACES = 10_000
"""Largest position. Larger numbers are ids or counts instead of slots."""

SERVICE = Roles("user_id", "item_id", "timestamp", "reward", "propensity", "position", "slate")
"""Default columns of a service's exported log."""


def read_log(
    path: Path, roles: Roles | None = None, items: Path | None = None, *, propensities: bool = True
) -> DecisionLog:
    """Read a log of decisions.

    Args:
        path: a CSV, TSV or Parquet file, an imported data set, the exported log of a service, or a log of the Open
            Bandit data.
        roles: columns by role, where their names are not recognised.
        items: a table with one row per item, which is the catalogue. Imported logs and the Open Bandit files
            (`item_context.csv`) have their own beside them; otherwise the catalogue consists of the logged items.
        propensities: whether the log must have propensities; if not, existing ones are ignored.

    Raises:
        DataError: the file cannot be read, a column is missing, or a value cannot be used.
    """
    source, roles, kind, notes = _opened(path, roles or Roles(), propensities)
    open_bandit, columns = kind == "open bandit", _recognised(source, roles, propensities)
    catalogue, logged = read_items(source, columns["item"], item_file(path, items, open_bandit), words=open_bandit)
    if len(catalogue) < 2:
        raise DataError(f"{path}: there is only one item, so nothing to choose; name the others with --items")
    units, user_ids, slates = _units(source, columns)
    rows = {"actions": positions(logged, catalogue.ids).astype(np.int64), **_rows(source, columns)}
    slates = _slates(source, columns, slates, None if user_ids is None else units, rows["times"], rows["places"])
    order = _order(units, slates, rows["times"], rows["places"])
    ordered: dict[str, Any] = {name: None if values is None else values[order] for name, values in rows.items()}
    units = units[order]
    if slates is not None:  # renumbered in their new order
        slates = np.cumsum(np.diff(slates[order], prepend=slates[order[0]]) != 0)
    features = [name for name in source.names if name.startswith("user_feature_")] if open_bandit else []
    texts = context_columns(source, roles.context or features, order, columns)
    moments = moments_of(units, slates, ordered["times"])
    past = {} if user_ids is None else past_of(units, moments, ordered["rewards"])
    contexts, context_names = contexts_of(len(units), texts, ordered["places"], past, str(path))
    return DecisionLog(
        source, kind, columns, catalogue, user_ids, units,
        slates=slates, contexts=contexts, context_names=context_names, order=order,
        context_columns=tuple(one.name for one in texts), notes=notes, **ordered,
    )  # fmt: skip


def _opened(path: Path, roles: Roles, propensities: bool) -> tuple[Source, Roles, Kind, tuple[str, ...]]:
    """The rows of a file, its columns by role, the kind of log, and notes on what is left out of it."""
    source = open_source(path)
    if is_service_log(path):
        source, notes = decisions_in(source, propensities)
        named = {name: value or getattr(SERVICE, name) for name, value in roles.given.items()}
        return source, Roles(**named, context=roles.context), "service", notes
    names = source.names
    open_bandit = set(names) >= OPEN_BANDIT and not recognise(names, ("user",), (), roles.given, str(path))
    if propensities:
        source = propensity_of_items(source, NAMES["propensity"], roles.propensity)
    return source, roles, "open bandit" if open_bandit else "log", ()


def propensities_in(log: DecisionLog, column: str) -> Float64[np.ndarray, "rows"]:
    """A column of the log with a policy's probability of the logged item.

    Raises:
        DataError: the column does not exist, or holds values that are not probabilities.
    """
    name = exact(log.source.names, column, "--policy", str(log.source.path))
    values = _chances(log.source, name, "policy", lambda value: value >= 0, "from 0 to 1")
    return np.asarray(values[log.order])


def _recognised(source: Source, roles: Roles, propensities: bool) -> dict[str, str]:
    names = source.names
    wanted = [role for role in roles.given if propensities or role != "propensity"]
    columns = recognise(names, wanted, ("item", "reward"), roles.given, str(source.path), NAMES)
    if propensities and "propensity" not in columns:
        raise DataError(
            f"{source.path}: no column for the propensity, the probability with which the logged item was chosen; "
            f"found {some(map(repr, names))}; name it with --propensity, or do without: `--behaviour estimated` of "
            "estimate and gate, `--unweighted` of data world"
        )
    return columns


def _rows(source: Source, columns: Mapping[str, str]) -> dict[str, Any]:
    """Rewards, propensities, places and times, in the order of the file; None for missing columns."""
    rewards = _numbers(source, columns["reward"], "reward", lambda value: value.is_finite(), "that is finite")
    propensities = places = times = None
    if "propensity" in columns:
        wanted = "above 0, at most 1"
        propensities = _chances(source, columns["propensity"], "propensity", lambda value: value > 0, wanted)
    if "position" in columns:
        wanted = f"that is whole, from 0 to {PLACES:,}"
        numbers = _numbers(
            source, columns["position"], "position", lambda one: (one % 1 == 0) & one.is_between(0, PLACES), wanted
        )
        # Positions start at 1 unless one is 0. Subtracting the minimum would shift a file without the first slot.
        places = (numbers - min(1, numbers.min())).astype(np.int64)
    if "time" in columns:
        times = column_of(source, read_times(source.frame, columns["time"]).value, columns["time"], "time").to_numpy()
    return {"rewards": rewards, "propensities": propensities, "places": places, "times": times}


def _units(source: Source, columns: Mapping[str, str]) -> tuple[Rows, pl.Series | None, Rows | None]:
    """The unit of each row, the ids of the units if they are users, and the slate of each row if there are slates."""
    users = _distinct(source, columns["user"], "user") if "user" in columns else None
    slates = _distinct(source, columns["slate"], "slate") if "slate" in columns else None
    if users is not None and slates is not None:  # slate ids may repeat across users
        return users[1], users[0], np.unique(users[1] * len(slates[0]) + slates[1], return_inverse=True)[1]
    if users is not None:
        return users[1], users[0], None
    if slates is not None:
        return slates[1], None, slates[1]
    return np.arange(source.frame.select(pl.len()).collect().item()), None, None


def _slates(
    source: Source,
    columns: Mapping[str, str],
    given: Rows | None,
    users: Rows | None,
    times: Rows | None,
    places: Rows | None,
) -> Rows | None:
    """The slate of each row: the log's, or else what a user was shown at the same time in different slots.

    Raises:
        DataError: a slate of the log has two rows in one slot.
    """
    if places is None:
        return given
    if given is not None:
        if len(twice := _twice(given, places)):
            first, second = twice + source.first_line
            raise DataError(
                f"{source.path}: lines {first} and {second} stand at the same position of the same slate (columns "
                f"{columns['position']!r} and {columns['slate']!r}); give each row of a slate its own, or name other "
                f"columns with --position and --slate{source.advice_on_copies}"
            )
        return given
    if users is None or times is None:
        return None
    moments = np.unique(times, return_inverse=True)[1]
    numbers, slates = np.unique(users * (int(moments.max()) + 1) + moments, return_inverse=True)
    return None if len(numbers) == len(users) or len(_twice(slates, places)) else slates


def _twice(slates: Rows, places: Rows) -> Int64[np.ndarray, "two_or_none"]:
    """The first two rows in the same slot of the same slate; empty if there are none."""
    keys = slates * (int(places.max()) + 1) + places
    kinds, counts = np.unique(keys, return_counts=True)
    return np.flatnonzero(np.isin(keys, kinds[counts > 1][:1]))[:2]


def _distinct(source: Source, column: str, role: str) -> tuple[pl.Series, Rows]:
    """The distinct ids of a column, sorted, and the index of each row's id."""
    found = column_of(source, as_ids([(source.frame, column)])[0], column, role)
    ids = found.unique().sort()
    return ids, positions(found, ids).astype(np.int64)


def _order(units: Rows, slates: Rows | None, times: Rows | None, places: Rows | None) -> Rows:
    """The row order by unit, then time, then place; a slate's rows stay together, at the place of its first row."""
    by_place, by_time = [] if places is None else [places], [] if times is None else [times]
    if slates is None:
        return np.lexsort((*by_place, *by_time, units))
    rank = np.arange(len(units)) if times is None else np.argsort(np.argsort(times, kind="stable"))
    first = np.full(int(slates.max()) + 1, len(units))
    np.minimum.at(first, slates, rank)
    return np.lexsort((*by_time, *by_place, first[slates], units))


def _chances(
    source: Source, column: str, role: str, least: Callable[[pl.Expr], pl.Expr], wanted: str
) -> Float64[np.ndarray, "rows"]:
    """A column of probabilities; one that another program's rounding raised above 1 is 1."""
    values = _numbers(source, column, role, lambda value: least(value) & (value <= 1 + ROUNDING), wanted)
    return np.asarray(np.minimum(values, 1))


def _numbers(
    source: Source, column: str, role: str, test: Callable[[pl.Expr], pl.Expr], wanted: str
) -> Float64[np.ndarray, "rows"]:
    """A column of numbers that all pass a test."""
    number = (as_reward if role == "reward" else as_number)(column, source.frame.collect_schema())
    return column_of(source, pl.when(test(number)).then(number), column, role, wanted).to_numpy()
