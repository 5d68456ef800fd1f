"""Output of commands: messages, tables, progress bars, JSON; users' mistakes become exit code 2."""

import errno
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import wraps
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

from rich.console import RenderableType

from what_next.cli.interrupts import INTERRUPTED
from what_next.errors import NotFinite, Plain, WhatNextError, disk_full, limited, out_of_memory

if TYPE_CHECKING:
    from what_next.environment import Report

WIDE = 10_000
"""Width in columns without a terminal."""

CLOSED = 141
"""Exit code when the output's reader has closed the pipe, as after `| head`: by convention 128 + SIGPIPE."""

BAD_PATH = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR}
"""Errors that come from a path that the user named, or from missing permissions."""

UNMAPPED = "failed to map segment from shared object"
"""What the loader of libraries says where there is no address space left."""

P = ParamSpec("P")


class SafeStream:
    """Standard error that never ends a command because a write fails (a closed pipe, a full disk). Everything but
    writing is delegated to the stream."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, ignoring errors."""
        if self._stream is not None:
            with suppress(OSError):
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, ignoring errors."""
        if self._stream is not None:
            with suppress(OSError):
                self._stream.flush()


def guarded(command: Callable[P, int]) -> Callable[P, int]:
    """Print a user's mistake as a message without a traceback, and return 2."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        for stream in (sys.stdout, sys.stderr):  # characters that the terminal cannot show do not end the command
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        before: Any = sys.stderr
        safe: Any = SafeStream(before)
        sys.stderr = safe
        try:
            code = command(*args, **kwargs)
            if sys.stdout is not None:
                sys.stdout.flush()
            return code
        except (BrokenPipeError, SystemExit) as error:
            if getattr(error, "code", 1) != 1:  # Typer and Rich turn a closed pipe into exit code 1
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # takes what Python still flushes at exit
            return CLOSED
        except (WhatNextError, NotFinite, OSError, MemoryError, RuntimeError, ImportError) as error:
            if (told := _told(error)) is None:
                raise
            note(f"what-next: {told}")
            return 2
        except KeyboardInterrupt:
            note("what-next: interrupted")
            return INTERRUPTED
        finally:
            with suppress(OSError):  # if it fails, the safe stream stays, because Python flushes at exit, too
                if before is not None:
                    before.flush()
                sys.stderr = before

    return run


def _told(error: Exception) -> str | None:
    """The message for a user's mistake, or for a machine that is too small; None for our own bugs."""
    if isinstance(error, WhatNextError):
        error.in_python = False
        return str(error)
    text = str(error)
    if isinstance(error, NotFinite):
        return f"the model cannot be used: {error}; it is damaged, or its training diverged; train again"
    if "No usable temporary directory" in text:
        return f"there is no folder for temporary files ({text}); name one that can be written by TMPDIR"
    if "Symlink loop" in text:  # an OSError from Python 3.13 on
        return f"{error}; mend that link, or name another path"
    if isinstance(error, OSError) and disk_full(error):
        limit = "a quota or a limit on a file's size is reached: " if limited(error) else ""
        return f"the disk is full ({limit}{error}); make room, and try again"
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return f"no more files or connections can be opened ({error}); raise the limit (`ulimit -n`, or LimitNOFILE)"
    if isinstance(error, ImportError) and UNMAPPED in text:
        return (
            f"memory ran out as a library was loaded ({text}); raise the limit (`ulimit -v`), or take a larger machine"
        )
    if isinstance(error, OSError) and error.errno in BAD_PATH and error.filename:
        return f"{error.filename}: cannot be opened ({error.strerror}); mend that, or name another"
    if out_of_memory(error):
        reason = text.splitlines()[0] if text else "an array did not fit"
        return f"memory ran out ({reason}); what was saved is intact; lower batch_size, dim or max_length"
    return None


def note(text: str) -> None:
    """Print a line for people on the standard error."""
    print(text, file=sys.stderr)


def emit(values: dict[str, Any]) -> None:
    """Print JSON, and nothing else, on the standard output."""
    letters = (getattr(sys.stdout, "encoding", None) or "").lower() == "utf-8"  # JSON must be UTF-8 or ASCII
    print(json.dumps(values, indent=2, ensure_ascii=not letters, allow_nan=False))


def tell(shown: RenderableType) -> None:
    """Print a table or text at the terminal's width; without a terminal at any width, so that nothing is cut."""
    console = Plain()
    if not console.is_terminal:
        console.width = WIDE
    console.print(shown)


def answer(values: dict[str, Any], as_json: bool, *shown: RenderableType) -> None:
    """Print a command's result: as JSON; or for people, strings as lines and tables by `tell`."""
    if as_json:
        emit(values)
        return
    for one in shown:
        print(one) if isinstance(one, str) else tell(one)


def moment(microseconds: int) -> str:
    """A time of the store (microseconds since 1970) as text, in UTC."""
    return datetime.fromtimestamp(microseconds / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")


def command(name: str, setup: Path, overrides: Sequence[str] | None, *more: str) -> str:
    """The command line of a command with a setup and the same overrides, for messages."""
    fixed = [word for word in overrides or [] if word.partition("=")[0].strip().lower() != "train"]
    return shlex.join(["what-next", name, str(setup), *fixed, *more])


def show(
    report: "Report", setup: Path, overrides: Sequence[str] | None, as_json: bool = False, then: str | None = None
) -> int:
    """Print the report of a run and, after training, the next commands; returns the exit code."""
    if as_json:
        emit(report.as_json())
    else:
        tell(report)
        if then and report.saved and not report.stopped:
            print(f"next: {then}")
    if report.stopped:
        again = command("train", setup, overrides, "--resume")
        note(f"what-next: interrupted and saved; go on with `{again}`")
        return INTERRUPTED
    return 0
