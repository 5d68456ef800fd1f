"""`what-next tune`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from what_next.cli.data import Json
from what_next.cli.guard import emit
from what_next.cli.interrupts import INTERRUPTED
from what_next.cli.model import Overrides, SetupFile
from what_next.experiments.tuning import Trial, monitor
from what_next.experiments.tuning import tune as tune_setup
from what_next.settings import Setup


def tune(
    setup: SetupFile,
    overrides: Overrides = None,
    trials: Annotated[int, typer.Option(min=1, help="How many, those that the study holds already included.")] = 20,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of training in each trial, at most.")] = 60.0,
    study: Annotated[
        Path | None, typer.Option(help="The file that keeps the trials; default: beside the agent's file.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Search for better settings on the validation users; Ctrl-C keeps the study, and the same command goes on.

    The best settings are printed as KEY=VALUE lines, which `what-next train SETUP` takes.
    """
    people = Console(stderr=True, soft_wrap=True)

    settings, took = Setup.read(setup, overrides or []), list[float]()
    metric = monitor(settings)

    def tell(trial: Trial, best: Trial) -> None:
        took.append(trial.seconds)
        left = (trials - trial.number) * sum(took) / len(took)
        more = f"; about {left / 60:.0f} min left" if left >= 90 else f"; about {left:.0f} s left" if left else ""
        line = f"trial {trial.number} of {trials}: {metric} {trial}, in {trial.seconds:.0f} s"
        people.print(f"{line} (best: trial {best.number}, {best.score:.4f}){more}", highlight=False, markup=False)

    people.print(f"{trials} trials by {metric} on the validation users", highlight=False)
    found = tune_setup(settings, trials, seconds=seconds, study=study, tell=tell)
    if as_json:
        emit(found.as_json())
    elif found.best:
        print("\n".join(f"{key}={value}" for key, value in found.best.settings.items()))
    if found.stopped:
        people.print(f"what-next: interrupted; {found.study} keeps the trials, the same command goes on")
        return INTERRUPTED
    return 0
