"""`what-next loop`: retrain from the service's own log, and deploy better models."""

import os
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.table import Table

from what_next.cli.options import Json, setup_of
from what_next.cli.output import answer, emit, moment, note
from what_next.cli.service import opened
from what_next.errors import SetupError, StoreError, StoreUnavailable, WhatNextError

if TYPE_CHECKING:
    from what_next.serving.loop.loop import Loop
    from what_next.serving.store import Store
    from what_next.settings import Setup

app = typer.Typer()

STATUS = "status"
"""The word before SETUP that shows the state and changes nothing."""


@app.command()
def loop(
    words: Annotated[
        list[str],
        typer.Argument(metavar="[status] SETUP [KEY=VALUE]...", help="A setup, and settings that override its own."),
    ],
    once: Annotated[bool, typer.Option("--once", help="Do what can be done now, and end: for cron.")] = False,
    as_json: Json = False,
) -> int:
    """Keep learning from the service's own log: export, train, judge, shadow, canary, promote or roll back.

    With the word `status` before SETUP: show what it has done, and what it waits for.
    """
    asked, words = words[0] == STATUS, words[words[0] == STATUS :]
    if not words:
        raise SetupError("loop status: name a setup, as in what-next loop status setup.txt")
    if asked and once:
        raise SetupError("loop status --once: --once is for the loop itself; leave it out")
    settings = setup_of(Path(words[0]), words[1:], "train=no")
    from what_next.serving.loop.journal import Journal, alone, journal_path, status_of
    from what_next.serving.loop.loop import Loop

    path = journal_path(settings)
    if asked:
        if not path.is_file():
            raise StoreError(f"{path}: there is no journal; begin with what-next loop SETUP")
        status = status_of(settings)
        answer(status, as_json, _shown(status))
        return 0
    every = None if once else settings.loop.look
    with ExitStack() as stack:
        store = _opened(stack, settings, every)
        journal = stack.enter_context(closing(Journal.open(path)))
        with alone(store, journal) as make_sure:
            os.nice(settings.loop.nice)
            _go_on(Loop(settings, store, journal, make_sure), every)
        if as_json:
            emit(journal.status())
    return 0


def _opened(stack: ExitStack, settings: "Setup", every: float | None) -> "Store":
    """The store; waits for one that is unavailable, unless the loop runs once."""
    while True:
        try:
            return stack.enter_context(opened(settings))
        except StoreUnavailable as error:
            if every is None:
                raise
            note(f"what-next: {error}; it is tried again in {every:g} s")
        time.sleep(every)


def _go_on(loop: "Loop", every: float | None) -> None:
    """Run the loop for ever or once; print what it does and, if it runs once, what it waits for."""
    from what_next.serving.loop.journal import NotAlone

    told = max((one.number for one in loop.journal.lines(1)), default=0)
    while True:
        try:
            loop.run()
        except WhatNextError as error:
            if every is None or isinstance(error, NotAlone):
                raise
            note(f"what-next: {error}")
        lines = loop.journal.lines(1000)
        for line in [one for one in reversed(lines) if one.number > told] or (lines[:1] if every is None else []):
            where = line.step if line.round is None else f"round {line.round}, {line.step}"
            note(f"{moment(line.time)}  {where}: {line.told}")
            told = line.number
        if every is None:
            return
        time.sleep(every)


def _shown(status: dict[str, Any]) -> Group:
    table = Table("when", "round", "step", "what it did, and why")
    for line in reversed(status["lines"]):
        table.add_row(moment(line["time"]), str(line["round"] or ""), line["step"], line["told"])
    return Group(table, _summary(status))


def _summary(status: dict[str, Any]) -> str:
    numbers, latest = status["numbers"], next(iter(status["rounds"]), None)
    parts = [] if latest is None else [f"round {latest['number']}: {latest['step'] or latest['outcome']}"]
    if "unlearned" in numbers:
        parts.append(f"{numbers['unlearned']:,.0f} events and feedback not yet learned from")
    if "reward" in numbers:
        bounds = [f"{numbers[name]:.4g}" for name in ("reward_low", "reward_high") if name in numbers]
        within = f" [{', '.join(bounds)}]" if bounds else ""
        parts.append(
            f"the deployed version earns {numbers['reward']:.4g}{within} for an answer, over {numbers['answers']:,.0f} "
            "answers"
        )
    return "; ".join(parts) or "nothing was done yet"
