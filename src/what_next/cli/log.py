"""`what-next log export`: the service's log as a data set."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from what_next.cli.data import Json
from what_next.cli.guard import emit
from what_next.cli.model import Overrides, SetupFile
from what_next.cli.stored import opened, served_catalogue
from what_next.errors import DataError
from what_next.settings import Setup

app = typer.Typer(no_args_is_help=True, help="The log of the service.")


@app.callback()
def log() -> None:
    """The log of the service."""


@app.command("export")
def export(
    setup: SetupFile,
    overrides: Overrides = None,
    to: Annotated[Path, typer.Option(help="Where the data set goes: NAME.parquet, its items beside it.")] = Path(
        "log.parquet"
    ),
    as_json: Json = False,
) -> None:
    """Write the log as a data set: train and evaluate read its events, estimate and gate its decisions."""
    from what_next.serving.store.export import exported

    if to.suffix != ".parquet":
        raise DataError(f"--to {to}: must end in .parquet")
    settings = Setup.read(setup, overrides or [])
    people = Console(stderr=as_json)
    with opened(settings) as store, Progress(console=people, transient=True) as bars:
        tasks = {name: bars.add_task(name, total=None) for name in ("impressions", "events")}

        def told(name: str, here: int, total: int) -> None:
            bars.update(tasks[name], completed=here, total=total)

        found = exported(store, served_catalogue(settings, store), progress=told)
        written = found.write(to)
    counts = {
        "users": found.log["user_id"].n_unique(),
        "items": len(found.items),
        "events": found.events,
        "decisions": found.decisions,
    }
    if as_json:
        files = [str(path) for path in written]
        emit({"data": str(to), "files": files, **counts, "columns": found.log.columns, "notes": found.notes})
        return
    for line in [*found.notes, *(f"{path} written" for path in written)]:
        people.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    people.print(", ".join(f"{count:,} {name}" for name, count in counts.items()), highlight=False)
