"""Polars' threads stay behind when a process is forked: what needs them would wait for ever, and is refused instead."""

import os
import re
from contextlib import suppress
from pathlib import Path

from what_next.errors import DataError

_left_behind: set[int] = set()
"""The processes that were forked while Polars' threads were there."""


def check_fork(what: str) -> None:
    """What needs Polars' threads asks first; where the system does not list threads (it is not Linux), for nothing.

    Raises:
        DataError: this process was forked from one that had them.
    """
    if _left_behind - {os.getpid()}:
        raise DataError(
            f"{what} would wait for ever in this process, which was forked from one that had used Polars; start it by "
            "spawn or forkserver, as multiprocessing.get_context('spawn').Pool() does"
        )


def _before_fork() -> None:
    """Remember the process, if Polars has begun to work in it; its workers are called polars-0, polars-1, ..."""
    for name in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):  # the thread has ended
            if re.match(r"polars-\d", name.read_text(errors="replace")):
                _left_behind.add(os.getpid())
                return


if hasattr(os, "register_at_fork"):  # Windows has no forks
    os.register_at_fork(before=_before_fork)
