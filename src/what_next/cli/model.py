"""`what-next run | train | recommend | inspect`."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import IO, Annotated, Any

import numpy as np
import polars as pl
import typer
from rich.console import Console
from rich.table import Table

from what_next.agent import Agent
from what_next.cli.data import Json
from what_next.cli.guard import emit, show
from what_next.cli.words import ids_of, trained_setup
from what_next.data.importing.files import write_files
from what_next.environment import Environment
from what_next.errors import SetupError
from what_next.inference.recommender import Recommender
from what_next.policy import LearnedPolicy
from what_next.settings import Setup, listed
from what_next.training import checkpoint
from what_next.training.artefacts import read_manifest

SetupFile = Annotated[Path, typer.Argument(metavar="SETUP", help="A setup.txt, or the same as TOML.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that go before the file's.")
]

Force = Annotated[bool, typer.Option("--force", help="Write over a model of another algorithm or of other data, too.")]

FORMATS: dict[str, Callable[[pl.DataFrame, IO[bytes]], object]] = {
    ".parquet": pl.DataFrame.write_parquet,
    ".csv": pl.DataFrame.write_csv,
    ".tsv": lambda frame, file: frame.write_csv(file, separator="\t"),
    ".jsonl": pl.DataFrame.write_ndjson,
}
"""How a table is written, by the end of its name."""


def run(setup: SetupFile, overrides: Overrides = None, force: Force = False, as_json: Json = False) -> int:
    """Train or recommend, as the setup says."""
    settings = Setup.read(setup, overrides or [])
    if not settings.train:
        settings = trained_setup(setup, overrides or [])
    return show(Environment.from_setup(settings, force=force).run_sim(), as_json)


def train(
    setup: SetupFile,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last save.")] = False,
    origin: Annotated[
        Path | None, typer.Option("--from", help="Start from this agent's file; the catalogue may have grown.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> int:
    """Train, and save both models; Ctrl-C saves, and --resume goes on."""
    settings = Setup.read(setup, [*(overrides or []), "train=yes"])
    if resume and origin:
        raise SetupError("--resume and --from exclude each other: go on with a run, or start from another model")
    state = checkpoint.open_state(settings, resume=resume, origin=origin)
    if origin:
        new, space = checkpoint.new_items(state, origin), state.space
        Console(stderr=True).print(f"from {origin}: {new:,} new items of {len(space.catalogue):,}", highlight=False)
    agent = Agent(settings, state.space)
    environment = Environment(agent, state, settings, resume=resume, origin=origin, force=force)
    report = environment.train_agent()
    if resume and not (report.steps or report.stopped):
        Console(stderr=True, soft_wrap=True).print(_nothing_left(settings, agent), highlight=False)
    return show(report, as_json)


def _nothing_left(settings: Setup, agent: Agent) -> str:
    """Why a resumed run trained nothing, and which setting would let it."""
    if settings.seconds and agent.spent >= 1:
        had, more = f"its {settings.seconds:g} seconds", f"seconds={2 * settings.seconds:g}"
    elif settings.passes:
        had, more = f"its {settings.passes} passes", f"passes={2 * settings.passes}"
    else:
        had, more = f"its {settings.epochs:,} histories", f"epochs={2 * settings.epochs}"
    return f"what-next: nothing was left to train: the run has had {had}; go on with a higher limit, such as {more}"


def recommend(
    setup: SetupFile,
    overrides: Overrides = None,
    user: Annotated[list[str] | None, typer.Option(help="The id of a user of the data; may be given again.")] = None,
    history: Annotated[str | None, typer.Option(help='Item ids, oldest first: "A,B,C".')] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many items.")] = 10,
    seen: Annotated[bool, typer.Option("--seen", help="Items of the history may be recommended too.")] = False,
    everyone: Annotated[bool, typer.Option("--all", help="Every user of the data; needs --to.")] = False,
    to: Annotated[
        Path | None, typer.Option(help=f"With --all: the table to write ({listed(list(FORMATS), 'or')}).")
    ] = None,
    allowed: Annotated[
        Path | None, typer.Option(help="A file with the item ids that may be recommended, a line each.")
    ] = None,
    blocked: Annotated[Path | None, typer.Option(help="A file with the item ids that may not.")] = None,
    context: Annotated[list[str] | None, typer.Option(help="key=value: a number about the situation.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Draw among the matching items; without it, the nearest.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Recommend to one user, after a history, or to everyone."""
    if not (everyone or history or user) or (everyone and (user or history)) or (history and len(user or []) > 1):
        raise SetupError('recommend: give --user ID (or several), --history "A,B", or --all with --to FILE')
    if everyone and (to is None or context):
        raise SetupError("recommend --all: name the table to write with --to, and no --context")
    if to is not None and (not everyone or to.suffix.lower() not in FORMATS):
        raise SetupError(f"--to {to}: goes with --all, and must end in {listed(list(FORMATS), 'or')}")
    items = None if history is None else [one.strip() for one in history.split(",") if one.strip()]
    if items == []:
        raise SetupError(f'--history {history!r}: names no item; give item ids, oldest first, as "A,B,C"')
    settings = trained_setup(setup, [*(overrides or []), "train=no"])
    state = checkpoint.open_state(settings)
    agent = Agent(settings, state.space).ready_agent()
    recommender = Recommender(LearnedPolicy(agent, state.within(agent.space)))
    masks: dict[str, Any] = {
        "allowed": ids_of(allowed, recommender.catalogue),
        "blocked": ids_of(blocked, recommender.catalogue) or [],
        "rng": None if seed is None else np.random.default_rng(seed),
        "seen": seen,
    }
    if to is not None:
        frame = recommender.recommend_all(k, **masks)
        write_files({to: lambda file: FORMATS[to.suffix.lower()](frame, file)})
        users = frame["user_id"].n_unique()
        if as_json:
            emit({"to": str(to), "users": users, "rows": len(frame)})
        else:
            Console().print(f"{to}: up to {k} items for each of {users:,} users", highlight=False)
        return 0
    numbers = _numbers(context or [])
    people: list[str | None] = [*user] if user else [None]
    found = [recommender.recommend(items, k, user=one, context=numbers, **masks) for one in people]
    if as_json:
        told = [asdict(one) for one in found]
        emit(told[0] if len(told) == 1 else {"recommendations": told})
    else:
        Console().print(*found, sep="\n\n")
    return 0


def inspect(
    path: Annotated[Path, typer.Argument(metavar="MODEL", help="An agent's or critic's file.")], as_json: Json = False
) -> int:
    """Show what a model file says of itself."""
    values = read_manifest(path).model_dump(mode="json")
    if as_json:
        emit(values)
        return 0
    shown = Table(show_header=False, title=str(path))
    for name, value in values.items():
        shown.add_row(name, value if isinstance(value, str) else json.dumps(value, indent=1))
    Console().print(shown)
    return 0


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    for command in (run, train, recommend, inspect):
        app.command(command.__name__)(command)


def _numbers(pairs: list[str]) -> dict[str, float]:
    numbers = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        try:
            numbers[key.strip()] = float(value)
        except ValueError:
            value = "nan"
        if not np.isfinite(float(value)):
            raise SetupError(f"--context {pair!r}: expected key=number, such as hour=21")
    return numbers
