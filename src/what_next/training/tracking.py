"""Progress of a run: a progress bar, a log of JSON lines, and the board that `track` names (`boards`)."""

import json
import math
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from what_next.data.stages import draws
from what_next.errors import Lines, Plain, SaveError
from what_next.training.boards import Board
from what_next.training.step import Step

TENTHS = 10


class Tracker:
    """Shows and logs every step of a run; a context manager.

    If no bar can be drawn, a line is printed at every tenth of the run.
    """

    def __init__(
        self, log: Path, done: int, total: int, users: int, quiet: bool = False, board: Board | None = None
    ) -> None:
        """`done` of `total` histories are already trained; later lines of the log are dropped (0: all lines).

        `users`: histories per pass; 0 in a world, where slates are counted. `quiet`: show nothing.
        """
        self.users = users
        self.console = Plain(stderr=True, quiet=quiet)
        self.lines = Lines(quiet=quiet)
        self.done, self.total = done, total
        self.log, self.file = log, _opened(log, done)
        self.board = board
        self.progress = Progress(
            TextColumn("training"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("{task.fields[shown]}", markup=False),
            TimeRemainingColumn(),
            console=self.console,
            disable=quiet or not draws(self.console),
        )
        self.task = self.progress.add_task("training", total=total, completed=done, shown="")

    def __enter__(self) -> "Tracker":
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()
        with suppress(OSError):  # a line that could not be written was reported already
            self.file.close()
        if self.board is not None and kind is not None:
            self.board.close("")

    def show(self, step: Step, histories: int) -> None:
        """Show and log a step, after which `histories` have been trained on."""
        values = {name: value for name, value in asdict(step).items() if name not in ("losses", "metrics")}
        values |= {f"loss_{name}": loss for name, loss in step.losses.items()}
        values |= {f"note_{name}": value for name, value in step.metrics.items()}
        try:
            passes = round(histories / self.users, 3) if self.users else 0.0
            # JSON has neither NaN nor Infinity.
            finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
            self.file.write(json.dumps({"histories": histories, "passes": passes, **finite}, allow_nan=False) + "\n")
            self.file.flush()
        except OSError as error:
            raise SaveError(
                f"{self.log}: the log of training cannot be written ({error.strerror}), so training ends; the last "
                "save, if any, is kept: make room, or set `log` to another path, and go on with --resume"
            ) from None
        if self.board is not None:
            self.board.add(values, histories)
        losses = " ".join(f"{name} {loss:.3f}" for name, loss in step.losses.items())
        shown = f"reward {step.reward:+.3f}, loss {losses}"
        done = min(histories, self.total)  # the last batch may exceed the total
        self.progress.update(self.task, completed=done, shown=shown)
        tenth = histories * TENTHS // self.total > self.done * TENTHS // self.total
        if tenth and not draws(self.console):
            what = f"histories ({histories / self.users:.1f} passes)" if self.users else "slates"
            self.lines.print(f"training {done:,} of {self.total:,} {what}: {shown}", highlight=False)
        self.done = histories


def _opened(log: Path, done: int) -> Any:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        kept = _until(log, done) if done and log.exists() else 0
        file = log.open("a")
        if log.is_file():  # not a device
            file.truncate(kept)  # needs no space on a full disk
    except OSError as error:
        told = f"{log}: the log of training cannot be written ({error.strerror}); set `log` to another path"
        raise SaveError(told) from None
    return file


def _until(log: Path, done: int) -> int:
    """The bytes of the log up to `done` histories; a line that a crash cut short, and all lines after it, are later."""
    kept = 0
    with log.open("rb") as lines:
        for line in lines:
            try:
                if not line.endswith(b"\n") or json.loads(line)["histories"] > done:
                    break
            except (ValueError, KeyError, TypeError):
                break
            kept += len(line)
    return kept
