"""The full tables: every metric of every policy, all differences, and the windows of the founding algorithm."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from what_next.metrics.bootstrap import Interval
from what_next.reporting.figures import described
from what_next.reporting.terminal import markdown, minus
from what_next.reporting.view import View, between, cleaned, number

MEANS = "mean over users, with its 95\N{NO-BREAK SPACE}% interval"
Intervals = Mapping[str, Mapping[str, Interval]]
COLUMNS = 7
"""Most policies side by side."""


@dataclass(frozen=True)
class Table:
    """Metrics as rows and policies as columns, because there are more metrics than policies.

    Attributes:
        caption: what it shows.
        columns: the names, each with its colour on the page, or an empty string.
        rows: for each metric its name, its description, and its cells: a mean and its interval, or empty texts.
    """

    caption: str
    columns: list[tuple[str, str]]
    rows: list[tuple[str, str, list[tuple[str, str]]]]


def full(view: View) -> list[Table]:
    """Every metric of every policy, then of every difference."""
    names = {name: view.colour(name) if name in view.shown else "" for name in view.ranked}
    intervals = {name: view.policies[name] for name in view.ranked}
    tables = _tables(f"Every policy, the best first: {MEANS}", intervals, names, words=True)
    return tables + _tables(f"Differences, taken for each user: {MEANS}", _signed(view.result["differences"]))


def of_windows(windows: Mapping[str, Any]) -> tuple[str, list[Table]]:
    """The first sentence and the tables of a result of `evaluate_windows`."""
    sentence = markdown(windows).split("\n", 1)[0].replace("`", "")
    tables = _tables(f"Every policy on windows: {MEANS}", windows["policies"], words=True)
    tables += _tables("Share of what the oracle earns", windows["share_of_oracle"])
    return sentence, tables + _tables("Differences on windows", _signed(windows["differences"]))


def _signed(differences: Intervals) -> Intervals:
    return {minus(cleaned(name)): one for name, one in differences.items()}


def _tables(
    caption: str, intervals: Intervals, colours: Mapping[str, str] | None = None, *, words: bool = False
) -> list[Table]:
    """As many tables as needed for each to fit on a page of 1,280 pixels."""
    metrics = dict.fromkeys(metric for one in intervals.values() for metric in one)
    names, tables = list(intervals), []
    for start in range(0, len(names), COLUMNS):
        some = names[start : start + COLUMNS]
        rows = [
            (metric, described(metric) if words else "", [_cell(intervals[name].get(metric)) for name in some])
            for metric in metrics
        ]
        more = f" (columns {start + 1} to {start + len(some)} of {len(names)})" if len(names) > COLUMNS else ""
        tables.append(Table(caption + more, [(name, (colours or {}).get(name, "")) for name in some], rows))
    return tables


def _cell(one: Interval | None) -> tuple[str, str]:
    return ("", "") if one is None else (number(one["mean"]), between(one))
