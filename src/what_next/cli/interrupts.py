"""Ctrl-C while the program is still being imported."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130
"""The exit code of a program that Ctrl-C ended, by convention 128 + SIGINT."""


@contextmanager
def quietly() -> Iterator[None]:
    """Within, Ctrl-C ends the process at once, with one line.

    A `KeyboardInterrupt` in the midst of an import leaves half a library behind, and a traceback.
    """
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # nobody has their own way to stop
    if not usual or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, b"what-next: interrupted\n")
    os._exit(INTERRUPTED)
