"""`what-next run | train | recommend | inspect`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from what_next import checkpoint
from what_next.agent import Agent
from what_next.artefacts import read_manifest
from what_next.cli.data import Json
from what_next.cli.guard import emit, show
from what_next.cli.words import ids_of
from what_next.data.files import write_files
from what_next.environment import Environment
from what_next.errors import SetupError
from what_next.policy import LearnedPolicy
from what_next.recommendation import Recommendation
from what_next.recommender import Recommender
from what_next.settings import Setup

SetupFile = Annotated[Path, typer.Argument(metavar="SETUP", help="A setup.txt, or the same as TOML.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that go before the file's.")
]


def run(setup: SetupFile, overrides: Overrides = None, as_json: Json = False) -> int:
    """Train or recommend, as the setup says."""
    return show(Environment.from_setup(Setup.read(setup, overrides or [])).run_sim(), as_json)


def train(
    setup: SetupFile,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last save.")] = False,
    origin: Annotated[
        Path | None, typer.Option("--from", help="Start from this agent's file; the catalogue may have grown.")
    ] = None,
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
    environment = Environment(Agent(settings, state.space), state, settings, resume=resume, origin=origin)
    return show(environment.train_agent(), as_json)


def recommend(
    setup: SetupFile,
    overrides: Overrides = None,
    user: Annotated[str | None, typer.Option(help="The id of a user of the data.")] = None,
    history: Annotated[str | None, typer.Option(help='Item ids, oldest first: "A,B,C".')] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many items.")] = 10,
    seen: Annotated[bool, typer.Option("--seen", help="Items of the history may be recommended too.")] = False,
    everyone: Annotated[bool, typer.Option("--all", help="Every user of the data; needs --to.")] = False,
    to: Annotated[Path | None, typer.Option(help="With --all: the Parquet file to write.")] = None,
    allowed: Annotated[
        Path | None, typer.Option(help="A file with the item ids that may be recommended, a line each.")
    ] = None,
    blocked: Annotated[Path | None, typer.Option(help="A file with the item ids that may not.")] = None,
    context: Annotated[list[str] | None, typer.Option(help="key=value: a number about the situation.")] = None,
    seed: Annotated[int | None, typer.Option(help="Draw among the matching items; without it, the nearest.")] = None,
    as_json: Json = False,
) -> int:
    """Recommend to one user, after a history, or to everyone."""
    settings = Setup.read(setup, [*(overrides or []), "train=no"])
    if sum((everyone, history is not None, user is not None)) == 0 or (everyone and (user or history)):
        raise SetupError('recommend: give --user ID, --history "A,B", or --all with --to FILE')
    state = checkpoint.open_state(settings)
    agent = Agent(settings, state.space).ready_agent()
    recommender = Recommender(LearnedPolicy(agent, state.within(agent.space)))
    may, may_not = ids_of(allowed, recommender.catalogue), ids_of(blocked, recommender.catalogue) or []
    rng = None if seed is None else np.random.default_rng(seed)
    if everyone:
        if to is None or context:
            raise SetupError("recommend --all: name the Parquet file to write with --to, and no --context")
        frame = recommender.recommend_all(k, seen=seen, allowed=may, blocked=may_not, rng=rng)
        write_files({to: frame.write_parquet})
        users = frame["user_id"].n_unique()
        if as_json:
            emit({"to": str(to), "users": users, "rows": len(frame)})
        else:
            Console().print(f"{to}: up to {k} items for each of {users:,} users", highlight=False)
        return 0
    found = recommender.recommend(
        None if history is None else [one.strip() for one in history.split(",") if one.strip()],
        k,
        user=user,
        seen=seen,
        context=_numbers(context or []),
        rng=rng,
        allowed=may,
        blocked=may_not,
    )
    _print(found, as_json)
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


def _print(found: Recommendation, as_json: bool) -> None:
    if as_json:
        emit(asdict(found))
    else:
        Console().print(found)


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
