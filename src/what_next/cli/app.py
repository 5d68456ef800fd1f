"""The `what-next` program and its commands."""

import math
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import CommandInfo

from what_next import __version__
from what_next.cli import data, demo, estimate, hub, judge, loop, model, plan, promote, service
from what_next.cli.interrupts import INTERRUPTED, import_torch, terminable
from what_next.cli.options import Json
from what_next.cli.output import answer, emit, guarded, note
from what_next.errors import DataError, SetupError, WhatNextError
from what_next.metrics import METRICS

if TYPE_CHECKING:
    from what_next.data import Dataset


def _version(asked: bool) -> bool:
    if asked:
        print(f"what-next {__version__}")
        raise typer.Exit
    return asked


@contextmanager
def _interruptible() -> Iterator[None]:
    """On an interrupt inside, print its message, because Typer turns it into an exit code silently."""
    try:
        yield
    except KeyboardInterrupt as error:
        note("; ".join(["what-next: interrupted", *map(str, error.args)]))
        raise typer.Exit(INTERRUPTED) from error


class _Program(TyperGroup):
    """All commands; Ctrl-C also works while the arguments are still being parsed."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _interruptible():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _interruptible():
            return super().invoke(ctx)


class _Command(TyperCommand):
    """A command that refuses an option given twice, because otherwise the last one would win silently."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        order = self.make_parser(ctx).parse_args(list(args))[2]
        if twice := next((one for one in order if order.count(one) > 1 and not one.multiple), None):
            raise SetupError(f"{twice.opts[0]}: is given more than once; keep one")
        return super().parse_args(ctx, args)


class _Patient(_Command):
    """A command that works with models: PyTorch is imported when the command runs, not for its help."""

    def invoke(self, ctx: Any) -> Any:
        for name, value in ctx.params.items():
            if isinstance(value, float) and not math.isfinite(value):  # bounds of options let NaN pass
                raise SetupError(f"--{name.replace('_', '-')} {value}: expected a finite number")
        import_torch()
        return super().invoke(ctx)


def _leaves(of: typer.Typer) -> Iterator[CommandInfo]:
    """The commands of an app and of its sub-apps."""
    yield from of.registered_commands
    for group in of.registered_groups:
        if group.typer_instance is not None:
            yield from _leaves(group.typer_instance)


app = typer.Typer(cls=_Program, no_args_is_help=True, pretty_exceptions_enable=False)
for commands in (data, demo, model, judge, estimate, service, promote, loop, plan, hub):
    app.add_typer(commands.app, name={data: "data", hub: "hub"}.get(commands))
    for one in _leaves(commands.app):
        one.cls = _Command if commands is data else _Patient

FEW, FEW_EPOCHS = 100, 20_000
"""With at most `FEW` users `init` has whatnext train on `FEW_EPOCHS` histories: with 80 users of ml-100k, spread@5 is
.161 [.128, .196] after 20,000, .154 [.116, .195] after 40,000, and .075 after 3,360, which are 60 passes."""
Kind = Literal["algorithms", "encoders", "rewards", "sources", "worlds", "data", "metrics"]


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Recommenders that learn from what happens next."""


@app.command("init", cls=_Command)
def init(
    log: Annotated[
        Path, typer.Argument(metavar="DATA", help="An imported data set, or any file that can be imported.")
    ],
    to: Annotated[Path, typer.Option(help="The setup file to write.")] = Path("setup.txt"),
    algorithm: Annotated[str, typer.Option(help="What learns; `list algorithms` says which there are.")] = "next_item",
    as_json: Json = False,
) -> None:
    """Write a commented setup.txt for one's own data."""
    from what_next.data import Dataset
    from what_next.data.files import write_files
    from what_next.settings import ALGORITHMS

    if to.exists():
        raise WhatNextError(f"{to}: is there already; remove it, or name another with --to")
    if algorithm not in ALGORITHMS:
        raise SetupError(f"--algorithm {algorithm!r}: allowed are {', '.join(ALGORITHMS)}")
    dataset = Dataset.read(log)
    if algorithm == "whatnext" and not dataset.catalogue.names:
        raise DataError(f"{log.name} has no item attributes, which whatnext needs; --algorithm next_item needs none")
    relative = os.path.relpath(os.path.realpath(log), Path(os.path.realpath(to)).parent)
    # Several setups in one folder would train over each other's models.
    text, told = _setup_of(dataset, relative, algorithm, "" if to.stem == "setup" else to.stem)
    write_files({to: text.encode()})
    answer({"setup": str(to)}, as_json, f"{to} written; {told}; next: what-next run {to}")


def _setup_of(dataset: "Dataset", relative: str, algorithm: str, models: str) -> tuple[str, str]:
    """The text of a setup, and a sentence about its algorithm; `models`: see `template`."""
    from what_next.settings import template

    if algorithm == "whatnext":
        why = {"epochs": "algorithms that count passes take these before them: put a # here for one"}
        told = "algorithm whatnext, which learns how widely items spread, not what comes next"
        epochs = FEW_EPOCHS if dataset.users <= FEW else 40_000
        return template(relative, why=why, epochs=epochs, models=models), told
    share, seen = f"{dataset.repeats:.0%} of the events are", dataset.repetitive
    why = {"evaluation.seen": f"{share} of an item that the user had before"} if seen else {}
    told = f"algorithm {algorithm}" + (f"; evaluation.seen yes, as {share} repeats" if seen else "")
    return template(relative, algorithm, why, seen=seen, models=models), told


@app.command("list", cls=_Command)
def list_known(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    as_json: Json = False,
) -> None:
    """List algorithms, encoders, rewards, sources, worlds, data sets or metrics."""
    known, own = _known(kind), _settings() if kind == "algorithms" else {}
    if as_json:
        emit({kind: list(known), "about": known} | ({"settings": own} if own else {}))
        return
    width = max(map(len, known))
    for name, about in known.items():
        print(f"{name:<{width}}  {about}")
        for key, default in own.get(name, {}).items():
            print(f"{'':<{width}}    {key}, {default}")


def _settings() -> dict[str, dict[str, str]]:
    """The keys of each algorithm's own settings, with their defaults."""
    from what_next.settings import ALGORITHMS, settings_of

    return {name: {one.key: one.default or "" for one in settings_of(name)} for name in ALGORITHMS}


def _known(kind: Kind) -> dict[str, str]:
    """The names of a kind, with a line about each."""
    if kind == "metrics":
        return dict(METRICS)
    if kind == "data":
        from what_next.data.public.sets import PUBLIC_SETS

        return {name: one.what for name, one in PUBLIC_SETS.items()}
    import_torch()
    if kind == "worlds":
        return _worlds()
    from what_next.settings import ALGORITHMS, known_encoders, known_rewards

    if kind == "algorithms":
        return _first_lines(ALGORITHMS)
    if kind == "sources":
        from what_next.sources import known_sources

        return _first_lines(known_sources())
    return _first_lines(known_encoders() if kind == "encoders" else known_rewards())


def _first_lines(classes: Mapping[str, type]) -> dict[str, str]:
    """The first line of each docstring."""
    return {name: (one.__doc__ or "").strip().partition("\n")[0] for name, one in classes.items()}


def _worlds() -> dict[str, str]:
    """Every world, followed by its presets, by the names that `--world` takes."""
    from what_next.worlds import GYM, known_worlds

    found: dict[str, str] = {}
    for name, world in known_worlds().items():
        found |= _first_lines({name: world})
        for variant, changes in world.presets.items():
            found[f"{name}:{variant}"] = ", ".join(f"{key} {value}" for key, value in changes.items()) or "the default"
    found[f"{GYM}ID"] = "Any environment of Gymnasium, by the id that it is registered with."
    return found


def _check_names() -> None:
    """Raise an error for a path that is not UTF-8, which libraries do not accept."""
    try:
        here = str(Path.cwd())
    except FileNotFoundError:
        raise WhatNextError("the folder in which this runs is gone; go to another one") from None
    for name in (here, *sys.argv):
        if re.search("[\ud800-\udfff]", name):
            raise WhatNextError(f"{name!r}: is not UTF-8; rename the file or the folder")


def _reworded(error: Any) -> None:
    """Add the value found to the option parser's message, which repeats only what Pydantic expects."""
    for mistake in getattr(error.__cause__, "errors", list)()[:1]:
        _, should, expected = mistake["msg"].partition("Input should be ")
        if should:
            error.message = f"{mistake['input']!r}; allowed: {expected.partition(',')[0]}"
        else:
            error.message = error.message.removeprefix("Value error, ")


@guarded
def main() -> int:
    """Run a command; returns the exit code: 0, 2 for a user's mistake, 130 for an interrupt."""
    _check_names()
    try:
        code = app(standalone_mode=False)
    except typer.Abort:
        return 130
    except Exception as error:
        # The option parser's own errors (a missing argument, an unknown option) format themselves.
        if not hasattr(error, "show"):
            raise
        _reworded(error)
        error.show()
        return 2
    return code if isinstance(code, int) else 0


def run() -> None:
    """The console script; warnings are printed on one line."""
    warnings.formatwarning = lambda message, *_, **__: f"what-next: warning: {message}\n"
    with terminable():
        code = main()
    sys.exit(code)
