"""`what-next evaluate`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from what_next.cli.bars import Bars
from what_next.cli.data import Json
from what_next.cli.guard import emit, tell
from what_next.cli.model import Overrides, SetupFile
from what_next.cli.words import baselines_of, ids_of, part_of, seeds_of, trained_setup, weights_of
from what_next.data import Dataset
from what_next.errors import SetupError
from what_next.experiments import by_windows, examine, judge
from what_next.experiments.tradeoff import check as check_tradeoff
from what_next.experiments.tradeoff import tradeoff
from what_next.metrics.table import table
from what_next.reporting import check as check_report
from what_next.reporting import write_report
from what_next.settings import Setup

Split = Annotated[str, typer.Option(help="validation (to tune on) or test (to report).")]
Allowed = Annotated[Path | None, typer.Option(help="A file with the item ids that may be recommended, a line each.")]
Blocked = Annotated[Path | None, typer.Option(help="A file with the item ids that may not.")]
Baselines = Annotated[
    str | None, typer.Option(help='"popular,markov": beside these baselines alone; none: beside no one.')
]
Groups = Annotated[bool, typer.Option("--groups", help="Also by history length, activity, popularity, cold or not.")]
ReportFile = Annotated[Path | None, typer.Option("--report", help="The HTML page to write.")]


def evaluate(
    setup: SetupFile,
    overrides: Overrides = None,
    split: Split = "test",
    seeds: Annotated[
        str | None,
        typer.Option(help='"0,1,2": judge the means over models trained from these seeds, beside the setup\'s.'),
    ] = None,
    next_items: Annotated[
        bool, typer.Option("--next-items", help="Judge whatnext on next items, too, not by windows alone.")
    ] = False,
    allowed: Allowed = None,
    blocked: Blocked = None,
    baselines: Baselines = None,
    groups: Groups = False,
    report: ReportFile = None,
    weights: Annotated[
        str | None,
        typer.Option(help='"0,0.5,2": with --report, train at these weights of the spread reward, for the trade-off.'),
    ] = None,
    as_json: Json = False,
) -> int:
    """Judge the agent beside rules, baselines and chance, on what training never saw."""
    part, given = part_of(split), seeds_of(seeds)
    # With seeds, models are trained as the setup says; without, one is judged that is there.
    settings = trained_setup(setup, overrides or []) if given is None else Setup.read(setup, overrides or [])
    mask, steps = mask_of(settings, allowed, blocked), weights_of(weights)
    if steps and not report:
        raise SetupError("--weights: is what the page shows; name it with --report FILE")
    if steps:
        check_tradeoff(settings, steps)
    if report:
        check_report(report)
    windowed, others = by_windows(settings) and mask is None, baselines_of(baselines)
    alone = windowed and not (next_items or report or groups)
    if alone and baselines is not None:
        raise SetupError("--baselines: are of next items, and whatnext is judged by windows; add --next-items")
    with Bars(as_json) as stages:
        windows = judge(settings, part, given, stages) if windowed else None
        verdict = None if alone else examine(settings, part, given, mask, others, stages)
    if verdict is None:
        assert windows is not None, "it is judged by windows alone"
        return told(windows, as_json, groups)
    if report:
        curve = tradeoff(settings, steps, part, given, mask) if steps else []
        write_report(verdict, report, windows=windows, weighted=curve)
        Console(stderr=True).print(f"{report} written", highlight=False)
    return told(verdict.result | ({} if windows is None else {"by_windows": windows}), as_json, groups)


def mask_of(setup: Setup, allowed: Path | None, blocked: Path | None) -> Any:
    """The items that may be recommended; None for all."""
    if allowed is None and blocked is None:
        return None
    catalogue = Dataset.read(setup.data).catalogue
    return catalogue.mask(ids_of(allowed, catalogue), ids_of(blocked, catalogue) or [])


def told(result: dict[str, Any], as_json: bool, groups: bool) -> int:
    """Print a result; returns the exit code."""
    if as_json:
        emit(result)
        return 0
    if "by_windows" in result:
        tell(table(result["by_windows"]))
    tell(table(result, groups))
    return 0
