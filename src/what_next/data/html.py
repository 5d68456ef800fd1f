"""Small HTML tables, which notebooks show instead of a `repr`."""

from collections.abc import Sequence
from html import escape


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[object]], note: str = "") -> str:
    """A table; `Markup` cells are inserted unchanged, others are escaped.

    Args:
        caption: above it; `note`: below it.
        header: the column names; if it is empty, the first cell of each row is the row's name.
        rows: their cells.
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
    """A cell that already is HTML."""

    __slots__ = ()


def _cell(cell: object, *, name: bool) -> str:
    kind = "th" if name else "td"
    shown = cell if isinstance(cell, Markup) else escape(str(cell))
    return f'<{kind} style="text-align:left">{shown}</{kind}>'
