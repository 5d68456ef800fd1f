"""Charts of item attributes: categories in slates and histories, and maps of the catalogue."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from matplotlib.ticker import MaxNLocator, PercentFormatter

from what_next.metrics.beyond import category_columns
from what_next.reporting.drawing import FONT, HEX, Chart, Key, drawn, room, shortened
from what_next.reporting.view import View, cleaned, percent

CLOUD = 700
"""Items drawn as the background of a map."""
LATEST = 40
"""Events of a history shown on a map."""
CATEGORIES = 24
"""Most categories shown."""
POLES = 2
"""Attributes named at each end of a map's axis."""


def categories(view: View) -> list[str]:
    """The names of those attributes that are categories (`category_columns`); empty where there are none."""
    catalogue = view.comparison.state.space.catalogue
    if not view.statistics.categories.shape[1]:
        return []
    return [named(name) for name, one in zip(catalogue.names, category_columns(catalogue), strict=True) if one]


def named(attribute: str) -> str:
    """The display name of an attribute: `is Drama` becomes Drama."""
    return cleaned(attribute).removeprefix("is ")


def calibration(view: View) -> Chart:
    """The share of each category in histories, and in what was recommended after them."""
    names, rows = categories(view), view.some_rows()
    heard = _mean(view.statistics.shares(view.histories(rows)))
    given = {name: _mean(view.statistics.shares(view.slates(name)[rows])) for name in view.shown}
    order = np.argsort(-heard, kind="stable")[:CATEGORIES]

    def draw(axes: Axes) -> None:
        for place, one in enumerate(order):
            ends = [heard[one], *(shares[one] for shares in given.values())]
            axes.plot([min(ends), max(ends)], [place, place], color=HEX["rule"], lw=2, zorder=1)
            axes.plot(heard[one], place, "o", ms=7, mfc=HEX["paper"], mec=HEX["ink"], mew=1.3)
            for name, shares in given.items():
                axes.plot(shares[one], place, "o", ms=6, color=HEX[view.colour(name)], mec=HEX["paper"], mew=0.7)
        axes.set_ylim(len(order) - 0.4, -0.6)
        axes.set_yticks(range(len(order)), [shortened(names[one]) for one in order])
        axes.tick_params(axis="y", labelcolor=HEX["ink"], labelsize=FONT)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.xaxis.grid(True)

    words = "; ".join(
        f"{names[one]}: in histories {percent(heard[one])}, "
        + ", ".join(f"{name} {percent(shares[one])}" for name, shares in given.items())
        for one in order
    )
    left = room([names[one] for one in order])
    svg = drawn(
        draw, "calibration", f"Share of each category: {words}",
        height=0.25 * len(order) + 0.45, margins=(left, 0.2, 0.34, 0.08),
    )  # fmt: skip
    legend = Key("ink", "ring", "in histories"), *(Key(view.colour(one), "dot", one) for one in given)
    return Chart(svg, "Share of each category", "The nearer a dot to the ring, the truer to taste.", legend)


def _mean(shares: Float64[np.ndarray, "rows categories"]) -> Float64[np.ndarray, "categories"]:
    """The mean over rows with any category; 0 where there is no such row."""
    known = shares[np.isfinite(shares).all(axis=1)]
    return known.mean(axis=0) if len(known) else np.zeros(shares.shape[1])


@dataclass(frozen=True, eq=False)
class Plane:
    """The catalogue in two dimensions: its first two principal components.

    Attributes:
        points: the coordinates of every item; items with identical attributes are set slightly apart.
        explained: the share of the variance that each dimension explains.
        poles: for each dimension, the attributes that increase towards its low and its high end.
    """

    points: Float64[np.ndarray, "items 2"]
    explained: tuple[float, float]
    poles: tuple[tuple[str, str], tuple[str, str]]

    @property
    def inner(self) -> Float64[np.ndarray, "2 2"]:
        """The low and the high corner of the area that holds nearly all items."""
        return np.asarray(np.quantile(self.points, [0.01, 0.99], axis=0))

    @classmethod
    def of(cls, view: View) -> "Plane":
        """From the standardised attributes; with one attribute the second dimension is constant."""
        catalogue = view.comparison.state.space.catalogue
        centred = catalogue.vectors.astype(np.float64) - catalogue.vectors.mean(axis=0, dtype=np.float64)
        values, vectors = np.linalg.eigh(centred.T @ centred)
        values = np.pad(values[::-1][:2].clip(0), (0, max(0, 2 - len(values))))
        axes = np.pad(vectors[:, ::-1][:, :2], ((0, 0), (0, max(0, 2 - vectors.shape[1]))))
        # The sign of an axis is arbitrary: its largest loading is made positive.
        axes *= np.where(axes[np.abs(axes).argmax(axis=0), [0, 1]] < 0, -1, 1)
        points = centred @ axes
        apart = 0.012 * np.ptp(points, axis=0).max()
        points += np.random.default_rng(0).normal(scale=apart, size=points.shape)
        total = max(float(np.square(centred).sum()), 1e-12)
        poles = tuple(_poles(axes[:, place], catalogue.names) for place in range(2))
        return cls(points, (float(values[0]) / total, float(values[1]) / total), (poles[0], poles[1]))


def _poles(loadings: Float64[np.ndarray, "attributes"], names: Sequence[str]) -> tuple[str, str]:
    """The names of the attributes with the largest negative and the largest positive loadings."""
    ends = []
    for sign in (-1, 1):
        order = [int(one) for one in np.argsort(-sign * loadings, kind="stable")[:POLES]]
        heavy = [one for one in order if sign * loadings[one] > 0.3 * np.abs(loadings).max()]
        ends.append(", ".join(shortened(named(names[one]), 14) for one in heavy))
    return ends[0], ends[1]


def placed(view: View, plane: Plane, row: int, name: str, title: str) -> Chart:
    """A map of the catalogue with the latest items of a history, what was recommended after it, and what came next."""
    heard, slate, came = view.heard(row)[-LATEST:], view.slates(view.lead)[row], view.came(row)
    cloud = np.random.default_rng(1).permutation(len(plane.points))[:CLOUD]
    colour = view.colour(view.lead)

    def draw(axes: Axes) -> None:
        axes.add_patch(_dots(plane.points[cloud]))
        axes.update_datalim(plane.inner)
        axes.plot(*plane.points[heard].T, "o", ms=5.5, mfc="none", mec=HEX["ink"], mew=1.1, alpha=0.7)
        axes.plot(*plane.points[slate[slate >= 0]].T, "o", ms=7, color=HEX[colour], mec=HEX["paper"], mew=0.9)
        axes.plot(*plane.points[came].T, "D", ms=8, mfc=HEX["paper"], mec=HEX["ink"], mew=1.8)
        _bare(axes, plane)

    words = f"{title}: {len(heard)} items of the history, {(slate >= 0).sum()} recommended, {len(came)} that came next"
    svg = drawn(draw, name, words, height=3.7, margins=(0.3, 0.08, 0.3, 0.08))
    legend = (
        Key("ink", "ring", "history" if len(view.heard(row)) <= LATEST else f"history (the latest {LATEST})"),
        Key(colour, "dot", f"recommended by {view.lead}"),
        Key("ink", "diamond", "came next"),
        Key("muted", "faint", "the catalogue"),
    )
    return Chart(svg, title, "", legend)


def _dots(points: Float64[np.ndarray, "some 2"]) -> PathPatch:
    """Many dots in one path: lines of no length, with round ends."""
    vertices = np.repeat(points, 2, axis=0)
    outline = Outline(vertices, np.tile([Outline.MOVETO, Outline.LINETO], len(points)).astype(np.uint8))
    outline.should_simplify = False
    return PathPatch(outline, fill=False, ec=HEX["muted"], lw=3, alpha=0.3, capstyle="round")


def _bare(axes: Axes, plane: Plane) -> None:
    """No scale; instead both ends of each axis are named."""
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.05)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines["bottom"].set_visible(False)
    style: dict[str, Any] = {"transform": axes.transAxes, "color": HEX["soft"], "size": 10}
    for place, (low, high) in enumerate(plane.poles):
        for end, text in (
            (0, f"\N{LEFTWARDS ARROW} {low}" if low else ""),
            (1, f"{high} \N{RIGHTWARDS ARROW}" if high else ""),
        ):
            align = ("left", "right")[end]
            if place == 0:
                axes.text(end, -0.02, text, ha=align, va="top", **style)
            else:
                axes.text(-0.02, end, text, ha="right", va=("bottom", "top")[end], rotation=90, **style)


def distances(view: View) -> Mapping[str, float]:
    """The distance of items from the mean of a user's history, in standard deviations of the attributes, averaged over
    users.

    By name of the policy; `""` stands for items drawn from the catalogue.
    """
    rows = view.some_rows()
    vectors = view.comparison.state.space.catalogue.vectors.astype(np.float64)
    centres = np.stack([vectors[view.heard(int(row))].mean(axis=0) for row in rows])
    drawn_items = np.random.default_rng(2).integers(len(vectors), size=min(200, len(vectors)))
    found = {"": float(torch.cdist(torch.from_numpy(centres), torch.from_numpy(vectors[drawn_items])).mean())}
    for name in view.shown:
        slates = view.slates(name)[rows]
        owners, columns = np.nonzero(slates >= 0)
        far = np.linalg.norm(vectors[slates[owners, columns]] - centres[owners], axis=1)
        found[name] = float(far.mean()) if len(far) else float("nan")
    return found
