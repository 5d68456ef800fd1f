"""Evaluation results for Python users: numbers by name, a frame, and drawn intervals."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import RenderableType

from what_next.data import html
from what_next.errors import in_python
from what_next.experiments.next_items import Comparison
from what_next.metrics.bootstrap import Interval
from what_next.reporting.terminal import cell, measured_on, metrics_of, table

WIDTH = 160
"""Width of a drawn interval, in pixels."""
LEADING = ("ndcg", "hr", "coverage", "diversity", "spread", "reward")
"""The metrics shown in a notebook; `frame` has all of them."""


@dataclass(frozen=True, eq=False)
class Results(Mapping[str, Mapping[str, Interval]]):
    """A model beside baselines, chance and its untrained self: `results["agent"]["ndcg@10"]["mean"]`.

    A mapping from the policy to its metrics, each `{mean, low, high, n}`: the mean over `n` users with its 95 %
    interval.

    Attributes:
        comparison: the full comparison behind the numbers.
        windows: for an algorithm that is judged by windows of histories (whatnext): their results.
    """

    comparison: Comparison
    windows: Mapping[str, Any] | None = None

    def __getitem__(self, policy: str) -> Mapping[str, Interval]:
        found: Mapping[str, Interval] = self.values_["policies"][policy]
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_["policies"])

    def __len__(self) -> int:
        return len(self.values_["policies"])

    @cached_property
    def values_(self) -> dict[str, Any]:
        """Plain values, as `what-next evaluate --json` prints them."""
        return self.comparison.result | ({} if self.windows is None else {"by_windows": self.windows})

    @property
    def notes(self) -> list[str]:
        """What to know before the numbers are believed, such as that too few users were judged."""
        return [in_python(one) for one in self.comparison.notes]

    def frame(self) -> pl.DataFrame:
        """A row for each policy and metric: `policy, metric, mean, low, high, n`."""
        rows = [
            {"policy": policy, "metric": metric, **interval}
            for policy, metrics in self.items()
            for metric, interval in metrics.items()
        ]
        return pl.DataFrame(rows)

    def __rich__(self) -> RenderableType:
        """Tables for people."""
        return table(self.values_)

    def __repr__(self) -> str:
        leading = self._leading[0]
        rows = [f"  {name:<16} {cell(found[leading])}" for name, found in self.items() if leading in found]
        head = f"{leading} of {measured_on(self.values_)}; mean [95 % interval over users]"
        return "\n".join([head, *rows, *(f"note: {one}" for one in self.notes)])

    @property
    def _leading(self) -> list[str]:
        metrics = metrics_of(self.values_)
        return [one for name in LEADING for one in metrics if one.partition("@")[0] == name][:3]

    def _repr_html_(self) -> str:
        metrics = self._leading
        most = {one: max(found[one]["high"] for found in self.values() if one in found) for one in metrics}
        rows = [
            [name, *(html.Markup(_drawn(found.get(one), most[one], name == "agent")) for one in metrics)]
            for name, found in sorted(self.items(), key=lambda pair: -pair[1].get(metrics[0], {"mean": 0.0})["mean"])
        ]
        note = ". ".join([f"{measured_on(self.values_)}; mean, and 95 % interval over users", *self.notes])
        return html.table("Judged on what training never saw", ("policy", *metrics), rows, note)


def _drawn(one: Interval | None, most: float, leads: bool) -> str:
    """An interval as a line with a dot at its mean, on a scale from 0 to the largest value of its column."""
    if one is None:
        return ""
    low, mean, high = (max(0.0, one[end]) / (most or 1.0) * (WIDTH - 8) + 4 for end in ("low", "mean", "high"))
    colour = "#c2410c" if leads else "#64748b"
    text = escape(cell(one))
    return (
        f'<span style="white-space:nowrap"><svg width="{WIDTH}" height="14" role="img" aria-label="{text}">'
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="7" y2="7" stroke="{colour}" stroke-width="3"/>'
        f'<circle cx="{mean:.1f}" cy="7" r="4" fill="{colour}"/></svg> {text}</span>'
    )


@dataclass(frozen=True)
class Page:
    """A written HTML page; a notebook shows it.

    Attributes:
        path: the file; `html`: its content.
    """

    path: Path
    html: str

    def __repr__(self) -> str:
        return f"Page({str(self.path)!r})"

    def __fspath__(self) -> str:
        return str(self.path)

    def _repr_html_(self) -> str:
        style = "width:100%;height:800px;border:1px solid #ccc"
        return f'<iframe srcdoc="{escape(self.html)}" title="report" style="{style}"></iframe>'
