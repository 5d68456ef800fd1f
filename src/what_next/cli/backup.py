"""`what-next backup` and `what-next restore`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from what_next.cli.data import Json
from what_next.cli.guard import emit
from what_next.cli.model import Overrides, SetupFile
from what_next.settings import Setup


def backup(
    setup: SetupFile,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where all back-ups lie; each gets a folder.")],
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Back up a service's store, models and setup, while it runs; prints where."""
    from what_next.serving.backup import back_up  # imported late: the libraries of the extra may be missing

    made = back_up(setup, Setup.read(setup, [*(overrides or []), "train=no"]), folder)
    if as_json:
        emit({"backup": str(made)})
    else:
        print(made)


def restore(
    setup: SetupFile,
    backup: Annotated[Path, typer.Argument(metavar="BACKUP", help="A folder that `what-next backup` wrote.")],
    overrides: Overrides = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="A store that is there gives way; a SQLite file is moved aside.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Put a back-up in the place of a setup's store and models; the service must be stopped."""
    from what_next.serving.backup import restore as put_back

    aside = put_back(Setup.read(setup, [*(overrides or []), "train=no"]), backup, replace)
    if as_json:
        emit({"restored": str(backup), "before": aside and str(aside)})
        return
    say = Console(soft_wrap=True, highlight=False).print
    if aside is not None:
        say(f"the store that was there lies in {aside}", markup=False)
    say("restored; whom somebody had erased since the back-up was taken is there again: erase them again", markup=False)


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command("backup")(backup)
    app.command("restore")(restore)
