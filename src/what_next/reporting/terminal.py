"""Results as tables for the terminal, and as a table for a README.

Columns that do not fit side by side continue in further tables; no cell is cut.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.table import Table
from rich.text import Text

from what_next.errors import counted
from what_next.experiments.windows import ORACLE
from what_next.metrics.bootstrap import Interval
from what_next.settings import listed

STEER = "steer"
ACCURATE = ("hr", "ndcg", "mrr", "recall", "precision", "map", "reward")
AGAIN = ("recall", "precision", "map")
"""Redundant with a single relevant item: there they equal HR, HR / k and MRR."""
FRAME = 3
"""Characters beside the content of a column: a space on each side, and a line."""


@dataclass(frozen=True, eq=False)
class Folded:
    """A table as wide as the console, or several tables with the same first column.

    Attributes:
        title: above the first table; None for none.
        header: the column names; the first column names the rows, and gets at most half of the width if not all fit.
        sections: groups of rows, separated by a line; each row has a cell for each column, with one or more lines.
    """

    title: str | None
    header: Sequence[str]
    sections: Sequence[Sequence[Sequence[str]]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        rows = [self.header, *(row for section in self.sections for row in section)]
        columns = zip(*rows, strict=True)
        widths = [max(cell_len(line) for cell in column for line in cell.split("\n")) for column in columns]
        if _total(widths) > options.max_width:
            widths[0] = min(widths[0], options.max_width // 2 - FRAME)
        for number, part in enumerate(_fitting(widths, options.max_width)):
            title = None if number or self.title is None else Text(self.title)
            shown = Table(title=title, title_justify="left")
            for column in part:
                how = {"justify": "right"} if column else {"width": widths[0]}
                shown.add_column(Text(self.header[column]), overflow="fold", **how)
            for section in self.sections:
                for row in section:
                    shown.add_row(*(Text(row[column]) for column in part))
                shown.add_section()
            yield shown


def _total(widths: Sequence[int]) -> int:
    """The width of a table with columns of these widths."""
    return 1 + sum(width + FRAME for width in widths)


def _fitting(widths: Sequence[int], most: int) -> Iterator[list[int]]:
    """The columns of each table: the first, and as many others as fit."""
    part = [0]
    for column in range(1, len(widths)):
        if len(part) > 1 and _total([widths[one] for one in [*part, column]]) > most:
            yield part
            part = [0]
        part.append(column)
    yield part


def table(result: Mapping[str, Any], groups: bool = False) -> Group:
    """The result of `evaluate`, `evaluate_next` or `compare`: policies as rows, metrics as columns.

    With `groups`, also the result of each policy in each group of users and items.
    """
    training, parts = result.get("training"), list[RenderableType]()
    parts.append(Text(f"{measured_on(result)}; mean [95 % interval over users]"))
    for title, metrics in _blocks(result):
        took = training if training and not parts[1:] else None
        sections = [[_row(*one, metrics, took) for one in section] for section in _sections(result)]
        parts.append(Folded(title, ["policy", *metrics, *(["training"] if took else [])], sections))
    if result.get("baselines"):
        chosen = (f"{name} ({settings_told(one)})" if one else name for name, one in result["baselines"].items())
        parts.append(Text(f"baselines as validation chose them{_searched(result)}: {', '.join(chosen)}"))
    parts += [Text(f"left out: {name}, since {why}") for name, why in result.get("left_out", {}).items()]
    if groups:
        parts += [_apart(kind, some, result["k"][0]) for kind, some in result.get("groups", {}).items()]
    return Group(*parts)


def settings_told(chosen: Mapping[str, float]) -> str:
    """The settings of a baseline, in words."""
    return ", ".join(f"{name} {value:g}" for name, value in chosen.items())


def _apart(kind: str, groups: Mapping[str, Any], k: int) -> Folded:
    """The leading metric of every policy in each group of one kind."""
    names = list(next(iter(groups.values()))["policies"])
    rows = [
        [group, f"{found['users']:,}", *(cell(found["policies"][name].get(f"ndcg@{k}"), "\n") for name in names)]
        for group, found in groups.items()
    ]
    return Folded(f"ndcg@{k} by {kind}", ["group", "users", *names], [rows])


def _blocks(result: Mapping[str, Any]) -> list[tuple[str | None, list[str]]]:
    """The columns of each table, without metrics that are redundant for a single relevant item."""
    metrics = metrics_of(result)
    if "targets" not in result:
        return [(None, metrics)]
    named = {metric: metric.partition("@")[0] for metric in metrics}
    again = () if result["targets"]["kind"] == "all" else AGAIN
    accurate = [metric for metric, name in named.items() if name in ACCURATE and name not in again]
    return [("accuracy", accurate), ("beyond accuracy", [one for one, name in named.items() if name not in ACCURATE])]


def markdown(result: Mapping[str, Any]) -> str:
    """The result for a README. Its first sentence says where the rule `steer` wins, and on which data."""
    metrics = metrics_of(result)
    first = f"{_verdict(result)} ({measured_on(result)})" if "windows" in result else measured_on(result)
    lines = [f"{first}. Means over users, with 95 % intervals.", ""]
    lines += ["| " + " | ".join(["policy", *metrics]) + " |", "|---" + "|---:" * len(metrics) + "|"]
    rows = [[name, *(cell(one.get(metric)) for metric in metrics)] for name, one in chain(*_sections(result))]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _sections(result: Mapping[str, Any]) -> Iterator[list[tuple[str, Mapping[str, Interval]]]]:
    """Rows of the table: the policies, their share of the oracle, the differences."""
    yield list(result["policies"].items())
    yield [(f"{name} / {ORACLE}", intervals) for name, intervals in result.get("share_of_oracle", {}).items()]
    yield [(minus(name), intervals) for name, intervals in result["differences"].items()]


def minus(name: str) -> str:
    """The name of a difference, with the sign: `agent-random`, or `a file - another-file`."""
    return name.replace(" - " if " - " in name else "-", " \N{MINUS SIGN} ", 1)


def metrics_of(result: Mapping[str, Any]) -> list[str]:
    """Every metric of any policy, in order of first appearance."""
    return list(dict.fromkeys(metric for intervals in result["policies"].values() for metric in intervals))


def cell(interval: Interval | None, between: str = " ") -> str:
    """A mean and its interval; empty without one."""
    if interval is None:
        return ""
    return f"{interval['mean']:z.3f}{between}[{interval['low']:z.3f}, {interval['high']:z.3f}]"


def _row(
    name: str, intervals: Mapping[str, Interval], metrics: Sequence[str], training: Mapping[str, Any] | None
) -> list[str]:
    """A policy's cells; the last is its training time, the mean over the seeds if all are known."""
    cells = [name, *(cell(intervals.get(metric), "\n") for metric in metrics)]
    if training is None:
        return cells
    seconds = training[name]["seconds"] if name in training else [None]
    return [*cells, "" if None in seconds or not seconds else f"{sum(seconds) / len(seconds):.1f} s"]


def _searched(result: Mapping[str, Any]) -> str:
    """How many settings were tried and on how many targets."""
    searched = result["searched"]
    tried = ", ".join(f"{count} for {name}" for name, count in searched["tried"].items())
    some = f"{searched['targets']:,}" + (f" of {searched['of']:,}" if searched["targets"] < searched["of"] else "")
    popular = "".join(
        f", {name} among the {most:,} most popular items" for name, most in searched["most_popular"].items()
    )
    return f" (settings tried: {tried}; on {some} validation targets{popular})"


def _verdict(result: Mapping[str, Any]) -> str:
    """Where the rule earns more than the learned policies, beyond the interval."""
    parts = []
    for name, found in result["differences"].items():
        if name.endswith(f"-{STEER}"):
            won = [length for length in result["windows"] if found.get(f"spread@{length}", {"high": 0})["high"] < 0]
            where = f"at windows of {listed(won)} events" if won else "nowhere"
            parts.append(f"over `{name.removesuffix(f'-{STEER}')}` {where}")
    if not parts:
        return f"The rule `{STEER}` was not judged"
    rule = f"`{STEER}`, a rule that steers the spread to the average user's and learns nothing"
    return f"{rule}, wins beyond the interval {listed(parts)}"


REFIT = ", refit: model and baselines learned from the validation events, too"
"""Of a split, where a second training took place."""


def measured_on(result: Mapping[str, Any]) -> str:
    """The data, the targets or windows, the split and the seeds of a result."""
    split, seeds = result["split"], f"seeds {listed(result['seeds'])}"
    where = f"split {split['kind']} {split['hash']}{REFIT if split.get('refit') else ''}"
    if "targets" in result:
        return f"{result['data']}: {_targets(result)}, {where}; {seeds}"
    windows = ", ".join(f"{one['windows']:,} of {length}" for length, one in result["windows"].items())
    return f"{result['data']}: {split['users']:,} users judged, {where}; windows: {windows} events; {seeds}"


def _targets(result: Mapping[str, Any]) -> str:
    """The targets, their users, and which targets or users cannot be served."""
    targets = result["targets"]
    rows = "next items" if targets["rows"] == targets["users"] else f"{targets['rows']:,} next items"
    if targets["kind"] == "all":
        rows = "all later items"
    against = {
        "held": "of them in the history already, where nobody can hit them (evaluation.seen, yes counts them)",
        "not_allowed": "of items that may not be recommended",
        "cold_items": "of items without a training event",
        "cold_users": "users without a training event",
        "without_history": "users not judged, who have nothing before it",
    }
    if result["seen"]:
        del against["held"]
    notes = [f"{targets[key]:,} {text}" for key, text in against.items() if targets[key]]
    if targets["not_allowed"]:
        rows += f", among {result['allowed']:,} permitted items,"
    users, split = counted(targets["users"], "user"), result["split"]
    if alone := only_training(split):
        users = f"{targets['users']:,} of {split['users'] + split['other_users']:,} users"
        notes.append(alone)
    return f"{rows} of {users}" + (f" ({'; '.join(notes)})" if notes else "")


def only_training(split: Mapping[str, Any]) -> str:
    """The users with too few events to leave the last out; empty if there are none."""
    if split["kind"] != "leave_last_out" or not split["other_users"]:
        return ""
    return f"{counted(split['other_users'], 'user')} with fewer than three events, for training alone"


def estimates_table(result: Mapping[str, Any]) -> RenderableType:
    """The result of `estimate_policy`: estimators as rows, the log in the title, notes below."""
    level, unit = f"{result['settings']['level']:g} %", result["log"]["unit"]
    title = f"{result['policy']['name']}, by {_decisions(result['log'])}; mean [{level} interval over {unit}s]"
    header = ["estimate", "mean", f"{level} interval", "Bernstein", "effective size"]
    logged, alike = result["on_policy"], {one["per"] for one in result["estimates"].values()} <= {"decision"}
    rows = [["as logged", _short(logged["mean"]), _bounds(logged["low"], logged["high"]), "", "", logged["per"]]]
    for name, one in result["estimates"].items():
        bernstein = _bounds(one["bernstein_low"], one["bernstein_high"])
        rows.append([name, _estimate(one), _bounds(one["low"], one["high"]), bernstein, _short(one["ess"]), one["per"]])
    shown = Folded(title, header, [[row[:-1] for row in rows]]) if alike else Folded(title, [*header, "per"], [rows])
    found = result["diagnostics"]
    facts = (
        f"plain weights: effective size {_short(found['ess'])}, mean {_short(found['mean_weight'])}, largest "
        f"{_short(found['largest'])}, support {found['support']:.1%}"
    )
    refused = {name: one["refused"] for name, one in result["estimates"].items() if one["refused"]}
    lines = [
        _columns(result["log"]),
        facts,
        *_reasons("refused", refused),
        *_reasons("left out", result["left_out"]),
        *result["notes"],
    ]
    return Group(shown, *(Text(line) for line in lines))


def gate_table(result: Mapping[str, Any]) -> RenderableType:
    """The result of `gate`: both policies, their difference, and the verdict."""
    level, unit, apart = f"{result['settings']['level']:g} %", result["log"]["unit"], result["difference"]
    rows = []
    for role in ("new", "current"):
        one = result[role]["estimate"]
        weight = _short(result[role]["mean_weight"])
        numbers = [_estimate(one), _bounds(one["low"], one["high"]), _short(one["ess"]), weight]
        rows.append([f"{role}: {result[role]['name']}", *numbers])
    looks = " (any number of looks)" if result["looks"] == "any" else ""
    rows.append([f"new \N{MINUS SIGN} current{looks}", _estimate(apart), _bounds(apart["low"], apart["high"]), "", ""])
    title = f"{result['estimator']} per {apart['per']}, by {_decisions(result['log'])}"
    shown = Folded(title, ["policy", "mean", f"{level} interval over {unit}s", "effective size", "mean weight"], [rows])
    verdict = f"{'promote' if result['promote'] else 'do not promote'} {result['new']['name']}: {result['why']}"
    return Group(shown, *(Text(line) for line in [_columns(result["log"]), *result["notes"], verdict]))


def _estimate(one: Mapping[str, Any]) -> str:
    """The estimate, or that it was refused; marked where it is shown although refused."""
    if one["refused"] is None:
        return _short(one["mean"])
    return f"{_short(one['mean'])} (refused)" if "forced" in one else "refused"


def _reasons(what: str, reasons: Mapping[str, str]) -> Iterator[str]:
    """A line for each reason, with the names that it applies to."""
    for reason in dict.fromkeys(reasons.values()):
        yield f"{', '.join(name for name, one in reasons.items() if one == reason)}: {what}: {reason}"


def _decisions(log: Mapping[str, Any]) -> str:
    units = f" of {log['units']:,} {log['unit']}s" if log["unit"] != "row" else ""
    return f"{log['rows']:,} decisions{units} in {log['file']} ({log['items']:,} items, {log['hash']})"


def _columns(log: Mapping[str, Any]) -> str:
    """Which column was taken for what: where it was the wrong one, no number above says so."""
    return ", ".join(f"{role}: {column}" for role, column in log["columns"].items())


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if 1000 <= abs(value) < 1e12 else f"{value:z.4g}"


def _bounds(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"[{low:.4g}, {high:.4g}]"
