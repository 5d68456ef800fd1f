"""Ctrl-C during training: it is noted and announced, and the run ends where it can be resumed."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import ParamSpec, TypeVar

from what_next.training.distributed import Ranks

P = ParamSpec("P")
R = TypeVar("R")
TOLD = b"interrupted: stops after this step, and saves; once more stops at once\n"


class Interrupted(Exception):
    """The user interrupted the work after the last step; a resumed run repeats it."""


class Interrupts:
    """Signals that end a run early; with several processes, the first one decides.

    Attributes:
        signals: the signals received; 0 if `on_step` ended the steps, which does not interrupt the work after them.
    """

    def __init__(self, ranks: Ranks, *, quiet: bool) -> None:
        self.ranks, self.quiet, self.signals = ranks, quiet, list[int]()

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Within this context, a first Ctrl-C is noted and announced, and a second one stops at once.

        With several processes, all but the first ignore Ctrl-C; their launcher stops them when the run has ended.
        """
        self.signals.clear()
        try:
            before = signal.signal(signal.SIGINT, signal.SIG_IGN if self.ranks.rank else self._note)
        except ValueError:  # not the main thread: its owner has its own way to stop
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def came(self) -> bool:
        """Whether a signal came, possibly only in the last save; all processes must call it."""
        return bool(self.ranks.first(bool(self.signals)))

    def heeded(self, function: Callable[P, R]) -> Callable[P, R]:
        """The function, made to raise `Interrupted` if a signal has come; all processes must call it."""

        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if self.ranks.first(any(self.signals)):
                raise Interrupted
            return function(*args, **kwargs)

        return call

    def _note(self, number: int, _: object) -> None:
        self.signals.append(number)
        signal.signal(number, signal.default_int_handler)
        if not self.quiet and sys.stderr is not None:  # without stderr, 2 may be any file
            with suppress(OSError):  # Ctrl-C also ends a `| tee`; an error here would break off the step
                os.write(2, TOLD)
