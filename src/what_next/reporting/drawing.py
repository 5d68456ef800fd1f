"""Charts as inline SVG in the page's own colours, so that one drawing fits the light and the dark theme.

Matplotlib draws with placeholder colours, each of which is replaced by a CSS variable; fonts are left to the page. Text
stays text, so that it can be read, searched and scaled.
"""

import html
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import matplotlib.style
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

COLOURS = ("ink", "soft", "rule", "paper", "muted", "one", "two", "three", "four", "rival")
"""Colours that are CSS variables of the page; `one` to `four` are of learned policies."""
HEX: Mapping[str, str] = MappingProxyType({name: f"#a0b0{place:02x}" for place, name in enumerate(COLOURS)})
"""The placeholder colours for drawing."""
WIDTH = 4.6
"""Inches of 72 units: as many units as a phone has pixels, so that 10 units appear as 10 pixels there."""
FONT = 11
LETTER = 0.56
"""Mean width of a letter, in units of the font's size."""
STYLE = {
    "axes.edgecolor": HEX["rule"],
    "axes.labelcolor": HEX["soft"],
    "axes.labelsize": 10,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": FONT,
    "grid.color": HEX["rule"],
    "grid.linewidth": 0.7,
    "svg.fonttype": "none",
    "svg.hashsalt": "what-next",
    "text.color": HEX["ink"],
    "text.parse_math": False,  # a name may hold a dollar
    "xtick.color": HEX["rule"],
    "xtick.labelcolor": HEX["soft"],
    "xtick.labelsize": 10,
    "ytick.color": HEX["rule"],
    "ytick.labelcolor": HEX["soft"],
    "ytick.labelsize": 10,
    "ytick.major.size": 0,
}
Box = tuple[float, float, float, float]
"""Left, low, right and high."""
Draw = Callable[[Axes], None]
"""A function that draws on empty axes."""


@dataclass(frozen=True)
class Key:
    """An entry of a chart's legend: a colour of the page, a shape (`dot`, `ring`, `line`, `dash`, ...), its meaning."""

    colour: str
    shape: str
    text: str


@dataclass(frozen=True)
class Chart:
    """A figure of the page.

    Attributes:
        svg: the drawing.
        title: what it shows; `note`: how to read it.
        legend: the meaning of its colours and shapes.
    """

    svg: Markup
    title: str
    note: str = ""
    legend: tuple[Key, ...] = ()


def drawn(
    draw: Draw,
    name: str,
    words: str,
    *,
    height: float = 2.6,
    margins: tuple[float, float, float, float] = (0.5, 0.15, 0.42, 0.12),
) -> Markup:
    """The drawing of `draw` as an `<svg>` for the page.

    Args:
        draw: draws on axes of fixed size.
        name: a word, unique in the page.
        words: the content in words, for people who cannot see it.
        height: of the whole chart, in inches.
        margins: of the axes: left, right, bottom and top, in inches.
    """
    left, right, bottom, top = margins
    with matplotlib.style.context(STYLE, after_reset=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the page's fonts draw it
        figure = Figure(figsize=(WIDTH, height))
        FigureCanvasSVG(figure)
        figure.patch.set_visible(False)
        share = (left / WIDTH, bottom / height, (WIDTH - left - right) / WIDTH, (height - bottom - top) / height)
        axes = figure.add_axes(share)
        axes.patch.set_visible(False)
        axes.set_axisbelow(True)
        draw(axes)
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=nothing)
    return Markup(_of_the_page(file.getvalue(), name, words))  # Matplotlib escapes its texts, `_of_the_page` the words


def _of_the_page(svg: str, name: str, words: str) -> str:
    """The `<svg>` element with unique ids, the page's colours and fonts, and numbers of two decimals."""
    _, head, body = re.split(r"(<svg[^>]*>)", svg, maxsplit=1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    body = re.sub(r"<[^>]+>", lambda tag: _tag(tag[0], name), body).strip()
    return f'<svg {box[0]} role="img" aria-label="{html.escape(words)}">{body}'


def _tag(tag: str, name: str) -> str:
    """A tag of the drawing, rewritten for the page."""
    tag = re.sub(r' transform="rotate\(-?0 [^"]*"', "", tag)
    tag = re.sub(r'font-family: [^;"]*;? ?', "", tag)
    tag = re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", tag)
    tag = re.sub(r' id="([^"]*)"', rf' id="{name}-\1"', tag)
    tag = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', tag).replace("url(#", f"url(#{name}-")
    for colour, value in HEX.items():
        tag = tag.replace(value, f"var(--{colour})")
    return re.sub(r"\s+", " ", tag)


def shortened(text: str, letters: int = 22) -> str:
    """A text, cut with an ellipsis where it does not fit."""
    return text if len(text) <= letters else text[: letters - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def label(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    colours: Sequence[str],
    lines: Sequence[Box] = (),
) -> None:
    """Write a text beside each point, where it overlaps least with points, lines and other texts.

    Args:
        axes: already with everything else drawn.
        points: in data units; `texts` and `colours` (names of the page's colours): one for each point.
        lines: each from left, low to right, high; vertical or horizontal, in data units.
    """
    axes.autoscale_view()
    scale, size, window = axes.figure.dpi / 72, 10.5, axes.get_window_extent()
    spots = [axes.transData.transform(point) for point in points]
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in spots]
    for left, low, right, high in lines:
        (x0, y0), (x1, y1) = axes.transData.transform([(left, low), (right, high)])
        taken.append((x0 - 1, y0 - 1, x1 + 1, y1 + 1))
    for (x, y), point, text, colour in zip(spots, points, texts, colours, strict=True):
        width, height = LETTER * size * len(text) * scale, size * scale
        ranked = []
        for dx, dy, align in _PLACES:
            left = x + dx * scale - width * {"left": 0.0, "center": 0.5, "right": 1.0}[align]
            low = y + dy * scale - height / 2
            box = (left, low, left + width, low + height)
            cost = sum(_overlap(box, other) for other in taken) + 2 * (abs(dx) + abs(dy))
            inside = _overlap(box, (window.x0 - 8, window.y0, window.x1 + 12, window.y1)) / (width * height)
            ranked.append((cost + 1e4 * (1 - inside), dx, dy, align, box))
        _, dx, dy, align, box = min(ranked, key=lambda place: place[0])
        taken.append(box)
        far = {"arrowstyle": "-", "color": HEX[colour], "lw": 0.7, "alpha": 0.7, "shrinkA": 1, "shrinkB": 3}
        axes.annotate(
            text, point, (dx, dy), textcoords="offset points", ha=align, va="center", color=HEX[colour], size=size,
            arrowprops=far if max(abs(dx), abs(dy)) > 15 else None,
        )  # fmt: skip


_PLACES = tuple(
    (dx, dy, align)
    for reach in (0, 8, 18, 30)
    for dx, dy, align in (
        (7, reach, "left"),
        (7, -reach, "left"),
        (-7, reach, "right"),
        (-7, -reach, "right"),
        (0, 11 + reach, "center"),
        (0, -11 - reach, "center"),
    )
)
"""Candidate positions of a text beside its point, the nearest first."""


def _overlap(one: Box, other: Box) -> float:
    """The area of the intersection of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)


def room(texts: Sequence[str]) -> float:
    """Inches for the longest of some texts, with its distance from the axes."""
    return 0.14 + LETTER * FONT / 72 * max(len(shortened(text)) for text in texts)
