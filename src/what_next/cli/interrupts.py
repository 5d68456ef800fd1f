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
    """For imports: within, Ctrl-C ends the process at once, with one line, and nothing is looked through for garbage.

    A `KeyboardInterrupt` in the midst of an import leaves half a library behind, and a traceback. What is imported
    stays, and looking through it takes a sixth of the time.
    """
    collects = gc.isenabled()
    gc.disable()
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # nobody has their own way to stop
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
    """Within, SIGTERM, as schedulers send it, does what Ctrl-C would: training is saved, and nothing is left half done.

    The process dies of it all the same, at the end. Not so one of several processes of `torchrun`, which ends by it
    those that wait for one that is lost.
    """
    told = list[int]()

    def heed(number: int, frame: FrameType | None) -> None:
        told.append(number)
        interrupt = signal.getsignal(signal.SIGINT)  # ignored in what a script starts in the background
        if interrupt is _end:
            _end(number, frame)
        (interrupt if callable(interrupt) else signal.default_int_handler)(signal.SIGINT, frame)

    if "RANK" not in os.environ:
        signal.signal(signal.SIGTERM, heed)
    yield
    if told:
        _terminate()


def import_torch() -> None:
    """Import PyTorch and what stands on it, which takes seconds, where that was not done yet."""
    if "torch" not in sys.modules:
        with quietly():
            import what_next.settings  # noqa: F401
