"""The page of results, from its cells: see `tables`."""

from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = ("hr@10", "ndcg@10", "reward@1", "coverage@10", "spread@20")
INTRODUCTION = """# Results

Every algorithm on public data, as `make tables` measured it. The last event of each user is the target, the one before
it validation, and all before that training; the whole catalogue is ranked, without what the user had before. Brackets
hold 95 % intervals from a bootstrap over users, seeds averaged first.

- `hr@10`, `ndcg@10`: whether, and how high, the target stands among the first ten.
- `reward@1`: the log's reward of the target where it is the very first, else 0; blank where the log has none.
- `coverage@10`: the share of the catalogue that stands in anybody's first ten.
- `spread@20`: the founding reward (bring the spread of the last 20 events towards that of all the user likes) of the
  first item. `whatnext` learns this and nothing of what comes next; the others learn what comes next.
- `training`: seconds and passes over the users, the mean over seeds. Training ends after 30 passes (`whatnext`: 40,000
  histories) or at the limit that the notes below each table give, on one processor thread.

The settings that all start from were chosen for `next_item`, in seven runs of 30 passes or more on the validation users
of ml-100k; the trials of tuning were shorter. So `next_item` is tuned with more care than the others, which limits what
may be said against them.

The rows were measured before target networks had slow encoders and returns went on over whole histories. Three passes
on ml-100k before and after (one seed, validation NDCG@10): `sqn` .090 and .093, `sa2c` .099 and .097, `reinforce` .066
and .067.

The last rows are baselines: `ease` (Steck 2019), `item_knn` (cosine neighbours), `markov` (what followed the last
items), `popular_recent` and `popular`, their few settings chosen on the validation users too, and `random`, which is
exact: the mean over all orders. Differences smaller than the intervals, and than what another
seed would change, are none.
"""


def page(
    cells: Mapping[str, Mapping[str, Any]], tuned: Mapping[str, Any], rows: Sequence[str], names: Sequence[str]
) -> str:
    """The text of docs/results.md.

    Args:
        cells: by data set and row, what was measured.
        tuned: by algorithm, its `settings` and how they were found.
        rows: of every table; `names`: the data sets.
    """
    tables = [_table(name, cells.get(name, {}), rows) for name in names]
    return "\n".join([INTRODUCTION, *tables, _settings(tuned, rows)])


def _table(name: str, cells: Mapping[str, Any], rows: Sequence[str]) -> str:
    head = ["algorithm", *COLUMNS, "training", "measured"]
    lines = [f"## {name}", "", f"| {' | '.join(head)} |", "|---" + "|---:" * (len(head) - 2) + "|---|"]
    notes: dict[str, str] = {}
    for row in rows:
        cell = cells.get(row)
        if cell is None:
            shown = ["not measured"] * len(COLUMNS) + ["", ""]
        else:
            mark = notes.setdefault(_measured_on(cell), chr(ord("a") + len(notes)))
            if "failed" in cell:
                shown = [f"failed: {cell['failed']}", *[""] * len(COLUMNS), mark]
            else:
                shown = [*(_text(cell["metrics"].get(column)) for column in COLUMNS), _took(cell), mark]
        lines.append(f"| {' | '.join([f'`{row}`', *shown])} |")
    return "\n".join([*lines, "", *(f"- {mark}: {text}" for text, mark in notes.items()), ""])


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
    """What a row's numbers were measured on."""
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
            f"at most {cell['limit']:.0f} s of training each",
            f"{threads} {'thread' if threads == 1 else 'threads'} of the {cell['device'].upper()}",
            f"torch {cell['torch']}",
            "tuned" if cell["tuned"] else "settings as they come",
        ]
    return "; ".join(told)


def _settings(tuned: Mapping[str, Any], rows: Sequence[str]) -> str:
    """How the settings were found."""
    lines = [
        "## Settings",
        "",
        "Found on the validation users of one data set, and used for all. `untuned` is the first trial: settings as "
        "they come.",
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
