"""The tables of docs/results.md: every algorithm on public data sets, judged on next items, one cell at a time.

A cell is an algorithm on a data set, with all its seeds. Results are stored in docs/results.json, so that the tables
can be filled in several runs. `tune` finds the settings for all sets, on ml-100k alone, and stores them in
benchmarks/tuned.json. `show` writes the tables from the stored results.
"""

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import sets
import torch
from tables_page import OF_TAGS, page, put

from what_next import Agent, Dataset, Environment, LearnedPolicy, Setup, State
from what_next.errors import TrainingError, WhatNextError
from what_next.experiments.evaluator import Evaluator, Scores
from what_next.experiments.next_items import evaluator_of, protocol, rules
from what_next.experiments.tuning import tune, with_settings
from what_next.settings import ALGORITHMS as KNOWN

ROOT = Path(__file__).resolve().parents[1]
CELLS, TUNED = ROOT / "docs/results.json", ROOT / "benchmarks/tuned.json"
CONFIGS = ROOT / "benchmarks/configs"
SCRATCH = Path(tempfile.gettempdir()) / "what-next-tables"

ALGORITHMS = {name: kind for name, kind in KNOWN.items() if kind.source != "world"}
"""Those that learn from a log."""
MAIN = ("ml-100k", "lastfm-s3rec")
MORE = ("ml-1m-part", "amazon-beauty-s3rec", "yoochoose-100k", "spotify-playlists")
"""The sets with three seeds by default, and those with one."""
SHORT, MORE_SEEDS = 60.0, (3, 4)
"""Further seeds, if each of the first three trainings is shorter than this number of seconds."""
WHOLE = (*MAIN, "amazon-beauty-s3rec")
"""The sets for every algorithm; on the others only `ALWAYS` and the best of the rest are measured."""
ALWAYS, BEST = ("next_item", "whatnext"), 3
RULES = (*OF_TAGS, "ease", "item_knn", "markov", "slim", "popular_recent", "popular", "random")
VARIANTS = {
    "next_item-x3": ("next_item", {"ensemble": 3}),
    "next_item-transformer": ("next_item", {"model": "transformer"}),
    "next_item-refit": ("next_item", {"refit": "validation"}),
}
"""Further rows of an algorithm, with other settings; all other rows are trained once (`refit, no`)."""
REFIT = "-refit"
AGAIN = ("next_item-refit", *(f"{rule}{REFIT}" for rule in ("ease", "item_knn", "markov", "slim")))
"""Rows that learned from the validation events too, and the sets where `refit, auto` does that."""
SHORT_ONES = ("amazon-beauty-s3rec", "yoochoose-100k")
TRIALS, TRIAL_SECONDS = 6, 60.0

Cells = dict[str, dict[str, dict[str, Any]]]


def every_row() -> list[str]:
    """The rows of the tables, in order."""
    return list(dict.fromkeys([*ALGORITHMS, *VARIANTS, *RULES, *AGAIN]))


def plan(cells: Cells, wanted: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """The data sets and algorithms to measure, in order; the best ones are known once the main sets are complete."""
    for name in wanted.sets:
        rows = every_row() if name in WHOLE else [*ALWAYS, *VARIANTS, *best(cells), *RULES, *AGAIN]
        known = [row for row in dict.fromkeys(rows) if row not in OF_TAGS or name in sets.TAGGED]
        known = [row for row in known if row not in AGAIN or name in SHORT_ONES]
        yield from ((name, row) for row in known if row in wanted.algorithms)


def best(cells: Cells) -> list[str]:
    """The algorithms with the highest mean NDCG@10 over the main sets; none until all are measured there."""
    others = [name for name in ALGORITHMS if name not in ALWAYS]
    if any(name not in cells.get(one, {}) for one in MAIN for name in others):
        return []
    found = {name: [cells[one][name].get("metrics", {}).get("ndcg@10") for one in MAIN] for name in others}
    means = {name: sum(one["mean"] for one in some) for name, some in found.items() if all(some)}
    return sorted(means, key=lambda name: -means[name])[:BEST]


def setup_of(row: str, seed: int, seconds: float, folder: Path, tuned: Mapping[str, Any]) -> Setup:
    """The setup of a cell."""
    algorithm, settings = VARIANTS.get(row, (row, {}))
    setup = Setup(
        train=True,
        data="memory",
        algorithm=algorithm,
        split="leave_last_out",
        seed=seed,
        seconds=seconds,
        threads=1,
        device="cpu",
        refit="no",
        model_agent_path=folder / "agent.safetensors",
        model_critic_path=folder / "critic.safetensors",
        **({"window": 20} if ALGORITHMS[algorithm].by_attributes else {}),
    )
    return with_settings(setup, {**tuned.get(algorithm, {}).get("settings", {}), **settings})


@cache
def data_of(name: str, folder: Path) -> tuple[Dataset, State, Evaluator]:
    """A data set, its state for an algorithm that learns from the log, and the test targets."""
    dataset = sets.read(name, folder)
    state = State(dataset, setup_of("next_item", 0, 1.0, SCRATCH, {}))
    return dataset, state, evaluator_of(state, "test")


@cache
def rules_of(name: str, folder: Path, refit: bool) -> tuple[dict[str, Scores], dict[str, dict[str, float]]]:
    """The results of the baselines, each with the settings chosen by validation; `refit`: fitted to its events too."""
    dataset, state, evaluator = data_of(name, folder)
    state = State(dataset, state.setup, more="validation") if refit else state
    return rules(evaluator, state)[:2]


def measure(
    name: str, algorithm: str, seeds: Sequence[int], seconds: float, folder: Path, more: Sequence[int] = ()
) -> dict[str, Any]:
    """Measure one cell; with `more` seeds if each takes less than `SHORT` seconds."""
    dataset, state, evaluator = data_of(name, folder)
    about = protocol(state, "test", evaluator, seeds)
    torch.set_num_threads(1)
    if (rule := algorithm.removesuffix(REFIT)) in RULES:
        judged, settings = rules_of(name, folder, rule != algorithm)
        algorithm = rule
        if algorithm not in judged:
            return {**about, "failed": "the catalogue is too large for it"}
        metrics = evaluator.means(judged)[0][algorithm]
        return {**about, "seeds": [], "settings": settings.get(algorithm, {}), "metrics": metrics}
    tuned, policies, runs = read(TUNED), [], []
    for place, seed in enumerate([*seeds, *more]):
        if place == len(seeds) and max(run["seconds"] for run in runs) >= SHORT:
            break
        with tempfile.TemporaryDirectory(dir=SCRATCH) as models:
            setup = setup_of(algorithm, seed, seconds, Path(models), tuned)
            learned = State(dataset, setup)
            agent = Agent(setup, learned.space)
            try:
                report = Environment(agent, learned, setup).train_agent()
            except TrainingError as error:
                return {**about, "failed": str(error).partition(";")[0]}
        if report.stopped:
            raise KeyboardInterrupt
        passes = report.histories / len(learned.train_users)
        runs.append({"seconds": round(report.seconds, 1), "passes": round(passes, 1), "targets": report.targets})
        policies.append(LearnedPolicy(agent.eval(), learned))
    histories = policies[0].state.histories
    return {
        **about,
        "seeds": [*seeds, *more][: len(runs)],
        "limit": seconds,
        "threads": 1,
        "torch": torch.__version__,
        "device": "cpu",
        "commit": commit(),
        "tuned": tuned.get(algorithm, {}).get("settings"),
        "runs": runs,
        "metrics": evaluator.means({"": evaluator.score(policies, histories)})[0][""],
    }


def commit() -> str:
    """The commit of the sources."""
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


def fill(wanted: argparse.Namespace) -> None:
    """Measure the missing cells, and write the page after each."""
    count = 0
    while count < wanted.cells:
        cells = read(CELLS)
        due = [(name, row) for name, row in plan(cells, wanted) if row not in cells.get(name, {})]
        if not due:
            break
        name, row = due[0]
        main = name in MAIN
        seeds = wanted.seeds or ([0, 1, 2] if main else [0])
        more = MORE_SEEDS if main and not wanted.seeds else ()
        cell = measure(name, row, seeds, wanted.seconds if main else wanted.more_seconds, wanted.folder, more)
        cells = read(CELLS)  # again, because another run may have filled cells meanwhile
        write(CELLS, {**cells, name: {**cells.get(name, {}), row: cell}})
        show()
        count += 1
        told = cell.get("metrics", {}).get("ndcg@10", {}).get("mean")
        print(f"{name}, {row}: {cell.get('failed') or f'ndcg@10 {told:.4f}'}; {len(due) - 1} cells left", flush=True)


def search(wanted: argparse.Namespace) -> None:
    """Tune the algorithms without tuned settings, on the validation users of ml-100k."""
    due = [name for name in ALGORITHMS if name in wanted.algorithms and name not in read(TUNED)]
    for name in due[: wanted.cells]:
        print(name, flush=True)
        dataset, _, _ = data_of(MAIN[0], wanted.folder)
        setup = setup_of(name, 0, wanted.trial_seconds, SCRATCH, {})
        found = tune(
            setup,
            wanted.trials,
            seconds=wanted.trial_seconds,
            study=SCRATCH / f"{name}.tuning.jsonl",
            state=State(dataset, setup),
            tell=lambda trial, best: print(f"trial {trial.number}: {trial}", flush=True),
        )
        if found.stopped or found.best is None:
            raise KeyboardInterrupt
        told = {"monitor": found.monitor, "score": found.best.score, "untuned": found.trials[0].score}
        about = {"data": dataset.name, "trials": wanted.trials, "seconds": wanted.trial_seconds}
        write(TUNED, {**read(TUNED), name: {"settings": found.best.settings, **told, **about}})


def show() -> None:
    """Write the tables and the setups of their rows from the stored results."""
    cells = read(CELLS)
    put("tables", page(cells, read(TUNED), every_row(), (*MAIN, *MORE)))
    for path, text in configs(cells).items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def configs(cells: Cells) -> dict[Path, str]:
    """The setup of each trained row, for use after an import of its data set."""
    return {
        CONFIGS / f"{name}.{row}.txt": "".join(f"{line}\n" for line in _config(name, row, cell))
        for name, rows in cells.items()
        for row, cell in rows.items()
        if "runs" in cell
    }


def _config(name: str, row: str, cell: Mapping[str, Any]) -> Iterator[str]:
    algorithm, settings = VARIANTS.get(row, (row, {}))
    yield f"# {row} on {name}, as in docs/results.md; seeds {', '.join(map(str, cell['seeds']))}. Measured by"
    yield (
        f"# python benchmarks/tables.py fill --sets {name} --algorithms {row} "
        f"--seeds {','.join(map(str, cell['seeds']))} --{'' if name in MAIN else 'more-'}seconds {cell['limit']:g}"
    )
    yield from ("train, yes", f"data, {name}.parquet", f"algorithm, {algorithm}", "split, leave_last_out")
    yield from (
        "threads, 1",
        f"seconds, {cell['limit']:g}",
        f"model_agent_path, models/{name}.{row}.safetensors",
    )
    yield f"model_critic_path, models/{name}.{row}.critic.safetensors"
    yield from (["window, 20"] if KNOWN[algorithm].by_attributes else [])
    yield from (f"{key}, {value}" for key, value in ({"refit": "no", **(cell["tuned"] or {}), **settings}).items())


def read(path: Path) -> dict[str, Any]:
    """The content of a JSON file; empty if it is missing."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def write(path: Path, values: Mapping[str, Any]) -> None:
    """Write the file atomically."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(values, indent=1) + "\n")
    os.replace(part, path)  # noqa: PTH105 (same as Path.replace)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("fill", "tune", "show"), default="fill")
    parser.add_argument("--cells", type=int, default=10**6, help="number of cells to measure (or tune)")
    parser.add_argument("--sets", type=_words, default=[*MAIN, *MORE], help="separated by commas; default: all")
    parser.add_argument("--algorithms", type=_words, default=every_row(), help="separated by commas; default: all")
    main_sets = " and ".join(MAIN)
    parser.add_argument(
        "--seeds",
        type=lambda text: [int(one) for one in text.split(",")],
        help=f"separated by commas; default: 0,1,2 on {main_sets}, also 3,4 if each is short, 0 on the others",
    )
    parser.add_argument("--seconds", type=float, default=120.0, help=f"training time at most, on {main_sets}")
    parser.add_argument("--more-seconds", type=float, default=600.0, help="the same on the other sets")
    parser.add_argument("--trials", type=int, default=TRIALS, help="trials of tuning for each algorithm")
    parser.add_argument("--trial-seconds", type=float, default=TRIAL_SECONDS, help="training time of each trial")
    parser.add_argument("--folder", type=Path, default=sets.FOLDER, help="folder of the data sets")
    wanted = parser.parse_args()
    SCRATCH.mkdir(exist_ok=True)
    if unknown := [name for name in wanted.sets if name not in sets.SETS]:
        parser.error(f"unknown sets: {', '.join(unknown)}; there are {', '.join(sets.SETS)}")
    if unknown := [name for name in wanted.algorithms if name not in every_row()]:
        parser.error(f"unknown algorithms: {', '.join(unknown)}; there are {', '.join(every_row())}")
    try:
        {"fill": fill, "tune": search, "show": lambda _: show()}[wanted.what](wanted)
    except KeyboardInterrupt:
        raise SystemExit("interrupted; what was measured is kept, and the same command goes on") from None
    except WhatNextError as error:
        raise SystemExit(str(error)) from None


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


if __name__ == "__main__":
    main()
