"""Ctrl-C while the program is still being imported, and SIGTERM."""

import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130
"""The exit code of a program that Ctrl-C ended, by convention 128 + SIGINT."""


@contextmanager
def quietly() -> Iterator[None]:
    """For imports: inside, Ctrl-C ends the process at once with one line, and garbage collection is off.

    A `KeyboardInterrupt` during an import leaves a half-imported library and a traceback. Imported objects stay alive,
    and collecting garbage among them would take a sixth of the time.
    """
    collects = gc.isenabled()
    gc.disable()
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # no handler was installed
    usual = usual and threading.current_thread() is threading.main_thread()
    if usual:
        signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        if usual:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if collects:
            gc.enable()
        gc.freeze()


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, b"what-next: interrupted\n")
    if number == signal.SIGTERM:
        _terminate()
    os._exit(INTERRUPTED)


def _terminate() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.raise_signal(signal.SIGTERM)


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM, which schedulers send, acts like Ctrl-C: training is saved, and no file is left half written.

    In the end the process still dies of the signal. A process of `torchrun` does not: there SIGTERM ends processes that
    wait for a lost one.
    """
    told = list[int]()

    def heed(number: int, frame: FrameType | None) -> None:
        told.append(number)
        interrupt = signal.getsignal(signal.SIGINT)  # scripts ignore it for commands in the background
        if interrupt is _end:
            _end(number, frame)
        (interrupt if callable(interrupt) else signal.default_int_handler)(signal.SIGINT, frame)

    if "RANK" not in os.environ:
        signal.signal(signal.SIGTERM, heed)
    yield
    if told:
        _terminate()


def import_torch() -> None:
    """Import PyTorch and the modules that need it, which takes seconds, unless that was done before."""
    if "torch" not in sys.modules:
        with quietly():
            import what_next.settings  # noqa: F401
