"""Progress of long work, reported stage by stage."""

from collections.abc import Callable
from importlib.util import find_spec

from rich.console import Console

Done = Callable[[int], None]
"""Called with the number of further parts of a stage that are done."""


def no_progress(more: int) -> None:
    """The default callback, which does nothing."""


class Stages:
    """Receives the progress of long work in stages; this base class ignores it."""

    def begin(self, name: str, total: int) -> Done:
        """Begin a stage of `total` parts; call the result as parts are done."""
        return no_progress


SILENT = Stages()


def draws(console: Console) -> bool:
    """Whether a bar can be drawn: in a terminal, or in a notebook with widgets."""
    return console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)
