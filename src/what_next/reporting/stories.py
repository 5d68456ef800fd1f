"""Single users: three in full, and those whom the best rival serves better."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int32

from what_next.reporting.attributes import categories
from what_next.reporting.view import View, counted, number, place_word, spelled
from what_next.settings import listed

WORST = 8
"""Most users in the table of the worst served."""
LATEST = 3
"""Titles of a history that are shown."""


@dataclass(frozen=True)
class Pick:
    """A selected row, and the numerical rule that selected it."""

    row: int
    title: str
    rule: str


@dataclass(frozen=True)
class Story:
    """A user's story, in texts that are not escaped yet.

    Attributes:
        title: its heading; `rule`: why this user was selected.
        user: the external id; `events`: how many events came before, in words; `latest`: titles of the last of them.
        taste: the main categories of these events, in words; empty without categories; `offer`: of the slate.
        slate: the recommended titles, best first, each with whether it came next.
        came: titles of the next items, and `more`: how many are not named; `ending`: how the policies did.
    """

    title: str
    rule: str
    user: str
    events: str
    taste: str
    offer: str
    latest: list[str]
    slate: list[tuple[str, bool]]
    came: list[str]
    more: int
    ending: str


@dataclass(frozen=True)
class Worse:
    """A row of the table of the worst served."""

    user: str
    events: int
    latest: list[str]
    slate: list[str]
    came: list[str]
    mine: str
    theirs: str


def picks(view: View) -> list[Pick]:
    """A well served, a typical and a badly served user, all different; fewer where there are fewer rows.

    Ties go to the first row.
    """
    mine, ahead = _values(view), _values(view) - _values(view, view.rival)
    before = view.comparison.evaluator.targets.before
    first = np.arange(len(mine))
    beside = f"the one whom {view.rival} served worst" if view.rival else "the one with the longest history"
    behind = f"falls furthest behind {view.rival}" if view.rival else f"has the lowest {view.main}"
    # np.lexsort sorts by the last key first.
    well = np.lexsort((first, -before, -ahead, -mine))
    badly = np.lexsort((first, -before, mine, ahead))
    middle = np.abs(before - np.median(before))
    typical = np.lexsort((first, middle, np.abs(mine - np.sort(mine)[len(mine) // 2])))
    usual = f"Of those with the median {view.main} of {view.lead}, the one with the history nearest the median length."
    wanted = (
        (well, "Well served", f"Of those with the highest {view.main} of {view.lead}, {beside}."),
        (badly, "Badly served", f"The one where {view.lead} {behind}; of several, the one with the longest history."),
        (typical, "Typical", usual),
    )
    found: list[Pick] = []
    for order, title, rule in wanted:
        rest = [int(row) for row in order[: len(found) + 1] if int(row) not in {one.row for one in found}]
        found += [Pick(row, title, rule) for row in rest[:1]]
    return sorted(found, key=lambda one: ("Well served", "Typical", "Badly served").index(one.title))


def _values(view: View, name: str | None = "") -> Float64[np.ndarray, "rows"]:
    """The main metric of a policy, by default the best learned one; 0 without a value or without a policy."""
    if name is None:
        return np.zeros(len(view.comparison.evaluator.targets))
    return np.asarray(np.nan_to_num(view.values(name or view.lead, view.main)))


def story(view: View, pick: Pick) -> Story:
    """A user's history, the recommendations, and the next items."""
    slate, came = view.slates(view.lead)[pick.row], view.came(pick.row)
    return Story(
        title=pick.title,
        rule=pick.rule,
        user=view.user(pick.row),
        events=counted(int(view.comparison.evaluator.targets.before[pick.row]), "event"),
        taste=_mostly(view, view.heard(pick.row)),
        offer=_mostly(view, slate),
        latest=_titles(view, view.heard(pick.row)[-LATEST:]),
        slate=[(view.titles[item], bool(item in came)) for item in slate if item >= 0],
        came=_titles(view, came[:LATEST]),
        more=max(0, len(came) - LATEST),
        ending=_ending(view, pick.row),
    )


def _ending(view: View, row: int) -> str:
    """The places of the next items for each shown policy, as a sentence."""
    came = view.came(row)
    places = {name: np.flatnonzero(np.isin(view.slates(name)[row], came)).tolist() for name in view.shown}
    every, one, any_ = ("them all", "one of them", "any of them") if len(came) > 1 else ("it", "it", "it")
    if any(places.values()):
        parts = (
            f"{name} had {one} {place_word(found[0])}" if found else f"{name} missed {every}"
            for name, found in places.items()
        )
        return f"{'; '.join(parts)}."
    if len(places) == 1:
        return f"{view.lead} did not have {any_} among {spelled(view.k)}."
    nobody = f"Neither {' nor '.join(places)}" if len(places) == 2 else f"None of {listed(places)}"
    return f"{nobody} had {any_} among {spelled(view.k)}."


def worst(view: View) -> list[Worse]:
    """The users whom the best rival serves better than the best learned policy does, the worst first."""
    mine, theirs = _values(view), _values(view, view.rival)
    before = view.comparison.evaluator.targets.before
    order = np.lexsort((np.arange(len(mine)), -before, mine - theirs))
    found: dict[str, Worse] = {}
    for row in (int(one) for one in order if mine[one] < theirs[one]):
        items = view.heard(row)[-LATEST:], view.slates(view.lead)[row][:LATEST], view.came(row)[:LATEST]
        latest, slate, came = (_titles(view, some) for some in items)
        values = number(float(mine[row])), number(float(theirs[row]))
        found.setdefault(view.user(row), Worse(view.user(row), int(before[row]), latest, slate, came, *values))
        if len(found) == WORST:
            break
    return list(found.values())


def _titles(view: View, items: Int32[np.ndarray, "some"]) -> list[str]:
    return [view.titles[item] for item in items if item >= 0]


def _mostly(view: View, items: Int32[np.ndarray, "some"]) -> str:
    """The two most frequent categories of some items."""
    names = categories(view)
    if not names or not len(items):
        return ""
    shares = np.nan_to_num(view.statistics.shares(items[None])[0])
    order = np.argsort(-shares, kind="stable")[:2]
    return listed([names[one] for one in order if shares[one] > 0])
