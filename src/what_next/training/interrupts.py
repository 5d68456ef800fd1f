"""Ctrl-C while a run trains: it is noted, and told, and the run ends where it can go on."""

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
    """The user interrupted what follows the last step; a resumed run does it anew."""


class Interrupts:
    """What ends a run before its time; of several processes, the first one says.

    Attributes:
        signals: those that came; 0 where `on_step` ended the steps, which does not end what follows them.
    """

    def __init__(self, ranks: Ranks, *, quiet: bool) -> None:
        self.ranks, self.quiet, self.signals = ranks, quiet, list[int]()

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Within, a first Ctrl-C is noted and told, and a second one stops at once.

        Of several processes, all but the first leave an interrupt to whoever stops them when the run has ended.
        """
        self.signals.clear()
        try:
            before = signal.signal(signal.SIGINT, signal.SIG_IGN if self.ranks.rank else self._note)
        except ValueError:  # not the main thread: whoever runs there has their own way to stop
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def came(self) -> bool:
        """Whether one came, be it in the last save; all processes ask."""
        return bool(self.ranks.first(bool(self.signals)))

    def heeded(self, function: Callable[P, R]) -> Callable[P, R]:
        """The function, which raises an `Interrupted` where a signal has come; all processes call it."""

        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if self.ranks.first(any(self.signals)):
                raise Interrupted
            return function(*args, **kwargs)

        return call

    def _note(self, number: int, _: object) -> None:
        self.signals.append(number)
        signal.signal(number, signal.default_int_handler)
        if not self.quiet and sys.stderr is not None:  # without one, 2 may be any file
            with suppress(OSError):  # Ctrl-C ends `| tee`, too; what is raised here would end what is under way
                os.write(2, TOLD)
