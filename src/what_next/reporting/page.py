"""The page: its sections in order, rendered by a template.

Jinja comes with PyTorch. The template can be read as HTML, and it escapes everything inserted, including titles and ids
of users.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from what_next.experiments.next_items import Comparison
from what_next.reporting import attributes, figures, learning, stories, tables, words
from what_next.reporting.drawing import Chart
from what_next.reporting.stories import Pick, Story, Worse
from what_next.reporting.tables import Table
from what_next.reporting.view import View, between, cleaned, number, percent

MAIN = ("ndcg", "hr", "coverage", "diversity", "spread", "novelty", "calibration", "serendipity", "reward")
"""Metrics that get a chart; the first six that were measured are shown."""
SHARES = ("hr", "coverage", "recall", "precision")
"""Metrics shown as a percentage."""


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        anchor: its id; `name`: in the list of contents; `title`: its heading.
        text: paragraphs; `charts`: beside or below them.
        stories, worst, tables: only in some sections.
    """

    anchor: str
    name: str
    title: str
    text: Sequence[Markup | str] = ()
    charts: Sequence[Chart] = ()
    stories: Sequence[Story] = ()
    worst: Sequence[Worse] = ()
    tables: Sequence[Table] = ()

    @property
    def wide(self) -> bool:
        """Whether the text stands above the charts, which then take the whole width, instead of beside them."""
        return not self.charts or len(self.charts) > 2


@dataclass(frozen=True)
class Tile:
    """A number that is shown large: its metric, its interval, and the same metric of the best rival."""

    metric: str
    value: str
    interval: str
    beside: str = ""
    words: str = ""


def page(
    comparison: Comparison, weighted: Sequence[tuple[float, Comparison]] = (), windows: Mapping[str, Any] | None = None
) -> str:
    """The whole page as HTML."""
    view = View(_shown_names(comparison))
    picked = stories.picks(view)
    by_windows, found = ("", []) if windows is None else tables.of_windows(windows)
    sections = [
        *([Section("windows", "Windows", "The spread, window by window", [by_windows], tables=found)] if found else []),
        _metrics(view),
        _tradeoff(view, [(weight, View(_shown_names(one))) for weight, one in weighted]),
        _learning(view),
        _calibration(view),
        _space(view, picked),
        Section("tail", "Long tail", "Hits and the long tail", words.popularity(view), [figures.long_tail(view)]),
        _groups(view),
        _worst(view),
        Section(
            "stories", "Three users", "Three users",
            ["Chosen by rule, not by eye; a list is that of the first seed."],
            stories=[stories.story(view, pick) for pick in picked],
        ),
        Section("table", "Every number", "Every number", tables=tables.full(view)),
    ]  # fmt: skip
    sentences = words.verdict(view)
    sentences[1:1] = [words.by_windows(view, by_windows)] if found else []
    return rendered(
        view=view, headline=words.headline(view), verdict=sentences,
        tiles=_tiles(view), facts=words.facts(view), sections=sections,
    )  # fmt: skip


def rendered(**parts: Any) -> str:
    """The template filled with `parts`."""
    environment = Environment(
        loader=PackageLoader("what_next.reporting", ""), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    style = files("what_next.reporting").joinpath("style.css").read_text(encoding="utf-8")
    return environment.get_template("page.html").render(style=Markup(style), **parts)


def _shown_names(comparison: Comparison) -> Comparison:
    """The comparison with names that fit on one line."""
    result = comparison.result
    return replace(
        comparison,
        result={
            **result,
            "data": cleaned(result["data"]),
            "policies": {cleaned(name): one for name, one in result["policies"].items()},
        },
        scores={cleaned(name): one for name, one in comparison.scores.items()},
        setups={cleaned(name): one for name, one in comparison.setups.items()},
    )


def _tiles(view: View) -> list[Tile]:
    """The main numbers: accuracy, spread or variety, and coverage."""
    wanted = ("hr", "ndcg", "spread" if view.metric("spread") else "diversity", "coverage")
    tiles = []
    for metric in (view.metric(one) for one in wanted):
        mine = view.policies[view.lead].get(metric or "")
        if metric is None or mine is None:
            continue
        share = metric.partition("@")[0] in SHARES
        shown = percent if share else number
        theirs = view.policies[view.rival].get(metric) if view.rival else None
        interval = between(mine, 100, 1) if share else between(mine)
        beside = f"{view.rival} {shown(theirs['mean'])}" if theirs else ""
        tiles.append(Tile(metric, shown(mine["mean"]), interval, beside, figures.described(metric)))
    return tiles


def _metrics(view: View) -> Section:
    metrics = [metric for metric in (view.metric(name) for name in MAIN) if metric][:6]
    text = Markup(
        "A dot is the mean over users, its line the 95\N{NO-BREAK SPACE}% interval; the band extends that of {}. "
        "Lines may overlap though two policies differ: differences are taken for each user, and stand at the end of "
        "the page."
    ).format(words.name(view, view.lead))
    return Section("metrics", "Metrics", "Beside the baselines", [text], [figures.forest(view, one) for one in metrics])


def _tradeoff(view: View, weighted: Sequence[tuple[float, View]]) -> Section:
    across = view.metric("spread") or view.metric("diversity") or view.metric("coverage")
    title = f"Accuracy against {'spread' if across and 'spread' in across else 'variety'}"
    head = "tradeoff", "Trade-off", title
    if across is None:
        return Section(*head, ["Only accuracy was measured."])
    text = [f"{view.main} against {across}: {figures.described(across)}. Lines are 95\N{NO-BREAK SPACE}% intervals."]
    charts = [figures.scatter(view, across)]
    if weighted:
        charts.append(figures.over_weights(view, weighted, across))
    else:
        text.append("Judged at one setting of the reward; with several weights of it the trade-off is a curve.")
    return Section(*head, text, charts)


def _learning(view: View) -> Section:
    charts = learning.curves(view)
    return Section("learning", "Learning", "How it learned", words.learning(view, len(charts)), charts)


def _calibration(view: View) -> Section:
    head = "calibration", "Calibration", "True to taste"
    if not attributes.categories(view):
        why = "The items have no categories (attributes that are 0 or 1), so there are no shares to compare."
        return Section(*head, [why])
    return Section(*head, words.calibrated(view), [attributes.calibration(view)])


def _space(view: View, picked: Sequence[Pick]) -> Section:
    head = "space", "Attribute space", "Where recommendations lie"
    if not view.comparison.state.space.catalogue.informative:
        return Section(*head, ["The items have no attributes, so there is no map."])
    plane = attributes.Plane.of(view)
    explained = percent(sum(plane.explained))
    text = [
        words.nearness(view),
        Markup(
            "The maps show the catalogue by its first two principal components ({} of the variance); items with "
            "identical attributes are set a little apart."
        ).format(explained),
    ]
    charts = [
        attributes.placed(view, plane, pick.row, f"map-{place}", f"{pick.title}: user {view.user(pick.row)}")
        for place, pick in enumerate(picked)
    ]
    return Section(*head, text, charts)


def _groups(view: View) -> Section:
    groups = {cleaned(kind): one for kind, one in view.result["groups"].items() if len(one) > 1}
    text = ["The same users, by how much is known about them and by how popular their next item is."]
    charts = [figures.by_group(view, kind, one) for kind, one in groups.items()]
    return Section("groups", "Groups", "For whom it works", text if charts else ["All users are in one group."], charts)


def _worst(view: View) -> Section:
    head = "worst", "Worst users", "Whom it serves worst"
    if view.rival is None:
        return Section(*head, ["There was no other policy to fall behind."])
    found, text = stories.worst(view), Markup("There is no user whom {rival} serves better than {lead}.")
    if found:
        text = Markup("Where {lead} falls furthest behind {rival} ({main}); of equals, the longer history first.")
    names = {"lead": words.name(view, view.lead), "rival": words.name(view, view.rival)}
    return Section(*head, [text.format(**names, main=view.main)], worst=found)
