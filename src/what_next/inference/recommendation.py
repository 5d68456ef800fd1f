"""A user's recommendations and the reasons for them, for people to read."""

from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from what_next.data import html
from what_next.errors import some

NOTHING = "nothing: all that may be named was heard (--seen, or seen=True)"


@dataclass(frozen=True)
class Item:
    """One recommended item.

    Attributes:
        item_id, title: as in the item table.
        attributes: in their own units.
        match: whether it lies in the box around the proposal; otherwise it is one of the nearest.
        repeat: whether it is in the user's history.
        propensity: the exact probability with which it was chosen; 1 for a greedy choice.
    """

    item_id: str
    title: str
    attributes: dict[str, float]
    match: bool
    repeat: bool
    propensity: float | None


@dataclass(frozen=True, repr=False)
class Recommendation:
    """The recommended items of one user, and the reasons for them.

    Attributes:
        user: the id; None for a given history.
        history: titles of the latest events, oldest first.
        proposal: the attributes that the actor proposed, in their own units; empty if items are ranked by score.
        items: best first.
        unknown: ids of the given history that the catalogue does not hold.
    """

    user: str | None
    history: tuple[str, ...]
    proposal: dict[str, float]
    items: tuple[Item, ...]
    unknown: tuple[str, ...] = ()

    def __repr__(self) -> str:
        places = [f"{place}. {item.title} ({item.item_id})" for place, item in enumerate(self.items, 1)]
        return "\n".join([self._title, *(places or [NOTHING])])

    def _repr_html_(self) -> str:
        rows = [(place, item.title, item.item_id, self._why(item)) for place, item in enumerate(self.items, 1)]
        after = "after: " + "; ".join(self.history[-5:])
        unknown = f"; not in the catalogue, left out: {some(self.unknown)}" if self.unknown else ""
        return html.table(self._title, ("", "title", "item", "why"), rows, after + unknown)

    @property
    def _title(self) -> str:
        return f"What next for {self._whose}?"

    @property
    def _whose(self) -> str:
        return "the given history" if self.user is None else f"user {self.user}"

    def _why(self, item: Item) -> str:
        why = "matches the proposal" if item.match else "nearest to the proposal"
        return (why if self.proposal else "by score") + (", known already" if item.repeat else "")

    def __rich__(self) -> RenderableType:
        """A table of the items and, if there is a proposal, one that compares attributes, one row each."""
        parts: list[RenderableType] = [Text(f"{self._whose}, after: " + "; ".join(self.history[-5:]))]
        if self.unknown:
            parts.append(Text(f"not in the catalogue, left out: {some(self.unknown)}"))
        if not self.items:
            return Group(*parts, Text(self._title), Text(NOTHING))
        items = Table("", "item", "title", "why", title=Text(self._title), title_justify="left")
        for place, item in enumerate(self.items, 1):
            items.add_row(str(place), Text(item.item_id), Text(item.title), self._why(item))
        return Group(*parts, items, *([self._reasons()] if self.proposal else []))

    def _reasons(self) -> Table:
        shown = self.items[:3]
        table = Table(title="Proposed attributes beside those of the items", title_justify="left")
        for heading in ("attribute", "proposed"):
            table.add_column(heading, no_wrap=True, min_width=len(heading))
        for item in shown:
            table.add_column(Text(item.title), max_width=14, overflow="fold")
        for name, value in self.proposal.items():
            others = [item.attributes[name] for item in shown]
            if value or any(others):  # rows of zeros only, such as absent genres, would hide the rest
                table.add_row(Text(name), f"{value:.4g}", *(f"{other:.4g}" for other in others))
        return table
