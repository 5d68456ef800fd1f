"""Charts of metrics: beside baselines, against each other, over a reward's weight, by group; and the long tail."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from what_next.metrics import METRICS
from what_next.metrics.bootstrap import Interval
from what_next.reporting.drawing import FONT, HEX, Box, Chart, Key, drawn, label, room, shortened
from what_next.reporting.view import View, cleaned, number, told

ROW = 0.26
"""Height of a row of a dot plot, in inches."""
TITLES = {"cold": "what training knew of them", "activity": "events on an active day"}
"""Titles of group kinds whose names say too little."""
LOG = "the log itself"
POINTS = 120
LEVELS = (0.15, 0.25, 0.35, 0.6, 0.7, 0.8, 0.9)
"""Shares of a curve at which its label may stand."""


def described(metric: str) -> str:
    """The description of a metric at its cutoff; empty if it has none."""
    name, _, cutoff = metric.partition("@")
    head, _, words = METRICS.get(name, "").partition(": ")
    usual = head.partition("@")[2]
    return re.sub(rf"\b{usual}\b", cutoff, words) if usual else words


def forest(view: View, metric: str) -> Chart:
    """A metric of every policy with its interval, one row each; a band extends the best learned policy's interval."""
    names = [name for name in view.ranked if metric in view.policies[name]]
    intervals = {name: view.policies[name][metric] for name in names}

    def draw(axes: Axes) -> None:
        band = intervals.get(view.lead)
        if band is not None:
            axes.axvspan(band["low"], band["high"], color=HEX[view.colour(view.lead)], alpha=0.12, lw=0)
        for place, (name, one) in enumerate(intervals.items()):
            strong = name in view.shown
            dot(axes, one, float(place), view.colour(name))
            axes.text(
                1.03, place, number(one["mean"]), transform=axes.get_yaxis_transform(), va="center",
                color=HEX["ink" if strong else "soft"], fontweight="bold" if name == view.lead else "normal",
            )  # fmt: skip
        rows_of(axes, [(name, view.colour(name) if name in view.shown else "soft") for name in names], view.lead)

    words = "; ".join(f"{name} {told(one)}" for name, one in intervals.items())
    height, margins = ROW * len(names) + 0.4, (room([*names, "random"]), 0.56, 0.34, 0.06)
    svg = drawn(draw, f"forest-{_word(metric)}", f"{metric}: {words}", height=height, margins=margins)
    return Chart(svg, metric, described(metric))


def scatter(view: View, across: str) -> Chart:
    """Two metrics of every policy against each other, with both intervals."""
    names = [name for name in view.ranked if across in view.policies[name]]
    pairs = {name: (view.policies[name][across], view.policies[name][view.main]) for name in names}

    def draw(axes: Axes) -> None:
        for name, (x, y) in pairs.items():
            _cross(axes, x, y, view.colour(name))
        _plane(axes, across, view.main)
        colours = [view.colour(name) if name in view.shown else "soft" for name in names]
        _name(axes, list(pairs.values()), [shortened(one) for one in names], colours)

    words = "; ".join(f"{name} at {number(x['mean'])}, {number(y['mean'])}" for name, (x, y) in pairs.items())
    svg = drawn(draw, "scatter", f"{view.main} against {across}: {words}", height=3.4, margins=(0.58, 0.2, 0.5, 0.15))
    return Chart(svg, "Every policy", f"Further right: more {across}; higher: more {view.main}.")


def over_weights(view: View, weighted: Sequence[tuple[float, View]], across: str) -> Chart:
    """The trade-off: two metrics of the agent as the reward's weight grows, beside the policies without one."""
    points = [
        (weight, one.policies[one.lead][across], one.policies[one.lead][view.main])
        for weight, one in sorted(weighted, key=lambda pair: pair[0])
        if across in one.policies[one.lead]
    ]
    others = [name for name in view.ranked if name not in view.learned and across in view.policies[name]]
    beside = [(view.policies[name][across], view.policies[name][view.main]) for name in others]

    def draw(axes: Axes) -> None:
        for name, (x, y) in zip(others, beside, strict=True):
            _cross(axes, x, y, view.colour(name), faint=True)
        axes.plot([x["mean"] for _, x, _ in points], [y["mean"] for _, _, y in points], color=HEX["one"], lw=2)
        for _, x, y in points:
            _cross(axes, x, y, "one", faint=True)
        _plane(axes, across, view.main)
        texts = [f"weight {weight:g}" for weight, _, _ in points] + [shortened(name) for name in others]
        colours = ["one"] * len(points) + ["soft"] * len(others)
        _name(axes, [*((x, y) for _, x, y in points), *beside], texts, colours)

    words = "; ".join(f"weight {weight:g} at {number(x['mean'])}, {number(y['mean'])}" for weight, x, y in points)
    svg = drawn(draw, "weights", f"{view.main} against {across}: {words}", height=3.4, margins=(0.58, 0.2, 0.5, 0.15))
    note = f"Each point of the line is an agent trained with that weight of the spread in its reward; {view.main} and "
    return Chart(svg, "Over the weight of the spread", note + f"{across} with their intervals.")


def by_group(view: View, kind: str, groups: Mapping[str, Mapping[str, Any]]) -> Chart:
    """The main metric of the shown policies in each group of users, one row each."""
    names, metric = view.shown, view.main
    rows = {
        cleaned(group): {cleaned(name): found for name, found in one["policies"].items()}
        for group, one in groups.items()
    }

    def draw(axes: Axes) -> None:
        step = 0.56 / len(names)
        for place, policies in enumerate(rows.values()):
            for turn, name in enumerate(names):
                shift = (turn - (len(names) - 1) / 2) * step
                dot(axes, policies[name][metric], place + shift, view.colour(name))
        rows_of(axes, [(text, "ink") for text in heads])

    heads = [f"{group} ({one['users']:,})" for group, one in zip(rows, groups.values(), strict=True)]
    words = "; ".join(
        f"{group}: " + ", ".join(f"{name} {number(one[name][metric]['mean'])}" for name in names)
        for group, one in rows.items()
    )
    height, margins = (0.18 + 0.14 * len(names)) * len(rows) + 0.5, (room(heads), 0.2, 0.36, 0.1)
    svg = drawn(draw, f"group-{_word(kind)}", f"{metric} by {kind}: {words}", height=height, margins=margins)
    legend = tuple(Key(view.colour(name), "dot", name) for name in names)
    return Chart(svg, f"By {TITLES.get(kind, kind)}", f"{metric}; in brackets, how many users.", legend)


def shares(view: View) -> Mapping[str, Float64[np.ndarray, "items"]]:
    """The share of all recommendations that goes to the 1, 2, 3, ... most popular items, by policy, and in the log.

    Policies without recommendations are left out.
    """
    order = np.argsort(-view.counts, kind="stable")
    found = {LOG: view.counts}
    for name in view.policies:
        slates = view.comparison.scores[name].slates[..., : view.k]
        found[name] = np.bincount(slates[slates >= 0], minlength=len(order))
    return {name: np.cumsum(counts[order]) / counts.sum() for name, counts in found.items() if counts.sum()}


def half(cumulative: Float64[np.ndarray, "items"], share: float = 0.5) -> int:
    """How many of the most popular items account for half, or for another share."""
    return int(np.searchsorted(cumulative, share - 1e-12)) + 1


def long_tail(view: View) -> Chart:
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
    """The point of a curve with most space up to the next curve or the edge, for its label."""
    spots = []
    for share in LEVELS:
        places = np.log([half(one, share) for one in found.values()])
        mine = places[list(found).index(name)]
        ends = np.append(np.delete(places, list(found).index(name)), [0.0, np.log(len(found[name]))])
        right, left = (ends[ends >= mine] - mine).min(), (mine - ends[ends <= mine]).min()
        spots.append((max(right, left), float(np.exp(mine)), share))
    _, x, y = max(spots)
    return x, y


def dot(axes: Axes, one: Interval, place: float, colour: str) -> None:
    """A mean and its interval."""
    axes.plot([one["low"], one["high"]], [place, place], color=HEX[colour], lw=1.6, alpha=0.75, solid_capstyle="round")
    axes.plot(one["mean"], place, "o", color=HEX[colour], ms=6, mec=HEX["paper"], mew=0.8)


def _cross(axes: Axes, x: Interval, y: Interval, colour: str, *, faint: bool = False) -> None:
    """A point with its two intervals."""
    alpha = 0.35 if faint else 0.75
    axes.plot([x["low"], x["high"]], [y["mean"]] * 2, color=HEX[colour], lw=1.3, alpha=alpha)
    axes.plot([x["mean"]] * 2, [y["low"], y["high"]], color=HEX[colour], lw=1.3, alpha=alpha)
    axes.plot(x["mean"], y["mean"], "o", color=HEX[colour], ms=6.5, mec=HEX["paper"], mew=0.8)


def _name(
    axes: Axes, crosses: Sequence[tuple[Interval, Interval]], texts: Sequence[str], colours: Sequence[str]
) -> None:
    """Write a text beside each cross."""
    lines: list[Box] = []
    for x, y in crosses:
        lines += (x["low"], y["mean"], x["high"], y["mean"]), (x["mean"], y["low"], x["mean"], y["high"])
    label(axes, [(x["mean"], y["mean"]) for x, y in crosses], texts, colours, lines)


def rows_of(axes: Axes, names: Sequence[tuple[str, str]], strong: str | None = None) -> None:
    """The axes of a dot plot: the names from the top, each in its colour."""
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), [shortened(name) for name, _ in names])
    for tick, (name, colour) in zip(axes.get_yticklabels(), names, strict=True):
        tick.set_color(HEX[colour])
        tick.set_fontsize(FONT)
        tick.set_fontweight("bold" if name == strong else "normal")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.grid(True)
    axes.margins(x=0.04)


def _plane(axes: Axes, across: str, up: str) -> None:
    """The axes of a plot of two metrics."""
    axes.margins(0.12)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.grid(True)
    axes.set_xlabel(across)
    axes.set_ylabel(up)


def _word(text: str) -> str:
    """A name as part of an id."""
    return re.sub(r"\W+", "-", text)
