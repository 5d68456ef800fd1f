"""Small tables in HTML, which notebooks show in place of a `repr`."""

from collections.abc import Sequence
from html import escape


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[object]], note: str = "") -> str:
    """A table; a cell of `Markup` stands as it is, all others are escaped.

    Args:
        caption: above it; `note`: below it.
        header: of the columns; empty for none, and then the first cell of each row names it.
        rows: of cells.
    """
    left = 'style="text-align:left"'
    head = "".join(f"<th {left}>{escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(_cell(cell, name=not header and not place) for place, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    below = f"<p><small>{escape(note)}</small></p>" if note else ""
    return (
        f'<div><table><caption style="text-align:left;font-weight:bold">{escape(caption)}</caption>'
        f"{f'<thead><tr>{head}</tr></thead>' if header else ''}<tbody>{body}</tbody></table>{below}</div>"
    )


class Markup(str):
    """A cell that is HTML already."""

    __slots__ = ()


def _cell(cell: object, *, name: bool) -> str:
    kind = "th" if name else "td"
    shown = cell if isinstance(cell, Markup) else escape(str(cell))
    return f'<{kind} style="text-align:left">{shown}</{kind}>'
