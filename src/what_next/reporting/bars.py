"""Progress bars for work in stages."""

from contextlib import AbstractContextManager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from what_next.data.stages import Done, Stages, draws
from what_next.errors import Plain


class Bars(Stages, AbstractContextManager["Bars", None]):
    """A progress bar of the current stage, with the remaining time; a context manager.

    Nothing is drawn if `silent`, or where the standard error is neither a terminal nor a notebook.
    """

    def __init__(self, silent: bool = False, console: Console | None = None) -> None:
        self.console = console or Plain(stderr=True)
        self.silent = silent or not draws(self.console)
        self.bars: Progress | None = None

    def __reduce__(self) -> tuple[type["Bars"], tuple[bool]]:
        return Bars, (True,)  # a copy in another process draws nothing

    def __exit__(self, *_: object) -> None:
        self._end()

    def begin(self, name: str, total: int) -> Done:
        """See `Stages.begin`; replaces the bar of the previous stage. With a total of 0 the bar shows no share."""
        if self.silent:
            return super().begin(name, total)
        notebook = self.console.is_jupyter  # a notebook reserves a place for every bar, so all stages share one
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
            if bars.finished and not notebook:  # otherwise the next output would appear above an old bar
                bars.stop()

        return done

    def _end(self) -> None:
        if self.bars is not None:
            self.bars.stop()
        self.bars = None
