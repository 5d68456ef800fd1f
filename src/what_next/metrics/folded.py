"""Tables that fold: columns that do not fit beside the others go on in further tables, and no cell is cut."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.markup import escape
from rich.table import Table
from rich.text import Text

FRAME = 3
"""Characters beside the content of a column: a space on each side, and a line."""


@dataclass(frozen=True, eq=False)
class Folded:
    """A table as wide as the console, or several with the same first column.

    Attributes:
        title: above the first; None for none.
        header: of the columns; the first names the rows, and has at most half of the width where not all fit.
        sections: of rows, a line between them; each row has a cell for each column, which may be of several lines.
    """

    title: str | None
    header: Sequence[str]
    sections: Sequence[Sequence[Sequence[str]]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        """The tables."""
        rows = [self.header, *(row for section in self.sections for row in section)]
        columns = zip(*rows, strict=True)
        widths = [max(cell_len(line) for cell in column for line in cell.split("\n")) for column in columns]
        if _total(widths) > options.max_width:
            widths[0] = min(widths[0], options.max_width // 2 - FRAME)
        for number, part in enumerate(_fitting(widths, options.max_width)):
            title = None if number or self.title is None else escape(self.title)
            shown = Table(title=title, title_justify="left")
            for column in part:
                how = {"justify": "right"} if column else {"width": widths[0]}
                shown.add_column(Text(self.header[column]), overflow="fold", **how)
            for section in self.sections:
                for row in section:
                    shown.add_row(*(Text(row[column]) for column in part))
                shown.add_section()
            yield shown


def _total(widths: Sequence[int]) -> int:
    """The width of a table with columns of some widths."""
    return 1 + sum(width + FRAME for width in widths)


def _fitting(widths: Sequence[int], most: int) -> Iterator[list[int]]:
    """The columns of each table: the first, and as many others as there is room for."""
    part = [0]
    for column in range(1, len(widths)):
        if len(part) > 1 and _total([widths[one] for one in [*part, column]]) > most:
            yield part
            part = [0]
        part.append(column)
    yield part
