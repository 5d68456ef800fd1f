"""Refuses work that needs Polars' threads in a forked process, where they do not exist and it would wait for ever."""

import os
import re
from contextlib import suppress
from pathlib import Path

from what_next.errors import DataError

_left_behind: set[int] = set()
"""Processes that were forked while Polars' threads existed."""


def check_fork(what: str) -> None:
    """Called before work that needs Polars' threads. Without effect where threads cannot be listed (outside Linux).

    Raises:
        DataError: this process was forked from one with such threads.
    """
    if _left_behind - {os.getpid()}:
        raise DataError(
            f"{what} would wait for ever in this process, which was forked from one that had used Polars; start it by "
            "spawn or forkserver, as multiprocessing.get_context('spawn').Pool() does"
        )


def _before_fork() -> None:
    """Remember the process if Polars has started its threads, which are called polars-0, polars-1, ..."""
    for name in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):  # the thread has ended
            if re.match(r"polars-\d", name.read_text(errors="replace")):
                _left_behind.add(os.getpid())
                return


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_before_fork)
