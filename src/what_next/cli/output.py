"""What people and machines see: messages, tables, bars of progress, JSON; mistakes become exit code 2."""

import json
import sys
from collections.abc import Callable
from functools import wraps
from types import TracebackType
from typing import Any, ParamSpec

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from what_next.cli.interrupts import INTERRUPTED
from what_next.data.stages import Done, Stages
from what_next.environment import Report
from what_next.errors import WhatNextError

WIDE = 10_000
"""Columns where there is no terminal."""

P = ParamSpec("P")


def guarded(command: Callable[P, int]) -> Callable[P, int]:
    """Print the message of a `WhatNextError` without a traceback, and return 2."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return command(*args, **kwargs)
        except WhatNextError as error:
            note(f"what-next: {error}")
            return 2
        except (MemoryError, RuntimeError) as error:
            if not (isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error)):
                raise
            reason = str(error).splitlines()[0] if str(error) else "an array did not fit"
            note(f"what-next: memory ran out ({reason}); what was saved is intact; lower batch_size, dim or max_length")
            return 2
        except KeyboardInterrupt:
            note("what-next: interrupted")
            return INTERRUPTED

    return run


def note(text: str) -> None:
    """Print a line for people on the standard error."""
    print(text, file=sys.stderr)


def emit(values: dict[str, Any]) -> None:
    """Print JSON, and nothing else, on the standard output."""
    json.dump(values, sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


def tell(shown: RenderableType) -> None:
    """Print a table or text as wide as the terminal; into a file or a pipe without a limit, so that nothing is cut."""
    console = Console()
    if not console.is_terminal:
        console.width = WIDE
    console.print(shown)


def show(report: Report, as_json: bool = False) -> int:
    """Print a report; returns the exit code."""
    if as_json:
        emit(report.as_json())
    else:
        Console().print(report)
    if report.stopped:
        note("what-next: interrupted and saved; go on with `what-next train SETUP --resume`")
        return INTERRUPTED
    return 0


class Bars(Stages):
    """A bar for the stage that is under way, with the time that is left; a context manager.

    Nothing is drawn for machines (`as_json`), nor where the standard error is no terminal.
    """

    def __init__(self, as_json: bool = False, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.silent = as_json or not self.console.is_terminal
        self.bars: Progress | None = None

    def __enter__(self) -> "Bars":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def begin(self, name: str, total: int) -> Done:
        """See `Stages.begin`; the bar of the stage before goes."""
        self._end()
        if self.silent:
            return super().begin(name, total)
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        bars = self.bars = Progress(*columns, console=self.console, transient=True)
        bars.start()
        task = bars.add_task(name, total=total)

        def done(more: int) -> None:
            bars.advance(task, more)
            if bars.finished:  # so that what is printed next does not stand above an old bar
                bars.stop()

        return done

    def _end(self) -> None:
        if self.bars is not None:
            self.bars.stop()
        self.bars = None
