"""Long work, reported stage by stage to whoever shows it."""

from collections.abc import Callable
from importlib.util import find_spec

from rich.console import Console

Done = Callable[[int], None]
"""Called with how many more parts of a stage are done."""


def no_progress(more: int) -> None:
    """What a stage tells where nobody asks."""


class Stages:
    """Told of the stages of long work, and how far each is; this one keeps it to itself."""

    def begin(self, name: str, total: int) -> Done:
        """A stage of so many parts begins; call what is returned as they are done."""
        return no_progress


SILENT = Stages()


def draws(console: Console) -> bool:
    """Whether a bar can be drawn there: in a terminal, or in a notebook with widgets."""
    return console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)
