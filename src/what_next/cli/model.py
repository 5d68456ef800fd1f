"""`what-next run | train | recommend | inspect | export`."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from what_next.cli.options import (
    Allowed,
    Blocked,
    Json,
    Overrides,
    SetupFile,
    ids_of,
    names_of,
    setup_of,
    trained_setup,
)
from what_next.cli.output import answer, command, note, show
from what_next.errors import SetupError

if TYPE_CHECKING:
    import polars as pl

    from what_next.agent import Agent
    from what_next.environment import Report
    from what_next.inference.recommender import Recommender
    from what_next.settings import Setup
    from what_next.training.distributed import Ranks

app = typer.Typer()

Force = Annotated[bool, typer.Option("--force", help="Write over a model of another algorithm or of other data, too.")]

FORMATS: dict[str, Callable[["pl.DataFrame", IO[bytes]], object]] = {
    ".parquet": lambda frame, file: frame.write_parquet(file),
    ".csv": lambda frame, file: frame.write_csv(file),
    ".tsv": lambda frame, file: frame.write_csv(file, separator="\t"),
    ".jsonl": lambda frame, file: frame.write_ndjson(file),
}
"""Table writers, by file suffix."""
ENDINGS = ".parquet, .csv, .tsv or .jsonl"


@app.command()
def run(setup: SetupFile, overrides: Overrides = None, force: Force = False, as_json: Json = False) -> int:
    """Train or recommend, as the setup says."""
    from what_next.environment import Environment

    settings = setup_of(setup, overrides)
    if not settings.train:
        settings = trained_setup(setup, overrides)
    report = Environment.from_setup(settings, force=force).run_sim()
    return show(report, setup, overrides, as_json, _next(setup, overrides, settings))


@app.command()
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
    from what_next.training.distributed import launched

    with launched() as ranks:
        settings = setup_of(setup, overrides, "train=yes")
        if resume and origin:
            raise SetupError("--resume and --from exclude each other: go on with a run, or start from another model")
        if settings.cluster.name == "ray" and not ranks.joined:
            from what_next.training.on_ray import on_ray

            settings = setup_of(setup.resolve(), overrides, "train=yes")  # Ray's processes start in another folder
            work = partial(_trained, settings, resume, origin and origin.resolve(), force)
            report = on_ray(work, settings)
        else:
            report = _trained(settings, resume, origin, force, ranks)
        return show(report, setup, overrides, as_json, _next(setup, overrides, settings))


def _next(setup: Path, overrides: list[str] | None, settings: "Setup") -> str:
    """The commands for a trained model, as a hint."""
    if settings.acts:
        return command("simulate", setup, overrides, "train=no")
    then = "serve" if settings.refit == "all" else "evaluate"  # nothing is left to judge it on
    return f"{command('recommend', setup, overrides)} --user ID, and {command(then, setup, overrides)}"


def _trained(settings: "Setup", resume: bool, origin: Path | None, force: bool, ranks: "Ranks") -> "Report":
    """One training run, in one process or several."""
    from what_next.environment import Environment

    if ranks.replaced(settings):
        resume, origin = True, None
    environment = Environment.from_setup(settings, resume=resume, origin=origin, force=force, ranks=ranks)
    if origin:
        new, space = environment.state.new_items(origin), environment.state.space
        note(f"from {origin}: {new:,} new items of {len(space.catalogue):,}")
    report = environment.train_agent()
    if report.idle:
        note(_nothing_left(settings, environment.agent))
    return report


def _nothing_left(settings: "Setup", agent: "Agent") -> str:
    """Why a resumed run had nothing to train, and which setting would let it continue."""
    if settings.ensemble > 1:
        return "what-next: nothing was left to train: the ensemble is complete; to train anew, leave out --resume"
    if settings.patience and agent.histories < agent.horizon and agent.spent < 1:
        return (
            "what-next: nothing was left to train: patience has run out without a better model; go on with a "
            f"higher one, such as patience={2 * settings.patience}"
        )
    if settings.seconds and agent.spent >= 1:
        had, more = f"its {settings.seconds:g} seconds", f"seconds={2 * settings.seconds:g}"
    elif settings.world.name is not None:
        steps = settings.world.steps
        had, more = f"its {steps:,} slates", f"world.steps={2 * steps}"
    elif settings.passes:
        had, more = f"its {settings.passes} passes", f"passes={2 * settings.passes}"
    else:
        had, more = f"its {settings.epochs:,} histories", f"epochs={2 * settings.epochs}"
    return f"what-next: nothing was left to train: the run has had {had}; go on with a higher limit, such as {more}"


@app.command()
def recommend(
    setup: SetupFile,
    overrides: Overrides = None,
    user: Annotated[list[str] | None, typer.Option(help="The id of a user of the data; may be given again.")] = None,
    history: Annotated[
        str | None, typer.Option(help="Item ids, oldest first: A,B,C; one with a comma in double quotes.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many items.")] = 10,
    seen: Annotated[
        bool | None,
        typer.Option(
            "--seen/--unseen", help="Whether items of the history may be recommended; default: evaluation.seen."
        ),
    ] = None,
    everyone: Annotated[bool, typer.Option("--all", help="Every user of the data; needs --to.")] = False,
    to: Annotated[Path | None, typer.Option(help=f"With --all: the table to write ({ENDINGS}).")] = None,
    allowed: Allowed = None,
    blocked: Blocked = None,
    context: Annotated[list[str] | None, typer.Option(help="key=value: a number about the situation.")] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Random seed for a draw among the matching items; without it, the nearest."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Recommend to one user, after a history, or to everyone."""
    import numpy as np

    from what_next.data import Dataset
    from what_next.inference.recommender import Recommender
    from what_next.policy import LearnedPolicy

    if not (everyone or history or user) or (everyone and (user or history)) or (history and len(user or []) > 1):
        raise SetupError('recommend: give --user ID (or several), --history "A,B", or --all with --to FILE')
    if everyone and (to is None or context):
        raise SetupError("recommend --all: name the table to write with --to, and no --context")
    if to is not None and (not everyone or to.suffix.lower() not in FORMATS):
        raise SetupError(f"--to {to}: goes with --all, and must end in {ENDINGS}")
    items = names_of(history)
    if items == []:
        raise SetupError(f'--history {history!r}: names no item; give item ids, oldest first, as "A,B,C"')
    settings = trained_setup(setup, overrides, "train=no")
    recommender = Recommender(LearnedPolicy.load(settings, Dataset.read(settings.data_path)))
    how: dict[str, Any] = {
        "allowed": ids_of(allowed, recommender.catalogue),
        "blocked": ids_of(blocked, recommender.catalogue) or [],
        "rng": None if seed is None else np.random.default_rng(seed),
        "seen": seen,
    }
    if to is not None:
        _recommend_all(recommender, k, to, how, as_json)
        return
    numbers = _numbers(context or [])
    people: list[str | None] = [*user] if user else [None]
    found = [recommender.recommend(items, k, user=one, context=numbers, **how) for one in people]
    plain = [asdict(one) for one in found]
    answer(plain[0] if len(plain) == 1 else {"recommendations": plain}, as_json, *found)


def _recommend_all(recommender: "Recommender", k: int, to: Path, how: dict[str, Any], as_json: bool) -> None:
    from what_next.data.files import check_paths, write_files

    check_paths([to])
    frame = recommender.recommend_all(k, **how)
    write_files({to: lambda file: FORMATS[to.suffix.lower()](frame, file)})
    users = frame["user_id"].n_unique()
    facts = {"to": str(to), "users": users, "rows": len(frame)}
    without = len(recommender.state.dataset.user_ids) - users
    none = f"; none for {without:,}, who had every item that may be recommended (--seen)" if without else ""
    answer(facts, as_json, f"{to}: up to {k} items for each of {users:,} users{none}")


def _numbers(pairs: list[str]) -> dict[str, float]:
    numbers = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise SetupError(f"--context {pair!r}: expected key=number, such as hour=21")
        numbers[key.strip()] = number
    return numbers


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(metavar="MODEL", help="An agent's or critic's file, or its agent's setup.")],
    as_json: Json = False,
) -> None:
    """Show the manifest of a model file."""
    from what_next.training.artefacts import read_manifest

    if path.suffix.lower() in (".txt", ".toml"):
        path = setup_of(path, None, "train=no").model_agent_path
    values = read_manifest(path).model_dump(mode="json")
    shown = Table(show_header=False, title=str(path))
    for name, value in values.items():
        shown.add_row(name, value if isinstance(value, str) else json.dumps(value, indent=1))
    answer(values, as_json, shown)


@app.command()
def export(
    setup: SetupFile,
    to: Annotated[Path, typer.Option(help="The ONNX file to write; that of single steps is written beside it.")] = Path(
        "encoder.onnx"
    ),
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Write encoder and actor as ONNX: a graph of whole histories, and one of single steps."""
    from what_next.inference.export import export as write
    from what_next.policy import LearnedPolicy
    from what_next.training.artefacts import catalogue_path, read_manifest

    settings = setup_of(setup, overrides, "train=no").model_copy(update={"model_critic_path": None})
    path = settings.model_agent_path
    done = write(LearnedPolicy.load(settings).agent, read_manifest(path, "agent"), to)
    files = {graph: str(file) for graph, file in done.files.items()}
    signature = {"inputs": dict(done.inputs), "outputs": dict(done.outputs)}
    facts = {"files": files, **signature, "scores": done.scores, "metadata": dict(done.metadata)}
    told = [f"{file}: {', '.join(done.inputs[one])} -> {', '.join(done.outputs[one])}" for one, file in files.items()]
    told.append(f"items are counted in the order of {catalogue_path(path)}")
    if not done.scores:
        told.append("the graphs return points and no scores, because the algorithm ranks the best items again")
    answer(facts, as_json, *told)
