"""The tables of docs/results.md, which stand between markers; the text around them is written by hand."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs/results.md"

OF_TAGS = ("content",)
"""Rows of sets alone whose items have tags."""
COLUMNS = ("hr@10", "ndcg@10", "reward@1", "coverage@10", "spread@20")


def page(
    cells: Mapping[str, Mapping[str, Any]], tuned: Mapping[str, Any], rows: Sequence[str], names: Sequence[str]
) -> str:
    """The tables of next items, and the search for the settings.

    Args:
        cells: results by data set and row.
        tuned: `settings` and search by algorithm.
        rows: rows of every table; `names`: the data sets.
    """
    tables = [_table(name, cells.get(name, {}), rows) for name in names]
    return "\n".join([*tables, _settings(tuned, rows)])


def put(name: str, text: str) -> None:
    """Put `text` between the markers `name` of docs/results.md."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", re.DOTALL)
    written, found = pattern.subn(lambda marks: f"{marks[1]}{text.strip()}{marks[2]}", PAGE.read_text())
    assert found == 1, f"{PAGE} has no single pair of markers <!-- {name} --> and <!-- /{name} -->"
    PAGE.write_text(written)


def _table(name: str, cells: Mapping[str, Any], rows: Sequence[str]) -> str:
    head = ["algorithm", *COLUMNS, "training", "measured"]
    lines = [f"### {name}", "", f"| {' | '.join(head)} |", "|---" + "|---:" * (len(head) - 2) + "|---|"]
    notes: dict[str, str] = {}
    for row in rows:
        if row not in cells:
            continue
        cell = cells[row]
        mark = notes.setdefault(_measured_on(cell), chr(ord("a") + len(notes)))
        if "failed" in cell:
            shown = [f"failed: {cell['failed']}", *[""] * len(COLUMNS), mark]
        else:
            shown = [*(_text(cell["metrics"].get(column)) for column in COLUMNS), _took(cell), mark]
        lines.append(f"| {' | '.join([f'`{row}`', *shown])} |")
    missing = ", ".join(f"`{row}`" for row in rows if row not in (*cells, *OF_TAGS) and not row.endswith("-refit"))
    left = [f"Not measured here: {missing}.", ""] if missing else []
    return "\n".join([*lines, "", *left, *(f"- {mark}: {text}" for text, mark in notes.items()), ""])


def _text(interval: Mapping[str, float] | None) -> str:
    if interval is None:
        return ""
    return f"{interval['mean']:.4f} [{interval['low']:.4f}, {interval['high']:.4f}]"


def _took(cell: Mapping[str, Any]) -> str:
    runs = cell.get("runs")
    if not runs:
        return ""
    seconds, passes = (sum(run[key] for run in runs) / len(runs) for key in ("seconds", "passes"))
    return f"{seconds:.0f} s, {passes:.1f} passes"


def _measured_on(cell: Mapping[str, Any]) -> str:
    """The conditions under which a row was measured."""
    split, targets = cell["split"], cell["targets"]
    told = [f"{cell['data']}, {targets['users']:,} users, split {split['kind']} {split['hash']}"]
    if targets["held"]:
        told.append(f"{targets['held']:,} targets stand in the history, where none can be hit")
    if cell.get("settings"):
        told.append(", ".join(f"{key} {value:g}" for key, value in cell["settings"].items()))
    if "runs" in cell:
        seeds, threads = ", ".join(map(str, cell["seeds"])), cell["threads"]
        told += [
            f"{'seed' if len(cell['seeds']) == 1 else 'seeds'} {seeds}",
            *(["until validation ends it"] if "commit" in cell else []),
            f"at most {cell['limit']:.0f} s of training each",
            f"{threads} {'thread' if threads == 1 else 'threads'} of the {cell['device'].upper()}",
            f"torch {cell['torch']}",
            "tuned" if cell["tuned"] else "settings as they come",
            *([f"commit {cell['commit']}"] if "commit" in cell else []),
        ]
    return "; ".join(told)


def _settings(tuned: Mapping[str, Any], rows: Sequence[str]) -> str:
    """The table of the settings and their search."""
    lines = [
        "### Settings",
        "",
        "Found in short trials on the validation users of one data set, and used for all. `untuned` is the first "
        "trial: settings as they come. Where only an algorithm's own settings stand here, those of the network follow "
        "the data; `tuned` was measured with others.",
        "",
        "| algorithm | settings | measured | tuned | untuned | trials |",
        "|---|---|---|---:|---:|---|",
    ]
    for row in rows:
        if one := tuned.get(row):
            settings = ", ".join(
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                for key, value in one["settings"].items()
            )
            trials = f"{one['trials']} of at most {one['seconds']:.0f} s on {one['data']}"
            scores = f"{one['monitor']} | {one['score']:.4f} | {one['untuned']:.4f}"
            lines.append(f"| `{row}` | {settings} | {scores} | {trials} |")
    return "\n".join(lines if len(lines) > 6 else [*lines[:2], "Not tuned: as they come."]) + "\n"
