"""Bars of progress, for work that goes on stage by stage."""

from contextlib import AbstractContextManager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from what_next.data.stages import Done, Stages, draws
from what_next.errors import Plain


class Bars(Stages, AbstractContextManager["Bars", None]):
    """A bar for the stage that is under way, with the time that is left; a context manager.

    Nothing is drawn where it is to be `silent`, nor where the standard error is no terminal and no notebook.
    """

    def __init__(self, silent: bool = False, console: Console | None = None) -> None:
        self.console = console or Plain(stderr=True)
        self.silent = silent or not draws(self.console)
        self.bars: Progress | None = None

    def __reduce__(self) -> tuple[type["Bars"], tuple[bool]]:
        return Bars, (True,)  # a copy draws on no terminal

    def __exit__(self, *_: object) -> None:
        self._end()

    def begin(self, name: str, total: int) -> Done:
        """See `Stages.begin`; the bar of the stage before goes. Of no parts, it is not known how many there are."""
        if self.silent:
            return super().begin(name, total)
        notebook = self.console.is_jupyter  # which keeps the place of every bar, so that one place serves all
        if self.bars is None or not notebook:
            self._end()
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TaskProgressColumn(),
                TimeRemainingColumn(),
            )
            self.bars = Progress(*columns, console=self.console, transient=True)
            self.bars.start()
        bars = self.bars
        for old in bars.task_ids:
            bars.remove_task(old)
        task = bars.add_task(name, total=total or None)

        def done(more: int) -> None:
            bars.advance(task, more)
            if bars.finished and not notebook:  # so that what is printed next does not stand above an old bar
                bars.stop()

        return done

    def _end(self) -> None:
        if self.bars is not None:
            self.bars.stop()
        self.bars = None
