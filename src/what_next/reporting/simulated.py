"""The page of an agent in a world: its return, its learning curve, one user, and how it differs from greed."""

from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from jaxtyping import Float, Float64
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from what_next.experiments.simulation import Simulation, Watched, has_ideal
from what_next.reporting.drawing import HEX, Chart, Key, drawn, room
from what_next.reporting.figures import dot, rows_of
from what_next.reporting.learning import binned, smoothed
from what_next.reporting.page import Section, Tile, rendered
from what_next.reporting.view import cleaned, number

GREED = "greedy"
BESIDE = (GREED, "aware", "random")
"""References whose returns are shown large."""
MOST = 10
"""Most features of items that are compared."""


def page(simulation: Simulation) -> str:
    """The whole page as HTML."""
    lead, world, policies = simulation.agent, cleaned(simulation.world), simulation.episodes
    colours = {lead: "one", f"{lead}, drawn": "one", GREED: "rival"}
    # The template reads these attributes of a `View`; there is no main metric and no rival here.
    view = SimpleNamespace(result={"data": world}, lead=lead, colour=lambda name: colours.get(name, "muted"))
    sections = [_returns(simulation, colours), *_learning(simulation), *_user(simulation), *_otherwise(simulation)]
    headline = f"{lead} earns {number(policies[lead].mean)} in {world}"
    verdict = []
    if GREED in policies:
        verdict = [f"Greed, which knows the user and looks one step ahead, earns {number(policies[GREED].mean)}."]
    facts = [
        ("World", world),
        ("Episodes", f"{len(policies[lead].returns):,} new users, the same for all policies"),
        ("The agent sees", "the users' hidden state" if simulation.ideal else "what the world shows"),
    ]
    if simulation.report is not None:
        learned = f"{simulation.slates:,} slates, {simulation.seconds:.0f} s of processors"
        facts.append(("It learned from", learned))
    tiles = [
        Tile(name, number(one.mean), f"{number(one.mean - one.margin)} to {number(one.mean + one.margin)}")
        for name in (lead, *BESIDE)
        if (one := policies.get(name)) is not None
    ]
    return rendered(view=view, headline=headline, verdict=verdict, tiles=tiles, facts=facts, sections=sections)


def _returns(simulation: Simulation, colours: Mapping[str, str]) -> Section:
    """All policies."""
    policies = dict(sorted(simulation.episodes.items(), key=lambda pair: -pair[1].mean))

    def draw(axes: Axes) -> None:
        for place, (name, one) in enumerate(policies.items()):
            interval: Any = {"mean": one.mean, "low": one.mean - one.margin, "high": one.mean + one.margin}
            dot(axes, interval, float(place), colours.get(name, "muted"))
        rows_of(axes, [(name, colours.get(name, "soft")) for name in policies], simulation.agent)

    words = "; ".join(f"{name} {number(one.mean)}" for name, one in policies.items())
    margins = (room(list(policies)), 0.2, 0.34, 0.06)
    svg = drawn(draw, "returns", f"returns: {words}", height=0.26 * len(policies) + 0.4, margins=margins)
    return Section(
        "returns", "Returns", "Returns", [NOTE], [Chart(svg, "Mean return", "With its 95 % interval, over users.")]
    )


NOTE = (
    "Random shows any items, popular the same slate to all; greedy knows the user and looks one step ahead; aware is a "
    "rule made by hand that knows the whole hidden state. The interval does not say how much training varies by seed."
)


def _learning(simulation: Simulation) -> list[Section]:
    """The reward of a slate over training, beside that of the references."""
    if simulation.report is None or not simulation.report.steps:
        return []
    rewards = np.array([step.reward for step in simulation.report.steps], np.float64)
    slates = np.linspace(0, simulation.slates, len(rewards) + 1)[1:]
    x, raw = binned(slates, rewards)
    beside = {
        name: float(one.returns.sum() / one.lengths.sum())
        for name, one in simulation.episodes.items()
        if not name.startswith(simulation.agent)
    }

    def draw(axes: Axes) -> None:
        axes.plot(x, raw, color=HEX["one"], lw=0.8, alpha=0.3)
        axes.plot(x, smoothed(raw), color=HEX["one"], lw=1.8)
        for name, value in beside.items():
            axes.axhline(value, color=HEX["rival" if name == GREED else "soft"], lw=1, ls="--")
            axes.text(1.01, value, name, transform=axes.get_yaxis_transform(), va="center", color=HEX["soft"], size=9)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.margins(x=0.01)
        axes.set_xlabel("slates learned from")

    end = f"from {number(smoothed(raw)[0])} to {number(smoothed(raw)[-1])}"
    svg = drawn(draw, "learning", f"reward of a slate over training: {end}", margins=(0.5, 0.75, 0.42, 0.12))
    text = "In training it acts at random in part, to explore, so its curve ends below what it can earn."
    return [Section("learning", "Learning", "Learning", [text], [Chart(svg, "Reward of a slate", "")])]


def _user(simulation: Simulation) -> list[Section]:
    """One user: what the agent and greed showed, slate by slate, and the user's hidden state."""
    topics = getattr(simulation.played, "item_topics", None)
    charts = []
    for name, one in simulation.watched.items():
        last = int(one.going[:, 0].sum())
        if topics is not None:
            shown = topics[one.shown[:last, 0]]
            shares = np.stack([(shown == topic).mean(1) for topic in range(int(topics.max()) + 1)])
            clicks = one.clicks[:last, 0].sum(1)
            note = f"Topics of what was shown, the darker the more of it; above, the clicks. {clicks.sum()} in all."
            charts.append(_heat(shares, f"shown-{name}", f"What {name} shows", note, "topic", clicks))
        seen = "hidden" if has_ideal(simulation.played) else "seen"
        note = f"All numbers that are {seen} of the user, between their least (light) and largest."
        charts.append(_heat(one.numbers[:last, 0].T, f"state-{name}", f"The user under {name}", note, "number"))
    text = "The first of the users who were watched, from one seed: each policy begins with the same user."
    return [Section("user", "One user", "One user", [text], charts)] if charts else []


def _heat(
    values: Float[np.ndarray, "rows steps"],
    name: str,
    title: str,
    note: str,
    rows: str,
    above: np.ndarray | None = None,
) -> Chart:
    """A heat map of numbers between 0 and 1 over an episode."""

    def draw(axes: Axes) -> None:
        for row, line in enumerate(values):
            for step, value in enumerate(line):
                if value > 0.01:
                    share = float(min(value, 1))
                    axes.add_patch(Rectangle((step, row), 1, 1, color=HEX["one"], alpha=share, lw=0))
        if above is not None:
            axes.plot(np.arange(len(above)) + 0.5, -1 - 2 * above / max(1, above.max()), color=HEX["ink"], lw=0.9)
        axes.set_xlim(0, values.shape[1])
        axes.set_ylim(len(values), -3.5 if above is not None else 0)
        named = range(0, len(values), max(1, len(values) // 5))
        axes.set_yticks([row + 0.5 for row in named], [str(row) for row in named])
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_ylabel(rows)
        axes.set_xlabel("slate")

    return Chart(drawn(draw, name, f"{title}: {values.shape[1]} slates", height=2.4), title, note)


def _otherwise(simulation: Simulation) -> list[Section]:
    """Which items the agent shows more often than greed, and which less often."""
    if not {simulation.agent, GREED} <= simulation.watched.keys():
        return []
    mine, theirs = simulation.watched[simulation.agent], simulation.watched[GREED]
    vectors, labels = simulation.played.item_vectors.astype(np.float64), simulation.played.item_labels
    means = [vectors[one.shown[one.going]].mean((0, 1)) for one in (mine, theirs)]
    spread = np.maximum(vectors.std(0), 1e-9)
    gaps: Float64[np.ndarray, columns] = (means[0] - means[1]) / spread
    most = np.argsort(-np.abs(gaps))[:MOST]

    def draw(axes: Axes) -> None:
        for place, column in enumerate(most):
            axes.plot([0, gaps[column]], [place, place], color=HEX["one"], lw=2)
            axes.plot(gaps[column], place, "o", color=HEX["one"], ms=6)
        axes.axvline(0, color=HEX["rule"], lw=1)
        rows_of(axes, [(labels[column], "ink") for column in most])

    words = "; ".join(f"{labels[column]} {gaps[column]:+.2f}" for column in most)
    margins = (room([labels[column] for column in most] or [""]), 0.2, 0.34, 0.06)
    svg = drawn(draw, "otherwise", f"agent minus greed: {words}", height=0.26 * len(most) + 0.4, margins=margins)
    note = "Means over all shown items, in standard deviations of the catalogue: right of 0, the agent shows more."
    legend = (Key("one", "dot", f"{simulation.agent} minus {GREED}"),)
    text = list(_told(simulation, (mine, theirs)))
    charts = [Chart(svg, "Items", note, legend)] if len(most) else []
    return [Section("otherwise", "Otherwise than greed", "What it does otherwise than greed", text, charts)]


def _told(simulation: Simulation, both: Sequence[Watched]) -> Iterator[str]:
    """The difference in a few numbers."""
    topics = getattr(simulation.played, "item_topics", None)
    for name, one in zip((simulation.agent, GREED), both, strict=True):
        slates = one.shown[one.going]
        clicks, reward = one.clicks[one.going].sum(1).mean(), one.rewards[one.going].mean()
        words = f"{name}: {number(float(reward))} a slate, {number(float(clicks))} clicks"
        if topics is not None:
            several = np.mean([len(set(slate)) for slate in topics[slates]])
            words += f", {several:.1f} topics among its {slates.shape[1]} items"
        yield f"{words}; {len(np.unique(slates)):,} different items in all."
