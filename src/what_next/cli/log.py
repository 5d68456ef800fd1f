"""`what-next log export`: the service's log as a data set."""

from pathlib import Path
from typing import Annotated, Literal

import polars as pl
import typer
from rich.console import Console
from rich.progress import Progress

from what_next.artefacts import catalogue_path
from what_next.cli.data import Json
from what_next.cli.guard import emit
from what_next.cli.model import Overrides, SetupFile
from what_next.data import Catalogue, Dataset, Tables
from what_next.errors import DataError, StoreError
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
    rows: Annotated[
        Literal["decisions", "events"],
        typer.Option(help="One row per item that was shown, with its chance and its reward; or one per event."),
    ] = "decisions",
    shown: Annotated[
        bool, typer.Option("--shown/--all", help="Answers that people saw; or those of a shadow model, too.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Write the log as a data set that train, evaluate, estimate and gate read as it is."""
    if to.suffix != ".parquet":
        raise DataError(f"--to {to}: must end in .parquet")
    settings = Setup.read(setup, overrides or [])
    people = Console(stderr=as_json)
    with Progress(console=people, transient=True) as bars:
        tables, written = _exported(settings, rows, shown, to, bars)
    if as_json:
        emit(
            {
                "data": str(to),
                "files": [str(path) for path in written],
                "rows": len(tables.log),
                "users": tables.log["user_id"].n_unique(),
                "items": len(tables.items),
                "columns": tables.log.columns,
                "notes": tables.notes,
            }
        )
        return
    for line in [*tables.notes, *(f"{path} written" for path in written)]:
        people.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    users, items = tables.log["user_id"].n_unique(), len(tables.items)
    people.print(f"{users:,} users, {items:,} items, {len(tables.log):,} {rows}", highlight=False)


def _exported(setup: Setup, rows: str, shown: bool, to: Path, bars: Progress) -> tuple[Tables, list[Path]]:
    # The libraries of the store are an extra, and take a tenth of a second to import.
    from what_next.server.store import Store, export, store_of

    task = bars.add_task(rows, total=None)
    place = store_of(setup)
    if isinstance(place, Path) and not place.is_file():
        raise StoreError(f"{place}: no such store; serve first (what-next serve), or name it with server.store")
    store = Store.open(place)
    try:

        def told(here: int, total: int) -> None:
            bars.update(task, completed=here, total=total)

        catalogue = _catalogue(setup)
        if rows == "events":
            tables = export.events(store, catalogue, progress=told)
        else:
            tables = export.decisions(store, catalogue, shown=shown, progress=told)
        return tables, export.write(tables, to)
    finally:
        store.close()


def _catalogue(setup: Setup) -> Catalogue:
    """The items of the agent; those of the data where it is not trained yet."""
    path = catalogue_path(setup.model_agent_path)
    if path.is_file():
        return Catalogue.from_table(pl.read_parquet(path))
    return Dataset.read(setup.data).catalogue
