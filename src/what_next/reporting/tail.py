"""The long tail: how much of what is recommended are the most popular items."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, PercentFormatter

from what_next.reporting.drawing import HEX, Chart, Key, drawn, label, shortened
from what_next.reporting.view import View

LOG = "the log itself"
POINTS = 120
LEVELS = (0.15, 0.25, 0.35, 0.6, 0.7, 0.8, 0.9)
"""Shares at which a curve may be named."""


def shares(view: View) -> Mapping[str, Float64[np.ndarray, "items"]]:
    """The share of all recommendations that goes to the 1, 2, 3, ... most popular items: by policy, and of the log.

    A policy that recommends nothing is left out.
    """
    order = np.argsort(-view.counts, kind="stable")
    found = {LOG: view.counts}
    for name in view.policies:
        slates = view.comparison.scores[name].slates[..., : view.k]
        found[name] = np.bincount(slates[slates >= 0], minlength=len(order))
    return {name: np.cumsum(counts[order]) / counts.sum() for name, counts in found.items() if counts.sum()}


def half(cumulative: Float64[np.ndarray, "items"], share: float = 0.5) -> int:
    """How many of the most popular items take half, or another share."""
    return int(np.searchsorted(cumulative, share - 1e-12)) + 1


def chart(view: View) -> Chart:
    """The cumulative share of each policy over the items, the most popular first, beside the log's own."""
    found = shares(view)
    items = len(view.counts)
    grid = np.unique(np.geomspace(1, items, POINTS).round().astype(int))
    strong = [LOG, *(name for name in view.shown if name in found)]

    def draw(axes: Axes) -> None:
        for name in sorted(found, key=lambda name: name in strong):
            colour = "ink" if name == LOG else view.colour(name)
            style = (0, (4, 2)) if name == LOG else "solid"
            axes.plot(grid, found[name][grid - 1], color=HEX[colour], ls=style, lw=2 if name in strong else 1.1,
                      alpha=1 if name in strong else 0.6)  # fmt: skip
        axes.axhline(0.5, color=HEX["rule"], lw=0.8, zorder=0)
        axes.set_xscale("log")
        axes.set_xlim(1, items)
        axes.set_ylim(0, 1.01)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.minorticks_off()
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.yaxis.grid(True)
        axes.set_xlabel("most popular items, from the first")
        points = [(float(half(found[name])), 0.5) for name in strong]
        for (x, y), colour in zip(points, colours, strict=True):
            axes.plot(x, y, "o", ms=5, color=HEX[colour])
        faint = [name for name in found if name not in strong]
        x, rising = grid.astype(float).tolist(), [one[grid - 1].tolist() for one in found.values()]
        lines = [box for y in rising for box in zip(x[:-1], y[:-1], x[1:], y[1:], strict=True)]
        points = [_free(name, found) for name in faint]
        label(axes, points, [shortened(name) for name in faint], ["soft"] * len(faint), lines)

    colours = ["ink", *(view.colour(name) for name in strong[1:])]
    words = "; ".join(f"{name}: half goes to {half(one):,} items" for name, one in found.items())
    svg = drawn(draw, "tail", f"Share of recommendations that the most popular items take. {words}.", height=3.2)
    legend = (Key("ink", "dash", LOG), *(Key(view.colour(name), "line", name) for name in strong[1:]))
    return Chart(svg, "What the most popular items take", "The dots are at half of all that is recommended.", legend)


def _free(name: str, found: Mapping[str, Float64[np.ndarray, "items"]]) -> tuple[float, float]:
    """Where on a curve there is most room beside it, up to the next one or the end: the place of a label."""
    spots = []
    for share in LEVELS:
        places = np.log([half(one, share) for one in found.values()])
        mine = places[list(found).index(name)]
        ends = np.append(np.delete(places, list(found).index(name)), [0.0, np.log(len(found[name]))])
        right, left = (ends[ends >= mine] - mine).min(), (mine - ends[ends <= mine]).min()
        spots.append((max(right, left), float(np.exp(mine)), share))
    _, x, y = max(spots)
    return x, y
