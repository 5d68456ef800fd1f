"""`what-next simulate`: an agent in a world of simulated users."""

from typing import Annotated

import typer

from what_next.cli.interrupts import INTERRUPTED
from what_next.cli.judge import ReportFile
from what_next.cli.model import Force
from what_next.cli.options import Json, Overrides, SetupFile, setup_of, trained_setup
from what_next.cli.output import answer, note

app = typer.Typer()


@app.command()
def simulate(
    setup: SetupFile,
    overrides: Overrides = None,
    world: Annotated[
        str | None, typer.Option(help="A world, and a preset of it: boredom:SlateTopK-Bored-v0; or gym:ID.")
    ] = None,
    force: Force = False,
    report: ReportFile = None,
    as_json: Json = False,
) -> int:
    """Train an agent in a world, or load it as the setup says; play it beside the world's references."""
    from what_next.experiments.simulation import simulate as play
    from what_next.reporting import check as check_report
    from what_next.reporting import write_simulation
    from what_next.reporting.bars import Bars

    words = [*(overrides or []), *([f"world.name={world}"] if world else [])]
    settings = setup_of(setup, words, "data=-")
    if report is not None:
        check_report(report)
    if not settings.train:
        settings = trained_setup(setup, words, "data=-")
    with Bars(as_json) as bars:
        found = play(settings, stages=bars, force=force, watch=report is not None)
    if report is not None:
        write_simulation(found, report)
    answer(found.as_json(), as_json, found)
    if found.report is not None and found.report.stopped:
        note("what-next: training was interrupted; the model is saved as it was then")
        return INTERRUPTED
    return 0
