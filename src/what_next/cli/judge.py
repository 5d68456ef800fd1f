"""`what-next evaluate | compare | simulate | tune`: agents judged on held-out data."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from what_next.cli.interrupts import INTERRUPTED
from what_next.cli.model import Force
from what_next.cli.options import (
    Allowed,
    Blocked,
    Json,
    Overrides,
    SetupFile,
    baselines_of,
    ids_of,
    option,
    seeds_of,
    setup_of,
    trained_setup,
    weights_of,
    with_options,
)
from what_next.cli.output import answer, command, emit, note
from what_next.errors import SetupError, counted, some

if TYPE_CHECKING:
    from what_next.experiments.next_items import Comparison
    from what_next.experiments.tuning import Trial, Value
    from what_next.settings import Setup
    from what_next.state import State

app = typer.Typer()

ReportFile = Annotated[Path | None, typer.Option("--report", help="The HTML page to write.")]


@dataclass(frozen=True)
class JudgeOptions:
    """The options for how agents are judged: split, seeds, baselines, groups."""

    split: Literal["validation", "test"] = option("The part of the split: to tune on, or to report.", default="test")
    seeds: str | None = option(
        '"0,1,2": judge the means over models trained from these seeds, where missing, beside the setup\'s.'
    )
    allowed: Allowed = None
    blocked: Blocked = None
    baselines: str | None = option('"popular,markov": only these baselines; none: no baseline.')
    groups: bool = option("Also by length of history, activity, popularity, cold or not.", "--groups", default=False)
    report: ReportFile = None
    anew: bool = option("Tune and judge the baselines again, even if results are cached.", "--anew", default=False)

    def mask(self, setup: "Setup") -> Any:
        """The items that may be recommended; None for all."""
        if self.allowed is None and self.blocked is None:
            return None
        from what_next.data import Dataset

        catalogue = Dataset.read(setup.data_path).catalogue
        return catalogue.mask(ids_of(self.allowed, catalogue), ids_of(self.blocked, catalogue) or [])


@app.command()
@with_options(JudgeOptions)
def evaluate(
    setup: SetupFile,
    options: JudgeOptions,
    overrides: Overrides = None,
    next_items: Annotated[
        bool, typer.Option("--next-items", help="Judge whatnext on next items, too, not by windows alone.")
    ] = False,
    weights: Annotated[
        str | None,
        typer.Option(help='"0,0.5,2": with --report, train at these weights of the spread reward, for the trade-off.'),
    ] = None,
    as_json: Json = False,
) -> None:
    """Judge the agent on held-out events, beside rules, baselines and chance."""
    from what_next.experiments import by_windows, evaluate_next, evaluate_windows
    from what_next.experiments.compare import check_weights, tradeoff
    from what_next.reporting import check as check_report
    from what_next.reporting.bars import Bars
    from what_next.training.boards import add_results
    from what_next.training.boards import check as check_board

    part, given, report, groups = options.split, seeds_of(options.seeds), options.report, options.groups
    # With --seeds, models are trained as the setup says; without, an existing model is judged.
    settings = (trained_setup if given is None else setup_of)(setup, overrides, "train=no")
    check_board(settings)
    mask, steps = options.mask(settings), weights_of(weights)
    if steps and not report:
        raise SetupError("--weights: is shown on the page; name the page with --report FILE")
    if steps:
        check_weights(settings, steps)
    if report is not None:
        check_report(report)
    windowed, others = by_windows(settings) and mask is None, baselines_of(options.baselines)
    alone = windowed and not (next_items or report or groups)
    if alone and options.baselines is not None:
        raise SetupError("--baselines: these are for next items; whatnext is judged by windows; add --next-items")
    with Bars(as_json) as stages:
        windows = evaluate_windows(settings, part, given, stages) if windowed else None
        comparison = None if alone else evaluate_next(settings, part, given, mask, others, stages, options.anew)
        curve = tradeoff(settings, steps, part, given, mask, stages) if steps else []
    result = None if comparison is None else comparison.result
    with _then_page(report, comparison, windows=windows, weighted=curve):
        if result is None:
            assert windows is not None, "it is judged by windows alone"
            _show(windows, as_json, groups)
        else:
            _show(result | ({} if windows is None else {"by_windows": windows}), as_json, groups)
        if given is None:  # without --seeds there is one run
            add_results(settings, windows, result)


@app.command()
@with_options(JudgeOptions)
def compare(
    words: Annotated[
        list[str], typer.Argument(metavar="SETUP SETUP... [KEY=VALUE]...", help="Setup files, and settings for all.")
    ],
    options: JudgeOptions,
    ablations: Annotated[
        bool,
        typer.Option("--ablations", help="Each setup also without its critic, and with uninformative rewards."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Judge several setups on the same users' next items, each beside the first; train what is missing."""
    from what_next.experiments.compare import compare as compare_setups
    from what_next.reporting import check as check_report
    from what_next.reporting.bars import Bars

    files = [word for word in words if "=" not in word or Path(word).exists()]
    if len(files) < 2 and not (files and ablations):
        raise SetupError("compare: give two setup files or more, or one with --ablations")
    overrides = [word for word in words if word not in files]
    setups = {
        name: setup_of(Path(file), overrides, "train=no") for name, file in zip(_names(files), files, strict=True)
    }
    if options.report is not None:
        check_report(options.report)
    mask, others = options.mask(next(iter(setups.values()))), baselines_of(options.baselines)
    how = {"ablations": ablations, "allowed": mask, "baselines": others, "anew": options.anew}
    with Bars(as_json) as stages:
        comparison = compare_setups(setups, options.split, seeds_of(options.seeds), **how, stages=stages)
    with _then_page(options.report, comparison):
        _show(comparison.result, as_json, options.groups)


@app.command()
def tune(
    setup: SetupFile,
    overrides: Overrides = None,
    trials: Annotated[
        int, typer.Option(min=1, help="How many trials in total, including those that the study holds already.")
    ] = 20,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds of training in each trial, at most.")] = 60.0,
    study: Annotated[
        str | None,
        typer.Option(
            envvar="WHAT_NEXT_STUDY",
            help="The file that keeps the trials, or the URL of a database that several processes share; default: a "
            "file beside the agent's.",
        ),
    ] = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY[=VALUES]",
            help="Search only this setting: learning_rate, in its default range; dropout=0.1,0.4, in this range; "
            "dim=32,64,128, among these values; may be repeated.",
        ),
    ] = None,
    prune: Annotated[
        Literal["halving", "hyperband"] | None,
        typer.Option(help="Stop trials early that fall behind at validation: by successive halving, or Hyperband."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Search for better settings on the validation users; Ctrl-C keeps the study, and the same command goes on.

    The best settings are printed as KEY=VALUE lines, which `what-next train SETUP` takes.
    """
    from what_next.experiments.study import is_shared
    from what_next.experiments.tuning import tune as tune_setup
    from what_next.state import State

    settings, took = setup_of(setup, overrides, "train=no"), list[float]()

    def progress(trial: "Trial", best: "Trial") -> None:
        took.append(trial.seconds)
        left = (trials - trial.number) * sum(took) / len(took)
        more = f"; about {left / 60:.0f} min left" if left >= 90 else f"; about {left:.0f} s left" if left > 0 else ""
        line = f"trial {trial.number} of {trials}: {metric} {trial}, in {trial.seconds:.0f} s"
        note(f"{line} (best: trial {best.number}, {best.score:.4f}){more}")

    state = State.from_setup(settings)
    metric = state.monitored
    note(f"{counted(trials, 'trial')} by {metric} on the validation users")
    place = study if study is None or is_shared(study) else Path(study)
    where = _sought(search, setup, overrides, state)
    found = tune_setup(
        settings, trials, state=state, seconds=seconds, study=place, search=where, prune=prune, tell=progress
    )
    if as_json:
        emit(found.as_json())
    elif found.best:
        print("\n".join(f"{key}={value}" for key, value in found.best.settings.items()))
    if found.stopped:
        note(f"what-next: interrupted; {found.study} keeps the trials, the same command goes on")
        return INTERRUPTED
    return 0


def _sought(
    search: list[str] | None, file: Path, overrides: list[str] | None, state: "State"
) -> "dict[str, Sequence[Value]] | None":
    """The candidate values of each setting in `--search`, parsed and checked as the setup's are.

    Raises:
        SetupError: there is no such setting or value, it cannot be searched, or it has no default range and no values.
    """
    from what_next.experiments.tuning import FREE, OWN, decided, own_values, searched

    if not search:
        return None
    known = searched(state.setup, state)
    found: dict[str, Sequence[Value]] = {}
    for word in search:
        key, _, values = word.partition("=")
        key = "".join(key.split()).lower()
        texts = [value for value in values.split(",") if value.strip()]
        if key in FREE or "." in key.removeprefix(OWN):
            able = f"is not searched; search a setting of one word, or algorithm.SETTING, such as {some(known)}"
            weighed = key.startswith("reward.")
            instead = "; compare setups that differ in it (what-next compare)" if weighed else ""
            raise SetupError(f"--search {key}: {able}{instead}")
        if not texts and key not in known:
            raise SetupError(f"--search {key}: needs values, such as {key}=LOW,HIGH; without values: {some(known)}")
        read = [own_values(setup_of(file, [*(overrides or []), f"{key}={text}"]), [key])[key] for text in texts]
        if len(read) == 2 and own_values(decided(state.setup, state), [key])[key] is None:
            raise SetupError(
                f"--search {key}: is none in the setup, and a range needs a number to start from; set it there first"
            )
        found[key] = read or known[key]
    return found


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
    """Train an agent in a world, or load it as the setup says; play it beside the world's references.

    Ctrl-C in training saves, and nothing is played.
    """
    from what_next.experiments.simulation import simulate as play
    from what_next.reporting import check as check_report
    from what_next.reporting import write_simulation
    from what_next.reporting.bars import Bars

    words = [*(overrides or []), *([f"world={world}"] if world else [])]
    settings = setup_of(setup, words, "data=-")
    if report is not None:
        check_report(report)
    if not settings.train:
        settings = trained_setup(setup, words, "data=-")
    with Bars(as_json) as bars:
        found = play(settings, stages=bars, force=force, watch=report is not None)
    try:
        answer(found.as_json(), as_json, found)
    finally:  # as in `_then_page`
        if report is not None and found.episodes:
            write_simulation(found, report)
    if found.report is not None and (found.report.stopped or found.report.interrupted):
        stopped = found.report.stopped
        again = command("train", setup, words, "--resume") if stopped else command("simulate", setup, words, "train=no")
        note(f"what-next: training was interrupted; the model is saved; go on with `{again}`")
        return INTERRUPTED
    return 0


def _names(files: list[str]) -> list[str]:
    """The files' names without their endings; their paths where two share a name."""
    stems = [Path(file).stem for file in files]
    names = stems if len(set(stems)) == len(stems) else files
    if len(set(names)) < len(names):
        raise SetupError("compare: the same setup file is given twice; give each once")
    return names


@contextmanager
def _then_page(report: Path | None, comparison: "Comparison | None", **more: Any) -> Iterator[None]:
    """Print warnings; inside, the result is shown; afterwards write the page, if `report` is given.

    The result is shown even if the page cannot be written, and the page is written even if the output's reader stops.
    `more`: as for `write_report`.
    """
    for line in comparison.notes if comparison is not None else ():
        note(line)
    try:
        yield
    finally:
        if report is not None and comparison is not None:
            from what_next.reporting import write_report

            write_report(comparison, report, **more)
            note(f"{report} written")


def _show(result: dict[str, Any], as_json: bool, groups: bool) -> None:
    from what_next.reporting.terminal import table

    windows = [table(result["by_windows"])] if "by_windows" in result else []
    answer(result, as_json, *windows, table(result, groups))
