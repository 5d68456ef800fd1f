"""Mistakes become one message and exit code 2; results become tables for people or JSON for machines."""

import json
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

from rich.console import Console, RenderableType

from what_next.cli.interrupts import INTERRUPTED
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
            Console(stderr=True, soft_wrap=True).print(f"what-next: {error}", markup=False, highlight=False)
            return 2
        except (MemoryError, RuntimeError) as error:
            if not (isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error)):
                raise
            told = str(error).splitlines()[0] if str(error) else "an array did not fit"
            Console(stderr=True, soft_wrap=True).print(
                f"what-next: memory ran out ({told}); what was saved is intact; lower batch_size, dim or max_length",
                markup=False,
                highlight=False,
            )
            return 2
        except KeyboardInterrupt:
            Console(stderr=True).print("what-next: interrupted", highlight=False)
            return INTERRUPTED

    return run


def show(report: Report, as_json: bool = False) -> int:
    """Print a report; returns the exit code."""
    if as_json:
        emit(report.as_json())
    else:
        Console().print(report)
    if report.stopped:
        Console(stderr=True, soft_wrap=True).print(
            "what-next: interrupted and saved; go on with `what-next train SETUP --resume`", highlight=False
        )
        return INTERRUPTED
    return 0


def tell(shown: RenderableType) -> None:
    """Print for people: as wide as the terminal; into a file or a pipe as wide as it comes, so that nothing is cut."""
    console = Console()
    if not console.is_terminal:
        console.width = WIDE
    console.print(shown)


def emit(values: dict[str, Any]) -> None:
    """Print JSON, and nothing else, on the standard output."""
    json.dump(values, sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")
