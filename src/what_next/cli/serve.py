"""`what-next serve` and `what-next key`."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from what_next.cli.data import Json
from what_next.cli.guard import emit
from what_next.cli.model import Overrides, SetupFile
from what_next.cli.stored import opened
from what_next.errors import SetupError
from what_next.settings import Setup

if TYPE_CHECKING:
    from what_next.serving.store import Store

keys = typer.Typer(no_args_is_help=True, help="Make, list and revoke the API keys of a service.")
Name = Annotated[str, typer.Option(help="What the key is called, in lists and log lines.")]
LONGEST = 64
"""Characters of a key's name, at most."""


def serve(setup: SetupFile, overrides: Overrides = None, as_json: Json = False) -> int:
    """Answer requests for recommendations, and keep what happens next.

    Ends with Ctrl-C or SIGTERM; requests under way are answered. Log lines go to the standard error, as JSON.
    """
    from what_next.serving.http.run import serve as run  # imported late: the libraries of the extra may be missing

    settings = _settings(setup, overrides)
    _may_begin(settings)
    people = Console(stderr=True, soft_wrap=True)
    filling = _Filling(people)

    def ready(facts: dict[str, Any]) -> None:
        _tell(people, facts)
        if as_json:
            sys.stdout.write(json.dumps(facts) + "\n")
            sys.stdout.flush()

    try:
        run(settings, ready, filling.show, lambda message: people.print(message, markup=False, highlight=False))
    finally:
        filling.end()
    return 0


def _may_begin(settings: Setup) -> None:
    """Raises what the service would refuse to start with, while there is no store: so none is left behind."""
    from what_next.serving.engine.versions import check
    from what_next.serving.store import store_of

    place, server = store_of(settings), settings.server
    if not isinstance(place, Path) or place.exists():
        return
    for agent in (settings.model_agent_path, server.candidate):
        if agent is not None:
            check(agent)
    if server.import_data and not settings.data.exists():
        raise SetupError(f"{settings.data}: no such file; to start with an empty store, set server.import_data to no")
    if server.needs_keys:
        raise SetupError(
            f"server.host is {server.host}, and there is no store yet with an API key: without one, nobody may ask. "
            "Make one with `what-next key add SETUP --name NAME --role admin`, or listen on 127.0.0.1"
        )


class _Filling:
    """A bar that is there only while an empty store is filled."""

    def __init__(self, people: Console) -> None:
        self._people = people
        self._bars: Progress | None = None

    def show(self, done: int, total: int) -> None:
        """So many events are in, of all."""
        if self._bars is None:
            columns = (TextColumn("filling the store"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bars = Progress(*columns, console=self._people, redirect_stdout=False, redirect_stderr=False)
            self._bars.start()
            self._bars.add_task("", total=total)
        self._bars.update(self._bars.task_ids[0], completed=done)
        if done >= total:
            self.end()

    def end(self) -> None:
        """The bar stays as it is."""
        if self._bars is not None:
            self._bars.stop()


@keys.command("add")
def add(
    setup: SetupFile,
    name: Name,
    role: Annotated[
        str,
        typer.Option(help="read: ask; write: also send events and feedback; admin: also add items and erase users."),
    ],
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it, once: only its hash is kept."""
    from what_next.serving.http.keys import ROLES, digest_of, new_key

    if role not in ROLES:
        raise SetupError(f"--role {role!r}: expected one of {', '.join(ROLES)}")
    if not name.isprintable() or not 0 < len(name) <= LONGEST:
        raise SetupError(f"--name {name!r}: expected 1 to {LONGEST} printable characters")
    store, key = _store(setup, overrides), new_key()
    try:
        store.add_key(name, role, digest_of(key))
    finally:
        store.close()
    if as_json:
        emit({"name": name, "role": role, "key": key})
        return
    print(key)
    told = f"the key {name!r} with the role {role} is told this once; send it as Authorization: Bearer KEY"
    Console(stderr=True, soft_wrap=True).print(told, markup=False, highlight=False)


@keys.command("list")
def list_keys(setup: SetupFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """List the keys by name, with their roles; the keys themselves are not kept."""
    with opened(_settings(setup, overrides)) as store:
        found = store.keys()
    rows = [
        {"name": one.name, "role": one.role, "created": _day(one.created), "revoked": one.revoked and _day(one.revoked)}
        for one in found
    ]
    if as_json:
        emit({"keys": rows})
        return
    table = Table("name", "role", "created", "revoked")
    for row in rows:
        table.add_row(*(str(value or "") for value in row.values()))
    Console().print(table)


@keys.command("revoke")
def revoke(setup: SetupFile, name: Name, overrides: Overrides = None, as_json: Json = False) -> None:
    """Revoke a key: within five seconds, no service on this store answers it any more."""
    with opened(_settings(setup, overrides)) as store:
        store.revoke_key(name)
    if as_json:
        emit({"revoked": name})
    else:
        Console().print(f"{name} is revoked", markup=False, highlight=False)


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command("serve")(serve)
    app.add_typer(keys, name="key")


def _store(setup: SetupFile, overrides: Overrides) -> "Store":
    from what_next.serving.store import Store, store_of

    return Store.open(store_of(_settings(setup, overrides)))


def _settings(setup: SetupFile, overrides: Overrides) -> Setup:
    return Setup.read(setup, [*(overrides or []), "train=no"])


def _tell(people: Console, facts: dict[str, Any]) -> None:
    """One line for whoever started it."""
    keys = "needed" if facts["keys"] else "not needed"
    people.print(
        f"{facts['address']} answers with {facts['version']} ({facts['items']:,} items), opened in "
        f"{facts['seconds']:g} s; store: {facts['store']}; API keys: {keys}; Ctrl-C ends it",
        markup=False,
        highlight=False,
    )


def _day(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")
