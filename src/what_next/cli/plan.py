"""`what-next plan`: the resources for a number of users, items and events."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group

from what_next.cli.options import Json, numbers_of
from what_next.cli.output import answer
from what_next.errors import SetupError

if TYPE_CHECKING:
    from what_next.experiments.plan import Plan
    from what_next.reporting.terminal import Folded

app = typer.Typer()


@app.command()
def plan(
    users: Annotated[float, typer.Option(help="Users, such as 1e6.")],
    items: Annotated[float, typer.Option(help="Items in the catalogue.")],
    events: Annotated[float, typer.Option(help="Events in the log.")],
    dim: Annotated[int, typer.Option(help="Dimension of networks and item vectors.")] = 64,
    requests: Annotated[
        float | None,
        typer.Option(help="Answers a second on average, and new events; default: one a day for each user."),
    ] = None,
    replicas: Annotated[int, typer.Option(help="Processes that serve.")] = 2,
    ranks: Annotated[int, typer.Option(help="Processes that train.")] = 1,
    sharded: Annotated[
        bool,
        typer.Option(
            "--sharded", help="Each process that trains holds a share of the item tables (cluster.items=sharded)."
        ),
    ] = False,
    passes: Annotated[float, typer.Option(help="Passes over the log in the training of each day.")] = 10.0,
    active: Annotated[float, typer.Option(help="Share of the users whose state is kept in memory.")] = 0.1,
    days: Annotated[float, typer.Option(help="Days for which answers and new events are kept.")] = 90.0,
    memory: Annotated[float, typer.Option(help="Memory of a machine, in GiB.")] = 256.0,
    disk: Annotated[float, typer.Option(help="Disk of a machine, in GiB.")] = 10240.0,
    prices: Annotated[
        str, typer.Option(help="Example prices: a core, a GiB of memory and of disk for a month, a GiB sent.")
    ] = "25,3,0.1,0.01",
    as_json: Json = False,
) -> None:
    """Estimate the resources that a size needs, part by part, and what runs out first; from measured constants."""
    from what_next.experiments.plan import DAY, Size
    from what_next.experiments.plan import plan as plan_of

    if len(each := numbers_of(prices)) != 4:
        raise SetupError(f"--prices {prices!r}: expected four numbers, such as 25,3,0.1,0.01")
    core, of_memory, of_disk, sent = each
    size = Size(
        users, items, events, dim, users / DAY if requests is None else requests, replicas, ranks, sharded, passes,
        active, days, memory * 2**30, disk * 2**30, prices=(core, of_memory, of_disk, sent),
    )  # fmt: skip
    found = plan_of(size)
    answer(found.as_json(), as_json, Group(_table(found), *_words(found)))


def _table(found: "Plan") -> "Folded":
    from what_next.experiments.plan import cells
    from what_next.reporting.terminal import Folded

    head = ["part", "memory", "disk", "network", "processors", "cost a month"]
    rows = [cells(found, part) for part in found.parts]
    return Folded(None, head, [rows, [["all", "", "", "", "", f"{found.cost:,.0f}"]]])


def _words(found: "Plan") -> list[str]:
    from what_next.experiments.plan import beyond, kept

    measured, verdict = kept()["measured"], found.verdict
    lines = [f"{part.name}: {part.formula}" for part in found.parts]
    lines += [f"Constants: {measured['machine']}, {measured['on']}, {measured['how']}; --json shows each."]
    return [*lines, *(f"{one[0].upper()}{one[1:]}." for one in [*beyond(found.size), verdict])]
