"""`what-next compare`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from what_next.cli.bars import Bars
from what_next.cli.data import Json
from what_next.cli.evaluate import Allowed, Baselines, Blocked, Groups, ReportFile, Split, mask_of, told
from what_next.cli.words import baselines_of, part_of, seeds_of
from what_next.errors import SetupError
from what_next.experiments import compare as compare_setups
from what_next.reporting import check as check_report
from what_next.reporting import write_report
from what_next.settings import Setup


def compare(
    words: Annotated[
        list[str], typer.Argument(metavar="SETUP SETUP... [KEY=VALUE]...", help="Setup files, and settings for all.")
    ],
    seeds: Annotated[
        str | None,
        typer.Option(
            help='"0,1,2": the means over models trained from these seeds, where missing, beside the setups\'.'
        ),
    ] = None,
    split: Split = "test",
    ablations: Annotated[
        bool,
        typer.Option("--ablations", help="Each setup also without its critic, and with rewards that tell nothing."),
    ] = False,
    allowed: Allowed = None,
    blocked: Blocked = None,
    baselines: Baselines = None,
    groups: Groups = False,
    report: ReportFile = None,
    as_json: Json = False,
) -> int:
    """Judge several setups on the same users' next items, each beside the first; train what is missing."""
    files = [word for word in words if "=" not in word or Path(word).exists()]
    if len(files) < 2 and not (files and ablations):
        raise SetupError("compare: give two setup files or more, or one with --ablations")
    overrides = [word for word in words if word not in files]
    setups = {name: Setup.read(file, overrides) for name, file in zip(_names(files), files, strict=True)}
    if report:
        check_report(report)
    mask = mask_of(next(iter(setups.values())), allowed, blocked)
    how = {"ablations": ablations, "allowed": mask, "baselines": baselines_of(baselines)}
    with Bars(as_json) as stages:
        verdict = compare_setups(setups, part_of(split), seeds_of(seeds), **how, stages=stages)
    if report:
        write_report(verdict, report)
        Console(stderr=True).print(f"{report} written", highlight=False)
    return told(verdict.result, as_json, groups)


def _names(files: list[str]) -> list[str]:
    """The files' names without their endings; their paths where two share a name."""
    stems = [Path(file).stem for file in files]
    names = stems if len(set(stems)) == len(stems) else files
    if len(set(names)) < len(names):
        raise SetupError("compare: the same setup file is given twice; give each once")
    return names
