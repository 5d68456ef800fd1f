"""`what-next serve`, and commands for a service's keys, log and back-ups."""

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from what_next.cli.options import Json, Overrides, SetupFile, setup_of
from what_next.cli.output import answer, emit, moment, note
from what_next.errors import DataError, Plain, SetupError, counted

if TYPE_CHECKING:
    from what_next.data import Catalogue
    from what_next.serving.store import Store
    from what_next.settings import Setup

app = typer.Typer()
keys = typer.Typer(no_args_is_help=True, help="Make, list and revoke the API keys of a service.")
log = typer.Typer(no_args_is_help=True, help="The log of the service.")
app.add_typer(keys, name="key")
app.add_typer(log, name="log")

KeyName = Annotated[str, typer.Option("--name", help="The key's name in lists and log lines.")]
LONGEST = 64
"""Longest name of a key, in characters."""


def opened(setup: "Setup") -> "closing[Store]":
    """The store of a setup; a `StoreError` where it does not exist or cannot be opened."""
    from what_next.serving.engine.versions import check_emptied
    from what_next.serving.store import Store, store_of

    check_emptied(setup)
    return closing(Store.open(store_of(setup), make=False))


def served_catalogue(setup: "Setup", store: "Store") -> "Catalogue":
    """The items of the deployed model; if there is none, of the setup's agent, or of its data."""
    import polars as pl

    from what_next.data import Catalogue, Dataset
    from what_next.serving.engine.versions import AGENT, versions_folder
    from what_next.training.artefacts import catalogue_path

    deployments = store.deployments()
    agents = [versions_folder(setup) / one.version / AGENT for one in deployments[-1:]]
    for path in map(catalogue_path, [*agents, setup.model_agent_path]):
        if path.is_file():
            return Catalogue.from_table(pl.read_parquet(path, glob=False))
    return Dataset.read(setup.data_path).catalogue


@app.command()
def serve(setup: SetupFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Answer requests for recommendations, and record what users do next.

    Ends with Ctrl-C, SIGTERM or SIGHUP; requests under way are answered. Log lines go to the standard error, as JSON.
    """
    from what_next.serving.http.run import serve as run

    settings = setup_of(setup, overrides, "train=no")
    people = Plain(stderr=True, soft_wrap=True)
    columns = (TextColumn("filling the store"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=people, redirect_stdout=False, redirect_stderr=False)

    def filling(done: int, total: int) -> None:
        if not bar.task_ids:
            bar.start()
            bar.add_task("", total=total)
        bar.update(bar.task_ids[0], completed=done)
        if done >= total:
            bar.stop()

    def ready(facts: dict[str, Any]) -> None:
        people.print(_address(facts), highlight=False)
        if as_json:
            print(json.dumps(facts), flush=True)

    try:
        run(settings, ready, filling, lambda message: people.print(message, highlight=False))
    finally:
        if bar.live.is_started:  # stopping a stopped bar would still print a line
            bar.stop()


def _address(facts: dict[str, Any]) -> str:
    needed = "needed" if facts["keys"] else "not needed"
    return (
        f"{facts['address']} answers with {facts['version']} ({facts['items']:,} items), opened in "
        f"{facts['seconds']:g} s; store: {facts['store']}; API keys: {needed}; Ctrl-C ends it"
    )


@keys.command()
def add(
    setup: SetupFile,
    name: KeyName,
    role: Annotated[
        str,
        typer.Option(help="read: ask; write: also send events and feedback; admin: also add items and erase users."),
    ],
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it, once: only its hash is kept."""
    from what_next.serving.engine.versions import check_emptied
    from what_next.serving.http.callers import ROLES, digest_of, new_key
    from what_next.serving.store import Store, store_of

    if role not in ROLES:
        raise SetupError(f"--role {role!r}: expected one of {', '.join(ROLES)}")
    if not name.isprintable() or not 0 < len(name) <= LONGEST:
        raise SetupError(f"--name {name!r}: expected 1 to {LONGEST} printable characters")
    key = new_key()
    settings = setup_of(setup, overrides, "train=no")
    check_emptied(settings)
    with closing(Store.open(store_of(settings))) as store:
        store.add_key(name, role, digest_of(key))
    if as_json:
        emit({"name": name, "role": role, "key": key})
        return
    print(key)
    note(f"this is the only time that the key {name!r} (role {role}) is shown; send it as Authorization: Bearer KEY")


@keys.command("list")
def list_keys(setup: SetupFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """List the keys by name, with their roles; the keys themselves are not kept."""
    with opened(setup_of(setup, overrides, "train=no")) as store:
        found = store.keys()
    names = ("name", "role", "created", "revoked")
    rows = [(one.name, one.role, moment(one.created), one.revoked and moment(one.revoked)) for one in found]
    table = Table(*names)
    for row in rows:
        table.add_row(*(str(value or "") for value in row))
    answer({"keys": [dict(zip(names, row, strict=True)) for row in rows]}, as_json, table)


@keys.command()
def revoke(setup: SetupFile, name: KeyName, overrides: Overrides = None, as_json: Json = False) -> None:
    """Revoke a key: within five seconds, no service on this store accepts it any more."""
    with opened(setup_of(setup, overrides, "train=no")) as store:
        store.revoke_key(name)
    answer({"revoked": name}, as_json, f"{name} is revoked")


@log.command()
def export(
    setup: SetupFile,
    overrides: Overrides = None,
    to: Annotated[Path, typer.Option(help="Where the data set goes: NAME.parquet, its items beside it.")] = Path(
        "log.parquet"
    ),
    append: Annotated[
        bool, typer.Option("--append", help="Continue the export in that file: read only what is new.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write the log as a data set: train reads its events and decisions, evaluate its events, estimate and gate its
    decisions."""
    from what_next.serving.store.export import COLUMNS, appended, exported

    if to.suffix != ".parquet":
        raise DataError(f"--to {to}: must end in .parquet")
    settings = setup_of(setup, overrides, "train=no")
    with opened(settings) as store, Progress(console=Plain(stderr=True), transient=True) as bars:
        tasks = {name: bars.add_task(name, total=None) for name in ("impressions", "events")}

        def progress(name: str, here: int, total: int) -> None:
            bars.update(tasks[name], completed=here, total=total)

        catalogue = served_catalogue(settings, store)
        if append:
            found = appended(store, catalogue, to, progress=progress)
        else:
            found = exported(store, catalogue, progress=progress)
        written = found.write(to)
    nameless = found.anonymous
    counts = {
        "users": len(found.users) - nameless,
        "items": len(found.items),
        "events": found.events,
        "decisions": found.decisions,
    }
    files = [str(path) for path in written]
    facts = {"data": str(to), "files": files, **counts, "columns": list(COLUMNS), "notes": found.notes}
    facts |= {"anonymous": nameless}
    lines = [f"  {line}" for line in [*found.notes, *(f"{path} written" for path in files)]]
    sizes = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    told = f"; {counted(nameless, 'answer')} named no user: each has one of its own in the log" if nameless else ""
    answer(facts, as_json, *lines, sizes + told)


@app.command()
def backup(
    setup: SetupFile,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where all back-ups lie; each gets a folder.")],
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Back up a service's store, models and setup, while it runs; prints where."""
    from what_next.serving.backup import back_up

    made = back_up(setup, setup_of(setup, overrides, "train=no"), folder)
    answer({"backup": str(made)}, as_json, str(made))


@app.command()
def restore(
    setup: SetupFile,
    backup: Annotated[Path, typer.Argument(metavar="BACKUP", help="A folder that `what-next backup` wrote.")],
    overrides: Overrides = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an existing store; a SQLite file is moved aside.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Put a back-up in the place of a setup's store and models; the service must be stopped."""
    from what_next.serving.backup import restore as put_back

    aside = put_back(setup_of(setup, overrides, "train=no"), backup, replace)
    before = [] if aside is None else [f"the store that was there lies in {aside}"]
    done = "restored; users who were erased after the back-up was taken are there again: erase them again"
    answer({"restored": str(backup), "before": aside and str(aside)}, as_json, *before, done)
